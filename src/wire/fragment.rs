//! Cutting packets into fragments: IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5).
//!
//! Whether a packet may be fragmented is the caller's question; here DF stays as it is, on every piece,
//! because the kernel does so with what it has reassembled (IPVS-RULES 38).

use super::{Family, Meta, be16, ipv4, ipv6, number, offload, put16, put32, sum};
use crate::buf::{Out, OwnedPacket, PacketBuf};
use crate::engine::DropReason;

/// More fragments follow: the flag of the IPv4 header.
const MORE4: u16 = 0x2000;
/// Length of the IPv6 fragment header.
pub const HEADER6: usize = 8;

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes of IP and hands each to `each`, in order;
/// says how many there were. A packet that fits is handed out whole.
///
/// All pieces have the packet's ID; a packet that is a fragment itself is cut further. Options without the
/// copied flag are blanked in later pieces, so that all headers have one length. A partial transport
/// checksum is completed first. When an error is returned, nothing was handed out.
///
/// # Errors
/// [`DropReason::TooBig`] when `mtu` has no room for 8 bytes behind the header,
/// [`DropReason::BadSegmentation`] for a super-frame, [`DropReason::BadFragment`] when the packet is not
/// IPv4 as `meta` says or its pieces would lie beyond 65,535 bytes, [`DropReason::BadOffload`] when its
/// checksum cannot be completed.
pub fn fragment4(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    mtu: usize,
    out: &mut Out,
    each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    recut4(pkt, meta, mtu, &[], out, each)
}

/// The same for a packet that was put together here, and may have grown in front since: cut where the
/// received fragments ended, as [`recut6`], if that can be (kernel: `ip_do_fragment`).
///
/// # Errors
/// As [`fragment4`].
pub fn recut4(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    mtu: usize,
    bounds: &[u16],
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    let frame = prepare(pkt, meta, Family::V4, l3 + ipv4::LEN)?;
    let room = mtu.saturating_sub(l4 - l3);
    let first = usize::from(meta.frag_offset);
    if first + (end - l3) > usize::from(u16::MAX) {
        return Err(DropReason::BadFragment);
    }
    let df = be16(frame, l3 + ipv4::field::FRAGMENT) & ipv4::DF;
    pieces(frame, meta, l4, (room, 0), kept(bounds, end - l4, room), out, |out, mut packet, at, last| {
        packet.edit(|p| {
            let ip = &mut p.bytes_mut()[l3..];
            put16(ip, ipv4::field::TOTAL, ip.len() as u16);
            let more = if last && !meta.more_fragments { 0 } else { MORE4 };
            put16(ip, ipv4::field::FRAGMENT, df | more | ((first + at) >> 3) as u16);
            if at > 0 {
                blank_options(&mut ip[ipv4::LEN..l4 - l3]);
            }
            put16(ip, ipv4::field::CHECKSUM, 0);
            let checksum = sum::checksum(&ip[..l4 - l3]);
            put16(ip, ipv4::field::CHECKSUM, checksum);
        });
        each(out, packet);
    })
}

/// Overwrites options that belong into the first fragment only with NOPs.
fn blank_options(mut options: &mut [u8]) {
    while let [kind, ..] = *options {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => options.get(1).map_or(0, |n| usize::from(*n)),
        };
        if len == 0 || len > options.len() || (kind > 1 && len < 2) {
            return;
        }
        if kind & 0x80 == 0 {
            options[..len].fill(1);
        }
        options = &mut options[len..];
    }
}

/// Cuts an IPv6 packet into fragments of at most `mtu` bytes of IP with the identification `id`, and hands
/// each to `each`, in order; says how many there were. A packet that fits is handed out whole.
///
/// Only for what was reassembled here: a router never fragments IPv6. When an error is returned, nothing
/// was handed out.
///
/// # Errors
/// As [`fragment4`]; [`DropReason::BadFragment`] also when it is a fragment already.
pub fn fragment6(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    mtu: usize,
    id: u32,
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    cut6(pkt, meta, &Cut6 { mtu, id, bounds: &[], always: false }, out, &mut each)
}

/// Cuts an IPv6 packet that was put together here, and may have grown in front since, as the kernel does
/// (`ip6_fragment`; `3-frag-tun6`, `3-frag-gue6`): where the received fragments ended, `bounds` being the
/// lengths of their payloads, if the first one with its growth is still a multiple of 8 and all fit into
/// `mtu`; else into pieces as large as `mtu` allows. There is a fragment header even if one piece is enough.
///
/// # Errors
/// As [`fragment6`].
pub fn recut6(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    mtu: usize,
    id: u32,
    bounds: &[u16],
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    cut6(pkt, meta, &Cut6 { mtu, id, bounds, always: true }, out, &mut each)
}

/// How to cut.
struct Cut6<'a> {
    mtu: usize,
    id: u32,
    bounds: &'a [u16],
    /// Also where one piece is enough.
    always: bool,
}

