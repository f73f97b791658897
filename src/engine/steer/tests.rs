//! Several engines that share the work, in one thread: any of them may read any packet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::*;
use crate::addr::Mac;
use crate::buf::{HEADROOM, Offload, Out, PacketBuf};
use crate::engine::post::{HOST, Handing, Recipient};
use crate::engine::tests::{LAN, WAN, catalog, frame, net};
use crate::engine::{ConnRow, Counters, DropReason, Engine, EngineOptions, PortId, Taken, Verdict};
use crate::host::{HostOptions, NetPlan};
use crate::svc::{Catalog, SchedulerKind, ServiceKey, ServiceSpec, Tunnel};
use crate::time::Mono;
use crate::wire::fragment::{fragment4, fragment6};
use crate::wire::{Link, Parsed, parse, testkit};

mod limits;

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

/// The engines of a director; with one engine it is an ordinary one.
pub(crate) struct Band {
    pub engines: Vec<Engine>,
    pub crew: Arc<Crew>,
    pub out: Out,
    random: Random,
    given: u32,
}

/// A frame that was sent, and on which port.
pub(crate) type Sent = (PortId, Vec<u8>);

impl Band {
    pub fn new(workers: u16, options: EngineOptions, snapshot: &Arc<Snapshot>) -> Band {
        let crew = Arc::new(Crew::new(workers, options.seed));
        let engine = |i| {
            let options = EngineOptions { worker: WorkerId(i), ..options };
            Engine::in_crew(Mono::ZERO, options, snapshot.clone(), crew.clone()).unwrap()
        };
        let engines = (0..workers).map(engine).collect();
        Band { engines, crew, out: Out::new(), random: Random(options.seed), given: 0 }
    }

    /// Some worker reads a frame; what all workers do in the end.
    pub fn give(&mut self, now: Mono, port: PortId, bytes: &[u8]) -> (Verdict, Vec<Sent>) {
        let reader = (self.random.next() % self.engines.len() as u64) as usize;
        self.engines.iter_mut().for_each(|e| e.catch_up(now));
        let mut mem = vec![0u8; HEADROOM + bytes.len() + 256];
        let mut sent = Vec::new();
        let mut verdict = self.deliver(&mut mem, bytes, &mut sent, |band, pkt| {
            band.engines[reader].on_packet(now, port, pkt, &mut band.out)
        });
        while let Some(Handing { to, port, largest, packet }) = self.engines[reader].poll_handing() {
            match to {
                Recipient::Worker(owner) => {
                    assert_eq!(verdict, Verdict::Taken(Taken::Handed));
                    verdict = self.whole(now, owner, port, largest, packet.bytes(), &mut sent);
                }
                Recipient::Listeners => {
                    for listener in 1..self.engines.len() {
                        let _ = self.deliver(&mut mem, packet.bytes(), &mut sent, |band, pkt| {
                            band.engines[listener].on_heard(now, port, pkt, &mut band.out);
                            Verdict::Taken(Taken::Local)
                        });
                    }
                }
            }
        }
        if let Verdict::HandTo(owner) = verdict {
            assert_ne!(usize::from(owner.0), reader);
            verdict = self.deliver(&mut mem, bytes, &mut sent, |band, pkt| {
                let mut verdict = [Verdict::Taken(Taken::Local)];
                let pkt = std::slice::from_mut(pkt);
                band.engines[usize::from(owner.0)].on_handed(now, port, pkt, &mut verdict, &mut band.out);
                verdict[0]
            });
            // what was put together by the owner of the fragments
            while let Some(Handing { to, port, largest, packet }) =
                self.engines[usize::from(owner.0)].poll_handing()
            {
                let Recipient::Worker(last) = to else { panic!("nothing is spread twice") };
                assert_eq!(verdict, Verdict::Taken(Taken::Handed));
                verdict = self.whole(now, last, port, largest, packet.bytes(), &mut sent);
            }
        }
        assert!(!matches!(verdict, Verdict::HandTo(_)), "nobody takes it");
        // the walk is long
        self.given += 1;
        if self.given.is_multiple_of(16) {
            self.check().unwrap();
        }
        (verdict, sent)
    }

    fn whole(
        &mut self,
        now: Mono,
        owner: WorkerId,
        port: PortId,
        largest: u16,
        bytes: &[u8],
        sent: &mut Vec<Sent>,
    ) -> Verdict {
        let mut mem = vec![0u8; HEADROOM + bytes.len() + 256];
        self.deliver(&mut mem, bytes, sent, |band, pkt| {
            band.engines[usize::from(owner.0)].on_whole(now, port, largest, pkt, &mut band.out)
        })
    }

