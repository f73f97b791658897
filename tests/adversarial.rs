//! Hostile and odd traffic, one documented outcome each. Where the kernel's recorded behaviour is another
//! one than a textbook would like, the kernel's is kept and the test says so: a director that is exchanged
//! for IPVS must not break what worked.

mod common;

use std::net::IpAddr;

use common::*;
use softlvs::addr::Mac;
use softlvs::buf::{Csum, Gso, GsoKind, Offload};
use softlvs::engine::{DropReason, Taken, Verdict};
use softlvs::svc::{Forward, Proto, Tunnel};

const LOCAL: Verdict = Verdict::Taken(Taken::Local);
const KEPT: Verdict = Verdict::Taken(Taken::Reassembling);

fn drop(why: DropReason) -> Verdict {
    Verdict::Drop(why)
}

#[test]
fn land_packets_are_martians() {
    for forward in MODES {
        for v6 in [false, true] {
            let mut lab = Lab::new(forward);
            let vip = net(v6).vip();
            for flags in [SYN, ACK, SYN | ACK, RST] {
                let why = lab.silent(WAN, &Pkt::tcp(vip, vip, flags).frame());
                assert_eq!(why, DropReason::MartianSource);
            }
            let _ = lab.silent(WAN, &Pkt::udp(vip, vip, b"x").frame());
            assert_eq!(lab.engine.drops().of(DropReason::MartianSource), 5);
            assert_eq!(lab.engine.connection_count(), 0);
        }
    }
}

#[test]
fn sources_that_can_be_nobodys_are_dropped_in_silence() {
    let martians = [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.0.9",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
        "192.0.2.2",
        "10.2.0.1",
        "192.0.2.10",
        "::1",
        "ff02::1",
        "ff0e::5",
        "2001:db8:1::2",
        "2001:db8:1::10",
    ];
    for martian in martians.map(ip) {
        let vip = net(martian.is_ipv6()).vip();
        let mut lab = Lab::new(Forward::Nat);
        for port in [WAN, LAN] {
            let to = if port == WAN { WAN_MAC } else { LAN_MAC };
            let why = lab.silent(port, &Pkt::tcp(sock(martian, 9), vip, SYN).to(to).frame());
            assert_eq!(why, DropReason::MartianSource, "{martian}");
            let _ = lab.silent(port, &Pkt::udp(sock(martian, 9), vip, b"x").to(to).frame());
            let ping = if martian.is_ipv4() { (8, 0) } else { (128, 0) };
            let _ = lab.silent(port, &Pkt::icmp(martian, vip.ip(), ping, 1, b"ping").to(to).frame());
        }
    }
    // from a network's broadcast address and from no address datagrams go on, but nobody is answered there
    for nobody in ["192.0.2.255", "::"].map(ip) {
        let vip = net(nobody.is_ipv6()).vip();
        let mut lab = Lab::new(Forward::Nat);
        let (verdict, _) = lab.client_sends(sock(nobody, 9), SYN);
        assert_eq!(verdict, Verdict::Send(LAN), "{nobody}");
        let closed = Pkt::tcp(sock(nobody, 9), sock(vip.ip(), 7), SYN).frame();
        assert_eq!(lab.silent(WAN, &closed), DropReason::NoRoute);
    }
    // the kernel's zero network has been the one address 0.0.0.0 since Linux 5.3
    let mut lab = Lab::new(Forward::Nat);
    let (verdict, _) = lab.client_sends(sock(ip("0.1.2.3"), 9), SYN);
    assert_eq!(verdict, Verdict::Send(LAN));
}

#[test]
fn a_server_address_as_client_is_scheduled_like_any_other() {
    // rule 19: without a reverse path filter the kernel does the same, from either side
    let mut lab = Lab::new(Forward::Nat);
    let n = net(false);
    let (verdict, _) = lab.client_sends(sock(n.rs(0), 3000), SYN);
    assert_eq!(verdict, Verdict::Send(LAN));
}

#[test]
fn overlapping_fragments_end_the_datagram_and_repetitions_do_not() {
    for v6 in [false, true] {
        let n = net(v6);
        let whole = Pkt::udp(n.client(4000), n.vip(), &[7; 56]);
        let mut lab = Lab::new(Forward::Nat);
        assert_eq!(lab.give(WAN, &whole.piece(0..24, true)).0, KEPT);
        assert_eq!(lab.give(WAN, &whole.piece(0..24, true)).0, KEPT, "a repetition");
        let (verdict, sent) = lab.give(WAN, &whole.piece(24..64, false));
        assert!(!sent.is_empty(), "{verdict:?}");
        // teardrop: the second piece begins inside the first
        for (second, more) in [((16, 16), false), ((0, 40), true), ((16, 48), false)] {
            let mut lab = Lab::new(Forward::Nat);
            let _ = lab.give(WAN, &whole.piece(0..24, true));
            let _ = lab.give(WAN, &whole.any_piece(&vec![9; second.1], second.0, more));
            let rest = lab.give(WAN, &whole.piece(24..64, false));
            assert!(rest.1.is_empty(), "overlap {second:?} was forwarded: {:?}", rest.0);
            assert_eq!(lab.engine.connection_count(), 0);
        }
        // a piece that lies wholly within another one is ignored, whatever it says: the kernel does so
        let mut lab = Lab::new(Forward::Dr);
        let _ = lab.give(WAN, &whole.piece(0..24, true));
        let _ = lab.give(WAN, &whole.any_piece(&[9; 8], 8, true));
        let (_, sent) = lab.give(WAN, &whole.piece(24..64, false));
        assert!(!sent.is_empty());
        assert!(sent.iter().all(|s| !s.bytes.ends_with(&[9])) && !sent[0].bytes[34..].contains(&9));
    }
}

