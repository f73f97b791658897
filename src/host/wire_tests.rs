//! Frames in, frames out: against recorded kernel answers, and two hosts on one virtual wire.

use std::net::SocketAddr;
use std::sync::Arc;

use super::testing::{director, drain, hex, ip, mac, port, receive};
use super::{Host, HostEvent, HostOptions, IcmpError, NeighborState, NetPlan, OnFail, Quote};
use crate::buf::{Offload, Out, PacketBuf};
use crate::engine::{DropReason, PortId, Taken, Verdict};
use crate::time::{Mono, Span};
use crate::wire::{Link, Parsed, parse};

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const PARKED: Verdict = Verdict::Taken(Taken::Parked);
const LOCAL: Verdict = Verdict::Taken(Taken::Local);

/// Compares frames but for IPv4 identification and header checksum, or the IPv6 flow label.
fn same(mut got: Vec<u8>, want: &str) {
    let mut want = hex(want);
    for frame in [&mut got, &mut want] {
        if frame[12] == 0x86 {
            frame[15..18].fill(0);
        } else if frame[12..14] == [8, 0] && frame[20] & 0x40 == 0 {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
    }
    assert_eq!(got, want);
}

#[track_caller]
fn answer(on: PortId, frame: &str, want: &str) {
    let (mut host, mut out) = (director(), Out::new());
    let verdict = receive(&mut host, Mono::ZERO, on, &hex(frame), &mut out);
    let mut frames = drain(&mut out);
    if want.is_empty() {
        assert!(frames.is_empty(), "{frames:02x?}");
        return;
    }
    assert_eq!((verdict, frames.len()), (LOCAL, 1));
    let (port, frame) = frames.remove(0);
    assert_eq!(port, on);
    let checked = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
    if let Some(etherparse::NetSlice::Ipv4(ip)) = &checked.net {
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    }
    drop(checked);
    same(frame.clone(), want);
}

#[test]
fn resets_and_unreachables_of_vector_7_nodest() {
    // ACK: the reset takes its number from the acknowledgement
    answer(
        WAN,
        "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005000000001000000015010faf070540000",
        "0200000001fe02000000010108004500002800004000400606330a010064c633640500500fa00000000100000000500400006b520000",
    );
    // SYN: the reset acknowledges it
    answer(
        WAN,
        "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005002faf0705e0000",
        "0200000001fe02000000010108004500002800004000400606330a010064c633640500550fa00000000000000002501400006b3c0000",
    );
    // RST: never answered
    answer(
        WAN,
        "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005004faf0705c0000",
        "",
    );
    // UDP
    answer(
        WAN,
        "0200000001010200000001fe08004500001d100040004011f632c63364050a0100640fa0003a00094a6471",
        "0200000001fe020000000101080045c00039d2b50000400172b10a010064c6336405030331b5000000004500001d100040004011f632\
         c63364050a0100640fa0003a00094a6471",
    );
    // GRE, ESP, protocol 253, IGMP
    answer(
        WAN,
        "0200000001010200000001fe08004500002c10004000402ff605c63364050a01006400000800(78*20)",
        "0200000001fe020000000101080045c00048d2bf0000400172980a010064c63364050303404800000000\
         4500002c10004000402ff605c63364050a01006400000800(78*20)",
    );
    answer(
        WAN,
        "0200000001010200000001fe080045000034100040004032f5fac63364050a0100640000000100000001(78*24)",
        "0200000001fe020000000101080045c00050d2c100004001728e0a010064c63364050302575600000000\
         45000034100040004032f5fac63364050a0100640000000100000001(78*24)",
    );
    answer(WAN, "0200000001010200000001fe08004500001c100040004002f642c63364050a0100641600090400000000", "");
}

#[test]
fn echo_and_time_stamp_of_vector_2_icmp() {
    answer(
        WAN,
        "0200000001010200000001fe0800450000280001400040010637c63364050a01006408005b850007000170696e6770696e6770696e67",
        "0200000001fe020000000101080045000028b896000040018da10a010064c6336405000063850007000170696e6770696e6770696e67",
    );
    // echo reply: swallowed
    answer(
        WAN,
        "0200000001010200000001fe0800450000280001400040010637c63364050a010064000063850007000170696e6770696e6770696e67",
        "",
    );
    answer(
        WAN,
        "0200000001010200000001fe86dd6000000000143a4020010db8000c0000000000000000000520010db8000100000000000000000100\
         800086b20007000170696e6770696e6770696e67",
        "0200000001fe02000000010186dd60003c1000143a4020010db800010000000000000000010020010db8000c00000000000000000005\
         810085b20007000170696e6770696e6770696e67",
    );
    let (mut host, mut out) = (director(), Out::new());
    host.set_options(HostOptions { icmp_limit: None, announce: false, midnight_ms: 86_399_999 });
    let ask = hex("0200000001010200000001fe0800450000280001400040010637c63364050a0100640d00f2f7\
                   00070001000000000000000000000000");
    assert_eq!(receive(&mut host, Mono::from_millis(3), WAN, &ask, &mut out), LOCAL);
    let frames = drain(&mut out);
    let icmp = &frames[0].1[34..];
    assert_eq!(icmp[..2], [14, 0]);
    assert_eq!(icmp[4..], hex("00070001000000000000000200000002"));
    assert_eq!(crate::wire::sum::checksum(icmp), 0);
}

#[test]
fn resets_over_ipv6_of_vector_7_nodest6() {
    answer(
        WAN,
        "0200000001010200000001fe86dd600000000014064020010db8000c0000000000000000000520010db8000100000000000000000100\
         0fa0005500000001000000005002faf048780000",
        "0200000001fe02000000010186dd60074dcf0014064020010db800010000000000000000010020010db8000c00000000000000000005\
         00550fa000000000000000025014000043560000",
    );
    answer(
        WAN,
        "0200000001010200000001fe86dd600000000009114020010db8000c0000000000000000000520010db8000100000000000000000100\
         0fa0003a0009227e71",
        "0200000001fe02000000010186dd600b5fb600393a4020010db800010000000000000000010020010db8000c00000000000000000005\
         010430d500000000600000000009114020010db8000c0000000000000000000520010db80001000000000000000001000fa0003a0009227e71",
    );
    // SCTP over IPv6 (vector 1-fwd-nat-sctp6 step 11): parameter problem, pointing at the next header
    answer(
        WAN,
        "0200000001010200000001fe86dd600000000020844020010db8000c0000000000000000000520010db8000100000000000000000100\
         1b5a270f33334444c8f593dc0003001400000001000000000000000064617461",
        "0200000001fe02000000010186dd6004f91b00503a4020010db800010000000000000000010020010db8000c00000000000000000005\
         04016e7700000006600000000020844020010db8000c0000000000000000000520010db8000100000000000000000100\
         1b5a270f33334444c8f593dc0003001400000001000000000000000064617461",
    );
}

fn complain(kind: IcmpError, on: PortId, frame: &str) -> Vec<u8> {
    let (mut host, mut out) = (director(), Out::new());
    let frame = hex(frame);
    let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { panic!() };
    assert!(host.error(Mono::ZERO, kind, on, &frame, &meta, None, &mut out) > 0);
    let mut frames = drain(&mut out);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].0, on);
    frames.remove(0).1
}

