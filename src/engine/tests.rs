//! The engine on a little network: one client network, one server network, every mode, both families.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::*;
use crate::addr::{Cidr, Mac};
use crate::buf::Offload;
use crate::buf::PacketBuf;
use crate::host::plan::AddrRange;
use crate::host::{NetPlan, OffloadCaps, PortPlan};
use crate::svc::{
    Catalog, DestSpec, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec, Tunnel, TunnelCsum,
};
use crate::wire::{Parsed, be16, parse, sum};

pub(crate) const WAN: PortId = PortId(0);
pub(crate) const LAN: PortId = PortId(1);
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const GW_MAC: Mac = Mac([2, 0, 0, 0, 1, 0xfe]);

fn rs_mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 2, n])
}

/// Addresses of one family.
#[derive(Clone, Copy)]
pub(crate) struct Net {
    pub client: IpAddr,
    pub vip: IpAddr,
    pub dip: IpAddr,
    pub rs: [IpAddr; 2],
}

pub(crate) fn net(v6: bool) -> Net {
    let ip = |v4: &str, six: &str| if v6 { six.parse().unwrap() } else { v4.parse().unwrap() };
    Net {
        client: ip("198.51.100.5", "2001:db8:9::5"),
        vip: ip("192.0.2.10", "2001:db8:1::10"),
        dip: ip("10.2.0.1", "2001:db8:2::1"),
        rs: [ip("10.2.0.11", "2001:db8:2::11"), ip("10.2.0.12", "2001:db8:2::12")],
    }
}

pub(crate) fn plan() -> NetPlan {
    let caps = OffloadCaps { csum: true, tso: true, uso: true, tunnel: false };
    let port = |name: &str, mac, addresses: [&str; 2]| PortPlan {
        name: name.into(),
        link: Link::Ethernet,
        mac,
        mtu: 1500,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        gateway: None,
        gateway6: None,
        neighbors: Vec::new(),
        offload: caps,
    };
    let mut wan = port("wan", WAN_MAC, ["192.0.2.2/24", "2001:db8:1::2/64"]);
    wan.gateway = Some("192.0.2.1".parse().unwrap());
    wan.gateway6 = Some("2001:db8:1::1".parse().unwrap());
    wan.neighbors = vec![("192.0.2.1".parse().unwrap(), GW_MAC), ("2001:db8:1::1".parse().unwrap(), GW_MAC)];
    let mut lan = port("lan", LAN_MAC, ["10.2.0.1/24", "2001:db8:2::1/64"]);
    for v6 in [false, true] {
        for (i, rs) in net(v6).rs.iter().enumerate() {
            lan.neighbors.push((*rs, rs_mac(0x0b + i as u8)));
        }
    }
    NetPlan { ports: vec![wan, lan], ..NetPlan::default() }
}

pub(crate) fn dest(ip: IpAddr, port: u16, forward: Forward) -> DestSpec {
    DestSpec { name: String::new(), ip, port, weight: 1, forward, upper: 0, lower: 0 }
}

pub(crate) fn catalog(forward: Forward, proto: Proto) -> Catalog {
    catalog_on(plan(), forward, proto)
}

fn catalog_on(plan: NetPlan, forward: Forward, proto: Proto) -> Catalog {
    let mut catalog = Catalog::new(Arc::new(plan));
    for v6 in [false, true] {
        let n = net(v6);
        let key = ServiceKey::Address { proto, ip: n.vip, port: 80 };
        let spec = ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) };
        catalog.add_service(spec).unwrap();
        for rs in n.rs {
            catalog.add_dest(&key, dest(rs, 8080, forward)).unwrap();
        }
    }
    catalog
}

pub(crate) fn engine(forward: Forward, proto: Proto) -> Engine {
    let options = EngineOptions { connection_limit: 1000, seed: 7, ..EngineOptions::default() };
    Engine::new(Mono::ZERO, options, catalog(forward, proto).commit()).unwrap()
}