#[test]
fn impossible_fragments_are_dropped() {
    for v6 in [false, true] {
        let n = net(v6);
        let whole = Pkt::udp(n.client(4000), n.vip(), &[7; 56]);
        let cases = [
            ("nothing in it", whole.any_piece(&[], 8, true)),
            ("beyond 65,535", whole.any_piece(&[1; 64], 65_528, false)),
        ];
        for (what, frame) in cases {
            let mut lab = Lab::new(Forward::Nat);
            let (verdict, _) = lab.give(WAN, &frame);
            assert!(matches!(verdict, Verdict::Drop(_)), "{what}: {verdict:?}");
        }
        // not a multiple of 8: the kernel cuts the odd bytes off in IPv4 and drops in IPv6 (RFC 8200 4.5)
        let mut lab = Lab::new(Forward::Nat);
        let odd = lab.give(WAN, &whole.any_piece(&[1; 13], 8, true)).0;
        assert_eq!(odd, if v6 { drop(DropReason::BadFragment) } else { KEPT });
        // the end that came first says how long it is: nothing may lie behind it
        let mut lab = Lab::new(Forward::Nat);
        let _ = lab.give(WAN, &whole.piece(40..64, false));
        let (verdict, _) = lab.give(WAN, &whole.any_piece(&[1; 16], 64, true));
        assert_eq!(verdict, drop(DropReason::BadFragment));
    }
}

#[test]
fn a_tiny_first_fragment_is_dropped() {
    // A first fragment without a whole TCP header hides its flags from filters. The kernel puts such
    // IPv4 datagrams together; here they are dropped in both families (RFC 1858, RFC 8200 section 4.5).
    for v6 in [false, true] {
        let n = net(v6);
        for flags in [SYN, ACK, RST] {
            let mut lab = Lab::new(Forward::Nat);
            let segment = Pkt::tcp(n.client(4000), n.vip(), flags);
            assert_eq!(lab.silent(WAN, &segment.piece(0..8, true)), DropReason::ShortTransport);
            assert_eq!(lab.give(WAN, &segment.piece(8..20, false)).0, KEPT);
            assert_eq!(lab.engine.connection_count(), 0);
        }
    }
}

#[test]
fn a_spent_ttl_is_told_once_and_never_forwarded() {
    for forward in MODES {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            for ttl in [0, 1] {
                let syn = Pkt::tcp(n.client(4000 + u16::from(ttl)), n.vip(), SYN).ttl(ttl).frame();
                let (verdict, sent) = lab.give(WAN, &syn);
                assert_eq!(verdict, drop(DropReason::TtlExpired), "{forward:?} ttl {ttl}");
                assert!(sent.len() <= 1);
                for s in sent {
                    let seen = Seen::of(&s.bytes);
                    assert_eq!((seen.src.ip(), seen.dst.ip()), (n.vip, n.client));
                    assert_eq!(s.bytes[seen.l4], if v6 { 3 } else { 11 });
                    sums_right(&s.bytes);
                }
            }
            let (verdict, sent) = lab.give(WAN, &Pkt::tcp(n.client(4000), n.vip(), SYN).ttl(2).frame());
            assert_eq!(verdict, Verdict::Send(LAN));
            assert_eq!(Seen::of(&sent[0].bytes).ttl, 1);
        }
    }
}

#[test]
fn errors_about_spent_ttls_are_rate_limited() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Nat);
        let frame = Pkt::tcp(n.client(4000), n.vip(), SYN).ttl(1).frame();
        let told: usize = (0..20_000).map(|_| lab.give_fast(WAN, &frame).1.len()).sum();
        assert!(told <= 1000, "{told} errors in no time");
        assert!(told >= 1);
        lab.engine.check().unwrap();
    }
}

