//! What goes over the wires, frame by frame. Read with `etherparse`, not with the director's own parser.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use softlvs::addr::Mac;
use softlvs::io::sys::ns::NetNs;
use softlvs::io::sys::raw::Capture;
use softlvs::real::Encapsulation;

/// The first bytes of a frame and where it came in.
#[derive(Clone, Debug)]
pub struct Frame {
    pub port: u32,
    pub bytes: Vec<u8>,
}

/// Captures every frame that arrives at any interface of a namespace.
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Frame>>>,
    thread: Option<JoinHandle<u32>>,
}

impl Sniffer {
    pub fn start(ns: &NetNs) -> Sniffer {
        let capture = ns.run(Capture::arrivals).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let seen = frames.clone();
        let thread = std::thread::spawn(move || {
            let mut buf = [0; softlvs::io::sys::raw::HEAD];
            loop {
                let mut fds = [PollFd::new(capture.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(30u8)) {
                    Ok(0) if stopped.load(Ordering::Relaxed) => return capture.lost(),
                    Ok(0) | Err(_) => {}
                    Ok(_) => {
                        if let Ok((port, bytes)) = capture.recv(&mut buf) {
                            seen.lock().unwrap().push(Frame { port, bytes: bytes.to_vec() });
                        }
                    }
                }
            }
        });
        Sniffer { stop, frames, thread: Some(thread) }
    }

    /// Waits for a packet on a busy machine, where quiet wires may only mean that nobody had his turn.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Packet) -> bool) {
        eventually(Duration::from_secs(5), what, || {
            let frames = self.frames.lock().unwrap();
            frames.iter().filter_map(|f| read(&f.bytes, None)).any(|p| wanted(&p))
        });
    }

    /// Waits until the wires are quiet and gives what was seen.
    pub fn finish(mut self) -> Vec<Frame> {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.take().unwrap().join().unwrap();
        assert_eq!(lost, 0, "the capture lost frames");
        std::mem::take(&mut *self.frames.lock().unwrap())
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Addresses and life time of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    /// The tunnel's header, if the packet is in a tunnel.
    pub outer: Option<Ip>,
    pub ip: Ip,
    /// Source and destination port; for ICMP type and code.
    pub ports: (u16, u16),
    pub icmp: bool,
    /// MTU of an ICMP error that says one.
    pub mtu: u32,
}

/// Reads a frame; `None` when it carries neither TCP nor UDP nor ICMP.
pub fn read(frame: &[u8], tunnel: Option<Encapsulation>) -> Option<Packet> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(eth)) = &packet.link else { return None };
    let macs = (Mac(eth.source()), Mac(eth.destination()));
    let ip = ip(&packet)?;
    let body = match (&packet.transport, tunnel) {
        (Some(TransportSlice::Udp(udp)), Some(Encapsulation::Gue(port)))
            if udp.destination_port() == port =>
        {
            // draft-ietf-intarea-gue: variant 0, no flags, no options.
            assert_eq!(&udp.payload()[..2], &[0, if inner_v4(&udp.payload()[4..]) { 4 } else { 41 }]);
            Some(&udp.payload()[4..])
        }
        (None, Some(Encapsulation::Ipip)) => Some(packet.ip_payload()?.payload),
        (None, Some(Encapsulation::Gre)) => {
            let gre = packet.ip_payload()?.payload;
            let ether_type = if inner_v4(&gre[4..]) { [8, 0] } else { [0x86, 0xdd] };
            assert_eq!((&gre[..2], &gre[2..4]), (&[0, 0][..], &ether_type[..]), "GRE header");
            Some(&gre[4..])
        }
        _ => None,
    };
    match body {
        None => packet_of(macs, None, ip, &packet),
        Some(body) => {
            let inner = LaxSlicedPacket::from_ip(body).ok()?;
            packet_of(macs, Some(ip), self::ip(&inner)?, &inner)
        }
    }
}

fn inner_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

fn packet_of(macs: (Mac, Mac), outer: Option<Ip>, ip: Ip, p: &LaxSlicedPacket<'_>) -> Option<Packet> {
    let word = |b: [u8; 4]| u32::from_be_bytes(b);
    let (ports, icmp, mtu) = match p.transport.as_ref()? {
        TransportSlice::Tcp(t) => ((t.source_port(), t.destination_port()), false, 0),
        TransportSlice::Udp(u) => ((u.source_port(), u.destination_port()), false, 0),
        TransportSlice::Icmpv4(i) => {
            ((i.type_u8().into(), i.code_u8().into()), true, word(i.bytes5to8()) & 0xffff)
        }
        TransportSlice::Igmp(_) => return None,
        TransportSlice::Icmpv6(i) => ((i.type_u8().into(), i.code_u8().into()), true, word(i.bytes5to8())),
    };
    Some(Packet { src_mac: macs.0, dst_mac: macs.1, outer, ip, ports, icmp, mtu })
}

fn ip(packet: &LaxSlicedPacket<'_>) -> Option<Ip> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let h = ip.header();
            Some(Ip { src: h.source_addr().into(), dst: h.destination_addr().into(), ttl: h.ttl() })
        }
        LaxNetSlice::Ipv6(ip) => {
            let h = ip.header();
            Some(Ip { src: h.source_addr().into(), dst: h.destination_addr().into(), ttl: h.hop_limit() })
        }
        LaxNetSlice::Arp(_) => None,
    }
}

/// True when the frame holds these bytes.
pub fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|w| w == marker)
}

/// Bytes received and sent so far by an interface of a namespace.
pub fn counters(ns: &NetNs, interface: &str) -> (u64, u64) {
    let n = numbers(ns, interface);
    (n[0], n[8])
}

/// Frames received so far by an interface of a namespace.
pub fn received(ns: &NetNs, interface: &str) -> u64 {
    numbers(ns, interface)[1]
}

/// The numbers of proc_pid_net(5), `dev`: bytes, packets and six more received, then the same sent.
fn numbers(ns: &NetNs, interface: &str) -> Vec<u64> {
    let table = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let line = table
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(interface)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {interface} in\n{table}"));
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// Asks again until it is so, or panics with the reason after `patience`.
pub fn eventually(patience: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
