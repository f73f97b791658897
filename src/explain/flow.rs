//! Flows as people write them, and packets of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use etherparse::{IpNumber, PacketBuilder, TcpHeader};

use crate::addr::Mac;
use crate::config::diag::{Complaint, nearest};
use crate::config::values;
use crate::engine::{Engine, PortId};
use crate::time::Mono;
use crate::wire::{Link, eth, number, sctp, tcp};

/// Sender of a packet that is made up and whose neighbour nobody knows.
const NOBODY: Mac = Mac([0x02, 0xff, 0xff, 0xff, 0xff, 0xfe]);

/// What flows are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
    /// ICMP or ICMPv6 echo requests; ports are 0.
    Echo,
}

const KINDS: [(&str, Kind); 4] =
    [("tcp", Kind::Tcp), ("udp", Kind::Udp), ("sctp", Kind::Sctp), ("icmp", Kind::Echo)];

/// `PROTOCOL SOURCE:PORT > DESTINATION:PORT`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Protocol.
    pub kind: Kind,
    /// Who sends.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, k)| *k == self.kind).map_or("?", |(n, _)| n);
        match self.kind {
            Kind::Echo => write!(f, "{name} {} > {}", self.src.ip(), self.dst.ip()),
            _ => write!(f, "{name} {} > {}", self.src, self.dst),
        }
    }
}

const EXAMPLE: &str = "for example `tcp 10.0.0.9:40000 > 192.0.2.10:80` or `icmp 10.0.0.9 > 192.0.2.10`";

impl FromStr for Flow {
    type Err = Complaint;
    fn from_str(text: &str) -> Result<Flow, Complaint> {
        let shape = || Complaint::new(format!("`{text}` is not `PROTOCOL SOURCE > DESTINATION`"), EXAMPLE);
        let (name, ends) = text.trim().split_once(char::is_whitespace).ok_or_else(shape)?;
        let kind = KINDS.iter().find(|(n, _)| *n == name).map(|(_, k)| *k).ok_or_else(|| {
            let known = "known are: tcp, udp, sctp, icmp";
            let help = match nearest(name, KINDS.iter().map(|(n, _)| *n)) {
                Some(meant) => format!("did you mean `{meant}`? {known}"),
                None => known.to_owned(),
            };
            Complaint::new(format!("`{name}` is no protocol a flow can have"), help)
        })?;
        let (src, dst) = ends.split_once('>').ok_or_else(shape)?;
        let end = |text: &str| -> Result<SocketAddr, Complaint> {
            let text = text.trim().trim_end_matches('-').trim();
            match kind {
                Kind::Echo => values::ip(text).map(|ip| SocketAddr::new(ip, 0)),
                _ => values::endpoint(text).map(|(ip, port)| SocketAddr::new(ip, port)),
            }
        };
        let flow = Flow { kind, src: end(src)?, dst: end(dst)? };
        if flow.src.is_ipv4() != flow.dst.is_ipv4() {
            return Err(Complaint::new(
                format!("{} and {} are not of one address family", flow.src.ip(), flow.dst.ip()),
                EXAMPLE,
            ));
        }
        Ok(flow)
    }
}

/// `SYN+ACK` in the bits of the header.
///
/// # Errors
/// A name is none of a flag.
pub fn tcp_flags(text: &str) -> Result<u8, Complaint> {
    let names = [
        ("SYN", tcp::flag::SYN),
        ("ACK", tcp::flag::ACK),
        ("FIN", tcp::flag::FIN),
        ("RST", tcp::flag::RST),
        ("PSH", tcp::flag::PSH),
    ];
    text.split(['+', ',']).filter(|name| !name.trim().is_empty()).try_fold(0, |bits, name| {
        let found = names.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.trim()));
        let wrong =
            || Complaint::new(format!("`{name}` is no TCP flag"), "known are: SYN, ACK, FIN, RST, PSH");
        found.map(|(_, bit)| bits | bit).ok_or_else(wrong)
    })
}

