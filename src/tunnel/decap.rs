//! The real server's side of a tunnel.

use super::eventual_sum;
use crate::buf::Csum;
use crate::engine::DropReason;
use crate::wire::meta::parse_quoted;
use crate::wire::sum::{fold, pseudo4, pseudo6};
use crate::wire::{Family, Link, Meta, Parsed, be16, be32, be128, gre, gue, ipv4, ipv6, number, parse, udp};

/// A packet found inside a tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decap {
    /// Offset of the inner IP header.
    pub inner: usize,
    /// Offset just behind the outer payload; the inner packet may be shorter.
    pub end: usize,
    /// Family of the inner packet; its version field agrees, nothing else of it is checked.
    pub family: Family,
}

/// Finds the packet inside a tunnel packet. `packet` begins with the outer IP header, `csum` is what its
/// device said, `gue_port` the UDP port on which GUE is accepted.
///
/// # Errors
/// - [`DropReason::Protocol`]: not a tunnel packet, or one that carries no IP
/// - [`DropReason::BadTunnel`]: a GRE or GUE header with options nobody here speaks, cut off, or with a
///   wrong checksum
/// - [`DropReason::BadFragment`]: a fragment; outer packets are reassembled first
/// - [`DropReason::BadVersion`]: the inner packet is not of the family announced
/// - others of [`crate::wire::parse`] about the outer header
pub fn decap(packet: &[u8], csum: Csum, gue_port: Option<u16>) -> Result<Decap, DropReason> {
    let Parsed::Ip(outer) = parse(packet, Link::Ip)? else { return Err(DropReason::Protocol) };
    if outer.is_fragment() {
        return Err(DropReason::BadFragment);
    }
    let (l4, end) = (outer.l4 as usize, outer.end as usize);
    let payload = packet.get(l4..end).ok_or(DropReason::BadIpLength)?;
    let found = match outer.proto {
        number::IPIP => Decap { inner: l4, end, family: Family::V4 },
        number::IPV6 => Decap { inner: l4, end, family: Family::V6 },
        number::GRE => {
            let (header, family) = gre_header(payload, inside(csum, l4))?;
            Decap { inner: l4 + header, end, family }
        }
        number::UDP if gue_port == Some(outer.dport) => {
            let length = usize::from(be16(payload, udp::field::LENGTH));
            let datagram = payload.get(..length).ok_or(DropReason::BadTunnel)?;
            let family = gue_family(gue_header(packet, &outer, datagram, csum)?)?;
            Decap { inner: l4 + udp::LEN + gue::LEN, end: l4 + length, family }
        }
        _ => return Err(DropReason::Protocol),
    };
    let version = packet.get(found.inner..found.end).and_then(|p| p.first()).map(|b| b >> 4);
    let agrees = version == Some(if found.family == Family::V4 { 4 } else { 6 });
    if agrees { Ok(found) } else { Err(DropReason::BadVersion) }
}

/// Finds the inner packet of a tunnel packet that an ICMP error quotes (kernel rule 33): `quoted` is what
/// [`crate::nat::icmp::quoted`] found in `frame`, `gue_port` the GUE port of its destination.
///
/// # Errors
/// - [`DropReason::Protocol`]: what is quoted is no tunnel packet
/// - [`DropReason::BadTunnel`]: its GRE or GUE header is not ours, or cut off
/// - [`DropReason::IcmpIgnored`]: fewer than 8 bytes of the inner transport header are quoted
/// - others of [`crate::wire::meta`]: the inner IP header is cut off or makes no sense
pub fn quoted_inner(frame: &[u8], quoted: &Meta, gue_port: Option<u16>) -> Result<Meta, DropReason> {
    let frame = frame.get(..quoted.end as usize).ok_or(DropReason::ShortIpHeader)?;
    let at = quoted.l4 as usize;
    let payload = frame.get(at..).ok_or(DropReason::ShortIpHeader)?;
    let (header, family) = match quoted.proto {
        number::IPIP => (0, Family::V4),
        number::IPV6 => (0, Family::V6),
        number::GRE => gre_fields(payload)?,
        number::UDP if gue_port == Some(quoted.dport) => {
            let (proto, len) = payload.get(udp::LEN..).and_then(gue::read).ok_or(DropReason::BadTunnel)?;
            (udp::LEN + len, gue_family(proto)?)
        }
        _ => return Err(DropReason::Protocol),
    };
    let inner = parse_quoted(frame, at + header, family)?;
    let enough = inner.end - u32::from(inner.l4) >= 8;
    if enough { Ok(inner) } else { Err(DropReason::IcmpIgnored) }
}

