//! Services: keys, schedulers, persistence.

use std::collections::HashMap;
use std::net::IpAddr;

use super::ports::known_port;
use super::reals;
use crate::config::diag::{Place, Report};
use crate::config::doc::{Doc, Mode, ServiceDoc};
use crate::svc::{
    DestSpec, Persistence, Proto, SchedulerFlags, SchedulerKind, ServiceKey, ServiceSpec, ServiceTimeouts,
};
use crate::time::Span;

/// What `ipvsadm -p` means without a number.
const DEFAULT_PERSISTENCE: Span = Span::from_secs(360);

/// Checks all services with their real servers.
pub fn check(doc: &Doc, net_is_whole: bool, report: &mut Report) -> Vec<(ServiceSpec, Vec<DestSpec>)> {
    let mut keys: HashMap<ServiceKey, &Place> = HashMap::new();
    let mut names: HashMap<&str, &Place> = HashMap::new();
    let mut out = Vec::with_capacity(doc.services.len());
    let surroundings = reals::Surroundings::of(doc, net_is_whole);
    for s in &doc.services {
        if let Some(name) = &s.name
            && let Some(first) = names.insert(&name.value, &name.place)
        {
            report.error(
                &name.place,
                format!("two services have the name `{}`", name.value),
                format!("the other one is {}", first.key),
            );
        }
        let Some((key, place)) = key(doc, s, report) else { continue };
        if let Some(first) = keys.insert(key, place) {
            report.error(place, "the service is there already", format!("the other one is {}", first.key));
        }
        let spec = service(doc, s, key, report);
        let servers = reals::check(&surroundings, s, &spec, report);
        out.push((spec, servers));
    }
    out
}

fn key<'a>(doc: &Doc, s: &'a ServiceDoc, report: &mut Report) -> Option<(ServiceKey, &'a Place)> {
    match (&s.address, &s.fwmark) {
        (Some(address), None) => {
            if let Some(family) = &s.family6 {
                report.error(
                    &family.place,
                    "the address says the family",
                    "leave `family` out: it is for fwmark",
                );
            }
            let (ip, port) = address.value;
            vip(doc, ip, &address.place, report);
            let proto = s.proto.as_ref().map_or(Proto::Tcp, |p| p.value);
            Some((ServiceKey::Address { proto, ip, port }, &address.place))
        }
        (None, Some(mark)) => {
            if let Some(proto) = &s.proto {
                report.error(
                    &proto.place,
                    "a service by fwmark takes every protocol its mark is on",
                    "leave `protocol` out here and say it in the [[mark]] rule",
                );
            }
            Some((ServiceKey::Mark { mark: mark.value, v6: mark_family(doc, s, mark.value) }, &mark.place))
        }
        (Some(_), Some(mark)) => {
            report.error(
                &mark.place,
                "a service has an address or a fwmark, not both",
                "make two services of it",
            );
            None
        }
        (None, None) => {
            if !s.has_key {
                report.error(
                    &s.place,
                    "`address` is missing",
                    "for example: address = \"192.0.2.10:80\", or fwmark = 7",
                );
            }
            None
        }
    }
}

/// The family of a service by mark: as said, else that of its mark's rules, else that of its servers.
fn mark_family(doc: &Doc, s: &ServiceDoc, mark: u32) -> bool {
    if let Some(family) = &s.family6 {
        return family.value;
    }
    let mut of_rules = doc.marks.iter().filter(|m| m.mark.value == mark).filter_map(|m| m.to.as_ref());
    let mut of_reals = s.reals.iter().filter_map(|r| r.address.as_ref());
    of_rules
        .next()
        .map(|to| to.value.addr.is_ipv6())
        .or_else(|| of_reals.next().map(|a| a.value.0.is_ipv6()))
        .unwrap_or(false)
}

fn vip(doc: &Doc, ip: IpAddr, place: &Place, report: &mut Report) {
    if let Some(what) = super::not_a_station(ip) {
        report.error(place, format!("{ip} is {what}"), "a virtual address is one that clients can send to");
        return;
    }
    for p in &doc.ports {
        let gateway = p.gateway.as_ref().is_some_and(|g| IpAddr::V4(g.value) == ip)
            || p.gateway6.as_ref().is_some_and(|g| IpAddr::V6(g.value) == ip);
        if gateway {
            report.error(
                place,
                format!("{ip} is the address of a gateway"),
                "the director would take it from the router",
            );
        }
        if p.host_addresses.iter().any(|a| a.value.addr == ip) {
            report.error(
                place,
                format!("{ip} is the address of the kernel's side (--host-address)"),
                "the kernel would answer clients itself: choose another virtual address",
            );
        }
    }
}

