use proptest::prelude::*;

use super::*;
use crate::buf::Offload;
use crate::wire::fragment::{fragment4, fragment6};
use crate::wire::testkit::{meta, packet, with_packet};
use crate::wire::{Link, parse};

const PORT: PortId = PortId(3);

/// A UDP packet; IPv4 with this ID and DF clear.
fn whole(v6: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let net = if v6 { 0xfd << 120 } else { 0x0a00_0000u128 };
    let mut p = packet(v6, number::UDP, (net + 1, 1), (net + 2, 2), payload);
    if !v6 {
        put16(&mut p, 4, id);
        put16(&mut p, 6, 0);
        seal(&mut p);
    }
    p
}

fn seal(p: &mut [u8]) {
    put16(p, 10, 0);
    let c = sum::checksum(&p[..20]);
    put16(p, 10, c);
}

fn cut(p: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (m, mut out, mut list) = (meta(p, Link::Ip), Out::new(), vec![]);
    let (r, _, _) = with_packet(p, Offload::NONE, |b| match m.family {
        Family::V4 => fragment4(b, &m, mtu, &mut out, |_, f| list.push(f.bytes().to_vec())),
        Family::V6 => fragment6(b, &m, mtu, 77, &mut out, |_, f| list.push(f.bytes().to_vec())),
    });
    r.unwrap();
    list
}

struct World {
    r: Reassembly,
    out: Out,
}

impl World {
    fn new(limits: FragLimits) -> World {
        World { r: Reassembly::new(limits), out: Out::new() }
    }
    fn put(&mut self, secs: u64, frame: &[u8]) -> Insert {
        let now = Mono::ZERO + Span::from_secs(secs);
        self.r.insert(now, PORT, frame, &meta(frame, Link::Ip), &mut self.out)
    }
    fn expired(&mut self, secs: u64) -> Vec<Vec<u8>> {
        let mut list = vec![];
        self.r.on_timeout(Mono::ZERO + Span::from_secs(secs), &mut self.out, |out, port, p| {
            assert_eq!(port, PORT);
            list.push(p.bytes().to_vec());
            out.recycle(p);
        });
        list
    }
}

fn kept(i: Insert) -> bool {
    matches!(i, Insert::Incomplete)
}

fn dropped(i: Insert) -> Option<DropReason> {
    match i {
        Insert::Drop(why) => Some(why),
        _ => None,
    }
}

#[test]
fn an_exact_repetition_is_ignored_and_an_overlap_ends_the_datagram() {
    let p = whole(false, 1, &[9; 300]);
    let list = cut(&p, 120);
    let mut w = World::new(FragLimits::default());
    assert!(kept(w.put(0, &list[0])));
    assert!(kept(w.put(0, &list[0])));
    assert!(kept(w.put(0, &list[1])));
    // other boundaries: half known, half new
    let other = cut(&p, 140);
    assert_eq!(dropped(w.put(0, &other[1])), Some(DropReason::BadFragment));
    assert!(w.r.is_empty());
    assert_eq!((w.r.memory(), w.r.stats().spoilt), (0, 1));
}

#[test]
fn time_runs_out_30_s_after_the_first_piece_and_the_first_fragment_is_quoted() {
    let (a, b) = (cut(&whole(false, 1, &[9; 300]), 120), cut(&whole(false, 2, &[9; 300]), 120));
    let mut w = World::new(FragLimits::default());
    assert_eq!(w.r.poll_timeout(), None);
    assert!(kept(w.put(0, &a[1])));
    assert!(kept(w.put(10, &a[0])));
    assert!(kept(w.put(20, &b[1])));
    // late as a timer of the kernel's
    assert_eq!(w.r.poll_timeout(), Some(Mono::from_millis(15 * 2048)));
    assert!(w.expired(30).is_empty());
    assert_eq!(w.expired(31), [a[0].clone()]);
    assert!(w.expired(60).is_empty(), "nothing to quote without the first fragment");
    assert_eq!((w.r.len(), w.r.memory(), w.r.stats().expired), (0, 0, 2));
}

#[test]
fn the_largest_fragment_and_df_are_remembered() {
    let p = whole(false, 1, &[9; 300]);
    // two fragments of the largest size and a smaller one: DF counts on the former only (rule 38)
    for (df_on, expected) in [([true; 3], true), ([false, true, false], true), ([false, false, true], false)]
    {
        let mut w = World::new(FragLimits::default());
        let mut list = cut(&p, 140);
        let last = list.len() - 1;
        for (f, df) in list.iter_mut().zip(df_on) {
            let field = be16(f, 6) | if df { ipv4::DF } else { 0 };
            put16(f, 6, field);
            seal(f);
        }
        list[..last].iter().for_each(|f| assert!(kept(w.put(0, f))));
        let Insert::Complete(packet, largest) = w.put(0, &list[last]) else { panic!() };
        assert_eq!(largest, 140);
        assert_eq!(be16(packet.bytes(), 6) & ipv4::DF != 0, expected, "{df_on:?}");
    }
}

