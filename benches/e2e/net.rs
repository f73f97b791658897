//! The wirings: three namespaces, and a fourth network straight from client to real server.
//!
//! ```text
//! veth     client eth0 ── d0 director d1 ── eth0 real server        two-arm
//! bridge   client eth0 ── d0 ┐  br0   ┌ d1 ── eth0 real server      one-arm: the director's device is the
//!                            └────────┘                             third port of br0, or br0 itself
//! both     client x0 ───────────────────── x0 real server           the direct wire
//! ```
//! In `dr` and `tun` the real server answers over the direct wire (veth) or over the bridge.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use softlvs::addr::{Cidr, Mac};
use softlvs::io::sys::netlink::{Netlink, Route};
use softlvs::io::sys::ns::{NetNs, set_sysctl};
use softlvs::real::{self, Encapsulation, Prepared, Role, Where};

use crate::exec;
use crate::plan::{Config, Device, Mode, Way, Wiring};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const DIRECT_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const DIRECT_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
pub const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 1, 0x11]);
pub const OUTSIDE_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x02]);
pub const INSIDE_MAC: Mac = Mac([2, 0, 0, 0, 1, 0x02]);

/// A namespace and its rtnetlink socket.
pub struct Host {
    pub ns: NetNs,
    links: Netlink,
}

impl Host {
    fn new() -> io::Result<Host> {
        let ns = NetNs::new()?;
        ns.run(|| {
            for (key, value) in [
                ("net.ipv6.conf.all.disable_ipv6", "1"),
                ("net.ipv6.conf.default.disable_ipv6", "1"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
                ("net.ipv4.conf.all.send_redirects", "0"),
                ("net.ipv4.conf.default.send_redirects", "0"),
                ("net.ipv4.ip_forward", "0"),
                // connections by the ten thousand from one address
                ("net.ipv4.ip_local_port_range", "10000 65000"),
                ("net.ipv4.tcp_tw_reuse", "1"),
                ("net.ipv4.tcp_max_tw_buckets", "2000"),
            ] {
                match set_sysctl(key, value) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        })?;
        let links = Netlink::open_in(&ns)?;
        Ok(Host { ns, links })
    }

    fn address(&mut self, device: &str, ip: Ipv4Addr, len: u8) -> io::Result<()> {
        let index = self.links.index(device)?;
        self.links.add_address(index, Cidr { addr: ip.into(), len }, true)
    }

    fn up(&mut self, device: &str) -> io::Result<()> {
        let index = self.links.index(device)?;
        self.links.set_up(index, true)
    }

    fn neighbor(&mut self, device: &str, ip: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let index = self.links.index(device)?;
        self.links.add_neighbor(index, ip.into(), mac)
    }

    /// Joins a device to the bridge and brings it up.
    pub fn join(&mut self, device: &str, bridge: &str) -> io::Result<()> {
        let (index, bridge) = (self.links.index(device)?, self.links.index(bridge)?);
        self.links.set_master(index, bridge)?;
        self.links.set_up(index, true)
    }

    pub fn has(&mut self, device: &str) -> bool {
        self.links.index(device).is_ok()
    }

    /// Frames a device received so far.
    pub fn received(&self, device: &str) -> io::Result<u64> {
        let table = self.ns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = table.lines().find_map(|l| l.trim().strip_prefix(device)?.strip_prefix(':'));
        let packets = line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
        packets.ok_or_else(|| io::Error::other(format!("no counter of {device}")))
    }
}

/// A built wiring. Dropping it takes everything away.
pub struct Net {
    pub client: Host,
    pub director: Host,
    pub server: Host,
    /// What the client asks for.
    pub target: Ipv4Addr,
    /// Where replies of UDP services come from, when that is not what the kernel would choose.
    pub served: Option<Ipv4Addr>,
    /// The real server's device that requests arrive on.
    pub arrival: &'static str,
    prepared: Mutex<Option<Prepared>>,
}

/// Packets reach the real server's device as they left the director, until this is dropped.
pub struct Wrapped<'n>(&'n Net);

impl Drop for Wrapped<'_> {
    fn drop(&mut self) {
        if let Some(d) = self.0.prepared().as_mut().and_then(|p| p.decapsulator.as_mut())
            && let Err(e) = self.0.server.ns.run(|| d.resume())
        {
            eprintln!("e2e: {e}");
        }
    }
}

