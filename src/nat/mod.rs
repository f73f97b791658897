//! Network address translation: NAT and FULLNAT, both directions.
//!
//! # Theory of operation
//! [`rewrite4`] and [`rewrite6`] change addresses and ports in place and tell the checksums what changed
//! (RFC 1624), so that the cost does not grow with the packet and a checksum that was wrong stays exactly
//! as wrong (kernel rule 14). Three cases need more:
//! - *Partial checksum* (the sender left summing to its device): the field is the pseudo-header sum, not
//!   complemented; only the addresses are in it, ports are summed later by whoever completes it.
//! - *UDP without checksum* gets one, computed over the datagram (rule 13).
//! - *SCTP* has a CRC that no increment can mend: it is computed anew when a port changed (rule 16).
//!
//! Every check comes before the first write: a refused packet is unchanged.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::buf::{Csum, PacketBuf};
use crate::engine::DropReason;
use crate::wire::sum::{Delta, fold, pseudo4, pseudo6, sum};
use crate::wire::{
    Family, Meta, be16, be32, be128, ipv4, ipv6, number, put16, put32, put128, sctp, tcp, udp,
};

pub mod ftp;
pub mod icmp;
pub mod pool;

#[cfg(test)]
mod golden;

/// New ends of a packet; `None` leaves an end as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// New source address and port.
    pub src: Option<(A, u16)>,
    /// New destination address and port.
    pub dst: Option<(A, u16)>,
}

impl<A> Default for Ends<A> {
    fn default() -> Ends<A> {
        Ends { src: None, dst: None }
    }
}

/// What to rewrite, of either family.
pub type Rewrite = Ends<IpAddr>;
/// What to rewrite in an IPv4 packet; addresses as big-endian numbers.
pub type Rewrite4 = Ends<u32>;
/// What to rewrite in an IPv6 packet; addresses as big-endian numbers.
pub type Rewrite6 = Ends<u128>;

impl Rewrite {
    /// The same for IPv4; `None` when an address is IPv6.
    pub fn as4(&self) -> Option<Rewrite4> {
        let end = |e: Option<(IpAddr, u16)>| match e {
            None => Some(None),
            Some((IpAddr::V4(a), p)) => Some(Some((u32::from(a), p))),
            Some((IpAddr::V6(_), _)) => None,
        };
        Some(Ends { src: end(self.src)?, dst: end(self.dst)? })
    }
    /// The same for IPv6; `None` when an address is IPv4.
    pub fn as6(&self) -> Option<Rewrite6> {
        let end = |e: Option<(IpAddr, u16)>| match e {
            None => Some(None),
            Some((IpAddr::V6(a), p)) => Some(Some((u128::from(a), p))),
            Some((IpAddr::V4(_), _)) => None,
        };
        Some(Ends { src: end(self.src)?, dst: end(self.dst)? })
    }
}

/// Rewrites a packet of either family.
///
/// # Errors
/// [`DropReason::CannotForward`] when the plan is of another family than the packet, otherwise as
/// [`rewrite4`].
pub fn rewrite(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &Rewrite) -> Result<(), DropReason> {
    match meta.family {
        Family::V4 => rewrite4(pkt, meta, &plan.as4().ok_or(DropReason::CannotForward)?),
        Family::V6 => rewrite6(pkt, meta, &plan.as6().ok_or(DropReason::CannotForward)?),
    }
}

/// Rewrites addresses and ports of a TCP, UDP or SCTP packet over IPv4. The ports in
/// `meta` are not read.
///
/// # Errors
/// - [`DropReason::Protocol`]: another transport protocol
/// - [`DropReason::BadFragment`]: a later fragment, or any fragment of SCTP (its CRC covers the whole)
/// - [`DropReason::BadOffload`]: a partial checksum that is not this transport header's
/// - [`DropReason::CannotForward`], [`DropReason::ShortTransport`]: `meta` is not of this packet
#[inline]
pub fn rewrite4(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &Rewrite4) -> Result<(), DropReason> {
    if meta.family != Family::V4 {
        return Err(DropReason::CannotForward);
    }
    let state = state_of(pkt, meta)?;
    let (ip, l4) = split::<{ ipv4::LEN }>(pkt.bytes_mut(), meta)?;
    let mut addresses = Delta::new();
    if let Some((addr, _)) = plan.src {
        addresses = addresses.dword(be32(ip, ipv4::field::SRC), addr);
    }
    if let Some((addr, _)) = plan.dst {
        addresses = addresses.dword(be32(ip, ipv4::field::DST), addr);
    }
    let after = transport(l4, meta, plan, state, addresses)?;
    if let Some((addr, _)) = plan.src {
        put32(ip, ipv4::field::SRC, addr);
    }
    if let Some((addr, _)) = plan.dst {
        put32(ip, ipv4::field::DST, addr);
    }
    let header_sum = addresses.apply(be16(ip, ipv4::field::CHECKSUM));
    put16(ip, ipv4::field::CHECKSUM, header_sum);
    finish(pkt, meta, after);
    Ok(())
}

