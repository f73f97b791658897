//! Partial checksums that nobody speaks of.
//!
//! A packet made on the same machine (by a container behind a veth, a guest behind virtio) leaves its stack with
//! a partial checksum: the field holds the pseudo-header's sum, not complemented, and a flag beside the packet
//! says so. XDP loses the flag. So the field is compared with that sum: where they are equal the checksum is
//! taken for partial and completed before the packet leaves; everything else is left as it is.
//!
//! A complete checksum that happens to equal the sum (one packet in 65,536) is not harmed: completing it gives
//! the same value, because the field stands for itself in the sum (`sum + rest`, complemented, is what was there).
//! A damaged packet whose field happens to equal the sum would leave with a good checksum: one in 65,536 damaged
//! ones, as many as an Internet checksum misses anyway.

use crate::buf::{Csum, Offload};
use crate::io::fit;
use crate::wire::{Family, Link, Meta, Parsed, be16, be32, number, parse, sum};

/// What has to be said about a frame that came without a word about its checksum, on an interface of this MTU.
/// A TCP frame longer than the MTU is a super-frame of a stack on the same machine.
pub fn detect(frame: &[u8], mtu: u32) -> Offload {
    let Ok(Parsed::Ip(meta)) = parse(frame, Link::Ethernet) else { return Offload::NONE };
    if meta.is_fragment() {
        return Offload::NONE;
    }
    let Some((offset, partial)) = field(frame, &meta) else { return Offload::NONE };
    if frame.len() > Link::Ethernet.header_len() + mtu as usize {
        return fit::guess(frame, Link::Ethernet, partial, false, mtu);
    }
    let csum = if partial { Csum::Partial { start: meta.l4, offset } } else { Csum::Complete };
    Offload { csum, gso: None }
}

/// Where the checksum is, from the transport header on, and whether it is partial.
#[inline]
fn field(frame: &[u8], meta: &Meta) -> Option<(u16, bool)> {
    let (l4, end) = (usize::from(meta.l4), meta.end as usize);
    let offset = match meta.proto {
        number::TCP => 16,
        number::UDP => 6,
        // a CRC: the sender's stack leaves zero for the device to fill in
        number::SCTP => return Some((8, be32(frame, l4 + 8) == 0)),
        _ => return None,
    };
    let stored = be16(frame, l4 + offset);
    // RFC 768: zero is no checksum at all
    if stored == 0 {
        return Some((offset as u16, false));
    }
    let len = (end - l4) as u64;
    let l3 = usize::from(meta.l3);
    let addresses = match meta.family {
        Family::V4 => &frame[l3 + 12..l3 + 20],
        Family::V6 => &frame[l3 + 8..l3 + 40],
    };
    let pseudo = sum::fold(sum::sum(addresses) + u64::from(meta.proto) + (len >> 16) + (len & 0xffff));
    Some((offset as u16, stored == pseudo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::PacketBuf;
    use crate::wire::offload::complete_checksum;
    use etherparse::PacketBuilder;

    fn frame(v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 { eth.ipv6([1; 16], [2; 16], 64) } else { eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let mut f = Vec::new();
        if tcp {
            ip.tcp(1000, 80, 7, 1000).write(&mut f, payload).unwrap();
        } else {
            ip.udp(1000, 53).write(&mut f, payload).unwrap();
        }
        f
    }

    /// Replaces the checksum by what a sender's stack leaves for its device.
    fn make_partial(f: &mut [u8], v6: bool, tcp: bool) -> (usize, usize) {
        let l4 = if v6 { 54 } else { 34 };
        let field = if tcp { 16 } else { 6 };
        let len = (f.len() - l4) as u32;
        let proto = if tcp { 6 } else { 17 };
        let pseudo = if v6 {
            sum::pseudo6(&[1; 16], &[2; 16], proto, len)
        } else {
            sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], proto, len)
        };
        f[l4 + field..l4 + field + 2].copy_from_slice(&sum::fold(pseudo).to_be_bytes());
        (l4, field)
    }

    #[test]
    fn partial_checksums_are_seen_and_completed_and_complete_ones_left_alone() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            for payload in [&b""[..], b"odd", b"some more bytes"] {
                let good = frame(v6, tcp, payload);
                assert_eq!(detect(&good, 1500), Offload::NONE);
                let mut f = good.clone();
                let (l4, field) = make_partial(&mut f, v6, tcp);
                let found = detect(&f, 1500);
                assert_eq!(found.csum, Csum::Partial { start: l4 as u16, offset: field as u16 });
                let end = f.len();
                let mut p = PacketBuf::new(&mut f, 0, end, found);
                complete_checksum(&mut p).unwrap();
                assert_eq!(p.bytes(), good);
            }
        }
    }

    #[test]
    fn a_complete_checksum_that_equals_the_sum_keeps_its_value() {
        // two bytes of the payload are chosen so that field = pseudo-header sum is also the right checksum
        let mut f = frame(false, false, &[0; 4]);
        let (l4, field) = make_partial(&mut f, false, false);
        let covered = sum::sum(&f[l4..]);
        let pseudo = sum::fold(sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], 17, (f.len() - l4) as u32));
        // complement of (pseudo + rest + w) is to be pseudo again
        let w = sum::fold(u64::from(!pseudo) + u64::from(!sum::fold(covered)));
        f[l4 + 8..l4 + 10].copy_from_slice(&w.to_be_bytes());
        let before = f.clone();
        let found = detect(&f, 1500);
        assert!(matches!(found.csum, Csum::Partial { .. }), "it cannot be told apart");
        let end = f.len();
        let mut p = PacketBuf::new(&mut f, 0, end, found);
        complete_checksum(&mut p).unwrap();
        assert_eq!(p.bytes(), before, "{field}");
    }

    #[test]
    fn no_checksum_fragments_and_damage_are_left_alone() {
        let mut none = frame(false, false, b"x");
        none[40..42].fill(0);
        assert_eq!(detect(&none, 1500), Offload::NONE);
        let mut damaged = frame(true, true, b"payload");
        damaged[60] ^= 1;
        assert_eq!(detect(&damaged, 1500), Offload::NONE);
        let mut fragment = frame(false, false, &[1; 32]);
        make_partial(&mut fragment, false, false);
        fragment[20] |= 0x20;
        fragment[24..26].fill(0);
        let c = sum::checksum(&fragment[14..34]);
        fragment[24..26].copy_from_slice(&c.to_be_bytes());
        assert_eq!(detect(&fragment, 1500), Offload::NONE);
        for n in 0..40 {
            assert_eq!(detect(&frame(false, true, b"")[..n], 1500), Offload::NONE);
        }
    }

    #[test]
    fn a_super_frame_gets_the_segment_size_of_the_mtu() {
        let mut f = frame(false, true, &[9; 4000]);
        make_partial(&mut f, false, true);
        let found = detect(&f, 1500);
        assert_eq!(found.csum, Csum::Partial { start: 34, offset: 16 });
        assert_eq!(found.gso.unwrap().size, 1460);
    }
}
