//! Who has which address in which forwarding mode.
//!
//! Two networks: *outside* (client, director, VIP) and *inside* (real servers).
//!
//! ```text
//! nat, fullnat   client ──outside── director ──inside── rs1 rs2 ...
//! dr             client, director and real servers all on outside; replies go straight to the client
//! tun            client ──outside── director
//!                           └────── router ──inside── rs1 rs2 ...   the tunnel passes the router, replies too
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::addr::{Cidr, Mac};
use crate::real::{self, Encapsulation, Role, Where};

/// Forwarding method of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mode {
    Nat,
    FullNat,
    Tun,
    Dr,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Nat, Mode::FullNat, Mode::Tun, Mode::Dr];

    /// `nat`, `fullnat`, `tun`, `dr`
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Nat => "nat",
            Mode::FullNat => "fullnat",
            Mode::Tun => "tun",
            Mode::Dr => "dr",
        }
    }

    /// True when replies pass the director.
    pub const fn replies_return(self) -> bool {
        matches!(self, Mode::Nat | Mode::FullNat)
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(s: &str) -> Result<Mode, String> {
        Mode::ALL
            .into_iter()
            .find(|m| m.name() == s)
            .ok_or_else(|| format!("`{s}` is none of nat, fullnat, tun, dr"))
    }
}

/// How the director reaches the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Io {
    Tap,
    Packet,
    Xdp,
}

impl Io {
    /// `tap`, `packet`, `xdp`
    pub const fn name(self) -> &'static str {
        match self {
            Io::Tap => "tap",
            Io::Packet => "packet",
            Io::Xdp => "xdp",
        }
    }
}

/// The two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Net {
    Outside,
    Inside,
}

impl Net {
    /// Name of its bridge.
    pub const fn bridge(self) -> &'static str {
        match self {
            Net::Outside => "outside",
            Net::Inside => "inside",
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.bridge())
    }
}

/// One interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Name inside the host.
    pub name: String,
    /// The network it is on.
    pub net: Net,
    /// MAC address.
    pub mac: Mac,
    /// Addresses; the director's are the engine's, not the kernel's.
    pub addresses: Vec<Cidr>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `client`, `director`, `router`, `rs1` ...
    pub name: String,
    /// Interfaces.
    pub nics: Vec<Nic>,
    /// Default router.
    pub gateway: Option<IpAddr>,
    /// It routes for others.
    pub router: bool,
    /// What it must be prepared for as a real server.
    pub role: Option<Role>,
}

/// The whole plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Forwarding method.
    pub mode: Mode,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Encapsulation in `tun`.
    pub encapsulation: Encapsulation,
    /// The virtual address.
    pub vip: IpAddr,
    /// The service's port.
    pub vport: u16,
    /// The real servers' port: the same in `dr` and `tun`, which cannot map ports.
    pub rport: u16,
    /// Every host.
    pub hosts: Vec<Host>,
}

/// Most real servers of a lab.
pub const MAX_SERVERS: usize = 64;
/// First number of the client's further addresses, used by schedulers that hash the client's address.
const CLIENTS: u16 = 100;
/// How many further addresses there can be.
const MAX_CLIENTS: u16 = 100;
/// FULLNAT's local addresses are these numbers of the inside network.
const LOCAL: std::ops::RangeInclusive<u16> = 100..=107;

