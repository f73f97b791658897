//! A configuration written back as the text of a file: what [`super::check`] reads makes the same plan.
//!
//! Only what differs from the defaults is written. What a file cannot say (a persistence mask with holes,
//! which `ipvsadm -M` takes) is told in a comment.

use std::fmt::Write;
use std::net::SocketAddr;

use super::plan::{Plan, PortSetup, Timeouts};
use super::save_health;
use super::sysctl::Value;
use crate::health::{HealthPlan, ServiceHealth};
use crate::host::{Closed, FtpHelper, RouteVia};
use crate::io::xdp::XdpMode;
use crate::io::{MacChoice, OffloadMode};
use crate::svc::{DestSpec, Forward, ServiceKey, ServiceSpec, Tunnel, TunnelCsum};
use crate::time::Span;

/// The whole configuration with these services; their real servers in the order of the file.
pub fn toml(plan: &Plan, services: &[(ServiceSpec, Vec<DestSpec>)]) -> String {
    let mut out = base(plan);
    save_health::checks(&mut out, &plan.health);
    for (spec, reals) in services {
        let health = plan.health.services.iter().find(|h| h.key == spec.key);
        service_with(&mut out, spec, reals, health.map(|h| (h, &plan.health)));
    }
    out
}

/// The file as it is handed out. Commands may say what no file may (a real server that no route leads to):
/// then what [`super::check`] will say about it stands above.
pub fn file(plan: &Plan) -> String {
    let text = toml(plan, &plan.services);
    let Err(all) = super::check(&text, "saved") else { return text };
    let mut out =
        String::from("# Commands made of what runs what no file may say. This file is refused for:\n");
    for d in all.iter().filter(|d| d.severity == super::Severity::Error) {
        let _ = writeln!(out, "# {}: {}", d.key, d.why);
    }
    out + "\n" + &text
}

/// Everything but the services.
pub fn base(plan: &Plan) -> String {
    let mut out = String::new();
    director(&mut out, plan);
    timeouts(&mut out, "[timeouts]", &plan.timeouts);
    if !plan.sysctl.0.is_empty() {
        out.push_str("\n[sysctl]\n");
        for (name, value) in &plan.sysctl.0 {
            let value = match value {
                Value::Int(n) => n.to_string(),
                Value::Pair(a, b) => format!("\"{a} {b}\""),
                Value::Text(text) => quoted(text),
            };
            line(&mut out, name, value);
        }
    }
    plan.ports.iter().for_each(|p| port(&mut out, p));
    for r in &plan.routes {
        out.push_str("\n[[route]]\n");
        line(&mut out, "to", quoted(&r.to.to_string()));
        match r.via {
            RouteVia::Gateway(ip) => line(&mut out, "via", quoted(&ip.to_string())),
            RouteVia::Port(id) => {
                let name = plan.ports.get(usize::from(id)).map_or("", |p| p.name.as_str());
                line(&mut out, "port", quoted(name));
            }
            // no file can say it
            RouteVia::Unreachable => out.push_str("# unreachable\n"),
        }
    }
    for m in &plan.marks {
        out.push_str("\n[[mark]]\n");
        line(&mut out, "mark", m.mark.to_string());
        if let Some(to) = m.to {
            line(&mut out, "to", quoted(&to.to_string()));
        }
        if let Some((a, b)) = m.ports {
            line(&mut out, "ports", quoted(&if a == b { a.to_string() } else { format!("{a}-{b}") }));
        }
        if let Some(proto) = m.proto {
            line(&mut out, "protocol", quoted(proto.name()));
        }
    }
    out
}

fn director(out: &mut String, plan: &Plan) {
    out.push_str("[director]\n");
    line(out, "connection_limit", plan.connection_limit.to_string());
    line(out, "workers", plan.workers.map_or_else(|| quoted("auto"), |n| n.to_string()));
    if let Some(linger) = plan.linger {
        line(out, "linger", quoted(&format!("{}us", linger.as_micros())));
    }
    if plan.forwarding {
        line(out, "forwarding", "true".to_owned());
    }
    if plan.ftp == FtpHelper::Off {
        line(out, "ftp", "false".to_owned());
    }
    if plan.closed == Closed::Drop {
        line(out, "closed", quoted("drop"));
    }
    if !plan.local_addresses.is_empty() {
        let ranges = plan.local_addresses.iter().map(|r| match r.first == r.last {
            true => r.first.to_string(),
            false => format!("{}-{}", r.first, r.last),
        });
        line(out, "local_addresses", list(ranges));
    }
    if let Some(control) = &plan.control {
        line(out, "control", quoted(control));
    }
    if let Some(folder) = &plan.proc {
        line(out, "proc", quoted(folder));
    }
    if let Some(path) = &plan.health.fifo {
        line(out, "notify_fifo", quoted(path));
    }
    if let Some(http) = &plan.http {
        line(out, "http", quoted(&http.address.to_string()));
        if let Some(file) = &http.token_file {
            line(out, "http_token_file", quoted(file));
        }
        if let Some(tls) = &http.tls {
            line(out, "http_certificate_file", quoted(&tls.certificate));
            line(out, "http_key_file", quoted(&tls.key));
        }
    }
}

