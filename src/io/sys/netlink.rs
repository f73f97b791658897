//! A thin rtnetlink client: just what a laboratory and a real server need (links, addresses, routes,
//! neighbours), synchronous, one request and its answer at a time.
//!
//! A [`Netlink`] works on the namespace in which it was opened, whatever thread uses it later.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

use super::ns::NetNs;
use crate::addr::{Cidr, Mac};

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h: what libc does not name for every target.
const NLA_NESTED: u16 = 0x8000;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_XDP_ATTACHED: u16 = 2;
const NETLINK_EXT_ACK: libc::c_int = 11;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_ACK_TLVS: u16 = 0x200;
const RTNH_F_ONLINK: u32 = 4;
const HEADER: usize = 16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address, where it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The link works (carrier).
    pub running: bool,
    /// Index of the bridge, or other device, that it is part of.
    pub master: Option<u32>,
    /// An XDP program sees its packets first.
    pub xdp: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrInfo {
    /// Interface index.
    pub index: u32,
    /// Address with prefix.
    pub cidr: Cidr,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations; the default route is `0.0.0.0/0` or `::/0`.
    pub to: Cidr,
    /// Next hop, `None` for neighbours on the link.
    pub via: Option<IpAddr>,
    /// Interface index, `None` to let the kernel find it from `via`.
    pub dev: Option<u32>,
    /// The next hop is a neighbour though no network of the interface contains it.
    pub onlink: bool,
    /// Metric; 0 lets the kernel choose (0 for IPv4, 1024 for IPv6).
    pub metric: u32,
}

impl Route {
    /// A route through a router.
    pub fn via(to: Cidr, gateway: IpAddr) -> Route {
        Route { to, via: Some(gateway), dev: None, onlink: false, metric: 0 }
    }
    /// A route to neighbours behind an interface.
    pub fn dev(to: Cidr, dev: u32) -> Route {
        Route { to, via: None, dev: Some(dev), onlink: false, metric: 0 }
    }
    /// Everything of the family of `gateway` through it.
    pub fn default_via(gateway: IpAddr) -> Route {
        Route::via(default_net(gateway.is_ipv4()), gateway)
    }
}

/// `0.0.0.0/0` or `::/0`.
pub fn default_net(v4: bool) -> Cidr {
    let addr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Cidr { addr, len: 0 }
}

/// Features of a device that `ethtool -K` switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Transmit checksum offload: locally made packets leave with partial checksums.
    TxChecksum,
    /// TCP segmentation offload.
    Tso,
    /// Generic segmentation offload.
    Gso,
    /// Generic receive offload.
    Gro,
}

/// A request being built: header, family header, attributes.
#[derive(Clone, Debug)]
struct Msg(Vec<u8>);

