//! Tables in Markdown.

use crate::results::{COSTS, Figure, RATES, Results, Row, TIMES};
use crate::stats::{self, Summary};

/// Wirings in the order of the document, with what they are.
pub const WIRINGS: [(&str, &str); 2] = [
    ("veth", "Two-arm: the director has an interface each way"),
    ("bridge", "One-arm: client, real server and the director's one device are ports of a bridge"),
];

/// Name of the kernel's DNAT in a wiring: what ratios are taken to.
pub fn reference(wiring: &str) -> String {
    format!("{wiring}/dnat")
}

/// A Markdown table; cells are not escaped.
fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head);
    text += &line(&head.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
    for row in rows {
        text += &line(row);
    }
    text
}

/// Median and, where there are several values, lowest and highest.
fn spread(s: &Summary, digits: usize) -> String {
    if s.n < 2 {
        return format!("{:.digits$}", s.median);
    }
    format!("{:.digits$} ({:.digits$} to {:.digits$})", s.median, s.min, s.max)
}

/// Ways of a wiring that were measured, the direct wire first.
pub fn rows<'r>(results: &'r Results, wiring: &str) -> Vec<&'r Row> {
    let direct = results.measured().filter(|r| r.name == "direct");
    let others = results.measured().filter(|r| r.wiring == wiring && r.name != "direct");
    direct.chain(others).collect()
}

fn figures(results: &Results, wiring: &str, figures: &[Figure], ratio: bool) -> String {
    let mut head = vec!["way".to_owned()];
    head.extend(figures.iter().map(|f| format!("{}, {}", f.title, f.unit)));
    let reference = reference(wiring);
    let cell = |row: &Row, f: &Figure| {
        let Some(s) = results.summary(&row.name, f) else {
            return if results.error(&row.name, f.workload).is_some() { "failed".into() } else { "-".into() };
        };
        let mut cell = spread(&s, f.digits);
        if ratio && let Some(r) = results.ratio(&row.name, &reference, f) {
            cell += &format!(" **{:.2}**", r.median);
        }
        cell
    };
    let body: Vec<Vec<String>> = rows(results, wiring)
        .into_iter()
        .map(|row| {
            let mut line = vec![row.label.clone()];
            line.extend(figures.iter().map(|f| cell(row, f)));
            line
        })
        .collect();
    table(&head, &body)
}

/// Rates of a wiring with their ratios to the kernel's DNAT.
pub fn rates(results: &Results, wiring: &str) -> String {
    figures(results, wiring, &RATES, true)
}

/// Times of a wiring.
pub fn times(results: &Results, wiring: &str) -> String {
    figures(results, wiring, &TIMES, false)
}

/// Processor time of a wiring: machine, and of it the director.
pub fn costs(results: &Results, wiring: &str) -> String {
    let mut head = vec!["way".to_owned()];
    head.extend(COSTS.iter().map(|f| format!("{}, {}", f.title, f.unit)));
    let body: Vec<Vec<String>> = rows(results, wiring)
        .into_iter()
        .map(|row| {
            let mut line = vec![row.label.clone()];
            line.extend(COSTS.iter().map(|f| {
                let director = Figure { value: "director", ..*f };
                match (results.summary(&row.name, f), results.summary(&row.name, &director)) {
                    (Some(all), Some(of)) => format!("{:.2$} / {:.2$}", all.median, of.median, f.digits),
                    (Some(all), None) => format!("{:.1$}", all.median, f.digits),
                    _ => "-".into(),
                }
            }));
            line
        })
        .collect();
    table(&head, &body)
}

/// softlvs over the null forwarder on the same device: ratios of rates, added microseconds.
pub fn against_null(results: &Results) -> String {
    let ping = TIMES[0];
    let mut head = vec!["way".to_owned()];
    head.extend(RATES.iter().map(|f| f.title.to_owned()));
    head.push(format!("{}: added us", ping.title));
    let costs = [COSTS[3], COSTS[4]].map(|f| Figure { value: "director", ..f });
    head.extend(costs.iter().map(|f| format!("{}: director's processor time", f.title)));
    let mut body = Vec::new();
    for row in results.measured() {
        let Some(null) = &row.null else { continue };
        let mut line = vec![format!("{}, {}", row.wiring, row.label)];
        line.extend(
            RATES
                .iter()
                .map(|f| results.ratio(&row.name, null, f).map_or_else(|| "-".into(), |r| spread(&r, 2))),
        );
        line.push(added(results, &row.name, null, &ping).map_or_else(|| "-".into(), |d| spread(&d, 1)));
        line.extend(
            costs
                .iter()
                .map(|f| results.ratio(&row.name, null, f).map_or_else(|| "-".into(), |r| spread(&r, 2))),
        );
        body.push(line);
    }
    table(&head, &body)
}

