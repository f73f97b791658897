//! Local addresses and ports of FULLNAT.
//!
//! # Theory of operation
//! Towards a real server a FULLNAT flow is known by LIP:lport and the server's protocol, address and
//! port. Two live flows must never share that tuple, but towards *different* servers (or ports of one)
//! the same LIP:lport is fine: so each pair of (LIP, [`Remote`]) has a set of used ports of its own, made
//! when the first port is taken and freed with the last one.
//!
//! A set starts as a short list, because a service on all ports can be made to open a flow to each of a
//! server's 65,535 ports; beyond [`FEW`] flows it becomes a bitmap (8 KiB) under a summary with one bit
//! for each word that still has room. Finding a port reads at most the summary and two words, however
//! full the set is.
//!
//! Ports are taken in a circle from a random start, so that a freed port rests as long as possible: the
//! server may still have its old flow in TIME_WAIT. LIPs take turns, [`TURN`] flows each: the sets of a few
//! servers and one LIP are in the cache, those of all LIPs are not.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use arrayvec::ArrayVec;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::addr::Cidr;
use crate::hash::{HashKey, TupleHash};
use crate::svc::Proto;

/// The ports FULLNAT uses unless told otherwise: 64,512 for each LIP and remote.
pub const PORTS: RangeInclusive<u16> = 1024..=65535;

/// Flows up to which a set of ports is a list.
const FEW: usize = 24;

/// Flows that a LIP gets in its turn.
const TURN: u32 = 256;

/// Ports that [`LocalPool::oldest`] names at once.
pub const OLDEST: usize = 64;

/// The real server's side of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remote {
    /// Protocol.
    pub proto: Proto,
    /// RIP.
    pub ip: IpAddr,
    /// Real port.
    pub port: u16,
}

/// Hands out local addresses and ports, never one twice to the same remote.
#[derive(Debug)]
pub struct LocalPool {
    addresses: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
    /// LIP whose turn it is, and flows it has got in it.
    turn: usize,
    given: u32,
    sets: HashTable<Set>,
    hash: TupleHash,
    live: usize,
}

/// The ports in use of one LIP towards one remote.
#[derive(Clone, Debug)]
struct Set {
    remote: Remote,
    lip: IpAddr,
    used: Used,
}

impl Set {
    fn is(&self, remote: &Remote, lip: IpAddr) -> bool {
        self.lip == lip && self.remote == *remote
    }
}

/// Remotes can be chosen by clients (services on all ports), so the hash has a secret key.
fn hash(key: &TupleHash, remote: &Remote, lip: IpAddr) -> u64 {
    let words = |ip: IpAddr| match ip {
        IpAddr::V4(a) => [a.to_bits().into(), 0],
        IpAddr::V6(a) => [a.to_bits() as u64, (a.to_bits() >> 64) as u64],
    };
    let ([a, b], [c, d]) = (words(remote.ip), words(lip));
    key.of5([a, b, c, d, u64::from(remote.port) | (remote.proto as u64) << 16])
}

impl LocalPool {
    /// A pool of these LIPs, either family or both. Workers that share LIPs must have disjoint `ports`;
    /// an empty range makes a pool that is always exhausted. `seed` keys the hash.
    pub fn new(addresses: Vec<IpAddr>, ports: RangeInclusive<u16>, seed: (u64, u64)) -> LocalPool {
        let hash = HashKey(seed.0, seed.1).into();
        LocalPool { addresses, ports, turn: 0, given: 0, sets: HashTable::new(), hash, live: 0 }
    }

    /// Takes an address and port for a new flow to `remote`; `None` when every one is taken, or when there
    /// is no LIP of the remote's family (see [`LocalPool::serves`]). `random` is any random number.
    pub fn alloc(&mut self, remote: Remote, random: u64) -> Option<(IpAddr, u16)> {
        self.alloc_near(remote, random, None)
    }

    /// The same, from the LIPs of one network only.
    pub fn alloc_near(&mut self, remote: Remote, random: u64, near: Option<Cidr>) -> Option<(IpAddr, u16)> {
        let (first, count) = self.span()?;
        if self.given >= TURN {
            self.next_turn();
        }
        for _ in 0..self.addresses.len() {
            let lip = *self.addresses.get(self.turn)?;
            if lip.is_ipv4() == remote.ip.is_ipv4() && near.is_none_or(|net| net.contains(lip)) {
                let start = || (random % u64::from(count)) as u16;
                if let Some(index) = self.set(remote, lip, start).take_next(count) {
                    self.live += 1;
                    self.given += 1;
                    return Some((lip, first + index));
                }
            }
            self.next_turn();
        }
        None
    }

