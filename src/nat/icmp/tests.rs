//! Claims about translated errors.

use proptest::prelude::*;

use super::*;
use crate::buf::Offload;
use crate::nat::golden;
use crate::wire::testkit::{checksums_ok, hex, meta, packet, partial, pseudo, with_packet};
use crate::wire::{Link, ttl};

/// An error of this type about `inner`, from `src` to `dst`, with a right checksum.
fn error(v6: bool, kind: u8, src: u128, dst: u128, inner: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
    message.extend_from_slice(inner);
    let len = message.len() as u16;
    let mut out = if v6 {
        let mut h = [0; 40];
        ipv6::Header { class: 0, flow: 0, payload: len, next: number::ICMPV6, hop_limit: 9, src, dst }
            .write(&mut h);
        h.to_vec()
    } else {
        let mut h = [0; 20];
        let (total, src, dst) = (20 + len, src as u32, dst as u32);
        ipv4::Header { tos: 0, total, id: 1, df: false, ttl: 9, proto: number::ICMP, src, dst }.write(&mut h);
        h.to_vec()
    };
    let l4 = out.len();
    out.extend_from_slice(&message);
    let m = meta(&out, Link::Ip);
    let head = if v6 { pseudo(&out, &m) } else { 0 };
    let field = !fold(head + sum(&out[l4..]));
    put16(&mut out, l4 + CHECKSUM, field);
    out
}

fn run(frame: &[u8], offload: Offload, plan: &ErrorRewrite) -> (Result<(), DropReason>, Vec<u8>, Offload) {
    let m = meta(frame, Link::Ip);
    with_packet(frame, offload, |p| {
        let q = quoted(p, &m)?;
        translate(p, &m, &q, plan)
    })
}

#[test]
fn recorded_errors_come_out_as_from_the_kernel() {
    for (what, [src, dst, inner_src, inner_dst], before, after) in golden::ICMP {
        let before = hex(before);
        let mut m = meta(&before, Link::Ip);
        let addr = |t: &Option<&str>| t.map(|t| t.parse::<IpAddr>().unwrap());
        let end = |t: &Option<&str>| {
            t.map(|t| t.parse::<std::net::SocketAddr>().unwrap()).map(|s| (s.ip(), s.port()))
        };
        let plan = ErrorRewrite {
            src: addr(src),
            dst: addr(dst),
            inner: Rewrite { src: end(inner_src), dst: end(inner_dst) },
        };
        let (result, out, _) = with_packet(&before, Offload::NONE, |p| {
            let q = quoted(p, &m)?;
            translate(p, &m, &q, &plan)?;
            ttl::decrement(p, &mut m)
        });
        assert_eq!(result, Ok(()), "{what}");
        assert_eq!(out, hex(after), "{what}");
    }
}

#[test]
fn wrong_checksums_are_dropped_unless_a_device_vouches_for_them() {
    for v6 in [false, true] {
        let kind = if v6 { 1 } else { 3 };
        let mut frame = error(v6, kind, 1, 2, &packet(v6, number::TCP, (3, 4), (5, 6), b"abc"));
        let m = meta(&frame, Link::Ip);
        assert!(with_packet(&frame, Offload::NONE, |p| quoted(p, &m)).0.is_ok());
        frame[m.l4 as usize + 3] ^= 1;
        assert_eq!(with_packet(&frame, Offload::NONE, |p| quoted(p, &m)).0, Err(DropReason::BadIcmpChecksum));
        for csum in [Csum::Verified, partial(&m).csum] {
            let offload = Offload { csum, gso: None };
            let (result, after, left) = run(&frame, offload, &ErrorRewrite::default());
            assert_eq!((result, left.csum), (Ok(()), Csum::Complete));
            assert!(checksums_ok(&after, &m), "the field is complete afterwards");
        }
        let elsewhere = Offload { csum: Csum::Partial { start: m.l4 + 8, offset: 2 }, gso: None };
        assert_eq!(run(&frame, elsewhere, &ErrorRewrite::default()).0, Err(DropReason::BadOffload));
    }
}

#[test]
fn only_errors_about_connections_are_followed() {
    let inner = packet(false, number::TCP, (3, 4), (5, 6), b"");
    for t in 0..=255u8 {
        let frame = error(false, t, 1, 2, &inner);
        let m = meta(&frame, Link::Ip);
        let want = match t {
            3 | 4 | 11 => Kind::Error,
            5 | 12 => Kind::Swallowed,
            _ => Kind::Message,
        };
        assert_eq!(kind(&frame, &m), Some(want), "{t}");
        assert_eq!(
            with_packet(&frame, Offload::NONE, |p| quoted(p, &m)).0.is_ok(),
            want == Kind::Error,
            "{t}"
        );
        let frame = error(true, t, 1, 2, &packet(true, number::UDP, (3, 4), (5, 6), b""));
        let want = if t < 128 { Kind::Error } else { Kind::Message };
        assert_eq!(kind(&frame, &meta(&frame, Link::Ip)), Some(want), "{t}");
    }
    assert_eq!(kind(&inner, &meta(&inner, Link::Ip)), None);
}

