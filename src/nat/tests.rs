//! Claims about rewriting: recorded packets byte for byte, and properties over any packet.

use proptest::prelude::*;

use super::*;
use crate::buf::{Gso, GsoKind, Offload};
use crate::wire::offload::complete_checksum;
use crate::wire::testkit::{
    checksum_offset, checksums_ok, hex, meta, packet, partial, pseudo, set_checksum, with_packet,
};
use crate::wire::{Link, ttl};

fn end(text: Option<&str>) -> Option<(IpAddr, u16)> {
    text.map(|t| t.parse::<std::net::SocketAddr>().unwrap()).map(|s| (s.ip(), s.port()))
}

#[test]
fn recorded_packets_come_out_as_from_the_kernel() {
    for (what, src, dst, before, after) in golden::NAT {
        let before = hex(before);
        let mut m = meta(&before, Link::Ip);
        let plan = Rewrite { src: end(*src), dst: end(*dst) };
        let (result, out, _) = with_packet(&before, Offload::NONE, |p| {
            rewrite(p, &m.clone(), &plan)?;
            ttl::decrement(p, &mut m)
        });
        assert_eq!(result, Ok(()), "{what}");
        assert_eq!(out, hex(after), "{what}");
    }
}

fn apply(before: &[u8], offload: Offload, plan: &Rewrite) -> (Vec<u8>, Offload) {
    let m = meta(before, Link::Ip);
    let (result, out, offload) = with_packet(before, offload, |p| rewrite(p, &m, plan));
    assert_eq!(result, Ok(()));
    (out, offload)
}

fn ip(v6: bool, number: u128) -> IpAddr {
    if v6 { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
}

/// A packet of any kind, and new ends for it.
fn cases() -> impl Strategy<Value = (Vec<u8>, Rewrite, Rewrite)> {
    let proto = prop::sample::select(vec![number::TCP, number::UDP, number::SCTP]);
    let side = || (any::<u128>(), any::<u16>());
    let new = || prop::option::of(side());
    (any::<bool>(), proto, side(), side(), new(), new(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(v6, proto, src, dst, new_src, new_dst, payload)| {
            let plan = Rewrite {
                src: new_src.map(|(a, p)| (ip(v6, a), p)),
                dst: new_dst.map(|(a, p)| (ip(v6, a), p)),
            };
            let back = Rewrite {
                src: plan.src.map(|_| (ip(v6, src.0), src.1)),
                dst: plan.dst.map(|_| (ip(v6, dst.0), dst.1)),
            };
            (packet(v6, proto, src, dst, &payload), plan, back)
        },
    )
}

/// The transport checksum as etherparse computes it; `None` for SCTP.
fn second_opinion(bytes: &[u8]) -> Option<u16> {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let (net, transport) = (sliced.net.unwrap(), sliced.transport?);
    let sum = match (&net, &transport) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(t)) => {
            let h = ip.header();
            t.to_header().calc_checksum_ipv4_raw(h.source(), h.destination(), t.payload())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(t)) => {
            let h = ip.header();
            t.to_header().calc_checksum_ipv6_raw(h.source(), h.destination(), t.payload())
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(u)) => {
            let h = ip.header();
            u.to_header().calc_checksum_ipv4_raw(h.source(), h.destination(), u.payload())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(u)) => {
            let h = ip.header();
            u.to_header().calc_checksum_ipv6_raw(h.source(), h.destination(), u.payload())
        }
        _ => return None,
    };
    Some(sum.unwrap())
}

/// By how much the transport checksum is wrong, as a ones' complement number; 0 = right.
fn wrongness(bytes: &[u8]) -> u16 {
    let m = meta(bytes, Link::Ip);
    !sum_of(bytes, &m)
}

fn sum_of(bytes: &[u8], m: &Meta) -> u16 {
    fold(pseudo(bytes, m) + sum(&bytes[m.l4 as usize..m.end as usize]))
}

