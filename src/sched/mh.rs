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
    table: Table,
    /// The last weight of each server that was not 0: a server set to 0 keeps its entries, so that its
    /// clients return to it when it comes back (rule 54).
    weights: Vec<(DestId, u32)>,
}

/// Who has which entry.
#[derive(Clone, Debug, Default)]
struct Table {
    /// Places in `owners`: a quarter of the memory, of which ten thousand services need much. Full, or
    /// empty when no server ever had a weight.
    entries: Box<[u16]>,
    owners: Vec<Slot>,
}

impl Table {
    fn get(&self, at: usize) -> Option<Slot> {
        self.owners.get(usize::from(*self.entries.get(at)?)).copied()
    }
}

impl Maglev {
    pub(super) fn new(dests: &[Arc<Dest>]) -> Maglev {
        let mut m = Maglev { table: Table::default(), weights: Vec::new() };
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
        (0..self.table.entries.len()).filter_map(|at| self.table.get(at)).map(|s| s.id)
    }
    pub(super) fn pick(&self, dests: &[Arc<Dest>], key: &PickKey, flags: SchedulerFlags) -> Option<usize> {
        let usable = |at: usize| self.table.get(at)?.find(dests).filter(|i| dests[*i].usable());
        let port = if flags.port { u32::from(key.sport) } else { 0 };
        let value = folded(key.src).wrapping_add(port);
        let home = hash(value, KEY_OFFSET) % TABLE;
        let found = usable(home);
        if found.is_some() || !flags.fallback || self.table.entries.is_empty() {
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
    /// As far as so many skips lead: 0, 1, 2, ...
    skips: [usize; AHEAD],
    turns: u32,
    /// Its place among the owners, once it is one.
    number: Option<u16>,
}

/// Entries looked at together. Whether one is free is as good as random, so to ask one after the other is to
/// guess wrong every time.
const AHEAD: usize = 8;

/// An entry, one time around at most further on.
fn around(at: usize) -> usize {
    if at >= TABLE { at - TABLE } else { at }
}

impl Filler {
    /// The first free entry from where it is on. There must be one: a skip below the prime reaches all.
    fn advance(&mut self, taken: &[bool; TABLE.next_power_of_two()]) {
        loop {
            let places = self.skips.map(|skip| around(self.at + skip));
            // a power of two, so that a place needs no check
            let used = places.map(|at| u32::from(taken[at % taken.len()]));
            let used = (0..AHEAD).fold(0, |all, i| all | used[i] << i);
            let first = used.trailing_ones() as usize;
            if let Some(at) = places.get(first) {
                self.at = *at;
                return;
            }
            self.at = around(places[AHEAD - 1] + self.skips[1]);
        }
    }
}

/// With so few free entries left, it is quicker to ask which of them comes first than to go on until one
/// is met: the last of them alone would take as many steps as there are entries.
const FEW: usize = 64;

fn build(dests: &[Arc<Dest>], weights: &[(DestId, u32)]) -> Table {
    let divisor = gcd(weights.iter().map(|(_, w)| *w));
    if divisor == 0 {
        return Table::default();
    }
    let most = weights.iter().map(|(_, w)| w / divisor).max().unwrap_or(0);
    let shift = (u32::BITS - most.leading_zeros()).saturating_sub(SHARE_BITS);
    let mut fillers: Vec<Filler> = dests
        .iter()
        .zip(weights)
        .map(|(d, (_, w))| {
            let key = folded(d.spec.ip).wrapping_add(u32::from(d.spec.port));
            let skip = hash(key, KEY_SKIP) % (TABLE - 1) + 1;
            Filler {
                at: hash(key, KEY_OFFSET) % TABLE,
                skips: std::array::from_fn(|n| n * skip % TABLE),
                turns: ((w / divisor) >> shift).max(u32::from(*w > 0)),
                number: None,
            }
        })
        .collect();
    let mut entries = vec![0; TABLE].into_boxed_slice();
    let mut owners = Vec::new();
    let mut taken = [false; TABLE.next_power_of_two()];
    let mut free = TABLE;
    let mut last: Vec<usize> = Vec::new();
    'full: loop {
        for (i, filler) in fillers.iter_mut().enumerate() {
            for _ in 0..filler.turns {
                if free > FEW {
                    filler.advance(&taken);
                    taken[filler.at] = true;
                } else {
                    if last.is_empty() {
                        last = (0..TABLE).filter(|at| !taken[*at]).collect();
                    }
                    filler.at = first_of(&mut last, filler);
                }
                // an entry each at least: as many owners as entries at most
                let number = *filler.number.get_or_insert_with(|| {
                    owners.push(Slot::of(dests, i));
                    (owners.len() - 1) as u16
                });
                entries[filler.at] = number;
                free -= 1;
                if free == 0 {
                    break 'full;
                }
            }
        }
    }
    Table { entries, owners }
}

/// Takes the entry that a server comes to first.
fn first_of(free: &mut Vec<usize>, filler: &Filler) -> usize {
    let steps_of_one = inverse(filler.skips[1]);
    let steps = |at: usize| (at + TABLE - filler.at) * steps_of_one % TABLE;
    let first = (0..free.len()).min_by_key(|i| steps(free[*i])).unwrap_or(0);
    free.swap_remove(first)
}

/// What a step is to be multiplied with to go on by one entry: `skip` to the power of the prime minus two
/// (Fermat).
fn inverse(skip: usize) -> usize {
    let (mut result, mut power, mut left) = (1, skip, TABLE - 2);
    while left > 0 {
        if left & 1 == 1 {
            result = result * power % TABLE;
        }
        power = power * power % TABLE;
        left >>= 1;
    }
    result
}
