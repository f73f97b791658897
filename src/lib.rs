//! softlvs: Linux Virtual Server without the kernel module.
//!
//! The library has two halves that are never mixed. The *core* is pure: packets, time and randomness go
//! in, packets and verdicts come out; it forbids `unsafe`, names no socket, clock or thread, and builds
//! alone (`--no-default-features`). The *shell* (feature `daemon`) owns devices, files and the command
//! line. `ARCHITECTURE.md` is the map.

pub mod addr;
pub mod buf;
pub mod conn;
pub mod dr;
pub mod engine;
pub mod hash;
pub mod health;
pub mod host;
pub mod ipvsadm;
pub mod nat;
pub mod sched;
pub mod svc;
pub mod time;
pub mod tunnel;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod ctl;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod explain;
#[cfg(feature = "daemon")]
pub mod failure;
#[cfg(feature = "daemon")]
pub mod import;
#[cfg(feature = "daemon")]
pub mod io;
#[cfg(feature = "daemon")]
pub mod lab;
#[cfg(feature = "daemon")]
pub mod probe;
#[cfg(feature = "daemon")]
pub mod real;
#[cfg(feature = "daemon")]
pub mod replay;
#[cfg(feature = "daemon")]
pub mod serve;
#[cfg(feature = "daemon")]
pub mod worker;