#[test]
fn contradicting_lengths_end_the_datagram() {
    let list = cut(&whole(false, 1, &[9; 300]), 120);
    let mut w = World::new(FragLimits::default());
    assert!(kept(w.put(0, list.last().unwrap())));
    let mut beyond = list[1].clone();
    put16(&mut beyond, 6, MORE | 100);
    seal(&mut beyond);
    assert_eq!(dropped(w.put(0, &beyond)), Some(DropReason::BadFragment));
    // another end, before what is known
    assert!(kept(w.put(0, &list[1])));
    let mut short = list[0].clone();
    put16(&mut short, 6, 0x0001);
    seal(&mut short);
    assert_eq!(dropped(w.put(0, &short)), Some(DropReason::BadFragment));
    assert!(w.r.is_empty());
}

const MORE: u16 = 0x2000;

#[test]
fn pieces_beyond_64_kib_and_empty_ones_are_refused() {
    let mut far = cut(&whole(false, 1, &[9; 300]), 120).remove(0);
    put16(&mut far, 6, 0x1fff);
    seal(&mut far);
    let mut w = World::new(FragLimits::default());
    assert_eq!(dropped(w.put(0, &far)), Some(DropReason::BadFragment));
    let mut small = cut(&whole(false, 1, &[9; 300]), 120).remove(1);
    small.truncate(27);
    put16(&mut small, 2, 27);
    seal(&mut small);
    assert_eq!(dropped(w.put(0, &small)), Some(DropReason::BadFragment), "7 bytes are none");
    assert!(w.r.is_empty());
}

