//! Ports, addresses, gateways, routes and settings: do they make a network?

use std::collections::HashMap;
use std::net::IpAddr;

use super::reach::{Routes, is_link_local6, not_a_station, port_name};
use crate::addr::Cidr;
use crate::config::diag::{At, Place, Report, nearest};
use crate::config::doc::{Device, Doc, PortDoc};
use crate::config::plan::PortSetup;
use crate::host::{RoutePlan, RouteVia};
use crate::io::MacChoice;

/// Checks the ports one by one and against each other.
pub fn check(doc: &Doc, report: &mut Report) -> Vec<PortSetup> {
    let mut names: HashMap<&str, &Place> = HashMap::new();
    let mut devices: HashMap<&str, &Place> = HashMap::new();
    let mut own: HashMap<IpAddr, &Place> = HashMap::new();
    for p in &doc.ports {
        let name_place = p.name.as_ref().map(|n| &n.place).or(p.device.as_ref().map(|d| &d.place));
        if let (Some(name), Some(place)) = (port_name(p), name_place)
            && let Some(first) = names.insert(name, place)
        {
            let device_twice = p.name.is_none() && devices.contains_key(name.as_str());
            if !device_twice {
                report.error(place, format!("two ports have the name `{name}`"), said_at(first));
            }
        }
        if let Some(d) = &p.device
            && let Some(first) = devices.insert(d.value.name(), &d.place)
        {
            report.error(
                &d.place,
                format!("`{}` is the device of another port already", d.value.name()),
                said_at(first),
            );
        }
        for a in &p.addresses {
            if own.insert(a.value.addr, &a.place).is_some() {
                report.error(
                    &a.place,
                    format!("{} is an address of the director twice", a.value.addr),
                    "say it once",
                );
            }
        }
        device(p, report);
        addresses(p, report);
        gateways(p, report);
        neighbors(p, report);
    }
    doc.ports.iter().filter_map(setup).collect()
}

fn said_at(first: &Place) -> String {
    format!("the other one is {}", first.key)
}

fn setup(p: &PortDoc) -> Option<PortSetup> {
    Some(PortSetup {
        name: port_name(p)?.clone(),
        device: p.device.as_ref()?.value.clone(),
        mac: p.mac.as_ref().map(|m| m.value).unwrap_or_default(),
        addresses: p.addresses.iter().map(|a| a.value).collect(),
        gateway: p.gateway.as_ref().map(|g| g.value),
        gateway6: p.gateway6.as_ref().map(|g| g.value),
        mtu: p.mtu.as_ref().map(|m| m.value),
        offload: p.offload.as_ref().map(|o| o.value).unwrap_or_default(),
        guard: p.guard.as_ref().is_some_and(|g| g.value),
        xdp_mode: p.xdp_mode.as_ref().map(|m| m.value).unwrap_or_default(),
        busy_poll: p.busy_poll.as_ref().map(|b| b.value),
        neighbors: p.neighbors.iter().map(|(ip, mac)| (ip.value, mac.value)).collect(),
        host_addresses: p.host_addresses.iter().map(|a| a.value).collect(),
    })
}

fn device(p: &PortDoc, report: &mut Report) {
    let Some(At { value: device, .. }) = &p.device else { return };
    let xdp_only = [
        ("xdp_mode", p.xdp_mode.as_ref().map(|m| &m.place)),
        ("busy_poll", p.busy_poll.as_ref().map(|b| &b.place)),
    ];
    for (key, place) in xdp_only {
        if let Some(place) = place
            && !matches!(device, Device::Xdp(_) | Device::Auto(_))
        {
            report.error(
                place,
                format!("a {} port has no `{key}`", device.kind()),
                "it is for xdp ports; leave it out",
            );
        }
    }
    if let Some(mac) = &p.mac {
        if device.is_l3() {
            report.error(
                &mac.place,
                "a TUN device has no MAC address",
                "leave `mac` out, or use a TAP device",
            );
        } else if mac.value == MacChoice::Inherit && device.is_virtual() {
            report.error(
                &mac.place,
                "the MAC address of a TAP device belongs to the kernel's side",
                "leave `mac` out to have one made up, or say one such as 02:00:00:00:00:01",
            );
        }
    }
    if let Some(guard) = p.guard.as_ref().filter(|g| g.value && device.is_virtual()) {
        report.error(
            &guard.place,
            format!("a {} device needs no guard", device.kind()),
            "the kernel does not see its packets; leave `guard` out",
        );
    }
    if let Some(mtu) = p.mtu.as_ref().filter(|m| m.value < 1280)
        && p.addresses.iter().any(|a| a.value.addr.is_ipv6())
    {
        report.error(
            &mtu.place,
            format!("IPv6 needs an MTU of 1280, this is {}", mtu.value),
            "write mtu = 1280 or more",
        );
    }
    if let Some(host) = p.host_addresses.first().filter(|_| !device.is_virtual()) {
        report.error(
            &host.place,
            format!("`{}` is an interface of the kernel and has its addresses from there", device.name()),
            "this option is for TAP and TUN devices; leave it out",
        );
    }
}

fn addresses(p: &PortDoc, report: &mut Report) {
    for a in &p.addresses {
        station(&a.value, &a.place, report);
    }
    for a in &p.host_addresses {
        station(&a.value, &a.place, report);
        if p.addresses.iter().any(|own| own.value.addr == a.value.addr) {
            report.error(
                &a.place,
                format!("{} is the director's own address on this port", a.value.addr),
                "the kernel's side needs another address of the same network",
            );
        }
    }
}

