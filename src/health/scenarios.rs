//! Many servers, one clock: what a service does while its servers fail, hang, flap and come back.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::schedule::Limits;
use super::*;
use crate::svc::{Forward, Proto, ServiceKey};
use crate::time::{Mono, Span};

const SECOND: Span = Span::from_secs(1);

/// How a server answers checks.
#[derive(Clone, Copy, Debug)]
enum Answers {
    Fine(Span),
    Refuses,
    Hangs,
}

struct World {
    monitor: Monitor,
    now: Mono,
    answers: HashMap<SocketAddr, Answers>,
    /// Results on their way: when, which run, and what.
    pending: std::collections::BTreeSet<(Mono, u64, TargetId, bool)>,
    most_running: usize,
    events: Vec<(Mono, Event)>,
    /// When checks of an address began.
    began: HashMap<SocketAddr, Vec<Mono>>,
}

fn key() -> ServiceKey {
    ServiceKey::Address { proto: Proto::Tcp, ip: "192.0.2.10".parse().unwrap(), port: 80 }
}

fn at(n: usize) -> SocketAddr {
    SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 80))
}

fn real(n: usize) -> RealHealth {
    RealHealth {
        at: at(n),
        name: String::new(),
        weight: 1,
        forward: Forward::Nat,
        checks: vec![0],
        state: AdminState::Up,
        on_failure: None,
        up_command: None,
        down_command: None,
    }
}

fn plan(reals: usize, timing: Timing, policy: Policy) -> HealthPlan {
    let check = CheckSpec {
        name: "alive".into(),
        kind: CheckKind::Tcp,
        timing,
        address: None,
        port: None,
        bind: None,
        via: None,
    };
    let service =
        ServiceHealth { key: key(), name: "web".into(), policy, reals: (1..=reals).map(real).collect() };
    HealthPlan { checks: vec![check], services: vec![service], fifo: None }
}

impl World {
    fn new(plan: &HealthPlan, limits: Limits) -> World {
        let now = Mono::from_millis(1000);
        let mut w = World {
            monitor: Monitor::new(now, plan, limits, 7),
            now,
            answers: HashMap::new(),
            pending: Default::default(),
            most_running: 0,
            events: Vec::new(),
            began: HashMap::new(),
        };
        w.drain();
        w
    }
    fn drain(&mut self) {
        while let Some((id, run)) = self.monitor.poll_abort() {
            self.pending.retain(|p| (p.1, p.2) != (run, id));
        }
        while let Some(job) = self.monitor.poll_job() {
            self.began.entry(job.real).or_default().push(self.now);
            let answer =
                |to: SocketAddr| self.answers.get(&to).copied().unwrap_or(Answers::Fine(Span(1_000_000)));
            match answer(job.to) {
                Answers::Fine(after) => {
                    self.pending.insert((self.now + after, job.run, job.id, true));
                }
                Answers::Refuses => {
                    self.pending.insert((self.now + Span(100_000), job.run, job.id, false));
                }
                Answers::Hangs => {}
            }
        }
        self.most_running = self.most_running.max(self.monitor.running());
        while let Some(e) = self.monitor.poll_event() {
            self.events.push((self.now, e));
        }
    }
    /// Lets time pass until `end`.
    fn run_to(&mut self, end: Mono) {
        loop {
            let result = self.pending.first().map(|p| p.0);
            let next = self.monitor.poll_timeout().into_iter().chain(result).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if result.is_some_and(|at| at <= self.now) {
                let (_, run, id, ok) = self.pending.pop_first().unwrap();
                let outcome = if ok { Outcome::ok("connected") } else { Outcome::failed("refused") };
                self.monitor.on_outcome(self.now, id, run, outcome);
            } else {
                self.monitor.on_timeout(self.now);
            }
            self.drain();
        }
        self.now = end;
    }
    fn run(&mut self, ms: u64) {
        self.run_to(self.now + Span::from_millis(ms));
    }
    fn wish(&self, n: usize) -> Wish {
        self.monitor.wishes(&key()).into_iter().find(|(a, _)| *a == at(n)).unwrap().1
    }
    fn downs(&self) -> usize {
        self.events.iter().filter(|(_, e)| matches!(e, Event::RealDown { .. })).count()
    }
}

