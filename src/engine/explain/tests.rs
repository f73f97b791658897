//! What is explained is what then happens, and explaining changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::tests::{LAN, Net, WAN, dest, frame, give, net, plan};
use super::super::*;
use crate::addr::Mac;
use crate::host::MarkRule;
use crate::svc::{
    Catalog, Forward, Persistence, Proto, SchedulerFlags, SchedulerKind, ServiceKey, ServiceSpec, Tunnel,
};
use crate::wire::testkit::meta;
use crate::wire::{ipv4, number, sum};

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

/// One configuration.
#[derive(Clone, Debug)]
struct World {
    modes: Vec<usize>,
    scheduler: usize,
    flags: (bool, bool),
    proto: usize,
    v6: bool,
    persistence: Option<u64>,
    one_packet: bool,
    limit: u32,
    upper: u32,
    marks: bool,
    forwarding: bool,
    known: bool,
    switches: Vec<(usize, i64)>,
}

const SWITCHES: [&str; 11] = [
    "conn_reuse_mode",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "nat_icmp_send",
    "schedule_icmp",
    "sloppy_tcp",
    "pmtu_disc",
    "cache_bypass",
    "secure_tcp",
    "drop_packet",
    "lblcr_expiration",
];

fn worlds() -> impl Strategy<Value = World> {
    let first = (
        prop::collection::vec(0usize..4, 0..4),
        0usize..14,
        any::<(bool, bool)>(),
        0usize..2,
        any::<bool>(),
        prop::option::weighted(0.3, 1u64..400),
        any::<bool>(),
    );
    let second = (
        prop_oneof![Just(2u32), Just(5), Just(1000)],
        prop_oneof![Just(0u32), Just(2)],
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec((0usize..SWITCHES.len(), 0i64..4), 0..4),
    );
    (first, second).prop_map(|(a, b)| World {
        modes: a.0,
        scheduler: a.1,
        flags: a.2,
        proto: a.3,
        v6: a.4,
        persistence: a.5,
        one_packet: a.6,
        limit: b.0,
        upper: b.1,
        marks: b.2,
        forwarding: b.3,
        known: b.4,
        switches: b.5,
    })
}

impl World {
    fn proto(&self) -> Proto {
        [Proto::Tcp, Proto::Udp][self.proto]
    }
    fn catalog(&self) -> Catalog {
        let mut plan = plan();
        let n = net(self.v6);
        if !self.known {
            // servers have to be asked for
            plan.ports[1].neighbors.clear();
        }
        plan.forwarding = self.forwarding;
        if self.marks {
            plan.marks = vec![MarkRule { mark: 7, to: None, ports: Some((90, 99)), proto: None }];
        }
        let mut catalog = Catalog::new(Arc::new(plan));
        for (switch, value) in &self.switches {
            catalog.sysctl.set(SWITCHES[*switch], *value).unwrap();
        }
        let mut keys = vec![
            ServiceKey::Address { proto: self.proto(), ip: n.vip, port: 80 },
            ServiceKey::Address { proto: self.proto(), ip: n.vip, port: 81 },
        ];
        if self.marks {
            keys.push(ServiceKey::Mark { mark: 7, v6: self.v6 });
        }
        for key in keys {
            let netmask = if self.v6 { 128 } else { 32 };
            let spec = ServiceSpec {
                scheduler: SchedulerKind::ALL[self.scheduler].0,
                flags: SchedulerFlags { port: self.flags.0, fallback: self.flags.1 },
                persistence: self
                    .persistence
                    .map(|secs| Persistence { timeout: crate::time::Span::from_secs(secs), netmask }),
                one_packet: self.one_packet,
                ..ServiceSpec::new(key)
            };
            catalog.add_service(spec).unwrap();
            for (i, mode) in self.modes.iter().enumerate() {
                let forward =
                    [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr][*mode];
                // the last is somewhere in the LAN where nobody answers
                let ip = n.rs.get(i).copied().unwrap_or_else(|| other(&n, 77));
                let port = if key.port() == 0 { 0 } else { 8080 };
                let mut spec = dest(ip, port, forward);
                spec.weight = 1 + i as u32;
                spec.upper = self.upper;
                catalog.add_dest(&key, spec).unwrap();
            }
        }
        catalog
    }
}

