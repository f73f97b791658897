//! The stations around: neighbours, gateways, real servers, and who else says to be us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::servers::server;
use super::station::Station;
use super::surroundings::interface;
use super::{Examination, Finding};
use crate::addr::{Cidr, Mac};
use crate::config::Plan;
use crate::engine::PortId;
use crate::explain::offline;
use crate::host::{Host, Route};
use crate::io::sys::netlink::Netlink;
use crate::svc::{DestSpec, ServiceSpec};
use crate::time::Mono;

/// Real servers that are asked; a farm of thousands would take hours.
const MOST: usize = 64;
/// What is known of a real server.
pub(super) struct Real<'p> {
    pub service: &'p ServiceSpec,
    pub spec: &'p DestSpec,
    pub route: Route,
}

/// Asks; `usable` says which ports have a wire.
pub fn ask(plan: &Plan, usable: &[bool], told: &mut Examination) {
    let mut stations = stations(plan, usable, told);
    if stations.is_empty() {
        return;
    }
    let Ok(net) = offline::network(plan) else { return };
    let host = Host::new(Mono::ZERO, Arc::new(net), 0);
    let reals = reals(plan, &host, told);
    let macs = neighbors(plan, &host, &reals, &mut stations, told);
    ourselves(plan, &mut stations, &reals, &macs, told);
    for real in &reals {
        if let (Some(station), Some(mac)) =
            (stations.get_mut(&real.route.port), macs.get(&(real.route.port, real.route.next_hop)))
        {
            server(plan, real, station, *mac, told);
        }
    }
}

fn stations(plan: &Plan, usable: &[bool], told: &mut Examination) -> BTreeMap<PortId, Station> {
    let mut stations = BTreeMap::new();
    let links = Netlink::open().and_then(|mut n| n.links()).unwrap_or_default();
    for (i, (setup, usable)) in plan.ports.iter().zip(usable).enumerate() {
        let Some(name) = interface(setup) else {
            let device = setup.device.kind();
            told.notes.push(format!(
                "port {}: its network is not asked, because it is behind a {device} device",
                setup.name
            ));
            continue;
        };
        if !usable {
            continue;
        }
        if links.iter().any(|l| l.name == name && l.xdp) {
            told.notes.push(format!(
                "port {}: its network is not asked: an XDP program on {name} takes the answers; stop the director \
                 to have it asked (`softlvs doctor --config FILE`)",
                setup.name
            ));
            continue;
        }
        let own = setup.addresses.iter().map(|c| c.addr).collect();
        match Station::open(name, setup.mac, own) {
            Ok(station) => drop(stations.insert(PortId(i as u16), station)),
            Err(e) => {
                let help = e.help.clone().unwrap_or_default();
                told.notes.push(format!("port {}: its network is not asked: {e}; {help}", setup.name));
            }
        }
    }
    stations
}

fn reals<'p>(plan: &'p Plan, host: &Host, told: &mut Examination) -> Vec<Real<'p>> {
    let all = plan.services.iter().flat_map(|(service, reals)| reals.iter().map(move |r| (service, r)));
    let count = all.clone().count();
    if count > MOST {
        told.notes.push(format!("only the first {MOST} of {count} real servers are asked"));
    }
    let real = |(service, spec): (&'p ServiceSpec, &'p DestSpec)| {
        let route = host.route(spec.ip).filter(|r| !r.unreachable)?;
        Some(Real { service, spec, route })
    };
    all.take(MOST).filter_map(real).filter(|r| !r.spec.ip.is_loopback()).collect()
}

/// The director's address on a port from which `to` is asked: one of its network, else one of its family.
pub(super) fn dip(plan: &Plan, port: PortId, to: IpAddr) -> Option<IpAddr> {
    let addresses = &plan.ports.get(usize::from(port.0))?.addresses;
    let near = addresses.iter().find(|c| c.contains(to));
    near.or_else(|| addresses.iter().find(|c| c.addr.is_ipv4() == to.is_ipv4())).map(|c| c.addr)
}