impl Msg {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Msg {
        let mut m = vec![0u8; HEADER];
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = flags | libc::NLM_F_REQUEST as u16 | libc::NLM_F_ACK as u16;
        m[6..8].copy_from_slice(&flags.to_ne_bytes());
        m.extend_from_slice(body);
        Msg(m)
    }
    fn link(kind: u16, flags: u16, index: u32, set: u32, mask: u32) -> Msg {
        Msg::new(kind, flags, &ifinfo(index, set, mask))
    }
    fn attr(mut self, kind: u16, value: &[u8]) -> Msg {
        self.0.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }
    fn u32(self, kind: u16, value: u32) -> Msg {
        self.attr(kind, &value.to_ne_bytes())
    }
    fn text(self, kind: u16, value: &str) -> Msg {
        let mut z = value.as_bytes().to_vec();
        z.push(0);
        self.attr(kind, &z)
    }
    fn ip(self, kind: u16, ip: IpAddr) -> Msg {
        match ip {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }
    /// An attribute whose value is `raw` followed by more attributes.
    fn nest(mut self, kind: u16, raw: &[u8], fill: impl FnOnce(Msg) -> Msg) -> Msg {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(raw);
        let mut m = fill(self);
        let len = (m.0.len() - at) as u16;
        m.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        m.0[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
        m.pad();
        m
    }
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
    fn finish(mut self, seq: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.0
    }
}

fn ifinfo(index: u32, set: u32, mask: u32) -> [u8; IFINFO] {
    let mut b = [0u8; IFINFO];
    b[4..8].copy_from_slice(&index.to_ne_bytes());
    b[8..12].copy_from_slice(&set.to_ne_bytes());
    b[12..16].copy_from_slice(&mask.to_ne_bytes());
    b
}

fn family(v4: bool) -> u8 {
    if v4 { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// An rtnetlink socket of one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    seq: u32,
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel has no rtnetlink, or out of descriptors.
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(SockProtocol::NetlinkRoute),
        )?;
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: the descriptor is open and the option value is a live c_int of the given size. A
            // kernel without the option answers with an error, which only costs the message texts.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Netlink { socket, seq: 0 })
    }

    /// A socket in `ns`.
    ///
    /// # Errors
    /// As [`Netlink::open`], or the namespace cannot be entered.
    pub fn open_in(ns: &NetNs) -> io::Result<Netlink> {
        ns.run(Netlink::open)
    }

    /// A socket that hears of the links of the calling thread's namespace: [`Netlink::heard`].
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn listening() -> io::Result<Netlink> {
        let heard = Netlink::open()?;
        bind(heard.socket.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
        Ok(heard)
    }

    /// Links as they became since the last call, in order and without waiting. When more happened than the
    /// kernel keeps, some is missing.
    pub fn heard(&mut self) -> Vec<LinkInfo> {
        let mut links = Vec::new();
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buf, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => links.extend(messages(&buf[..n]).filter_map(|(kind, _, _, body)| {
                    let mut whole = kind.to_ne_bytes().to_vec();
                    whole.extend_from_slice(body);
                    read_link(&whole)
                })),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ENOBUFS) => {}
                Err(_) => return links,
            }
        }
    }

    /// Makes a pair of Ethernet devices wired to each other; the second end goes to `peer_ns` if given.
    ///
    /// # Errors
    /// A name is taken, or not permitted.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_ns: Option<&NetNs>) -> io::Result<()> {
        let m = new_link(name, "veth", |m| {
            m.nest(VETH_INFO_PEER, &ifinfo(0, 0, 0), |m| {
                let m = m.text(libc::IFLA_IFNAME, peer);
                match peer_ns {
                    Some(ns) => m.u32(libc::IFLA_NET_NS_FD, ns.as_raw_fd() as u32),
                    None => m,
                }
            })
        });
        self.request(m, &format!("add veth {name}")).map(drop)
    }

    /// Makes a bridge that forwards at once and floods multicast.
    ///
    /// # Errors
    /// The name is taken, not permitted, or the kernel has no bridges.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let m = new_link(name, "bridge", |m| m.attr(IFLA_BR_MCAST_SNOOPING, &[0]));
        self.request(m, &format!("add bridge {name}")).map(drop)
    }

    /// Makes a dummy device.
    ///
    /// # Errors
    /// The name is taken, not permitted, or the kernel has no dummy devices.
    pub fn add_dummy(&mut self, name: &str) -> io::Result<()> {
        self.request(new_link(name, "dummy", |m| m), &format!("add dummy {name}")).map(drop)
    }

    /// Deletes a device (a veth's other end goes with it).
    ///
    /// # Errors
    /// No such device, or not permitted.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.request(Msg::link(libc::RTM_DELLINK, 0, index, 0, 0), "delete link").map(drop)
    }

    /// Index of a device.
    ///
    /// # Errors
    /// No device of this name.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.index)
    }

    /// A device by name.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub fn link(&mut self, name: &str) -> io::Result<LinkInfo> {
        let m = Msg::link(libc::RTM_GETLINK, 0, 0, 0, 0).text(libc::IFLA_IFNAME, name);
        let what = format!("interface {name}");
        let answers = self.request(m, &what)?;
        answers.iter().find_map(|a| read_link(a)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Every device.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn links(&mut self) -> io::Result<Vec<LinkInfo>> {
        let m = Msg::link(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, 0, 0, 0);
        Ok(self.request(m, "list links")?.iter().filter_map(|a| read_link(a)).collect())
    }

    /// Brings a device up or down.
    ///
    /// # Errors
    /// No such device, or not permitted.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flag = libc::IFF_UP as u32;
        let m = Msg::link(libc::RTM_NEWLINK, 0, index, if up { flag } else { 0 }, flag);
        self.request(m, "bring link up").map(drop)
    }

    /// Joins a device to a bridge.
    ///
    /// # Errors
    /// No such device or bridge, or not permitted.
    pub fn set_master(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let m = Msg::link(libc::RTM_NEWLINK, 0, index, 0, 0).u32(libc::IFLA_MASTER, bridge);
        self.request(m, "join bridge").map(drop)
    }

    /// Sets the Ethernet address.
    ///
    /// # Errors
    /// The device refuses it.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        let m = Msg::link(libc::RTM_NEWLINK, 0, index, 0, 0).attr(libc::IFLA_ADDRESS, &mac.0);
        self.request(m, &format!("set MAC {mac}")).map(drop)
    }

    /// Sets the MTU in bytes.
    ///
    /// # Errors
    /// Outside what the device can do.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let m = Msg::link(libc::RTM_NEWLINK, 0, index, 0, 0).u32(libc::IFLA_MTU, mtu);
        self.request(m, &format!("set MTU {mtu}")).map(drop)
    }

    /// Gives a device an address; IPv6 without duplicate address detection. Having it already is no error
    /// unless `fresh`.
    ///
    /// # Errors
    /// No such device, not permitted, or (`fresh`) `AlreadyExists`.
    pub fn add_address(&mut self, index: u32, cidr: Cidr, fresh: bool) -> io::Result<()> {
        let how = libc::NLM_F_CREATE | if fresh { libc::NLM_F_EXCL } else { libc::NLM_F_REPLACE };
        let mut m = address(libc::RTM_NEWADDR, how as u16, index, cidr);
        m = match cidr.broadcast4() {
            Some(b) => m.ip(libc::IFA_BROADCAST, b.into()),
            None if cidr.addr.is_ipv6() => m.u32(libc::IFA_FLAGS, libc::IFA_F_NODAD),
            None => m,
        };
        self.request(m, &format!("add address {cidr}")).map(drop)
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// The device does not have it, or not permitted.
    pub fn delete_address(&mut self, index: u32, cidr: Cidr) -> io::Result<()> {
        self.request(address(libc::RTM_DELADDR, 0, index, cidr), &format!("delete address {cidr}")).map(drop)
    }

    /// Every address of every device.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn addresses(&mut self) -> io::Result<Vec<AddrInfo>> {
        let m = Msg::new(libc::RTM_GETADDR, libc::NLM_F_DUMP as u16, &[0; IFADDR]);
        Ok(self.request(m, "list addresses")?.iter().filter_map(|a| read_addr(a)).collect())
    }

    /// Adds a route to the main table; `replace` puts it in place of one with the same metric.
    ///
    /// # Errors
    /// The next hop cannot be reached, or the route is there already.
    pub fn add_route(&mut self, r: Route, replace: bool) -> io::Result<()> {
        let how = libc::NLM_F_CREATE | if replace { libc::NLM_F_REPLACE } else { libc::NLM_F_EXCL };
        self.request(route(libc::RTM_NEWROUTE, how as u16, r), &format!("add route {}", r.to)).map(drop)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// There is none like it.
    pub fn delete_route(&mut self, r: Route) -> io::Result<()> {
        self.request(route(libc::RTM_DELROUTE, 0, r), &format!("delete route {}", r.to)).map(drop)
    }

    /// Unicast routes of the main table of one family.
    ///
    /// # Errors
    /// The kernel's answer could not be read.
    pub fn routes(&mut self, v4: bool) -> io::Result<Vec<Route>> {
        let mut body = [0u8; RTMSG];
        body[0] = family(v4);
        let m = Msg::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP as u16, &body);
        Ok(self.request(m, "list routes")?.iter().filter_map(|a| read_route(a)).collect())
    }

    /// Adds a permanent neighbour.
    ///
    /// # Errors
    /// No such device, or not permitted.
    pub fn add_neighbor(&mut self, index: u32, ip: IpAddr, mac: Mac) -> io::Result<()> {
        let mut body = [0u8; 12];
        body[0] = family(ip.is_ipv4());
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        let how = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let m = Msg::new(libc::RTM_NEWNEIGH, how as u16, &body)
            .ip(libc::NDA_DST, ip)
            .attr(libc::NDA_LLADDR, &mac.0);
        self.request(m, &format!("add neighbour {ip}")).map(drop)
    }

    /// Sends a request and collects the answers up to its acknowledgement.
    fn request(&mut self, m: Msg, what: &str) -> io::Result<Vec<Vec<u8>>> {
        self.seq += 1;
        let bytes = m.finish(self.seq);
        let fd = self.socket.as_raw_fd();
        sendto(fd, &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buf = vec![0u8; 64 * 1024];
        loop {
            let n = match recv(fd, &mut buf, MsgFlags::empty()) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(named(what, e as i32, None)),
            };
            for (kind, flags, seq, body) in messages(&buf[..n]) {
                if seq != self.seq {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let code = body.get(..4).map_or(0, |b| -i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        return if code > 0 {
                            Err(named(what, code, ext_ack(flags, body)))
                        } else {
                            Ok(answers)
                        };
                    }
                    _ => {
                        let mut whole = kind.to_ne_bytes().to_vec();
                        whole.extend_from_slice(body);
                        answers.push(whole);
                    }
                }
            }
        }
    }
}

