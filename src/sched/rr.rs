//! `rr`: the usable servers in list order, one after the other.

use std::sync::Arc;

use super::Slot;
use crate::svc::{Dest, DestId};

/// Whose turn it was. `None`: the next pick starts at the head of the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    pub(super) last: Option<Slot>,
}

impl Turn {
    /// The turn of a removed server falls back to the one before it (IPVS-RULES 44), so that the next
    /// pick is the one behind the gap.
    pub(super) fn removed(&mut self, dests: &[Arc<Dest>], id: DestId, index: usize) {
        if self.last.is_some_and(|last| last.id == id) {
            self.last = index.checked_sub(1).filter(|i| *i < dests.len()).map(|i| Slot::of(dests, i));
        }
    }
    pub(super) fn pick(&mut self, dests: &[Arc<Dest>]) -> Option<usize> {
        let start = self.last.and_then(|last| last.find(dests)).map_or(0, |i| i + 1);
        let found = (start..dests.len()).chain(0..start).find(|i| dests[*i].usable())?;
        self.last = Some(Slot::of(dests, found));
        Some(found)
    }
}
