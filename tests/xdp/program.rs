//! The program in the kernel and its rule in Rust give the same answer for every frame.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use softlvs::addr::{Cidr, Mac};
use softlvs::io::ebpf::asm::disassemble;
use softlvs::io::ebpf::result::XDP_PASS;
use softlvs::io::sys::bpf::{Kind, Map, MapKind, Program};
use softlvs::io::xdp::Claims;
use softlvs::io::xdp::program::{Parameters, Take, build};

use crate::with_bpf;

const DEVICE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OWN: Mac = Mac([2, 0, 0, 0xff, 0x80, 9]);
/// `XDP_DROP` stands for "taken" here.
const TAKEN: u32 = 1;

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}
fn net(s: &str) -> Cidr {
    s.parse().unwrap()
}

/// Addresses that mean something to [`claims`], and some that do not.
const KNOWN: [&str; 16] = [
    "192.0.2.10",
    "192.0.2.2",
    "10.0.0.100",
    "10.0.0.107",
    "10.0.0.11",
    "192.0.2.5",
    "198.51.100.7",
    "224.0.0.1",
    "203.0.113.9",
    "2001:db8::10",
    "fe80::ff:fe80:9",
    "2001:db8:2::64",
    "2001:db8:2::11",
    "2001:db8::5",
    "ff02::1",
    "2001:db8:9::1",
];

fn claims(inherited: bool, everything: bool) -> Claims {
    Claims {
        mac: if inherited { DEVICE } else { OWN },
        inherited,
        ours: ["192.0.2.10", "192.0.2.2", "2001:db8::10", "fe80::ff:fe80:9"].map(ip).into(),
        pools: vec![net("10.0.0.100/30"), net("10.0.0.104/30"), net("2001:db8:2::64/126")],
        marked: vec![net("203.0.113.0/24")],
        reals: ["10.0.0.11", "2001:db8:2::11"].map(ip).into(),
        host: ["192.0.2.5", "2001:db8::5", "203.0.113.1"].map(ip).into(),
        everything,
    }
}

struct Loaded {
    claims: Claims,
    program: Program,
    _maps: [Map; 2],
}

fn load(claims: Claims) -> Loaded {
    let hosts = Map::create(MapKind::Hash, 16, 4, 64, "t_hosts").unwrap();
    let nets = Map::create(MapKind::Lpm, 20, 4, 64, "t_nets").unwrap();
    let entries = claims.entries();
    for (key, flags) in &entries.hosts {
        hosts.set(key, &flags.to_ne_bytes()).unwrap();
    }
    for ((bits, key), flags) in &entries.nets {
        let mut prefix = bits.to_ne_bytes().to_vec();
        prefix.extend(key);
        nets.set(&prefix, &flags.to_ne_bytes()).unwrap();
    }
    let code = build(&Parameters {
        mac: claims.mac,
        inherited: claims.inherited,
        hosts: hosts.number(),
        nets: nets.number(),
        take: Take::Return(TAKEN as i32),
        steps: None,
    })
    .unwrap();
    let program = Program::load(&code, Kind::Xdp { frags: false }, "t_softlvs").unwrap();
    Loaded { claims, program, _maps: [hosts, nets] }
}

impl Loaded {
    fn agrees(&self, frame: &[u8]) -> bool {
        let want = if self.claims.takes(frame) { TAKEN } else { XDP_PASS as u32 };
        self.program.test_run(frame).unwrap() == want
    }
}

fn address(v6: bool) -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = KNOWN
        .iter()
        .map(|s| ip(s))
        .filter(|a| a.is_ipv6() == v6)
        .map(|a| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        })
        .collect();
    let len = if v6 { 16 } else { 4 };
    prop_oneof![9 => prop::sample::select(known), 1 => prop::collection::vec(any::<u8>(), len)]
}

