//! One real server, asked as the traffic would come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::{Real, dip};
use super::packets::Through;
use super::station::{Knock, Station};
use super::targets::Target;
use super::{Finding, Found};
use crate::addr::{Cidr, Mac};
use crate::config::Plan;
use crate::engine::PortId;
use crate::svc::{Forward, Proto};

/// Sources that no real server has a route of its own to (RFC 2544's network, RFC 5180's).
const AFAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 18, 0, 77), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0x77));
/// Smallest packet of the MTU question.
const SMALL: usize = 64;

/// The way to a server, and how it is asked.
struct Visit<'a> {
    station: &'a mut Station,
    mac: Mac,
    target: Target,
}

impl Visit<'_> {
    /// The first packet of what the service carries. Of datagrams, silence says nothing yet: then a connection
    /// is tried, which every host that has the address refuses, and an echo.
    fn knock(&mut self, src: IpAddr, dst: (IpAddr, u16), tunnel: Option<Through>) -> Knock {
        let first = match self.target.proto {
            Proto::Tcp => return self.station.knock(self.mac, src, dst, tunnel),
            Proto::Udp => self.station.datagram(self.mac, src, dst, tunnel),
            Proto::Sctp => self.station.associate(self.mac, src, dst, tunnel),
        };
        if first != Knock::Silent {
            return first;
        }
        // it has the address: datagrams are taken in silence, associations are not
        let there = if self.target.proto == Proto::Udp { Knock::Open } else { Knock::Closed };
        match self.station.knock(self.mac, src, dst, tunnel) {
            Knock::Open | Knock::Closed => there,
            Knock::Silent if tunnel.is_none() && self.station.echo(self.mac, src, dst.0, SMALL) => there,
            heard => heard,
        }
    }
}

/// Asks one real server as the traffic would.
pub(super) fn server(plan: &Plan, real: &Real<'_>, station: &mut Station, mac: Mac, found: &mut Found) {
    let rip = real.spec.ip;
    let Some(near) = dip(plan, real.route.port, rip) else { return };
    let who = format!("real server {rip}");
    if station.echo(mac, near, rip, SMALL) && !station.echo(mac, near, rip, real.route.mtu as usize) {
        found.findings.push(Finding::new(
            "path_mtu",
            &who,
            format!("packets of {} bytes do not get there, small ones do", real.route.mtu),
            "on it and on all between: `ip link set dev IFACE mtu N`, or lower `mtu` of the port (and set `mss_clamp` for tunnels)",
        ));
    }
    let target = real.target;
    let mut visit = Visit { station, mac, target };
    if real.spec.forward.translates() {
        let port = if real.spec.port == 0 { target.port } else { real.spec.port };
        return translated(&mut visit, real.spec.forward, near, (rip, port), found);
    }
    // replies to it come straight back in dr and tun, so it is of the virtual address' family
    let vport = target.port;
    let Some((vip, source)) = target.vip.and_then(|vip| Some((vip, dip(plan, real.route.port, vip)?))) else {
        return;
    };
    match real.spec.forward {
        Forward::Nat | Forward::FullNat => {}
        Forward::Dr => {
            let source = spare(plan, visit.station, real.route.port, source).unwrap_or(source);
            match visit.knock(source, (vip, vport), None) {
                Knock::Silent | Knock::Unreachable => found.findings.push(Finding::new(
                    "vip_missing",
                    &who,
                    format!("does not take packets for the virtual address {vip}"),
                    format!(
                        "on the real server: `ip address add {} dev lo` (or `softlvs real dr --vip {vip}`)",
                        Cidr::host(vip)
                    ),
                )),
                heard => listening(heard, &who, (vip, vport), target, found),
            }
            if visit.station.asked_as(mac).any(|ip| ip == vip && ip.is_ipv4()) {
                found.findings.push(Finding::new(
                    "arp_announce",
                    &who,
                    format!("names the virtual address {vip} as its own in ARP requests: neighbours learn a wrong MAC"),
                    "on the real server: `sysctl -w net.ipv4.conf.all.arp_announce=2`",
                ));
            }
        }
        Forward::Tun(kind) => {
            let tunnel = Through { kind, from: near, to: rip };
            match visit.knock(source, (vip, vport), Some(tunnel)) {
                Knock::NoProtocol | Knock::Unreachable => found.findings.push(Finding::new(
                    "no_tunnel",
                    &who,
                    "does not unwrap tunnel packets of this type",
                    format!("on the real server: `softlvs real tun --vip {vip}`"),
                )),
                Knock::Silent => {
                    let filter = if vip.is_ipv4() {
                        ", `sysctl -w net.ipv4.conf.TUNNEL.rp_filter=0 net.ipv4.conf.all.rp_filter=0`"
                    } else {
                        ""
                    };
                    found.findings.push(Finding::new(
                        "tunnel_swallows",
                        &who,
                        format!("takes tunnel packets for {vip} and does not answer them"),
                        format!(
                            "on the real server: `ip address add {} dev TUNNEL`{filter} (or `softlvs real tun --vip {vip}`; `--check` tells which)",
                            Cidr::host(vip)
                        ),
                    ));
                }
                heard @ (Knock::Open | Knock::Closed) => listening(heard, &who, (vip, vport), target, found),
            }
        }
    }
}