    fn deliver(
        &mut self,
        mem: &mut [u8],
        bytes: &[u8],
        sent: &mut Vec<Sent>,
        f: impl FnOnce(&mut Band, &mut PacketBuf<'_>) -> Verdict,
    ) -> Verdict {
        let mut pkt = PacketBuf::empty(mem, HEADROOM);
        pkt.fill(bytes);
        pkt.offload = Offload::NONE;
        let verdict = f(self, &mut pkt);
        if let Verdict::Send(port) = verdict {
            sent.push((port, pkt.bytes().to_vec()));
        }
        while let Some((port, p)) = self.out.pop() {
            sent.push((port, p.bytes().to_vec()));
        }
        verdict
    }

    pub fn on_snapshot(&mut self, now: Mono, snapshot: &Arc<Snapshot>) {
        self.engines.iter_mut().for_each(|e| e.on_snapshot(now, snapshot.clone()));
    }
    pub fn on_timeout(&mut self, now: Mono) {
        self.engines.iter_mut().for_each(|e| e.on_timeout(now, &mut self.out));
        while self.out.pop().is_some() {}
    }
    pub fn connection_count(&self) -> usize {
        self.engines.iter().map(Engine::connection_count).sum()
    }
    pub fn connections(&self, now: Mono) -> impl Iterator<Item = ConnRow> + '_ {
        self.engines.iter().flat_map(move |e| e.connections(now))
    }
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.engines[0].snapshot()
    }
    pub fn check(&self) -> Result<(), String> {
        if self.crew.live() != self.connection_count() && self.engines.len() > 1 {
            return Err(format!("{} live, {} in tables", self.crew.live(), self.connection_count()));
        }
        self.engines.iter().try_for_each(Engine::check)?;
        Engine::check_counts(&self.engines.iter().collect::<Vec<_>>())
    }
    fn counters(&self) -> Counters {
        let all = self.engines.iter().map(Engine::counters);
        // who asks for neighbours and what changes hands depends on the number of workers
        let sum = all.fold(Counters::default(), |a, b| a + b);
        Counters { made: 0, handed: 0, ..sum }
    }
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let of = |why| self.engines.iter().map(|e| e.drops().of(why)).sum();
        DropReason::ALL.iter().map(|why| (*why, of(*why))).filter(|(_, n)| *n > 0).collect()
    }
}

/// A frame without what is left to chance: identifications, local ports, checksums over them.
fn plain((port, bytes): &Sent) -> String {
    let Ok(Parsed::Ip(m)) = parse(bytes, Link::Ethernet) else {
        return format!("{port:?} {:?}", bytes);
    };
    let dips = ["10.2.0.1", "2001:db8:2::1"].map(|a| a.parse::<IpAddr>().unwrap());
    let port_of = |ip: IpAddr, port: u16| if dips.contains(&ip) && port >= 1024 { 0 } else { port };
    let (src, dst) = (m.src(bytes), m.dst(bytes));
    format!(
        "{port:?} {:?} {src} {} {dst} {} proto {} flags {} ttl {} {} bytes",
        &bytes[..12],
        port_of(src, m.sport),
        port_of(dst, m.dport),
        m.proto,
        m.tcp_flags,
        m.ttl,
        bytes.len(),
    )
}

/// Ends of a frame, and its way back.
fn answer(bytes: &[u8], proto: Proto, flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let Ok(Parsed::Ip(m)) = parse(bytes, Link::Ethernet) else { return None };
    let (src, dst) = (m.src(bytes), m.dst(bytes));
    (m.proto == proto.number() && !m.is_fragment()).then(|| {
        let ends = (SocketAddr::new(dst, m.dport), SocketAddr::new(src, m.sport));
        frame(LAN_MAC, proto, ends.0, ends.1, flags, payload)
    })
}

/// An ICMP error from `from` about `about`, a frame that was sent.
fn error_about(to_mac: Mac, from: IpAddr, about: &[u8]) -> Option<Vec<u8>> {
    let Ok(Parsed::Ip(m)) = parse(about, Link::Ethernet) else { return None };
    let quoted = &about[m.l3 as usize..(m.end as usize).min(m.l3 as usize + 128)];
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0xfe], to_mac.0);
    match (from, m.src(about)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => builder
            .ipv4(a.octets(), b.octets(), 60)
            .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Host,
            ))
            .write(&mut bytes, quoted)
            .unwrap(),
        (IpAddr::V6(a), IpAddr::V6(b)) => builder
            .ipv6(a.octets(), b.octets(), 60)
            .icmpv6(etherparse::Icmpv6Type::DestinationUnreachable(
                etherparse::icmpv6::DestUnreachableCode::Address,
            ))
            .write(&mut bytes, quoted)
            .unwrap(),
        _ => return None,
    }
    Some(bytes)
}

