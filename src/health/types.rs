//! What the monitor gives and takes.

use std::net::SocketAddr;
use std::sync::Arc;

use super::policy::Wish;
use super::spec::{AdminState, CheckSpec, Via};
use crate::svc::{Forward, ServiceKey};
use crate::time::Span;

/// A checked address, by number; numbers are used again, see [`Job::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u32);

/// A check to start now.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which one.
    pub id: TargetId,
    /// Which run of it; results of others are ignored.
    pub run: u64,
    /// What to do.
    pub check: Arc<CheckSpec>,
    /// Whom to ask.
    pub to: SocketAddr,
    /// The real server that is meant.
    pub real: SocketAddr,
    /// The way.
    pub via: Via,
    /// How the traffic goes there, for [`Via::Vip`].
    pub forward: Option<Forward>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// It is as it should be.
    pub ok: bool,
    /// Weight the check gives the server.
    pub weight: Option<u32>,
    /// To be added to the configured weight.
    pub add: i32,
    /// What was found, for people.
    pub why: String,
}

impl Outcome {
    /// Fine.
    pub fn ok(why: impl Into<String>) -> Outcome {
        Outcome { ok: true, weight: None, add: 0, why: why.into() }
    }
    /// Not fine.
    pub fn failed(why: impl Into<String>) -> Outcome {
        Outcome { ok: false, weight: None, add: 0, why: why.into() }
    }
}

/// Something people and programs want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    /// A server works again.
    RealUp { service: ServiceKey, real: SocketAddr, why: String },
    /// A server does not work any more.
    RealDown { service: ServiceKey, real: SocketAddr, why: String },
    /// A check gave a server another weight.
    Weight { service: ServiceKey, real: SocketAddr, weight: u32 },
    /// Enough servers work.
    QuorumGained { service: ServiceKey, alive: u64, quorum: u32 },
    /// Too few servers work.
    QuorumLost { service: ServiceKey, alive: u64, quorum: u32 },
    /// The sorry server begins or stops to serve.
    Sorry { service: ServiceKey, serves: bool },
    /// The panic threshold is crossed.
    Panic { service: ServiceKey, on: bool },
    /// A server takes no new connections any more.
    Draining { service: ServiceKey, real: SocketAddr, deadline: Option<Span> },
    /// The deadline of a draining server: what is left of its connections is to be reset.
    Cut { service: ServiceKey, real: SocketAddr },
}

/// State of a server, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStatus {
    /// RIP and real port.
    pub at: SocketAddr,
    /// Healthy by checks and traffic.
    pub healthy: bool,
    /// What it is for the service now.
    pub wish: Wish,
    /// What the operator wants.
    pub state: AdminState,
    /// Its checks: name, believed to work, last finding, milliseconds since the last change.
    pub checks: Vec<(String, bool, String, u64)>,
    /// Milliseconds to the deadline of its drain.
    pub deadline_ms: Option<u64>,
    /// In slow start.
    pub warming: bool,
}
