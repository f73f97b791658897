//! What holds for any traffic: checksums, ways back, no two flows taken for one, counters that add up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::tests::{LAN, Sent, WAN, engine, frame, give, give_unexplained, net, sums_right};
use super::*;
use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::svc::{Forward, Persistence, Proto, SchedulerKind, ServiceKey, ServiceSpec, Tunnel};
use crate::time::Span;
use crate::wire::{Parsed, parse};

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    /// A client packet: client, port, TCP flags, payload length.
    Client(u8, u16, u8, usize),
    /// The real server of a known flow answers.
    Reply(usize, u8),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// Weights change and servers come and go.
    Weight(usize, u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let flags = prop::sample::select(vec![0x02u8, 0x10, 0x11, 0x04, 0x12, 0x00]);
    let act = prop_oneof![
        6 => (0u8..6, 0u16..4, flags.clone(), 0usize..40).prop_map(|(c, p, f, n)| Act::Client(c, p, f, n)),
        4 => (any::<prop::sample::Index>(), flags).prop_map(|(i, f)| Act::Reply(i.index(64), f)),
        1 => (0u64..200_000).prop_map(Act::Wait),
        1 => (0usize..2, 0u32..3).prop_map(|(d, w)| Act::Weight(d, w)),
    ];
    prop::collection::vec(act, 1..80)
}

fn ends(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let Ok(Parsed::Ip(m)) = parse(bytes, Link::Ethernet) else { panic!("not IP") };
    (SocketAddr::new(m.src(bytes), m.sport), SocketAddr::new(m.dst(bytes), m.dport))
}

fn client_ip(base: IpAddr, n: u8) -> IpAddr {
    match base {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + u32::from(n)).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(n)).into()),
    }
}

/// The server the client's next connection must go to.
fn tie(e: &Engine, at: Mono, client: IpAddr) -> Option<SocketAddr> {
    e.templates(at).find(|t| t.client.ip() == client && t.virt.port() != 65535).map(|t| t.dest)
}

