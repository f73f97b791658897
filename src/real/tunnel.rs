//! The decapsulator: takes tunnel packets from the kernel's raw sockets (GUE: a UDP socket), unwraps them
//! and hands the inner packets back to the kernel through a device that owns the VIPs.
//!
//! The device is a TUN device where `/dev/net/tun` may be opened, else one end of a veth pair into whose
//! other end frames are injected: that needs `CAP_NET_RAW` only. The raw socket also keeps the kernel from
//! answering tunnel packets with "protocol unreachable".

use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::steps::{Journal, Undo};
use super::unwrap::{self, Encapsulation};
use crate::addr::Mac;
use crate::io::sys::netlink::Netlink;
use crate::io::sys::ns::set_sysctl;
use crate::io::sys::raw::{Injector, RawIp};
use crate::wire::number;

/// Where tunnel packets come from.
#[derive(Debug)]
enum Source {
    Raw(RawIp),
    Udp(UdpSocket),
}

/// Where inner packets go.
enum Inlet {
    Tun(tun_tap::Iface),
    /// Frames for `to` are injected at the other end of its wire.
    Veth {
        wire: Injector,
        to: Mac,
        from: Mac,
    },
}

/// What the decapsulator did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Inner packets handed to the kernel.
    pub unwrapped: AtomicU64,
    /// Packets that were no tunnel packet of the kind expected, or not for a VIP.
    pub ignored: AtomicU64,
    /// Inner packets the device refused.
    pub refused: AtomicU64,
}

/// Unwraps packets on threads of its own until dropped.
pub struct Decapsulator {
    sources: Vec<Source>,
    inlet: Arc<Inlet>,
    encapsulation: Encapsulation,
    vips: Arc<[IpAddr]>,
    told: Vec<String>,
    /// Closed to end the threads, which wait for that too.
    lifeline: Option<PipeWriter>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Decapsulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decapsulator").field("told", &self.told).field("counters", &self.counters).finish()
    }
}

impl Decapsulator {
    /// Opens sockets and device in the calling thread's namespace; nothing is unwrapped before
    /// [`Self::start`].
    ///
    /// # Errors
    /// No right to open raw sockets or to make the device, with the remedy.
    pub fn open(
        device: &str,
        encapsulation: Encapsulation,
        vips: &[IpAddr],
        journal: &mut Journal,
    ) -> io::Result<Decapsulator> {
        let sources = open_sources(encapsulation)?;
        let (inlet, line) = open_inlet(device, journal)?;
        Ok(Decapsulator {
            sources,
            inlet: Arc::new(inlet),
            encapsulation,
            vips: vips.into(),
            told: vec![line, format!("{encapsulation} packets are unwrapped in user space")],
            lifeline: None,
            counters: Arc::default(),
            threads: Vec::new(),
        })
    }

    /// What was opened, for the user.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts one thread for each socket.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(&mut self) -> io::Result<()> {
        let (end, lifeline) = io::pipe()?;
        self.lifeline = Some(lifeline);
        for source in self.sources.drain(..) {
            let worker = Worker {
                source,
                inlet: self.inlet.clone(),
                encapsulation: self.encapsulation,
                vips: self.vips.clone(),
                end: end.try_clone()?,
                counters: self.counters.clone(),
            };
            self.threads.push(std::thread::Builder::new().name("unwrap".into()).spawn(move || worker.run())?);
        }
        Ok(())
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.lifeline = None;
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

fn open_sources(encapsulation: Encapsulation) -> io::Result<Vec<Source>> {
    let remedy = |e: io::Error| {
        let help = match e.kind() {
            io::ErrorKind::PermissionDenied => "; help: run as root or with CAP_NET_RAW",
            io::ErrorKind::AddrInUse => "; help: something else listens on this port",
            _ => "",
        };
        io::Error::new(e.kind(), format!("cannot listen for {encapsulation} packets: {e}{help}"))
    };
    let protocols: &[u8] = match encapsulation {
        Encapsulation::Ipip => &[number::IPIP, number::IPV6],
        Encapsulation::Gre => &[number::GRE],
        Encapsulation::Gue(port) => {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)))
                .map_err(remedy)?;
            // RFC 6935: without this, GUE over IPv6 with UDP checksum 0 is dropped by the kernel.
            let _ = crate::io::sys::raw::accept_zero_checksum6(socket.as_fd());
            return Ok(vec![Source::Udp(socket)]);
        }
    };
    let mut sources = Vec::new();
    for v4 in [true, false] {
        for p in protocols {
            match RawIp::open(v4, *p) {
                Ok(raw) => sources.push(Source::Raw(raw)),
                // A host without IPv6 has no IPv6 tunnel packets either.
                Err(e) if !v4 && e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(e) => return Err(remedy(e)),
            }
        }
    }
    Ok(sources)
}

