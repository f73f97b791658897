//! A client and its server, seen from outside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::super::tests::{LAN, WAN, catalog, dest, frame, give, net};
use super::super::*;
use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::host::MarkRule;
use crate::svc::{
    Catalog, Forward, Persistence, PersistenceEngine, Proto, SchedulerKind, ServiceKey, ServiceSpec,
};
use crate::time::Span;

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The usual two services made persistent, and what else `change` does to them.
fn persistent(forward: Forward, proto: Proto, change: impl Fn(&mut ServiceSpec)) -> Catalog {
    let mut catalog = catalog(forward, proto);
    for v6 in [false, true] {
        let key = ServiceKey::Address { proto, ip: net(v6).vip, port: 80 };
        let mut spec = catalog.service(&key).unwrap().spec.clone();
        spec.persistence =
            Some(Persistence { timeout: Span::from_secs(300), netmask: if v6 { 128 } else { 32 } });
        change(&mut spec);
        catalog.edit_service(spec).unwrap();
    }
    catalog
}

fn engine_of(catalog: &mut Catalog, limit: u32) -> Engine {
    let options = EngineOptions { connection_limit: limit, seed: 7, ..EngineOptions::default() };
    Engine::new(Mono::ZERO, options, catalog.commit()).unwrap()
}

fn nth(base: IpAddr, n: u8) -> IpAddr {
    match base {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + u32::from(n)).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(n)).into()),
    }
}

/// A client's packet; where its connection goes, or why nowhere.
fn send(
    e: &mut Engine,
    at: Mono,
    proto: Proto,
    from: (IpAddr, u16),
    to: SocketAddr,
    flags: u8,
    payload: &[u8],
) -> Result<SocketAddr, Verdict> {
    let client = SocketAddr::new(from.0, from.1);
    match give(e, at, WAN, &frame(WAN_MAC, proto, client, to, flags, payload)) {
        (Verdict::Send(LAN), _) => {
            Ok(e.connections(at).find(|r| r.client == client && r.virt == to).expect("a connection").dest)
        }
        (other, _) => Err(other),
    }
}

fn syn(e: &mut Engine, at: Mono, from: (IpAddr, u16), to: SocketAddr) -> Result<SocketAddr, Verdict> {
    send(e, at, Proto::Tcp, from, to, SYN, b"")
}

fn at(secs: u64) -> Mono {
    Mono::from_millis(secs * 1000)
}

fn wait(e: &mut Engine, secs: u64) {
    e.on_timeout(at(secs), &mut Out::new());
    e.check().unwrap();
}

#[test]
fn a_client_keeps_its_server_and_others_get_their_own() {
    for v6 in [false, true] {
        let n = net(v6);
        let vip = SocketAddr::new(n.vip, 80);
        let mut e = engine_of(&mut persistent(Forward::Nat, Proto::Tcp, |_| ()), 100);
        let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
        for port in 4001..4005 {
            assert_eq!(syn(&mut e, at(1), (n.client, port), vip), Ok(first));
        }
        let other = syn(&mut e, at(1), (nth(n.client, 1), 4000), vip).unwrap();
        assert_ne!(other, first);
        assert_eq!(e.connection_count(), 6, "templates are no connections");
        let rows: Vec<_> = e.templates(at(1)).collect();
        assert_eq!((rows.len(), rows[0].client.port(), rows[0].dest, rows[0].state), (2, 0, first, "NONE"));
        let held: Vec<_> = e.snapshot().dests.iter().flatten().map(|d| d.persistent()).collect();
        assert_eq!(held.iter().sum::<u32>(), 2);
    }
}

