//! The index of a connection table: from the hash of a tuple to the entry (slot and side) it may be.
//!
//! # Theory of operation
//! Open addressing with linear probing over cells of 8 bytes: half of the hash, and the entry plus one (an
//! empty cell is zero, so the memory comes zeroed from the system and untouched pages cost nothing). The
//! same half of the hash says where a cell would best lie, so probing and removing read cells only, never
//! connections. Removing shifts later cells back instead of leaving a mark, therefore lookups do not
//! become slower with time and nothing is ever rebuilt. All room is made at creation; at most three
//! quarters of the cells are used, mostly half of them or less.
//!
//! Why not `hashbrown`: its cells cannot be read ahead of time (docs/decisions/0006).

use std::collections::TryReserveError;
use std::hint::select_unpredictable;

use prefetch_index::prefetch_index;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    cells: Vec<u64>,
    /// Number of cells, a power of two, minus one.
    mask: usize,
    len: usize,
}

/// Cells a search may pass.
pub(super) const FARTHEST: usize = 2048;

/// An index of so few cells is made twice as large, so that fewer keys lie beside their place.
const SMALL: usize = 1 << 14;

/// Why there is no gap for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoGap {
    /// The key is there.
    Taken,
    /// All cells that it may lie in are used.
    Crowded,
}

/// An empty cell, and what it would hold.
#[derive(Debug)]
pub(super) struct Gap {
    at: usize,
    half: u32,
}

