//! What health does to the packet path: dead servers, drains at their end, servers on their way back.

use std::net::SocketAddr;

use super::cut::Cut;
use super::tests::{Net, Sent, catalog, dest, frame, give, net, plan, sums_right};
use super::*;
use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::svc::{Catalog, DestId, Ending, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec, WHOLE};
use crate::wire::{Parsed, be32, parse, tcp};

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

fn key(n: &Net, proto: Proto) -> ServiceKey {
    ServiceKey::Address { proto, ip: n.vip, port: 80 }
}

fn start(catalog: &mut Catalog) -> Engine {
    let options = EngineOptions { connection_limit: 10_000, seed: 7, ..EngineOptions::default() };
    Engine::new(Mono::ZERO, options, catalog.commit()).unwrap()
}

fn from_client(n: &Net, proto: Proto, port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(WAN_MAC, proto, SocketAddr::new(n.client, port), SocketAddr::new(n.vip, 80), flags, payload)
}

/// Where a packet went, its flags and sequence number.
fn told(sent: &Sent) -> (SocketAddr, SocketAddr, u8, u32) {
    let Ok(Parsed::Ip(m)) = parse(&sent.bytes, Link::Ethernet) else { panic!("not IP") };
    let segment = &sent.bytes[m.l4 as usize..];
    let (src, dst) = (m.src(&sent.bytes), m.dst(&sent.bytes));
    (
        SocketAddr::new(src, m.sport),
        SocketAddr::new(dst, m.dport),
        m.tcp_flags,
        be32(segment, tcp::field::SEQ),
    )
}

fn establish(e: &mut Engine, n: &Net, port: u16, ms: u64) -> SocketAddr {
    let (_, sent) = give(e, Mono::from_millis(ms), WAN, &from_client(n, Proto::Tcp, port, 2, b""));
    let server = told(&sent[0]).1;
    let client = SocketAddr::new(n.client, port);
    let _ = give(e, Mono::from_millis(ms), LAN, &frame(LAN_MAC, Proto::Tcp, server, client, 18, b""));
    let _ = give(e, Mono::from_millis(ms), WAN, &from_client(n, Proto::Tcp, port, 16, b"x"));
    server
}

#[test]
fn datagrams_to_a_dead_server_go_to_another_one_at_once() {
    for removed in [true, false] {
        for v6 in [false, true] {
            let n = net(v6);
            let mut c = catalog(Forward::Nat, Proto::Udp);
            let mut e = start(&mut c);
            let question = from_client(&n, Proto::Udp, 4000, 0, b"q");
            let (_, sent) = give(&mut e, Mono::ZERO, WAN, &question);
            let first = told(&sent[0]).1;
            let k = key(&n, Proto::Udp);
            if removed {
                c.remove_dest(&k, first.ip(), first.port()).unwrap();
            } else {
                c.edit_dest(
                    &k,
                    crate::svc::DestSpec { weight: 0, ..dest(first.ip(), first.port(), Forward::Nat) },
                )
                .unwrap();
            }
            assert!(c.set_ending(&k, first.ip(), first.port(), Ending::Dead));
            e.on_snapshot(Mono::from_millis(10), c.commit());
            let (verdict, sent) = give(&mut e, Mono::from_millis(20), WAN, &question);
            assert_eq!(verdict, Verdict::Send(LAN));
            assert_ne!(told(&sent[0]).1, first);
            assert_eq!(e.connection_count(), 1);
        }
    }
}

#[test]
fn a_connection_that_begins_on_the_tuple_of_one_to_a_dead_server_goes_to_another_one() {
    for v6 in [false, true] {
        let n = net(v6);
        let k = key(&n, Proto::Tcp);
        let mut c = catalog(Forward::Nat, Proto::Tcp);
        let mut e = start(&mut c);
        let dead = establish(&mut e, &n, 4000, 0);
        let other = establish(&mut e, &n, 4001, 0);
        assert_ne!(dead, other);
        assert!(c.set_ending(&k, dead.ip(), dead.port(), Ending::Dead));
        c.edit_dest(&k, crate::svc::DestSpec { weight: 0, ..dest(dead.ip(), dead.port(), Forward::Nat) })
            .unwrap();
        e.on_snapshot(Mono::from_millis(10), c.commit());
        let at = Mono::from_millis(20);
        // what was established is left alone
        let (_, sent) = give(&mut e, at, WAN, &from_client(&n, Proto::Tcp, 4000, 16, b"y"));
        assert_eq!(told(&sent[0]).1, dead);
        let (_, sent) = give(&mut e, at, WAN, &from_client(&n, Proto::Tcp, 4000, 2, b""));
        assert_ne!(told(&sent[0]).1, dead);
        assert_eq!(e.connection_count(), 2);
        e.check().unwrap();
        // a SYN on a connection to a living server changes nothing
        let (_, sent) = give(&mut e, at, WAN, &from_client(&n, Proto::Tcp, 4001, 2, b""));
        assert_eq!(told(&sent[0]).1, other);
    }
}

