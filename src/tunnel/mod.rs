//! Tunnelling to real servers: IPIP, GRE and GUE, either family inside and outside.
//!
//! # Theory of operation
//! [`encap`] puts the outer headers into the packet's headroom; the inner packet is not copied and not
//! changed. The outer header takes hop limit and traffic class from the inner one (kernel rules 4 to 7).
//!
//! An outer checksum (GRE, or UDP of GUE) covers the inner packet. When the inner transport checksum is
//! still partial, its final value is not needed: what is summed from `start` on will come to the
//! complement of what the field holds now, whatever the payload is. So the outer checksum is right once
//! the device has filled in the inner one ("local checksum offload"), and no payload is read.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::buf::{Csum, PacketBuf};
use crate::engine::DropReason;
use crate::svc::{Tunnel, TunnelCsum};
use crate::wire::sum::{fold, pseudo4, pseudo6, sum};
use crate::wire::{Family, Meta, be16, gre, gue, ipv4, ipv6, number, put16, sctp, udp};

mod decap;
mod outer;
pub mod whole;

use decap::gre_len;
pub use decap::{Decap, decap, quoted_inner};
pub use outer::Outer;

/// How a packet is to be encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncapPlan {
    /// Kind of tunnel.
    pub tunnel: Tunnel,
    /// Outer source: the DIP of the port towards the real server.
    pub src: IpAddr,
    /// Outer destination: the RIP, of the same family as `src`.
    pub dst: IpAddr,
    /// Copy the don't-fragment bit of an inner IPv4 packet to an outer IPv4 header (`pmtu_disc`; rule 6).
    pub copy_df: bool,
    /// Identification of an outer IPv4 header that may be fragmented; with don't-fragment it is 0.
    pub ip_id: u16,
    /// UDP source port of GUE: the same for all packets of a flow (rule 9).
    pub gue_sport: u16,
}

/// Bytes that a tunnel puts in front of a packet.
pub const fn overhead(tunnel: Tunnel, outer_v6: bool) -> usize {
    (if outer_v6 { ipv6::LEN } else { ipv4::LEN })
        + match tunnel {
            Tunnel::Ipip => 0,
            Tunnel::Gre { csum: TunnelCsum::Csum } => gre::LEN_CSUM,
            // remote checksums are GUE's; the kernel reads the option as "none" here
            Tunnel::Gre { csum: TunnelCsum::None | TunnelCsum::RemCsum } => gre::LEN,
            Tunnel::Gue { .. } => udp::LEN + gue::LEN,
        }
}

/// The inner packet as the outer headers need to know it.
struct Inner {
    tos: u8,
    ttl: u8,
    df: bool,
    /// Protocol number of an IP packet in IP, and EtherType.
    proto: u8,
    kind: u16,
    len: usize,
}

/// Encapsulates a packet whose TTL is already lowered. A link header in front and padding behind the
/// datagram are removed: afterwards the packet is the outer datagram, and the result is its [`Meta`].
///
/// # Errors
/// - [`DropReason::CannotForward`]: `src` and `dst` are of different families
/// - [`DropReason::TooBig`]: the outer datagram would exceed 65,535 bytes
/// - [`DropReason::NoHeadroom`]: less than [`overhead`] in front
/// - [`DropReason::BadSegmentation`]: a super-frame; devices cannot be told to cut one inside a tunnel, and
///   lose it in silence, so it is cut before
/// - [`DropReason::BadOffload`]: a partial checksum that is not inside the inner payload
/// - [`DropReason::ShortIpHeader`]: `meta` is not of this packet
///
/// The packet is unchanged then.
pub fn encap(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &EncapPlan) -> Result<Meta, DropReason> {
    if pkt.offload.gso.is_some() {
        return Err(DropReason::BadSegmentation);
    }
    wrap(pkt, meta, plan)
}