/// The engine's configuration with other weights, as `ipvsadm -e` would make it.
pub(crate) fn reweighted(engine: &Engine, v6: bool, weights: [u32; 2]) -> Arc<Snapshot> {
    let n = net(v6);
    let old = engine.snapshot();
    let service = old.services.iter().find(|s| s.spec.key.is_v6() == v6).unwrap();
    let mut snapshot = (**old).clone();
    let mut dests = service.dests.clone();
    for (dest, weight) in dests.iter_mut().zip(weights) {
        let dest = Arc::make_mut(dest);
        assert!(n.rs.contains(&dest.spec.ip));
        dest.spec.weight = weight;
    }
    for dest in &dests {
        snapshot.dests.set(dest.id.0 as usize, Some(dest.clone()));
    }
    let changed = Arc::new(crate::svc::Service { dests, ..(**service).clone() });
    for s in snapshot.services.iter_mut().filter(|s| s.id == changed.id) {
        *s = changed.clone();
    }
    snapshot.generation += 1;
    Arc::new(snapshot)
}

/// The engine's configuration with services changed, as `ipvsadm -E` would change them.
pub(crate) fn respecified(engine: &Engine, change: impl Fn(&mut ServiceSpec)) -> Arc<Snapshot> {
    let mut snapshot = (**engine.snapshot()).clone();
    for service in &mut snapshot.services {
        change(&mut Arc::make_mut(service).spec);
    }
    snapshot.generation += 1;
    Arc::new(snapshot)
}

/// An Ethernet frame with a TCP or UDP packet and a right checksum.
pub(crate) fn frame(
    to: Mac,
    proto: Proto,
    src: SocketAddr,
    dst: SocketAddr,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(GW_MAC.0, to.0);
    let builder = match (src.ip(), dst.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => builder.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => builder.ipv6(a.octets(), b.octets(), 64),
        _ => unreachable!(),
    };
    let mut bytes = Vec::new();
    match proto {
        Proto::Tcp => {
            let mut tcp = etherparse::TcpHeader::new(src.port(), dst.port(), 1000, 64000);
            (tcp.syn, tcp.ack, tcp.fin) = (flags & 2 != 0, flags & 16 != 0, flags & 1 != 0);
            tcp.rst = flags & 4 != 0;
            builder.tcp_header(tcp).write(&mut bytes, payload).unwrap();
        }
        _ => builder.udp(src.port(), dst.port()).write(&mut bytes, payload).unwrap(),
    }
    bytes
}

pub(crate) struct Sent {
    pub bytes: Vec<u8>,
}

impl Sent {
    fn meta(&self) -> Meta2 {
        let Ok(Parsed::Ip(m)) = parse(&self.bytes, Link::Ethernet) else { panic!("not IP") };
        (m.src(&self.bytes), m.sport, m.dst(&self.bytes), m.dport)
    }
    fn macs(&self) -> (Mac, Mac) {
        (Mac(self.bytes[..6].try_into().unwrap()), Mac(self.bytes[6..12].try_into().unwrap()))
    }
}

type Meta2 = (IpAddr, u16, IpAddr, u16);

/// Gives the engine a frame and returns everything it sends: what was explained before.
pub(crate) fn give(engine: &mut Engine, now: Mono, port: PortId, bytes: &[u8]) -> (Verdict, Vec<Sent>) {
    let told = engine.explain(now, port, bytes, Offload::NONE).unwrap();
    let (verdict, sent) = give_unexplained(engine, now, port, bytes);
    assert_eq!(told.verdict, verdict, "{:#?}", told.steps);
    let explained = told.output.iter().chain(&told.made).map(|(_, bytes)| bytes);
    assert!(sent.iter().map(|s| &s.bytes).eq(explained), "{:#?}", told.steps);
    (verdict, sent)
}

/// The same where the test is about something else and long.
pub(crate) fn give_unexplained(
    engine: &mut Engine,
    now: Mono,
    port: PortId,
    bytes: &[u8],
) -> (Verdict, Vec<Sent>) {
    let mut out = Out::new();
    let mut mem = vec![0u8; 4096];
    let mut pkt = PacketBuf::empty(&mut mem, crate::buf::HEADROOM);
    pkt.fill(bytes);
    pkt.offload = Offload::NONE;
    let verdict = engine.on_packet(now, port, &mut pkt, &mut out);
    let mut sent = Vec::new();
    if let Verdict::Send(_) = verdict {
        sent.push(Sent { bytes: pkt.bytes().to_vec() });
    }
    while let Some((_, p)) = out.pop() {
        sent.push(Sent { bytes: p.bytes().to_vec() });
    }
    engine.check().unwrap();
    (verdict, sent)
}