#[test]
fn time_exceeded_comes_from_the_vip_or_from_the_lan_address() {
    // vector 1-fwd-nat-fields6 step 1
    same(
        complain(
            IcmpError::TimeExceeded,
            WAN,
            "0200000001010200000001fe86dd600000000016060120010db8000c0000000000000000000620010db8000100000000000000000100\
             753000500000004f000000015010faf06a1400007878",
        ),
        "0200000001fe02000000010186dd600e2e9c00463a4020010db800010000000000000000010020010db8000c00000000000000000006\
         030039ff00000000600000000016060120010db8000c0000000000000000000620010db8000100000000000000000100\
         753000500000004f000000015010faf06a1400007878",
    );
    // vector 1-fwd-nat-reply-fields4 step 1
    same(
        complain(
            IcmpError::TimeExceeded,
            LAN,
            "02000000020102000000020b080045000028500140000106f5880a02000bc63364061f90753100000009000000065012faf0ebca0000",
        ),
        "02000000020b020000000201080045c00044a0ec00004001c4fd0a0200010a02000b0b00296100000000\
         45000028500140000106f5880a02000bc63364061f90753100000009000000065012faf0ebca0000",
    );
}

#[test]
fn too_big_quotes_576_and_1280_bytes() {
    // vector 2-pmtu-nat4-disc1 step 5, whose packet arrives here with its TTL lowered already
    same(
        complain(
            IcmpError::FragNeeded { mtu: 1400 },
            WAN,
            "0200000001010200000001fe080045000579467940003f06bb68c63364050a0100649c400050000003e9000000015010faf014250000(71*1361)",
        ),
        "0200000001fe020000000101080045c00240f3b1000040014fae0a010064c6336405030469540000057845000579467940003f06bb68\
         c63364050a0100649c400050000003e9000000015010faf014250000(71*508)",
    );
    // vector 2-pmtu-nat6-disc1 step 3
    same(
        complain(
            IcmpError::TooBig { mtu: 1400 },
            WAN,
            "0200000001010200000001fe86dd600000000551063f20010db8000c0000000000000000000520010db8000100000000000000000100\
             9c400050000003e9000000015010faf05ac10000(71*1341)",
        ),
        "0200000001fe02000000010186dd6006a70f04d83a4020010db800010000000000000000010020010db8000c00000000000000000005\
         0200daf100000578600000000551063f20010db8000c0000000000000000000520010db8000100000000000000000100\
         9c400050000003e9000000015010faf05ac10000(71*1172)",
    );
}