/// [`encap`] of whatever it is.
fn wrap(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &EncapPlan) -> Result<Meta, DropReason> {
    let inner = inner(pkt.bytes(), meta)?;
    let v6 = match (plan.src, plan.dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => false,
        (IpAddr::V6(_), IpAddr::V6(_)) => true,
        _ => return Err(DropReason::CannotForward),
    };
    let extra = overhead(plan.tunnel, v6);
    // the length field of IPv4 counts its own header, that of IPv6 does not
    let outer_ip = if v6 { ipv6::LEN } else { ipv4::LEN };
    let behind_ip = u16::try_from(extra - outer_ip + inner.len).map_err(|_| DropReason::TooBig)?;
    let total = usize::from(behind_ip) + outer_ip;
    if !v6 && total > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    if pkt.headroom() + (meta.l3 as usize) < extra {
        return Err(DropReason::NoHeadroom);
    }
    settle_checksum(pkt, meta)?;
    pkt.truncate(meta.end as usize);
    pkt.trim_front(meta.l3 as usize);
    let covered = match plan.tunnel {
        Tunnel::Gre { csum: TunnelCsum::Csum }
        | Tunnel::Gue { csum: TunnelCsum::Csum | TunnelCsum::RemCsum, .. } => {
            Some(eventual_sum(pkt.bytes(), pkt.offload.csum))
        }
        _ => None,
    };
    let header = pkt.prepend(extra).ok_or(DropReason::NoHeadroom)?;
    let (ip, rest) = header.split_at_mut(outer_ip);
    let (proto, sport, dport) = match plan.tunnel {
        Tunnel::Ipip => (inner.proto, 0, 0),
        Tunnel::Gre { .. } => {
            gre::write(rest, inner.kind);
            if let Some(covered) = covered {
                let field = !fold(sum(rest) + covered);
                put16(rest, gre::field::CHECKSUM, field);
            }
            (number::GRE, 0, 0)
        }
        Tunnel::Gue { port, .. } => {
            if let Some(head) = rest.first_chunk_mut() {
                udp::write(head, plan.gue_sport, port, behind_ip);
            }
            rest[udp::LEN..].copy_from_slice(&gue::header(inner.proto));
            if let Some(covered) = covered {
                let head = match (plan.src, plan.dst) {
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        pseudo6(&s.octets(), &d.octets(), number::UDP, behind_ip.into())
                    }
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        pseudo4(s.octets(), d.octets(), number::UDP, behind_ip.into())
                    }
                    _ => 0,
                };
                let field = udp::on_wire(!fold(head + sum(rest) + covered));
                put16(rest, udp::field::CHECKSUM, field);
            }
            (number::UDP, plan.gue_sport, port)
        }
    };
    write_ip(ip, plan, &inner, proto, behind_ip);
    Ok(Meta {
        family: if v6 { Family::V6 } else { Family::V4 },
        proto,
        tcp_flags: 0,
        ttl: inner.ttl,
        l3: 0,
        l4: outer_ip as u16,
        end: total as u32,
        sport,
        dport,
        frag_offset: 0,
        more_fragments: false,
    })
}

fn inner(frame: &[u8], meta: &Meta) -> Result<Inner, DropReason> {
    let packet = frame.get(meta.l3 as usize..meta.end as usize).ok_or(DropReason::ShortIpHeader)?;
    let len = packet.len();
    Ok(match meta.family {
        Family::V4 => {
            let h = packet.first_chunk::<{ ipv4::LEN }>().ok_or(DropReason::ShortIpHeader)?;
            let df = be16(h, ipv4::field::FRAGMENT) & ipv4::DF != 0;
            let (tos, ttl) = (h[ipv4::field::TOS], h[ipv4::field::TTL]);
            Inner { tos, ttl, df, proto: number::IPIP, kind: number::ETH_IPV4, len }
        }
        Family::V6 => {
            let h = packet.first_chunk::<{ ipv6::LEN }>().ok_or(DropReason::ShortIpHeader)?;
            let (tos, ttl) = (ipv6::class(h), h[ipv6::field::HOP_LIMIT]);
            Inner { tos, ttl, df: false, proto: number::IPV6, kind: number::ETH_IPV6, len }
        }
    })
}