fn service(doc: &Doc, s: &ServiceDoc, key: ServiceKey, report: &mut Report) -> ServiceSpec {
    let mut spec = ServiceSpec::new(key);
    spec.name = s.name.as_ref().map(|n| n.value.clone()).unwrap_or_default();
    if let Some(k) = &s.scheduler {
        spec.scheduler = k.value;
    }
    (spec.flags, spec.flag3) = flags(s, spec.scheduler, report);
    spec.ports =
        s.ports.iter().filter(|n| known_port(doc, n, report).is_some()).map(|n| n.value.clone()).collect();
    spec.persistence = persistence(s, key.is_v6(), report);
    if let Some(engine) = s.persistence.as_ref().and_then(|p| p.engine.as_ref()) {
        spec.engine = Some(engine.value);
        if let ServiceKey::Address { proto: Proto::Tcp | Proto::Sctp, .. } = key {
            report.error(
                &engine.place,
                "the persistence engine sip is for UDP",
                "leave `engine` out, or write protocol = \"udp\"",
            );
        }
    }
    if let (ServiceKey::Address { port: 0, .. }, None, Some(at)) = (key, &s.persistence, &s.address) {
        report.error(
            &at.place,
            "Zero port specified for non-persistent service",
            "port 0 stands for every port: add persistence = { timeout = \"5m\" }, or write the port",
        );
    }
    if let Some(one) = s.one_packet.as_ref().filter(|o| o.value) {
        spec.one_packet = true;
        if let ServiceKey::Address { proto: Proto::Tcp | Proto::Sctp, .. } = key {
            report.error(
                &one.place,
                "one-packet scheduling is for UDP",
                "leave `one_packet` out, or write protocol = \"udp\"",
            );
        }
    }
    spec.timeouts = ServiceTimeouts {
        tcp: s.timeouts.tcp.as_ref().map(|t| t.value),
        tcp_fin: s.timeouts.tcp_fin.as_ref().map(|t| t.value),
        udp: s.timeouts.udp.as_ref().map(|t| t.value),
    };
    spec.mss_clamp = s.mss_clamp.as_ref().is_some_and(|m| m.value);
    spec
}

fn flags(s: &ServiceDoc, scheduler: SchedulerKind, report: &mut Report) -> (SchedulerFlags, bool) {
    let (mut out, mut third) = (SchedulerFlags::default(), false);
    for flag in &s.flags {
        let (of, what) = flag.value.split_once('-').unwrap_or(("", ""));
        match flag.value.as_str() {
            "flag-1" => out.fallback = true,
            "flag-2" => out.port = true,
            "flag-3" => third = true,
            _ => {}
        }
        if of == "flag" {
            continue;
        }
        if of == scheduler.name() {
            match what {
                "port" => out.port = true,
                _ => out.fallback = true,
            }
        } else if matches!(scheduler, SchedulerKind::Sh | SchedulerKind::Mh) {
            report.error(
                &flag.place,
                format!("`{}` is a flag of {of}, the scheduler is {}", flag.value, scheduler.name()),
                format!("write \"{}-{what}\"", scheduler.name()),
            );
        } else {
            report.warn(
                &flag.place,
                format!("`{}` has no effect: the scheduler is {}", flag.value, scheduler.name()),
                format!("leave it out, or write scheduler = \"{of}\""),
            );
        }
    }
    (out, third)
}

fn persistence(s: &ServiceDoc, v6: bool, report: &mut Report) -> Option<Persistence> {
    let p = s.persistence.as_ref()?;
    let all = if v6 { 128 } else { 32 };
    let netmask = p.netmask.as_ref().map_or(all, |n| n.value);
    if let Some(at) = p.netmask.as_ref().filter(|n| n.value > all) {
        report.error(
            &at.place,
            format!("{} is out of range: the service is IPv4", at.value),
            "an IPv4 prefix length is 1 to 32",
        );
    }
    Some(Persistence { timeout: p.timeout.as_ref().map_or(DEFAULT_PERSISTENCE, |t| t.value), netmask })
}

/// The forwarding method of a server: its own, its service's, the director's.
pub fn mode_of(doc: &Doc, s: &ServiceDoc, real: &crate::config::doc::RealDoc) -> Mode {
    real.mode.as_ref().map_or_else(|| default_mode(doc, s), |m| m.value)
}
/// The forwarding method where a server says none.
pub fn default_mode(doc: &Doc, s: &ServiceDoc) -> Mode {
    s.mode.as_ref().or(doc.director.mode.as_ref()).map(|m| m.value).unwrap_or_default()
}
