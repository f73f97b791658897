//! `twos`: the power of two choices. Two servers are drawn by weight, the less loaded one is taken.
//!
//! After M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001), in the form the
//! kernel gives it: draws run over 0..=total weight, both ends included, and the same server may be drawn
//! twice.

use std::sync::Arc;

use super::least::{heavier, overhead};
use crate::svc::Dest;

pub(super) fn pick(dests: &[Arc<Dest>], random: u64) -> Option<usize> {
    let total: u64 = dests.iter().filter(|d| d.usable()).map(|d| u64::from(d.weight())).sum();
    if total == 0 {
        return None;
    }
    let first = drawn(dests, below(random, total + 1))?;
    let second = drawn(dests, below(scrambled(random), total + 1))?;
    let ((a, wa), (b, wb)) = (load(&dests[first]), load(&dests[second]));
    Some(if heavier(a, wa, b, wb) { second } else { first })
}

fn load(dest: &Dest) -> (u64, u32) {
    (overhead(dest), dest.weight())
}

/// The usable server in whose share of the weights `point` lies. The last one also stands for points
/// beyond the sum, which appear when another worker lets a server overflow between the two walks.
fn drawn(dests: &[Arc<Dest>], point: u64) -> Option<usize> {
    let (mut sum, mut last) = (0, None);
    for (i, dest) in dests.iter().enumerate().filter(|(_, d)| d.usable()) {
        sum += u64::from(dest.weight());
        last = Some(i);
        if point <= sum {
            break;
        }
    }
    last
}

/// A random number in `0..bound` from one of 64 bits, without the bias of a remainder.
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// A second, independent-looking number from the first (the finishing steps of SplitMix64).
fn scrambled(random: u64) -> u64 {
    let mut z = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
