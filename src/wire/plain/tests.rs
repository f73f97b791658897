use proptest::prelude::*;

use super::*;
use crate::buf::{Offload, PacketBuf};
use crate::nat::{self, rewrite4, rewrite6};
use crate::wire::{Link, Parsed, parse, put16, sum, ttl};

const TO: Mac = Mac([2, 0, 0, 0, 0, 7]);
const FROM: Mac = Mac([2, 0, 0, 0, 0, 8]);

/// A frame to [`TO`] with any fields and any transport checksum, right or wrong.
fn frame(v6: bool, proto: u8, fill: &[u8], words: usize) -> Vec<u8> {
    let mut f = fill.to_vec();
    f[..6].copy_from_slice(&TO.0);
    let l4 = if v6 { L4_V6 } else { L4_V4 };
    if v6 {
        put16(&mut f, 12, number::ETH_IPV6);
        f[14] = 0x60 | (f[14] & 15);
        put16(&mut f, 18, (fill.len() - l4) as u16);
        f[20] = proto;
        f[21] = f[21].max(2);
    } else {
        put16(&mut f, 12, number::ETH_IPV4);
        f[14] = 0x45 + words as u8;
        put16(&mut f, 16, (fill.len() - 14) as u16);
        put16(&mut f, 20, 0x4000);
        f[22] = f[22].max(2);
        f[23] = proto;
        sum_header(&mut f);
    }
    f
}

fn sum_header(f: &mut [u8]) {
    let words = usize::from(f[14] & 15) * 4;
    put16(f, 24, 0);
    if let Some(header) = f.get(14..14 + words) {
        let field = sum::checksum(header);
        put16(f, 24, field);
    }
}

fn both_ports(meta: &crate::wire::Meta) -> u32 {
    u32::from(meta.sport) << 16 | u32::from(meta.dport)
}

