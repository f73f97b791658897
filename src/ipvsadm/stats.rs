//! Counters since the last `ipvsadm -Z`, and rates.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::svc::{Dest, DestId, Service, ServiceId};
use crate::time::Span;

/// What the counters stood at when they were last set to zero. The counters themselves have one writer
/// each, the packet path, so zeroing subtracts instead (IPVS-RULES 96; kernel: `ip_vs_zero_stats`).
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    services: HashMap<ServiceId, [u64; 5]>,
    dests: HashMap<DestId, [u64; 5]>,
}

impl Baseline {
    /// Makes the counters of a service and its real servers read zero from now on.
    pub fn zero(&mut self, service: &Service) {
        self.services.insert(service.id, service.stats.read());
        for d in &service.dests {
            self.dests.insert(d.id, d.stats.read());
        }
    }
    /// Conns, InPkts, OutPkts, InBytes, OutBytes of a service.
    pub fn service(&self, service: &Service) -> [u64; 5] {
        minus(service.stats.read(), self.services.get(&service.id))
    }
    /// The same of a real server.
    pub fn dest(&self, dest: &Dest) -> [u64; 5] {
        minus(dest.stats.read(), self.dests.get(&dest.id))
    }
}

fn minus(now: [u64; 5], base: Option<&[u64; 5]>) -> [u64; 5] {
    let base = base.copied().unwrap_or_default();
    std::array::from_fn(|i| now[i].saturating_sub(base[i]))
}

/// How often [`Rates::tick`] wants to be called (kernel: `ip_vs_est.c`).
pub const RATE_INTERVAL: Span = Span::from_secs(2);

/// Moving averages of the counters, per second: every interval a quarter of the way to what the interval
/// brought (IPVS-RULES 97).
#[derive(Clone, Debug, Default)]
pub struct Rates {
    services: HashMap<ServiceId, Average>,
    dests: HashMap<DestId, Average>,
}

/// The kernel's fixed point: counts of one interval (2 s) times 512, bytes times 16, so that shifting by
/// 10 and 5 gives what came per second.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    last: [u64; 5],
    /// What `last` was when `-Z` came (kernel: `kstats0`).
    zeroed: [u64; 5],
    scaled: [i64; 5],
}

/// Conns, InPkts, OutPkts, InBytes, OutBytes.
const SCALE: [u32; 5] = [9, 9, 9, 4, 4];

impl Average {
    fn moved(mut self, now: [u64; 5]) -> Average {
        for (i, now) in now.into_iter().enumerate() {
            let came = (now.wrapping_sub(self.last[i]) << SCALE[i]) as i64;
            self.scaled[i] += (came - self.scaled[i]) >> 2;
        }
        self.last = now;
        self
    }
    fn begin(&mut self) {
        self.scaled = [0; 5];
        self.zeroed = self.last;
    }
    fn per_second(&self) -> [u64; 5] {
        std::array::from_fn(|i| {
            let round_up = (1i64 << SCALE[i]) - 1;
            ((self.scaled[i] + round_up) >> (SCALE[i] + 1)).max(0) as u64
        })
    }
}

impl Rates {
    /// Takes the counters of all services; to be called once every [`RATE_INTERVAL`].
    pub fn tick(&mut self, services: &[Arc<Service>]) {
        let old = std::mem::take(self);
        for s in services {
            step(&old.services, &mut self.services, s.id, s.stats.read());
            for d in &s.dests {
                step(&old.dests, &mut self.dests, d.id, d.stats.read());
            }
        }
    }
    /// `-Z` begins the averages of a service and its real servers anew (kernel: `ip_vs_zero_estimator`).
    pub fn zero(&mut self, service: &Service) {
        if let Some(average) = self.services.get_mut(&service.id) {
            average.begin();
        }
        for d in &service.dests {
            if let Some(average) = self.dests.get_mut(&d.id) {
                average.begin();
            }
        }
    }
    /// A baseline by which counters read as they stood at the last tick, and `-Z` made zero of what they
    /// had been at the tick before it: the kernel shows them so (IPVS-RULES 96), and replays have to.
    pub fn as_of_tick(&self, services: &[Arc<Service>]) -> Baseline {
        fn base(now: [u64; 5], tick: Option<&Average>) -> [u64; 5] {
            let shown = tick.map_or([0; 5], |a| minus(a.last, Some(&a.zeroed)));
            minus(now, Some(&shown))
        }
        let mut out = Baseline::default();
        for s in services {
            out.services.insert(s.id, base(s.stats.read(), self.services.get(&s.id)));
            for d in &s.dests {
                out.dests.insert(d.id, base(d.stats.read(), self.dests.get(&d.id)));
            }
        }
        out
    }
    /// CPS, InPPS, OutPPS, InBPS, OutBPS of a service.
    pub fn service(&self, service: &Service) -> [u64; 5] {
        self.services.get(&service.id).map_or([0; 5], Average::per_second)
    }
    /// The same of a real server.
    pub fn dest(&self, dest: &Dest) -> [u64; 5] {
        self.dests.get(&dest.id).map_or([0; 5], Average::per_second)
    }
}

fn step<K: Copy + Eq + Hash>(old: &HashMap<K, Average>, new: &mut HashMap<K, Average>, id: K, now: [u64; 5]) {
    new.insert(id, old.get(&id).copied().unwrap_or_default().moved(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_move_by_a_quarter_every_interval() {
        let mut a = Average::default().moved([0, 40, 0, 40_000, 0]);
        assert_eq!(a.per_second(), [0, 5, 0, 5_000, 0]);
        a = a.moved([0, 40, 0, 40_000, 0]);
        // 7-stats: 10035 becomes 7526 when nothing more comes
        let a = Average { scaled: [0, 0, 0, 10_035 << 5, 0], ..a };
        assert_eq!(a.moved([0, 40, 0, 40_000, 0]).per_second()[3], 7_526);
    }
}
