//! Ends what is left of a server's connections: both ends get a reset they accept.
//!
//! # Theory of operation
//! A reset has to carry the sequence number its receiver expects, and the director does not follow
//! sequence numbers. A client's segment carries both: what it sends next, which the server expects, and
//! what it expects itself. So the next segment of a client is answered with a reset, and goes on to the
//! server as one. Clients that say nothing are asked: a segment that is out of sequence has to be answered
//! with one that is in it (RFC 9293, 3.10.7.4). It comes from the virtual address, so this works where
//! replies do not pass here, too. Who does not answer is gone, and so is its connection in the end.

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, Engine, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::state::State;
use crate::conn::table::{Conn, flag};
use crate::host::Segment;
use crate::svc::{Dest, DestId, Snapshot};
use crate::time::Mono;
use crate::wire::{Link, Meta, Parsed, be32, number, parse, tcp};

/// Connections looked at in one go, so that no packet waits long.
const LOOKED_AT: u32 = 16_384;
/// Connections ended or asked about in one go.
const TOUCHED: u32 = 256;

/// How to end connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Clients of TCP are asked for their numbers; what has no resets ends at once.
    Ask,
    /// Whatever is left ends.
    Force,
}

impl Engine {
    /// Ends the connections of a server that is marked so ([`crate::svc::Ending::Cut`]), from `cursor` on;
    /// gives the place to go on from, `None` when all were seen, and how many were touched.
    pub fn cut(
        &mut self,
        now: Mono,
        dest: DestId,
        how: Cut,
        cursor: u64,
        out: &mut Out,
    ) -> (Option<u64>, u32) {
        let Engine { snap, core, .. } = self;
        let before = out.len();
        let v4 = core.tables.v4.slots() as u64;
        let mut touched = 0;
        let mut next = cursor;
        if next < v4 {
            let end = core.cut::<u32>(snap, now, dest, how, next as u32, &mut touched, out);
            next = end.map_or(v4, u64::from);
        } else {
            let end = core.cut::<u128>(snap, now, dest, how, (next - v4) as u32, &mut touched, out);
            next = end.map_or(u64::MAX, |n| v4 + u64::from(n));
        }
        core.counters.made += (out.len() - before) as u64;
        ((next != u64::MAX).then_some(next), touched)
    }
    /// Resets sent to both ends of connections at the deadline of a drain.
    pub fn cut_resets(&self) -> u64 {
        self.core.counters.cut
    }
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "which connections, how, and where to go on")]
    fn cut<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        dest: DestId,
        how: Cut,
        from: u32,
        touched: &mut u32,
        out: &mut Out,
    ) -> Option<u32> {
        let slots = A::table(&mut self.tables).slots() as u32;
        let end = slots.min(from.saturating_add(LOOKED_AT));
        for slot in from..end {
            let Some(conn) = A::table(&mut self.tables).live(slot).filter(|c| c.dest == dest).copied() else {
                continue;
            };
            *touched += 1;
            let open =
                conn.proto == number::TCP && !matches!(conn.state, State::TcpTimeWait | State::TcpClose);
            if how == Cut::Ask && open && conn.flags & flag::BYPASS == 0 {
                self.ask(now, &conn, out);
            } else {
                self.close::<A>(snap, slot);
            }
            if *touched >= TOUCHED {
                return (slot + 1 < slots).then_some(slot + 1);
            }
        }
        (end < slots).then_some(end)
    }

    /// Asks a client for its sequence numbers.
    fn ask<A: IpFamily>(&mut self, now: Mono, conn: &Conn<A>, out: &mut Out) {
        let Some(route) = self.host.route(conn.client.ip()).filter(|r| !r.unreachable) else { return };
        let random = self.random.next();
        let question = Segment {
            tos: 0,
            flow: 0,
            from: (conn.virt.ip(), conn.vport),
            to: (conn.client.ip(), conn.cport),
            seq: random as u32,
            ack: (random >> 32) as u32,
            flags: tcp::flag::ACK,
        };
        let question = question.build(out);
        self.host.send_own(now, &route, question, out);
    }

    /// A client's packet of a connection that is to end. `None`: nothing was done, it goes on as usual.
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and where it goes")]
    pub(super) fn cut_short<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        dest: &Dest,
        out: &mut Out,
    ) -> Option<Verdict> {
        let asks = meta.proto == number::TCP
            && meta.tcp_flags & tcp::flag::RST == 0
            && meta.tcp_flags & tcp::flag::ACK != 0
            && !meta.is_fragment();
        if !asks {
            return None;
        }
        let seq = pkt.bytes().get(usize::from(meta.l4)..).filter(|s| s.len() >= tcp::LEN);
        let seq = seq.map(|s| be32(s, tcp::field::SEQ))?;
        let verdict = self.host.reset(at.now, at.port, meta, pkt, out);
        if !matches!(verdict, Verdict::Taken(Taken::Local)) {
            return Some(verdict);
        }
        let conn = *A::table(&mut self.tables).get(slot);
        let reset = Segment {
            tos: 0,
            flow: 0,
            from: (conn.client.ip(), conn.cport),
            to: (conn.virt.ip(), conn.vport),
            seq,
            ack: 0,
            flags: tcp::flag::RST,
        };
        let mut reset = reset.build(out);
        let sent = reset.edit(|p| match parse(p.bytes(), Link::Ip) {
            Ok(Parsed::Ip(meta)) => Some(self.deliver::<A>(snap, at, meta, p, &conn, dest, out)),
            _ => None,
        });
        match sent {
            Some(Verdict::Send(port)) => out.push(port, reset),
            _ => out.recycle(reset),
        }
        self.counters.cut += 2;
        self.close::<A>(snap, slot);
        Some(verdict)
    }
}
