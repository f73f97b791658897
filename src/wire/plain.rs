//! Ordinary frames, recognised and rewritten in one go.
//!
//! # Theory of operation
//! Nearly every packet is TCP or UDP, whole, behind a plain IP header behind Ethernet, and its TTL lets it
//! go on. Of such a frame every field is at a place that is known when this is compiled, so a few wide
//! comparisons say all that [`super::parse`] would find out step by step, and all headers can be written
//! without looking for them. What is not ordinary, or might change more than a deadline (SYN, FIN, RST), is
//! refused unchanged and goes the long way, which knows every case. Both write the same bytes: additions in
//! ones' complement may be done in any order (RFC 1071 section 2), and none of these sums is zero.

use super::eth::{self, Stations};
use super::sum::fold;
use super::{Family, be16, be32, be128, ipv4, ipv6, number, put16, put32, put128, tcp, udp};
use crate::addr::Mac;

/// Offset of the transport header behind a plain IPv4 header.
pub const L4_V4: usize = eth::LEN + ipv4::LEN;
/// Offset of the transport header behind a plain IPv6 header.
pub const L4_V6: usize = eth::LEN + ipv6::LEN;
/// Link header, IP header and the least a transport header can be.
const LEAST4: usize = L4_V4 + udp::LEN;
const LEAST6: usize = L4_V6 + udp::LEN;

const FLAGS: usize = 13;
const NOT_STEADY: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;

/// What [`new_ends4`] and [`new_ends6`] change: addresses and ports, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// A station as the number it is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station(u64);

