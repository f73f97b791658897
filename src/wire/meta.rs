//! Parse once to offsets.
//!
//! The checks are those of the kernel's own receive path (`ip_rcv`, `ipv6_rcv`), in its order, because
//! what it drops silently must not reach a real server (vectors `7-garbage-*`): version, header length,
//! IPv4 header checksum, total length against the frame. Bytes behind the datagram are Ethernet padding.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::number as n;
use super::{be16, be32, be128, sum};
use crate::engine::DropReason;

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet frames (TAP, raw, XDP).
    Ethernet,
    /// IP packets without any header before them (TUN).
    Ip,
}

impl Link {
    /// Bytes of link header in front of the IP header.
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Link::Ethernet => 14,
            Link::Ip => 0,
        }
    }
}

/// Address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Where the headers of a packet are and what the core needs of them. Borrows nothing.
///
/// All offsets count from the first byte of the frame and are proven to lie inside it: `l3 < l4 <= end`,
/// with at least 8 bytes at `l4` for UDP, 20 for TCP, 12 for SCTP, 8 for the family's ICMP (first
/// fragments and whole packets only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Family of the IP header at `l3`.
    pub family: Family,
    /// Transport protocol (after IPv6 extension headers).
    pub proto: u8,
    /// TCP flags byte (CWR ECE URG ACK PSH RST SYN FIN); 0 for other protocols.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// Offset just behind the IP datagram.
    pub end: u32,
    /// Source port; 0 where the protocol has none and in later fragments.
    pub sport: u16,
    /// Destination port; 0 likewise.
    pub dport: u16,
    /// Fragment offset in bytes.
    pub frag_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
}

/// What was found in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IPv4 or IPv6 packet.
    Ip(Meta),
    /// ARP, its packet at this offset (not checked further).
    Arp(usize),
    /// Another EtherType.
    Other(u16),
}

impl Meta {
    /// True for any fragment, the first included.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.frag_offset != 0
    }
    /// Source address, read from the frame this was parsed from.
    pub fn src(&self, frame: &[u8]) -> IpAddr {
        let at = self.l3 as usize;
        match self.family {
            Family::V4 => Ipv4Addr::from(be32(frame, at + 12)).into(),
            Family::V6 => Ipv6Addr::from(be128(frame, at + 8)).into(),
        }
    }
    /// Destination address, read from the frame this was parsed from.
    pub fn dst(&self, frame: &[u8]) -> IpAddr {
        let at = self.l3 as usize;
        match self.family {
            Family::V4 => Ipv4Addr::from(be32(frame, at + 16)).into(),
            Family::V6 => Ipv6Addr::from(be128(frame, at + 24)).into(),
        }
    }
    /// Length of the IP datagram, header included.
    #[inline]
    pub const fn ip_len(&self) -> usize {
        self.end as usize - self.l3 as usize
    }
    /// The same packet after `by` bytes were prepended (positive) or removed (negative) in front.
    #[must_use]
    pub fn shifted(mut self, by: isize) -> Meta {
        self.l3 = self.l3.saturating_add_signed(by as i16);
        self.l4 = self.l4.saturating_add_signed(by as i16);
        self.end = self.end.saturating_add_signed(by as i32);
        self
    }
}

/// Parses a frame of a port.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn parse(frame: &[u8], link: Link) -> Result<Parsed, DropReason> {
    let at = link.header_len();
    let kind = match link {
        Link::Ethernet => {
            if frame.len() < 14 {
                return Err(DropReason::ShortFrame);
            }
            be16(frame, 12)
        }
        Link::Ip => match frame.first().map(|b| b >> 4) {
            Some(4) => n::ETH_IPV4,
            Some(6) => n::ETH_IPV6,
            Some(_) => return Err(DropReason::BadVersion),
            None => return Err(DropReason::ShortFrame),
        },
    };
    match kind {
        n::ETH_IPV4 => parse4(frame, at, false).map(Parsed::Ip),
        n::ETH_IPV6 => parse6(frame, at, false).map(Parsed::Ip),
        n::ETH_ARP => Ok(Parsed::Arp(at)),
        other => Ok(Parsed::Other(other)),
    }
}

/// Parses the IP packet quoted in an ICMP error, at offset `at` of the frame: its length may be longer
/// than the bytes there are, and the transport header may be cut to its ports.
///
/// # Errors
/// The reason why nothing can be told from it.
pub fn parse_quoted(frame: &[u8], at: usize, family: Family) -> Result<Meta, DropReason> {
    match family {
        Family::V4 => parse4(frame, at, true),
        Family::V6 => parse6(frame, at, true),
    }
}

