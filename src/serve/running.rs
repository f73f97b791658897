//! A running director: its ports, its worker, and what was set up around it in the kernel.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::{info, warn};

use super::claims::Filters;
use super::host_side::HostSide;
use super::inherited::Inherited;
use super::ports;
use super::tended::Tended;
use super::workers::Workers;
use crate::config::Plan;
use crate::config::plan::PortSetup;
use crate::ctl::State;
use crate::engine::steer::{Crew, MAX_WORKERS};
use crate::engine::{Counters, Engine, EngineOptions, PortId};
use crate::failure::Failure;
use crate::host::NetPlan;
use crate::io::guard::{self, Exposure, Guard};
use crate::io::{Port, PortInfo};
use crate::svc::{Catalog, DestSpec, ServiceKey, ServiceSpec, Snapshot, WorkerId};
use crate::worker::{self, Linger, clock};

/// Lines about single services at the start; with more of them only their number is said.
const SERVICE_LINES: usize = 20;

/// The devices of a running director, its workers, and what was set up around them in the kernel.
pub struct Running {
    setups: Vec<PortSetup>,
    connection_limit: u32,
    /// Workers as configured, `None` for `auto`.
    wanted: Option<u32>,
    infos: Vec<PortInfo>,
    /// What the ports are, for people.
    kinds: Vec<String>,
    workers: Option<Workers>,
    linger: Linger,
    // Dropped after the workers, in this order: the kernel is told nothing while packets still flow.
    host_sides: Vec<HostSide>,
    tended: Tended,
    inherited: Inherited,
    vips: BTreeSet<IpAddr>,
    guards: Vec<Guard>,
    guarded: Vec<IpAddr>,
    filters: Filters,
}

impl Running {
    /// Opens the ports and starts the workers; gives what runs too.
    ///
    /// # Errors
    /// What is not to be had. Everything that was set up until then is taken back.
    pub fn start(plan: Plan) -> Result<(Running, State), Failure> {
        let Devices { posts, infos, kinds, mut filters } = Devices::open(&plan)?;
        let workers = posts.len() as u16;
        let setups = plan.ports.clone();
        let (connection_limit, wanted) = (plan.connection_limit, plan.workers);
        let net = network(&plan, &infos)?;
        let mut state = State::new(plan, Catalog::new(Arc::new(net)).with_workers(workers))
            .map_err(|e| Failure::wrong("configuration", e.to_string(), ""))?;
        let vips = state.vips();
        let addresses = own_addresses(&setups, &vips);
        let guards = guards(&setups, &infos, &addresses)?;
        let now = clock::now();
        let crew = Arc::new(Crew::new(workers, seed()?));
        let snapshot = state.catalog.commit();
        filters.update(&snapshot)?;
        let mut crewed = Vec::new();
        for (i, queues) in posts.into_iter().enumerate() {
            let worker = WorkerId(i as u16);
            let options =
                EngineOptions { connection_limit, seed: seed()?, worker, ..EngineOptions::default() };
            let engine = Engine::in_crew(now, options, snapshot.clone(), crew.clone()).map_err(|e| {
                Failure::run(
                    format!("cannot reserve memory for {connection_limit} connections"),
                    e.to_string(),
                    "lower connection_limit in [director]",
                )
            })?;
            crewed.push((engine, queues));
        }
        let mut host_sides = Vec::new();
        for (setup, info) in setups.iter().zip(&infos).filter(|(s, _)| !s.host_addresses.is_empty()) {
            host_sides.push(HostSide::set_up(setup, &info.name, &vips)?);
        }
        let virtual_devices = setups.iter().zip(&infos).filter(|(s, _)| s.device.is_virtual());
        let tended = Tended::new(virtual_devices.map(|(_, info)| info.name.as_str()));
        let inherited = Inherited::new(&infos);
        let names: Vec<String> = (0..workers).map(|i| format!("softlvs-worker-{i}")).collect();
        let linger = Linger::default();
        linger.set(state.plan.linger.unwrap_or_else(Linger::usual));
        let handles = worker::start_all(&names, crewed, &linger)
            .map_err(|e| Failure::run("cannot start the packet workers", e.to_string(), ""))?;
        let workers = Some(Workers::new(handles));
        let running = Running {
            setups,
            connection_limit,
            wanted,
            infos,
            kinds,
            workers,
            linger,
            host_sides,
            tended,
            inherited,
            vips,
            guards,
            guarded: addresses,
            filters,
        };
        Ok((running, state))
    }

