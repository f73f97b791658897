use proptest::prelude::*;

use super::*;
use crate::buf::Gso;
use crate::wire::testkit::{checksums_ok, meta, packet, set_checksum, with_packet};
use crate::wire::{Link, parse};

const ETH: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// A frame with a correct packet in it.
fn frame(link: Link, v6: bool, proto: u8, payload: &[u8], edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let src = (if v6 { 0xfd00_0001u128 } else { 0x0a00_0001 }, 1111);
    let mut ip = packet(v6, proto, src, (src.0 + 1, 80), payload);
    edit(&mut ip);
    set_checksum(&mut ip, true);
    let mut f = if link == Link::Ethernet { ETH.to_vec() } else { vec![] };
    if v6 && link == Link::Ethernet {
        put16(&mut f, 12, number::ETH_IPV6);
    }
    f.extend(ip);
    f
}

fn offload(v6: bool, proto: u8, m: &Meta, size: u16) -> Offload {
    let kind = match (proto, v6) {
        (number::UDP, _) => GsoKind::Udp,
        (_, false) => GsoKind::Tcp4,
        (_, true) => GsoKind::Tcp6,
    };
    let offset = if proto == number::TCP { 16 } else { 6 };
    let csum = Csum::Partial { start: m.l4, offset };
    Offload { csum, gso: Some(Gso { kind, size, hdr_len: 0, ecn: false }) }
}

/// Segments of a frame.
fn cut(
    f: &[u8],
    link: Link,
    off: Offload,
    payload: usize,
    how: SegmentCsum,
) -> Result<Vec<Vec<u8>>, DropReason> {
    let m = meta(f, link);
    let mut out = Out::new();
    let mut list = vec![];
    let (n, _, _) = with_packet(f, off, |p| {
        segment(p, &m, payload, how, &mut out, |out, mut piece| {
            assert_eq!(piece.offload().gso, None);
            assert_eq!(matches!(piece.offload().csum, Csum::Partial { .. }), how == SegmentCsum::Partial);
            piece.edit(complete_checksum).unwrap();
            list.push(piece.bytes().to_vec());
            out.recycle(piece);
        })
    });
    assert_eq!(n?, list.len());
    Ok(list)
}

/// Transport payload of a whole frame.
fn body<'f>(f: &'f [u8], m: &Meta) -> &'f [u8] {
    &f[m.l3 as usize + headers_len(f, m).unwrap()..m.end as usize]
}

#[test]
fn partial_checksum_is_completed_and_zero_udp_sums_become_all_ones() {
    for proto in [number::TCP, number::UDP] {
        let f = frame(Link::Ip, false, proto, b"hello", |_| {});
        let m = meta(&f, Link::Ip);
        let off = Offload { gso: None, ..offload(false, proto, &m, 1) };
        let (r, bytes, off) = with_packet(&f, off, complete_checksum);
        assert_eq!((r, off.csum), (Ok(()), Csum::Complete));
        assert!(checksums_ok(&bytes, &m));
    }
    // a payload that makes the UDP checksum 0
    let f = frame(Link::Ip, false, number::UDP, &[0, 0], |_| {});
    let m = meta(&f, Link::Ip);
    let mut with_zero = f.clone();
    let rest = sum::checksum(&f[20..]);
    put16(&mut with_zero, 28, rest);
    let off = Offload { gso: None, ..offload(false, number::UDP, &m, 1) };
    let (_, bytes, _) = with_packet(&with_zero, off, complete_checksum);
    assert_eq!(be16(&bytes, 26), 0xffff);
    assert!(checksums_ok(&bytes, &m));
}

#[test]
fn fin_and_psh_stay_on_the_last_segment_and_cwr_on_the_first() {
    let all = tcp::flag::FIN | tcp::flag::PSH | tcp::flag::CWR | tcp::flag::ACK | tcp::flag::ECE;
    let f = frame(Link::Ethernet, false, number::TCP, &[7; 250], |ip| ip[33] = all);
    let off = offload(false, number::TCP, &meta(&f, Link::Ethernet), 100);
    let flags: Vec<u8> = cut(&f, Link::Ethernet, off, 9000, SegmentCsum::Complete)
        .unwrap()
        .iter()
        .map(|s| s[14 + 20 + 13])
        .collect();
    let middle = tcp::flag::ACK | tcp::flag::ECE;
    assert_eq!(flags, [middle | tcp::flag::CWR, middle, middle | tcp::flag::FIN | tcp::flag::PSH]);
}

