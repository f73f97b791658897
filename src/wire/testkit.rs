//! What the unit tests of the packet modules share.

use crate::buf::{Csum, HEADROOM, Offload, PacketBuf};
use crate::wire::{Family, Link, Meta, Parsed, be16, be32, be128, ipv4, ipv6, number, parse, sctp, sum};

/// Bytes of the hex notation of the recorded vectors, where `(bb*N)` is N times the byte bb.
pub fn hex(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('(') {
            let (repeat, tail) = tail.split_once(')').unwrap();
            let (byte, n) = repeat.split_once('*').unwrap();
            out.resize(out.len() + n.parse::<usize>().unwrap(), u8::from_str_radix(byte, 16).unwrap());
            rest = tail;
        } else {
            out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
            rest = &rest[2..];
        }
    }
    out
}

/// Runs `f` on a packet in fresh memory with the usual headroom; gives back what the packet became.
pub fn with_packet<R>(
    frame: &[u8],
    offload: Offload,
    f: impl FnOnce(&mut PacketBuf<'_>) -> R,
) -> (R, Vec<u8>, Offload) {
    let mut mem = vec![0xee; HEADROOM + frame.len() + 64];
    mem[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let mut pkt = PacketBuf::new(&mut mem, HEADROOM, HEADROOM + frame.len(), offload);
    let result = f(&mut pkt);
    (result, pkt.bytes().to_vec(), pkt.offload)
}

/// The meta of a frame that is known to be IP.
pub fn meta(frame: &[u8], link: Link) -> Meta {
    match parse(frame, link) {
        Ok(Parsed::Ip(m)) => m,
        other => panic!("not an IP packet: {other:?}"),
    }
}

/// Sum of the pseudo-header of a packet, unfolded.
pub fn pseudo(frame: &[u8], meta: &Meta) -> u64 {
    let (l3, len) = (meta.l3 as usize, meta.end - u32::from(meta.l4));
    match meta.family {
        Family::V4 => {
            let word = |at| be32(frame, at).to_be_bytes();
            sum::pseudo4(word(l3 + 12), word(l3 + 16), meta.proto, len)
        }
        Family::V6 => {
            let wide = |at| be128(frame, at).to_be_bytes();
            sum::pseudo6(&wide(l3 + 8), &wide(l3 + 24), meta.proto, len)
        }
    }
}

/// True when all checksums of a packet are right, computed over all of it.
pub fn checksums_ok(frame: &[u8], meta: &Meta) -> bool {
    let l4 = &frame[meta.l4 as usize..meta.end as usize];
    let header = meta.family == Family::V6 || sum::header_ok(&frame[meta.l3 as usize..meta.l4 as usize]);
    header
        && match meta.proto {
            number::TCP | number::ICMPV6 => sum::fold(pseudo(frame, meta) + sum::sum(l4)) == 0xffff,
            number::UDP => be16(l4, 6) == 0 || sum::fold(pseudo(frame, meta) + sum::sum(l4)) == 0xffff,
            number::ICMP => sum::fold(sum::sum(l4)) == 0xffff,
            number::SCTP => sctp::checksum_ok(l4),
            _ => true,
        }
}

/// A correct packet of `proto` (TCP, UDP or SCTP) without link header; IPv6 when `v6`. Addresses are made
/// from the numbers.
pub fn packet(v6: bool, proto: u8, src: (u128, u16), dst: (u128, u16), payload: &[u8]) -> Vec<u8> {
    let header = match proto {
        number::TCP => 20,
        number::UDP => 8,
        _ => 12,
    };
    let mut l4 = vec![0u8; header];
    l4[..2].copy_from_slice(&src.1.to_be_bytes());
    l4[2..4].copy_from_slice(&dst.1.to_be_bytes());
    l4.extend_from_slice(payload);
    match proto {
        number::TCP => (l4[12], l4[13]) = (0x50, 0x18),
        number::UDP => l4[4..6].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes()),
        _ => sctp::fill(&mut l4).unwrap(),
    }
    let mut out = if v6 {
        let mut h = [0; 40];
        let payload = l4.len() as u16;
        ipv6::Header { class: 0, flow: 7, payload, next: proto, hop_limit: 64, src: src.0, dst: dst.0 }
            .write(&mut h);
        h.to_vec()
    } else {
        let mut h = [0; 20];
        let (total, src, dst) = (20 + l4.len() as u16, src.0 as u32, dst.0 as u32);
        ipv4::Header { tos: 0, total, id: 9, df: true, ttl: 64, proto, src, dst }.write(&mut h);
        h.to_vec()
    };
    out.extend_from_slice(&l4);
    set_checksum(&mut out, false);
    out
}

/// Where the transport checksum field is, from the transport header.
pub fn checksum_offset(proto: u8) -> usize {
    match proto {
        number::TCP => 16,
        number::UDP => 6,
        number::ICMP | number::ICMPV6 => 2,
        _ => 8,
    }
}

/// Gives a TCP or UDP packet (without link header) its complete or its partial checksum.
pub fn set_checksum(packet: &mut [u8], partial: bool) {
    let m = meta(packet, Link::Ip);
    if m.proto == number::SCTP {
        return;
    }
    let at = m.l4 as usize + checksum_offset(m.proto);
    packet[at..at + 2].fill(0);
    let head = pseudo(packet, &m);
    let field = match (partial, !sum::fold(head + sum::sum(&packet[m.l4 as usize..]))) {
        (true, _) => sum::fold(head),
        (false, 0) if m.proto == number::UDP => 0xffff,
        (false, complete) => complete,
    };
    packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

/// Offload metadata of a packet whose transport checksum is partial.
pub fn partial(meta: &Meta) -> Offload {
    Offload { csum: Csum::Partial { start: meta.l4, offset: checksum_offset(meta.proto) as u16 }, gso: None }
}