proptest! {
    #[test]
    fn every_checksum_is_right_after_rewriting((before, plan, _) in cases()) {
        let (after, _) = apply(&before, Offload::NONE, &plan);
        let m = meta(&after, Link::Ip);
        prop_assert!(checksums_ok(&after, &m));
        for (new, got) in [(plan.src, (m.src(&after), m.sport)), (plan.dst, (m.dst(&after), m.dport))] {
            prop_assert!(new.is_none_or(|n| n == got));
        }
        if let Some(sum) = second_opinion(&after) {
            let field = be16(&after, m.l4 as usize + checksum_offset(m.proto));
            // 0 and 0xffff are the same number; which of the two is sent is RFC 1624's matter
            prop_assert_eq!(sum % 0xffff, field % 0xffff);
        }
    }

    #[test]
    fn there_and_back_is_the_packet_again((before, plan, back) in cases()) {
        let (there, _) = apply(&before, Offload::NONE, &plan);
        prop_assert_eq!(apply(&there, Offload::NONE, &back).0, before);
    }

    #[test]
    fn a_wrong_checksum_stays_exactly_as_wrong((mut before, plan, _) in cases(), error in 1u16..0xfffe) {
        let m = meta(&before, Link::Ip);
        prop_assume!(m.proto != number::SCTP);
        let at = m.l4 as usize + checksum_offset(m.proto);
        let bad = fold(u64::from(be16(&before, at)) + u64::from(error));
        prop_assume!(bad != 0);
        put16(&mut before, at, bad);
        let (after, _) = apply(&before, Offload::NONE, &plan);
        prop_assert_ne!(wrongness(&before), 0);
        prop_assert_eq!(wrongness(&after), wrongness(&before));
    }

    #[test]
    fn completing_a_partial_checksum_later_gives_the_same_packet((before, plan, _) in cases()) {
        let m = meta(&before, Link::Ip);
        let mut lazy = before.clone();
        set_checksum(&mut lazy, true);
        let (lazy, offload) = apply(&lazy, partial(&m), &plan);
        let (full, _) = apply(&before, Offload::NONE, &plan);
        if m.proto == number::SCTP {
            prop_assert_eq!(offload.csum, Csum::Complete, "the CRC cannot be left to a device");
        } else {
            prop_assert_eq!(offload, partial(&m));
            let at = m.l4 as usize + checksum_offset(m.proto);
            prop_assert_eq!(be16(&lazy, at), fold(pseudo(&lazy, &m)), "field is the new pseudo-header sum");
        }
        let (result, completed, _) = with_packet(&lazy, offload, complete_checksum);
        prop_assert_eq!((result, completed), (Ok(()), full));
    }

    #[test]
    fn udp_without_checksum_gets_a_right_one((mut before, plan, _) in cases()) {
        let m = meta(&before, Link::Ip);
        prop_assume!(m.proto == number::UDP);
        put16(&mut before, m.l4 as usize + udp::field::CHECKSUM, 0);
        let (after, _) = apply(&before, Offload::NONE, &plan);
        prop_assert_ne!(be16(&after, m.l4 as usize + udp::field::CHECKSUM), 0);
        prop_assert!(checksums_ok(&after, &meta(&after, Link::Ip)));
    }

    #[test]
    fn a_refused_packet_is_unchanged((before, plan, _) in cases(), l4 in any::<u16>(), end in 0u32..300, proto in any::<u8>(), start in any::<u16>()) {
        let m = Meta { l4, end, proto, ..meta(&before, Link::Ip) };
        let offload = Offload { csum: Csum::Partial { start, offset: 6 }, gso: None };
        let (result, after, _) = with_packet(&before, offload, |p| rewrite(p, &m, &plan));
        prop_assert!(result.is_ok() || after == before);
    }
}

fn plan4() -> Rewrite4 {
    Ends { src: Some((0x0a00_0064, 5000)), dst: Some((0x0a02_000b, 8080)) }
}

