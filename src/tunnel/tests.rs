//! Claims about tunnels: recorded packets byte for byte, and properties over any packet.

use proptest::prelude::*;

use super::*;
use crate::buf::{Gso, GsoKind, Offload};
use crate::wire::offload::complete_checksum;
use crate::wire::testkit::{checksums_ok, hex, meta, packet, partial, set_checksum, with_packet};
use crate::wire::{Link, eth, ttl};

fn plan(tunnel: Tunnel, v6: bool) -> EncapPlan {
    let ip = |four: &str, six: &str| if v6 { six } else { four }.parse().unwrap();
    EncapPlan {
        tunnel,
        src: ip("10.2.0.1", "2001:db8:2::1"),
        dst: ip("10.2.0.11", "2001:db8:2::11"),
        copy_df: true,
        ip_id: 0x1234,
        gue_sport: 50_000,
    }
}

#[test]
fn recorded_packets_come_out_as_from_the_kernel() {
    for (what, tunnel, src, dst, ip_id, gue_sport, before, after) in golden::TUN {
        let before = hex(before);
        let mut m = meta(&before, Link::Ip);
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let plan =
            EncapPlan { tunnel: *tunnel, src, dst, copy_df: true, ip_id: *ip_id, gue_sport: *gue_sport };
        let (result, out, _) = with_packet(&before, Offload::NONE, |p| {
            ttl::decrement(p, &mut m)?;
            encap(p, &m, &plan)
        });
        assert_eq!(out, hex(after), "{what}");
        assert_eq!(
            result,
            Ok(meta(&out, Link::Ip)),
            "{what}: the meta given back is that of the outer packet"
        );
        let found = decap(&out, Csum::Complete, Some(6080));
        let v6 = before[0] >> 4 == 6;
        let at = overhead(*tunnel, out[0] >> 4 == 6);
        let family = if v6 { Family::V6 } else { Family::V4 };
        assert_eq!(found, Ok(Decap { inner: at, end: out.len(), family }), "{what}");
    }
}

#[test]
fn without_pmtu_discovery_the_outer_packet_may_be_fragmented() {
    let before = packet(false, number::TCP, (1, 2), (3, 4), b"data");
    let m = meta(&before, Link::Ip);
    let plan = EncapPlan { copy_df: false, ..plan(Tunnel::Ipip, false) };
    let (_, out, _) = with_packet(&before, Offload::NONE, |p| encap(p, &m, &plan));
    assert_eq!((be16(&out, 4), be16(&out, 6)), (0x1234, 0));
}

#[test]
fn link_header_and_padding_do_not_go_into_the_tunnel() {
    let inner = packet(true, number::UDP, (1, 2), (3, 4), b"x");
    let mut frame = vec![0u8; eth::LEN];
    frame[12..].copy_from_slice(&[0x86, 0xdd]);
    frame.extend_from_slice(&inner);
    frame.extend_from_slice(&[0x55; 9]);
    let m = meta(&frame, Link::Ethernet);
    let (result, out, _) = with_packet(&frame, Offload::NONE, |p| encap(p, &m, &plan(Tunnel::Ipip, true)));
    assert_eq!(&out[40..], inner);
    assert_eq!(result.unwrap().end as usize, out.len());
}

