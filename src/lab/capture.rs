//! What went over the wires, read from the frames themselves.
//!
//! One capture on the switch sees every frame once, when it arrives from the host that sent it. Headers
//! are read with `etherparse`, not with the director's own parser, so that one cannot hide the other's
//! mistakes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::layout::Layout;
use super::report::Hop;
use super::topology::{SwitchPort, Topology};
use crate::addr::Mac;
use crate::io::sys::raw::Capture;
use crate::real::Encapsulation;

/// A TCP segment as seen on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'f> {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// Addresses of the tunnel header, if there is one.
    pub outer: Option<(IpAddr, IpAddr)>,
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// SYN and ACK are both set: the first packet of a reply.
    pub opens_reply: bool,
    /// The first bytes of the payload (captures are cut).
    pub payload: &'f [u8],
}

/// Reads a frame; `None` when it carries no TCP. A packet inside a tunnel is what counts, if there is one.
pub fn read(frame: &[u8], encapsulation: Encapsulation) -> Option<Seen<'_>> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(eth)) = &packet.link else { return None };
    let (src_mac, dst_mac) = (Mac(eth.source()), Mac(eth.destination()));
    if let Some(tcp) = tcp(&packet) {
        return Some(seen(src_mac, dst_mac, None, tcp));
    }
    let outer = addresses(&packet)?;
    let body = match (&packet.transport, encapsulation) {
        (Some(TransportSlice::Udp(udp)), Encapsulation::Gue(port)) => {
            (udp.destination_port() == port).then(|| udp.payload())?
        }
        (None, Encapsulation::Ipip | Encapsulation::Gre) => packet.ip_payload()?.payload,
        _ => return None,
    };
    // Captures are cut, so a GRE checksum cannot be verified here; the director sends none by default.
    let inner = LaxSlicedPacket::from_ip(&body[encapsulation.inner(body)?]).ok()?;
    Some(seen(src_mac, dst_mac, Some(outer), tcp(&inner)?))
}

type Tcp<'f> = (SocketAddr, SocketAddr, bool, &'f [u8]);

fn tcp<'f>(packet: &LaxSlicedPacket<'f>) -> Option<Tcp<'f>> {
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let (src, dst) = addresses(packet)?;
    Some((
        SocketAddr::new(src, tcp.source_port()),
        SocketAddr::new(dst, tcp.destination_port()),
        tcp.syn() && tcp.ack(),
        tcp.payload(),
    ))
}

fn seen<'f>(src_mac: Mac, dst_mac: Mac, outer: Option<(IpAddr, IpAddr)>, tcp: Tcp<'f>) -> Seen<'f> {
    let (src, dst, opens_reply, payload) = tcp;
    Seen { src_mac, dst_mac, outer, src, dst, opens_reply, payload }
}

