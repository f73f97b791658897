//! The neighbour table: which MAC an address on a link has, and what waits for it.
//!
//! Theory of operation. States are the kernel's. An unknown neighbour is *incomplete*: it is asked for by
//! broadcast at 0, 1 and 2 s, packets wait, and at 3 s it has *failed* (vectors `7-noarp-rs-*`). A
//! confirmed one is *reachable* for 30 s, then *stale*: still used, but the first packet starts a *delay*
//! of 5 s, after which it is asked directly three times (*probe*) before it has failed; traffic goes on
//! all the time. A failed one is asked for anew by the next packet.
//!
//! The packet path looks at one field only, `good_until`: while it lies in the future the MAC is used
//! without a thought about states. Timers exist for incomplete, delayed and probed entries alone.
//!
//! The table knows nothing of packets on the wire: [`super::resolve`] sends, this decides.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashMap;

use super::key::{Folded, LinkKey};
use super::neighbor::{Neighbor, NeighborInfo, NeighborState, Parked, RETRANSMIT};
use crate::addr::Mac;
use crate::buf::OwnedPacket;
use crate::engine::{DropReason, PortId};
use crate::time::{Mono, Span};

/// Most neighbours that are learnt; static ones and gateways come on top.
pub const MAX_LEARNT: usize = 1024;
/// Questions asked before a neighbour has failed (kernel: `mcast_solicit`, `ucast_solicit`).
const PROBES: u8 = 3;
/// How long an answer is protected against another one (kernel: `locktime`).
const LOCK: Span = Span::from_secs(1);
/// Memory that may wait for one neighbour (kernel: `unres_qlen_bytes`) and for all together.
const PARKED_PER_NEIGHBOR: usize = 212_992;
const PARKED_TOTAL: usize = 4 << 20;

/// A question to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub port: PortId,
    pub ip: IpAddr,
    /// Ask this station directly instead of everybody.
    pub to: Option<Mac>,
}

/// What the table says to a packet that did not find a good entry.
#[derive(Debug)]
pub(super) enum Slow {
    /// Use this MAC.
    Use(Mac),
    /// Park the packet, and ask first when there is a question.
    Wait(Option<Probe>),
    /// No room for another neighbour.
    Full,
}

/// Whether a claim may replace a MAC that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    /// No (advertisements without the override flag).
    Never,
    /// Not within a second of the last change: of several answers the first counts.
    Later,
    /// Yes.
    Always,
}

/// What was said about a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub mac: Mac,
    /// It answers a question of ours.
    pub solicited: bool,
    pub replace: Replace,
    /// Make an entry when there is none (it asked for us and will hear from us).
    pub create: bool,
}

/// What a claim did.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// There is an entry now.
    pub known: bool,
    /// Packets that waited for it.
    pub released: VecDeque<Parked>,
    /// The MAC it had before.
    pub replaced: Option<Mac>,
}

/// The place of a neighbour's entry, good as long as no entry comes or goes; for the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    at: u32,
    generation: u32,
}

/// All neighbours of all ports.
#[derive(Clone, Debug)]
pub(super) struct Neighbors {
    entries: Vec<Neighbor>,
    index: HashMap<LinkKey, u32, Folded>,
    /// Places in `entries` where an address was found last, by [`LinkKey::slot`]; only hints.
    hints: Box<[u32; LinkKey::SLOTS]>,
    /// Changes whenever an entry comes, goes or moves, so that a [`Known`] place is not taken for another's.
    generation: u32,
    /// When the first timer fires.
    next: Option<Mono>,
    parked_cost: usize,
    /// Packets that lost their place: to be counted as dropped.
    pub lost: Vec<(OwnedPacket, DropReason)>,
}

impl Neighbors {
    pub fn new(folded: Folded) -> Neighbors {
        Neighbors {
            entries: Vec::new(),
            index: HashMap::with_hasher(folded),
            hints: Box::new([0; LinkKey::SLOTS]),
            generation: 0,
            next: None,
            parked_cost: 0,
            lost: Vec::new(),
        }
    }

