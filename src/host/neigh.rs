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
use super::resolve::OnFail;
use crate::addr::Mac;
use crate::buf::OwnedPacket;
use crate::engine::PortId;
use crate::time::{Mono, Span};

/// Most neighbours that are learnt; static ones and gateways come on top.
pub const MAX_LEARNT: usize = 1024;
/// Questions asked before a neighbour has failed (kernel: `mcast_solicit`, `ucast_solicit`).
const PROBES: u8 = 3;
/// Time between two questions (kernel: `retrans_time_ms`).
const RETRANSMIT: Span = Span::from_secs(1);
/// How long a confirmation is good for (kernel: `base_reachable_time_ms`).
const REACHABLE: Span = Span::from_secs(30);
/// From the first use of a stale entry to the first question (kernel: `delay_first_probe_time`).
const DELAY: Span = Span::from_secs(5);
/// How long an answer is protected against another one (kernel: `locktime`).
const LOCK: Span = Span::from_secs(1);
/// Memory that may wait for one neighbour (kernel: `unres_qlen_bytes`) and for all together.
const PARKED_PER_NEIGHBOR: usize = 212_992;
const PARKED_TOTAL: usize = 4 << 20;

/// How much is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// Configured; never changes.
    Permanent,
    /// Being asked for, MAC unknown.
    Incomplete,
    /// Confirmed within the last 30 s.
    Reachable,
    /// MAC known, not confirmed lately.
    Stale,
    /// Stale and in use; will be asked directly soon.
    Delay,
    /// Being asked directly.
    Probe,
    /// Did not answer.
    Failed,
}

impl NeighborState {
    /// The kernel's name for it, as `ip neighbour` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            NeighborState::Permanent => "PERMANENT",
            NeighborState::Incomplete => "INCOMPLETE",
            NeighborState::Reachable => "REACHABLE",
            NeighborState::Stale => "STALE",
            NeighborState::Delay => "DELAY",
            NeighborState::Probe => "PROBE",
            NeighborState::Failed => "FAILED",
        }
    }
}

/// A neighbour as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborInfo {
    /// Port it is on.
    pub port: PortId,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC where known.
    pub mac: Option<Mac>,
    /// State; a reachable one whose time is over is shown as stale.
    pub state: NeighborState,
    /// When a packet was last sent to it; `None` = never.
    pub used: Option<Mono>,
    /// Packets that wait for it.
    pub parked: usize,
}

/// A packet that waits for its neighbour.
#[derive(Debug)]
pub(super) struct Parked {
    pub packet: OwnedPacket,
    /// Offset of the IP header in it.
    pub l3: usize,
    pub on_fail: OnFail,
}

/// One neighbour.
#[derive(Debug)]
pub(super) struct Neighbor {
    pub mac: Mac,
    /// The MAC may be used without further checks until then.
    pub good_until: Mono,
    pub used: Mono,
    pub port: PortId,
    pub ip: IpAddr,
    state: NeighborState,
    /// Never evicted.
    pinned: bool,
    probes: u8,
    deadline: Option<Mono>,
    updated: Mono,
    parked: VecDeque<Parked>,
    cost: usize,
}

impl Neighbor {
    fn set(&mut self, now: Mono, state: NeighborState) {
        use NeighborState as S;
        self.state = state;
        (self.good_until, self.deadline) = match state {
            S::Permanent => (Mono(u64::MAX), None),
            S::Reachable => (now + REACHABLE, None),
            // used meanwhile; the timer decides what becomes of it
            S::Delay => (Mono(u64::MAX), Some(now + DELAY)),
            S::Probe => (Mono(u64::MAX), Some(now + RETRANSMIT)),
            S::Incomplete => (Mono::ZERO, Some(now + RETRANSMIT)),
            S::Stale | S::Failed => (Mono::ZERO, None),
        };
        self.probes = u8::from(matches!(state, S::Incomplete | S::Probe));
    }

    fn has_mac(&self) -> bool {
        !matches!(self.state, NeighborState::Incomplete | NeighborState::Failed)
    }

    /// What to lose first when the table is full; `None` = never.
    fn worth(&self) -> Option<(u8, Mono)> {
        use NeighborState as S;
        let class = match self.state {
            _ if self.pinned => return None,
            S::Permanent => return None,
            S::Failed => 0,
            // learnt by being asked, never sent to
            _ if self.used == Mono::ZERO && self.has_mac() => 1,
            S::Incomplete => 2,
            S::Stale => 3,
            S::Reachable | S::Delay | S::Probe => 4,
        };
        Some((class, self.used.max(self.updated)))
    }
}

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

