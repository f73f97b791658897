//! All of it together: checks are started and judged, services follow.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Random;
use super::ledger::{Ledger, Transition};
use super::passive::{Passive, Traffic};
use super::policy::{self, Standing, View, Wish};
use super::ramp::{Ramp, STEP};
use super::schedule::{Limits, Schedule};
use super::spec::{AdminState, CheckSpec, HealthPlan, RealHealth, ServiceHealth, Via};
use super::tally::{Failed, Tallies};
use super::types::{Event, Job, Outcome, RealStatus, TargetId};
use crate::svc::{DestSpec, Forward, ServiceKey};
use crate::time::{Mono, Span};

/// Where a check goes. Services that name one check for one address share its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) check: usize,
    pub(super) to: SocketAddr,
    pub(super) real: SocketAddr,
    pub(super) via: Via,
    pub(super) forward: Option<Forward>,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) check: Arc<CheckSpec>,
    pub(super) ledger: Ledger,
    pub(super) run: u64,
    pub(super) began: Option<Mono>,
    pub(super) weight: Option<u32>,
    pub(super) add: i32,
    pub(super) why: String,
    pub(super) users: Vec<(ServiceKey, SocketAddr)>,
}

#[derive(Debug)]
pub(super) struct Real {
    pub(super) spec: RealHealth,
    pub(super) targets: Vec<TargetId>,
    pub(super) healthy: bool,
    pub(super) wish: Wish,
    pub(super) ramp: Option<Ramp>,
    pub(super) draining: Option<Mono>,
    pub(super) cut: bool,
    pub(super) passive: Passive,
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) spec: ServiceHealth,
    pub(super) reals: Vec<Real>,
    pub(super) standing: Standing,
    pub(super) alive: u64,
}

/// Watches all real servers.
#[derive(Debug)]
pub struct Monitor {
    pub(super) now: Mono,
    pub(super) random: Random,
    pub(super) schedule: Schedule,
    pub(super) targets: Vec<Option<Target>>,
    pub(super) free: Vec<u32>,
    pub(super) by_endpoint: HashMap<(Endpoint, String), TargetId>,
    pub(super) services: HashMap<ServiceKey, Service>,
    pub(super) order: Vec<ServiceKey>,
    pub(super) runs: u64,
    pub(super) jobs: VecDeque<Job>,
    pub(super) aborts: VecDeque<(TargetId, u64)>,
    pub(super) events: VecDeque<Event>,
    pub(super) changed: BTreeSet<ServiceKey>,
    /// Running checks with the time at which they have failed.
    pub(super) deadlines: BTreeSet<(Mono, u64, TargetId)>,
    pub(super) tallies: Tallies,
    pub(super) ramp_at: Option<Mono>,
    /// The next deadline of a drain or end of a judgement by traffic.
    pub(super) slow_at: Option<Mono>,
}

impl Monitor {
    /// Watches what `plan` says, from now on.
    pub fn new(now: Mono, plan: &HealthPlan, limits: Limits, seed: u64) -> Monitor {
        let mut m = Monitor {
            now,
            random: Random(seed),
            schedule: Schedule::new(limits),
            targets: Vec::new(),
            free: Vec::new(),
            by_endpoint: HashMap::new(),
            services: HashMap::new(),
            order: Vec::new(),
            runs: 0,
            jobs: VecDeque::new(),
            aborts: VecDeque::new(),
            events: VecDeque::new(),
            changed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            tallies: Tallies::default(),
            ramp_at: None,
            slow_at: None,
        };
        m.configure(now, plan, true);
        m
    }

    pub(super) fn works(&self, id: TargetId) -> bool {
        self.targets[id.0 as usize].as_ref().is_none_or(|t| t.ledger.is_up())
    }

