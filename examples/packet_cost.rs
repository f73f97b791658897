//! What a packet costs in the core. For `scripts/instructions`, and for a quick look at the time.
//!
//! `packet_cost count MODE` sends 64 bursts of 64 packets through `counted`, for callgrind to count;
//! `packet_cost time MODE FLOWS` prints the best time of a burst, in ns per packet. MODE is `nat`,
//! `fullnat`, `dr`, `ipip`, `gre`, `gue`, with `-reply` for the way back where there is one, with `-new` for
//! connections that begin, and with `6` at the end for IPv6.

#[path = "../benches/common/mod.rs"]
mod common;

use std::process::ExitCode;

use common::bursts::{BURST, Bursts, MODES, SLOT, open_flows, run};
use common::{Random, engine, engine_for};
use softlvs::buf::{HEADROOM, Out, PacketBuf};
use softlvs::engine::{Engine, PortId, Verdict};
use softlvs::svc::Forward;
use softlvs::time::Mono;

#[cfg(feature = "daemon")]
#[global_allocator]
static MEMORY: softlvs::io::sys::huge::HugePages = softlvs::io::sys::huge::HugePages;

/// Bursts counted; their number is known to the script.
const BURSTS: usize = 64;
const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let flows = |n: &str| n.parse().ok();
    let case = |mode: &str, flows| Case::of(mode, flows);
    match words[..] {
        ["count", mode] if case(mode, 1000).is_some_and(|mut c| c.count()) => ExitCode::SUCCESS,
        ["time", mode, n] if flows(n).and_then(|n| case(mode, n)).is_some_and(|mut c| c.time(mode)) => {
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: packet_cost count MODE | packet_cost time MODE FLOWS");
            ExitCode::from(2)
        }
    }
}

/// What is counted: one burst, and nothing else.
#[inline(never)]
fn counted(engine: &mut Engine, now: Mono, port: PortId, packets: &mut [PacketBuf<'_>], out: &mut Out) {
    let mut verdicts = [Verdict::Send(WAN); BURST];
    engine.on_burst(now, port, packets, &mut verdicts, out);
    assert!(verdicts.iter().all(|v| matches!(v, Verdict::Send(_))), "{:?}", verdicts[0]);
}

struct Case {
    engine: Engine,
    out: Out,
    bursts: Bursts,
    random: Random,
    flows: u32,
    new: bool,
    /// Replies to the first packets of the flows, where those are to be measured.
    replies: Vec<Vec<u8>>,
    ms: u64,
}

impl Case {
    fn of(mode: &str, flows: u32) -> Option<Case> {
        let (name, v6) = mode.strip_suffix('6').map_or((mode, false), |name| (name, true));
        let (name, kind) = name.split_once('-').unwrap_or((name, ""));
        let forward = MODES.iter().find(|m| m.0 == name)?.1;
        let new = kind == "new";
        // without room for more the table is as small as it is in a benchmark of so many flows
        let mut engine = if new { engine(v6, forward, flows) } else { engine_for(v6, forward, flows) };
        let mut out = Out::new();
        open_flows(&mut engine, v6, flows, &mut out);
        let replies = match (kind, forward) {
            ("reply", Forward::Nat | Forward::FullNat) => replies(&mut engine, v6, flows, &mut out),
            ("" | "new", _) => Vec::new(),
            _ => return None,
        };
        let bursts = Bursts::new(v6, if new { 0x02 } else { 0x10 });
        Some(Case { engine, out, bursts, random: Random(3), flows, new, replies, ms: 50 })
    }

    /// One burst of random flows, or of new ones, through `go`.
    fn burst<R>(
        &mut self,
        go: impl FnOnce(&mut Engine, Mono, PortId, &mut [PacketBuf<'_>], &mut Out) -> R,
    ) -> R {
        let now = Mono::from_millis(self.ms);
        let mut mem = vec![0; SLOT * BURST];
        if !self.replies.is_empty() {
            let chosen = mem.chunks_exact_mut(SLOT).map(|slot| {
                let mut pkt = PacketBuf::empty(slot, HEADROOM);
                pkt.fill(&self.replies[self.random.below(self.flows) as usize]);
                pkt
            });
            let mut packets: Vec<_> = chosen.collect();
            return go(&mut self.engine, now, LAN, &mut packets, &mut self.out);
        }
        if self.new {
            self.ms += 10;
            let next = &mut self.flows;
            self.bursts.fill(|| {
                *next = (*next + 1) % 0x00f0_0000;
                *next
            });
        } else {
            self.bursts.fill(|| self.random.below(self.flows));
        }
        go(&mut self.engine, now, WAN, &mut self.bursts.packets(), &mut self.out)
    }

    fn count(&mut self) -> bool {
        (0..BURSTS).for_each(|_| self.burst(counted));
        true
    }

    #[allow(clippy::disallowed_methods)]
    fn time(&mut self, mode: &str) -> bool {
        use std::time::Instant;
        let flows = self.flows;
        let rounds = 20_000;
        let mut times: Vec<f64> = (0..rounds)
            .map(|_| {
                let took = self.burst(|engine, now, port, packets, out| {
                    let start = Instant::now();
                    counted(engine, now, port, packets, out);
                    start.elapsed()
                });
                if self.new {
                    self.engine.on_timeout(Mono::from_millis(self.ms), &mut self.out);
                }
                took.as_nanos() as f64 / BURST as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let [best, low, median] = [0, rounds / 20, rounds / 2].map(|i| times[i]);
        println!(
            "{mode:14} {flows:9} flows: best {best:6.1}  5 % {low:6.1}  median {median:6.1} ns per packet"
        );
        true
    }
}

/// What the real servers answer to a packet of each flow.
fn replies(engine: &mut Engine, v6: bool, flows: u32, out: &mut Out) -> Vec<Vec<u8>> {
    let mut bursts = Bursts::new(v6, 0x10);
    let (mut next, mut replies) = (0, Vec::new());
    while next < flows {
        bursts.fill(|| {
            next += 1;
            (next - 1) % flows
        });
        run(engine, Mono::from_millis(1), &mut bursts, out);
        replies.extend(bursts.frames().map(|frame| turned(frame, v6)));
    }
    replies.truncate(flows as usize);
    replies
}

/// A frame with its ends exchanged; sums stay right.
fn turned(frame: &[u8], v6: bool) -> Vec<u8> {
    let mut f = frame.to_vec();
    let (ip, len, ports) = if v6 { (22, 16, 54) } else { (26, 4, 34) };
    f[..6].copy_from_slice(&frame[6..12]);
    f[6..12].copy_from_slice(&frame[..6]);
    for (at, len) in [(ip, len), (ports, 2)] {
        f[at..at + len].copy_from_slice(&frame[at + len..at + 2 * len]);
        f[at + len..at + 2 * len].copy_from_slice(&frame[at..at + len]);
    }
    f
}
