//! FTP's texts, shifts and packets.

use proptest::prelude::*;

use super::*;
use crate::buf::Offload;
use crate::wire::Link;
use crate::wire::testkit::{checksums_ok, meta, packet, partial, set_checksum, with_packet};

fn place(ip: Option<&str>, port: u16, at: Range<usize>, delimiter: Option<u8>) -> Place {
    Place { ip: ip.map(|i| i.parse().unwrap()), port, at, delimiter }
}

#[test]
fn commands_are_known_in_any_case_and_only_whole() {
    use Command::{Active, Passive as P};
    let (pasv, epsv) = (Some(P(Passive::Pasv)), Some(P(Passive::Epsv)));
    let port = |at| Some(Active(place(Some("198.51.100.5"), 9010, at, None)));
    for (text, v6, want) in [
        ("PASV\r\n", false, pasv.clone()),
        ("pasv\r\n", false, pasv.clone()),
        ("TYPE I\r\nPASV\r\n", false, pasv),
        ("PASV\r\n", true, None),
        ("PASV\r", false, None),
        ("PAS", false, None),
        ("EPSV\r\n", false, epsv.clone()),
        ("EPSV\r\n", true, epsv.clone()),
        ("EPSV 1\r\n", false, epsv.clone()),
        ("EPSV 2\r\n", true, epsv),
        ("EPSV 2\r\n", false, None),
        ("EPSV ALL\r\n", false, None),
        ("PORT 198,51,100,5,35,50\r\n", false, port(5..23)),
        ("port 198,51,100,5,35,50\r\n", false, port(5..23)),
        ("PORT 198,51,100,5,35,50\r\n", true, None),
        ("PORT 198,51,100,5,35,50", false, None),
        ("PORT 198,51,100,5,35\r\n", false, None),
        ("PORT 198,51,100,256,35,50\r\n", false, None),
        ("PORT 198,51,,5,35,50\r\n", false, None),
        ("PORT 198,51,100,5,0,0\r\n", false, None),
        ("NOOP\r\nPORT 198,51,100,5,35,50\r\n", false, None),
        (
            "EPRT |1|198.51.100.5|9010|\r\n",
            false,
            Some(Active(place(Some("198.51.100.5"), 9010, 5..26, Some(b'|')))),
        ),
        (
            "EPRT !2!2001:db8::5!9010!\r\n",
            true,
            Some(Active(place(Some("2001:db8::5"), 9010, 5..25, Some(b'!')))),
        ),
        ("EPRT |2|2001:db8::5|9010|\r\n", false, None),
        ("EPRT |1|198.51.100.5|90100|\r\n", false, None),
        ("EPRT |1|198.51.100.5|+901|\r\n", false, None),
        ("EPRT |1|198.51.100.5|9010", false, None),
        ("EPRT |||9010|\r\n", false, None),
        ("USER anonymous\r\n", false, None),
        ("", false, None),
    ] {
        assert_eq!(command(text.as_bytes(), v6), want, "{text:?} v6 {v6}");
    }
}

#[test]
fn replies_are_known_with_and_without_parenthesis() {
    let six = |at| Some(place(Some("10.2.0.11"), 51210, at, None));
    for (text, kind, want) in [
        ("227 Entering Passive Mode (10,2,0,11,200,10).\r\n", Passive::Pasv, six(27..43)),
        ("227 Entering Passive Mode 10,2,0,11,200,10\r\n", Passive::Pasv, six(26..42)),
        ("227 Entering Passive Mode (10,2,0,11,200", Passive::Pasv, None),
        ("226 done (10,2,0,11,200,10)\r\n", Passive::Pasv, None),
        (
            "229 Entering Extended Passive Mode (|||51210|)\r\n",
            Passive::Epsv,
            Some(place(None, 51210, 36..45, Some(b'|'))),
        ),
        ("229 Entering Extended Passive Mode (|||51210|)\r\n", Passive::Pasv, None),
        (
            "229 ok (|1|10.2.0.11|51210|)\r\n",
            Passive::Epsv,
            Some(place(Some("10.2.0.11"), 51210, 8..27, Some(b'|'))),
        ),
        ("229 ok (|||0|)\r\n", Passive::Epsv, None),
        ("229 ok (|||", Passive::Epsv, None),
    ] {
        assert_eq!(reply(text.as_bytes(), kind, false), want, "{text:?}");
    }
}