/// The fragments of a frame.
fn fragments(bytes: &[u8], id: u32) -> Vec<Vec<u8>> {
    let mut mem = vec![0u8; HEADROOM + bytes.len() + 64];
    let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
    pkt.fill(bytes);
    let m = testkit::meta(bytes, Link::Ethernet);
    let (mut out, mut pieces) = (Out::new(), Vec::new());
    let each = |_: &mut Out, p: crate::buf::OwnedPacket| pieces.push(p.bytes().to_vec());
    match m.family {
        Family::V4 => fragment4(&mut pkt, &m, 500, &mut out, each),
        Family::V6 => fragment6(&mut pkt, &m, 1280, id, &mut out, each),
    }
    .unwrap();
    pieces
}

const MODES: [Forward; 4] = [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tun(Tunnel::Ipip)];

/// Plays the same traffic to one engine and to several, of which any reads any packet.
fn play(workers: u16, forward: Forward, proto: Proto, v6: bool, seed: u64) {
    let n = net(v6);
    let options = EngineOptions {
        connection_limit: 1_000,
        seed,
        host: HostOptions { icmp_limit: None, announce: false, midnight_ms: 0 },
        ..EngineOptions::default()
    };
    let mut catalogs = [1, workers].map(|w| {
        let mut catalog =
            Catalog::new(Arc::new(NetPlan { forwarding: true, ..crate::engine::tests::plan() }))
                .with_workers(w);
        let key = ServiceKey::Address { proto, ip: n.vip, port: 80 };
        catalog.add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) }).unwrap();
        for rs in n.rs {
            catalog.add_dest(&key, crate::engine::tests::dest(rs, 8080, forward)).unwrap();
        }
        (catalog, key)
    });
    let mut bands = [0, 1].map(|i| Band::new([1, workers][i], options, &catalogs[i].0.commit()));
    let mut random = Random(seed);
    // what each band last sent to a real server and to a client, flow by flow
    let mut to_real: [Vec<Vec<u8>>; 2] = Default::default();
    let mut to_client: [Vec<Vec<u8>>; 2] = Default::default();
    let router: IpAddr = if v6 { "2001:db8:1::1" } else { "192.0.2.1" }.parse().unwrap();
    for step in 0..300u32 {
        let now = Mono::from_millis(u64::from(step) * 7);
        let pick = |random: &mut Random, from: &Vec<Vec<u8>>| (random.next() as usize) % from.len().max(1);
        let cport = 4000 + (random.next() % 60) as u16;
        let client = SocketAddr::new(n.client, cport);
        let vip = SocketAddr::new(n.vip, 80);
        let action = random.next() % 16;
        let at = pick(&mut random, &to_real[0]);
        let back = pick(&mut random, &to_client[0]);
        let mut frames: [Vec<(PortId, Vec<u8>)>; 2] = Default::default();
        for i in 0..2 {
            let both = |f: Vec<u8>| vec![(WAN, f)];
            let inside = |f: Option<Vec<u8>>| f.map(|f| (LAN, f)).into_iter().collect::<Vec<_>>();
            frames[i] = match action {
                0..=4 => both(frame(WAN_MAC, proto, client, vip, 2, b"")),
                5 | 6 => both(frame(WAN_MAC, proto, client, vip, 16, b"more")),
                7..=9 => inside(to_real[i].get(at).and_then(|f| answer(f, proto, 18, b"reply"))),
                10 => both(frame(WAN_MAC, proto, client, vip, 17, b"")),
                11 => to_client[i]
                    .get(back)
                    .and_then(|f| error_about(WAN_MAC, router, f))
                    .map(both)
                    .unwrap_or_default(),
                12 => inside(to_real[i].get(at).and_then(|f| error_about(LAN_MAC, n.rs[0], f))),
                13 => {
                    let whole = frame(WAN_MAC, proto, client, vip, 2, &[7; 1400]);
                    fragments(&whole, step).into_iter().map(|f| (WAN, f)).collect()
                }
                14 => both(frame(WAN_MAC, proto, client, SocketAddr::new(n.vip, 81), 2, b"")),
                // somebody else's, which is routed
                _ => vec![(LAN, frame(LAN_MAC, proto, SocketAddr::new(n.rs[1], 9), client, 16, b"own"))],
            };
        }
        if step % 100 == 60 {
            for (i, (catalog, key)) in catalogs.iter_mut().enumerate() {
                match step / 100 {
                    0 => catalog.remove_dest(key, n.rs[0], 8080).unwrap(),
                    1 => {
                        let back = crate::engine::tests::dest(n.rs[0], 8080, forward);
                        catalog.add_dest(key, back).unwrap();
                    }
                    _ => catalog.remove_service(key).unwrap(),
                }
                bands[i].on_snapshot(now, &catalog.commit());
            }
        }
        let mut outcomes: [Vec<String>; 2] = Default::default();
        for (i, band) in bands.iter_mut().enumerate() {
            for (port, f) in &frames[i] {
                let (verdict, sent) = band.give(now, *port, f);
                let verdict = match verdict {
                    Verdict::Drop(why) => why.name(),
                    _ => "used",
                };
                outcomes[i].push(verdict.to_owned());
                // each worker asks for a neighbour itself
                let asks = |f: &[u8]| match parse(f, Link::Ethernet) {
                    Ok(Parsed::Arp(_)) => true,
                    Ok(Parsed::Ip(m)) => is_neighbor_discovery(f, &m),
                    _ => false,
                };
                for sent in sent.into_iter().filter(|(_, f)| !asks(f)) {
                    outcomes[i].push(plain(&sent));
                    if sent.0 == LAN { &mut to_real[i] } else { &mut to_client[i] }.push(sent.1);
                }
            }
            if step % 40 == 39 {
                band.on_timeout(now);
            }
        }
        assert_eq!(outcomes[0], outcomes[1], "step {step}, action {action}");
    }
    let [one, many] = &bands;
    assert_eq!(one.counters(), many.counters());
    assert_eq!(one.drops(), many.drops());
    let sorted = |band: &Band| {
        let mut rows: Vec<_> =
            band.connections(Mono::ZERO).map(|r| (r.client, r.virt, r.dest, r.state)).collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(sorted(one), sorted(many));
    let read = |band: &Band| {
        let dests = band.snapshot().dests.iter().flatten();
        dests.map(|d| (d.active(), d.inactive(), d.stats.read())).collect::<Vec<_>>()
    };
    assert_eq!(read(one), read(many));
    let shares: Vec<_> = many.engines.iter().map(|e| e.counters().opened).collect();
    assert!(shares.iter().all(|n| *n > 0), "everybody has a share: {shares:?}");
    // after everything ended nothing is left of it
    let [_, many] = &mut bands;
    for minutes in 1..60 {
        many.on_timeout(Mono::from_millis(minutes * 60_000));
    }
    assert_eq!((many.connection_count(), many.crew.live(), many.crew.foreign()), (0, 0, 0));
}

