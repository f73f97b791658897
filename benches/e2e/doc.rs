//! The document: what was measured, where and how, with tables and plots.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use crate::results::{COSTS, Figure, RATES, Results, TIMES};
use crate::stats::Summary;
use crate::{plot, table};

/// Figures that get a plot.
fn plotted() -> Vec<Figure> {
    let times = [TIMES[0], TIMES[4], TIMES[6]];
    let costs = [COSTS[0], COSTS[3], COSTS[4]];
    RATES.iter().chain(&times).chain(&costs).copied().collect()
}

fn file(figure: &Figure) -> String {
    let kind = match figure.value {
        "rate" => String::new(),
        "machine" => "-cpu".into(),
        other => format!("-{}", other.replace('_', "-")),
    };
    format!("{}{kind}.png", figure.workload)
}

/// Writes `performance.md` and `performance/*.png` into a folder.
///
/// # Errors
/// A file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<(), Box<dyn Error>> {
    let plots = folder.join("performance");
    std::fs::create_dir_all(&plots)?;
    let mut drawn = Vec::new();
    for figure in plotted() {
        let name = file(&figure);
        if plot::draw(results, &figure, &plots.join(&name))? {
            drawn.push((figure, name));
        }
    }
    let page = folder.join("performance.md");
    let mut text = text(results, &drawn);
    // written by hand, where there is one
    if plots.join("limits.md").is_file() {
        text += "\nWhat limits each row, with profiles, and what did not help: [performance/limits.md](performance/limits.md).\n";
    }
    std::fs::write(&page, text)?;
    eprintln!("wrote {} and {} plots", page.display(), drawn.len());
    Ok(())
}

/// The page.
pub fn text(results: &Results, plots: &[(Figure, String)]) -> String {
    let mut t = String::from("# Performance, end to end\n\n");
    t += "Made by `benches/e2e`: real sockets, real kernels, namespaces. Cores alone: `cargo bench --bench engine`.\n\n";
    about(results, &mut t);
    t += "\n## What is asked, and what was found\n\n";
    t += "Median of the ratios paired by round; in bold what misses what is asked.\n\n";
    t += &table::targets(results);
    if let Some(idle) = &results.idle {
        let _ = write!(
            t,
            "\nIdle, with {} connections: {:.3} % of a processor (asked: at most 0.1 %).\n",
            idle.connections,
            idle.share * 100.0
        );
    }
    for (wiring, what) in table::WIRINGS {
        if table::rows(results, wiring).len() < 2 {
            continue;
        }
        let _ = write!(
            t,
            "\n## {what}\n\nMedian (lowest to highest), **ratio to the kernel's DNAT** paired by round.\n\n"
        );
        t += &table::rates(results, wiring);
        t += "\nTimes:\n\n";
        t += &table::times(results, wiring);
        t += "\nProcessor time of the whole machine / of it the director's processes (the kernel's own work for a \
              director in the kernel is nobody's process):\n\n";
        t += &table::costs(results, wiring);
    }
    t += "\n## Against a forwarder that does nothing\n\nThe null forwarder rewrites MAC addresses on the same ports: what \
          is lost to it is softlvs' own cost. Ratios, paired by round.\n\n";
    t += &table::against_null(results);
    t += "\n## Memory\n\n";
    t += &table::memory(results);
    if let Some(idle) = &results.idle {
        let _ = write!(
            t,
            "\nA director (raw ports, dr) with {} connections: {:.0} MiB, {:.0} bytes for each connection; {:.3} % of a \
             processor over {:.0} s in which nothing was sent.\n",
            idle.connections,
            idle.memory_mib,
            idle.bytes_each,
            idle.share * 100.0,
            idle.seconds
        );
    }
    let left_out: Vec<_> = results
        .configs
        .iter()
        .filter_map(|r| Some(format!("- {}: {}\n", r.name, r.skipped.as_ref()?)))
        .collect();
    if !left_out.is_empty() {
        t += "\n## Left out\n\n";
        t += &left_out.concat();
    }
    let mut failed: Vec<_> = results
        .samples
        .iter()
        .filter_map(|s| Some(format!("- {}, {}: {}\n", s.config, s.workload, s.error.as_ref()?)))
        .collect();
    failed.dedup();
    if !failed.is_empty() {
        t += "\n## Failed\n\n";
        t += &failed.concat();
    }
    if !plots.is_empty() {
        t += "\n## Plots\n\n";
        for (figure, name) in plots {
            let _ = writeln!(t, "![{}](performance/{name})", figure.title);
        }
    }
    t
}

/// Machine, method, noise.
fn about(results: &Results, t: &mut String) {
    let (m, run) = (&results.machine, &results.run);
    let _ = writeln!(t, "| | |\n| --- | --- |");
    let _ = writeln!(
        t,
        "| machine | {} cores of {}, {:.0} GiB; Linux {}, {} |",
        m.cores, m.cpu, m.memory_gib, m.kernel, m.system
    );
    let tools: Vec<String> = m.tools.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let _ = writeln!(t, "| programs | softlvs {}; {} |", run.softlvs, tools.join("; "));
    let _ = writeln!(t, "| when | {}, {:.0} minutes |", run.date, run.minutes);
    let _ = writeln!(t, "| made again by | `{}` |", run.command);
    let _ = writeln!(
        t,
        "| the same from stored results | `cargo bench --bench e2e -- --render docs/performance/results.json --out docs` |"
    );
    let _ = writeln!(t, "| noise | {} |", noise(results));
    *t += "\nClient, director and real server share the machine, so every rate is one of the whole chain, and a ratio says \
           more than a rate. All ways are built before the first round; in a round each workload goes over all of them in \
           turn, every second round backwards. Before each measurement a page, 1 MiB there and back and a datagram must \
           arrive unchanged and past the director. One real server, nginx with one worker; HAProxy and nginx stream with \
           one thread; wrk with one thread and 32 connections, 1 KiB pages; UDP from 32 flows, sent from one processor, \
           counted and thrown away where they enter the real server. In mode tun the real server unwraps in its kernel \
           (`softlvs real tun --unwrap kernel`) where that takes programs, else in user space, which bulk and HTTP pay \
           for. Bridged packets do not pass nftables.\n";
}

/// How much the same thing differs from round to round.
fn noise(results: &Results) -> String {
    let mut spreads = Vec::new();
    for row in results.measured() {
        spreads.extend(RATES.iter().filter_map(|f| results.summary(&row.name, f)).map(|s| s.spread()));
    }
    let background = Summary::of(results.run.background.iter().copied());
    let of = |s: Option<Summary>, what: fn(&Summary) -> f64| s.map_or(0.0, |s| what(&s) * 100.0);
    let spread = Summary::of(spreads);
    format!(
        "the same rate differs by {:.0} % of its median from lowest to highest round (median of all rates; {:.0} % at worst); \
         {:.1} % of the machine was busy while nothing was measured; {:.1} % of its time was taken by the hypervisor",
        of(spread, |s| s.median),
        of(spread, |s| s.max),
        of(background, |s| s.median),
        results.run.stolen * 100.0
    )
}