/// Switches a feature of a device of the calling thread's namespace, as `ethtool -K` does.
///
/// # Errors
/// No such device, or it cannot switch the feature.
pub fn set_feature(device: &str, feature: Feature, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    // linux/ethtool.h: ETHTOOL_STXCSUM, STSO, SGSO, SGRO
    let cmd = match feature {
        Feature::TxChecksum => 0x17,
        Feature::Tso => 0x1f,
        Feature::Gso => 0x24,
        Feature::Gro => 0x2c,
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { cmd, data: u32::from(on) };
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL with a set command reads an ifreq whose data points to an ethtool_value; both
    // live until the call returns, and the kernel writes to neither beyond its size.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if done < 0 {
        let e = io::Error::last_os_error();
        return Err(io::Error::new(e.kind(), format!("{device}: switch {feature:?}: {e}")));
    }
    Ok(())
}

fn new_link(name: &str, kind: &str, data: impl FnOnce(Msg) -> Msg) -> Msg {
    let how = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    Msg::link(libc::RTM_NEWLINK, how, 0, 0, 0).text(libc::IFLA_IFNAME, name).nest(
        libc::IFLA_LINKINFO,
        &[],
        |m| m.text(libc::IFLA_INFO_KIND, kind).nest(libc::IFLA_INFO_DATA | NLA_NESTED, &[], data),
    )
}

