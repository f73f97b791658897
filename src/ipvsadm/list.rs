//! `ipvsadm -Ln` in all its forms: services and real servers as text, byte for byte as recorded.

use std::cmp::Ordering;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::address::endpoint;
use super::names::Names;
use super::parse::{ListCommand, Show};
use super::stats::{Baseline, Rates};
use crate::svc::{
    Dest, Forward, Proto, SchedulerKind, Service, ServiceKey, ServiceSpec, Timeouts, Tunnel, TunnelCsum,
};

/// The recorded table size: 2^12 buckets. Scripts compare this line, so it is not made up from ours.
const VERSION: &str = "IP Virtual Server version 1.2.1 (size=4096)\n";
/// Names of real servers are cut at this width.
const NAME_WIDTH: usize = 28;
/// Names of services are cut at this width.
const SERVICE_WIDTH: usize = 33;
/// Addresses with their ports are never longer than this.
const ENDPOINT_WIDTH: usize = 59;

/// Everything a listing is made from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Services in the catalog's order.
    pub services: &'a [Arc<Service>],
    /// Counters at the last `-Z`.
    pub zero: &'a Baseline,
    /// Rates for `--rate`.
    pub rates: &'a Rates,
    /// Timeouts for `--timeout`.
    pub timeouts: &'a Timeouts,
    /// Names for listings without `-n`.
    pub names: &'a Names,
}

/// The text of a listing of services; `None` when the named service does not exist. Connections
/// (`-c`) are not services: their listing is made from the engine's table.
pub fn listing(source: Source<'_>, what: &ListCommand) -> Option<String> {
    if what.show == Show::Timeout {
        let [tcp, tcp_fin, udp] = source.timeouts.listed().map(|s| s.as_secs());
        return Some(format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n"));
    }
    let mut out = String::new();
    let mut services: Vec<&Arc<Service>> = source.services.iter().collect();
    match what.service {
        Some(key) => {
            services.retain(|s| s.spec.key == key);
            if services.is_empty() {
                return None;
            }
        }
        None => out.push_str(VERSION),
    }
    kernel_order(&mut services);
    if !what.nosort {
        sort_by(&mut services, &mut |a, b| compare_services(&a.spec.key, &b.spec.key));
    }
    out.push_str(title(what.show));
    let names = (!what.numeric).then_some(source.names);
    for s in services {
        let name = service_name(&s.spec.key, names);
        // writing to a String cannot fail
        let _ = match what.show {
            Show::Stats => writeln!(out, "{name:<33}{}", numbers(source.zero.service(s), what.exact)),
            Show::Rate => writeln!(out, "{name:<33}{}", numbers(source.rates.service(s), what.exact)),
            _ => writeln!(out, "{name} {}", properties(s)),
        };
        let mut dests: Vec<&Arc<Dest>> = s.dests.iter().collect();
        if !what.nosort {
            sort_by(&mut dests, &mut |a, b| compare_dests(a, b));
        }
        for d in dests {
            let _ = writeln!(
                out,
                "  -> {:<NAME_WIDTH$}{}",
                dest_name(d, &s.spec.key, names),
                dest_columns(d, source, what)
            );
        }
    }
    Some(out)
}

fn title(show: Show) -> &'static str {
    match show {
        Show::Stats => {
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n\
             \x20 -> RemoteAddress:Port\n"
        }
        Show::Rate => {
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n\
             \x20 -> RemoteAddress:Port\n"
        }
        Show::Thresholds => {
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n\
             \x20 -> RemoteAddress:Port\n"
        }
        Show::PersistentConn => {
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n\
             \x20 -> RemoteAddress:Port\n"
        }
        Show::TunInfo => {
            "Prot LocalAddress:Port Scheduler Flags\n\
             \x20 -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
        }
        Show::Plain | Show::Timeout | Show::Daemon | Show::Connections { .. } => {
            "Prot LocalAddress:Port Scheduler Flags\n\
             \x20 -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        }
    }
}

fn service_name(key: &ServiceKey, names: Option<&Names>) -> String {
    match key {
        ServiceKey::Address { proto, ip, port } => {
            let at = endpoint(*ip, *port, Some(*proto), names);
            let mut name = format!("{:<4} {at}", proto.name().to_uppercase());
            if ip.is_ipv4() {
                cut(&mut name, SERVICE_WIDTH);
            }
            name
        }
        // printed as a signed number, as ipvsadm does (8-cli-service-errors: mark 4294967295)
        ServiceKey::Mark { mark, v6 } => {
            format!("FWM  {}{}", *mark as i32, if *v6 { " IPv6" } else { "" })
        }
    }
}

/// Scheduler, its flags, persistence and the rest of the service's line.
fn properties(s: &Service) -> String {
    let spec = &s.spec;
    let mut out = spec.scheduler.name().to_string();
    if let Some(flags) = flag_names(spec) {
        let _ = write!(out, " ({flags})");
    }
    if let Some(p) = spec.persistence {
        let _ = write!(out, " persistent {}", p.timeout.as_secs());
        if let Some(mask) = mask(spec) {
            let _ = write!(out, " mask {mask}");
        }
        if let Some(engine) = spec.engine {
            let _ = write!(out, " pe {}", engine.name());
        }
    }
    if spec.one_packet {
        out.push_str(" ops");
    }
    out
}

/// The persistence mask where it is not that of single clients.
fn mask(spec: &ServiceSpec) -> Option<String> {
    let len = spec.persistence?.netmask;
    match (spec.key.is_v6(), spec.netmask_bits) {
        (true, _) => (len < 128).then(|| len.to_string()),
        (false, Some(bits)) => Some(Ipv4Addr::from(bits).to_string()),
        (false, None) if len >= 32 => None,
        (false, None) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            Some(Ipv4Addr::from(bits).to_string())
        }
    }
}

