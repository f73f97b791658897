//! From what was written to what will run: every rule about values that must go together.
//!
//! All errors are found in one run. A rule whose inputs are wrong themselves is left out, so that one
//! mistake makes one message.

mod announce;
mod doors;
mod health;
mod ports;
mod reach;
mod reals;
mod services;

use std::net::IpAddr;

use super::diag::{Diagnostic, Place, Report};
use super::doc::{self, Doc, TimeoutsDoc};
use super::plan::{Plan, Timeouts};
use super::sysctl::{self, Sysctls};
use super::values;
use crate::host::{AddrRange, FtpHelper, MarkRule};

pub use reach::not_a_station;

/// Connections the table holds when nothing is said.
pub const DEFAULT_CONNECTION_LIMIT: u32 = 1_000_000;

/// Checks the text of a configuration file; `file_name` is for the messages.
///
/// # Errors
/// Everything that is wrong, in the order of the file, warnings among it.
pub fn check(text: &str, file_name: &str) -> Result<Plan, Vec<Diagnostic>> {
    let mut report = Report::default();
    let doc = doc::read(text, &mut report);
    finish(&doc, report, file_name, text)
}

/// Checks a document that was read already; `report` holds what was found until now.
///
/// # Errors
/// Everything that is wrong.
pub fn finish(doc: &Doc, mut report: Report, file_name: &str, text: &str) -> Result<Plan, Vec<Diagnostic>> {
    let plan = plan(doc, &mut report);
    let refused = report.has_errors();
    let messages = report.finish(file_name, text);
    if refused { Err(messages) } else { Ok(Plan { warnings: messages, ..plan }) }
}

fn plan(doc: &Doc, report: &mut Report) -> Plan {
    // A port or route that could not be read would make servers look out of reach that are not.
    let net_is_whole = !report.has_errors();
    let ports = ports::check(doc, report);
    if doc.ports.is_empty() && !report.has_errors() {
        report.error(
            &Place::default(),
            "there is no port: packets have nowhere to come from",
            "add a [[port]] with tap = \"tap0\", or give --tap, --tun, --packet or --port",
        );
    }
    for p in doc.ports.iter().filter(|p| p.addresses.is_empty() && !p.has_addresses) {
        let place =
            p.name.as_ref().map(|n| &n.place).or(p.device.as_ref().map(|d| &d.place)).unwrap_or(&p.place);
        let help = "add addresses = [\"192.0.2.2/24\"] (--address 192.0.2.2/24), with --host-address the director \
                    takes the next free one of that network";
        if doc.services.is_empty() {
            report.warn(place, "the port has no address: the director will answer nobody", help);
        } else {
            report.error(place, "the port has no address", help);
        }
    }
    let routes = ports::routes(doc, net_is_whole, report);
    let marks = marks(doc, report);
    let local_addresses = local_addresses(doc, report);
    let services = services::check(doc, net_is_whole, report);
    let health = health::check(doc, &services, report);
    let d = &doc.director;
    let workers = workers(doc, report);
    let http = doors::http(d, report);
    let limit = d.connection_limit.as_ref().map_or(DEFAULT_CONNECTION_LIMIT, |l| l.value);
    Plan {
        connection_limit: limit,
        workers,
        linger: d.linger.as_ref().map(|l| l.value),
        control: d.control.as_ref().map(|c| c.value.clone()),
        proc: d.proc.as_ref().map(|p| p.value.clone()),
        http,
        forwarding: d.forwarding.as_ref().is_some_and(|f| f.value),
        ftp: match d.ftp.as_ref().is_none_or(|f| f.value) {
            true => FtpHelper::On,
            false => FtpHelper::Off,
        },
        closed: d.closed.as_ref().map(|c| c.value).unwrap_or_default(),
        local_addresses,
        timeouts: timeouts(&doc.timeouts),
        sysctl: settings(doc, report),
        ports,
        routes,
        marks,
        services,
        health,
        warnings: Vec::new(),
    }
}

fn timeouts(t: &TimeoutsDoc) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        tcp: t.tcp.as_ref().map_or(default.tcp, |v| v.value),
        tcp_fin: t.tcp_fin.as_ref().map_or(default.tcp_fin, |v| v.value),
        udp: t.udp.as_ref().map_or(default.udp, |v| v.value),
    }
}

