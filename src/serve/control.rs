//! The control task, the only writer of what is configured.
//!
//! Requests come through a bounded channel and are served one after the other, each a transaction: tried
//! on a clone of the state, prepared in the kernel, published to all workers, and only then what runs. The
//! answer comes when every worker decides by it. Events go to whoever listens, through a bounded channel
//! that drops the oldest for those who are slow.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::health::{Asker, ServiceStatus};
use super::running::{Running, stopped};
use super::workers::Askers;
use crate::config::Plan;
use crate::config::apply::Changes;
use crate::config::diag::Complaint;
use crate::ctl::ipvsadm::{Call, Outcome};
use crate::ctl::{Event, Overlay, RealKey, State};
use crate::failure::Failure;
use crate::health::CheckTally;
use crate::host::HostEvent;
use crate::io::PortInfo;
use crate::io::sys::netlink::Netlink;
use crate::ipvsadm::stats::RATE_INTERVAL;
use crate::ipvsadm::{Command, Refusal};
use crate::svc::CatalogError;
use crate::worker::stopwatch::PaceStats;
use crate::worker::{PortStats, clock};

/// Requests that may wait for the control task.
const QUEUE: usize = 256;
/// Events kept for slow listeners.
const EVENTS: usize = 1024;
/// How often the workers are asked what happened beside packets.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most events of one look that are written to the log; a flood of them is counted instead.
const EVENT_LINES: usize = 8;

/// What the control task can be asked.
enum Request {
    Look(oneshot::Sender<State>),
    Ports(oneshot::Sender<Vec<(PortInfo, PortStats)>>),
    Pace(oneshot::Sender<PaceStats>),
    Apply {
        plan: Box<Plan>,
        dry_run: bool,
        answer: oneshot::Sender<Result<Applied, Failure>>,
    },
    Ipvsadm {
        call: Box<Call>,
        answer: oneshot::Sender<Outcome>,
    },
    Commands {
        commands: Vec<Command>,
        whole: bool,
        answer: oneshot::Sender<Result<(), (usize, Refusal)>>,
    },
    Overlay {
        overlays: Vec<(RealKey, Option<Overlay>)>,
        /// Bounds of shares of new connections, for slow start.
        shares: Vec<(RealKey, Option<u32>)>,
        answer: oneshot::Sender<Vec<Result<(), CatalogError>>>,
    },
    Sysctls {
        values: Vec<(String, String)>,
        answer: oneshot::Sender<Result<(), Complaint>>,
    },
}

/// What a whole configuration came to.
#[derive(Debug)]
pub struct Applied {
    /// What changed, or would change.
    pub changes: Changes,
    /// What ran before.
    pub before: State,
    /// What runs now, or would run.
    pub after: State,
}

/// The way to the control task. Clones lead to the same one.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    askers: Askers,
    reloads: Arc<Reloads>,
    health: Arc<OnceLock<Asker>>,
    examining: Arc<Semaphore>,
}

#[derive(Default)]
struct Reloads {
    applied: AtomicU64,
    refused: AtomicU64,
    /// When the last one was applied, seconds since 1970.
    at: AtomicU64,
}

/// The control task is not there any more: the director is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the director is stopping")
    }
}

impl std::error::Error for Gone {}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Failure {
        Failure::run("cannot change the configuration", gone.to_string(), "")
    }
}

