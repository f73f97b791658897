//! The director itself: packets, time and changes in; packets, verdicts and events out.
//!
//! > **Drive contract.** After every call that takes an [`Out`], send what is in it. Call
//! > [`Engine::on_timeout`] no earlier than [`Engine::poll_timeout`] says and soon after. Nothing else is
//! > needed: no clock, no thread, no descriptor.
//!
//! # Life of a packet
//! [`Engine::on_packet`] counts it, [`burst`] looks at the frame, and [`input`] decides by what it is: an
//! ARP packet, an IP packet. An IP packet whose tuple is in the connection table goes on as [`inbound`] (from the client) or
//! [`outbound`] (from a real server); another one that a service takes opens a connection in [`schedule`];
//! an ICMP error about a connection is translated in [`related`]; everything else is the virtual host's.
//! [`deliver`] is the one place where a packet towards a real server is rewritten and leaves.
#![forbid(unsafe_code)]

mod begun;
mod burst;
mod bypass;
pub mod checks;
pub mod cut;
mod defense;
mod deliver;
mod ear;
#[cfg(test)]
mod ending_tests;
pub mod explain;
mod express;
mod family;
mod fragment;
mod ftp;
mod inbound;
mod input;
mod options;
mod orphans;
mod outbound;
mod own;
mod path_mtu;
mod persist;
pub mod post;
#[cfg(test)]
mod properties;
mod related;
mod rows;
mod schedule;
mod segments;
mod sip;
pub mod steer;
mod stub;
#[cfg(test)]
pub(crate) mod tests;
mod together;
pub mod verdict;
mod ways;

use std::net::IpAddr;
use std::sync::Arc;

use crate::buf::Out;
use crate::conn::table::{Table, flag};
use crate::conn::wheel::Tick;
use crate::hash::HashKey;
use crate::host::frag::{FragLimits, Reassembly};
use crate::host::{AddrRange, Host, HostOptions};
use crate::nat::pool::{LocalPool, PORTS};
use crate::svc::{DestId, SchedulerKind, Snapshot, WorkerId};
use crate::time::{Mono, Span, fires};
use crate::wire::Link;

pub use persist::template_rows;
pub use rows::ConnRow;
pub use verdict::{DropCounters, DropReason, PortId, Taken, Verdict};

use burst::{Sight, WAVE};
use family::{IpFamily, Tables};
use post::{HOST, Post};
use steer::Crew;
use ways::Ways;

/// What an engine is made with and keeps for life.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Most connections, both families together.
    pub connection_limit: u32,
    /// Seed of everything random: packet identifications, hash keys, FULLNAT ports.
    pub seed: u64,
    /// Behaviour of the virtual host.
    pub host: HostOptions,
    /// Which worker drives it: whose counters it writes (see [`crate::svc::Catalog::with_workers`]).
    pub worker: WorkerId,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            connection_limit: 1_000_000,
            seed: 0,
            host: HostOptions::default(),
            worker: WorkerId(0),
        }
    }
}

/// Packets by what became of them; `received` is the sum of all others and of the drops by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets given to the engine.
    pub received: u64,
    /// Packets sent on as themselves.
    pub forwarded: u64,
    /// Packets for the director itself.
    pub local: u64,
    /// Packets kept until their neighbour answers.
    pub parked: u64,
    /// Packets sent in several pieces.
    pub split: u64,
    /// Fragments kept until their datagram is complete.
    pub reassembling: u64,
    /// Packets made by the engine: answers, errors, questions, pieces.
    pub made: u64,
    /// Packets given to the worker they belong to, which counts them as received.
    pub handed: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that expired or were ended.
    pub closed: u64,
    /// Resets sent to both ends of connections at the deadline of a drain.
    pub cut: u64,
    /// Connections ended before their time to defend the table (`drop_entry`).
    pub evicted: u64,
    /// Finished connections ended before their time because a new one has their reply tuple.
    pub made_room: u64,
    /// The same because every local port towards their server was taken (FULLNAT).
    pub reclaimed: u64,
}