#[inline]
fn half(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Index {
    /// An index for at most `keys` keys.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(keys: usize) -> Result<Index, TryReserveError> {
        let least = (keys + keys / 3 + 1).next_power_of_two().max(16);
        let cells = if least <= SMALL { 2 * least } else { least };
        // the fallible way has no zeroed memory, the zeroed way cannot fail: ask, then take
        Vec::<u64>::new().try_reserve_exact(cells)?;
        Ok(Index { cells: vec![0; cells], mask: cells - 1, len: 0 })
    }
    /// Keys in it.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.cells.len() * size_of::<u64>()
    }
    #[inline]
    fn home(&self, half: u32) -> usize {
        half as usize & self.mask
    }
    /// Has the cell where a search begins brought into the cache, without waiting for it.
    #[inline(always)]
    pub fn fetch(&self, hash: u64) {
        prefetch_index(&*self.cells, self.home(half(hash)));
    }
    /// The entry in one of the two cells where a search for this hash begins, if it has the same half of the
    /// hash. In which of them a key lies no processor foresees, so that this is no branch.
    #[inline(always)]
    pub fn near(&self, hash: u64) -> Option<u32> {
        let half = half(hash);
        let home = self.home(half);
        let [first, second] = [self.cells[home], self.cells[(home + 1) & self.mask]];
        let cell = select_unpredictable((first >> 32) as u32 == half, first, second);
        (cell != 0 && (cell >> 32) as u32 == half).then(|| (cell as u32).wrapping_sub(1))
    }
    /// The first entry with this hash that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let half = half(hash);
        let mut at = self.home(half);
        for _ in 0..FARTHEST {
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            let entry = (cell as u32).wrapping_sub(1);
            if (cell >> 32) as u32 == half && is_it(entry) {
                return Some(entry);
            }
            at = (at + 1) & self.mask;
        }
        None
    }
    /// Where an entry with this hash may be put. One walk for this and for whether `is_it` accepts one that
    /// is there, because each waits for memory.
    ///
    /// # Errors
    /// One is there, or there is no room near enough.
    #[inline]
    pub fn gap(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Result<Gap, NoGap> {
        let half = half(hash);
        let mut at = self.home(half);
        for _ in 0..FARTHEST {
            let cell = self.cells[at];
            if cell == 0 {
                return Ok(Gap { at, half });
            }
            if (cell >> 32) as u32 == half && is_it((cell as u32).wrapping_sub(1)) {
                return Err(NoGap::Taken);
            }
            at = (at + 1) & self.mask;
        }
        Err(NoGap::Crowded)
    }
    /// Puts an entry into a gap that was just found; the caller keeps count of the keys.
    #[inline]
    pub fn put(&mut self, Gap { at, half }: Gap, entry: u32) {
        debug_assert!(self.len < self.mask && self.cells[at] == 0);
        self.cells[at] = u64::from(half) << 32 | u64::from(entry + 1);
        self.len += 1;
    }
    /// Adds an entry that is not there yet; false when there is no room near enough.
    pub fn insert(&mut self, hash: u64, entry: u32) -> bool {
        let gap = self.gap(hash, |_| false);
        gap.is_ok_and(|gap| {
            self.put(gap, entry);
            true
        })
    }
    /// Removes an entry; false when it is not there.
    pub fn remove(&mut self, hash: u64, entry: u32) -> bool {
        let wanted = u64::from(half(hash)) << 32 | u64::from(entry + 1);
        let mut gap = self.home(half(hash));
        while self.cells[gap] != wanted {
            if self.cells[gap] == 0 {
                return false;
            }
            gap = (gap + 1) & self.mask;
        }
        let mut at = gap;
        loop {
            at = (at + 1) & self.mask;
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            // a cell may move back into the gap unless its home lies behind the gap
            let home = self.home((cell >> 32) as u32);
            let past = at.wrapping_sub(gap) & self.mask;
            if at.wrapping_sub(home) & self.mask >= past {
                self.cells[gap] = cell;
                gap = at;
            } else if past >= FARTHEST {
                // whatever lies here and beyond has its home behind the gap
                break;
            }
        }
        self.cells[gap] = 0;
        self.len -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_takes_as_many_keys_as_it_was_made_for() {
        for keys in [0, 1, 11, 12, 13, 1000] {
            let mut index = Index::new(keys).unwrap();
            assert!((0..keys as u32).all(|i| index.insert(u64::MAX, i)));
            assert_eq!(index.len(), keys);
            assert_eq!(index.find(u64::MAX, |_| false), None, "an empty cell ends every search");
            assert!(index.bytes() <= 2 * (keys * 3 + 16) * 8);
        }
    }

    #[test]
    fn no_key_lies_far_from_its_place() {
        let mut index = Index::new(3 * FARTHEST).unwrap();
        let hash = 7 << 32;
        assert!((0..FARTHEST as u32).all(|i| index.insert(hash, i)));
        assert!(!index.insert(hash, u32::MAX - 1));
        assert_eq!(index.gap(hash, |_| false).unwrap_err(), NoGap::Crowded);
        assert_eq!(index.gap(hash, |e| e == 9).unwrap_err(), NoGap::Taken);
        assert_eq!(index.len(), FARTHEST, "what is refused is not counted");
        // the first to go makes room for one that was refused
        assert!(index.remove(hash, 0));
        assert!(index.insert(hash, 2_000_000));
        assert_eq!(index.find(hash, |e| e == 2_000_000), Some(2_000_000));
        // one place further on there is a cell
        assert!(index.insert(8 << 32, 1_000_000));
        assert_eq!(index.find(8 << 32, |_| true), Some(1_000_000));
    }

    #[test]
    fn a_removal_in_one_crowded_place_leaves_the_next_one_as_it_is() {
        let mut index = Index::new(4 * FARTHEST).unwrap();
        let hash = |place: u64| (place * FARTHEST as u64) << 32;
        let place = |entry: u32| u64::from(entry) / FARTHEST as u64;
        let all = 0..3 * FARTHEST as u32;
        assert!(all.clone().all(|entry| index.insert(hash(place(entry)), entry)));
        let gone = [0, 1000, FARTHEST as u32 - 1, FARTHEST as u32 + 5];
        assert!(gone.iter().all(|entry| index.remove(hash(place(*entry)), *entry)));
        for entry in all {
            let found = index.find(hash(place(entry)), |e| e == entry);
            assert_eq!(found, Some(entry).filter(|e| !gone.contains(e)));
        }
    }

    proptest! {
        /// Few homes, many of them at the end: chains run into each other and around the end.
        #[test]
        fn it_agrees_with_a_list(ops in proptest::collection::vec((any::<bool>(), 0u32..40, 0u64..6), 0..300)) {
            let hash = |h: u64| (h + 13) << 32 | h;
            let mut index = Index::new(40).unwrap();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (add, entry, h) in ops {
                let known = model.iter().position(|m| m.1 == entry);
                match (add, known) {
                    (true, None) => {
                        prop_assert!(index.insert(hash(h), entry));
                        model.push((h, entry));
                    }
                    (true, Some(_)) => {}
                    (false, Some(at)) => {
                        let (h, entry) = model.remove(at);
                        prop_assert!(index.remove(hash(h), entry));
                    }
                    (false, None) => prop_assert!(!index.remove(hash(h), entry)),
                }
                prop_assert_eq!(index.len(), model.len());
                for (h, entry) in &model {
                    prop_assert_eq!(index.find(hash(*h), |e| e == *entry), Some(*entry));
                }
            }
            for (h, entry) in model {
                prop_assert!(index.remove(hash(h), entry));
            }
            prop_assert!(index.cells.iter().all(|c| *c == 0));
        }
    }
}
