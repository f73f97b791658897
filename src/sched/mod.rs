//! Schedulers: which real server takes a new connection. They never see packets.
//!
//! Every scheduler makes the picks of the kernel's of the same name, from the same list order (newest
//! server first, IPVS-RULES 42), so that a director can be exchanged under load. Recorded picks of the
//! kernel are replayed in `tests/sched_picks.rs`; `twos` has no recording and follows its publication.
//!
//! Common to all: a server with weight 0 or over its upper threshold is never picked (rule 43).

#![forbid(unsafe_code)]

mod fo;
mod hash;
mod lblc;
mod least;
mod mh;
mod rr;
mod twos;
mod wrr;

use std::net::IpAddr;
use std::sync::Arc;

use crate::svc::{Dest, DestId, SchedulerFlags, SchedulerKind};
use crate::time::{Mono, Span};

pub use lblc::DEFAULT_EXPIRATION;

/// What a scheduler may know of the packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct PickKey {
    /// Client address.
    pub src: IpAddr,
    /// Client port.
    pub sport: u16,
    /// Address the client talks to.
    pub dst: IpAddr,
    /// A random number from the injected source, for `twos`.
    pub random: u64,
}

/// Scheduler state of one service.
///
/// A copy is independent: the control side may clone it, apply a change and put the result in its place,
/// so that workers do not wait while a table is built.
#[derive(Clone, Debug)]
pub struct Scheduler {
    kind: SchedulerKind,
    flags: SchedulerFlags,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// lc wlc sed nq fo ovf twos: everything is in the servers' counts.
    None,
    Rr(rr::Turn),
    Wrr(wrr::Turn),
    Hash(hash::Buckets),
    Mh(mh::Maglev),
    Lblc(lblc::Cache),
}

impl Scheduler {
    /// Fresh state for a service whose servers are `dests` (kernel: `init_service`).
    pub fn new(kind: SchedulerKind, flags: SchedulerFlags, dests: &[Arc<Dest>]) -> Scheduler {
        use SchedulerKind::*;
        let state = match kind {
            Rr => State::Rr(rr::Turn::default()),
            Wrr => State::Wrr(wrr::Turn::new(dests)),
            Sh => State::Hash(hash::Buckets::by_weight(dests)),
            Dh => State::Hash(hash::Buckets::in_turn(dests)),
            Mh => State::Mh(mh::Maglev::new(dests)),
            Lblc => State::Lblc(lblc::Cache::new(false)),
            Lblcr => State::Lblc(lblc::Cache::new(true)),
            Lc | Wlc | Sed | Nq | Fo | Ovf | Twos => State::None,
        };
        Scheduler { kind, flags, state }
    }
    /// The service was edited (`ipvsadm -E`). Another scheduler begins afresh; the same one goes on with
    /// its state, only the flags change. (Kernel: `ip_vs_edit_service` binds a scheduler only when it is
    /// another one. The last weights `mh` remembers outlive this in any case, `4-sched-mh-change`.)
    pub fn reconfigure(&mut self, kind: SchedulerKind, flags: SchedulerFlags, dests: &[Arc<Dest>]) {
        if kind == self.kind {
            self.flags = flags;
        } else {
            *self = Scheduler::new(kind, flags, dests);
        }
    }
    /// Which scheduler this is.
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }
    /// The server that `rr` or `wrr` picked last.
    pub fn last(&self) -> Option<DestId> {
        match &self.state {
            State::Rr(turn) => turn.last,
            State::Wrr(turn) => turn.last,
            _ => None,
        }
        .map(|slot| slot.id)
    }
    /// Its flags.
    pub fn flags(&self) -> SchedulerFlags {
        self.flags
    }
    /// The identity of a server that is no more was given to another one: nothing remembered of the old
    /// one may reach the new one.
    pub fn forget(&mut self, id: DestId) {
        if let State::Lblc(cache) = &mut self.state {
            cache.forget(id);
        }
    }
    /// A server was added; `dests` is the list with it (it is at the head).
    pub fn added(&mut self, dests: &[Arc<Dest>], _id: DestId) {
        self.rebuild(dests, true);
    }
    /// A server was removed; `dests` is the list without it, `index` where it stood before.
    pub fn removed(&mut self, dests: &[Arc<Dest>], id: DestId, index: usize) {
        if let State::Rr(turn) = &mut self.state {
            turn.removed(dests, id, index);
        }
        self.rebuild(dests, true);
    }
    /// A server's weight or thresholds changed; `dests` holds the new values.
    pub fn edited(&mut self, dests: &[Arc<Dest>], _id: DestId) {
        self.rebuild(dests, false);
    }
    fn rebuild(&mut self, dests: &[Arc<Dest>], members: bool) {
        match &mut self.state {
            State::Wrr(turn) => turn.changed(dests),
            State::Hash(buckets) if self.kind == SchedulerKind::Sh => {
                *buckets = hash::Buckets::by_weight(dests);
            }
            // dh has no weights, so an edit changes nothing (rule 52)
            State::Hash(buckets) if members => *buckets = hash::Buckets::in_turn(dests),
            State::Mh(maglev) => maglev.changed(dests),
            State::None | State::Rr(_) | State::Hash(_) | State::Lblc(_) => {}
        }
    }
    /// How long `lblc` and `lblcr` remember an idle destination address, and how long `lblcr` keeps a
    /// grown set of servers (sysctls `lblc_expiration`, `lblcr_expiration`). Others ignore it.
    pub fn set_expiration(&mut self, expiration: Span) {
        if let State::Lblc(cache) = &mut self.state {
            cache.expiration = expiration;
        }
    }
    /// Forgets idle destination addresses (`lblc`, `lblcr`); to be called about once a minute, and once
    /// right after the service was made: the kernel's timer runs from there.
    pub fn sweep(&mut self, now: Mono) {
        if let State::Lblc(cache) = &mut self.state {
            cache.sweep(now);
        }
    }
    /// Index in `dests` of the server for a new connection, `None` when there is none to be had.
    ///
    /// `dests` may be one change older or newer than the state (another worker's snapshot): servers the
    /// state remembers are looked up by id and may be missing.
    pub fn pick(&mut self, now: Mono, dests: &[Arc<Dest>], key: &PickKey) -> Option<usize> {
        match &mut self.state {
            State::Rr(turn) => turn.pick(dests),
            State::Wrr(turn) => turn.pick(dests),
            State::Hash(buckets) if self.kind == SchedulerKind::Dh => buckets.pick_dh(dests, key.dst),
            State::Hash(buckets) => buckets.pick_sh(dests, key, self.flags),
            State::Mh(maglev) => maglev.pick(dests, key, self.flags),
            State::Lblc(cache) => cache.pick(now, dests, key.dst),
            State::None => pick_by_counts(self.kind, dests, key),
        }
    }
}