impl std::ops::Add for Counters {
    type Output = Counters;
    fn add(self, other: Counters) -> Counters {
        Counters {
            received: self.received + other.received,
            forwarded: self.forwarded + other.forwarded,
            local: self.local + other.local,
            parked: self.parked + other.parked,
            split: self.split + other.split,
            reassembling: self.reassembling + other.reassembling,
            made: self.made + other.made,
            handed: self.handed + other.handed,
            opened: self.opened + other.opened,
            closed: self.closed + other.closed,
            cut: self.cut + other.cut,
            evicted: self.evicted + other.evicted,
            made_room: self.made_room + other.made_room,
            reclaimed: self.reclaimed + other.reclaimed,
        }
    }
}

/// The director of one worker.
#[derive(Debug)]
pub struct Engine {
    snap: Arc<Snapshot>,
    core: Core,
    /// What is watched, while somebody does.
    watched: Option<Box<explain::Gathered>>,
    /// Who hears what comes in, while somebody does.
    ear: Option<ear::Ear>,
}

/// Everything mutable, apart from the snapshot so that both can be borrowed at once.
#[derive(Debug)]
struct Core {
    worker: WorkerId,
    /// The latest time anybody told.
    now: Mono,
    links: Vec<Link>,
    host: Host,
    ways: Ways,
    /// What was seen of the packets of a burst that are not ordinary, by place.
    sights: Box<[Sight; WAVE]>,
    tables: Tables,
    together: together::Together,
    limit: u32,
    /// FULLNAT tuples, by outgoing port.
    pools: Vec<LocalPool>,
    frags: Reassembly,
    /// Where the search for connections whose real server was removed goes on, in both tables.
    orphans: Option<[u32; 2]>,
    /// What routers said about the way to real servers behind tunnels.
    path_mtus: path_mtu::PathMtus,
    defense: defense::Defense,
    /// When schedulers are to forget next.
    sweep_at: Mono,
    ftp: ftp::Ftp,
    /// With several workers: our place among them.
    post: Option<Post>,
    /// Who takes the answers of health checks.
    tap: Option<checks::Tap>,
    random: Random,
    drops: DropCounters,
    counters: Counters,
    /// Who listens to what is told on the way; nobody but in a twin.
    trace: Option<Box<explain::Trace>>,
}