fn address(kind: u16, flags: u16, index: u32, cidr: Cidr) -> Msg {
    let mut body = [0u8; IFADDR];
    body[0] = family(cidr.addr.is_ipv4());
    body[1] = cidr.len;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    Msg::new(kind, flags, &body).ip(libc::IFA_LOCAL, cidr.addr).ip(libc::IFA_ADDRESS, cidr.addr)
}

fn route(kind: u16, flags: u16, r: Route) -> Msg {
    let mut body = [0u8; RTMSG];
    body[0] = family(r.to.addr.is_ipv4());
    body[1] = r.to.len;
    body[4] = libc::RT_TABLE_MAIN;
    if kind == libc::RTM_NEWROUTE {
        body[5] = libc::RTPROT_BOOT;
    }
    // A destination behind no router is a neighbour (link scope); deleting matches any scope.
    body[6] = match (kind == libc::RTM_NEWROUTE, r.via.is_none() && r.to.addr.is_ipv4()) {
        (false, _) => libc::RT_SCOPE_NOWHERE,
        (true, true) => libc::RT_SCOPE_LINK,
        (true, false) => libc::RT_SCOPE_UNIVERSE,
    };
    body[7] = libc::RTN_UNICAST;
    if r.onlink {
        body[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    let mut m = Msg::new(kind, flags, &body).ip(libc::RTA_DST, r.to.network());
    if let Some(via) = r.via {
        m = m.ip(libc::RTA_GATEWAY, via);
    }
    if let Some(dev) = r.dev {
        m = m.u32(libc::RTA_OIF, dev);
    }
    if r.metric != 0 {
        m = m.u32(libc::RTA_PRIORITY, r.metric);
    }
    m
}

/// An error that names what was tried and, where the kernel says so, why.
fn named(what: &str, code: i32, why: Option<String>) -> io::Error {
    let e = io::Error::from_raw_os_error(code);
    let text = match why {
        Some(why) => format!("{what}: {e}: {why}"),
        None => format!("{what}: {e}"),
    };
    // Callers decide by kind; std has none for a missing device.
    io::Error::new(if code == libc::ENODEV { io::ErrorKind::NotFound } else { e.kind() }, text)
}

fn ext_ack(flags: u16, body: &[u8]) -> Option<String> {
    // With NETLINK_CAP_ACK the request is cut to its header, attributes follow.
    let tlvs = (flags & NLM_F_ACK_TLVS != 0).then(|| body.get(4 + HEADER..))??;
    let text = attributes(tlvs).find(|(k, _)| *k == NLMSGERR_ATTR_MSG)?.1;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

fn ne_u32(b: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(..4)?.try_into().ok()?))
}

/// Messages of a datagram: kind, flags, sequence number, body. Stops at the first that does not fit.
fn messages(mut b: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let len = ne_u32(b)? as usize;
        let body = b.get(HEADER..len)?;
        let item =
            (u16::from_ne_bytes([b[4], b[5]]), u16::from_ne_bytes([b[6], b[7]]), ne_u32(&b[8..])?, body);
        b = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(item)
    })
}