#[test]
fn a_super_frame_keeps_its_partial_checksum_and_its_segment_size() {
    let mut before = packet(false, number::TCP, (1, 2), (3, 4), &vec![0x5a; 65_000]);
    set_checksum(&mut before, true);
    let m = meta(&before, Link::Ip);
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1460, hdr_len: 40, ecn: false });
    let offload = Offload { gso, ..partial(&m) };
    let (result, mut after, still) = with_packet(&before, offload, |p| rewrite4(p, &m, &plan4()));
    assert_eq!((result, still), (Ok(()), offload));
    set_checksum(&mut after, false);
    assert!(checksums_ok(&after, &m));
}

#[test]
fn udp_super_frames_and_first_fragments_without_checksum_keep_none() {
    let mut before = packet(false, number::UDP, (1, 2), (3, 4), &[7; 64]);
    put16(&mut before, 26, 0);
    let m = meta(&before, Link::Ip);
    let gso = Offload {
        csum: Csum::Complete,
        gso: Some(Gso { kind: GsoKind::Udp, size: 32, hdr_len: 28, ecn: false }),
    };
    let (result, after, _) = with_packet(&before, gso, |p| rewrite4(p, &m, &plan4()));
    assert_eq!((result, be16(&after, 26)), (Ok(()), 0));
    let first = Meta { more_fragments: true, ..m };
    let (result, after, _) = with_packet(&before, Offload::NONE, |p| rewrite4(p, &first, &plan4()));
    assert_eq!((result, be16(&after, 26)), (Ok(()), 0));
}

#[test]
fn sctp_is_left_alone_when_no_port_changes() {
    let mut before = packet(false, number::SCTP, (1, 2), (3, 4), &[7; 64]);
    before[28] ^= 1;
    let m = meta(&before, Link::Ip);
    let same_ports = Rewrite4 { src: None, dst: Some((9, 4)) };
    let (_, after, _) = with_packet(&before, Offload::NONE, |p| rewrite4(p, &m, &same_ports));
    assert_eq!(after[20..], before[20..]);
}

#[test]
fn what_cannot_be_rewritten_is_named() {
    let tcp = packet(false, number::TCP, (1, 2), (3, 4), b"x");
    let m = meta(&tcp, Link::Ip);
    let run = |m: Meta, csum: Csum| {
        let offload = Offload { csum, gso: None };
        with_packet(&tcp, offload, |p| rewrite4(p, &m, &plan4())).0.unwrap_err()
    };
    assert_eq!(run(Meta { proto: number::GRE, ..m }, Csum::Complete), DropReason::Protocol);
    assert_eq!(run(Meta { frag_offset: 8, ..m }, Csum::Complete), DropReason::BadFragment);
    assert_eq!(
        run(Meta { proto: number::SCTP, more_fragments: true, ..m }, Csum::Complete),
        DropReason::BadFragment
    );
    assert_eq!(run(Meta { family: Family::V6, ..m }, Csum::Complete), DropReason::CannotForward);
    assert_eq!(run(Meta { end: 39, ..m }, Csum::Complete), DropReason::ShortTransport);
    assert_eq!(run(m, Csum::Partial { start: 20, offset: 6 }), DropReason::BadOffload);
    assert_eq!(run(m, Csum::Partial { start: 12, offset: 16 }), DropReason::BadOffload);
    let mixed = Rewrite { src: None, dst: Some((ip(true, 5), 80)) };
    let (result, ..) = with_packet(&tcp, Offload::NONE, |p| rewrite(p, &m, &mixed));
    assert_eq!(result, Err(DropReason::CannotForward));
}

#[test]
fn an_outer_checksum_over_an_unfinished_inner_one_is_updated_as_complete() {
    let before = packet(false, number::UDP, (1, 2), (3, 4), &[7; 64]);
    let m = meta(&before, Link::Ip);
    let inner = Offload { csum: Csum::Partial { start: m.l4 + 40, offset: 16 }, gso: None };
    let (_, after, still) = with_packet(&before, inner, |p| rewrite4(p, &m, &plan4()));
    assert!(checksums_ok(&after, &m));
    assert_eq!(still, inner);
}