fn send(
    host: &mut Host,
    now: Mono,
    frame: &[u8],
    dst: &str,
    on_fail: OnFail,
    out: &mut Out,
) -> (Verdict, Vec<u8>) {
    let route = host.route(ip(dst)).unwrap();
    let mut mem = vec![0; 128 + frame.len()];
    mem[128..].copy_from_slice(frame);
    let mut pkt = PacketBuf::new(&mut mem, 128, 128 + frame.len(), Offload::NONE);
    let verdict = host.transmit(now, &route, &mut pkt, 14, on_fail, out);
    (verdict, pkt.bytes().to_vec())
}

/// Vectors 7-noarp-rs-*: requests at 0, 1 and 2 s, then what rule 95 says for each queued packet.
#[test]
fn a_silent_real_server_gets_three_requests_and_the_client_an_answer() {
    let translated = "0200000001010200000001fe080045000028100040003f06f6cdc63364050a0200c80fa01f9000000064000000005002faf0505b0000";
    let vip: SocketAddr = "10.1.0.100:80".parse().unwrap();
    let nat = OnFail::HostUnreachable { source: Some(vip.ip()), quote: Quote { src: None, dst: Some(vip) } };
    let direct = OnFail::HostUnreachable { source: None, quote: Quote::default() };
    let nat_answer = "0200000001fe020000000101080045c000442be90000400119730a010064c63364050301515c00000000\
                      45000028100040003f06f732c63364050a0100640fa0005000000064000000005002faf0505b0000";
    let request = "ffffffffffff020000000201080600010800060400010200000002010a0200010000000000000a0200c8";
    let plain = "0200000001010200000001fe080045000028100040003f06f732c63364050a0100640fa0005000000064000000005002faf070000000";
    let direct_answer = "0200000001fe020000000101080045c00044db2c000040016a920a010001c6336405030131b700000000\
                         45000028100040003f06f732c63364050a0100640fa0005000000064000000005002faf070000000";
    for (frame, on_fail, want) in [
        (translated, nat, Some(nat_answer)),
        (plain, direct, Some(direct_answer)),
        (plain, OnFail::Nothing, None),
    ] {
        let (mut host, mut out) = (director(), Out::new());
        for ms in [0, 20] {
            let (verdict, _) =
                send(&mut host, Mono::from_millis(ms), &hex(frame), "10.2.0.200", on_fail, &mut out);
            assert_eq!(verdict, PARKED);
        }
        assert_eq!(drain(&mut out), [(LAN, hex(request))]);
        for second in [1, 2] {
            let due = host.poll_timeout().unwrap();
            assert_eq!(due, Mono::from_millis(second * 1000));
            host.on_timeout(due, &mut out);
            assert_eq!(drain(&mut out), [(LAN, hex(request))]);
        }
        assert_eq!(host.poll_timeout(), Some(Mono::from_millis(3000)));
        host.on_timeout(Mono::from_millis(3000), &mut out);
        let frames = drain(&mut out);
        assert_eq!(frames.len(), if want.is_some() { 2 } else { 0 });
        if let Some(want) = want {
            same(frames[0].1.clone(), want);
            assert_eq!(frames[0].0, WAN);
        }
        assert_eq!(host.drops.of(DropReason::NeighborFailed), 2);
        assert_eq!(host.poll_timeout(), None);
        assert_eq!(host.poll_event(), Some(HostEvent::NeighborFailed { port: LAN, ip: ip("10.2.0.200") }));
        // the next packet asks again
        let (verdict, _) =
            send(&mut host, Mono::from_millis(4000), &hex(frame), "10.2.0.200", on_fail, &mut out);
        assert_eq!((verdict, drain(&mut out).len()), (PARKED, 1));
    }
}