fn cut6(
    pkt: &mut PacketBuf<'_>,
    meta: &Meta,
    plan: &Cut6<'_>,
    out: &mut Out,
    each: &mut dyn FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    let &Cut6 { mtu, id, bounds, always } = plan;
    let l3 = meta.l3 as usize;
    let (next_at, cut) = unfragmentable6(pkt.bytes(), meta).ok_or(DropReason::BadFragment)?;
    let frame = prepare(pkt, meta, Family::V6, cut)?;
    let next = frame[next_at];
    let whole = !always && meta.ip_len() <= mtu;
    let gap = if whole { 0 } else { HEADER6 };
    let room = mtu.saturating_sub(cut - l3 + gap);
    let size = kept(bounds, meta.end as usize - cut, room);
    pieces(frame, meta, cut, (room, gap), size, out, |out, mut packet, at, last| {
        packet.edit(|p| {
            let bytes = p.bytes_mut();
            if !whole {
                bytes[next_at] = number::FRAGMENT;
                bytes[cut] = next;
                bytes[cut + 1] = 0;
                put16(bytes, cut + 2, at as u16 | u16::from(!last));
                put32(bytes, cut + 4, id);
            }
            let payload = bytes.len() - l3 - ipv6::LEN;
            put16(bytes, l3 + ipv6::field::PAYLOAD, payload as u16);
        });
        each(out, packet);
    })
}

/// Lengths of the pieces of `len` bytes by their numbers where they can be those that were received, the
/// first one grown: multiples of 8, none longer than `room`.
fn kept(bounds: &[u16], len: usize, room: usize) -> impl Fn(usize) -> Option<usize> {
    let grown = len.checked_sub(bounds.iter().map(|n| usize::from(*n)).sum());
    let size = move |i: usize| Some(usize::from(*bounds.get(i)?) + if i == 0 { grown? } else { 0 });
    let kept = (0..bounds.len())
        .all(|i| size(i).is_some_and(|n| n <= room && (n % 8 == 0 || i + 1 == bounds.len())));
    move |i| size(i).filter(|_| kept)
}

/// Where the last next-header field before the fragmentable part of an IPv6 packet is, and where that part
/// begins, from the start of the frame. Destination options count as unfragmentable unless they follow a
/// routing header, as in the kernel (`ip6_find_1stfragopt`).
fn unfragmentable6(frame: &[u8], meta: &Meta) -> Option<(usize, usize)> {
    let (mut next_at, mut at) = (meta.l3 as usize + ipv6::field::NEXT, meta.l3 as usize + ipv6::LEN);
    let mut routed = false;
    while at < meta.l4 as usize {
        match *frame.get(next_at)? {
            number::HOPOPTS => {}
            number::ROUTING => routed = true,
            number::DSTOPTS if !routed => {}
            number::FRAGMENT => return None,
            _ => break,
        }
        next_at = at;
        at += 8 + usize::from(*frame.get(at + 1)?) * 8;
    }
    (at <= meta.l4 as usize).then_some((next_at, at))
}

/// Checks the packet and completes its checksum; gives the frame.
fn prepare<'p>(
    pkt: &'p mut PacketBuf<'_>,
    meta: &Meta,
    family: Family,
    headers: usize,
) -> Result<&'p [u8], DropReason> {
    let (l4, end) = (meta.l4 as usize, meta.end as usize);
    if meta.family != family || headers > l4 || l4 > end || end > pkt.len() {
        return Err(DropReason::BadFragment);
    }
    if pkt.offload.gso.is_some() {
        return Err(DropReason::BadSegmentation);
    }
    offload::complete_checksum(pkt)?;
    Ok(pkt.bytes())
}

/// Copies the headers `..cut` before each piece of `cut..end`, with `gap` bytes left between; tells each
/// piece's offset and whether it is the last. Only the last one may fill `room` to the byte. Where `size`
/// tells the length of a piece by its number, that is its length.
fn pieces(
    frame: &[u8],
    meta: &Meta,
    cut: usize,
    (room, gap): (usize, usize),
    size: impl Fn(usize) -> Option<usize>,
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket, usize, bool),
) -> Result<usize, DropReason> {
    let payload = &frame[cut..meta.end as usize];
    if room < 8 && payload.len() > room {
        return Err(DropReason::TooBig);
    }
    let (mut count, mut at) = (0, 0);
    loop {
        let left = payload.len() - at;
        let most = size(count).unwrap_or(room);
        let last = left <= most;
        let chunk = &payload[at..at + if last { left } else { most & !7 }];
        let mut packet = out.packet(cut + gap + chunk.len());
        packet.edit(|p| {
            let bytes = p.bytes_mut();
            bytes[..cut].copy_from_slice(&frame[..cut]);
            bytes[cut + gap..].copy_from_slice(chunk);
        });
        each(out, packet, at, last);
        (count, at) = (count + 1, at + chunk.len());
        if last {
            return Ok(count);
        }
    }
}

#[cfg(test)]
mod tests;