/// Gives both engines a frame, of which the twin knows no express lane, and wants the same of them.
fn give_both(e: &mut Engine, twin: &mut Engine, at: Mono, port: PortId, f: &[u8]) -> (Verdict, Vec<Sent>) {
    let (verdict, sent) = give_unexplained(e, at, port, f);
    let (long, long_sent) = give_unexplained(twin, at, port, f);
    assert_eq!(verdict, long, "the express lane decides as the long way does");
    let bytes = |sent: &[Sent]| sent.iter().map(|s| s.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(bytes(&sent), bytes(&long_sent), "and sends the same");
    assert_eq!(e.counters(), twin.counters());
    (verdict, sent)
}

fn play(forward: Forward, proto: Proto, v6: bool, persistence: Option<u64>, acts: Vec<Act>) {
    let mut e = engine(forward, proto);
    let mut twin = engine(forward, proto);
    twin.core.defense.take_the_long_way();
    let n = net(v6);
    if let Some(secs) = persistence {
        let netmask = if v6 { 128 } else { 32 };
        let persistence = Some(Persistence { timeout: Span::from_secs(secs), netmask });
        for e in [&mut e, &mut twin] {
            e.on_snapshot(Mono::ZERO, super::tests::respecified(e, |s| s.persistence = persistence));
        }
    }
    let vip = SocketAddr::new(n.vip, 80);
    let mut now = 0;
    // what a real server saw (its source and destination) -> the client it stands for
    let mut flows: Vec<(SocketAddr, SocketAddr, SocketAddr)> = Vec::new();
    let mut weights = [1, 1];
    for act in acts {
        let at = Mono::from_millis(now);
        match act {
            Act::Client(c, port, flags, len) => {
                let client = SocketAddr::new(client_ip(n.client, c), 4000 + port);
                let f = frame(WAN_MAC, proto, client, vip, flags, &vec![c; len]);
                let (tie, opened) = (tie(&e, at, client.ip()), e.counters().opened);
                let (verdict, sent) = give_both(&mut e, &mut twin, at, WAN, &f);
                if e.counters().opened != opened {
                    let dest = e.connections(at).find(|r| r.client == client).map(|r| r.dest);
                    assert!(tie.is_none() || tie == dest, "{client} is {tie:?}'s and went to {dest:?}");
                    assert_eq!(self::tie(&e, at, client.ip()), persistence.and(dest));
                }
                if verdict == Verdict::Send(LAN) && forward.translates() {
                    sums_right(&sent[0].bytes);
                    let (src, dst) = ends(&sent[0].bytes);
                    // the newest owner of a tuple is the one replies must go to
                    flows.retain(|f| (f.0, f.1) != (src, dst));
                    flows.push((src, dst, client));
                }
            }
            Act::Reply(i, flags) if !flows.is_empty() => {
                let (seen_src, seen_dst, client) = flows[i % flows.len()];
                let live = e.connections(at).any(|row| {
                    row.client == client && row.dest == seen_dst && row.local.unwrap_or(client) == seen_src
                });
                let f = frame(LAN_MAC, proto, seen_dst, seen_src, flags, b"reply");
                let (verdict, sent) = give_both(&mut e, &mut twin, at, LAN, &f);
                if live {
                    assert_eq!(verdict, Verdict::Send(WAN), "a reply finds its flow");
                    assert_eq!(ends(&sent[0].bytes), (vip, client));
                    sums_right(&sent[0].bytes);
                } else {
                    assert_ne!(verdict, Verdict::Send(WAN), "a reply of no flow is nobody's");
                }
            }
            Act::Reply(..) => {}
            Act::Wait(ms) => {
                now += ms;
                for e in [&mut e, &mut twin] {
                    e.on_timeout(Mono::from_millis(now), &mut Out::new());
                }
            }
            Act::Weight(d, weight) => {
                weights[d] = weight;
                for e in [&mut e, &mut twin] {
                    let snapshot = super::tests::reweighted(e, v6, weights);
                    e.on_snapshot(at, snapshot);
                }
            }
        }
        e.check().unwrap();
        assert!(e.connections(at).eq(twin.connections(at)), "same connections, states and timers");
        let mut tuples = HashMap::new();
        for row in e.connections(at) {
            let outer = (row.proto, row.local.unwrap_or(row.client), row.dest);
            if forward.translates() {
                assert_eq!(tuples.insert(outer, row.client), None, "two flows on one outer tuple");
            }
        }
    }
    let mut out = Out::new();
    let at_end = Mono::from_millis(now + 3_600_000);
    e.on_timeout(at_end, &mut out);
    assert_eq!(e.connection_count(), 0, "everything expires");
    assert_eq!(e.templates(at_end).count(), 0, "templates too");
    e.check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_traffic_in_any_mode(
        acts in acts(),
        mode in 0usize..4,
        udp: bool,
        v6: bool,
        persistence in prop::option::of(1u64..400),
    ) {
        let forward =
            [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr][mode];
        play(forward, if udp { Proto::Udp } else { Proto::Tcp }, v6, persistence, acts);
    }

    /// Frames that start like real ones and then are anything.
    #[test]
    fn no_frame_makes_the_engine_panic_or_talk_too_much(
        seed in 0usize..3,
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..80),
        cut in 0usize..200,
        v6: bool,
        mode in 0usize..4,
    ) {
        let forward =
            [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr][mode];
        let mut e = engine(forward, Proto::Tcp);
        let n = net(v6);
        let (client, vip) = (SocketAddr::new(n.client, 4000), SocketAddr::new(n.vip, 80));
        let mut f = match seed {
            0 => frame(WAN_MAC, Proto::Tcp, client, vip, 2, &tail),
            1 => frame(WAN_MAC, Proto::Udp, client, vip, 0, &tail),
            _ => [&WAN_MAC.0[..], &[2, 0, 0, 0, 9, 9, 0x08, 0x06], &tail].concat(),
        };
        for (at, byte) in changes {
            if let Some(b) = f.get_mut(at) {
                *b = byte;
            }
        }
        f.truncate(cut.max(1));
        let (_, sent) = give(&mut e, Mono::ZERO, WAN, &f);
        // a packet to an address nobody asked for yet costs one question beside the packet itself
        prop_assert!(sent.len() <= 2, "{} packets for one", sent.len());
    }

    /// Looking ahead must not be seen: bursts longer and shorter than a wave, the same flow several times,
    /// connections that begin and end inside the burst, broken frames, fragments, other stations; two
    /// services whose connections would have the same reply tuple; a table that becomes full.
    #[test]
    fn a_burst_is_its_packets_one_by_one(
        bursts in prop::collection::vec((any::<bool>(), prop::collection::vec(passer(), 0..90)), 1..5),
        udp: bool,
        mode in 0usize..4,
        limit in prop::sample::select(vec![1000u32, 1000, 7]),
        second in prop::sample::select(vec![(SchedulerKind::Rr, 8080), (SchedulerKind::Lc, 8081)]),
    ) {
        let forward =
            [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr][mode];
        let proto = if udp { Proto::Udp } else { Proto::Tcp };
        let engines = [(); 2].map(|()| busy(forward, proto, limit, second));
        same_one_by_one(engines, proto, bursts)?;
    }
}

