//! Whatever comes in: no panic, no more packets out than in, and no frame with a foreign source MAC.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::testing::{director, drain, hex, receive};
use super::{HostOptions, IcmpError};
use crate::addr::Mac;
use crate::buf::{Offload, Out, PacketBuf};
use crate::engine::PortId;
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ndp::{Ndp, solicited_node};
use crate::wire::{Link, Parsed, parse};

/// Frames that reach every branch when bytes of them are changed.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = [UDP, SYN, ECHO, UNKNOWN, SYN6, ECHO6].map(hex).into();
    let (them, us) = (Mac([2, 0, 0, 0, 1, 0x33]), Mac([2, 0, 0, 0, 1, 1]));
    let (vip, peer) = (Ipv4Addr::new(10, 1, 0, 100), Ipv4Addr::new(10, 1, 0, 7));
    for (operation, sender_ip, target_ip, dst) in [
        (Operation::Request, peer, vip, Mac::BROADCAST),
        (Operation::Reply, peer, Ipv4Addr::new(10, 1, 0, 1), us),
        (Operation::Request, vip, vip, Mac::BROADCAST),
    ] {
        let arp = Arp { operation, sender_mac: them, sender_ip, target_mac: us, target_ip };
        seeds.push(arp.frame(dst).to_vec());
    }
    let target: Ipv6Addr = "2001:db8:1::100".parse().unwrap();
    let peer: Ipv6Addr = "2001:db8:1::7".parse().unwrap();
    let group = solicited_node(target);
    for (message, src, dst) in [
        (Ndp::Solicit { target, source_mac: Some(them) }, peer, group),
        (Ndp::Solicit { target, source_mac: None }, Ipv6Addr::UNSPECIFIED, group),
        (
            Ndp::Advertise {
                target: peer,
                target_mac: Some(them),
                router: false,
                solicited: true,
                replace: true,
            },
            peer,
            "2001:db8:1::1".parse().unwrap(),
        ),
    ] {
        let (frame, len) = message.frame((us, them), src, dst);
        seeds.push(frame[..len].to_vec());
    }
    seeds
}

const UDP: &str = "0200000001010200000001fe08004500001d100040004011f632c63364050a0100640fa0003a00094a6471";
const SYN: &str = "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005002faf0705e0000";
const ECHO: &str = "0200000001010200000001fe0800450000280001400040010637c63364050a01006408005b850007000170696e6770696e6770696e67";
const UNKNOWN: &str = "0200000001010200000001fe0800450000281000400040fdf53bc63364050a010064(78*20)";
const SYN6: &str = "0200000001010200000001fe86dd600000000014064020010db8000c0000000000000000000520010db8\
                    0001000000000000000001000fa0005500000001000000005002faf048780000";
const ECHO6: &str = "0200000001010200000001fe86dd6000000000143a4020010db8000c0000000000000000000520010db8\
                     000100000000000000000100800086b20007000170696e6770696e6770696e67";

fn seed() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<prop::sample::Index>(),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<bool>(),
        0..20usize,
    )
        .prop_map(|(which, changes, mend, cut)| {
            let mut frame = which.get(&seeds()).clone();
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            let keep = if cut < 10 { frame.len() } else { frame.len().saturating_sub(cut) };
            frame.truncate(keep);
            if mend {
                mend_checksums(&mut frame);
            }
            frame
        })
}

/// Makes checksums right again, so that changed bytes get past them.
fn mend_checksums(frame: &mut [u8]) {
    use crate::wire::{number as n, put16, sum};
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        put16(frame, 24, 0);
        let check = sum::checksum(&frame[14..34]);
        put16(frame, 24, check);
    }
    let Ok(Parsed::Ip(meta)) = parse(frame, Link::Ethernet) else { return };
    let (l4, end) = (usize::from(meta.l4), meta.end as usize);
    let at = match meta.proto {
        n::TCP => 16,
        n::UDP => 6,
        n::ICMP | n::ICMPV6 => 2,
        _ => return,
    };
    if l4 + at + 2 > end {
        return;
    }
    put16(frame, l4 + at, 0);
    let pseudo = match (meta.src(frame), meta.dst(frame)) {
        _ if meta.proto == n::ICMP => 0,
        (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
            sum::pseudo4(s.octets(), d.octets(), meta.proto, (end - l4) as u32)
        }
        (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
            sum::pseudo6(&s.octets(), &d.octets(), meta.proto, (end - l4) as u32)
        }
        _ => return,
    };
    let check = !sum::fold(pseudo + sum::sum(&frame[l4..end]));
    put16(frame, l4 + at, check);
}