/// Schedulers that remember nothing: what they go by are the servers' own counts, so workers that ask at the
/// same time need not wait for one another.
pub fn goes_by_counts(kind: SchedulerKind) -> bool {
    use SchedulerKind::*;
    match kind {
        Lc | Wlc | Sed | Nq | Fo | Ovf | Twos => true,
        Rr | Wrr | Sh | Dh | Mh | Lblc | Lblcr => false,
    }
}

/// [`Scheduler::pick`] of those; `None` of the others.
pub fn pick_by_counts(kind: SchedulerKind, dests: &[Arc<Dest>], key: &PickKey) -> Option<usize> {
    match kind {
        SchedulerKind::Lc => least::connections(dests),
        SchedulerKind::Wlc => least::weighted(dests.iter().enumerate()),
        SchedulerKind::Sed => least::expected_delay(dests),
        SchedulerKind::Nq => least::never_queue(dests),
        SchedulerKind::Fo => fo::failover(dests),
        SchedulerKind::Ovf => fo::overflow(dests),
        SchedulerKind::Twos => twos::pick(dests, key.random),
        _ => None,
    }
}

/// A remembered server: its identity, and where it stood in the list when it was remembered.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: DestId,
    index: u32,
}

impl Slot {
    fn of(dests: &[Arc<Dest>], index: usize) -> Slot {
        Slot { id: dests[index].id, index: index as u32 }
    }
    /// Where it stands now. Searches only when the list is not the one it was remembered from.
    #[inline]
    fn find(self, dests: &[Arc<Dest>]) -> Option<usize> {
        let index = self.index as usize;
        match dests.get(index) {
            Some(dest) if dest.id == self.id => Some(index),
            _ => dests.iter().position(|d| d.id == self.id),
        }
    }
}

/// An address as the kernel hashes it: IPv4 in host order, IPv6 as the XOR of its four words.
fn folded(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let b = a.to_bits();
            (b >> 96) as u32 ^ (b >> 64) as u32 ^ (b >> 32) as u32 ^ b as u32
        }
    }
}

/// Greatest common divisor of the non-zero weights; 0 when there is none.
fn gcd(weights: impl Iterator<Item = u32>) -> u32 {
    weights.fold(0, |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    })
}

#[cfg(test)]
mod tests;
