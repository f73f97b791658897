//! What went over the wires, read from the frames themselves.
//!
//! While the first request is traced, a capture on the switch sees every frame once, when it arrives from
//! the host that sent it. All the time, captures on the director's ports count the replies that pass there.
//! Headers are read with `etherparse`, not with the director's own parser, so that one cannot hide the
//! other's mistakes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::layout::Layout;
use super::report::Hop;
use super::topology::{SwitchPort, Topology};
use crate::addr::Mac;
use crate::io::sys::ns::NetNs;
use crate::io::sys::raw::{self, Capture};
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

/// Replies seen at the director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passed {
    /// First packets of replies that a real server sent to the director.
    taken: u64,
    /// First packets of replies that the director sent to the client.
    given: u64,
    /// Any other packet of a reply through the director.
    other: u64,
    /// Frames the capture missed.
    lost: u32,
}

/// Watches the director's ports on threads of its own.
#[derive(Debug)]
pub struct Observer {
    view: Arc<View>,
    stop: Arc<AtomicBool>,
    guards: Vec<JoinHandle<Passed>>,
}

/// Result of watching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Connections whose replies passed the director.
    pub replies_via_director: u64,
    /// Frames the capture missed.
    pub lost: u32,
}

/// Milliseconds without a frame after which a capture counts as drained.
const QUIET: u8 = 50;

impl Observer {
    /// Starts watching. The director's devices must be attached already.
    ///
    /// # Errors
    /// No right to capture.
    pub fn start(topology: &Topology) -> io::Result<Observer> {
        let hosts = topology.layout.hosts.iter();
        let view = Arc::new(View {
            ns: topology.switch_ns().try_clone()?,
            ports: topology.switch_ports().to_vec(),
            owners: hosts.flat_map(|h| h.nics.iter().map(|n| (n.mac, h.name.clone()))).collect(),
            layout: topology.layout.clone(),
        });
        let mut observer = Observer { view, stop: Arc::default(), guards: Vec::new() };
        for port in observer.view.ports.iter().filter(|p| p.host == "director") {
            let capture = observer.view.ns.run(|| Capture::of(port.index))?;
            let (view, stop) = (observer.view.clone(), observer.stop.clone());
            let guard = move || {
                let mut passed = Passed::default();
                passed.lost = view.watch(&capture, &stop, |_, seen| view.count(&mut passed, seen));
                passed
            };
            observer.guards.push(std::thread::Builder::new().name("guard".into()).spawn(guard)?);
        }
        Ok(observer)
    }

    /// Runs one request and tells over which hops it and its reply went.
    ///
    /// # Errors
    /// No right to capture.
    pub fn trace(&self, request: impl FnOnce()) -> io::Result<Vec<Hop>> {
        let capture = self.view.ns.run(Capture::arrivals)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (view, stopped) = (self.view.clone(), stop.clone());
        let tracer = std::thread::Builder::new().name("tracer".into()).spawn(move || {
            let mut hops = Vec::new();
            view.watch(&capture, &stopped, |port, seen| view.follow(&mut hops, port, seen));
            hops
        })?;
        request();
        stop.store(true, Ordering::Relaxed);
        tracer.join().map_err(|_| io::Error::other("the tracing thread panicked"))
    }

    /// Reads what is left and ends.
    pub fn finish(mut self) -> Observed {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Passed::default();
        for passed in self.guards.drain(..).filter_map(|g| g.join().ok()) {
            all.taken += passed.taken;
            all.given += passed.given;
            all.other += passed.other;
            all.lost += passed.lost;
        }
        let opened = all.taken.max(all.given);
        Observed { replies_via_director: if opened == 0 { all.other } else { opened }, lost: all.lost }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What is needed to understand a frame.
#[derive(Debug)]
struct View {
    ns: NetNs,
    ports: Vec<SwitchPort>,
    owners: Vec<(Mac, String)>,
    layout: Layout,
}

impl View {
    /// Hands every TCP segment to `see` until told to stop and nothing more comes; says how many frames
    /// were lost.
    fn watch(&self, capture: &Capture, stop: &AtomicBool, mut see: impl FnMut(u32, &Seen<'_>)) -> u32 {
        let mut buf = [0u8; raw::HEAD];
        loop {
            while let Ok((index, frame)) = capture.recv(&mut buf) {
                if let Some(seen) = read(frame, self.layout.encapsulation) {
                    see(index, &seen);
                }
            }
            let mut ready = [PollFd::new(capture.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(QUIET)) == Ok(0) && stop.load(Ordering::Relaxed) {
                return capture.lost();
            }
        }
    }

    fn owner(&self, mac: Mac) -> &str {
        self.owners.iter().find(|(m, _)| *m == mac).map_or("?", |(_, h)| h)
    }

    /// At a port of the director. Who sent and who is to receive is told by the MAC addresses: a bridge may
    /// flood frames here that are for others.
    fn count(&self, passed: &mut Passed, s: &Seen<'_>) {
        let (from, to) = (self.owner(s.src_mac), self.owner(s.dst_mac));
        let taken = to == "director" && from != "client" && s.src.port() == self.layout.rport;
        let given = from == "director" && s.src == SocketAddr::new(self.layout.vip, self.layout.vport);
        match (taken, given, s.opens_reply) {
            (true, _, true) => passed.taken += 1,
            (_, true, true) => passed.given += 1,
            (true, _, false) | (_, true, false) => passed.other += 1,
            (false, false, _) => {}
        }
    }

    /// At any port: the first frame of the request and of the reply on each way.
    fn follow(&self, hops: &mut Vec<Hop>, index: u32, s: &Seen<'_>) {
        let Some(port) = self.ports.iter().find(|p| p.index == index) else { return };
        let (from, to) = (port.host.as_str(), self.owner(s.dst_mac));
        let of_request = s.payload.starts_with(b"GET ") || s.payload.starts_with(b"HTTP/1.");
        let known = hops.iter().any(|h| h.from == from && h.to == to && h.src_end == s.src);
        if of_request && !known {
            hops.push(Hop::new(from, to, s));
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