/// What was said about a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub mac: Mac,
    /// It answers a question of ours.
    pub solicited: bool,
    /// It may replace a MAC that is known.
    pub replace: bool,
    /// Make an entry when there is none (it asked for us and will hear from us).
    pub create: bool,
}

/// What a claim did.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// Packets that waited for it.
    pub released: VecDeque<Parked>,
    /// The MAC it had before.
    pub replaced: Option<Mac>,
}

/// All neighbours of all ports.
#[derive(Debug)]
pub(super) struct Neighbors {
    entries: Vec<Neighbor>,
    index: HashMap<LinkKey, u32, Folded>,
    /// When the first timer fires.
    next: Option<Mono>,
    parked_cost: usize,
    /// Packets that lost their place: to be counted as dropped.
    pub lost: Vec<(OwnedPacket, crate::engine::DropReason)>,
}

impl Neighbors {
    pub fn new(folded: Folded) -> Neighbors {
        Neighbors {
            entries: Vec::new(),
            index: HashMap::with_hasher(folded),
            next: None,
            parked_cost: 0,
            lost: Vec::new(),
        }
    }

    /// The entry of an address, for the packet path.
    #[inline]
    pub fn find(&mut self, port: PortId, ip: IpAddr) -> Option<&mut Neighbor> {
        let at = *self.index.get(&LinkKey::of(port, ip))?;
        self.entries.get_mut(at as usize)
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
        let cost = cost(&parked);
        let mut lost = Vec::new();
        let total = &mut self.parked_cost;
        let Some(n) =
            self.index.get(&LinkKey::of(port, ip)).and_then(|at| self.entries.get_mut(*at as usize))
        else {
            self.lost.push((parked.packet, crate::engine::DropReason::NeighborQueueFull));
            return;
        };
        while n.cost + cost > PARKED_PER_NEIGHBOR
            && let Some(old) = n.parked.pop_front()
        {
            n.cost -= self::cost(&old);
            *total -= self::cost(&old);
            lost.push((old.packet, crate::engine::DropReason::NeighborQueueFull));
        }
        if *total + cost > PARKED_TOTAL {
            lost.push((parked.packet, crate::engine::DropReason::NeighborQueueFull));
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
            _ if !claim.replace => {
                // RFC 4861 section 7.2.5: doubt a confirmed entry, keep the MAC
                if n.state == S::Reachable {
                    n.set(now, S::Stale);
                }
                return learnt;
            }
            // kernel: the first of several answers counts
            _ if now.since(n.updated) < LOCK && n.updated != Mono::ZERO => return learnt,
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
        for mut n in old {
            match keep(n.port, n.ip) {
                Some(port) if n.state != NeighborState::Permanent => {
                    (n.port, n.pinned) = (port, false);
                    self.index.insert(LinkKey::of(port, n.ip), self.entries.len() as u32);
                    self.entries.push(n);
                }
                _ => self.lose(n, crate::engine::DropReason::NeighborFailed),
            }
        }
        self.rearm();
    }

    fn lose(&mut self, mut n: Neighbor, why: crate::engine::DropReason) {
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
        self.entries.push(Neighbor {
            mac: Mac::default(),
            good_until: Mono::ZERO,
            used: Mono::ZERO,
            port,
            ip,
            state: NeighborState::Failed,
            pinned,
            probes: 0,
            deadline: None,
            updated: now,
            parked: VecDeque::new(),
            cost: 0,
        });
        self.index.insert(LinkKey::of(port, ip), at as u32);
        Some(at)
    }

    fn remove(&mut self, at: usize) {
        let n = self.entries.swap_remove(at);
        self.index.remove(&LinkKey::of(n.port, n.ip));
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(LinkKey::of(moved.port, moved.ip), at as u32);
        }
        self.lose(n, crate::engine::DropReason::NeighborTableFull);
    }

    fn arm(&mut self, deadline: Option<Mono>) {
        if let Some(d) = deadline {
            self.next = Some(self.next.map_or(d, |t| t.min(d)));
        }
    }
}

/// Memory a parked packet holds, roughly.
fn cost(parked: &Parked) -> usize {
    (crate::buf::HEADROOM + parked.packet.bytes().len()).next_multiple_of(2048)
}