#[test]
fn the_netmask_puts_clients_together() {
    let mask = |spec: &mut ServiceSpec| {
        let netmask = if spec.key.is_v6() { 64 } else { 24 };
        spec.persistence = Some(Persistence { timeout: Span::from_secs(300), netmask });
    };
    for v6 in [false, true] {
        let n = net(v6);
        let vip = SocketAddr::new(n.vip, 80);
        let mut e = engine_of(&mut persistent(Forward::Dr, Proto::Tcp, mask), 100);
        let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
        assert_eq!(syn(&mut e, at(0), (nth(n.client, 200), 4000), vip), Ok(first));
        assert_eq!(e.templates(at(0)).count(), 1);
        let network: IpAddr = if v6 { "2001:db8:9::" } else { "198.51.100.0" }.parse().unwrap();
        assert_eq!(e.templates(at(0)).next().unwrap().client, SocketAddr::new(network, 0));
    }
}

/// One of several engines that share their servers' counts, which no single one can account for.
fn at_worker(e: &mut Engine, at: Mono, from: (IpAddr, u16), to: SocketAddr) -> Option<SocketAddr> {
    let client = SocketAddr::new(from.0, from.1);
    let mut mem = vec![0u8; 4096];
    let mut pkt = PacketBuf::empty(&mut mem, crate::buf::HEADROOM);
    pkt.fill(&frame(WAN_MAC, Proto::Tcp, client, to, SYN, b""));
    let verdict = e.on_packet(at, WAN, &mut pkt, &mut Out::new());
    let row = e.connections(at).find(|r| r.client == client && r.virt == to);
    row.filter(|_| verdict == Verdict::Send(LAN)).map(|r| r.dest)
}

#[test]
fn workers_agree_on_a_clients_server() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut catalog = persistent(Forward::Nat, Proto::Tcp, |_| ());
    let (mut one, mut two) = (engine_of(&mut catalog, 100), engine_of(&mut catalog, 100));
    let first = at_worker(&mut one, at(0), (n.client, 4000), vip);
    assert!(first.is_some());
    assert_eq!(at_worker(&mut two, at(0), (n.client, 4001), vip), first);
    assert_eq!(one.templates(at(0)).count(), 1);
    // the first worker's time passes, the other one's connection still holds the template
    let pass = |e: &mut Engine, secs| e.on_timeout(at(secs), &mut Out::new());
    for secs in [100, 310, 320] {
        pass(&mut one, secs);
    }
    assert_eq!(one.templates(at(320)).count(), 1);
    pass(&mut two, 320);
    pass(&mut two, 400);
    assert_eq!(two.templates(at(400)).count(), 0);
}

#[test]
fn the_template_outlives_its_connections_and_then_the_client_is_free() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut catalog = persistent(Forward::Dr, Proto::Tcp, |_| ());
    let mut e = engine_of(&mut catalog, 100);
    let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
    wait(&mut e, 200);
    assert_eq!((e.connection_count(), e.templates(at(200)).count()), (0, 1));
    // a server with templates is not forgotten: it may come back (`dest_trash`)
    let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 80 };
    let id = catalog.service(&key).unwrap().dests.iter().find(|d| d.spec.ip == first.ip()).unwrap().id;
    catalog.now = at(201);
    catalog.remove_dest(&key, first.ip(), first.port()).unwrap();
    e.on_snapshot(at(201), catalog.commit());
    assert!(e.snapshot().dest(id).is_some_and(|d| !d.available));
    wait(&mut e, 400);
    assert_eq!(e.templates(at(400)).count(), 0);
    // then it is remembered for a while: looked at every 61.44 s, found idle at 385, forgotten at 507.9
    for (now, known) in [(401, true), (507, true), (508, false)] {
        catalog.now = at(now);
        e.on_snapshot(at(now), catalog.commit());
        assert_eq!(e.snapshot().dest(id).is_some(), known, "{now}");
    }
}