#[test]
fn whoever_reads_a_packet_the_outcome_is_that_of_one_engine() {
    for forward in MODES {
        for proto in [Proto::Tcp, Proto::Udp] {
            for v6 in [false, true] {
                for (workers, seed) in [(2, 1), (5, 3)] {
                    play(workers, forward, proto, v6, seed);
                }
            }
        }
    }
}

#[test]
fn requests_and_replies_name_the_same_owner() {
    for workers in [2, 3, 7, MAX_WORKERS] {
        let crew = Crew::new(workers, 9);
        let mut steering = Steering::new(&crew);
        for forward in MODES {
            steering.learn(&catalog(forward, Proto::Tcp).commit());
        }
        let mut random = Random(4);
        let mut shares = vec![0; usize::from(workers)];
        for _ in 0..4000 {
            for v6 in [false, true] {
                let n = net(v6);
                let client = (n.client, random.next() as u16);
                let owner = steering.of_ends(&crew, Proto::Tcp, client, (n.vip, 80));
                assert_eq!(steering.of_ends(&crew, Proto::Tcp, (n.rs[0], 8080), client), owner);
                let ports = crew.ports(owner);
                for port in [*ports.start(), *ports.end()] {
                    let reply = steering.of_ends(&crew, Proto::Tcp, (n.rs[1], 8080), (n.dip, port));
                    assert_eq!(reply, owner);
                }
                shares[usize::from(owner.0)] += 1;
            }
        }
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 8000 / usize::from(workers) / 2, "{shares:?}");
    }
}

