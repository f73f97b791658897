//! Which way a packet would take, as far as the configuration alone can tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::Cidr;
use crate::config::doc::{Doc, PortDoc};

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the port it leaves by.
    pub port: usize,
    /// The router; `None` when the address is a neighbour.
    pub via: Option<IpAddr>,
}

/// What routes are known.
#[derive(Debug)]
pub struct Routes<'a> {
    doc: &'a Doc,
}

/// Routers behind routers are followed this far.
const DEPTH: usize = 4;

impl<'a> Routes<'a> {
    /// The routes of a configuration.
    pub fn of(doc: &'a Doc) -> Routes<'a> {
        Routes { doc }
    }

    /// The way to `ip`: the longest prefix among networks, routes and gateways.
    pub fn to(&self, ip: IpAddr) -> Option<Hop> {
        self.follow(ip, DEPTH)
    }

    /// The port on whose network `ip` is.
    pub fn connected(&self, ip: IpAddr) -> Option<usize> {
        self.networks()
            .filter(|(_, c)| c.contains(ip))
            .max_by_key(|(i, c)| (c.len, usize::MAX - i))
            .map(|(i, _)| i)
    }

    fn follow(&self, ip: IpAddr, depth: usize) -> Option<Hop> {
        let connected =
            self.networks().filter(|(_, c)| c.contains(ip)).map(|(i, c)| (c.len, Hop { port: i, via: None }));
        let routed = self.doc.routes.iter().filter(|r| r.to.value.contains(ip)).filter_map(|r| {
            if let Some(name) = &r.port {
                let port = self.doc.ports.iter().position(|p| port_name(p) == Some(&name.value))?;
                return Some((r.to.value.len, Hop { port, via: None }));
            }
            let via = r.via.as_ref()?.value;
            if depth == 0 || r.to.value.contains(via) && r.to.value.len > 0 && self.connected(via).is_none() {
                return None;
            }
            let hop = self.follow(via, depth - 1)?;
            Some((r.to.value.len, Hop { port: hop.port, via: Some(hop.via.unwrap_or(via)) }))
        });
        let gateways = self.doc.ports.iter().enumerate().filter_map(|(i, p)| {
            let via = match ip {
                IpAddr::V4(_) => p.gateway.as_ref().map(|g| IpAddr::V4(g.value)),
                IpAddr::V6(_) => p.gateway6.as_ref().map(|g| IpAddr::V6(g.value)),
            }?;
            Some((0, Hop { port: i, via: Some(via) }))
        });
        let mut best: Option<(u8, Hop)> = None;
        // The first of equal length wins.
        for (len, hop) in connected.chain(routed).chain(gateways) {
            if best.is_none_or(|(l, _)| len > l) {
                best = Some((len, hop));
            }
        }
        best.map(|(_, hop)| hop)
    }

    fn networks(&self) -> impl Iterator<Item = (usize, Cidr)> + '_ {
        let ports = self.doc.ports.iter().enumerate();
        // A host address connects to no network.
        let network = |c: &Cidr| *c != Cidr::host(c.addr);
        ports
            .flat_map(move |(i, p)| p.addresses.iter().map(move |a| (i, a.value)))
            .filter(move |(_, c)| network(c))
    }
}

/// The name a port goes by: its own, else its device's.
pub fn port_name(p: &PortDoc) -> Option<&String> {
    use crate::config::doc::Device::{Auto, Packet, Tap, Tun, Xdp};
    let device = p.device.as_ref().map(|d| match &d.value {
        Tap(n) | Tun(n) | Packet(n) | Xdp(n) | Auto(n) => n,
    });
    p.name.as_ref().map(|n| &n.value).or(device)
}

/// Why no single station can have this address; `None` when one can.
pub fn not_a_station(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("the unspecified address");
    }
    if ip.is_multicast() {
        return Some("a multicast address");
    }
    if ip.is_loopback() {
        return Some("a loopback address");
    }
    match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}

/// `fe80::/10`
pub fn is_link_local6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(a) if link_local(a))
}

/// `fe80::/10`
pub fn link_local(a: Ipv6Addr) -> bool {
    a.segments()[0] & 0xffc0 == 0xfe80
}
