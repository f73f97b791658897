//! The decapsulator: takes tunnel packets from the kernel's raw sockets (GUE: a UDP socket), unwraps them
//! and hands the inner packets back to the kernel through a device that owns the VIPs.
//!
//! The device is a TUN device where `/dev/net/tun` may be opened, else one end of a veth pair into whose
//! other end frames are injected: that needs `CAP_NET_RAW` only. The raw socket also keeps the kernel from
//! answering tunnel packets with "protocol unreachable".

use std::io::{self, IoSliceMut, PipeReader, PipeWriter};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};

use super::kernel::InKernel;
use super::steps::{Journal, Undo};
use super::unwrap::{self, Encapsulation, Where};
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

impl Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Raw(raw) => raw.as_fd(),
            Source::Udp(udp) => udp.as_fd(),
        }
    }

    /// What follows the outer header in what was received.
    fn payload<'b>(&self, received: &'b mut [u8]) -> Option<&'b mut [u8]> {
        match self {
            Source::Raw(raw) => raw.payload(received),
            Source::Udp(_) => Some(received),
        }
    }
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

/// Packets taken with one call.
const BURST: usize = 32;

/// What the decapsulator did in user space so far.
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
    device: String,
    place: Where,
    in_kernel: Option<InKernel>,
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
        place: Where,
        vips: &[IpAddr],
        journal: &mut Journal,
    ) -> io::Result<Decapsulator> {
        let sources = open_sources(encapsulation)?;
        let (inlet, line) = open_inlet(device, journal)?;
        Ok(Decapsulator {
            sources,
            inlet: Arc::new(inlet),
            encapsulation,
            device: device.into(),
            place,
            in_kernel: None,
            vips: vips.into(),
            told: vec![line],
            lifeline: None,
            counters: Arc::default(),
            threads: Vec::new(),
        })
    }

    /// What was opened and started, for the user.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// What it did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts one thread for each socket, and where it is wanted the kernel's part. The device has to be up.
    ///
    /// # Errors
    /// A thread cannot be started; the kernel was wanted and does not.
    pub fn start(&mut self) -> io::Result<()> {
        let line = self.start_in_kernel()?;
        self.told.push(line);
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

impl Decapsulator {
    /// Takes the kernel's programs off, so that everything comes to user space, until [`Decapsulator::resume`].
    pub fn suspend(&mut self) {
        self.in_kernel = None;
    }

    /// Puts the kernel's programs back, where they are wanted.
    ///
    /// # Errors
    /// As [`Decapsulator::start`].
    pub fn resume(&mut self) -> io::Result<()> {
        self.start_in_kernel().map(drop)
    }

    fn start_in_kernel(&mut self) -> io::Result<String> {
        let e = self.encapsulation;
        if self.place == Where::User {
            return Ok(format!("{e} packets are unwrapped in user space"));
        }
        let attached = match &*self.inlet {
            Inlet::Tun(_) => InKernel::attach(&self.device, e, &self.vips),
            Inlet::Veth { .. } => Err(io::Error::other("that needs a TUN device")),
        };
        match attached {
            Ok(k) => {
                let line = format!("{e} packets are unwrapped in the kernel on {}", k.interfaces.join(", "));
                self.in_kernel = Some(k);
                Ok(line)
            }
            Err(why) if self.place == Where::Auto => {
                Ok(format!("{e} packets are unwrapped in user space, not in the kernel: {}", reason(&why)))
            }
            Err(why) => Err(io::Error::new(
                why.kind(),
                format!("cannot unwrap in the kernel: {}; help: `--unwrap user`", reason(&why)),
            )),
        }
    }
}

/// Why the kernel does not unwrap.
fn reason(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "that needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace".into()
        }
        Some(libc::EINVAL | libc::ENOSYS) => format!("that needs Linux 6.6 with CONFIG_NET_XGRESS ({e})"),
        _ => e.to_string(),
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.in_kernel = None;
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
        let mut buffers = vec![vec![0u8; 65_536]; BURST];
        let mut headers = MultiHeaders::<()>::preallocate(BURST, None);
        let mut lengths = [0; BURST];
        loop {
            let mut ready = [
                PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut ready, PollTimeout::NONE).is_err() {
                continue;
            }
            if ready[1].revents().is_some_and(|r| !r.is_empty()) {
                return;
            }
            let n = self.receive(&mut headers, &mut buffers, &mut lengths);
            for (buffer, len) in buffers.iter_mut().zip(lengths).take(n) {
                let Some(packet) = self.source.payload(&mut buffer[..len]) else { continue };
                let counter = match self.hand_in(packet) {
                    Some(true) => &self.counters.unwrapped,
                    Some(false) => &self.counters.refused,
                    None => &self.counters.ignored,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes what is there, as far as it fits: how many packets.
    fn receive(
        &self,
        headers: &mut MultiHeaders<()>,
        buffers: &mut [Vec<u8>],
        lengths: &mut [usize],
    ) -> usize {
        let mut places: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|b| [IoSliceMut::new(b.as_mut_slice())]).collect();
        let fd = self.source.as_fd().as_raw_fd();
        // an error of the socket (an ICMP error, say) is told once and was no packet
        let Ok(got) = recvmmsg(fd, headers, places.iter_mut(), MsgFlags::MSG_DONTWAIT, None) else {
            return 0;
        };
        got.zip(lengths).map(|(message, len)| *len = message.bytes).count()
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

    fn may_load_programs() -> bool {
        use crate::io::sys::bpf::{Map, MapKind};
        Map::create(MapKind::Hash, 4, 4, 1, "t_may").is_ok()
    }

    #[test]
    fn every_tunnel_of_either_family_reaches_the_vip_and_the_reply_goes_straight_back() {
        for (place, veth) in [(Where::User, false), (Where::User, true), (Where::Kernel, false)] {
            for e in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue(6080)] {
                let Some((client, server)) = wire().unwrap() else {
                    eprintln!("skipped: no right to make network namespaces");
                    return;
                };
                let vips = [net(true).vip, net(false).vip];
                let role = Role::Tun {
                    vips: vips.to_vec(),
                    encapsulation: e,
                    device: "lvstun0".into(),
                    unwrap: place,
                };
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
                        device: "lvstun0".into(),
                        place,
                        in_kernel: None,
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
                let d = match d {
                    Err(why) if place == Where::Kernel && !may_load_programs() => {
                        eprintln!("skipped: {why}");
                        return;
                    }
                    d => d.unwrap(),
                };
                for inner4 in [true, false] {
                    let inner = net(inner4);
                    let service = server.run(|| UdpSocket::bind((inner.vip, 53))).unwrap();
                    service.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let asker = client.run(|| UdpSocket::bind((inner.client, 4000))).unwrap();
                    asker.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let index = Netlink::open_in(&client).unwrap().index("eth0").unwrap();
                    let wire = client.run(|| Injector::open(index)).unwrap();
                    for outer4 in [true, false] {
                        let mut packet = datagram(&inner);
                        if place == Where::Kernel {
                            // the kernel marks what is to be completed, and believes nothing else
                            unwrap::complete_checksum(&mut packet);
                        }
                        let frame = wrapped(e, &net(outer4), &packet);
                        let what = format!("{e} outer4={outer4} inner4={inner4} {place:?} veth={veth}");
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
                let by_hand = d.counters().unwrapped.load(Ordering::Relaxed);
                assert!(if place == Where::Kernel { by_hand == 0 } else { by_hand >= 4 }, "{by_hand}");
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
            unwrap: Where::User,
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