/// Panics unless the transport checksum is right.
pub(crate) fn sums_right(bytes: &[u8]) {
    let Ok(Parsed::Ip(m)) = parse(bytes, Link::Ethernet) else { panic!("not IP") };
    let (l4, end) = (&bytes[m.l4 as usize..m.end as usize], m.end as usize - m.l4 as usize);
    let pseudo = match (m.src(bytes), m.dst(bytes)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => sum::pseudo4(a.octets(), b.octets(), m.proto, end as u32),
        (IpAddr::V6(a), IpAddr::V6(b)) => sum::pseudo6(&a.octets(), &b.octets(), m.proto, end as u32),
        _ => unreachable!(),
    };
    assert_eq!(sum::fold(pseudo + sum::sum(l4)), 0xffff, "transport checksum");
}

fn s(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

#[test]
fn nat_rewrites_there_and_back_and_counts_states() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut e = engine(Forward::Nat, Proto::Tcp);
        let (v, sent) = give(
            &mut e,
            Mono::ZERO,
            WAN,
            &frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 2, b""),
        );
        assert_eq!(v, Verdict::Send(LAN));
        assert_eq!(
            sent[0].meta(),
            (n.client, 4000, n.rs[1], 8080),
            "the last server added is the first picked"
        );
        assert_eq!(sent[0].macs(), (rs_mac(0x0c), LAN_MAC));
        sums_right(&sent[0].bytes);
        let reply = frame(LAN_MAC, Proto::Tcp, s(n.rs[1], 8080), s(n.client, 4000), 18, b"");
        let (v, sent) = give(&mut e, Mono::from_millis(1), LAN, &reply);
        assert_eq!(v, Verdict::Send(WAN));
        assert_eq!(sent[0].meta(), (n.vip, 80, n.client, 4000));
        assert_eq!(sent[0].macs(), (GW_MAC, WAN_MAC));
        sums_right(&sent[0].bytes);
        let ack = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 16, b"hello");
        let _ = give(&mut e, Mono::from_millis(2), WAN, &ack);
        let row = e.connections(Mono::from_millis(2)).next().unwrap();
        assert_eq!((row.state, row.expires.as_secs()), ("ESTABLISHED", 900));
        e.on_timeout(Mono::from_millis(902_000), &mut Out::new());
        assert_eq!(e.connection_count(), 0);
        e.check().unwrap();
    }
}

#[test]
fn fullnat_hides_the_client_behind_a_local_address() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut e = engine(Forward::FullNat, Proto::Udp);
        let (v, sent) = give(
            &mut e,
            Mono::ZERO,
            WAN,
            &frame(WAN_MAC, Proto::Udp, s(n.client, 4000), s(n.vip, 80), 0, b"q"),
        );
        assert_eq!(v, Verdict::Send(LAN));
        let (src, lport, dst, dport) = sent[0].meta();
        assert_eq!((src, dst, dport), (n.dip, n.rs[1], 8080));
        sums_right(&sent[0].bytes);
        let (v, sent) = give(
            &mut e,
            Mono::ZERO,
            LAN,
            &frame(LAN_MAC, Proto::Udp, s(n.rs[1], 8080), s(n.dip, lport), 0, b"answer"),
        );
        assert_eq!(v, Verdict::Send(WAN));
        assert_eq!(sent[0].meta(), (n.vip, 80, n.client, 4000));
        sums_right(&sent[0].bytes);
    }
}

