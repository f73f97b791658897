//! Schedulers: which real server takes a new connection. They never see packets.

use std::net::IpAddr;
use std::sync::Arc;

use crate::svc::{Dest, DestId, SchedulerFlags, SchedulerKind};
use crate::time::Mono;

/// What a scheduler may know of the packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct PickKey {
    /// Client address.
    pub src: IpAddr,
    /// Client port.
    pub sport: u16,
    /// Address the client talks to.
    pub dst: IpAddr,
    /// A random number from the injected source, for `twos`.
    pub random: u64,
}

/// Scheduler state of one service.
#[derive(Debug)]
pub struct Scheduler {
    kind: SchedulerKind,
    flags: SchedulerFlags,
}

impl Scheduler {
    /// Fresh state for a service whose servers are `dests` (kernel: `init_service`; also after `-E`).
    pub fn new(kind: SchedulerKind, flags: SchedulerFlags, _dests: &[Arc<Dest>]) -> Scheduler {
        Scheduler { kind, flags }
    }
    /// A server was added; `dests` is the list with it (it is at the head).
    pub fn added(&mut self, _dests: &[Arc<Dest>], _id: DestId) {}
    /// A server was removed; `dests` is the list without it, `index` where it stood before.
    pub fn removed(&mut self, _dests: &[Arc<Dest>], _id: DestId, _index: usize) {}
    /// A server's weight or thresholds changed; `dests` holds the new values.
    pub fn edited(&mut self, _dests: &[Arc<Dest>], _id: DestId) {}
    /// Index in `dests` of the server for a new connection, `None` when there is none to be had.
    ///
    /// `dests` may be one change older or newer than the state (another worker's snapshot): servers the
    /// state remembers are looked up by id and may be missing.
    pub fn pick(&mut self, _now: Mono, dests: &[Arc<Dest>], _key: &PickKey) -> Option<usize> {
        let _ = (self.kind, self.flags);
        dests.iter().position(|d| d.usable())
    }
}
