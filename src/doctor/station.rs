//! The director's place on a wire, from which questions are asked: its MAC, its addresses.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use etherparse::TcpHeader;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::packets::{Part, Through, frame, packet, through};
use crate::addr::Mac;
use crate::buf::{HEADROOM, PacketBuf};
use crate::engine::DropReason;
use crate::io::packet::PacketConfig;
use crate::io::{Burst, MacChoice, OffloadMode, OpenError, PacketPort, Port as _, SendReport, Slots};
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ndp::{Ndp, solicited_node};
use crate::wire::{Link, Meta, Parsed, icmp, ipv6, number, parse, tcp};
use crate::worker::clock;

/// How long an answer is waited for, and how often a question is asked.
const PATIENCE: Duration = Duration::from_millis(400);
const TRIES: usize = 2;
/// Port from which connections are tried.
const FROM: u16 = 61_013;

/// What became of the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// Somebody listens there.
    Open,
    /// A reset: nobody listens there.
    Closed,
    /// ICMP: the protocol (of the tunnel) is not spoken there.
    NoProtocol,
    /// ICMP: another kind of unreachable.
    Unreachable,
    /// Nothing.
    Silent,
}

/// A raw socket on an interface with the MAC that the director has there.
pub struct Station {
    port: PacketPort,
    slots: Slots,
    /// The director's MAC.
    pub mac: Mac,
    /// Addresses that are answered for.
    own: Vec<IpAddr>,
    /// Who asked for an address of ours, and as whom: sender address and MAC.
    asked: Vec<(IpAddr, Mac)>,
}

impl Station {
    /// Opens the wire.
    ///
    /// # Errors
    /// As [`PacketPort::open`].
    pub fn open(interface: &str, mac: MacChoice, own: Vec<IpAddr>) -> Result<Station, OpenError> {
        let interface = interface.to_owned();
        let config = PacketConfig { interface, mac, offload: OffloadMode::Off, ..PacketConfig::default() };
        let port = PacketPort::open(&config)?;
        let mac = port.info().mac.unwrap_or_default();
        Ok(Station { port, slots: Slots::for_burst(), mac, own, asked: Vec::new() })
    }

    /// Answers for one more address.
    pub fn take(&mut self, ip: IpAddr) {
        self.own.push(ip);
    }

