//! A day of simulated time with everything changing, then an hour of silence: nothing may be left.

mod common;

use common::*;
use softlvs::engine::Engine;
use softlvs::host::AddrRange;
use softlvs::svc::{Catalog, Forward, Proto, ServiceKey, Tunnel};

/// Flows that begin in a simulated minute: 24 h of it are more than 700,000 connections.
const FLOWS_A_MINUTE: u32 = 500;
const MINUTES: u32 = 24 * 60;
const LIMIT: u32 = 12_000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * u64::from(n)) >> 32) as u32
    }
}

const KEYS: [(Proto, bool); 4] =
    [(Proto::Tcp, false), (Proto::Udp, false), (Proto::Tcp, true), (Proto::Udp, true)];

/// Each server its own mode: all four in every service.
fn mode(n: u8) -> Forward {
    [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr][usize::from(n % 4)]
}

fn spec(key: &ServiceKey, n: u8, weight: u32) -> softlvs::svc::DestSpec {
    let forward = mode(n);
    let port = if forward.translates() { 8080 } else { 80 };
    dest(net(key.is_v6()).rs(n), port, weight, forward)
}

fn begin() -> Catalog {
    let mut c = catalog(Forward::Nat, 0);
    let mut net = plan();
    let range = |a: &str, b: &str| AddrRange { first: ip(a), last: ip(b) };
    net.local_addresses = vec![range("10.2.9.1", "10.2.9.2"), range("2001:db8:2::9:1", "2001:db8:2::9:2")];
    c.net = std::sync::Arc::new(net);
    for (proto, v6) in KEYS {
        for n in 0..8 {
            c.add_dest(&key(proto, v6), spec(&key(proto, v6), n, 1)).unwrap();
        }
    }
    c
}

/// A flow from its first packet to its end, or to where its client lost interest.
fn flow(lab: &mut Lab, random: &mut Random, i: u32) {
    let v6 = random.below(4) == 0;
    let n = net(v6);
    let client = sock(n.nth_client(random.below(5000)), (1024 + i % 60_000) as u16);
    match random.below(8) {
        // ping
        0 => {
            let kind = if v6 { (128, 0) } else { (8, 0) };
            let (_, sent) = lab.give_fast(WAN, &Pkt::icmp(client.ip(), n.vip, kind, i, b"ping").frame());
            assert_eq!(sent.len(), 1);
        }
        // a datagram or more, sometimes answered
        1..=3 => {
            for _ in 0..1 + random.below(2) {
                let (_, sent) = lab.give_fast(WAN, &Pkt::udp(client, n.vip(), b"question").frame());
                answer(lab, &sent, |seen| Pkt::udp(seen.dst, seen.src, b"answer"));
            }
        }
        // TCP, left open, reset or finished
        _ => {
            let send = |lab: &mut Lab, flags| lab.give_fast(WAN, &Pkt::tcp(client, n.vip(), flags).frame()).1;
            let sent = send(lab, SYN);
            let reply = |lab: &mut Lab, flags| {
                answer(lab, &sent, |seen| Pkt::tcp(seen.dst, seen.src, flags));
            };
            if random.below(10) == 0 {
                return;
            }
            reply(lab, SYN | ACK);
            let _ = send(lab, ACK);
            match random.below(6) {
                0 => {}
                1 => drop(send(lab, RST)),
                2 => reply(lab, RST),
                _ => {
                    let _ = send(lab, FIN | ACK);
                    reply(lab, FIN | ACK);
                    let _ = send(lab, ACK);
                }
            }
        }
    }
}

/// The real server's answer, where it passes the director.
fn answer(lab: &mut Lab, sent: &[Sent], make: impl Fn(&Seen) -> Pkt) {
    for s in sent.iter().filter(|s| s.port == LAN) {
        let seen = Seen::of(&s.bytes);
        if matches!(seen.proto, 6 | 17) && seen.dst.port() == 8080 {
            let _ = lab.give_fast(LAN, &make(&seen).to(LAN_MAC).frame());
        }
    }
}

fn fullnat(engine: &Engine, lab: &Lab) -> usize {
    engine.connections(lab.now).filter(|r| r.local.is_some()).count()
}

#[test]
fn a_day_of_churn_leaves_nothing_behind() {
    let mut lab = Lab::of(begin(), LIMIT);
    let bytes = lab.engine.table_bytes();
    let mut random = Random(1);
    let mut up = [[true; 8]; 4];
    let (mut most, mut hidden) = (0, 0);
    for minute in 0..MINUTES {
        for i in 0..FLOWS_A_MINUTE {
            flow(&mut lab, &mut random, minute * FLOWS_A_MINUTE + i);
            if i % 50 == 0 {
                lab.wait_ms(60_000 / 10);
            }
        }
        most = most.max(lab.engine.connection_count());
        // a server flaps, another one's weight changes
        let (service, n) = (random.below(4) as usize, random.below(8) as u8);
        let at = key(KEYS[service].0, KEYS[service].1);
        let server = spec(&at, n, 1);
        let is_up = &mut up[service][usize::from(n)];
        if *is_up && random.below(3) == 0 {
            lab.catalog.remove_dest(&at, server.ip, server.port).unwrap();
            *is_up = false;
        } else if *is_up {
            lab.catalog.edit_dest(&at, spec(&at, n, random.below(4))).unwrap();
        } else {
            lab.catalog.add_dest(&at, server).unwrap();
            *is_up = true;
        }
        lab.commit();
        // every hour the configuration is read again: a new plan, equal or not, and other switches
        if minute % 60 == 59 {
            let mut plan = (*lab.catalog.net).clone();
            plan.forwarding = minute % 120 == 59;
            lab.catalog.net = std::sync::Arc::new(plan);
            lab.catalog.sysctl.expire_nodest_conn = minute % 180 == 59;
            lab.catalog.sysctl.conn_reuse_mode = minute / 60 % 2;
            lab.commit();
            hidden = hidden.max(fullnat(&lab.engine, &lab));
        }
        if minute % 30 == 0 {
            lab.engine.check().unwrap();
        }
    }
    let opened = lab.engine.counters().opened;
    assert!(opened > 300_000, "{opened} connections only");
    assert!(most > 2000 && hidden > 100, "{most} at once, {hidden} of them FULLNAT");
    // an hour of silence
    lab.wait(3600);
    lab.engine.check().unwrap();
    let counters = lab.engine.counters();
    assert_eq!(lab.engine.connection_count(), 0);
    assert_eq!((counters.opened, counters.opened), (counters.closed, opened));
    assert_eq!(lab.engine.table_bytes(), bytes, "no memory was added");
    for dest in lab.engine.snapshot().dests.iter().flatten() {
        assert_eq!((dest.active(), dest.inactive()), (0, 0), "{}", dest.spec.ip);
    }
    // check() compared the FULLNAT pool with the table, so it is empty too; and so is the wheel: the
    // engine asks for no more calls than its neighbours need
    let due = lab.engine.poll_timeout();
    assert!(due.is_none_or(|due| due.since(lab.now).as_secs() >= 1), "{due:?} at {:?}", lab.now);
    // removed servers are forgotten two minutes after the last connection that a change found on them
    lab.commit();
    lab.wait(121);
    lab.commit();
    let live: usize = up.iter().flatten().filter(|up| **up).count();
    let known = lab.engine.snapshot().dests.iter().flatten().count();
    assert_eq!(known, live, "servers without connections are forgotten");
    assert!(lab.engine.counters().received == counters.received);
}
