//! A port under a worker: whether it works, when it is tried again, and what is said about it.

use tracing::{info, warn};

use super::counters::PortCounters;
use crate::engine::PortId;
use crate::io::{Port, PortError};
use crate::time::{Mono, Span};

/// First wait before a broken device is tried again; doubled up to [`SLOWEST`].
const FIRST: Span = Span::from_millis(100);
/// Longest wait between two tries.
const SLOWEST: Span = Span::from_millis(1000);
/// A device that worked for this long is trusted again.
const STEADY: Span = Span::from_millis(1000);
/// One more log line may be written after this time...
const LINE_EVERY: Span = Span::from_secs(10);
/// ...and this many at once.
const LINES: u32 = 6;

/// A worker's queues of all ports.
#[derive(Default)]
pub(super) struct Lanes {
    pub all: Vec<Lane>,
    /// By port: the queue that packets leave by.
    ways_out: Vec<usize>,
}

impl Lanes {
    /// `queues` by port; each port has at least one.
    pub fn new(queues: Vec<(Vec<Box<dyn Port>>, PortCounters)>, now: Mono) -> Lanes {
        let mut lanes = Lanes::default();
        for (i, (queues, counters)) in queues.into_iter().enumerate() {
            lanes.ways_out.push(lanes.all.len());
            let id = PortId(i as u16);
            lanes.all.extend(queues.into_iter().map(|port| Lane::new(id, port, counters.clone(), now)));
        }
        lanes
    }
    /// Number of ports.
    pub fn ports(&self) -> usize {
        self.ways_out.len()
    }
    /// The queue that packets leave a port by.
    pub fn way_out(&mut self, port: PortId) -> Option<&mut Lane> {
        self.all.get_mut(*self.ways_out.get(usize::from(port.0))?)
    }
}

/// A port, or a queue of it, with its state.
pub(super) struct Lane {
    pub(super) id: PortId,
    pub(super) port: Box<dyn Port>,
    pub(super) counters: PortCounters,
    /// There may be packets to receive.
    pub(super) ready: bool,
    /// `None` while the device works.
    broken: Option<Broken>,
    /// What the director was last told.
    told_up: bool,
    up_since: Mono,
    wait: Span,
    log: Quota,
}

struct Broken {
    since: Mono,
    retry: Mono,
}

impl Lane {
    pub(super) fn new(id: PortId, port: Box<dyn Port>, counters: PortCounters, now: Mono) -> Lane {
        let log = Quota { lines: LINES, filled: now, silent: 0 };
        Lane { id, port, counters, ready: true, broken: None, told_up: true, up_since: now, wait: FIRST, log }
    }
    pub(super) fn works(&self) -> bool {
        self.broken.is_none()
    }
    /// When this lane next wants the worker without a descriptor saying so.
    pub(super) fn wants_at(&mut self, now: Mono) -> Option<Mono> {
        match &self.broken {
            Some(b) => Some(b.retry),
            None if self.port.fd().is_none() => self.port.ready_at(now),
            None => None,
        }
    }
    /// Notes that the device failed. Only the first error of an outage counts.
    pub(super) fn fail(&mut self, now: Mono, error: &PortError) {
        self.ready = false;
        if self.broken.is_some() {
            return;
        }
        self.wait =
            if now.since(self.up_since) >= STEADY { FIRST } else { Span((self.wait.0 * 2).min(SLOWEST.0)) };
        self.broken = Some(Broken { since: now, retry: now + self.wait });
        self.counters.transition();
        if let Some(silent) = self.log.line(now) {
            warn!(port = %self.port.info().name, %error, silent, "port does not work, trying again until it does");
        }
    }
    /// Whether the device works, when that changed since the last call.
    pub(super) fn news(&mut self) -> Option<bool> {
        let up = self.works();
        (std::mem::replace(&mut self.told_up, up) != up).then_some(up)
    }
    /// Tries a broken device again when it is time.
    pub(super) fn revive(&mut self, now: Mono) {
        let Some(b) = &mut self.broken else { return };
        if now < b.retry {
            return;
        }
        if self.port.reopen().is_err() {
            self.wait = Span((self.wait.0 * 2).min(SLOWEST.0));
            b.retry = now + self.wait;
            return;
        }
        let after_ms = now.since(b.since).as_millis();
        self.broken = None;
        self.up_since = now;
        self.ready = true;
        self.counters.transition();
        if let Some(silent) = self.log.line(now) {
            info!(port = %self.port.info().name, after_ms, silent, "port works again");
        }
    }
}

/// Keeps a flapping device from flooding the log.
struct Quota {
    lines: u32,
    filled: Mono,
    silent: u64,
}

impl Quota {
    /// `Some` when a line may be written, with the number of lines left out before it.
    fn line(&mut self, now: Mono) -> Option<u64> {
        let earned = now.since(self.filled).0 / LINE_EVERY.0;
        if earned > 0 {
            self.lines = (u64::from(self.lines) + earned).min(u64::from(LINES)) as u32;
            self.filled = self.filled + Span(earned * LINE_EVERY.0);
        }
        if self.lines == 0 {
            self.silent += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_transitions_in_a_second_write_six_lines() {
        let mut q = Quota { lines: LINES, filled: Mono::ZERO, silent: 0 };
        let written = (0..1000).filter(|ms| q.line(Mono::from_millis(*ms)).is_some()).count();
        assert_eq!(written, 6);
        assert_eq!(q.line(Mono::from_millis(10_000)), Some(994));
        assert_eq!(q.line(Mono::from_millis(10_001)), None);
    }
}
