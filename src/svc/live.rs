//! Services and real servers as the packet path sees them: immutable descriptions that share live counts.
//!
//! A change of weight makes a new [`Dest`] with the same identity and the same [`DestLive`], so counts
//! survive every reload. The counts of connections are the only memory that several workers write, and only
//! when a connection begins, ends or changes between active and inactive; traffic is counted by each worker
//! in a block of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::spec::{DestSpec, ServiceSpec, ServiceTimeouts};
use crate::sched::Scheduler;

/// Identity of a real server in the catalog; never reused while a connection refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestId(pub u32);

/// Identity of a service in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Counts of a real server that live as long as its identity.
#[derive(Debug, Default)]
pub struct DestLive {
    active: AtomicU32,
    inactive: AtomicU32,
    persistent: AtomicU32,
    overloaded: AtomicBool,
    /// Slow start (see `gentle.rs`): bound of its part of new connections, 0 for none; what it has earned;
    /// whether it is passed over.
    pub(super) share: AtomicU32,
    pub(super) credit: AtomicU32,
    pub(super) held: AtomicBool,
    /// Clients that asked again because nobody answered, and connections it refused.
    trouble: [AtomicU64; 2],
}

impl DestLive {
    /// A client asks again for a connection that nobody answered.
    pub fn unanswered(&self) {
        self.trouble[0].fetch_add(1, Relaxed);
    }
    /// The server refused a connection.
    pub fn refused(&self) {
        self.trouble[1].fetch_add(1, Relaxed);
    }
    /// Connections not answered, and refused.
    pub fn trouble(&self) -> [u64; 2] {
        [0, 1].map(|i: usize| self.trouble[i].load(Relaxed))
    }
    /// A template begins (kernel: `persistconns`).
    pub fn bind_template(&self) {
        self.persistent.fetch_add(1, Relaxed);
    }
    /// The same counts at this moment, on their own from now on.
    pub(super) fn copy(&self) -> DestLive {
        let number = |n: &AtomicU32| AtomicU32::new(n.load(Relaxed));
        DestLive {
            active: number(&self.active),
            inactive: number(&self.inactive),
            persistent: number(&self.persistent),
            overloaded: AtomicBool::new(self.overloaded.load(Relaxed)),
            share: number(&self.share),
            credit: number(&self.credit),
            held: AtomicBool::new(self.held.load(Relaxed)),
            trouble: [0, 1].map(|i: usize| AtomicU64::new(self.trouble[i].load(Relaxed))),
        }
    }
    /// A template ended.
    pub fn unbind_template(&self) {
        let _ = self.persistent.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(1)));
    }
}

/// Which worker: each writes only what is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// Traffic counters (`ipvsadm -L --stats`), one block for each worker. Only that worker writes its block,
/// with plain loads and stores; everybody may read, and sees the sum. Clones share the blocks.
#[derive(Clone, Debug)]
pub struct Stats(Arc<[Tally]>);

/// The part of [`Stats`] that one worker counts in.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Block>);

/// What one worker counts, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Block {
    conns: AtomicU64,
    in_pkts: AtomicU64,
    in_bytes: AtomicU64,
    out_pkts: AtomicU64,
    out_bytes: AtomicU64,
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Default for Stats {
    fn default() -> Stats {
        Stats::new(1)
    }
}

impl Stats {
    /// Counters for so many workers, at least one.
    pub fn new(workers: u16) -> Stats {
        Stats((0..workers.max(1)).map(|_| Tally::default()).collect())
    }
    /// What a worker counts in. One that nobody announced shares the last part, and may lose counts there.
    #[inline(always)]
    pub fn of(&self, worker: WorkerId) -> &Tally {
        self.0.get(usize::from(worker.0)).unwrap_or_else(|| self.last())
    }
    #[cold]
    fn last(&self) -> &Tally {
        &self.0[self.0.len() - 1]
    }
    /// Blocks of their own for as many workers, from zero: no packet is decided by what was counted.
    pub(super) fn apart(&self) -> Stats {
        Stats::new(self.0.len() as u16)
    }
    /// A connection was scheduled.
    pub fn connection(&self, worker: WorkerId) {
        add(&self.of(worker).0.conns, 1);
    }
    /// A packet of `bytes` from a client (IP header included, before translation); super-frames count as
    /// the `packets` they stand for.
    #[inline(always)]
    pub fn input(&self, worker: WorkerId, packets: u64, bytes: u64) {
        self.of(worker).input(packets, bytes);
    }
    /// A packet to a client (NAT and FULLNAT, and errors told on a real server's behalf).
    #[inline(always)]
    pub fn output(&self, worker: WorkerId, packets: u64, bytes: u64) {
        self.of(worker).output(packets, bytes);
    }
    /// Conns, InPkts, OutPkts, InBytes, OutBytes of all workers.
    pub fn read(&self) -> [u64; 5] {
        self.0.iter().fold([0; 5], |sum, Tally(b)| {
            let of_block = [&b.conns, &b.in_pkts, &b.out_pkts, &b.in_bytes, &b.out_bytes];
            std::array::from_fn(|i| sum[i].wrapping_add(of_block[i].load(Relaxed)))
        })
    }
}

impl Tally {
    /// See [`Stats::input`].
    #[inline(always)]
    pub fn input(&self, packets: u64, bytes: u64) {
        add(&self.0.in_pkts, packets);
        add(&self.0.in_bytes, bytes);
    }
    /// See [`Stats::output`].
    #[inline(always)]
    pub fn output(&self, packets: u64, bytes: u64) {
        add(&self.0.out_pkts, packets);
        add(&self.0.out_bytes, bytes);
    }
}