#[test]
fn what_cannot_be_encapsulated_is_named_and_unchanged() {
    let before = packet(false, number::TCP, (1, 2), (3, 4), &[7; 30]);
    let m = meta(&before, Link::Ip);
    let gre = Tunnel::Gre { csum: TunnelCsum::Csum };
    let run = |offload: Offload, m: Meta, plan: EncapPlan| {
        let (result, after, still) = with_packet(&before, offload, |p| encap(p, &m, &plan));
        assert_eq!((&after, still), (&before, offload));
        result.unwrap_err()
    };
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 10, hdr_len: 40, ecn: false });
    assert_eq!(run(Offload { gso, ..partial(&m) }, m, plan(gre, false)), DropReason::BadSegmentation);
    let mixed = EncapPlan { src: "::1".parse().unwrap(), ..plan(gre, false) };
    assert_eq!(run(Offload::NONE, m, mixed), DropReason::CannotForward);
    assert_eq!(run(Offload::NONE, Meta { end: 71, ..m }, plan(gre, false)), DropReason::ShortIpHeader);
    assert_eq!(run(Offload::NONE, Meta { l3: 60, ..m }, plan(gre, false)), DropReason::ShortIpHeader);
    for (start, offset) in [(12, 16), (21, 16), (20, 49), (70, 0), (u16::MAX, u16::MAX)] {
        let offload = Offload { csum: Csum::Partial { start, offset }, gso: None };
        assert_eq!(run(offload, m, plan(gre, false)), DropReason::BadOffload, "{start} {offset}");
    }
    let mut mem = before.clone();
    let mut pkt = PacketBuf::new(&mut mem, 0, before.len(), Offload::NONE);
    assert_eq!(encap(&mut pkt, &m, &plan(Tunnel::Ipip, false)), Err(DropReason::NoHeadroom));
    assert_eq!(pkt.bytes(), before);
}

#[test]
fn the_outer_length_never_overflows() {
    for (v6, longest) in [(false, 65_535 - 32), (true, 65_535 - 12)] {
        let tunnel = Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum };
        for (len, fits) in [(longest, true), (longest + 1, false)] {
            let inner = packet(false, number::TCP, (1, 2), (3, 4), &vec![3; len - 40]);
            let m = meta(&inner, Link::Ip);
            let (result, out, _) = with_packet(&inner, Offload::NONE, |p| encap(p, &m, &plan(tunnel, v6)));
            if fits {
                assert!(checksums_ok(&out, &result.unwrap()));
            } else {
                assert_eq!(result, Err(DropReason::TooBig));
            }
        }
    }
}

#[test]
fn sctp_goes_into_a_tunnel_with_its_crc_filled_in() {
    let good = packet(false, number::SCTP, (1, 2), (3, 4), b"chunk");
    let m = meta(&good, Link::Ip);
    let mut lazy = good.clone();
    lazy[28..32].fill(0);
    let (_, out, offload) = with_packet(&lazy, partial(&m), |p| encap(p, &m, &plan(Tunnel::Ipip, false)));
    assert_eq!((&out[20..], offload), (&good[..], Offload::NONE));
}

#[test]
fn bad_tunnel_packets_are_refused_by_name() {
    let inner = packet(false, number::TCP, (1, 2), (3, 4), &[7; 30]);
    let m = meta(&inner, Link::Ip);
    let wrap = |tunnel, v6| with_packet(&inner, Offload::NONE, |p| encap(p, &m, &plan(tunnel, v6))).1;
    let check = |bytes: &[u8]| decap(bytes, Csum::Complete, Some(6080)).unwrap_err();
    let change = |tunnel, at: usize, value: u8| {
        let mut out = wrap(tunnel, true);
        out[at] = value;
        check(&out)
    };
    let (gre, gue) =
        (Tunnel::Gre { csum: TunnelCsum::None }, Tunnel::Gue { port: 6080, csum: TunnelCsum::None });
    for bad in [0x40, 0x20, 0x10, 0x01] {
        assert_eq!(change(gre, 40, bad), DropReason::BadTunnel, "GRE flags {bad:#x}");
    }
    assert_eq!(change(gre, 41, 1), DropReason::BadTunnel, "GRE version 1");
    assert_eq!(change(gre, 42, 0x65), DropReason::Protocol, "GRE that carries no IP");
    assert_eq!(change(Tunnel::Gre { csum: TunnelCsum::Csum }, 70, 1), DropReason::BadTunnel, "GRE checksum");
    assert_eq!(change(gue, 48, 0x40), DropReason::BadTunnel, "GUE version 1");
    assert_eq!(change(gue, 48, 0x20), DropReason::BadTunnel, "GUE control message");
    assert_eq!(change(gue, 48, 1), DropReason::BadTunnel, "GUE optional fields");
    assert_eq!(change(gue, 50, 1), DropReason::BadTunnel, "GUE flags");
    assert_eq!(change(gue, 49, 47), DropReason::Protocol, "GUE that carries no IP");
    assert_eq!(change(gue, 43, 1), DropReason::Protocol, "another UDP port");
    assert_eq!(change(gue, 45, 255), DropReason::BadTunnel, "UDP length beyond the packet");
    assert_eq!(change(gue, 45, 9), DropReason::BadTunnel, "UDP length below the header");
    assert_eq!(change(Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum }, 90, 1), DropReason::BadTunnel);
    assert_eq!(change(Tunnel::Ipip, 40, 0x60), DropReason::BadVersion);
    assert_eq!(check(&inner), DropReason::Protocol);
    let mut fragment = wrap(Tunnel::Ipip, false);
    let header = ipv4::Header {
        tos: 0,
        total: fragment.len() as u16,
        id: 1,
        df: false,
        ttl: 9,
        proto: 4,
        src: 1,
        dst: 2,
    };
    header.write(fragment.first_chunk_mut().unwrap());
    put16(&mut fragment, 6, 0x2000);
    put16(&mut fragment, 10, 0);
    let field = crate::wire::sum::checksum(&fragment[..20]);
    put16(&mut fragment, 10, field);
    assert_eq!(check(&fragment), DropReason::BadFragment);
}