    /// Says what runs, one line for each port and service.
    pub fn introduce(&self, state: &State) {
        for ((setup, info), kind) in self.setups.iter().zip(&self.infos).zip(&self.kinds) {
            info!("{}", port_line(setup, info, kind));
        }
        let services = &state.plan.services;
        for (spec, reals) in services.iter().take(SERVICE_LINES) {
            info!("{}", service_line(spec, reals));
        }
        if services.len() > SERVICE_LINES {
            info!("and {} more services", services.len() - SERVICE_LINES);
        }
        let mut ports = count(self.setups.len(), "port");
        if let Some(workers) = self.workers.as_ref().map(Workers::count).filter(|n| *n > 1) {
            ports += &format!(", {workers} workers");
        }
        if services.is_empty() {
            info!("running: {ports}, no service yet: waiting to be configured");
        } else {
            info!("running: {ports}, {}", count(services.len(), "service"));
        }
    }

    /// The network a plan makes of the open devices.
    ///
    /// # Errors
    /// It needs other devices or tables than those that were made at the start.
    pub fn network(&self, plan: &Plan) -> Result<NetPlan, Failure> {
        self.same_devices(plan)?;
        network(plan, &self.infos)
    }

    /// Prepares the kernel around the director for these virtual addresses.
    ///
    /// # Errors
    /// It would answer beside the director, or refuses; what was prepared before is there again.
    pub fn surround(
        &mut self,
        plan: &Plan,
        vips: &BTreeSet<IpAddr>,
        before: &BTreeSet<IpAddr>,
    ) -> Result<(), Failure> {
        let addresses = own_addresses(&plan.ports, vips);
        exposed(&plan.ports, &self.infos, &addresses)?;
        for i in 0..self.host_sides.len() {
            if let Err(e) = self.host_sides[i].route(vips) {
                for side in &mut self.host_sides[..=i] {
                    // what cannot be put back is found missing by the next change
                    let _ = side.route(before);
                }
                return Err(e);
            }
        }
        if !self.guards.is_empty() && addresses != self.guarded {
            if let Err(e) = self.renew_guards(plan, &addresses) {
                for side in &mut self.host_sides {
                    let _ = side.route(before);
                }
                return Err(e);
            }
            self.guarded = addresses;
        }
        self.vips.clone_from(vips);
        Ok(())
    }

    /// Makes the guard rules those for other addresses, all or none.
    fn renew_guards(&self, plan: &Plan, addresses: &[IpAddr]) -> Result<(), Failure> {
        let exposures = exposures(&plan.ports, &self.infos);
        let guarded: Vec<&Exposure> =
            exposures.iter().zip(&plan.ports).filter(|(_, p)| p.guard).map(|(e, _)| e).collect();
        Ok(Guard::renew(&self.guards, &guarded, addresses)?)
    }

    /// Devices and tables are made once.
    fn same_devices(&self, plan: &Plan) -> Result<(), Failure> {
        let fixed = |ports: &[PortSetup]| -> Vec<PortSetup> {
            let strip = |s: &PortSetup| PortSetup {
                addresses: Vec::new(),
                gateway: None,
                gateway6: None,
                neighbors: Vec::new(),
                // only the command line can say them, and they were set up at the start
                host_addresses: Vec::new(),
                ..s.clone()
            };
            ports.iter().map(strip).collect()
        };
        let refuse = |what: &str| {
            Err(Failure::wrong(
                what,
                "it cannot be changed while the director runs",
                "restart softlvs to change it",
            ))
        };
        if fixed(&self.setups) != fixed(&plan.ports) {
            return refuse("the devices of the ports");
        }
        if self.connection_limit != plan.connection_limit {
            return refuse("director.connection_limit");
        }
        if self.wanted != plan.workers {
            return refuse("director.workers");
        }
        Ok(())
    }