fn station(c: &Cidr, place: &Place, report: &mut Report) {
    if let Some(what) = not_a_station(c.addr) {
        report.error(place, format!("{} is {what}", c.addr), "write an address that one station can have");
    } else if c.addr.is_ipv4() && c.len <= 30 && c.addr == c.network() {
        report.error(
            place,
            format!("{} is the address of the network itself", c.addr),
            "write the director's own address in it, with the same prefix length",
        );
    } else if c.broadcast4().map(IpAddr::V4) == Some(c.addr) {
        report.error(
            place,
            format!("{} is the broadcast address of its network", c.addr),
            "write the director's own address in it, with the same prefix length",
        );
    }
}

fn gateways(p: &PortDoc, report: &mut Report) {
    let four = p.gateway.as_ref().map(|g| (IpAddr::V4(g.value), &g.place));
    let six = p.gateway6.as_ref().map(|g| (IpAddr::V6(g.value), &g.place));
    let whole = p.addresses.iter().any(|_| true) || !p.has_addresses;
    for (ip, place) in four.into_iter().chain(six) {
        if p.addresses.iter().any(|a| a.value.addr == ip) {
            report.error(place, format!("{ip} is the director's own address"), "write the router's address");
        } else if whole && !is_link_local6(ip) && !p.addresses.iter().any(|a| a.value.contains(ip)) {
            let networks: Vec<String> = p
                .addresses
                .iter()
                .filter(|a| a.value.addr.is_ipv4() == ip.is_ipv4())
                .map(|a| format!("{}/{}", a.value.network(), a.value.len))
                .collect();
            let help = if networks.is_empty() {
                "add an address of the gateway's network to `addresses`".to_owned()
            } else {
                format!(
                    "the port is on {}; write a router there, or add an address of its network",
                    networks.join(", ")
                )
            };
            report.error(place, format!("{ip} is on no network of this port"), help);
        }
    }
}

fn neighbors(p: &PortDoc, report: &mut Report) {
    let l3 = p.device.as_ref().is_some_and(|d| d.value.is_l3());
    for (ip, _) in &p.neighbors {
        if l3 {
            report.error(&ip.place, "a TUN device has no neighbours", "leave `neighbors` out");
        } else if !p.addresses.is_empty()
            && !is_link_local6(ip.value)
            && !p.addresses.iter().any(|a| a.value.contains(ip.value))
        {
            report.error(
                &ip.place,
                format!("{} is on no network of this port", ip.value),
                "a neighbour is a station of a connected network",
            );
        }
    }
}

/// Names of ports in routes and services exist.
pub fn known_port<'a>(doc: &'a Doc, name: &At<String>, report: &mut Report) -> Option<usize> {
    let mut ports = doc.ports.iter();
    if let Some(i) = ports.position(|p| port_name(p) == Some(&name.value)) {
        return Some(i);
    }
    let names: Vec<&'a str> = doc.ports.iter().filter_map(port_name).map(String::as_str).collect();
    let help = match nearest(&name.value, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if names.is_empty() => "there are no ports: add a [[port]]".to_owned(),
        None => format!("the ports are: {}", names.join(", ")),
    };
    report.error(&name.place, format!("no port has the name `{}`", name.value), help);
    None
}

/// Routes, with every router resolved to one on a connected network.
pub fn routes(doc: &Doc, net_is_whole: bool, report: &mut Report) -> Vec<RoutePlan> {
    let table = Routes::of(doc);
    let mut out: Vec<RoutePlan> = Vec::with_capacity(doc.routes.len());
    for route in &doc.routes {
        let to = Cidr { addr: route.to.value.network(), len: route.to.value.len };
        if out.iter().any(|r| r.to == to) {
            report.error(
                &route.to.place,
                format!("there is a route to {to} already"),
                "one route for each network",
            );
        }
        if let Some(name) = &route.port {
            if let Some(i) = known_port(doc, name, report) {
                out.push(RoutePlan { to, via: RouteVia::Port(u16::try_from(i).unwrap_or(u16::MAX)) });
            }
            continue;
        }
        let Some(via) = &route.via else { continue };
        if via.value.is_ipv4() != to.addr.is_ipv4() {
            report.error(
                &via.place,
                format!(
                    "the router {} and the destinations {to} are of different address families",
                    via.value
                ),
                "a route leads to a router of its own family",
            );
            continue;
        }
        if doc.ports.iter().flat_map(|p| &p.addresses).any(|a| a.value.addr == via.value) {
            report.error(
                &via.place,
                format!("{} is the director's own address", via.value),
                "write the router's address",
            );
            continue;
        }
        if !net_is_whole {
            continue;
        }
        match table.connected(via.value) {
            Some(_) => out.push(RoutePlan { to, via: RouteVia::Gateway(via.value) }),
            None => {
                match table.to(via.value).and_then(|hop| hop.via) {
                    Some(next) => {
                        report.warn(
                        &via.place,
                        format!("{} is on no connected network; packets go by {next}, the way to it", via.value),
                        "write a router of a connected network, or add an address of its network to a port",
                    );
                        out.push(RoutePlan { to, via: RouteVia::Gateway(next) });
                    }
                    None => report.error(
                        &via.place,
                        format!("{} is on no connected network and no route leads to it", via.value),
                        "write a router of a connected network, or add an address of its network to a port",
                    ),
                }
            }
        }
    }
    out
}