fn station(last: u8, addresses: &[&str]) -> Host {
    let plan = NetPlan { ports: vec![port("p", last, addresses)], ..NetPlan::default() };
    let mut host = Host::new(Mono::ZERO, Arc::new(plan), u64::from(last));
    host.set_options(HostOptions { announce: false, ..HostOptions::default() });
    host
}

/// Delivers frames between two stations until the wire is silent; says how many there were.
fn converse(now: Mono, a: &mut Host, b: &mut Host, out_a: &mut Out, out_b: &mut Out) -> usize {
    let mut frames = 0;
    while !out_a.is_empty() || !out_b.is_empty() {
        for (from, to, reply) in [(&mut *out_a, &mut *b, &mut *out_b)] {
            for (_, frame) in drain(from) {
                frames += 1;
                let _ = receive(to, now, PortId(0), &frame, reply);
            }
        }
        for (_, frame) in drain(out_b) {
            frames += 1;
            let _ = receive(a, now, PortId(0), &frame, out_a);
        }
    }
    frames
}

#[test]
fn two_hosts_resolve_each_other_and_deliver_what_waited() {
    let echo4 = hex("0000000000000000000000000800450000200001400040010000c000020a\
                     c00002140800f7f90001000541424344");
    for (a, b, me, peer, v6) in [
        ("192.0.2.10/24", "192.0.2.20/24", "192.0.2.10", "192.0.2.20", false),
        ("2001:db8::a/64", "2001:db8::b/64", "2001:db8::a", "2001:db8::b", true),
    ] {
        let (mut a, mut b) = (station(1, &[a]), station(2, &[b]));
        let (mut out_a, mut out_b) = (Out::new(), Out::new());
        let frame = if v6 { echo6(me, peer) } else { fixed4(echo4.clone()) };
        let now = Mono::from_millis(5);
        let (verdict, _) = send(&mut a, now, &frame, peer, OnFail::Nothing, &mut out_a);
        assert_eq!(verdict, PARKED);
        // question, answer, echo, echo reply; over IPv6 the question comes from the link-local address, so
        // that the other side has to ask for the global one
        let frames = converse(now, &mut a, &mut b, &mut out_a, &mut out_b);
        assert_eq!(frames, if v6 { 6 } else { 4 });
        assert_eq!((a.counters.released, b.counters.echo_replies), (1, 1));
        assert_eq!(state_of(&a, now, peer), NeighborState::Reachable);
        let (verdict, sent) = send(&mut a, now, &frame, peer, OnFail::Nothing, &mut out_a);
        assert_eq!(verdict, Verdict::Send(PortId(0)));
        assert_eq!(sent[..12], [mac(2).0, mac(1).0].concat());
        assert!(out_a.is_empty());

        // 30 s later the entry is doubted, used, and confirmed by a direct question after 5 s
        let later = now + Span::from_secs(31);
        assert_eq!(
            send(&mut a, later, &frame, peer, OnFail::Nothing, &mut out_a).0,
            Verdict::Send(PortId(0))
        );
        let due = a.poll_timeout().unwrap();
        assert_eq!(due, later + Span::from_secs(5));
        a.on_timeout(due, &mut out_a);
        let frames = drain(&mut out_a);
        assert_eq!(frames[0].1[..6], mac(2).0, "asked directly");
        let _ = receive(&mut b, due, PortId(0), &frames[0].1, &mut out_b);
        assert_eq!(converse(due, &mut a, &mut b, &mut out_a, &mut out_b), 1);
        assert_eq!(state_of(&a, due, peer), NeighborState::Reachable);

        // silence: three direct questions, then it has failed
        let quiet = due + Span::from_secs(40);
        assert_eq!(
            send(&mut a, quiet, &frame, peer, OnFail::Nothing, &mut out_a).0,
            Verdict::Send(PortId(0))
        );
        for _ in 0..4 {
            let due = a.poll_timeout().unwrap();
            assert_eq!(
                send(&mut a, due, &frame, peer, OnFail::Nothing, &mut out_a).0,
                Verdict::Send(PortId(0))
            );
            a.on_timeout(due, &mut out_a);
        }
        assert_eq!(drain(&mut out_a).len(), 3);
        assert_eq!(state_of(&a, quiet, peer), NeighborState::Failed);
        assert_eq!(a.poll_timeout(), None);
    }
}

