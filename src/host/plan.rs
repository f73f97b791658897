//! The network as configured: ports, addresses, routes, marks. Already checked for form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::{Cidr, Mac};
use crate::svc::Proto;
use crate::wire::Link;

/// What a port's device can do with packets handed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadCaps {
    /// It completes partial checksums (or passes them on as partial).
    pub csum: bool,
    /// It takes TCP super-frames.
    pub tso: bool,
    /// It takes UDP super-frames.
    pub uso: bool,
    /// It takes TCP super-frames inside a tunnel packet ([`crate::tunnel::whole`]).
    pub tunnel: bool,
}

/// One port as the core sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Name, as in the configuration.
    pub name: String,
    /// Ethernet or bare IP.
    pub link: Link,
    /// Own MAC address (unused on an IP link).
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// DIPs with their networks.
    pub addresses: Vec<Cidr>,
    /// Default gateway, IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// Default gateway, IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Static neighbours.
    pub neighbors: Vec<(IpAddr, Mac)>,
    /// What the device takes.
    pub offload: OffloadCaps,
}

/// Where packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteVia {
    /// A router on a connected network.
    Gateway(IpAddr),
    /// Straight out of a port (index), the destination is a neighbour.
    Port(u16),
    /// ICMP host unreachable.
    Unreachable,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// Destinations.
    pub to: Cidr,
    /// Next hop.
    pub via: RouteVia,
}

/// A rule that gives packets a firewall mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark.
    pub mark: u32,
    /// Destination addresses.
    pub to: Option<Cidr>,
    /// Destination ports, both ends included.
    pub ports: Option<(u16, u16)>,
    /// Protocol.
    pub proto: Option<Proto>,
}

/// What our addresses answer where no service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Closed {
    /// As the kernel's own stack: reset, port or protocol unreachable.
    #[default]
    Reject,
    /// Nothing.
    Drop,
}

/// What is done about FTP's data connections behind NAT and FULLNAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FtpHelper {
    /// Control connections (TCP port 21) are helped, as with the kernel's `ip_vs_ftp` loaded.
    #[default]
    On,
    /// Nothing.
    Off,
}

/// An inclusive range of addresses, as in `10.0.0.100-10.0.0.107`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrRange {
    /// First address.
    pub first: IpAddr,
    /// Last address, same family, not below `first`.
    pub last: IpAddr,
}

impl AddrRange {
    /// Every address of the range, at most 65,536.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let (first, last) = (number(self.first), number(self.last));
        let v4 = self.first.is_ipv4();
        (first..=last).take(65_536).map(move |n| {
            if v4 { IpAddr::V4(Ipv4Addr::from(n as u32)) } else { IpAddr::V6(Ipv6Addr::from(n)) }
        })
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// Everything about the network around the director.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetPlan {
    /// Ports, by [`crate::engine::PortId`].
    pub ports: Vec<PortPlan>,
    /// Static routes beyond connected networks and gateways.
    pub routes: Vec<RoutePlan>,
    /// Marking rules, first match wins.
    pub marks: Vec<MarkRule>,
    /// Route what is not ours.
    pub forwarding: bool,
    /// Answer where no service is.
    pub closed: Closed,
    /// FULLNAT source pool; empty = the DIP of the outgoing port.
    pub local_addresses: Vec<AddrRange>,
    /// FTP through NAT and FULLNAT.
    pub ftp: FtpHelper,
    /// Addresses that speak for a port whatever its networks are. For replays: the kernel takes the newest
    /// of an interface's IPv6 addresses, which may be a VIP.
    pub sources: Vec<(crate::engine::PortId, IpAddr)>,
}