#[test]
fn congestion_of_one_fragment_is_that_of_the_whole_and_mixed_ecn_is_a_fault() {
    for (ecn, result) in [([2, 3, 1], Some(3)), ([2, 2, 2], Some(2)), ([0, 0, 0], Some(0)), ([0, 3, 0], None)]
    {
        let mut w = World::new(FragLimits::default());
        let mut list = cut(&whole(false, 1, &[9; 300]), 140);
        for (f, ecn) in list.iter_mut().zip(ecn) {
            f[1] = 0x40 | ecn;
            seal(f);
        }
        let last = list.pop().unwrap();
        list.iter().for_each(|f| assert!(kept(w.put(0, f))));
        match (w.put(0, &last), result) {
            (Insert::Complete(p, _), Some(ecn)) => assert_eq!(p.bytes()[1], 0x40 | ecn),
            (Insert::Drop(why), None) => assert_eq!(why, DropReason::BadFragment),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flood_of_first_fragments_stays_in_bounds_and_real_datagrams_still_pass() {
    let mut w = World::new(FragLimits::default());
    let flood = cut(&whole(false, 0, &[9; 2000]), 1500).remove(0);
    for i in 0..20_000u32 {
        let mut f = flood.clone();
        put16(&mut f, 4, i as u16);
        put16(&mut f, 12, (i >> 16) as u16 + 7);
        seal(&mut f);
        assert!(kept(w.put(0, &f)));
        assert!(w.r.memory() <= 4 << 20);
        if i % 100 == 0 {
            let list = cut(&whole(true, 0, &[i as u8; 3000]), 1280);
            assert!(kept(w.put(0, &list[2])) && kept(w.put(0, &list[0])));
            let Insert::Complete(p, _) = w.put(0, &list[1]) else { panic!("{i}") };
            w.out.recycle(p);
        }
    }
    assert_eq!(w.r.stats().completed, 200);
    assert!(w.r.stats().evicted > 15_000);
}

#[test]
fn too_many_pieces_end_the_datagram() {
    let mut w = World::new(FragLimits { pieces: 4, ..FragLimits::default() });
    let list = cut(&whole(false, 1, &[9; 300]), 68);
    list[..4].iter().for_each(|f| assert!(kept(w.put(0, f))));
    assert_eq!(dropped(w.put(0, &list[4])), Some(DropReason::FragmentLimit));
    assert!(w.r.is_empty());
}

#[test]
fn ports_and_protocols_are_kept_apart() {
    let list = cut(&whole(false, 1, &[9; 100]), 100);
    let mut w = World::new(FragLimits::default());
    let now = Mono::ZERO;
    assert!(kept(w.r.insert(now, PortId(0), &list[0], &meta(&list[0], Link::Ip), &mut w.out)));
    assert!(kept(w.r.insert(now, PortId(1), &list[1], &meta(&list[1], Link::Ip), &mut w.out)));
    let mut tcp = list[1].clone();
    tcp[9] = number::TCP;
    seal(&mut tcp);
    assert!(kept(w.r.insert(now, PortId(0), &tcp, &meta(&tcp, Link::Ip), &mut w.out)));
    assert_eq!(w.r.len(), 3);
}

proptest! {
    #[test]
    fn shuffled_and_repeated_fragments_of_many_datagrams_become_whole(
        specs in proptest::collection::vec((any::<bool>(), 300usize..3000, 100usize..1500), 1..6),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 400),
        ethernet in any::<bool>(),
    ) {
        let mut frames = vec![];
        let mut originals = vec![];
        for (i, (v6, len, mtu)) in specs.iter().enumerate() {
            // one IPv6 datagram only: its identification is fixed here
            let v6 = *v6 && i == 0;
            let body: Vec<u8> = (0..*len).map(|k| (k * 7 + i) as u8).collect();
            let p = whole(v6, i as u16, &body);
            let pieces = cut(&p, *mtu);
            prop_assume!(pieces.len() > 1);
            let largest = pieces.iter().map(Vec::len).max().unwrap();
            for f in pieces {
                let mut g = if ethernet { vec![2; 12] } else { vec![] };
                if ethernet {
                    g.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
                }
                g.extend(f);
                frames.push((i, g));
            }
            originals.push((p, largest));
        }
        // any order, then each once more for those that were not drawn
        let mut sequence: Vec<_> = order.iter().map(|x| x.index(frames.len())).collect();
        sequence.extend(0..frames.len());
        let link = if ethernet { Link::Ethernet } else { Link::Ip };
        let mut w = World::new(FragLimits::default());
        let mut done = vec![false; originals.len()];
        for k in sequence {
            let (i, frame) = &frames[k];
            match w.r.insert(Mono::ZERO, PORT, frame, &meta(frame, link), &mut w.out) {
                Insert::Complete(p, largest) => {
                    prop_assert_eq!(&p.bytes()[link.header_len()..], &originals[*i].0[..]);
                    prop_assert_eq!(largest, originals[*i].1);
                    done[*i] = true;
                    w.out.recycle(p);
                }
                Insert::Incomplete => {}
                Insert::Drop(why) => prop_assert!(false, "{:?}", why),
            }
        }
        prop_assert!(done.iter().all(|d| *d));
    }

    #[test]
    fn hostile_fragments_never_panic_and_memory_is_accounted(
        v6 in any::<bool>(),
        list in proptest::collection::vec((0u16..40, any::<bool>(), 0usize..200, 0u16..3, 0u8..6), 1..80),
    ) {
        let mut w = World::new(FragLimits { memory: 30_000, pieces: 6, timeout: Span::from_secs(5), timeout6: Span::from_secs(5) });
        for (t, (offset, more, len, id, tos)) in list.into_iter().enumerate() {
            let mut p = whole(v6, id, &vec![1; len]);
            if v6 {
                let next = p[6];
                p[6] = number::FRAGMENT;
                let mut h = [next, 0, 0, 0, 0, 0, 0, id as u8];
                put16(&mut h, 2, offset << 3 | u16::from(more));
                p.splice(40..40, h);
                let payload = (p.len() - 40) as u16;
                put16(&mut p, 4, payload);
            } else {
                p[1] = tos;
                put16(&mut p, 6, offset | if more { MORE } else { 0 });
                seal(&mut p);
            }
            if let Ok(crate::wire::Parsed::Ip(m)) = parse(&p, Link::Ip) {
                let now = Mono::ZERO + Span::from_secs(t as u64 / 3);
                if let Insert::Complete(p, _) = w.r.insert(now, PORT, &p, &m, &mut w.out) {
                    prop_assert!(matches!(parse(p.bytes(), Link::Ip), Ok(crate::wire::Parsed::Ip(_)) | Err(_)));
                }
                prop_assert!(w.r.memory() <= 30_000);
                w.r.on_timeout(now, &mut w.out, |out, _, p| out.recycle(p));
            }
        }
        w.expired(1000);
        prop_assert_eq!((w.r.memory(), w.r.len(), w.r.poll_timeout()), (0, 0, None));
    }
}
