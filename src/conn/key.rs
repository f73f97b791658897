//! Connection keys: the addresses and ports of a packet as it arrives.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use crate::wire::Family;

/// An address of one family in the form keys hold it: `u32` or `u128`, host order.
pub trait Addr: Copy + Eq + Ord + Debug + Default + Send + 'static {
    /// The family.
    const FAMILY: Family;
    /// As a general address.
    fn ip(self) -> IpAddr;
    /// From a general address of this family; `None` for the other one.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// Hash of a tuple under a secret key.
    fn hash(tuple: &Tuple<Self>, key: &HashKey) -> u64;
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

/// Secret of the hash: attackers choose tuples, so the key comes from the operating system at each start
/// (TESTPLAN D-5) and from the seed in tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

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
    #[inline]
    fn hash(t: &Tuple<u32>, key: &HashKey) -> u64 {
        let mut bytes = [0u8; 13];
        bytes[..4].copy_from_slice(&t.src.to_ne_bytes());
        bytes[4..8].copy_from_slice(&t.dst.to_ne_bytes());
        bytes[8..10].copy_from_slice(&t.sport.to_ne_bytes());
        bytes[10..12].copy_from_slice(&t.dport.to_ne_bytes());
        bytes[12] = t.proto;
        SipHasher13::new_with_keys(key.0, key.1).hash(&bytes)
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
    #[inline]
    fn hash(t: &Tuple<u128>, key: &HashKey) -> u64 {
        let mut bytes = [0u8; 37];
        bytes[..16].copy_from_slice(&t.src.to_ne_bytes());
        bytes[16..32].copy_from_slice(&t.dst.to_ne_bytes());
        bytes[32..34].copy_from_slice(&t.sport.to_ne_bytes());
        bytes[34..36].copy_from_slice(&t.dport.to_ne_bytes());
        bytes[36] = t.proto;
        SipHasher13::new_with_keys(key.0, key.1).hash(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_every_field_change_the_hash() {
        let t = Tuple { src: 1u32, dst: 2, sport: 3, dport: 4, proto: 6 };
        let k = HashKey(5, 6);
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
        assert_ne!(u32::hash(&t, &HashKey(5, 7)), h);
        assert_eq!(t.reversed().reversed(), t);
    }
}
