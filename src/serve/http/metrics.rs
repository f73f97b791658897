//! `GET /metrics`: Prometheus text, our own names and the shape of node_exporter's `ipvs` collector.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use hyper::Response;

use super::Context;
use super::answer::{Body, Trouble, aside, text};
use super::metrics_health;
use super::routes::Call;
use super::view::totals;
use crate::ctl::{Overlay, RealKey, State};
use crate::engine::{Counters, DropCounters, DropReason, Engine};
use crate::io::PortInfo;
use crate::svc::{Dest, Service, ServiceKey};
use crate::time::Span;
use crate::worker::PortStats;
use crate::worker::stopwatch::{self, PaceStats};

/// `GET /metrics`
pub async fn metrics(context: Context, _: Call) -> Result<Response<Body>, Trouble> {
    let state = context.control.look().await?;
    let counted = totals(&context).await?;
    let ports = context.control.ports().await?;
    let pace = context.control.pace().await?;
    let reloads = context.control.reloads();
    let known = context.control.health().await;
    let tallies = context.control.check_tallies().await;
    let local = context.control.workers().ask_all(|engine: &mut Engine, _| engine.local_tuples()).await?;
    let local = local.iter().fold((0, 0), |(used, free), (u, f)| (used + u, free + f));
    let page = aside(move || {
        let mut page = page(&state, &counted, &ports, reloads, local);
        processing(&mut page, &pace);
        metrics_health::write(&mut page, &state, &known);
        metrics_health::write_runs(&mut page, &tallies);
        page
    });
    let page = page.await?;
    Ok(text("text/plain; version=0.0.4; charset=utf-8", page))
}

/// A family of metrics being written.
pub(super) struct Family<'o> {
    out: &'o mut String,
    name: &'static str,
}