#[test]
fn a_dead_server_is_out_within_fall_intervals_and_nobody_else_moves() {
    for fault in [Answers::Refuses, Answers::Hangs] {
        for offset in [0u64, 137, 500, 999] {
            let mut w = World::new(&plan(5, Timing::every(SECOND), Policy::default()), Limits::default());
            w.run(10_000 + offset);
            w.answers.insert(at(3), fault);
            let fault_at = w.now;
            w.run(10_000);
            let down = w.events.iter().find(|(_, e)| matches!(e, Event::RealDown { .. })).unwrap();
            assert!(
                down.0.since(fault_at).as_millis() <= 3 * 1000,
                "{fault:?}: {:?}",
                down.0.since(fault_at)
            );
            assert_eq!((w.wish(3), w.downs()), (Wish::Remove, 1));
            assert!([1, 2, 4, 5].iter().all(|n| w.wish(*n) == Wish::Serve(None)));
        }
    }
}

#[test]
fn a_server_that_comes_back_needs_rise_successes_and_grows_into_its_share() {
    let policy = Policy { slow_start: Some(Span::from_secs(10)), ..Policy::default() };
    let mut w = World::new(&plan(4, Timing::every(SECOND), policy), Limits::default());
    assert!(w.monitor.shares(w.now).is_empty(), "not at the start of the director");
    w.answers.insert(at(2), Answers::Refuses);
    w.run(5_000);
    assert_eq!(w.wish(2), Wish::Remove);
    w.answers.insert(at(2), Answers::Fine(Span(1_000_000)));
    while w.wish(2) == Wish::Remove {
        w.run(10);
    }
    let share = |w: &World| w.monitor.shares(w.now).first().map(|s| s.2);
    let fair = super::ramp::WHOLE / 4;
    assert!(share(&w).unwrap() <= fair / 9);
    w.run(5_000);
    assert!((fair / 2..fair * 6 / 10).contains(&share(&w).unwrap()));
    w.run(5_200);
    assert_eq!(share(&w), None);
}

#[test]
fn a_drain_ends_at_its_deadline_once() {
    let mut p = plan(2, Timing::every(SECOND), Policy::default());
    let mut w = World::new(&p, Limits::default());
    p.services[0].reals[0].state = AdminState::Drain { deadline: Some(Span::from_secs(30)) };
    w.monitor.reconfigure(w.now, &p);
    w.drain();
    assert_eq!(w.wish(1), Wish::Drain);
    w.run(29_900);
    // a reload with the same words does not begin it again
    w.monitor.reconfigure(w.now, &p);
    w.run(60_000);
    let cuts: Vec<_> = w.events.iter().filter(|(_, e)| matches!(e, Event::Cut { .. })).collect();
    assert_eq!(cuts.len(), 1);
    assert_eq!(cuts[0].0.as_millis(), 31_000);
    assert_eq!(w.wish(1), Wish::Cut);
    p.services[0].reals[0].state = AdminState::Up;
    w.monitor.reconfigure(w.now, &p);
    assert_eq!(w.wish(1), Wish::Serve(None));
}

#[test]
fn a_flapping_server_changes_its_service_rarely() {
    let timing = Timing { rise: 1, fall: 1, ..Timing::every(SECOND) };
    let mut w = World::new(&plan(2, timing, Policy::default()), Limits::default());
    for second in 0..3600u64 {
        let answer = if second % 2 == 0 { Answers::Refuses } else { Answers::Fine(Span(1_000_000)) };
        w.answers.insert(at(1), answer);
        w.run(1000);
    }
    let moves: Vec<Mono> = w
        .events
        .iter()
        .filter(|(_, e)| matches!(e, Event::RealDown { .. } | Event::RealUp { .. }))
        .map(|e| e.0)
        .collect();
    assert!(moves.len() <= 120, "{} changes in an hour", moves.len());
    let busiest = moves
        .iter()
        .map(|m| moves.iter().filter(|n| n.0 >= m.0 && n.since(*m) < Span::from_secs(60)).count());
    assert!(busiest.max().unwrap() <= 3);
}

#[test]
fn one_check_serves_many_services() {
    let mut p = plan(3, Timing::every(SECOND), Policy::default());
    for port in 81..91 {
        let ServiceKey::Address { proto, ip, .. } = key() else { unreachable!() };
        let again = ServiceHealth { key: ServiceKey::Address { proto, ip, port }, ..p.services[0].clone() };
        p.services.push(again);
    }
    let mut w = World::new(&p, Limits::default());
    assert_eq!(w.monitor.target_count(), 3);
    w.answers.insert(at(1), Answers::Refuses);
    w.run(10_000);
    assert_eq!(w.downs(), 11, "each service hears of it");
}

