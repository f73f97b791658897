//! `wrr`: rounds over the list with a falling requirement.
//!
//! In each round only servers whose weight meets the requirement are picked; at the end of the list it
//! falls by the greatest common divisor of all weights, and below 1 it is the highest again. So within
//! one cycle each server is picked weight / gcd times, heavier ones first (IPVS-RULES 45). The lowest
//! requirement is 1 and not the gcd: a weight that just fell is still found.

use std::sync::Arc;

use super::{Slot, gcd};
use crate::svc::Dest;

/// Where the walk stands.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// The server picked last; `None` = head of the list.
    pub(super) last: Option<Slot>,
    /// Requirement of this round.
    need: i64,
    /// Requirement of the first round: highest weight - (step - 1); 0 without any weight.
    top: i64,
    /// What the requirement falls by: the gcd of the weights.
    step: i64,
}

impl Turn {
    pub(super) fn new(dests: &[Arc<Dest>]) -> Turn {
        let step = i64::from(gcd(dests.iter().map(|d| d.weight())).max(1));
        let heaviest = dests.iter().map(|d| i64::from(d.weight())).max().unwrap_or(0);
        let top = heaviest - (step - 1);
        Turn { last: None, need: top, top, step }
    }
    /// Any change sends the walk back to the head but keeps the requirement where it can (rule 45).
    pub(super) fn changed(&mut self, dests: &[Arc<Dest>]) {
        let need = self.need;
        *self = Turn::new(dests);
        if need > 0 && need <= self.top {
            self.need = if self.step > 1 { need / self.step * self.step + 1 } else { need };
        }
    }
    pub(super) fn pick(&mut self, dests: &[Arc<Dest>]) -> Option<usize> {
        if self.top <= 0 {
            return None;
        }
        let start = self.last.and_then(|last| last.find(dests));
        let able = |d: &Dest| if d.overloaded() { 0 } else { i64::from(d.weight()) };
        let best = dests.iter().map(|d| able(d)).max().unwrap_or(0);
        if best == 0 {
            // A walk that stood in its lowest round looks at everybody once and stays where it was; any
            // other one ends at the head with the highest requirement.
            if start.is_none() || self.need > self.step {
                (self.last, self.need) = (None, self.top);
            }
            return None;
        }
        let behind = start.map_or(0, |i| i + 1);
        let found = (behind..dests.len()).find(|i| able(&dests[*i]) >= self.need).or_else(|| {
            self.need -= self.step;
            if self.need <= 0 {
                self.need = self.top;
            }
            // Rounds that nobody can meet are not walked: with weights of 1 and 2^31 they are billions.
            if self.need > best {
                let rounds = (self.need - best + self.step - 1) / self.step;
                self.need = (self.need - rounds * self.step).max(1);
            }
            (0..dests.len()).find(|i| able(&dests[*i]) >= self.need)
        })?;
        self.last = Some(Slot::of(dests, found));
        Some(found)
    }
}
