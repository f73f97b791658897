//! What the director itself says about a connection counts as that connection's output, as it does in the
//! kernel, where these packets pass `ip_vs_out_hook` on their way out (IPVS-RULES 20 and 95).

use super::family::IpFamily;
use super::inbound::advance;
use super::input::Arrival;
use super::{Core, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::state::Seen;
use crate::conn::table::{Conn, Side, flag};
use crate::host::Undelivered;
use crate::svc::{Dest, Snapshot};
use crate::tunnel;
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Meta, number, tcp};

/// Bytes that an ICMP error over IPv4 can quote of a packet inside a tunnel of IPv4.
const QUOTED_INSIDE: usize = 576 - 20 - 8 - 20;

impl Core {
    /// The real server is the director: its stack answers, and the answer moves the connection.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and where it goes")]
    pub(super) fn local_node<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        let before = self.host.counters;
        let verdict = self.host.local_in(at.now, at.port, meta, pkt, out);
        let (reset, error) =
            (self.host.counters.resets != before.resets, self.host.counters.errors != before.errors);
        if !reset && !error {
            return verdict;
        }
        let bytes = self.host.counters.refused_bytes - before.refused_bytes;
        dest.count_output(self.worker, bytes);
        let attack = self.defense.attack;
        let table = A::table(&mut self.tables);
        // one-packet scheduling leaves no connection
        if reset && let Some((slot, Side::Client)) = table.lookup(&conn.client_key()) {
            let answer = Meta { tcp_flags: tcp::flag::RST, ..*meta };
            let conn = table.get_mut(slot);
            conn.flags &= !flag::NO_OUTPUT;
            let timeout = advance(snap, conn, Seen::Output, &answer, &[], dest, attack);
            table.touch(slot, at.now, timeout);
        }
        verdict
    }

    /// Counts what was said about packets whose next hop did not answer.
    pub(super) fn undelivered(&mut self, snap: &Snapshot, out: &mut Out) {
        while let Some(Undelivered { packet, l3, told, tunnel }) = self.host.undelivered.pop() {
            let frame = packet.bytes();
            let family = if frame.get(l3).map(|b| b >> 4) == Some(4) { Family::V4 } else { Family::V6 };
            if let Ok(meta) = parse_quoted(frame, l3, family) {
                self.count_undelivered(snap, frame, &meta, told, tunnel);
            }
            out.recycle(packet);
        }
    }

    fn count_undelivered(&mut self, snap: &Snapshot, frame: &[u8], meta: &Meta, told: usize, tunnel: bool) {
        let inner = if tunnel {
            let gue_port = (meta.proto == number::UDP).then_some(meta.dport);
            tunnel::quoted_inner(frame, meta, gue_port).ok()
        } else {
            None
        };
        let (about, bytes) = match &inner {
            // nobody hears of it: the error goes to the director itself, which counts what it quotes
            Some(inner) => (inner, inner.ip_len().min(QUOTED_INSIDE)),
            None if told > 0 => (meta, told),
            None => return,
        };
        let id = match about.family {
            Family::V4 => self.dest_of::<u32>(frame, about),
            Family::V6 => self.dest_of::<u128>(frame, about),
        };
        if let Some(dest) = id.and_then(|id| snap.dest(id)) {
            dest.count_output(self.worker, bytes as u64);
        }
    }

    /// The real server of the connection that a client's packet belongs to.
    pub(super) fn dest_of<A: IpFamily>(&mut self, frame: &[u8], meta: &Meta) -> Option<crate::svc::DestId> {
        let tuple = A::tuple(frame, meta);
        let table = A::table(&mut self.tables);
        match table.lookup(&tuple)? {
            (slot, Side::Client) => Some(table.get(slot).dest),
            _ => None,
        }
    }
}