impl Station {
    /// Of this address.
    pub fn of(Mac([a, b, c, d, e, f]): Mac) -> Station {
        Station(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// The family of an ordinary frame to the station `to`; `None` for every other frame.
#[inline(always)]
pub fn family(frame: &[u8], to: Station) -> Option<Family> {
    let head = frame.first_chunk::<LEAST4>()?;
    let first = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
    // EtherType, version and header length in one
    let kind = u32::from_be_bytes([0, head[12], head[13], head[14]]);
    if first << 16 != to.0 << 16 {
        None
    } else if kind == u32::from(number::ETH_IPV4) << 8 | 0x45 {
        ordinary4(head, frame).then_some(Family::V4)
    } else if kind & !15 == u32::from(number::ETH_IPV6) << 8 | 0x60 {
        ordinary6(frame).then_some(Family::V6)
    } else {
        None
    }
}

#[inline(always)]
fn ordinary4(head: &[u8; LEAST4], frame: &[u8]) -> bool {
    let ip = |at: usize| eth::LEN + at;
    let word = |at: usize| {
        let at = ip(at);
        u64::from(u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let total = usize::from(be16(head, ip(ipv4::field::TOTAL)));
    let whole = be16(head, ip(ipv4::field::FRAGMENT)) & 0x3fff == 0;
    let sound = fold(word(0) + word(4) + word(8) + word(12) + word(16)) == 0xffff;
    let inside = eth::LEN + total <= frame.len();
    sound
        && whole
        && inside
        && head[ip(ipv4::field::TTL)] > 1
        && transport(head[ip(ipv4::field::PROTO)], total, ipv4::LEN, frame, L4_V4)
}

#[inline(always)]
fn ordinary6(frame: &[u8]) -> bool {
    let Some(head) = frame.first_chunk::<LEAST6>() else { return false };
    let ip = |at: usize| eth::LEN + at;
    let total = ipv6::LEN + usize::from(be16(head, ip(ipv6::field::PAYLOAD)));
    eth::LEN + total <= frame.len()
        && head[ip(ipv6::field::HOP_LIMIT)] > 1
        && transport(head[ip(ipv6::field::NEXT)], total, ipv6::LEN, frame, L4_V6)
}

/// TCP that neither begins nor ends anything, or UDP.
#[inline(always)]
fn transport(proto: u8, total: usize, header: usize, frame: &[u8], l4: usize) -> bool {
    match proto {
        number::TCP => {
            total >= header + tcp::LEN
                && frame.get(l4 + FLAGS).is_some_and(|f| f & (NOT_STEADY | tcp::flag::ACK) == tcp::flag::ACK)
        }
        number::UDP => total >= header + udp::LEN,
        _ => false,
    }
}

/// What an ordinary IPv4 frame says: protocol, ends, length of the datagram.
#[inline(always)]
pub fn read4(frame: &[u8]) -> Option<(u8, Ends<u32>, usize)> {
    let head = frame.first_chunk::<LEAST4>()?;
    let ends = Ends {
        src: be32(head, eth::LEN + ipv4::field::SRC),
        dst: be32(head, eth::LEN + ipv4::field::DST),
        sport: be16(head, L4_V4),
        dport: be16(head, L4_V4 + 2),
    };
    let total = usize::from(be16(head, eth::LEN + ipv4::field::TOTAL));
    Some((head[eth::LEN + ipv4::field::PROTO], ends, total))
}

/// What an ordinary IPv6 frame says, as [`read4`].
#[inline(always)]
pub fn read6(frame: &[u8]) -> Option<(u8, Ends<u128>, usize)> {
    let head = frame.first_chunk::<LEAST6>()?;
    let ends = Ends {
        src: be128(head, eth::LEN + ipv6::field::SRC),
        dst: be128(head, eth::LEN + ipv6::field::DST),
        sport: be16(head, L4_V6),
        dport: be16(head, L4_V6 + 2),
    };
    let total = ipv6::LEN + usize::from(be16(head, eth::LEN + ipv6::field::PAYLOAD));
    Some((head[eth::LEN + ipv6::field::NEXT], ends, total))
}

/// Where the transport checksum is.
#[inline(always)]
fn checksum_at(proto: u8, l4: usize) -> usize {
    l4 + if proto == number::TCP { tcp::field::CHECKSUM } else { udp::field::CHECKSUM }
}

/// The new transport checksum; `None` for a datagram without one: it would need one (kernel rule 13).
#[inline(always)]
fn checksum(proto: u8, field: u16, change: u64) -> Option<u16> {
    if proto == number::TCP {
        return Some(!fold(u64::from(!field) + change));
    }
    (field != 0).then(|| udp::on_wire(!fold(u64::from(!field) + change)))
}

/// What changed ports add to a sum (RFC 1624 equation 3).
#[inline(always)]
fn ports<A>(old: &Ends<A>, new: &Ends<A>) -> u64 {
    u64::from(!old.sport) + u64::from(new.sport) + u64::from(!old.dport) + u64::from(new.dport)
}

/// What lowering the TTL adds to the sum of an IPv4 header: it is the high byte of its word.
const TTL_CHANGE: u64 = 0xffff - 0x0100;

/// An ordinary IPv4 frame whose ends are `old` goes on to `stations` with the ends `new` and a TTL one
/// lower. False: refused, nothing was written.
#[inline(always)]
pub fn new_ends4(frame: &mut [u8], proto: u8, old: &Ends<u32>, new: &Ends<u32>, stations: Stations) -> bool {
    let at = checksum_at(proto, L4_V4);
    let change = u64::from(!old.src) + u64::from(new.src) + u64::from(!old.dst) + u64::from(new.dst);
    let Some(field) = frame.get(at..at + 2) else { return false };
    let Some(field) = checksum(proto, be16(field, 0), change + ports(old, new)) else { return false };
    let Some(head) = frame.first_chunk_mut::<LEAST4>() else { return false };
    put32(head, eth::LEN + ipv4::field::SRC, new.src);
    put32(head, eth::LEN + ipv4::field::DST, new.dst);
    put16(head, L4_V4, new.sport);
    put16(head, L4_V4 + 2, new.dport);
    lower4(head, change);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
    if let Some(place) = frame.get_mut(at..at + 2) {
        put16(place, 0, field);
    }
    true
}

/// An ordinary IPv6 frame, as [`new_ends4`].
#[inline(always)]
pub fn new_ends6(
    frame: &mut [u8],
    proto: u8,
    old: &Ends<u128>,
    new: &Ends<u128>,
    stations: Stations,
) -> bool {
    let at = checksum_at(proto, L4_V6);
    let change = wide(old.src, new.src) + wide(old.dst, new.dst);
    let Some(field) = frame.get(at..at + 2) else { return false };
    let Some(field) = checksum(proto, be16(field, 0), change + ports(old, new)) else { return false };
    let Some(head) = frame.first_chunk_mut::<LEAST6>() else { return false };
    put128(head, eth::LEN + ipv6::field::SRC, new.src);
    put128(head, eth::LEN + ipv6::field::DST, new.dst);
    put16(head, L4_V6, new.sport);
    put16(head, L4_V6 + 2, new.dport);
    let hops = &mut head[eth::LEN + ipv6::field::HOP_LIMIT];
    *hops = hops.saturating_sub(1);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
    if let Some(place) = frame.get_mut(at..at + 2) {
        put16(place, 0, field);
    }
    true
}

/// What a changed IPv6 address adds to a sum.
#[inline(always)]
fn wide(old: u128, new: u128) -> u64 {
    let halves = |a: u128| (a >> 64) as u64;
    let parts = |w: u64| (w >> 32) + (w & 0xffff_ffff);
    parts(!halves(old)) + parts(!(old as u64)) + parts(halves(new)) + parts(new as u64)
}

/// The TTL of an ordinary IPv4 frame one lower, the header's sum after that and after `change`.
#[inline(always)]
fn lower4(head: &mut [u8; LEAST4], change: u64) {
    let ttl = &mut head[eth::LEN + ipv4::field::TTL];
    *ttl = ttl.saturating_sub(1);
    let field = be16(head, eth::LEN + ipv4::field::CHECKSUM);
    let field = !fold(u64::from(!field) + TTL_CHANGE + change);
    put16(head, eth::LEN + ipv4::field::CHECKSUM, field);
}

/// An ordinary IPv4 frame with a TTL one lower. False: refused, nothing was written.
#[inline(always)]
pub fn hop4(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<LEAST4>() else { return false };
    lower4(head, 0);
    true
}

/// An ordinary IPv6 frame with a hop limit one lower, as [`hop4`].
#[inline(always)]
pub fn hop6(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<LEAST6>() else { return false };
    let hops = &mut head[eth::LEN + ipv6::field::HOP_LIMIT];
    *hops = hops.saturating_sub(1);
    true
}

#[cfg(test)]
mod tests;
