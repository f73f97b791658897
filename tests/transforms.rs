//! Any frame through the parser and every transformation: nothing panics, a refused packet is unchanged,
//! and what is translated there is translated back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use softlvs::addr::Mac;
use softlvs::buf::{Csum, Gso, GsoKind, HEADROOM, Offload, PacketBuf};
use softlvs::engine::DropReason;
use softlvs::nat::icmp::{ErrorRewrite, quoted, translate};
use softlvs::nat::{Rewrite, rewrite};
use softlvs::svc::{Tunnel, TunnelCsum};
use softlvs::tunnel::{EncapPlan, decap, encap};
use softlvs::wire::{Family, Link, Meta, Parsed, parse, ttl};
use softlvs::{dr, wire};

/// Frames near which the random ones lie (Ethernet header included): TCP and an ICMP error quoting UDP
/// over IPv4, UDP and an ICMPv6 error quoting TCP over IPv6, SCTP.
const NEAR: [&str; 5] = [
    "0200000001010200000001fe080045000028400140004006c630c63364060a010064753000500000004e000000015002faf00a840000",
    "02000000020102000000020c08004500003d00364000400106440a02000cc6336405030331620000000045000021100040004011f685c63364050a02000c138814e9000d53347175657279",
    "0200000001010200000001fe86dd60000000000d114020010db8000c0000000000000000000520010db800010000000000000000010013880035000d3fab7175657279",
    "0200000001010200000001fe86dd60000000004c3a3220010db8000c0000000000000000000520010db80001000000000000000001000200c6b4000005146000000004c4064020010db800010000000000000000010020010db8000c0000000000000000000500509c4000001389000003e95018faf0909600007a7a7a7a",
    "0200000001010200000001fe08004500002c0021400040840590c63364050a0100641b58270f33334444e5efb70c0a00000c636f6f6b69652121",
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// The IPv4 header checksum made right again, where there is one, so that changes get past the parser.
fn mend(frame: &mut [u8]) {
    let header = frame.get(14).map_or(0, |b| usize::from(b & 15) * 4);
    if frame.get(12..14) == Some(&[8, 0][..]) && header >= 20 && frame.len() >= 14 + header {
        frame[24..26].fill(0);
        let sum = wire::sum::checksum(&frame[14..14 + header]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let wild = prop::collection::vec(any::<u8>(), 0..120);
    let near =
        (0..NEAR.len(), prop::collection::vec((0usize..90, any::<u8>()), 0..6), any::<u8>(), 0usize..60);
    let near = near.prop_map(|(which, changes, pad, padding)| {
        let mut frame = bytes(NEAR[which]);
        for (at, value) in changes {
            if let Some(b) = frame.get_mut(at) {
                *b = value;
            }
        }
        frame.resize(frame.len() + padding, pad);
        frame.truncate(frame.len() - usize::from(pad % 8).min(frame.len()));
        mend(&mut frame);
        frame
    });
    prop_oneof![1 => wild, 6 => near]
}

fn offloads() -> impl Strategy<Value = Offload> {
    let kind = prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]);
    let gso = prop::option::weighted(0.2, (kind, any::<u16>(), any::<u16>()));
    let csum = prop_oneof![
        Just(Csum::Complete),
        Just(Csum::Verified),
        (30u16..100, prop::sample::select(vec![2u16, 6, 8, 16]))
            .prop_map(|(start, offset)| Csum::Partial { start, offset }),
        any::<(u16, u16)>().prop_map(|(start, offset)| Csum::Partial { start, offset }),
    ];
    (csum, gso).prop_map(|(csum, gso)| {
        let gso = gso.map(|(kind, size, hdr_len)| Gso { kind, size, hdr_len, ecn: false });
        Offload { csum, gso }
    })
}

/// Runs `f` and checks that a refused packet is as it was.
fn refused_is_unchanged<R>(
    frame: &[u8],
    offload: Offload,
    f: impl FnOnce(&mut PacketBuf<'_>) -> Result<R, DropReason>,
) -> Result<Vec<u8>, DropReason> {
    let mut mem = vec![0; HEADROOM + frame.len()];
    mem[HEADROOM..].copy_from_slice(frame);
    let mut pkt = PacketBuf::new(&mut mem, HEADROOM, HEADROOM + frame.len(), offload);
    match f(&mut pkt) {
        Ok(_) => Ok(pkt.bytes().to_vec()),
        Err(why) => {
            assert_eq!((pkt.bytes(), pkt.offload), (frame, offload), "{why:?}");
            Err(why)
        }
    }
}

fn addr(family: Family, n: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(n as u32).into(),
        Family::V6 => Ipv6Addr::from(n).into(),
    }
}

fn end(family: Family, n: (u128, u16)) -> Option<(IpAddr, u16)> {
    Some((addr(family, n.0), n.1))
}

fn ip(frame: &[u8]) -> Option<Meta> {
    match parse(frame, Link::Ethernet) {
        Ok(Parsed::Ip(m)) => Some(m),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_panics_and_what_is_refused_is_unchanged(
        frame in frames(), offload in offloads(),
        (a, b) in any::<((u128, u16), (u128, u16))>(), (kind, v6, port, id) in any::<(u8, bool, u16, u16)>(),
    ) {
        let _ = refused_is_unchanged(&frame, offload, |p| dr::readdress(p, Mac([1; 6]), Mac([2; 6])));
        let _ = parse(&frame, Link::Ip);
        let csum = [TunnelCsum::None, TunnelCsum::Csum, TunnelCsum::RemCsum][usize::from(kind) % 3];
        let tunnel = match kind / 3 % 3 {
            0 => Tunnel::Ipip,
            1 => Tunnel::Gre { csum },
            _ => Tunnel::Gue { port, csum },
        };
        if let Some(m) = ip(&frame) {
            let plan = Rewrite { src: end(m.family, a), dst: end(m.family, b) };
            let _ = refused_is_unchanged(&frame, offload, |p| ttl::decrement(p, &mut m.clone()));
            let _ = refused_is_unchanged(&frame, offload, |p| rewrite(p, &m, &plan));
            let errors = ErrorRewrite { src: Some(addr(m.family, a.0)), dst: Some(addr(m.family, b.0)), inner: plan };
            let translated = refused_is_unchanged(&frame, offload, |p| {
                let q = quoted(p, &m)?;
                translate(p, &m, &q, &errors)
            });
            if let Ok(after) = translated {
                let m = ip(&after).unwrap();
                let r = refused_is_unchanged(&after, Offload::NONE, |p| quoted(p, &m));
                prop_assert!(r.is_ok(), "a translated error is an error with a right checksum: {r:?}");
            }
            let outer = if v6 { Family::V6 } else { Family::V4 };
            let plan = EncapPlan {
                tunnel, src: addr(outer, a.0), dst: addr(outer, b.0), copy_df: v6, ip_id: id, gue_sport: a.1,
            };
            let wrapped = refused_is_unchanged(&frame, offload, |p| encap(p, &m, &plan).map(|o| (o, p.offload)));
            if let (Ok(out), Csum::Complete) = (wrapped, offload.csum) {
                let found = decap(&out, Csum::Complete, Some(port)).unwrap();
                prop_assert_eq!(&out[found.inner..found.end], &frame[m.l3 as usize..m.end as usize]);
            }
        }
        let _ = decap(frame.get(14..).unwrap_or_default(), offload.csum, Some(port));
    }

    #[test]
    fn whatever_is_translated_is_translated_back(
        frame in frames(), (a, b) in any::<((u128, u16), (u128, u16))>(),
    ) {
        let Some(m) = ip(&frame) else { return Ok(()) };
        let there = Rewrite { src: end(m.family, a), dst: end(m.family, b) };
        let back = Rewrite { src: Some((m.src(&frame), m.sport)), dst: Some((m.dst(&frame), m.dport)) };
        let Ok(after) = refused_is_unchanged(&frame, Offload::NONE, |p| rewrite(p, &m, &there)) else { return Ok(()) };
        let n = ip(&after).unwrap();
        prop_assert_eq!((n.src(&after), n.sport), there.src.unwrap());
        prop_assert_eq!((n.dst(&after), n.dport), there.dst.unwrap());
        let again = refused_is_unchanged(&after, Offload::NONE, |p| rewrite(p, &n, &back)).unwrap();
        // the checksum field is mended, given or stands for the same number; all else is the frame
        let (l4, len) = (m.l4 as usize, frame.len());
        let field = match m.proto {
            wire::number::TCP => l4 + 16..l4 + 18,
            wire::number::UDP => l4 + 6..l4 + 8,
            _ => l4 + 8..l4 + 12,
        };
        for at in (0..len).filter(|at| !field.contains(at)) {
            prop_assert_eq!(again[at], frame[at], "byte {}", at);
        }
    }
}
