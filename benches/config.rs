//! Changes of a large configuration: 10,000 services with 10 real servers each. What the control side pays
//! for all of it and for one server, and how long the packets of a worker wait for either.
//!
//! `cargo bench --bench config`; bounds are those of the specification, the figures are best of several.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use softlvs::buf::Out;
use softlvs::engine::{Engine, EngineOptions};
use softlvs::svc::{Catalog, DestSpec, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec, Snapshot};
use softlvs::time::Mono;

const SERVICES: u32 = 10_000;
const SERVERS: u32 = 10;
const ROUNDS: u32 = 9;

fn key(n: u32) -> ServiceKey {
    let ip: IpAddr = Ipv4Addr::from(0xc612_0000 + n).into();
    ServiceKey::Address { proto: Proto::Tcp, ip, port: 80 }
}

fn server(service: u32, n: u32, weight: u32) -> DestSpec {
    let ip: IpAddr = Ipv4Addr::from(0x0a02_0000 + (service * SERVERS + n) % 60_000).into();
    DestSpec { name: String::new(), ip, port: 8080, weight, forward: Forward::Nat, upper: 0, lower: 0 }
}

fn whole(net: &Catalog, scheduler: SchedulerKind) -> Catalog {
    let mut catalog = net.clone();
    for s in 0..SERVICES {
        catalog.add_service(ServiceSpec { scheduler, ..ServiceSpec::new(key(s)) }).expect("new service");
        for n in 0..SERVERS {
            catalog.add_dest(&key(s), server(s, n, 1)).expect("new server");
        }
    }
    catalog
}

#[allow(clippy::disallowed_methods)]
fn timed<R>(f: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let result = f();
    (start.elapsed(), result)
}

/// What a worker does with a snapshot, and the turn after it.
fn take(engine: &mut Engine, snapshot: Arc<Snapshot>) -> Duration {
    let (taken, ()) = timed(|| engine.on_snapshot(Mono::from_millis(10), snapshot));
    let (turn, ()) = timed(|| engine.on_timeout(Mono::from_millis(11), &mut Out::new()));
    taken.max(turn)
}

fn say(what: &str, took: Duration, bound_ms: u64) {
    let ms = took.as_secs_f64() * 1e3;
    let verdict = if took <= Duration::from_millis(bound_ms) { "within" } else { "BEYOND" };
    println!("{what:70} {ms:9.3} ms   {verdict} {bound_ms} ms");
}

/// A change of the catalog, given the number of the round.
type Change<'a> = &'a dyn Fn(&mut Catalog, u32);

fn main() {
    let net = common::catalog(false, Forward::Nat, 1);
    for scheduler in [SchedulerKind::Wlc, SchedulerKind::Wrr, SchedulerKind::Mh] {
        let name = scheduler.name();
        let (applied, (mut catalog, all)) = timed(|| {
            let mut catalog = whole(&net, scheduler);
            let all = catalog.commit();
            (catalog, all)
        });
        say(&format!("{name}: {SERVICES} services x {SERVERS} servers made and published"), applied, 1000);
        let before = net.clone().commit();
        let options = EngineOptions { connection_limit: 1_000_000, seed: 7, ..EngineOptions::default() };
        let mut engine = Engine::new(Mono::ZERO, options, before).expect("memory");
        say(&format!("{name}: a packet waits while all of it is taken"), take(&mut engine, all), 1);
        let more = |c: &mut Catalog, i: u32| {
            let spec = ServiceSpec { scheduler, ..ServiceSpec::new(key(20_000 + i)) };
            c.add_service(spec).expect("new service");
        };
        let changes: [(&str, Change<'_>); 4] = [
            ("one server's weight", &|c, i| {
                c.edit_dest(&key(77), server(77, 3, i + 2)).expect("known server")
            }),
            ("one server more", &|c, i| {
                c.add_dest(&key(78), server(50_000 + i, 0, 1)).expect("new server");
            }),
            ("one server less", &|c, i| {
                let s = server(79, i, 1);
                c.remove_dest(&key(79), s.ip, s.port).expect("known server");
            }),
            ("one service more", &more),
        ];
        for (what, change) in changes {
            let (mut best, mut wait) = (Duration::MAX, Duration::MAX);
            for i in 0..ROUNDS {
                let (took, (next, snapshot)) = timed(|| {
                    let mut next = catalog.clone();
                    change(&mut next, i);
                    let snapshot = next.commit();
                    (next, snapshot)
                });
                catalog = next;
                best = best.min(took);
                wait = wait.min(take(&mut engine, snapshot));
            }
            say(&format!("{name}: {what}"), best, 10);
            say(&format!("{name}: a packet waits for it"), wait, 1);
        }
    }
}