/// The flags as ipvsadm writes them: of `sh` and `mh` it has no name for the third, which makes an empty list of
/// it alone (8-cli-asked-values).
fn flag_names(spec: &ServiceSpec) -> Option<String> {
    let mut names = spec.flag_names();
    if names.is_empty() {
        return None;
    }
    if matches!(spec.scheduler, SchedulerKind::Sh | SchedulerKind::Mh) {
        names.retain(|name| *name != "flag-3");
    }
    Some(names.join(","))
}

/// Cuts a name, between characters.
fn cut(name: &mut String, width: usize) {
    let at = name.char_indices().map(|(i, _)| i).take_while(|i| *i <= width).last().unwrap_or(0);
    if name.len() > width {
        name.truncate(at);
    }
}

/// Protocol by which ports of a service's real servers are named; marks have none.
fn proto(key: &ServiceKey) -> Option<Proto> {
    match key {
        ServiceKey::Address { proto, .. } => Some(*proto),
        ServiceKey::Mark { .. } => None,
    }
}

fn dest_name(d: &Dest, service: &ServiceKey, names: Option<&Names>) -> String {
    let mut name = endpoint(d.spec.ip, d.spec.port, proto(service), names);
    cut(&mut name, if d.spec.ip.is_ipv4() { NAME_WIDTH } else { ENDPOINT_WIDTH });
    name
}

/// Lines that make these services again, thresholds and the third flag of `sh` and `mh` included, which
/// `ipvsadm -S` leaves out.
pub fn rules_with_thresholds(services: &[Arc<Service>]) -> String {
    write_rules(services, None, true)
}

/// `ipvsadm -S`: lines that make these services again, but for their thresholds, as ipvsadm writes them.
pub fn rules(services: &[Arc<Service>], names: Option<&Names>) -> String {
    write_rules(services, names, false)
}