impl Control {
    async fn ask<R>(&self, request: impl FnOnce(oneshot::Sender<R>) -> Request) -> Result<R, Gone> {
        let (tell, answer) = oneshot::channel();
        self.requests.send(request(tell)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// What runs at this moment.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn look(&self) -> Result<State, Gone> {
        self.ask(Request::Look).await
    }
    /// The ports with their counters.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn ports(&self) -> Result<Vec<(PortInfo, PortStats)>, Gone> {
        self.ask(Request::Ports).await
    }
    /// How long packets were in the core.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn pace(&self) -> Result<PaceStats, Gone> {
        self.ask(Request::Pace).await
    }
    /// Makes what runs into what `plan` says, all of it or nothing; with `dry_run` only finds out what
    /// would change. Overlays of health checks stay.
    ///
    /// # Errors
    /// Why not; what runs is as it was.
    pub async fn apply(&self, plan: Plan, dry_run: bool) -> Result<Applied, Failure> {
        let plan = Box::new(plan);
        self.ask(|answer| Request::Apply { plan, dry_run, answer }).await?
    }
    /// Runs `ipvsadm` commands, as many as go; they become effective together.
    ///
    /// # Errors
    /// [`Gone`]; inside, the place of the first one that was refused, and why. Those before it are done.
    pub async fn commands(&self, commands: Vec<Command>) -> Result<Result<(), (usize, Refusal)>, Gone> {
        self.ask(|answer| Request::Commands { commands, whole: false, answer }).await
    }
    /// Runs `ipvsadm` commands, all of them or none.
    ///
    /// # Errors
    /// [`Gone`]; inside, the place of the first one that was refused, and why. Nothing is done then.
    pub async fn transaction(&self, commands: Vec<Command>) -> Result<Result<(), (usize, Refusal)>, Gone> {
        self.ask(|answer| Request::Commands { commands, whole: true, answer }).await
    }
    /// A call of `ipvsadm`.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn ipvsadm(&self, call: Call) -> Result<Outcome, Gone> {
        let call = Box::new(call);
        self.ask(|answer| Request::Ipvsadm { call, answer }).await
    }
    /// How many whole configurations were applied and refused, and when the last one was applied, that of the
    /// start included, in seconds since 1970.
    pub fn reloads(&self) -> (u64, u64, u64) {
        let Reloads { applied, refused, at } = &*self.reloads;
        (applied.load(Relaxed), refused.load(Relaxed), at.load(Relaxed))
    }
    /// Tells those who listen that a whole configuration was refused, and counts it.
    pub fn refused(&self, failure: &Failure) {
        self.reloads.refused.fetch_add(1, Relaxed);
        self.tell(Event::Refused { why: failure.messages().join("\n") });
    }
    /// Lays over or takes away, several at once; the answers are in the order of the requests, and what
    /// succeeds becomes effective together.
    ///
    /// # Errors
    /// [`Gone`]; inside, real servers that are not there.
    pub async fn overlay(
        &self,
        overlays: Vec<(RealKey, Option<Overlay>)>,
    ) -> Result<Vec<Result<(), CatalogError>>, Gone> {
        self.ask(|answer| Request::Overlay { overlays, shares: Vec::new(), answer }).await
    }
    /// The same, and bounds or frees the shares of new connections of servers in slow start; they hold
    /// before the overlays become effective.
    ///
    /// # Errors
    /// As [`Control::overlay`].
    pub async fn overlay_gently(
        &self,
        overlays: Vec<(RealKey, Option<Overlay>)>,
        shares: Vec<(RealKey, Option<u32>)>,
    ) -> Result<Vec<Result<(), CatalogError>>, Gone> {
        self.ask(|answer| Request::Overlay { overlays, shares, answer }).await
    }
    /// Gives a real server another weight than the configured one, 0 to inhibit it.
    ///
    /// # Errors
    /// [`Gone`]; inside, there is no such real server.
    pub async fn set_weight(&self, real: RealKey, weight: u32) -> Result<Result<(), CatalogError>, Gone> {
        self.overlay_one(real, Some(Overlay::Weight(weight))).await
    }
    /// Takes a real server out of its service; its connections stay.
    ///
    /// # Errors
    /// As [`Control::set_weight`].
    pub async fn remove(&self, real: RealKey) -> Result<Result<(), CatalogError>, Gone> {
        self.overlay_one(real, Some(Overlay::Remove)).await
    }
    /// A real server is again as it is configured.
    ///
    /// # Errors
    /// As [`Control::set_weight`].
    pub async fn restore(&self, real: RealKey) -> Result<Result<(), CatalogError>, Gone> {
        self.overlay_one(real, None).await
    }
    async fn overlay_one(
        &self,
        real: RealKey,
        overlay: Option<Overlay>,
    ) -> Result<Result<(), CatalogError>, Gone> {
        let mut answers = self.overlay(vec![(real, overlay)]).await?;
        answers.pop().ok_or(Gone)
    }
    /// Sets switches of `net.ipv4.vs`, all of them or none.
    ///
    /// # Errors
    /// [`Gone`]; inside, what is wrong with one of them.
    pub async fn sysctls(&self, values: Vec<(String, String)>) -> Result<Result<(), Complaint>, Gone> {
        self.ask(|answer| Request::Sysctls { values, answer }).await
    }
    /// What is known of real servers; empty without health checks.
    pub async fn health(&self) -> Vec<ServiceStatus> {
        match self.health.get() {
            Some(asker) => asker.status().await,
            None => Vec::new(),
        }
    }
    /// What the runs of each check came to, by name; empty without health checks.
    pub async fn check_tallies(&self) -> Vec<(String, CheckTally)> {
        match self.health.get() {
            Some(asker) => asker.tallies().await,
            None => Vec::new(),
        }
    }
    /// Whom to ask about real servers.
    pub(super) fn set_health(&self, asker: Asker) {
        // there is one
        let _ = self.health.set(asker);
    }
    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
    /// Tells those who listen.
    pub fn tell(&self, event: Event) {
        // nobody listens: fine
        let _ = self.events.send(event);
    }
    /// Held by whoever asks the network around: one at a time.
    pub fn examining(&self) -> &Arc<Semaphore> {
        &self.examining
    }
    /// The workers, for what does not change anything.
    pub fn workers(&self) -> &Askers {
        &self.askers
    }
}