#[test]
fn fullnat_takes_local_addresses_that_the_real_servers_network_has() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut plan = plan();
        // one wire with two networks on it, and a second address in that of the real servers
        let (second, other) =
            if v6 { ("2001:db8:2::3", "2001:db8:77::1") } else { ("10.2.0.3", "172.16.0.1") };
        let (host, prefix) = if v6 { (128, 64) } else { (32, 24) };
        let addresses = [format!("{other}/{prefix}"), format!("{second}/{host}")];
        plan.ports[1].addresses.extend(addresses.iter().map(|a| a.parse::<Cidr>().unwrap()));
        let sources = |plan: &NetPlan| {
            let options = EngineOptions { connection_limit: 1000, seed: 7, ..EngineOptions::default() };
            let snapshot = catalog_on(plan.clone(), Forward::FullNat, Proto::Tcp).commit();
            let mut e = Engine::new(Mono::ZERO, options, snapshot).unwrap();
            let source = |lport| {
                let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, lport), s(n.vip, 80), 2, b"");
                let (v, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
                assert_eq!(v, Verdict::Send(LAN));
                sent[0].meta().0
            };
            (4000..4600).map(source).collect::<std::collections::BTreeSet<IpAddr>>()
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(sources(&plan), [n.dip, ip(second)].into());
        // what is named is taken
        plan.local_addresses = vec![AddrRange { first: ip(other), last: ip(other) }];
        assert_eq!(sources(&plan), [ip(other)].into());
    }
}

#[test]
fn dr_changes_the_macs_and_the_ttl_only() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut e = engine(Forward::Dr, Proto::Tcp);
        let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 2, b"");
        let (v, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
        assert_eq!(v, Verdict::Send(LAN));
        assert_eq!(sent[0].macs(), (rs_mac(0x0c), LAN_MAC));
        let changed: Vec<usize> = (12..syn.len()).filter(|i| syn[*i] != sent[0].bytes[*i]).collect();
        assert!(changed.iter().all(|i| if v6 { *i == 21 } else { [22, 24, 25].contains(i) }), "{changed:?}");
        sums_right(&sent[0].bytes);
    }
}

#[test]
fn tunnels_wrap_the_packet_between_dip_and_rip() {
    let kinds = [
        (Tunnel::Ipip, 0),
        (Tunnel::Gre { csum: TunnelCsum::None }, 4),
        (Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum }, 12),
    ];
    for (kind, header) in kinds {
        for v6 in [false, true] {
            let n = net(v6);
            let mut e = engine(Forward::Tun(kind), Proto::Tcp);
            let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 2, b"");
            let (v, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
            assert_eq!(v, Verdict::Send(LAN));
            let (src, _, dst, _) = sent[0].meta();
            assert_eq!((src, dst), (n.dip, n.rs[1]));
            let outer = 14 + if v6 { 40 } else { 20 } + header;
            let inner = &sent[0].bytes[outer..];
            let Ok(Parsed::Ip(m)) = parse(inner, Link::Ip) else { panic!("no packet inside") };
            assert_eq!((m.src(inner), m.dst(inner), m.dport, m.ttl), (n.client, n.vip, 80, 63));
        }
    }
}

#[test]
fn one_client_port_to_two_services_on_one_server_never_shares_a_reply_tuple() {
    let n = net(false);
    let mut catalog = catalog(Forward::Nat, Proto::Tcp);
    let second = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 81 };
    catalog.add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(second) }).unwrap();
    for rs in n.rs {
        catalog.add_dest(&second, dest(rs, 8080, Forward::Nat)).unwrap();
    }
    let mut e = Engine::new(Mono::ZERO, EngineOptions::default(), catalog.commit()).unwrap();
    let mut seen = Vec::new();
    for vport in [80, 81] {
        let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, vport), 2, b"");
        let (_, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
        seen.push(sent[0].meta().2);
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn what_no_service_takes_is_answered_as_a_host_would() {
    let n = net(false);
    let mut e = engine(Forward::Nat, Proto::Tcp);
    let (v, sent) =
        give(&mut e, Mono::ZERO, WAN, &frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 81), 2, b""));
    assert_eq!(v, Verdict::Taken(Taken::Local));
    assert_eq!(sent[0].meta(), (n.vip, 81, n.client, 4000));
    assert_eq!(sent[0].bytes[14 + 20 + 13], 0x14, "RST and ACK");
    let (_, sent) =
        give(&mut e, Mono::ZERO, WAN, &frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 16, b""));
    assert_eq!(sent[0].bytes[14 + 20 + 13], 0x04, "RST alone for an ACK of nothing");
    let (v, _) = give(
        &mut e,
        Mono::ZERO,
        WAN,
        &frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.client, 80), 2, b""),
    );
    assert_eq!(v, Verdict::Drop(DropReason::NotOurs));
    let (v, _) = give(
        &mut e,
        Mono::ZERO,
        WAN,
        &frame(Mac([2, 9, 9, 9, 9, 9]), Proto::Tcp, s(n.client, 1), s(n.vip, 80), 2, b""),
    );
    assert_eq!(v, Verdict::Drop(DropReason::OtherStation));
}

