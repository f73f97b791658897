//! Everything that was configured, and the changes it takes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::ipvsadm::Daemons;
use super::overlay::{Overlay, Overlays, RealKey};
use crate::config::Plan;
use crate::config::apply::{Changes, apply};
use crate::config::diag::Complaint;
use crate::config::plan::Timeouts;
use crate::config::sysctl::{self, Sysctls, Value};
use crate::ipvsadm::{self, Baseline, Command, Rates, Refusal};
use crate::svc::{Catalog, CatalogError, DestSpec, Service, ServiceKey, ServiceSpec};

/// What runs. A clone is cheap, and is how readers look at it and how changes are tried.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The configuration that was last applied as a whole. Its services may have been changed since: see
    /// [`State::services`].
    pub plan: Arc<Plan>,
    /// What packets are decided by.
    pub catalog: Catalog,
    /// What health checks did to real servers.
    pub overlays: Overlays,
    /// Settings that were given, by their kernel names.
    pub sysctl: Sysctls,
    /// Synchronisation daemons that were started.
    pub daemons: Daemons,
    /// Counters at the last `ipvsadm -Z`.
    pub zero: Arc<Baseline>,
    /// Rates.
    pub rates: Arc<Rates>,
    /// Traffic of services that were removed since the last `ipvsadm -Z`.
    departed: [u64; 5],
}

impl State {
    /// What `plan` says, over an empty catalog; its network is the catalog's.
    ///
    /// # Errors
    /// A change the catalog refuses; a checked plan has none.
    pub fn new(plan: Plan, empty: Catalog) -> Result<State, CatalogError> {
        let mut state = State { catalog: empty, ..State::default() };
        state.apply(Arc::new(plan))?;
        Ok(state)
    }

    /// Makes of what runs what the plan says, overlays apart. The network of the catalog stays.
    ///
    /// # Errors
    /// A change the catalog refuses; a checked plan has none. The state is then of no use any more.
    pub fn apply(&mut self, plan: Arc<Plan>) -> Result<Changes, CatalogError> {
        let (next, changes);
        if self.overlays.is_empty() {
            (next, changes) = apply(&plan, &self.catalog)?;
        } else {
            let (services, overlays) = self.overlays.over(&plan.services);
            (next, changes) = apply(&Plan { services, ..(*plan).clone() }, &self.catalog)?;
            self.overlays = overlays;
        }
        for s in self.catalog.services().iter().filter(|s| next.service(&s.spec.key).is_none()) {
            depart(&mut self.departed, self.zero.service(s));
        }
        self.catalog = next;
        self.sysctl = plan.sysctl.clone();
        self.plan = plan;
        Ok(changes)
    }

