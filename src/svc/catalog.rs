//! The control side's master copy: one transaction of changes at a time, published as a [`Snapshot`].
//!
//! A catalog is cheap to clone (everything is shared by `Arc`). A change is made on a clone; when all of
//! it succeeded the clone replaces the original, else nothing has happened. Scheduler state is told of
//! changes at [`Catalog::commit`], so a change that is thrown away leaves no trace there either.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::settings::{Sysctl, Timeouts};
use super::snapshot::{ByKey, NamedVip, Snapshot};
use super::{
    Dest, DestId, DestSpec, Dests, Ending, SchedulerKind, Service, ServiceId, ServiceKey, ServiceSpec, Stats,
};
use crate::conn::template::Templates;
use crate::host::{NetPlan, Vips};
use crate::sched::Scheduler;
use crate::time::{Mono, Span, fires};

/// Why a change was refused; the text is the kernel's (IPVS-RULES 99).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogError {
    /// `-A` of a service that exists.
    ServiceExists,
    /// `-D`, `-E`, `-Z` of a service that does not exist.
    NoSuchService,
    /// `-a`, `-e`, `-d` on a service that does not exist.
    ServiceNotDefined,
    /// `-a` of a real server that exists.
    DestExists,
    /// `-e`, `-d` of a real server that does not exist.
    NoSuchDest,
    /// Lower threshold above the upper one.
    Range,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CatalogError::ServiceExists => "Service already exists",
            CatalogError::NoSuchService => "No such service",
            CatalogError::ServiceNotDefined => "Service not defined",
            CatalogError::DestExists => "Destination already exists",
            CatalogError::NoSuchDest => "No such destination",
            CatalogError::Range => "Numerical result out of range",
        })
    }
}

impl std::error::Error for CatalogError {}

/// What schedulers have to be told when a transaction is committed, in order.
#[derive(Clone, Debug)]
enum Notice {
    /// A server, and whether its identity stands for another one than before.
    Added(DestId, bool),
    Removed(DestId, usize),
    Edited(DestId),
}

/// A notice with the scheduler it is for and the list of servers at that moment.
type Pending = (Arc<Mutex<Scheduler>>, Vec<Arc<Dest>>, Notice);

/// A removed server can come back as what it was, with its counters and whatever remembers it.
#[derive(Clone, Debug)]
struct Removed {
    key: ServiceKey,
    id: DestId,
    /// It had connections when it was looked at last.
    busy: bool,
    /// When it was found to have none.
    idle: Option<Mono>,
}

/// How long a removed server is remembered after it was found to have no connections (kernel:
/// `IP_VS_DEST_TRASH_PERIOD`).
const REMEMBERED: Span = Span::from_secs(120);
/// How often removed servers are looked at, from the first of them on: what has no connections is
/// remembered for three times as long.
const SWEEP: Span = Span::from_secs(60);
/// Of those at most so many.
const MOST_REMEMBERED: usize = 1024;

/// What snapshots share as long as services and network stay.
#[derive(Clone, Debug, Default)]
struct Last {
    /// Services were added, removed or edited since.
    stale: bool,
    net: Arc<NetPlan>,
    by_key: Arc<ByKey>,
    vips: Arc<Vec<NamedVip>>,
    owned: Arc<Vips>,
    engines: bool,
    /// Snapshots that somebody may still hold: workers must not be the ones who free a hundred thousand
    /// servers, so each is kept until it is nobody else's.
    published: Vec<Arc<Snapshot>>,
}

/// Services and real servers with everything needed to change them.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    services: Vec<Arc<Service>>,
    dests: Dests,
    /// Removed servers: with connections, or not long gone (kernel: `dest_trash`).
    trash: Vec<Removed>,
    /// When they are looked at next, while there are any (kernel: `dest_trash_timer`).
    sweep_at: Option<Mono>,
    /// Free identities.
    free: Vec<u32>,
    index: HashMap<ServiceKey, usize>,
    /// Addresses of real servers that translate, with how many have each.
    reals: Arc<HashMap<IpAddr, u32>>,
    /// What the last snapshot had, as far as the next one may have the same.
    last: Last,
    next_service: u32,
    /// Blocks of counters that services and real servers get.
    workers: u16,
    generation: u64,
    notices: Vec<Pending>,
    templates: Arc<Templates>,
    /// What time it is, for servers that are to be forgotten by now; told before anything is changed.
    pub now: Mono,
    /// Timeouts for the next snapshot.
    pub timeouts: Timeouts,
    /// Switches for the next snapshot.
    pub sysctl: Sysctl,
    /// Network for the next snapshot.
    pub net: Arc<NetPlan>,
}

