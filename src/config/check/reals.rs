//! Real servers: can the forwarding method reach them?

use std::collections::HashSet;
use std::net::IpAddr;

use super::reach::{Hop, Routes, is_link_local6, port_name};
use super::services::mode_of;
use crate::config::diag::{At, Place, Report};
use crate::config::doc::{Doc, Mode, RealDoc, ServiceDoc};
use crate::svc::{DestSpec, Forward, ServiceKey, ServiceSpec, Tunnel, TunnelCsum};

/// What the checks of real servers look at beside the server.
pub struct Surroundings<'a> {
    doc: &'a Doc,
    routes: Routes<'a>,
    /// The network was read without errors, so reach can be judged.
    whole: bool,
    vips: HashSet<IpAddr>,
}

impl<'a> Surroundings<'a> {
    /// Gathers them.
    pub fn of(doc: &'a Doc, whole: bool) -> Surroundings<'a> {
        let vips = doc.services.iter().filter_map(|s| s.address.as_ref()).map(|a| a.value.0).collect();
        Surroundings { doc, routes: Routes::of(doc), whole: whole && !doc.ports.is_empty(), vips }
    }
    fn port_name(&self, hop: Hop) -> &str {
        self.doc.ports.get(hop.port).and_then(port_name).map_or("?", String::as_str)
    }
}

/// Checks the servers of a service.
pub fn check(
    around: &Surroundings<'_>,
    s: &ServiceDoc,
    spec: &ServiceSpec,
    report: &mut Report,
) -> Vec<DestSpec> {
    let mut seen: HashSet<(IpAddr, u16)> = HashSet::new();
    let mut out = Vec::with_capacity(s.reals.len());
    for real in &s.reals {
        let Some(address) = &real.address else { continue };
        let mode = mode_of(around.doc, s, real);
        let port = port(address, mode, spec, report);
        if !seen.insert((address.value.0, port)) {
            report.error(
                &address.place,
                "the real server is there already",
                "a service has each server once",
            );
        }
        let forward = forward(real, mode, report);
        if family(address, mode, spec, report) && station(around, address, report) && around.whole {
            reach(around, address, real, forward, spec, report);
        }
        let (upper, lower) = thresholds(real, report);
        out.push(DestSpec {
            name: real.name.as_ref().map(|n| n.value.clone()).unwrap_or_default(),
            ip: address.value.0,
            port,
            weight: real.weight.as_ref().map_or(1, |w| w.value),
            forward,
            upper,
            lower,
        });
    }
    out
}

/// The real port: its own, else the service's. Only nat and fullnat can map it (rule 105a).
fn port(address: &At<(IpAddr, Option<u16>)>, mode: Mode, spec: &ServiceSpec, report: &mut Report) -> u16 {
    let said = address.value.1;
    let (virtual_port, by_mark) = match spec.key {
        ServiceKey::Address { port, .. } => (port, false),
        ServiceKey::Mark { .. } => (0, true),
    };
    let Some(port) = said else { return virtual_port };
    let maps = matches!(mode, Mode::Nat | Mode::FullNat);
    if port == 0 && virtual_port != 0 {
        report.error(
            &address.place,
            "port 0 is no port to send to",
            format!("leave the port out to keep the service's ({virtual_port})"),
        );
    } else if !maps && port != virtual_port {
        let kept = if virtual_port == 0 { "the packet's own".to_owned() } else { virtual_port.to_string() };
        report.error(
            &address.place,
            format!("mode {} cannot map ports: packets arrive at port {kept}, not {port}", name(mode)),
            "leave the port out, or use mode nat or fullnat",
        );
    } else if virtual_port == 0 && port != 0 && !by_mark {
        report.error(
            &address.place,
            format!("a service on every port keeps the packet's port, {port} would be ignored"),
            "leave the port out",
        );
    }
    port
}

fn name(mode: Mode) -> &'static str {
    Mode::ALL.iter().find(|(_, m)| *m == mode).map_or("?", |(n, _)| n)
}

