//! Packets in words.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::tunnel;
use crate::wire::arp::{Arp, Operation};
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Link, Meta, Parsed, be16, eth, icmp, number, parse, tcp};

/// A frame in one line: `tcp 10.0.0.9:40000 > 192.0.2.10:80 SYN, ttl 64, 60 bytes`.
pub fn frame(frame: &[u8], link: Link) -> String {
    match parse(frame, link) {
        Ok(Parsed::Ip(meta)) => packet(frame, &meta),
        Ok(Parsed::Arp(at)) => match frame.get(at..).and_then(Arp::read) {
            Some(arp) => arp_words(&arp),
            None => "arp, unreadable".to_owned(),
        },
        Ok(Parsed::Other(kind)) => format!("EtherType {kind:#06x}, {} bytes", frame.len()),
        Err(why) => format!("{} bytes, not readable as a packet: {}", frame.len(), why.name()),
    }
}

/// Sender and receiver of an Ethernet frame.
pub fn stations(frame: &[u8], link: Link) -> Option<String> {
    let (to, from, _) = eth::read(frame).filter(|_| link == Link::Ethernet)?;
    Some(format!("{from} > {to}"))
}

/// An IP packet in one line, with what it carries.
pub fn packet(frame: &[u8], meta: &Meta) -> String {
    let mut text = ends(frame, meta);
    match meta.proto {
        _ if meta.frag_offset != 0 => {}
        number::TCP => {
            let _ = write!(text, " {}", flags(meta.tcp_flags));
        }
        number::ICMP | number::ICMPV6 => {
            let _ = write!(text, " {}", icmp_words(frame, meta));
        }
        number::IPIP | number::IPV6 | number::GRE => match tunnel::quoted_inner(frame, meta, None) {
            Ok(inner) => {
                let _ = write!(text, " [{}]", packet(frame, &inner));
            }
            Err(_) => text.push_str(" [unreadable]"),
        },
        number::UDP => {
            if let Ok(inner) = tunnel::quoted_inner(frame, meta, Some(meta.dport)) {
                let _ = write!(text, " gue [{}]", packet(frame, &inner));
            }
        }
        _ => {}
    }
    if meta.is_fragment() {
        let more = if meta.more_fragments { ", more follow" } else { ", the last" };
        let _ = write!(text, ", fragment at {}{more}", meta.frag_offset);
    }
    let _ = write!(text, ", ttl {}, {} bytes", meta.ttl, meta.ip_len());
    text
}

/// Protocol and ends: `tcp 10.0.0.9:40000 > 192.0.2.10:80`.
pub fn ends(frame: &[u8], meta: &Meta) -> String {
    let (src, dst) = (meta.src(frame), meta.dst(frame));
    let name = proto(meta.proto);
    if matches!(meta.proto, number::TCP | number::UDP | number::SCTP) && meta.frag_offset == 0 {
        format!("{name} {} > {}", SocketAddr::new(src, meta.sport), SocketAddr::new(dst, meta.dport))
    } else {
        format!("{name} {src} > {dst}")
    }
}

/// Name of a protocol.
pub fn proto(number: u8) -> String {
    match number {
        number::TCP => "tcp",
        number::UDP => "udp",
        number::SCTP => "sctp",
        number::ICMP => "icmp",
        number::ICMPV6 => "icmp6",
        number::IPIP => "ipip",
        number::IPV6 => "ip6ip",
        number::GRE => "gre",
        other => return format!("proto {other}"),
    }
    .to_owned()
}

/// TCP flags by name, `.` for none.
pub fn flags(bits: u8) -> String {
    let names = [
        (tcp::flag::SYN, "SYN"),
        (tcp::flag::FIN, "FIN"),
        (tcp::flag::RST, "RST"),
        (tcp::flag::PSH, "PSH"),
        (tcp::flag::ACK, "ACK"),
        (tcp::flag::URG, "URG"),
    ];
    let set: Vec<_> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { ".".to_owned() } else { set.join("+") }
}

fn icmp_words(frame: &[u8], meta: &Meta) -> String {
    let message = frame.get(meta.l4 as usize..).unwrap_or_default();
    let Some(head) = message.first_chunk::<{ icmp::LEN }>() else { return "cut off".to_owned() };
    let (kind, code) = (head[icmp::field::TYPE], head[icmp::field::CODE]);
    let v6 = meta.family == Family::V6;
    let (name, about) = match (v6, kind, code) {
        (false, icmp::v4::ECHO, _) | (true, icmp::v6::ECHO, _) => ("echo request", false),
        (false, icmp::v4::ECHO_REPLY, _) | (true, icmp::v6::ECHO_REPLY, _) => ("echo reply", false),
        (true, icmp::v6::NEIGHBOR_SOLICITATION, _) => return target("who has", message),
        (true, icmp::v6::NEIGHBOR_ADVERTISEMENT, _) => return target("here is", message),
        (false, icmp::v4::UNREACHABLE, 0) => ("network unreachable", true),
        (false, icmp::v4::UNREACHABLE, 1) | (true, icmp::v6::UNREACHABLE, 3) => ("host unreachable", true),
        (false, icmp::v4::UNREACHABLE, 2) => ("protocol unreachable", true),
        (false, icmp::v4::UNREACHABLE, 3) | (true, icmp::v6::UNREACHABLE, 4) => ("port unreachable", true),
        (false, icmp::v4::UNREACHABLE, 4) => {
            return format!("fragmentation needed, mtu {}{}", be16(head, 6), quoted(frame, meta));
        }
        (true, icmp::v6::TOO_BIG, _) => {
            return format!("packet too big, mtu {}{}", crate::wire::be32(head, 4), quoted(frame, meta));
        }
        (false, icmp::v4::UNREACHABLE, _) | (true, icmp::v6::UNREACHABLE, _) => ("unreachable", true),
        (false, icmp::v4::TIME_EXCEEDED, _) | (true, icmp::v6::TIME_EXCEEDED, _) => ("time exceeded", true),
        (false, icmp::v4::REDIRECT, _) | (true, icmp::v6::REDIRECT, _) => ("redirect", true),
        (false, icmp::v4::PARAMETER_PROBLEM, _) | (true, icmp::v6::PARAMETER_PROBLEM, _) => {
            ("parameter problem", true)
        }
        _ => return format!("type {kind} code {code}"),
    };
    if about { format!("{name}{}", quoted(frame, meta)) } else { name.to_owned() }
}

/// What an ICMP error is about.
fn quoted(frame: &[u8], meta: &Meta) -> String {
    let frame = frame.get(..meta.end as usize).unwrap_or(frame);
    match parse_quoted(frame, meta.l4 as usize + icmp::LEN, meta.family) {
        Ok(inner) => format!(" about {}", ends(frame, &inner)),
        Err(_) => String::new(),
    }
}

fn target(what: &str, message: &[u8]) -> String {
    match message.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) {
        Some(target) => format!("{what} {}", IpAddr::from(target)),
        None => format!("{what} (cut off)"),
    }
}

fn arp_words(arp: &Arp) -> String {
    match arp.operation {
        Operation::Request => format!("arp who has {} tell {}", arp.target_ip, arp.sender_ip),
        Operation::Reply => format!("arp {} is at {}", arp.sender_ip, arp.sender_mac),
    }
}
