//! Processor time and memory, from /proc.

use std::fs;

/// Processor time of the whole machine, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    pub busy: f64,
    pub stolen: f64,
    pub all: f64,
}

impl Machine {
    pub fn now() -> Machine {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // proc(5): user nice system idle iowait irq softirq steal, in units of 1/USER_HZ, which is 100
        let v: Vec<f64> =
            line.split_whitespace().skip(1).take(8).filter_map(|w| w.parse::<f64>().ok()).collect();
        let at = |i: usize| v.get(i).copied().unwrap_or(0.0) / 100.0;
        Machine {
            busy: at(0) + at(1) + at(2) + at(5) + at(6),
            stolen: at(7),
            all: v.iter().sum::<f64>() / 100.0,
        }
    }

    pub fn since(self, before: Machine) -> Machine {
        Machine {
            busy: self.busy - before.busy,
            stolen: self.stolen - before.stolen,
            all: self.all - before.all,
        }
    }
}

/// Processor time of processes so far, their threads included, in seconds.
pub fn processes(pids: &[u32]) -> f64 {
    let task = |pid: &u32| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads
            .filter_map(|t| {
                // proc(5): nanoseconds on a processor, nanoseconds waited, time slices
                let text = fs::read_to_string(t.path().join("schedstat")).ok()?;
                text.split(' ').next()?.parse::<f64>().ok()
            })
            .sum::<f64>()
    };
    pids.iter().map(task).sum::<f64>() / 1e9
}

/// Resident memory of processes in MiB: now, and the most they had.
pub fn memory(pids: &[u32]) -> (f64, f64) {
    let number = |pid: &u32, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    let sum = |key| pids.iter().map(|p| number(p, key)).sum();
    (sum("VmRSS"), sum("VmHWM"))
}