#[test]
fn too_big_for_the_tunnel_is_told_with_the_mtu_that_fits() {
    let n = net(false);
    let mut e = engine(Forward::Tun(Tunnel::Ipip), Proto::Tcp);
    let _ =
        give(&mut e, Mono::ZERO, WAN, &frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 2, b""));
    let mut big = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000), s(n.vip, 80), 16, &[7; 1441]);
    big[20] |= 0x40;
    big[24..26].fill(0);
    let check = sum::checksum(&big[14..34]);
    big[24..26].copy_from_slice(&check.to_be_bytes());
    let (v, sent) = give(&mut e, Mono::ZERO, WAN, &big);
    assert_eq!(v, Verdict::Drop(DropReason::TooBig));
    assert_eq!(sent[0].bytes[34..36], [3, 4]);
    assert_eq!(be16(&sent[0].bytes, 40), 1480);
    assert_eq!((sent[0].meta().0, sent[0].meta().2), (n.vip, n.client));
}

#[test]
fn the_connection_limit_is_exact_and_counted() {
    let n = net(false);
    let options = EngineOptions { connection_limit: 3, ..EngineOptions::default() };
    let mut e = Engine::new(Mono::ZERO, options, catalog(Forward::Nat, Proto::Tcp).commit()).unwrap();
    let mut verdicts = Vec::new();
    for port in 0..5 {
        let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, 4000 + port), s(n.vip, 80), 2, b"");
        verdicts.push(give(&mut e, Mono::ZERO, WAN, &syn).0);
    }
    assert_eq!(verdicts[3..], [Verdict::Drop(DropReason::TableFull); 2]);
    assert_eq!(e.drops().of(DropReason::TableFull), 2);
}

#[test]
fn drop_entry_ends_half_open_connections_a_thirty_second_of_the_table_per_second() {
    let n = net(false);
    let mut catalog = catalog(Forward::Dr, Proto::Tcp);
    catalog.sysctl.set("drop_entry", 3).unwrap();
    let options = EngineOptions { connection_limit: 1000, seed: 7, ..EngineOptions::default() };
    let mut e = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
    for port in 1..=640 {
        let syn = frame(WAN_MAC, Proto::Tcp, s(n.client, port), s(n.vip, 80), 2, b"");
        let _ = give(&mut e, Mono::ZERO, WAN, &syn);
    }
    let mut out = Out::new();
    let mut now = Mono::ZERO;
    while now < Mono::from_millis(10_000) {
        now = e.poll_timeout().unwrap();
        e.on_timeout(now, &mut out);
    }
    // 200 looks at 640 slots: some find a slot that is free already
    let left = e.connection_count();
    assert!((430..=480).contains(&left), "{left}");
    e.check().unwrap();
}

