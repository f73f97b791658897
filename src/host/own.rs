//! Which addresses are the director's own, and which can be nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;

use super::key::{Folded, Key};
use super::plan::{AddrRange, NetPlan};
use super::screen::{Place, Screen};
use super::vips::Vips;
use crate::addr::Mac;
use crate::engine::{DropReason, PortId};
use crate::wire::{Link, ndp};

/// Whether an address is the director's, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    /// Somebody else's.
    No,
    /// A port's own address (DIP), its IPv6 link-local address included.
    Dip,
    /// A virtual address (VIP), which may be a DIP as well.
    Vip,
    /// An address of the FULLNAT source pool (LIP).
    LocalAddress,
    /// An IPv6 group the director has joined: all nodes, or a solicited-node group of an own address.
    Group,
}

impl Owned {
    /// True for addresses packets are delivered to; groups are not.
    pub fn is_unicast(self) -> bool {
        matches!(self, Owned::Dip | Owned::Vip | Owned::LocalAddress)
    }
}

/// To whom an Ethernet frame is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameTo {
    /// The port's own MAC.
    Us,
    /// Broadcast or a group; no unicast IP packet may come in one (RFC 1122 section 3.3.6).
    Group,
    /// Another station.
    Other,
}

/// The director's own addresses.
#[derive(Clone, Debug)]
pub(super) struct OwnAddresses {
    /// Ports that have an address as DIP.
    dips: HashMap<Key, Vec<PortId>, Folded>,
    /// Of those and of the pool.
    screen: Screen,
    vips: Arc<Vips>,
    /// Per port: MAC and IPv6 link-local address; `None` on an IP link.
    links: Vec<Option<(Mac, Ipv6Addr)>>,
    /// FULLNAT pool and the ports each range is answered on; none = every port.
    pool: Vec<(AddrRange, Vec<PortId>)>,
    /// Low 24 bits of every IPv6 address that is no VIP, sorted: the solicited-node groups joined.
    groups: Vec<u32>,
    /// Directed broadcast addresses of the connected networks.
    broadcasts: Vec<Ipv4Addr>,
}

impl OwnAddresses {
    /// The addresses of a plan, and VIPs.
    pub fn new(plan: &NetPlan, vips: Arc<Vips>, folded: Folded) -> OwnAddresses {
        let mut own = OwnAddresses {
            dips: HashMap::with_hasher(folded),
            screen: Screen::default(),
            vips,
            links: Vec::with_capacity(plan.ports.len()),
            pool: Vec::new(),
            groups: Vec::new(),
            broadcasts: Vec::new(),
        };
        for (i, port) in plan.ports.iter().enumerate() {
            let id = PortId(i as u16);
            own.links.push((port.link == Link::Ethernet).then(|| (port.mac, ndp::link_local(port.mac))));
            for cidr in &port.addresses {
                let ports = own.dips.entry(Key::of(cidr.addr)).or_default();
                if !ports.contains(&id) {
                    ports.push(id);
                }
                own.join(cidr.addr);
                own.screen.add(cidr.addr);
                own.broadcasts.extend(cidr.broadcast4());
            }
        }
        for (_, link) in own.links.clone().into_iter().flatten() {
            own.join(link.into());
        }
        for range in &plan.local_addresses {
            // of a large one every place is taken anyway
            match range.iter().nth(1024) {
                Some(_) => own.screen.open(),
                None => range.iter().for_each(|ip| own.screen.add(ip)),
            }
            let connected = |p: &super::PortPlan| p.addresses.iter().any(|c| c.contains(range.first));
            let on = plan.ports.iter().enumerate().filter(|(_, p)| connected(p));
            own.pool.push((*range, on.map(|(i, _)| PortId(i as u16)).collect()));
        }
        own.groups.sort_unstable();
        own.groups.dedup();
        own
    }

    fn join(&mut self, ip: IpAddr) {
        if let IpAddr::V6(a) = ip {
            self.groups.push(low24(a));
        }
    }

    /// Whether `ip` is ours for a packet that came in on `port`. A DIP is ours on every port, as on a
    /// kernel host.
    #[inline]
    pub fn owns(&self, port: PortId, ip: IpAddr) -> Owned {
        let place = Place::of(ip);
        // groups and link-local addresses are in no table
        let special = matches!(ip, IpAddr::V6(a) if a.octets()[0] >= 0xfe);
        if !special && !self.vips.may_be(place) && !self.screen.has(place) {
            return Owned::No;
        }
        self.search(port, ip)
    }