#[test]
fn wrong_checksums_are_dropped_in_the_header_and_kept_behind_it() {
    let n = net(false);
    let mut lab = Lab::new(Forward::Nat);
    let mut bad = Pkt::tcp(n.client(4000), n.vip(), SYN).frame();
    bad[24] ^= 0x55;
    assert_eq!(lab.silent(WAN, &bad), DropReason::BadIpChecksum);
    // rule 14: TCP and UDP checksums are carried on as wrong as they came, the real server finds it
    for v6 in [false, true] {
        let n = net(v6);
        for forward in MODES {
            let mut lab = Lab::new(forward);
            for pkt in [Pkt::tcp(n.client(4000), n.vip(), SYN), Pkt::udp(n.client(4000), n.vip(), b"data")] {
                let at = pkt.check_at.unwrap();
                let mut frame = pkt.frame();
                let l4 = Seen::of(&frame).l4;
                frame[l4 + at] ^= 0x55;
                let (verdict, sent) = lab.give(WAN, &frame);
                assert_eq!(verdict, Verdict::Send(LAN));
                assert!(ip_sum_right(&sent[0].bytes));
                if forward.translates() {
                    assert!(!l4_sum_right(&sent[0].bytes), "a wrong checksum was made right");
                }
            }
            let mut lab = Lab::new(forward);
            let mut ping = Pkt::icmp(n.client, n.vip, if v6 { (128, 0) } else { (8, 0) }, 1, b"ping").frame();
            let last = ping.len() - 1;
            ping[last] ^= 1;
            assert_eq!(lab.silent(WAN, &ping), DropReason::BadIcmpChecksum);
        }
    }
}

/// Changes a byte of the IPv4 header and makes its checksum right again.
fn ip4_lie(at: usize, value: u8) -> Vec<u8> {
    let n = net(false);
    let mut f = Pkt::tcp(n.client(4000), n.vip(), SYN).frame();
    f[14 + at] = value;
    f[24..26].fill(0);
    let header = usize::from(f[14] & 15) * 4;
    let end = (14 + header).min(f.len());
    let check = !fold(&[&f[14..end]]);
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f
}

#[test]
fn headers_that_lie_are_dropped() {
    let mut lab = Lab::new(Forward::Nat);
    let cases = [
        ("IHL 4", ip4_lie(0, 0x44), DropReason::BadIpHeaderLength),
        ("IHL 0", ip4_lie(0, 0x40), DropReason::BadIpHeaderLength),
        ("IHL beyond the packet", ip4_lie(0, 0x4f), DropReason::BadIpHeaderLength),
        ("version 5", ip4_lie(0, 0x55), DropReason::BadVersion),
        ("version 6 in an IPv4 frame", ip4_lie(0, 0x65), DropReason::BadVersion),
        ("total length beyond the frame", ip4_lie(3, 200), DropReason::BadIpLength),
        ("total length below the header", ip4_lie(3, 19), DropReason::BadIpLength),
        ("total length inside the TCP header", ip4_lie(3, 39), DropReason::ShortTransport),
    ];
    for (what, frame, why) in cases {
        assert_eq!(lab.silent(WAN, &frame), why, "{what}");
    }
    let n = net(true);
    let lie = |at: usize, value: u8| {
        let mut f = Pkt::tcp(n.client(4000), n.vip(), SYN).frame();
        f[14 + at] = value;
        f
    };
    let cases = [
        ("version 4 in an IPv6 frame", lie(0, 0x40), DropReason::BadVersion),
        ("payload length beyond the frame", lie(4, 9), DropReason::BadIpLength),
        ("payload length inside the TCP header", lie(5, 12), DropReason::ShortTransport),
        ("an extension header that is cut off", lie(6, 60), DropReason::BadExtension),
    ];
    for (what, frame, why) in cases {
        let (verdict, sent) = lab.give(WAN, &frame);
        assert!(sent.is_empty(), "{what}");
        // a TCP header read as an extension header may also end in another complaint about its length
        if what.starts_with("an extension") {
            assert!(matches!(verdict, Verdict::Drop(_)), "{what}: {verdict:?}");
        } else {
            assert_eq!(verdict, drop(why), "{what}");
        }
    }
    assert_eq!(lab.engine.connection_count(), 0);
}

#[test]
fn transport_headers_that_lie_are_the_real_servers_business() {
    // rule 92: the kernel looks at neither the data offset nor the UDP length of what it forwards
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Nat);
        for offset in [0u8, 4, 15] {
            let mut p = Pkt::tcp(n.client(4000 + u16::from(offset)), n.vip(), SYN);
            p.l4[12] = offset << 4;
            let (verdict, sent) = lab.give(WAN, &p.frame());
            assert_eq!(verdict, Verdict::Send(LAN), "data offset {offset}");
            sums_right(&sent[0].bytes);
        }
        for len in [0u16, 7, 2000] {
            let mut p = Pkt::udp(n.client(5000 + len), n.vip(), b"data");
            p.l4[4..6].copy_from_slice(&len.to_be_bytes());
            let (verdict, _) = lab.give(WAN, &p.frame());
            assert_eq!(verdict, Verdict::Send(LAN), "UDP length {len}");
        }
        // without a whole header there are no ports to go by
        for (proto, len) in [(6, 19), (17, 7), (6, 3), (17, 0)] {
            let p = Pkt::raw(n.client, n.vip, proto, vec![0; len]);
            assert_eq!(lab.silent(WAN, &p.frame()), DropReason::ShortTransport);
        }
    }
}

