//! What a port did, counted once per burst by its worker and read by anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::io::Losses;

/// Counters of a port; clones share the same numbers.
#[derive(Clone, Debug, Default)]
pub struct PortCounters(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent: AtomicU64,
    full: AtomicU64,
    refused: AtomicU64,
    down: AtomicU64,
    transitions: AtomicU64,
    lost: [AtomicU64; 4],
}

/// The numbers at one moment. Super-frames count as one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub received: u64,
    /// Bytes received, link headers included.
    pub received_bytes: u64,
    /// Packets the device took.
    pub sent: u64,
    /// Packets dropped because the device's queue was full.
    pub full: u64,
    /// Packets dropped because they do not suit the device.
    pub refused: u64,
    /// Packets dropped because the device did not work.
    pub down: u64,
    /// How often the device broke or came back.
    pub transitions: u64,
    /// Packets that the kernel could not give to the port, looked at once a second while there is traffic.
    pub lost: Losses,
}

impl std::ops::Add for PortStats {
    type Output = PortStats;
    fn add(self, other: PortStats) -> PortStats {
        PortStats {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            sent: self.sent + other.sent,
            full: self.full + other.full,
            refused: self.refused + other.refused,
            down: self.down + other.down,
            transitions: self.transitions + other.transitions,
            lost: self.lost + other.lost,
        }
    }
}

// Only the worker writes: a load and a store are enough and cheaper than a locked addition.
pub(super) fn add(to: &AtomicU64, n: u64) {
    if n > 0 {
        to.store(to.load(Relaxed) + n, Relaxed);
    }
}

impl PortCounters {
    pub(super) fn received(&self, packets: usize, bytes: usize) {
        add(&self.0.received, packets as u64);
        add(&self.0.received_bytes, bytes as u64);
    }
    pub(super) fn sent(&self, report: &crate::io::SendReport, down: usize) {
        add(&self.0.sent, report.sent as u64);
        add(&self.0.full, report.full as u64);
        add(&self.0.refused, report.refused as u64);
        add(&self.0.down, down as u64);
    }
    pub(super) fn transition(&self) {
        add(&self.0.transitions, 1);
    }
    pub(super) fn lost(&self, more: Losses) {
        for (to, (_, n)) in self.0.lost.iter().zip(more.named()) {
            add(to, n);
        }
    }
    /// The numbers now.
    pub fn read(&self) -> PortStats {
        let n = &self.0;
        let [full, no_frame, unsuitable, invalid] = std::array::from_fn(|i| n.lost[i].load(Relaxed));
        PortStats {
            received: n.received.load(Relaxed),
            received_bytes: n.received_bytes.load(Relaxed),
            sent: n.sent.load(Relaxed),
            full: n.full.load(Relaxed),
            refused: n.refused.load(Relaxed),
            down: n.down.load(Relaxed),
            transitions: n.transitions.load(Relaxed),
            lost: Losses { full, no_frame, unsuitable, invalid },
        }
    }
}