#[test]
fn mss_clamp_lowers_the_mss_of_syns_into_a_tunnel_and_of_nothing_else() {
    let n = net(false);
    let mss_of = |clamp: bool, mss: u16| {
        let mut catalog = catalog(Forward::Tun(Tunnel::Ipip), Proto::Tcp);
        let spec = ServiceSpec {
            mss_clamp: clamp,
            ..catalog.services().iter().find(|s| !s.spec.key.is_v6()).unwrap().spec.clone()
        };
        catalog.retouch_service(spec).unwrap();
        let options = EngineOptions { connection_limit: 1000, seed: 7, ..EngineOptions::default() };
        let mut e = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
        let (IpAddr::V4(client), IpAddr::V4(vip)) = (n.client, n.vip) else { unreachable!() };
        let mut syn = Vec::new();
        etherparse::PacketBuilder::ethernet2(GW_MAC.0, WAN_MAC.0)
            .ipv4(client.octets(), vip.octets(), 64)
            .tcp(4000, 80, 1, 1000)
            .syn()
            .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(mss)])
            .unwrap()
            .write(&mut syn, &[])
            .unwrap();
        let (_, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
        let inner = [&sent[0].bytes[..14], &sent[0].bytes[34..]].concat();
        sums_right(&inner);
        be16(&inner, 14 + 20 + 22)
    };
    // 1,500 less two IPv4 headers and one of TCP
    assert_eq!(mss_of(true, 1460), 1440);
    assert_eq!(mss_of(true, 1300), 1300);
    assert_eq!(mss_of(false, 1460), 1460);
}

#[test]
fn local_tuples_in_use_and_left_are_told() {
    let (mut e, n) = (engine(Forward::FullNat, Proto::Tcp), net(false));
    assert_eq!(e.local_tuples(), (0, 0), "towards nobody yet");
    let syn = frame(WAN_MAC, Proto::Tcp, SocketAddr::new(n.client, 4000), SocketAddr::new(n.vip, 80), 2, b"");
    assert_eq!(give(&mut e, Mono::ZERO, WAN, &syn).0, Verdict::Send(LAN));
    let (used, free) = e.local_tuples();
    assert_eq!(used, 1);
    // one address, as many ports as the pool has
    assert!((50_000..65_536).contains(&free), "{free}");
}

#[test]
fn where_every_local_port_is_taken_finished_connections_make_way_and_others_do_not() {
    const ALL: u32 = 64_512;
    let options = EngineOptions { connection_limit: 100_000, seed: 7, ..EngineOptions::default() };
    let mut e = Engine::new(Mono::ZERO, options, catalog(Forward::FullNat, Proto::Tcp).commit()).unwrap();
    let snapshot = reweighted(&e, false, [1, 0]);
    e.on_snapshot(Mono::ZERO, snapshot);
    let (mut out, mut mem) = (Out::new(), vec![0u8; 4096]);
    // without the checks of `give`, which would look at all of them each time
    let packet = |flow: u32, flags| {
        let client = SocketAddr::new(Ipv4Addr::from(0x0b00_0000 + flow).into(), 4000);
        frame(WAN_MAC, Proto::Tcp, client, SocketAddr::new(net(false).vip, 80), flags, &[])
    };
    let now = Mono::from_millis(5);
    let mut gives = |e: &mut Engine, flow: u32, flags| {
        let mut pkt = PacketBuf::empty(&mut mem, crate::buf::HEADROOM);
        pkt.fill(&packet(flow, flags));
        e.on_packet(now, WAN, &mut pkt, &mut out)
    };
    let [syn, rst, ack] = [2, 4, 16];
    assert!((0..ALL).all(|flow| gives(&mut e, flow, syn) == Verdict::Send(LAN)));
    let exhausted = Verdict::Drop(DropReason::LocalPortsExhausted);
    assert_eq!(gives(&mut e, ALL, syn), exhausted, "all are half open");
    let next = crate::nat::pool::OLDEST as u32;
    let finished = [next, next + 1, 30_000, 30_001];
    for flow in finished {
        assert_eq!([ack, rst].map(|flags| gives(&mut e, flow, flags)), [Verdict::Send(LAN); 2]);
    }
    assert_eq!(give(&mut e, now, WAN, &packet(ALL, syn)).0, Verdict::Send(LAN), "and so it is explained");
    let tries = 2 * ALL / next;
    let opened = (1..=tries).filter(|n| gives(&mut e, ALL + n, syn) == Verdict::Send(LAN)).count();
    assert_eq!(1 + opened, finished.len(), "as many as were finished");
    assert_eq!(gives(&mut e, 2 * ALL, syn), exhausted);
    assert_eq!((e.counters().reclaimed, e.connection_count()), (4, ALL as usize));
    e.check().unwrap();
}
