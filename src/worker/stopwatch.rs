//! How long packets are in the core: one of [`EVERY`] is looked at, so that the others cost no clock read.
//!
//! # What a sample is
//!
//! The bursts that hold every 1024th packet are timed, from when the core gets the burst to when all its packets
//! are decided on and rewritten; neither the device's part nor the time a packet waits in its burst for the
//! others is in it. A burst gives one sample: its time divided by its packets. As bursts are chosen by
//! their packets, each packet has the same chance to be looked at, whatever the size of its burst.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::clock;
use super::counters::add;
use crate::time::Span;

/// One packet in so many is looked at: two clock reads of some 25 ns each among that many packets.
pub const EVERY: usize = 1024;

/// Upper bounds of the steps by which samples are counted, nanoseconds.
pub const STEPS: [u64; 16] = [
    20, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// The numbers so far; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    steps: [AtomicU64; STEPS.len()],
    samples: AtomicU64,
    took: AtomicU64,
}

/// Samples at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceStats {
    /// Samples of at most as long as the step of that place in [`STEPS`], and longer than the one before.
    pub steps: [u64; STEPS.len()],
    /// All samples.
    pub samples: u64,
    /// Sum of the samples.
    pub took: Span,
}

impl std::ops::Add for PaceStats {
    type Output = PaceStats;
    fn add(self, other: PaceStats) -> PaceStats {
        PaceStats {
            steps: std::array::from_fn(|i| self.steps[i] + other.steps[i]),
            samples: self.samples + other.samples,
            took: Span(self.took.0.saturating_add(other.took.0)),
        }
    }
}

impl Pace {
    /// The numbers now.
    pub fn read(&self) -> PaceStats {
        let n = &self.0;
        let steps: [u64; STEPS.len()] = std::array::from_fn(|i| n.steps[i].load(Relaxed));
        // one may be counted meanwhile: there are never fewer than the steps hold
        let samples = n.samples.load(Relaxed).max(steps.iter().sum());
        PaceStats { steps, samples, took: Span(n.took.load(Relaxed)) }
    }
    fn sample(&self, took: Span, packets: usize) {
        let each = took.0 / packets.max(1) as u64;
        if let Some(step) = STEPS.iter().position(|step| each <= *step) {
            add(&self.0.steps[step], 1);
        }
        add(&self.0.samples, 1);
        add(&self.0.took, each);
    }
}

/// Chooses the bursts of one worker; one for those of devices, one for those of other workers.
pub(super) struct Stopwatch {
    pace: Pace,
    /// Packets until the next that is looked at.
    left: usize,
}

impl Default for Stopwatch {
    fn default() -> Stopwatch {
        Stopwatch::new(Pace::default())
    }
}

impl Stopwatch {
    pub fn new(pace: Pace) -> Stopwatch {
        Stopwatch { pace, left: EVERY }
    }
    /// Does `work` on a burst of this many packets, timed when it is its turn.
    pub fn time(&mut self, packets: usize, work: impl FnOnce()) {
        if self.left > packets {
            self.left -= packets;
            return work();
        }
        self.left = EVERY;
        let begin = clock::now();
        work();
        self.pace.sample(clock::now().since(begin), packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_with_every_1024th_packet_are_timed_whatever_their_size() {
        let pace = Pace::default();
        let mut watch = Stopwatch::new(pace.clone());
        let mut done = 0;
        for (packets, bursts, samples) in [(1, 1023, 0), (1, 1, 1), (64, 16, 2), (1, 1023, 2), (64, 1, 3)] {
            for _ in 0..bursts {
                watch.time(packets, || done += packets);
            }
            assert_eq!(pace.read().samples, samples, "{packets} x {bursts}");
        }
        assert_eq!(done, 1024 + 1024 + 1023 + 64);
    }

    #[test]
    fn a_sample_is_the_time_of_a_burst_divided_by_its_packets() {
        let pace = Pace::default();
        pace.sample(Span(64 * 20), 64);
        pace.sample(Span(64 * 21), 64);
        pace.sample(Span::from_millis(2), 1);
        let read = pace.read();
        assert_eq!((read.steps[0], read.steps[1], read.steps.iter().sum::<u64>()), (1, 1, 2));
        assert_eq!((read.samples, read.took), (3, Span(20 + 21 + 2_000_000)));
        assert_eq!((read + read).took, Span(2 * read.took.0));
    }
}