/// Rewrites addresses and ports of a TCP, UDP or SCTP packet over IPv6; extension headers stay.
///
/// # Errors
/// As [`rewrite4`].
#[inline]
pub fn rewrite6(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &Rewrite6) -> Result<(), DropReason> {
    if meta.family != Family::V6 {
        return Err(DropReason::CannotForward);
    }
    let state = state_of(pkt, meta)?;
    let (ip, l4) = split::<{ ipv6::LEN }>(pkt.bytes_mut(), meta)?;
    let mut addresses = Delta::new();
    if let Some((addr, _)) = plan.src {
        addresses = addresses.wide(be128(ip, ipv6::field::SRC), addr);
    }
    if let Some((addr, _)) = plan.dst {
        addresses = addresses.wide(be128(ip, ipv6::field::DST), addr);
    }
    let after = transport(l4, meta, plan, state, addresses)?;
    if let Some((addr, _)) = plan.src {
        put128(ip, ipv6::field::SRC, addr);
    }
    if let Some((addr, _)) = plan.dst {
        put128(ip, ipv6::field::DST, addr);
    }
    finish(pkt, meta, after);
    Ok(())
}

/// What the transport checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A complete checksum.
    Complete,
    /// The folded pseudo-header sum.
    Partial,
    /// A complete checksum over a payload that itself still waits for one (a tunnel packet). What the
    /// field promises is true once the inner one is filled in, so it is updated but never recomputed.
    Outer,
}

/// Work that is left after addresses and ports are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    SumUdp,
    CrcSctp,
}

#[inline]
fn state_of(pkt: &PacketBuf<'_>, meta: &Meta) -> Result<Field, DropReason> {
    let Csum::Partial { start, offset } = pkt.offload.csum else { return Ok(Field::Complete) };
    let own = match meta.proto {
        number::TCP => tcp::field::CHECKSUM,
        number::UDP => udp::field::CHECKSUM,
        _ => sctp::field::CHECKSUM,
    };
    if start == meta.l4 && usize::from(offset) == own {
        Ok(Field::Partial)
    } else if start > meta.l4 {
        Ok(Field::Outer)
    } else {
        Err(DropReason::BadOffload)
    }
}

/// The fixed IP header, and everything from the transport header to the end of the datagram.
#[inline]
fn split<'p, const N: usize>(
    frame: &'p mut [u8],
    meta: &Meta,
) -> Result<(&'p mut [u8; N], &'p mut [u8]), DropReason> {
    let frame = frame.get_mut(..meta.end as usize).ok_or(DropReason::ShortTransport)?;
    let (front, l4) = frame.split_at_mut_checked(meta.l4 as usize).ok_or(DropReason::ShortTransport)?;
    let ip = front.get_mut(meta.l3 as usize..).and_then(|ip| ip.first_chunk_mut::<N>());
    Ok((ip.ok_or(DropReason::ShortIpHeader)?, l4))
}