/// A SYN that closes a finished connection, to have its reply tuple, does so before what comes behind it in the
/// burst: a SYN of the closed one's own tuple, and one that finds the table full otherwise.
#[test]
fn a_syn_of_a_burst_makes_room_before_the_next_begins() {
    const SYN: u8 = 0x02;
    const FIN_ACK: u8 = 0x11;
    for (v6, limit, last) in [
        (false, 1000, (1, 81, SYN)),
        (true, 1000, (1, 81, SYN)),
        (false, 4, (4, 80, SYN)),
        (true, 4, (4, 80, SYN)),
    ] {
        // client, port of the service, flags; the round robin of both services comes to the same server
        let passers = [(1, 81, SYN), (1, 81, FIN_ACK), (2, 80, SYN), (3, 80, SYN), (1, 80, SYN), last];
        let passer =
            |(client, vport, flags)| Passer { v6, who: (client, 0), vport, flags, len: 0, changed: None };
        let engines = [(); 2].map(|()| busy(Forward::Nat, Proto::Tcp, limit, (SchedulerKind::Rr, 8080)));
        let bursts = vec![(false, passers.map(passer).to_vec())];
        let [one, _] = same_one_by_one(engines, Proto::Tcp, bursts).unwrap();
        assert_eq!(one.counters().made_room, 1, "one was in the way");
    }
}

/// Gives bursts to one engine packet by packet and to the other as they are, and wants the same of both.
fn same_one_by_one(
    [mut one, mut many]: [Engine; 2],
    proto: Proto,
    bursts: Vec<(bool, Vec<Passer>)>,
) -> Result<[Engine; 2], TestCaseError> {
    for (i, (from_lan, passers)) in bursts.into_iter().enumerate() {
        let now = Mono::from_millis(i as u64 * 40_000);
        let port = if from_lan { LAN } else { WAN };
        let frames: Vec<_> = passers.iter().map(|p| p.frame(proto, from_lan)).collect();
        let one_by_one = pass(&mut one, now, port, &frames, 1);
        let together = pass(&mut many, now, port, &frames, frames.len());
        prop_assert_eq!(one_by_one, together);
        prop_assert_eq!(one.counters(), many.counters());
        prop_assert!(one.drops().seen().eq(many.drops().seen()));
        let rows = |e: &Engine| {
            let mut rows: Vec<_> = e.connections(now).map(|row| format!("{row:?}")).collect();
            rows.sort();
            rows
        };
        prop_assert_eq!(rows(&one), rows(&many));
        many.check().map_err(TestCaseError::fail)?;
        for e in [&mut one, &mut many] {
            e.on_timeout(now, &mut Out::new());
        }
    }
    Ok([one, many])
}