    fn search(&self, port: PortId, ip: IpAddr) -> Owned {
        if self.vips.on(port, ip) {
            return Owned::Vip;
        }
        if self.dips.contains_key(&Key::of(ip)) {
            return Owned::Dip;
        }
        if !self.pool.is_empty() && self.pool.iter().any(|(range, _)| range.contains(ip)) {
            return Owned::LocalAddress;
        }
        match ip {
            IpAddr::V6(a) if a.is_multicast() => {
                if a == ndp::ALL_NODES || self.joined(a) {
                    Owned::Group
                } else {
                    Owned::No
                }
            }
            IpAddr::V6(a) if a.is_unicast_link_local() && self.link_local(port) == Some(a) => Owned::Dip,
            _ => Owned::No,
        }
    }

    /// Whether ARP requests and neighbour solicitations for `ip` are answered on `port`. Unlike the kernel
    /// with `arp_ignore = 0` a DIP is answered on its own port only, so that two ports on one segment do
    /// not contradict each other.
    pub fn answers(&self, port: PortId, ip: IpAddr) -> bool {
        if self.vips.on(port, ip) || self.dips.get(&Key::of(ip)).is_some_and(|on| on.contains(&port)) {
            return true;
        }
        if self.pool.iter().any(|(range, on)| range.contains(ip) && (on.is_empty() || on.contains(&port))) {
            return true;
        }
        matches!(ip, IpAddr::V6(a) if self.link_local(port) == Some(a))
    }

    /// Whether `ip` is ours on any port.
    pub fn is_ours(&self, ip: IpAddr) -> bool {
        self.vips.ports(ip).is_some()
            || self.dips.contains_key(&Key::of(ip))
            || self.pool.iter().any(|(range, _)| range.contains(ip))
            || matches!(ip, IpAddr::V6(a) if self.links.iter().flatten().any(|(_, l)| *l == a))
    }

    /// Takes other VIPs; gives back those it had.
    pub fn set_vips(&mut self, vips: Arc<Vips>) -> Arc<Vips> {
        std::mem::replace(&mut self.vips, vips)
    }

    /// The VIPs.
    pub fn vips(&self) -> &Arc<Vips> {
        &self.vips
    }

    fn joined(&self, group: Ipv6Addr) -> bool {
        const SOLICITED: u128 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits() >> 24;
        let low = low24(group);
        group.to_bits() >> 24 == SOLICITED
            && (self.groups.binary_search(&low).is_ok()
                || self.vips.joined(low)
                || self.pool.iter().any(|(r, _)| r.first.is_ipv6()))
    }

    /// The IPv6 link-local address of an Ethernet port.
    pub fn link_local(&self, port: PortId) -> Option<Ipv6Addr> {
        Some(self.links.get(usize::from(port.0))?.as_ref()?.1)
    }

    /// To whom a frame is addressed; everything is for us on an IP link.
    #[inline]
    pub fn frame_to(&self, port: PortId, dst: Mac) -> FrameTo {
        match self.links.get(usize::from(port.0)) {
            Some(Some((mac, _))) if *mac == dst => FrameTo::Us,
            Some(Some(_)) if dst.is_group() => FrameTo::Group,
            Some(None) => FrameTo::Us,
            _ => FrameTo::Other,
        }
    }

    /// Refuses sources that can be nobody's (kernel rule 91; `ip_route_input` and `ipv6_rcv`). Beyond the
    /// kernel, our own IPv6 addresses are refused too. Who is to be told something has to be
    /// [`OwnAddresses::somebody`].
    #[inline]
    pub fn check_source(&self, port: PortId, ip: IpAddr) -> Option<DropReason> {
        let martian = match ip {
            IpAddr::V4(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast(),
            IpAddr::V6(a) => a.is_multicast() || a.is_loopback(),
        };
        (martian || self.owns(port, ip).is_unicast() || self.is_link_local_of_ours(ip))
            .then_some(DropReason::MartianSource)
    }

    /// May this be another station, to which something can be sent? Beyond the kernel, directed broadcasts
    /// are not: an answer would go to a whole network.
    #[inline]
    pub fn somebody(&self, port: PortId, ip: IpAddr) -> bool {
        let nobody = match ip {
            IpAddr::V4(a) => self.is_broadcast(a),
            IpAddr::V6(a) => a.is_unspecified(),
        };
        !nobody && self.check_source(port, ip).is_none()
    }

    fn is_link_local_of_ours(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local()
            && self.links.iter().flatten().any(|(_, l)| *l == a))
    }

    /// Refuses destinations that can be nobody's, and groups and broadcasts the director is not part of.
    #[inline]
    pub fn check_dest(&self, port: PortId, ip: IpAddr) -> Option<DropReason> {
        let martian = match ip {
            IpAddr::V4(a) => {
                a.is_unspecified() || a.is_loopback() || a.is_multicast() || self.is_broadcast(a)
            }
            IpAddr::V6(a) => {
                a.is_unspecified()
                    || a.is_loopback()
                    || (a.is_multicast() && self.owns(port, ip) == Owned::No)
            }
        };
        martian.then_some(DropReason::MartianDestination)
    }

