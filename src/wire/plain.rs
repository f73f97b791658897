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
use super::{Family, Meta, be16, be32, be64, be128, ipv4, ipv6, number, put32, put64, put128, tcp, udp};
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

/// Addresses and ports, source before destination, as few and wide numbers: what a frame is compared with
/// and what [`new_ends4`] and [`new_ends6`] write. `P` is `u64` for IPv4 and `[u128; 2]` for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<P> {
    /// Source address, destination address.
    pub addresses: P,
    /// Source port in the high half, destination port in the low one.
    pub ports: u32,
}

impl<P> Ends<P> {
    /// From addresses and the two ports.
    #[inline(always)]
    pub fn new(addresses: P, sport: u16, dport: u16) -> Ends<P> {
        Ends { addresses, ports: u32::from(sport) << 16 | u32::from(dport) }
    }
}

/// What a translation adds to checksums (RFC 1624 equation 3), the TTL one lower included. It is the same
/// for every packet of a connection in one direction, so connections have it ready. Zero changes nothing
/// but what zero means: no sum of a translation is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// To that of the IPv4 header. Both as they are read from a frame in the machine's own order.
    ip: u16,
    /// To that of TCP or UDP.
    l4: u16,
}

impl Change {
    /// Of an IPv4 packet, and of one that goes the other way.
    #[inline]
    pub fn of4(old: Ends<u64>, new: Ends<u64>) -> [Change; 2] {
        // a number and its complement are all ones, so what undoes a change is what is left of as many
        let addresses = halves(!old.addresses) + halves(new.addresses);
        let ports = ports(old.ports, new.ports);
        [(addresses, ports), (4 * HALF - addresses, 2 * HALF - ports)]
            .map(|(addresses, ports)| Change::with(addresses + TTL_CHANGE, addresses + ports))
    }
    /// Of an IPv6 packet, whose header has no checksum, and of one that goes the other way.
    #[inline]
    pub fn of6(old: Ends<[u128; 2]>, new: Ends<[u128; 2]>) -> [Change; 2] {
        let sum = |[a, b]: [u128; 2]| [a, b].map(|w| halves((w >> 64) as u64) + halves(w as u64));
        let [a, b] = sum(old.addresses.map(|a| !a));
        let [c, d] = sum(new.addresses);
        let change = a + b + c + d + ports(old.ports, new.ports);
        [change, 18 * HALF - change].map(|change| Change::with(0, change))
    }
    const fn with(ip: u64, l4: u64) -> Change {
        // an addition in the other order of bytes gives the same, in that order (RFC 1071 section 2)
        Change { ip: fold(ip).to_be(), l4: fold(l4).to_be() }
    }
}

/// All ones in half a word.
const HALF: u64 = 0xffff_ffff;

