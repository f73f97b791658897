//! The director's place on a wire, from which questions are asked: its MAC, its addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use etherparse::TcpHeader;

use super::packets::{Part, Through, first_chunk, frame, packet, through};
use super::wire::Wire;
use crate::addr::Mac;
use crate::engine::DropReason;
use crate::engine::checks::DOCTOR_PORTS;
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ndp::{Ndp, solicited_node};
use crate::wire::{Link, Meta, Parsed, icmp, ipv6, number, parse, sctp, tcp};
use crate::worker::clock;

/// How long an answer is waited for, and how often a question is asked.
const PATIENCE: Duration = Duration::from_millis(400);
const TRIES: usize = 2;
/// Port from which is asked, and the next for a second try: no connection of the director has them.
const FROM: u16 = *DOCTOR_PORTS.start();

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

/// The director's place on a wire.
pub struct Station {
    wire: Box<dyn Wire>,
    /// The director's MAC.
    pub mac: Mac,
    /// Addresses that are answered for.
    own: Vec<IpAddr>,
    /// Who asked for an address of ours, and as whom: sender address and MAC.
    asked: Vec<(IpAddr, Mac)>,
}

impl Station {
    /// Takes the place, with these addresses.
    pub fn new(wire: Box<dyn Wire>, own: Vec<IpAddr>) -> Station {
        Station { mac: wire.mac(), wire, own, asked: Vec::new() }
    }

    /// Packets are bare here: nobody has a MAC.
    pub fn bare(&self) -> bool {
        self.wire.bare()
    }

    /// It would hear what is sent to an address that is nobody's.
    pub fn hears_all(&self) -> bool {
        self.wire.hears_all() && !self.wire.bare()
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
        let found = self.claimed(&[target], sender, |found| !found.is_empty());
        found.into_iter().map(|(_, mac)| mac).collect()
    }

    /// Everybody who says to have one of these addresses, which are asked for together, as probes.
    pub fn claims(&mut self, targets: &[IpAddr]) -> Vec<(IpAddr, Mac)> {
        self.claimed(targets, None, |_| false)
    }

    fn claimed(
        &mut self,
        targets: &[IpAddr],
        sender: Option<IpAddr>,
        enough: impl Fn(&[(IpAddr, Mac)]) -> bool,
    ) -> Vec<(IpAddr, Mac)> {
        let mut found = Vec::new();
        for _ in 0..TRIES {
            for target in targets {
                if let Some(question) = self.question(*target, sender) {
                    self.send(&question);
                }
            }
            self.hear::<()>(PATIENCE, |frame, parsed| {
                let heard = targets.iter().find_map(|target| Some((*target, has(frame, parsed, *target)?)));
                found.extend(heard.filter(|heard| !found.contains(heard)));
                None
            });
            if enough(&found) {
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
        let answered = self.ask(&question, |frame, meta| {
            let reply = match meta.proto {
                number::ICMP => icmp::v4::ECHO_REPLY,
                number::ICMPV6 => icmp::v6::ECHO_REPLY,
                _ => return None,
            };
            (frame.get(meta.l4 as usize) == Some(&reply) && meta.src(frame) == dst).then_some(())
        });
        answered.is_some()
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
        let heard = self.ask(&question, |frame, meta| {
            let answer = meta.proto == number::UDP && meta.sport == dst.1 && meta.dport == FROM;
            if answer && meta.src(frame) == dst.0 {
                return Some(Knock::Open);
            }
            refusal(frame, meta, dst.0, tunnel)
        });
        heard.unwrap_or(Knock::Silent)
    }

    /// Sends the first chunk of an association. Nothing has to be taken back: who answers keeps no state yet.
    pub fn associate(&mut self, to: Mac, src: IpAddr, dst: (IpAddr, u16), tunnel: Option<Through>) -> Knock {
        let first = packet(src, dst.0, Part::Raw(number::SCTP, &first_chunk(FROM, dst.1)));
        let Some(question) = self.wrapped(to, first, tunnel) else { return Knock::Silent };
        let heard = self.ask(&question, |frame, meta| {
            let answer = meta.proto == number::SCTP && meta.sport == dst.1 && meta.dport == FROM;
            if answer && meta.src(frame) == dst.0 {
                const INIT_ACK: u8 = 2;
                let chunk = frame.get(meta.l4 as usize + sctp::LEN)?;
                return Some(if *chunk == INIT_ACK { Knock::Open } else { Knock::Closed });
            }
            refusal(frame, meta, dst.0, tunnel)
        });
        heard.unwrap_or(Knock::Silent)
    }

    /// Sends a question until a packet is the `wanted` answer.
    fn ask<R>(&mut self, question: &[u8], mut wanted: impl FnMut(&[u8], &Meta) -> Option<R>) -> Option<R> {
        (0..TRIES).find_map(|_| {
            self.send(question);
            self.hear(PATIENCE, |frame, parsed| wanted(frame, &ip(parsed)?))
        })
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
        self.wire.send(frame);
    }

    /// Listens until `wanted` has heard what it wants. Meanwhile questions for our addresses are answered.
    fn hear<R>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8], Result<Parsed, DropReason>) -> Option<R>,
    ) -> Option<R> {
        let until = Mono(clock::now().0 + patience.as_nanos() as u64);
        loop {
            let left = until.since(clock::now());
            let frames = self.wire.receive(Duration::from_nanos(left.0))?;
            for frame in &frames {
                let parsed = parse(frame, Link::Ethernet);
                self.answer(frame, parsed);
                if let Some(found) = wanted(frame, parsed) {
                    return Some(found);
                }
            }
            if until.since(clock::now()).0 == 0 {
                return None;
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
        // the tunnel's protocol, or what was inside: the address is there then, and nobody listens
        (number::ICMP, icmp::v4::UNREACHABLE, 2) | (number::ICMPV6, icmp::v6::PARAMETER_PROBLEM, 1) => {
            Some(match tunnel {
                Some(t) if from == t.to => Knock::NoProtocol,
                _ => Knock::Closed,
            })
        }
        // the port of the tunnel (GUE), or the one that was asked for
        (number::ICMP, icmp::v4::UNREACHABLE, 3) | (number::ICMPV6, icmp::v6::UNREACHABLE, 4) => {
            Some(match tunnel {
                Some(t) if from == t.to && from != asked => Knock::NoProtocol,
                _ => Knock::Closed,
            })
        }
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
