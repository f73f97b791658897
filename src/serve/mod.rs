//! The control side at work: one task owns what is configured and the workers; everybody else, be it a
//! socket, a signal or a health check, asks it through a [`Control`].

mod claims;
pub mod control;
mod credentials;
pub mod entry;
pub mod health;
mod host_side;
pub mod http;
mod inherited;
pub mod listen;
pub mod notify;
mod ports;
pub mod proc_files;
pub mod running;
pub mod tcp;
pub mod tended;
pub mod workers;

pub use control::Control;
pub use running::Running;
