//! ICMP and ICMPv6 errors about translated connections.
//!
//! # Theory of operation
//! An error quotes the packet it is about. The quoted packet travelled on the far side of the director,
//! so it carries the addresses of that side: [`quoted`] finds it, the caller looks its ends up (reversed:
//! the quoted packet went the other way), and [`translate`] gives the outer and the quoted header the
//! addresses of this side (kernel rules 23 and 25). The quoted transport checksum is left alone (rule
//! 23): of a cut packet it cannot be checked anyway, and it tells the receiver what was really sent.

use std::net::IpAddr;

use super::{Ends, Rewrite, split};
use crate::buf::{Csum, PacketBuf};
use crate::engine::DropReason;
use crate::wire::icmp::field::{CHECKSUM, TYPE};
use crate::wire::icmp::{LEN as HEADER, v4};
use crate::wire::meta::parse_quoted;
use crate::wire::sum::{Delta, checksum, fold, pseudo6, sum};
use crate::wire::{Family, Meta, be16, be32, be128, ipv4, ipv6, number, put16, put32, put128};

/// What an ICMP message is to a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An error that follows the connection it is about (rule 22): IPv4 types 3, 4, 11; IPv6 1 to 4.
    Error,
    /// An error that is not passed on: IPv4 redirect and parameter problem.
    Swallowed,
    /// Anything else: echo, neighbour discovery, unknown types.
    Message,
}

/// Tells what an ICMP or ICMPv6 packet is; `None` when it is neither, or a later fragment.
pub fn kind(frame: &[u8], meta: &Meta) -> Option<Kind> {
    if meta.frag_offset != 0 {
        return None;
    }
    let kind = *frame.get(meta.l4 as usize + TYPE)?;
    match (meta.family, meta.proto) {
        (Family::V4, number::ICMP) => Some(match kind {
            v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::TIME_EXCEEDED => Kind::Error,
            v4::REDIRECT | v4::PARAMETER_PROBLEM => Kind::Swallowed,
            _ => Kind::Message,
        }),
        (Family::V6, number::ICMPV6) => Some(match kind {
            // also those nobody has assigned (kernel: `ICMPV6_INFOMSG_MASK`)
            0..=127 => Kind::Error,
            _ => Kind::Message,
        }),
        _ => None,
    }
}

/// Finds the packet that an ICMP error quotes: its fields, with offsets from the first byte of the frame
/// that carries the error. Any protocol is found (a tunnel's too); ports are 0 where there are none.
///
/// # Errors
/// - [`DropReason::IcmpIgnored`]: not an error that follows a connection (see [`kind`])
/// - [`DropReason::BadFragment`]: a fragment; errors are reassembled first
/// - [`DropReason::BadIcmpChecksum`]: the checksum is wrong, and no device vouches for it
/// - [`DropReason::IcmpNoConnection`]: what is quoted is a later fragment, which names no ports
/// - others of [`crate::wire::meta`]: what is quoted is no packet
pub fn quoted(pkt: &PacketBuf<'_>, meta: &Meta) -> Result<Meta, DropReason> {
    if is_broken(pkt, meta) {
        return Err(DropReason::BadIcmpChecksum);
    }
    quoted_as_it_is(pkt.bytes(), meta)
}

/// Is the checksum of an ICMP error wrong, and no device vouches for it?
pub fn is_broken(pkt: &PacketBuf<'_>, meta: &Meta) -> bool {
    let whole = !meta.is_fragment() && kind(pkt.bytes(), meta) == Some(Kind::Error);
    let message = pkt.bytes().get(..meta.end as usize).filter(|_| pkt.offload.csum == Csum::Complete);
    whole && message.is_some_and(|frame| fold(message_sum(frame, meta)) != 0xffff)
}

/// [`quoted`], whatever the checksum is.
///
/// # Errors
/// As there.
pub fn quoted_as_it_is(frame: &[u8], meta: &Meta) -> Result<Meta, DropReason> {
    if meta.is_fragment() {
        return Err(DropReason::BadFragment);
    }
    if kind(frame, meta) != Some(Kind::Error) {
        return Err(DropReason::IcmpIgnored);
    }
    // bytes behind the datagram are padding, not part of the quoted packet
    let frame = frame.get(..meta.end as usize).ok_or(DropReason::BadIpLength)?;
    let inner = parse_quoted(frame, meta.l4 as usize + HEADER, meta.family)?;
    if inner.frag_offset != 0 {
        return Err(DropReason::IcmpNoConnection);
    }
    Ok(inner)
}

/// New addresses for an error and for the packet it quotes; `None` leaves an address as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorRewrite {
    /// New source of the error: the VIP when a real server or a router behind it speaks (rule 25).
    pub src: Option<IpAddr>,
    /// New destination of the error: the real server when a client or a router before it speaks.
    pub dst: Option<IpAddr>,
    /// New ends of the quoted packet.
    pub inner: Rewrite,
}

