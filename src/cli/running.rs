//! A running director: its ports, its worker, and what was set up around it in the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::{info, warn};

use super::check::count;
use super::error::Failure;
use super::host_side::HostSide;
use super::ports;
use crate::config::Plan;
use crate::config::apply::{Changes, apply};
use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::engine::{Engine, EngineOptions, PortId};
use crate::host::{HostEvent, NetPlan};
use crate::io::guard::{self, Exposure, Guard};
use crate::io::{Port, PortInfo};
use crate::svc::{Catalog, DestSpec, ServiceKey, ServiceSpec};
use crate::worker::{self, Handle, clock};

/// Lines about single services at the start; with more of them only their number is said.
const SERVICE_LINES: usize = 20;

/// A running director.
pub struct Running {
    plan: Plan,
    catalog: Catalog,
    infos: Vec<PortInfo>,
    handle: Option<Handle<Engine>>,
    // Dropped after the worker, in this order: the kernel is told nothing while packets still flow.
    host_sides: Vec<HostSide>,
    guards: Vec<Guard>,
}

impl Running {
    /// Opens the ports and starts the worker.
    ///
    /// # Errors
    /// What is not to be had. Everything that was set up until then is taken back.
    pub fn start(plan: Plan) -> Result<Running, Failure> {
        let ports: Vec<Box<dyn Port>> = plan.ports.iter().map(ports::open).collect::<Result<_, _>>()?;
        let infos: Vec<PortInfo> = ports.iter().map(|p| p.info().clone()).collect();
        let net = network(&plan, &infos)?;
        let guards = guards(&plan, &infos)?;
        let (mut catalog, _) = apply(&plan, &Catalog::new(Arc::new(net)))
            .map_err(|e| Failure::wrong("configuration", e.to_string(), ""))?;
        let now = clock::now();
        let options = EngineOptions {
            connection_limit: plan.connection_limit,
            seed: seed()?,
            ..EngineOptions::default()
        };
        let engine = Engine::new(now, options, catalog.commit()).map_err(|e| {
            Failure::run(
                format!("cannot reserve memory for {} connections", plan.connection_limit),
                e.to_string(),
                "lower connection_limit in [director]",
            )
        })?;
        let vips: BTreeSet<IpAddr> = plan.vips().collect();
        let mut host_sides = Vec::new();
        for (setup, info) in plan.ports.iter().zip(&infos).filter(|(s, _)| !s.host_addresses.is_empty()) {
            host_sides.push(HostSide::set_up(setup, &info.name, &vips)?);
        }
        let handle = worker::start("softlvs-worker-0", engine, ports)
            .map_err(|e| Failure::run("cannot start the packet worker", e.to_string(), ""))?;
        Ok(Running { plan, catalog, infos, handle: Some(handle), host_sides, guards })
    }

    /// Says what runs, one line for each port and service.
    pub fn introduce(&self) {
        for (setup, info) in self.plan.ports.iter().zip(&self.infos) {
            info!("{}", port_line(setup, info));
        }
        for (spec, reals) in self.plan.services.iter().take(SERVICE_LINES) {
            info!("{}", service_line(spec, reals));
        }
        if self.plan.services.len() > SERVICE_LINES {
            info!("and {} more services", self.plan.services.len() - SERVICE_LINES);
        }
        let (ports, services) =
            (count(self.plan.ports.len(), "port"), count(self.plan.services.len(), "service"));
        if self.plan.services.is_empty() {
            info!("running: {ports}, no service yet: waiting to be configured");
        } else {
            info!("running: {ports}, {services}");
        }
    }

    /// Makes what runs into what `plan` says.
    ///
    /// # Errors
    /// Why not; what runs is as it was.
    pub async fn apply(&mut self, plan: Plan) -> Result<Changes, Failure> {
        self.same_devices(&plan)?;
        let net = network(&plan, &self.infos)?;
        exposed(&plan, &self.infos)?;
        let (mut next, mut changes) =
            apply(&plan, &self.catalog).map_err(|e| Failure::wrong("configuration", e.to_string(), ""))?;
        if *next.net != net {
            next.net = Arc::new(net);
            changes.settings = true;
        }
        let vips: BTreeSet<IpAddr> = plan.vips().collect();
        for side in &mut self.host_sides {
            side.route(&vips)?;
        }
        if !self.guards.is_empty() {
            // The old rule has the same name: it goes before the new one comes.
            self.guards.clear();
            self.guards = guards(&plan, &self.infos)?;
        }
        if !changes.is_empty() {
            let snapshot = next.commit();
            let handle = self.handle.as_ref().ok_or_else(stopped)?;
            let taken = handle
                .ask(move |engine: &mut Engine, now, _: &mut _| engine.on_snapshot(now, snapshot))
                .await;
            taken.map_err(|_| stopped())?;
            self.catalog = next;
        }
        self.plan = plan;
        Ok(changes)
    }

