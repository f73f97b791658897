//! The stations around: neighbours, gateways, real servers, and who else says to be us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::servers::server;
use super::station::Station;
use super::surroundings::interface;
use super::targets::Target;
use super::wire::Socket;
use super::{Finding, Found, Unasked};
use crate::addr::{Cidr, Mac};
use crate::config::Plan;
use crate::engine::PortId;
use crate::explain::offline;
use crate::host::{Host, NetPlan, Route};
use crate::io::sys::netlink::Netlink;
use crate::svc::{DestSpec, ServiceSpec};
use crate::time::Mono;

/// Real servers that are asked; a farm of thousands would take hours.
const MOST: usize = 64;
/// Addresses that are asked for together.
const TOGETHER: usize = 32;
/// What is known of a real server.
pub(super) struct Real<'p> {
    pub spec: &'p DestSpec,
    pub route: Route,
    /// What a client would ask of it.
    pub target: Target,
}

/// The places from which networks are asked, by port.
pub type Stations = BTreeMap<PortId, Station>;

/// Asks by raw sockets; `usable` says which ports have a wire. Gives the ports that cannot be asked so.
pub fn ask(plan: &Plan, usable: &[bool], found: &mut Found) -> Vec<Unasked> {
    let (stations, unasked) = stations(plan, usable, found);
    if let Ok(net) = offline::network(plan) {
        ask_from(plan, Arc::new(net), stations, || true, found);
    }
    unasked
}

/// Asks from these places, while `going_on`.
pub fn ask_from(
    plan: &Plan,
    net: Arc<NetPlan>,
    mut stations: Stations,
    going_on: impl Fn() -> bool,
    found: &mut Found,
) {
    if stations.is_empty() {
        return;
    }
    let host = Host::new(Mono::ZERO, net, 0);
    let reals = reals(plan, &host, &stations, found);
    let macs = neighbors(plan, &host, &reals, &mut stations, &going_on, found);
    ourselves(plan, &mut stations, &reals, &macs, &going_on, found);
    for real in reals.iter().take_while(|_| going_on()) {
        if let (Some(station), Some(mac)) =
            (stations.get_mut(&real.route.port), macs.get(&(real.route.port, real.route.next_hop)))
        {
            server(plan, real, station, *mac, found);
        }
    }
}

fn stations(plan: &Plan, usable: &[bool], found: &mut Found) -> (Stations, Vec<Unasked>) {
    let (mut stations, mut unasked) = (Stations::new(), Vec::new());
    let links = Netlink::open().and_then(|mut n| n.links()).unwrap_or_default();
    for (i, (setup, usable)) in plan.ports.iter().zip(usable).enumerate() {
        let mut leave = |why: String| unasked.push(Unasked { port: setup.name.clone(), why });
        let Some(name) = interface(setup) else {
            leave(format!("it is behind a {} device", setup.device.kind()));
            continue;
        };
        if !usable {
            continue;
        }
        if links.iter().any(|l| l.name == name && l.xdp) {
            leave(format!("an XDP program on {name} takes the answers"));
            continue;
        }
        match Socket::open(name, setup.mac) {
            Ok(socket) => {
                let own = setup.addresses.iter().map(|c| c.addr).collect();
                stations.insert(PortId(i as u16), Station::new(Box::new(socket), own));
            }
            Err(e) => {
                let help = e.help.clone().unwrap_or_default();
                found.notes.push(format!("port {}: its network is not asked: {e}; {help}", setup.name));
            }
        }
    }
    (stations, unasked)
}

