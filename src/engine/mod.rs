//! The director itself: packets, time and changes in; packets, verdicts and events out.

pub mod verdict;

pub use verdict::{DropCounters, DropReason, PortId, Taken, Verdict};