fn other(n: &Net, last: u8) -> std::net::IpAddr {
    match n.rs[0] {
        std::net::IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            [x, y, z, last].into()
        }
        std::net::IpAddr::V6(a) => (a.to_bits() & !0xff | u128::from(last)).to_be_bytes().into(),
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    Client {
        who: u8,
        sport: u16,
        dport: u16,
        flags: u8,
        len: usize,
    },
    Reply {
        at: usize,
        flags: u8,
        len: usize,
    },
    /// An ICMP error of the client's side about a packet of this connection; the other side's when true.
    Error {
        at: usize,
        other: bool,
    },
    /// The first packet of a connection in two fragments, or only one of them.
    Fragment {
        who: u8,
        first: bool,
        id: u8,
    },
    Arp {
        last: u8,
        reply: bool,
    },
    Raw(Vec<u8>, Vec<(usize, u8)>),
    Weight(usize, u32),
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let flags = || prop::sample::select(vec![0x02u8, 0x02, 0x10, 0x11, 0x04, 0x12, 0x00]);
    let dport = prop::sample::select(vec![80u16, 80, 80, 81, 90, 7]);
    let act = prop_oneof![
        8 => (0u8..4, 0u16..3, dport, flags(), 0usize..1470).prop_map(|(who, p, dport, flags, len)| {
            Act::Client { who, sport: 4000 + p, dport, flags, len: if len > 100 { len } else { len % 8 } }
        }),
        4 => (0usize..16, flags(), 0usize..40).prop_map(|(at, flags, len)| Act::Reply { at, flags, len }),
        2 => (0usize..16, any::<bool>()).prop_map(|(at, other)| Act::Error { at, other }),
        2 => (0u8..2, any::<bool>(), 0u8..2).prop_map(|(who, first, id)| Act::Fragment { who, first, id }),
        2 => (0u8..90, any::<bool>()).prop_map(|(last, reply)| Act::Arp { last, reply }),
        1 => (prop::collection::vec(any::<u8>(), 0..60), prop::collection::vec((0usize..60, any::<u8>()), 0..6))
            .prop_map(|(tail, changes)| Act::Raw(tail, changes)),
        1 => (0usize..3, 0u32..3).prop_map(|(at, weight)| Act::Weight(at, weight)),
        1 => (0u64..100_000).prop_map(Act::Wait),
    ];
    prop::collection::vec(act, 1..50)
}

fn client(n: &Net, who: u8) -> std::net::IpAddr {
    match n.client {
        std::net::IpAddr::V4(a) => (u32::from(a) + u32::from(who)).to_be_bytes().into(),
        std::net::IpAddr::V6(a) => (a.to_bits() + u128::from(who)).to_be_bytes().into(),
    }
}

/// An ICMP port unreachable (IPv4 only) from `src` to `dst` about a packet.
fn unreachable(mac: Mac, src: [u8; 4], dst: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&about[14..(14 + 28).min(about.len())]);
    let check = sum::checksum(&icmp);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = [0; 20];
    let (src, dst) = (u32::from_be_bytes(src), u32::from_be_bytes(dst));
    let total = 20 + icmp.len() as u16;
    ipv4::Header { tos: 0, total, id: 9, df: false, ttl: 64, proto: number::ICMP, src, dst }.write(&mut ip);
    [&mac.0[..], &[2, 0, 0, 0, 9, 9, 8, 0], &ip, &icmp].concat()
}

/// The engine in all its parts, as text.
fn everything(e: &Engine) -> String {
    let templates: Vec<_> = e.snap.templates.list();
    format!("{e:?}{templates:?}")
}

/// Explains a frame, shows that this changed nothing, and that it happens.
fn tried(e: &mut Engine, at: Mono, port: PortId, f: &[u8]) -> (Verdict, Vec<Vec<u8>>) {
    let before = everything(e);
    let told = e.explain(at, port, f, crate::buf::Offload::NONE).unwrap();
    assert!(before == everything(e), "explaining changed something");
    let opened: Vec<_> = e.connections(at).map(|r| (r.client, r.virt)).collect();
    let (verdict, sent) = give(e, at, port, f);
    let new = e.connections(at).find(|r| !opened.contains(&(r.client, r.virt)));
    if let Some(new) = new.filter(|_| told.server.is_some()) {
        assert_eq!(told.server, Some(new.dest), "{:#?}", told.steps);
    }
    assert_eq!(told.steps.last().map(|s| s.name), Some("verdict"));
    (verdict, sent.into_iter().map(|s| s.bytes).collect())
}

