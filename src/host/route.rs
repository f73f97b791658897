//! Where packets go: connected networks, static routes, gateways. Longest prefix wins, then the order of
//! the configuration.

use std::net::IpAddr;

use super::plan::{NetPlan, RouteVia};
use crate::addr::{Cidr, mask};
use crate::engine::PortId;

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The port to send on.
    pub port: PortId,
    /// The neighbour to send to: a gateway, or the destination itself.
    pub next_hop: IpAddr,
    /// Largest IP packet on the way out.
    pub mtu: u32,
    /// The route says that nothing gets there; `port` and `next_hop` mean nothing then.
    pub unreachable: bool,
    /// The director's own address on that network, of the destination's family.
    pub source: Option<IpAddr>,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Line<A> {
    net: A,
    mask: A,
    /// The destination is a neighbour: it is its own next hop.
    direct: bool,
    route: Route,
}

/// The routes of a plan.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteTable {
    v4: Vec<Line<u32>>,
    v6: Vec<Line<u128>>,
    /// Gateways: their neighbour entries are never evicted.
    next_hops: Vec<(PortId, IpAddr)>,
    mtus: Vec<u32>,
}

impl RouteTable {
    /// Builds the table.
    pub fn new(plan: &NetPlan) -> RouteTable {
        let mut table =
            RouteTable { mtus: plan.ports.iter().map(|p| p.mtu).collect(), ..RouteTable::default() };
        for (i, port) in plan.ports.iter().enumerate() {
            let id = PortId(i as u16);
            for cidr in &port.addresses {
                // a host address connects to no network: it is ours, nobody else's
                if cidr.len < if cidr.addr.is_ipv4() { 32 } else { 128 } {
                    table.add(plan, *cidr, id, None, false);
                }
            }
        }
        for route in &plan.routes {
            match route.via {
                RouteVia::Port(p) => table.add(plan, route.to, PortId(p), None, false),
                RouteVia::Unreachable => table.add(plan, route.to, PortId(0), None, true),
                RouteVia::Gateway(ip) => {
                    if let Some(port) = port_towards(plan, ip) {
                        table.add(plan, route.to, port, Some(ip), false);
                    }
                }
            }
        }
        for (i, port) in plan.ports.iter().enumerate() {
            let id = PortId(i as u16);
            for gateway in [port.gateway.map(IpAddr::V4), port.gateway6.map(IpAddr::V6)].into_iter().flatten()
            {
                if let Some(all) = Cidr::new(mask(gateway, 0), 0) {
                    table.add(plan, all, id, Some(gateway), false);
                }
            }
        }
        // stable: among equals the order above holds
        table.v4.sort_by_key(|l| std::cmp::Reverse(l.mask));
        table.v6.sort_by_key(|l| std::cmp::Reverse(l.mask));
        table
    }

    fn add(&mut self, plan: &NetPlan, to: Cidr, port: PortId, gateway: Option<IpAddr>, unreachable: bool) {
        let Some(port_plan) = plan.ports.get(usize::from(port.0)) else { return };
        let source = source(plan, port, gateway.unwrap_or(to.addr), to.addr.is_ipv6());
        let mtu = port_plan.mtu;
        if let Some(gateway) = gateway
            && !self.next_hops.contains(&(port, gateway))
        {
            self.next_hops.push((port, gateway));
        }
        let direct = gateway.is_none();
        let route = Route { port, next_hop: gateway.unwrap_or(to.addr), mtu, unreachable, source };
        match (to.network(), mask(all_ones(to.addr), to.len)) {
            (IpAddr::V4(net), IpAddr::V4(mask)) => {
                self.v4.push(Line { net: net.into(), mask: mask.into(), direct, route });
            }
            (IpAddr::V6(net), IpAddr::V6(mask)) => {
                self.v6.push(Line { net: net.into(), mask: mask.into(), direct, route });
            }
            _ => {}
        }
    }

    /// The route to `dst`; no route to groups.
    #[inline]
    pub fn lookup(&self, dst: IpAddr) -> Option<Route> {
        self.line(dst).map(|(route, next_hop)| Route { next_hop, ..*route })
    }

    /// The same without copying it: its own next hop means nothing.
    #[inline]
    pub fn line(&self, dst: IpAddr) -> Option<(&Route, IpAddr)> {
        fn found<A>(line: &Line<A>, dst: IpAddr) -> (&Route, IpAddr) {
            (&line.route, if line.direct { dst } else { line.route.next_hop })
        }
        match dst {
            IpAddr::V4(a) if a.is_multicast() || a.is_broadcast() => None,
            IpAddr::V6(a) if a.is_multicast() => None,
            IpAddr::V4(a) => {
                let a = u32::from(a);
                self.v4.iter().find(|l| a & l.mask == l.net).map(|l| found(l, dst))
            }
            IpAddr::V6(a) => {
                let a = u128::from(a);
                self.v6.iter().find(|l| a & l.mask == l.net).map(|l| found(l, dst))
            }
        }
    }

    /// A route straight out of a port, for link-local destinations.
    pub fn on_link(&self, port: PortId, dst: IpAddr) -> Option<Route> {
        let mtu = *self.mtus.get(usize::from(port.0))?;
        Some(Route { port, next_hop: dst, mtu, unreachable: false, source: None })
    }

    /// True for gateways.
    pub fn is_next_hop(&self, port: PortId, ip: IpAddr) -> bool {
        self.next_hops.contains(&(port, ip))
    }
}

fn all_ones(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
    }
}