/// Finds every next hop: gateways and real servers.
fn neighbors(
    plan: &Plan,
    host: &Host,
    reals: &[Real<'_>],
    stations: &mut BTreeMap<PortId, Station>,
    told: &mut Examination,
) -> BTreeMap<(PortId, IpAddr), Mac> {
    let mut hops: BTreeSet<(PortId, IpAddr)> =
        reals.iter().map(|r| (r.route.port, r.route.next_hop)).collect();
    let four = plan.ports.iter().filter_map(|p| p.gateway).map(IpAddr::from);
    for gateway in four.chain(plan.ports.iter().filter_map(|p| p.gateway6).map(IpAddr::from)) {
        if let Some(route) = host.route(gateway) {
            hops.insert((route.port, gateway));
        }
    }
    let mut macs = BTreeMap::new();
    for (port, hop) in hops {
        let (Some(station), Some(dip)) = (stations.get_mut(&port), dip(plan, port, hop)) else { continue };
        let setup = &plan.ports[usize::from(port.0)];
        let found = station.who_has(hop, Some(dip));
        let name = interface(setup).unwrap_or_default();
        let is_real = reals.iter().any(|r| r.spec.ip == hop);
        let what = if is_real { format!("real server {hop}") } else { format!("gateway {hop}") };
        let fixed = setup.neighbors.iter().find(|(ip, _)| *ip == hop).map(|(_, mac)| *mac);
        match (found.first(), fixed) {
            (None, None) => told.findings.push(Finding::new(
                "neighbour_silent",
                what,
                format!("does not answer {} on {name}", question(hop)),
                format!(
                    "start the host, check its cable and VLAN; on it `ip address add {hop}/{} dev IFACE` and `ip link set IFACE up`",
                    length(setup.addresses.as_slice(), hop)
                ),
            )),
            (Some(heard), Some(fixed)) if *heard != fixed => told.findings.push(Finding::new(
                "neighbour_other_mac",
                what,
                format!("says it is at {heard}, the configuration says {fixed}"),
                format!("correct or remove \"{hop}\" in `neighbors` of port {}", setup.name),
            )),
            _ => {}
        }
        if let [first, second, ..] = found[..] {
            told.findings.push(Finding::new(
                "duplicate_address",
                hop,
                format!("two stations on {name} say they have it: {first} and {second}"),
                format!(
                    "take it from one of them: `ip address del {hop}/{} dev IFACE`",
                    length(&setup.addresses, hop)
                ),
            ));
        }
        if let Some(mac) = found.first().copied().or(fixed) {
            macs.insert((port, hop), mac);
        }
    }
    macs
}

/// How a neighbour is asked for.
fn question(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ARP" } else { "neighbour solicitations" }
}

/// Prefix length of the network an address is in.
fn length(networks: &[Cidr], ip: IpAddr) -> u8 {
    networks.iter().find(|c| c.contains(ip)).map_or(Cidr::host(ip).len, |c| c.len)
}

/// Does anybody else say that he has an address of ours?
fn ourselves(
    plan: &Plan,
    stations: &mut BTreeMap<PortId, Station>,
    reals: &[Real<'_>],
    macs: &BTreeMap<(PortId, IpAddr), Mac>,
    told: &mut Examination,
) {
    let vips: BTreeSet<IpAddr> = plan.vips().collect();
    for (port, station) in stations {
        let setup = &plan.ports[usize::from(port.0)];
        let name = interface(setup).unwrap_or_default();
        let dips: Vec<IpAddr> = setup.addresses.iter().map(|c| c.addr).collect();
        for ip in vips.iter().chain(&dips) {
            for mac in station.who_has(*ip, None).into_iter().filter(|m| *m != station.mac) {
                let owner = reals.iter().find(|r| macs.get(&(*port, r.spec.ip)) == Some(&mac));
                told.findings.push(match owner {
                    Some(real) if vips.contains(ip) => announced(*ip, real.spec.ip),
                    _ => Finding::new(
                        "duplicate_address",
                        ip,
                        format!("the station {mac} on {name} says it has this address of the director"),
                        format!(
                            "on that station: `ip address del {ip}/{} dev IFACE`",
                            length(&setup.addresses, *ip)
                        ),
                    ),
                });
            }
        }
    }
}

/// A real server answers for the virtual address.
fn announced(vip: IpAddr, real: IpAddr) -> Finding {
    let what = format!(
        "answers {} for the virtual address {vip}: clients may reach it past the director",
        question(vip)
    );
    let who = format!("real server {real}");
    match vip {
        IpAddr::V4(_) => {
            let remedy = "on the real server: `sysctl -w net.ipv4.conf.all.arp_ignore=1`";
            Finding::new("arp_ignore", who, what, remedy)
        }
        // the kernel answers for addresses of the card only
        IpAddr::V6(_) => Finding::new(
            "vip_announced",
            who,
            what,
            format!(
                "on the real server: `ip address del {vip}/128 dev IFACE` (with its own prefix length), \
                 `ip address add {vip}/128 dev lo`"
            ),
        ),
    }
}