fn ethernet(kind: [u8; 2]) -> impl Strategy<Value = Vec<u8>> {
    let to = prop_oneof![
        3 => Just(OWN.0),
        3 => Just(DEVICE.0),
        2 => Just([0xff; 6]),
        1 => Just([0x33, 0x33, 0xff, 0, 0, 0x10]),
        1 => any::<[u8; 6]>(),
    ];
    let kinds = prop_oneof![
        12 => Just(kind),
        1 => Just([0x81, 0x00]),
        1 => Just([0x88, 0xa8]),
        1 => any::<[u8; 2]>(),
    ];
    (to, kinds).prop_map(|(to, kind)| [&to[..], &[4; 6], &kind].concat())
}

fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let proto = prop_oneof![3 => Just(1u8), 1 => Just(6), 1 => any::<u8>()];
    let first = prop_oneof![8 => Just(0x45u8), 1 => Just(0x47), 1 => any::<u8>()];
    let frag = prop_oneof![6 => Just([0u8, 0]), 1 => Just([0x20, 0]), 1 => any::<[u8; 2]>()];
    let body = (prop_oneof![4 => Just(3u8), 1 => Just(11), 1 => 0..13u8], address(false), any::<[u8; 8]>());
    (first, proto, frag, address(false), address(false), body).prop_map(
        |(first, proto, frag, src, dst, (kind, quoted, filler))| {
            let mut p = vec![first, 0, 0, 60, 1, 2, frag[0], frag[1], 64, proto, 0, 0];
            p.extend(src);
            p.extend(dst);
            p.extend(vec![0; usize::from((first & 15).saturating_sub(5)) * 4]);
            p.extend([kind, 1, 0, 0, 0, 0, 0, 0]);
            p.extend([0x45; 16]);
            p.extend(quoted);
            p.extend(filler);
            p
        },
    )
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let next = prop_oneof![4 => Just(58u8), 1 => Just(0), 1 => Just(44), 1 => Just(6)];
    let hops = prop_oneof![4 => Just(255u8), 1 => Just(64)];
    let kind = prop_oneof![2 => Just(135u8), 2 => Just(136), 3 => 0..6u8, 1 => any::<u8>()];
    let first = prop_oneof![9 => Just(0x60u8), 1 => any::<u8>()];
    (first, next, hops, kind, address(true), address(true), address(true)).prop_map(
        |(first, next, hops, kind, src, dst, about)| {
            let mut p = vec![first, 0, 0, 0, 0, 60, next, hops];
            p.extend(src);
            p.extend(dst);
            p.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            // the target of neighbour discovery, and 16 bytes on the destination that an error quotes
            p.extend(&about);
            p.extend([0; 8]);
            p.extend(&about);
            p.extend([9; 8]);
            p
        },
    )
}

fn arp() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![8 => Just([0u8, 1, 8, 0, 6, 4]), 1 => any::<[u8; 6]>()];
    (head, 1..3u8, address(false), address(false))
        .prop_map(|(head, op, from, about)| [&head[..], &[0, op], &[4; 6], &from, &[0; 6], &about].concat())
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let join = |(mut eth, body): (Vec<u8>, Vec<u8>)| {
        eth.extend(body);
        eth
    };
    let whole = prop_oneof![
        4 => (ethernet([8, 0]), ipv4()).prop_map(join),
        4 => (ethernet([0x86, 0xdd]), ipv6()).prop_map(join),
        3 => (ethernet([8, 6]), arp()).prop_map(join),
        1 => (ethernet([8, 0]), prop::collection::vec(any::<u8>(), 0..100)).prop_map(join),
    ];
    // one in four is cut short; the kernel takes no less than an Ethernet header
    (whole, prop_oneof![3 => Just(usize::MAX), 1 => 14..120usize]).prop_map(|(mut f, cut)| {
        f.truncate(cut);
        f
    })
}

#[test]
fn any_frame_is_judged_by_the_program_as_by_the_rule() {
    with_bpf(|| {
        for (inherited, everything) in [(false, false), (true, false), (true, true)] {
            let loaded = load(claims(inherited, everything));
            let mut taken = 0u32;
            let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
            let counted = std::cell::Cell::new(0);
            runner
                .run(&frames(), |f| {
                    counted.set(counted.get() + u32::from(loaded.claims.takes(&f)));
                    prop_assert!(loaded.agrees(&f), "rule: {}, {:02x?}", loaded.claims.takes(&f), f);
                    Ok(())
                })
                .unwrap();
            taken += counted.get();
            assert!((2_000..18_000).contains(&taken), "{taken} of 20000 taken: the frames say little");
        }
    });
}