    /// Where every port is taken: some of those that were taken longest ago towards `remote`, and their LIP.
    /// Each call names others, so flows that last long do not stand in front of the rest for ever.
    pub fn oldest(&mut self, remote: Remote, near: Option<Cidr>) -> Option<(IpAddr, ArrayVec<u16, OLDEST>)> {
        let (first, count) = self.span()?;
        for _ in 0..self.addresses.len() {
            let lip = *self.addresses.get(self.turn)?;
            self.next_turn();
            if lip.is_ipv4() == remote.ip.is_ipv4() && near.is_none_or(|net| net.contains(lip)) {
                let found = self.sets.find_mut(hash(&self.hash, &remote, lip), |s| s.is(&remote, lip));
                let Some(next) = found.map(|set| set.used.next()) else { continue };
                let some = OLDEST.min(count.into()) as u16;
                let around = |n: u16| ((u32::from(*next) + u32::from(n)) % u32::from(count)) as u16;
                let ports = (0..some).map(|n| first + around(n)).collect();
                *next = around(some);
                return Some((lip, ports));
            }
        }
        None
    }

    fn next_turn(&mut self) {
        self.turn = (self.turn + 1) % self.addresses.len().max(1);
        self.given = 0;
    }

    /// The ports of a LIP towards a remote; new ones begin at `start`.
    fn set(&mut self, remote: Remote, lip: IpAddr, start: impl FnOnce() -> u16) -> &mut Used {
        let rehash = |s: &Set| hash(&self.hash, &s.remote, s.lip);
        let entry = self.sets.entry(hash(&self.hash, &remote, lip), |s| s.is(&remote, lip), rehash);
        let set = entry.or_insert_with(|| Set { remote, lip, used: Used::new(start()) });
        &mut set.into_mut().used
    }

    /// Takes this very address and port, for a flow that is taken over with its tuple; false when it is
    /// taken already or not of this pool's ports. The LIP need not be of this pool.
    pub fn claim(&mut self, remote: Remote, lip: IpAddr, lport: u16) -> bool {
        let Some((index, count)) = self.index_of(lport) else { return false };
        let taken = self.set(remote, lip, || index).take(index, count);
        self.live += usize::from(taken);
        taken
    }

    /// Gives back what [`LocalPool::alloc`] or [`LocalPool::claim`] gave; false when it was not taken.
    pub fn free(&mut self, remote: Remote, lip: IpAddr, lport: u16) -> bool {
        let Some((index, _)) = self.index_of(lport) else { return false };
        let found = self.sets.find_entry(hash(&self.hash, &remote, lip), |s| s.is(&remote, lip));
        let Ok(mut entry) = found else { return false };
        let freed = entry.get_mut().used.free(index);
        self.live -= usize::from(freed);
        if entry.get().used.is_empty() {
            entry.remove();
        }
        freed
    }

    /// A copy that knows only the tuples towards these servers; for whoever wants to know what would happen.
    #[must_use]
    pub fn part(&self, towards: impl Fn(IpAddr) -> bool) -> LocalPool {
        let mut part = LocalPool {
            addresses: self.addresses.clone(),
            ports: self.ports.clone(),
            turn: self.turn,
            given: self.given,
            sets: HashTable::new(),
            hash: self.hash,
            live: self.live,
        };
        for set in self.sets.iter().filter(|set| towards(set.remote.ip)) {
            let rehash = |s: &Set| hash(&self.hash, &s.remote, s.lip);
            part.sets.insert_unique(rehash(set), set.clone(), rehash);
        }
        part
    }

    /// Changes the LIPs. Flows on addresses that are gone keep them until they end.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        (self.turn, self.given) = (0, 0);
    }

    /// True when there is a LIP of the family, so that `None` of [`LocalPool::alloc`] means exhaustion.
    pub fn serves(&self, v6: bool) -> bool {
        self.addresses.iter().any(|a| a.is_ipv6() == v6)
    }

    /// The local ports.
    pub fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// The LIPs.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Tuples in use.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Pairs of LIP and remote that hold memory.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Index of a port, and number of ports.
    fn index_of(&self, lport: u16) -> Option<(u16, u16)> {
        let (first, count) = self.span()?;
        lport.checked_sub(first).filter(|i| *i < count).map(|i| (i, count))
    }

    /// First port and number of ports.
    fn span(&self) -> Option<(u16, u16)> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        // port 0 is nobody's; without it the count fits
        let first = first.max(1);
        (first <= last).then(|| (first, last - first + 1))
    }
}