    /// The entry of an address, for the packet path.
    #[inline]
    pub fn find(&mut self, port: PortId, ip: IpAddr) -> Option<&mut Neighbor> {
        let key = LinkKey::of(port, ip);
        let hint = self.hints[key.slot()] as usize;
        if self.entries.get(hint).is_some_and(|n| n.key == key) {
            return self.entries.get_mut(hint);
        }
        let at = *self.index.get(&key)?;
        self.hints[key.slot()] = at;
        self.entries.get_mut(at as usize)
    }

    /// The place of an entry, or of none.
    pub fn known(&self, port: PortId, ip: IpAddr) -> Known {
        let at = self.index.get(&LinkKey::of(port, ip)).copied();
        // a place of none is asked for again as soon as there is an entry more
        Known { at: at.unwrap_or(u32::MAX), generation: self.generation }
    }

    /// True while [`Neighbors::known`] would say the same.
    #[inline]
    pub fn still(&self, known: &Known) -> bool {
        known.generation == self.generation
    }

    /// The entry at a place that is known still.
    #[inline]
    pub fn at(&mut self, known: &Known) -> Option<&mut Neighbor> {
        if known.generation != self.generation {
            return None;
        }
        self.entries.get_mut(known.at as usize)
    }

    /// A configured neighbour.
    pub fn set_static(&mut self, port: PortId, ip: IpAddr, mac: Mac) {
        let at = self.entry(Mono::ZERO, port, ip, true);
        if let Some(n) = at.and_then(|at| self.entries.get_mut(at)) {
            n.mac = mac;
            n.set(Mono::ZERO, NeighborState::Permanent);
        }
    }

    /// Marks an entry as one of a configured next hop.
    pub fn pin(&mut self, port: PortId, ip: IpAddr) {
        if let Some(n) = self.find(port, ip) {
            n.pinned = true;
        }
    }

    /// A packet for `ip` found no good entry.
    pub fn slow(&mut self, now: Mono, port: PortId, ip: IpAddr, pinned: bool) -> Slow {
        use NeighborState as S;
        let at = match self.index.get(&LinkKey::of(port, ip)) {
            Some(at) => *at as usize,
            None => match self.entry(now, port, ip, pinned) {
                Some(at) => at,
                None => return Slow::Full,
            },
        };
        let Some(n) = self.entries.get_mut(at) else { return Slow::Full };
        let answer = match n.state {
            S::Permanent | S::Delay | S::Probe => return Slow::Use(n.mac),
            S::Reachable if now < n.good_until => return Slow::Use(n.mac),
            S::Incomplete => return Slow::Wait(None),
            S::Reachable | S::Stale => {
                n.set(now, S::Delay);
                n.used = now;
                Slow::Use(n.mac)
            }
            S::Failed => {
                n.set(now, S::Incomplete);
                n.updated = now;
                Slow::Wait(Some(Probe { port, ip, to: None }))
            }
        };
        let deadline = n.deadline;
        self.arm(deadline);
        answer
    }

    /// Keeps a packet for a neighbour that is being asked for; older ones go when there is no room.
    pub fn park(&mut self, port: PortId, ip: IpAddr, parked: Parked) {
        let cost = parked.cost();
        let mut lost = Vec::new();
        let total = &mut self.parked_cost;
        let Some(n) =
            self.index.get(&LinkKey::of(port, ip)).and_then(|at| self.entries.get_mut(*at as usize))
        else {
            self.lost.push((parked.packet, DropReason::NeighborQueueFull));
            return;
        };
        while n.cost + cost > PARKED_PER_NEIGHBOR
            && let Some(old) = n.parked.pop_front()
        {
            n.cost -= old.cost();
            *total -= old.cost();
            lost.push((old.packet, DropReason::NeighborQueueFull));
        }
        if *total + cost > PARKED_TOTAL {
            lost.push((parked.packet, DropReason::NeighborQueueFull));
        } else {
            n.cost += cost;
            *total += cost;
            n.parked.push_back(parked);
        }
        self.lost.append(&mut lost);
    }