/// One frame, and whether it is taken with a MAC of its own and with an inherited one.
#[test]
fn each_kind_of_frame_goes_where_it_belongs() {
    let eth = |to: Mac, kind: [u8; 2], body: &[u8]| [&to.0[..], &[4; 6], &kind, body].concat();
    let v4 = |src: &str, dst: &str, proto: u8, rest: &[u8]| {
        let (IpAddr::V4(s), IpAddr::V4(d)) = (ip(src), ip(dst)) else { unreachable!() };
        let head = [0x45, 0, 0, 60, 0, 0, 0, 0, 64, proto, 0, 0];
        [&head[..], &s.octets(), &d.octets(), rest].concat()
    };
    let v6 = |src: &str, dst: &str, next: u8, rest: &[u8]| {
        let (IpAddr::V6(s), IpAddr::V6(d)) = (ip(src), ip(dst)) else { unreachable!() };
        [&[0x60, 0, 0, 0, 0, 60, next, 255][..], &s.octets(), &d.octets(), rest].concat()
    };
    let ask = |about: &str| {
        let IpAddr::V4(a) = ip(about) else { unreachable!() };
        let from = [198, 51, 100, 7];
        [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[4; 6], &from, &[0; 6], &a.octets()].concat()
    };
    let solicit = |about: &str| {
        let IpAddr::V6(a) = ip(about) else { unreachable!() };
        v6("2001:db8:9::1", "ff02::1:ff00:10", 58, &[&[135, 0, 0, 0, 0, 0, 0, 0][..], &a.octets()].concat())
    };
    let group = Mac([0x33, 0x33, 0xff, 0, 0, 0x10]);
    let tcp = [0u8; 20];
    let quoted4 = [&[3, 4, 0, 0, 0, 0, 0, 0][..], &v4("198.51.100.7", "10.0.0.11", 6, &tcp)].concat();
    let quoted6 = [&[2, 0, 0, 0, 0, 0, 0, 0][..], &v6("2001:db8:9::1", "2001:db8:2::11", 6, &tcp)].concat();
    let tagged = [&[0, 7, 8, 0][..], &v4("198.51.100.7", "192.0.2.10", 6, &tcp)].concat();
    let (ip4, ip6, a) = ([8, 0], [0x86, 0xdd], [8, 6]);
    let mut later = v4("198.51.100.7", "192.0.2.10", 6, &tcp);
    later[6..8].copy_from_slice(&[0x20, 0xb9]);
    let cases = [
        ("a client to the VIP", ip4, v4("198.51.100.7", "192.0.2.10", 6, &tcp), true),
        ("a later fragment to the VIP", ip4, later, true),
        ("to the DIP", ip4, v4("198.51.100.7", "192.0.2.2", 1, &tcp), true),
        ("to a LIP", ip4, v4("10.0.0.11", "10.0.0.105", 6, &tcp), true),
        ("a real server's reply to a client", ip4, v4("10.0.0.11", "198.51.100.7", 6, &tcp), true),
        ("a real server to the host itself", ip4, v4("10.0.0.11", "192.0.2.5", 6, &tcp), false),
        ("anybody to the host itself", ip4, v4("198.51.100.7", "192.0.2.5", 6, &tcp), false),
        ("marked", ip4, v4("198.51.100.7", "203.0.113.9", 6, &tcp), true),
        (
            "the host's own address in a marked network",
            ip4,
            v4("198.51.100.7", "203.0.113.1", 6, &tcp),
            false,
        ),
        ("through the host", ip4, v4("198.51.100.7", "192.0.2.77", 6, &tcp), false),
        (
            "a router's error about a packet to a real server",
            ip4,
            v4("10.0.9.1", "198.51.100.7", 1, &quoted4),
            true,
        ),
        ("IPv6 to the VIP", ip6, v6("2001:db8:9::1", "2001:db8::10", 6, &tcp), true),
        (
            "IPv6 to the VIP behind hop-by-hop options",
            ip6,
            v6("2001:db8:9::1", "2001:db8::10", 0, &tcp),
            true,
        ),
        ("IPv6 reply", ip6, v6("2001:db8:2::11", "2001:db8:9::1", 6, &tcp), true),
        ("IPv6 to the host", ip6, v6("2001:db8:9::1", "2001:db8::5", 6, &tcp), false),
        ("IPv6 error", ip6, v6("2001:db8:9::fe", "2001:db8:9::1", 58, &quoted6), true),
        ("a unicast answer to the DIP's ARP", a, ask("192.0.2.2"), true),
        ("ARP about the host", a, ask("192.0.2.5"), false),
        ("a VLAN", [0x81, 0], tagged.clone(), false),
        ("a VLAN of a provider", [0x88, 0xa8], tagged, false),
        ("too short for an IP header", ip4, vec![0x45; 19], false),
        ("LLDP", [0x88, 0xcc], vec![0; 40], false),
    ];
    let (own, inherited) = (claims(false, false), claims(true, false));
    let mut all = Vec::new();
    for (what, kind, body, taken) in &cases {
        let vlan = [[0x81, 0], [0x88, 0xa8]].contains(kind);
        assert_eq!(inherited.takes(&eth(DEVICE, *kind, body)), *taken, "{what}");
        assert_eq!(own.takes(&eth(OWN, *kind, body)), !vlan, "{what}, to a MAC of its own");
        assert!(!own.takes(&eth(DEVICE, *kind, body)), "{what}, to the interface's MAC");
        assert!(!inherited.takes(&eth(OWN, *kind, body)), "{what}, to another station");
        all.extend([eth(DEVICE, *kind, body), eth(OWN, *kind, body)]);
    }
    for (what, to, kind, body, taken) in [
        ("who has the VIP", Mac::BROADCAST, a, ask("192.0.2.10"), true),
        ("who has a LIP", Mac::BROADCAST, a, ask("10.0.0.106"), true),
        ("who has the host", Mac::BROADCAST, a, ask("192.0.2.5"), false),
        ("solicitation of the VIP", group, ip6, solicit("2001:db8::10"), true),
        ("solicitation of the host", group, ip6, solicit("2001:db8::5"), false),
        (
            "an IP packet in a broadcast",
            Mac::BROADCAST,
            ip4,
            v4("198.51.100.7", "192.0.2.10", 17, &tcp),
            false,
        ),
        ("a router's advertisement", group, ip6, v6("fe80::1", "ff02::1", 58, &[134; 24]), false),
    ] {
        assert_eq!(own.takes(&eth(to, kind, &body)), taken, "{what}");
        assert_eq!(inherited.takes(&eth(to, kind, &body)), taken, "{what}");
        all.push(eth(to, kind, &body));
    }
    with_bpf(|| {
        let loaded = [load(own), load(inherited)];
        for frame in &all {
            assert!(loaded.iter().all(|l| l.agrees(frame)), "{frame:02x?}");
        }
    });
}

/// After a change of the program look at what `SOFTLVS_BLESS=1` writes.
#[test]
fn the_program_is_the_one_that_was_looked_at() {
    let text = |inherited| {
        let mac = if inherited { DEVICE } else { OWN };
        let p = Parameters {
            mac,
            inherited,
            hosts: 1,
            nets: 2,
            take: Take::Redirect { sockets: 3, places: 1 },
            steps: None,
        };
        disassemble(&build(&p).unwrap())
    };
    if std::env::var_os("SOFTLVS_BLESS").is_some() {
        for (name, inherited) in [("own-mac.txt", false), ("inherited-mac.txt", true)] {
            std::fs::write(format!("{}/tests/xdp/{name}", env!("CARGO_MANIFEST_DIR")), text(inherited))
                .unwrap();
        }
    } else if cfg!(target_endian = "little") {
        assert_eq!(text(false), include_str!("own-mac.txt"));
        assert_eq!(text(true), include_str!("inherited-mac.txt"));
    }
}