#[inline(always)]
fn parse4(frame: &[u8], at: usize, quoted: bool) -> Result<Meta, DropReason> {
    let rest = frame.get(at..).unwrap_or_default();
    let ip = rest.first_chunk::<20>().ok_or(DropReason::ShortIpHeader)?;
    if ip[0] >> 4 != 4 {
        return Err(DropReason::BadVersion);
    }
    let header = usize::from(ip[0] & 15) * 4;
    if header != 20 && (header < 20 || header > rest.len()) {
        return Err(DropReason::BadIpHeaderLength);
    }
    if !quoted {
        // nearly every header is without options: a fixed length needs no loop
        let ok = if header == 20 { sum::header_ok(ip) } else { sum::header_ok(&rest[..header]) };
        if !ok {
            return Err(DropReason::BadIpChecksum);
        }
    }
    let total = usize::from(be16(ip, 2));
    if total < header || (total > rest.len() && !quoted) {
        return Err(DropReason::BadIpLength);
    }
    let total = total.min(rest.len());
    let frag = be16(ip, 6);
    let mut meta = Meta {
        family: Family::V4,
        proto: ip[9],
        tcp_flags: 0,
        ttl: ip[8],
        l3: at as u16,
        l4: (at + header) as u16,
        end: (at + total) as u32,
        sport: 0,
        dport: 0,
        frag_offset: (frag & 0x1fff) << 3,
        more_fragments: frag & 0x2000 != 0,
    };
    transport(frame, &mut meta, quoted)?;
    Ok(meta)
}

/// Most extension headers a packet may have; more is an attack, not a packet.
const MAX_EXTENSIONS: usize = 8;

#[inline]
fn parse6(frame: &[u8], at: usize, quoted: bool) -> Result<Meta, DropReason> {
    let Some(ip) = frame.get(at..).filter(|ip| ip.len() >= 40) else {
        return Err(DropReason::ShortIpHeader);
    };
    if ip[0] >> 4 != 6 {
        return Err(DropReason::BadVersion);
    }
    let total = 40 + usize::from(be16(ip, 4));
    if total > ip.len() && !quoted {
        return Err(DropReason::BadIpLength);
    }
    let total = total.min(ip.len());
    let mut meta = Meta {
        family: Family::V6,
        proto: ip[6],
        tcp_flags: 0,
        ttl: ip[7],
        l3: at as u16,
        l4: 0,
        end: (at + total) as u32,
        sport: 0,
        dport: 0,
        frag_offset: 0,
        more_fragments: false,
    };
    let mut l4 = 40;
    for _ in 0..=MAX_EXTENSIONS {
        let len = match meta.proto {
            n::HOPOPTS | n::ROUTING | n::DSTOPTS if l4 + 8 <= total => 8 + usize::from(ip[l4 + 1]) * 8,
            n::AH if l4 + 8 <= total => 8 + usize::from(ip[l4 + 1]) * 4,
            n::FRAGMENT if l4 + 8 <= total => {
                let field = be16(ip, l4 + 2);
                meta.frag_offset = field & 0xfff8;
                meta.more_fragments = field & 1 != 0;
                8
            }
            n::HOPOPTS | n::ROUTING | n::DSTOPTS | n::AH | n::FRAGMENT => {
                return Err(DropReason::BadExtension);
            }
            _ => {
                meta.l4 = (at + l4) as u16;
                transport(frame, &mut meta, quoted)?;
                return Ok(meta);
            }
        };
        if l4 + len > total {
            return Err(DropReason::BadExtension);
        }
        meta.proto = ip[l4];
        l4 += len;
        if meta.frag_offset != 0 {
            // what follows is payload of another fragment, not a header
            meta.l4 = (at + l4) as u16;
            return Ok(meta);
        }
    }
    Err(DropReason::BadExtension)
}

/// Reads the transport header, which the IP header says begins at `l4`.
#[inline(always)]
fn transport(frame: &[u8], meta: &mut Meta, quoted: bool) -> Result<(), DropReason> {
    if meta.frag_offset != 0 {
        return Ok(());
    }
    let l4 = frame.get(meta.l4 as usize..meta.end as usize).unwrap_or_default();
    if meta.proto == n::TCP
        && let Some(tcp) = l4.first_chunk::<20>()
    {
        (meta.sport, meta.dport, meta.tcp_flags) = (be16(tcp, 0), be16(tcp, 2), tcp[13]);
        return Ok(());
    }
    let need = match meta.proto {
        n::TCP => 20,
        n::SCTP => 12,
        n::UDP => 8,
        n::ICMP if meta.family == Family::V4 => 8,
        n::ICMPV6 if meta.family == Family::V6 => 8,
        _ => return Ok(()),
    };
    if l4.len() < need && !(quoted && l4.len() >= 4) {
        return Err(DropReason::ShortTransport);
    }
    if !matches!(meta.proto, n::ICMP | n::ICMPV6)
        && let Some(ports) = l4.first_chunk::<4>()
    {
        meta.sport = be16(ports, 0);
        meta.dport = be16(ports, 2);
    }
    if meta.proto == n::TCP && l4.len() >= 14 {
        meta.tcp_flags = l4[13];
    }
    Ok(())
}