    /// Tells the programs on XDP ports what belongs to the director by this snapshot, all of them or none.
    ///
    /// # Errors
    /// There are too many addresses.
    pub fn claim<S: Borrow<Snapshot>>(&mut self, snapshot: impl FnOnce() -> S) -> Result<(), Failure> {
        if self.filters.is_empty() {
            return Ok(());
        }
        Ok(self.filters.update(snapshot().borrow())?)
    }

    /// Has the workers look for packets as long as the plan says.
    pub fn set_linger(&self, plan: &Plan) {
        self.linger.set(plan.linger.unwrap_or_else(Linger::usual));
    }

    /// What is to be done once in a while.
    pub fn look(&mut self) {
        self.filters.look();
        self.inherited.look();
        self.tended.look(&mut self.host_sides, &self.vips);
    }

    /// The workers.
    ///
    /// # Errors
    /// They have ended.
    pub fn workers(&self) -> Result<&Workers, Failure> {
        self.workers.as_ref().ok_or_else(stopped)
    }

    /// Name of a port.
    pub fn port_name(&self, port: PortId) -> &str {
        self.setups.get(usize::from(port.0)).map_or("?", |p| p.name.as_str())
    }

    /// True when a worker ended by itself.
    pub fn is_finished(&self) -> bool {
        self.workers.as_ref().is_none_or(Workers::is_finished)
    }

    /// Stops the workers, closes the ports, takes back what was set up around them.
    pub fn stop(mut self) {
        let Some(workers) = self.workers.take() else { return };
        let (mut sum, mut dropped) = (Counters::default(), 0);
        for result in workers.stop() {
            match result {
                Ok(engine) => {
                    sum = sum + engine.counters();
                    dropped += engine.drops().total();
                }
                Err(e) => warn!("{e}"),
            }
        }
        let Counters { received, forwarded, opened, handed, .. } = sum;
        info!(received, forwarded, dropped, connections = opened, handed, "stopped");
    }
}

/// The open devices: for each worker its queues of each port.
struct Devices {
    posts: Vec<Vec<Vec<Box<dyn Port>>>>,
    infos: Vec<PortInfo>,
    /// What the ports are, for people.
    kinds: Vec<String>,
    filters: Filters,
}

impl Devices {
    /// Opens the ports for as many workers as the plan wants; `auto` is one for two processors, because the
    /// kernel's half of the work wants its share, and fewer where a device has no queues for them.
    fn open(plan: &Plan) -> Result<Devices, Failure> {
        let Some(workers) = plan.workers else {
            let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let useful = (processors / 2).clamp(1, usize::from(MAX_WORKERS)) as u16;
            return match Devices::open_for(plan, useful) {
                Err(why) if useful > 1 => {
                    let devices = Devices::open_for(plan, 1)?;
                    info!(
                        "one worker, because the devices have no queues for {useful}: {}",
                        why.messages().join(": ")
                    );
                    Ok(devices)
                }
                opened => opened,
            };
        };
        Devices::open_for(plan, workers.min(MAX_WORKERS.into()) as u16)
    }

    fn open_for(plan: &Plan, workers: u16) -> Result<Devices, Failure> {
        let mut posts: Vec<Vec<Vec<Box<dyn Port>>>> = (0..workers).map(|_| Vec::new()).collect();
        let (mut infos, mut kinds, mut filters) = (Vec::new(), Vec::new(), Filters::default());
        for (i, setup) in plan.ports.iter().enumerate() {
            let opened = ports::open(setup, workers)?;
            if let Some(filter) = opened.filter {
                filters.add(PortId(i as u16), filter);
            }
            infos.extend(opened.queues.first().map(|queue| queue.info().clone()));
            kinds.push(opened.kind);
            for (post, queue) in posts.iter_mut().zip(opened.queues) {
                post.push(vec![queue]);
            }
        }
        Ok(Devices { posts, infos, kinds, filters })
    }
}

