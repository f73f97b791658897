//! The control side's logic: what runs, as one value with one writer, and how it may be changed.
//!
//! [`State`] is everything that was configured. A change is made on a clone of it; when all of it
//! succeeded the clone replaces the original, else nothing has happened. [`Overlays`] hold what health
//! checks do to real servers, apart from what was configured, so that neither undoes the other. Nothing
//! here opens a socket, reads a clock or talks to a worker: `serve` does.

#![forbid(unsafe_code)]

pub mod diff;
pub mod event;
pub mod ipvsadm;
pub mod overlay;
pub mod state;

pub use event::Event;
pub use overlay::{Overlay, Overlays, RealKey};
pub use state::State;
