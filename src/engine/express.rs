//! The express lane: a packet of a flow that just goes on, and of which nothing is out of the ordinary.
//!
//! # Theory of operation
//! Nearly every packet changes nothing but a deadline and counters: the state stays, the way is known, the
//! neighbour has answered, the packet fits, has a plain header and no offload to keep in step. All that is
//! checked first and nothing is written; what fails a check goes the long way ([`super::inbound`],
//! [`super::outbound`]), which knows every case and does exactly the same with this one. Then the headers
//! are written in one go. A rule added to the long way that concerns packets of steady flows needs its check
//! here.

use super::family::IpFamily;
use super::inbound::timeout;
use super::input::Arrival;
use super::ways::Way;
use super::{Core, Verdict};
use crate::buf::{Csum, Out, PacketBuf};
use crate::conn::state::Seen;
use crate::conn::table::{Side, flag};
use crate::nat::Ends;
use crate::svc::Snapshot;
use crate::wire::{Meta, number, tcp, ttl};

impl Core {
    /// Forwards an ordinary packet of a connection. `None`: it is not ordinary, nothing was done.
    #[inline(always)]
    pub(super) fn express<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        (slot, side): (u32, Side),
        out: &mut Out,
    ) -> Option<Verdict> {
        let plain = !matches!(pkt.offload.csum, Csum::Partial { .. }) && pkt.offload.gso.is_none();
        if !plain || at.largest != 0 || meta.ttl <= 1 || self.defense.long_way {
            return None;
        }
        let conn = A::table(&mut self.tables).get_mut(slot);
        let dest = snap.dest(conn.dest)?;
        let seen = match side {
            Side::Real => Seen::Output,
            Side::Client if conn.flags & flag::NO_OUTPUT != 0 => Seen::InputOnly,
            Side::Client => Seen::Input,
        };
        let steady = match meta.proto {
            number::TCP => {
                meta.tcp_flags & tcp::flag::SYN == 0
                    && conn.state.after_tcp(seen, meta.tcp_flags) == conn.state
            }
            number::UDP => true,
            _ => false,
        };
        // a template may have to be told of its connection's first packet; helpers read along
        if !steady || !dest.available || conn.flags & (flag::UNASSURED | flag::HELPED) != 0 {
            return None;
        }
        let replied;
        let (route, neighbor) = match side {
            Side::Client => match self.ways.get(dest.id)? {
                Way { route, neighbor, ordinary: true } => (route, Some(neighbor)),
                _ => return None,
            },
            Side::Real => {
                replied = self.host.route(conn.client.ip())?;
                (&replied, None)
            }
        };
        if meta.ip_len() > route.mtu as usize {
            return None;
        }
        let tunnel = if conn.flags & flag::TUNNEL != 0 { Some(*self.ways.get(dest.id)?) } else { None };
        if tunnel.is_none() {
            let stations = self.host.stations(at.now, route, neighbor)?;
            let fullnat = conn.flags & flag::FULLNAT != 0;
            let ends = match side {
                _ if !conn.two_keys() => Ends::default(),
                Side::Client => Ends {
                    src: fullnat.then_some((conn.local, conn.lport)),
                    dst: Some((conn.real, conn.rport)),
                },
                Side::Real => Ends {
                    src: Some((conn.virt, conn.vport)),
                    dst: fullnat.then_some((conn.client, conn.cport)),
                },
            };
            if !A::forward(pkt.bytes_mut(), meta, stations, &ends) {
                return None;
            }
        }
        let (port, bytes) = (route.port, meta.ip_len() as u64);
        match side {
            Side::Client => {
                conn.packets = conn.packets.wrapping_add(1);
                dest.count_input(self.worker, bytes);
            }
            Side::Real => {
                conn.flags &= !flag::NO_OUTPUT;
                dest.count_output(self.worker, bytes);
            }
        }
        let timeout = timeout(snap, dest, conn.state);
        let table = A::table(&mut self.tables);
        table.touch(slot, at.now, timeout);
        let Some(way) = tunnel else { return Some(Verdict::Send(port)) };
        let (mut meta, conn) = (*meta, *table.get(slot));
        match ttl::decrement(pkt, &mut meta) {
            Ok(()) => Some(self.tunnel::<A>(snap, at, &way, meta, pkt, &conn, dest, out)),
            Err(why) => Some(Verdict::Drop(why)),
        }
    }
}
