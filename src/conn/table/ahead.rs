//! What a packet will need of the table, on its way to the cache before it is needed.
//!
//! To ask for memory is not to wait for it, and what is asked for may be wrong: an entry may have changed its
//! meaning by the time a packet is decided about.

use prefetch_index::prefetch_index;

use super::{Addr, Conn, Side, Table, side_of};

/// A place in the table that the index named: slot and side. Good for a guess only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub(super) u32);

impl Entry {
    /// No place: there are never so many slots.
    pub const NONE: Entry = Entry(u32::MAX);
}

impl<A: Addr> Table<A> {
    /// A connection has a second cache line.
    const TWO_LINES: bool = size_of::<Conn<A>>() > 64;

    /// Has the memory that [`Table::guess`] reads brought into the cache.
    #[inline(always)]
    pub fn fetch_cell(&self, hash: u64) {
        self.index.fetch(hash);
    }
    /// Where [`Table::find`] will most likely find a connection.
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> Entry {
        match self.index.near(hash) {
            Some(entry) => Entry(entry),
            None => self.guess_on(hash),
        }
    }
    #[inline(never)]
    fn guess_on(&self, hash: u64) -> Entry {
        self.index.find(hash, |_| true).map_or(Entry::NONE, Entry)
    }
    /// Has the first line of the connection there brought into the cache.
    #[inline(always)]
    pub fn fetch_conn(&self, entry: Entry) {
        self.fetch_slot(entry.0 >> 1);
    }
    /// There may be packets that need more than the first line.
    #[inline]
    pub fn needs_rest(&self) -> bool {
        Self::TWO_LINES && self.replies
    }
    /// Reads the second line where it may be needed. For the memory it touches; the value says nothing.
    #[inline(always)]
    pub fn read_rest(&self, entry: Entry) -> u32 {
        match self.slots.get((entry.0 >> 1) as usize) {
            Some(c) if self.fullnat || side_of(entry.0) == Side::Real => c.age,
            _ => 0,
        }
    }
    /// Has the first line of a slot brought into the cache; no slot is as good as any.
    #[inline(always)]
    pub(super) fn fetch_slot(&self, slot: u32) {
        prefetch_index(&*self.slots, slot as usize);
    }
    /// The same with all of it.
    #[inline(always)]
    pub(super) fn fetch_all(&self, slot: u32) {
        self.fetch_slot(slot);
        if Self::TWO_LINES
            && let Some(c) = self.slots.get(slot as usize)
        {
            prefetch_index(std::slice::from_ref(&c.local), 0);
        }
    }
}
