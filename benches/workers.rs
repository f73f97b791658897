//! What a second worker brings, in memory: `cargo bench --bench workers`.
//!
//! Generator and sink cost nothing: each worker makes bursts of small packets of established NAT flows that it
//! owns, as devices that steer would give them to it, and making them is measured alone and subtracted.
//! One engine with all flows against two of one director, which share services, real servers and counts and
//! work at the same time. Times are those the threads ran (`/proc/thread-self/schedstat`), so what else the
//! machine does counts for little: with a processor for each worker they are the times of the clock. The best of
//! alternating rounds is kept.

mod common;

use std::sync::{Arc, Barrier};

use common::Random;
use common::bursts::{BURST, Bursts, run};
use softlvs::buf::Out;
use softlvs::engine::steer::Crew;
use softlvs::engine::{Engine, EngineOptions, PortId};
use softlvs::svc::{Forward, WorkerId};
use softlvs::time::Mono;

const ROUNDS: usize = 7;
/// Bursts of each worker in a round.
const BURSTS: usize = 20_000;

/// A worker with its flows.
struct Post {
    engine: Engine,
    flows: Vec<u32>,
}

/// A director with so many workers, its flows open at their owners.
fn director(workers: u16, flows: u32) -> Vec<Post> {
    let snapshot = common::catalog(false, Forward::Nat, workers).commit();
    let crew = Arc::new(Crew::new(workers, 5));
    let engine = |i| {
        let options = EngineOptions {
            connection_limit: flows * 2 + 100_000,
            seed: 7,
            worker: WorkerId(i),
            ..EngineOptions::default()
        };
        Engine::in_crew(Mono::ZERO, options, snapshot.clone(), crew.clone()).expect("memory")
    };
    let mut posts: Vec<Post> = (0..workers).map(|i| Post { engine: engine(i), flows: Vec::new() }).collect();
    for i in 0..flows {
        let owner = posts[0].engine.owner(PortId(0), &common::tcp_frame(false, i, 2));
        posts[usize::from(owner.0)].flows.push(i);
    }
    let mut out = Out::new();
    for Post { engine, flows } in &mut posts {
        for flags in [0x02, 0x10] {
            let mut bursts = Bursts::new(false, flags);
            let mut all = flows.iter().copied().cycle();
            for _ in 0..flows.len().div_ceil(BURST) {
                bursts.fill(|| all.next().expect("it has flows"));
                run(engine, Mono::from_millis(1), &mut bursts, &mut out);
            }
        }
        assert_eq!((engine.connection_count(), engine.counters().handed), (flows.len(), 0));
    }
    posts
}

/// Nanoseconds this thread has run.
fn ran() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    stat.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Nanoseconds a packet costs in a worker, without making it.
fn cost(post: &mut Post, seed: u64, begin: &Barrier) -> f64 {
    let mut out = Out::new();
    let mut bursts = Bursts::new(false, 0x10);
    let mut play = |random: &mut Random, forward: bool| {
        let before = ran();
        for _ in 0..BURSTS {
            bursts.fill(|| post.flows[random.below(post.flows.len() as u32) as usize]);
            if forward {
                run(&mut post.engine, Mono::from_millis(2), &mut bursts, &mut out);
            }
        }
        ran() - before
    };
    begin.wait();
    let made = play(&mut Random(seed), false);
    begin.wait();
    let all = play(&mut Random(seed), true);
    all.saturating_sub(made) as f64 / (BURSTS * BURST) as f64
}

/// Packets a second of all workers at work together, in millions.
fn rate(posts: &mut [Post], seed: u64) -> f64 {
    let begin = Barrier::new(posts.len());
    std::thread::scope(|threads| {
        let workers: Vec<_> =
            posts.iter_mut().map(|post| threads.spawn(|| 1000.0 / cost(post, seed, &begin))).collect();
        workers.into_iter().map(|w| w.join().expect("no panic")).sum()
    })
}

fn main() {
    println!(
        "established NAT flows, small packets, in memory; million packets a second, best of {ROUNDS} rounds"
    );
    for flows in common::flow_counts() {
        let (mut one, mut two) = (director(1, flows), director(2, flows));
        let (mut best_one, mut best_two) = (0f64, 0f64);
        for round in 0..ROUNDS as u64 {
            best_one = best_one.max(rate(&mut one, round));
            best_two = best_two.max(rate(&mut two, round));
        }
        println!(
            "{flows:>9} flows: one worker {best_one:.1}, two workers {best_two:.1}, {:.2} times as much",
            best_two / best_one
        );
    }
}
