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
//!
//! The packet that begins a TCP connection is scheduled and counted elsewhere ([`super::together`]), and sent on
//! from here ([`Core::launch`]) where its frame is ordinary but for the SYN.

use super::burst::{Look, Turn};
use super::deliver::gue_port;
use super::family::IpFamily;
use super::path_mtu::PathMtus;
use super::ways::Lane;
use super::{Core, DropReason, Random, Verdict};
use crate::buf::PacketBuf;
use crate::conn::key::Addr;
use crate::conn::state::State;
use crate::conn::table::{Conn, Side, flag};
use crate::host::Host;
use crate::svc::{Dest, Forward, Tunnel};
use crate::time::Mono;
use crate::wire::eth::{self, Stations};
use crate::wire::number;

/// Connections with any of these go the long way: a template may have to be told of its connection's first
/// packet, helpers read along, who has no real server has no lane, and one that hides may have been found before
/// it did.
const NOT_STEADY: u16 = flag::UNASSURED | flag::HELPED | flag::AWAITED | flag::BYPASS | flag::HIDDEN;

impl Core {
    /// Forwards the packets of one family that come first of these, as long as they are ordinary. Gives
    /// their number.
    ///
    /// A loop of its own for each family: what it needs stays in registers.
    #[inline(never)]
    pub(super) fn run<A: IpFamily>(
        &mut self,
        turn: &Turn,
        looks: &[Look],
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
    ) -> usize {
        let mut done = 0;
        for ((look, pkt), place) in looks.iter().zip(burst).zip(verdicts) {
            if look.kind != A::PLAIN {
                break;
            }
            let Some(verdict) = self.express::<A>(turn, look, pkt) else { break };
            *place = verdict;
            done += 1;
        }
        done
    }

    /// Forwards an ordinary packet of a connection. `None`: it is not ordinary, nothing was done.
    #[inline(always)]
    fn express<A: IpFamily>(&mut self, turn: &Turn, look: &Look, pkt: &mut PacketBuf<'_>) -> Option<Verdict> {
        let (proto, ends, size) = A::read(pkt.bytes())?;
        let Core { tables, ways, host, path_mtus, random, .. } = self;
        let table = A::table(tables);
        let (slot, side, conn) = table.find_ends(look.entry, look.hash, proto, ends)?;
        let (steady, timeout) = match proto {
            number::TCP => (conn.state == State::TcpEstablished, 0),
            _ => (conn.state == State::Udp, 1),
        };
        if !steady || conn.flags & NOT_STEADY != 0 {
            return None;
        }
        let lane = ways.lane(conn.dest)?;
        let deadline = turn.tick.plus(lane.timeouts[timeout]);
        let port = match side {
            Side::Client => {
                let sender = Sender { now: turn.now, host, path_mtus, random };
                if !sender.send_in::<A>(lane, conn, look.hash, (proto, size), pkt)? {
                    return Some(Verdict::Drop(DropReason::NoHeadroom));
                }
                conn.packets = conn.packets.wrapping_add(1);
                lane.tallies.iter().for_each(|t| t.input(1, size as u64));
                lane.port
            }
            Side::Real => {
                // the guess may be older than what is in its place now
                if !conn.two_keys() {
                    return None;
                }
                let (port, mtu, from, neighbor) = host.neighbor_towards(turn.now, conn.client.ip())?;
                if size > mtu as usize {
                    return None;
                }
                let stations = Stations::new(neighbor.mac(), from);
                let (new, change) = (conn.new_ends(side), conn.change(side));
                if !A::new_ends(pkt.bytes_mut(), proto, new, change, stations) {
                    return None;
                }
                pkt.truncate(eth::LEN + size);
                neighbor.use_at(turn.now);
                conn.flags &= !flag::NO_OUTPUT;
                lane.tallies.iter().for_each(|t| t.output(1, size as u64));
                port
            }
        };
        if !conn.goes_on(deadline) {
            table.arm_earlier(slot, deadline);
        }
        Some(Verdict::Send(port))
    }
    /// Sends the packet that began a connection, counted already, where nothing but its SYN is out of the
    /// ordinary. `None`: something is, nothing was done.
    pub(super) fn launch<A: IpFamily>(
        &mut self,
        now: Mono,
        pkt: &mut PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
    ) -> Option<Verdict> {
        if self.told() || conn.flags & NOT_STEADY != 0 {
            return None;
        }
        let tunnel = conn.flags & flag::TUNNEL != 0;
        if tunnel && dest.mss_clamp {
            return None;
        }
        let (proto, _, size) = A::read(pkt.bytes())?;
        let gue = tunnel && matches!(dest.spec.forward, Forward::Tun(Tunnel::Gue { .. }));
        let hash = if gue { A::table(&mut self.tables).hash(&conn.client_key()) } else { 0 };
        let Core { ways, host, path_mtus, random, .. } = self;
        let lane = ways.lane(conn.dest)?;
        let sent =
            Sender { now, host, path_mtus, random }.send_in::<A>(lane, conn, hash, (proto, size), pkt)?;
        Some(if sent { Verdict::Send(lane.port) } else { Verdict::Drop(DropReason::NoHeadroom) })
    }
}

/// What it takes to send an ordinary packet of a client to its real server.
struct Sender<'c> {
    now: Mono,
    host: &'c mut Host,
    path_mtus: &'c PathMtus,
    random: &'c mut Random,
}

impl Sender<'_> {
    /// Writes all headers of a packet of `size` bytes. `None`: something about it is not ordinary, nothing was
    /// done. False: there was no room for an outer header.
    #[inline(always)]
    fn send_in<A: IpFamily>(
        self,
        lane: &Lane,
        conn: &Conn<A>,
        hash: u64,
        (proto, size): (u8, usize),
        pkt: &mut PacketBuf<'_>,
    ) -> Option<bool> {
        let Sender { now, host, path_mtus, random } = self;
        let end = eth::LEN + size;
        let headroom = pkt.headroom();
        let neighbor = host.neighbor_at(now, &lane.neighbor)?;
        let stations = Stations::new(neighbor.mac(), lane.from);
        if conn.flags & flag::TUNNEL != 0 {
            let outer = lane.outer.as_ref()?;
            let mtu = path_mtus.of(now, &lane.ip, lane.mtu) as usize;
            if size + outer.overhead() > mtu || headroom < outer.overhead() {
                return None;
            }
            A::hop(pkt.bytes_mut());
            let id = || random.next() as u16;
            if !outer.wrap(pkt, (<A as Addr>::FAMILY, end), stations, gue_port(hash), id) {
                return Some(false);
            }
        } else {
            if size > lane.mtu as usize {
                return None;
            }
            let frame = pkt.bytes_mut();
            if conn.two_keys() {
                // an IPv6 connection's own note of that address lies in another cache line
                let new = match A::from_ip(lane.ip) {
                    Some(real) if A::V6 && conn.flags & flag::FULLNAT == 0 => conn.ends_at(real),
                    _ => conn.new_ends(Side::Client),
                };
                if !A::new_ends(frame, proto, new, conn.change(Side::Client), stations) {
                    return None;
                }
            } else if !A::hop(frame) || !stations.write_to(frame) {
                return None;
            }
            pkt.truncate(end);
        }
        neighbor.use_at(now);
        Some(true)
    }
}