fn open_inlet(device: &str, journal: &mut Journal) -> io::Result<(Inlet, String)> {
    match tun_tap::Iface::without_packet_info(device, tun_tap::Mode::Tun) {
        Ok(tun) => {
            journal.push(Undo::Link { device: device.to_owned() });
            Ok((Inlet::Tun(tun), format!("TUN device {device} made")))
        }
        // Closed to this user, or not there at all; "busy" and the like are real errors.
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
            let (inlet, end) = open_veth(device, journal)?;
            Ok((inlet, format!("/dev/net/tun cannot be opened ({e}): veth pair {device}-{end} made instead")))
        }
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot make the TUN device {device}: {e}"))),
    }
}

fn open_veth(device: &str, journal: &mut Journal) -> io::Result<(Inlet, String)> {
    let end = format!("{}-w", &device[..device.len().min(13)]);
    let mut nl = Netlink::open()?;
    nl.add_veth(device, &end, None)?;
    journal.push(Undo::Link { device: device.to_owned() });
    // The outer end is a wire, not a host: it must not speak for itself.
    let _ = set_sysctl(&format!("net.ipv6.conf.{}.disable_ipv6", end.replace('.', "/")), "1");
    let (inner, outer) = (nl.link(device)?, nl.link(&end)?);
    // A datagram that was cut outside its tunnel comes out whole, however long.
    for end in [&inner, &outer] {
        nl.set_mtu(end.index, u16::MAX.into())?;
    }
    nl.set_up(outer.index, true)?;
    let mac = |m: Option<Mac>| m.ok_or_else(|| io::Error::other("a veth device without MAC address"));
    let inlet =
        Inlet::Veth { wire: Injector::open(outer.index)?, to: mac(inner.mac)?, from: mac(outer.mac)? };
    Ok((inlet, end))
}

