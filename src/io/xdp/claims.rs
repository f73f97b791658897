//! Which frames of an interface belong to the director: the rule, said plainly.
//!
//! With a MAC of its own it is simple: every untagged frame to that MAC. With the interface's own MAC
//! ("inherit") addresses decide: packets to an address of the director; packets from a real server whose
//! replies pass the director, unless they are for the host itself; ICMP errors about packets sent on to
//! such a server (a router on the way reports them to the client, by way of the director); with forwarding
//! everything that is not for the host. In both cases ARP and neighbour discovery that name an address of
//! the director. All else is the kernel's: other groups, VLANs, other protocols, whatever is too short.
//!
//! Ports and fragments play no part, so all fragments of a datagram go the same way. IPv6 extension headers
//! do not matter either, except that neighbour discovery and ICMPv6 errors behind them are left alone.
//!
//! [`Claims::takes`] is the reference; the program that runs in the kernel is compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::addr::{Cidr, Mac};

/// What the maps of the program say about an address.
pub mod flag {
    /// The director's: packets to it, and ARP and neighbour discovery about it.
    pub const OURS: u32 = 1;
    /// A real server whose replies pass the director.
    pub const REAL: u32 = 2;
    /// The host's own.
    pub const HOST: u32 = 4;
    /// Packets to it carry a mark that a service asks for.
    pub const MARKED: u32 = 8;
    /// Of the wildcard: take all that is not the host's.
    pub const EVERYTHING: u32 = 16;
}

/// What belongs to the director on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The director's MAC.
    pub mac: Mac,
    /// The MAC is the interface's own.
    pub inherited: bool,
    /// Its addresses: VIPs, DIPs, link-local ones.
    pub ours: BTreeSet<IpAddr>,
    /// Ranges of its addresses (LIPs).
    pub pools: Vec<Cidr>,
    /// Networks with a firewall mark that some service asks for.
    pub marked: Vec<Cidr>,
    /// Real servers whose replies pass the director.
    pub reals: BTreeSet<IpAddr>,
    /// The host's own addresses.
    pub host: BTreeSet<IpAddr>,
    /// It routes for others.
    pub everything: bool,
}

/// Key of an address in the maps: IPv4 as `::ffff:a.b.c.d`.
pub type Key = [u8; 16];

/// The key of an address.
pub fn key(ip: IpAddr) -> Key {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// Entries of the two maps of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Single addresses.
    pub hosts: BTreeMap<Key, u32>,
    /// Networks: prefix length in bits of the key, and the key.
    pub nets: BTreeMap<(u32, Key), u32>,
}

impl Claims {
    /// What is to stand in the maps.
    pub fn entries(&self) -> Entries {
        let mut e = Entries::default();
        let mut networks: Vec<(Cidr, u32)> = self.pools.iter().map(|n| (*n, flag::OURS)).collect();
        if self.inherited {
            networks.extend(self.marked.iter().map(|n| (*n, flag::MARKED)));
        }
        let around = |ip: IpAddr, len: u8| -> u32 {
            let holds = |n: &Cidr| n.len <= len && n.contains(ip);
            networks.iter().filter(|(n, _)| holds(n)).fold(0, |all, (_, f)| all | f)
        };
        let mut add = |ips: &BTreeSet<IpAddr>, flag: u32| {
            for ip in ips {
                *e.hosts.entry(key(*ip)).or_insert_with(|| around(*ip, 128)) |= flag;
            }
        };
        add(&self.ours, flag::OURS);
        if self.inherited {
            add(&self.reals, flag::REAL);
            add(&self.host, flag::HOST);
        }
        for flags in e.hosts.values_mut().filter(|f| **f & flag::HOST != 0) {
            // a mark on a whole network does not take the host its own address
            *flags &= !flag::MARKED;
        }
        for (net, _) in &networks {
            let bits = u32::from(net.len) + if net.addr.is_ipv4() { 96 } else { 0 };
            e.nets.insert((bits, key(net.network())), around(net.network(), net.len));
        }
        if self.inherited && self.everything {
            e.hosts.insert([0; 16], flag::EVERYTHING);
        }
        e
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        self.ours.contains(&ip) || self.pools.iter().any(|n| n.contains(ip))
    }

    /// Whether a frame belongs to the director.
    pub fn takes(&self, frame: &[u8]) -> bool {
        let Some((eth, body)) = frame.split_at_checked(14) else { return false };
        let kind = [eth[12], eth[13]];
        if eth[0] & 1 == 1 {
            return match kind {
                [0x08, 0x06] => self.arp(body).unwrap_or(false),
                [0x86, 0xdd] => self.discovery(body).unwrap_or(false),
                _ => false,
            };
        }
        if eth[..6] != self.mac.0 {
            return false;
        }
        match kind {
            [0x81, 0x00] | [0x88, 0xa8] => false,
            _ if !self.inherited => true,
            [0x08, 0x06] => self.arp(body).unwrap_or(false),
            [0x08, 0x00] => self.packet(body, false).unwrap_or(false),
            [0x86, 0xdd] => self.packet(body, true).unwrap_or(false),
            _ => false,
        }
    }

