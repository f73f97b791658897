//! The virtual host: the director's own addresses, neighbours, routes, and what it answers itself.

pub mod plan;

pub use plan::*;