impl Catalog {
    /// An empty catalog over a network.
    pub fn new(net: Arc<NetPlan>) -> Catalog {
        Catalog { net, ..Catalog::default() }
    }
    /// The same with counters for so many workers; said before anything is added.
    #[must_use]
    pub fn with_workers(self, workers: u16) -> Catalog {
        Catalog { workers, ..self }
    }
    /// Services in the order they were added.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }
    /// Persistence templates, shared by all workers.
    pub fn templates(&self) -> &Arc<Templates> {
        &self.templates
    }
    /// The service with this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.index.get(key).and_then(|i| self.services.get(*i))
    }
    /// Adds a service (`ipvsadm -A`).
    ///
    /// # Errors
    /// [`CatalogError::ServiceExists`]
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<ServiceId, CatalogError> {
        if self.service(&spec.key).is_some() {
            return Err(CatalogError::ServiceExists);
        }
        let id = ServiceId(self.next_service);
        self.next_service += 1;
        let scheduler = Arc::new(Mutex::new(Scheduler::new(spec.scheduler, spec.flags, &[])));
        self.last.stale = true;
        self.index.insert(spec.key, self.services.len());
        self.services.push(Arc::new(Service {
            id,
            spec,
            dests: Vec::new(),
            stats: Stats::new(self.workers),
            scheduler,
            gentle: Arc::default(),
        }));
        Ok(id)
    }
    /// Edits a service (`ipvsadm -E`): another scheduler starts afresh, the same one goes on (what `mh`
    /// remembers of a quiesced server must outlive this: vector `4-sched-mh-change`).
    ///
    /// # Errors
    /// [`CatalogError::NoSuchService`]
    pub fn edit_service(&mut self, spec: ServiceSpec) -> Result<(), CatalogError> {
        let s = self.service_mut(&spec.key).ok_or(CatalogError::NoSuchService)?;
        let mut scheduler = s.scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        scheduler.reconfigure(spec.scheduler, spec.flags, &s.dests);
        s.scheduler = Arc::new(Mutex::new(scheduler));
        self.retouch_service(spec)
    }
    /// Edits what does not touch the scheduler (name, timeouts, ports) and keeps its state.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchService`]
    pub fn retouch_service(&mut self, spec: ServiceSpec) -> Result<(), CatalogError> {
        self.last.stale = true;
        let service = self.service_mut(&spec.key).ok_or(CatalogError::NoSuchService)?;
        for dest in &mut service.dests {
            let dest = Arc::make_mut(dest);
            (dest.timeouts, dest.mss_clamp) = (spec.timeouts, spec.mss_clamp);
        }
        service.spec = spec;
        let dests = service.dests.clone();
        for dest in dests {
            self.put(dest.id, Some(dest));
        }
        Ok(())
    }
    /// Removes a service with its real servers (`ipvsadm -D`). Connections stay (IPVS-RULES 85).
    ///
    /// # Errors
    /// [`CatalogError::NoSuchService`]
    pub fn remove_service(&mut self, key: &ServiceKey) -> Result<(), CatalogError> {
        let at = self.index.remove(key).ok_or(CatalogError::NoSuchService)?;
        self.last.stale = true;
        let gone = self.services.remove(at);
        for i in self.index.values_mut().filter(|i| **i > at) {
            *i -= 1;
        }
        for d in &gone.dests {
            self.remember(*key, d.id);
        }
        Ok(())
    }
    /// Removes everything (`ipvsadm -C`).
    pub fn clear(&mut self) {
        self.last.stale = true;
        for s in std::mem::take(&mut self.services) {
            for d in &s.dests {
                self.remember(s.spec.key, d.id);
            }
        }
        self.index.clear();
    }
    /// Adds a real server at the head of the service's list (`ipvsadm -a`; IPVS-RULES 42). One that was
    /// removed comes back with its connections (IPVS-RULES 82) and its counters.
    ///
    /// # Errors
    /// Unknown service, known server, or thresholds out of order.
    pub fn add_dest(&mut self, key: &ServiceKey, spec: DestSpec) -> Result<DestId, CatalogError> {
        let service = self.service(key).ok_or(CatalogError::ServiceNotDefined)?;
        let spec = normalise(service, spec)?;
        if service.dests.iter().any(|d| same(&d.spec, spec.ip, spec.port)) {
            return Err(CatalogError::DestExists);
        }
        let (timeouts, mss_clamp, service, service_stats, revived) = (
            service.spec.timeouts,
            service.spec.mss_clamp,
            service.id,
            service.stats.clone(),
            self.take_from_trash(key, spec.ip, spec.port),
        );
        let new = revived.is_none();
        let (id, live, stats) = match revived {
            Some(old) => (old.id, old.live.clone(), old.stats.clone()),
            None => (self.free_id(), Arc::default(), Stats::new(self.workers)),
        };
        let dest = Dest {
            id,
            service,
            spec,
            live,
            stats,
            timeouts,
            mss_clamp,
            service_stats,
            available: true,
            ending: Ending::No,
        };
        let dest = Arc::new(dest);
        dest.refresh_overload();
        self.put(id, Some(dest.clone()));
        if let Some(s) = self.service_mut(key) {
            s.dests.insert(0, dest);
        }
        self.note(key, Notice::Added(id, new));
        Ok(id)
    }
    /// Edits a real server (`ipvsadm -e`).
    ///
    /// # Errors
    /// Unknown service or server, or thresholds out of order.
    pub fn edit_dest(&mut self, key: &ServiceKey, spec: DestSpec) -> Result<(), CatalogError> {
        let service = self.service(key).ok_or(CatalogError::ServiceNotDefined)?;
        let spec = normalise(service, spec)?;
        let at = service.dests.iter().position(|d| same(&d.spec, spec.ip, spec.port));
        let at = at.ok_or(CatalogError::NoSuchDest)?;
        let dest = Arc::new(Dest { spec, ..(*service.dests[at]).clone() });
        dest.refresh_overload();
        let id = dest.id;
        self.put(id, Some(dest.clone()));
        if let Some(s) = self.service_mut(key) {
            s.dests[at] = dest;
        }
        self.note(key, Notice::Edited(id));
        Ok(())
    }
    /// Removes a real server (`ipvsadm -d`). Its connections stay in the table.
    ///
    /// # Errors
    /// Unknown service or server.
    pub fn remove_dest(&mut self, key: &ServiceKey, ip: IpAddr, port: u16) -> Result<(), CatalogError> {
        let service = self.service_mut(key).ok_or(CatalogError::ServiceNotDefined)?;
        let vport = key.port();
        let at = service.dests.iter().position(|d| {
            same(&d.spec, ip, port) || (!d.spec.forward.translates() && same(&d.spec, ip, vport))
        });
        let at = at.ok_or(CatalogError::NoSuchDest)?;
        let gone = service.dests.remove(at);
        self.remember(*key, gone.id);
        self.note(key, Notice::Removed(gone.id, at));
        Ok(())
    }
    /// What becomes of the connections of a real server that is in its service.
    pub fn ending(&self, key: &ServiceKey, ip: IpAddr, port: u16) -> Option<Ending> {
        self.service(key)?.dests.iter().find(|d| same(&d.spec, ip, port)).map(|d| d.ending)
    }
    /// Says what becomes of the connections of a real server, also of one that was removed. False when
    /// there is none.
    pub fn set_ending(&mut self, key: &ServiceKey, ip: IpAddr, port: u16, ending: Ending) -> bool {
        let at = self.service(key).and_then(|s| s.dests.iter().position(|d| same(&d.spec, ip, port)));
        let id = match (at, self.service(key)) {
            (Some(at), Some(s)) => s.dests[at].id,
            _ => {
                let gone = |r: &&Removed| {
                    let dest = self.dests.get(r.id.0 as usize);
                    r.key == *key && dest.is_some_and(|d| same(&d.spec, ip, port))
                };
                let Some(removed) = self.trash.iter().find(gone) else { return false };
                removed.id
            }
        };
        let Some(old) = self.dests.get(id.0 as usize) else { return false };
        if old.ending == ending {
            return true;
        }
        let dest = Arc::new(Dest { ending, ..(**old).clone() });
        self.put(id, Some(dest.clone()));
        if let (Some(at), Some(s)) = (at, self.service_mut(key)) {
            s.dests[at] = dest;
        }
        true
    }
    /// Ends a transaction: tells the schedulers, forgets removed servers without connections, and
    /// publishes the snapshot.
    pub fn commit(&mut self) -> Arc<Snapshot> {
        let notices = std::mem::take(&mut self.notices);
        for (i, (scheduler, dests, notice)) in notices.iter().enumerate() {
            // of servers that come one after the other the last notice has them all
            let goes_on = matches!(notice, Notice::Added(..))
                && matches!(notices.get(i + 1), Some((next, _, Notice::Added(..))) if Arc::ptr_eq(next, scheduler));
            tell(scheduler, dests, notice, goes_on);
        }
        for s in &self.services {
            let span = match s.spec.scheduler {
                SchedulerKind::Lblc => self.sysctl.lblc_expiration,
                SchedulerKind::Lblcr => self.sysctl.lblcr_expiration,
                _ => continue,
            };
            s.scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).set_expiration(span);
        }
        self.empty_trash();
        self.retire();
        let snapshot = Arc::new(self.preview());
        self.generation = snapshot.generation;
        self.last.published.retain(|s| Arc::strong_count(s) > 1);
        self.last.published.push(snapshot.clone());
        snapshot
    }

    /// What [`Catalog::commit`] will publish, but for removed servers that it forgets. Nobody is told: the
    /// change may still be refused.
    pub fn preview(&mut self) -> Snapshot {
        let generation = self.generation + 1;
        self.refresh(generation);
        Snapshot {
            generation,
            services: self.services.clone(),
            dests: self.dests.clone(),
            trash: !self.trash.is_empty(),
            timeouts: self.timeouts,
            sysctl: self.sysctl,
            net: self.net.clone(),
            templates: self.templates.clone(),
            by_key: self.last.by_key.clone(),
            vips: self.last.vips.clone(),
            owned: self.last.owned.clone(),
            reals: self.reals.clone(),
            engines: self.last.engines,
        }
    }

    /// Makes what snapshots share, where services or network changed, for the snapshot of this number.
    fn refresh(&mut self, generation: u64) {
        let same_net = Arc::ptr_eq(&self.last.net, &self.net);
        if !self.last.stale && same_net {
            return;
        }
        let keys = self.services.iter().enumerate().map(|(i, s)| (s.spec.key, i as u32));
        self.last.by_key = Arc::new(keys.collect());
        self.last.engines = self.services.iter().any(|s| s.spec.engine.is_some());
        let vips = self.vips();
        if vips != *self.last.vips || !same_net {
            let before: HashMap<&IpAddr, &Option<Vec<String>>> =
                self.last.vips.iter().map(|(ip, names)| (ip, names)).collect();
            let new = vips.iter().filter(|(ip, names)| before.get(ip) != Some(&names));
            let before = (self.last.owned.number(), new.map(|(ip, _)| *ip).collect());
            self.last.owned = Arc::new(Vips::named(generation, &vips, &self.net, before));
            self.last.vips = Arc::new(vips);
        }
        self.last.net = self.net.clone();
        self.last.stale = false;
    }

    /// Puts a server at its identity, or takes it away, and keeps count of the addresses.
    fn put(&mut self, id: DestId, dest: Option<Arc<Dest>>) {
        let address = |d: &Arc<Dest>| d.spec.forward.translates().then_some(d.spec.ip);
        let old = self.dests.get(id.0 as usize).and_then(address);
        let new = dest.as_ref().and_then(address);
        if old != new {
            let reals = Arc::make_mut(&mut self.reals);
            if let Some(ip) = new {
                *reals.entry(ip).or_insert(0) += 1;
            }
            if let Some(ip) = old
                && let Some(n) = reals.get_mut(&ip)
            {
                *n -= 1;
                if *n == 0 {
                    reals.remove(&ip);
                }
            }
        }
        self.dests.set(id.0 as usize, dest);
    }

    fn vips(&self) -> Vec<(IpAddr, Option<Vec<String>>)> {
        let mut at: HashMap<IpAddr, usize> = HashMap::new();
        let mut vips: Vec<(IpAddr, Option<Vec<String>>)> = Vec::new();
        for s in &self.services {
            let ServiceKey::Address { ip, .. } = s.spec.key else { continue };
            let i = *at.entry(ip).or_insert_with(|| {
                vips.push((ip, Some(Vec::new())));
                vips.len() - 1
            });
            match (&mut vips[i].1, s.spec.ports.is_empty()) {
                (owners, true) => *owners = None,
                (Some(owners), false) => {
                    for p in &s.spec.ports {
                        if !owners.contains(p) {
                            owners.push(p.clone());
                        }
                    }
                }
                (None, false) => {}
            }
        }
        vips
    }
    fn service_mut(&mut self, key: &ServiceKey) -> Option<&mut Service> {
        let at = *self.index.get(key)?;
        self.services.get_mut(at).map(Arc::make_mut)
    }
    fn note(&mut self, key: &ServiceKey, notice: Notice) {
        if let Some(s) = self.service(key) {
            let entry = (s.scheduler.clone(), s.dests.clone(), notice);
            self.notices.push(entry);
        }
    }
    fn free_id(&mut self) -> DestId {
        let at = self.free.pop().unwrap_or_else(|| {
            let id = self.dests.len();
            self.dests.set(id, None);
            id as u32
        });
        DestId(at)
    }
    /// A server that is removed may come back.
    fn remember(&mut self, key: ServiceKey, id: DestId) {
        self.look_at_trash();
        self.sweep_at.get_or_insert(fires(self.now + SWEEP, SWEEP));
        self.trash.push(Removed { key, id, busy: self.is_busy(id), idle: None });
    }
    fn is_busy(&self, id: DestId) -> bool {
        let dest = self.dests.get(id.0 as usize);
        dest.is_some_and(|d| d.active() + d.inactive() + d.persistent() > 0)
    }
    fn take_from_trash(&mut self, key: &ServiceKey, ip: IpAddr, port: u16) -> Option<Arc<Dest>> {
        self.look_at_trash();
        let dest = |id: DestId| self.dests.get(id.0 as usize);
        let is_it = |r: &Removed| r.key == *key && dest(r.id).is_some_and(|d| same(&d.spec, ip, port));
        let at = self.trash.iter().position(is_it)?;
        let removed = self.trash.remove(at);
        self.dests.get(removed.id.0 as usize).cloned()
    }
    /// Before a change: forgets what has to be forgotten by now.
    fn look_at_trash(&mut self) {
        if self.sweep_at.is_some_and(|at| at <= self.now) {
            self.empty_trash();
        }
    }
    /// Forgets removed servers that have no connections and are long gone, as far as looking at them every
    /// now and then would have shown it by now. One whose connections ended since it was looked at last
    /// counts as found without them just now.
    fn empty_trash(&mut self) {
        let mut looks = Vec::new();
        while let Some(at) = self.sweep_at.filter(|at| *at <= self.now) {
            // after a long silence the first ones and the last say all that the others do
            if looks.len() == 8 {
                looks.pop();
            }
            looks.push(at);
            self.sweep_at = Some(fires(at + SWEEP, SWEEP));
        }
        let mut trash = std::mem::take(&mut self.trash);
        let mut left = trash.len();
        trash.retain_mut(|removed| {
            let busy = self.is_busy(removed.id);
            let mut keep = left <= MOST_REMEMBERED || busy;
            for at in &looks {
                match removed.idle {
                    _ if busy => {}
                    Some(since) => keep &= at.since(since) < REMEMBERED,
                    None if removed.busy && Some(at) != looks.last() => {}
                    None => removed.idle = Some(*at),
                }
            }
            removed.busy = busy;
            if !keep {
                left -= 1;
                self.put(removed.id, None);
                self.free.push(removed.id.0);
            }
            keep
        });
        if trash.is_empty() {
            self.sweep_at = None;
        }
        self.trash = trash;
    }
    /// Servers that were removed since the last snapshot take no new connections.
    fn retire(&mut self) {
        for i in 0..self.trash.len() {
            let id = self.trash[i].id;
            if let Some(dest) = self.dests.get(id.0 as usize).filter(|d| d.available).cloned() {
                self.put(id, Some(Arc::new(Dest { available: false, ..(*dest).clone() })));
            }
        }
    }
}

