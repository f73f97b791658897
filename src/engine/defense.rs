//! Defences against floods of half-open connections: `drop_entry`, `drop_packet` and `secure_tcp`
//! (IPVS-RULES 77 and 93; kernel: `update_defense_level`, `ip_vs_todrop`, `ip_vs_random_dropentry`).
//!
//! Mode 3 is always on; modes 1 and 2 while memory is short. All memory of connections is reserved at the
//! start, so what is short here is the table: fewer free connections than `amemthresh` pages would hold,
//! or than a sixteenth of the table where that is less.

use super::Core;
use super::family::IpFamily;
use super::inbound::timeout;
use crate::conn::state::State;
use crate::conn::table::Conn;
use crate::conn::wheel::Tick;
use crate::svc::{Snapshot, Sysctl};
use crate::time::{Mono, Span};

/// One thirty-second of the table is looked at per second, in this many portions.
const PORTIONS: usize = 16;
const TICK: Span = Span::from_millis(1000 / PORTIONS as u64);
/// A new `am_droprate` is noticed so often (the kernel's timer of 1 s, at the end of its step).
const LEVELS: Span = Span::from_millis(1024);
/// Bytes of a page, and of a connection.
const PAGE: u64 = 4096;
const CONN: u64 = 64;
/// Connections idle for less are spared.
const SPARED: Span = Span::from_secs(60);

/// State of the defences of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defense {
    /// The attack tables of `secure_tcp` are in force.
    pub attack: bool,
    /// No packet takes the express lane: under attack, or because somebody listens.
    pub long_way: bool,
    listened: bool,
    /// Every so many packets that would open a connection one is dropped; 0 for none.
    rate: i64,
    counter: i64,
    /// The mode of `drop_packet` that this rate belongs to.
    mode: u8,
    /// When a new `am_droprate` is noticed.
    levels_at: Mono,
    /// Connections are looked for that can be dropped.
    pub scanning: bool,
    next: Mono,
    /// Parts of connections that are still to be looked at.
    credit: [usize; 2],
    /// For 0 to 8 packets seen: how many such connections are spared before the next is dropped.
    spare: [u8; 9],
}

impl Defense {
    /// Is the packet that would open a connection to be dropped (kernel: `ip_vs_todrop`)?
    #[inline]
    pub fn drops_new(&mut self) -> bool {
        if self.rate == 0 {
            return false;
        }
        self.counter -= 1;
        if self.counter > 0 {
            return false;
        }
        self.counter = self.rate;
        true
    }

    /// Sets the levels by the switches and by the room there is.
    pub fn set(&mut self, sysctl: &Sysctl, live: usize, limit: u32) {
        let limit = u64::from(limit);
        let free = limit.saturating_sub(live as u64);
        let wanted = (sysctl.amemthresh.saturating_mul(PAGE) / CONN).min(limit / 16);
        let short = free < wanted;
        let on = |mode: u8| mode == 3 || (mode != 0 && short);
        self.attack = on(sysctl.secure_tcp);
        self.long_way = self.attack || self.listened;
        self.scanning = on(sysctl.drop_entry);
        // the count goes on where it was: what changes is where it begins again
        let same = std::mem::replace(&mut self.mode, sysctl.drop_packet) == sysctl.drop_packet;
        self.rate = match sysctl.drop_packet {
            3 if same => self.rate,
            3 => sysctl.am_droprate,
            1 | 2 if short => (wanted / (wanted - free)).max(1) as i64,
            _ => 0,
        };
    }

    /// From now on every packet takes the long way, which does the same.
    pub fn take_the_long_way(&mut self) {
        (self.listened, self.long_way) = (true, true);
    }

    /// When the levels and the table are to be looked at again.
    pub fn poll_timeout(&self, sysctl: &Sysctl, live: usize) -> Option<Mono> {
        let watching = [sysctl.secure_tcp, sysctl.drop_packet, sysctl.drop_entry].iter().any(|m| *m % 3 != 0);
        let due = ((watching || self.scanning) && live > 0).then_some(self.next);
        let unnoticed = sysctl.drop_packet == 3 && sysctl.am_droprate != self.rate;
        let notice = unnoticed.then_some(self.levels_at);
        due.into_iter().chain(notice).min()
    }

    /// The levels are looked at again in a while.
    fn notice(&mut self, sysctl: &Sysctl, now: Mono) {
        if now < self.levels_at {
            return;
        }
        self.levels_at = Mono((now.0 / LEVELS.0 + 1) * LEVELS.0);
        if sysctl.drop_packet == 3 {
            self.rate = sysctl.am_droprate;
        }
    }