/// Ports in use of one LIP towards one remote, as indices from the pool's first port.
#[derive(Clone, Debug)]
enum Used {
    Few { ports: ArrayVec<u16, FEW>, next: u16 },
    Many(Box<Bitmap>),
}

impl Used {
    fn new(start: u16) -> Used {
        Used::Few { ports: ArrayVec::new(), next: start }
    }

    /// Takes the next free index in the circle of `count`.
    fn take_next(&mut self, count: u16) -> Option<u16> {
        match self {
            Used::Few { ports, next } => {
                // FEW entries can block FEW candidates, or all of a smaller range
                let mut index = *next % count;
                for _ in 0..=FEW.min(usize::from(count) - 1) {
                    if !ports.contains(&index) {
                        return self.take(index, count).then_some(index);
                    }
                    index = (index + 1) % count;
                }
                None
            }
            Used::Many(map) => map.take_next(),
        }
    }

    /// Takes this index; false when it is taken.
    fn take(&mut self, index: u16, count: u16) -> bool {
        if let Used::Few { ports, next } = self {
            if ports.contains(&index) {
                return false;
            }
            if ports.try_push(index).is_ok() {
                *next = (index + 1) % count;
                return true;
            }
            let mut map = Bitmap::new(count);
            for index in ports.iter() {
                map.take(*index);
            }
            *self = Used::Many(map);
        }
        match self {
            Used::Many(map) => map.take(index),
            Used::Few { .. } => false,
        }
    }

    fn free(&mut self, index: u16) -> bool {
        match self {
            Used::Few { ports, .. } => match ports.iter().position(|p| *p == index) {
                Some(at) => {
                    ports.swap_remove(at);
                    true
                }
                None => false,
            },
            Used::Many(map) => map.free(index),
        }
    }

    /// Where the search for the next free index begins.
    fn next(&mut self) -> &mut u16 {
        match self {
            Used::Few { next, .. } => next,
            Used::Many(map) => &mut map.next,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Used::Few { ports, .. } => ports.is_empty(),
            Used::Many(map) => map.used == 0,
        }
    }
}

/// Words of a bitmap over all ports.
const WORDS: usize = 1024;

/// A set bit is a port that can be had (in `free`) or a word that has one (in `room`).
#[derive(Clone, Debug)]
struct Bitmap {
    free: [u64; WORDS],
    room: [u64; WORDS / 64],
    next: u16,
    used: u32,
}

impl Bitmap {
    fn new(count: u16) -> Box<Bitmap> {
        let mut map = Box::new(Bitmap { free: [0; WORDS], room: [0; WORDS / 64], next: 0, used: 0 });
        first_bits(&mut map.free, count.into());
        first_bits(&mut map.room, usize::from(count).div_ceil(64));
        map
    }

    fn take_next(&mut self) -> Option<u16> {
        let index = self.find(usize::from(self.next))?;
        self.take(index).then_some(index)
    }

    /// The first free index from `start` on, around the end.
    fn find(&self, start: usize) -> Option<u16> {
        let word = start / 64;
        let ahead = self.free[word] & (u64::MAX << (start % 64));
        if ahead != 0 {
            return Some((word * 64) as u16 + ahead.trailing_zeros() as u16);
        }
        let word = first_bit(&self.room, word + 1).or_else(|| first_bit(&self.room, 0))?;
        Some((word * 64) as u16 + self.free[word].trailing_zeros() as u16)
    }

    fn take(&mut self, index: u16) -> bool {
        let (word, bit) = (usize::from(index) / 64, 1u64 << (index % 64));
        if self.free[word] & bit == 0 {
            return false;
        }
        self.free[word] &= !bit;
        if self.free[word] == 0 {
            self.room[word / 64] &= !(1 << (word % 64));
        }
        self.used += 1;
        self.next = index.wrapping_add(1);
        true
    }