#[test]
fn local_ports_are_shared_out_without_gap_or_overlap() {
    for workers in 1..=MAX_WORKERS {
        let crew = Crew::new(workers, 1);
        let mut next = u32::from(*PORTS.start());
        for i in 0..workers {
            let ports = crew.ports(WorkerId(i));
            assert_eq!(u32::from(*ports.start()), next);
            assert_eq!(crew.owner_of_port(*ports.start()), WorkerId(i));
            assert_eq!(crew.owner_of_port(*ports.end()), WorkerId(i));
            next = u32::from(*ports.end()) + 1;
        }
        assert_eq!(next, u32::from(*PORTS.end()) + 1);
    }
}

#[test]
fn neighbours_are_known_to_all_and_one_worker_answers() {
    let mut plan = crate::engine::tests::plan();
    plan.ports.iter_mut().for_each(|p| p.neighbors.clear());
    let n = net(false);
    let mut catalog = Catalog::new(Arc::new(plan));
    let key = ServiceKey::Address { proto: Proto::Udp, ip: n.vip, port: 80 };
    catalog.add_service(ServiceSpec::new(key)).unwrap();
    catalog.add_dest(&key, crate::engine::tests::dest(n.rs[0], 8080, Forward::Nat)).unwrap();
    let options = EngineOptions { connection_limit: 1000, seed: 3, ..EngineOptions::default() };
    let mut band = Band::new(4, options, &catalog.commit());
    band.on_timeout(Mono::ZERO);
    let arp = |operation, sender: (Mac, &str), target: (Mac, &str), to: Mac| {
        crate::wire::arp::Arp {
            operation,
            sender_mac: sender.0,
            sender_ip: sender.1.parse().unwrap(),
            target_mac: target.0,
            target_ip: target.1.parse().unwrap(),
        }
        .frame(to)
        .to_vec()
    };
    use crate::wire::arp::Operation::{Reply, Request};
    let gateway = Mac([2, 0, 0, 0, 1, 0xfe]);
    for _ in 0..20 {
        let who_has = arp(Request, (gateway, "192.0.2.1"), (Mac::default(), "192.0.2.10"), Mac::BROADCAST);
        let (_, sent) = band.give(Mono::ZERO, WAN, &who_has);
        assert_eq!(sent.len(), 1, "one answer, whoever heard the question");
    }
    // every worker asks for the real server and all hear the first answer
    let mut parked = 0;
    for cport in 1..=40 {
        let f =
            frame(WAN_MAC, Proto::Udp, SocketAddr::new(n.client, cport), SocketAddr::new(n.vip, 80), 0, b"q");
        let (verdict, _) = band.give(Mono::ZERO, WAN, &f);
        assert_eq!(verdict, Verdict::Taken(Taken::Parked));
        parked += 1;
    }
    let is_at = arp(Reply, (Mac([2, 0, 0, 0, 2, 11]), "10.2.0.11"), (LAN_MAC, "10.2.0.1"), LAN_MAC);
    let (_, sent) = band.give(Mono::from_millis(1), LAN, &is_at);
    let lost: u64 = band.engines.iter().map(|e| e.host().drops.total()).sum();
    assert_eq!(sent.len() as u64 + lost, parked, "what was parked leaves, whoever kept it");
    assert_eq!(band.engines.iter().map(|e| e.host().counters.released).sum::<u64>(), sent.len() as u64);
    for engine in &band.engines {
        assert_eq!(engine.host().neighbors(Mono::from_millis(1)).filter(|n| n.mac.is_some()).count(), 2);
    }
    assert!(band.engines[1..].iter().all(|e| e.host().counters.answers == 0));
    assert_eq!(HOST, WorkerId(0));
}

#[test]
fn the_connection_limit_is_that_of_all_workers_together() {
    let n = net(false);
    let options = EngineOptions { connection_limit: 103, seed: 5, ..EngineOptions::default() };
    let mut band = Band::new(4, options, &catalog(Forward::Nat, Proto::Tcp).commit());
    for port in 0..200 {
        let syn = frame(
            WAN_MAC,
            Proto::Tcp,
            SocketAddr::new(n.client, 4000 + port),
            SocketAddr::new(n.vip, 80),
            2,
            b"",
        );
        let _ = band.give(Mono::ZERO, WAN, &syn);
    }
    // three in reserve for what the others may open in the same moment
    assert_eq!(band.connection_count(), 100);
    assert_eq!(band.drops(), [(DropReason::TableFull, 100)]);
}

