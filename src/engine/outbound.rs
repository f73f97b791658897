//! Packets of known connections, from the real server: NAT and FULLNAT replies (kernel: `ip_vs_out_hook`).

use super::family::IpFamily;
use super::inbound::advance;
use super::input::Arrival;
use super::{Core, DropReason, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::state::{Seen, State};
use crate::conn::table::{Side, flag};
use crate::host::{IcmpError, OnFail, Quote};
use crate::nat::Ends;
use crate::svc::Snapshot;
use crate::wire::{Meta, tcp, ttl};

impl Core {
    #[inline(never)]
    pub(super) fn outbound<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        out: &mut Out,
    ) -> Verdict {
        self.tell_known::<A>(snap, at.now, slot, Side::Real);
        let conn = *A::table(&mut self.tables).get(slot);
        let Some(dest) = snap.dest(conn.dest) else {
            self.close::<A>(snap, slot);
            return Verdict::Drop(DropReason::DestinationGone);
        };
        // the kernel routes a reply as it routes anything, before IPVS sees it: no TTL, no route and
        // too big are told to the real server, from the director's own address (IPVS-RULES 11)
        let route = self.host.route(conn.client.ip());
        self.tell_route(at.now, conn.client.ip(), route.as_ref());
        let Some(route) = route else {
            self.host.error(at.now, IcmpError::NetUnreachable, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::NoRoute);
        };
        if route.unreachable {
            self.host.error(at.now, IcmpError::HostUnreachable, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::Unreachable);
        }
        if meta.ttl <= 1 {
            self.host.error(at.now, IcmpError::TimeExceeded, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::TtlExpired);
        }
        if let Some(verdict) = self.too_big::<A>(at, &meta, pkt, route.mtu, None, out) {
            return verdict;
        }
        if conn.flags & flag::HELPED != 0 {
            match self.ftp_out::<A>(snap, at.now, meta, pkt, slot, dest) {
                Ok(helped) => meta = helped,
                Err(why) => return Verdict::Drop(why),
            }
        }
        // a removed server's connections go on, but count no more (6-nodest-expire0)
        if dest.available {
            let bytes = meta.ip_len() as u64;
            dest.count_output(self.worker, bytes);
        }
        if meta.tcp_flags & tcp::flag::RST != 0 && conn.state == State::TcpSynRecv {
            dest.live.refused();
        }
        let attack = self.defense.attack;
        let table = A::table(&mut self.tables);
        let c = table.get_mut(slot);
        c.flags &= !flag::NO_OUTPUT;
        let timeout = advance(snap, c, Seen::Output, &meta, pkt.bytes(), dest, attack);
        let (unassured, state) = (c.flags & flag::UNASSURED != 0, c.state);
        table.touch(slot, at.now, timeout);
        if self.told() {
            self.tell_state(conn.state, state, timeout);
        }
        if unassured {
            self.assure::<A>(slot, true);
        }
        if let Err(why) = ttl::decrement(pkt, &mut meta) {
            return Verdict::Drop(why);
        }
        let fullnat = conn.flags & flag::FULLNAT != 0;
        let ends =
            Ends { src: Some((conn.virt, conn.vport)), dst: fullnat.then_some((conn.client, conn.cport)) };
        if let Err(why) = A::rewrite(pkt, &meta, &ends) {
            return Verdict::Drop(why);
        }
        self.leave_options(&meta, pkt, Some(conn.virt.ip()));
        if meta.ip_len() <= at.cut_to(route.mtu)
            && let Some(verdict) = self.host.transmit_ready(at.now, &route, None, pkt, meta.l3 as usize)
        {
            return verdict;
        }
        let on_fail = OnFail::HostUnreachable { source: None, quote: Quote::default() };
        self.leave::<A>(at, &route, meta, pkt, on_fail, out)
    }
}
