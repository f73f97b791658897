//! The keyed hash of tuples: where a connection lies in the index.
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
//! So two tuples chosen by somebody who does not know the secret share the first n bits with a chance of
//! 2^-n, which is proved, not hoped for. The first layer is no linear function of the tuple: known
//! collisions do not lead to others by addition. The hash itself never leaves the process but for some
//! of its lower half, as source port of GUE; places come from the upper half. And should somebody be able
//! to make collisions all the same, [`super::index`] bounds what they cost. (Decision 19.)

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
        (k.wrapping_mul(low).wrapping_add(l.wrapping_mul(high)).wrapping_add(m) >> 64) as u64
    }
}