#[test]
fn ip_options_pass_and_record_the_route() {
    // recorded in `1-options-*`: no operation and router alert pass, the VIP is recorded. The tunnel's
    // outer header has none.
    let n = net(false);
    let IpAddr::V4(vip) = n.vip else { panic!("IPv4") };
    let [a, b, c, d] = vip.octets();
    let recorded = [7, 7, 8, a, b, c, d, 0];
    let options: [(&[u8], &[u8]); 3] = [
        (&[1, 1, 1, 0], &[1, 1, 1, 0]),
        (&[7, 7, 4, 0, 0, 0, 0, 0], &recorded),
        (&[148, 4, 0, 0], &[148, 4, 0, 0]),
    ];
    for forward in MODES {
        let mut lab = Lab::new(forward);
        for (i, (option, leaves)) in options.iter().enumerate() {
            let syn = Pkt::tcp(n.client(4000 + i as u16), n.vip(), SYN).option(option).frame();
            let (verdict, sent) = lab.give(WAN, &syn);
            assert_eq!(verdict, Verdict::Send(LAN));
            let at = if matches!(forward, Forward::Tun(_)) { 54 } else { 34 };
            assert_eq!(&sent[0].bytes[at..at + option.len()], *leaves);
            assert!(ip_sum_right(&sent[0].bytes));
        }
        for option in [[131, 7, 4, 1, 2, 3, 4, 0], [137, 7, 8, 1, 2, 3, 4, 0]] {
            let led = Pkt::tcp(n.client(5000), n.vip(), SYN).option(&option).frame();
            assert_eq!(lab.silent(WAN, &led), DropReason::SourceRoute);
        }
        let senseless = Pkt::tcp(n.client(5000), n.vip(), SYN).option(&[7, 3, 3, 0]).frame();
        let (verdict, sent) = lab.give(WAN, &senseless);
        assert_eq!(verdict, Verdict::Drop(DropReason::BadIpOptions));
        assert_eq!(sent[0].bytes[34..39], [12, 0, sent[0].bytes[36], sent[0].bytes[37], 22]);
    }
}

#[test]
fn icmp_errors_are_translated_only_when_they_quote_a_connection() {
    for forward in [Forward::Nat, Forward::FullNat] {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let syn = lab.establish(n.client(4000));
            let kind = if v6 { (1, 4) } else { (3, 3) };
            let complaint = |quoted: &[u8]| Pkt::icmp(n.client, n.vip, kind, 0, quoted).frame();
            let header = if v6 { 40 } else { 20 };
            let reply = Pkt::tcp(n.vip(), n.client(4000), ACK).ip();
            // 8 bytes of the quoted segment suffice
            let (verdict, sent) = lab.give(WAN, &complaint(&reply[..header + 8]));
            assert_eq!(verdict, Verdict::Send(LAN), "{forward:?}");
            let seen = Seen::of(&sent[0].bytes);
            assert_eq!(seen.dst.ip(), Seen::of(&syn.bytes).dst.ip());
            sums_right(&sent[0].bytes);
            // the quoted header was translated, its checksum too
            let inner = [&[0u8; 14][..], &sent[0].bytes[seen.l4 + 8..]].concat();
            let quoted = Seen::of(&inner);
            let there = Seen::of(&syn.bytes);
            assert_eq!((quoted.src, quoted.dst), (there.dst, there.src));
            assert!(ip_sum_right(&inner));
            for (what, quoted) in [
                ("another port", Pkt::tcp(n.vip(), n.client(4001), ACK).ip()),
                ("another client", Pkt::tcp(n.vip(), sock(n.nth_client(1), 4000), ACK).ip()),
                ("another protocol", Pkt::udp(n.vip(), n.client(4000), b"").ip()),
                ("the other direction", Pkt::tcp(n.client(4000), n.vip(), ACK).ip()),
            ] {
                let why = lab.silent(WAN, &complaint(&quoted));
                assert_eq!(why, DropReason::IcmpNoConnection, "{what}");
            }
            for cut in [0, 1, header - 1, header, header + 3] {
                let why = lab.silent(WAN, &complaint(&reply[..cut]));
                assert!(
                    matches!(why, DropReason::IcmpIgnored | DropReason::IcmpNoConnection),
                    "{cut} bytes: {why:?}"
                );
            }
            let mut wrong = complaint(&reply);
            let last = wrong.len() - 1;
            wrong[last] ^= 1;
            assert_eq!(lab.silent(WAN, &wrong), DropReason::BadIcmpChecksum);
            // IPVS follows no sequence numbers: one outside any window is translated as well
            let odd = Pkt::segment(n.vip(), n.client(4000), ACK, 0xdead_beef, 1, b"").ip();
            assert_eq!(lab.give(WAN, &complaint(&odd)).0, Verdict::Send(LAN));
            assert_eq!(lab.state(), "ESTABLISHED", "an error changes no state");
        }
    }
}

