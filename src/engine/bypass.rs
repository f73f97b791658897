//! Connections without a real server: a mark service that has none routes its packets on to where they
//! were going (`cache_bypass`, IPVS-RULES 94; kernel: `ip_vs_leave`, `ip_vs_bypass_xmit`).

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, DropReason, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::state::{Seen, State, chunk_event};
use crate::conn::table::{NewConn, OpenError, flag};
use crate::host::IcmpError;
use crate::svc::{DestId, Proto, Service, Snapshot};
use crate::wire::{Meta, number, tcp};

impl Core {
    /// No server takes a packet that is not addressed to us.
    #[cold]
    pub(super) fn nobody<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        service: &Service,
        out: &mut Out,
    ) -> Verdict {
        let none = Verdict::Drop(DropReason::NoDestination);
        let Some(proto) = Proto::from_number(meta.proto).filter(|_| snap.sysctl.cache_bypass) else {
            // over IPv4 the kernel could answer from the packet's destination only, which is not its own
            if A::V6 {
                let kind = IcmpError::PortUnreachable;
                self.host.error(at.now, kind, at.port, pkt.bytes(), &meta, None, out);
            }
            return none;
        };
        if service.spec.one_packet && proto == Proto::Udp {
            return self.pass_silently::<A>(at, meta, pkt, out);
        }
        if self.live() >= self.limit as usize {
            return Verdict::Drop(DropReason::TableFull);
        }
        let state = State::initial(proto);
        let new = NewConn {
            client: A::tuple(pkt.bytes(), &meta),
            real: (A::default(), 0),
            local: None,
            flags: flag::BYPASS,
            dest: DestId(u32::MAX),
            state,
            timeout: snap.timeouts.of(state),
        };
        let slot = match A::table(&mut self.tables).open(at.now, &new) {
            Ok(slot) => slot,
            Err(OpenError::Crowded) => return Verdict::Drop(DropReason::TableCrowded),
            Err(_) => return Verdict::Drop(DropReason::TableFull),
        };
        self.count_opened::<A>(slot);
        self.bypassing::<A>(snap, at, meta, pkt, slot, out)
    }

    /// A packet of such a connection.
    #[cold]
    pub(super) fn bypassing<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        out: &mut Out,
    ) -> Verdict {
        let attack = self.defense.attack;
        let table = A::table(&mut self.tables);
        let conn = table.get_mut(slot);
        let begins = meta.proto == number::TCP && meta.tcp_flags & tcp::flag::SYN != 0;
        let finished = matches!(conn.state, State::TcpTimeWait | State::TcpClose);
        if begins && finished && snap.sysctl.conn_reuse_mode != 0 {
            self.close::<A>(snap, slot);
            return self.unknown::<A>(snap, at, meta, pkt, Proto::from_number(meta.proto), out);
        }
        conn.packets = conn.packets.wrapping_add(1);
        // replies go their own way, but the kernel judges by the table for those who see both
        match meta.proto {
            number::TCP if attack => conn.state = conn.state.after_tcp_attack(Seen::Input, meta.tcp_flags),
            number::TCP => conn.state = conn.state.after_tcp(Seen::Input, meta.tcp_flags),
            number::SCTP => {
                let chunk = pkt.bytes().get(meta.l4 as usize + 12..).unwrap_or_default();
                if let Some(event) = chunk_event(chunk) {
                    conn.state = conn.state.after_sctp(Seen::Input, event);
                }
            }
            _ => {}
        }
        let timeout = snap.timeouts.of(conn.state);
        table.touch(slot, at.now, timeout);
        self.pass_silently::<A>(at, meta, pkt, out)
    }

    /// Routes it on. The kernel tells nobody about what goes wrong on the way: it would have to answer from
    /// the address the packet was for, which is not its own.
    fn pass_silently<A: IpFamily>(
        &mut self,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        if meta.ttl <= 1 {
            return Verdict::Drop(DropReason::TtlExpired);
        }
        self.pass::<A>(at, meta, pkt, out)
    }
}
