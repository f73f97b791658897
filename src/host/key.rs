//! Keys of the small tables that are asked for every packet, and their hash.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::engine::PortId;

/// An address, and on links a port; IPv4 and IPv6 never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    high: u64,
    low: u64,
    v4: bool,
}

impl Key {
    /// The address alone.
    #[inline]
    pub fn of(ip: IpAddr) -> Key {
        match ip {
            IpAddr::V4(a) => Key { high: 0, low: u64::from(u32::from(a)), v4: true },
            IpAddr::V6(a) => Key { high: (a.to_bits() >> 64) as u64, low: a.to_bits() as u64, v4: false },
        }
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        if !self.v4 {
            state.write_u64(self.high);
        }
        state.write_u64(self.low);
    }
}

/// An address on the link of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkKey {
    key: Key,
    port: u16,
}

impl LinkKey {
    /// The address on this port.
    #[inline]
    pub fn of(port: PortId, ip: IpAddr) -> LinkKey {
        LinkKey { key: Key::of(ip), port: port.0 }
    }

    /// Number of different [`LinkKey::slot`]s.
    pub const SLOTS: usize = 256;

    /// A number below [`LinkKey::SLOTS`] that differs for neighbouring addresses.
    #[inline]
    pub fn slot(&self) -> usize {
        let word = self.key.low ^ (self.key.low >> 8) ^ (u64::from(self.port) << 5);
        word as usize % LinkKey::SLOTS
    }
}

impl Hash for LinkKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // an on-link address alone is nearly unique; the port goes where IPv4 leaves room
        if !self.key.v4 {
            state.write_u64(self.key.high ^ u64::from(self.port));
            state.write_u64(self.key.low);
        } else {
            state.write_u64(self.key.low | u64::from(self.port) << 32);
        }
    }
}

/// Seeds of a hash by folded 128-bit products. Who does not know the seeds cannot choose keys that
/// collide; the tables are small and bounded besides.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    start: u64,
    factor: u64,
}

impl Folded {
    /// A hash of its own for every seed.
    pub fn new(seed: u64) -> Folded {
        let mut random = Random::new(seed);
        Folded { start: random.next(), factor: random.next() | 1 }
    }
}

impl Default for Folded {
    /// Without a secret, for tables whose keys nobody outside chooses.
    fn default() -> Folded {
        Folded::new(0)
    }
}

impl BuildHasher for Folded {
    type Hasher = FoldedHasher;
    #[inline]
    fn build_hasher(&self) -> FoldedHasher {
        FoldedHasher { state: self.start, factor: self.factor }
    }
}

/// See [`Folded`].
pub struct FoldedHasher {
    state: u64,
    factor: u64,
}

impl Hasher for FoldedHasher {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

/// A small generator for packet identifications and flow labels (SplitMix64), seeded from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_addresses_and_ports_spread() {
        let folded = Folded::new(7);
        let mut buckets = HashSet::new();
        for port in 0..2u16 {
            for host in 0..512u32 {
                let ip = IpAddr::V4((0x0a00_0000 + host).into());
                buckets.insert(folded.hash_one(LinkKey::of(PortId(port), ip)) & 0xffff);
            }
        }
        // 1,024 balls into 65,536 bins leave about 1,016 bins used
        assert!(buckets.len() > 990, "{}", buckets.len());
    }

    #[test]
    fn families_never_meet() {
        let v4: IpAddr = "1.2.3.4".parse().unwrap();
        for v6 in ["::102:304", "::ffff:1.2.3.4", "64:ff9b::1.2.3.4", "ffff:ffff:ff00::102:304"] {
            assert_ne!(Key::of(v4), Key::of(v6.parse().unwrap()));
        }
    }
}