#[test]
fn a_recorded_error_about_an_outer_packet_leads_to_the_inner_one() {
    // 2-pmtu-tun4-router steps 2 (the kernel tells the client) and 6 (too little quoted: nothing)
    let enough = hex(
        "4500004c006140004001263c0a0200100a0200010304570a00000578450005b400004000400421370a0200010a02000b\
         450005a0005140004006006ac63364050a0100649c400050000003e9",
    );
    let m = meta(&enough, Link::Ip);
    let outer = with_packet(&enough, Offload::NONE, |p| crate::nat::icmp::quoted(p, &m)).0.unwrap();
    let inner = quoted_inner(&enough, &outer, None).unwrap();
    assert_eq!((inner.l3, inner.sport, inner.dport), (48, 40_000, 80));
    assert_eq!(inner.dst(&enough), "10.1.0.100".parse::<IpAddr>().unwrap());
    let little = hex(
        "45000038006240004001264f0a0200100a02000103046cf600000514450005b400004000400421370a0200010a02000b\
         450005a000514000",
    );
    let m = meta(&little, Link::Ip);
    let outer = with_packet(&little, Offload::NONE, |p| crate::nat::icmp::quoted(p, &m)).0.unwrap();
    assert_eq!(quoted_inner(&little, &outer, None), Err(DropReason::ShortIpHeader));
}