fn write_rules(services: &[Arc<Service>], names: Option<&Names>, own: bool) -> String {
    let mut out = String::new();
    let mut sorted: Vec<&Arc<Service>> = services.iter().collect();
    kernel_order(&mut sorted);
    sort_by(&mut sorted, &mut |a, b| compare_services(&a.spec.key, &b.spec.key));
    for s in sorted {
        let spec = &s.spec;
        let service = match &spec.key {
            ServiceKey::Address { proto, ip, port } => {
                let option = match proto {
                    Proto::Tcp => "-t",
                    Proto::Udp => "-u",
                    Proto::Sctp => "--sctp-service",
                };
                format!("{option} {}", endpoint(*ip, *port, Some(*proto), names))
            }
            ServiceKey::Mark { mark, v6 } => {
                // ipvsadm writes it as a signed number, which cannot be read back either
                let mark = if own { i64::from(*mark) } else { i64::from(*mark as i32) };
                format!("-f {mark}{}", if *v6 { " -6" } else { "" })
            }
        };
        // writing to a String cannot fail
        let _ = write!(out, "-A {service} -s {}", spec.scheduler.name());
        if let Some(p) = spec.persistence {
            let _ = write!(out, " -p {}", p.timeout.as_secs());
            if let Some(mask) = mask(spec) {
                let _ = write!(out, " -M {mask}");
            }
        }
        if let Some(engine) = spec.engine {
            let _ = write!(out, " --pe {}", engine.name());
        }
        if spec.one_packet {
            out.push_str(" -o");
        }
        // an empty list cannot be read back: our own lines name the third flag
        let whole = || Some(spec.flag_names().join(",")).filter(|names| !names.is_empty());
        if let Some(flags) = if own { whole() } else { flag_names(spec) } {
            let _ = write!(out, " -b {flags}");
        }
        out.push('\n');
        let mut dests: Vec<&Arc<Dest>> = s.dests.iter().collect();
        sort_by(&mut dests, &mut |a, b| compare_dests(a, b));
        for d in dests {
            let at = endpoint(d.spec.ip, d.spec.port, proto(&spec.key), names);
            let _ = write!(out, "-a {service} -r {at} {}", forward_rule(d.spec.forward, d.spec.weight));
            if own && d.spec.upper != 0 {
                let _ = write!(out, " -x {} -y {}", d.spec.upper, d.spec.lower);
            }
            out.push('\n');
        }
    }
    out
}

fn forward_rule(forward: Forward, weight: u32) -> String {
    let csum = |c: TunnelCsum| match c {
        TunnelCsum::None => "--tun-nocsum",
        TunnelCsum::Csum => "--tun-csum",
        TunnelCsum::RemCsum => "--tun-remcsum",
    };
    match forward {
        Forward::Nat => format!("-m -w {weight}"),
        Forward::FullNat => format!("--fullnat -w {weight}"),
        Forward::Dr => format!("-g -w {weight}"),
        Forward::Tun(Tunnel::Ipip) => format!("-i -w {weight} --tun-type ipip"),
        Forward::Tun(Tunnel::Gre { csum: c }) => format!("-i -w {weight} --tun-type gre {}", csum(c)),
        Forward::Tun(Tunnel::Gue { port, csum: c }) => {
            format!("-i -w {weight} --tun-type gue --tun-port {port} {}", csum(c))
        }
    }
}

fn dest_columns(d: &Dest, source: Source<'_>, what: &ListCommand) -> String {
    let spec = &d.spec;
    let (active, inactive) = (d.active(), d.inactive());
    let method = match spec.forward {
        Forward::Nat => "Masq",
        Forward::FullNat => "FullNat",
        Forward::Tun(_) => "Tunnel",
        Forward::Dr => "Route",
    };
    let weight = spec.weight;
    match what.show {
        Show::Stats => numbers(source.zero.dest(d), what.exact),
        Show::Rate => numbers(source.rates.dest(d), what.exact),
        Show::Thresholds => format!(" {:<10} {:<10} {active:<10} {inactive:<10}", spec.upper, spec.lower),
        Show::PersistentConn => {
            format!(" {weight:<9} {:<11} {active:<10} {inactive:<10}", d.persistent())
        }
        Show::TunInfo => {
            let info = tunnel_info(spec.forward);
            format!(" {method:<7} {info:<13} {weight:<6} {active:<10} {inactive:<10}")
        }
        Show::Plain | Show::Timeout | Show::Daemon | Show::Connections { .. } => {
            format!(" {method:<7} {weight:<6} {active:<10} {inactive:<10}")
        }
    }
}