    /// ARP over Ethernet for IPv4 whose target or sender is an address of ours.
    fn arp(&self, arp: &[u8]) -> Option<bool> {
        arp.get(27)?;
        let plain = arp[..6] == [0, 1, 8, 0, 6, 4];
        Some(plain && [24, 14].into_iter().any(|at| address(arp, at, false).is_some_and(|a| self.is_ours(a))))
    }

    /// A neighbour solicitation or advertisement about an address of ours (RFC 4861 section 7.1).
    fn discovery(&self, ip: &[u8]) -> Option<bool> {
        ip.get(63)?;
        let about = ip[0] >> 4 == 6 && ip[6] == 58 && ip[7] == 255 && matches!(ip[40], 135 | 136);
        Some(about && self.is_ours(address(ip, 48, true)?))
    }

    /// A packet in a frame to the interface's own MAC.
    fn packet(&self, ip: &[u8], v6: bool) -> Option<bool> {
        let (src, dst) = if v6 { (8, 24) } else { (12, 16) };
        ip.get(if v6 { 39 } else { 19 })?;
        if ip[0] >> 4 != if v6 { 6 } else { 4 } {
            return Some(false);
        }
        let (src, dst) = (address(ip, src, v6)?, address(ip, dst, v6)?);
        if self.is_ours(dst) {
            return Some(true);
        }
        if self.host.contains(&dst) {
            return Some(false);
        }
        if self.marked.iter().any(|n| n.contains(dst)) {
            return Some(true);
        }
        let group = match dst {
            IpAddr::V4(a) => a.octets()[0] >= 224,
            IpAddr::V6(a) => a.is_multicast(),
        };
        if group {
            return Some(false);
        }
        let error = quoted_destination(ip, v6).is_some_and(|to| self.reals.contains(&to));
        Some(self.reals.contains(&src) || error || self.everything)
    }
}

/// Destination of the packet that an ICMP error quotes.
fn quoted_destination(ip: &[u8], v6: bool) -> Option<IpAddr> {
    if v6 {
        let error = ip[6] == 58 && (1..=4).contains(ip.get(40)?);
        return if error { address(ip, 40 + 8 + 24, true) } else { None };
    }
    let l4 = usize::from(ip[0] & 15) * 4;
    let first = [ip[6] & 0x1f, ip[7]] == [0, 0];
    if ip[9] != 1 || !first || l4 < 20 {
        return None;
    }
    let error = matches!(ip.get(l4)?, 3 | 4 | 11 | 12);
    if error { address(ip, l4 + 8 + 16, false) } else { None }
}

fn address(bytes: &[u8], at: usize, v6: bool) -> Option<IpAddr> {
    if v6 {
        Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?))
    } else {
        Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }
    fn net(s: &str) -> Cidr {
        s.parse().unwrap()
    }

    #[test]
    fn networks_add_to_addresses_inside_but_leave_the_host_its_own() {
        let claims = Claims {
            inherited: true,
            ours: [ip("192.0.2.10")].into(),
            reals: [ip("192.0.2.20"), ip("10.0.0.1")].into(),
            host: [ip("192.0.2.5")].into(),
            pools: vec![net("10.0.0.0/30")],
            marked: vec![net("192.0.2.0/24"), net("0.0.0.0/0")],
            everything: true,
            ..Claims::default()
        };
        let e = claims.entries();
        let flags = |s: &str| e.hosts[&key(ip(s))];
        assert_eq!(flags("192.0.2.10"), flag::OURS | flag::MARKED);
        assert_eq!(flags("192.0.2.20"), flag::REAL | flag::MARKED);
        assert_eq!(flags("192.0.2.5"), flag::HOST);
        assert_eq!(flags("10.0.0.1"), flag::REAL | flag::OURS | flag::MARKED);
        assert_eq!(e.hosts[&[0; 16]], flag::EVERYTHING);
        assert_eq!(e.nets[&(126, key(ip("10.0.0.0")))], flag::OURS | flag::MARKED);
        assert_eq!(e.nets[&(120, key(ip("192.0.2.0")))], flag::MARKED);
        assert_eq!(e.nets[&(96, key(ip("0.0.0.0")))], flag::MARKED);
    }

    #[test]
    fn with_a_mac_of_its_own_only_its_addresses_are_in_the_maps() {
        let claims = Claims {
            ours: [ip("2001:db8::1")].into(),
            reals: [ip("10.0.0.1")].into(),
            host: [ip("192.0.2.5")].into(),
            marked: vec![net("192.0.2.0/24")],
            everything: true,
            ..Claims::default()
        };
        let e = claims.entries();
        assert_eq!(e.hosts.into_iter().collect::<Vec<_>>(), [(key(ip("2001:db8::1")), flag::OURS)]);
        assert!(e.nets.is_empty());
    }
}