impl Engine {
    /// An engine that decides by `snapshot`.
    ///
    /// # Errors
    /// When the memory for `connection_limit` connections cannot be reserved.
    pub fn new(
        now: Mono,
        options: EngineOptions,
        snapshot: Arc<Snapshot>,
    ) -> Result<Engine, std::collections::TryReserveError> {
        Engine::make(now, options, snapshot, None)
    }
    /// One of the engines of a crew: `options.worker` is its place in it, `options.connection_limit` that of
    /// all together.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn in_crew(
        now: Mono,
        options: EngineOptions,
        snapshot: Arc<Snapshot>,
        crew: Arc<Crew>,
    ) -> Result<Engine, std::collections::TryReserveError> {
        let crew = (crew.workers() > 1).then_some(crew);
        Engine::make(now, options, snapshot, crew)
    }
    fn make(
        now: Mono,
        options: EngineOptions,
        snapshot: Arc<Snapshot>,
        crew: Option<Arc<Crew>>,
    ) -> Result<Engine, std::collections::TryReserveError> {
        let mut random = Random(options.seed);
        let key = HashKey(random.next(), random.next());
        let mut host = Host::new(now, snapshot.net.clone(), random.next());
        let workers = crew.as_ref().map_or(1, |crew| u32::from(crew.workers()));
        host.set_options(options.host);
        host.share_limit(workers);
        host.set_silent(workers > 1 && options.worker != HOST);
        // workers look at the common count each for itself: so many may open a connection in one moment
        let limit = options.connection_limit.saturating_sub(workers - 1).max(1);
        let share = if workers == 1 { limit } else { limit.min(limit / workers + limit / 8 + 4096) };
        let tables = Tables {
            v4: Table::new(now, share, key)?,
            v6: Table::new(now, share, key)?,
            control4: Vec::new(),
            control6: Vec::new(),
            elsewhere: 0,
        };
        let mut core = Core {
            together: together::Together::default(),
            worker: options.worker,
            now,
            links: Vec::new(),
            host,
            ways: Ways::default(),
            sights: Box::new([Sight::NOTHING; WAVE]),
            tables,
            limit,
            pools: Vec::new(),
            frags: Reassembly::new(FragLimits::default()),
            orphans: None,
            path_mtus: path_mtu::PathMtus::default(),
            defense: defense::Defense::default(),
            sweep_at: now,
            ftp: ftp::Ftp::default(),
            post: crew.map(|crew| Post::new(crew, options.worker)),
            tap: None,
            random,
            drops: DropCounters::default(),
            counters: Counters::default(),
            trace: None,
        };
        core.configure(now, &snapshot);
        Ok(Engine { snap: snapshot, core, watched: None, ear: None })
    }
    /// Takes another snapshot. Connections whose real server still exists are untouched.
    pub fn on_snapshot(&mut self, now: Mono, snapshot: Arc<Snapshot>) {
        if !Arc::ptr_eq(&self.snap.net, &snapshot.net) && *self.snap.net != *snapshot.net {
            self.core.host.reconfigure(now, snapshot.net.clone());
        }
        self.core.configure(now, &snapshot);
        self.core.find_orphans(&self.snap, &snapshot);
        self.snap = snapshot;
    }
    /// The snapshot in force.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snap
    }
    /// Announces all addresses (gratuitous ARP, unsolicited neighbour advertisements).
    pub fn announce(&mut self, now: Mono, out: &mut Out) {
        self.core.host.announce(now, out);
    }
    /// When [`Engine::on_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let (t, now) = (&self.core.tables, self.core.now);
        let (host, frags) = (self.core.host.poll_timeout(), self.core.frags.poll_timeout());
        let templates = self.snap.templates.poll_timeout().filter(|_| self.core.worker == HOST);
        let defense = self.core.defense.poll_timeout(&self.snap.sysctl, t.len());
        let orphans = self.core.orphans.map(|_| now);
        [host, frags, defense, templates, orphans, t.v4.poll_timeout(now), t.v6.poll_timeout(now)]
            .into_iter()
            .flatten()
            .min()
    }
    /// Expires what is due, a bounded number at a time, and lets the virtual host do its work.
    pub fn on_timeout(&mut self, now: Mono, out: &mut Out) {
        let before = out.len();
        let core = &mut self.core;
        core.now = now;
        core.host.on_timeout(now, out);
        core.undelivered(&self.snap, out);
        core.expire::<u32>(&self.snap, now);
        core.expire::<u128>(&self.snap, now);
        core.close_orphans(&self.snap);
        if core.worker == HOST {
            core.expire_templates(&self.snap, now);
        }
        core.fragment_timeouts(&self.snap, now, out);
        core.defend(&self.snap, now);
        core.sweep_schedulers(&self.snap, now);
        core.counters.made += (out.len() - before) as u64;
    }
    /// A device refused packets the engine had sent.
    pub fn device_drop(&mut self, why: DropReason, packets: u64) {
        for _ in 0..packets {
            self.core.drops.count(why);
        }
    }
    /// Local tuples of FULLNAT: in use, and left towards the real servers that any are in use for.
    pub fn local_tuples(&self) -> (usize, usize) {
        let used = self.core.pools.iter().map(LocalPool::live).sum();
        let room = |pool: &LocalPool| pool.sets() * pool.ports().len();
        (used, self.core.pools.iter().map(room).sum::<usize>().saturating_sub(used))
    }
    /// Packets by what became of them.
    pub fn counters(&self) -> Counters {
        self.core.counters
    }
    /// Drops by verdict and by device.
    pub fn drops(&self) -> &DropCounters {
        &self.core.drops
    }
    /// The virtual host, for listing.
    pub fn host(&self) -> &Host {
        &self.core.host
    }
    /// The virtual host, for draining its events.
    pub fn host_mut(&mut self) -> &mut Host {
        &mut self.core.host
    }
    /// Live connections, both families.
    pub fn connection_count(&self) -> usize {
        self.core.tables.len()
    }
    /// Bytes held by the connection tables.
    pub fn table_bytes(&self) -> usize {
        self.core.tables.v4.bytes() + self.core.tables.v6.bytes()
    }
    /// Live connections for listing, IPv4 first.
    pub fn connections(&self, now: Mono) -> impl Iterator<Item = ConnRow> + '_ {
        let (snap, t) = (&self.snap, &self.core.tables);
        let v4 = t.v4.iter().map(move |(_, c)| rows::row(c, snap, now));
        v4.chain(t.v6.iter().map(move |(_, c)| rows::row(c, snap, now)))
    }
    /// Compares the counts of real servers with the tables of all engines of a director. As [`Engine::check`].
    ///
    /// # Errors
    /// The first count that is wrong.
    pub fn check_counts(engines: &[&Engine]) -> Result<(), String> {
        let Some(first) = engines.first() else { return Ok(()) };
        for dest in first.snap.dests.iter().flatten() {
            let (mut active, mut inactive) = (0, 0);
            let mut add = |id: DestId, flags: u16| {
                if id == dest.id && flags & flag::BOUND != 0 {
                    *if flags & flag::INACTIVE != 0 { &mut inactive } else { &mut active } += 1;
                }
            };
            for engine in engines {
                engine.core.tables.v4.iter().for_each(|(_, c)| add(c.dest, c.flags));
                engine.core.tables.v6.iter().for_each(|(_, c)| add(c.dest, c.flags));
            }
            if (dest.active(), dest.inactive()) != (active, inactive) {
                return Err(format!(
                    "{}: counts {}/{}, table {active}/{inactive}",
                    dest.spec.ip,
                    dest.active(),
                    dest.inactive()
                ));
            }
        }
        Ok(())
    }
    /// Walks tables and counts and says what does not fit. For tests and fuzzing; slow.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn check(&self) -> Result<(), String> {
        let core = &self.core;
        core.tables.v4.check()?;
        core.tables.v6.check()?;
        let c = core.counters;
        let known = c.forwarded + c.local + c.parked + c.split + c.reassembling;
        let dropped: u64 = core.drops.total()
            - [DropReason::DeviceFull, DropReason::DeviceDown].map(|r| core.drops.of(r)).iter().sum::<u64>();
        if c.received != known + dropped {
            return Err(format!("{} packets received, {known} used, {dropped} dropped", c.received));
        }
        if c.opened - c.closed != core.tables.len() as u64 {
            return Err(format!("{} opened, {} closed, {} live", c.opened, c.closed, core.tables.len()));
        }
        // the counts of a real server are those of all workers together
        if core.post.is_none() {
            Engine::check_counts(&[self])?;
        }
        self.check_templates()?;
        core.ftp_check()?;
        let fullnat = core.tables.fullnat();
        let taken: usize = core.pools.iter().map(LocalPool::live).sum();
        if fullnat != taken {
            return Err(format!("{taken} local tuples taken, {fullnat} FULLNAT connections"));
        }
        Ok(())
    }
}

