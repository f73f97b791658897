use proptest::prelude::*;

use super::*;
use crate::buf::{Gso, GsoKind, Offload};
use crate::wire::testkit::{checksums_ok, meta, packet, partial, set_checksum, with_packet};
use crate::wire::{Link, sum};

/// An IPv4 UDP packet with these options, DF clear.
fn packet4(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut p = packet(false, number::UDP, (0x0a00_0001, 1), (0x0a00_0002, 2), payload);
    p.splice(20..20, options.iter().copied());
    let (header, total) = (20 + options.len(), p.len() as u16);
    p[0] = 0x40 | (header / 4) as u8;
    put16(&mut p, 2, total);
    put16(&mut p, 6, 0);
    put16(&mut p, 10, 0);
    let c = sum::checksum(&p[..header]);
    put16(&mut p, 10, c);
    p
}

fn packet6(payload: &[u8]) -> Vec<u8> {
    packet(true, number::UDP, (0xfd << 120 | 1, 1), (0xfd << 120 | 2, 2), payload)
}

fn cut4(p: &[u8], mtu: usize, off: Offload) -> Result<Vec<Vec<u8>>, DropReason> {
    let (m, mut out, mut list) = (meta(p, Link::Ip), Out::new(), vec![]);
    let (n, _, _) = with_packet(p, off, |b| {
        fragment4(b, &m, mtu, &mut out, |out, f| {
            list.push(f.bytes().to_vec());
            out.recycle(f);
        })
    });
    assert_eq!(n?, list.len());
    Ok(list)
}

fn cut6(p: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, DropReason> {
    let (m, mut out, mut list) = (meta(p, Link::Ip), Out::new(), vec![]);
    let (n, _, _) = with_packet(p, Offload::NONE, |b| {
        fragment6(b, &m, mtu, 0x1234_5678, &mut out, |out, f| {
            list.push(f.bytes().to_vec());
            out.recycle(f);
        })
    });
    assert_eq!(n?, list.len());
    Ok(list)
}

#[test]
fn options_without_the_copied_flag_are_blank_in_later_fragments() {
    // record route (7), router alert (0x94, copied), end
    let options = [7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
    let list = cut4(&packet4(&options, &[5; 100]), 32 + 56, Offload::NONE).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0][20..32], options);
    assert_eq!(list[1][20..32], [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
    assert!(list.iter().all(|f| sum::header_ok(&f[..32])));
    // broken options stay as they are
    for broken in [[7, 0, 9, 9], [7, 1, 9, 9], [7, 9, 9, 9], [1, 1, 1, 7]] {
        assert_eq!(cut4(&packet4(&broken, &[5; 100]), 80, Offload::NONE).unwrap()[1][20..24], broken);
    }
}

#[test]
fn df_stays_and_fragments_of_fragments_keep_their_place() {
    let mut p = packet4(&[], &[5; 200]);
    put16(&mut p, 6, ipv4::DF | MORE4 | 10);
    put16(&mut p, 10, 0);
    let c = sum::checksum(&p[..20]);
    put16(&mut p, 10, c);
    let list = cut4(&p, 120, Offload::NONE).unwrap();
    let fields: Vec<_> = list.iter().map(|f| be16(f, 6)).collect();
    assert_eq!(fields, [ipv4::DF | MORE4 | 10, ipv4::DF | MORE4 | 22, ipv4::DF | MORE4 | 34]);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let p = packet4(&[], &[5; 200]);
    assert_eq!(cut4(&p, 27, Offload::NONE), Err(DropReason::TooBig));
    assert_eq!(cut4(&p, 0, Offload::NONE), Err(DropReason::TooBig));
    let gso = Some(Gso { kind: GsoKind::Udp, size: 100, hdr_len: 0, ecn: false });
    assert_eq!(cut4(&p, 100, Offload { gso, ..Offload::NONE }), Err(DropReason::BadSegmentation));
    assert_eq!(cut4(&packet6(&[5; 200]), 100, Offload::NONE), Err(DropReason::BadFragment));
    assert_eq!(cut6(&p, 100), Err(DropReason::BadFragment));
    assert_eq!(cut6(&packet6(&[5; 200]), 55), Err(DropReason::TooBig));
    let fragment = cut6(&packet6(&[5; 200]), 100).unwrap().remove(0);
    assert_eq!(cut6(&fragment, 80), Err(DropReason::BadFragment));
    assert_eq!(cut4(&p, 228, Offload::NONE).unwrap(), [p]);
}

#[test]
fn a_hop_by_hop_header_stays_in_front_of_the_ipv6_fragment_header() {
    let mut p = packet6(&[5; 100]);
    p.splice(40..40, [number::UDP, 0, 1, 4, 0, 0, 0, 0]);
    p[6] = number::HOPOPTS;
    let length = (p.len() - 40) as u16;
    put16(&mut p, 4, length);
    for f in cut6(&p, 100).unwrap() {
        assert_eq!((f[6], f[40], f[48]), (number::HOPOPTS, number::FRAGMENT, number::UDP));
        assert!(meta(&f, Link::Ip).is_fragment());
    }
}

proptest! {
    #[test]
    fn fragments_join_to_the_original(
        v6 in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..4000),
        mtu in 68usize..2000,
    ) {
        let p = if v6 { packet6(&payload) } else { packet4(&[], &payload) };
        let list = if v6 { cut6(&p, mtu) } else { cut4(&p, mtu, Offload::NONE) }.unwrap();
        let header = if v6 { 40 } else { 20 };
        if list.len() == 1 {
            prop_assert_eq!(&list[0], &p);
            return Ok(());
        }
        let mut joined = vec![];
        for (i, f) in list.iter().enumerate() {
            let m = meta(f, Link::Ip);
            let part = if v6 { &f[48..] } else { &f[20..] };
            prop_assert!(f.len() <= mtu && m.end as usize == f.len());
            prop_assert_eq!(usize::from(m.frag_offset), joined.len());
            prop_assert_eq!(m.more_fragments, i + 1 < list.len());
            let room = mtu - header - if v6 { HEADER6 } else { 0 };
            prop_assert!(!m.more_fragments || part.len() % 8 == 0 && part.len() + 8 > room);
            joined.extend_from_slice(part);
        }
        prop_assert_eq!(&joined, &p[header..]);
    }

    #[test]
    fn partial_checksums_are_completed_before_cutting(payload in proptest::collection::vec(any::<u8>(), 200..900)) {
        let whole = packet4(&[], &payload);
        let mut p = whole.clone();
        set_checksum(&mut p, true);
        let list = cut4(&p, 120, partial(&meta(&p, Link::Ip))).unwrap();
        let mut joined = whole[..20].to_vec();
        list.iter().for_each(|f| joined.extend_from_slice(&f[20..]));
        prop_assert!(checksums_ok(&joined, &meta(&joined, Link::Ip)));
    }
}