fn reals<'p>(plan: &'p Plan, host: &Host, stations: &Stations, found: &mut Found) -> Vec<Real<'p>> {
    let all = plan.services.iter().flat_map(|(service, reals)| reals.iter().map(move |r| (service, r)));
    let real = |(service, spec): (&'p ServiceSpec, &'p DestSpec)| {
        let route = host.route(spec.ip).filter(|r| !r.unreachable && stations.contains_key(&r.port))?;
        Some(Real { spec, route, target: Target::of(plan, service) })
    };
    let mut all: Vec<Real<'p>> = all.filter_map(real).filter(|r| !r.spec.ip.is_loopback()).collect();
    if all.len() > MOST {
        found.notes.push(format!("only the first {MOST} of {} real servers are asked", all.len()));
        all.truncate(MOST);
    }
    all
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
    stations: &mut Stations,
    going_on: &impl Fn() -> bool,
    found: &mut Found,
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
    for (port, hop) in hops.into_iter().take_while(|_| going_on()) {
        let (Some(station), Some(dip)) = (stations.get_mut(&port), dip(plan, port, hop)) else { continue };
        let setup = &plan.ports[usize::from(port.0)];
        if station.bare() {
            macs.insert((port, hop), Mac::default());
            continue;
        }
        let heard = station.who_has(hop, Some(dip));
        let name = setup.device.name();
        let is_real = reals.iter().any(|r| r.spec.ip == hop);
        let what = if is_real { format!("real server {hop}") } else { format!("gateway {hop}") };
        let fixed = setup.neighbors.iter().find(|(ip, _)| *ip == hop).map(|(_, mac)| *mac);
        match (heard.first(), fixed) {
            (None, None) => found.findings.push(Finding::new(
                "neighbour_silent",
                what,
                format!("does not answer {} on {name}", question(hop)),
                format!(
                    "start the host, check its cable and VLAN; on it `ip address add {hop}/{} dev IFACE` and `ip link set IFACE up`",
                    length(setup.addresses.as_slice(), hop)
                ),
            )),
            (Some(heard), Some(fixed)) if *heard != fixed => found.findings.push(Finding::new(
                "neighbour_other_mac",
                what,
                format!("says it is at {heard}, the configuration says {fixed}"),
                format!("correct or remove \"{hop}\" in `neighbors` of port {}", setup.name),
            )),
            _ => {}
        }
        if let [first, second, ..] = heard[..] {
            found.findings.push(Finding::new(
                "duplicate_address",
                hop,
                format!("two stations on {name} say they have it: {first} and {second}"),
                format!(
                    "take it from one of them: `ip address del {hop}/{} dev IFACE`",
                    length(&setup.addresses, hop)
                ),
            ));
        }
        if let Some(mac) = heard.first().copied().or(fixed) {
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
    stations: &mut Stations,
    reals: &[Real<'_>],
    macs: &BTreeMap<(PortId, IpAddr), Mac>,
    going_on: &impl Fn() -> bool,
    found: &mut Found,
) {
    let vips: BTreeSet<IpAddr> = plan.vips().collect();
    // what marks stand for may be somebody's whose traffic passes by, but no real server's
    let marked: BTreeSet<IpAddr> = reals.iter().filter_map(|r| r.target.vip).collect();
    for (port, station) in stations.iter_mut().filter(|(_, station)| !station.bare()) {
        let setup = &plan.ports[usize::from(port.0)];
        let name = setup.device.name();
        let dips = setup.addresses.iter().map(|c| c.addr);
        let all: Vec<IpAddr> = vips.union(&marked).copied().chain(dips).collect();
        let asked = all.chunks(TOGETHER).take_while(|_| going_on());
        let claimed: Vec<(IpAddr, Mac)> = asked.flat_map(|some| station.claims(some)).collect();
        for (ip, mac) in claimed.into_iter().filter(|(_, mac)| *mac != station.mac) {
            let owner = reals.iter().find(|r| macs.get(&(*port, r.spec.ip)) == Some(&mac));
            let virtual_address = vips.contains(&ip) || marked.contains(&ip);
            found.findings.push(match owner {
                Some(real) if virtual_address => announced(ip, real.spec.ip),
                _ if marked.contains(&ip) && !vips.contains(&ip) => continue,
                _ => Finding::new(
                    "duplicate_address",
                    ip,
                    format!("the station {mac} on {name} says it has this address of the director"),
                    format!(
                        "on that station: `ip address del {ip}/{} dev IFACE`",
                        length(&setup.addresses, ip)
                    ),
                ),
            });
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
