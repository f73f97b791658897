//! `mh`: Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with the kernel's numbers.
//!
//! Each server has its own permutation of the table, from two hashes of its address and port, and takes
//! the next free entries of it in turns. So every director with the same servers in the same order has
//! the same table, and a change moves few clients (IPVS-RULES 53, 54).

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::{PickKey, Slot, folded, gcd};
use crate::svc::{Dest, DestId, SchedulerFlags};

/// Entries: a prime (`CONFIG_IP_VS_MH_TAB_INDEX = 12`).
const TABLE: usize = 4093;
/// Bits of weight that shares keep: half the bits of the table size.
const SHARE_BITS: u32 = 6;
/// Hash key of lookups and of the start of a permutation.
const KEY_OFFSET: u64 = 2_654_435_761;
/// Hash key of the step of a permutation.
const KEY_SKIP: u64 = 2_654_446_892;

/// SipHash-1-3 of one 32-bit word, cut to 32 bits (kernel: `hsiphash_1u32` on 64-bit machines).
fn hash(value: u32, key: u64) -> usize {
    let mut h = SipHasher13::new_with_keys(key, key);
    h.write(&value.to_le_bytes());
    h.finish() as u32 as usize
}

#[derive(Clone, Debug)]
pub(super) struct Maglev {
    /// Full, or empty when no server ever had a weight.
    table: Vec<Slot>,
    /// The last weight of each server that was not 0: a server set to 0 keeps its entries, so that its
    /// clients return to it when it comes back (rule 54).
    weights: Vec<(DestId, u32)>,
}

impl Maglev {
    pub(super) fn new(dests: &[Arc<Dest>]) -> Maglev {
        let mut m = Maglev { table: Vec::new(), weights: Vec::new() };
        m.changed(dests);
        m
    }
    /// A server came, went or changed its weight. Builds the table anew; for the control side.
    pub(super) fn changed(&mut self, dests: &[Arc<Dest>]) {
        let weights = dests.iter().map(|d| match d.weight() {
            0 => self.weights.iter().find(|(id, _)| *id == d.id).copied().unwrap_or((d.id, 0)),
            w => (d.id, w),
        });
        let weights: Vec<_> = weights.collect();
        if weights != self.weights {
            self.weights = weights;
            self.table = build(dests, &self.weights);
        }
    }
    /// The server of each entry.
    #[cfg(test)]
    pub(super) fn owners(&self) -> impl Iterator<Item = DestId> + '_ {
        self.table.iter().map(|s| s.id)
    }
    pub(super) fn pick(&self, dests: &[Arc<Dest>], key: &PickKey, flags: SchedulerFlags) -> Option<usize> {
        let usable = |at: usize| self.table.get(at)?.find(dests).filter(|i| dests[*i].usable());
        let port = if flags.port { u32::from(key.sport) } else { 0 };
        let value = folded(key.src).wrapping_add(port);
        let home = hash(value, KEY_OFFSET) % TABLE;
        let found = usable(home);
        if found.is_some() || !flags.fallback || self.table.is_empty() {
            return found;
        }
        // With no usable server at all the search would hash 4,093 times for each new connection.
        if !dests.iter().any(|d| d.usable()) {
            return None;
        }
        (0..TABLE).find_map(|o| {
            let shifted = value.wrapping_add(((o + home) % TABLE) as u32);
            usable(hash(shifted, KEY_OFFSET) % TABLE)
        })
    }
}

/// One server while the table is filled.
struct Filler {
    at: usize,
    skip: usize,
    turns: u32,
}

fn build(dests: &[Arc<Dest>], weights: &[(DestId, u32)]) -> Vec<Slot> {
    let divisor = gcd(weights.iter().map(|(_, w)| *w));
    if divisor == 0 {
        return Vec::new();
    }
    let most = weights.iter().map(|(_, w)| w / divisor).max().unwrap_or(0);
    let shift = (u32::BITS - most.leading_zeros()).saturating_sub(SHARE_BITS);
    let mut fillers: Vec<Filler> = dests
        .iter()
        .zip(weights)
        .map(|(d, (_, w))| {
            let key = folded(d.spec.ip).wrapping_add(u32::from(d.spec.port));
            Filler {
                at: hash(key, KEY_OFFSET) % TABLE,
                skip: hash(key, KEY_SKIP) % (TABLE - 1) + 1,
                turns: ((w / divisor) >> shift).max(u32::from(*w > 0)),
            }
        })
        .collect();
    let mut table = vec![None; TABLE];
    let mut free = TABLE;
    'full: loop {
        for (i, filler) in fillers.iter_mut().enumerate() {
            for _ in 0..filler.turns {
                // ends: an entry is free and a skip below the prime reaches every one
                while table[filler.at].is_some() {
                    filler.at = (filler.at + filler.skip) % TABLE;
                }
                table[filler.at] = Some(Slot::of(dests, i));
                free -= 1;
                if free == 0 {
                    break 'full;
                }
            }
        }
    }
    table.into_iter().flatten().collect()
}
