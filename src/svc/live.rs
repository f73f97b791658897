//! Services and real servers as the packet path sees them: immutable descriptions that share live counts.
//!
//! A change of weight makes a new [`Dest`] with the same identity and the same [`DestLive`], so counts
//! survive every reload. The counts are the only memory that several workers write, and only when a
//! connection begins, ends or changes between active and inactive.

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
    /// Traffic of this real server.
    pub stats: Stats,
}

impl DestLive {
    /// A template begins (kernel: `persistconns`).
    pub fn bind_template(&self) {
        self.persistent.fetch_add(1, Relaxed);
    }
    /// A template ended.
    pub fn unbind_template(&self) {
        let _ = self.persistent.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(1)));
    }
}

/// Counters of one worker (`ipvsadm -L --stats`). Only that worker writes them, with plain loads and
/// stores; everybody may read.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections scheduled.
    pub conns: AtomicU64,
    /// Packets from clients.
    pub in_pkts: AtomicU64,
    /// Bytes of those, IP header included, before translation.
    pub in_bytes: AtomicU64,
    /// Packets to clients (NAT and FULLNAT only).
    pub out_pkts: AtomicU64,
    /// Bytes of those.
    pub out_bytes: AtomicU64,
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Stats {
    /// A connection was scheduled.
    pub fn connection(&self) {
        add(&self.conns, 1);
    }
    /// A packet of `bytes` from a client; super-frames count as the `packets` they stand for.
    #[inline]
    pub fn input(&self, packets: u64, bytes: u64) {
        add(&self.in_pkts, packets);
        add(&self.in_bytes, bytes);
    }
    /// A packet to a client.
    #[inline]
    pub fn output(&self, packets: u64, bytes: u64) {
        add(&self.out_pkts, packets);
        add(&self.out_bytes, bytes);
    }
    /// Conns, InPkts, OutPkts, InBytes, OutBytes.
    pub fn read(&self) -> [u64; 5] {
        [&self.conns, &self.in_pkts, &self.out_pkts, &self.in_bytes, &self.out_bytes].map(|c| c.load(Relaxed))
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
    /// Timeouts of its service beyond the global ones.
    pub timeouts: ServiceTimeouts,
    /// Lower the MSS of SYNs into a tunnel (its service's `mss_clamp`).
    pub mss_clamp: bool,
    /// Traffic of its service.
    pub service_stats: Arc<Stats>,
    /// False once it was removed and only its connections are left (kernel: `IP_VS_DEST_F_AVAILABLE`).
    pub available: bool,
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
    /// True from the upper threshold on, until below the lower one.
    #[inline]
    pub fn overloaded(&self) -> bool {
        self.live.overloaded.load(Relaxed)
    }
    /// May it take a new connection?
    #[inline]
    pub fn usable(&self) -> bool {
        self.weight() > 0 && !self.overloaded()
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
    pub stats: Arc<Stats>,
    /// Scheduler state: one per service, whatever the number of workers; locked for new connections only.
    pub scheduler: Arc<Mutex<Scheduler>>,
}