#[test]
fn texts_keep_the_form_they_stand_for() {
    let v4 = "10.1.0.100".parse().unwrap();
    let v6 = "2001:db8::1".parse().unwrap();
    assert_eq!(&text(&place(Some("10.2.0.11"), 1, 0..1, None), v4, 51210), "10,1,0,100,200,10");
    assert_eq!(&text(&place(None, 1, 0..1, Some(b'|')), v4, 51210), "|||51210|");
    assert_eq!(&text(&place(Some("10.2.0.11"), 1, 0..1, Some(b'!')), v4, 9), "!1!10.1.0.100!9!");
    assert_eq!(&text(&place(Some("::1"), 1, 0..1, Some(b'|')), v6, 9), "|2|2001:db8::1|9|");
    let longest = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
    assert_eq!(text(&place(Some("::1"), 1, 0..1, Some(b'|')), longest, 65535).len(), 49);
}

#[test]
fn a_shift_keeps_what_came_before_the_change() {
    let mut s = Shift::default();
    assert!(s.is_none());
    // vector 5-ftp-pasv-nat: the reply at 5012 grew from 47 to 48 bytes
    s.add(5012, 1);
    assert_eq!((s.seq(5012), s.seq(5059)), (5012, 5060));
    assert_eq!((s.ack(5012), s.ack(5060)), (5012, 5059));
    assert!(!s.allows(5012) && !s.allows(5000) && s.allows(5059));
    s.add(5012, 1);
    assert_eq!(s.seq(5059), 5060, "a segment that is sent again changes nothing");
    s.add(6000, -3);
    assert_eq!((s.seq(5999), s.seq(6000), s.seq(6050)), (6000, 6001, 6048));
    assert_eq!((s.ack(6001), s.ack(6048)), (6000, 6050));
}

