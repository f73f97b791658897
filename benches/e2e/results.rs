//! What a run found, as it is stored: plain data, so that tables and plots can be made again from a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::{Series, Summary, ratios};

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub run: Run,
    pub configs: Vec<Row>,
    pub samples: Vec<Sample>,
    #[serde(default)]
    pub idle: Option<Idle>,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub system: String,
    /// Program and what it says about its version.
    pub tools: BTreeMap<String, String>,
}

/// How it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub command: String,
    pub softlvs: String,
    pub rounds: u32,
    pub seconds: f64,
    /// Minutes the whole run took.
    pub minutes: f64,
    /// Share of the machine that was busy while this program did nothing, before each round.
    pub background: Vec<f64>,
    /// Share of the time a hypervisor took from the machine, over the run.
    pub stolen: f64,
}

/// A way that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub wiring: String,
    pub label: String,
    /// The null forwarder on the same device.
    pub null: Option<String>,
    /// Why it was left out.
    #[serde(default)]
    pub skipped: Option<String>,
    /// Resident memory of the director's processes: at start, and the most they had.
    #[serde(default)]
    pub memory_mib: Option<(f64, f64)>,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub config: String,
    pub workload: String,
    pub round: u32,
    /// Numbers by name; the names are those of [`Figure`].
    pub values: BTreeMap<String, f64>,
    #[serde(default)]
    pub error: Option<String>,
}

/// A director that has nothing to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Idle {
    pub connections: u64,
    pub seconds: f64,
    /// Processor time used over wall time.
    pub share: f64,
    pub memory_mib: f64,
    /// Memory that came with the connections, for each.
    pub bytes_each: f64,
}

/// A number that tables and plots show.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub workload: &'static str,
    pub value: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// Divisor between stored and shown unit.
    pub per: f64,
    pub digits: usize,
    pub more_is_better: bool,
}

const fn rate(
    workload: &'static str,
    title: &'static str,
    unit: &'static str,
    per: f64,
    digits: usize,
) -> Figure {
    Figure { workload, value: "rate", title, unit, per, digits, more_is_better: true }
}

const fn time(workload: &'static str, value: &'static str, title: &'static str) -> Figure {
    Figure { workload, value, title, unit: "us", per: 1.0, digits: 0, more_is_better: false }
}

const fn cost(workload: &'static str, title: &'static str, unit: &'static str, digits: usize) -> Figure {
    Figure { workload, value: "machine", title, unit, per: 1.0, digits, more_is_better: false }
}

/// Rates, with their place in the tables.
pub const RATES: [Figure; 5] = [
    rate("tcp1", "bulk TCP, 1 stream", "Gbit/s", 1e9, 1),
    rate("tcp8", "bulk TCP, 8 streams", "Gbit/s", 1e9, 1),
    rate("http-keep", "HTTP, kept connections", "k requests/s", 1e3, 1),
    rate("http-close", "HTTP, a connection each", "k requests/s", 1e3, 1),
    rate("packets", "64-byte UDP frames", "k packets/s", 1e3, 0),
];

/// Times.
pub const TIMES: [Figure; 8] = [
    time("ping-pong", "awake_p50", "UDP ping-pong, idle processors kept awake, p50"),
    time("ping-pong", "awake_p99", "the same, p99"),
    time("ping-pong", "p50", "UDP ping-pong, p50"),
    time("ping-pong", "p99", "UDP ping-pong, p99"),
    time("open-loop", "kept_p50", "HTTP 1,000/s kept, p50"),
    time("open-loop", "kept_p99", "HTTP 1,000/s kept, p99"),
    time("open-loop", "new_p50", "HTTP 500/s new, p50"),
    time("open-loop", "new_p99", "HTTP 500/s new, p99"),
];

/// Processor time of the whole machine; that of the director's processes is stored as `director`.
pub const COSTS: [Figure; 5] = [
    cost("tcp1", "bulk TCP, 1 stream", "ms/GB", 0),
    cost("tcp8", "bulk TCP, 8 streams", "ms/GB", 0),
    cost("http-keep", "HTTP, kept", "us/request", 1),
    cost("http-close", "HTTP, a connection each", "us/request", 0),
    cost("packets", "64-byte UDP frames", "ns/packet", 0),
];

impl Results {
    /// A figure of a way, by round.
    pub fn series(&self, config: &str, figure: &Figure) -> Series {
        self.values(config, figure.workload, figure.value)
    }

    /// A stored number of a way, by round.
    pub fn values(&self, config: &str, workload: &str, value: &str) -> Series {
        let wanted = |s: &&Sample| s.config == config && s.workload == workload && s.error.is_none();
        let number = |s: &Sample| Some((s.round, *s.values.get(value)?));
        self.samples.iter().filter(wanted).filter_map(number).collect()
    }

    /// Median and spread in the figure's unit.
    pub fn summary(&self, config: &str, figure: &Figure) -> Option<Summary> {
        Summary::of(self.series(config, figure).into_values().map(|v| v / figure.per))
    }

    /// Paired ratio of two ways.
    pub fn ratio(&self, config: &str, to: &str, figure: &Figure) -> Option<Summary> {
        ratios(&self.series(config, figure), &self.series(to, figure))
    }

    /// The ways that were measured.
    pub fn measured(&self) -> impl Iterator<Item = &Row> {
        self.configs.iter().filter(|c| c.skipped.is_none())
    }

    /// Why a way has no number for a workload.
    pub fn error(&self, config: &str, workload: &str) -> Option<&str> {
        let of = |s: &&Sample| s.config == config && s.workload == workload;
        self.samples.iter().filter(of).find_map(|s| s.error.as_deref())
    }
}
