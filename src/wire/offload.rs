//! What a device would have done: completing checksums and cutting super-frames into packets.
//!
//! A super-frame is one packet that stands for many (virtio-net GSO). It is cut here when the way out
//! cannot do it: before a tunnel, for a smaller MTU, for a port without the feature. Everything the
//! device said about it is checked again; its `hdr_len` is not used at all.

use super::{Family, Meta, be16, be32, be128, ipv4, ipv6, number, put16, put32, sum, tcp, udp};
use crate::buf::{Csum, GsoKind, Offload, Out, OwnedPacket, PacketBuf};
use crate::engine::DropReason;

/// Most packets one super-frame may become: what 64 KiB are at the smallest payload Linux sends with full
/// TCP options (8 bytes, `tcp_min_snd_mss` 48). More is an attempt to turn one packet into a flood.
pub const MAX_SEGMENTS: usize = 8192;

/// Turns a partial checksum into a complete one. Other packets are left alone.
///
/// # Errors
/// [`DropReason::BadOffload`] when the field or the start lies outside the frame.
pub fn complete_checksum(pkt: &mut PacketBuf<'_>) -> Result<(), DropReason> {
    let Csum::Partial { start, offset } = pkt.offload.csum else { return Ok(()) };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let covered = pkt.bytes_mut().get_mut(start..).unwrap_or_default();
    complete_at(covered, offset)?;
    pkt.offload.csum = Csum::Complete;
    Ok(())
}

/// Completes the checksum at `offset` of `covered`, the bytes from the start of the sum on.
fn complete_at(covered: &mut [u8], offset: usize) -> Result<(), DropReason> {
    if offset + 2 > covered.len() {
        return Err(DropReason::BadOffload);
    }
    // the field holds the pseudo-header's sum and is summed with the rest
    let checksum = sum::checksum(covered);
    let on_wire = if offset == udp::field::CHECKSUM { udp::on_wire(checksum) } else { checksum };
    put16(covered, offset, on_wire);
    Ok(())
}

/// True when the packet, or each segment of the super-frame, is at most `mtu` bytes of IP.
pub fn fits(pkt: &PacketBuf<'_>, meta: &Meta, mtu: usize) -> bool {
    meta.ip_len() <= mtu
        || pkt.offload.gso.is_some_and(|gso| match headers_len(pkt.bytes(), meta) {
            Some(headers) => headers + usize::from(gso.size) <= mtu,
            None => false,
        })
}

/// Transport payload bytes that fit into `mtu` bytes of IP behind the headers of this packet; 0 when none
/// does or the packet is neither TCP nor UDP.
pub fn payload_room(pkt: &PacketBuf<'_>, meta: &Meta, mtu: usize) -> usize {
    headers_len(pkt.bytes(), meta).map_or(0, |headers| mtu.saturating_sub(headers))
}

/// Length of IP and transport header of a TCP or UDP packet; `None` when they do not fit the packet.
fn headers_len(frame: &[u8], meta: &Meta) -> Option<usize> {
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    let transport = match meta.proto {
        number::TCP => usize::from(frame.get(l4 + tcp::field::OFFSET)? >> 4) * 4,
        number::UDP => udp::LEN,
        _ => return None,
    };
    let least = if meta.proto == number::TCP { tcp::LEN } else { udp::LEN };
    let whole = end <= frame.len() && l3 <= l4 && !meta.is_fragment();
    (whole && transport >= least && l4 + transport <= end).then_some(l4 + transport - l3)
}

/// Payload bytes of the segments that [`segment`] would make with this `payload`; `None` where it would refuse.
pub fn segment_size(pkt: &PacketBuf<'_>, meta: &Meta, payload: usize) -> Option<usize> {
    Cut::new(pkt.bytes(), pkt.offload, meta, payload).map(|cut| cut.size)
}

/// How the segments of a super-frame leave their transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentCsum {
    /// To be completed by the device ([`Csum::Partial`]).
    Partial,
    /// Complete.
    Complete,
}

/// Cuts a super-frame into packets and hands each to `each`, in order; says how many there were.
///
/// TCP is cut into pieces of at most `payload` bytes and never of more than the sender's own segment
/// size. UDP keeps the sender's datagrams whatever `payload` is. The link header goes with every packet;
/// buffers come from `out`. When an error is returned, nothing was handed out.
///
/// As every sender with TSO does it: IPv4 IDs count up, FIN and PSH stay on the last packet, CWR on the
/// first, the urgent pointer is kept while it points beyond the packet's start (RFC 9293 section 3.8.5).
///
/// # Errors
/// [`DropReason::BadSegmentation`] when the packet is not what its offload metadata says, carries SYN or
/// RST, or would become more than [`MAX_SEGMENTS`].
pub fn segment(
    pkt: &PacketBuf<'_>,
    meta: &Meta,
    payload: usize,
    csum: SegmentCsum,
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    let frame = pkt.bytes();
    let cut = Cut::new(frame, pkt.offload, meta, payload).ok_or(DropReason::BadSegmentation)?;
    for i in 0..cut.count {
        let at = cut.headers + i * cut.size;
        let chunk = &frame[at..(at + cut.size).min(meta.end as usize)];
        let mut packet = out.packet(cut.headers + chunk.len());
        packet.edit(|p| {
            let (head, body) = p.bytes_mut().split_at_mut(cut.headers);
            head.copy_from_slice(&frame[..cut.headers]);
            body.copy_from_slice(chunk);
            cut.adjust(head, meta, i, chunk.len());
            p.offload = Offload { csum: cut.finish(p.bytes_mut(), meta, csum), gso: None };
        });
        each(out, packet);
    }
    Ok(cut.count)
}

