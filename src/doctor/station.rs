//! The director's place on a wire, from which questions are asked: its MAC, its addresses.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use etherparse::{IpNumber, PacketBuilder, TcpHeader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::Mac;
use crate::buf::{HEADROOM, PacketBuf};
use crate::io::packet::PacketConfig;
use crate::io::{Burst, MacChoice, OffloadMode, OpenError, PacketPort, Port as _, SendReport, Slots};
use crate::svc::{Tunnel, TunnelCsum};
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::{Link, Meta, Parsed, icmp, number, parse, tcp};
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
    own: Vec<Ipv4Addr>,
    /// Who asked for an address of ours, and as whom: sender address and MAC.
    asked: Vec<(Ipv4Addr, Mac)>,
}

impl Station {
    /// Opens the wire.
    ///
    /// # Errors
    /// As [`PacketPort::open`].
    pub fn open(interface: &str, mac: MacChoice, own: Vec<Ipv4Addr>) -> Result<Station, OpenError> {
        let interface = interface.to_owned();
        let config = PacketConfig { interface, mac, offload: OffloadMode::Off, ..PacketConfig::default() };
        let port = PacketPort::open(&config)?;
        let mac = port.info().mac.unwrap_or_default();
        Ok(Station { port, slots: Slots::for_burst(), mac, own, asked: Vec::new() })
    }

    /// Answers for one more address.
    pub fn take(&mut self, ip: Ipv4Addr) {
        self.own.push(ip);
    }