fn settings(doc: &Doc, report: &mut Report) -> Sysctls {
    let mut out = Sysctls::default();
    for (name, value) in &doc.sysctl {
        let default = sysctl::find(name).and_then(|k| k.parse(k.default).ok());
        if !sysctl::has_effect(name) && default.as_ref() != Some(&value.value) {
            report.warn(&value.place, "this setting has no effect in this version", "");
        }
        if out.0.insert(name, value.value.clone()).is_some() {
            report.error(
                &value.place,
                format!("`{name}` is said twice"),
                "once with and once without net.ipv4.vs.",
            );
        }
    }
    out
}

/// Number of workers: as said, else as many as a port has queues, else one; `None` for `auto`.
fn workers(doc: &Doc, report: &mut Report) -> Option<u32> {
    let said = doc.director.workers.as_ref().map(|w| w.value);
    let queues = || doc.ports.iter().filter_map(|p| p.queues.as_ref());
    let first = queues().next().map(|q| q.value);
    let workers = match said {
        Some(Some(n)) => Some(n),
        Some(None) => first,
        None => Some(first.unwrap_or(1)),
    };
    for queues in queues().filter(|q| Some(q.value) != workers) {
        let have = workers.unwrap_or(1);
        let (is, s) = if have == 1 { ("is", "") } else { ("are", "s") };
        report.error(
            &queues.place,
            format!("each worker has one queue of a port, and there {is} {have} worker{s}"),
            format!("write queues = {have} or leave it out, or workers = {} in [director]", queues.value),
        );
    }
    workers
}

fn marks(doc: &Doc, report: &mut Report) -> Vec<MarkRule> {
    let mut out: Vec<MarkRule> = Vec::with_capacity(doc.marks.len());
    for m in &doc.marks {
        let rule = MarkRule {
            mark: m.mark.value,
            to: m.to.as_ref().map(|t| t.value),
            ports: m.ports.as_ref().map(|p| p.value),
            proto: m.proto.as_ref().map(|p| p.value),
        };
        if out.iter().any(|r| (r.to, r.ports, r.proto) == (rule.to, rule.ports, rule.proto)) {
            report.error(
                &m.place,
                "an earlier rule takes the same packets",
                "the first rule that matches wins: leave one out",
            );
        }
        out.push(rule);
    }
    out
}

fn local_addresses(doc: &Doc, report: &mut Report) -> Vec<AddrRange> {
    let list = &doc.director.local_addresses;
    let within = |r: AddrRange, ip: IpAddr| {
        r.first.is_ipv4() == ip.is_ipv4()
            && (values::number(r.first)..=values::number(r.last)).contains(&values::number(ip))
    };
    for (i, at) in list.iter().enumerate() {
        let r = at.value;
        if let Some(what) = not_a_station(r.first).or(not_a_station(r.last)) {
            report.error(
                &at.place,
                format!("the range holds {what}"),
                "local addresses are those of one station each",
            );
        }
        if let Some(other) = list[..i].iter().find(|o| within(o.value, r.first) || within(r, o.value.first)) {
            report.error(
                &at.place,
                "the range overlaps another one",
                format!("the other one is {}", other.place.key),
            );
        }
        let gateways = doc.ports.iter().flat_map(|p| {
            let four = p.gateway.as_ref().map(|g| IpAddr::V4(g.value));
            four.into_iter().chain(p.gateway6.as_ref().map(|g| IpAddr::V6(g.value)))
        });
        let vias = doc.routes.iter().filter_map(|r| r.via.as_ref()).map(|v| v.value);
        let reals =
            doc.services.iter().flat_map(|s| &s.reals).filter_map(|d| d.address.as_ref()).map(|a| a.value.0);
        let hosts = doc.ports.iter().flat_map(|p| &p.host_addresses).map(|a| a.value.addr);
        if let Some(ip) = gateways.chain(vias).chain(reals).chain(hosts).find(|ip| within(r, *ip)) {
            report.error(
                &at.place,
                format!("the range holds {ip}, the address of another station"),
                "local addresses belong to the director: leave that one out",
            );
        }
    }
    list.iter().map(|a| a.value).collect()
}
