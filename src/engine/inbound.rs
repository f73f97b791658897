//! Packets of known connections, from the client (kernel: `ip_vs_in_hook`).

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, DropReason, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::state::{Seen, State, chunk_event};
use crate::conn::table::{Conn, Side, flag};
use crate::svc::{Dest, Ending, Proto, Snapshot, Sysctl};
use crate::time::{Mono, Span};
use crate::wire::{Meta, number, tcp};

impl Core {
    #[inline(never)]
    pub(super) fn inbound<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        out: &mut Out,
    ) -> Verdict {
        self.tell_known::<A>(snap, at.now, slot, Side::Client);
        let conn = A::table(&mut self.tables).get(slot);
        let state = conn.state;
        let Some(dest) = snap.dest(conn.dest) else {
            if conn.flags & flag::BYPASS != 0 {
                return self.bypassing::<A>(snap, at, meta, pkt, slot, out);
            }
            self.close::<A>(snap, slot);
            return Verdict::Drop(DropReason::DestinationGone);
        };
        if begins(&meta, pkt.bytes()) && starts_anew(&snap.sysctl, conn, dest) {
            self.tell_anew(snap, state, "the packet begins a new connection on the tuple of an old one");
            // the old one counts until the new one has its server (kernel: `ip_vs_conn_expire_now`)
            let active = A::table(&mut self.tables).get(slot).flags & flag::INACTIVE == 0;
            self.close::<A>(snap, slot);
            dest.bind(active);
            let verdict = self.unknown::<A>(snap, at, meta, pkt, Proto::from_number(meta.proto), out);
            dest.unbind(active);
            return verdict;
        }
        match dest.ending {
            Ending::No => {}
            Ending::Cut => {
                if let Some(verdict) = self.cut_short::<A>(snap, at, &meta, pkt, slot, dest, out) {
                    return verdict;
                }
            }
            // nobody would answer (docs/differences.md)
            Ending::Dead if meta.proto == number::UDP => {
                self.close::<A>(snap, slot);
                return self.unknown::<A>(snap, at, meta, pkt, Some(Proto::Udp), out);
            }
            Ending::Dead => {}
        }
        if !dest.available {
            if !snap.sysctl.expire_nodest_conn {
                return Verdict::Drop(DropReason::DestinationGone);
            }
            self.tell_anew(snap, state, "its real server was removed");
            self.close::<A>(snap, slot);
            return self.unknown::<A>(snap, at, meta, pkt, Proto::from_number(meta.proto), out);
        }
        self.accept_input::<A>(snap, at.now, &meta, pkt.bytes(), slot, dest);
        let conn = *A::table(&mut self.tables).get(slot);
        if conn.flags & flag::HELPED != 0 {
            match self.ftp_in::<A>(snap, at.now, meta, pkt, slot, dest) {
                Ok(helped) => meta = helped,
                Err(why) => return Verdict::Drop(why),
            }
        }
        self.deliver::<A>(snap, at, meta, pkt, &conn, dest, out)
    }

    /// Counts a client's packet and moves the connection's state (kernel: `ip_vs_in_stats` and
    /// `ip_vs_set_state`, both before anything can go wrong on the way out).
    #[inline]
    pub(super) fn accept_input<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        meta: &Meta,
        frame: &[u8],
        slot: u32,
        dest: &Dest,
    ) {
        let bytes = meta.ip_len() as u64;
        dest.count_input(self.worker, bytes);
        let attack = self.defense.attack;
        let table = A::table(&mut self.tables);
        let conn = table.get_mut(slot);
        conn.packets = conn.packets.wrapping_add(1);
        let before = conn.state;
        if meta.tcp_flags & tcp::flag::SYN != 0 && conn.packets > 1 && conn.state == State::TcpSynRecv {
            dest.live.unanswered();
        }
        let seen = if conn.flags & flag::NO_OUTPUT != 0 { Seen::InputOnly } else { Seen::Input };
        let timeout = advance(snap, conn, seen, meta, frame, dest, attack);
        let (unassured, state) = (conn.flags & flag::UNASSURED != 0, conn.state);
        table.touch(slot, now, timeout);
        if self.told() {
            self.tell_state(before, state, timeout);
        }
        if unassured {
            self.assure::<A>(slot, false);
        }
    }
}

/// Moves the state by one packet and keeps the real server's counts in step. Returns the new timeout.
/// `attack`: by the tables of `secure_tcp`.
#[inline]
pub(super) fn advance<A: IpFamily>(
    snap: &Snapshot,
    conn: &mut Conn<A>,
    seen: Seen,
    meta: &Meta,
    frame: &[u8],
    dest: &Dest,
    attack: bool,
) -> Span {
    let next = match meta.proto {
        number::TCP if attack => conn.state.after_tcp_attack(seen, meta.tcp_flags),
        number::TCP => conn.state.after_tcp(seen, meta.tcp_flags),
        number::SCTP => match chunk_event(&frame[(meta.l4 as usize + 12).min(frame.len())..]) {
            Some(event) => conn.state.after_sctp(seen, event),
            None => conn.state,
        },
        _ => conn.state,
    };
    if next != conn.state {
        let active = next.active();
        if conn.flags & flag::BOUND != 0 && active != (conn.flags & flag::INACTIVE == 0) {
            dest.turn(active);
            conn.flags ^= flag::INACTIVE;
        }
        conn.state = next;
    }
    timeout(snap, dest, next)
}

/// Timeout of a state: the service's own where it has one.
#[inline]
pub(super) fn timeout(snap: &Snapshot, dest: &Dest, state: State) -> Span {
    let own = match state {
        State::TcpEstablished => dest.timeouts.tcp,
        State::TcpFinWait => dest.timeouts.tcp_fin,
        State::Udp => dest.timeouts.udp,
        _ => None,
    };
    own.unwrap_or_else(|| snap.timeouts.of(state))
}

/// Does the packet begin a connection: SYN, INIT (kernel: `is_new_conn`)?
#[inline]
fn begins(meta: &Meta, frame: &[u8]) -> bool {
    match meta.proto {
        number::TCP => meta.tcp_flags & tcp::flag::SYN != 0,
        number::SCTP => frame.get(meta.l4 as usize + 12) == Some(&1),
        _ => false,
    }
}

/// Is a packet that begins a connection to be scheduled anew although its tuple is known
/// (IPVS-RULES 81 and 84)?
fn starts_anew<A: IpFamily>(sysctl: &Sysctl, conn: &Conn<A>, dest: &Dest) -> bool {
    if sysctl.expire_nodest_conn && dest.weight() == 0 {
        return true;
    }
    // nobody would answer (docs/differences.md)
    if dest.ending == Ending::Dead && conn.flags & flag::CHILD == 0 {
        return true;
    }
    let unanswered = conn.flags & flag::NO_OUTPUT != 0;
    // connections of a template and data connections of FTP are left where they are
    let controlled = conn.flags & (flag::CONTROLLED | flag::CHILD) != 0;
    match conn.state {
        _ if sysctl.conn_reuse_mode == 0 || controlled => false,
        State::TcpTimeWait | State::TcpClose | State::SctpClosed => true,
        State::TcpFinWait => sysctl.conn_reuse_mode & 2 != 0 && unanswered,
        _ => false,
    }
}
