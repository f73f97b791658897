//! The connection table of one worker and one address family.
//!
//! # Theory of operation
//! Connections live in a slab, at most `limit` of them; a free list runs through unused slots. One index
//! maps the tuple of an arriving packet to (slot, side): NAT and FULLNAT connections have two keys, the
//! client's packets and the real server's, TUN and DR have the first only. The index holds slot numbers,
//! the keys are compared in the slab. All memory is reserved when the table is made, so neither growth
//! nor rehashing can delay a packet. A slot's `age` changes at each close: stale [`ConnId`]s do not
//! resolve.
//!
//! Invariants (walked by [`Table::check`] in tests): the index has exactly the keys of all live
//! connections; every live connection hangs in the bucket of its `armed` tick or is being handed out.

mod ahead;
mod hidden;
mod part;

use std::sync::Mutex;

pub use ahead::Entry;

pub use super::connection::{Conn, NewConn, Side, flag};
use super::index::{Index, NoGap};
use super::key::{Addr, Tuple};
use super::wheel::{BUCKET, BUCKETS, NIL, Tick, next_bucket};
use crate::hash::{HashKey, TupleHash};
use crate::time::{Mono, Span};
use crate::wire::plain::Ends;

/// Why a connection cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The table is at its limit.
    Full,
    /// A live connection has the same key on the client's side.
    ClientKeyTaken,
    /// A live connection has the same key on the real server's side.
    RealKeyTaken,
    /// Too many keys fall on one place of the index (see [`crate::hash`]).
    Crowded,
}

impl OpenError {
    /// What it means that there is no gap for the key of a side.
    fn of(no_gap: NoGap, side: Side) -> OpenError {
        match (no_gap, side) {
            (NoGap::Crowded, _) => OpenError::Crowded,
            (NoGap::Taken, Side::Client) => OpenError::ClientKeyTaken,
            (NoGap::Taken, Side::Real) => OpenError::RealKeyTaken,
        }
    }
}

/// A reference that outlives the connection safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Slot in the table.
    pub slot: u32,
    /// Age of the slot when the reference was made.
    pub age: u32,
}

/// The table.
#[derive(Debug)]
pub struct Table<A> {
    slots: Vec<Conn<A>>,
    index: Index,
    hash: TupleHash,
    heads: Vec<u32>,
    free: u32,
    live: u32,
    limit: u32,
    /// Next bucket to look at, not reduced to the wheel's size.
    cursor: u32,
    /// A tuple that was looked for in vain, and its hash: it is most likely opened next.
    missed: (u64, Option<Tuple<A>>),
    /// Connections hidden by younger ones, the latest last.
    hidden: Vec<u32>,
    /// There was a connection in mode FULLNAT.
    fullnat: bool,
    /// There was one whose replies pass here.
    replies: bool,
    /// In a part ([`Table::part`]): the tuples that were looked for.
    sought: Option<Box<Mutex<Vec<Tuple<A>>>>>,
}