#[test]
fn path_mtu_lies_change_nothing_here() {
    // the director keeps no path MTU: what a forged error says reaches only the end it is for
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Nat);
        let _ = lab.establish(n.client(4000));
        let reply = Pkt::tcp(n.vip(), n.client(4000), ACK).ip();
        for mtu in [0u32, 1, 68, 551, 1279, 0xffff] {
            let kind = if v6 { (2, 0) } else { (3, 4) };
            let _ = lab.give(WAN, &Pkt::icmp(n.client, n.vip, kind, mtu, &reply).frame());
        }
        let full =
            Pkt::segment(n.client(4000), n.vip(), ACK, 1001, 5001, &vec![1; 1500 - if v6 { 60 } else { 40 }]);
        let (verdict, sent) = lab.give(WAN, &full.df().frame());
        assert_eq!(verdict, Verdict::Send(LAN));
        assert_eq!(sent.len(), 1, "not cut");
    }
}

#[test]
fn errors_about_tunnel_packets_never_tell_an_mtu_below_the_least() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Tun(Tunnel::Ipip));
        let syn = lab.syn(n.client(4000));
        for mtu in [0u32, 19, 68, 87, 600, 1279, 1300] {
            let kind = if v6 { (2, 0) } else { (3, 4) };
            let error = Pkt::icmp(n.rs(7), n.dip, kind, mtu, &syn.bytes[14..]).to(LAN_MAC).frame();
            let (_, sent) = lab.give(LAN, &error);
            for s in sent {
                let l4 = Seen::of(&s.bytes).l4;
                let told = u32::from_be_bytes(s.bytes[l4 + 4..l4 + 8].try_into().unwrap());
                assert!(told >= if v6 { 1280 } else { 68 }, "told {told} for {mtu}");
                sums_right(&s.bytes);
            }
        }
    }
}

#[test]
fn tunnel_packets_to_the_vip_are_not_opened() {
    for v6 in [false, true] {
        let n = net(v6);
        let inner4 = Pkt::tcp(net(false).client(1), net(false).vip(), SYN).ip();
        let inner6 = Pkt::tcp(net(true).client(1), net(true).vip(), SYN).ip();
        for forward in MODES {
            let mut lab = Lab::new(forward);
            let mut nested = inner4.clone();
            for _ in 0..5 {
                nested = Pkt::raw(net(false).client, net(false).vip, 4, nested).ip();
            }
            for (proto, body) in [(4, &inner4), (41, &inner6), (4, &nested), (47, &inner4)] {
                let (verdict, sent) = lab.give(WAN, &Pkt::raw(n.client, n.vip, proto, body.clone()).frame());
                assert!(!matches!(verdict, Verdict::Send(_)), "{proto}: {verdict:?}");
                // at most the answer of a host that does not speak it
                assert!(sent.len() <= 1);
                assert!(sent.iter().all(|s| Seen::of(&s.bytes).dst.ip() == n.client));
            }
            assert_eq!(lab.engine.connection_count(), 0);
        }
    }
}

#[test]
fn a_loop_of_two_directors_ends_with_the_ttl() {
    // two directors that have each other as DR server hand a packet to and fro: each takes one off
    for v6 in [false, true] {
        let n = net(v6);
        let (mut a, mut b) = (Lab::new(Forward::Dr), Lab::new(Forward::Dr));
        let mut frame = Pkt::tcp(n.client(4000), n.vip(), SYN).to(LAN_MAC).ttl(64).frame();
        let mut hops = 0;
        loop {
            let lab = if hops % 2 == 0 { &mut a } else { &mut b };
            let (verdict, mut sent) = lab.give(LAN, &frame);
            if verdict != Verdict::Send(LAN) {
                assert_eq!(verdict, drop(DropReason::TtlExpired));
                break;
            }
            hops += 1;
            assert!(hops <= 64, "more copies than the TTL allows");
            frame = sent.remove(0).bytes;
            frame[..6].copy_from_slice(&LAN_MAC.0);
        }
        assert_eq!(hops, 63);
        let counted =
            a.engine.drops().of(DropReason::TtlExpired) + b.engine.drops().of(DropReason::TtlExpired);
        assert_eq!(counted, 1);
    }
}

#[test]
fn a_tunnel_packet_come_back_is_a_martian() {
    // its source is the director's own address
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Tun(Tunnel::Ipip));
        let mut frame = lab.syn(n.client(4000)).bytes;
        frame[..6].copy_from_slice(&LAN_MAC.0);
        assert_eq!(lab.silent(LAN, &frame), DropReason::MartianSource);
    }
}

