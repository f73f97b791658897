//! Taking a configuration: what stays keeps what is known of it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::ledger::Ledger;
use super::monitor::{Endpoint, Monitor, Real, Service, Target};
use super::passive::Passive;
use super::policy::{Standing, Wish};
use super::ramp::Ramp;
use super::spec::{AdminState, CheckSpec, HealthPlan, RealHealth, ServiceHealth, Via};
use super::types::{Event, TargetId};
use crate::svc::ServiceKey;
use crate::time::{Mono, Span};

impl Monitor {
    /// Another configuration. What is known of checks and servers that stay is kept.
    pub fn reconfigure(&mut self, now: Mono, plan: &HealthPlan) {
        self.configure(now, plan, false);
    }

    pub(super) fn configure(&mut self, now: Mono, plan: &HealthPlan, first: bool) {
        self.now = now;
        let checks: Vec<Arc<CheckSpec>> = plan.checks.iter().map(|c| Arc::new(c.clone())).collect();
        self.tallies.retain(|name| checks.iter().any(|c| c.name == name));
        for t in self.targets.iter_mut().flatten() {
            t.users.clear();
        }
        let mut before = std::mem::take(&mut self.services);
        let known: HashSet<ServiceKey> = before.keys().copied().collect();
        self.order = plan.services.iter().map(|s| s.key).collect();
        for spec in &plan.services {
            let old = before.remove(&spec.key);
            let known = old.is_some();
            let (mut olds, standing, alive) = match old {
                Some(s) => (s.reals, s.standing, s.alive),
                None => (Vec::new(), Standing::default(), 0),
            };
            let mut reals = Vec::with_capacity(spec.reals.len());
            for r in &spec.reals {
                let targets: Vec<TargetId> =
                    r.checks.iter().map(|c| self.target(now, spec, r, *c, &checks[*c])).collect();
                let old = olds.iter().position(|o| o.spec.at == r.at).map(|i| olds.swap_remove(i));
                reals.push(match old {
                    Some(o) => self.kept(now, spec.key, o, r, targets),
                    None => {
                        let newcomer = known && !first;
                        let ramp = spec.policy.slow_start.filter(|_| newcomer).map(|w| Ramp::new(now, w));
                        let healthy = targets.iter().all(|t| self.works(*t));
                        let mut real = Real {
                            spec: r.clone(),
                            targets,
                            healthy,
                            wish: Wish::Serve(None),
                            ramp,
                            draining: None,
                            cut: false,
                            passive: Passive::default(),
                        };
                        self.drains(now, spec.key, &mut real);
                        real
                    }
                });
            }
            self.services.insert(spec.key, Service { spec: spec.clone(), reals, standing, alive });
        }
        // services that are not watched any more go back to what was configured
        self.changed.extend(before.into_keys());
        self.drop_unused();
        for key in self.order.clone() {
            self.changed.insert(key);
            self.decide(now, key, first || !known.contains(&key));
        }
        self.start(now);
        self.plan_ramps(now);
        self.plan_slow();
    }

    fn kept(
        &mut self,
        now: Mono,
        key: ServiceKey,
        old: Real,
        spec: &RealHealth,
        targets: Vec<TargetId>,
    ) -> Real {
        let mut real = Real { spec: spec.clone(), targets, ..old };
        self.drains(now, key, &mut real);
        real
    }

    /// Begins or ends a drain as the operator says.
    fn drains(&mut self, now: Mono, service: ServiceKey, real: &mut Real) {
        match (real.spec.state, real.draining) {
            (AdminState::Drain { deadline }, None) => {
                (real.draining, real.cut) = (Some(now), false);
                self.events.push_back(Event::Draining { service, real: real.spec.at, deadline });
            }
            (AdminState::Up | AdminState::Maintenance, _) => (real.draining, real.cut) = (None, false),
            (AdminState::Drain { .. }, Some(_)) => {}
        }
    }

    /// The target of a check for a server, made if it is not there.
    fn target(
        &mut self,
        now: Mono,
        service: &ServiceHealth,
        real: &RealHealth,
        index: usize,
        check: &Arc<CheckSpec>,
    ) -> TargetId {
        let endpoint = endpoint(service, real, index, check);
        let key = (endpoint, check.name.clone());
        let user = (service.key, real.at);
        // the place of a check in the file is not what it is known by
        let key = (Endpoint { check: 0, ..key.0 }, key.1);
        if let Some(id) = self.by_endpoint.get(&key).copied()
            && let Some(t) = self.targets[id.0 as usize].as_mut()
        {
            t.users.push(user);
            if t.check != *check {
                if t.check.kind != check.kind {
                    t.ledger = Ledger::new(now, &check.timing);
                }
                t.check = check.clone();
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.targets.push(None);
            self.targets.len() as u32 - 1
        });
        let ledger = Ledger::new(now, &check.timing);
        self.targets[id as usize] = Some(Target {
            endpoint,
            check: check.clone(),
            ledger,
            run: 0,
            began: None,
            weight: None,
            add: 0,
            why: "not checked yet".to_owned(),
            users: vec![user],
        });
        self.by_endpoint.insert(key, TargetId(id));
        let wait = Span(self.random.below(check.timing.warmup.0.max(1)));
        self.schedule.set(id, now + wait, !check.kind.is_remote());
        TargetId(id)
    }

    fn drop_unused(&mut self) {
        for (i, slot) in self.targets.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|t| t.users.is_empty()) {
                let id = TargetId(i as u32);
                let t = slot.take();
                if self.schedule.remove(id.0)
                    && let Some(t) = t
                {
                    self.aborts.push_back((id, t.run));
                }
                self.by_endpoint.retain(|_, v| *v != id);
                self.free.push(id.0);
            }
        }
        let targets = &self.targets;
        let runs = |id: TargetId, run| targets[id.0 as usize].as_ref().is_some_and(|t| t.run == run);
        self.deadlines.retain(|(_, run, id)| runs(*id, *run));
    }
}

fn endpoint(service: &ServiceHealth, real: &RealHealth, check: usize, spec: &CheckSpec) -> Endpoint {
    let by_vip = !real.forward.translates();
    let via = match spec.via {
        Some(Via::Real) => Via::Host,
        Some(via) => via,
        None if by_vip && spec.address.is_none() && spec.kind.is_remote() => Via::Vip,
        None => Via::Host,
    };
    let vip: Option<IpAddr> = match service.key {
        ServiceKey::Address { ip, .. } => Some(ip),
        ServiceKey::Mark { .. } => None,
    };
    let ip = match (via, vip) {
        (Via::Vip, Some(vip)) => vip,
        _ => spec.address.unwrap_or(real.at.ip()),
    };
    let port = if spec.kind.has_port() { spec.port.unwrap_or(real.at.port()) } else { 0 };
    let real_at = if spec.kind.is_remote() { SocketAddr::new(real.at.ip(), 0) } else { real.at };
    Endpoint {
        check,
        to: SocketAddr::new(ip, port),
        real: real_at,
        via,
        forward: (via == Via::Vip).then_some(real.forward),
    }
}
