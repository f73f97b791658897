//! A port under a worker: whether it works, when it is tried again, and what is said about it.

use tracing::{info, warn};

use super::counters::PortCounters;
use crate::engine::PortId;
use crate::io::{Losses, Port, PortError};
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

/// How often the kernel is asked what it lost.
const ASK_EVERY: Span = Span::from_secs(1);

/// A worker's queues of all ports.
#[derive(Default)]
pub(super) struct Lanes {
    pub all: Vec<Lane>,
    /// By port: the queue that packets leave by.
    ways_out: Vec<usize>,
    asked: Mono,
    /// Packets came since.
    pub stirred: bool,
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
    /// Counts what the kernel lost, when there was traffic and it is time; says when it will be.
    pub fn ask_for_losses(&mut self, now: Mono) -> Option<Mono> {
        if !self.stirred {
            return None;
        }
        let at = self.asked + ASK_EVERY;
        if now < at {
            return Some(at);
        }
        (self.asked, self.stirred) = (now, false);
        for lane in &mut self.all {
            let lost = lane.port.losses();
            lane.counters.lost(lost.since(lane.lost));
            lane.lost = lost;
        }
        None
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
    /// What the kernel had lost when it was last asked.
    lost: Losses,
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
    /// What was last said about it.
    told: String,
}

impl Lane {
    pub(super) fn new(id: PortId, port: Box<dyn Port>, counters: PortCounters, now: Mono) -> Lane {
        let log = Quota { lines: LINES, filled: now, silent: 0 };
        Lane {
            id,
            port,
            counters,
            lost: Losses::default(),
            ready: true,
            broken: None,
            told_up: true,
            up_since: now,
            wait: FIRST,
            log,
        }
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
        let told = error.source().to_string();
        self.broken = Some(Broken { since: now, retry: now + self.wait, told });
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
        if let Err(error) = self.port.reopen() {
            self.wait = Span((self.wait.0 * 2).min(SLOWEST.0));
            b.retry = now + self.wait;
            // a link that was down may have been deleted or renamed meanwhile
            let reason = error.to_string();
            if reason != b.told
                && let Some(silent) = self.log.line(now)
            {
                warn!(port = %self.port.info().name, %error, silent, "port still does not work");
                b.told = reason;
            }
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
    use crate::io::mem::info;
    use crate::io::{Burst, PortInfo, SendReport, SlotIter};

    /// A port that has lost so many packets.
    struct Lossy(crate::io::MemPort, std::sync::Arc<std::sync::atomic::AtomicU64>);

    impl Port for Lossy {
        fn info(&self) -> &PortInfo {
            self.0.info()
        }
        fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            self.0.fd()
        }
        fn recv_burst<'m>(&mut self, s: &mut SlotIter<'m>, b: &mut Burst<'m>) -> Result<(), PortError> {
            self.0.recv_burst(s, b)
        }
        fn send_burst(
            &mut self,
            packets: &mut [&mut crate::buf::PacketBuf<'_>],
            report: &mut SendReport,
        ) -> Result<(), PortError> {
            self.0.send_burst(packets, report)
        }
        fn losses(&mut self) -> Losses {
            let full = self.1.load(std::sync::atomic::Ordering::Relaxed);
            Losses { full, invalid: 1, ..Losses::default() }
        }
        fn reopen(&mut self) -> std::io::Result<()> {
            self.0.reopen()
        }
    }

    #[test]
    fn what_the_kernel_lost_is_asked_once_a_second_while_there_is_traffic() {
        let lost = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let set = |n| lost.store(n, std::sync::atomic::Ordering::Relaxed);
        let end = |name| info(name, crate::addr::Mac::default(), crate::host::OffloadCaps::default());
        let (near, _far) = crate::io::MemPort::pair(end("near"), end("far"), 4).unwrap();
        let counters = PortCounters::default();
        let queues: Vec<Box<dyn Port>> = vec![Box::new(Lossy(near, lost.clone()))];
        let mut lanes = Lanes::new(vec![(queues, counters.clone())], Mono::ZERO);
        let at = Mono::from_millis;
        set(5);
        assert_eq!(lanes.ask_for_losses(at(5000)), None, "nothing came, nobody is to wake up");
        assert_eq!(counters.read().lost.total(), 0);
        lanes.stirred = true;
        assert_eq!(lanes.ask_for_losses(at(999)), Some(at(1000)));
        assert_eq!(lanes.ask_for_losses(at(1000)), None);
        assert_eq!(counters.read().lost, Losses { full: 5, invalid: 1, ..Losses::default() });
        set(12);
        lanes.stirred = true;
        assert_eq!(lanes.ask_for_losses(at(2500)), None);
        assert_eq!(counters.read().lost, Losses { full: 12, invalid: 1, ..Losses::default() });
        // it was opened anew in between
        set(2);
        lanes.stirred = true;
        assert_eq!(lanes.ask_for_losses(at(4000)), None);
        assert_eq!(counters.read().lost.full, 14);
    }

    #[test]
    fn a_thousand_transitions_in_a_second_write_six_lines() {
        let mut q = Quota { lines: LINES, filled: Mono::ZERO, silent: 0 };
        let written = (0..1000).filter(|ms| q.line(Mono::from_millis(*ms)).is_some()).count();
        assert_eq!(written, 6);
        assert_eq!(q.line(Mono::from_millis(10_000)), Some(994));
        assert_eq!(q.line(Mono::from_millis(10_001)), None);
    }
}