#[test]
fn replies_of_no_connection_open_none_and_go_nowhere() {
    for forward in [Forward::Nat, Forward::FullNat] {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let syn = Seen::of(&lab.establish(n.client(4000)).bytes);
            for (what, src, dst) in [
                ("another server's address", sock(n.rs(5), 8080), syn.src),
                ("another port of the server", sock(syn.dst.ip(), 8081), syn.src),
                ("another client port", syn.dst, sock(syn.src.ip(), syn.src.port() ^ 1)),
                ("a client nobody knows", syn.dst, sock(n.nth_client(9), 4000)),
            ] {
                for flags in [SYN | ACK, ACK, RST, FIN | ACK] {
                    let reply = Pkt::tcp(src, dst, flags).to(LAN_MAC).frame();
                    let (verdict, sent) = lab.give(LAN, &reply);
                    assert!(!matches!(verdict, Verdict::Send(_)), "{what}: {verdict:?}");
                    // FULLNAT: the local address is the director's own, its stack resets
                    assert!(sent.iter().all(|s| Seen::of(&s.bytes).dst == src), "{what}");
                }
            }
            assert_eq!((lab.state(), lab.engine.connection_count()), ("ESTABLISHED", 1));
        }
    }
}

#[test]
fn ipip_and_its_mtu() {
    for v6 in [false, true] {
        let n = net(v6);
        let (header, limit) = if v6 { (40, 1460) } else { (20, 1480) };
        for df in [true, false] {
            for size in [limit - 1, limit, limit + 1, 1500, 9000, 65_515] {
                let mut lab = Lab::new(Forward::Tun(Tunnel::Ipip));
                let _ = lab.syn(n.client(4000));
                let data = vec![3; size - header - 20];
                let p = Pkt::segment(n.client(4000), n.vip(), ACK, 1001, 1, &data);
                let (verdict, sent) = lab.give(WAN, &if df { p.df() } else { p }.frame());
                if size <= limit {
                    assert_eq!(verdict, Verdict::Send(LAN));
                    assert_eq!(Seen::of(&sent[0].bytes).len, size + header);
                } else if df || v6 {
                    assert_eq!(verdict, drop(DropReason::TooBig), "{size}");
                    let seen = Seen::of(&sent[0].bytes);
                    assert_eq!((sent.len(), seen.src.ip(), seen.dst.ip()), (1, n.vip, n.client));
                    let told = &sent[0].bytes[seen.l4..seen.l4 + 8];
                    let mtu = u16::from_be_bytes([told[6], told[7]]);
                    assert_eq!((told[0], usize::from(mtu)), (if v6 { 2 } else { 3 }, limit));
                    assert!(seen.len <= if v6 { 1280 } else { 576 });
                    sums_right(&sent[0].bytes);
                } else {
                    assert_eq!(verdict, Verdict::Taken(Taken::Split), "{size}");
                    let mut bytes = 0;
                    for (i, s) in sent.iter().enumerate() {
                        let seen = Seen::of(&s.bytes);
                        assert!(seen.len <= 1500 && ip_sum_right(&s.bytes));
                        let frag = u16::from_be_bytes([s.bytes[20], s.bytes[21]]);
                        assert_eq!(usize::from(frag & 0x1fff) * 8, bytes, "no gap, no overlap");
                        assert_eq!(frag & 0x2000 != 0, i + 1 < sent.len());
                        bytes += seen.len - 20;
                    }
                    assert_eq!(bytes, size, "the whole inner packet");
                }
            }
        }
    }
}

#[test]
fn a_packet_too_long_for_an_outer_header_is_dropped_not_cut_short() {
    let n = net(false);
    let mut lab = Lab::new(Forward::Tun(Tunnel::Ipip));
    let _ = lab.syn(n.client(4000));
    for size in [65_516, 65_535] {
        let p = Pkt::segment(n.client(4000), n.vip(), ACK, 1001, 1, &vec![3; size - 40]);
        let (verdict, sent) = lab.give(WAN, &p.frame());
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        assert!(sent.iter().all(|s| Seen::of(&s.bytes).dst.ip() == n.client));
    }
}

#[test]
fn super_frames_arrive_whole_in_every_mode() {
    for forward in MODES {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let _ = lab.syn(n.client(4000));
            let data: Vec<u8> = (0..60_000u32).map(|i| (i / 251) as u8).collect();
            let p = Pkt::segment(n.client(4000), n.vip(), ACK, 1001, 1, &data).df();
            let header = if v6 { 54 } else { 34 };
            let offload = Offload {
                csum: Csum::Partial { start: header, offset: 16 },
                gso: Some(Gso {
                    kind: if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 },
                    size: 1400,
                    hdr_len: header + 20,
                    ecn: false,
                }),
            };
            let (verdict, sent) = lab.give_with(WAN, &p.frame(), offload);
            let overhead = match forward {
                Forward::Tun(_) if v6 => 40,
                Forward::Tun(_) => 20,
                _ => 0,
            };
            let headers = header as usize + 20 + overhead;
            let got: Vec<u8> = sent.iter().flat_map(|s| s.bytes[headers..].to_vec()).collect();
            assert!(
                matches!(verdict, Verdict::Send(_) | Verdict::Taken(Taken::Split)),
                "{forward:?}: {verdict:?}"
            );
            assert!(got == data, "{forward:?} v6 {v6}: {} of {} bytes", got.len(), data.len());
            lab.engine.check().unwrap();
        }
    }
}