fn tunnels() -> impl Strategy<Value = Tunnel> {
    let csum = prop::sample::select(vec![TunnelCsum::None, TunnelCsum::Csum, TunnelCsum::RemCsum]);
    (0..3u8, csum).prop_map(|(kind, csum)| match kind {
        0 => Tunnel::Ipip,
        1 => Tunnel::Gre { csum },
        _ => Tunnel::Gue { port: 6080, csum },
    })
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        tunnel in tunnels(), (outer6, inner6) in any::<(bool, bool)>(),
        proto in prop::sample::select(vec![number::TCP, number::UDP, number::SCTP]),
        src in any::<(u128, u16)>(), dst in any::<(u128, u16)>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let before = packet(inner6, proto, src, dst, &payload);
        let m = meta(&before, Link::Ip);
        let (result, out, _) = with_packet(&before, Offload::NONE, |p| encap(p, &m, &plan(tunnel, outer6)));
        prop_assert_eq!(result, Ok(meta(&out, Link::Ip)));
        prop_assert!(checksums_ok(&out, &result.unwrap()));
        let found = decap(&out, Csum::Complete, Some(6080)).unwrap();
        prop_assert_eq!(&out[found.inner..found.end], &before[..]);
        prop_assert_eq!(found.inner, overhead(tunnel, outer6));
        for cut in 0..=out.len() {
            // as an ICMP error quotes it: cut off anywhere
            let quote = crate::wire::meta::parse_quoted(&out[..cut], 0, result.unwrap().family);
            let inner = quote.and_then(|q| quoted_inner(&out[..cut], &q, Some(6080))).ok();
            let needs = found.inner + (m.l4 as usize) + 8;
            prop_assert_eq!(inner.is_some(), cut >= needs, "cut {} of {}: {:?}", cut, needs, inner);
            prop_assert!(inner.is_none_or(|i| (i.l3, i.sport, i.dport) == (found.inner as u16, src.1, dst.1)));
        }
        let etherparse = etherparse::SlicedPacket::from_ip(&out).unwrap();
        prop_assert!(etherparse.net.is_some());
    }

    #[test]
    fn an_inner_partial_checksum_is_kept_and_all_is_right_once_it_is_completed(
        tunnel in tunnels(), (outer6, inner6) in any::<(bool, bool)>(),
        proto in prop::sample::select(vec![number::TCP, number::UDP]),
        src in any::<(u128, u16)>(), dst in any::<(u128, u16)>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let full = packet(inner6, proto, src, dst, &payload);
        let mut lazy = full.clone();
        set_checksum(&mut lazy, true);
        let m = meta(&full, Link::Ip);
        let plan = plan(tunnel, outer6);
        let (_, want, _) = with_packet(&full, Offload::NONE, |p| encap(p, &m, &plan));
        let (result, mut out, offload) = with_packet(&lazy, partial(&m), |p| encap(p, &m, &plan));
        prop_assert!(result.is_ok());
        let at = overhead(tunnel, outer6);
        prop_assert_eq!(offload, partial(&m.shifted(at as isize)), "offsets moved with the packet");
        prop_assert!(decap(&out, offload.csum, Some(6080)).is_ok(), "the receiver can check it before completion");
        let (result, completed, _) = with_packet(&out, offload, complete_checksum);
        out = completed;
        prop_assert_eq!((result, &out), (Ok(()), &want));
        prop_assert!(decap(&out, Csum::Complete, Some(6080)).is_ok());
    }

    #[test]
    fn decapsulation_survives_any_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>(), port in any::<u16>(),
        proto in prop::sample::select(vec![4u8, 41, 47, 17]), start in any::<u16>(), mend in any::<bool>(),
    ) {
        if mend && bytes.len() >= 60 {
            // a right outer header, so that what follows is reached
            let len = bytes.len() as u16;
            if v6 {
                let h = ipv6::Header { class: 0, flow: 0, payload: len - 40, next: proto, hop_limit: 1, src: 1, dst: 2 };
                h.write(bytes.first_chunk_mut().unwrap());
            } else {
                let h = ipv4::Header { tos: 0, total: len, id: 0, df: true, ttl: 1, proto, src: 1, dst: 2 };
                h.write(bytes.first_chunk_mut().unwrap());
            }
        }
        let port = bytes.get(if v6 { 42..44 } else { 22..24 }).map_or(port, |p| be16(p, 0));
        for csum in [Csum::Complete, Csum::Verified, Csum::Partial { start, offset: 6 }] {
            if let Ok(found) = decap(&bytes, csum, Some(port)) {
                prop_assert!(found.inner < found.end && found.end <= bytes.len());
            }
        }
    }
}

/// A TCP super-frame behind a link header, with the checksum left to the device.
fn super_frame(v6: bool, payload: usize, size: u16) -> (Vec<u8>, Offload) {
    let body: Vec<u8> = (0..payload).map(|i| i as u8).collect();
    let inner = packet(v6, number::TCP, (1, 2), (3, 4), &body);
    let mut frame = vec![2; eth::LEN];
    put16(&mut frame, eth::field::KIND, if v6 { number::ETH_IPV6 } else { number::ETH_IPV4 });
    frame.extend_from_slice(&inner);
    set_checksum(&mut frame[eth::LEN..], true);
    let csum = partial(&meta(&frame, Link::Ethernet)).csum;
    let kind = if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
    (frame, Offload { csum, gso: Some(Gso { kind, size, hdr_len: 0, ecn: false }) })
}