    /// The sender addresses under which this station asked for an address of ours.
    pub fn asked_as(&self, mac: Mac) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.asked.iter().filter(move |(_, m)| *m == mac).map(|(ip, _)| *ip)
    }

    /// Everybody who says to have an address.
    pub fn who_has(&mut self, target: Ipv4Addr, sender: Ipv4Addr) -> Vec<Mac> {
        let question = Arp {
            operation: Operation::Request,
            sender_mac: self.mac,
            sender_ip: sender,
            target_mac: Mac::default(),
            target_ip: target,
        };
        let mut found = Vec::new();
        for _ in 0..TRIES {
            self.send(&question.frame(Mac::BROADCAST));
            self.hear::<()>(PATIENCE, |frame, parsed| {
                if let Ok(Parsed::Arp(at)) = parsed
                    && let Some(arp) = Arp::read(&frame[at..])
                    && arp.operation == Operation::Reply
                    && arp.sender_ip == target
                    && !found.contains(&arp.sender_mac)
                {
                    found.push(arp.sender_mac);
                }
                None
            });
            if !found.is_empty() {
                break;
            }
        }
        found
    }

    /// Does a packet of `size` bytes that must not be cut come back?
    pub fn echo(&mut self, to: Mac, src: Ipv4Addr, dst: Ipv4Addr, size: usize) -> bool {
        let payload = vec![0x55; size.saturating_sub(28)];
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(self.mac.0, to.0).ipv4(src.octets(), dst.octets(), 64);
        // etherparse sets "don't fragment" by itself
        if builder.icmpv4_echo_request(FROM, size as u16).write(&mut frame, &payload).is_err() {
            return false;
        }
        (0..TRIES).any(|_| {
            self.send(&frame);
            let answered = self.hear(PATIENCE, |frame, parsed| {
                let meta = ip(parsed)?;
                let reply = frame.get(meta.l4 as usize) == Some(&icmp::v4::ECHO_REPLY);
                (meta.proto == number::ICMP && reply && meta.src(frame) == dst).then_some(())
            });
            answered.is_some()
        })
    }

    /// Sends the first packet of a connection, perhaps through a tunnel from `src` to the address given.
    pub fn knock(
        &mut self,
        to: Mac,
        src: Ipv4Addr,
        dst: (Ipv4Addr, u16),
        tunnel: Option<(Tunnel, Ipv4Addr, Ipv4Addr)>,
    ) -> Knock {
        for try_ in 0..TRIES {
            let sport = FROM + try_ as u16;
            let Some(frame) = self.syn(to, (src, sport), dst, tunnel) else { return Knock::Silent };
            self.send(&frame);
            let outer = tunnel.map(|(_, _, rip)| rip);
            let heard = self.hear(PATIENCE, |frame, parsed| {
                let meta = ip(parsed)?;
                let from = meta.src(frame);
                if meta.proto == number::TCP && (meta.sport, meta.dport) == (dst.1, sport) && from == dst.0 {
                    let syn = meta.tcp_flags & tcp::flag::SYN != 0;
                    return Some(if syn { Knock::Open } else { Knock::Closed });
                }
                let kind = frame.get(meta.l4 as usize..)?.get(..2)?;
                let about_us = Some(from) == outer.map(Into::into) || from == dst.0;
                match kind {
                    [icmp::v4::UNREACHABLE, 2] if meta.proto == number::ICMP && about_us => {
                        Some(Knock::NoProtocol)
                    }
                    [icmp::v4::UNREACHABLE, _] if meta.proto == number::ICMP && about_us => {
                        Some(Knock::Unreachable)
                    }
                    _ => None,
                }
            });
            if let Some(heard) = heard {
                if heard == Knock::Open
                    && let Some(reset) = self.reset(to, (src, sport), dst, tunnel)
                {
                    // a connection that nobody wants is not left half open
                    self.send(&reset);
                }
                return heard;
            }
        }
        Knock::Silent
    }

    fn syn(
        &self,
        to: Mac,
        src: (Ipv4Addr, u16),
        dst: (Ipv4Addr, u16),
        tunnel: Option<(Tunnel, Ipv4Addr, Ipv4Addr)>,
    ) -> Option<Vec<u8>> {
        let mut header = TcpHeader::new(src.1, dst.1, 1, 64_000);
        header.syn = true;
        self.segment(to, (src.0, dst.0), header, tunnel)
    }

    fn reset(
        &self,
        to: Mac,
        src: (Ipv4Addr, u16),
        dst: (Ipv4Addr, u16),
        tunnel: Option<(Tunnel, Ipv4Addr, Ipv4Addr)>,
    ) -> Option<Vec<u8>> {
        let mut header = TcpHeader::new(src.1, dst.1, 2, 0);
        header.rst = true;
        self.segment(to, (src.0, dst.0), header, tunnel)
    }

    fn segment(
        &self,
        to: Mac,
        (src, dst): (Ipv4Addr, Ipv4Addr),
        header: TcpHeader,
        tunnel: Option<(Tunnel, Ipv4Addr, Ipv4Addr)>,
    ) -> Option<Vec<u8>> {
        let link = PacketBuilder::ethernet2(self.mac.0, to.0);
        let mut frame = Vec::new();
        let Some((kind, dip, rip)) = tunnel else {
            let builder = link.ipv4(src.octets(), dst.octets(), 64).tcp_header(header);
            builder.write(&mut frame, &[]).ok()?;
            return Some(frame);
        };
        let mut inner = Vec::new();
        let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp_header(header);
        builder.write(&mut inner, &[]).ok()?;
        let outer = link.ipv4(dip.octets(), rip.octets(), 64);
        match kind {
            Tunnel::Ipip => outer.write(&mut frame, IpNumber::IPV4, &inner).ok()?,
            // without checksum: a receiver that wants one is the exception
            Tunnel::Gre { csum: TunnelCsum::None | TunnelCsum::Csum | TunnelCsum::RemCsum } => {
                let payload = [&[0, 0, 8, 0][..], &inner].concat();
                outer.write(&mut frame, IpNumber::GRE, &payload).ok()?;
            }
            Tunnel::Gue { port, .. } => {
                let payload = [&[0, number::IPIP, 0, 0][..], &inner].concat();
                outer.udp(FROM, port).write(&mut frame, &payload).ok()?;
            }
        }
        Some(frame)
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
        mut wanted: impl FnMut(&[u8], Result<Parsed, crate::engine::DropReason>) -> Option<R>,
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
                if let Ok(Parsed::Arp(at)) = parsed
                    && let Some(arp) = Arp::read(&frame[at..])
                {
                    self.arp(&arp);
                }
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

    fn arp(&mut self, arp: &Arp) {
        if arp.operation != Operation::Request || !self.own.contains(&arp.target_ip) {
            return;
        }
        self.asked.push((arp.sender_ip, arp.sender_mac));
        let answer = Arp {
            operation: Operation::Reply,
            sender_mac: self.mac,
            sender_ip: arp.target_ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        };
        self.send(&answer.frame(arp.sender_mac));
    }
}

fn ip(parsed: Result<Parsed, crate::engine::DropReason>) -> Option<Meta> {
    match parsed {
        Ok(Parsed::Ip(meta)) => Some(meta),
        _ => None,
    }
}