fn timeouts(out: &mut String, title: &str, t: &Timeouts) {
    if *t != Timeouts::default() {
        let _ = writeln!(out, "\n{title}");
        line(out, "tcp", span(t.tcp));
        line(out, "tcp_fin", span(t.tcp_fin));
        line(out, "udp", span(t.udp));
    }
}

fn port(out: &mut String, p: &PortSetup) {
    out.push_str("\n[[port]]\n");
    line(out, "name", quoted(&p.name));
    line(out, p.device.kind(), quoted(p.device.name()));
    match p.mac {
        MacChoice::Derived => {}
        MacChoice::Own(mac) => line(out, "mac", quoted(&mac.to_string())),
        MacChoice::Inherit => line(out, "mac", quoted("inherit")),
    }
    line(out, "addresses", list(p.addresses.iter().map(ToString::to_string)));
    if let Some(gateway) = p.gateway {
        line(out, "gateway", quoted(&gateway.to_string()));
    }
    if let Some(gateway) = p.gateway6 {
        line(out, "gateway6", quoted(&gateway.to_string()));
    }
    if let Some(mtu) = p.mtu {
        line(out, "mtu", mtu.to_string());
    }
    match p.offload {
        OffloadMode::Auto => {}
        OffloadMode::On => line(out, "offload", quoted("on")),
        OffloadMode::Off => line(out, "offload", quoted("off")),
    }
    if p.guard {
        line(out, "guard", "true".to_owned());
    }
    match p.xdp_mode {
        XdpMode::Auto => {}
        XdpMode::Native => line(out, "xdp_mode", quoted("native")),
        XdpMode::Generic => line(out, "xdp_mode", quoted("generic")),
    }
    if let Some(us) = p.busy_poll {
        line(out, "busy_poll", quoted(&format!("{us}us")));
    }
    if !p.neighbors.is_empty() {
        let all = p.neighbors.iter().map(|(ip, mac)| format!("\"{ip}\" = \"{mac}\""));
        line(out, "neighbors", format!("{{ {} }}", all.collect::<Vec<_>>().join(", ")));
    }
}

/// One `[[service]]`.
pub fn service(out: &mut String, spec: &ServiceSpec, reals: &[DestSpec]) {
    service_with(out, spec, reals, None);
}

fn service_with(
    out: &mut String,
    spec: &ServiceSpec,
    reals: &[DestSpec],
    health: Option<(&ServiceHealth, &HealthPlan)>,
) {
    out.push_str("\n[[service]]\n");
    if !spec.name.is_empty() {
        line(out, "name", quoted(&spec.name));
    }
    match spec.key {
        ServiceKey::Address { proto, ip, port } => {
            line(out, "address", quoted(&SocketAddr::new(ip, port).to_string()));
            line(out, "protocol", quoted(proto.name()));
        }
        ServiceKey::Mark { mark, v6 } => {
            line(out, "fwmark", mark.to_string());
            line(out, "family", quoted(if v6 { "ipv6" } else { "ipv4" }));
        }
    }
    if !spec.ports.is_empty() {
        line(out, "ports", list(spec.ports.iter().cloned()));
    }
    line(out, "scheduler", quoted(spec.scheduler.name()));
    let flags = spec.flag_names();
    if !flags.is_empty() {
        line(out, "scheduler_flags", list(flags.into_iter().map(str::to_owned)));
    }
    if let Some(p) = spec.persistence {
        let all = if spec.key.is_v6() { 128 } else { 32 };
        let mut parts = vec![format!("timeout = {}", span(p.timeout))];
        if (1..all).contains(&p.netmask) {
            parts.push(format!("netmask = {}", p.netmask));
        }
        if let Some(engine) = spec.engine {
            parts.push(format!("engine = {}", quoted(engine.name())));
        }
        line(out, "persistence", format!("{{ {} }}", parts.join(", ")));
        let odd = spec.netmask_bits.or((p.netmask == 0).then_some(0));
        if let Some(bits) = odd {
            let _ = writeln!(out, "# netmask {} cannot be said here", std::net::Ipv4Addr::from(bits));
        }
    }
    if spec.one_packet {
        line(out, "one_packet", "true".to_owned());
    }
    let own = [("tcp", spec.timeouts.tcp), ("tcp_fin", spec.timeouts.tcp_fin), ("udp", spec.timeouts.udp)];
    let own: Vec<String> = own.iter().filter_map(|(n, t)| Some(format!("{n} = {}", span((*t)?)))).collect();
    if !own.is_empty() {
        line(out, "timeouts", format!("{{ {} }}", own.join(", ")));
    }
    if spec.mss_clamp {
        line(out, "mss_clamp", "true".to_owned());
    }
    if let Some((s, _)) = health {
        save_health::service(out, spec, s);
    }
    for r in reals {
        real(out, spec, r);
        let at = SocketAddr::new(r.ip, r.port);
        if let Some((h, plan)) =
            health.and_then(|(s, plan)| Some((s.reals.iter().find(|h| h.at == at)?, plan)))
        {
            save_health::real(out, h, plan);
        }
    }
}

