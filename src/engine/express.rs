//! The express lane: a packet of a flow that just goes on, and of which nothing is out of the ordinary.
//!
//! # Theory of operation
//! Nearly every packet changes nothing but a deadline and counters: the state stays, the way is known, the
//! neighbour has answered, the packet fits, has a plain header and no offload to keep in step. The frame
//! alone was judged by [`crate::wire::plain`]; here the connection, the way and the size are. All is checked
//! first and nothing is written; what fails a check goes the long way ([`super::inbound`],
//! [`super::outbound`]), which knows every case and does exactly the same with this one. Then the headers
//! are written in one go. A rule added to the long way that concerns packets of steady flows needs its check
//! here.

use super::burst::Turn;
use super::deliver::gue_port;
use super::family::IpFamily;
use super::{Core, DropReason, Verdict};
use crate::buf::PacketBuf;
use crate::conn::key::Addr;
use crate::conn::state::State;
use crate::conn::table::{Side, flag};
use crate::wire::eth::{self, Stations};
use crate::wire::number;
use crate::wire::plain::Ends;

/// Connections with any of these go the long way: a template may have to be told of its connection's first
/// packet, helpers read along, and who has no real server has no lane.
const NOT_STEADY: u16 = flag::UNASSURED | flag::HELPED | flag::AWAITED | flag::BYPASS;

impl Core {
    /// Forwards an ordinary packet of a connection. `None`: it is not ordinary, nothing was done.
    #[inline(always)]
    pub(super) fn express<A: IpFamily>(
        &mut self,
        turn: &Turn,
        hash: u64,
        pkt: &mut PacketBuf<'_>,
    ) -> Option<Verdict> {
        let headroom = pkt.headroom();
        let frame = pkt.bytes_mut();
        let (proto, old, size) = A::read(frame)?;
        let Core { tables, ways, host, path_mtus, random, worker, .. } = self;
        let table = A::table(tables);
        let (slot, side) = table.find_ends(hash, proto, old)?;
        let conn = table.get_mut(slot);
        let (steady, timeout) = match proto {
            number::TCP => (conn.state == State::TcpEstablished, 0),
            _ => (conn.state == State::Udp, 1),
        };
        if !steady || conn.flags & NOT_STEADY != 0 {
            return None;
        }
        let lane = ways.lane(conn.dest)?;
        let deadline = turn.tick.plus(lane.timeouts[timeout]);
        let end = eth::LEN + size;
        let port = match side {
            Side::Client => {
                let neighbor = host.neighbor_at(turn.now, &lane.neighbor)?;
                let stations = Stations::new(neighbor.mac(), lane.from);
                if conn.flags & flag::TUNNEL != 0 {
                    let outer = lane.outer.as_ref()?;
                    let mtu = path_mtus.of(turn.now, lane.ip, lane.mtu) as usize;
                    if size + outer.overhead() > mtu || headroom < outer.overhead() {
                        return None;
                    }
                    A::hop(frame);
                    pkt.truncate(end);
                    let id = || random.next() as u16;
                    if !outer.wrap(pkt, <A as Addr>::FAMILY, stations, gue_port(hash), id) {
                        return Some(Verdict::Drop(DropReason::NoHeadroom));
                    }
                } else {
                    if size > lane.mtu as usize {
                        return None;
                    }
                    if conn.two_keys() {
                        let new =
                            Ends { src: conn.local, dst: conn.real, sport: conn.lport, dport: conn.rport };
                        if !A::new_ends(frame, proto, &old, &new, stations) {
                            return None;
                        }
                    } else if !A::hop(frame) || !stations.write_to(frame) {
                        return None;
                    }
                    pkt.truncate(end);
                }
                neighbor.use_at(turn.now);
                conn.packets = conn.packets.wrapping_add(1);
                lane.stats.input(*worker, 1, size as u64);
                lane.service_stats.input(*worker, 1, size as u64);
                lane.port
            }
            Side::Real => {
                let (port, mtu, from, neighbor) = host.neighbor_towards(turn.now, conn.client.ip())?;
                if size > mtu as usize {
                    return None;
                }
                let stations = Stations::new(neighbor.mac(), from);
                let new = Ends { src: conn.virt, dst: conn.client, sport: conn.vport, dport: conn.cport };
                if !A::new_ends(frame, proto, &old, &new, stations) {
                    return None;
                }
                pkt.truncate(end);
                neighbor.use_at(turn.now);
                conn.flags &= !flag::NO_OUTPUT;
                lane.stats.output(*worker, 1, size as u64);
                lane.service_stats.output(*worker, 1, size as u64);
                port
            }
        };
        table.expires_at(slot, deadline);
        Some(Verdict::Send(port))
    }
}
