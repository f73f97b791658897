//! The lab: a whole LVS cluster in network namespaces of one process, with real traffic through it.
//!
//! * [`Layout`] is the plan: who has which address in which mode. Pure data.
//! * [`Topology`] builds it: namespaces, wires, bridges, addresses, routes, real servers.
//! * [`http`] is the traffic: a small file server in each real server, a client that checks every byte.
//! * [`capture`] reads what went over the wires and follows one request hop by hop.
//! * [`director`] puts the program itself in the middle, started as a user would.
//! * [`run`] puts it all together and gives a [`Report`].
//!
//! Nothing here outlives the process: see [`crate::io::sys::ns::isolate`].

pub mod capture;
pub mod director;
pub mod http;
pub mod join;
pub mod layout;
pub mod report;
pub mod run;
pub mod topology;

pub use layout::{Io, Layout, Mode};
pub use report::Report;
pub use run::run;
pub use topology::Topology;