const fn halves(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

/// What changed ports add to a sum.
const fn ports(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// A checksum field after a change; all three in one order of bytes.
#[inline(always)]
fn step(field: u16, change: u16) -> u16 {
    let (sum, carry) = (!field).overflowing_add(change);
    !(sum + u16::from(carry))
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

/// An ordinary frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It goes on with something.
    Goes(Family),
    /// It may begin a connection: only its SYN is not ordinary.
    Begins(Family),
}

/// What TCP flags say.
const GOES: u8 = tcp::flag::ACK;
const BEGINS: u8 = tcp::flag::SYN;

/// What an ordinary frame to the station `to` is; `None` for every other frame.
#[inline(always)]
pub fn sort(frame: &[u8], to: Station) -> Option<Plain> {
    let head = frame.first_chunk::<LEAST4>()?;
    let first = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
    // EtherType, version and header length in one
    let kind = u32::from_be_bytes([0, head[12], head[13], head[14]]);
    if first << 16 != to.0 << 16 {
        None
    } else if kind == u32::from(number::ETH_IPV4) << 8 | 0x45 {
        ordinary4(head, frame)
            .map(|begins| if begins { Plain::Begins(Family::V4) } else { Plain::Goes(Family::V4) })
    } else if kind & !15 == u32::from(number::ETH_IPV6) << 8 | 0x60 {
        ordinary6(frame)
            .map(|begins| if begins { Plain::Begins(Family::V6) } else { Plain::Goes(Family::V6) })
    } else {
        None
    }
}

/// Whether it begins something.
#[inline(always)]
fn ordinary4(head: &[u8; LEAST4], frame: &[u8]) -> Option<bool> {
    let ip = |at: usize| eth::LEN + at;
    let word = |at: usize| {
        let at = ip(at);
        u64::from(u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let total = usize::from(be16(head, ip(ipv4::field::TOTAL)));
    let whole = be16(head, ip(ipv4::field::FRAGMENT)) & 0x3fff == 0;
    let sound = fold(word(0) + word(4) + word(8) + word(12) + word(16)) == 0xffff;
    let inside = eth::LEN + total <= frame.len();
    if !(sound && whole && inside && head[ip(ipv4::field::TTL)] > 1) {
        return None;
    }
    transport(head[ip(ipv4::field::PROTO)], total, ipv4::LEN, frame, L4_V4)
}

#[inline(always)]
fn ordinary6(frame: &[u8]) -> Option<bool> {
    let head = frame.first_chunk::<LEAST6>()?;
    let ip = |at: usize| eth::LEN + at;
    let total = ipv6::LEN + usize::from(be16(head, ip(ipv6::field::PAYLOAD)));
    if eth::LEN + total > frame.len() || head[ip(ipv6::field::HOP_LIMIT)] <= 1 {
        return None;
    }
    transport(head[ip(ipv6::field::NEXT)], total, ipv6::LEN, frame, L4_V6)
}

/// Whether TCP begins something; `None` where it ends something, or for what is neither TCP nor UDP.
#[inline(always)]
fn transport(proto: u8, total: usize, header: usize, frame: &[u8], l4: usize) -> Option<bool> {
    match proto {
        number::TCP if total >= header + tcp::LEN => {
            match frame.get(l4 + FLAGS)? & (NOT_STEADY | tcp::flag::ACK) {
                GOES => Some(false),
                BEGINS => Some(true),
                _ => None,
            }
        }
        number::UDP if total >= header + udp::LEN => Some(false),
        _ => None,
    }
}

/// An ordinary frame as [`super::parse`] would find it.
#[inline(always)]
pub fn meta(frame: &[u8], family: Family) -> Option<Meta> {
    let (l4, proto, ports, size, ttl) = match family {
        Family::V4 => {
            let (proto, ends, size) = read4(frame)?;
            (L4_V4, proto, ends.ports, size, *frame.get(eth::LEN + ipv4::field::TTL)?)
        }
        Family::V6 => {
            let (proto, ends, size) = read6(frame)?;
            (L4_V6, proto, ends.ports, size, *frame.get(eth::LEN + ipv6::field::HOP_LIMIT)?)
        }
    };
    let tcp_flags = if proto == number::TCP { *frame.get(l4 + FLAGS)? } else { 0 };
    Some(Meta {
        family,
        proto,
        tcp_flags,
        ttl,
        l3: eth::LEN as u16,
        l4: l4 as u16,
        end: (eth::LEN + size) as u32,
        sport: (ports >> 16) as u16,
        dport: ports as u16,
        frag_offset: 0,
        more_fragments: false,
    })
}

/// What an ordinary IPv4 frame says: protocol, ends, length of the datagram.
#[inline(always)]
pub fn read4(frame: &[u8]) -> Option<(u8, Ends<u64>, usize)> {
    let head = frame.first_chunk::<LEAST4>()?;
    let ends = Ends { addresses: be64(head, eth::LEN + ipv4::field::SRC), ports: be32(head, L4_V4) };
    let total = usize::from(be16(head, eth::LEN + ipv4::field::TOTAL));
    Some((head[eth::LEN + ipv4::field::PROTO], ends, total))
}

/// What an ordinary IPv6 frame says, as [`read4`].
#[inline(always)]
pub fn read6(frame: &[u8]) -> Option<(u8, Ends<[u128; 2]>, usize)> {
    let head = frame.first_chunk::<LEAST6>()?;
    let addresses = [ipv6::field::SRC, ipv6::field::DST].map(|at| be128(head, eth::LEN + at));
    let ends = Ends { addresses, ports: be32(head, L4_V6) };
    let total = ipv6::LEN + usize::from(be16(head, eth::LEN + ipv6::field::PAYLOAD));
    Some((head[eth::LEN + ipv6::field::NEXT], ends, total))
}

/// What lowering the TTL adds to the sum of an IPv4 header: it is the high byte of its word.
const TTL_CHANGE: u64 = 0xffff - 0x0100;
/// A hop and nothing else.
const HOP: Change = Change::with(TTL_CHANGE, 0);

const TCP_SUM4: usize = L4_V4 + tcp::field::CHECKSUM;
const TCP_SUM6: usize = L4_V6 + tcp::field::CHECKSUM;

/// An ordinary IPv4 frame goes on to `stations` with new ends and a TTL one lower. False: refused, nothing
/// was written. A datagram without a checksum is: it would need one (kernel rule 13).
#[inline(always)]
pub fn new_ends4(frame: &mut [u8], proto: u8, new: Ends<u64>, change: Change, stations: Stations) -> bool {
    if proto == number::TCP {
        let Some(head) = frame.first_chunk_mut::<{ TCP_SUM4 + 2 }>() else { return false };
        let field = step(ne16(head, TCP_SUM4), change.l4);
        put_ne16(head, TCP_SUM4, field);
        write4(head, new, change, stations);
    } else {
        let Some(head) = frame.first_chunk_mut::<LEAST4>() else { return false };
        if !udp_sum(head, L4_V4 + udp::field::CHECKSUM, change) {
            return false;
        }
        write4(head, new, change, stations);
    }
    true
}

/// An ordinary IPv6 frame, as [`new_ends4`].
#[inline(always)]
pub fn new_ends6(
    frame: &mut [u8],
    proto: u8,
    new: Ends<[u128; 2]>,
    change: Change,
    stations: Stations,
) -> bool {
    if proto == number::TCP {
        let Some(head) = frame.first_chunk_mut::<{ TCP_SUM6 + 2 }>() else { return false };
        let field = step(ne16(head, TCP_SUM6), change.l4);
        put_ne16(head, TCP_SUM6, field);
        write6(head, new, stations);
    } else {
        let Some(head) = frame.first_chunk_mut::<LEAST6>() else { return false };
        if !udp_sum(head, L4_V6 + udp::field::CHECKSUM, change) {
            return false;
        }
        write6(head, new, stations);
    }
    true
}

/// The checksum of a datagram after a change; false where it has none.
#[inline(always)]
fn udp_sum(head: &mut [u8], at: usize, change: Change) -> bool {
    let field = ne16(head, at);
    if field == 0 {
        return false;
    }
    put_ne16(head, at, udp::on_wire(step(field, change.l4)));
    true
}

#[inline(always)]
fn write4<const N: usize>(head: &mut [u8; N], new: Ends<u64>, change: Change, stations: Stations) {
    put64(head, eth::LEN + ipv4::field::SRC, new.addresses);
    put32(head, L4_V4, new.ports);
    lower4(head, change);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
}

#[inline(always)]
fn write6<const N: usize>(head: &mut [u8; N], new: Ends<[u128; 2]>, stations: Stations) {
    put128(head, eth::LEN + ipv6::field::SRC, new.addresses[0]);
    put128(head, eth::LEN + ipv6::field::DST, new.addresses[1]);
    put32(head, L4_V6, new.ports);
    lower(head, eth::LEN + ipv6::field::HOP_LIMIT);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
}

/// A TTL, of which an ordinary frame has more than one left, one lower.
#[inline(always)]
fn lower(head: &mut [u8], at: usize) {
    head[at] = head[at].wrapping_sub(1);
}

/// The TTL of an ordinary IPv4 frame one lower, the header's sum after that and the rest of `change`.
#[inline(always)]
fn lower4<const N: usize>(head: &mut [u8; N], change: Change) {
    lower(head, eth::LEN + ipv4::field::TTL);
    let at = eth::LEN + ipv4::field::CHECKSUM;
    let field = step(ne16(head, at), change.ip);
    put_ne16(head, at, field);
}

/// An ordinary IPv4 frame with a TTL one lower. False: refused, nothing was written.
#[inline(always)]
pub fn hop4(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<LEAST4>() else { return false };
    lower4(head, HOP);
    true
}

/// An ordinary IPv6 frame with a hop limit one lower, as [`hop4`].
#[inline(always)]
pub fn hop6(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<LEAST6>() else { return false };
    lower(head, eth::LEN + ipv6::field::HOP_LIMIT);
    true
}

/// Two bytes in the machine's own order.
#[inline(always)]
fn ne16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn put_ne16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests;