/// Most connections looked at by one `on_timeout`, so that no packet waits a millisecond for expiry.
const EXPIRE_BUDGET: u32 = 1024;

impl Core {
    fn count(&mut self, verdict: Verdict) {
        self.counters.received += 1;
        match verdict {
            // its owner counts it
            Verdict::HandTo(_) | Verdict::Taken(Taken::Handed) => {
                self.counters.received -= 1;
                self.counters.handed += 1;
            }
            Verdict::Send(_) => self.counters.forwarded += 1,
            Verdict::Taken(Taken::Local) => self.counters.local += 1,
            Verdict::Taken(Taken::Parked) => self.counters.parked += 1,
            Verdict::Taken(Taken::Split) => self.counters.split += 1,
            Verdict::Taken(Taken::Reassembling) => self.counters.reassembling += 1,
            Verdict::Drop(why) => self.drops.count(why),
        }
    }
    fn configure(&mut self, now: Mono, snap: &Snapshot) {
        self.set_defense(now, snap);
        let worker = self.worker;
        let ports = self.post.as_mut().map_or(PORTS, |post| {
            post.configure(snap);
            post.crew().ports(worker)
        });
        let net = &snap.net;
        self.ways.clear();
        self.links = net.ports.iter().map(|p| p.link).collect();
        self.host.set_vips(now, &snap.owned);
        let configured: Vec<IpAddr> = net.local_addresses.iter().flat_map(AddrRange::iter).collect();
        for (i, port) in net.ports.iter().enumerate() {
            let addresses = if configured.is_empty() {
                port.addresses.iter().map(|c| c.addr).collect()
            } else {
                configured.clone()
            };
            if self.pools.len() <= i {
                let seed = (self.random.next(), self.random.next());
                self.pools.push(LocalPool::new(addresses, ports.clone(), seed));
            } else if self.pools[i].addresses() != addresses {
                self.pools[i].set_addresses(addresses);
            }
        }
    }
    /// Lets `lblc` and `lblcr` forget, also where nobody asks them. The kernel has a timer for this that
    /// goes off once a minute (IPVS-RULES 57); here it is what happens to be due by then.
    fn sweep_schedulers(&mut self, snap: &Snapshot, now: Mono) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + Span::from_secs(60);
        for service in &snap.services {
            if matches!(service.spec.scheduler, SchedulerKind::Lblc | SchedulerKind::Lblcr) {
                service.scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).sweep(now);
            }
        }
    }
    fn expire<A: IpFamily>(&mut self, snap: &Snapshot, now: Mono) {
        let mut budget = EXPIRE_BUDGET;
        while let Some(slot) = A::table(&mut self.tables).next_due(now, &mut budget) {
            if self.lingers::<A>(snap, slot, now) || self.ftp_waits::<A>(slot, now) {
                continue;
            }
            self.close::<A>(snap, slot);
        }
    }
    /// Nothing ends before the kernel's timer would have gone off: until then it is listed with 00:00,
    /// counts, and takes packets, which give it a new deadline.
    fn lingers<A: IpFamily>(&mut self, snap: &Snapshot, slot: u32, now: Mono) -> bool {
        let table = A::table(&mut self.tables);
        let conn = table.get(slot);
        let timeout = match snap.dest(conn.dest) {
            Some(dest) => inbound::timeout(snap, dest, conn.state),
            None => snap.timeouts.of(conn.state),
        };
        let end = fires(conn.deadline.before(now), timeout);
        if end > now {
            table.defer(slot, Tick::of(now).after(end.since(now)));
        }
        end > now
    }
    /// Ends a connection and takes it off every count.
    fn close<A: IpFamily>(&mut self, snap: &Snapshot, slot: u32) {
        if A::table(&mut self.tables).get(slot).flags & (flag::HELPED | flag::CHILD) != 0 {
            self.ftp_closes::<A>(slot);
        }
        let conn = A::table(&mut self.tables).close(slot);
        self.tell_closed(&conn);
        self.counters.closed += 1;
        if let Some(post) = &self.post {
            post.crew().closed();
            if conn.flags & flag::FOREIGN != 0 {
                self.withdraw_keys(&conn);
            }
        }
        if conn.flags & flag::CONTROLLED != 0 {
            self.uncontrol::<A>(slot);
        }
        if conn.flags & flag::BOUND != 0
            && let Some(dest) = snap.dest(conn.dest)
        {
            dest.unbind(conn.flags & flag::INACTIVE == 0);
        }
        if conn.flags & flag::FULLNAT != 0 {
            self.give_back(&conn);
        }
    }
}

/// The injected source of randomness: SplitMix64 over the seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
