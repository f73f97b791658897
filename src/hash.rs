//! The keyed hash of tuples: where a connection lies in the index, and a local port in its pool.
//!
//! # Theory of operation
//! Whoever sends packets chooses tuples, and every packet pays for a crowded place in the index, so which
//! tuples meet there has to depend on a secret. Two layers of multiplications do that:
//!
//! 1. NH of UMAC (RFC 4418 section 5.2.1, with words of 64 bits): the words of a tuple, each with a secret
//!    added, are multiplied in pairs and the products summed up modulo 2^128. Two different tuples have
//!    the same sum with a chance of 2^-64, whatever they are.
//! 2. A multilinear hash of the two halves of that sum with secrets of 128 bits, of which the upper 64 bits
//!    count (Thorup, "High speed hashing for integers and strings", section 3.5): strongly universal, so any
//!    bits of two hashes are independent and evenly spread.
//!
//! Of tuples in a row both layers make numbers in a row, which neighbouring cells are not to be filled by: a
//! fixed permutation scatters them, and takes nothing from what is said of any two.
//!
//! So two tuples chosen by somebody who does not know the secret share the first n bits with a chance of
//! 2^-n, which is proved, not hoped for. The first layer is no linear function of the tuple: known
//! collisions do not lead to others by addition. The hash itself never leaves the process but for some
//! of its lower half, as source port of GUE; places come from the upper half. And should somebody be able
//! to make collisions all the same, the index (`conn/index.rs`) bounds what they cost. (Decision 19.)

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Secret of the hash: attackers choose tuples, so the key comes from the operating system at each start
/// (TESTPLAN D-5) and from the seed in tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

/// The secrets of both layers, made of a [`HashKey`].
#[derive(Clone, Copy, Debug)]
pub struct TupleHash {
    pairs: [u64; 6],
    line: [u128; 3],
}

impl From<HashKey> for TupleHash {
    fn from(key: HashKey) -> TupleHash {
        let mut number = 0;
        // SipHash of numbers in turn: independent words for all who do not know the key
        let mut word = || {
            let mut sip = SipHasher13::new_with_keys(key.0, key.1);
            sip.write_u64(number);
            number += 1;
            sip.finish()
        };
        let pairs = [(); 6].map(|()| word());
        let line = [(); 3].map(|()| u128::from(word()) << 64 | u128::from(word()));
        TupleHash { pairs, line }
    }
}

impl TupleHash {
    /// Of two words.
    #[inline(always)]
    pub fn of2(&self, a: u64, b: u64) -> u64 {
        self.finish(self.product(0, a, b))
    }
    /// Of five words; not comparable with those of two.
    #[inline(always)]
    pub fn of5(&self, [a, b, c, d, e]: [u64; 5]) -> u64 {
        let sum = self.product(0, a, b).wrapping_add(self.product(2, c, d));
        // the word without a partner: its partner is zero
        self.finish(sum.wrapping_add(self.product(4, e, 0)))
    }
    #[inline(always)]
    fn product(&self, at: usize, a: u64, b: u64) -> u128 {
        u128::from(a.wrapping_add(self.pairs[at])) * u128::from(b.wrapping_add(self.pairs[at + 1]))
    }
    #[inline(always)]
    fn finish(&self, sum: u128) -> u64 {
        let [k, l, m] = self.line;
        let (low, high) = (u128::from(sum as u64), sum >> 64);
        let h = (k.wrapping_mul(low).wrapping_add(l.wrapping_mul(high)).wrapping_add(m) >> 64) as u64;
        (h ^ h >> 32).wrapping_mul(SCATTER)
    }
}

/// Odd, its bits in no order (the digits of the golden ratio).
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same with numbers of any size: what the two layers are, read off the papers.
    fn slow(key: HashKey, words: &[u64]) -> u64 {
        let TupleHash { pairs, line: [k, l, m] } = key.into();
        let mut padded = words.to_vec();
        padded.resize(words.len().next_multiple_of(2), 0);
        let mut sum = 0u128;
        for (i, pair) in padded.chunks(2).enumerate() {
            let [a, b] = [0, 1].map(|j| (u128::from(pair[j]) + u128::from(pairs[2 * i + j])) % (1 << 64));
            sum = sum.wrapping_add(a * b);
        }
        let (low, high) = (sum % (1 << 64), sum >> 64);
        let line = k.wrapping_mul(low).wrapping_add(l.wrapping_mul(high)).wrapping_add(m);
        let line = (line >> 64) as u64;
        (line ^ line >> 32).wrapping_mul(SCATTER)
    }

    proptest! {
        #[test]
        fn both_layers_are_those_of_the_papers(words: [u64; 5], k0: u64, k1: u64) {
            let key = HashKey(k0, k1);
            prop_assert_eq!(TupleHash::from(key).of5(words), slow(key, &words));
            prop_assert_eq!(TupleHash::from(key).of2(words[0], words[1]), slow(key, &words[..2]));
        }

        /// One bit of a tuple turns half of the bits that say where it lies, with nearly every key.
        #[test]
        fn one_bit_changes_half_of_the_place(a: u64, b in 0u64..1 << 40, bit in 0u32..104) {
            let (c, d) = if bit < 64 { (a ^ 1 << bit, b) } else { (a, b ^ 1 << (bit - 64)) };
            let turned: u32 = (0..256u64)
                .map(|k| TupleHash::from(HashKey(k, !k)))
                .map(|h| ((h.of2(a, b) ^ h.of2(c, d)) >> 32).count_ones())
                .sum();
            // 256 times 32 bits: half is 4,096, its standard deviation 45
            prop_assert!((3700..4500).contains(&turned), "{turned} of 8192");
        }
    }

    #[test]
    fn tuples_in_rows_fill_a_table_as_chance_would() {
        // clients of one network one after the other, ports in steps: what real traffic looks like
        for (addresses, ports, step) in [(256, 256, 1), (65_536, 1, 1), (16, 4096, 2), (1, 65_536, 1)] {
            for seed in 0..32 {
                let hash = TupleHash::from(HashKey(seed, 99));
                let mut places = vec![0u32; 65_536];
                for a in 0..addresses {
                    for p in 0..ports {
                        let h = hash.of2(0x0a00_0000_c000_020a + (a << 32), 6 << 32 | 80 | (p * step) << 16);
                        places[(h >> 32) as usize & 0xffff] += 1;
                    }
                }
                // 65,536 keys in as many places: the number of pairs that meet is 32,768, its deviation 181
                let pairs: u32 = places.iter().map(|n| n * n.saturating_sub(1) / 2).sum();
                assert!((31_000..34_500).contains(&pairs), "{addresses} x {ports}: {pairs} pairs");
                assert!(places.iter().all(|n| *n < 16));
            }
        }
    }

    #[test]
    fn two_keys_have_nothing_in_common() {
        let [a, b] = [HashKey(1, 2), HashKey(1, 3)].map(TupleHash::from);
        let same = (0..100_000u64).filter(|w| a.of2(*w, 7) >> 48 == b.of2(*w, 7) >> 48).count();
        assert!(same < 20, "{same} of 100,000 share 16 bits, by chance two would");
    }
}
