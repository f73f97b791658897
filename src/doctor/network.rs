//! The stations around: neighbours, gateways, real servers, and who else says to be us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::station::{Knock, Station};
use super::surroundings::interface;
use super::{Examination, Finding};
use crate::addr::{Cidr, Mac};
use crate::config::Plan;
use crate::engine::PortId;
use crate::explain::offline;
use crate::host::{Host, Route};
use crate::svc::{DestSpec, Forward, Proto, ServiceKey, ServiceSpec};
use crate::time::Mono;

/// Real servers that are asked; a farm of thousands would take hours.
const MOST: usize = 64;
/// A source that no real server has a route of its own to (RFC 2544's network).
const AFAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 77);
/// Smallest packet of the MTU question.
const SMALL: usize = 64;

/// What is known of a real server.
struct Real<'p> {
    service: &'p ServiceSpec,
    spec: &'p DestSpec,
    ip: Ipv4Addr,
    route: Route,
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
            let Some(dip) = dip(plan, real.route.port, real.route.next_hop) else { continue };
            server(plan, real, station, *mac, dip, told);
        }
    }
}

fn stations(plan: &Plan, usable: &[bool], told: &mut Examination) -> BTreeMap<PortId, Station> {
    let mut stations = BTreeMap::new();
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
        let own = setup.addresses.iter().filter_map(|c| v4(c.addr)).collect();
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

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }
}

fn reals<'p>(plan: &'p Plan, host: &Host, told: &mut Examination) -> Vec<Real<'p>> {
    let all = plan.services.iter().flat_map(|(service, reals)| reals.iter().map(move |r| (service, r)));
    let count = all.clone().count();
    if count > MOST {
        told.notes.push(format!("only the first {MOST} of {count} real servers are asked"));
    }
    if all.clone().any(|(_, r)| r.ip.is_ipv6()) {
        told.notes.push("real servers with IPv6 addresses are not asked".to_owned());
    }
    let real = |(service, spec): (&'p ServiceSpec, &'p DestSpec)| {
        let route = host.route(spec.ip).filter(|r| !r.unreachable)?;
        Some(Real { service, spec, ip: v4(spec.ip)?, route })
    };
    all.take(MOST).filter_map(real).filter(|r| !r.ip.is_loopback()).collect()
}