fn arp(op: u8, sender: (Mac, &str), target: (Mac, &str), to: Mac) -> Vec<u8> {
    let mut f = [&to.0[..], &sender.0.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, op]].concat();
    f.extend(sender.0.0);
    f.extend(octets(ip(sender.1)));
    f.extend(target.0.0);
    f.extend(octets(ip(target.1)));
    f.resize(60, 0);
    f
}

const EVIL: Mac = Mac([2, 0x66, 0x66, 0x66, 0x66, 0x66]);

#[test]
fn arp_lies_move_no_configured_neighbour_and_claims_to_our_addresses_are_counted() {
    let n = net(false);
    let mut lab = Lab::new(Forward::Nat);
    let all = Mac([0xff; 6]);
    for op in [1, 2] {
        let _ = lab.give(LAN, &arp(op, (EVIL, "10.2.0.11"), (LAN_MAC, "10.2.0.1"), LAN_MAC));
        let _ = lab.give(LAN, &arp(op, (EVIL, "10.2.0.11"), (all, "10.2.0.11"), all));
        let _ = lab.give(WAN, &arp(op, (EVIL, "192.0.2.1"), (all, "192.0.2.1"), all));
    }
    assert_eq!(Seen::of(&lab.syn(n.client(4000)).bytes).to, rs_mac(0), "static");
    // an announcement of a neighbour nobody asked for makes no entry
    let before = lab.engine.host().neighbors(lab.now).count();
    let (_, sent) = lab.give(LAN, &arp(2, (EVIL, "10.2.0.77"), (all, "10.2.0.77"), all));
    assert!(sent.is_empty());
    assert_eq!(lab.engine.host().neighbors(lab.now).count(), before);
    for claimed in ["192.0.2.10", "192.0.2.2"] {
        let (_, sent) = lab.give(WAN, &arp(1, (EVIL, claimed), (all, claimed), all));
        assert!(sent.is_empty(), "no war of announcements");
    }
    assert_eq!(lab.engine.host().counters.conflicts, 2);
}

fn advertisement(target: &str, flags: u8, option: &[u8], ttl: u8) -> Vec<u8> {
    let body = [&octets(ip(target))[..], option].concat();
    let p = Pkt::icmp(ip(target), net(true).dip, (136, 0), u32::from(flags) << 24, &body);
    p.ttl(ttl).to(LAN_MAC).frame()
}

#[test]
fn neighbour_discovery_lies_are_dropped() {
    let n = net(true);
    let option = [2, 1, 2, 0x66, 0x66, 0x66, 0x66, 0x66];
    let mut lab = Lab::new(Forward::Nat);
    for (what, frame) in [
        ("hop limit 254", advertisement("2001:db8:2::b", 0x60, &option, 254)),
        ("option length 0", advertisement("2001:db8:2::b", 0x60, &[2, 0, 2, 0, 0, 0, 0, 1], 255)),
        ("option beyond the packet", advertisement("2001:db8:2::b", 0x60, &[2, 9, 2, 0, 0, 0, 0, 1], 255)),
        ("a neighbour nobody asked for", advertisement("2001:db8:2::77", 0x20, &option, 255)),
    ] {
        assert_eq!(lab.silent(LAN, &frame), DropReason::BadNd, "{what}");
    }
    // unsolicited with override, about a configured neighbour: no change
    let _ = lab.give(LAN, &advertisement("2001:db8:2::11", 0x20, &option, 255));
    assert_eq!(Seen::of(&lab.syn(n.client(4000)).bytes).to, rs_mac(0));
    let _ = lab.give(LAN, &advertisement("2001:db8:2::1", 0x20, &option, 255));
}

#[test]
fn other_frames_are_dropped_by_name() {
    let n = net(false);
    let syn = Pkt::tcp(n.client(4000), n.vip(), SYN).frame();
    let mut lab = Lab::new(Forward::Nat);
    let tagged = |tags: &[u8]| [&syn[..12], tags, &syn[12..]].concat();
    for (what, frame, why) in [
        // a tag means another network, and the port is not configured for it
        ("802.1Q", tagged(&[0x81, 0, 0, 5]), DropReason::EtherType),
        ("Q-in-Q", tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]), DropReason::EtherType),
        ("LLC", [&syn[..12], &[0, 40], &[0x42; 46]].concat(), DropReason::EtherType),
        ("MPLS", [&syn[..12], &[0x88, 0x47], &[0; 46]].concat(), DropReason::EtherType),
        ("nothing", Vec::new(), DropReason::ShortFrame),
        ("5 bytes", syn[..5].to_vec(), DropReason::ShortFrame),
        ("13 bytes", syn[..13].to_vec(), DropReason::ShortFrame),
        ("a header alone", syn[..14].to_vec(), DropReason::ShortIpHeader),
        ("zeros", vec![0; 60], DropReason::OtherStation),
    ] {
        assert_eq!(lab.silent(WAN, &frame), why, "{what}");
    }
    for cut in 14..syn.len() {
        assert!(matches!(lab.give(WAN, &syn[..cut]).0, Verdict::Drop(_)), "cut to {cut}");
    }
}