#[test]
fn at_the_deadline_of_a_drain_both_ends_get_a_reset_they_accept() {
    for forward in [Forward::Nat, Forward::FullNat] {
        let n = net(false);
        let mut c = catalog(forward, Proto::Tcp);
        let mut e = start(&mut c);
        let drained = establish(&mut e, &n, 4000, 0);
        let other = establish(&mut e, &n, 4001, 0);
        assert_ne!(drained, other);
        let k = key(&n, Proto::Tcp);
        c.edit_dest(&k, crate::svc::DestSpec { weight: 0, ..dest(drained.ip(), 8080, forward) }).unwrap();
        c.set_ending(&k, drained.ip(), 8080, Ending::Cut);
        e.on_snapshot(Mono::from_millis(10), c.commit());
        let id = id_of(&c, &k, drained);

        // the silent client is asked for its numbers
        let mut out = Out::new();
        let (next, touched) = e.cut(Mono::from_millis(20), id, Cut::Ask, 0, &mut out);
        let (next, _) = e.cut(Mono::from_millis(20), id, Cut::Ask, next.unwrap(), &mut out);
        assert_eq!((next, touched), (None, 1));
        let (port, question) = out.pop().unwrap();
        assert_eq!(port, WAN);
        sums_right(question.bytes());
        let asked = told(&Sent { bytes: question.bytes().to_vec() });
        assert_eq!(
            (asked.0, asked.1, asked.2),
            (SocketAddr::new(n.vip, 80), SocketAddr::new(n.client, 4000), 16)
        );
        assert!(out.pop().is_none(), "nobody else is asked");

        // its answer is answered with a reset, and goes on as one
        let (_, sent) = give(&mut e, Mono::from_millis(30), WAN, &from_client(&n, Proto::Tcp, 4000, 16, b""));
        sent.iter().for_each(|s| sums_right(&s.bytes));
        let mut resets: Vec<_> = sent.iter().map(told).collect();
        resets.sort_by_key(|r| r.1.port());
        let client = resets.iter().find(|r| r.1 == SocketAddr::new(n.client, 4000)).unwrap();
        assert_eq!(
            (client.0, client.2, client.3),
            (SocketAddr::new(n.vip, 80), 4, 0),
            "what the client acknowledged"
        );
        let server = resets.iter().find(|r| r.1 == drained).unwrap();
        assert_eq!((server.2, server.3), (4, 1000), "what the client sends next");
        assert_eq!((resets.len(), e.cut_resets(), e.connection_count()), (2, 2, 1));

        // the other one goes on
        let (verdict, _) =
            give(&mut e, Mono::from_millis(40), WAN, &from_client(&n, Proto::Tcp, 4001, 16, b"y"));
        assert_eq!(verdict, Verdict::Send(LAN));
    }
}

fn id_of(c: &Catalog, k: &ServiceKey, at: SocketAddr) -> DestId {
    c.service(k).unwrap().dests.iter().find(|d| d.spec.ip == at.ip()).unwrap().id
}

#[test]
fn who_does_not_answer_is_forgotten_in_the_end() {
    let n = net(false);
    let mut c = catalog(Forward::Dr, Proto::Tcp);
    let mut e = start(&mut c);
    for port in 0..50 {
        let _ = give(&mut e, Mono::ZERO, WAN, &from_client(&n, Proto::Tcp, 4000 + port, 2, b""));
    }
    let k = key(&n, Proto::Tcp);
    c.set_ending(&k, n.rs[0], 80, Ending::Cut);
    e.on_snapshot(Mono::from_millis(10), c.commit());
    let id = c.service(&k).unwrap().dests.iter().find(|d| d.spec.ip == n.rs[0]).unwrap().id;
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = e.cut(Mono::from_millis(20), id, Cut::Force, at, &mut Out::new()).0;
    }
    assert_eq!(e.connection_count(), 25);
    e.check().unwrap();
}

