//! What the machine allows at best: a table with its keys inside lines of 64 bytes, batches of 32 read ahead
//! by prefetch instructions, two checksums updated, and none of the rest a director does.

use std::hint::black_box;
use std::time::Duration;

use super::Random;
use super::bursts::BURST;

const BATCH: usize = 32;

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line {
    addresses: u64,
    ports: u64,
    used: u32,
    real: u32,
    last: u64,
    packets: u64,
    bytes: u64,
}

pub struct Limit {
    lines: Vec<Line>,
    flows: u32,
    random: Random,
    frames: Vec<[u8; 64]>,
    now: u64,
}

fn key(i: u32) -> (u64, u64) {
    let x = u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x & 0xffff_ffff | 0x0a4f_0001 << 32, x >> 48 | 80 << 16 | 6 << 32)
}

fn hash((a, b): (u64, u64)) -> usize {
    let product = u128::from(a ^ 0x0123_4567) * u128::from((b ^ 0x9e37_79b9_7f4a_7c15) | 1);
    (product as u64 ^ (product >> 64) as u64) as usize
}

fn word(b: &[u8; 64], at: usize) -> u64 {
    b[at..at + 8].iter().rev().fold(0, |w, b| w << 8 | u64::from(*b))
}

/// RFC 1624 for a field of 32 bits.
fn fix(sum: u16, old: u32, new: u32) -> u16 {
    let s = u64::from(!sum) + u64::from(!old) + u64::from(new);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    !((s & 0xffff) + (s >> 16)) as u16
}

impl Limit {
    pub fn new(flows: u32) -> Limit {
        let room = (f64::from(flows) / 0.6) as usize;
        let mut lines = vec![Line::default(); room.next_power_of_two()];
        let mask = lines.len() - 1;
        for i in 0..flows {
            let k = key(i);
            let mut at = hash(k) & mask;
            while lines[at].used != 0 {
                at = (at + 1) & mask;
            }
            lines[at] =
                Line { addresses: k.0, ports: k.1, used: 1, real: 0x0a4e_000b + i % 3, ..Line::default() };
        }
        Limit { lines, flows, random: Random(9), frames: vec![[0; 64]; BURST], now: 0 }
    }

    /// Best time of a packet in so many rounds of so many bursts.
    #[allow(clippy::disallowed_methods)]
    pub fn best(&mut self, rounds: usize, bursts: usize) -> f64 {
        (0..rounds)
            .map(|_| {
                let mut took = Duration::ZERO;
                for _ in 0..bursts {
                    for f in &mut self.frames {
                        let (a, b) = key(self.random.below(self.flows));
                        f[12..20].copy_from_slice(&a.to_le_bytes());
                        f[20..28].copy_from_slice(&b.to_le_bytes());
                    }
                    let start = std::time::Instant::now();
                    self.burst();
                    took += start.elapsed();
                }
                took.as_nanos() as f64 / (bursts * BURST) as f64
            })
            .fold(f64::MAX, f64::min)
    }

    fn burst(&mut self) {
        let mask = self.lines.len() - 1;
        for batch in self.frames.chunks_mut(BATCH) {
            let mut places = [((0, 0), 0); BATCH];
            for (place, f) in places.iter_mut().zip(batch.iter()) {
                let k = (word(f, 12), word(f, 20));
                *place = (k, hash(k) & mask);
                prefetch(&self.lines[place.1]);
            }
            for ((k, home), f) in places.into_iter().zip(batch) {
                let mut at = home;
                while self.lines[at].addresses != k.0 || self.lines[at].ports != k.1 {
                    at = (at + 1) & mask;
                }
                let line = &mut self.lines[at];
                line.packets += 1;
                line.bytes += 54;
                line.last = self.now;
                self.now += 1;
                let (old, new) = ((k.0 >> 32) as u32, line.real);
                f[16..20].copy_from_slice(&new.to_be_bytes());
                let field = u16::from_be_bytes([f[10], f[11]]);
                f[10..12].copy_from_slice(&fix(field, old, new).to_be_bytes());
                let field = fix(u16::from_be_bytes([f[36], f[37]]), old, new);
                f[36..38].copy_from_slice(&fix(field, 80, 8080).to_be_bytes());
                f[22..24].copy_from_slice(&8080u16.to_be_bytes());
            }
        }
        black_box(&self.frames);
    }
}

#[inline(always)]
fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // SAFETY: a hint to the processor; the address is that of a live value.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    black_box(std::ptr::from_ref(at));
}