impl<'o> Family<'o> {
    pub(super) fn new(out: &'o mut String, name: &'static str, kind: &str, help: &str) -> Family<'o> {
        // writing to a String cannot fail
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { out, name }
    }
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.add_part("", labels, value);
    }
    /// A histogram: `counts` by step, whose upper bounds are `steps` in nanoseconds, then number and sum of all.
    pub(super) fn add_histogram(
        &mut self,
        labels: &[(&str, &str)],
        steps: &[u64],
        counts: &[u64],
        (all, sum): (u64, Span),
    ) {
        let mut so_far = 0;
        for (step, n) in steps.iter().zip(counts) {
            so_far += n;
            let bound = (*step as f64 / 1e9).to_string();
            self.add_part("_bucket", &[labels, &[("le", &bound)]].concat(), so_far);
        }
        self.add_part("_bucket", &[labels, &[("le", "+Inf")]].concat(), all);
        self.add_part("_sum", labels, sum.0 as f64 / 1e9);
        self.add_part("_count", labels, all);
    }
    /// A part of a histogram: the name goes on.
    fn add_part(&mut self, part: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.out.push_str(self.name);
        self.out.push_str(part);
        for (i, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{name}=\"{}\"", if i == 0 { '{' } else { ',' }, escaped(value));
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// How long packets were in the core: what a sample is, is told in [`stopwatch`].
fn processing(o: &mut String, pace: &PaceStats) {
    let about =
        "Time of a packet in the core, of one in 1024 packets: its burst's time divided by its packets.";
    let mut f = Family::new(o, "softlvs_processing_seconds", "histogram", about);
    f.add_histogram(&[], &stopwatch::STEPS, &pace.steps, (pace.samples, pace.took));
}

/// What schedulers did: how often each kind gave a server to a connection of a service that is there, and
/// how often there was none.
fn schedulers(o: &mut String, state: &State, drops: &DropCounters) {
    let mut by_kind = BTreeMap::new();
    for service in state.catalog.services() {
        let [connections, ..] = service.stats.read();
        *by_kind.entry(service.spec.scheduler.name()).or_insert(0u64) += connections;
    }
    let about = "Connections that were given a real server, by scheduler of the service.";
    let mut f = Family::new(o, "softlvs_sched_decisions_total", "counter", about);
    for (kind, n) in by_kind {
        f.add(&[("scheduler", kind)], n);
    }
    let about = "Packets dropped because no real server would take their connection.";
    Family::new(o, "softlvs_sched_no_destination_total", "counter", about)
        .add(&[], drops.of(DropReason::NoDestination));
}

/// A label's value, as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The whole page.
pub fn page(
    state: &State,
    (counters, drops, connections): &(Counters, DropCounters, usize),
    ports: &[(PortInfo, PortStats)],
    (reloads, refused, at): (u64, u64, u64),
    local: (usize, usize),
) -> String {
    let mut out = String::new();
    let o = &mut out;
    Family::new(o, "softlvs_build_info", "gauge", "Version of the running director.")
        .add(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    for (name, help, value) in [
        ("softlvs_packets_received_total", "Packets given to the engine.", counters.received),
        ("softlvs_packets_forwarded_total", "Packets sent on as themselves.", counters.forwarded),
        ("softlvs_packets_local_total", "Packets for the director itself.", counters.local),
        ("softlvs_packets_made_total", "Packets made by the director.", counters.made),
        ("softlvs_connections_total", "Connections opened.", counters.opened),
    ] {
        Family::new(o, name, "counter", help).add(&[], value);
    }
    let mut f = Family::new(o, "softlvs_drop_packets_total", "counter", "Packets dropped, by reason.");
    for reason in DropReason::ALL {
        f.add(&[("reason", reason.name())], drops.of(*reason));
    }
    Family::new(o, "softlvs_conntrack_entries", "gauge", "Connections in the table.").add(&[], connections);
    Family::new(o, "softlvs_conntrack_limit", "gauge", "Connections the table can hold.")
        .add(&[], state.plan.connection_limit);
    Family::new(o, "softlvs_persistence_templates", "gauge", "Persistence templates.")
        .add(&[], state.catalog.templates().len());
    let mut f = Family::new(o, "softlvs_config_reload_total", "counter", "Whole configurations, by result.");
    f.add(&[("result", "applied")], reloads);
    f.add(&[("result", "refused")], refused);
    let about = "When the configuration was last applied as a whole, seconds since 1970.";
    Family::new(o, "softlvs_config_last_success_timestamp_seconds", "gauge", about).add(&[], at);
    schedulers(o, state, drops);
    let about = "Connections ended before their time, by reason.";
    let mut f = Family::new(o, "softlvs_conntrack_evictions_total", "counter", about);
    f.add(&[("reason", "drop_entry")], counters.evicted);
    f.add(&[("reason", "reply_tuple")], counters.made_room);
    f.add(&[("reason", "local_ports")], counters.reclaimed);
    let (used, free) = local;
    Family::new(o, "softlvs_nat_ports_used", "gauge", "Local addresses with port that FULLNAT uses.")
        .add(&[], used);
    let about = "Those left towards real servers that some are used for.";
    Family::new(o, "softlvs_nat_ports_free", "gauge", about).add(&[], free);
    io(o, state, ports);
    services(o, state);
    reals(o, state);
    node(o, state);
    out
}

fn io(o: &mut String, state: &State, ports: &[(PortInfo, PortStats)]) {
    let name = |i: usize| state.plan.ports.get(i).map_or(ports[i].0.name.as_str(), |p| p.name.as_str());
    let mut f =
        Family::new(o, "softlvs_io_packets_total", "counter", "Packets of a port, super-frames as one.");
    for (i, (_, s)) in ports.iter().enumerate() {
        f.add(&[("port", name(i)), ("direction", "in")], s.received);
        f.add(&[("port", name(i)), ("direction", "out")], s.sent);
    }
    let mut f = Family::new(o, "softlvs_io_bytes_total", "counter", "Bytes received on a port.");
    for (i, (_, s)) in ports.iter().enumerate() {
        f.add(&[("port", name(i)), ("direction", "in")], s.received_bytes);
    }
    let mut f = Family::new(o, "softlvs_io_ring_full_total", "counter", "Packets a device had no room for.");
    for (i, (_, s)) in ports.iter().enumerate() {
        f.add(&[("port", name(i))], s.full);
    }
    let mut f = Family::new(
        o,
        "softlvs_io_lost_packets_total",
        "counter",
        "Packets that the kernel could not give to a port.",
    );
    for (i, (_, s)) in ports.iter().enumerate() {
        for (reason, n) in s.lost.named() {
            f.add(&[("port", name(i)), ("reason", reason)], n);
        }
    }
    let mut f =
        Family::new(o, "softlvs_io_transitions_total", "counter", "How often a device broke or came back.");
    for (i, (_, s)) in ports.iter().enumerate() {
        f.add(&[("port", name(i))], s.transitions);
    }
}

/// `service`, `vip`, `port`, `proto` of a service.
pub(super) fn labels(s: &Service) -> [(&'static str, String); 4] {
    let (vip, port, proto) = match s.spec.key {
        ServiceKey::Address { proto, ip, port } => (ip.to_string(), port.to_string(), proto.name()),
        ServiceKey::Mark { mark, v6 } => {
            (mark.to_string(), "0".to_owned(), if v6 { "fwmark6" } else { "fwmark" })
        }
    };
    [("service", s.spec.name.clone()), ("vip", vip), ("port", port), ("proto", proto.to_owned())]
}

pub(super) fn borrowed<'l>(
    labels: &'l [(&'static str, String)],
    more: &[(&'l str, &'l str)],
) -> Vec<(&'l str, &'l str)> {
    labels.iter().map(|(n, v)| (*n, v.as_str())).chain(more.iter().copied()).collect()
}