#[test]
fn a_server_in_slow_start_takes_its_share_and_no_more() {
    for scheduler in [
        SchedulerKind::Rr,
        SchedulerKind::Wrr,
        SchedulerKind::Lc,
        SchedulerKind::Wlc,
        SchedulerKind::Sed,
        SchedulerKind::Nq,
    ] {
        let n = net(false);
        let k = key(&n, Proto::Tcp);
        let mut c = Catalog::new(Arc::new(plan()));
        c.add_service(ServiceSpec { scheduler, ..ServiceSpec::new(k) }).unwrap();
        c.add_dest(&k, dest(n.rs[0], 8080, Forward::Nat)).unwrap();
        let mut e = start(&mut c);
        for port in 0..1000 {
            give_quietly(&mut e, &from_client(&n, Proto::Tcp, 1000 + port, 2, b""));
        }
        c.add_dest(&k, dest(n.rs[1], 8080, Forward::Nat)).unwrap();
        let service = c.service(&k).unwrap().clone();
        let newcomer = service.dests.iter().find(|d| d.spec.ip == n.rs[1]).unwrap().clone();
        // a tenth of its fair half
        newcomer.live.set_share(Some(WHOLE / 20));
        service.set_gentle(true);
        e.on_snapshot(Mono::from_millis(1), c.commit());
        for port in 0..1000 {
            give_quietly(&mut e, &from_client(&n, Proto::Tcp, 5000 + port, 2, b""));
        }
        let got = newcomer.active() + newcomer.inactive();
        assert!((49..=51).contains(&got), "{scheduler:?}: {got} of 1000");
        newcomer.live.set_share(None);
        service.set_gentle(false);
        give_quietly(&mut e, &from_client(&n, Proto::Tcp, 9000, 2, b""));
        e.check().unwrap();
    }
}

fn give_quietly(e: &mut Engine, bytes: &[u8]) {
    let mut mem = vec![0u8; 256];
    let mut pkt = PacketBuf::empty(&mut mem, crate::buf::HEADROOM);
    pkt.fill(bytes);
    let _ = e.on_packet(Mono::ZERO, WAN, &mut pkt, &mut Out::new());
}

#[test]
fn the_only_server_left_is_not_passed_over() {
    let n = net(false);
    let k = key(&n, Proto::Tcp);
    let mut c = Catalog::new(Arc::new(plan()));
    c.add_service(ServiceSpec::new(k)).unwrap();
    c.add_dest(&k, dest(n.rs[0], 8080, Forward::Nat)).unwrap();
    let service = c.service(&k).unwrap().clone();
    service.dests[0].live.set_share(Some(1));
    service.set_gentle(true);
    let mut e = start(&mut c);
    for port in 0..20 {
        let (verdict, _) = give(&mut e, Mono::ZERO, WAN, &from_client(&n, Proto::Tcp, 4000 + port, 2, b""));
        assert_eq!(verdict, Verdict::Send(LAN));
    }
}

#[test]
fn connections_without_answer_and_refused_ones_are_counted() {
    let n = net(false);
    let mut c = catalog(Forward::Nat, Proto::Tcp);
    let mut e = start(&mut c);
    let syn = from_client(&n, Proto::Tcp, 4000, 2, b"");
    let (_, sent) = give(&mut e, Mono::ZERO, WAN, &syn);
    let server = told(&sent[0]).1;
    let live = c
        .service(&key(&n, Proto::Tcp))
        .unwrap()
        .dests
        .iter()
        .find(|d| d.spec.ip == server.ip())
        .unwrap()
        .live
        .clone();
    assert_eq!(live.trouble(), [0, 0]);
    let _ = give(&mut e, Mono::from_millis(1000), WAN, &syn);
    assert_eq!(live.trouble(), [1, 0]);
    let reset = frame(LAN_MAC, Proto::Tcp, server, SocketAddr::new(n.client, 4000), 20, b"");
    let _ = give(&mut e, Mono::from_millis(1001), LAN, &reset);
    assert_eq!(live.trouble(), [1, 1]);
}
