//! Costs of single steps: parse, checksums, rewriting, and the connection table.
//!
//! `cargo bench --bench wire`

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use softlvs::buf::{HEADROOM, PacketBuf};
use softlvs::conn::key::Tuple;
use softlvs::conn::state::State;
use softlvs::conn::table::{NewConn, Table, flag};
use softlvs::hash::HashKey;
use softlvs::nat::{self, Ends};
use softlvs::svc::DestId;
use softlvs::time::{Mono, Span};
use softlvs::wire::{Link, Parsed, parse, sum};

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements(1));
    for v6 in [false, true] {
        let family = if v6 { "v6" } else { "v4" };
        let frame = common::tcp_frame(v6, 5, 0x10);
        group.bench_function(BenchmarkId::new("parse", family), |b| {
            b.iter(|| parse(black_box(&frame), Link::Ethernet));
        });
        let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { unreachable!() };
        let mut mem = vec![0; 2048];
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(&frame);
        group.bench_function(BenchmarkId::new("rewrite", family), |b| {
            b.iter(|| {
                if v6 {
                    nat::rewrite6(&mut pkt, &meta, &Ends { src: None, dst: Some((black_box(77), 8080)) })
                } else {
                    nat::rewrite4(&mut pkt, &meta, &Ends { src: None, dst: Some((black_box(77), 8080)) })
                }
            });
        });
    }
    for len in [64, 1460, 65_000] {
        let bytes = vec![0x5a; len];
        group.bench_function(BenchmarkId::new("sum", len), |b| b.iter(|| sum::sum(black_box(&bytes))));
    }
    group.finish();
}

fn table(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.throughput(Throughput::Elements(1));
    for flows in common::flow_counts() {
        let mut table: Table<u32> = Table::new(Mono::ZERO, flows, HashKey(1, 2)).expect("memory");
        let tuple = |i: u32| Tuple {
            src: 0x0b00_0000 + i,
            dst: 0x0a00_0001,
            sport: (i.wrapping_mul(40_503) >> 8) as u16,
            dport: 80,
            proto: 6,
        };
        for i in 0..flows {
            let new = NewConn {
                client: tuple(i),
                real: (0x0a02_000b, 8080),
                local: None,
                flags: flag::TWO_KEYS,
                dest: DestId(0),
                state: State::TcpEstablished,
                timeout: Span::from_secs(900),
            };
            table.open(Mono::ZERO, &new).expect("room");
        }
        println!("table of {flows}: {} bytes per connection", table.bytes() / flows as usize);
        let mut random = common::Random(9);
        group.bench_function(BenchmarkId::new("lookup", flows), |b| {
            b.iter(|| table.lookup(&tuple(random.below(flows))));
        });
    }
    group.finish();
}

criterion_group!(benches, steps, table);
criterion_main!(benches);
