//! Health checks at work: a thread of its own runs them, judges their results, and asks the control task
//! for what follows. Whatever a check does, packets and the control task do not wait for it.

mod announce;
mod consequence;
mod notify;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::Control;
use crate::ctl;
use crate::failure::Failure;
use crate::health::passive::Traffic;
use crate::health::schedule::Limits;
use crate::health::{CheckTally, Event, HealthPlan, Job, Monitor, RealStatus, TargetId};
use crate::probe::dial::Dialer;
use crate::probe::stack::Stack;
use crate::probe::{self, Finding, Trouble};
use crate::svc::ServiceKey;
use crate::time::Mono;
use crate::worker::clock;

use announce::Announcer;
use notify::Notifier;

/// How often the counts of real traffic are looked at, where a service wants that.
const TRAFFIC_EVERY: Duration = Duration::from_millis(500);

/// What is known of the servers of a service, for lists.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    /// Which one.
    pub key: ServiceKey,
    /// Name for people.
    pub name: String,
    /// Enough servers work.
    pub quorum: bool,
    /// Healthy weight.
    pub alive: u64,
    /// The sorry server serves.
    pub sorry: bool,
    /// Its servers.
    pub reals: Vec<RealStatus>,
}

/// Health checks that run.
pub struct Health {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Health {
    /// Starts the thread; it follows the configuration from then on.
    ///
    /// # Errors
    /// No thread, descriptor or random number to be had.
    pub fn start(control: Control, plan: HealthPlan) -> Result<Health, Failure> {
        let fail = |e: String| Failure::run("cannot start the health checks", e, "");
        let seed = getrandom::u64().map_err(|e| fail(e.to_string()))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(32).build();
        let runtime = runtime.map_err(|e| fail(e.to_string()))?;
        let (stop, stopping) = watch::channel(false);
        let (tell, ended) = oneshot::channel();
        let (asks, asked) = mpsc::channel(16);
        control.set_health(Asker(asks));
        let work = move || {
            runtime.block_on(Watch::new(control, plan, seed).run(stopping, asked));
            // a check that hangs in the kernel does not keep the director
            runtime.shutdown_background();
            // nobody waits: fine
            let _ = tell.send(());
        };
        let thread = std::thread::Builder::new().name("softlvs-health".to_owned());
        thread.spawn(work).map_err(|e| fail(e.to_string()))?;
        Ok(Health { stop, ended })
    }

