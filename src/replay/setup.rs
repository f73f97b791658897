//! What a scenario says about the recording host, as a network plan.

use std::net::IpAddr;

use serde_json::Value;

use super::scenario::Scenario;
use crate::addr::Cidr;
use crate::engine::PortId;
use crate::host::{Closed, MarkRule, NetPlan, OffloadCaps, PortPlan, RoutePlan, RouteVia};
use crate::ipvsadm::{Command, parse};
use crate::svc::{Proto, ServiceKey, Sysctl};
use crate::wire::Link;

/// Builds the plan: every recorded host forwarded, and its neighbours were static.
///
/// # Errors
/// Something the scenario does with its host that has no counterpart here.
pub(super) fn plan(s: &Scenario) -> Result<NetPlan, String> {
    let vips = vips(s);
    let mut plan = NetPlan { forwarding: true, closed: Closed::Reject, ..NetPlan::default() };
    for p in &s.ports {
        let mut addresses = Vec::new();
        for a in &p.addrs {
            let cidr: Cidr = a.parse()?;
            if cidr != Cidr::host(cidr.addr) || !vips.contains(&cidr.addr) {
                addresses.push(cidr);
            }
        }
        let mut neighbors = Vec::new();
        for n in &p.neigh {
            neighbors.push((n.ip, n.mac.parse()?));
        }
        let newest = p.addrs.iter().filter_map(|a| a.parse::<Cidr>().ok()).rfind(|c| c.addr.is_ipv6());
        plan.sources.extend(newest.map(|c| (PortId(plan.ports.len() as u16), c.addr)));
        plan.ports.push(PortPlan {
            name: p.name.clone(),
            link: Link::Ethernet,
            mac: p.mac.parse()?,
            mtu: p.mtu,
            addresses,
            gateway: p.gateway,
            gateway6: p.gateway6,
            neighbors,
            offload: OffloadCaps::default(),
        });
    }
    for line in &s.setup {
        plan.marks.extend(mark_rules(line)?);
    }
    for line in &s.routes {
        plan.routes.extend(route(line, &plan)?);
    }
    Ok(plan)
}

/// Addresses that services own for the whole session. One whose service is removed on the way stays an
/// address of the recording host, so it is left to the port.
fn vips(s: &Scenario) -> Vec<IpAddr> {
    let removed = s
        .steps
        .iter()
        .filter_map(|st| st.cmd.as_deref())
        .any(|c| c.split_whitespace().any(|w| w == "-D" || w == "-C"));
    if removed {
        return Vec::new();
    }
    let commands = s.ipvsadm.iter().filter_map(|l| parse(&l.split_whitespace().collect::<Vec<_>>()).ok());
    commands
        .filter_map(|c| match c {
            Command::AddService(spec) => match spec.key {
                ServiceKey::Address { ip, .. } => Some(ip),
                ServiceKey::Mark { .. } => None,
            },
            _ => None,
        })
        .collect()
}

/// Firewall lines: rules that set a mark become mark rules; tables and chains, and rules that only look
/// at connection tracking, leave packets as they are.
fn mark_rules(line: &str) -> Result<Vec<MarkRule>, String> {
    let plain: String = line.chars().filter(|c| !"'{},;".contains(*c)).collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    let unknown = || format!("the recording host ran `{line}`, which has no counterpart");
    match words[..] {
        ["nft", "add", "table" | "chain", ..] => Ok(Vec::new()),
        ["nft", "add", "rule", _, _, _, "ct", ..] => Ok(Vec::new()),
        ["nft", "add", "rule", _, _, _, "ip" | "ip6", "daddr", to, proto, "dport", ref rest @ ..] => {
            let at = rest.iter().position(|w| *w == "meta").ok_or_else(unknown)?;
            let ["meta", "mark", "set", mark] = rest[at..] else { return Err(unknown()) };
            let to = to.parse::<Cidr>().or_else(|e| to.parse().map(Cidr::host).map_err(|_| e))?;
            let proto = match proto {
                "tcp" => Proto::Tcp,
                "udp" => Proto::Udp,
                "sctp" => Proto::Sctp,
                _ => return Err(unknown()),
            };
            let mark = mark.parse().map_err(|_| unknown())?;
            let rule = |p: &&str| {
                let (a, b) = p.split_once('-').unwrap_or((p, p));
                let ports = (a.parse().map_err(|_| unknown())?, b.parse().map_err(|_| unknown())?);
                Ok(MarkRule { mark, to: Some(to), ports: Some(ports), proto: Some(proto) })
            };
            rest[..at].iter().map(rule).collect()
        }
        _ => Err(unknown()),
    }
}

/// `ip` lines: unreachable routes and routers; routes that make marked packets local need nothing here,
/// since a marked packet belongs to its service wherever it is addressed to.
fn route(line: &str, plan: &NetPlan) -> Result<Option<RoutePlan>, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let unknown = || format!("the recording host ran `ip {line}`, which has no counterpart");
    let words = match words[..] {
        ["-6" | "-4", ref rest @ ..] => rest,
        ref all => all,
    };
    match *words {
        ["route", "add", "unreachable", to] => {
            Ok(Some(RoutePlan { to: to.parse()?, via: RouteVia::Unreachable }))
        }
        ["route", "add", to, "via", gateway] => {
            let via = RouteVia::Gateway(gateway.parse().map_err(|_| unknown())?);
            Ok(Some(RoutePlan { to: to.parse()?, via }))
        }
        ["route", "add", "local", ..] | ["rule", "add", "fwmark", ..] if !plan.marks.is_empty() => Ok(None),
        _ => Err(unknown()),
    }
}

/// Sets a switch of the recording host.
pub(super) fn sysctl(name: &str, value: &Value, switches: &mut Sysctl) -> Result<(), String> {
    let short = name.strip_prefix("net.ipv4.vs.").unwrap_or(name);
    let value = value.as_i64().ok_or_else(|| format!("{name} = {value} has no counterpart"))?;
    match (short, value) {
        // connection tracking is the host's own and changes no packet
        ("conntrack", _) => Ok(()),
        _ => switches.set(short, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_rules_of_the_recordings() {
        let line = "nft add rule ip m pre ip daddr 10.1.0.100 tcp dport '{ 80, 443 }' meta mark set 1";
        let rules = mark_rules(line).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[1].ports, Some((443, 443)));
        assert_eq!(rules[0].to.map(|c| c.len), Some(32));
        assert!(mark_rules("tc qdisc add dev wan ingress").is_err());
        assert_eq!(mark_rules("nft add table ip m"), Ok(Vec::new()));
    }
}