impl Layout {
    /// The plan for `servers` real servers (at least 1, at most [`MAX_SERVERS`]).
    pub fn new(mode: Mode, ipv6: bool, servers: usize, encapsulation: Encapsulation) -> Layout {
        let servers = servers.clamp(1, MAX_SERVERS);
        let ip = |net, n| address(ipv6, net, n);
        let vip = ip(Net::Outside, 10);
        let nic = |name: &str, net, mac: u8, ns: &[u16]| Nic {
            name: name.into(),
            net,
            mac: Mac([2, 0, 0, 0, net as u8, mac]),
            addresses: ns
                .iter()
                .map(|n| Cidr { addr: ip(net, *n), len: if ipv6 { 64 } else { 24 } })
                .collect(),
        };
        let host =
            |name: &str, nics| Host { name: name.into(), nics, gateway: None, router: false, role: None };

        let client = host("client", vec![nic("eth0", Net::Outside, 0x01, &[1])]);
        let mut director = host("director", vec![nic("eth0", Net::Outside, 0x02, &[2])]);
        let mut hosts = Vec::new();
        let server_net = if mode == Mode::Dr { Net::Outside } else { Net::Inside };
        match mode {
            Mode::Nat | Mode::FullNat => director.nics.push(nic("eth1", Net::Inside, 0x02, &[1])),
            Mode::Tun => {
                director.gateway = Some(ip(Net::Outside, 254));
                let nics =
                    vec![nic("eth0", Net::Outside, 0xfe, &[254]), nic("eth1", Net::Inside, 0xfe, &[254])];
                hosts.push(Host { router: true, ..host("router", nics) });
            }
            Mode::Dr => {}
        }
        for i in 1..=servers as u16 {
            let mut rs = host(&format!("rs{i}"), vec![nic("eth0", server_net, 0x10 + i as u8, &[10 + i])]);
            rs.role = match mode {
                Mode::Nat => Some(Role::Nat { gateway: ip(Net::Inside, 1) }),
                Mode::FullNat => None,
                Mode::Dr => Some(Role::Dr { vips: vec![vip] }),
                Mode::Tun => Some(Role::Tun {
                    vips: vec![vip],
                    encapsulation,
                    device: real::DEVICE.into(),
                    unwrap: Where::User,
                }),
            };
            rs.gateway = (mode == Mode::Tun).then(|| ip(Net::Inside, 254));
            hosts.push(rs);
        }
        hosts.insert(0, client);
        hosts.insert(1, director);
        let (vport, rport) = if mode.replies_return() { (80, 8080) } else { (80, 80) };
        Layout { mode, ipv6, encapsulation, vip, vport, rport, hosts }
    }