fn tunnel_info(forward: Forward) -> String {
    let csum = |c| match c {
        TunnelCsum::None => "-c",
        TunnelCsum::Csum => "+c",
        TunnelCsum::RemCsum => "r+c",
    };
    match forward {
        Forward::Tun(Tunnel::Ipip) => "ipip".into(),
        Forward::Tun(Tunnel::Gre { csum: c }) => format!("gre:{}", csum(c)),
        Forward::Tun(Tunnel::Gue { port, csum: c }) => format!("gue:{port}:{}", csum(c)),
        Forward::Nat | Forward::FullNat | Forward::Dr => "n/a".into(),
    }
}

/// Five counters, each in eight columns behind a space.
fn numbers(values: [u64; 5], exact: bool) -> String {
    values.iter().fold(String::new(), |mut out, v| {
        let _ = match v {
            _ if exact => write!(out, " {v:>8}"),
            0..100_000_000 => write!(out, " {v:>8}"),
            100_000_000..1_000_000_000 => write!(out, " {:>7}K", v / 1_000),
            1_000_000_000..100_000_000_000 => write!(out, " {:>7}M", v / 1_000_000),
            100_000_000_000..100_000_000_000_000 => write!(out, " {:>7}G", v / 1_000_000_000),
            _ => write!(out, " {:>7}T", v / 1_000_000_000_000),
        };
        out
    })
}

/// ipvsadm's order subtracts addresses as wrapping 32-bit words and looks at the sign, so it is not a
/// total order: 255.255.255.255 comes before 0.0.0.0 (8-cli-service-errors).
fn by_words(a: &[u32; 4], b: &[u32; 4]) -> Ordering {
    let sign = a.iter().zip(b).map(|(a, b)| (a.wrapping_sub(*b) as i32).cmp(&0));
    sign.into_iter().find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn address_words(ip: IpAddr) -> [u32; 4] {
    match ip {
        IpAddr::V4(ip) => [u32::from(ip), 0, 0, 0],
        IpAddr::V6(ip) => {
            let v = u128::from(ip);
            [(v >> 96) as u32, (v >> 64) as u32, (v >> 32) as u32, v as u32]
        }
    }
}

/// Marks have a table of their own in the kernel, which comes last. That matters even to the sorted listing,
/// since its order is not a total one.
fn kernel_order(services: &mut [&Arc<Service>]) {
    services.sort_by_key(|s| matches!(s.spec.key, ServiceKey::Mark { .. }));
}

/// By mark, family, protocol, address, port.
fn compare_services(a: &ServiceKey, b: &ServiceKey) -> Ordering {
    let parts = |k: &ServiceKey| match k {
        ServiceKey::Address { proto, ip, port } => (0, k.is_v6(), proto.number(), address_words(*ip), *port),
        ServiceKey::Mark { mark, v6 } => (*mark, *v6, 0, [0; 4], 0),
    };
    let (a, b) = (parts(a), parts(b));
    (a.0.wrapping_sub(b.0) as i32)
        .cmp(&0)
        .then(a.1.cmp(&b.1))
        .then(a.2.cmp(&b.2))
        .then_with(|| by_words(&a.3, &b.3))
        .then(a.4.cmp(&b.4))
}

/// By address and port; of two families only the first word counts (8-cli-dest-errors).
fn compare_dests(a: &Dest, b: &Dest) -> Ordering {
    let (a, b) = (&a.spec, &b.spec);
    let (mut wa, mut wb) = (address_words(a.ip), address_words(b.ip));
    if a.ip.is_ipv4() {
        (wa, wb) = ([wa[0], 0, 0, 0], [wb[0], 0, 0, 0]);
    }
    by_words(&wa, &wb).then(a.port.cmp(&b.port))
}

/// A merge sort that takes any comparison: the standard sort may panic over one that is no total order.
fn sort_by<T: Copy>(items: &mut [T], compare: &mut impl FnMut(T, T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let (left, right) = items.split_at_mut(items.len() / 2);
    sort_by(left, compare);
    sort_by(right, compare);
    let (left, right) = (left.to_vec(), right.to_vec());
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    for slot in items {
        let take_left = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => compare(**l, **r).is_le(),
            (l, _) => l.is_some(),
        };
        if let Some(item) = if take_left { left.next() } else { right.next() } {
            *slot = *item;
        }
    }
}

#[cfg(test)]
mod tests;