#[test]
fn a_reload_keeps_what_is_known() {
    let mut p = plan(3, Timing::every(SECOND), Policy::default());
    let mut w = World::new(&p, Limits::default());
    w.answers.insert(at(1), Answers::Refuses);
    w.run(10_000);
    p.services[0].policy.on_failure = OnFailure::Inhibit;
    p.services[0].reals.remove(2);
    p.services[0].reals.push(real(4));
    w.monitor.reconfigure(w.now, &p);
    w.drain();
    assert_eq!(w.wish(1), Wish::Inhibit);
    assert_eq!(w.monitor.target_count(), 3);
    w.run(5_000);
    assert_eq!((w.wish(1), w.wish(4), w.downs()), (Wish::Inhibit, Wish::Serve(None), 1));
    w.monitor.reconfigure(w.now, &HealthPlan::default());
    assert_eq!(w.monitor.target_count(), 0);
    while w.monitor.poll_changed().is_some_and(|k| k != key()) {}
    assert!(w.monitor.wishes(&key()).is_empty());
}

#[test]
fn checks_do_not_align_and_never_come_late() {
    let mut w = World::new(&plan(200, Timing::every(SECOND), Policy::default()), Limits::default());
    w.run(60_000);
    for times in w.began.values() {
        for pair in times.windows(2) {
            let gap = pair[1].since(pair[0]).as_millis();
            assert!((890..=1000).contains(&gap), "{gap}");
        }
    }
    let mut slots = [0; 10];
    w.began
        .values()
        .flatten()
        .filter(|t| t.as_millis() > 50_000)
        .for_each(|t| slots[(t.as_millis() / 100 % 10) as usize] += 1);
    assert!(slots.iter().all(|n| *n > 100), "{slots:?}");
}

/// 10,000 servers checked every second, of which 9,000 hang from the start.
#[test]
fn servers_that_hang_do_not_delay_the_checks_of_those_that_answer() {
    let limits = Limits::default();
    let timing = Timing { timeout: Span::from_millis(900), ..Timing::every(SECOND) };
    let mut w = World::new(&plan(10_000, timing, Policy::default()), limits);
    for n in 1..=10_000 {
        let answer = if n % 10 == 0 { Answers::Fine(Span::from_millis(2)) } else { Answers::Hangs };
        w.answers.insert(at(n), answer);
    }
    w.run(12_000);
    assert!(w.most_running <= limits.fast + limits.slow, "{} at once", w.most_running);
    assert!(w.monitor.worst_wait().as_millis() <= 200, "{:?}", w.monitor.worst_wait());
    for n in (10..=10_000).step_by(10) {
        let times = &w.began[&SocketAddr::new(at(n).ip(), 0)];
        let worst = times.windows(2).map(|p| p[1].since(p[0]).as_millis()).max().unwrap();
        assert!(worst <= 1200 && times.len() >= 11, "server {n}: {worst} ms between two checks");
        assert_eq!(w.wish(n), Wish::Serve(None));
    }
    w.run(16_000);
    assert!((1..=10_000).all(|n| (w.wish(n) == Wish::Remove) == (n % 10 != 0)), "all that hang are out");
}

#[test]
fn what_could_not_be_checked_is_not_down() {
    let mut w = World::new(&plan(1, Timing::every(SECOND), Policy::default()), Limits::default());
    for _ in 0..100 {
        let due = w.monitor.poll_timeout().unwrap();
        w.now = w.now.max(due);
        w.monitor.on_timeout(w.now);
        while let Some(job) = w.monitor.poll_job() {
            w.monitor.on_unchecked(w.now, job.id, job.run, "too many open files");
        }
    }
    w.drain();
    assert_eq!((w.downs(), w.wish(1)), (0, Wish::Serve(None)));
    assert!(w.monitor.status(w.now, &key())[0].checks[0].2.contains("too many open files"));
}

#[test]
fn a_check_can_set_the_weight() {
    let mut w = World::new(&plan(2, Timing::every(SECOND), Policy::default()), Limits::default());
    w.run_to(w.now);
    loop {
        w.now = w.monitor.poll_timeout().unwrap();
        w.monitor.on_timeout(w.now);
        if let Some(job) = w.monitor.poll_job() {
            let outcome = Outcome { weight: Some(17), ..Outcome::ok("exit status 19") };
            w.monitor.on_outcome(w.now, job.id, job.run, outcome);
            break;
        }
    }
    assert!(w.monitor.wishes(&key()).iter().any(|(_, wish)| *wish == Wish::Serve(Some(17))));
}