/// The port a gateway is reached through: its own entry as a port's gateway, a connected network, and for
/// link-local gateways that are nobody's the only port there is.
fn port_towards(plan: &NetPlan, gateway: IpAddr) -> Option<PortId> {
    let named = |p: &super::PortPlan| {
        p.gateway.map(IpAddr::V4) == Some(gateway) || p.gateway6.map(IpAddr::V6) == Some(gateway)
    };
    let best = plan
        .ports
        .iter()
        .enumerate()
        .flat_map(|(i, p)| p.addresses.iter().filter(|c| c.contains(gateway)).map(move |c| (c.len, i)))
        .fold(None, |best: Option<(u8, usize)>, (len, i)| match best {
            Some((l, _)) if l >= len => best,
            _ => Some((len, i)),
        });
    let port = best.map(|(_, i)| i).or_else(|| plan.ports.iter().position(named));
    port.or_else(|| (plan.ports.len() == 1).then_some(0)).map(|i| PortId(i as u16))
}

/// The DIP to use as source towards `next_hop` on `port`: the one whose network contains it (longest
/// prefix), else the port's first that has a network, else its first, else any other port's (the kernel's
/// `inet_select_addr`).
pub(super) fn source(plan: &NetPlan, port: PortId, next_hop: IpAddr, v6: bool) -> Option<IpAddr> {
    if let Some((_, ip)) = plan.sources.iter().find(|(p, ip)| *p == port && ip.is_ipv6() == v6) {
        return Some(*ip);
    }
    let mine = &plan.ports.get(usize::from(port.0))?.addresses;
    let family = |c: &&Cidr| c.addr.is_ipv6() == v6;
    let host = |c: &&Cidr| c.len == if v6 { 128 } else { 32 };
    let mut best: Option<&Cidr> = None;
    for cidr in mine.iter().filter(family).filter(|c| c.contains(next_hop)) {
        if best.is_none_or(|b| cidr.len > b.len) {
            best = Some(cidr);
        }
    }
    best.or_else(|| mine.iter().filter(family).find(|c| !host(c)))
        .or_else(|| mine.iter().find(family))
        .or_else(|| plan.ports.iter().flat_map(|p| &p.addresses).find(family))
        .map(|c| c.addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::plan::RoutePlan;
    use crate::host::testing::port;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn plan() -> NetPlan {
        let mut wan = port("wan", 1, &["10.1.0.1/24", "10.1.0.100/32", "2001:db8:1::1/64"]);
        wan.gateway = Some("10.1.0.254".parse().unwrap());
        wan.gateway6 = Some("fe80::1".parse().unwrap());
        let mut lan = port("lan", 2, &["10.2.0.1/16", "10.2.3.1/24"]);
        lan.mtu = 1400;
        NetPlan {
            ports: vec![wan, lan],
            routes: vec![
                RoutePlan { to: "10.77.0.0/16".parse().unwrap(), via: RouteVia::Unreachable },
                RoutePlan { to: "10.78.0.0/16".parse().unwrap(), via: RouteVia::Gateway(ip("10.2.3.7")) },
                RoutePlan { to: "10.79.0.0/16".parse().unwrap(), via: RouteVia::Port(1) },
                RoutePlan { to: "2001:db8:7::/48".parse().unwrap(), via: RouteVia::Gateway(ip("fe80::1")) },
            ],
            ..NetPlan::default()
        }
    }

    #[test]
    fn longest_prefix_wins_and_gateways_come_last() {
        let table = RouteTable::new(&plan());
        let to = |s: &str| table.lookup(ip(s)).unwrap();
        assert_eq!((to("10.1.0.7").port, to("10.1.0.7").next_hop), (PortId(0), ip("10.1.0.7")));
        assert_eq!(to("8.8.8.8").next_hop, ip("10.1.0.254"));
        assert_eq!(to("8.8.8.8").source, Some(ip("10.1.0.1")));
        assert_eq!((to("10.2.0.11").mtu, to("10.2.0.11").source), (1400, Some(ip("10.2.0.1"))));
        assert_eq!(to("10.2.3.11").source, Some(ip("10.2.3.1")));
        assert!(to("10.77.1.1").unreachable);
        assert_eq!((to("10.78.1.1").port, to("10.78.1.1").next_hop), (PortId(1), ip("10.2.3.7")));
        assert_eq!(to("10.79.1.1").next_hop, ip("10.79.1.1"));
        assert_eq!((to("2001:db8:7::9").port, to("2001:db8:7::9").next_hop), (PortId(0), ip("fe80::1")));
        assert_eq!(to("2001:db8:7::9").source, Some(ip("2001:db8:1::1")));
        assert!(table.lookup(ip("224.0.0.1")).is_none() && table.lookup(ip("ff02::1")).is_none());
        assert!(
            table.is_next_hop(PortId(1), ip("10.2.3.7")) && !table.is_next_hop(PortId(0), ip("10.2.3.7"))
        );
    }

    #[test]
    fn a_host_address_is_no_network_and_without_gateway_there_is_no_route() {
        let plan = NetPlan { ports: vec![port("p", 1, &["10.9.9.9/32"])], ..NetPlan::default() };
        assert!(RouteTable::new(&plan).lookup(ip("10.9.9.9")).is_none());
        assert!(RouteTable::new(&plan).lookup(ip("10.9.9.8")).is_none());
        let mut plan = plan;
        plan.ports[0].gateway = Some("192.168.0.1".parse().unwrap());
        let route = RouteTable::new(&plan).lookup(ip("10.9.9.8")).unwrap();
        assert_eq!((route.next_hop, route.source), (ip("192.168.0.1"), Some(ip("10.9.9.9"))));
    }
}
