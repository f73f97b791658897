//! What is limited or learnt once for all workers.

use super::*;
use crate::time::Span;

/// A router says of a packet that was sent in a tunnel that only `mtu` bytes fit.
fn too_big(router: IpAddr, about: &[u8], mtu: u16) -> Vec<u8> {
    let Ok(Parsed::Ip(m)) = parse(about, Link::Ethernet) else { panic!() };
    let quoted = &about[m.l3 as usize..(m.end as usize).min(m.l3 as usize + 128)];
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 2, 0xfe], LAN_MAC.0);
    let mut bytes = Vec::new();
    match (router, m.src(about)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => builder
            .ipv4(a.octets(), b.octets(), 60)
            .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
            ))
            .write(&mut bytes, quoted)
            .unwrap(),
        (IpAddr::V6(a), IpAddr::V6(b)) => builder
            .ipv6(a.octets(), b.octets(), 60)
            .icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: mtu.into() })
            .write(&mut bytes, quoted)
            .unwrap(),
        _ => panic!("one family"),
    }
    bytes
}

#[test]
fn a_path_mtu_that_one_worker_learns_holds_for_the_packets_of_all() {
    for v6 in [false, true] {
        let n = net(v6);
        let catalog = catalog(Forward::Tun(Tunnel::Ipip), Proto::Tcp).commit();
        let options = EngineOptions { connection_limit: 500, seed: 5, ..EngineOptions::default() };
        let mut band = Band::new(4, options, &catalog);
        let packet = |cport: u16, flags, len: usize| {
            let (client, vip) = (SocketAddr::new(n.client, cport), SocketAddr::new(n.vip, 80));
            let mut f = frame(WAN_MAC, Proto::Tcp, client, vip, flags, &vec![7; len]);
            if !v6 {
                f[14 + 6] |= 0x40;
                testkit::set_checksum(&mut f[14..], false);
            }
            f
        };
        // every worker gets connections, and all real servers
        let mut sent_first = Vec::new();
        for cport in 4000..4040 {
            let (verdict, sent) = band.give(Mono::ZERO, WAN, &packet(cport, 2, 0));
            assert_eq!(verdict, Verdict::Send(LAN));
            sent_first.push(sent[0].1.clone());
        }
        assert!(band.engines.iter().all(|e| e.connection_count() > 0));
        let real = |f: &[u8]| testkit::meta(f, Link::Ethernet).dst(f);
        let router: IpAddr = if v6 { "2001:db8:2::9" } else { "10.2.0.9" }.parse().unwrap();
        let victim = real(&sent_first[0]);
        let now = Mono::from_millis(5);
        let _ = band.give(now, LAN, &too_big(router, &sent_first[0], 1300));
        for (cport, first) in (4000..).zip(&sent_first) {
            let (verdict, sent) = band.give(now, WAN, &packet(cport, 16, 1300));
            let fits = real(first) != victim;
            assert_eq!(matches!(verdict, Verdict::Send(_)), fits, "v6={v6} {cport}: {verdict:?}");
            assert!(fits || sent[0].0 == WAN, "the client is told");
        }
        let later = now + Span::from_secs(601);
        let (verdict, _) = band.give(later, WAN, &packet(4000, 16, 1300));
        assert_eq!(verdict, Verdict::Send(LAN), "forgotten by all");
    }
}

#[test]
fn all_workers_together_send_no_more_icmp_errors_than_one_may() {
    let n = net(false);
    let mut told = Vec::new();
    for workers in [1, 4] {
        let host = HostOptions { icmp_limit: Some(200), announce: false, midnight_ms: 0 };
        let options = EngineOptions { connection_limit: 500, seed: 5, host, ..EngineOptions::default() };
        let mut band = Band::new(workers, options, &catalog(Forward::Nat, Proto::Udp).commit());
        // a second of datagrams to a closed port, one each millisecond, from anybody
        let mut errors = 0;
        for ms in 0..2000u32 {
            let client = SocketAddr::new(n.client, 2000 + ms as u16);
            let f = frame(WAN_MAC, Proto::Udp, client, SocketAddr::new(n.vip, 81), 0, b"?");
            let (_, sent) = band.give(Mono::from_millis(ms.into()), WAN, &f);
            errors += sent.len();
        }
        told.push(errors);
    }
    // two seconds' worth and a burst of 50
    let [one, four] = told[..] else { panic!() };
    assert!((400..=450).contains(&one), "{one}");
    assert!((300..=one + 4).contains(&four), "{four} of {one}");
}