impl Flow {
    /// The next packet of the flow as it would come in on `port`: a SYN, an INIT or a datagram, and of a
    /// connection that is known an ACK or a DATA chunk.
    ///
    /// # Errors
    /// Flags were given that are none or that the protocol has not, or the packet would be too long.
    pub fn frame(
        &self,
        engine: &Engine,
        port: PortId,
        now: Mono,
        flags: Option<&str>,
        length: u16,
    ) -> Result<Vec<u8>, Complaint> {
        let known = engine.is_connection(self.proto(), self.src, self.dst);
        let flags = match flags {
            Some(_) if self.kind != Kind::Tcp => {
                return Err(Complaint::new("only packets of TCP have flags", "leave the flags out"));
            }
            Some(text) => tcp_flags(text)?,
            None if known => tcp::flag::ACK,
            None => tcp::flag::SYN,
        };
        let ip = self.packet(flags, known, usize::from(length)).ok_or_else(|| {
            Complaint::new(format!("a packet cannot carry {length} bytes"), "ask about a shorter one")
        })?;
        let from = engine.host().route(self.src.ip()).and_then(|route| {
            let mut all = engine.host().neighbors(now);
            all.find(|n| n.port == route.port && n.ip == route.next_hop)?.mac
        });
        Ok(framed(engine, port, from.unwrap_or(NOBODY), &ip))
    }

    fn proto(&self) -> u8 {
        match (self.kind, self.src.is_ipv4()) {
            (Kind::Tcp, _) => number::TCP,
            (Kind::Udp, _) => number::UDP,
            (Kind::Sctp, _) => number::SCTP,
            (Kind::Echo, true) => number::ICMP,
            (Kind::Echo, false) => number::ICMPV6,
        }
    }

    fn packet(&self, flags: u8, known: bool, length: usize) -> Option<Vec<u8>> {
        let payload = vec![0; length];
        let (sport, dport) = (self.src.port(), self.dst.port());
        let mut out = Vec::new();
        let builder = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
            (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
            _ => return None,
        };
        match self.kind {
            Kind::Tcp => {
                let mut header = TcpHeader::new(sport, dport, 1, 64_000);
                header.syn = flags & tcp::flag::SYN != 0;
                header.ack = flags & tcp::flag::ACK != 0;
                header.fin = flags & tcp::flag::FIN != 0;
                header.rst = flags & tcp::flag::RST != 0;
                header.psh = flags & tcp::flag::PSH != 0;
                builder.tcp_header(header).write(&mut out, &payload).ok()?;
            }
            Kind::Udp => builder.udp(sport, dport).write(&mut out, &payload).ok()?,
            Kind::Echo if self.src.is_ipv4() => {
                builder.icmpv4_echo_request(1, 1).write(&mut out, &payload).ok()?;
            }
            Kind::Echo => builder.icmpv6_echo_request(1, 1).write(&mut out, &payload).ok()?,
            Kind::Sctp => {
                let mut message = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                message.extend_from_slice(&[0; 8]);
                // INIT with its fixed fields, or DATA: RFC 9260 sections 3.3.1 and 3.3.2
                let (kind, body) = if known { (0, 12) } else { (1, 16) };
                let chunk = 4 + body + payload.len();
                message.extend_from_slice(&[kind, 3]);
                message.extend_from_slice(&u16::try_from(chunk).ok()?.to_be_bytes());
                message.resize(message.len() + (body + payload.len()).next_multiple_of(4), 0);
                sctp::fill(&mut message)?;
                builder.write(&mut out, IpNumber::SCTP, &message).ok()?;
            }
        }
        Some(out)
    }
}