    /// The sender addresses under which this station asked for an address of ours.
    pub fn asked_as(&self, mac: Mac) -> impl Iterator<Item = IpAddr> + '_ {
        self.asked.iter().filter(move |(_, m)| *m == mac).map(|(ip, _)| *ip)
    }

    /// Everybody who says to have an address; without `sender` it is asked as a probe, from which nobody is to
    /// learn anything.
    pub fn who_has(&mut self, target: IpAddr, sender: Option<IpAddr>) -> Vec<Mac> {
        let Some(question) = self.question(target, sender) else { return Vec::new() };
        let mut found = Vec::new();
        for _ in 0..TRIES {
            self.send(&question);
            self.hear::<()>(PATIENCE, |frame, parsed| {
                if let Some(mac) = has(frame, parsed, target)
                    && !found.contains(&mac)
                {
                    found.push(mac);
                }
                None
            });
            if !found.is_empty() {
                break;
            }
        }
        found
    }

    fn question(&self, target: IpAddr, sender: Option<IpAddr>) -> Option<Vec<u8>> {
        match (target, sender) {
            (IpAddr::V4(target_ip), sender) => {
                let sender_ip = match sender {
                    Some(IpAddr::V4(ip)) => ip,
                    _ => std::net::Ipv4Addr::UNSPECIFIED,
                };
                let question = Arp {
                    operation: Operation::Request,
                    sender_mac: self.mac,
                    sender_ip,
                    target_mac: Mac::default(),
                    target_ip,
                };
                Some(question.frame(Mac::BROADCAST).to_vec())
            }
            (IpAddr::V6(target), sender) => {
                let src = match sender {
                    Some(IpAddr::V6(ip)) => ip,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                let group = solicited_node(target);
                let source_mac = (!src.is_unspecified()).then_some(self.mac);
                let question = Ndp::Solicit { target, source_mac };
                let (bytes, len) = question.frame((Mac::of_multicast6(group), self.mac), src, group);
                Some(bytes.get(..len)?.to_vec())
            }
        }
    }

    /// Does a packet of `size` bytes that must not be cut come back?
    pub fn echo(&mut self, to: Mac, src: IpAddr, dst: IpAddr, size: usize) -> bool {
        let headers = if dst.is_ipv4() { 28 } else { 48 };
        let payload = vec![0x55; size.saturating_sub(headers)];
        let Some(question) = packet(src, dst, Part::Echo(FROM, size as u16, &payload)) else { return false };
        let question = frame(to, self.mac, &question);
        (0..TRIES).any(|_| {
            self.send(&question);
            let answered = self.hear(PATIENCE, |frame, parsed| {
                let meta = ip(parsed)?;
                let reply = match meta.proto {
                    number::ICMP => icmp::v4::ECHO_REPLY,
                    number::ICMPV6 => icmp::v6::ECHO_REPLY,
                    _ => return None,
                };
                (frame.get(meta.l4 as usize) == Some(&reply) && meta.src(frame) == dst).then_some(())
            });
            answered.is_some()
        })
    }

    /// Sends the first packet of a connection, perhaps through a tunnel.
    pub fn knock(&mut self, to: Mac, src: IpAddr, dst: (IpAddr, u16), tunnel: Option<Through>) -> Knock {
        for try_ in 0..TRIES {
            let sport = FROM + try_ as u16;
            let Some(syn) = self.segment(to, (src, sport), dst, tunnel, true) else { return Knock::Silent };
            self.send(&syn);
            let heard = self.hear(PATIENCE, |frame, parsed| {
                let meta = ip(parsed)?;
                if meta.proto == number::TCP
                    && (meta.sport, meta.dport) == (dst.1, sport)
                    && meta.src(frame) == dst.0
                {
                    let syn = meta.tcp_flags & tcp::flag::SYN != 0;
                    return Some(if syn { Knock::Open } else { Knock::Closed });
                }
                refusal(frame, &meta, dst.0, tunnel)
            });
            let Some(heard) = heard else { continue };
            if heard == Knock::Open
                && let Some(reset) = self.segment(to, (src, sport), dst, tunnel, false)
            {
                // a connection that nobody wants is not left half open
                self.send(&reset);
            }
            return heard;
        }
        Knock::Silent
    }

    /// Sends an empty datagram. `Silent` says nothing about who listens: few programs answer it.
    pub fn datagram(&mut self, to: Mac, src: IpAddr, dst: (IpAddr, u16), tunnel: Option<Through>) -> Knock {
        let Some(question) = self.wrapped(to, packet(src, dst.0, Part::Udp(FROM, dst.1, &[])), tunnel) else {
            return Knock::Silent;
        };
        for _ in 0..TRIES {
            self.send(&question);
            let heard = self.hear(PATIENCE, |frame, parsed| {
                let meta = ip(parsed)?;
                let answer = meta.proto == number::UDP && meta.sport == dst.1 && meta.dport == FROM;
                if answer && meta.src(frame) == dst.0 {
                    return Some(Knock::Open);
                }
                refusal(frame, &meta, dst.0, tunnel)
            });
            if let Some(heard) = heard {
                return heard;
            }
        }
        Knock::Silent
    }

    /// The first segment of a connection, or the reset that takes it back.
    fn segment(
        &self,
        to: Mac,
        src: (IpAddr, u16),
        dst: (IpAddr, u16),
        tunnel: Option<Through>,
        first: bool,
    ) -> Option<Vec<u8>> {
        let mut header =
            TcpHeader::new(src.1, dst.1, if first { 1 } else { 2 }, if first { 64_000 } else { 0 });
        (header.syn, header.rst) = (first, !first);
        self.wrapped(to, packet(src.0, dst.0, Part::Tcp(header)), tunnel)
    }

    fn wrapped(&self, to: Mac, inner: Option<Vec<u8>>, tunnel: Option<Through>) -> Option<Vec<u8>> {
        let packet = match tunnel {
            None => inner?,
            Some(tunnel) => through(tunnel, &inner?, FROM)?,
        };
        Some(frame(to, self.mac, &packet))
    }

    fn send(&mut self, frame: &[u8]) {
        let mut mem = vec![0; HEADROOM + frame.len() + 64];
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(frame);
        // what is not sent is not answered, and that is what is told
        let _ = self.port.send_burst(&mut [&mut pkt], &mut SendReport::default());
    }

    /// Listens until `wanted` has heard what it wants. Meanwhile questions for our addresses are answered.
    fn hear<R>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8], Result<Parsed, DropReason>) -> Option<R>,
    ) -> Option<R> {
        let until = Mono(clock::now().0 + patience.as_nanos() as u64);
        loop {
            let mut frames: Vec<Vec<u8>> = Vec::new();
            {
                let mut slots = self.slots.iter();
                let mut burst = Burst::new();
                // a device that broke is silent
                let _ = self.port.recv_burst(&mut slots, &mut burst);
                frames.extend(burst.iter().map(|p| p.bytes().to_vec()));
            }
            for frame in &frames {
                let parsed = parse(frame, Link::Ethernet);
                self.answer(frame, parsed);
                if let Some(found) = wanted(frame, parsed) {
                    return Some(found);
                }
            }
            let left = until.since(clock::now());
            if left.0 == 0 {
                return None;
            }
            if frames.is_empty() {
                let ms = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
                let fd = self.port.fd()?;
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(ms)) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        tracing::debug!("poll: {}", io::Error::from(e));
                        return None;
                    }
                }
            }
        }
    }

    /// Answers a question for an address of ours.
    fn answer(&mut self, frame: &[u8], parsed: Result<Parsed, DropReason>) {
        match parsed {
            Ok(Parsed::Arp(at)) => {
                let Some(arp) = Arp::read(&frame[at..]) else { return };
                if arp.operation != Operation::Request || !self.own.contains(&arp.target_ip.into()) {
                    return;
                }
                self.asked.push((arp.sender_ip.into(), arp.sender_mac));
                let answer = Arp {
                    operation: Operation::Reply,
                    sender_mac: self.mac,
                    sender_ip: arp.target_ip,
                    target_mac: arp.sender_mac,
                    target_ip: arp.sender_ip,
                };
                self.send(&answer.frame(arp.sender_mac));
            }
            Ok(Parsed::Ip(meta)) => {
                let Some(Ndp::Solicit { target, source_mac }) = ndp(frame, &meta) else { return };
                let IpAddr::V6(asker) = meta.src(frame) else { return };
                if asker.is_unspecified() || !self.own.contains(&target.into()) {
                    return;
                }
                let Some(mac) = source_mac.or_else(|| sender(frame)) else { return };
                self.asked.push((asker.into(), mac));
                let answer = Ndp::Advertise {
                    target,
                    target_mac: Some(self.mac),
                    router: false,
                    solicited: true,
                    replace: true,
                };
                let (bytes, len) = answer.frame((mac, self.mac), target, asker);
                self.send(&bytes[..len.min(bytes.len())]);
            }
            Ok(Parsed::Other(_)) | Err(_) => {}
        }
    }
}