/// One whose replies pass the director.
fn translated(visit: &mut Visit<'_>, forward: Forward, near: IpAddr, at: (IpAddr, u16), found: &mut Found) {
    let who = format!("real server {}", at.0);
    let heard = visit.knock(near, at, None);
    listening(heard, &who, at, visit.target, found);
    if forward != Forward::Nat {
        return;
    }
    // its answer to somebody far away has to come here; whether it answers neighbours decides if it can
    let afar = if at.0.is_ipv4() { IpAddr::V4(AFAR.0) } else { IpAddr::V6(AFAR.1) };
    let answers = |k: Knock| matches!(k, Knock::Open | Knock::Closed);
    let (mac, is_tcp) = (visit.mac, visit.target.proto == Proto::Tcp);
    let neighbours = if is_tcp { heard } else { visit.station.knock(mac, near, at, None) };
    if answers(neighbours) && visit.station.knock(mac, afar, at, None) == Knock::Silent {
        let ip = if near.is_ipv4() { "ip" } else { "ip -6" };
        found.findings.push(Finding::new(
            "gateway_bypasses",
            &who,
            "its replies to clients do not come back to the director",
            format!("on the real server: `{ip} route replace default via {near}` (or `softlvs real nat --gateway {near}`)"),
        ));
    }
}

fn listening(heard: Knock, who: &str, (ip, port): (IpAddr, u16), target: Target, found: &mut Found) {
    if !target.listens {
        return;
    }
    let at = std::net::SocketAddr::new(ip, port);
    let (name, what) = match heard {
        Knock::Open => return,
        Knock::Closed => ("port_closed", format!("nobody listens at {at} ({})", target.proto.name())),
        Knock::Silent | Knock::NoProtocol | Knock::Unreachable => {
            ("port_silent", format!("does not answer connections to {at}"))
        }
    };
    found.findings.push(Finding::new(
        name,
        who,
        what,
        format!("start the server there (`ss -tulnS 'sport = :{port}'` shows it), or correct the port; look for a packet filter (`nft list ruleset`)"),
    ));
}

/// An address of the director's network that is nobody's: who does not know it has to ask for it, and the
/// question shows as whom he asks. Of IPv4 only: with IPv6 nobody asks as an address of lo.
fn spare(plan: &Plan, station: &mut Station, port: PortId, dip: IpAddr) -> Option<IpAddr> {
    let setup = plan.ports.get(usize::from(port.0)).filter(|_| station.hears_all())?;
    let net = setup.addresses.iter().find(|c| c.addr == dip).filter(|c| c.len <= 29)?;
    let last = net.broadcast4()?;
    let free = (1..6u32).map(|n| IpAddr::V4(Ipv4Addr::from(u32::from(last) - n)));
    let ours = |ip: &IpAddr| setup.addresses.iter().any(|c| c.addr == *ip) || plan.vips().any(|v| v == *ip);
    for ip in free.filter(|ip| !ours(ip)) {
        if station.who_has(ip, None).is_empty() {
            station.take(ip);
            return Some(ip);
        }
    }
    None
}