#[test]
fn a_removed_servers_template_is_retired_and_with_expire_nodest_conn_ended() {
    for nodest in [false, true] {
        let n = net(false);
        let vip = SocketAddr::new(n.vip, 80);
        let mut catalog = persistent(Forward::Dr, Proto::Tcp, |_| ());
        catalog.sysctl.expire_nodest_conn = nodest;
        let mut e = engine_of(&mut catalog, 100);
        let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
        let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 80 };
        catalog.remove_dest(&key, first.ip(), first.port()).unwrap();
        e.on_snapshot(at(1), catalog.commit());
        assert_eq!(e.templates(at(1)).count(), usize::from(!nodest));
        let second = syn(&mut e, at(1), (n.client, 4001), vip).unwrap();
        assert_ne!(second, first);
        let rows: Vec<_> = e.templates(at(1)).collect();
        assert_eq!(rows.len(), 2 - usize::from(nodest));
        if !nodest {
            assert_eq!((rows[0].virt.port(), rows[0].dest.port()), (65535, 65535));
        }
    }
}

#[test]
fn a_full_or_quiet_server_keeps_its_clients_unless_told_otherwise() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 80 };
    for expire_quiescent in [false, true] {
        let mut catalog = persistent(Forward::Dr, Proto::Tcp, |_| ());
        catalog.sysctl.expire_quiescent_template = expire_quiescent;
        let mut e = engine_of(&mut catalog, 100);
        let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
        let mut full = dest(first.ip(), 80, Forward::Dr);
        full.upper = 1;
        catalog.edit_dest(&key, full).unwrap();
        e.on_snapshot(at(0), catalog.commit());
        assert_eq!(syn(&mut e, at(0), (n.client, 4001), vip), Ok(first), "overloaded");
        let mut quiet = dest(first.ip(), 80, Forward::Dr);
        quiet.weight = 0;
        catalog.edit_dest(&key, quiet).unwrap();
        e.on_snapshot(at(0), catalog.commit());
        assert_eq!(syn(&mut e, at(0), (n.client, 4002), vip) == Ok(first), !expire_quiescent);
    }
}

#[test]
fn established_connections_assure_their_template() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let state = |e: &Engine| e.templates(at(0)).next().unwrap().state;
    let mut e = engine_of(&mut persistent(Forward::Dr, Proto::Tcp, |_| ()), 100);
    syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
    assert_eq!(state(&e), "NONE");
    send(&mut e, at(0), Proto::Tcp, (n.client, 4000), vip, ACK, b"").unwrap();
    assert_eq!(state(&e), "ASSURED");
    // UDP is assured by an answer
    let mut e = engine_of(&mut persistent(Forward::Nat, Proto::Udp, |_| ()), 100);
    let server = send(&mut e, at(0), Proto::Udp, (n.client, 4000), vip, 0, b"x").unwrap();
    assert_eq!(state(&e), "NONE");
    let client = SocketAddr::new(n.client, 4000);
    let (verdict, _) = give(&mut e, at(0), LAN, &frame(LAN_MAC, Proto::Udp, server, client, 0, b"y"));
    assert_eq!((verdict, state(&e)), (Verdict::Send(WAN), "ASSURED"));
}

#[test]
fn templates_and_connections_have_one_limit() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut e = engine_of(&mut persistent(Forward::Dr, Proto::Tcp, |_| ()), 3);
    assert!(syn(&mut e, at(0), (n.client, 4000), vip).is_ok());
    assert!(syn(&mut e, at(0), (n.client, 4001), vip).is_ok());
    let full = Err(Verdict::Drop(DropReason::TableFull));
    assert_eq!(syn(&mut e, at(0), (n.client, 4002), vip), full);
    assert_eq!(syn(&mut e, at(0), (nth(n.client, 1), 4000), vip), full);
    assert_eq!(e.templates(at(0)).count(), 1);
}

#[test]
fn one_packet_services_have_templates_and_no_connections() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut e = engine_of(&mut persistent(Forward::Dr, Proto::Udp, |s| s.one_packet = true), 100);
    for port in 4000..4004 {
        let f = frame(WAN_MAC, Proto::Udp, SocketAddr::new(n.client, port), vip, 0, b"x");
        let (verdict, sent) = give(&mut e, at(0), WAN, &f);
        assert_eq!((verdict, sent[0].bytes[5]), (Verdict::Send(LAN), 0x0c), "always the first pick");
    }
    assert_eq!((e.connection_count(), e.templates(at(0)).count()), (0, 1));
    wait(&mut e, 400);
    assert_eq!(e.templates(at(400)).count(), 0);
}

