//! Services and real servers: what is configured, what is alive, and the snapshot packets are decided by.

pub mod live;
pub mod spec;

pub use live::*;
pub use spec::*;
