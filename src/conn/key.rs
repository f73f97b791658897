//! Connection keys: the addresses and ports of a packet as it arrives.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash::TupleHash;
use crate::wire::Family;
use crate::wire::plain::{Change, Ends};

/// An address of one family in the form keys hold it: `u32` or `u128`, host order.
pub trait Addr: Copy + Eq + Ord + Debug + Default + Into<u128> + Send + 'static {
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
    /// Takes them apart.
    fn parts(pair: Self::Pair) -> [Self; 2];
    /// The pair of a packet in the other direction.
    fn reversed(pair: Self::Pair) -> Self::Pair;
    /// True when they are the same. Apart from `==`, which compares what was just put together in words as
    /// bytes in wide registers: the processor waits for the words to arrive in memory.
    fn same(a: Self::Pair, b: Self::Pair) -> bool;
    /// What new ends do to checksums, and what undoes it.
    fn change(old: Ends<Self::Pair>, new: Ends<Self::Pair>) -> [Change; 2];
    /// Hash of protocol and ends under a secret key.
    fn hash_ends(proto: u8, ends: Ends<Self::Pair>, key: &TupleHash) -> u64;
    /// Hash of a tuple under a secret key.
    #[inline]
    fn hash(tuple: &Tuple<Self>, key: &TupleHash) -> u64 {
        Self::hash_ends(tuple.proto, tuple.ends(), key)
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
    /// The tuple of an ordinary frame.
    #[inline]
    pub fn of_ends(proto: u8, ends: Ends<A::Pair>) -> Tuple<A> {
        let [src, dst] = A::parts(ends.addresses);
        Tuple { src, dst, sport: (ends.ports >> 16) as u16, dport: ends.ports as u16, proto }
    }
    /// Addresses and ports.
    #[inline]
    pub fn ends(&self) -> Ends<A::Pair> {
        Ends::new(A::pair(self.src, self.dst), self.sport, self.dport)
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
    fn parts(pair: u64) -> [u32; 2] {
        [(pair >> 32) as u32, pair as u32]
    }
    #[inline(always)]
    fn reversed(pair: u64) -> u64 {
        pair.rotate_left(32)
    }
    #[inline(always)]
    fn same(a: u64, b: u64) -> bool {
        a == b
    }
    #[inline]
    fn change(old: Ends<u64>, new: Ends<u64>) -> [Change; 2] {
        Change::of4(old, new)
    }
    #[inline(always)]
    fn hash_ends(proto: u8, ends: Ends<u64>, key: &TupleHash) -> u64 {
        key.of2(ends.addresses, rest(proto, ends.ports))
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
    fn parts(pair: [u128; 2]) -> [u128; 2] {
        pair
    }
    #[inline(always)]
    fn reversed([src, dst]: [u128; 2]) -> [u128; 2] {
        [dst, src]
    }
    #[inline(always)]
    fn same([a, b]: [u128; 2], [c, d]: [u128; 2]) -> bool {
        (a ^ c) | (b ^ d) == 0
    }
    #[inline]
    fn change(old: Ends<[u128; 2]>, new: Ends<[u128; 2]>) -> [Change; 2] {
        Change::of6(old, new)
    }
    #[inline(always)]
    fn hash_ends(proto: u8, ends: Ends<[u128; 2]>, key: &TupleHash) -> u64 {
        let [[a, b], [c, d]] = ends.addresses.map(|address| [address as u64, (address >> 64) as u64]);
        key.of5([a, b, c, d, rest(proto, ends.ports)])
    }
}

/// Ports and protocol number in one word.
#[inline(always)]
fn rest(proto: u8, ports: u32) -> u64 {
    u64::from(ports) | u64::from(proto) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashKey;

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