/// A bare packet in the frame it would come in on `port`.
fn framed(engine: &Engine, port: PortId, from: Mac, ip: &[u8]) -> Vec<u8> {
    let plan = engine.host().plan();
    let Some(to) = plan.ports.get(usize::from(port.0)).filter(|p| p.link == Link::Ethernet) else {
        return ip.to_vec();
    };
    let kind = if ip.first().is_some_and(|b| b >> 4 == 6) { number::ETH_IPV6 } else { number::ETH_IPV4 };
    let mut header = [0; eth::LEN];
    eth::write(&mut header, to.mac, from, kind);
    [&header, ip].concat()
}

/// A captured frame as the port would have seen it, where capture and port are of different kinds.
pub(super) fn onto_link(engine: &Engine, port: PortId, bytes: Vec<u8>, bare: bool) -> Vec<u8> {
    let plan = engine.host().plan();
    let link = plan.ports.get(usize::from(port.0)).map_or(Link::Ethernet, |p| p.link);
    match (bare, link) {
        (true, Link::Ethernet) => framed(engine, port, NOBODY, &bytes),
        (false, Link::Ip) => bytes.get(eth::LEN..).unwrap_or_default().to_vec(),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_as_they_are_written() {
        for (text, again) in [
            ("tcp 10.0.0.9:40000 > 192.0.2.10:80", "tcp 10.0.0.9:40000 > 192.0.2.10:80"),
            ("  udp 10.0.0.9:5 -> 192.0.2.10:53 ", "udp 10.0.0.9:5 > 192.0.2.10:53"),
            ("sctp [2001:db8::9]:5>[2001:db8::10]:53", "sctp [2001:db8::9]:5 > [2001:db8::10]:53"),
            ("icmp 10.0.0.9 > 192.0.2.10", "icmp 10.0.0.9 > 192.0.2.10"),
        ] {
            assert_eq!(text.parse::<Flow>().unwrap().to_string(), again);
        }
    }

    #[test]
    fn what_is_no_flow_is_refused_with_an_example_or_a_remedy() {
        for (text, why, help) in [
            ("", "is not `PROTOCOL", "for example"),
            ("tcp", "is not `PROTOCOL", "for example"),
            ("tcp 10.0.0.9:1 192.0.2.1:2", "is not `PROTOCOL", "for example"),
            ("tpc 10.0.0.9:1 > 192.0.2.1:2", "`tpc` is no protocol", "did you mean `tcp`?"),
            ("tcp 10.0.0.9 > 192.0.2.1:2", "has no port", ""),
            ("tcp 10.0.0.9:1 > [2001:db8::1]:2", "not of one address family", "for example"),
            ("icmp 10.0.0.9:1 > 192.0.2.1", "10.0.0.9:1", ""),
        ] {
            let c = text.parse::<Flow>().unwrap_err();
            assert!(c.why.contains(why) && c.help.contains(help), "{text}: {c:?}");
        }
    }

    #[test]
    fn every_kind_of_packet_is_whole() {
        for (text, words) in [
            (
                "tcp 10.0.0.9:40000 > 192.0.2.10:80",
                "tcp 10.0.0.9:40000 > 192.0.2.10:80 SYN+ACK, ttl 64, 44 bytes",
            ),
            ("udp 10.0.0.9:4 > 192.0.2.10:80", "udp 10.0.0.9:4 > 192.0.2.10:80, ttl 64, 32 bytes"),
            ("sctp 10.0.0.9:4 > 192.0.2.10:80", "sctp 10.0.0.9:4 > 192.0.2.10:80, ttl 64, 56 bytes"),
            (
                "icmp 2001:db8::9 > 2001:db8::1",
                "icmp6 2001:db8::9 > 2001:db8::1 echo request, ttl 64, 52 bytes",
            ),
        ] {
            let flow: Flow = text.parse().unwrap();
            let packet = flow.packet(tcp_flags("syn+ACK").unwrap(), false, 4).unwrap();
            assert_eq!(crate::engine::explain::words::frame(&packet, Link::Ip), words);
        }
    }
}
