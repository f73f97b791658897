//! The decapsulator: takes tunnel packets from the kernel's raw sockets (GUE: a UDP socket), unwraps them
//! and hands the inner packets back to the kernel through a device that owns the VIPs.
//!
//! The device is a TUN device where `/dev/net/tun` may be opened, else one end of a veth pair into whose
//! other end frames are injected: that needs `CAP_NET_RAW` only. The raw socket also keeps the kernel from
//! answering tunnel packets with "protocol unreachable".

use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::steps::{Journal, Undo};
use super::unwrap::{self, Encapsulation};
use crate::addr::Mac;
use crate::io::sys::netlink::Netlink;
use crate::io::sys::ns::set_sysctl;
use crate::io::sys::raw::{Injector, RawIp};
use crate::wire::number;

/// How long a thread waits before it looks whether it should stop.
const LOOK: u16 = 200;

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
    stop: Arc<AtomicBool>,
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
            stop: Arc::default(),
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
        for source in self.sources.drain(..) {
            let worker = Worker {
                source,
                inlet: self.inlet.clone(),
                encapsulation: self.encapsulation,
                vips: self.vips.clone(),
                stop: self.stop.clone(),
                counters: self.counters.clone(),
            };
            self.threads.push(std::thread::Builder::new().name("unwrap".into()).spawn(move || worker.run())?);
        }
        Ok(())
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(self) {
        // Room for a link header in front of the packet.
        const ROOM: usize = 14;
        let mut buf = vec![0u8; ROOM + 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let fd = match &self.source {
                Source::Raw(raw) => raw.as_fd(),
                Source::Udp(udp) => udp.as_fd(),
            };
            match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(LOOK)) {
                Ok(0) | Err(_) => continue,
                Ok(_) => {}
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
