//! The whole core, frame in to frame out in memory, with what the machine allows beside it ([`limit`]):
//! established flows in every mode and family, replies' way included in none; new connections; memory; how long
//! a listing holds up packets. Making packets of memory is not the core's.
//!
//! `cargo bench --bench engine`; `SOFTLVS_BENCH_FLOWS=1000,1000000` for other numbers of flows. Every figure is
//! the best of several rounds, in the same run and over the same number of packets as the limit's. Built with
//! the default features it runs on the program's own allocator, otherwise on the system's.

mod common;

use std::time::{Duration, Instant};

use common::Random;
use common::bursts::{BURST, Bursts, MODES, open_flows};
use common::limit::Limit;
use softlvs::buf::Out;
use softlvs::engine::{Engine, PortId, Verdict};
use softlvs::svc::Forward;
use softlvs::time::Mono;

#[cfg(feature = "daemon")]
#[global_allocator]
static MEMORY: softlvs::io::sys::huge::HugePages = softlvs::io::sys::huge::HugePages;

const ROUNDS: usize = 9;
const BURSTS: usize = 500;
/// Milliseconds from one burst of new connections to the next.
const STEP: u64 = 10;
/// Until as many of them end as begin. From then on they lie where others lay; before, each round would ask for
/// one more huge page, which takes the system 0.3 ms, and 3 ms where its host has to find the memory: up to
/// 90 ns for each of the 32,768 connections in it, in some runs and not in others.
const WARM_UP: u64 = 62_000;
/// Places of the table that are looked at before packets are served again (`serve::http::connections`).
const SLICE: usize = 512;

fn main() {
    println!("{:24}{:>10}{:>10}{:>10}{:>8}{:>12}", "", "flows", "ns", "limit", "ratio", "bytes/conn");
    for flows in common::flow_counts() {
        for v6 in [false, true] {
            for (name, forward) in MODES {
                established(name, forward, v6, flows);
            }
        }
    }
    for v6 in [false, true] {
        for (name, forward) in MODES {
            new_connections(name, forward, v6, 1_000_000);
        }
    }
    for flows in common::flow_counts() {
        listing(flows);
    }
}

/// How long a worker is held up by a slice of a listing of all connections: no packet waits longer for it.
fn listing(flows: u32) {
    let mut engine = common::engine_for(false, Forward::Nat, flows);
    let mut out = Out::new();
    open_flows(&mut engine, false, flows, &mut out);
    let now = Mono::from_millis(60);
    let walk = || {
        let (mut took, mut rows, mut at) = (Vec::new(), 0, Some(0));
        while let Some(from) = at {
            took.push(timed(|| {
                let (some, next) = engine.connection_slice(now, from, SLICE);
                rows += some.len();
                at = next;
            }));
        }
        assert_eq!(rows, flows as usize, "each is listed once");
        took
    };
    // what the machine adds is not there every time
    let walks: Vec<Vec<Duration>> = (0..3).map(|_| walk()).collect();
    let mut best: Vec<f64> = (0..walks[0].len())
        .map(|i| walks.iter().map(|w| w[i].as_secs_f64() * 1e6).fold(f64::MAX, f64::min))
        .collect();
    best.sort_by(f64::total_cmp);
    let (half, longest) = (best[best.len() / 2], best[best.len() - 1]);
    println!(
        "{:24}{flows:10}  half of the slices within {half:.0} us, all within {longest:.0} us",
        "listing"
    );
}

fn name_of(name: &str, v6: bool) -> String {
    format!("{name} {}", if v6 { "IPv6" } else { "IPv4" })
}

fn established(name: &str, forward: Forward, v6: bool, flows: u32) {
    let before = resident();
    let mut engine = common::engine_for(v6, forward, flows);
    let mut out = Out::new();
    open_flows(&mut engine, v6, flows, &mut out);
    let bytes = resident().saturating_sub(before) as f64 / f64::from(flows);
    let mut random = Random(3);
    let now = Mono::from_millis(50);
    let mut bursts = Bursts::new(v6, 0x10);
    let ns = best(|| {
        bursts.fill(|| random.below(flows));
        forwarded(&mut engine, now, &mut bursts, &mut out)
    });
    drop(engine);
    let limit = Limit::new(flows).best(ROUNDS, BURSTS);
    let name = name_of(name, v6);
    println!("{name:24}{flows:10}{ns:10.1}{limit:10.1}{:8.2}{bytes:12.1}", ns / limit);
}

fn new_connections(name: &str, forward: Forward, v6: bool, held: u32) {
    let mut engine: Engine = common::engine(v6, forward, held);
    let mut out = Out::new();
    open_flows(&mut engine, v6, held, &mut out);
    let (mut next, mut ms) = (held, 100);
    let mut bursts = Bursts::new(v6, 0x02);
    let mut one = || {
        bursts.fill(|| {
            next = held + (next + 1 - held) % 8_000_000;
            next
        });
        ms += STEP;
        let now = Mono::from_millis(ms);
        let took = forwarded(&mut engine, now, &mut bursts, &mut out);
        // half-open ones go after a minute
        engine.on_timeout(now, &mut out);
        took
    };
    (0..WARM_UP / STEP).for_each(|_| {
        one();
    });
    let ns = best(one);
    println!("{:24}{held:10}{ns:10.1}", format!("new, {}", name_of(name, v6)));
}

/// How long the core has a burst.
fn forwarded(engine: &mut Engine, now: Mono, bursts: &mut Bursts, out: &mut Out) -> Duration {
    let mut packets = bursts.packets();
    let mut verdicts = [Verdict::Send(PortId(0)); BURST];
    let took = timed(|| engine.on_burst(now, PortId(0), &mut packets, &mut verdicts, out));
    assert!(verdicts.iter().all(|v| matches!(v, Verdict::Send(_))), "{:?}", verdicts[0]);
    took
}

#[allow(clippy::disallowed_methods)]
fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

/// Best time of a packet over rounds of bursts.
fn best(mut burst: impl FnMut() -> Duration) -> f64 {
    let round = |burst: &mut dyn FnMut() -> Duration| {
        let took: Duration = (0..BURSTS).map(|_| burst()).sum();
        took.as_nanos() as f64 / (BURSTS * BURST) as f64
    };
    (0..ROUNDS).map(|_| round(&mut burst)).fold(f64::MAX, f64::min)
}

/// Memory of this process that is backed, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
