//! Floods: what they may take is bounded, what was there before goes on, and afterwards all is as it was.

mod common;

use common::*;
use proptest::prelude::*;
use softlvs::addr::Mac;
use softlvs::engine::{DropReason, Engine, EngineOptions, Taken, Verdict};
use softlvs::hash::HashKey;
use softlvs::host::MAX_LEARNT;
use softlvs::svc::Forward;
use softlvs::time::Mono;

const LIMIT: u32 = 5_000;

/// The `i`th spoofed client.
fn spoofed(v6: bool, i: u32) -> std::net::SocketAddr {
    sock(net(v6).nth_client(1000 + i / 7), (1024 + i % 50_000) as u16)
}

#[test]
fn a_syn_flood_beyond_the_limit_leaves_established_flows_alone() {
    for forward in MODES {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::of(catalog(forward, 4), LIMIT);
            let bytes = lab.engine.table_bytes();
            let old: Vec<_> = (0..100).map(|i| n.client(2000 + i)).collect();
            for client in &old {
                let _ = lab.client_sends(*client, SYN);
                let _ = lab.client_sends(*client, ACK);
            }
            let (mut refused, mut next) = (0, 0);
            // five minutes: a burst of SYNs each second, then every established flow says something
            for second in 0..300 {
                let burst = if second == 0 { LIMIT + 1000 } else { 200 };
                for i in next..next + burst {
                    let (verdict, sent) = lab.give_fast(WAN, &Pkt::tcp(spoofed(v6, i), n.vip(), SYN).frame());
                    match verdict {
                        Verdict::Send(_) => {}
                        Verdict::Drop(DropReason::TableFull) => {
                            refused += 1;
                            assert!(sent.is_empty(), "no answer to a flood");
                        }
                        other => panic!("{other:?}"),
                    }
                }
                next += burst;
                assert!(lab.engine.connection_count() <= LIMIT as usize);
                if second % 10 == 0 {
                    for client in &old {
                        let (verdict, _) = lab.give_fast(WAN, &Pkt::tcp(*client, n.vip(), ACK).frame());
                        assert_eq!(verdict, Verdict::Send(LAN), "an established flow was lost");
                    }
                }
                lab.wait(1);
            }
            assert!(refused > 1000, "{refused}");
            assert_eq!(lab.engine.drops().of(DropReason::TableFull), refused);
            assert!(lab.engine.table_bytes() <= 2 * bytes, "{} bytes of {bytes}", lab.engine.table_bytes());
            lab.engine.check().unwrap();
            // half-open entries go after a minute without packets; then there is service again
            lab.wait(61);
            assert_eq!(lab.engine.connection_count(), old.len());
            let (verdict, _) = lab.client_sends(n.client(9999), SYN);
            assert_eq!(verdict, Verdict::Send(LAN));
            assert!(old.iter().all(|c| lab.state_of(*c) == Some("ESTABLISHED")));
        }
    }
}

#[test]
fn an_idle_flow_survives_ten_minutes_of_udp_flood() {
    let n = net(false);
    let mut lab = Lab::of(catalog(Forward::Nat, 2), LIMIT);
    let syn = lab.establish(n.client(4000));
    for i in 0..600 {
        for j in 0..60 {
            let client = spoofed(false, i * 60 + j);
            let _ = lab.give_fast(WAN, &Pkt::udp(client, n.vip(), b"x").frame());
        }
        lab.wait(1);
    }
    assert!(lab.engine.drops().of(DropReason::TableFull) > 0);
    let (verdict, _) = lab.answer(&syn, ACK);
    assert_eq!(verdict, Verdict::Send(WAN));
    assert_eq!(lab.state_of(n.client(4000)), Some("ESTABLISHED"));
}

#[test]
fn many_tuples_of_one_client_spread_over_the_keyed_hash() {
    // D-5: what a client can choose (its port, in IPv6 most of its address) must not pile up in one place,
    // and what it learns about one director is of no use against another
    use softlvs::conn::key::{Addr, Tuple};
    let tuple = |src: u32, sport: u16| Tuple { src, dst: 0xc000_020a, sport, dport: 80, proto: 6 };
    let mut worst = Vec::new();
    for key in [HashKey(1, 2), HashKey(3, 4), HashKey(u64::MAX, 0), HashKey(0, 0)].map(Into::into) {
        // 65,536 places, as many tuples: the fullest has about 8 when they are thrown at random
        let mut low = vec![0u16; 65_536];
        let mut high = vec![0u16; 128];
        for port in 0..=u16::MAX {
            let h = <u32 as Addr>::hash(&tuple(0xc633_6405, port), &key);
            low[(h & 0xffff) as usize] += 1;
            high[(h >> 57) as usize] += 1;
        }
        worst.push(low.iter().position(|n| n == low.iter().max().unwrap()).unwrap());
        assert!(*low.iter().max().unwrap() <= 16, "{:?} tuples in one place", low.iter().max());
        assert!(high.iter().all(|n| (256..=1024).contains(n)), "the tag bits too: {high:?}");
        let mut low6 = vec![0u16; 65_536];
        for i in 0..65_536u128 {
            let t = Tuple { src: 0x2001 << 112 | i << 48, dst: 9, sport: 7, dport: 80, proto: 6 };
            low6[(<u128 as Addr>::hash(&t, &key) & 0xffff) as usize] += 1;
        }
        assert!(*low6.iter().max().unwrap() <= 16);
    }
    worst.dedup();
    assert!(worst.len() > 1, "the fullest place depends on the key");
}