/// Tunnel packets of a super-frame: cut before the tunnel and behind it.
fn both_ways(tunnel: Tunnel, v6: bool, outer_v6: bool, room: usize) -> [Vec<Vec<u8>>; 2] {
    let (frame, offload) = super_frame(v6, 4000, 1400);
    let m = meta(&frame, Link::Ethernet);
    let plan = EncapPlan { copy_df: false, ..plan(tunnel, outer_v6) };
    let mut out = crate::buf::Out::new();
    let port = crate::engine::PortId(0);
    let mut before = Vec::new();
    let mut mem = vec![0; 128 + frame.len() + 64];
    mem[128..128 + frame.len()].copy_from_slice(&frame);
    let mut pkt = PacketBuf::new(&mut mem, 128, 128 + frame.len(), offload);
    let cut = crate::wire::offload::SegmentCsum::Complete;
    crate::wire::offload::segment(&pkt, &m, room, cut, &mut out, |_, mut piece| {
        let m = Meta { end: piece.bytes().len() as u32, ..m };
        piece.edit(|p| encap(p, &m, &plan).unwrap());
        before.push(piece.bytes().to_vec());
    })
    .unwrap();
    let outer = whole::encap(&mut pkt, &m, &plan, room).expect("it may enter whole");
    assert_eq!(outer, meta(pkt.bytes(), Link::Ip), "the meta given back is that of the outer packet");
    let inside = whole::find(pkt.bytes(), &pkt.offload, Link::Ip).expect("what went in is found");
    assert_eq!(usize::from(inside.inner.l3), overhead(tunnel, outer_v6));
    whole::segment(&pkt, &inside, cut, &mut out, |out, piece| out.push(port, piece)).unwrap();
    let behind = std::iter::from_fn(|| out.pop()).map(|(_, p)| p.bytes().to_vec()).collect();
    [before, behind]
}

#[test]
fn a_super_frame_cut_inside_its_tunnel_is_what_it_would_have_been_cut_before() {
    let gue = Tunnel::Gue { port: 6080, csum: TunnelCsum::None };
    for tunnel in [Tunnel::Ipip, Tunnel::Gre { csum: TunnelCsum::None }, gue] {
        for (v6, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            for room in [1400, 1360, 9000] {
                let [before, behind] = both_ways(tunnel, v6, outer_v6, room);
                assert_eq!(before.len(), 3);
                assert_eq!(before, behind, "{tunnel:?}, {v6} in {outer_v6}, {room}");
            }
        }
    }
}

#[test]
fn only_what_a_device_can_cut_enters_a_tunnel_whole() {
    let (frame, offload) = super_frame(false, 4000, 1400);
    let m = meta(&frame, Link::Ethernet);
    let enters = |offload: Offload, m: Meta, plan: EncapPlan, room: usize| {
        let (outer, after, still) = with_packet(&frame, offload, |p| whole::encap(p, &m, &plan, room));
        assert!(outer.is_some() || (after == frame && still == offload), "it was changed");
        outer.is_some()
    };
    let good = plan(Tunnel::Ipip, false);
    assert!(enters(offload, m, good, 1400));
    let sums = [
        Tunnel::Gre { csum: TunnelCsum::Csum },
        Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum },
        Tunnel::Gue { port: 6080, csum: TunnelCsum::RemCsum },
    ];
    for tunnel in sums {
        assert!(!enters(offload, m, plan(tunnel, false), 1400), "{tunnel:?}");
    }
    assert!(!enters(offload, m, good, 0), "no room for any payload");
    assert!(!enters(Offload { csum: Csum::Complete, ..offload }, m, good, 1400));
    let off = Csum::Partial { start: m.l4 + 2, offset: 16 };
    assert!(!enters(Offload { csum: off, ..offload }, m, good, 1400));
    let udp = offload.gso.map(|g| Gso { kind: GsoKind::Udp, ..g });
    assert!(!enters(Offload { gso: udp, ..offload }, m, good, 1400));
    assert!(!enters(offload, Meta { tcp_flags: 2, ..m }, good, 1400), "a SYN stands for one packet");
}

