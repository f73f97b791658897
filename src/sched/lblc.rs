//! `lblc` and `lblcr`: destination addresses stay with their server, or set of servers, until it is
//! overloaded while another is idle. Meant for caches in front of many sites.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Slot;
use super::least::{self, heavier, overhead};
use crate::svc::{Dest, DestId};
use crate::time::{Mono, Span};

/// Default of the sysctls `lblc_expiration` and `lblcr_expiration`.
pub const DEFAULT_EXPIRATION: Span = Span::from_secs(24 * 60 * 60);
/// The periodic check of the kernel (IPVS-RULES 57).
const INTERVAL: Span = Span::from_secs(60);
/// Idle addresses are looked for at each so many checks only: with an expiration of 120 s the kernel
/// still knows an address after 1,000 s (vectors `4-sched-lblc-expire`, `4-sched-lblcr-expire`).
const FULL_EVERY: u64 = 30;
/// Beyond this many addresses each check drops some that were idle for [`PRESSED`].
const ROOM: usize = 16 * 1024;
/// See [`ROOM`].
const PRESSED: Span = Span::from_secs(6 * 60);
/// No more addresses are remembered from here on; they are still scheduled. The kernel has no such
/// limit, but there anyone who may talk to a mark service of a whole network can fill its memory.
const LIMIT: usize = 4 * ROOM;

/// So many removed servers stay in a set before it is cleared of them.
const GONE: usize = 16;

/// What is known of one destination address.
#[derive(Clone, Debug)]
struct Entry {
    /// Newest first; one server for `lblc`.
    servers: Vec<Slot>,
    used: Mono,
    /// When the set last grew or shrank.
    changed: Mono,
}

/// Servers by destination address.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    /// A tree, not a hash: clients choose the addresses, and no secret is at hand here.
    entries: BTreeMap<IpAddr, Entry>,
    /// `lblcr`.
    replicated: bool,
    pub(super) expiration: Span,
    next_check: Option<Mono>,
    checks: u64,
}

impl Cache {
    pub(super) fn new(replicated: bool) -> Cache {
        let expiration = DEFAULT_EXPIRATION;
        Cache { entries: BTreeMap::new(), replicated, expiration, next_check: None, checks: 0 }
    }

    /// How many addresses are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
    /// The servers of an address.
    #[cfg(test)]
    pub(super) fn members(&self, dst: IpAddr) -> Vec<crate::svc::DestId> {
        self.entries[&dst].servers.iter().map(|s| s.id).collect()
    }

    pub(super) fn pick(&mut self, now: Mono, dests: &[Arc<Dest>], dst: IpAddr) -> Option<usize> {
        self.sweep(now);
        let Some(entry) = self.entries.get_mut(&dst) else {
            let found = least::weighted(dests.iter().enumerate())?;
            if self.entries.len() < LIMIT {
                let servers = vec![Slot::of(dests, found)];
                self.entries.insert(dst, Entry { servers, used: now, changed: now });
            }
            return Some(found);
        };
        entry.used = now;
        let known = if self.replicated {
            let members = entry.servers.iter().filter_map(|s| s.find(dests)).map(|i| (i, &dests[i]));
            let least = least::weighted(members);
            if entry.servers.len() > 1 && now > entry.changed + self.expiration {
                entry.shrink(now, dests);
            }
            least
        } else {
            // the threshold is not looked at here: kernel, `ip_vs_lblc_schedule`
            entry.servers.first().and_then(|s| s.find(dests)).filter(|i| dests[*i].weight() > 0)
        };
        if let Some(i) = known.filter(|i| !overloaded(&dests[*i], dests)) {
            return Some(i);
        }
        let found = least::weighted(dests.iter().enumerate())?;
        let slot = Slot::of(dests, found);
        if !self.replicated {
            entry.servers = vec![slot];
        } else if entry.servers.iter().all(|s| s.id != slot.id) {
            if entry.servers.len() > 2 * dests.len() + GONE {
                // A removed server stays a member, for it may come back; but not so that sets grow for ever.
                entry.servers.retain(|s| s.find(dests).is_some());
            }
            entry.servers.insert(0, slot);
            entry.changed = now;
        }
        Some(found)
    }

    /// Takes a server out of all sets.
    pub(super) fn forget(&mut self, id: DestId) {
        for entry in self.entries.values_mut() {
            entry.servers.retain(|s| s.id != id);
        }
    }

    /// Runs the checks that are due.
    pub(super) fn sweep(&mut self, now: Mono) {
        let mut due = *self.next_check.get_or_insert(now + INTERVAL);
        // After a long silence whole cycles of checks are skipped: the last one forgets all they would.
        let cycle = INTERVAL.0 * FULL_EVERY;
        due = due + Span((now.since(due).0 / cycle).saturating_sub(1) * cycle);
        while due <= now {
            self.checks += 1;
            if self.checks.is_multiple_of(FULL_EVERY) {
                let keep = self.expiration;
                self.entries.retain(|_, e| due < e.used + keep);
            } else if self.entries.len() > ROOM {
                self.checks -= 1;
                let mut goal = ((self.entries.len() - ROOM) * 4 / 3).min(ROOM / 2);
                self.entries.retain(|_, e| {
                    let keep = goal == 0 || due < e.used + PRESSED;
                    goal -= usize::from(!keep);
                    keep
                });
            }
            due = due + INTERVAL;
        }
        self.next_check = Some(due);
    }
}

impl Entry {
    /// Takes the most loaded server out of the set.
    fn shrink(&mut self, now: Mono, dests: &[Arc<Dest>]) {
        let mut most: Option<(usize, u64, u32)> = None;
        for (k, slot) in self.servers.iter().enumerate() {
            let Some(dest) = slot.find(dests).map(|i| &dests[i]).filter(|d| d.weight() > 0) else { continue };
            let (load, weight) = (overhead(dest), dest.weight());
            if most.is_none_or(|(_, l, w)| heavier(load, weight, l, w)) {
                most = Some((k, load, weight));
            }
        }
        if let Some((k, _, _)) = most {
            self.servers.remove(k);
            self.changed = now;
        }
    }
}

/// More active connections than weight, while some server has less than half (IPVS-RULES 56).
fn overloaded(dest: &Dest, dests: &[Arc<Dest>]) -> bool {
    dest.active() > dest.weight() && dests.iter().any(|d| u64::from(d.active()) * 2 < u64::from(d.weight()))
}