/// `1 port`, `2 ports`
pub fn count(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// What is said when a worker ended by itself.
pub fn stopped() -> Failure {
    Failure::run(
        "the packet worker has ended",
        "this is a defect in softlvs",
        "please report it with the log",
    )
}

fn seed() -> Result<u64, Failure> {
    getrandom::u64().map_err(|e| Failure::run("cannot get random numbers", e.to_string(), ""))
}

fn network(plan: &Plan, infos: &[PortInfo]) -> Result<NetPlan, Failure> {
    plan.net_plan(infos).map_err(|wrong| Failure::ports(&wrong))
}

/// What the host kernel sees of each port.
fn exposures(setups: &[PortSetup], infos: &[PortInfo]) -> Vec<Exposure> {
    let one = |(setup, info): (&PortSetup, &PortInfo)| Exposure {
        interface: info.name.clone(),
        shared: !setup.device.is_virtual(),
        mac: info.mac,
        device_mac: info.device_mac,
    };
    setups.iter().zip(infos).map(one).collect()
}

/// Addresses that are the director's and nobody else's.
fn own_addresses(setups: &[PortSetup], vips: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let dips = setups.iter().flat_map(|p| &p.addresses).map(|a| a.addr);
    let all: BTreeSet<IpAddr> = vips.iter().copied().chain(dips).collect();
    all.into_iter().collect()
}

/// The kernel would not answer or forward beside us.
fn exposed(setups: &[PortSetup], infos: &[PortInfo], addresses: &[IpAddr]) -> Result<(), Failure> {
    let mut shared = setups.iter().filter(|p| !p.device.is_virtual()).peekable();
    let guarded = shared.peek().is_some() && shared.all(|p| p.guard);
    Ok(guard::check(&exposures(setups, infos), addresses, guarded)?)
}

fn guards(setups: &[PortSetup], infos: &[PortInfo], addresses: &[IpAddr]) -> Result<Vec<Guard>, Failure> {
    exposed(setups, infos, addresses)?;
    let exposures = exposures(setups, infos);
    let wanted = exposures.iter().zip(setups).filter(|(_, p)| p.guard);
    wanted.map(|(port, _)| Ok(Guard::install(port, addresses)?)).collect()
}

fn port_line(setup: &PortSetup, info: &PortInfo, kind: &str) -> String {
    let mut parts = vec![format!("port {}: {kind} {}", setup.name, info.name)];
    parts.extend(info.mac.map(|mac| format!("MAC {mac}")));
    parts.push(format!("MTU {}", setup.mtu.unwrap_or(info.mtu)));
    parts.extend(setup.addresses.iter().map(|a| a.to_string()));
    let offload = [(info.offload.csum, "checksums"), (info.offload.tso, "TCP"), (info.offload.uso, "UDP")];
    let offload: Vec<&str> = offload.into_iter().filter_map(|(on, what)| on.then_some(what)).collect();
    parts.push(if offload.is_empty() {
        "no offload".to_owned()
    } else {
        format!("offload of {}", offload.join("+"))
    });
    parts.join(", ")
}

fn service_line(spec: &ServiceSpec, reals: &[DestSpec]) -> String {
    let what = match spec.key {
        ServiceKey::Address { proto, ip, port } => {
            format!("{} {}", proto.name(), std::net::SocketAddr::new(ip, port))
        }
        ServiceKey::Mark { mark, v6 } => format!("fwmark {mark} ({})", if v6 { "IPv6" } else { "IPv4" }),
    };
    const SHOWN: usize = 8;
    let one = |d: &DestSpec| {
        format!("{} {} weight {}", d.forward, std::net::SocketAddr::new(d.ip, d.port), d.weight)
    };
    let mut list: Vec<String> = reals.iter().take(SHOWN).map(one).collect();
    if reals.len() > SHOWN {
        list.push(format!("and {} more", reals.len() - SHOWN));
    }
    if list.is_empty() {
        list.push("no real server".to_owned());
    }
    format!("service {what}, {}: {}", spec.scheduler.name(), list.join(", "))
}
