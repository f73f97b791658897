//! The questions as packets, IPv4 and IPv6, through a tunnel or not.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder, TcpHeader};

use crate::addr::Mac;
use crate::svc::Tunnel;
use crate::wire::{eth, number, sctp};

/// What is inside an IP header.
pub enum Part<'a> {
    /// A segment without data.
    Tcp(TcpHeader),
    /// A datagram: source port, destination port, data.
    Udp(u16, u16, &'a [u8]),
    /// An echo request: identifier, sequence number, data.
    Echo(u16, u16, &'a [u8]),
    /// Something of a protocol.
    Raw(u8, &'a [u8]),
}

/// A tunnel to be tried, from one address to another.
#[derive(Clone, Copy, Debug)]
pub struct Through {
    /// Its type.
    pub kind: Tunnel,
    /// Outer source.
    pub from: IpAddr,
    /// Outer destination.
    pub to: IpAddr,
}

/// An IP packet that must not be cut; `None` when the addresses are of two families.
pub fn packet(src: IpAddr, dst: IpAddr, part: Part<'_>) -> Option<Vec<u8>> {
    // etherparse sets "don't fragment" by itself
    let ip = match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 64),
        _ => return None,
    };
    let mut out = Vec::new();
    match part {
        Part::Tcp(header) => ip.tcp_header(header).write(&mut out, &[]),
        Part::Udp(from, to, data) => ip.udp(from, to).write(&mut out, data),
        Part::Echo(id, seq, data) if src.is_ipv4() => ip.icmpv4_echo_request(id, seq).write(&mut out, data),
        Part::Echo(id, seq, data) => ip.icmpv6_echo_request(id, seq).write(&mut out, data),
        Part::Raw(proto, data) => ip.write(&mut out, IpNumber(proto), data),
    }
    .ok()?;
    Some(out)
}

/// The packet with which an SCTP association begins (RFC 9260 section 3.3.2).
pub fn first_chunk(from: u16, to: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    // no tag yet, and the checksum
    out.extend([0; 8]);
    // INIT of 20 bytes: tag, receive window, one stream each way, first TSN
    out.extend([1, 0, 0, 20]);
    out.extend([0x50, 0x17, 0x1b, 0x5a]);
    out.extend(65_536u32.to_be_bytes());
    out.extend([0, 1, 0, 1]);
    out.extend([0, 0, 0, 1]);
    // it is longer than the common header
    let _ = sctp::fill(&mut out);
    out
}

/// The packet inside its tunnel; `source` is the port from which GUE comes.
pub fn through(tunnel: Through, inner: &[u8], source: u16) -> Option<Vec<u8>> {
    let (proto, ether) = match inner.first()? >> 4 {
        4 => (number::IPIP, number::ETH_IPV4),
        _ => (number::IPV6, number::ETH_IPV6),
    };
    let [high, low] = ether.to_be_bytes();
    match tunnel.kind {
        Tunnel::Ipip => packet(tunnel.from, tunnel.to, Part::Raw(proto, inner)),
        // without checksum: a receiver that wants one is the exception
        Tunnel::Gre { .. } => {
            let data = [&[0, 0, high, low][..], inner].concat();
            packet(tunnel.from, tunnel.to, Part::Raw(number::GRE, &data))
        }
        Tunnel::Gue { port, .. } => {
            let data = [&[0, proto, 0, 0][..], inner].concat();
            packet(tunnel.from, tunnel.to, Part::Udp(source, port, &data))
        }
    }
}

/// The frame with this packet.
pub fn frame(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let ether = if packet.first().is_some_and(|b| b >> 4 == 4) { number::ETH_IPV4 } else { number::ETH_IPV6 };
    let mut out = Vec::with_capacity(eth::LEN + packet.len());
    out.extend(to.0);
    out.extend(from.0);
    out.extend(ether.to_be_bytes());
    out.extend(packet);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svc::TunnelCsum;
    use crate::wire::{Link, Parsed, parse};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_question_is_a_packet_that_the_director_itself_would_take() {
        let ends = [("192.0.2.1", "192.0.2.10"), ("2001:db8::1", "2001:db8::10")];
        for (src, dst) in ends {
            for part in [
                Part::Tcp(TcpHeader::new(1, 2, 3, 4)),
                Part::Udp(1, 2, b""),
                Part::Echo(1, 2, b"x"),
                Part::Raw(47, b"y"),
                Part::Raw(number::SCTP, &first_chunk(1022, 80)),
            ] {
                let inner = packet(ip(src), ip(dst), part).unwrap();
                let Ok(Parsed::Ip(meta)) = parse(&frame(Mac([2; 6]), Mac([4; 6]), &inner), Link::Ethernet)
                else {
                    panic!("{src}")
                };
                assert_eq!(meta.end as usize, 14 + inner.len());
                for (from, to) in ends {
                    for kind in [
                        Tunnel::Ipip,
                        Tunnel::Gre { csum: TunnelCsum::None },
                        Tunnel::Gue { port: 6080, csum: TunnelCsum::None },
                    ] {
                        let outer = through(Through { kind, from: ip(from), to: ip(to) }, &inner, 9).unwrap();
                        assert!(outer.ends_with(&inner));
                        let whole = frame(Mac([2; 6]), Mac([4; 6]), &outer);
                        assert!(
                            matches!(parse(&whole, Link::Ethernet), Ok(Parsed::Ip(_))),
                            "{kind:?} {from}"
                        );
                    }
                }
            }
        }
        assert!(sctp::checksum_ok(&first_chunk(1022, 80)));
        assert!(packet(ip("192.0.2.1"), ip("2001:db8::1"), Part::Raw(4, b"")).is_none());
    }
}
