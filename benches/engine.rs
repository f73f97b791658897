//! The whole core, frame in to frame out in memory: established flows in every mode, and new connections.
//! Compare with the machine's own limit: `cargo bench --bench wire` (lookup) and `cargo bench --bench limit`.
//!
//! `cargo bench --bench engine`; `SOFTLVS_BENCH_FLOWS=1000,1000000` for other numbers of flows.

mod common;

use std::time::{Duration, Instant};

use common::Random;
use common::bursts::{BURST, Bursts, MODES, open_flows, run};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use softlvs::buf::Out;
use softlvs::svc::Forward;
use softlvs::time::Mono;

/// Time of `iters` packets: bursts are filled outside of the measured time, in groups that stay in cache.
fn timed(
    iters: u64,
    mut fill: impl FnMut(&mut Bursts),
    mut go: impl FnMut(&mut Bursts),
    bursts: &mut Bursts,
) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..iters.div_ceil(BURST as u64) {
        fill(bursts);
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        go(bursts);
        total += start.elapsed();
    }
    total.mul_f64(iters as f64 / (iters.div_ceil(BURST as u64) * BURST as u64) as f64)
}

fn established(c: &mut Criterion) {
    for v6 in [false, true] {
        let mut group = c.benchmark_group(if v6 { "established6" } else { "established4" });
        group.throughput(Throughput::Elements(1));
        for flows in common::flow_counts() {
            for (name, forward) in MODES {
                let mut engine = common::engine(v6, forward, flows);
                let mut out = Out::new();
                open_flows(&mut engine, v6, flows, &mut out);
                let mut random = Random(3);
                let mut bursts = Bursts::new(v6, 0x10);
                let now = Mono::from_millis(50);
                group.bench_function(BenchmarkId::new(name, flows), |b| {
                    b.iter_custom(|iters| {
                        timed(
                            iters,
                            |bursts| bursts.fill(|| random.below(flows)),
                            |bursts| run(&mut engine, now, bursts, &mut out),
                            &mut bursts,
                        )
                    });
                });
                if forward == Forward::Nat {
                    println!(
                        "{name} {flows}: {} bytes per connection",
                        engine.table_bytes() / flows as usize
                    );
                }
            }
        }
        group.finish();
    }
}

fn new_connections(c: &mut Criterion) {
    let mut group = c.benchmark_group("new");
    group.throughput(Throughput::Elements(1));
    let held = 1_000_000;
    for (name, forward) in [("nat", Forward::Nat), ("dr", Forward::Dr)] {
        let mut engine = common::engine(false, forward, held);
        let mut out = Out::new();
        open_flows(&mut engine, false, held, &mut out);
        let mut bursts = Bursts::new(false, 0x02);
        let (mut next, mut ms) = (held, 100);
        group.bench_function(BenchmarkId::new(name, held), |b| {
            b.iter_custom(|iters| {
                timed(
                    iters,
                    |bursts| {
                        bursts.fill(|| {
                            next = held + (next + 1 - held) % 8_000_000;
                            next
                        });
                    },
                    |bursts| {
                        // half-open ones go after a minute, so that the table stays at its size
                        ms += 10;
                        let now = Mono::from_millis(ms);
                        run(&mut engine, now, bursts, &mut out);
                        engine.on_timeout(now, &mut out);
                    },
                    &mut bursts,
                )
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    targets = established, new_connections
}
criterion_main!(benches);