struct Worker {
    source: Source,
    inlet: Arc<Inlet>,
    encapsulation: Encapsulation,
    vips: Arc<[IpAddr]>,
    end: PipeReader,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(self) {
        // Room for a link header in front of the packet.
        const ROOM: usize = 14;
        let mut buf = vec![0u8; ROOM + 65_536];
        loop {
            let fd = match &self.source {
                Source::Raw(raw) => raw.as_fd(),
                Source::Udp(udp) => udp.as_fd(),
            };
            let mut ready =
                [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::NONE).is_err() {
                continue;
            }
            if ready[1].revents().is_some_and(|r| !r.is_empty()) {
                return;
            }
            let packet = match &self.source {
                Source::Raw(raw) => raw.recv(&mut buf[ROOM..]).ok().flatten().map(|(_, p)| p),
                Source::Udp(udp) => udp.recv(&mut buf[ROOM..]).ok().map(|n| &mut buf[ROOM..ROOM + n]),
            };
            let Some(packet) = packet else { continue };
            let counter = match self.hand_in(packet) {
                Some(true) => &self.counters.unwrapped,
                Some(false) => &self.counters.refused,
                None => &self.counters.ignored,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True when the kernel took the inner packet, `None` when there is none for us.
    fn hand_in(&self, packet: &mut [u8]) -> Option<bool> {
        let inner = self.encapsulation.inner(packet)?;
        let inner = &mut packet[inner];
        // Only what the director may send: anything else would let strangers inject any packet here.
        if !self.vips.contains(&unwrap::destination(inner)?) {
            return None;
        }
        unwrap::complete_checksum(inner);
        Some(self.inlet.send(inner).is_ok())
    }
}

impl Inlet {
    fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Inlet::Tun(tun) => tun.send(packet).map(drop),
            Inlet::Veth { wire, to, from } => {
                let kind = if packet[0] >> 4 == 4 { number::ETH_IPV4 } else { number::ETH_IPV6 };
                let mut frame = Vec::with_capacity(14 + packet.len());
                frame.extend_from_slice(&to.0);
                frame.extend_from_slice(&from.0);
                frame.extend_from_slice(&kind.to_be_bytes());
                frame.extend_from_slice(packet);
                wire.send(&frame)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etherparse::{EtherType, IpNumber, PacketBuilder};

    use super::*;
    use crate::addr::Cidr;
    use crate::io::sys::ns::NetNs;
    use crate::real::Role;
    use crate::wire::{put16, sum};

    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];

    struct Net {
        client: IpAddr,
        rip: IpAddr,
        vip: IpAddr,
    }

    fn net(v4: bool) -> Net {
        let ip = |a: &str, b: &str| (if v4 { a } else { b }).parse().unwrap();
        Net {
            client: ip("192.0.2.1", "2001:db8::1"),
            rip: ip("192.0.2.11", "2001:db8::11"),
            vip: ip("198.51.100.10", "2001:db8:f::10"),
        }
    }

    /// A datagram from the client to the VIP with only the pseudo-header summed, as a sender with
    /// checksum offload leaves it.
    fn datagram(n: &Net) -> Vec<u8> {
        let mut p = Vec::new();
        let (pseudo, l4) = match (n.client, n.vip) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                PacketBuilder::ipv4(s.octets(), d.octets(), 63).udp(4000, 53).write(&mut p, b"lvs?").unwrap();
                (sum::pseudo4(s.octets(), d.octets(), 17, 12), 20)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                PacketBuilder::ipv6(s.octets(), d.octets(), 63).udp(4000, 53).write(&mut p, b"lvs?").unwrap();
                (sum::pseudo6(&s.octets(), &d.octets(), 17, 12), 40)
            }
            _ => unreachable!("one family a net"),
        };
        put16(&mut p, l4 + 6, sum::fold(pseudo));
        p
    }

    /// The frame that carries `inner` to the real server.
    fn wrapped(e: Encapsulation, outer: &Net, inner: &[u8]) -> Vec<u8> {
        let inner4 = inner[0] >> 4 == 4;
        let (number, body) = match e {
            Encapsulation::Ipip => (if inner4 { 4 } else { 41 }, inner.to_vec()),
            Encapsulation::Gre => {
                let kind: u16 = if inner4 { 0x0800 } else { 0x86dd };
                (47, [&[0, 0], &kind.to_be_bytes()[..], inner].concat())
            }
            Encapsulation::Gue(port) => {
                let len = (8 + 4 + inner.len()) as u16;
                let udp = [40000u16.to_be_bytes(), port.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
                (17, [&udp, &[0, if inner4 { 4 } else { 41 }, 0, 0][..], inner].concat())
            }
        };
        let mut f = Vec::new();
        let eth = PacketBuilder::ethernet2(PEER, OURS);
        match (outer.client, outer.rip) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                eth.ipv4(s.octets(), d.octets(), 64).write(&mut f, IpNumber(number), &body).unwrap();
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                eth.ipv6(s.octets(), d.octets(), 64).write(&mut f, IpNumber(number), &body).unwrap();
            }
            _ => unreachable!("one family a net"),
        }
        assert_eq!(
            f[12..14],
            if outer.rip.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }.0.to_be_bytes()
        );
        f
    }

    fn wire() -> io::Result<Option<(NetNs, NetNs)>> {
        let (Ok(client), Ok(server)) = (NetNs::new(), NetNs::new()) else { return Ok(None) };
        for ns in [&client, &server] {
            // Until its link-local address is proved unique a host cannot solicit for an off-link source.
            ns.run(|| set_sysctl("net.ipv6.conf.default.accept_dad", "0"))?;
        }
        let (mut a, mut b) = (Netlink::open_in(&client)?, Netlink::open_in(&server)?);
        a.add_veth("eth0", "eth0", Some(&server))?;
        let (ia, ib) = (a.index("eth0")?, b.index("eth0")?);
        a.set_mac(ia, Mac(PEER))?;
        b.set_mac(ib, Mac(OURS))?;
        a.set_up(ia, true)?;
        b.set_up(ib, true)?;
        for v4 in [true, false] {
            let n = net(v4);
            let cidr = |addr| Cidr { addr, len: if v4 { 24 } else { 64 } };
            a.add_address(ia, cidr(n.client), true)?;
            b.add_address(ib, cidr(n.rip), true)?;
        }
        Ok(Some((client, server)))
    }

    #[test]
    fn every_tunnel_of_either_family_reaches_the_vip_and_the_reply_goes_straight_back() {
        for veth in [false, true] {
            for e in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue(6080)] {
                let Some((client, server)) = wire().unwrap() else {
                    eprintln!("skipped: no right to make network namespaces");
                    return;
                };
                let vips = [net(true).vip, net(false).vip];
                let role = Role::Tun { vips: vips.to_vec(), encapsulation: e, device: "lvstun0".into() };
                let mut journal = Journal::default();
                let d = server.run(|| {
                    let sources = open_sources(e)?;
                    let (inlet, _) = if veth {
                        open_veth("lvstun0", &mut journal)
                    } else {
                        open_inlet("lvstun0", &mut journal)
                    }?;
                    let mut d = Decapsulator {
                        sources,
                        inlet: Arc::new(inlet),
                        encapsulation: e,
                        vips: vips[..].into(),
                        told: Vec::new(),
                        lifeline: None,
                        counters: Arc::default(),
                        threads: Vec::new(),
                    };
                    for step in role.steps() {
                        step.apply(&mut journal)?;
                    }
                    d.start()?;
                    Ok(d)
                });
                let d = d.unwrap();
                for inner4 in [true, false] {
                    let inner = net(inner4);
                    let service = server.run(|| UdpSocket::bind((inner.vip, 53))).unwrap();
                    service.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let asker = client.run(|| UdpSocket::bind((inner.client, 4000))).unwrap();
                    asker.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let index = Netlink::open_in(&client).unwrap().index("eth0").unwrap();
                    let wire = client.run(|| Injector::open(index)).unwrap();
                    for outer4 in [true, false] {
                        let frame = wrapped(e, &net(outer4), &datagram(&inner));
                        let what = format!("{e} outer4={outer4} inner4={inner4} veth={veth}");
                        let mut buf = [0; 16];
                        // The first frames on a fresh wire may come before IPv6 is ready there.
                        let arrived = (0..50).find_map(|_| {
                            wire.send(&frame).unwrap();
                            service.recv_from(&mut buf).ok()
                        });
                        let (n, from) = arrived.unwrap_or_else(|| panic!("{what}: {d:?}"));
                        assert_eq!((&buf[..n], from.ip(), from.port()), (&b"lvs?"[..], inner.client, 4000));
                        service.send_to(b"lvs!", from).unwrap();
                        let (n, from) = asker.recv_from(&mut buf).unwrap_or_else(|e| panic!("{what}: {e}"));
                        assert_eq!((&buf[..n], from.ip()), (&b"lvs!"[..], inner.vip), "{what}");
                    }
                }
                assert!(d.counters().unwrapped.load(Ordering::Relaxed) >= 4);
                drop(d);
                server.run(|| Ok(journal.undo())).unwrap();
                let left = Netlink::open_in(&server).unwrap().links().unwrap();
                assert!(left.iter().all(|l| !l.name.starts_with("lvstun0")), "{left:?}");
            }
        }
    }

    #[test]
    fn packets_for_other_addresses_are_not_let_in() {
        let Some((client, server)) = wire().unwrap() else { return };
        let n = net(true);
        let role = Role::Tun {
            vips: vec!["198.51.100.99".parse().unwrap()],
            encapsulation: Encapsulation::Ipip,
            device: "lvstun0".into(),
        };
        let prepared = server.run(|| crate::real::prepare(&role)).unwrap();
        let index = Netlink::open_in(&client).unwrap().index("eth0").unwrap();
        let wire = client.run(|| Injector::open(index)).unwrap();
        wire.send(&wrapped(Encapsulation::Ipip, &n, &datagram(&n))).unwrap();
        let counters = prepared.decapsulator.as_ref().unwrap().counters();
        for _ in 0..500 {
            if counters.ignored.load(Ordering::Relaxed) > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(counters.ignored.load(Ordering::Relaxed), 1);
        assert_eq!(counters.unwrapped.load(Ordering::Relaxed), 0);
    }
}