/// The control task before it runs.
pub struct Task {
    running: Running,
    state: State,
    requests: mpsc::Receiver<Request>,
    events: broadcast::Sender<Event>,
    generation: u64,
    reloads: Arc<Reloads>,
}

/// The way to the control task, and the task, which the caller has to run.
///
/// # Errors
/// The workers have ended.
pub fn control(running: Running, state: State) -> Result<(Control, Task), Failure> {
    let (sender, requests) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(EVENTS);
    let askers = running.workers()?.askers();
    let reloads = Arc::new(Reloads { at: clock::wall_seconds().into(), ..Reloads::default() });
    let control = Control {
        requests: sender,
        events: events.clone(),
        askers,
        reloads: reloads.clone(),
        health: Arc::default(),
        examining: Arc::new(Semaphore::new(1)),
    };
    Ok((control, Task { running, state, requests, events, generation: 0, reloads }))
}

impl Task {
    /// Serves until `stop` becomes true; gives the devices back, to be stopped.
    ///
    /// # Errors
    /// A worker ended by itself, or prepared surroundings cannot be kept.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> (Running, Result<(), Failure>) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rates = interval(Duration::from_nanos(RATE_INTERVAL.0));
        rates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => break Ok(()),
                },
                _ = stop.wait_for(|stop| *stop) => break Ok(()),
                _ = rates.tick() => self.state.tick(),
                _ = look.tick() => {
                    if self.running.is_finished() {
                        break Err(stopped());
                    }
                    self.running.look();
                    self.look().await;
                }
            }
        };
        (self.running, result)
    }

    async fn serve(&mut self, request: Request) {
        // who asked may have gone away meanwhile: fine
        match request {
            Request::Look(answer) => drop(answer.send(self.state.clone())),
            Request::Ports(answer) => {
                drop(answer.send(self.running.workers().map(|w| w.ports()).unwrap_or_default()));
            }
            Request::Pace(answer) => {
                let _ = answer.send(self.running.workers().map(|w| w.pace()).unwrap_or_default());
            }
            Request::Apply { plan, dry_run, answer } => {
                drop(answer.send(self.apply(*plan, dry_run).await));
            }
            Request::Commands { commands, whole, answer } => {
                drop(answer.send(self.commands(&commands, whole).await));
            }
            Request::Ipvsadm { call, answer } => drop(answer.send(self.ipvsadm(&call).await)),
            Request::Overlay { overlays, shares, answer } => {
                drop(answer.send(self.overlay(overlays, &shares).await));
            }
            Request::Sysctls { values, answer } => drop(answer.send(self.sysctls(&values).await)),
        }
    }

    async fn apply(&mut self, mut plan: Plan, dry_run: bool) -> Result<Applied, Failure> {
        keep_doors(&self.state.plan, &mut plan)?;
        let net = self.running.network(&plan)?;
        let mut next = self.draft();
        let mut changes =
            next.apply(Arc::new(plan)).map_err(|e| Failure::wrong("configuration", e.to_string(), ""))?;
        if *next.catalog.net != net {
            next.catalog.net = Arc::new(net);
            changes.settings = true;
        }
        let before = self.state.clone();
        changes.settings |= before.plan.linger != next.plan.linger;
        let packets_see = !changes.is_empty();
        let (old, new) = (&before.plan.health, &next.plan.health);
        // with servers that come and go their health does
        changes.checks = old.checks != new.checks || old.fifo != new.fifo || !packets_see && old != new;
        if dry_run {
            return Ok(Applied { changes, before, after: next });
        }
        if !packets_see {
            self.state = next;
            self.tell(Event::Changed { generation: self.generation, changes });
        } else {
            self.publish(next, changes).await?;
        }
        self.reloads.applied.fetch_add(1, Relaxed);
        self.reloads.at.store(clock::wall_seconds(), Relaxed);
        Ok(Applied { changes, before, after: self.state.clone() })
    }

    async fn ipvsadm(&mut self, call: &Call) -> Outcome {
        let links = std::cell::OnceCell::new();
        let exists = |name: &str| {
            let all = links.get_or_init(|| Netlink::open().and_then(|mut n| n.links()).unwrap_or_default());
            all.iter().any(|l| l.name == name)
        };
        let mut next = self.draft();
        let mut outcome = next.ipvsadm(call, &exists);
        if next.daemons != self.state.daemons {
            warn!(
                "a synchronisation daemon was started or stopped: this version sends and receives nothing yet"
            );
        }
        if outcome.changed {
            let changes = differences(&self.state, &next);
            if let Err(failure) = self.publish(next, changes).await {
                outcome.stdout.clear();
                outcome.stderr = plain(&failure) + "\n";
                outcome.code = 255;
            }
        } else {
            self.state = next;
        }
        outcome
    }

    async fn commands(&mut self, commands: &[Command], whole: bool) -> Result<(), (usize, Refusal)> {
        let mut next = self.draft();
        let mut refused = None;
        for (i, command) in commands.iter().enumerate() {
            if let Err(e) = next.command(command) {
                refused = Some((i, e));
                break;
            }
        }
        if let Some(first) = refused.take_if(|_| whole) {
            return Err(first);
        }
        let done = refused.as_ref().map_or(commands.len(), |(i, _)| *i);
        let changing = |c: &Command| !matches!(c, Command::List(_) | Command::Zero(_));
        if commands[..done].iter().any(changing) {
            let changes = differences(&self.state, &next);
            if let Err(failure) = self.publish(next, changes).await {
                return Err((0, Refusal::kernel(plain(&failure))));
            }
        } else {
            self.state = next;
        }
        refused.map_or(Ok(()), Err)
    }

    async fn overlay(
        &mut self,
        overlays: Vec<(RealKey, Option<Overlay>)>,
        shares: &[(RealKey, Option<u32>)],
    ) -> Vec<Result<(), CatalogError>> {
        let mut next = self.draft();
        let mut changes = Changes::default();
        let mut answers = Vec::with_capacity(overlays.len());
        let mut told = Vec::new();
        for (real, overlay) in overlays {
            let answer = next.overlay(real, overlay.clone());
            if answer == Ok(true) {
                changes.reals[1] += 1;
                told.push(Event::Overlaid { real, overlay });
            }
            answers.push(answer.map(drop));
        }
        for (real, share) in shares {
            next.set_share(real, *share);
        }
        if told.is_empty() {
            self.state = next;
        } else if let Err(failure) = self.publish(next, changes).await {
            // the virtual addresses are the same, so only a worker that ended can be the reason
            warn!("{}", failure.messages().join("; "));
        } else {
            told.into_iter().for_each(|event| self.tell(event));
        }
        answers
    }

    async fn sysctls(&mut self, values: &[(String, String)]) -> Result<(), Complaint> {
        let mut next = self.draft();
        for (name, text) in values {
            next.set_sysctl(name, text)?;
        }
        let changes = Changes { settings: next.sysctl != self.state.sysctl, ..Changes::default() };
        if !changes.is_empty() {
            let done = self.publish(next, changes).await;
            done.map_err(|f| Complaint::new(f.messages().join("; "), ""))?;
        }
        Ok(())
    }

    /// What runs, to be changed.
    fn draft(&self) -> State {
        let mut next = self.state.clone();
        next.catalog.now = clock::now();
        next
    }

    /// Makes `next` what runs: the kernel around us is prepared, then all workers take it.
    async fn publish(&mut self, mut next: State, changes: Changes) -> Result<(), Failure> {
        let (before, vips): (BTreeSet<IpAddr>, _) = (self.state.vips(), next.vips());
        let ports = next.plan.ports != self.state.plan.ports;
        let surround = vips != before || ports;
        if surround {
            self.running.surround(&next.plan, &vips, &before)?;
        }
        // before the schedulers are told, who forget nothing of it
        if let Err(why) = self.running.claim(|| next.catalog.preview()) {
            if surround && let Err(e) = self.running.surround(&self.state.plan, &before, &vips) {
                warn!("what was prepared for a refused change stays: {}", e.messages().join("; "));
            }
            return Err(why);
        }
        let snapshot = next.catalog.commit();
        // removed servers may be forgotten now: fewer addresses are not refused
        if let Err(e) = self.running.claim(|| snapshot.clone()) {
            warn!("{}", e.messages().join("; "));
        }
        self.generation = snapshot.generation;
        self.state = next;
        self.running.set_linger(&self.state.plan);
        self.running.workers()?.publish(snapshot).await.map_err(|_| stopped())?;
        self.tell(Event::Changed { generation: self.generation, changes });
        Ok(())
    }

    fn tell(&self, event: Event) {
        // nobody listens: fine
        let _ = self.events.send(event);
    }

    /// What happened beside packets: to the log and to those who listen.
    async fn look(&self) {
        let Ok(workers) = self.running.workers() else { return };
        let Ok(events) = workers.events().await else { return };
        for (i, event) in events.iter().enumerate() {
            let event = self.named(*event);
            if i < EVENT_LINES {
                log(&event);
            }
            self.tell(event);
        }
        if events.len() > EVENT_LINES {
            warn!(more = events.len() - EVENT_LINES, "further events of this kind");
        }
    }

    fn named(&self, event: HostEvent) -> Event {
        let name = |port| self.running.port_name(port).to_owned();
        match event {
            HostEvent::AddressConflict { port, ip, mac } => {
                Event::AddressConflict { port: name(port), ip, mac }
            }
            HostEvent::NeighborMoved { port, ip, from, to } => {
                Event::NeighborMoved { port: name(port), ip, from, to }
            }
            HostEvent::NeighborFailed { port, ip } => Event::NeighborFailed { port: name(port), ip },
        }
    }
}