/// A super-frame whose every length was checked.
struct Cut {
    /// Length of link, IP and transport header.
    headers: usize,
    /// Payload bytes of each packet, but for the last.
    size: usize,
    count: usize,
    /// The sender wants no UDP checksum.
    no_checksum: bool,
}

impl Cut {
    fn new(frame: &[u8], offload: Offload, meta: &Meta, payload: usize) -> Option<Cut> {
        let gso = offload.gso?;
        let (proto, family) = match gso.kind {
            GsoKind::Tcp4 => (number::TCP, Family::V4),
            GsoKind::Tcp6 => (number::TCP, Family::V6),
            GsoKind::Udp => (number::UDP, meta.family),
        };
        if (meta.proto, meta.family) != (proto, family) {
            return None;
        }
        let headers = meta.l3 as usize + headers_len(frame, meta)?;
        let length = meta.end as usize - headers;
        let own = usize::from(gso.size);
        let size = if proto == number::TCP { own.min(payload) } else { own };
        let count = length.div_ceil(size.max(1)).max(1);
        // a segment that answers for a whole connection cannot stand for several packets
        let alone = meta.tcp_flags & (tcp::flag::SYN | tcp::flag::RST) != 0;
        if size == 0 || count > MAX_SEGMENTS || alone && count > 1 {
            return None;
        }
        let field = meta.l4 as usize + udp::field::CHECKSUM;
        let no_checksum =
            proto == number::UDP && !matches!(offload.csum, Csum::Partial { .. }) && be16(frame, field) == 0;
        Some(Cut { headers, size, count, no_checksum })
    }

    /// Makes the copied headers those of packet `i` with `payload` bytes.
    fn adjust(&self, head: &mut [u8], meta: &Meta, i: usize, payload: usize) {
        let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
        let length = self.headers - l3 + payload;
        let (ip, transport) = head[l3..].split_at_mut(l4 - l3);
        match meta.family {
            Family::V4 => {
                put16(ip, ipv4::field::TOTAL, length as u16);
                let id = be16(ip, ipv4::field::ID).wrapping_add(i as u16);
                put16(ip, ipv4::field::ID, id);
                put16(ip, ipv4::field::CHECKSUM, 0);
                let checksum = sum::checksum(ip);
                put16(ip, ipv4::field::CHECKSUM, checksum);
            }
            Family::V6 => put16(ip, ipv6::field::PAYLOAD, (length - ipv6::LEN) as u16),
        }
        if meta.proto == number::UDP {
            put16(transport, udp::field::LENGTH, (udp::LEN + payload) as u16);
            return;
        }
        let passed = i * self.size;
        let seq = be32(transport, tcp::field::SEQ).wrapping_add(passed as u32);
        put32(transport, tcp::field::SEQ, seq);
        let mut flags = transport[tcp::field::FLAGS];
        if i + 1 < self.count {
            flags &= !(tcp::flag::FIN | tcp::flag::PSH);
        }
        if i > 0 {
            flags &= !tcp::flag::CWR;
        }
        if flags & tcp::flag::URG != 0 {
            let urgent = usize::from(be16(transport, tcp::field::URGENT)).saturating_sub(passed);
            put16(transport, tcp::field::URGENT, urgent as u16);
            if urgent == 0 && passed > 0 {
                flags &= !tcp::flag::URG;
            }
        }
        transport[tcp::field::FLAGS] = flags;
    }

    /// Gives a packet its partial or complete transport checksum.
    ///
    /// The field of the super-frame is not used: it is a sum over a length that no packet has now.
    fn finish(&self, packet: &mut [u8], meta: &Meta, how: SegmentCsum) -> Csum {
        if self.no_checksum {
            return Csum::Complete;
        }
        let offset = if meta.proto == number::TCP { tcp::field::CHECKSUM } else { udp::field::CHECKSUM };
        let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
        let length = (packet.len() - l4) as u32;
        let pseudo = match meta.family {
            Family::V4 => {
                let word = |at| be32(packet, l3 + at).to_be_bytes();
                sum::pseudo4(word(ipv4::field::SRC), word(ipv4::field::DST), meta.proto, length)
            }
            Family::V6 => {
                let wide = |at| be128(packet, l3 + at).to_be_bytes();
                sum::pseudo6(&wide(ipv6::field::SRC), &wide(ipv6::field::DST), meta.proto, length)
            }
        };
        put16(packet, l4 + offset, sum::fold(pseudo));
        match how {
            SegmentCsum::Partial => Csum::Partial { start: meta.l4, offset: offset as u16 },
            SegmentCsum::Complete => {
                // cannot fail: `Cut::new` has seen the whole transport header
                let _ = complete_at(&mut packet[l4..], offset);
                Csum::Complete
            }
        }
    }
}

#[cfg(test)]
mod tests;
