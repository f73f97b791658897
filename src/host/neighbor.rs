//! One neighbour: its states, and what waits for it.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::key::LinkKey;
use super::resolve::OnFail;
use crate::addr::Mac;
use crate::buf::OwnedPacket;
use crate::engine::PortId;
use crate::time::{Mono, Span};

/// Time between two questions (kernel: `retrans_time_ms`).
pub(super) const RETRANSMIT: Span = Span::from_secs(1);
/// How long a confirmation is good for (kernel: `base_reachable_time_ms`).
const REACHABLE: Span = Span::from_secs(30);
/// From the first use of a stale entry to the first question (kernel: `delay_first_probe_time`).
const DELAY: Span = Span::from_secs(5);

/// How much is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// Configured; never changes.
    Permanent,
    /// Being asked for, MAC unknown.
    Incomplete,
    /// Confirmed within the last 30 s.
    Reachable,
    /// MAC known, not confirmed lately.
    Stale,
    /// Stale and in use; will be asked directly soon.
    Delay,
    /// Being asked directly.
    Probe,
    /// Did not answer.
    Failed,
}

impl NeighborState {
    /// The kernel's name for it, as `ip neighbour` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            NeighborState::Permanent => "PERMANENT",
            NeighborState::Incomplete => "INCOMPLETE",
            NeighborState::Reachable => "REACHABLE",
            NeighborState::Stale => "STALE",
            NeighborState::Delay => "DELAY",
            NeighborState::Probe => "PROBE",
            NeighborState::Failed => "FAILED",
        }
    }
}

/// A neighbour as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborInfo {
    /// Port it is on.
    pub port: PortId,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC where known.
    pub mac: Option<Mac>,
    /// State; a reachable one whose time is over is shown as stale.
    pub state: NeighborState,
    /// When a packet was last sent to it; `None` = never.
    pub used: Option<Mono>,
    /// Packets that wait for it.
    pub parked: usize,
}

/// A packet that waits for its neighbour.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub packet: OwnedPacket,
    /// Offset of the IP header in it.
    pub l3: usize,
    pub on_fail: OnFail,
}

/// One neighbour.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// Port and address as looked up.
    pub(super) key: LinkKey,
    pub(super) mac: Mac,
    /// The MAC may be used without further checks until then.
    pub(super) good_until: Mono,
    pub(super) used: Mono,
    pub(super) port: PortId,
    pub(super) ip: IpAddr,
    pub(super) state: NeighborState,
    /// Never evicted.
    pub(super) pinned: bool,
    /// Questions asked in this state.
    pub(super) probes: u8,
    pub(super) deadline: Option<Mono>,
    pub(super) updated: Mono,
    pub(super) parked: VecDeque<Parked>,
    /// Memory of what is parked.
    pub(super) cost: usize,
}

impl Neighbor {
    /// A new entry, of which nothing is known.
    pub(super) fn new(now: Mono, port: PortId, ip: IpAddr, pinned: bool) -> Neighbor {
        Neighbor {
            key: LinkKey::of(port, ip),
            mac: Mac::default(),
            good_until: Mono::ZERO,
            used: Mono::ZERO,
            port,
            ip,
            state: NeighborState::Failed,
            pinned,
            probes: 0,
            deadline: None,
            updated: now,
            parked: VecDeque::new(),
            cost: 0,
        }
    }

    /// Where it is.
    #[inline(always)]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// A packet goes to it.
    #[inline(always)]
    pub fn use_at(&mut self, now: Mono) {
        self.used = now;
    }

    /// Enters a state and starts its timer.
    pub(super) fn set(&mut self, now: Mono, state: NeighborState) {
        use NeighborState as S;
        self.state = state;
        (self.good_until, self.deadline) = match state {
            S::Permanent => (Mono(u64::MAX), None),
            S::Reachable => (now + REACHABLE, None),
            // used meanwhile; the timer decides what becomes of it
            S::Delay => (Mono(u64::MAX), Some(now + DELAY)),
            S::Probe => (Mono(u64::MAX), Some(now + RETRANSMIT)),
            S::Incomplete => (Mono::ZERO, Some(now + RETRANSMIT)),
            S::Stale | S::Failed => (Mono::ZERO, None),
        };
        self.probes = u8::from(matches!(state, S::Incomplete | S::Probe));
    }

    /// True when there is a MAC to send to.
    pub(super) fn has_mac(&self) -> bool {
        !matches!(self.state, NeighborState::Incomplete | NeighborState::Failed)
    }

    /// What to lose first when the table is full; `None` = never.
    pub(super) fn worth(&self) -> Option<(u8, Mono)> {
        use NeighborState as S;
        let class = match self.state {
            _ if self.pinned => return None,
            S::Permanent => return None,
            S::Failed => 0,
            // learnt by being asked, never sent to
            _ if self.used == Mono::ZERO && self.has_mac() => 1,
            S::Incomplete => 2,
            S::Stale => 3,
            S::Reachable | S::Delay | S::Probe => 4,
        };
        Some((class, self.used.max(self.updated)))
    }
}

impl Parked {
    /// Memory it holds, roughly.
    pub fn cost(&self) -> usize {
        (crate::buf::HEADROOM + self.packet.bytes().len()).next_multiple_of(2048)
    }
}