#[test]
fn odd_flags_have_the_kernels_states() {
    // rules 75 and 80: a SYN with anything but RST is scheduled; RST > SYN > FIN > ACK
    let n = net(false);
    let cases = [
        ("SYN", SYN, Some("SYN_RECV")),
        ("SYN+FIN", SYN | FIN, Some("SYN_RECV")),
        ("SYN+ACK", SYN | ACK, Some("SYN_RECV")),
        ("all but RST", !RST, Some("SYN_RECV")),
        ("christmas tree with RST", 0xff, None),
        ("SYN+RST", SYN | RST, None),
        ("none", 0, None),
        ("FIN", FIN, None),
        ("FIN+PSH+URG", 0x29, None),
        ("ACK", ACK, None),
    ];
    for forward in MODES {
        for (what, flags, state) in cases {
            let mut lab = Lab::new(forward);
            let _ = lab.client_sends(n.client(4000), flags);
            assert_eq!(lab.state_of(n.client(4000)), state, "{what}");
        }
    }
    // a SYN with data is a SYN
    let mut lab = Lab::new(Forward::Nat);
    let p = Pkt::segment(n.client(4000), n.vip(), SYN, 1, 0, b"GET / HTTP/1.0\r\n\r\n");
    let (_, sent) = lab.give(WAN, &p.frame());
    assert!(sent[0].bytes.ends_with(b"GET / HTTP/1.0\r\n\r\n"));
    assert_eq!(lab.state(), "SYN_RECV");
    // and of an established connection: null closes it
    let mut lab = Lab::new(Forward::Nat);
    let _ = lab.establish(n.client(4000));
    let _ = lab.client_sends(n.client(4000), 0);
    assert_eq!(lab.state(), "CLOSE");
}

#[test]
fn split_handshakes_stay_with_the_flow_they_belong_to() {
    // The server answers a SYN with a lone ACK, then with a SYN of its own (4 and 5 way). IPVS looks at
    // flags only (rule 76): an ACK of the server's side makes SYN_RECV ESTABLISHED. What it never does is
    // to establish on packets of one side alone, or to take the server's SYN for a connection of its own.
    let n = net(false);
    let mut lab = Lab::new(Forward::Nat);
    let syn = lab.syn(n.client(4000));
    let _ = lab.answer(&syn, SYN);
    assert_eq!(lab.state(), "SYN_RECV");
    let _ = lab.client_sends(n.client(4000), SYN | ACK);
    assert_eq!(lab.state(), "SYN_RECV");
    let _ = lab.answer(&syn, ACK);
    assert_eq!(lab.state(), "ESTABLISHED");
    assert_eq!(lab.engine.connection_count(), 1);
}

#[test]
fn a_unicast_packet_in_a_group_frame_gets_no_answer() {
    for v6 in [false, true] {
        let n = net(v6);
        for to in [Mac([0xff; 6]), Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])] {
            let mut lab = Lab::new(Forward::Nat);
            let ping = Pkt::icmp(n.client, n.vip, if v6 { (128, 0) } else { (8, 0) }, 1, b"x");
            for p in [Pkt::tcp(n.client(1), n.vip(), SYN), Pkt::udp(n.client(1), n.vip(), b"x"), ping] {
                let (verdict, sent) = lab.give(WAN, &p.to(to).frame());
                assert!(sent.is_empty());
                assert!(
                    matches!(verdict, Verdict::Drop(DropReason::GroupFrame | DropReason::OtherStation)),
                    "{to}: {verdict:?}"
                );
            }
            assert_eq!(lab.engine.connection_count(), 0);
        }
    }
}

#[test]
fn no_error_is_sent_about_an_error_or_to_nobody() {
    // a packet too many for its service: port unreachable, but never about an ICMP error (RFC 1122 3.2.2)
    let n = net(false);
    let mut lab = Lab::of(catalog(Forward::Nat, 0), 100);
    let (verdict, sent) = lab.client_sends(n.client(4000), SYN);
    assert_eq!((verdict, sent.len()), (drop(DropReason::NoDestination), 1));
    let quoted = Pkt::tcp(n.vip(), n.client(4000), ACK).ip();
    for kind in [(3, 3), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0)] {
        let _ = lab.silent(WAN, &Pkt::icmp(n.client, n.vip, kind, 0, &quoted).ttl(1).frame());
    }
    let (verdict, _) = lab.give(WAN, &Pkt::icmp(n.client, n.vip, (8, 0), 1, b"ping").ttl(1).frame());
    assert_eq!(verdict, LOCAL, "an echo request at its end is still for us");
    let key = key(Proto::Udp, false);
    assert!(lab.catalog.service(&key).is_some());
}