    /// Somebody said where `ip` is.
    pub fn learn(&mut self, now: Mono, port: PortId, ip: IpAddr, claim: Claim) -> Learnt {
        use NeighborState as S;
        let mut learnt = Learnt::default();
        let known = self.index.get(&LinkKey::of(port, ip)).map(|at| *at as usize);
        let at = match known {
            Some(at) => at,
            None if claim.create => match self.entry(now, port, ip, false) {
                Some(at) => at,
                None => return learnt,
            },
            None => return learnt,
        };
        let Some(n) = self.entries.get_mut(at) else { return learnt };
        learnt.known = true;
        let state = if claim.solicited { S::Reachable } else { S::Stale };
        match n.state {
            S::Permanent => return learnt,
            S::Incomplete | S::Failed => {
                n.mac = claim.mac;
                n.set(now, state);
            }
            _ if n.mac == claim.mac => {
                // a question or an unasked announcement of what is known changes nothing, unless the
                // entry is being asked about: then the answer is only worth what it was asked for
                if claim.solicited {
                    n.set(now, S::Reachable);
                }
            }
            _ if claim.replace == Replace::Never => {
                // RFC 4861 section 7.2.5: doubt a confirmed entry, keep the MAC
                if n.state == S::Reachable {
                    n.set(now, S::Stale);
                }
                return learnt;
            }
            _ if claim.replace == Replace::Later && now.since(n.updated) < LOCK => return learnt,
            _ => {
                learnt.replaced = Some(n.mac);
                n.mac = claim.mac;
                n.set(now, state);
            }
        }
        n.updated = now;
        learnt.released = std::mem::take(&mut n.parked);
        self.parked_cost -= std::mem::take(&mut n.cost);
        self.rearm();
        learnt
    }

    /// Finds the next timer anew after one was stopped.
    fn rearm(&mut self) {
        if self.next.is_some() {
            self.next = self.entries.iter().filter_map(|n| n.deadline).min();
        }
    }

    /// The MAC of an address, if known well enough to answer to.
    pub fn mac_of(&mut self, port: PortId, ip: IpAddr) -> Option<Mac> {
        self.find(port, ip).filter(|n| n.has_mac()).map(|n| n.mac)
    }

    /// When [`Neighbors::due`] has to be called next.
    pub fn next(&self) -> Option<Mono> {
        self.next
    }

    /// Runs all timers that are due: questions to send, and neighbours that failed with what waited.
    pub fn due(
        &mut self,
        now: Mono,
        ask: &mut Vec<Probe>,
        failed: &mut Vec<(PortId, IpAddr, VecDeque<Parked>)>,
    ) {
        use NeighborState as S;
        if self.next.is_none_or(|t| now < t) {
            return;
        }
        let mut next = None;
        for n in &mut self.entries {
            let Some(deadline) = n.deadline else { continue };
            if now >= deadline {
                let probe = |to| Probe { port: n.port, ip: n.ip, to };
                match n.state {
                    S::Delay => {
                        ask.push(probe(Some(n.mac)));
                        n.set(now, S::Probe);
                    }
                    S::Incomplete | S::Probe if n.probes < PROBES => {
                        ask.push(probe((n.state == S::Probe).then_some(n.mac)));
                        n.probes += 1;
                        n.deadline = Some(now + RETRANSMIT);
                    }
                    _ => {
                        n.set(now, S::Failed);
                        self.parked_cost -= std::mem::take(&mut n.cost);
                        failed.push((n.port, n.ip, std::mem::take(&mut n.parked)));
                    }
                }
            }
            if let Some(d) = n.deadline {
                next = Some(next.map_or(d, |t: Mono| t.min(d)));
            }
        }
        self.next = next;
    }