fn real(out: &mut String, service: &ServiceSpec, r: &DestSpec) {
    out.push_str("\n[[service.real]]\n");
    if !r.name.is_empty() {
        line(out, "name", quoted(&r.name));
    }
    let with_port = r.forward.translates() && r.port != service.key.port();
    let address = if with_port { SocketAddr::new(r.ip, r.port).to_string() } else { r.ip.to_string() };
    line(out, "address", quoted(&address));
    line(out, "weight", r.weight.to_string());
    line(out, "mode", quoted(r.forward.name()));
    if r.upper != 0 {
        line(out, "upper_threshold", r.upper.to_string());
    }
    if r.lower != 0 {
        line(out, "lower_threshold", r.lower.to_string());
    }
    let csum = |c| match c {
        TunnelCsum::None => "none",
        TunnelCsum::Csum => "csum",
        TunnelCsum::RemCsum => "remcsum",
    };
    match r.forward {
        Forward::Tun(Tunnel::Gre { csum: c }) => {
            line(out, "tunnel", format!("{{ type = \"gre\", checksum = \"{}\" }}", csum(c)));
        }
        Forward::Tun(Tunnel::Gue { port, csum: c }) => {
            line(out, "tunnel", format!("{{ type = \"gue\", port = {port}, checksum = \"{}\" }}", csum(c)));
        }
        Forward::Tun(Tunnel::Ipip) | Forward::Nat | Forward::FullNat | Forward::Dr => {}
    }
}

pub(super) fn line(out: &mut String, key: &str, value: String) {
    // writing to a String cannot fail
    let _ = writeln!(out, "{key} = {value}");
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.map(|i| quoted(&i)).collect::<Vec<_>>().join(", "))
}

/// A duration, quoted.
pub(super) fn span(s: Span) -> String {
    let ms = s.as_millis();
    if ms.is_multiple_of(1000) { format!("\"{}s\"", ms / 1000) } else { format!("\"{ms}ms\"") }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    const FILE: &str = r#"
[director]
connection_limit = 5000
linger = "40us"
forwarding = true
closed = "drop"
ftp = false
local_addresses = ["10.0.0.100-10.0.0.107", "10.0.0.120"]
[timeouts]
tcp = "20m"
[sysctl]
expire_nodest_conn = 1
sync_threshold = "2 20"
[[port]]
name = "outside"
tap = "t"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8::1"
mtu = 1400
offload = "off"
neighbors = { "192.0.2.1" = "02:00:00:00:00:99" }
[[port]]
tap = "inside"
addresses = ["10.0.0.1/24"]
[[route]]
to = "10.2.0.0/16"
via = "10.0.0.254"
[[mark]]
mark = 7
to = "192.0.2.20/30"
ports = "8000-8099"
protocol = "tcp"
[[service]]
name = "we\"b"
address = "192.0.2.10:80"
ports = ["outside"]
scheduler = "sh"
scheduler_flags = ["sh-port", "flag-3"]
persistence = { timeout = "90s", netmask = 24 }
timeouts = { udp = "30s" }
mss_clamp = true
[[service.real]]
name = "web1"
address = "10.0.0.11:8080"
weight = 3
upper_threshold = 10
lower_threshold = 5
[[service.real]]
address = "10.0.0.12"
mode = "fullnat"
[[service]]
address = "[2001:db8::10]:53"
protocol = "udp"
one_packet = true
mode = "tun"
[[service.real]]
address = "10.0.0.13"
tunnel = { type = "gue", port = 6080, checksum = "csum" }
[[service.real]]
address = "10.0.0.14"
tunnel = { type = "gre" }
[[service]]
fwmark = 7
scheduler_flags = ["flag-1", "flag-3"]
[[service.real]]
address = "10.0.0.11"
mode = "dr"
"#;

    fn read(text: &str) -> Plan {
        let all = |e: Vec<crate::config::Diagnostic>| e.iter().map(|d| format!("{d}\n")).collect::<String>();
        check(text, "f").unwrap_or_else(|e| panic!("{}", all(e)))
    }

    #[test]
    fn what_is_written_reads_as_the_same_plan() {
        let plan = read(FILE);
        let text = toml(&plan, &plan.services);
        let again = read(&text);
        let known = |p: Plan| Plan { warnings: Vec::new(), ..p };
        assert_eq!(format!("{:?}", known(again.clone())), format!("{:?}", known(plan)));
        assert_eq!(toml(&again, &again.services), text);
    }
}