/// A device may hand over anything, also what [`whole::encap`] never makes.
#[test]
fn outer_headers_that_are_not_ours_hide_what_is_inside() {
    let (frame, offload) = super_frame(false, 4000, 1400);
    let m = meta(&frame, Link::Ethernet);
    let gue = Tunnel::Gue { port: 6080, csum: TunnelCsum::None };
    let gre = Tunnel::Gre { csum: TunnelCsum::None };
    let found = |tunnel: Tunnel, change: &dyn Fn(&mut Vec<u8>, &mut Offload)| {
        let plan = plan(tunnel, false);
        let (outer, mut packet, mut offload) =
            with_packet(&frame, offload, |p| whole::encap(p, &m, &plan, 1400));
        assert!(outer.is_some());
        change(&mut packet, &mut offload);
        let len = packet.len() as u16;
        put16(&mut packet, 2, len);
        put16(&mut packet, 10, 0);
        let header = usize::from(packet[0] & 15) * 4;
        let checksum = crate::wire::sum::checksum(&packet[..header]);
        put16(&mut packet, 10, checksum);
        whole::find(&packet, &offload, Link::Ip).is_some()
    };
    for tunnel in [Tunnel::Ipip, gre, gue] {
        assert!(found(tunnel, &|_, _| ()), "{tunnel:?}");
    }
    let with_options = |packet: &mut Vec<u8>, offload: &mut Offload| {
        packet[0] = 0x46;
        packet.splice(20..20, [1; 4]);
        offload.shift(4);
    };
    assert!(!found(Tunnel::Ipip, &with_options));
    let with_sum = |packet: &mut Vec<u8>, offload: &mut Offload| {
        packet[20] = 0x80;
        packet.splice(24..24, [0; 4]);
        offload.shift(4);
    };
    assert!(!found(gre, &with_sum));
    assert!(!found(gue, &|packet, _| put16(packet, 26, 7)));
    assert!(!found(Tunnel::Ipip, &|_, offload| offload.shift(2)));
}

proptest! {
    #[test]
    fn whatever_claims_to_be_a_super_frame_in_a_tunnel_is_cut_or_refused(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        (start, size) in any::<(u16, u16)>(),
        proto in prop::sample::select(vec![4u8, 41, 47, 17, 6]),
        (l4, inner) in (34u16..70, 20usize..60),
    ) {
        if frame.len() > 60 {
            // near enough to a packet to be looked at
            put16(&mut frame, 12, number::ETH_IPV4);
            frame[14] = 0x45;
            let len = (frame.len() - 14) as u16;
            put16(&mut frame, 16, len);
            put16(&mut frame, 20, 0);
            frame[23] = proto;
            put16(&mut frame, 24, 0);
            let checksum = crate::wire::sum::checksum(&frame[14..34]);
            put16(&mut frame, 24, checksum);
            if let Some(b) = frame.get_mut(14 + inner) {
                *b = 0x45;
            }
        }
        let start = if start % 2 == 0 { l4 } else { start };
        let gso = Some(Gso { kind: GsoKind::Tcp4, size, hdr_len: 0, ecn: false });
        let offload = Offload { csum: Csum::Partial { start, offset: 16 }, gso };
        if let Some(inside) = whole::find(&frame, &offload, Link::Ethernet) {
            let pkt = PacketBuf::new(&mut frame, 0, usize::MAX, offload);
            let mut out = crate::buf::Out::new();
            let cut = crate::wire::offload::SegmentCsum::Partial;
            let _ = whole::segment(&pkt, &inside, cut, &mut out, |out, p| out.recycle(p));
        }
    }
}