/// All of TCP to the VIP by mark 7, NAT to a server with a port and one without.
fn by_mark(v6: bool, change: impl Fn(&mut ServiceSpec)) -> Engine {
    let n = net(v6);
    let mut plan = super::super::tests::plan();
    let to = Some(crate::addr::Cidr::host(n.vip));
    plan.marks = vec![MarkRule { mark: 7, to, ports: None, proto: None }];
    let mut catalog = Catalog::new(Arc::new(plan));
    let key = ServiceKey::Mark { mark: 7, v6 };
    let mut spec = ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) };
    let netmask = if v6 { 128 } else { 32 };
    spec.persistence = Some(Persistence { timeout: Span::from_secs(300), netmask });
    change(&mut spec);
    catalog.add_service(spec).unwrap();
    for (rs, port) in n.rs.into_iter().zip([0, 8080]) {
        catalog.add_dest(&key, dest(rs, port, Forward::Nat)).unwrap();
    }
    engine_of(&mut catalog, 100)
}

#[test]
fn services_by_mark_tie_a_client_on_all_ports_and_protocols_and_keep_the_port() {
    for v6 in [false, true] {
        let n = net(v6);
        let mut e = by_mark(v6, |_| ());
        let to = |port| SocketAddr::new(n.vip, port);
        let first = syn(&mut e, at(0), (n.client, 4000), to(80)).unwrap();
        let second = syn(&mut e, at(0), (n.client, 4001), to(443)).unwrap();
        let third = send(&mut e, at(0), Proto::Udp, (n.client, 4002), to(53), 0, b"x").unwrap();
        assert_eq!((first.ip(), first.ip()), (second.ip(), third.ip()));
        assert_eq!([first.port(), second.port(), third.port()], [80, 443, 53]);
        let row = e.templates(at(0)).next().unwrap();
        let mark: SocketAddr = if v6 { "[0:7::]:0" } else { "0.0.0.7:0" }.parse().unwrap();
        assert_eq!((row.proto, row.virt, row.dest.port()), (0, mark, 0));
        assert_eq!(e.templates(at(0)).count(), 1);
    }
}

#[test]
fn the_call_id_tells_calls_apart_and_what_has_none_is_dropped() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut e =
        engine_of(&mut persistent(Forward::Dr, Proto::Udp, |s| s.engine = Some(PersistenceEngine::Sip)), 100);
    let call = |e: &mut Engine, client: u8, port: u16, id: &str| {
        let message = format!("INVITE sip:x SIP/2.0\r\nCall-ID: {id}\r\n\r\n");
        send(e, at(0), Proto::Udp, (nth(n.client, client), port), vip, 0, message.as_bytes())
    };
    let first = call(&mut e, 0, 4000, "a@1").unwrap();
    let second = call(&mut e, 0, 4001, "b@1").unwrap();
    assert_ne!(first, second);
    assert_eq!(call(&mut e, 0, 4002, "a@1"), Ok(first));
    assert_eq!(call(&mut e, 0, 4003, "b@1"), Ok(second));
    // the client's address belongs to the key as well (5-pers-sip)
    call(&mut e, 1, 4000, "a@1").unwrap();
    assert_eq!(e.templates(at(0)).count(), 3);
    let pe = e.templates(at(0)).next().unwrap().pe;
    assert_eq!(pe, Some(("sip", "a@1".to_string())));
    let dropped = Err(Verdict::Drop(DropReason::PersistenceData));
    assert_eq!(send(&mut e, at(0), Proto::Udp, (n.client, 5000), vip, 0, b"hello"), dropped);
    assert_eq!(send(&mut e, at(0), Proto::Udp, (n.client, 5000), vip, 0, b""), dropped);
    // once a connection is there its packets are not looked into
    assert_eq!(send(&mut e, at(0), Proto::Udp, (n.client, 4000), vip, 0, b"hello"), Ok(first));
    let mut tcp = by_mark(false, |s| s.engine = Some(PersistenceEngine::Sip));
    assert_eq!(syn(&mut tcp, at(0), (n.client, 4000), vip), dropped);
}