#[test]
fn a_packet_the_owner_has_no_room_for_is_one_that_was_received_and_dropped() {
    let mut band = Band::new(2, EngineOptions::default(), &catalog(Forward::Nat, Proto::Tcp).commit());
    band.engines[0].handover_full(3);
    assert_eq!(band.engines[0].counters().received, 3);
    assert_eq!(band.drops(), [(DropReason::HandoverFull, 3)]);
    band.check().unwrap();
}

#[test]
fn connections_by_mark_are_found_by_their_replies_wherever_these_are_read() {
    let n = net(false);
    let mut plan = crate::engine::tests::plan();
    // by port alone: a reply to such a port looks like a request
    plan.marks = vec![MarkRule { mark: 7, to: None, ports: Some((4000, 9000)), proto: None }];
    let mut catalog = Catalog::new(Arc::new(plan));
    let key = ServiceKey::Mark { mark: 7, v6: false };
    catalog.add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) }).unwrap();
    catalog.add_dest(&key, crate::engine::tests::dest(n.rs[0], 8080, Forward::Nat)).unwrap();
    let mut band =
        Band::new(3, EngineOptions { connection_limit: 500, ..EngineOptions::default() }, &catalog.commit());
    for cport in 5000..5100 {
        let (client, virt) = (SocketAddr::new(n.client, cport), SocketAddr::new(n.vip, 8080));
        let (verdict, sent) = band.give(Mono::ZERO, WAN, &frame(WAN_MAC, Proto::Tcp, client, virt, 2, b""));
        assert_eq!(verdict, Verdict::Send(LAN));
        let reply = answer(&sent[0].1, Proto::Tcp, 18, b"").unwrap();
        let (verdict, sent) = band.give(Mono::ZERO, LAN, &reply);
        assert_eq!(verdict, Verdict::Send(WAN));
        let Ok(Parsed::Ip(m)) = parse(&sent[0].1, Link::Ethernet) else { panic!() };
        assert_eq!((m.src(&sent[0].1), m.dport), (n.vip, cport));
    }
    assert!(band.crew.foreign() > 30, "{}", band.crew.foreign());
}

#[test]
fn a_datagram_in_fragments_records_its_route_as_often_as_with_one_worker() {
    let n = net(false);
    let options = EngineOptions {
        connection_limit: 1_000,
        seed: 3,
        host: HostOptions { icmp_limit: None, announce: false, midnight_ms: 0 },
        ..EngineOptions::default()
    };
    let mut bands = [1, 4].map(|workers| {
        let mut catalog = Catalog::new(Arc::new(crate::engine::tests::plan())).with_workers(workers);
        let key = ServiceKey::Address { proto: Proto::Udp, ip: n.vip, port: 80 };
        catalog.add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) }).unwrap();
        catalog.add_dest(&key, crate::engine::tests::dest(n.rs[0], 8080, Forward::Nat)).unwrap();
        Band::new(workers, options, &catalog.commit())
    });
    for lport in 5000..5040u16 {
        let ends = (SocketAddr::new(n.client, lport), SocketAddr::new(n.vip, 80));
        let mut whole = frame(WAN_MAC, Proto::Udp, ends.0, ends.1, 0, &[7; 900]);
        // room for two addresses, and the end of the list
        whole.splice(34..34, [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        whole[14] = 0x48;
        let total = (whole.len() - 14) as u16;
        whole[16..18].copy_from_slice(&total.to_be_bytes());
        whole[18..20].copy_from_slice(&lport.to_be_bytes());
        whole[24..26].fill(0);
        let field = crate::wire::sum::checksum(&whole[14..46]);
        whole[24..26].copy_from_slice(&field.to_be_bytes());
        let pieces = fragments(&whole, 1);
        assert!(pieces.len() > 1);
        let sent = [0, 1].map(|i| {
            let give = |p: &Vec<u8>| bands[i].give(Mono::from_millis(u64::from(lport)), WAN, p).1;
            pieces.iter().flat_map(give).collect::<Vec<Sent>>()
        });
        let route = |s: &Sent| (s.1.len(), s.1[34..46].to_vec());
        let routes = sent.each_ref().map(|all| all.iter().map(route).collect::<Vec<_>>());
        assert_eq!(routes[0], routes[1], "client port {lport}");
        assert_eq!(routes[0][0].1[..3], [7, 11, 8], "once");
    }
}