#[test]
fn a_fragment_flood_is_bounded_and_whole_packets_pass() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut lab = Lab::new(Forward::Nat);
        let big = vec![1; 1400];
        for i in 0..20_000u32 {
            // first fragments without ends, of many senders
            let mut p = Pkt::udp(spoofed(v6, i), n.vip(), &big);
            p.id = i as u16;
            let (verdict, _) = lab.give_fast(WAN, &p.any_piece(&p.l4[..1400], 0, true));
            assert!(
                matches!(
                    verdict,
                    Verdict::Taken(Taken::Reassembling) | Verdict::Drop(DropReason::FragmentLimit)
                ),
                "{verdict:?}"
            );
            if i % 100 == 0 {
                let (verdict, _) = lab.give_fast(WAN, &Pkt::udp(n.client(4000), n.vip(), b"x").frame());
                assert_eq!(verdict, Verdict::Send(LAN), "a whole packet was lost");
            }
        }
        // datagrams whose fragments come together are still put together
        let whole = Pkt::udp(n.client(4001), n.vip(), &[7; 56]);
        let _ = lab.give(WAN, &whole.piece(0..24, true));
        assert!(!lab.give(WAN, &whole.piece(24..64, false)).1.is_empty());
        // told of within the rate limit, and forgotten
        let told = lab.wait(40);
        assert!(told.len() <= 41_000, "{} errors", told.len());
        lab.engine.check().unwrap();
        assert_eq!(lab.engine.connection_count(), 2);
    }
}

fn arp_request(mac: Mac, from: std::net::IpAddr) -> Vec<u8> {
    let mut f = [&[0xff; 6][..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac.0].concat();
    f.extend(octets(from));
    f.extend([0; 6]);
    f.extend([10, 2, 0, 1]);
    f
}

#[test]
fn a_neighbour_flood_pushes_out_nobody_who_is_configured() {
    let n = net(false);
    let mut lab = Lab::new(Forward::Nat);
    let mut most = 0;
    for i in 0..65_000u32 {
        let from = std::net::Ipv4Addr::from(0x0a02_0100 + i % 0xfe00);
        let mac = Mac([2, 1, 0, (i >> 16) as u8, (i >> 8) as u8, i as u8]);
        let _ = lab.give_fast(LAN, &arp_request(mac, from.into()));
        if i % 1000 == 0 {
            most = most.max(lab.engine.host().neighbors(lab.now).count());
            lab.wait_ms(10);
        }
    }
    let configured = 2 + 2 * usize::from(SERVERS);
    assert!(most <= MAX_LEARNT + configured, "{most} neighbours");
    assert!(most > 500, "{most} neighbours only: the flood was none");
    for server in 0..2 {
        let seen = Seen::of(&lab.syn(n.client(4000 + server)).bytes);
        assert_eq!(seen.to, rs_mac(server as u8));
    }
    lab.engine.check().unwrap();
}

#[test]
fn packets_to_servers_that_never_answer_wait_in_a_bounded_queue() {
    // a server without static entry that answers no question: 208 KiB wait as in the kernel
    // (`unres_qlen_bytes`), newer packets push out older ones
    let n = net(false);
    let mut catalog = catalog(Forward::Nat, 0);
    let key = key(softlvs::svc::Proto::Udp, false);
    catalog.add_dest(&key, dest(ip("10.2.7.7"), 8080, 1, Forward::Nat)).unwrap();
    let mut lab = Lab::of(catalog, 100_000);
    let (mut parked, mut asked) = (0, 0);
    for port in 1024..30_000 {
        let (verdict, sent) = lab.give_fast(WAN, &Pkt::udp(n.client(port), n.vip(), &[0; 500]).frame());
        asked += sent.len();
        assert_eq!(verdict, Verdict::Taken(Taken::Parked));
        parked += 1;
    }
    assert_eq!(asked, 1, "one question");
    let pushed_out = lab.engine.host().drops.of(DropReason::NeighborQueueFull);
    let waiting = parked - pushed_out;
    assert!(waiting * 542 <= 212_992, "{waiting} packets wait");
    // when nobody answered each sender is told, within the rate limit, and all is free again
    let told = lab.wait(10).len() as u64;
    assert!(told <= waiting + 3, "{told} packets for {waiting}");
    let after = lab.engine.host().drops.of(DropReason::NeighborFailed);
    assert_eq!(after, waiting, "none is forgotten uncounted");
    lab.engine.check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever the seed, the limit is exact and everything goes.
    #[test]
    fn any_limit_is_exact(limit in 1u32..200, seed: u64, extra in 0u32..50) {
        let n = net(false);
        let options = EngineOptions { connection_limit: limit, seed, ..EngineOptions::default() };
        let mut lab = Lab::new(Forward::FullNat);
        lab.engine = Engine::new(Mono::ZERO, options, lab.catalog.commit()).unwrap();
        for i in 0..limit + extra {
            let _ = lab.give_fast(WAN, &Pkt::tcp(spoofed(false, i), n.vip(), SYN).frame());
        }
        prop_assert_eq!(lab.engine.connection_count(), limit as usize);
        prop_assert_eq!(lab.engine.drops().of(DropReason::TableFull), u64::from(extra));
        lab.wait(63);
        prop_assert_eq!(lab.engine.connection_count(), 0);
        lab.engine.check().unwrap();
    }
}