impl<A: Addr> Table<A> {
    /// A table for `limit` connections.
    ///
    /// # Errors
    /// When the memory for so many cannot be reserved.
    pub fn new(now: Mono, limit: u32, key: HashKey) -> Result<Table<A>, std::collections::TryReserveError> {
        Table::start(now, limit, key.into())
    }
    fn start(now: Mono, limit: u32, hash: TupleHash) -> Result<Table<A>, std::collections::TryReserveError> {
        let limit = limit.min(u32::MAX / 2 - 1);
        let mut slots = Vec::new();
        slots.try_reserve_exact(limit as usize)?;
        Ok(Table {
            slots,
            index: Index::new(limit as usize * 2)?,
            hash,
            heads: vec![NIL; BUCKETS as usize],
            free: NIL,
            live: 0,
            limit,
            cursor: Tick::of(now).bucket(),
            missed: (0, None),
            hidden: Vec::new(),
            fullnat: false,
            replies: false,
            sought: None,
        })
    }
    /// Live connections.
    #[inline]
    pub fn len(&self) -> usize {
        self.live as usize
    }
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
    /// Keys in the index.
    pub fn keys(&self) -> usize {
        self.index.len()
    }
    /// Bytes held, index included.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Conn<A>>() + self.index.bytes() + self.heads.len() * 4
    }
    /// Hash of a tuple, to be passed to [`Table::find`].
    #[inline]
    pub fn hash(&self, tuple: &Tuple<A>) -> u64 {
        A::hash(tuple, &self.hash)
    }
    /// The connection a packet with this tuple belongs to.
    #[inline]
    pub fn find(&self, hash: u64, tuple: &Tuple<A>) -> Option<(u32, Side)> {
        let entry = self.index.find(hash, |e| self.is_key(e, tuple))?;
        Some((entry >> 1, side_of(entry)))
    }
    #[inline]
    fn is_key(&self, entry: u32, tuple: &Tuple<A>) -> bool {
        self.slots.get((entry >> 1) as usize).is_some_and(|c| c.key(side_of(entry)) == *tuple)
    }
    /// Hash of what an ordinary frame says, as [`Table::hash`].
    #[inline(always)]
    pub fn hash_ends(&self, proto: u8, ends: Ends<A::Pair>) -> u64 {
        A::hash_ends(proto, ends, &self.hash)
    }
    /// The same as [`Table::find`] for an ordinary frame, whose tuple is never put together. `guess` is what
    /// [`Table::guess`] said, perhaps before connections were opened and closed.
    #[inline(always)]
    pub fn find_ends(
        &mut self,
        guess: Entry,
        hash: u64,
        proto: u8,
        ends: Ends<A::Pair>,
    ) -> Option<(u32, Side, &mut Conn<A>)> {
        // nearly always it is the one
        if self.has_ends(guess.0, proto, ends) {
            let slot = guess.0 >> 1;
            return Some((slot, side_of(guess.0), self.slots.get_mut(slot as usize)?));
        }
        self.search_ends(hash, proto, ends)
    }
    #[inline(never)]
    fn search_ends(
        &mut self,
        hash: u64,
        proto: u8,
        ends: Ends<A::Pair>,
    ) -> Option<(u32, Side, &mut Conn<A>)> {
        let entry = self.index.find(hash, |entry| self.has_ends(entry, proto, ends))?;
        let slot = entry >> 1;
        Some((slot, side_of(entry), self.slots.get_mut(slot as usize)?))
    }
    #[inline(always)]
    fn has_ends(&self, entry: u32, proto: u8, ends: Ends<A::Pair>) -> bool {
        let Some(c) = self.slots.get((entry >> 1) as usize) else { return false };
        let known = c.ends(side_of(entry));
        known.ports == ends.ports
            && A::same(known.addresses, ends.addresses)
            && c.proto == proto
            && c.flags & flag::LIVE != 0
    }
    /// Same as [`Table::find`] where the hash is not needed again.
    pub fn lookup(&self, tuple: &Tuple<A>) -> Option<(u32, Side)> {
        self.seek(tuple);
        self.find(self.hash(tuple), tuple)
    }
    /// The connection in a slot that `find` or `next_due` gave.
    #[inline]
    pub fn get(&self, slot: u32) -> &Conn<A> {
        &self.slots[slot as usize]
    }
    /// The connection in a slot, to be changed (its keys must stay).
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Conn<A> {
        &mut self.slots[slot as usize]
    }
    /// Slots that were ever in use.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
    /// The connection in a slot, if there is one.
    pub fn live(&self, slot: u32) -> Option<&Conn<A>> {
        self.slots.get(slot as usize).filter(|c| c.flags & flag::LIVE != 0)
    }
    /// A lasting reference to the connection in a slot.
    pub fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, age: self.slots[slot as usize].age }
    }
    /// The slot of a lasting reference, unless its connection has ended.
    pub fn resolve(&self, id: ConnId) -> Option<u32> {
        let c = self.slots.get(id.slot as usize)?;
        (c.age == id.age && c.flags & flag::LIVE != 0).then_some(id.slot)
    }
    /// Slots of all live connections.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Conn<A>)> {
        self.slots.iter().enumerate().filter(|(_, c)| c.flags & flag::LIVE != 0).map(|(i, c)| (i as u32, c))
    }
    /// [`Table::find`] found nothing: spares [`Table::open`] the hash.
    #[inline]
    pub fn missed(&mut self, hash: u64, tuple: Tuple<A>) {
        self.missed = (hash, Some(tuple));
    }
    /// Opens a connection with all its keys or not at all.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn open(&mut self, now: Mono, new: &NewConn<A>) -> Result<u32, OpenError> {
        let hash = match self.missed {
            (hash, Some(tuple)) if tuple == new.client => hash,
            _ => self.hash(&new.client),
        };
        let mut conn = Conn::passing(new);
        let second = if conn.two_keys() { self.hash(&conn.real_key()) } else { 0 };
        self.enter(now, &mut conn, new.timeout, [hash, second])
    }
    /// Opens a connection that is made already, with the hashes of its keys; of one key the second says
    /// nothing. What is written into `conn` on the way is what the table has then.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed in the table then.
    #[inline]
    pub fn enter(
        &mut self,
        now: Mono,
        conn: &mut Conn<A>,
        timeout: Span,
        [first, second]: [u64; 2],
    ) -> Result<u32, OpenError> {
        if self.live >= self.limit {
            return Err(OpenError::Full);
        }
        let now = Tick::of(now);
        if self.live == 0 {
            self.cursor = now.bucket();
        }
        let deadline = now.after(timeout);
        conn.deadline = deadline;
        conn.flags |= flag::LIVE;
        self.fullnat |= conn.flags & flag::FULLNAT != 0;
        self.replies |= conn.two_keys();
        let client = conn.client_key();
        self.seek(&client);
        let slot = if self.free == NIL { self.slots.len() as u32 } else { self.free };
        let hidden = conn.flags & flag::HIDDEN != 0;
        if !hidden {
            let gap = self.index.gap(first, |e| self.is_key(e, &client));
            self.index.put(gap.map_err(|why| OpenError::of(why, Side::Client))?, slot << 1);
        }
        if conn.two_keys() {
            let key = conn.real_key();
            self.seek(&key);
            let gap = if key == client {
                Err(NoGap::Taken)
            } else {
                self.index.gap(second, |e| e >> 1 != slot && self.is_key(e, &key))
            };
            match gap {
                Ok(gap) => self.index.put(gap, slot << 1 | 1),
                Err(why) => {
                    if !hidden {
                        self.index.remove(first, slot << 1);
                    }
                    return Err(OpenError::of(why, Side::Real));
                }
            }
        }
        (conn.armed, conn.prev, conn.next) = self.hang(slot, deadline);
        self.take_slot(conn);
        self.live += 1;
        Ok(slot)
    }
    /// Gives a connection the client port it was opened without; both keys move.
    ///
    /// # Errors
    /// A live connection has one of the new keys, or there is no room near their places; nothing has
    /// changed then.
    pub fn set_client_port(&mut self, slot: u32, port: u16) -> Result<(), OpenError> {
        let old = self.slots[slot as usize];
        let lport = if old.flags & flag::FULLNAT != 0 { old.lport } else { port };
        let new = Conn { cport: port, lport, ..old }.ready();
        if self.lookup(&new.client_key()).is_some() {
            return Err(OpenError::ClientKeyTaken);
        }
        let moves = old.two_keys() && old.real_key() != new.real_key();
        if moves && self.lookup(&new.real_key()).is_some() {
            return Err(OpenError::RealKeyTaken);
        }
        let keys = [old, new].map(|c| [c.client_key(), c.real_key()].map(|key| self.hash(&key)));
        let sides = if moves { 2 } else { 1 };
        let entry = |side: usize| slot << 1 | side as u32;
        for side in 0..sides {
            if !self.index.insert(keys[1][side], entry(side)) {
                keys[1].iter().enumerate().take(side).for_each(|(side, hash)| {
                    self.index.remove(*hash, entry(side));
                });
                return Err(OpenError::Crowded);
            }
        }
        keys[0].iter().enumerate().take(sides).for_each(|(side, hash)| {
            self.index.remove(*hash, entry(side));
        });
        self.slots[slot as usize] = new;
        Ok(())
    }
    /// A packet came: the connection now expires `timeout` from now.
    #[inline]
    pub fn touch(&mut self, slot: u32, now: Mono, timeout: Span) {
        self.expires_at(slot, Tick::of(now).after(timeout));
    }
    /// The same with the deadline worked out.
    fn expires_at(&mut self, slot: u32, deadline: Tick) {
        let Some(c) = self.slots.get_mut(slot as usize) else { return };
        if !c.goes_on(deadline) {
            self.arm_earlier(slot, deadline);
        }
    }
    /// A connection whose deadline has passed is left alone until then.
    pub fn defer(&mut self, slot: u32, until: Tick) {
        self.arm_earlier(slot, until);
    }
    /// A connection has its first deadline: it is looked at then, and not before.
    pub fn settle(&mut self, slot: u32) {
        let c = &self.slots[slot as usize];
        if c.armed != c.deadline {
            self.arm_earlier(slot, c.deadline);
        }
    }
    /// Moves a connection to where [`Conn::goes_on`] says that it has to be looked at.
    #[cold]
    pub fn arm_earlier(&mut self, slot: u32, deadline: Tick) {
        self.unlink(slot);
        self.slots[slot as usize].armed = deadline;
        self.link(slot);
    }
    /// Ends a connection: both keys leave the index.
    pub fn close(&mut self, slot: u32) -> Conn<A> {
        let conn = self.slots[slot as usize];
        debug_assert!(conn.flags & flag::LIVE != 0);
        if conn.flags & flag::HIDDEN == 0 {
            self.remove_key(&conn.client_key(), slot << 1);
            if !self.hidden.is_empty() {
                self.uncover(&conn.client_key());
            }
        } else {
            self.hidden.retain(|h| *h != slot);
        }
        if conn.two_keys() {
            self.remove_key(&conn.real_key(), slot << 1 | 1);
        }
        self.unlink(slot);
        let c = &mut self.slots[slot as usize];
        c.flags = 0;
        c.age = c.age.wrapping_add(1);
        c.next = self.free;
        self.free = slot;
        self.live -= 1;
        conn
    }
    /// The next connection whose deadline has passed. It still hangs in the table: the caller closes it
    /// or gives it a new deadline with [`Table::touch`], or a respite with [`Table::defer`], and calls again. `budget` counts down with every
    /// connection looked at; at zero the answer is `None` although there may be more.
    pub fn next_due(&mut self, now: Mono, budget: &mut u32) -> Option<u32> {
        let tick = Tick::of(now);
        let today = tick.bucket();
        if self.live == 0 {
            self.cursor = today;
            return None;
        }
        while (today.wrapping_sub(self.cursor) as i32) > 0 {
            // a long silence needs one turn of the wheel, not one visit for each bucket passed
            if today.wrapping_sub(self.cursor) > BUCKETS {
                self.cursor = today.wrapping_sub(BUCKETS);
            }
            let head = self.heads[(self.cursor % BUCKETS) as usize];
            if head == NIL {
                self.cursor = self.cursor.wrapping_add(1);
                continue;
            }
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            let c = &self.slots[head as usize];
            // it is looked at next
            self.fetch_all(c.next);
            if tick.until(c.deadline) <= 0 {
                return Some(head);
            }
            self.unlink(head);
            let c = &mut self.slots[head as usize];
            c.armed = c.deadline;
            self.link(head);
        }
        None
    }
    /// When [`Table::next_due`] wants to be called next; `None` while the table is empty.
    pub fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        if self.live == 0 {
            return None;
        }
        let behind = Tick::of(now).bucket().wrapping_sub(self.cursor) as i32 > 0;
        Some(if behind { now } else { next_bucket(now) })
    }
    /// Walks everything and says what does not fit. For tests and fuzzing; slow.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn check(&self) -> Result<(), String> {
        let mut keys = 0;
        for (slot, c) in self.iter() {
            let hidden = c.flags & flag::HIDDEN != 0;
            keys += usize::from(!hidden) + usize::from(c.two_keys());
            if !hidden && self.lookup(&c.client_key()) != Some((slot, Side::Client)) {
                return Err(format!("slot {slot}: client key does not lead back"));
            }
            if c.two_keys() && self.lookup(&c.real_key()) != Some((slot, Side::Real)) {
                return Err(format!("slot {slot}: real key does not lead back"));
            }
        }
        if keys != self.index.len() {
            return Err(format!("{} keys in the index, {keys} in the slab", self.index.len()));
        }
        let hanging: usize = (0..BUCKETS).map(|b| self.bucket_len(b)).sum();
        if hanging != self.len() {
            return Err(format!("{hanging} connections in the wheel, {} live", self.live));
        }
        Ok(())
    }

    fn bucket_len(&self, bucket: u32) -> usize {
        let (mut n, mut at) = (0, self.heads[bucket as usize]);
        while at != NIL {
            n += 1;
            at = self.slots[at as usize].next;
        }
        n
    }
    /// Fills the slot that is next.
    #[inline]
    fn take_slot(&mut self, conn: &Conn<A>) {
        if self.free == NIL {
            self.slots.push(*conn);
            return;
        }
        let place = &mut self.slots[self.free as usize];
        let (free, age) = (place.next, place.age);
        *place = *conn;
        place.age = age;
        self.free = free;
        // it is taken next
        self.fetch_slot(free);
    }
    fn remove_key(&mut self, tuple: &Tuple<A>, entry: u32) {
        let hash = self.hash(tuple);
        self.index.remove(hash, entry);
    }
    /// Hangs a connection into the bucket of its `armed` tick.
    fn link(&mut self, slot: u32) {
        let links = self.hang(slot, self.slots[slot as usize].armed);
        let c = &mut self.slots[slot as usize];
        (c.armed, c.prev, c.next) = links;
    }
    /// The bucket of a tick gets a slot as its first; what is to be written there: `armed`, `prev`, `next`.
    /// Buckets are counted from the cursor so that it never falls into one already passed nor a whole turn
    /// ahead.
    #[inline]
    fn hang(&mut self, slot: u32, armed: Tick) -> (Tick, u32, u32) {
        let ahead = (armed.bucket().wrapping_sub(self.cursor) as i32).clamp(0, BUCKETS as i32 - 1) as u32;
        let bucket = self.cursor.wrapping_add(ahead);
        let armed = if armed.bucket() == bucket { armed } else { Tick(bucket.wrapping_mul(BUCKET)) };
        let head = &mut self.heads[(bucket % BUCKETS) as usize];
        let next = std::mem::replace(head, slot);
        if let Some(first) = self.slots.get_mut(next as usize) {
            first.prev = slot;
        }
        (armed, NIL, next)
    }
    fn unlink(&mut self, slot: u32) {
        let c = self.slots[slot as usize];
        if c.next != NIL {
            self.slots[c.next as usize].prev = c.prev;
        }
        if c.prev != NIL {
            self.slots[c.prev as usize].next = c.next;
        } else {
            self.heads[(c.armed.bucket() % BUCKETS) as usize] = c.next;
        }
    }
}

