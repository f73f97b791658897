//! The run: all ways are built first, then every workload goes over all of them in turn, round after
//! round, so that what is compared was measured within a minute or two.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::idle;
use crate::load;
use crate::machine;
use crate::plan::{self, Config, Workload};
use crate::results::{Results, Row, Run, Sample};
use crate::rig::{self, Rig};
use crate::usage::Machine;

/// What is to be measured.
pub struct Wanted {
    configs: Vec<Config>,
    workloads: Vec<Workload>,
}

impl Wanted {
    /// All, or what was named.
    pub fn new(only: &[String], workloads: &[String]) -> io::Result<Wanted> {
        let named = |c: &Config| only.is_empty() || only.iter().any(|o| c.name().contains(o.as_str()));
        let configs: Vec<Config> = plan::configs().into_iter().filter(named).collect();
        let mut chosen = Vec::new();
        for name in workloads {
            match Workload::ALL.into_iter().find(|w| w.name() == name) {
                Some(w) => chosen.push(w),
                None => return Err(io::Error::other(format!("no workload {name}; --list shows them"))),
            }
        }
        if configs.is_empty() {
            return Err(io::Error::other("no way has such a name; --list shows them"));
        }
        let workloads = if chosen.is_empty() { Workload::ALL.to_vec() } else { chosen };
        Ok(Wanted { configs, workloads })
    }

    /// Prints it.
    pub fn list(&self) {
        for config in &self.configs {
            println!("{:22} {}", config.name(), config.label());
        }
        let names: Vec<_> = self.workloads.iter().map(|w| w.name()).collect();
        println!("workloads: {}", names.join(", "));
    }
}

/// How it is to be measured.
pub struct How {
    pub rounds: u32,
    pub seconds: f64,
    /// Seconds for the idle director; 0: none.
    pub idle: f64,
    pub json: PathBuf,
}

/// Measures everything; what was found so far is stored after each round.
pub fn run(wanted: &Wanted, how: &How) -> io::Result<Results> {
    let (begun, machine) = (Instant::now(), Machine::now());
    let softlvs = rig::program();
    let mut results = Results {
        machine: machine::describe(),
        run: Run {
            date: machine::date(),
            command: command(),
            softlvs: machine::source(),
            rounds: how.rounds,
            seconds: how.seconds,
            ..Run::default()
        },
        ..Results::default()
    };
    for package in machine::missing() {
        eprintln!("not installed: {package} (--install does it)");
    }
    if how.idle > 0.0 {
        // first: nothing else is there yet
        eprint!("idle director ... ");
        match idle::idle(&softlvs, how.idle) {
            Ok(found) => {
                eprintln!(
                    "{} connections, {:.3} % of a processor, {:.0} bytes each",
                    found.connections,
                    found.share * 100.0,
                    found.bytes_each
                );
                results.idle = Some(found);
            }
            Err(e) => eprintln!("left out: {e}"),
        }
    }
    let mut rigs = build(wanted, &softlvs, &mut results);
    for round in 0..how.rounds {
        let quiet = Machine::now();
        std::thread::sleep(Duration::from_millis(500));
        let quiet = Machine::now().since(quiet);
        results.run.background.push(if quiet.all > 0.0 { quiet.busy / quiet.all } else { 0.0 });
        for workload in &wanted.workloads {
            // there and back, so that a drift favours nobody
            let mut order: Vec<usize> = (0..rigs.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for i in order {
                if rigs[i].config.carries(*workload) {
                    results.samples.push(sample(&mut rigs[i], *workload, round, how));
                }
            }
        }
        for rig in &rigs {
            if let Some(row) = results.configs.iter_mut().find(|r| r.name == rig.name) {
                row.memory_mib = rig.memory();
            }
        }
        results.run.minutes = begun.elapsed().as_secs_f64() / 60.0;
        let all = Machine::now().since(machine);
        results.run.stolen = if all.all > 0.0 { all.stolen / all.all } else { 0.0 };
        store(&results, &how.json)?;
    }
    Ok(results)
}

/// Builds every way; one that cannot be built is left out with the reason.
fn build(wanted: &Wanted, softlvs: &std::path::Path, results: &mut Results) -> Vec<Rig> {
    let mut rigs = Vec::new();
    for config in &wanted.configs {
        let mut row = Row {
            name: config.name(),
            wiring: config.wiring.word().into(),
            label: config.label(),
            null: config.null(),
            ..Row::default()
        };
        match Rig::build(*config, softlvs) {
            Ok(rig) => rigs.push(rig),
            Err(e) => {
                eprintln!("{:22} left out: {e}", row.name);
                row.skipped = Some(e.to_string());
            }
        }
        results.configs.push(row);
    }
    rigs
}

fn sample(rig: &mut Rig, workload: Workload, round: u32, how: &How) -> Sample {
    let mut sample =
        Sample { config: rig.name.clone(), workload: workload.name().into(), round, ..Sample::default() };
    let title = format!("{}/{} {:10} {:20}", round + 1, how.rounds, workload.name(), rig.name);
    match load::measure(rig, workload, how.seconds) {
        Ok(values) => {
            let shown: Vec<String> = values.iter().map(|(k, v)| format!("{k} {}", short(*v))).collect();
            eprintln!("{title} {}", shown.join("  "));
            sample.values = values;
        }
        Err(e) => {
            eprintln!("{title} failed: {e}");
            sample.error = Some(e.to_string());
        }
    }
    sample
}

/// A number for the eye.
fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 1e9 => format!("{:.2}G", v / 1e9),
        a if a >= 1e4 => format!("{:.1}k", v / 1e3),
        a if a >= 100.0 => format!("{v:.0}"),
        _ => format!("{v:.2}"),
    }
}

fn store(results: &Results, file: &std::path::Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, serde_json::to_string_pretty(results).map_err(io::Error::other)? + "\n")
}

/// What was typed.
fn command() -> String {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    format!("sudo cargo bench --bench e2e -- {}", args.join(" "))
}