    /// When [`Monitor::on_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let deadline = self.deadlines.first().map(|(at, ..)| *at);
        [self.schedule.poll_timeout(), deadline, self.ramp_at, self.slow_at].into_iter().flatten().min()
    }

    pub(super) fn plan_slow(&mut self) {
        let of = |(_, r): (ServiceKey, &Real)| [deadline(r), r.passive.poll_timeout()];
        self.slow_at = self.reals().flat_map(of).flatten().min();
    }

    /// What the runs of each check came to, by name.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// Starts what is due and ends what took too long.
    pub fn on_timeout(&mut self, now: Mono) {
        self.now = now;
        while let Some((at, run, id)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let limit = self.targets[id.0 as usize].as_ref().map(|t| t.check.timing.timeout.as_millis());
            self.aborts.push_back((id, run));
            let why = format!("no answer within {} ms", limit.unwrap_or_default());
            self.finish(now, id, run, Outcome::failed(why), Failed::Timeout);
        }
        if self.slow_at.is_some_and(|at| at <= now) {
            self.slow(now);
        }
        if self.ramp_at.is_some_and(|at| at <= now) {
            self.plan_ramps(now);
        }
        self.start(now);
    }

    /// Cuts off what is left at the deadline of a drain, and takes back whose time out is over.
    fn slow(&mut self, now: Mono) {
        let due = |r: &Real| deadline(r).is_some_and(|at| at <= now);
        let cut: Vec<_> = self.reals().filter(|(_, r)| due(r)).map(|(k, r)| (k, r.spec.at)).collect();
        for (service, at) in cut {
            if let Some(r) = self.real_mut(service, at) {
                r.cut = true;
            }
            self.events.push_back(Event::Cut { service, real: at });
            self.decide(now, service, false);
        }
        let back = |r: &Real| r.passive.poll_timeout().is_some_and(|at| at <= now);
        let back: Vec<_> = self.reals().filter(|(_, r)| back(r)).map(|(k, r)| (k, r.spec.at)).collect();
        for (key, at) in back {
            self.judge(now, key, at, None);
        }
        self.plan_slow();
    }

    pub(super) fn start(&mut self, now: Mono) {
        while let Some(id) = self.schedule.start(now) {
            self.run_aborts();
            self.runs += 1;
            let run = self.runs;
            let Some(t) = self.targets[id as usize].as_mut() else { continue };
            (t.run, t.began) = (run, Some(now));
            self.deadlines.insert((now + t.check.timing.timeout, run, TargetId(id)));
            self.jobs.push_back(Job {
                id: TargetId(id),
                run,
                check: t.check.clone(),
                to: t.endpoint.to,
                real: t.endpoint.real,
                via: t.endpoint.via,
                forward: t.endpoint.forward,
            });
        }
        self.run_aborts();
    }

    fn run_aborts(&mut self) {
        while let Some(id) = self.schedule.poll_abort() {
            if let Some(t) = self.targets[id as usize].as_ref() {
                if let Some(began) = t.began {
                    self.deadlines.remove(&(began + t.check.timing.timeout, t.run, TargetId(id)));
                }
                self.aborts.push_back((TargetId(id), t.run));
            }
        }
    }

    /// Takes the result of a run.
    pub fn on_outcome(&mut self, now: Mono, id: TargetId, run: u64, outcome: Outcome) {
        self.finish(now, id, run, outcome, Failed::Answer);
    }

    /// A run ended; `failed`: why, if it failed.
    fn finish(&mut self, now: Mono, id: TargetId, run: u64, outcome: Outcome, failed: Failed) {
        self.now = now;
        let Some(t) = self.targets.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let Some(began) = t.began.filter(|_| t.run == run) else { return };
        if !self.schedule.finished(id.0, outcome.ok) {
            return;
        }
        self.deadlines.remove(&(began + t.check.timing.timeout, run, id));
        t.began = None;
        self.tallies.count(&t.check.name, now.since(began), (!outcome.ok).then_some(failed));
        let timing = t.check.timing;
        let changed = t.ledger.observe(now, &timing, outcome.ok);
        let known_weight = (t.weight, t.add);
        if outcome.ok {
            (t.weight, t.add) = (outcome.weight, outcome.add);
        }
        t.why = outcome.why;
        let weighs = known_weight != (t.weight, t.add);
        let next = t.ledger.next(began, now, &timing);
        let early = timing.interval.0 / 100 * u64::from(timing.jitter);
        // a server that just failed is looked at as planned
        let early = if outcome.ok { self.random.below(early.max(1)) } else { 0 };
        let next = Mono(next.0.saturating_sub(early)).max(now);
        self.schedule.set(id.0, next, !t.check.kind.is_remote());
        if changed.is_some() || weighs {
            let (users, why) = (t.users.clone(), t.why.clone());
            for (key, at) in users {
                self.judge(now, key, at, Some((changed, &why)));
            }
        }
        self.start(now);
    }

    /// Nothing was found out: no socket, no process to be had. Tried again later; nobody goes down for it.
    pub fn on_unchecked(&mut self, now: Mono, id: TargetId, run: u64, why: &str) {
        self.now = now;
        let Some(t) = self.targets.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let Some(began) = t.began.filter(|_| t.run == run) else { return };
        if !self.schedule.finished(id.0, true) {
            return;
        }
        self.deadlines.remove(&(began + t.check.timing.timeout, run, id));
        t.began = None;
        t.why = format!("not checked: {why}");
        self.tallies.count(&t.check.name, now.since(began), Some(Failed::Unchecked));
        self.schedule.set(id.0, now + t.check.timing.interval, !t.check.kind.is_remote());
        self.start(now);
    }

    /// Takes the counts of a server's connections.
    pub fn on_traffic(&mut self, now: Mono, key: &ServiceKey, at: SocketAddr, counts: Traffic) {
        let Some(spec) = self.services.get(key).and_then(|s| s.spec.policy.passive) else { return };
        let Some(r) = self.real_mut(*key, at) else { return };
        if r.passive.observe(now, &spec, counts) {
            let why = "connections were not answered or refused".to_owned();
            self.judge(now, *key, at, Some((None, &why)));
        }
    }

    /// Looks at a server again.
    fn judge(&mut self, now: Mono, key: ServiceKey, at: SocketAddr, why: Option<(Option<Transition>, &str)>) {
        let Some(service) = self.services.get(&key) else { return };
        let passive = service.spec.policy.passive;
        let Some(i) = service.reals.iter().position(|r| r.spec.at == at) else { return };
        let checks = service.reals[i].targets.iter().all(|t| self.works(*t));
        let Some(service) = self.services.get_mut(&key) else { return };
        let r = &mut service.reals[i];
        if let Some(spec) = passive {
            r.passive.on_timeout(now, &spec);
        }
        let healthy = checks && r.passive.is_fine();
        if healthy != std::mem::replace(&mut r.healthy, healthy) {
            let why = why.map_or("it is tried again", |(_, w)| w).to_owned();
            r.ramp = service.spec.policy.slow_start.filter(|_| healthy).map(|w| Ramp::new(now, w));
            self.events.push_back(match healthy {
                true => Event::RealUp { service: key, real: at, why },
                false => Event::RealDown { service: key, real: at, why },
            });
        }
        self.decide(now, key, false);
        let Some(policy) = self.services.get(&key).map(|s| &s.spec.policy) else { return };
        let (gently, passive) = (policy.slow_start.is_some(), policy.passive.is_some());
        if gently {
            self.plan_ramps(now);
        }
        if passive {
            self.plan_slow();
        }
    }

    /// `first`: the service is looked at for the first time.
    pub(super) fn decide(&mut self, now: Mono, key: ServiceKey, first: bool) {
        let Some(s) = self.services.get(&key) else { return };
        let views: Vec<View> = s
            .reals
            .iter()
            .map(|r| View {
                healthy: r.healthy,
                weight: r.spec.weight,
                answer: self.answer(r),
                state: r.spec.state,
                on_failure: r.spec.on_failure,
                cut: r.cut,
            })
            .collect();
        let before = s.standing;
        let d = policy::decide(&s.spec.policy, before, &views);
        let (after, alive, quorum) = (d.standing, d.alive, s.spec.policy.quorum);
        let Some(s) = self.services.get_mut(&key) else { return };
        let mut say = |e| self.events.push_back(e);
        let mut changed = before.sorry != after.sorry;
        for (r, wish) in s.reals.iter_mut().zip(d.wishes) {
            if r.wish == wish {
                continue;
            }
            if let Wish::Serve(Some(weight)) = wish {
                say(Event::Weight { service: key, real: r.spec.at, weight });
            }
            // whoever comes back does so gently, also when its service had been given to the sorry server
            let absent = !matches!(r.wish, Wish::Serve(_));
            if absent && matches!(wish, Wish::Serve(_)) && r.ramp.is_none() && !first {
                r.ramp = s.spec.policy.slow_start.map(|w| Ramp::new(now, w));
            }
            r.wish = wish;
            changed = true;
        }
        (s.standing, s.alive) = (after, alive);
        // what is believed before there are results is no news (keepalived's `alpha` is silent too)
        if before.quorum != after.quorum && !first {
            say(match after.quorum {
                true => Event::QuorumGained { service: key, alive, quorum },
                false => Event::QuorumLost { service: key, alive, quorum },
            });
        }
        if before.sorry != after.sorry {
            say(Event::Sorry { service: key, serves: after.sorry });
        }
        if before.panic != after.panic {
            say(Event::Panic { service: key, on: after.panic });
        }
        if changed {
            self.changed.insert(key);
        }
    }

    /// The weight the checks of a server give it.
    fn answer(&self, r: &Real) -> Option<u32> {
        let targets = || r.targets.iter().filter_map(|t| self.targets[t.0 as usize].as_ref());
        let said = targets().filter_map(|t| t.weight).min();
        let add: i64 = targets().map(|t| i64::from(t.add)).sum();
        if said.is_none() && add == 0 {
            return None;
        }
        let weight = i64::from(said.unwrap_or(r.spec.weight)) + add;
        Some(weight.clamp(0, i64::from(i32::MAX)) as u32)
    }

    /// Ends slow starts that are over and says when to look again.
    pub(super) fn plan_ramps(&mut self, now: Mono) {
        let mut any = false;
        for s in self.services.values_mut() {
            for r in &mut s.reals {
                if r.ramp.is_some_and(|ramp| ramp.is_over(now)) {
                    r.ramp = None;
                    self.changed.insert(s.spec.key);
                }
                any |= r.ramp.is_some();
            }
        }
        self.ramp_at = any.then(|| now + STEP);
    }

    /// Bounds of shares of servers in slow start; those not named have none.
    pub fn shares(&self, now: Mono) -> Vec<(ServiceKey, SocketAddr, u32)> {
        let mut out = Vec::new();
        for s in self.services.values() {
            if s.reals.iter().all(|r| r.ramp.is_none()) {
                continue;
            }
            let weight = |r: &Real| match r.wish {
                Wish::Serve(w) => w.unwrap_or(r.spec.weight),
                Wish::Drain | Wish::Cut | Wish::Inhibit | Wish::Remove => 0,
            };
            let total: u64 = s.reals.iter().map(|r| u64::from(weight(r))).sum();
            for r in &s.reals {
                if let Some(share) = r.ramp.and_then(|ramp| ramp.share(now, weight(r), total)) {
                    out.push((s.spec.key, r.spec.at, share));
                }
            }
        }
        out
    }

    /// The next check to start.
    pub fn poll_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }
    /// The next run to stop; its result is not wanted any more.
    pub fn poll_abort(&mut self) -> Option<(TargetId, u64)> {
        self.aborts.pop_front()
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    /// The next service whose [`Monitor::wishes`] may be other ones than before.
    pub fn poll_changed(&mut self) -> Option<ServiceKey> {
        self.changed.pop_first()
    }
    /// What each server of a service is to be; empty for services that are not watched.
    pub fn wishes(&self, key: &ServiceKey) -> Vec<(SocketAddr, Wish)> {
        let s = self.services.get(key);
        s.map(|s| s.reals.iter().map(|r| (r.spec.at, r.wish)).collect()).unwrap_or_default()
    }
    /// The sorry server, while it serves.
    pub fn sorry(&self, key: &ServiceKey) -> Option<&DestSpec> {
        let s = self.services.get(key).filter(|s| s.standing.sorry)?;
        s.spec.policy.sorry.as_ref()
    }
    /// Where a service stands, with its healthy weight.
    pub fn standing(&self, key: &ServiceKey) -> Option<(Standing, u64)> {
        self.services.get(key).map(|s| (s.standing, s.alive))
    }
    /// The configuration of a service.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceHealth> {
        self.services.get(key).map(|s| &s.spec)
    }
    /// The services in the order of the configuration.
    pub fn services(&self) -> &[ServiceKey] {
        &self.order
    }
    /// The servers of a service with all that is known of them.
    pub fn status(&self, now: Mono, key: &ServiceKey) -> Vec<RealStatus> {
        let Some(s) = self.services.get(key) else { return Vec::new() };
        let check = |id: &TargetId| {
            let t = self.targets[id.0 as usize].as_ref()?;
            let since = now.since(t.ledger.since()).as_millis();
            Some((t.check.name.clone(), t.ledger.is_up(), t.why.clone(), since))
        };
        let one = |r: &Real| RealStatus {
            at: r.spec.at,
            healthy: r.healthy,
            wish: r.wish,
            state: r.spec.state,
            checks: r.targets.iter().filter_map(check).collect(),
            deadline_ms: deadline(r).map(|at| at.since(now).as_millis()),
            warming: r.ramp.is_some(),
        };
        s.reals.iter().map(one).collect()
    }
    /// Checks that run now.
    pub fn running(&self) -> usize {
        self.schedule.running()
    }
    /// Longest time a check of a good server waited for its place.
    pub fn worst_wait(&self) -> Span {
        self.schedule.worst_wait
    }
    /// Addresses that are checked.
    pub fn target_count(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    fn reals(&self) -> impl Iterator<Item = (ServiceKey, &Real)> {
        self.services.values().flat_map(|s| s.reals.iter().map(|r| (s.spec.key, r)))
    }
    fn real_mut(&mut self, key: ServiceKey, at: SocketAddr) -> Option<&mut Real> {
        self.services.get_mut(&key)?.reals.iter_mut().find(|r| r.spec.at == at)
    }
}

/// When a draining server is cut off.
pub(super) fn deadline(r: &Real) -> Option<Mono> {
    match r.spec.state {
        AdminState::Drain { deadline: Some(span) } if !r.cut => r.draining.map(|at| at + span),
        _ => None,
    }
}
