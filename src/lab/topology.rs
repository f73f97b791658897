//! Builds a [`Layout`]: namespaces joined by wires and bridges.
//!
//! Every interface of every host is a veth whose other end is on a bridge in the *switch* namespace. With
//! TAP the switch is the director's own namespace, where its TAP devices join the same bridges; with raw
//! sockets the director is a host like the others.

use std::io;
use std::time::Duration;

use super::layout::{Host, Io, Layout, Net};
use crate::addr::Mac;
use crate::io::sys::netlink::{Feature, Netlink, Route, set_feature};
use crate::io::sys::ns::{NetNs, set_sysctl};
use crate::real::{self, Prepared};

/// A namespace of the lab.
#[derive(Debug)]
pub struct Node {
    /// Name of the host.
    pub name: String,
    /// Its network namespace.
    pub ns: NetNs,
    /// Its rtnetlink socket.
    pub links: Netlink,
}

/// Which host is at which port of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// Interface index in the switch namespace.
    pub index: u32,
    /// Host behind it.
    pub host: String,
    /// Network.
    pub net: Net,
}

/// A built lab. Dropping it takes everything away.
#[derive(Debug)]
pub struct Topology {
    /// What was built.
    pub layout: Layout,
    /// How the director is attached.
    pub io: Io,
    nodes: Vec<Node>,
    switch: Option<Node>,
    prepared: Vec<Prepared>,
    ports: Vec<SwitchPort>,
}

impl Topology {
    /// Builds namespaces, wires, addresses and routes. The real servers are not prepared yet.
    ///
    /// # Errors
    /// No right to make namespaces (see [`crate::io::sys::ns::isolate`]), or the kernel lacks veth or
    /// bridges.
    pub fn build(layout: Layout, io: Io) -> io::Result<Topology> {
        let mut nodes = Vec::new();
        for host in &layout.hosts {
            nodes.push(node(&host.name)?);
        }
        let switch = if io == Io::Tap { None } else { Some(node("switch")?) };
        let mut t = Topology { layout, io, nodes, switch, prepared: Vec::new(), ports: Vec::new() };
        let nets = t.layout.nets();
        let (ns, links) = t.switch();
        ns.run(|| {
            // A switch and a director are no hosts: the kernel must not speak for them.
            set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
            set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        })
        .or_else(ignore_missing)?;
        for net in &nets {
            links.add_bridge(net.bridge())?;
            let index = links.index(net.bridge())?;
            links.set_up(index, true)?;
        }
        for host in t.layout.hosts.clone() {
            t.wire(&host)?;
        }
        Ok(t)
    }

    /// Brings every real server into the state its mode needs.
    ///
    /// # Errors
    /// The step that failed.
    pub fn prepare_servers(&mut self) -> io::Result<()> {
        for host in &self.layout.hosts {
            let (Some(role), Some(node)) = (&host.role, self.nodes.iter().find(|n| n.name == host.name))
            else {
                continue;
            };
            self.prepared.push(node.ns.run(|| real::prepare(role))?);
        }
        Ok(())
    }

    /// What was done to the first real server, for the user.
    pub fn prepared(&self) -> &[Prepared] {
        &self.prepared
    }