    /// Ends the checks; commands for the end have been started when it returns.
    pub async fn stop(self) {
        // the thread may have ended by itself, which it does only by a panic
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(Duration::from_secs(5), self.ended).await;
    }
}

/// Asks for what is known of real servers.
#[derive(Clone)]
pub struct Asker(mpsc::Sender<Question>);

/// What is asked.
enum Question {
    Status(oneshot::Sender<Vec<ServiceStatus>>),
    Tallies(oneshot::Sender<Vec<(String, CheckTally)>>),
}

impl Asker {
    /// What is known now; empty when the checks have ended.
    pub async fn status(&self) -> Vec<ServiceStatus> {
        self.ask(Question::Status).await
    }
    /// What the runs of each check came to, by name; empty when the checks have ended.
    pub async fn tallies(&self) -> Vec<(String, CheckTally)> {
        self.ask(Question::Tallies).await
    }
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Vec<T>>) -> Question) -> Vec<T> {
        let (tell, answer) = oneshot::channel();
        match self.0.send(question(tell)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

struct Answer {
    id: TargetId,
    run: u64,
    found: Finding,
}

struct Watch {
    control: Control,
    plan: HealthPlan,
    monitor: Monitor,
    dialer: Dialer,
    running: HashMap<(TargetId, u64), AbortHandle>,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    /// Servers whose share is bounded at the moment.
    bounded: HashSet<(ServiceKey, SocketAddr)>,
    shares_at: Option<Mono>,
    notifier: Notifier,
    announcer: Announcer,
    /// Checks that could not be made, spoken of once.
    complained: bool,
}

impl Watch {
    fn new(control: Control, plan: HealthPlan, seed: u64) -> Watch {
        let monitor = Monitor::new(clock::now(), &plan, limits(), seed);
        Watch {
            monitor,
            control,
            dialer: Dialer::default(),
            running: HashMap::new(),
            answers: mpsc::unbounded_channel(),
            bounded: HashSet::new(),
            shares_at: None,
            notifier: Notifier::new(&plan),
            announcer: Announcer::default(),
            complained: false,
            plan,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>, mut asked: mpsc::Receiver<Question>) {
        let mut events = self.control.subscribe();
        let mut traffic = tokio::time::interval(TRAFFIC_EVERY);
        traffic.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.dialer.stack = Some(Stack::start(self.control.workers().clone()).await);
        self.settle().await;
        self.announcer.update(&self.monitor);
        loop {
            let now = clock::now();
            let due = self.monitor.poll_timeout().into_iter().chain(self.shares_at).min();
            let left = due.map_or(Duration::from_secs(3600), |at| Duration::from_nanos(at.since(now).0));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                answer = self.answers.1.recv() => {
                    if let Some(answer) = answer {
                        self.take(answer);
                    }
                    // as many as are there: one transaction for all
                    while let Ok(answer) = self.answers.1.try_recv() {
                        self.take(answer);
                    }
                }
                event = events.recv() => match event {
                    Ok(ctl::Event::Changed { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.follow().await;
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                ask = asked.recv() => {
                    if let Some(ask) = ask {
                        // who asked may have gone away: fine
                        match ask {
                            Question::Status(tell) => drop(tell.send(self.status())),
                            Question::Tallies(tell) => drop(tell.send(self.tallies())),
                        }
                    }
                }
                _ = traffic.tick(), if self.wants_traffic() => self.traffic().await,
                () = tokio::time::sleep(left) => self.monitor.on_timeout(clock::now()),
            }
            self.settle().await;
        }
        for abort in self.running.values() {
            abort.abort();
        }
        self.announcer.clear();
        self.notifier.stop(&self.plan).await;
    }

    /// The configuration may be another one, or somebody has changed real servers.
    async fn follow(&mut self) {
        let Ok(state) = self.control.look().await else { return };
        if state.plan.health != self.plan {
            self.plan = state.plan.health.clone();
            self.notifier.configure(&self.plan);
            self.monitor.reconfigure(clock::now(), &self.plan);
            self.announcer.update(&self.monitor);
        }
        self.synchronise(None).await;
    }

    /// Does everything the monitor has to say.
    async fn settle(&mut self) {
        while let Some((id, run)) = self.monitor.poll_abort() {
            if let Some(abort) = self.running.remove(&(id, run)) {
                abort.abort();
            }
        }
        while let Some(job) = self.monitor.poll_job() {
            self.start(job);
        }
        let changed: Vec<ServiceKey> = std::iter::from_fn(|| self.monitor.poll_changed()).collect();
        if !changed.is_empty() {
            self.synchronise(Some(&changed)).await;
        }
        self.bound_shares().await;
        while let Some(event) = self.monitor.poll_event() {
            self.tell(event).await;
        }
    }

    fn start(&mut self, job: Job) {
        let (id, run, tell, dialer) = (job.id, job.run, self.answers.0.clone(), self.dialer.clone());
        let task = tokio::spawn(async move {
            let found = probe::run(&job, &dialer).await;
            // the thread is ending
            let _ = tell.send(Answer { id, run, found });
        });
        self.running.insert((id, run), task.abort_handle());
    }

    fn take(&mut self, answer: Answer) {
        let now = clock::now();
        self.running.remove(&(answer.id, answer.run));
        match answer.found {
            Ok(outcome) => self.monitor.on_outcome(now, answer.id, answer.run, outcome),
            Err(Trouble::Failed(why)) => {
                let outcome = crate::health::Outcome::failed(why);
                self.monitor.on_outcome(now, answer.id, answer.run, outcome);
            }
            Err(Trouble::Unchecked(why)) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!("a check cannot be made: {why}; further ones show in the status only");
                }
                self.monitor.on_unchecked(now, answer.id, answer.run, &why);
            }
        }
    }

    fn wants_traffic(&self) -> bool {
        self.plan.services.iter().any(|s| s.policy.passive.is_some())
    }

    async fn traffic(&mut self) {
        let Ok(state) = self.control.look().await else { return };
        let now = clock::now();
        for s in self.plan.services.iter().filter(|s| s.policy.passive.is_some()) {
            let Some(service) = state.catalog.service(&s.key) else { continue };
            for d in &service.dests {
                let [unanswered, refused] = d.live.trouble();
                let counts = Traffic { opened: d.stats.read()[0], unanswered, refused };
                self.monitor.on_traffic(now, &s.key, SocketAddr::new(d.spec.ip, d.spec.port), counts);
            }
        }
    }

    async fn tell(&mut self, event: Event) {
        log(&event);
        if let Event::Cut { service, real } = &event {
            self.cut(*service, *real).await;
        }
        self.announcer.on_event(&self.monitor, &event);
        self.notifier.on_event(&self.monitor, &event);
        self.control.tell(ctl::Event::Health(event));
    }

    fn tallies(&self) -> Vec<(String, CheckTally)> {
        self.monitor.tallies().iter().map(|(name, tally)| (name.to_owned(), *tally)).collect()
    }

    fn status(&self) -> Vec<ServiceStatus> {
        let now = clock::now();
        let one = |key: &ServiceKey| {
            let (standing, alive) = self.monitor.standing(key)?;
            Some(ServiceStatus {
                key: *key,
                name: self.monitor.service(key)?.name.clone(),
                quorum: standing.quorum,
                alive,
                sorry: standing.sorry,
                reals: self.monitor.status(now, key),
            })
        };
        self.monitor.services().iter().filter_map(one).collect()
    }
}

/// As many checks at once as there are file descriptors for.
fn limits() -> Limits {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Limits::within(256) };
    // a process may always raise its soft limit
    let now = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Limits::within(usize::try_from(now).unwrap_or(usize::MAX).saturating_sub(128))
}

fn log(event: &Event) {
    let name = consequence::service_name;
    match event {
        Event::RealUp { service, real, why } => info!("{real} of {}: up: {why}", name(service)),
        Event::RealDown { service, real, why } => warn!("{real} of {}: down: {why}", name(service)),
        Event::Weight { service, real, weight } => {
            info!("{real} of {}: weight {weight} by its check", name(service));
        }
        Event::QuorumGained { service, alive, quorum } => {
            info!("{}: up: weight {alive} is healthy, the quorum is {quorum}", name(service));
        }
        Event::QuorumLost { service, alive, quorum } => {
            warn!("{}: down: only weight {alive} is healthy, the quorum is {quorum}", name(service));
        }
        Event::Sorry { service, serves: true } => warn!("{}: the sorry server serves", name(service)),
        Event::Sorry { service, serves: false } => {
            info!("{}: the sorry server is not needed any more", name(service));
        }
        Event::Panic { service, on: true } => {
            warn!("{}: too few servers are healthy, the panic threshold is reached", name(service));
        }
        Event::Panic { service, on: false } => info!("{}: enough servers are healthy again", name(service)),
        Event::Draining { service, real, deadline: Some(span) } => {
            info!("{real} of {}: draining, cut off in {} s", name(service), span.as_secs());
        }
        Event::Draining { service, real, deadline: None } => info!("{real} of {}: draining", name(service)),
        Event::Cut { service, real } => {
            info!("{real} of {}: the deadline is over, its connections are reset", name(service));
        }
    }
}