    /// One `ipvsadm` command that changes something.
    ///
    /// # Errors
    /// What the kernel would have refused, in its words; nothing has changed then.
    pub fn command(&mut self, command: &Command) -> Result<(), Refusal> {
        // what is taken out by a health check is not in the catalog, and can be removed all the same
        let beneath = matches!(command, Command::DeleteDest(service, ip, port)
            if self.overlays.configured(&RealKey { service: *service, ip: *ip, port: *port }).is_some());
        if !beneath {
            ipvsadm::check(command, &self.catalog)?;
        }
        let (catalog, overlays) = (&mut self.catalog, &mut self.overlays);
        match command {
            Command::AddDest(key, spec) => overlays.add(catalog, key, spec.clone())?,
            Command::EditDest(key, spec) => overlays.edit(catalog, key, spec.clone())?,
            Command::DeleteDest(key, ip, port) => overlays.delete(catalog, key, *ip, *port)?,
            Command::Zero(key) => {
                ipvsadm::apply(command, catalog, Arc::make_mut(&mut self.zero))?;
                let rates = Arc::make_mut(&mut self.rates);
                let services = self.catalog.services().iter();
                services.filter(|s| key.is_none_or(|k| k == s.spec.key)).for_each(|s| rates.zero(s));
                if key.is_none() {
                    self.departed = [0; 5];
                }
            }
            other => {
                let gone = |s: &&Arc<Service>| match other {
                    Command::Clear => true,
                    Command::DeleteService(key) => s.spec.key == *key,
                    _ => false,
                };
                for s in catalog.services().iter().filter(gone) {
                    depart(&mut self.departed, self.zero.service(s));
                }
                ipvsadm::apply(other, catalog, Arc::make_mut(&mut self.zero))?;
                match other {
                    Command::DeleteService(key) => overlays.forget(key),
                    Command::Clear => overlays.clear(),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Lays something over a real server, or takes it away; true when that changes what runs.
    ///
    /// # Errors
    /// There is no such service or real server.
    pub fn overlay(&mut self, real: RealKey, overlay: Option<Overlay>) -> Result<bool, CatalogError> {
        self.overlays.set(&mut self.catalog, real, overlay)
    }

    /// Bounds the part of a real server of its service's new connections, or lifts the bound.
    pub fn set_share(&self, real: &RealKey, share: Option<u32>) {
        let Some(service) = self.catalog.service(&real.service) else { return };
        let at = service.dests.iter().find(|d| (d.spec.ip, d.spec.port) == (real.ip, real.port));
        if let Some(dest) = at {
            dest.live.set_share(share);
        }
        service.set_gentle(service.dests.iter().any(|d| d.live.has_share()));
    }

    /// Sets a switch of `net.ipv4.vs` from text, as written to `/proc/sys`.
    ///
    /// # Errors
    /// There is none of this name, or the kernel would refuse the value.
    pub fn set_sysctl(&mut self, name: &str, text: &str) -> Result<(), Complaint> {
        let known = sysctl::find(name).ok_or_else(|| {
            Complaint::new(format!("`{name}` is not a setting"), "`GET /v1/sysctls` lists them".to_owned())
        })?;
        let value = known.parse(text)?;
        if let Value::Int(n) = value {
            // the kernel keeps these in an int and looks at its bits; names without effect are refused here
            let _ = self.catalog.sysctl.set(known.name, i64::from(n as u32));
        }
        self.sysctl.0.insert(known.name, value);
        Ok(())
    }

    /// Takes the counters of all services; to be called once every [`ipvsadm::stats::RATE_INTERVAL`].
    pub fn tick(&mut self) {
        Arc::make_mut(&mut self.rates).tick(self.catalog.services());
    }

    /// Conns, InPkts, OutPkts, InBytes, OutBytes of all services since the last `ipvsadm -Z`, those of
    /// services that were removed meanwhile included.
    pub fn totals(&self) -> [u64; 5] {
        let mut all = self.departed;
        for s in self.catalog.services() {
            for (sum, n) in all.iter_mut().zip(self.zero.service(s)) {
                *sum += n;
            }
        }
        all
    }

    /// What all services carry per second.
    pub fn total_rates(&self) -> [u64; 5] {
        let mut all = [0; 5];
        for s in self.catalog.services() {
            for (sum, n) in all.iter_mut().zip(self.rates.service(s)) {
                *sum += n;
            }
        }
        all
    }

    /// The virtual addresses of all services.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        let ip = |key: ServiceKey| match key {
            ServiceKey::Address { ip, .. } => Some(ip),
            ServiceKey::Mark { .. } => None,
        };
        self.catalog.services().iter().filter_map(|s| ip(s.spec.key)).collect()
    }

    /// The whole configuration as it is now, commands and settings included, overlays apart.
    pub fn current(&self) -> Plan {
        let [tcp, tcp_fin, udp] = self.catalog.timeouts.listed();
        Plan {
            services: self.services(),
            timeouts: Timeouts { tcp, tcp_fin, udp },
            sysctl: self.sysctl.clone(),
            warnings: Vec::new(),
            ..(*self.plan).clone()
        }
    }

    /// Services with their real servers as they are configured now, overlays apart, in the order in which
    /// adding them makes the same catalog.
    pub fn services(&self) -> Vec<(ServiceSpec, Vec<DestSpec>)> {
        let one = |s: &Arc<Service>| {
            let mut reals = self.overlays.beneath(s);
            reals.reverse();
            (s.spec.clone(), reals)
        };
        self.catalog.services().iter().map(one).collect()
    }
}

fn depart(departed: &mut [u64; 5], counts: [u64; 5]) {
    for (sum, n) in departed.iter_mut().zip(counts) {
        *sum += n;
    }
}

#[cfg(test)]
mod tests;