/// Writes the headers of a tunnel without outer checksum around an inner packet of this family, of which
/// nothing else is known: no length, no TTL, and the header checksum of IPv4 left out.
fn write_outer(header: &mut [u8], plan: &EncapPlan, family: Family) {
    let (proto, kind) = match family {
        Family::V4 => (number::IPIP, number::ETH_IPV4),
        Family::V6 => (number::IPV6, number::ETH_IPV6),
    };
    let inner = Inner { tos: 0, ttl: 0, df: false, proto, kind, len: 0 };
    let outer_ip = if plan.src.is_ipv6() { ipv6::LEN } else { ipv4::LEN };
    let Some((ip, rest)) = header.split_at_mut_checked(outer_ip) else { return };
    let carried = match plan.tunnel {
        Tunnel::Ipip => proto,
        Tunnel::Gre { .. } => {
            gre::write(rest, kind);
            number::GRE
        }
        Tunnel::Gue { port, .. } => {
            if let Some((head, rest)) = rest.split_first_chunk_mut() {
                udp::write(head, 0, port, 0);
                rest.copy_from_slice(&gue::header(proto));
            }
            number::UDP
        }
    };
    write_ip(ip, plan, &inner, carried, 0);
    if let Some(ip) = ip.first_chunk_mut::<{ ipv4::LEN }>().filter(|_| plan.src.is_ipv4()) {
        put16(ip, ipv4::field::TOTAL, 0);
        put16(ip, ipv4::field::CHECKSUM, 0);
    }
}

/// Writes the outer IP header; `ip` is as long as one of its family.
fn write_ip(ip: &mut [u8], plan: &EncapPlan, inner: &Inner, proto: u8, behind_ip: u16) {
    // RFC 3168 section 9.1.1: congestion already experienced is not copied outside (rule 5)
    let tos = if inner.tos & 3 == 3 { inner.tos & !1 } else { inner.tos };
    match (plan.src, plan.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (u128::from(src), u128::from(dst));
            let header = ipv6::Header {
                class: tos,
                flow: 0,
                payload: behind_ip,
                next: proto,
                hop_limit: inner.ttl,
                src,
                dst,
            };
            if let Some(ip) = ip.first_chunk_mut() {
                header.write(ip);
            }
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let df = plan.copy_df && inner.df;
            let id = if df { 0 } else { plan.ip_id };
            // encap() has checked that the sum fits
            let total = behind_ip.saturating_add(ipv4::LEN as u16);
            let (src, dst) = (u32::from(src), u32::from(dst));
            let header = ipv4::Header { tos, total, id, df, ttl: inner.ttl, proto, src, dst };
            if let Some(ip) = ip.first_chunk_mut() {
                header.write(ip);
            }
        }
        _ => {}
    }
}

/// Checks where a partial checksum is. The CRC of SCTP is filled in: no device can be asked for it.
fn settle_checksum(pkt: &mut PacketBuf<'_>, meta: &Meta) -> Result<(), DropReason> {
    let Csum::Partial { start, offset } = pkt.offload.csum else {
        pkt.offload.csum = Csum::Complete;
        return Ok(());
    };
    let field = usize::from(start) + usize::from(offset);
    // an odd start would shift bytes in the sums of eventual_sum()
    let inside = start >= meta.l4 && field + 2 <= meta.end as usize;
    if !inside || !start.abs_diff(meta.l3).is_multiple_of(2) {
        return Err(DropReason::BadOffload);
    }
    if meta.proto == number::SCTP && start == meta.l4 {
        let l4 = pkt.bytes_mut().get_mut(meta.l4 as usize..meta.end as usize).unwrap_or_default();
        sctp::fill(l4).ok_or(DropReason::BadOffload)?;
        pkt.offload.csum = Csum::Complete;
    }
    Ok(())
}

/// What `bytes` will sum up to once a partial checksum in them is complete. The sum from `start` on is
/// all ones less the pseudo-header's sum then, and that is what the field holds now.
fn eventual_sum(bytes: &[u8], csum: Csum) -> u64 {
    if let Csum::Partial { start, offset } = csum {
        let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
        if let (Some(before), Some(field)) = (bytes.get(..start), bytes.get(field..field + 2)) {
            return sum(before) + u64::from(!be16(field, 0));
        }
    }
    sum(bytes)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