    /// Devices and tables are made once.
    fn same_devices(&self, plan: &Plan) -> Result<(), Failure> {
        let fixed = |p: &Plan| -> Vec<PortSetup> {
            let strip = |s: &PortSetup| PortSetup {
                addresses: Vec::new(),
                gateway: None,
                gateway6: None,
                neighbors: Vec::new(),
                ..s.clone()
            };
            p.ports.iter().map(strip).collect()
        };
        let refuse = |what: &str| {
            Err(Failure::wrong(
                what,
                "it cannot be changed while the director runs",
                "restart softlvs to change it",
            ))
        };
        if fixed(&self.plan) != fixed(plan) {
            return refuse("the devices of the ports");
        }
        if self.plan.connection_limit != plan.connection_limit {
            return refuse("director.connection_limit");
        }
        Ok(())
    }

    /// What happened beside packets since the last call.
    ///
    /// # Errors
    /// The worker is gone.
    pub async fn events(&self) -> Result<Vec<HostEvent>, Failure> {
        let handle = self.handle.as_ref().ok_or_else(stopped)?;
        let drain = |engine: &mut Engine, _, _: &mut _| {
            let host = engine.host_mut();
            std::iter::from_fn(|| host.poll_event()).collect::<Vec<_>>()
        };
        handle.ask(drain).await.map_err(|_| stopped())
    }

    /// Name of a port.
    pub fn port_name(&self, port: PortId) -> &str {
        self.plan.ports.get(usize::from(port.0)).map_or("?", |p| p.name.as_str())
    }

    /// True when the worker ended by itself.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(Handle::is_finished)
    }

    /// Stops the worker, closes the ports, takes back what was set up around them.
    pub fn stop(mut self) {
        let Some(handle) = self.handle.take() else { return };
        match handle.stop() {
            Ok(engine) => {
                let c = engine.counters();
                info!(
                    received = c.received,
                    forwarded = c.forwarded,
                    dropped = engine.drops().total(),
                    connections = c.opened,
                    "stopped"
                );
            }
            Err(e) => warn!("{e}"),
        }
    }
}

fn stopped() -> Failure {
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
fn exposures(plan: &Plan, infos: &[PortInfo]) -> Vec<Exposure> {
    let one = |(setup, info): (&PortSetup, &PortInfo)| Exposure {
        interface: info.name.clone(),
        shared: !setup.device.is_virtual(),
        mac: info.mac,
        device_mac: info.device_mac,
    };
    plan.ports.iter().zip(infos).map(one).collect()
}

/// Addresses that are the director's and nobody else's.
fn own_addresses(plan: &Plan) -> Vec<IpAddr> {
    let dips = plan.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr);
    let all: BTreeSet<IpAddr> = plan.vips().chain(dips).collect();
    all.into_iter().collect()
}

/// The kernel would not answer or forward beside us.
fn exposed(plan: &Plan, infos: &[PortInfo]) -> Result<(), Failure> {
    let mut shared = plan.ports.iter().filter(|p| !p.device.is_virtual()).peekable();
    let guarded = shared.peek().is_some() && shared.all(|p| p.guard);
    Ok(guard::check(&exposures(plan, infos), &own_addresses(plan), guarded)?)
}

fn guards(plan: &Plan, infos: &[PortInfo]) -> Result<Vec<Guard>, Failure> {
    exposed(plan, infos)?;
    let addresses = own_addresses(plan);
    let exposures = exposures(plan, infos);
    let wanted = exposures.iter().zip(&plan.ports).filter(|(_, p)| p.guard);
    wanted.map(|(port, _)| Ok(Guard::install(port, &addresses)?)).collect()
}

fn port_line(setup: &PortSetup, info: &PortInfo) -> String {
    let kind = match &setup.device {
        Device::Auto(_) => "packet (the best that works here: this version has no AF_XDP)",
        other => other.kind(),
    };
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