/// An engine with two services: connections of both may have the same reply tuple, or the second picks by
/// how many connections the servers have. (Not both: a connection that finds its reply tuple taken goes to
/// another server after those behind it in the burst were scheduled.)
fn busy(forward: Forward, proto: Proto, limit: u32, (scheduler, rport): (SchedulerKind, u16)) -> Engine {
    let mut catalog = super::tests::catalog(forward, proto);
    for v6 in [false, true] {
        let n = net(v6);
        let key = ServiceKey::Address { proto, ip: n.vip, port: 81 };
        catalog.add_service(ServiceSpec { scheduler, ..ServiceSpec::new(key) }).unwrap();
        for rs in n.rs {
            catalog.add_dest(&key, super::tests::dest(rs, rport, forward)).unwrap();
        }
    }
    let options = EngineOptions { connection_limit: limit, seed: 7, ..EngineOptions::default() };
    Engine::new(Mono::ZERO, options, catalog.commit()).unwrap()
}

/// A packet that comes by.
#[derive(Clone, Debug)]
struct Passer {
    v6: bool,
    who: (u8, u16),
    vport: u16,
    flags: u8,
    len: usize,
    changed: Option<(usize, u8)>,
}

fn passer() -> impl Strategy<Value = Passer> {
    let flags = prop::sample::select(vec![0x02u8, 0x02, 0x02, 0x10, 0x10, 0x10, 0x11, 0x04, 0x12]);
    let changed = prop::option::weighted(0.2, (0usize..60, any::<u8>()));
    let fields = (any::<bool>(), (0u8..3, 0u16..4), 80u16..82, flags, 0usize..1600, changed);
    fields.prop_map(|(v6, who, vport, flags, len, changed)| {
        // most packets are small, some are too large
        Passer { v6, who, vport, flags, len: if len < 100 { len * 16 } else { len % 60 }, changed }
    })
}

impl Passer {
    fn frame(&self, proto: Proto, from_lan: bool) -> Vec<u8> {
        let n = net(self.v6);
        let client = SocketAddr::new(client_ip(n.client, self.who.0), 4000 + self.who.1);
        let real = SocketAddr::new(n.rs[usize::from(self.who.0) % 2], 8080);
        let vip = SocketAddr::new(n.vip, self.vport);
        let payload = vec![7; self.len];
        let mut frame = match from_lan {
            true => frame(LAN_MAC, proto, real, client, self.flags, &payload),
            false => frame(WAN_MAC, proto, client, vip, self.flags, &payload),
        };
        if let Some((at, byte)) = self.changed
            && let Some(b) = frame.get_mut(at)
        {
            *b = byte;
        }
        frame
    }
}

/// Verdicts with the packets as they became, and everything sent beside them.
fn pass(e: &mut Engine, now: Mono, port: PortId, frames: &[Vec<u8>], together: usize) -> Vec<String> {
    let (mut said, mut beside) = (Vec::new(), Vec::new());
    for frames in frames.chunks(together.max(1)) {
        let mut out = Out::new();
        let mut memory = vec![vec![0u8; 2048]; frames.len()];
        let mut packets: Vec<PacketBuf<'_>> = memory
            .iter_mut()
            .zip(frames)
            .map(|(mem, frame)| {
                let mut pkt = PacketBuf::empty(mem, crate::buf::HEADROOM);
                pkt.fill(frame);
                pkt
            })
            .collect();
        let mut verdicts = vec![Verdict::Send(PortId(9)); frames.len()];
        if together == 1 {
            verdicts[0] = e.on_packet(now, port, &mut packets[0], &mut out);
        } else {
            e.on_burst(now, port, &mut packets, &mut verdicts, &mut out);
        }
        said.extend(verdicts.iter().zip(&packets).map(|(v, p)| format!("{v:?} {:?}", p.bytes())));
        while let Some((port, p)) = out.pop() {
            beside.push(format!("{port:?} {:?}", p.bytes()));
        }
    }
    // made by one burst: in which order makes no difference to anybody
    beside.sort();
    said.append(&mut beside);
    said
}