/// The MAC of a station that says to have `target`.
fn has(frame: &[u8], parsed: Result<Parsed, DropReason>, target: IpAddr) -> Option<Mac> {
    match parsed.ok()? {
        Parsed::Arp(at) => {
            let arp = Arp::read(&frame[at..])?;
            (arp.operation == Operation::Reply && IpAddr::V4(arp.sender_ip) == target)
                .then_some(arp.sender_mac)
        }
        Parsed::Ip(meta) => match ndp(frame, &meta)? {
            Ndp::Advertise { target: at, target_mac, .. } if IpAddr::V6(at) == target => {
                target_mac.or_else(|| sender(frame))
            }
            Ndp::Advertise { .. } | Ndp::Solicit { .. } => None,
        },
        Parsed::Other(_) => None,
    }
}

fn ndp(frame: &[u8], meta: &Meta) -> Option<Ndp> {
    if meta.proto != number::ICMPV6 {
        return None;
    }
    let header = frame.get(meta.l3 as usize..)?.first_chunk::<{ ipv6::LEN }>()?;
    Ndp::read(header, frame.get(meta.l4 as usize..meta.end as usize)?)
}

fn sender(frame: &[u8]) -> Option<Mac> {
    Some(Mac(*frame.get(6..)?.first_chunk()?))
}

/// An ICMP error of the station that was asked.
fn refusal(frame: &[u8], meta: &Meta, asked: IpAddr, tunnel: Option<Through>) -> Option<Knock> {
    let from = meta.src(frame);
    if from != asked && tunnel.is_none_or(|t| t.to != from) {
        return None;
    }
    let [kind, code] = *frame.get(meta.l4 as usize..)?.first_chunk()?;
    match (meta.proto, kind, code) {
        (number::ICMP, icmp::v4::UNREACHABLE, 2) => Some(Knock::NoProtocol),
        // the port of the tunnel (GUE), or the one that was asked for
        (number::ICMP, icmp::v4::UNREACHABLE, 3) | (number::ICMPV6, icmp::v6::UNREACHABLE, 4) => {
            Some(match tunnel {
                Some(t) if from == t.to && from != asked => Knock::NoProtocol,
                _ => Knock::Closed,
            })
        }
        // an unknown next header
        (number::ICMPV6, icmp::v6::PARAMETER_PROBLEM, 1) => Some(Knock::NoProtocol),
        (number::ICMP, icmp::v4::UNREACHABLE, _) | (number::ICMPV6, icmp::v6::UNREACHABLE, _) => {
            Some(Knock::Unreachable)
        }
        _ => None,
    }
}

fn ip(parsed: Result<Parsed, DropReason>) -> Option<Meta> {
    match parsed {
        Ok(Parsed::Ip(meta)) => Some(meta),
        _ => None,
    }
}