/// Translates an error found by [`quoted`].
///
/// IPv4 header checksums are mended outside and computed anew inside, where routers leave them wrong; the
/// ICMP checksum is complete afterwards, also when it was partial.
///
/// # Errors
/// [`DropReason::CannotForward`] when an address is of another family; [`DropReason::Protocol`] when the
/// quoted packet has no ports; [`DropReason::BadOffload`] when a
/// partial checksum is not the ICMP one; [`DropReason::ShortTransport`] when `meta` or `quoted` are not of
/// this packet. The packet is unchanged then.
pub fn translate(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    quoted: &Meta,
    plan: &ErrorRewrite,
) -> Result<(), DropReason> {
    if let Csum::Partial { start, offset } = pkt.offload.csum
        && (start != meta.l4 || usize::from(offset) != CHECKSUM)
    {
        return Err(DropReason::BadOffload);
    }
    if !matches!(quoted.proto, number::TCP | number::UDP | number::SCTP) {
        return Err(DropReason::Protocol);
    }
    let at = (quoted.l3 as usize).checked_sub(meta.l4 as usize).filter(|at| *at >= HEADER);
    let at = at.ok_or(DropReason::ShortTransport)?;
    let end = (quoted.end.checked_sub(meta.l4.into())).ok_or(DropReason::ShortTransport)? as usize;
    let l4 = (quoted.l4 as usize).checked_sub(quoted.l3.into()).ok_or(DropReason::ShortTransport)?;
    let outer = Rewrite { src: plan.src.map(|a| (a, 0)), dst: plan.dst.map(|a| (a, 0)) };
    match meta.family {
        Family::V4 => {
            let outer = outer.as4().ok_or(DropReason::CannotForward)?;
            let inner = plan.inner.as4().ok_or(DropReason::CannotForward)?;
            let (ip, message) = split::<{ ipv4::LEN }>(pkt.bytes_mut(), meta)?;
            let packet = message.get_mut(at..end).ok_or(DropReason::ShortTransport)?;
            inner4(packet, l4, &inner)?;
            outer4(ip, &outer);
            put16(message, CHECKSUM, 0);
            let field = checksum(message);
            put16(message, CHECKSUM, field);
        }
        Family::V6 => {
            let outer = outer.as6().ok_or(DropReason::CannotForward)?;
            let inner = plan.inner.as6().ok_or(DropReason::CannotForward)?;
            let (ip, message) = split::<{ ipv6::LEN }>(pkt.bytes_mut(), meta)?;
            let packet = message.get_mut(at..end).ok_or(DropReason::ShortTransport)?;
            inner6(packet, l4, &inner)?;
            put_ends6(ip, &outer);
            put16(message, CHECKSUM, 0);
            let frame = pkt.bytes_mut();
            let field = !fold(message_sum(&frame[..meta.end as usize], meta));
            put16(frame, meta.l4 as usize + CHECKSUM, field);
        }
    }
    pkt.offload.csum = Csum::Complete;
    Ok(())
}

fn outer4(ip: &mut [u8; ipv4::LEN], plan: &Ends<u32>) {
    let mut changed = Delta::new();
    for (end, at) in [(plan.src, ipv4::field::SRC), (plan.dst, ipv4::field::DST)] {
        if let Some((addr, _)) = end {
            changed = changed.dword(be32(ip, at), addr);
            put32(ip, at, addr);
        }
    }
    let field = changed.apply(be16(ip, ipv4::field::CHECKSUM));
    put16(ip, ipv4::field::CHECKSUM, field);
}

fn inner4(packet: &mut [u8], l4: usize, plan: &Ends<u32>) -> Result<(), DropReason> {
    let (ip, ports) = packet.split_at_mut_checked(l4).ok_or(DropReason::ShortTransport)?;
    if ip.len() < ipv4::LEN {
        return Err(DropReason::ShortTransport);
    }
    put_ports(ports, plan)?;
    for (end, at) in [(plan.src, ipv4::field::SRC), (plan.dst, ipv4::field::DST)] {
        if let Some((addr, _)) = end {
            put32(ip, at, addr);
        }
    }
    put16(ip, ipv4::field::CHECKSUM, 0);
    let field = checksum(ip);
    put16(ip, ipv4::field::CHECKSUM, field);
    Ok(())
}

fn inner6(packet: &mut [u8], l4: usize, plan: &Ends<u128>) -> Result<(), DropReason> {
    let (ip, ports) = packet.split_at_mut_checked(l4).ok_or(DropReason::ShortTransport)?;
    let ip = ip.first_chunk_mut().ok_or(DropReason::ShortTransport)?;
    put_ports(ports, plan)?;
    put_ends6(ip, plan);
    Ok(())
}

fn put_ends6(ip: &mut [u8; ipv6::LEN], plan: &Ends<u128>) {
    for (end, at) in [(plan.src, ipv6::field::SRC), (plan.dst, ipv6::field::DST)] {
        if let Some((addr, _)) = end {
            put128(ip, at, addr);
        }
    }
}

/// Four bytes of the quoted transport header are enough (rule 24).
fn put_ports<A>(l4: &mut [u8], plan: &Ends<A>) -> Result<(), DropReason> {
    let ports = l4.first_chunk_mut::<4>().ok_or(DropReason::ShortTransport)?;
    super::put_ports(ports, plan);
    Ok(())
}

/// Sum over an ICMP message and, for ICMPv6, its pseudo-header (RFC 4443 section 2.3).
fn message_sum(frame: &[u8], meta: &Meta) -> u64 {
    let message = &frame[meta.l4 as usize..];
    let head = match meta.family {
        Family::V4 => 0,
        Family::V6 => {
            let wide = |at: usize| be128(frame, meta.l3 as usize + at).to_be_bytes();
            let (src, dst) = (wide(ipv6::field::SRC), wide(ipv6::field::DST));
            pseudo6(&src, &dst, number::ICMPV6, message.len() as u32)
        }
    };
    head + sum(message)
}

#[cfg(test)]
mod tests;
