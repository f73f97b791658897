//! Services and real servers: what is configured, what is alive, and the snapshot packets are decided by.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod dests;
mod gentle;
pub mod live;
mod part;
pub mod settings;
pub mod snapshot;
pub mod spec;

pub use catalog::{Catalog, CatalogError};
pub use dests::Dests;
pub use gentle::WHOLE;
pub use live::*;
pub use settings::{Sysctl, Timeouts};
pub use snapshot::Snapshot;
pub use spec::*;