    /// All entries, in no particular order.
    pub fn iter(&self, now: Mono) -> impl Iterator<Item = NeighborInfo> + '_ {
        self.entries.iter().map(move |n| NeighborInfo {
            port: n.port,
            ip: n.ip,
            mac: n.has_mac().then_some(n.mac),
            state: match n.state {
                NeighborState::Reachable if now >= n.good_until => NeighborState::Stale,
                state => state,
            },
            used: (n.used != Mono::ZERO).then_some(n.used),
            parked: n.parked.len(),
        })
    }

    /// Keeps learnt entries for which `keep` gives a (possibly other) port; static ones go.
    pub fn retain(&mut self, keep: impl Fn(PortId, IpAddr) -> Option<PortId>) {
        let old = std::mem::take(&mut self.entries);
        self.index.clear();
        self.generation = self.generation.wrapping_add(1);
        for mut n in old {
            match keep(n.port, n.ip) {
                Some(port) if n.state != NeighborState::Permanent => {
                    (n.port, n.pinned, n.key) = (port, false, LinkKey::of(port, n.ip));
                    self.index.insert(n.key, self.entries.len() as u32);
                    self.entries.push(n);
                }
                _ => self.lose(n, DropReason::NeighborFailed),
            }
        }
        self.rearm();
    }

    fn lose(&mut self, mut n: Neighbor, why: DropReason) {
        self.parked_cost -= n.cost;
        self.lost.extend(n.parked.drain(..).map(|p| (p.packet, why)));
    }

    /// A new, failed entry, for which room is made if need be.
    fn entry(&mut self, now: Mono, port: PortId, ip: IpAddr, pinned: bool) -> Option<usize> {
        if let Some(at) = self.index.get(&LinkKey::of(port, ip)) {
            return Some(*at as usize);
        }
        if !pinned && self.entries.iter().filter(|n| !n.pinned).count() >= MAX_LEARNT {
            let worth = |n: &Neighbor| n.worth();
            let victim = self.entries.iter().enumerate().filter_map(|(i, n)| Some((worth(n)?, i))).min()?.1;
            self.remove(victim);
        }
        let at = self.entries.len();
        self.entries.push(Neighbor::new(now, port, ip, pinned));
        self.generation = self.generation.wrapping_add(1);
        self.index.insert(LinkKey::of(port, ip), at as u32);
        Some(at)
    }

    fn remove(&mut self, at: usize) {
        let n = self.entries.swap_remove(at);
        self.generation = self.generation.wrapping_add(1);
        self.index.remove(&n.key);
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.key, at as u32);
        }
        self.lose(n, DropReason::NeighborTableFull);
    }

    fn arm(&mut self, deadline: Option<Mono>) {
        if let Some(d) = deadline {
            self.next = Some(self.next.map_or(d, |t| t.min(d)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{Offload, Out};
    use crate::host::OnFail;
    use crate::host::testing::mac;

    const PORT: PortId = PortId(0);

    fn ip(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    fn at(ms: u64) -> Mono {
        Mono::from_millis(ms)
    }

    fn table() -> Neighbors {
        Neighbors::new(Folded::new(3))
    }

    fn claim(last: u8) -> Claim {
        Claim { mac: mac(last), solicited: true, replace: Replace::Always, create: true }
    }

    fn packet(len: usize) -> Parked {
        Parked { packet: Out::new().copy_of(&vec![0; len], Offload::NONE), l3: 14, on_fail: OnFail::Nothing }
    }

    fn state(t: &Neighbors, now: Mono, last: u32) -> NeighborState {
        t.iter(now).find(|n| n.ip == ip(last)).unwrap().state
    }

    #[test]
    fn static_entries_never_change() {
        let mut t = table();
        t.set_static(PORT, ip(1), mac(9));
        let learnt = t.learn(at(5), PORT, ip(1), claim(7));
        assert!(learnt.replaced.is_none());
        assert_eq!(t.mac_of(PORT, ip(1)), Some(mac(9)));
        assert!(matches!(t.slow(at(9_999_999), PORT, ip(1), false), Slow::Use(m) if m == mac(9)));
        assert_eq!(t.next(), None);
    }

    #[test]
    fn nobody_is_learnt_who_was_not_asked_and_did_not_ask() {
        let mut t = table();
        assert!(!t.learn(at(1), PORT, ip(1), Claim { create: false, ..claim(1) }).known);
        assert_eq!(t.iter(at(1)).count(), 0);
    }

    #[test]
    fn the_first_of_several_answers_counts_unless_one_is_told_to_override() {
        let mut t = table();
        t.learn(at(1000), PORT, ip(1), claim(1));
        t.learn(at(1500), PORT, ip(1), Claim { replace: Replace::Later, ..claim(2) });
        assert_eq!(t.mac_of(PORT, ip(1)), Some(mac(1)));
        t.learn(at(1600), PORT, ip(1), Claim { replace: Replace::Always, ..claim(3) });
        assert_eq!(t.mac_of(PORT, ip(1)), Some(mac(3)));
        let moved =
            t.learn(at(2700), PORT, ip(1), Claim { replace: Replace::Later, solicited: false, ..claim(4) });
        assert_eq!(moved.replaced, Some(mac(3)));
        assert_eq!(state(&t, at(2700), 1), NeighborState::Stale);
    }

    #[test]
    fn without_override_a_confirmed_entry_is_doubted_and_keeps_its_mac() {
        let mut t = table();
        t.learn(at(1), PORT, ip(1), claim(1));
        t.learn(at(2), PORT, ip(1), Claim { replace: Replace::Never, ..claim(2) });
        assert_eq!(t.mac_of(PORT, ip(1)), Some(mac(1)));
        assert_eq!(state(&t, at(2), 1), NeighborState::Stale);
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_and_loses_its_oldest() {
        let mut t = table();
        assert!(matches!(t.slow(at(1), PORT, ip(1), false), Slow::Wait(Some(_))));
        for _ in 0..200 {
            t.park(PORT, ip(1), packet(60));
        }
        let held = t.iter(at(1)).next().unwrap().parked;
        assert_eq!((held, t.lost.len()), (PARKED_PER_NEIGHBOR / 2048, 200 - held));
        assert!(t.lost.iter().all(|(_, why)| *why == DropReason::NeighborQueueFull));
        let released = t.learn(at(2), PORT, ip(1), claim(1)).released;
        assert_eq!((released.len(), t.parked_cost), (held, 0));
        assert_eq!(t.next(), None, "nothing left to ask");
    }

    #[test]
    fn all_queues_together_are_bounded() {
        let mut t = table();
        for host in 0..100 {
            assert!(matches!(t.slow(at(1), PORT, ip(host), false), Slow::Wait(Some(_))));
            for _ in 0..3 {
                t.park(PORT, ip(host), packet(60_000));
            }
        }
        assert!(t.parked_cost <= PARKED_TOTAL && t.parked_cost > PARKED_TOTAL - 70_000);
        let held: usize = t.iter(at(1)).map(|n| n.parked).sum();
        assert_eq!(held + t.lost.len(), 300);
    }

    #[test]
    fn a_scan_of_the_link_does_not_push_out_who_is_talked_to() {
        let mut t = table();
        t.slow(at(1), PORT, ip(1), true);
        t.learn(at(1), PORT, ip(1), claim(1));
        for host in 2..100 {
            t.learn(at(1), PORT, ip(host), claim(2));
            t.find(PORT, ip(host)).unwrap().used = at(2);
        }
        for host in 10_000..20_000 {
            // half of them ask us, half are asked for
            if host % 2 == 0 {
                t.learn(at(3), PORT, ip(host), Claim { solicited: false, ..claim(3) });
            } else {
                assert!(!matches!(t.slow(at(3), PORT, ip(host), false), Slow::Full));
                t.park(PORT, ip(host), packet(60));
            }
        }
        assert_eq!(t.entries.len(), MAX_LEARNT + 1);
        assert_eq!(t.index.len(), t.entries.len());
        for host in 1..100 {
            assert!(t.mac_of(PORT, ip(host)).is_some(), "{host}");
        }
        let held: usize = t.iter(at(3)).map(|n| n.parked).sum();
        assert_eq!(held + t.lost.len(), 5000);
    }

    #[test]
    fn kept_entries_follow_their_port() {
        let mut t = table();
        t.learn(at(1), PORT, ip(1), claim(1));
        t.learn(at(1), PORT, ip(2), claim(2));
        t.slow(at(1), PORT, ip(3), false);
        t.park(PORT, ip(3), packet(60));
        t.retain(|_, a| (a == ip(2)).then_some(PortId(4)));
        assert_eq!(t.mac_of(PortId(4), ip(2)), Some(mac(2)));
        assert_eq!((t.entries.len(), t.lost.len(), t.parked_cost, t.next()), (1, 1, 0, None));
    }
}