#[inline]
fn side_of(entry: u32) -> Side {
    if entry & 1 == 0 { Side::Client } else { Side::Real }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::state::State;
    use crate::svc::DestId;
    use proptest::prelude::*;

    const NAT: u16 = flag::TWO_KEYS;

    fn table(limit: u32) -> Table<u32> {
        Table::new(Mono::ZERO, limit, HashKey(1, 2)).unwrap()
    }
    fn new(client: u32, cport: u16, real: u32, flags: u16, secs: u64) -> NewConn<u32> {
        NewConn {
            client: Tuple { src: client, dst: 99, sport: cport, dport: 80, proto: 6 },
            real: (real, 8080),
            local: None,
            flags,
            dest: DestId(0),
            state: State::TcpSynRecv,
            timeout: Span::from_secs(secs),
        }
    }
    fn drain(t: &mut Table<u32>, now: Mono) -> Vec<u32> {
        let mut gone = Vec::new();
        let mut budget = u32::MAX;
        while let Some(slot) = t.next_due(now, &mut budget) {
            gone.push(t.close(slot).client);
        }
        gone
    }

    #[test]
    fn an_ipv4_connection_is_one_cache_line() {
        assert_eq!(size_of::<Conn<u32>>(), 64);
        assert_eq!(size_of::<Conn<u128>>(), 128);
    }

    #[test]
    fn both_directions_find_the_connection_and_only_it() {
        let mut t = table(10);
        let slot = t.open(Mono::ZERO, &new(1, 1000, 7, NAT, 60)).unwrap();
        let c = *t.get(slot);
        assert_eq!(t.lookup(&c.client_key()), Some((slot, Side::Client)));
        assert_eq!(t.lookup(&c.real_key()), Some((slot, Side::Real)));
        assert_eq!(t.lookup(&c.client_key().reversed()), None);
        let id = t.id(slot);
        assert_eq!(t.resolve(id), Some(slot));
        t.close(slot);
        assert_eq!(t.resolve(id), None);
        assert_eq!((t.keys(), t.len()), (0, 0));
    }

    #[test]
    fn a_second_connection_with_the_same_reply_tuple_is_refused_whole() {
        let mut t = table(10);
        t.open(Mono::ZERO, &new(1, 1000, 7, NAT, 60)).unwrap();
        let mut other = new(1, 1000, 7, NAT, 60);
        other.client.dst = 98;
        assert_eq!(t.open(Mono::ZERO, &other), Err(OpenError::RealKeyTaken));
        assert_eq!(t.lookup(&other.client), None);
        other.real.0 = 8;
        assert!(t.open(Mono::ZERO, &other).is_ok());
        assert_eq!(t.open(Mono::ZERO, &other), Err(OpenError::ClientKeyTaken));
    }

    #[test]
    fn the_limit_is_exact() {
        let mut t = table(3);
        for i in 0..3 {
            t.open(Mono::ZERO, &new(i, 1, 7, NAT, 60)).unwrap();
        }
        assert_eq!(t.open(Mono::ZERO, &new(9, 1, 7, NAT, 60)), Err(OpenError::Full));
        t.close(0);
        assert!(t.open(Mono::ZERO, &new(9, 1, 7, NAT, 60)).is_ok());
    }

    #[test]
    fn touched_connections_live_on_and_shortened_ones_go_early() {
        let mut t = table(10);
        let a = t.open(Mono::ZERO, &new(1, 1, 7, NAT, 60)).unwrap();
        let b = t.open(Mono::ZERO, &new(2, 1, 7, NAT, 900)).unwrap();
        t.touch(a, Mono::from_millis(50_000), Span::from_secs(60));
        t.touch(b, Mono::from_millis(50_000), Span::from_secs(10));
        assert_eq!(drain(&mut t, Mono::from_millis(59_900)), [0u32; 0]);
        assert_eq!(drain(&mut t, Mono::from_millis(60_500)), [2]);
        assert_eq!(drain(&mut t, Mono::from_millis(109_900)), [0u32; 0]);
        assert_eq!(drain(&mut t, Mono::from_millis(110_300)), [1]);
        t.check().unwrap();
    }

    #[test]
    fn deadlines_beyond_the_wheel_and_long_silences_are_kept() {
        let mut t = table(10);
        t.open(Mono::ZERO, &new(1, 1, 7, NAT, 10_000)).unwrap();
        t.open(Mono::ZERO, &new(2, 1, 7, NAT, 3)).unwrap();
        assert_eq!(drain(&mut t, Mono::from_millis(9_000_000)), [2]);
        assert_eq!(t.len(), 1);
        assert_eq!(drain(&mut t, Mono::from_millis(9_999_000)), [0u32; 0]);
        assert_eq!(drain(&mut t, Mono::from_millis(10_001_000)), [1]);
    }

    #[test]
    fn the_budget_bounds_one_call() {
        let mut t = table(100);
        for i in 0..50 {
            t.open(Mono::ZERO, &new(i, 1, 7, NAT, 1)).unwrap();
        }
        let mut budget = 20;
        while let Some(slot) = t.next_due(Mono::from_millis(5_000), &mut budget) {
            t.close(slot);
        }
        assert_eq!(t.len(), 30);
        assert_eq!(t.poll_timeout(Mono::from_millis(5_000)), Some(Mono::from_millis(5_000)));
    }

    proptest! {
        /// Random opens, touches, closes and waits against a plain list of deadlines.
        #[test]
        fn table_and_wheel_agree_with_a_plain_list(ops in prop::collection::vec((0u8..4, 0u32..12, 1u64..3_000), 1..300)) {
            let mut t = table(8);
            let mut model: Vec<(u32, u64)> = Vec::new(); // client, deadline in ms
            let mut now = 0u64;
            for (op, client, n) in ops {
                let at = Mono::from_millis(now);
                match op {
                    0 => {
                        let known = model.iter().any(|m| m.0 == client);
                        let got = t.open(at, &new(client, 5, 7, if client % 2 == 0 { NAT } else { 0 }, n));
                        if known || model.len() == 8 {
                            prop_assert!(got.is_err());
                        } else {
                            prop_assert!(got.is_ok());
                            model.push((client, now + n * 1000));
                        }
                    }
                    1 => {
                        if let Some((slot, _)) = t.lookup(&new(client, 5, 7, 0, 1).client) {
                            t.touch(slot, at, Span::from_secs(n));
                            model.iter_mut().find(|m| m.0 == client).unwrap().1 = now + n * 1000;
                        } else {
                            prop_assert!(!model.iter().any(|m| m.0 == client));
                        }
                    }
                    2 => {
                        if let Some((slot, _)) = t.lookup(&new(client, 5, 7, 0, 1).client) {
                            t.close(slot);
                        }
                        model.retain(|m| m.0 != client);
                    }
                    _ => {
                        now += n * 300;
                        for client in drain(&mut t, Mono::from_millis(now)) {
                            let at = model.iter().position(|m| m.0 == client).unwrap();
                            prop_assert!(model.remove(at).1 <= now + 16, "early");
                        }
                        for m in &model {
                            prop_assert!(m.1 + 300 >= now, "late: {} at {now}", m.1);
                        }
                    }
                }
                prop_assert_eq!(t.len(), model.len());
                t.check().map_err(TestCaseError::fail)?;
            }
        }
    }
}