fn added(results: &Results, config: &str, to: &str, figure: &Figure) -> Option<Summary> {
    stats::paired(&results.series(config, figure), &results.series(to, figure), |a, b| a - b)
}

/// Memory of the director's processes.
pub fn memory(results: &Results) -> String {
    let head = ["way", "at start, MiB", "most during the run, MiB"].map(str::to_owned);
    let body: Vec<Vec<String>> = results
        .measured()
        .filter_map(|r| {
            let (start, most) = r.memory_mib?;
            Some(vec![format!("{}, {}", r.wiring, r.label), format!("{start:.0}"), format!("{most:.0}")])
        })
        .collect();
    table(&head, &body)
}

/// A target of the figures, held against what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is asked, for all ways alike: heads the column.
    pub what: &'static str,
    /// Ratio or microseconds.
    pub found: f64,
    pub asked: f64,
    pub met: bool,
    digits: usize,
}

const BULK: &str = "bulk TCP 1 stream / DNAT";
const NEW: &str = "HTTP, a connection each / DNAT";
const HAPROXY: &str = "the same / HAProxy";
const NGINX: &str = "the same / nginx stream";
const SMALL: &str = "64-byte frames / null forwarder";
const ADDED: &str = "ping-pong with processors awake, p50, added to null forwarder, us";
const TARGETS: [&str; 6] = [BULK, NEW, HAPROXY, NGINX, SMALL, ADDED];

/// Every target for which there are numbers, of one way.
pub fn verdicts(results: &Results, row: &Row) -> Vec<Verdict> {
    let mut all = Vec::new();
    let Some(null) = &row.null else { return all };
    let [tcp1, .., close, packets] = &RATES;
    let mode = row.name.rsplit('-').next().unwrap_or_default();
    let device = row.name.split(['/', '-']).nth(1).unwrap_or_default();
    let dnat = reference(&row.wiring);
    let mut at_least = |what, to: &str, figure: &Figure, asked: f64| {
        if let Some(r) = results.ratio(&row.name, to, figure) {
            all.push(Verdict { what, found: r.median, asked, met: r.median >= asked, digits: 2 });
        }
    };
    if !device.starts_with("xdp") && mode != "tun" {
        at_least(BULK, &dnat, tcp1, 0.85);
    }
    let new = match device {
        "xdp" | "xdp2" => 1.25,
        "packet" | "packet2" => 1.0,
        "tap2" => 0.95,
        _ => 0.85,
    };
    at_least(NEW, &dnat, close, new);
    at_least(HAPROXY, &format!("{}/haproxy", row.wiring), close, 1.0);
    at_least(NGINX, &format!("{}/nginx", row.wiring), close, 1.0);
    at_least(SMALL, null, packets, 0.9);
    if let Some(d) = added(results, &row.name, null, &TIMES[0]) {
        all.push(Verdict { what: ADDED, found: d.median, asked: 2.0, met: d.median <= 2.0, digits: 1 });
    }
    all
}

/// The verdicts as a table: what misses its target is marked.
pub fn targets(results: &Results) -> String {
    let mut head = vec!["way".to_owned()];
    head.extend(TARGETS.map(str::to_owned));
    let mut body = Vec::new();
    for row in results.measured().filter(|r| r.null.is_some()) {
        let verdicts = verdicts(results, row);
        let mut line = vec![format!("{}, {}", row.wiring, row.label)];
        line.extend(TARGETS.iter().map(|t| match verdicts.iter().find(|v| v.what == *t) {
            Some(v) if v.met => format!("{:.1$}", v.found, v.digits),
            Some(v) => format!("**{:.2$}** (asked: {})", v.found, v.asked, v.digits),
            None => "-".into(),
        }));
        body.push(line);
    }
    table(&head, &body)
}