fn frames() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let frame = prop_oneof![4 => seed(), 1 => proptest::collection::vec(any::<u8>(), 0..120)];
    proptest::collection::vec((0..2u16, frame), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_frames_are_survived_and_not_amplified(frames in frames(), step in 0..3000u64) {
        let (mut host, mut out) = (director(), Out::new());
        let macs = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, 1]];
        let (mut received, mut sent, mut asked) = (0usize, 0usize, 0usize);
        for (i, (port, frame)) in frames.iter().enumerate() {
            let now = Mono::from_millis(i as u64 * step);
            let due = host.counters.questions;
            host.on_timeout(now, &mut out);
            asked += (host.counters.questions - due) as usize;
            let _ = receive(&mut host, now, PortId(*port), frame, &mut out);
            received += 1;
            for (port, frame) in drain(&mut out) {
                prop_assert_eq!(&frame[6..12], &macs[usize::from(port.0)][..]);
                sent += 1;
            }
            // what is out was caused by what came in, or is a question asked again (at most twice)
            prop_assert!(sent - asked <= received, "{} sent, {} received", sent, received);
            prop_assert!(asked <= 3 * received);
        }
    }

    #[test]
    fn any_bytes_to_each_entrance(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..220usize, port in 0..3u16) {
        let (mut host, mut out) = (director(), Out::new());
        let mut mem = vec![0u8; 64 + bytes.len()];
        mem[64..].copy_from_slice(&bytes);
        let mut pkt = PacketBuf::new(&mut mem, 64, 64 + bytes.len(), Offload::NONE);
        let _ = host.arp_in(Mono::ZERO, PortId(port), &mut pkt, at, &mut out);
        let route = host.route("10.1.0.7".parse().unwrap()).unwrap();
        let _ = host.transmit(Mono::ZERO, &route, &mut pkt, at, super::OnFail::Nothing, &mut out);
        prop_assert!(out.len() <= 2);
    }

    #[test]
    fn errors_are_well_formed_and_never_about_errors(frame in seed(), kind in 0..9usize) {
        let (mut host, mut out) = (director(), Out::new());
        let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { return Ok(()) };
        let kind = [
            IcmpError::TimeExceeded, IcmpError::ReassemblyTimeout, IcmpError::PortUnreachable,
            IcmpError::ProtoUnreachable, IcmpError::HostUnreachable, IcmpError::NetUnreachable,
            IcmpError::Prohibited, IcmpError::FragNeeded { mtu: 1400 }, IcmpError::TooBig { mtu: 70_000 },
        ][kind];
        let told = host.error(Mono::ZERO, kind, PortId(0), &frame, &meta, None, &mut out);
        let made = drain(&mut out);
        prop_assert!(made.len() <= usize::from(told > 0));
        for (port, made) in made {
            if made[12..14] == [8, 6] {
                continue;
            }
            let Ok(Parsed::Ip(error)) = parse(&made, Link::Ethernet) else { panic!("{made:02x?}") };
            if error.proto == 58 && made[error.l4 as usize] == 135 {
                continue;
            }
            prop_assert!(error.ip_len() <= 1280);
            prop_assert!(host.error(Mono::ZERO, kind, port, &made, &error, None, &mut out) == 0, "an error about an error");
            prop_assert!(etherparse::SlicedPacket::from_ethernet(&made).is_ok());
        }
    }
}

#[test]
fn errors_are_limited_but_for_path_mtu_discovery() {
    let (mut host, mut out) = (director(), Out::new());
    host.set_options(HostOptions { icmp_limit: Some(100), announce: false, midnight_ms: 0 });
    let frame = hex(UDP);
    let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { panic!() };
    let mut tell = |now, kind| host.error(now, kind, PortId(0), &frame, &meta, None, &mut out) > 0;
    let burst = (0..1000).filter(|_| tell(Mono::ZERO, IcmpError::TimeExceeded)).count();
    assert_eq!(burst, 50);
    let second = (1..=1000).filter(|ms| tell(Mono::from_millis(*ms), IcmpError::TimeExceeded)).count();
    assert_eq!(second, 100);
    let needed =
        (0..1000).filter(|_| tell(Mono::from_millis(1000), IcmpError::FragNeeded { mtu: 1400 })).count();
    assert_eq!(needed, 1000);
    assert_eq!(host.counters.errors_suppressed, 950 + 900);
}