fn state_of(host: &Host, now: Mono, peer: &str) -> NeighborState {
    host.neighbors(now).find(|n| n.ip == ip(peer)).unwrap().state
}

fn fixed4(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let check = crate::wire::sum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame[36..38].fill(0);
    let check = crate::wire::sum::checksum(&frame[34..]);
    frame[36..38].copy_from_slice(&check.to_be_bytes());
    frame
}

fn echo6(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut frame = vec![0; 14];
    frame[12..].copy_from_slice(&[0x86, 0xdd]);
    etherparse::PacketBuilder::ipv6(src.octets(), dst.octets(), 64)
        .icmpv6_echo_request(1, 2)
        .write(&mut frame, b"abc")
        .unwrap();
    frame
}

fn ping4(len: usize) -> Vec<u8> {
    let mut frame = hex("0200000001010200000001fe0800");
    etherparse::PacketBuilder::ipv4([198, 51, 100, 5], [10, 1, 0, 100], 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, &vec![b'p'; len])
        .unwrap();
    frame
}

#[test]
fn a_large_echo_reply_is_cut_to_the_mtu() {
    let (mut host, mut out) = (director(), Out::new());
    assert_eq!(receive(&mut host, Mono::ZERO, WAN, &ping4(2000), &mut out), LOCAL);
    let frames = drain(&mut out);
    // as a kernel host with MTU 1500 cuts it
    let fields: Vec<_> = frames.iter().map(|(_, f)| (f.len() - 14, f[20] >> 4, f[21])).collect();
    assert_eq!(fields, [(1500, 2, 0), (548, 0, 185)]);
    assert_eq!(frames[0].1[18..20], frames[1].1[18..20], "one identification");

    let mut frame = hex("0200000001010200000001fe86dd");
    let (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("2001:db8:c::5".parse().unwrap(), "2001:db8:1::100".parse().unwrap());
    etherparse::PacketBuilder::ipv6(src.octets(), dst.octets(), 64)
        .icmpv6_echo_request(1, 2)
        .write(&mut frame, &[b'p'; 2000])
        .unwrap();
    assert_eq!(receive(&mut host, Mono::ZERO, WAN, &frame, &mut out), LOCAL);
    let lens: Vec<_> = drain(&mut out).iter().map(|(_, f)| f.len() - 14).collect();
    assert_eq!(lens, [40 + 8 + 1448, 40 + 8 + 560]);
}

#[test]
fn unknown_destination_options_are_pointed_at_and_tos_is_kept_in_part() {
    // recorded from a kernel host: hop-by-hop and destination options before protocol 253: pointer 48
    let mut frame = hex("0200000001010200000001fe86dd6000000000180040");
    frame.extend(hex("20010db8000c0000000000000000000520010db8000100000000000000000100"));
    frame.extend(hex("3c00010400000000fd000104000000007878787878787878"));
    let (mut host, mut out) = (director(), Out::new());
    assert_eq!(receive(&mut host, Mono::ZERO, WAN, &frame, &mut out), LOCAL);
    let frames = drain(&mut out);
    assert_eq!(frames[0].1[54..56], [4, 1]);
    assert_eq!(frames[0].1[58..62], [0, 0, 0, 48]);
    // TOS 0xff: 0xde in an unreachable, 0xfc in a reset, 0xff in an echo reply
    let with_tos = |hex_frame: &str| {
        let mut frame = hex(hex_frame);
        frame[15] = 0xff;
        frame[24..26].fill(0);
        let check = crate::wire::sum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame
    };
    for (frame, tos) in [
        ("0200000001010200000001fe08004500001d100040004011f632c63364050a0100640fa0003a00094a6471", 0xde),
        (
            "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005002faf0705e0000",
            0xfc,
        ),
        (
            "0200000001010200000001fe0800450000280001400040010637c63364050a01006408005b850007000170696e6770696e6770696e67",
            0xff,
        ),
    ] {
        let _ = receive(&mut host, Mono::ZERO, WAN, &with_tos(frame), &mut out);
        assert_eq!(drain(&mut out)[0].1[15], tos);
    }
}

#[test]
fn wrong_checksums_and_martians_are_not_answered() {
    for (at, why) in [(36, DropReason::BadIcmpChecksum), (16, DropReason::BadIpChecksum)] {
        let (mut host, mut out) = (director(), Out::new());
        let mut frame = ping4(8);
        frame[at] ^= 1;
        assert_eq!(receive(&mut host, Mono::ZERO, WAN, &frame, &mut out), Verdict::Drop(why));
        assert!(out.is_empty());
    }
    let syn = "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005002faf0705f0000";
    let (mut host, mut out) = (director(), Out::new());
    let verdict = receive(&mut host, Mono::ZERO, WAN, &hex(syn), &mut out);
    assert_eq!((verdict, out.len()), (Verdict::Drop(DropReason::BadTransportChecksum), 0));
}

#[test]
fn closed_drop_is_silent_but_still_answers_echo() {
    let (mut host, mut out) = (director(), Out::new());
    let plan = NetPlan { closed: super::Closed::Drop, ..NetPlan::clone(host.plan()) };
    host.reconfigure(Mono::ZERO, Arc::new(plan));
    let syn = "0200000001010200000001fe080045000028100040004006f632c63364050a0100640fa0005500000001000000005002faf0705e0000";
    let verdict = receive(&mut host, Mono::ZERO, WAN, &hex(syn), &mut out);
    assert_eq!((verdict, out.len()), (Verdict::Drop(DropReason::NoService), 0));
    assert_eq!(receive(&mut host, Mono::ZERO, WAN, &ping4(8), &mut out), LOCAL);
    assert_eq!(out.len(), 1);
}

#[test]
fn a_partial_checksum_is_trusted_and_quoted_as_it_is() {
    let (mut host, mut out) = (director(), Out::new());
    let mut frame =
        hex("0200000001010200000001fe08004500001d100040004011f632c63364050a0100640fa0003a0009000071");
    let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { panic!() };
    frame[40..42].copy_from_slice(&[0xba, 0xdd]);
    let offload = Offload { csum: crate::buf::Csum::Partial { start: 34, offset: 6 }, gso: None };
    let len = frame.len();
    let mut pkt = PacketBuf::new(&mut frame, 0, len, offload);
    assert_eq!(host.local_in(Mono::ZERO, WAN, &meta, &mut pkt, &mut out), LOCAL);
    let (_, told) = drain(&mut out).remove(0);
    assert_eq!(told[68..70], [0xba, 0xdd]);
    assert_eq!(crate::wire::sum::checksum(&told[34..]), 0);
}

#[test]
fn new_vips_are_announced_twice_and_old_ones_not() {
    let (mut host, mut out) = (director(), Out::new());
    host.set_options(HostOptions { announce: true, ..HostOptions::default() });
    let vips = vec![
        (ip("10.1.0.100"), None),
        (ip("192.0.2.1"), Some(vec![LAN])),
        (ip("2001:db8:5::1"), Some(vec![WAN])),
        (ip("2001:db8:1::100"), None),
    ];
    host.set_vips(Mono::from_millis(10), &Arc::new(crate::host::Vips::new(2, vips, None)));
    let garp = "ffffffffffff02000000020108060001080006040001020000000201c00002010000000000 00c0000201"
        .replace(' ', "");
    for (due, left) in [(10, true), (2010, false)] {
        let due = Mono::from_millis(due);
        assert_eq!(host.poll_timeout(), Some(due));
        host.on_timeout(due, &mut out);
        let frames = drain(&mut out);
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0], (LAN, hex(&garp)));
        let (port, na) = &frames[1];
        assert_eq!((*port, &na[..6], na[21]), (WAN, &[0x33, 0x33, 0, 0, 0, 1][..], 255));
        assert_eq!(na[54..59], [136, 0, na[56], na[57], 0x20]);
        assert_eq!(host.poll_timeout().is_some(), left);
    }
    host.announce(Mono::ZERO, &mut out);
    // 2 IPv4 DIPs, 2 IPv6 DIPs, 2 VIPs on one port and 2 on both
    assert_eq!(out.len(), 10);
}