fn forward(real: &RealDoc, mode: Mode, report: &mut Report) -> Forward {
    let tunnel = real.tunnel.as_ref();
    if let Some(t) = tunnel.filter(|_| mode != Mode::Tun) {
        report.warn(
            &t.place,
            format!("`tunnel` has no effect: the mode is {}", name(mode)),
            "write mode = \"tun\" to send through a tunnel",
        );
    }
    let own = tunnel.map_or(Tunnel::Ipip, |t| {
        let kind = t.kind.as_ref().map_or("ipip", |k| k.value.as_str());
        let csum = match t.checksum.as_ref().map(|c| c.value.as_str()) {
            Some("csum") => TunnelCsum::Csum,
            Some("remcsum") => TunnelCsum::RemCsum,
            _ => TunnelCsum::None,
        };
        if let Some(c) = &t.checksum {
            if kind == "ipip" && csum != TunnelCsum::None {
                report.error(
                    &c.place,
                    "an ipip tunnel has no checksum",
                    "leave `checksum` out, or use gre or gue",
                );
            } else if kind == "gre" && csum == TunnelCsum::RemCsum {
                report.error(
                    &c.place,
                    "remcsum is for gue",
                    "a gre tunnel has checksum \"none\" or \"csum\"",
                );
            }
        }
        if let Some(port) = t.port.as_ref().filter(|_| kind != "gue") {
            report.error(
                &port.place,
                format!("an {kind} tunnel has no port"),
                "leave `port` out, or write type = \"gue\"",
            );
        }
        match kind {
            "gre" => Tunnel::Gre { csum },
            "gue" => {
                if t.port.is_none() {
                    report.error(
                        &t.place,
                        "a gue tunnel needs the UDP port of the server",
                        "for example: tunnel = { type = \"gue\", port = 6080 }",
                    );
                }
                Tunnel::Gue { port: t.port.as_ref().map_or(0, |p| p.value), csum }
            }
            _ => Tunnel::Ipip,
        }
    });
    match mode {
        Mode::Nat => Forward::Nat,
        Mode::FullNat => Forward::FullNat,
        Mode::Tun => Forward::Tun(own),
        Mode::Dr => Forward::Dr,
    }
}

/// Only a tunnel joins the families (rule 105b).
fn family(address: &At<(IpAddr, Option<u16>)>, mode: Mode, spec: &ServiceSpec, report: &mut Report) -> bool {
    if mode == Mode::Tun || address.value.0.is_ipv6() == spec.key.is_v6() {
        return true;
    }
    let family = |v6| if v6 { "IPv6" } else { "IPv4" };
    report.error(
        &address.place,
        format!(
            "the service is {} and the real server {}: only mode tun joins them, this is {}",
            family(spec.key.is_v6()),
            family(address.value.0.is_ipv6()),
            name(mode)
        ),
        "write mode = \"tun\", or the server's address of the other family",
    );
    false
}

/// A station of its own, not one of ours (rules 105c; a director that sends to itself goes round in circles).
fn station(around: &Surroundings<'_>, address: &At<(IpAddr, Option<u16>)>, report: &mut Report) -> bool {
    let ip = address.value.0;
    if let Some(what) = super::not_a_station(ip).or(is_link_local6(ip).then_some("a link-local address")) {
        report.error(
            &address.place,
            format!("{ip} is {what}"),
            "a real server has a unicast address of its own",
        );
        return false;
    }
    let ours = around.doc.ports.iter().flat_map(|p| &p.addresses).any(|a| a.value.addr == ip);
    if ours {
        report.error(
            &address.place,
            format!("{ip} is the director's own address: packets would go round in circles"),
            "write the real server's own address",
        );
        return false;
    }
    if around.vips.contains(&ip) {
        // keepalived takes it, so what runs there runs here
        report.warn(
            &address.place,
            format!("{ip} is a virtual address of the director: nobody will answer there"),
            "write the real server's own address",
        );
        return false;
    }
    true
}

