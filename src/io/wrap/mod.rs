//! Ports around ports: each passes everything on to the one inside and does one thing more.

pub mod faults;
pub mod recorder;

pub use faults::{Faults, Rates};
pub use recorder::Recorder;