/// A real server of one service.
#[derive(Clone, Debug)]
pub struct Dest {
    /// Identity, survives edits.
    pub id: DestId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Configuration.
    pub spec: DestSpec,
    /// Shared counts.
    pub live: Arc<DestLive>,
    /// Traffic of this real server.
    pub stats: Stats,
    /// Timeouts of its service beyond the global ones.
    pub timeouts: ServiceTimeouts,
    /// Lower the MSS of SYNs into a tunnel (its service's `mss_clamp`).
    pub mss_clamp: bool,
    /// Traffic of its service.
    pub service_stats: Stats,
    /// False once it was removed and only its connections are left (kernel: `IP_VS_DEST_F_AVAILABLE`).
    pub available: bool,
    /// What becomes of its connections.
    pub ending: Ending,
}

/// What becomes of the connections of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// They go on.
    #[default]
    No,
    /// The server is known to be dead: datagrams of known flows, and connections that begin on the tuple of an
    /// old one, are scheduled anew.
    Dead,
    /// The deadline of its drain is over: both ends get a reset.
    Cut,
}

impl Dest {
    /// Weight; 0 = no new connections.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.spec.weight
    }
    /// Connections in an active state (kernel: ESTABLISHED and half-open ones).
    #[inline]
    pub fn active(&self) -> u32 {
        self.live.active.load(Relaxed)
    }
    /// All other connections.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.live.inactive.load(Relaxed)
    }
    /// Persistence templates, retired ones included; they count neither as active nor as inactive.
    pub fn persistent(&self) -> u32 {
        self.live.persistent.load(Relaxed)
    }
    /// True from the upper threshold on, until below the lower one, and while slow start passes it over.
    #[inline]
    pub fn overloaded(&self) -> bool {
        self.live.overloaded.load(Relaxed) || self.live.held.load(Relaxed)
    }
    /// May it take a new connection?
    #[inline]
    pub fn usable(&self) -> bool {
        self.weight() > 0 && !self.overloaded()
    }
    /// Counts a packet of `bytes` from a client, here and at the service.
    #[inline]
    pub fn count_input(&self, worker: WorkerId, bytes: u64) {
        self.stats.input(worker, 1, bytes);
        self.service_stats.input(worker, 1, bytes);
    }
    /// Counts a packet of `bytes` to a client, here and at the service.
    #[inline]
    pub fn count_output(&self, worker: WorkerId, bytes: u64) {
        self.stats.output(worker, 1, bytes);
        self.service_stats.output(worker, 1, bytes);
    }
    /// A connection was bound: counts it as inactive or active and looks at the thresholds
    /// (kernel: `ip_vs_bind_dest`).
    pub fn bind(&self, active: bool) {
        if active { &self.live.active } else { &self.live.inactive }.fetch_add(1, Relaxed);
        self.refresh_overload();
    }
    /// A bound connection ended (kernel: `ip_vs_unbind_dest`).
    pub fn unbind(&self, active: bool) {
        let count = if active { &self.live.active } else { &self.live.inactive };
        let _ = count.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(1)));
        self.refresh_overload();
    }
    /// A bound connection changed between active and inactive. Thresholds are not looked at (rule 88).
    pub fn turn(&self, now_active: bool) {
        let (up, down) = if now_active {
            (&self.live.active, &self.live.inactive)
        } else {
            (&self.live.inactive, &self.live.active)
        };
        up.fetch_add(1, Relaxed);
        let _ = down.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(1)));
    }
    /// Applies the thresholds to the present counts (IPVS-RULES 88; `ip_vs_dest_totalconns`).
    pub fn refresh_overload(&self) {
        let (upper, lower) = (u64::from(self.spec.upper), u64::from(self.spec.lower));
        let total = u64::from(self.active()) + u64::from(self.inactive());
        if upper != 0 && total >= upper {
            self.live.overloaded.store(true, Relaxed);
        }
        let recovered = match (lower, upper) {
            (0, 0) => true,
            (0, _) => total * 4 < upper * 3,
            _ => total < lower,
        };
        if recovered {
            self.live.overloaded.store(false, Relaxed);
        }
    }
}

/// A virtual service with its real servers.
#[derive(Clone, Debug)]
pub struct Service {
    /// Identity, survives edits.
    pub id: ServiceId,
    /// Configuration.
    pub spec: ServiceSpec,
    /// Real servers in the kernel's list order: the newest first (IPVS-RULES 42).
    pub dests: Vec<Arc<Dest>>,
    /// Traffic of all its connections.
    pub stats: Stats,
    /// Scheduler state: one per service, whatever the number of workers; locked for new connections only.
    pub scheduler: Arc<Mutex<Scheduler>>,
    /// A server is in slow start.
    pub gentle: Arc<AtomicBool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_count_in_blocks_of_their_own_and_the_reader_sees_the_sum() {
        assert_eq!(size_of::<Block>(), 64, "no two workers share a cache line");
        let stats = Stats::new(2);
        let clone = stats.clone();
        std::thread::scope(|threads| {
            for worker in [WorkerId(0), WorkerId(1)] {
                let stats = &stats;
                threads.spawn(move || {
                    stats.connection(worker);
                    (0..10_000).for_each(|_| stats.input(worker, 1, 40));
                    (0..5_000).for_each(|_| stats.output(worker, 2, 60));
                });
            }
        });
        assert_eq!(clone.read(), [2, 20_000, 20_000, 800_000, 600_000]);
        clone.input(WorkerId(9), 1, 1);
        assert_eq!(stats.read()[1], 20_001, "an unknown worker is counted somewhere");
    }
}