    /// The kernel's choice among connections that are not half open (`todrop_entry`): long idle, and with
    /// few packets; the more packets, the rarer.
    fn chooses(&mut self, packets: u32, idle: Span) -> bool {
        let Some(spare) = self.spare.get_mut(packets as usize).filter(|_| packets > 0 && idle >= SPARED)
        else {
            return false;
        };
        *spare = spare.saturating_sub(1);
        if *spare > 0 {
            return false;
        }
        *spare = packets as u8;
        true
    }
}

impl Core {
    /// Does what is due.
    pub(super) fn defend(&mut self, snap: &Snapshot, now: Mono) {
        if self.defense.poll_timeout(&snap.sysctl, self.tables.len()).is_none_or(|at| now < at) {
            return;
        }
        self.defense.next = now + TICK;
        self.defense.notice(&snap.sysctl, now);
        self.defense.set(&snap.sysctl, self.live(), self.limit);
        if self.defense.scanning {
            self.drop_entries::<u32>(snap, now);
            self.drop_entries::<u128>(snap, now);
        }
    }

    fn drop_entries<A: IpFamily>(&mut self, snap: &Snapshot, now: Mono) {
        let slots = A::table(&mut self.tables).slots();
        let credit = &mut self.defense.credit[usize::from(A::V6)];
        *credit += slots;
        let looks = *credit / (32 * PORTIONS);
        *credit %= 32 * PORTIONS;
        for _ in 0..looks {
            let slot = (self.random.next() % slots as u64) as u32;
            if let Some(conn) = A::table(&mut self.tables).live(slot).copied()
                && may_drop(&mut self.defense, snap, now, &conn)
            {
                self.counters.evicted += 1;
                self.close::<A>(snap, slot);
            }
        }
    }

    /// Sets the levels at once: a switch was changed.
    pub(super) fn set_defense(&mut self, now: Mono, snap: &Snapshot) {
        self.defense.levels_at = Mono((now.0 / LEVELS.0 + 1) * LEVELS.0);
        self.defense.set(&snap.sysctl, self.live(), self.limit);
    }
}

fn may_drop<A: IpFamily>(defense: &mut Defense, snap: &Snapshot, now: Mono, conn: &Conn<A>) -> bool {
    let half_open =
        matches!(conn.state, State::TcpSynRecv | State::TcpSynAck | State::SctpInit1 | State::SctpInit);
    if half_open {
        return true;
    }
    if !matches!(conn.state, State::TcpEstablished | State::SctpEstablished | State::Udp) {
        return false;
    }
    let whole = match snap.dest(conn.dest) {
        Some(dest) => timeout(snap, dest, conn.state),
        None => snap.timeouts.of(conn.state),
    };
    let left = Tick::of(now).span_until(conn.deadline);
    defense.chooses(conn.packets, Span(whole.0.saturating_sub(left.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(set: &[(&str, i64)]) -> Sysctl {
        let mut s = Sysctl::default();
        set.iter().for_each(|(name, value)| s.set(name, *value).unwrap());
        s
    }

    #[test]
    fn every_third_new_connection_is_dropped_beginning_with_the_first() {
        let mut d = Defense::default();
        d.set(&sysctl(&[("drop_packet", 3), ("am_droprate", 3)]), 0, 1000);
        let dropped: Vec<_> = (0..7).map(|_| d.drops_new()).collect();
        assert_eq!(dropped, [true, false, false, true, false, false, true]);
        d.set(&sysctl(&[]), 0, 1000);
        assert!((0..7).all(|_| !d.drops_new()));
    }

    #[test]
    fn modes_1_and_2_are_on_while_the_table_is_nearly_full() {
        for mode in [1, 2] {
            let s = sysctl(&[("secure_tcp", mode), ("drop_entry", mode), ("drop_packet", mode)]);
            let mut d = Defense::default();
            d.set(&s, 900, 1600);
            assert!(!d.attack && !d.scanning && !d.drops_new());
            d.set(&s, 1550, 1600);
            assert!(d.attack && d.scanning && d.drops_new() && !d.drops_new() && d.drops_new());
            let mut d = Defense::default();
            d.set(&s, 1600, 1600);
            assert!(d.drops_new() && d.drops_new(), "nothing is free: nothing new");
        }
        let mut d = Defense::default();
        d.set(&sysctl(&[("secure_tcp", 3), ("drop_entry", 3)]), 0, 1600);
        assert!(d.attack && d.scanning && !d.drops_new());
    }

    #[test]
    fn idle_connections_with_few_packets_are_chosen_the_rarer_the_more_packets() {
        let mut d = Defense::default();
        let minute = Span::from_secs(60);
        assert!(!d.chooses(1, Span::from_secs(59)) && !d.chooses(0, minute) && !d.chooses(9, minute));
        assert!(d.chooses(1, minute) && d.chooses(1, minute));
        let third: Vec<_> = (0..4).map(|_| d.chooses(3, minute)).collect();
        assert_eq!(third, [true, false, false, true]);
    }
}