/// The director's address from which a neighbour is asked.
fn dip(plan: &Plan, port: PortId, hop: IpAddr) -> Option<Ipv4Addr> {
    let addresses = &plan.ports.get(usize::from(port.0))?.addresses;
    let near = addresses.iter().find(|c| c.contains(hop) && c.addr.is_ipv4());
    near.or_else(|| addresses.iter().find(|c| c.addr.is_ipv4())).and_then(|c| v4(c.addr))
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
    for gateway in plan.ports.iter().filter_map(|p| p.gateway) {
        if let Some(route) = host.route(gateway.into()) {
            hops.insert((route.port, gateway.into()));
        }
    }
    let mut macs = BTreeMap::new();
    for (port, hop) in hops {
        let (Some(station), Some(target), Some(dip)) =
            (stations.get_mut(&port), v4(hop), dip(plan, port, hop))
        else {
            continue;
        };
        let setup = &plan.ports[usize::from(port.0)];
        let found = station.who_has(target, dip);
        let name = interface(setup).unwrap_or_default();
        let is_real = reals.iter().any(|r| r.spec.ip == hop);
        let what = if is_real { format!("real server {hop}") } else { format!("gateway {hop}") };
        let fixed = setup.neighbors.iter().find(|(ip, _)| *ip == hop).map(|(_, mac)| *mac);
        match (found.first(), fixed) {
            (None, None) => told.findings.push(Finding::new(
                "neighbour_silent",
                what,
                format!("does not answer ARP on {name}"),
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

/// Prefix length of the network an address is in.
fn length(networks: &[Cidr], ip: IpAddr) -> u8 {
    networks.iter().find(|c| c.contains(ip)).map_or(32, |c| c.len)
}

/// Does anybody else say that he has an address of ours?
fn ourselves(
    plan: &Plan,
    stations: &mut BTreeMap<PortId, Station>,
    reals: &[Real<'_>],
    macs: &BTreeMap<(PortId, IpAddr), Mac>,
    told: &mut Examination,
) {
    let vips: BTreeSet<Ipv4Addr> = plan.vips().filter_map(v4).collect();
    for (port, station) in stations {
        let setup = &plan.ports[usize::from(port.0)];
        let name = interface(setup).unwrap_or_default();
        let dips: Vec<Ipv4Addr> = setup.addresses.iter().filter_map(|c| v4(c.addr)).collect();
        for ip in vips.iter().chain(&dips) {
            // as a probe: nobody is to learn anything from the question
            for mac in station.who_has(*ip, Ipv4Addr::UNSPECIFIED).into_iter().filter(|m| *m != station.mac) {
                let owner = reals.iter().find(|r| macs.get(&(*port, r.spec.ip)) == Some(&mac));
                told.findings.push(match owner {
                    Some(real) if vips.contains(ip) => Finding::new(
                        "arp_ignore",
                        format!("real server {}", real.ip),
                        format!(
                            "answers ARP for the virtual address {ip}: clients may reach it past the director"
                        ),
                        "on the real server: `sysctl -w net.ipv4.conf.all.arp_ignore=1`",
                    ),
                    _ => Finding::new(
                        "duplicate_address",
                        ip,
                        format!("the station {mac} on {name} says it has this address of the director"),
                        format!(
                            "on that station: `ip address del {ip}/{} dev IFACE`",
                            length(&setup.addresses, (*ip).into())
                        ),
                    ),
                });
            }
        }
    }
}

/// Asks one real server as the traffic would.
fn server(
    plan: &Plan,
    real: &Real<'_>,
    station: &mut Station,
    mac: Mac,
    dip: Ipv4Addr,
    told: &mut Examination,
) {
    let who = format!("real server {}", real.ip);
    if station.echo(mac, dip, real.ip, SMALL) && !station.echo(mac, dip, real.ip, real.route.mtu as usize) {
        told.findings.push(Finding::new(
            "path_mtu",
            &who,
            format!("packets of {} bytes do not get there, small ones do", real.route.mtu),
            "on it and on all between: `ip link set dev IFACE mtu N`, or lower `mtu` of the port (and set `mss_clamp` for tunnels)",
        ));
    }
    let ServiceKey::Address { proto: Proto::Tcp, ip: IpAddr::V4(vip), port: vport } = real.service.key else {
        return;
    };
    if vport == 0 {
        return;
    }
    match real.spec.forward {
        Forward::Nat | Forward::FullNat => {
            let port = if real.spec.port == 0 { vport } else { real.spec.port };
            let near = station.knock(mac, dip, (real.ip, port), None);
            listening(near, &who, (real.ip, port), told);
            if real.spec.forward == Forward::Nat && matches!(near, Knock::Open | Knock::Closed) {
                // its answer to somebody far away has to come here
                if station.knock(mac, AFAR, (real.ip, port), None) == Knock::Silent {
                    told.findings.push(Finding::new(
                        "gateway_bypasses",
                        &who,
                        "its replies to clients do not come back to the director",
                        format!("on the real server: `ip route replace default via {dip}` (or `softlvs real nat --gateway {dip}`)"),
                    ));
                }
            }
        }
        Forward::Dr => {
            let source = spare(plan, station, real.route.port, dip).unwrap_or(dip);
            let heard = station.knock(mac, source, (vip, vport), None);
            if heard == Knock::Silent || heard == Knock::Unreachable {
                told.findings.push(Finding::new(
                    "vip_missing",
                    &who,
                    format!("does not take packets for the virtual address {vip}"),
                    format!("on the real server: `ip address add {vip}/32 dev lo` (or `softlvs real dr --vip {vip}`)"),
                ));
            } else {
                listening(heard, &who, (vip, vport), told);
            }
            if station.asked_as(mac).any(|ip| ip == vip) {
                told.findings.push(Finding::new(
                    "arp_announce",
                    &who,
                    format!("names the virtual address {vip} as its own in ARP requests: neighbours learn a wrong MAC"),
                    "on the real server: `sysctl -w net.ipv4.conf.all.arp_announce=2`",
                ));
            }
        }
        Forward::Tun(kind) => {
            let heard = station.knock(mac, dip, (vip, vport), Some((kind, dip, real.ip)));
            match heard {
                Knock::NoProtocol | Knock::Unreachable => told.findings.push(Finding::new(
                    "no_tunnel",
                    &who,
                    "does not unwrap tunnel packets of this type",
                    format!("on the real server: `softlvs real tun --vip {vip}`"),
                )),
                Knock::Silent => told.findings.push(Finding::new(
                    "tunnel_swallows",
                    &who,
                    format!("takes tunnel packets for {vip} and does not answer them"),
                    format!(
                        "on the real server: `ip address add {vip}/32 dev TUNNEL`, `sysctl -w net.ipv4.conf.TUNNEL.rp_filter=0 net.ipv4.conf.all.rp_filter=0` (or `softlvs real tun --vip {vip}`; `--check` tells which)"
                    ),
                )),
                Knock::Open | Knock::Closed => listening(heard, &who, (vip, vport), told),
            }
        }
    }
}

fn listening(heard: Knock, who: &str, (ip, port): (Ipv4Addr, u16), told: &mut Examination) {
    let (name, what) = match heard {
        Knock::Open => return,
        Knock::Closed => ("port_closed", format!("nobody listens at {ip}:{port}")),
        Knock::Silent | Knock::NoProtocol | Knock::Unreachable => {
            ("port_silent", format!("does not answer connections to {ip}:{port}"))
        }
    };
    told.findings.push(Finding::new(
        name,
        who,
        what,
        format!("start the server there (`ss -ltn 'sport = :{port}'` shows it), or correct the port; look for a packet filter (`nft list ruleset`)"),
    ));
}

/// An address of the director's network that is nobody's: who does not know it has to ask for it, and the
/// question shows as whom he asks.
fn spare(plan: &Plan, station: &mut Station, port: PortId, dip: Ipv4Addr) -> Option<Ipv4Addr> {
    let setup = plan.ports.get(usize::from(port.0))?;
    let net = setup.addresses.iter().find(|c| c.addr == IpAddr::V4(dip)).filter(|c| c.len <= 29)?;
    let last = net.broadcast4()?;
    let free = (1..6u32).map(|n| Ipv4Addr::from(u32::from(last) - n));
    let ours = |ip: &Ipv4Addr| {
        setup.addresses.iter().any(|c| c.addr == IpAddr::V4(*ip)) || plan.vips().any(|v| v == *ip)
    };
    for ip in free.filter(|ip| !ours(ip)) {
        if station.who_has(ip, Ipv4Addr::UNSPECIFIED).is_empty() {
            station.take(ip);
            return Some(ip);
        }
    }
    None
}