fn play(world: &World, acts: Vec<Act>) {
    let options = EngineOptions { connection_limit: world.limit, seed: 7, ..EngineOptions::default() };
    let mut catalog = world.catalog();
    let mut e = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
    let (n, proto) = (net(world.v6), world.proto());
    let mut now = 0;
    for act in acts {
        let at = Mono::from_millis(now);
        let rows: Vec<_> = e.connections(at).collect();
        let row = |at: usize| rows.get(at % rows.len().max(1)).cloned();
        match act {
            Act::Client { who, sport, dport, flags, len } => {
                let ends = (SocketAddr::new(client(&n, who), sport), SocketAddr::new(n.vip, dport));
                let f = frame(WAN_MAC, proto, ends.0, ends.1, flags, &vec![who; len]);
                let _ = tried(&mut e, at, WAN, &f);
            }
            Act::Reply { at: which, flags, len } => {
                let Some(row) = row(which) else { continue };
                let f =
                    frame(LAN_MAC, proto, row.dest, row.local.unwrap_or(row.client), flags, &vec![1; len]);
                let _ = tried(&mut e, at, LAN, &f);
            }
            Act::Error { at: which, other } => {
                let Some(row) = row(which).filter(|_| !world.v6) else { continue };
                let v4 = |end: SocketAddr| match end.ip() {
                    std::net::IpAddr::V4(a) => a.octets(),
                    std::net::IpAddr::V6(_) => unreachable!(),
                };
                let f = if other {
                    let seen = row.local.unwrap_or(row.client);
                    let about = frame(LAN_MAC, proto, seen, row.dest, 16, b"");
                    unreachable(LAN_MAC, v4(row.dest), v4(seen), &about)
                } else {
                    let about = frame(WAN_MAC, proto, row.virt, row.client, 16, b"");
                    unreachable(WAN_MAC, v4(row.client), v4(row.virt), &about)
                };
                let _ = tried(&mut e, at, if other { LAN } else { WAN }, &f);
            }
            Act::Fragment { who, first, id } => {
                if world.v6 {
                    continue;
                }
                let ends = (SocketAddr::new(client(&n, who), 5000), SocketAddr::new(n.vip, 80));
                let whole = frame(WAN_MAC, Proto::Udp, ends.0, ends.1, 0, &[who; 64]);
                let m = meta(&whole, Link::Ethernet);
                let cut = m.l4 as usize + 32;
                let (mut f, offset) = match first {
                    true => (whole[..cut].to_vec(), 0x2000u16),
                    false => ([&whole[..m.l4 as usize], &whole[cut..]].concat(), 4),
                };
                let total = (f.len() - 14) as u16;
                f[16..18].copy_from_slice(&total.to_be_bytes());
                f[18..20].copy_from_slice(&[9, id]);
                f[20..22].copy_from_slice(&offset.to_be_bytes());
                f[24..26].fill(0);
                let check = sum::checksum(&f[14..34]);
                f[24..26].copy_from_slice(&check.to_be_bytes());
                let _ = tried(&mut e, at, WAN, &f);
            }
            Act::Arp { last, reply } => {
                let (sender, mac) = ([10, 2, 0, last], Mac([2, 0, 0, 0, 2, last]));
                let arp = crate::wire::arp::Arp {
                    operation: [crate::wire::arp::Operation::Request, crate::wire::arp::Operation::Reply]
                        [usize::from(reply)],
                    sender_mac: mac,
                    sender_ip: sender.into(),
                    target_mac: LAN_MAC,
                    target_ip: [10, 2, 0, 1].into(),
                };
                let _ = tried(&mut e, at, LAN, &arp.frame(LAN_MAC));
            }
            Act::Raw(tail, changes) => {
                let ends = (SocketAddr::new(n.client, 4000), SocketAddr::new(n.vip, 80));
                let mut f = frame(WAN_MAC, proto, ends.0, ends.1, 2, &tail);
                for (at, byte) in changes {
                    if let Some(b) = f.get_mut(at) {
                        *b = byte;
                    }
                }
                let _ = tried(&mut e, at, WAN, &f);
            }
            Act::Weight(which, weight) => {
                let key = ServiceKey::Address { proto, ip: n.vip, port: 80 };
                let known = catalog.service(&key).and_then(|s| s.dests.get(which).cloned());
                let Some(known) = known else { continue };
                let mut spec = known.spec.clone();
                if weight == 0 && which == 2 {
                    catalog.remove_dest(&key, spec.ip, spec.port).unwrap();
                } else {
                    spec.weight = weight;
                    catalog.edit_dest(&key, spec).unwrap();
                }
                e.on_snapshot(at, catalog.commit());
            }
            Act::Wait(ms) => {
                now += ms;
                e.on_timeout(Mono::from_millis(now), &mut Out::new());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_explanation_is_what_then_happens_and_changes_nothing(world in worlds(), acts in acts()) {
        play(&world, acts);
    }
}

mod watching {
    use super::super::watch::{Side, Term, Watch};
    use super::*;
    use crate::buf::PacketBuf;

    fn burst(e: &mut Engine, now: Mono, frames: &[Vec<u8>]) -> Vec<Verdict> {
        let mut memory = vec![vec![0u8; 2048]; frames.len()];
        let fill = |(mem, frame): (&mut Vec<u8>, &Vec<u8>)| {
            let mut pkt = PacketBuf::empty(mem, crate::buf::HEADROOM);
            pkt.fill(frame);
            (pkt.len(), frame.clone())
        };
        let lens: Vec<_> = memory.iter_mut().zip(frames).map(fill).collect();
        let mut packets: Vec<PacketBuf<'_>> = memory
            .iter_mut()
            .zip(&lens)
            .map(|(mem, (len, _))| {
                let head = crate::buf::HEADROOM;
                PacketBuf::new(mem, head, head + len, crate::buf::Offload::NONE)
            })
            .collect();
        let mut verdicts = vec![Verdict::Send(PortId(9)); frames.len()];
        e.on_burst(now, WAN, &mut packets, &mut verdicts, &mut Out::new());
        e.check().unwrap();
        verdicts
    }

    fn syn(port: u16, to: u16) -> Vec<u8> {
        let n = net(false);
        let ends = (SocketAddr::new(n.client, port), SocketAddr::new(n.vip, to));
        frame(WAN_MAC, Proto::Tcp, ends.0, ends.1, 2, b"")
    }

    fn watch(terms: Vec<Term>, left: u32) -> Watch {
        Watch { terms, left, until: Mono::from_millis(5_000) }
    }

    #[test]
    fn what_matches_is_explained_before_it_happens_and_nothing_else() {
        let mut plain = super::super::super::tests::engine(Forward::Nat, Proto::Tcp);
        let mut e = super::super::super::tests::engine(Forward::Nat, Proto::Tcp);
        e.watch(watch(vec![Term::Proto(6), Term::Port(Side::Source, 4001)], 10));
        let frames = [syn(4000, 80), syn(4001, 80), syn(4002, 80), syn(4001, 81)];
        let verdicts = burst(&mut e, Mono::ZERO, &frames);
        assert_eq!(verdicts, burst(&mut plain, Mono::ZERO, &frames), "watching changes nothing");
        assert!(e.connections(Mono::ZERO).eq(plain.connections(Mono::ZERO)));
        let (seen, missed) = e.take_watched(Mono::from_millis(9_000));
        assert_eq!(missed, 0);
        let said: Vec<_> = seen.iter().map(|w| (w.frame.clone(), w.told.verdict)).collect();
        assert_eq!(said, [(frames[1].clone(), verdicts[1]), (frames[3].clone(), verdicts[3])]);
        let second = e.connections(Mono::ZERO).find(|r| r.client.port() == 4001).unwrap();
        assert_eq!(seen[0].told.server, Some(second.dest));
    }

    #[test]
    fn drops_are_matched_by_what_becomes_of_the_packet() {
        let mut e = super::super::super::tests::engine(Forward::Nat, Proto::Tcp);
        let n = net(false);
        let other =
            frame(WAN_MAC, Proto::Tcp, SocketAddr::new(n.client, 1), SocketAddr::new(n.client, 2), 2, b"");
        e.watch(watch(vec![Term::DroppedFor(DropReason::NotOurs)], 10));
        let verdicts = burst(&mut e, Mono::ZERO, &[syn(4000, 80), other.clone(), syn(4001, 80)]);
        assert_eq!(verdicts[1], Verdict::Drop(DropReason::NotOurs));
        let (seen, _) = e.take_watched(Mono::ZERO);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].frame.clone(), seen[0].told.verdict), (other, verdicts[1]));
    }

    #[test]
    fn watching_is_bounded_in_number_in_a_burst_and_in_time() {
        let mut e = super::super::super::tests::engine(Forward::Nat, Proto::Tcp);
        e.watch(watch(Vec::new(), 6));
        let many: Vec<_> = (0..20).map(|p| syn(4000 + p, 80)).collect();
        let _ = burst(&mut e, Mono::ZERO, &many);
        let (seen, missed) = e.take_watched(Mono::from_millis(5_000));
        assert_eq!((seen.len(), missed), (4, 16), "packets wait for no more explanations than these");
        let _ = burst(&mut e, Mono::ZERO, &many);
        let (seen, _) = e.take_watched(Mono::from_millis(5_000));
        assert_eq!(seen.len(), 2, "as many as were wanted");
        assert!(e.watched.is_none());
        e.watch(watch(Vec::new(), 6));
        let _ = burst(&mut e, Mono::from_millis(5_001), &many);
        assert!(e.watched.is_none(), "who does not come back is not waited for");
    }
}