#[test]
fn padding_behind_the_datagram_is_not_quoted() {
    let inner = packet(false, number::TCP, (3, 4), (5, 6), b"");
    let mut frame = error(false, 3, 1, 2, &inner[..22]);
    let m = meta(&frame, Link::Ip);
    frame.extend_from_slice(&[0; 20]);
    let refused = with_packet(&frame, Offload::NONE, |p| quoted(p, &m)).0;
    assert_eq!(refused, Err(DropReason::ShortTransport), "two of the four port bytes are there");
}

#[test]
fn what_has_no_ports_is_found_but_not_translated() {
    let mut inner = packet(false, number::TCP, (3, 4), (5, 6), b"");
    inner[9] = number::IPIP;
    let frame = error(false, 3, 1, 2, &inner);
    let m = meta(&frame, Link::Ip);
    let q = with_packet(&frame, Offload::NONE, |p| quoted(p, &m)).0.unwrap();
    assert_eq!((q.proto, q.l3, q.l4, q.sport), (number::IPIP, 28, 48, 0));
    let (result, after, _) = run(&frame, Offload::NONE, &ErrorRewrite::default());
    assert_eq!((result, after), (Err(DropReason::Protocol), frame));
    inner[6..8].copy_from_slice(&[0, 1]);
    let frame = error(false, 3, 1, 2, &inner);
    assert_eq!(run(&frame, Offload::NONE, &ErrorRewrite::default()).0, Err(DropReason::IcmpNoConnection));
}

proptest! {
    #[test]
    fn a_translated_error_quotes_the_translated_packet(
        v6 in any::<bool>(), proto in prop::sample::select(vec![number::TCP, number::UDP, number::SCTP]),
        (cip, vip, rip, lip) in any::<(u128, u128, u128, u128)>(),
        (cport, vport, rport, lport) in any::<(u16, u16, u16, u16)>(),
        payload in prop::collection::vec(any::<u8>(), 0..80), cut in 4usize..100,
    ) {
        let ip = |n: u128| if v6 { IpAddr::V6(n.into()) } else { IpAddr::V4((n as u32).into()) };
        // FULLNAT: the reply RIP > LIP became VIP > CIP; the client's error about it goes to the server
        let reply = packet(v6, proto, (vip, vport), (cip, cport), &payload);
        let header = if v6 { 40 } else { 20 };
        let quote = &reply[..(header + cut).min(reply.len())];
        let frame = error(v6, if v6 { 1 } else { 11 }, cip, vip, quote);
        let plan = ErrorRewrite {
            src: Some(ip(lip)),
            dst: Some(ip(rip)),
            inner: Rewrite { src: Some((ip(rip), rport)), dst: Some((ip(lip), lport)) },
        };
        let (result, after, _) = run(&frame, Offload::NONE, &plan);
        prop_assert_eq!(result, Ok(()));
        let m = meta(&after, Link::Ip);
        prop_assert!(checksums_ok(&after, &m));
        prop_assert_eq!((m.src(&after), m.dst(&after)), (ip(lip), ip(rip)));
        let q = with_packet(&after, Offload::NONE, |p| quoted(p, &m)).0.unwrap();
        prop_assert_eq!((q.src(&after), q.sport, q.dst(&after), q.dport), (ip(rip), rport, ip(lip), lport));
        prop_assert!(v6 || crate::wire::sum::header_ok(&after[28..48]));
        // everything behind the ports is as quoted: the transport checksum too
        prop_assert_eq!(&after[m.l4 as usize + 8 + header + 4..], &frame[m.l4 as usize + 8 + header + 4..]);
    }

    #[test]
    fn a_refused_error_is_unchanged(
        v6 in any::<bool>(), l3 in any::<u16>(), l4 in 0u16..200, end in 0u32..200, q in any::<(u16, u16, u32)>(),
    ) {
        let frame = error(v6, 3, 1, 2, &packet(v6, number::TCP, (3, 4), (5, 6), b"abc"));
        let m = Meta { l3: l3 % 64, l4, end, ..meta(&frame, Link::Ip) };
        let inner = Meta { l3: q.0 % 100, l4: q.1 % 200, end: q.2 % 300, proto: number::TCP, ..m };
        let new = if v6 { IpAddr::V6(9.into()) } else { IpAddr::V4(9.into()) };
        let plan = ErrorRewrite { src: Some(new), dst: None, inner: Rewrite { src: Some((new, 7)), dst: None } };
        let (result, after, _) = with_packet(&frame, Offload::NONE, |p| translate(p, &m, &inner, &plan));
        prop_assert!(result.is_ok() || after == frame);
    }
}