proptest! {
    /// A stream of segments, some of which change their length: what the sender counts in and what the
    /// receiver counts in agree at every segment, and every acknowledgement finds its way back.
    #[test]
    fn sequence_numbers_there_and_back_are_the_same(
        start in any::<u32>(), segments in prop::collection::vec((1u32..200, prop::option::of(1u32..200)), 1..40),
    ) {
        let mut shift = Shift::default();
        let (mut sent, mut seen) = (start, start);
        for (len, new) in segments {
            prop_assert_eq!(shift.seq(sent), seen);
            prop_assert_eq!(shift.ack(seen), sent);
            if let Some(new) = new {
                prop_assert!(shift.allows(sent));
                shift.add(sent, new as i32 - len as i32);
                prop_assert_eq!(shift.seq(sent), seen, "the segment itself stays where it is");
                prop_assert_eq!(shift.ack(seen), sent);
            }
            sent = sent.wrapping_add(len);
            seen = seen.wrapping_add(new.unwrap_or(len));
            prop_assert_eq!(shift.seq(sent), seen);
            prop_assert_eq!(shift.ack(seen), sent);
        }
    }

    #[test]
    fn any_text_is_survived_and_places_lie_inside(
        text in prop::collection::vec(prop::sample::select(b"PASVEORT2279 (|,!.:0123456789\r\n\xff".to_vec()), 0..80),
        head in prop::sample::select(vec!["", "PORT ", "EPRT ", "EPRT |1|", "EPRT |2|", "227 (", "229 (|||", "EPSV "]),
        v6 in any::<bool>(),
    ) {
        let text = [head.as_bytes(), &text].concat();
        let found = match command(&text, v6) {
            Some(Command::Active(place)) => Some(place),
            _ => None,
        };
        let replies = [reply(&text, Passive::Pasv, v6), reply(&text, Passive::Epsv, v6)];
        for place in replies.into_iter().flatten().chain(found) {
            prop_assert!(place.port != 0 && !place.at.is_empty() && place.at.end <= text.len());
        }
    }

    #[test]
    fn replaced_texts_leave_right_lengths_and_checksums(
        v6 in any::<bool>(), body in prop::collection::vec(any::<u8>(), 1..80),
        (a, b) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        new in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let (a, b) = (a.index(body.len()), b.index(body.len()));
        let at = a.min(b)..a.max(b);
        let p = packet(v6, number::TCP, (1, 2), (3, 4), &body);
        let m = meta(&p, Link::Ip);
        let (after, got, _) = with_packet(&p, Offload::NONE, |p| splice(p, &m, &at, &new));
        let after = after.unwrap();
        prop_assert_eq!(meta(&got, Link::Ip), after);
        prop_assert!(checksums_ok(&got, &after));
        let want = [&body[..at.start], &new, &body[at.end..]].concat();
        prop_assert_eq!(payload(&got, &after), &want[..]);
        let mut lazy = p.clone();
        set_checksum(&mut lazy, true);
        let (_, mut lazy, _) = with_packet(&lazy, partial(&m), |p| splice(p, &m, &at, &new));
        let complete = set_checksum_from_partial(&mut lazy);
        prop_assert_eq!(complete, got, "the partial field promised the same");
    }

    #[test]
    fn shifted_packets_keep_right_checksums_right_and_wrong_ones_wrong(
        v6 in any::<bool>(), by in -100i32..100, seq in any::<u32>(), ack in any::<u32>(),
        before in 0usize..3, blocks in 0usize..4, wrong in any::<bool>(),
    ) {
        let mut options = vec![1u8; before];
        options.extend_from_slice(&[5, 2 + 8 * blocks as u8]);
        for i in 0..2 * blocks as u32 {
            options.extend_from_slice(&ack.wrapping_add(1000 * (i + 1)).to_be_bytes());
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut p = packet(v6, number::TCP, (1, 2), (3, 4), &options);
        let l4 = meta(&p, Link::Ip).l4 as usize;
        p[l4 + tcp::field::OFFSET] = (((tcp::LEN + options.len()) / 4) << 4) as u8;
        put32(&mut p, l4 + tcp::field::SEQ, seq);
        put32(&mut p, l4 + tcp::field::ACK, ack);
        set_checksum(&mut p, false);
        if wrong {
            p[l4 + tcp::field::CHECKSUM] ^= 0x55;
        }
        let m = meta(&p, Link::Ip);
        let (mut own, mut other) = (Shift::default(), Shift::default());
        own.add(seq.wrapping_sub(200), by);
        other.add(ack.wrapping_sub(200), -by);
        let ((), got, _) = with_packet(&p, Offload::NONE, |p| shift(p, &m, &own, &other));
        prop_assert_eq!(checksums_ok(&got, &m), !wrong);
        prop_assert_eq!(be32(&got, l4 + tcp::field::SEQ), seq.wrapping_add_signed(by));
        prop_assert_eq!(be32(&got, l4 + tcp::field::ACK), ack.wrapping_add_signed(by));
        for i in 0..2 * blocks {
            let at = l4 + tcp::LEN + before + 2 + 4 * i;
            prop_assert_eq!(be32(&got, at), be32(&p, at).wrapping_add_signed(by), "edge {}", i);
        }
    }
}

/// What whoever completes the checksum would make of it.
fn set_checksum_from_partial(packet: &mut [u8]) -> Vec<u8> {
    let l4 = meta(packet, Link::Ip).l4 as usize;
    let field = sum::checksum(&packet[l4..]);
    put16(packet, l4 + tcp::field::CHECKSUM, field);
    packet.to_vec()
}

#[test]
fn super_frames_and_full_memory_are_left_alone() {
    let p = packet(false, number::TCP, (1, 2), (3, 4), b"227 (1,2,3,4,5,6)\r\n");
    let m = meta(&p, Link::Ip);
    let gso = crate::buf::Gso { kind: crate::buf::GsoKind::Tcp4, size: 5, hdr_len: 40, ecn: false };
    let offload = Offload { gso: Some(gso), ..Offload::NONE };
    let (done, got, _) = with_packet(&p, offload, |p| splice(p, &m, &(5..16), b"9"));
    assert!(done.is_none() && got == p);
    let (done, got, _) = with_packet(&p, Offload::NONE, |p| splice(p, &m, &(5..16), &[b'9'; 200]));
    assert!(done.is_none() && got == p);
    let (done, got, _) = with_packet(&p, Offload::NONE, |p| splice(p, &m, &(5..90), b"9"));
    assert!(done.is_none() && got == p);
}