fn addresses(packet: &LaxSlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
        }
        LaxNetSlice::Ipv6(ip) => {
            Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

/// What the observer knows so far.
#[derive(Debug, Default)]
struct Log {
    /// Hops of the traced request are recorded.
    tracing: bool,
    hops: Vec<Hop>,
    /// First packets of replies that a real server sent to the director.
    taken: u64,
    /// First packets of replies that the director sent to the client.
    given: u64,
    /// Any other packet of a reply through the director.
    other: u64,
}

/// Watches the switch of a topology on a thread of its own.
#[derive(Debug)]
pub struct Observer {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Observer {
    /// Starts watching. The director's devices must be attached already.
    ///
    /// # Errors
    /// No right to capture.
    pub fn start(topology: &Topology) -> io::Result<Observer> {
        let capture = topology.switch_ns().run(Capture::open)?;
        let log = Arc::new(Mutex::new(Log::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let view = View {
            ports: topology.switch_ports().to_vec(),
            owners: topology
                .layout
                .hosts
                .iter()
                .flat_map(|h| h.nics.iter().map(|n| (n.mac, h.name.clone())))
                .collect(),
            layout: topology.layout.clone(),
        };
        let (shared, stopped) = (log.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || view.watch(&capture, &shared, &stopped))?;
        Ok(Observer { log, stop, thread: Some(thread) })
    }

    /// Records the hops of what is requested while `request` runs.
    pub fn trace<R>(&self, request: impl FnOnce() -> R) -> R {
        self.with(|l| l.tracing = true);
        let result = request();
        // The last packets of the reply may still be in the capture's queue.
        std::thread::sleep(std::time::Duration::from_millis(u64::from(QUIET) * 2));
        self.with(|l| l.tracing = false);
        result
    }

    /// Reads what is left and ends: hops, replies that passed the director, frames the capture lost.
    pub fn finish(mut self) -> Observed {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.take().and_then(|t| t.join().ok()).unwrap_or(0);
        self.with(|l| {
            let opened = l.taken.max(l.given);
            Observed {
                hops: std::mem::take(&mut l.hops),
                replies_via_director: if opened == 0 { l.other } else { opened },
                lost,
            }
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut Log) -> R) -> R {
        f(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Result of watching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The traced request and its reply.
    pub hops: Vec<Hop>,
    /// Connections whose replies passed the director.
    pub replies_via_director: u64,
    /// Frames the capture missed.
    pub lost: u32,
}

/// Milliseconds without a frame after which the capture counts as drained.
const QUIET: u8 = 50;

struct View {
    ports: Vec<SwitchPort>,
    owners: Vec<(Mac, String)>,
    layout: Layout,
}

impl View {
    fn watch(&self, capture: &Capture, log: &Mutex<Log>, stop: &AtomicBool) -> u32 {
        let mut buf = [0u8; 512];
        loop {
            let mut ready = [PollFd::new(capture.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(QUIET)) {
                Ok(0) if stop.load(Ordering::Relaxed) => return capture.lost(),
                Ok(0) | Err(_) => continue,
                Ok(_) => {}
            }
            let Ok((index, frame)) = capture.recv(&mut buf) else { continue };
            let Some(port) = self.ports.iter().find(|p| p.index == index) else { continue };
            if let Some(seen) = read(frame, self.layout.encapsulation) {
                let to = self.owners.iter().find(|(m, _)| *m == seen.dst_mac).map_or("?", |(_, h)| h);
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                self.note(&mut log, &port.host, to, &seen);
            }
        }
    }

    fn note(&self, log: &mut Log, from: &str, to: &str, s: &Seen<'_>) {
        let taken = to == "director" && from.starts_with("rs") && s.src.port() == self.layout.rport;
        let given = from == "director" && s.src == SocketAddr::new(self.layout.vip, self.layout.vport);
        match (taken, given, s.opens_reply) {
            (true, _, true) => log.taken += 1,
            (_, true, true) => log.given += 1,
            (true, _, false) | (_, true, false) => log.other += 1,
            (false, false, _) => {}
        }
        let of_request = s.payload.starts_with(b"GET ") || s.payload.starts_with(b"HTTP/1.");
        let known = log.hops.iter().any(|h| h.from == from && h.to == to && h.src_end == s.src);
        if log.tracing && of_request && !known {
            log.hops.push(Hop::new(from, to, s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame(outer: bool) -> Vec<u8> {
        let inner = PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 10], 64).tcp(40000, 80, 1, 100);
        let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut out = Vec::new();
        if outer {
            let mut packet = Vec::new();
            inner.write(&mut packet, b"GET /").unwrap();
            let ip = eth.ipv4([192, 0, 2, 2], [10, 0, 0, 11], 64);
            ip.write(&mut out, etherparse::IpNumber::IPV4, &packet).unwrap();
        } else {
            let tcp = eth.ipv4([192, 0, 2, 1], [192, 0, 2, 10], 64).tcp(40000, 80, 1, 100);
            tcp.write(&mut out, b"GET /").unwrap();
        }
        out
    }

    #[test]
    fn a_plain_and_a_tunnelled_request_read_alike_but_for_the_outer_header() {
        let (plain, wrapped) = (frame(false), frame(true));
        let plain = read(&plain, Encapsulation::Ipip).unwrap();
        let wrapped = read(&wrapped, Encapsulation::Ipip).unwrap();
        assert_eq!(plain.src.to_string(), "192.0.2.1:40000");
        assert_eq!(plain.payload, b"GET /");
        let outer = ("192.0.2.2".parse().unwrap(), "10.0.0.11".parse().unwrap());
        assert_eq!(wrapped, Seen { outer: Some(outer), ..plain });
    }

    #[test]
    fn cut_off_frames_are_read_as_far_as_they_go_and_nothing_panics() {
        for f in [frame(false), frame(true)] {
            for n in 0..f.len() {
                for e in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue(6080)] {
                    let _ = read(&f[..n], e);
                }
            }
        }
    }
}