#[test]
fn a_request_of_a_server_that_finds_no_room_holds_no_template() {
    let n = net(false);
    let client = SocketAddr::new(n.client, 5060);
    let sip = |s: &mut ServiceSpec| s.engine = Some(PersistenceEngine::Sip);
    let mut e = engine_of(&mut persistent(Forward::Nat, Proto::Udp, sip), 2);
    let servers: Vec<SocketAddr> =
        e.snap.services[0].dests.iter().map(|d| SocketAddr::new(d.spec.ip, d.spec.port)).collect();
    for server in [servers[0], servers[1]] {
        let invite = b"INVITE sip:x SIP/2.0\r\nCall-ID: a@1\r\n\r\n";
        let (verdict, _) = give(&mut e, at(0), LAN, &frame(LAN_MAC, Proto::Udp, server, client, 0, invite));
        assert_eq!(verdict == Verdict::Send(WAN), server == servers[0], "{verdict:?}");
    }
    assert_eq!((e.connections(at(0)).count(), e.templates(at(0)).count()), (1, 1));
    assert_eq!(e.templates(at(0)).next().unwrap().dest, servers[0], "the first one's stays");
    for secs in [600, 700, 800] {
        wait(&mut e, secs);
    }
    assert_eq!((e.connections(at(800)).count(), e.templates(at(800)).count()), (0, 0));
}

#[test]
fn ftp_data_connections_follow_their_control_connection() {
    let n = net(false);
    for persistence in [None, Some(Persistence { timeout: Span::from_secs(300), netmask: 32 })] {
        let mut catalog = Catalog::new(Arc::new(super::super::tests::plan()));
        let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 21 };
        let spec = ServiceSpec { scheduler: SchedulerKind::Rr, persistence, ..ServiceSpec::new(key) };
        catalog.add_service(spec).unwrap();
        for rs in n.rs {
            catalog.add_dest(&key, dest(rs, 21, Forward::Dr)).unwrap();
        }
        let mut e = engine_of(&mut catalog, 100);
        let to = |port| SocketAddr::new(n.vip, port);
        let control = syn(&mut e, at(0), (n.client, 4000), to(21)).unwrap();
        let passive = syn(&mut e, at(0), (n.client, 4001), to(50_000));
        match persistence {
            Some(_) => {
                assert_eq!(passive, Ok(SocketAddr::new(control.ip(), 50_000)));
                assert_eq!(e.templates(at(0)).next().unwrap().virt, to(0));
            }
            // what is not the FTP service's is the director's own
            None => assert_eq!(passive, Err(Verdict::Taken(Taken::Local))),
        }
        let other = syn(&mut e, at(0), (n.client, 4002), to(80));
        assert_eq!(other, Err(Verdict::Taken(Taken::Local)), "port 80 is no data connection's");
    }
}

#[test]
fn a_port_that_is_used_again_stays_with_the_clients_server() {
    let n = net(false);
    let vip = SocketAddr::new(n.vip, 80);
    let mut e = engine_of(&mut persistent(Forward::Dr, Proto::Tcp, |_| ()), 100);
    let first = syn(&mut e, at(0), (n.client, 4000), vip).unwrap();
    send(&mut e, at(0), Proto::Tcp, (n.client, 4000), vip, 4, b"").unwrap();
    assert_eq!(syn(&mut e, at(1), (n.client, 4000), vip), Ok(first));
    let template = e.snapshot().templates.list().remove(0);
    assert_eq!((e.connection_count(), template.controlled()), (1, 1));
}
