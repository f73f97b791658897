//! The workloads.

pub mod bulk;
pub mod udp;
pub mod web;
mod wrk;

use std::collections::BTreeMap;
use std::io;

use crate::plan::Workload;
use crate::rig::Rig;
use crate::usage;

/// What a workload measured itself.
pub struct Outcome {
    /// Numbers by name.
    pub values: BTreeMap<String, f64>,
    /// What processor time is divided by: GB, requests or packets; and the unit's size in seconds.
    pub units: Option<(f64, f64)>,
}

impl Outcome {
    fn new(values: &[(&str, f64)], units: Option<(f64, f64)>) -> Outcome {
        Outcome { values: values.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(), units }
    }
}

/// Checks the way, puts a workload on it, and adds the processor time of each unit.
pub fn measure(rig: &mut Rig, workload: Workload, seconds: f64) -> io::Result<BTreeMap<String, f64>> {
    rig.check()?;
    let pids = rig.pids();
    let (machine, director) = (usage::Machine::now(), usage::processes(&pids));
    let outcome = match workload {
        Workload::Tcp1 => bulk::iperf(&rig.net, 1, seconds),
        Workload::Tcp8 => bulk::iperf(&rig.net, 8, seconds),
        Workload::HttpKeep => web::flat_out(&rig.net, true, seconds),
        Workload::HttpClose => web::flat_out(&rig.net, false, seconds),
        Workload::Packets => udp::packets(rig, seconds / 2.0),
        Workload::PingPong => udp::ping_pong(&rig.net, seconds / 4.0),
        Workload::OpenLoop => web::open_loop(&rig.net, seconds / 2.0),
    }?;
    let used = usage::Machine::now().since(machine);
    let director = usage::processes(&pids) - director;
    let mut values = outcome.values;
    if let Some((units, size)) = outcome.units.filter(|(n, _)| *n > 0.0) {
        values.insert("machine".into(), used.busy / units / size);
        if !pids.is_empty() {
            values.insert("director".into(), director / units / size);
        }
    }
    if used.all > 0.0 {
        values.insert("stolen".into(), used.stolen / used.all);
    }
    Ok(values)
}