type Pick = (&'static str, &'static str, [usize; 2]);

fn services(o: &mut String, state: &State) {
    let all = state.catalog.services();
    let mut f = Family::new(o, "softlvs_service_connections_total", "counter", "Connections scheduled.");
    for s in all {
        f.add(&borrowed(&labels(s), &[]), s.stats.read()[0]);
    }
    let families: [Pick; 2] = [
        ("softlvs_service_packets_total", "Packets of a service.", [1, 2]),
        ("softlvs_service_bytes_total", "Bytes of a service.", [3, 4]),
    ];
    for (name, help, [inward, outward]) in families {
        let mut f = Family::new(o, name, "counter", help);
        for s in all {
            let (labels, read) = (labels(s), s.stats.read());
            f.add(&borrowed(&labels, &[("direction", "in")]), read[inward]);
            f.add(&borrowed(&labels, &[("direction", "out")]), read[outward]);
        }
    }
}

fn each(state: &State) -> impl Iterator<Item = (&Service, &Dest, Vec<(&'static str, String)>)> {
    state.catalog.services().iter().flat_map(|s| {
        s.dests.iter().map(move |d| {
            let mut all = labels(s).to_vec();
            all.push(("rs", SocketAddr::new(d.spec.ip, d.spec.port).to_string()));
            (&**s, &**d, all)
        })
    })
}

fn reals(o: &mut String, state: &State) {
    let key = |s: &Service, d: &Dest| RealKey { service: s.spec.key, ip: d.spec.ip, port: d.spec.port };
    let mut f = Family::new(o, "softlvs_rs_connections", "gauge", "Connections of a real server, by state.");
    for (_, d, l) in each(state) {
        f.add(&borrowed(&l, &[("state", "active")]), d.active());
        f.add(&borrowed(&l, &[("state", "inactive")]), d.inactive());
        f.add(&borrowed(&l, &[("state", "persistent")]), d.persistent());
    }
    let mut f =
        Family::new(o, "softlvs_rs_connections_total", "counter", "Connections scheduled to a real server.");
    for (_, d, l) in each(state) {
        f.add(&borrowed(&l, &[]), d.stats.read()[0]);
    }
    let families: [Pick; 2] = [
        ("softlvs_rs_packets_total", "Packets of a real server.", [1, 2]),
        ("softlvs_rs_bytes_total", "Bytes of a real server.", [3, 4]),
    ];
    for (name, help, [inward, outward]) in families {
        let mut f = Family::new(o, name, "counter", help);
        for (_, d, l) in each(state) {
            let read = d.stats.read();
            f.add(&borrowed(&l, &[("direction", "in")]), read[inward]);
            f.add(&borrowed(&l, &[("direction", "out")]), read[outward]);
        }
    }
    let mut f = Family::new(o, "softlvs_rs_weight", "gauge", "Configured weight.");
    for (s, d, l) in each(state) {
        let weight = state.overlays.configured(&key(s, d)).map_or(d.spec.weight, |c| c.weight);
        f.add(&borrowed(&l, &[]), weight);
    }
    let mut f = Family::new(o, "softlvs_rs_effective_weight", "gauge", "Weight that scheduling goes by.");
    for (_, d, l) in each(state) {
        f.add(&borrowed(&l, &[]), d.spec.weight);
    }
    let mut f = Family::new(o, "softlvs_rs_state", "gauge", "1 for the state a real server is in.");
    for (s, d, l) in each(state) {
        let now = match state.overlays.get(&key(s, d)) {
            Some(Overlay::Extra(_)) => "extra",
            Some(Overlay::Weight(0) | Overlay::Inhibit | Overlay::Cut) => "inhibited",
            _ if d.overloaded() => "overloaded",
            _ if d.spec.weight == 0 => "quiesced",
            Some(Overlay::Weight(_) | Overlay::Remove) | None => "up",
        };
        for word in ["up", "quiesced", "inhibited", "overloaded", "extra"] {
            f.add(&borrowed(&l, &[("state", word)]), u8::from(word == now));
        }
    }
}

/// The names and labels that node_exporter makes of `/proc/net/ip_vs*`.
fn node(o: &mut String, state: &State) {
    let totals = state.totals();
    for (name, help, value) in [
        ("node_ipvs_connections_total", "The total number of connections made.", totals[0]),
        ("node_ipvs_incoming_packets_total", "The total number of incoming packets.", totals[1]),
        ("node_ipvs_outgoing_packets_total", "The total number of outgoing packets.", totals[2]),
        ("node_ipvs_incoming_bytes_total", "The total amount of incoming data.", totals[3]),
        ("node_ipvs_outgoing_bytes_total", "The total amount of outgoing data.", totals[4]),
    ] {
        Family::new(o, name, "counter", help).add(&[], value);
    }
    type Gauge = (&'static str, &'static str, fn(&Dest) -> u32);
    let gauges: [Gauge; 3] = [
        (
            "node_ipvs_backend_connections_active",
            "The current active connections by local and remote address.",
            Dest::active,
        ),
        (
            "node_ipvs_backend_connections_inactive",
            "The current inactive connections by local and remote address.",
            Dest::inactive,
        ),
        ("node_ipvs_backend_weight", "The current backend weight by local and remote address.", Dest::weight),
    ];
    for (name, help, value) in gauges {
        let mut f = Family::new(o, name, "gauge", help);
        for (s, d, _) in each(state) {
            let (address, port, proto, mark) = match s.spec.key {
                ServiceKey::Address { proto, ip, port } => {
                    (ip.to_string(), port.to_string(), proto.name().to_uppercase(), String::new())
                }
                ServiceKey::Mark { mark, .. } => {
                    (String::new(), "0".into(), "FWM".into(), format!("{mark:08X}"))
                }
            };
            let (remote, remote_port) = (d.spec.ip.to_string(), d.spec.port.to_string());
            f.add(
                &[
                    ("local_address", &address),
                    ("local_port", &port),
                    ("remote_address", &remote),
                    ("remote_port", &remote_port),
                    ("proto", &proto),
                    ("local_mark", &mark),
                ],
                value(d),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;
    use crate::svc::Catalog;

    /// The grammar of the text format, as far as it can go wrong here.
    fn parse(line: &str) -> (String, Vec<(String, String)>, f64) {
        let name_end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(name_end);
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, value) = rest.split_once("=\"").unwrap();
                let mut text = String::new();
                let mut chars = value.char_indices();
                let end = loop {
                    match chars.next().unwrap() {
                        (i, '"') => break i,
                        (_, '\\') => match chars.next().unwrap().1 {
                            'n' => text.push('\n'),
                            c @ ('\\' | '"') => text.push(c),
                            c => panic!("escape {c}"),
                        },
                        (_, c) => text.push(c),
                    }
                };
                labels.push((label.to_owned(), text));
                rest = &value[end + 1..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').unwrap();
        }
        (name.to_owned(), labels, rest.trim().parse().unwrap())
    }

    #[test]
    fn the_page_is_prometheus_text_with_every_drop_reason_and_the_shape_of_node_exporter() {
        let text = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\"]\n\
                    [[service]]\nname = \"we\\\"b\\\\\"\naddress = \"10.0.0.100:80\"\n\
                    [[service.real]]\naddress = \"10.0.0.11\"\nweight = 3\n\
                    [[service]]\nfwmark = 7\n[[service.real]]\naddress = \"10.0.0.12\"\nmode = \"dr\"\n";
        let state = State::new(check(text, "f").unwrap(), Catalog::default()).unwrap();
        let page = page(&state, &(Counters::default(), DropCounters::default(), 5), &[], (1, 2, 3), (4, 5));
        for line in ["softlvs_nat_ports_used 4", "softlvs_nat_ports_free 5"] {
            assert!(page.lines().any(|l| l == line), "{line}");
        }
        let mut typed = std::collections::HashSet::new();
        let mut seen = std::collections::HashSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let words: Vec<&str> = rest.split(' ').collect();
                if words[0] == "TYPE" {
                    assert!(typed.insert(words[1].to_owned()), "{line}");
                    assert_eq!(words[1].ends_with("_total"), words[2] == "counter", "{line}");
                }
                continue;
            }
            let (name, labels, _) = parse(line);
            assert!(typed.contains(&name), "{line}");
            assert!(seen.insert(format!("{name}{labels:?}")), "twice: {line}");
        }
        for reason in DropReason::ALL {
            assert!(
                page.contains(&format!("softlvs_drop_packets_total{{reason=\"{}\"}} 0\n", reason.name()))
            );
        }
        assert!(page.contains(
            "node_ipvs_backend_weight{local_address=\"10.0.0.100\",local_port=\"80\",remote_address=\"10.0.0.11\",\
             remote_port=\"80\",proto=\"TCP\",local_mark=\"\"} 3\n"
        ));
        assert!(page.contains("local_address=\"\",local_port=\"0\",remote_address=\"10.0.0.12\",remote_port=\"0\",proto=\"FWM\",local_mark=\"00000007\"} 1\n"));
        assert!(page.contains("softlvs_conntrack_entries 5\n"));
    }
}