/// Sockets and folders are opened once: a configuration that does not name them leaves them, another one is
/// refused.
fn keep_doors(now: &Plan, next: &mut Plan) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::wrong(
            what,
            "it cannot be changed while the director runs",
            "leave it as it is, or restart softlvs",
        ))
    };
    if next.control.is_some() && next.control != now.control {
        return refuse("director.control");
    }
    if next.http.is_some() && next.http != now.http {
        return refuse("director.http");
    }
    if next.proc.is_some() && next.proc != now.proc {
        return refuse("director.proc");
    }
    (next.control, next.http, next.proc) = (now.control.clone(), now.http.clone(), now.proc.clone());
    Ok(())
}

/// What went wrong, for a program that has its own way to say so.
fn plain(failure: &Failure) -> String {
    let messages = failure.messages().iter().map(|m| m.trim_start_matches("error: "));
    messages.collect::<Vec<_>>().join("\n")
}

fn log(event: &Event) {
    match event {
        Event::AddressConflict { port, ip, mac } => {
            warn!(port, %ip, %mac, "another station says it has an address of the director");
        }
        Event::NeighborMoved { port, ip, from, to } => {
            info!(port, %ip, %from, %to, "neighbour has another MAC address");
        }
        Event::NeighborFailed { port, ip } => warn!(port, %ip, "neighbour does not answer"),
        Event::Changed { .. } | Event::Refused { .. } | Event::Overlaid { .. } | Event::Health(_) => {}
    }
}

/// How many services and real servers differ.
fn differences(before: &State, after: &State) -> Changes {
    let mut changes =
        Changes { settings: before.catalog.timeouts != after.catalog.timeouts, ..Changes::default() };
    for s in after.catalog.services() {
        let Some(old) = before.catalog.service(&s.spec.key) else {
            changes.services[0] += 1;
            changes.reals[0] += s.dests.len();
            continue;
        };
        if Arc::ptr_eq(old, s) {
            continue;
        }
        changes.services[1] += usize::from(old.spec != s.spec);
        let same =
            |a: &crate::svc::Dest, b: &crate::svc::Dest| (a.spec.ip, a.spec.port) == (b.spec.ip, b.spec.port);
        for d in &s.dests {
            match old.dests.iter().find(|o| same(o, d)) {
                None => changes.reals[0] += 1,
                Some(o) => changes.reals[1] += usize::from(o.spec != d.spec),
            }
        }
        changes.reals[2] += old.dests.iter().filter(|o| !s.dests.iter().any(|d| same(o, d))).count();
    }
    for s in before.catalog.services() {
        if after.catalog.service(&s.spec.key).is_none() {
            changes.services[2] += 1;
            changes.reals[2] += s.dests.len();
        }
    }
    changes
}
