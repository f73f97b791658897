//! Connection keys: the addresses and ports of a packet as it arrives.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Family;
use crate::wire::plain::{Change, Ends};

/// An address of one family in the form keys hold it: `u32` or `u128`, host order.
pub trait Addr: Copy + Eq + Ord + Debug + Default + Send + 'static {
    /// The family.
    const FAMILY: Family;
    /// As a general address.
    fn ip(self) -> IpAddr;
    /// From a general address of this family; `None` for the other one.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// Source and destination in one, as packets are compared with connections.
    type Pair: Copy + Eq + Debug + Send;
    /// Puts them together.
    fn pair(src: Self, dst: Self) -> Self::Pair;
    /// The pair of a packet in the other direction.
    fn reversed(pair: Self::Pair) -> Self::Pair;
    /// What new ends do to checksums.
    fn change(old: Ends<Self::Pair>, new: Ends<Self::Pair>) -> Change;
    /// Hash of protocol and ends under a secret key.
    fn hash_ends(proto: u8, ends: Ends<Self::Pair>, start: &Start) -> u64;
    /// Hash of a tuple under a secret key.
    #[inline]
    fn hash(tuple: &Tuple<Self>, start: &Start) -> u64 {
        Self::hash_ends(tuple.proto, tuple.ends(), start)
    }
}

/// What a packet says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IANA protocol number.
    pub proto: u8,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of a packet in the other direction.
    #[must_use]
    pub fn reversed(&self) -> Tuple<A> {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto }
    }
}

impl<A: Addr> Tuple<A> {
    /// Addresses and ports.
    #[inline]
    pub fn ends(&self) -> Ends<A::Pair> {
        Ends::new(A::pair(self.src, self.dst), self.sport, self.dport)
    }
}

/// Secret of the hash: attackers choose tuples, so the key comes from the operating system at each start
/// (TESTPLAN D-5) and from the seed in tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

/// A [`HashKey`] made ready.
#[derive(Clone, Copy, Debug)]
pub struct Start(Sip);

impl From<HashKey> for Start {
    fn from(key: HashKey) -> Start {
        Start(Sip::new(&key))
    }
}

impl Addr for u32 {
    const FAMILY: Family = Family::V4;
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
    fn from_ip(ip: IpAddr) -> Option<u32> {
        match ip {
            IpAddr::V4(a) => Some(a.into()),
            IpAddr::V6(_) => None,
        }
    }
    type Pair = u64;
    #[inline(always)]
    fn pair(src: u32, dst: u32) -> u64 {
        u64::from(src) << 32 | u64::from(dst)
    }
    #[inline(always)]
    fn reversed(pair: u64) -> u64 {
        pair.rotate_left(32)
    }
    fn change(old: Ends<u64>, new: Ends<u64>) -> Change {
        Change::of4(old, new)
    }
    #[inline(always)]
    fn hash_ends(proto: u8, ends: Ends<u64>, start: &Start) -> u64 {
        let mut sip = start.0;
        sip.word(ends.addresses);
        sip.finish(last(proto, ends.ports, 13))
    }
}

impl Addr for u128 {
    const FAMILY: Family = Family::V6;
    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
    fn from_ip(ip: IpAddr) -> Option<u128> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(a.into()),
        }
    }
    type Pair = [u128; 2];
    #[inline(always)]
    fn pair(src: u128, dst: u128) -> [u128; 2] {
        [src, dst]
    }
    #[inline(always)]
    fn reversed([src, dst]: [u128; 2]) -> [u128; 2] {
        [dst, src]
    }
    fn change(old: Ends<[u128; 2]>, new: Ends<[u128; 2]>) -> Change {
        Change::of6(old, new)
    }
    #[inline(always)]
    fn hash_ends(proto: u8, ends: Ends<[u128; 2]>, start: &Start) -> u64 {
        let mut sip = start.0;
        let [src, dst] = ends.addresses;
        for address in [dst, src] {
            sip.word(address as u64);
            sip.word((address >> 64) as u64);
        }
        sip.finish(last(proto, ends.ports, 37))
    }
}

/// The last word hashed: ports, protocol number, and how many bytes there were.
#[inline(always)]
fn last(proto: u8, ports: u32, bytes: u64) -> u64 {
    u64::from(ports) | u64::from(proto) << 32 | bytes << 56
}

/// SipHash-1-3 over whole words. Tuples have a fixed length, so nothing has to be buffered or counted:
/// a third of the instructions of a hasher for bytes, on every packet.
#[derive(Clone, Copy, Debug)]
struct Sip([u64; 4]);

impl Sip {
    #[inline]
    fn new(key: &HashKey) -> Sip {
        // the constants of the paper: "somepseudorandomlygeneratedbytes"
        Sip([
            key.0 ^ 0x736f_6d65_7073_6575,
            key.1 ^ 0x646f_7261_6e64_6f6d,
            key.0 ^ 0x6c79_6765_6e65_7261,
            key.1 ^ 0x7465_6462_7974_6573,
        ])
    }
    #[inline]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*b);
        *a = a.wrapping_add(*d);
        *b = b.rotate_left(17) ^ *c;
        *d = d.rotate_left(21) ^ *a;
        *c = c.rotate_left(32);
    }
    #[inline]
    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }
    /// The last word holds the length in its top byte.
    #[inline]
    fn finish(mut self, last: u64) -> u64 {
        self.word(last);
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn the_hash_is_siphash_1_3_of_the_fields_destination_first_in_little_endian_order(
            src: u128, dst: u128, sport: u16, dport: u16, proto: u8, k0: u64, k1: u64,
        ) {
            let (key, sip) = (HashKey(k0, k1).into(), SipHasher13::new_with_keys(k0, k1));
            let rest = [&dport.to_le_bytes()[..], &sport.to_le_bytes(), &[proto]].concat();
            let bytes = [&dst.to_le_bytes()[..], &src.to_le_bytes(), &rest].concat();
            prop_assert_eq!(u128::hash(&Tuple { src, dst, sport, dport, proto }, &key), sip.hash(&bytes));
            let (src, dst) = (src as u32, dst as u32);
            let bytes = [&dst.to_le_bytes()[..], &src.to_le_bytes(), &rest].concat();
            prop_assert_eq!(u32::hash(&Tuple { src, dst, sport, dport, proto }, &key), sip.hash(&bytes));
        }
    }

    #[test]
    fn the_key_and_every_field_change_the_hash() {
        let t = Tuple { src: 1u32, dst: 2, sport: 3, dport: 4, proto: 6 };
        let k = HashKey(5, 6).into();
        let h = u32::hash(&t, &k);
        for other in [
            Tuple { src: 9, ..t },
            Tuple { dst: 9, ..t },
            Tuple { sport: 9, ..t },
            Tuple { dport: 9, ..t },
            Tuple { proto: 17, ..t },
            t.reversed(),
        ] {
            assert_ne!(u32::hash(&other, &k), h);
        }
        assert_ne!(u32::hash(&t, &HashKey(5, 7).into()), h);
        assert_eq!(t.reversed().reversed(), t);
    }
}