    /// A host's node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// A host's node, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|n| n.name == name)
    }

    /// Every namespace with its name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &NetNs)> {
        self.nodes.iter().chain(&self.switch).map(|n| (n.name.as_str(), &n.ns))
    }

    /// The namespace with the bridges: where to capture.
    pub fn switch_ns(&self) -> &NetNs {
        match &self.switch {
            Some(s) => &s.ns,
            None => &self.nodes[1].ns,
        }
    }

    /// Which host is at which port of the switch.
    pub fn switch_ports(&self) -> &[SwitchPort] {
        &self.ports
    }

    /// The host that owns a MAC address.
    pub fn owner(&self, mac: Mac) -> Option<&str> {
        let owns = |h: &&Host| h.nics.iter().any(|n| n.mac == mac);
        self.layout.hosts.iter().find(owns).map(|h| h.name.as_str())
    }

    /// Joins the director's TAP devices to the bridges as soon as they are there; nothing to do otherwise.
    /// `alive` is asked between two looks whether it makes sense to wait on.
    ///
    /// # Errors
    /// They did not appear within `patience`, or the director ended.
    pub fn attach_taps(&mut self, patience: Duration, mut alive: impl FnMut() -> bool) -> io::Result<()> {
        if self.io != Io::Tap {
            return Ok(());
        }
        const STEP: Duration = Duration::from_millis(5);
        let nets: Vec<Net> = self.layout.director().nics.iter().map(|n| n.net).collect();
        let mut waited = Duration::ZERO;
        for (i, net) in nets.into_iter().enumerate() {
            let name = format!("tap{i}");
            let (_, links) = self.switch();
            let tap = loop {
                match links.index(&name) {
                    Ok(index) => break index,
                    Err(_) if waited < patience && alive() => std::thread::sleep(STEP),
                    Err(e) => return Err(io::Error::new(e.kind(), format!("the director's {name}: {e}"))),
                }
                waited += STEP;
            };
            let bridge = links.index(net.bridge())?;
            links.set_master(tap, bridge)?;
            links.set_up(tap, true)?;
            self.ports.push(SwitchPort { index: tap, host: "director".into(), net });
        }
        Ok(())
    }

    /// Puts the kernel in the director's place: its addresses, forwarding on, and routes so that client
    /// and real servers reach each other. Proves the wires without the director.
    ///
    /// # Errors
    /// An address or route is refused.
    pub fn kernel_route(&mut self) -> io::Result<()> {
        let director = self.layout.director().clone();
        let ipv6 = self.layout.ipv6;
        let in_kernel = &mut self.nodes[1];
        in_kernel.ns.run(|| forwarding(ipv6))?;
        for nic in &director.nics {
            // With TAP the bridge is the director's own interface.
            let name = if self.io == Io::Tap { nic.net.bridge() } else { &nic.name };
            in_kernel.ns.run(|| {
                set_sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "0").or_else(ignore_missing)
            })?;
            let index = in_kernel.links.index(name)?;
            for a in &nic.addresses {
                in_kernel.links.add_address(index, *a, true)?;
            }
        }
        let [outside, inside] = director.nics.as_slice() else { return Ok(()) };
        let net = crate::addr::Cidr { addr: inside.addresses[0].network(), len: inside.addresses[0].len };
        self.nodes[0].links.add_route(Route::via(net, outside.addresses[0].addr), false)
    }

    /// Switches a device feature of a host's interface, as `ethtool -K HOST-IF` does.
    ///
    /// # Errors
    /// No such host or interface, or it cannot switch the feature.
    pub fn set_feature(&self, host: &str, nic: &str, feature: Feature, on: bool) -> io::Result<()> {
        let node = self.node(host).ok_or_else(|| io::Error::other(format!("no host {host}")))?;
        node.ns.run(|| set_feature(nic, feature, on))
    }

    fn switch(&mut self) -> (&NetNs, &mut Netlink) {
        let s = match &mut self.switch {
            Some(s) => s,
            None => &mut self.nodes[1],
        };
        (&s.ns, &mut s.links)
    }

    /// Wires a host to the bridges and configures it.
    fn wire(&mut self, host: &Host) -> io::Result<()> {
        let director = host.name == "director";
        if director && self.io == Io::Tap {
            return Ok(());
        }
        let at = self.nodes.iter().position(|n| n.name == host.name).unwrap_or(0);
        let ns = self.nodes[at].ns.try_clone()?;
        ns.run(|| {
            for scope in ["all", "default"] {
                for (key, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
                    set_sysctl(&format!("net.ipv6.conf.{scope}.{key}"), value).or_else(ignore_missing)?;
                }
                if director || !self.layout.ipv6 {
                    set_sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1")
                        .or_else(ignore_missing)?;
                }
            }
            if host.router { forwarding(self.layout.ipv6) } else { Ok(()) }
        })?;
        for (i, nic) in host.nics.iter().enumerate() {
            let port = format!("{}-{i}", host.name);
            let (_, links) = self.switch();
            links.add_veth(&port, &nic.name, Some(&ns))?;
            let (index, bridge) = (links.index(&port)?, links.index(nic.net.bridge())?);
            links.set_master(index, bridge)?;
            links.set_up(index, true)?;
            self.ports.push(SwitchPort { index, host: host.name.clone(), net: nic.net });

            let links = &mut self.nodes[at].links;
            let index = links.index(&nic.name)?;
            // The director's MAC and addresses are the engine's; its device keeps a MAC of its own.
            if !director {
                links.set_mac(index, nic.mac)?;
            }
            links.set_up(index, true)?;
            for a in nic.addresses.iter().filter(|_| !director) {
                links.add_address(index, *a, true)?;
            }
        }
        match host.gateway {
            Some(gateway) if !director => self.nodes[at].links.add_route(Route::default_via(gateway), false),
            _ => Ok(()),
        }
    }
}

fn node(name: &str) -> io::Result<Node> {
    let ns = NetNs::new()?;
    let links = Netlink::open_in(&ns)?;
    Ok(Node { name: name.into(), ns, links })
}

fn forwarding(ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_sysctl("net.ipv6.conf.all.forwarding", "1")
    } else {
        set_sysctl("net.ipv4.conf.all.send_redirects", "0")?;
        set_sysctl("net.ipv4.ip_forward", "1")
    }
}

/// A kernel without IPv6 has none of its settings and needs none.
fn ignore_missing(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}