    /// Gives the client `n` further addresses (at most 100), for schedulers that hash the client's address.
    #[must_use]
    pub fn with_clients(mut self, n: u16) -> Layout {
        let ipv6 = self.ipv6;
        let nic = &mut self.hosts[0].nics[0];
        let len = nic.addresses[0].len;
        let further = (CLIENTS..CLIENTS + n.min(MAX_CLIENTS)).map(|n| address(ipv6, Net::Outside, n));
        nic.addresses.extend(further.map(|addr| Cidr { addr, len }));
        self
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// The director.
    pub fn director(&self) -> &Host {
        &self.hosts[1]
    }

    /// The client's addresses, the usual one first.
    pub fn clients(&self) -> Vec<IpAddr> {
        self.hosts[0].nics[0].addresses.iter().map(|c| c.addr).collect()
    }

    /// Real servers with their RIPs.
    pub fn servers(&self) -> impl Iterator<Item = (&Host, IpAddr)> {
        self.hosts.iter().filter(|h| h.name.starts_with("rs")).map(|h| (h, h.nics[0].addresses[0].addr))
    }

    /// Networks in use.
    pub fn nets(&self) -> Vec<Net> {
        let mut nets: Vec<Net> = self.hosts.iter().flat_map(|h| h.nics.iter().map(|n| n.net)).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    /// The director's configuration file.
    pub fn toml(&self, io: Io, scheduler: &str) -> String {
        let mut t = format!("[director]\nmode = \"{}\"\nworkers = 1\n", self.mode.name());
        if self.mode == Mode::FullNat {
            let ip = |n| address(self.ipv6, Net::Inside, n);
            t += &format!("local_addresses = [\"{}-{}\"]\n", ip(*LOCAL.start()), ip(*LOCAL.end()));
        }
        for (i, nic) in self.director().nics.iter().enumerate() {
            let device = match io {
                Io::Tap => format!("tap = \"tap{i}\""),
                Io::Packet => format!("packet = \"{}\"", nic.name),
                Io::Xdp => format!("xdp = \"{}\"", nic.name),
            };
            let own: Vec<String> = nic.addresses.iter().map(|a| format!("\"{a}\"")).collect();
            t += &format!(
                "\n[[port]]\nname = \"{}\"\n{device}\nmac = \"{}\"\naddresses = [{}]\n",
                nic.net,
                nic.mac,
                own.join(", ")
            );
            if let (0, Some(gateway)) = (i, self.director().gateway) {
                t += &format!("gateway{} = \"{gateway}\"\n", if self.ipv6 { "6" } else { "" });
            }
        }
        t += &format!(
            "\n[[service]]\nname = \"web\"\naddress = \"{}\"\nprotocol = \"tcp\"\nscheduler = \"{scheduler}\"\n\
             ports = [\"outside\"]\n",
            std::net::SocketAddr::new(self.vip, self.vport)
        );
        for (host, ip) in self.servers() {
            t += &format!(
                "\n[[service.real]]\nname = \"{}\"\naddress = \"{}\"\nweight = 1\n",
                host.name,
                std::net::SocketAddr::new(ip, self.rport)
            );
            match (self.mode, self.encapsulation) {
                (Mode::Tun, Encapsulation::Ipip) => t += "tunnel = { type = \"ipip\" }\n",
                (Mode::Tun, Encapsulation::Gre) => t += "tunnel = { type = \"gre\" }\n",
                (Mode::Tun, Encapsulation::Gue(p)) => {
                    t += &format!("tunnel = {{ type = \"gue\", port = {p} }}\n");
                }
                _ => {}
            }
        }
        t
    }
}

/// Number `n` of a network: documentation addresses (RFC 5737, RFC 3849) outside, private ones inside.
/// IPv6 numbers are written with the same digits.
pub fn address(ipv6: bool, net: Net, n: u16) -> IpAddr {
    if ipv6 {
        let digits = format!("2001:db8:{}::{n}", 1 + net as u8);
        digits.parse().unwrap_or(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED))
    } else {
        match net {
            Net::Outside => [192, 0, 2, n as u8].into(),
            Net::Inside => [10, 0, 0, n as u8].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_hosts_share_an_address_or_a_mac() {
        for mode in Mode::ALL {
            for ipv6 in [false, true] {
                let l = Layout::new(mode, ipv6, MAX_SERVERS, Encapsulation::Ipip).with_clients(u16::MAX);
                let nics: Vec<&Nic> = l.hosts.iter().flat_map(|h| &h.nics).collect();
                let mut macs: Vec<_> = nics.iter().map(|n| n.mac).collect();
                let mut ips: Vec<_> = nics.iter().flat_map(|n| n.addresses.iter().map(|a| a.addr)).collect();
                ips.push(l.vip);
                let (m, i) = (macs.len(), ips.len());
                macs.sort_unstable();
                macs.dedup();
                ips.sort_unstable();
                ips.dedup();
                assert_eq!((macs.len(), ips.len()), (m, i), "{mode:?} ipv6={ipv6}");
                assert!(ips.iter().all(|a| a.is_ipv6() == ipv6 && !a.is_unspecified()));
            }
        }
    }

    #[test]
    fn only_translating_modes_map_ports_and_bring_replies_back() {
        for mode in Mode::ALL {
            let l = Layout::new(mode, false, 2, Encapsulation::Ipip);
            assert_eq!(l.vport != l.rport, mode.replies_return());
            assert_eq!(l.director().nics.len(), if mode.replies_return() { 2 } else { 1 });
        }
    }

    #[test]
    fn the_configuration_names_device_service_and_real_servers() {
        let t = Layout::new(Mode::Tun, true, 2, Encapsulation::Gue(6080)).toml(Io::Packet, "wlc");
        for line in [
            "packet = \"eth0\"",
            "gateway6 = \"2001:db8:1::254\"",
            "address = \"[2001:db8:1::10]:80\"",
            "address = \"[2001:db8:2::12]:80\"",
            "tunnel = { type = \"gue\", port = 6080 }",
            "scheduler = \"wlc\"",
        ] {
            assert!(t.lines().any(|l| l == line), "no `{line}` in\n{t}");
        }
    }
}