#[test]
fn the_urgent_pointer_shrinks_and_ends_with_the_urgent_data() {
    let f = frame(Link::Ip, false, number::TCP, &[7; 300], |ip| {
        ip[33] |= tcp::flag::URG;
        put16(ip, 38, 150);
    });
    let off = offload(false, number::TCP, &meta(&f, Link::Ip), 100);
    let urgent: Vec<_> = cut(&f, Link::Ip, off, 100, SegmentCsum::Complete)
        .unwrap()
        .iter()
        .map(|s| (s[33] & tcp::flag::URG != 0, be16(s, 38)))
        .collect();
    assert_eq!(urgent, [(true, 150), (true, 50), (false, 0)]);
}

#[test]
fn udp_datagrams_keep_their_size_and_a_missing_checksum() {
    let f = frame(Link::Ip, true, number::UDP, &[7; 250], |_| {});
    let m = meta(&f, Link::Ip);
    let off = offload(true, number::UDP, &m, 100);
    let sizes: Vec<_> =
        cut(&f, Link::Ip, off, 50, SegmentCsum::Partial).unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [148, 148, 98]);
    let mut bare = frame(Link::Ip, false, number::UDP, &[7; 250], |_| {});
    put16(&mut bare, 26, 0);
    let off = Offload { csum: Csum::Complete, ..offload(false, number::UDP, &meta(&bare, Link::Ip), 100) };
    for s in cut(&bare, Link::Ip, off, 50, SegmentCsum::Complete).unwrap() {
        assert_eq!(be16(&s, 26), 0);
    }
}

#[test]
fn super_frames_that_are_not_what_they_say_are_refused() {
    let f = frame(Link::Ip, false, number::TCP, &[7; 20_000], |_| {});
    let m = meta(&f, Link::Ip);
    let good = offload(false, number::TCP, &m, 1000);
    let bad = |off: Offload, payload| cut(&f, Link::Ip, off, payload, SegmentCsum::Partial);
    let kind = |kind| Offload { gso: good.gso.map(|g| Gso { kind, ..g }), ..good };
    assert_eq!(bad(kind(GsoKind::Tcp6), 1000), Err(DropReason::BadSegmentation));
    assert_eq!(bad(kind(GsoKind::Udp), 1000), Err(DropReason::BadSegmentation));
    assert_eq!(bad(Offload { gso: None, ..good }, 1000), Err(DropReason::BadSegmentation));
    assert_eq!(bad(good, 0), Err(DropReason::BadSegmentation));
    assert_eq!(bad(good, 1), Err(DropReason::BadSegmentation), "too many");
    assert_eq!(bad(offload(false, number::TCP, &m, 0), 1000), Err(DropReason::BadSegmentation));
    let syn = frame(Link::Ip, false, number::TCP, &[7; 2000], |ip| ip[33] = tcp::flag::SYN);
    assert_eq!(cut(&syn, Link::Ip, good, 1000, SegmentCsum::Partial), Err(DropReason::BadSegmentation));
    for offset in [0x00, 0x40, 0xf0] {
        let f = frame(Link::Ip, false, number::TCP, &[7; 30], |ip| ip[32] = offset);
        let r = cut(&f, Link::Ip, good, 1000, SegmentCsum::Partial);
        assert_eq!(r, Err(DropReason::BadSegmentation), "data offset {offset:#x}");
    }
}

#[test]
fn fits_looks_at_segments_not_at_the_super_frame() {
    let f = frame(Link::Ethernet, false, number::TCP, &[7; 9000], |_| {});
    let m = meta(&f, Link::Ethernet);
    let check = |off, mtu| with_packet(&f, off, |p| (fits(p, &m, mtu), payload_room(p, &m, mtu))).0;
    assert_eq!(check(offload(false, number::TCP, &m, 1460), 1500), (true, 1460));
    assert_eq!(check(offload(false, number::TCP, &m, 1460), 1480), (false, 1440));
    assert_eq!(check(Offload::NONE, 1500), (false, 1460));
    assert_eq!(check(Offload::NONE, 9040), (true, 9000));
}