/// Attributes: kind without flags, value. Stops at the first that does not fit.
fn attributes(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*b.first()?, *b.get(1)?]));
        let kind = u16::from_ne_bytes([*b.get(2)?, *b.get(3)?]) & 0x3fff;
        let value = b.get(4..len)?;
        b = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn read_ip(v4: bool, b: &[u8]) -> Option<IpAddr> {
    Some(if v4 {
        IpAddr::from(<[u8; 4]>::try_from(b.get(..4)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(b.get(..16)?).ok()?)
    })
}

/// Splits an answer into its body after the kind, if it is of the kind wanted.
fn of_kind(answer: &[u8], kind: u16) -> Option<&[u8]> {
    (answer.get(..2)? == kind.to_ne_bytes()).then(|| &answer[2..])
}

fn read_link(answer: &[u8]) -> Option<LinkInfo> {
    let b = of_kind(answer, libc::RTM_NEWLINK)?;
    let flags = ne_u32(b.get(8..)?)?;
    let mut link = LinkInfo {
        index: ne_u32(b.get(4..)?)?,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
        master: None,
        xdp: false,
    };
    for (kind, v) in attributes(b.get(IFINFO..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(v).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS => link.mac = v.try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = ne_u32(v)?,
            libc::IFLA_MASTER => link.master = ne_u32(v),
            libc::IFLA_XDP => {
                link.xdp = attributes(v).any(|(kind, v)| kind == IFLA_XDP_ATTACHED && v.first() != Some(&0));
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_addr(answer: &[u8]) -> Option<AddrInfo> {
    let b = of_kind(answer, libc::RTM_NEWADDR)?;
    let v4 = i32::from(*b.first()?) == libc::AF_INET;
    let (mut local, mut peer) = (None, None);
    for (kind, v) in attributes(b.get(IFADDR..)?) {
        match kind {
            libc::IFA_LOCAL => local = read_ip(v4, v),
            libc::IFA_ADDRESS => peer = read_ip(v4, v),
            _ => {}
        }
    }
    Some(AddrInfo { index: ne_u32(b.get(4..)?)?, cidr: Cidr::new(local.or(peer)?, b[1])? })
}

fn read_route(answer: &[u8]) -> Option<Route> {
    let b = of_kind(answer, libc::RTM_NEWROUTE)?;
    let v4 = i32::from(*b.first()?) == libc::AF_INET;
    if *b.get(4)? != libc::RT_TABLE_MAIN || *b.get(7)? != libc::RTN_UNICAST {
        return None;
    }
    let onlink = ne_u32(b.get(8..)?)? & RTNH_F_ONLINK != 0;
    let mut r = Route { to: Cidr::new(default_net(v4).addr, b[1])?, via: None, dev: None, onlink, metric: 0 };
    for (kind, v) in attributes(b.get(RTMSG..)?) {
        match kind {
            libc::RTA_DST => r.to.addr = read_ip(v4, v)?,
            libc::RTA_GATEWAY => r.via = read_ip(v4, v),
            libc::RTA_OIF => r.dev = ne_u32(v),
            libc::RTA_PRIORITY => r.metric = ne_u32(v)?,
            _ => {}
        }
    }
    Some(r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_carry_their_length_and_are_padded() {
        let m = Msg::new(16, 0, &[]).nest(18, &[], |m| m.text(1, "veth").attr(2, &[7])).finish(9);
        let (kind, flags, seq, body) = messages(&m).next().unwrap();
        assert_eq!((kind, flags, seq, m.len() % 4), (16, 5, 9, 0));
        let (kind, inner) = attributes(body).next().unwrap();
        assert_eq!(kind, 18);
        let all: Vec<_> = attributes(inner).collect();
        assert_eq!(all, [(1, &b"veth\0"[..]), (2, &[7u8][..])]);
    }

    #[test]
    fn cut_off_answers_end_the_iteration_and_nothing_panics() {
        let m = route(libc::RTM_NEWROUTE, 0, Route::default_via("192.0.2.1".parse().unwrap())).finish(1);
        for n in 0..m.len() {
            for (kind, _, _, body) in messages(&m[..n]) {
                let mut a = kind.to_ne_bytes().to_vec();
                a.extend_from_slice(body);
                let _ = (read_route(&a), read_link(&a), read_addr(&a));
            }
            let _ = (read_route(&m[..n]), read_link(&m[..n]), read_addr(&m[..n]));
        }
    }

    #[test]
    fn a_route_reads_back_as_it_was_built() {
        let r = Route {
            to: "10.2.0.0/16".parse().unwrap(),
            via: Some("10.0.0.254".parse().unwrap()),
            dev: Some(3),
            onlink: true,
            metric: 7,
        };
        let m = route(libc::RTM_NEWROUTE, 0, r).finish(1);
        let (kind, _, _, body) = messages(&m).next().unwrap();
        let mut a = kind.to_ne_bytes().to_vec();
        a.extend_from_slice(body);
        assert_eq!(read_route(&a), Some(r));
    }

    #[test]
    fn links_addresses_routes_and_neighbours_in_namespaces_of_our_own() {
        let (Ok(a), Ok(b)) = (NetNs::new(), NetNs::new()) else {
            eprintln!("skipped: no right to make network namespaces");
            return;
        };
        let mut na = Netlink::open_in(&a).unwrap();
        let mut nb = Netlink::open_in(&b).unwrap();
        na.add_veth("v0", "v1", Some(&b)).unwrap();
        assert!(na.link("v1").is_err());
        let again = na.add_veth("v0", "v1", Some(&b)).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let (v0, v1) = (na.index("v0").unwrap(), nb.index("v1").unwrap());
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        na.set_mac(v0, mac).unwrap();
        na.set_mtu(v0, 1400).unwrap();
        na.set_up(v0, true).unwrap();
        nb.set_up(v1, true).unwrap();
        let l = na.link("v0").unwrap();
        assert_eq!((l.mac, l.mtu, l.up), (Some(mac), 1400, true));
        for cidr in ["192.0.2.1/24", "2001:db8::1/64"] {
            na.add_address(v0, cidr.parse().unwrap(), true).unwrap();
        }
        nb.add_address(v1, "192.0.2.2/24".parse().unwrap(), true).unwrap();
        let has: Vec<_> = na.addresses().unwrap().iter().map(|a| a.cidr.to_string()).collect();
        assert!(has.contains(&"192.0.2.1/24".into()) && has.contains(&"2001:db8::1/64".into()), "{has:?}");
        let mut r = Route::default_via("192.0.2.2".parse().unwrap());
        na.add_route(r, false).unwrap();
        r.dev = Some(v0);
        assert!(na.routes(true).unwrap().contains(&r));
        na.delete_route(r).unwrap();
        assert!(!na.routes(true).unwrap().contains(&r));
        na.add_route(Route::dev("2001:db8:7::/64".parse().unwrap(), v0), false).unwrap();
        na.add_neighbor(v0, "192.0.2.77".parse().unwrap(), mac).unwrap();
        na.add_bridge("br0").unwrap();
        let br = na.index("br0").unwrap();
        na.set_master(v0, br).unwrap();
        a.run(|| set_feature("v0", Feature::TxChecksum, false)).unwrap();
        na.delete_address(v0, "192.0.2.1/24".parse().unwrap()).unwrap();
        na.delete_link(v0).unwrap();
        assert_eq!(nb.link("v1").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