/// Writes the ports and the checksum field.
#[inline]
fn transport<A>(
    l4: &mut [u8],
    meta: &Meta,
    plan: &Ends<A>,
    state: Field,
    addresses: Delta,
) -> Result<After, DropReason> {
    if meta.frag_offset != 0 {
        return Err(DropReason::BadFragment);
    }
    let update = |field: u16, ports: Delta| match state {
        Field::Partial => addresses.apply_partial(field),
        Field::Complete | Field::Outer => addresses.and(ports).apply(field),
    };
    match meta.proto {
        number::TCP => {
            let l4 = l4.first_chunk_mut::<{ tcp::LEN }>().ok_or(DropReason::ShortTransport)?;
            let ports = put_ports(l4, plan);
            let field = update(be16(l4, tcp::field::CHECKSUM), ports);
            put16(l4, tcp::field::CHECKSUM, field);
            Ok(After::Nothing)
        }
        number::UDP => {
            let l4 = l4.first_chunk_mut::<{ udp::LEN }>().ok_or(DropReason::ShortTransport)?;
            let ports = put_ports(l4, plan);
            let old = be16(l4, udp::field::CHECKSUM);
            if old == 0 && state != Field::Partial {
                let whole = state == Field::Complete && !meta.more_fragments;
                return Ok(if whole { After::SumUdp } else { After::Nothing });
            }
            put16(l4, udp::field::CHECKSUM, udp::on_wire(update(old, ports)));
            Ok(After::Nothing)
        }
        number::SCTP => {
            if meta.more_fragments {
                return Err(DropReason::BadFragment);
            }
            let l4 = l4.first_chunk_mut::<{ sctp::LEN }>().ok_or(DropReason::ShortTransport)?;
            let before = be32(l4, sctp::field::SPORT);
            put_ports(l4, plan);
            let anew = state == Field::Partial || before != be32(l4, sctp::field::SPORT);
            Ok(if anew { After::CrcSctp } else { After::Nothing })
        }
        _ => Err(DropReason::Protocol),
    }
}

/// Writes the ports, which TCP, UDP and SCTP have in the same place, and tells what changed.
#[inline]
fn put_ports<A, const N: usize>(l4: &mut [u8; N], plan: &Ends<A>) -> Delta {
    let mut changed = Delta::new();
    if let Some((_, port)) = plan.src {
        changed = changed.word(be16(l4, tcp::field::SPORT), port);
        put16(l4, tcp::field::SPORT, port);
    }
    if let Some((_, port)) = plan.dst {
        changed = changed.word(be16(l4, tcp::field::DPORT), port);
        put16(l4, tcp::field::DPORT, port);
    }
    changed
}

#[inline]
fn finish(pkt: &mut PacketBuf<'_>, meta: &Meta, after: After) {
    match after {
        After::Nothing => {}
        After::SumUdp => sum_udp(pkt, meta),
        After::CrcSctp => {
            // split() proved that these bytes are there
            let l4 = pkt.bytes_mut().get_mut(meta.l4 as usize..meta.end as usize).unwrap_or_default();
            if sctp::fill(l4).is_some() {
                pkt.offload.csum = Csum::Complete;
            }
        }
    }
}

/// Gives a datagram the checksum it did not have. A super-frame keeps none, because each of its datagrams
/// would need its own, and so does a datagram whose length field is wrong: no receiver could check it.
#[cold]
fn sum_udp(pkt: &mut PacketBuf<'_>, meta: &Meta) {
    if pkt.offload.gso.is_some() {
        return;
    }
    let Some((front, l4)) = pkt.bytes_mut().split_at_mut_checked(meta.l4 as usize) else { return };
    let l4 = l4.get_mut(..meta.end as usize - meta.l4 as usize).unwrap_or_default();
    let Some(length) = l4.get(udp::field::LENGTH..udp::LEN).map(|f| be16(f, 0)) else { return };
    let Some(datagram) = l4.get_mut(..usize::from(length)).filter(|d| d.len() >= udp::LEN) else { return };
    let ip = &front[meta.l3 as usize..];
    let head = match meta.family {
        Family::V4 => {
            let word = |at| be32(ip, at).to_be_bytes();
            pseudo4(word(ipv4::field::SRC), word(ipv4::field::DST), number::UDP, length.into())
        }
        Family::V6 => {
            let wide = |at| be128(ip, at).to_be_bytes();
            pseudo6(&wide(ipv6::field::SRC), &wide(ipv6::field::DST), number::UDP, length.into())
        }
    };
    let field = udp::on_wire(!fold(head + sum(datagram)));
    put16(datagram, udp::field::CHECKSUM, field);
}

#[cfg(test)]
mod tests;
