//! The whole core, frame in to frame out in memory: established flows in every mode, and new connections.
//! Compare with the machine's own limit: `cargo bench --bench wire` (lookup) and `cargo bench --bench limit`.
//!
//! `cargo bench --bench engine`; `SOFTLVS_BENCH_FLOWS=1000,1000000` for other numbers of flows.

mod common;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use common::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use softlvs::buf::{HEADROOM, Out, PacketBuf};
use softlvs::engine::{Engine, PortId, Verdict};
use softlvs::svc::{Forward, Tunnel};
use softlvs::time::Mono;
use softlvs::wire::sum::Delta;
use softlvs::wire::{be16, be32, put16, put32, put128};

const BURST: usize = 64;
const SLOT: usize = 512;

/// Frames of one burst, made those of chosen flows by writing address, port and checksums.
struct Bursts {
    template: Vec<u8>,
    v6: bool,
    mem: Vec<u8>,
}

impl Bursts {
    fn new(v6: bool, flags: u8) -> Bursts {
        Bursts { template: common::tcp_frame(v6, 0, flags), v6, mem: vec![0; BURST * SLOT] }
    }
    fn fill(&mut self, mut flow: impl FnMut() -> u32) {
        for slot in self.mem.chunks_exact_mut(SLOT) {
            let frame = &mut slot[HEADROOM..HEADROOM + self.template.len()];
            frame.copy_from_slice(&self.template);
            let i = flow();
            let delta = if self.v6 {
                put128(frame, 22, common::client6(i));
                put16(frame, 54, common::port(i));
                Delta::new()
            } else {
                let (old, new) = (be32(frame, 26), 0x0b00_0000 + i);
                put32(frame, 26, new);
                put16(frame, 34, common::port(i));
                Delta::new().dword(old, new)
            };
            if !self.v6 {
                let sum = delta.apply(be16(frame, 24));
                put16(frame, 24, sum);
            }
        }
    }
    fn packets(&mut self) -> ArrayVec<PacketBuf<'_>, BURST> {
        let len = self.template.len();
        let chunks = self.mem.chunks_exact_mut(SLOT);
        chunks.map(|m| PacketBuf::new(m, HEADROOM, HEADROOM + len, Default::default())).collect()
    }
}

fn run(engine: &mut Engine, now: Mono, bursts: &mut Bursts, out: &mut Out) {
    let mut packets = bursts.packets();
    let mut verdicts = [Verdict::Send(PortId(0)); BURST];
    engine.on_burst(now, PortId(0), &mut packets, &mut verdicts, out);
    assert!(verdicts.iter().all(|v| matches!(v, Verdict::Send(_))), "{:?}", verdicts[0]);
}

fn open_flows(engine: &mut Engine, v6: bool, flows: u32, out: &mut Out) {
    for flags in [0x02, 0x10] {
        let mut bursts = Bursts::new(v6, flags);
        let mut next = 0;
        while next < flows {
            bursts.fill(|| {
                next += 1;
                (next - 1) % flows
            });
            run(engine, Mono::from_millis(1), &mut bursts, out);
        }
    }
    assert_eq!(engine.connection_count(), flows as usize);
}

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
    let modes = [
        ("nat", Forward::Nat),
        ("fullnat", Forward::FullNat),
        ("tun", Forward::Tun(Tunnel::Ipip)),
        ("dr", Forward::Dr),
    ];
    for v6 in [false, true] {
        let mut group = c.benchmark_group(if v6 { "established6" } else { "established4" });
        group.throughput(Throughput::Elements(1));
        for flows in common::flow_counts() {
            for (name, forward) in modes {
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