    /// Limited broadcast, or the directed broadcast of a connected network.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        ip.is_broadcast() || self.broadcasts.contains(&ip)
    }
}

/// What a solicited-node group has of an address.
pub(super) fn low24(ip: Ipv6Addr) -> u32 {
    ip.to_bits() as u32 & 0xff_ffff
}

impl AddrRange {
    /// True when `ip` lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::plan::PortPlan;
    use crate::host::testing::{mac, port};
    use std::net::IpAddr;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn own() -> OwnAddresses {
        let plan = NetPlan {
            ports: vec![
                port("wan", 1, &["10.1.0.1/24", "2001:db8:1::1/64"]),
                PortPlan { link: Link::Ethernet, ..port("lan", 2, &["10.2.0.1/24"]) },
            ],
            local_addresses: vec![AddrRange { first: ip("10.2.0.100"), last: ip("10.2.0.107") }],
            ..NetPlan::default()
        };
        let vips = vec![
            (ip("10.1.0.100"), None),
            (ip("192.0.2.1"), Some(vec![PortId(0)])),
            (ip("2001:db8:1::100"), None),
        ];
        OwnAddresses::new(&plan, Arc::new(Vips::new(1, vips, None)), Folded::new(1))
    }

    #[test]
    fn dips_are_owned_everywhere_and_vips_where_they_are_named() {
        let own = own();
        let (wan, lan) = (PortId(0), PortId(1));
        assert_eq!(own.owns(lan, ip("10.1.0.1")), Owned::Dip);
        assert!(own.answers(wan, ip("10.1.0.1")) && !own.answers(lan, ip("10.1.0.1")));
        assert_eq!(own.owns(lan, ip("10.1.0.100")), Owned::Vip);
        assert_eq!(own.owns(wan, ip("192.0.2.1")), Owned::Vip);
        assert_eq!(own.owns(lan, ip("192.0.2.1")), Owned::No);
        assert!(!own.answers(lan, ip("192.0.2.1")));
        assert_eq!(own.owns(wan, ip("10.2.0.107")), Owned::LocalAddress);
        assert!(own.answers(lan, ip("10.2.0.107")) && !own.answers(wan, ip("10.2.0.107")));
        assert_eq!(own.owns(wan, ip("10.2.0.108")), Owned::No);
    }

    #[test]
    fn link_local_addresses_and_groups_follow_the_mac() {
        let own = own();
        assert_eq!(own.owns(PortId(0), ip("fe80::ff:fe00:1")), Owned::Dip);
        assert_eq!(own.owns(PortId(1), ip("fe80::ff:fe00:1")), Owned::No);
        assert_eq!(own.owns(PortId(0), ip("ff02::1")), Owned::Group);
        assert_eq!(own.owns(PortId(0), ip("ff02::1:ff00:100")), Owned::Group);
        assert_eq!(own.owns(PortId(0), ip("ff02::1:ff00:101")), Owned::No);
        assert_eq!(own.frame_to(PortId(0), mac(1)), FrameTo::Us);
        assert_eq!(own.frame_to(PortId(0), mac(2)), FrameTo::Other);
        assert_eq!(own.frame_to(PortId(0), Mac::BROADCAST), FrameTo::Group);
        assert_eq!(own.frame_to(PortId(9), mac(1)), FrameTo::Other);
    }

    #[test]
    fn martians_of_rule_91() {
        let own = own();
        let martian = |ip: IpAddr| own.check_source(PortId(0), ip) == Some(DropReason::MartianSource);
        for bad in [
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.5",
            "255.255.255.255",
            "10.1.0.1",
            "10.1.0.100",
            "10.2.0.100",
            "::1",
            "ff02::1",
            "2001:db8:1::100",
            "fe80::ff:fe00:2",
        ] {
            assert!(martian(ip(bad)) && !own.somebody(PortId(0), ip(bad)), "{bad}");
        }
        for good in [
            "198.51.100.5",
            "10.1.0.0",
            "240.0.0.1",
            "0.1.2.3",
            "::ffff:1.2.3.4",
            "10.2.0.11",
            "2001:db8:c::5",
            "fe80::1",
        ] {
            assert!(!martian(ip(good)) && own.somebody(PortId(0), ip(good)), "{good}");
        }
        // the kernel takes them; nothing is to be sent there
        for odd in ["10.1.0.255", "::"] {
            assert!(!martian(ip(odd)) && !own.somebody(PortId(0), ip(odd)), "{odd}");
        }
        for bad in
            ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.2.0.255", "::1", "::", "ff02::2"]
        {
            assert_eq!(own.check_dest(PortId(0), ip(bad)), Some(DropReason::MartianDestination), "{bad}");
        }
        for good in ["10.1.0.100", "8.8.8.8", "ff02::1", "ff02::1:ff00:1"] {
            assert_eq!(own.check_dest(PortId(0), ip(good)), None, "{good}");
        }
    }
}