/// `csum` with offsets from `at`, as [`eventual_sum`] of the bytes from there wants it.
fn inside(csum: Csum, at: usize) -> Csum {
    match csum {
        Csum::Partial { start, offset } => Csum::Partial { start: start.saturating_sub(at as u16), offset },
        other => other,
    }
}

/// Length of the header and family of the payload; the checksum is looked at.
fn gre_header(payload: &[u8], csum: Csum) -> Result<(usize, Family), DropReason> {
    let (header, family) = gre_fields(payload)?;
    let right =
        header == gre::LEN || (payload.len() >= gre::LEN_CSUM && fold(eventual_sum(payload, csum)) == 0xffff);
    if right { Ok((header, family)) } else { Err(DropReason::BadTunnel) }
}

/// Length of the header of a GRE packet.
pub(super) fn gre_len(payload: &[u8]) -> Option<usize> {
    gre_fields(payload).ok().map(|(len, _)| len)
}

/// Length of the header and family of the payload, as the first four bytes tell.
fn gre_fields(payload: &[u8]) -> Result<(usize, Family), DropReason> {
    let header = payload.first_chunk::<{ gre::LEN }>().ok_or(DropReason::BadTunnel)?;
    let family = match be16(header, gre::field::KIND) {
        number::ETH_IPV4 => Family::V4,
        number::ETH_IPV6 => Family::V6,
        _ => return Err(DropReason::Protocol),
    };
    match be16(header, gre::field::FLAGS) {
        0 => Ok((gre::LEN, family)),
        gre::CSUM => Ok((gre::LEN_CSUM, family)),
        _ => Err(DropReason::BadTunnel),
    }
}

/// Family of the packet that GUE announces.
fn gue_family(proto: u8) -> Result<Family, DropReason> {
    match proto {
        number::IPIP => Ok(Family::V4),
        number::IPV6 => Ok(Family::V6),
        _ => Err(DropReason::Protocol),
    }
}

/// Protocol that a GUE datagram carries.
fn gue_header(packet: &[u8], outer: &Meta, datagram: &[u8], csum: Csum) -> Result<u8, DropReason> {
    let body = datagram.get(udp::LEN..).ok_or(DropReason::BadTunnel)?;
    let (proto, _) = gue::read(body).ok_or(DropReason::BadTunnel)?;
    // a device vouches for the outermost transport header only
    let vouched = match csum {
        Csum::Verified => true,
        Csum::Partial { start, .. } => start == outer.l4,
        Csum::Complete => false,
    };
    if vouched || be16(datagram, udp::field::CHECKSUM) == 0 {
        return Ok(proto);
    }
    let length = datagram.len() as u32;
    let head = match outer.family {
        Family::V4 => {
            let word = |at| be32(packet, at).to_be_bytes();
            pseudo4(word(ipv4::field::SRC), word(ipv4::field::DST), number::UDP, length)
        }
        Family::V6 => {
            let wide = |at| be128(packet, at).to_be_bytes();
            pseudo6(&wide(ipv6::field::SRC), &wide(ipv6::field::DST), number::UDP, length)
        }
    };
    let right = fold(head + eventual_sum(datagram, inside(csum, outer.l4 as usize))) == 0xffff;
    if right { Ok(proto) } else { Err(DropReason::BadTunnel) }
}