proptest! {
    #[test]
    fn an_ordinary_frame_is_what_the_parser_says(
        fill in prop::collection::vec(any::<u8>(), 60..100),
        v6: bool,
        proto in prop::sample::select(vec![number::TCP, number::UDP, number::SCTP, number::FRAGMENT]),
        words in prop::sample::select(vec![0usize, 0, 0, 1]),
        flags in prop::sample::select(vec![0x10u8, 0x18, 0x02, 0x02, 0xc2, 0x12, 0x11, 0x14, 0x00]),
        at in prop::option::of((0usize..60, any::<u8>())),
        cut in 0usize..100,
        resum: bool,
    ) {
        let mut f = frame(v6, proto, &fill, words);
        if let Some(at) = f.get_mut(if v6 { L4_V6 } else { L4_V4 } + 13) {
            *at = flags;
        }
        if let Some((at, byte)) = at {
            f[at] = byte;
        }
        if resum && !v6 && f.len() > 80 {
            sum_header(&mut f);
        }
        f.truncate(cut.max(20) + f.len() / 2);
        let Some(sort) = sort(&f, Station::of(TO)) else { return Ok(()) };
        let (Plain::Goes(family) | Plain::Begins(family)) = sort;
        prop_assert_eq!(&f[..6], TO.0);
        let Ok(Parsed::Ip(meta)) = parse(&f, Link::Ethernet) else { panic!("the parser refuses it") };
        prop_assert_eq!(meta.family, family);
        prop_assert!(!meta.is_fragment() && meta.ttl > 1);
        let flags = if matches!(sort, Plain::Goes(_)) { 0x10 } else { 0x02 };
        prop_assert!(meta.tcp_flags & 0x17 == flags || (meta.proto == number::UDP && flags == 0x10));
        prop_assert_eq!(super::meta(&f, family), Some(meta));
        match family {
            Family::V4 => {
                let (proto, ends, len) = read4(&f).unwrap();
                let (src, dst) = (((ends.addresses >> 32) as u32).into(), (ends.addresses as u32).into());
                prop_assert_eq!((proto, ends.ports), (meta.proto, both_ports(&meta)));
                prop_assert_eq!((meta.l4 as usize, len), (L4_V4, meta.ip_len()));
                prop_assert_eq!(meta.src(&f), std::net::IpAddr::V4(src));
                prop_assert_eq!(meta.dst(&f), std::net::IpAddr::V4(dst));
            }
            Family::V6 => {
                let (proto, ends, len) = read6(&f).unwrap();
                let [src, dst] = ends.addresses;
                prop_assert_eq!((proto, ends.ports), (meta.proto, both_ports(&meta)));
                prop_assert_eq!((meta.l4 as usize, len), (L4_V6, meta.ip_len()));
                prop_assert_eq!(meta.src(&f), std::net::IpAddr::V6(src.into()));
                prop_assert_eq!(meta.dst(&f), std::net::IpAddr::V6(dst.into()));
            }
        }
    }

    #[test]
    fn what_undoes_a_change_is_the_change_of_what_goes_back(
        [a, b, c, d]: [u128; 4],
        [p, q]: [u32; 2],
    ) {
        let turned = |ports: u32| ports.rotate_left(16);
        let (old, new) = ([a, b], [c, d]);
        let back = Change::of6(
            Ends { addresses: [d, c], ports: turned(q) },
            Ends { addresses: [b, a], ports: turned(p) },
        );
        let there = Change::of6(Ends { addresses: old, ports: p }, Ends { addresses: new, ports: q });
        prop_assert_eq!([there[1], there[0]], back);
        let (old, new) = (a as u64, c as u64);
        let back = Change::of4(
            Ends { addresses: new.rotate_left(32), ports: turned(q) },
            Ends { addresses: old.rotate_left(32), ports: turned(p) },
        );
        let there = Change::of4(Ends { addresses: old, ports: p }, Ends { addresses: new, ports: q });
        prop_assert_eq!([there[1], there[0]], back);
    }

    #[test]
    fn one_go_is_the_same_as_step_by_step(
        fill in prop::collection::vec(any::<u8>(), 100),
        v6: bool,
        proto in prop::sample::select(vec![number::TCP, number::UDP]),
        field in prop::option::of(prop::sample::select(vec![0u16, 0xffff, 0xfffe, 1])),
        src in prop::option::of(any::<(u128, u16)>()),
        dst in any::<(u128, u16)>(),
    ) {
        let mut before = frame(v6, proto, &fill, 0);
        let l4 = if v6 { L4_V6 } else { L4_V4 };
        before[l4 + 13] = tcp::flag::ACK;
        if let Some(field) = field {
            let at = if proto == number::TCP { tcp::field::CHECKSUM } else { udp::field::CHECKSUM };
            put16(&mut before, l4 + at, field);
        }
        let goes = matches!(sort(&before, Station::of(TO)), Some(Plain::Goes(_)));
        prop_assert!(goes);
        let Ok(Parsed::Ip(meta)) = parse(&before, Link::Ethernet) else { panic!("not IP") };
        let stations = Stations::new(FROM, TO);
        let mut at_once = before.clone();
        let done = if v6 {
            let (proto, old, _) = read6(&before).unwrap();
            let (s, p) = src.unwrap_or((old.addresses[0], meta.sport));
            let new = Ends::new([s, dst.0], p, dst.1);
            new_ends6(&mut at_once, proto, new, Change::of6(old, new)[0], stations)
        } else {
            let (proto, old, _) = read4(&before).unwrap();
            let (s, p) = src.map_or(((old.addresses >> 32) as u32, meta.sport), |(a, p)| (a as u32, p));
            let new = Ends::new(u64::from(s) << 32 | u64::from(dst.0 as u32), p, dst.1);
            new_ends4(&mut at_once, proto, new, Change::of4(old, new)[0], stations)
        };
        if !done {
            prop_assert_eq!(at_once, before, "what is refused is unchanged");
            return Ok(());
        }
        let mut steps = before.clone();
        let len = steps.len();
        let mut pkt = PacketBuf::new(&mut steps, 0, len, Offload::NONE);
        let mut moved = meta;
        ttl::decrement(&mut pkt, &mut moved).unwrap();
        let four = |(a, p): (u128, u16)| (a as u32, p);
        match meta.family {
            Family::V4 => {
                let ends = nat::Ends { src: src.map(four), dst: Some(four(dst)) };
                rewrite4(&mut pkt, &moved, &ends).unwrap();
            }
            Family::V6 => rewrite6(&mut pkt, &moved, &nat::Ends { src, dst: Some(dst) }).unwrap(),
        }
        let kind = if v6 { number::ETH_IPV6 } else { number::ETH_IPV4 };
        eth::write(steps.first_chunk_mut().unwrap(), FROM, TO, kind);
        prop_assert_eq!(at_once, steps);
    }

    #[test]
    fn a_hop_is_the_same_as_step_by_step(fill in prop::collection::vec(any::<u8>(), 100), v6: bool) {
        let before = frame(v6, number::UDP, &fill, 0);
        let Ok(Parsed::Ip(mut meta)) = parse(&before, Link::Ethernet) else { panic!("not IP") };
        let (mut at_once, mut steps) = (before.clone(), before);
        let lowered = if v6 { hop6(&mut at_once) } else { hop4(&mut at_once) };
        prop_assert!(lowered);
        let len = steps.len();
        ttl::decrement(&mut PacketBuf::new(&mut steps, 0, len, Offload::NONE), &mut meta).unwrap();
        prop_assert_eq!(at_once, steps);
    }
}

#[test]
fn other_stations_and_short_frames_are_not_ordinary() {
    let f = frame(false, number::UDP, &[7; 60], 0);
    assert_eq!(sort(&f, Station::of(TO)), Some(Plain::Goes(Family::V4)));
    assert_eq!(sort(&f, Station::of(FROM)), None);
    for len in 0..60 {
        assert_eq!(sort(&f[..len], Station::of(TO)), None, "cut to {len}");
    }
}