    /// The caller has checked that the index is one of the pool's ports.
    fn free(&mut self, index: u16) -> bool {
        let (word, bit) = (usize::from(index) / 64, 1u64 << (index % 64));
        if self.free[word] & bit != 0 {
            return false;
        }
        self.free[word] |= bit;
        self.room[word / 64] |= 1 << (word % 64);
        self.used -= 1;
        true
    }
}

/// Sets the first `count` bits.
fn first_bits(words: &mut [u64], count: usize) {
    words[..count / 64].fill(u64::MAX);
    if !count.is_multiple_of(64) {
        words[count / 64] = (1 << (count % 64)) - 1;
    }
}

/// The first set bit of `words` from bit `start` on.
fn first_bit(words: &[u64], start: usize) -> Option<usize> {
    let mut mask = u64::MAX << (start % 64);
    for (at, word) in words.iter().enumerate().skip(start / 64) {
        if word & mask != 0 {
            return Some(at * 64 + (word & mask).trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

/// Keyed SipHash, for tables whose keys others choose.
#[derive(Clone, Debug)]
pub(crate) struct Keyed(pub u64, pub u64);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: usize = 64_512;

    fn remote(port: u16) -> Remote {
        Remote { proto: Proto::Tcp, ip: "10.2.0.11".parse().unwrap(), port }
    }

    fn pool(lips: usize, ports: RangeInclusive<u16>) -> LocalPool {
        let lip = |i| IpAddr::from([10, 0, 0, 100 + i as u8]);
        LocalPool::new((0..lips).map(lip).collect(), ports, (1, 2))
    }

    #[test]
    fn exhaustion_comes_after_every_port_of_every_address_was_given_once() {
        let mut pool = pool(2, PORTS);
        let mut seen = HashSet::new();
        for i in 0..2 * ALL {
            let got = pool.alloc(remote(80), i as u64 * 0x9e37_79b9).unwrap();
            assert!(PORTS.contains(&got.1));
            assert!(seen.insert(got), "{got:?} given twice");
        }
        assert_eq!(pool.alloc(remote(80), 5), None);
        assert_eq!(pool.live(), 2 * ALL);
        assert!(pool.alloc(remote(81), 5).is_some(), "another port of the server has its own tuples");
        let (lip, lport) = *seen.iter().next().unwrap();
        assert!(pool.free(remote(80), lip, lport));
        assert!(!pool.free(remote(80), lip, lport));
        assert_eq!(pool.alloc(remote(80), 77), Some((lip, lport)), "the only free one is found");
    }

    #[test]
    fn the_oldest_of_all_ports_come_round() {
        for ports in [1024..=1033, PORTS] {
            let mut pool = pool(2, ports.clone());
            let mut given = Vec::new();
            while let Some(got) = pool.alloc(remote(80), 7) {
                given.push(got);
            }
            assert_eq!(given.len(), 2 * ports.len());
            let mut named = HashSet::new();
            for n in 0..2 * ports.len().div_ceil(OLDEST) {
                let (lip, some) = pool.oldest(remote(80), None).unwrap();
                assert_eq!(some.len(), OLDEST.min(ports.len()));
                if n == 0 {
                    let first = given.iter().find(|g| g.0 == lip).unwrap();
                    assert_eq!(some[0], first.1, "the first is the oldest");
                }
                named.extend(some.iter().map(|port| (lip, *port)));
            }
            assert_eq!(named, given.into_iter().collect(), "every one was named");
            assert!(pool.oldest(remote(80), Some("10.9.0.0/16".parse().unwrap())).is_none(), "none is near");
        }
    }

    #[test]
    fn an_emptied_remote_holds_no_memory() {
        let mut pool = pool(3, PORTS);
        let all: Vec<_> = (0..3 * TURN).map(|i| pool.alloc(remote(80), i.into()).unwrap()).collect();
        assert_eq!(pool.sets(), 3, "each had its turn");
        for (lip, lport) in all {
            assert!(pool.free(remote(80), lip, lport));
        }
        assert_eq!((pool.sets(), pool.live()), (0, 0));
    }

    #[test]
    fn one_flow_to_each_of_very_many_remotes_stays_small() {
        assert!(size_of::<Used>() <= 64, "{}", size_of::<Used>());
        let mut pool = pool(1, PORTS);
        for port in 1..=u16::MAX {
            assert!(pool.alloc(remote(port), 9).is_some());
        }
        assert!(pool.sets.iter().all(|s| matches!(s.used, Used::Few { .. })));
    }

    #[test]
    fn at_99_percent_full_a_port_is_found_in_a_few_words() {
        let mut map = Bitmap::new(ALL as u16);
        let mut random = 1u64;
        let mut step = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize
        };
        let mut taken: Vec<u16> = Vec::new();
        while taken.len() < ALL * 99 / 100 {
            taken.push(map.take_next().unwrap());
        }
        let mut words = 0;
        for _ in 0..10_000 {
            let victim = step() % taken.len();
            assert!(map.free(taken.swap_remove(victim)));
            // words read by find(): the one of the cursor, the summary's, the one found
            let start = usize::from(map.next);
            let index = map.take_next().unwrap();
            words += 1 + usize::from(usize::from(index) / 64 != start / 64) * 2;
            taken.push(index);
        }
        assert!(words <= 4 * 10_000, "{words}");
    }

    #[test]
    fn a_new_bitmap_has_room_for_so_many_and_no_more() {
        for count in [1u16, 63, 64, 65, 4095, 4096, 4097, 64_512, 65_535] {
            let mut map = Bitmap::new(count);
            let given: Vec<u16> = std::iter::from_fn(|| map.take_next()).collect();
            assert!(given.iter().copied().eq(0..count), "{count}");
        }
    }

    #[test]
    fn a_freed_port_rests_while_others_are_unused() {
        let mut pool = pool(1, PORTS);
        let (lip, first) = pool.alloc(remote(80), 7).unwrap();
        pool.alloc(remote(80), 7).unwrap();
        pool.free(remote(80), lip, first);
        for _ in 0..ALL - 2 {
            assert_ne!(pool.alloc(remote(80), 7).unwrap().1, first);
        }
        assert_eq!(pool.alloc(remote(80), 7), Some((lip, first)));
    }

    #[test]
    fn claimed_tuples_are_not_given_again_and_families_do_not_mix() {
        let mut pool = pool(1, 2000..=2002);
        let lip = pool.addresses()[0];
        assert!(pool.claim(remote(80), lip, 2001));
        assert!(!pool.claim(remote(80), lip, 2001));
        assert!(!pool.claim(remote(80), lip, 2003));
        let mut rest: Vec<_> = std::iter::from_fn(|| pool.alloc(remote(80), 1)).map(|(_, p)| p).collect();
        rest.sort_unstable();
        assert_eq!(rest, [2000, 2002]);
        let v6 = Remote { ip: "2001:db8::1".parse().unwrap(), ..remote(80) };
        assert_eq!((pool.alloc(v6, 0), pool.serves(true), pool.serves(false)), (None, false, true));
    }

    #[test]
    fn empty_pools_and_port_zero_are_no_trap() {
        assert_eq!(pool(0, PORTS).alloc(remote(80), 1), None);
        #[allow(clippy::reversed_empty_ranges)]
        let mut none = pool(1, 5..=4);
        assert_eq!(none.alloc(remote(80), 1), None);
        let mut all = pool(1, 0..=65535);
        let ports: HashSet<u16> = std::iter::from_fn(|| all.alloc(remote(80), 3)).map(|(_, p)| p).collect();
        assert_eq!((ports.len(), ports.contains(&0), ports.contains(&65535)), (65_535, false, true));
        let lip = all.addresses()[0];
        assert!(!all.claim(remote(80), lip, 0) && !all.free(remote(80), lip, 0));
    }

    proptest! {
        #[test]
        fn no_tuple_is_ever_live_twice(
            steps in prop::collection::vec((0u8..4, 0u16..2, any::<u64>()), 1..400),
            lips in 1usize..3,
            width in 0u16..90,
        ) {
            let mut pool = pool(lips, 3000..=3000 + width);
            let room = lips * (usize::from(width) + 1);
            let mut live: Vec<(u16, IpAddr, u16)> = Vec::new();
            for (what, port, random) in steps {
                if what > 0 || live.is_empty() {
                    let here = live.iter().filter(|l| l.0 == port).count();
                    match pool.alloc(remote(port), random) {
                        Some((lip, lport)) => {
                            prop_assert!(!live.contains(&(port, lip, lport)));
                            live.push((port, lip, lport));
                        }
                        None => prop_assert_eq!(here, room),
                    }
                } else {
                    let (port, lip, lport) = live.swap_remove(random as usize % live.len());
                    prop_assert!(pool.free(remote(port), lip, lport));
                }
                prop_assert_eq!(pool.live(), live.len());
            }
        }
    }
}