fn reach(
    around: &Surroundings<'_>,
    address: &At<(IpAddr, Option<u16>)>,
    real: &RealDoc,
    forward: Forward,
    spec: &ServiceSpec,
    report: &mut Report,
) {
    let (ip, place) = (address.value.0, &address.place);
    let Some(hop) = around.routes.to(ip) else {
        report.error(
            place,
            format!("no route leads to {ip}"),
            "add an address of its network to a port, or a [[route]] or gateway towards it",
        );
        return;
    };
    let Some(port) = around.doc.ports.get(hop.port) else { return };
    match forward {
        Forward::Dr => {
            if port.device.as_ref().is_some_and(|d| d.value.is_l3()) {
                report.error(
                    place,
                    format!(
                        "mode dr cannot reach {ip} over `{}`: a TUN device has no MAC addresses to rewrite",
                        around.port_name(hop)
                    ),
                    "use a TAP or packet port, or mode nat, fullnat or tun",
                );
            } else if let Some(via) = hop.via {
                report.error(
                    place,
                    format!("mode dr cannot reach {ip} over the router {via}: the router would send it back to the VIP"),
                    "put the server and a port of the director on one network, or use mode tun",
                );
            }
        }
        Forward::Tun(tunnel) => {
            if !source(port, ip) {
                report.error(
                    place,
                    format!(
                        "no source for the tunnel: port `{}` has no {} address",
                        around.port_name(hop),
                        family_of(ip)
                    ),
                    "add one to the port's `addresses`",
                );
            }
            if let Some(mtu) = &port.mtu {
                tunnel_mtu(mtu, tunnel, ip, spec, real, report);
            }
        }
        Forward::FullNat => {
            let pool = &around.doc.director.local_addresses;
            if !pool.iter().any(|r| r.value.first.is_ipv4() == ip.is_ipv4()) && !source(port, ip) {
                report.error(
                    place,
                    format!(
                        "no local address for fullnat: port `{}` has no {} address",
                        around.port_name(hop),
                        family_of(ip)
                    ),
                    "add local_addresses to [director], or an address to the port",
                );
            }
        }
        Forward::Nat => {}
    }
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn source(port: &crate::config::doc::PortDoc, ip: IpAddr) -> bool {
    port.addresses.iter().any(|a| a.value.addr.is_ipv4() == ip.is_ipv4())
}

/// Bytes that a tunnel puts in front of a packet.
pub fn overhead(tunnel: Tunnel, outer_v6: bool) -> u32 {
    let own = match tunnel {
        Tunnel::Ipip => 0,
        Tunnel::Gre { csum: TunnelCsum::None } => 4,
        Tunnel::Gre { .. } => 8,
        // UDP and GUE headers; the private field and option of remote checksum offload.
        Tunnel::Gue { csum: TunnelCsum::RemCsum, .. } => 8 + 4 + 8,
        Tunnel::Gue { .. } => 8 + 4,
    };
    own + if outer_v6 { 40 } else { 20 }
}

fn tunnel_mtu(
    mtu: &At<u32>,
    tunnel: Tunnel,
    ip: IpAddr,
    spec: &ServiceSpec,
    real: &RealDoc,
    report: &mut Report,
) {
    let needed = overhead(tunnel, ip.is_ipv6()) + if spec.key.is_v6() { 1280 } else { 68 };
    if mtu.value < needed {
        let place: &Place = real.tunnel.as_ref().map_or(&mtu.place, |t| &t.place);
        report.error(
            place,
            format!("an MTU of {} leaves too little for packets inside this tunnel", mtu.value),
            format!("raise the port's `mtu` to {needed} or more"),
        );
    }
}

fn thresholds(real: &RealDoc, report: &mut Report) -> (u32, u32) {
    let upper = real.upper.as_ref().map_or(0, |u| u.value);
    let lower = real.lower.as_ref().map_or(0, |l| l.value);
    if let Some(l) = real.lower.as_ref().filter(|l| l.value > 0) {
        if upper == 0 {
            report.error(
                &l.place,
                "a lower threshold without an upper one has no effect",
                "add upper_threshold",
            );
        } else if lower > upper {
            report.error(
                &l.place,
                format!("the lower threshold {lower} is above the upper one {upper}"),
                "write a smaller one; 0 means three quarters of the upper one",
            );
        }
    }
    (upper, lower)
}