#[test]
fn another_station_with_our_address_is_an_event_and_changes_nothing() {
    let (mut host, mut out) = (director(), Out::new());
    let garp = hex("ffffffffffff0200000001330806000108000604000102000000 01330a010064000000000000 0a010064"
        .replace(' ', "")
        .as_str());
    for _ in 0..3 {
        assert_eq!(receive(&mut host, Mono::ZERO, WAN, &garp, &mut out), LOCAL);
    }
    assert!(out.is_empty());
    let mac = "02:00:00:00:01:33".parse().unwrap();
    assert_eq!(host.poll_event(), Some(HostEvent::AddressConflict { port: WAN, ip: ip("10.1.0.100"), mac }));
    assert_eq!((host.poll_event(), host.counters.conflicts), (None, 3));
    assert!(host.neighbors(Mono::ZERO).all(|n| n.state == NeighborState::Permanent));
}

#[test]
fn arp_and_neighbour_answers_are_the_kernels() {
    // recorded from a kernel host with the same addresses
    let (mut host, mut out) = (director(), Out::new());
    let ask = |spa: &str| {
        hex(&format!("ffffffffffff0200000001330806000108000604000102000000 0133{spa}0000000000000a010064")
            .replace(' ', ""))
    };
    let answer = |spa: &str| {
        hex(&format!("0200000001330200000001010806000108000604000202000000 01010a010064020000000133{spa}")
            .replace(' ', ""))
    };
    for (spa, learnt) in [("0a010034", 1), ("ac100001", 1), ("00000000", 1)] {
        let _ = receive(&mut host, Mono::ZERO, WAN, &ask(spa), &mut out);
        assert_eq!(drain(&mut out), [(WAN, answer(spa))]);
        let known = host.neighbors(Mono::ZERO).filter(|n| n.state != NeighborState::Permanent).count();
        assert_eq!(known, learnt, "{spa}: only a neighbour is learnt");
    }
    // a duplicate address probe is answered to all nodes, a solicitation to who asked
    let plan = NetPlan { forwarding: true, ..NetPlan::clone(host.plan()) };
    host.reconfigure(Mono::ZERO, Arc::new(plan));
    let (them, target) = ("02:00:00:00:01:33".parse().unwrap(), "2001:db8:1::100".parse().unwrap());
    let group = crate::wire::ndp::solicited_node(target);
    for (source, source_mac, want) in [
        (
            "::",
            None,
            "33330000000102000000010186dd6000000000203aff20010db8000100000000000000000100ff02000000000000\
             00000000000000018800762aa000000020010db80001000000000000000001000201020000000101",
        ),
        (
            "fe80::33",
            Some(them),
            "02000000013302000000010186dd6000000000203aff20010db8000100000000000000000100fe80000000000000\
             00000000000000338800367ae000000020010db80001000000000000000001000201020000000101",
        ),
    ] {
        let ask = crate::wire::ndp::Ndp::Solicit { target, source_mac };
        let to = crate::addr::Mac::of_multicast6(group);
        let (frame, len) = ask.frame((to, them), source.parse().unwrap(), group);
        assert_eq!(receive(&mut host, Mono::ZERO, WAN, &frame[..len], &mut out), LOCAL);
        assert_eq!(drain(&mut out), [(WAN, hex(want))]);
    }
}