proptest! {
    #[test]
    fn segments_join_to_the_original_and_are_correct_packets(
        (v6, udp, eth, complete) in any::<(bool, bool, bool, bool)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..6000),
        size in 8u16..2000,
        room in 8usize..2000,
        seq in any::<u32>(),
        trailer in 0usize..4,
    ) {
        let proto = if udp { number::UDP } else { number::TCP };
        let link = if eth { Link::Ethernet } else { Link::Ip };
        let at = if v6 { 40 } else { 20 };
        let mut f = frame(link, v6, proto, &payload, |ip| if !udp {
            put32(ip, at + 4, seq);
            ip[at + 13] = tcp::flag::FIN | tcp::flag::PSH | tcp::flag::ACK;
        });
        f.extend(std::iter::repeat_n(0xee, trailer));
        let m = meta(&f, link);
        let how = if complete { SegmentCsum::Complete } else { SegmentCsum::Partial };
        let list = cut(&f, link, offload(v6, proto, &m, size), room, how).unwrap();
        let most = if udp { size.into() } else { room.min(size.into()) };
        let (mut joined, mut next) = (vec![], seq);
        for (i, s) in list.iter().enumerate() {
            let sm = meta(s, link);
            prop_assert_eq!(sm.end as usize, s.len());
            prop_assert!(checksums_ok(s, &sm));
            prop_assert_eq!(&s[..m.l3 as usize], &f[..m.l3 as usize]);
            let part = body(s, &sm);
            prop_assert!(part.len() <= most && (part.len() == most || i + 1 == list.len()));
            if !v6 {
                prop_assert_eq!(be16(s, sm.l3 as usize + 4), 9 + i as u16);
            }
            if !udp {
                prop_assert_eq!(be32(s, sm.l4 as usize + 4), next);
                prop_assert_eq!(sm.tcp_flags & 9 != 0, i + 1 == list.len());
                next = next.wrapping_add(part.len() as u32);
            }
            joined.extend_from_slice(part);
            // a second opinion on lengths and checksums
            let sliced = etherparse::SlicedPacket::from_ip(&s[sm.l3 as usize..]).unwrap();
            let Some(etherparse::NetSlice::Ipv4(_) | etherparse::NetSlice::Ipv6(_)) = &sliced.net else { panic!() };
            match sliced.transport.unwrap() {
                etherparse::TransportSlice::Tcp(t) => {
                    let right = match &sliced.net {
                        Some(etherparse::NetSlice::Ipv4(ip)) => {
                            t.to_header().calc_checksum_ipv4(&ip.header().to_header(), t.payload())
                        }
                        Some(etherparse::NetSlice::Ipv6(ip)) => {
                            t.to_header().calc_checksum_ipv6(&ip.header().to_header(), t.payload())
                        }
                        _ => unreachable!(),
                    };
                    prop_assert_eq!(t.checksum(), right.unwrap());
                    prop_assert_eq!(t.payload(), part);
                }
                etherparse::TransportSlice::Udp(u) => {
                    prop_assert_eq!(usize::from(u.length()), 8 + part.len());
                    prop_assert_eq!(u.payload(), part);
                }
                _ => panic!(),
            }
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn hostile_metadata_never_panics(
        mut f in proptest::collection::vec(any::<u8>(), 20..300),
        (v6, udp) in any::<(bool, bool)>(),
        (kind, size, hdr_len, start, offset) in (0usize..3, any::<u16>(), any::<u16>(), any::<u16>(), 0u16..400),
        (payload, mtu) in (0usize..400, 0usize..400),
    ) {
        f[0] = if v6 { 0x60 } else { 0x45 };
        let n = f.len();
        if v6 && n >= 40 {
            put16(&mut f, 4, (n - 40) as u16);
            f[6] = if udp { 17 } else { 6 };
        } else {
            f[9] = if udp { 17 } else { 6 };
            put16(&mut f, 2, n as u16);
            put16(&mut f, 10, 0);
            let c = sum::checksum(&f[..20]);
            put16(&mut f, 10, c);
        }
        let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][kind];
        let gso = Some(Gso { kind, size, hdr_len, ecn: true });
        let off = Offload { csum: Csum::Partial { start: start % 400, offset }, gso };
        let parsed = parse(&f, Link::Ip);
        with_packet(&f, off, |p| {
            if let Ok(crate::wire::Parsed::Ip(m)) = parsed {
                let mut out = Out::new();
                fits(p, &m, mtu);
                payload_room(p, &m, mtu);
                let _ = segment(p, &m, payload, SegmentCsum::Complete, &mut out, |out, s| out.recycle(s));
            }
            let ok = usize::from(start % 400) + usize::from(offset) + 2 <= n;
            assert_eq!(complete_checksum(p).is_ok(), ok);
        });
    }
}
