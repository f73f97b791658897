//! Health of real servers: from the results of checks to what a service does about them.
//!
//! Nothing here opens a socket or reads a clock. The shell runs the checks it is told to start and hands
//! their results in; out come events for people and, per real server, a [`Wish`] for the catalog.
//!
//! > **Drive contract.** Call [`Monitor::on_timeout`] no earlier than [`Monitor::poll_timeout`] says and
//! > soon after. After every call drain [`Monitor::poll_job`], [`Monitor::poll_abort`],
//! > [`Monitor::poll_event`] and [`Monitor::poll_changed`].
//!
//! | file | subject |
//! |---|---|
//! | `spec` | what can be said about checks and about what they mean for a service |
//! | `ledger` | one checked address: rise and fall, when to look again, flapping |
//! | `schedule` | which check runs when, with a bound on those that run at once |
//! | `passive` | what the traffic itself says |
//! | `ramp` | slow start |
//! | `policy` | one service: quorum, sorry server, panic, what becomes of each server |
//! | `tally` | how long checks took and how often they failed |
//! | `monitor`, `configure`, `types` | all of it together |
#![forbid(unsafe_code)]

mod configure;
pub mod ledger;
pub mod monitor;
pub mod passive;
pub mod policy;
pub mod ramp;
#[cfg(test)]
mod scenarios;
pub mod schedule;
pub mod spec;
pub mod tally;
pub mod types;

pub use ledger::{Ledger, Transition};
pub use monitor::Monitor;
pub use policy::Wish;
pub use spec::{
    AdminState, CheckKind, CheckSpec, Dampening, HealthPlan, OnFailure, Panic, PanicUse, PassiveSpec, Policy,
    RealHealth, ServiceHealth, Start, Timing, Via,
};
pub use tally::CheckTally;
pub use types::{Event, Job, Outcome, RealStatus, TargetId};

/// A small source of random numbers for jitter: SplitMix64 over a seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `bound`; 0 for 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }
}