/// Tells a scheduler of a change; `goes_on`: the next notice says all that this one does.
fn tell(scheduler: &Mutex<Scheduler>, dests: &[Arc<Dest>], notice: &Notice, goes_on: bool) {
    let lock = || scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Notice::Added(id, true) = notice {
        lock().forget(*id);
    }
    let change = |s: &mut Scheduler| match notice {
        Notice::Added(id, _) => s.added(dests, *id),
        Notice::Removed(id, at) => s.removed(dests, *id, *at),
        Notice::Edited(id) => s.edited(dests, *id),
    };
    let kind = lock().kind();
    match kind {
        // a function of the list alone: what is built of it anew need not be built twice
        SchedulerKind::Mh | SchedulerKind::Sh | SchedulerKind::Dh if goes_on => {}
        // picks change nothing in it, so new connections need not wait while a copy is filled
        SchedulerKind::Mh => {
            let mut copy = lock().clone();
            change(&mut copy);
            *lock() = copy;
        }
        _ => change(&mut lock()),
    }
}

fn same(spec: &DestSpec, ip: IpAddr, port: u16) -> bool {
    spec.ip == ip && spec.port == port
}

/// TUN and DR cannot map ports: the real server's port is the service's (IPVS-RULES 105a). A service by
/// mark has none; there a port only tells entries apart.
fn normalise(service: &Service, mut spec: DestSpec) -> Result<DestSpec, CatalogError> {
    if spec.upper != 0 && spec.lower > spec.upper || spec.upper == 0 && spec.lower != 0 {
        return Err(CatalogError::Range);
    }
    if let (false, ServiceKey::Address { port, .. }) = (spec.forward.translates(), service.spec.key) {
        spec.port = port;
    }
    Ok(spec)
}