impl Net {
    /// Namespaces, wires, addresses and routes for a way; the director itself comes later.
    pub fn build(config: &Config) -> io::Result<Net> {
        let (mut client, mut director, mut server) = (Host::new()?, Host::new()?, Host::new()?);
        let bridge = config.wiring == Wiring::Bridge;
        for (near, host, mac) in [("d0", &mut client, CLIENT_MAC), ("d1", &mut server, SERVER_MAC)] {
            director.links.add_veth(near, "eth0", Some(&host.ns))?;
            let index = host.links.index("eth0")?;
            host.links.set_mac(index, mac)?;
            director.up(near)?;
            host.up("eth0")?;
        }
        client.links.add_veth("x0", "x0", Some(&server.ns))?;
        for (host, ip) in [(&mut client, DIRECT_CLIENT), (&mut server, DIRECT_SERVER)] {
            host.up("x0")?;
            host.address("x0", ip, 24)?;
        }
        if bridge {
            // where br_netfilter is loaded, bridged packets would pass nftables too
            let _ = director.ns.run(|| set_sysctl("net.bridge.bridge-nf-call-iptables", "0"));
            director.links.add_bridge("br0")?;
            director.up("br0")?;
            for port in ["d0", "d1"] {
                director.join(port, "br0")?;
            }
        }
        client.address("eth0", CLIENT, 24)?;
        server.address("eth0", SERVER, 24)?;
        if let (
            Wiring::Veth,
            Way::Softlvs { device: Device::Xdp, queues: queues @ 2.., .. }
            | Way::Null { device: Device::Xdp, queues: queues @ 2.. },
        ) = (config.wiring, config.way)
        {
            // a veth begins with one queue; the receiver's side first, it may not have fewer than are sent on
            let n = queues.to_string();
            for (host, device) in [(&director, "d0"), (&director, "d1"), (&client, "eth0"), (&server, "eth0")]
            {
                let line = ["ethtool", "-L", device, "rx", &n, "tx", &n];
                exec::run(&host.ns, &line, Duration::from_secs(5))?;
            }
        }
        let net = |a: Ipv4Addr| Cidr { addr: a.into(), len: 24 };
        client.links.add_route(Route::via(net(Ipv4Addr::new(10, 0, 0, 0)), OUTSIDE.into()), false)?;
        let mut prepared = None;
        let mut served = None;
        match config.way {
            Way::Softlvs { mode, .. } if mode.direct_reply() => {
                if bridge {
                    let index = server.links.index("eth0")?;
                    server.links.add_route(Route::dev(net(Ipv4Addr::new(192, 0, 2, 0)), index), false)?;
                    server.neighbor("eth0", CLIENT, CLIENT_MAC)?;
                } else {
                    server.links.add_route(Route::default_via(DIRECT_CLIENT.into()), false)?;
                }
                prepared = Some(server.ns.run(|| real::prepare(&role(mode)))?);
                served = Some(VIP);
            }
            _ => server.links.add_route(Route::default_via(INSIDE.into()), false)?,
        }
        let target = match config.way {
            Way::Direct => DIRECT_SERVER,
            Way::Route | Way::Null { .. } => SERVER,
            Way::Dnat | Way::Haproxy | Way::NginxStream | Way::Softlvs { .. } => VIP,
        };
        let arrival = if config.way == Way::Direct { "x0" } else { "eth0" };
        let mut made =
            Net { client, director, server, target, served, arrival, prepared: Mutex::new(prepared) };
        made.director_side(config)?;
        Ok(made)
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the real server's kernel from unwrapping before a device's packets can be counted.
    pub fn wrapped(&self) -> Wrapped<'_> {
        if let Some(d) = self.prepared().as_mut().and_then(|p| p.decapsulator.as_mut()) {
            d.suspend();
        }
        Wrapped(self)
    }

    /// The kernel's part in the director's namespace.
    fn director_side(&mut self, config: &Config) -> io::Result<()> {
        let director = &mut self.director;
        let (outside, inside) = match config.wiring {
            Wiring::Veth => ("d0", "d1"),
            Wiring::Bridge => ("br0", "br0"),
        };
        match config.way {
            Way::Direct | Way::Softlvs { .. } => {}
            Way::Null { .. } => {
                let one_arm = config.wiring == Wiring::Bridge;
                let to_server = if one_arm { OUTSIDE_MAC } else { INSIDE_MAC };
                self.client.neighbor("eth0", OUTSIDE, OUTSIDE_MAC)?;
                self.server.neighbor("eth0", INSIDE, to_server)?;
            }
            Way::Route | Way::Dnat | Way::Haproxy | Way::NginxStream => {
                director.address(outside, OUTSIDE, 24)?;
                director.address(inside, INSIDE, 24)?;
                director.address(outside, VIP, 32)?;
                director.ns.run(|| set_sysctl("net.ipv4.ip_forward", "1"))?;
            }
        }
        Ok(())
    }
}

fn role(mode: Mode) -> Role {
    let vips: Vec<IpAddr> = vec![VIP.into()];
    match mode {
        Mode::Tun => Role::Tun {
            vips,
            encapsulation: Encapsulation::Ipip,
            device: softlvs::real::DEVICE.into(),
            unwrap: Where::Auto,
        },
        _ => Role::Dr { vips },
    }
}
