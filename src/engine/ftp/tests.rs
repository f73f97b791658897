//! FTP through the engine: what is said at one end and heard at the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::Mac;
use crate::engine::steer::tests::Band;
use crate::engine::tests::{LAN, Net, WAN, dest, net, plan};
use crate::engine::*;
use crate::host::FtpHelper;
use crate::nat::ftp;
use crate::svc::{Catalog, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec};
use crate::wire::{Parsed, be32, parse, put32, tcp};

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A packet as a test sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    src: SocketAddr,
    dst: SocketAddr,
    seq: u32,
    ack: u32,
    text: String,
}

struct Play {
    engine: Band,
    net: Net,
    now: Mono,
}

impl Play {
    fn new(forward: Forward, v6: bool, helper: FtpHelper) -> Play {
        Play::with(1, forward, v6, helper)
    }

    /// With several workers, of which any reads any packet.
    fn with(workers: u16, forward: Forward, v6: bool, helper: FtpHelper) -> Play {
        let net_plan = Arc::new(crate::host::NetPlan { ftp: helper, ..plan() });
        let mut catalog = Catalog::new(net_plan).with_workers(workers);
        let n = net(v6);
        for (port, rport) in [(21, 2121), (8080, 8080)] {
            let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port };
            let spec = ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) };
            catalog.add_service(spec).unwrap();
            catalog.add_dest(&key, dest(n.rs[0], rport, forward)).unwrap();
        }
        let options = EngineOptions { connection_limit: 100, seed: 7, ..EngineOptions::default() };
        let engine = Band::new(workers, options, &catalog.commit());
        Play { engine, net: n, now: Mono::ZERO }
    }

    fn send(
        &mut self,
        port: PortId,
        ends: (SocketAddr, SocketAddr),
        numbers: (u32, u32),
        flags: u8,
        text: &str,
    ) -> Option<Seen> {
        let mac = if port == WAN { WAN_MAC } else { LAN_MAC };
        let mut f = crate::engine::tests::frame(mac, Proto::Tcp, ends.0, ends.1, flags, text.as_bytes());
        let Ok(Parsed::Ip(m)) = parse(&f, Link::Ethernet) else { panic!() };
        let l4 = m.l4 as usize;
        put32(&mut f, l4 + tcp::field::SEQ, numbers.0);
        put32(&mut f, l4 + tcp::field::ACK, numbers.1);
        crate::wire::testkit::set_checksum(&mut f[14..], false);
        self.now = Mono(self.now.0 + 1_000_000);
        let (verdict, sent) = self.engine.give(self.now, port, &f);
        if !matches!(verdict, Verdict::Send(_)) {
            return None;
        }
        let bytes = &sent[0].1;
        crate::engine::tests::sums_right(bytes);
        let Ok(Parsed::Ip(m)) = parse(bytes, Link::Ethernet) else { panic!() };
        let l4 = m.l4 as usize;
        Some(Seen {
            src: SocketAddr::new(m.src(bytes), m.sport),
            dst: SocketAddr::new(m.dst(bytes), m.dport),
            seq: be32(bytes, l4 + tcp::field::SEQ),
            ack: be32(bytes, l4 + tcp::field::ACK),
            text: String::from_utf8(ftp::payload(bytes, &m).to_vec()).unwrap(),
        })
    }

    /// Opens a control connection; gives the ends as the real server sees them.
    fn login(&mut self, cport: u16) -> (SocketAddr, SocketAddr) {
        let (client, vip) = (at(self.net.client, cport), at(self.net.vip, 21));
        let seen = self.send(WAN, (client, vip), (1000, 0), SYN, "").unwrap();
        assert_eq!(seen.dst, at(self.net.rs[0], 2121));
        let ends = (seen.dst, seen.src);
        self.send(LAN, ends, (5000, 1001), SYN | ACK, "").unwrap();
        self.send(WAN, (client, vip), (1001, 5001), ACK, "").unwrap();
        ends
    }

    fn states(&self) -> Vec<(&'static str, SocketAddr, SocketAddr)> {
        let rows = self.engine.connections(self.now);
        let mut rows: Vec<_> = rows.map(|r| (r.state, r.client, r.virt)).collect();
        rows.sort_unstable();
        rows
    }
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn six(ip: IpAddr, port: u16) -> String {
    let IpAddr::V4(ip) = ip else { panic!() };
    let [a, b, c, d] = ip.octets();
    format!("{a},{b},{c},{d},{},{}", port >> 8, port & 255)
}

#[test]
fn passive_data_connections_go_to_the_server_of_their_control_connection() {
    for (workers, forward) in [1, 3].iter().flat_map(|w| [(*w, Forward::Nat), (*w, Forward::FullNat)]) {
        for v6 in [false, true] {
            let mut p = Play::with(workers, forward, v6, FtpHelper::On);
            let n = p.net;
            let real = p.login(4000);
            let (client, vip) = (at(n.client, 4000), at(n.vip, 21));
            let (ask, said, heard) = if v6 {
                let text = "229 Entering Extended Passive Mode (|||50000|)\r\n".to_owned();
                ("EPSV\r\n", text.clone(), text)
            } else {
                let text = |ip| format!("227 Entering Passive Mode ({}).\r\n", six(ip, 50000));
                ("PASV\r\n", text(n.rs[0]), text(n.vip))
            };
            let by = heard.len() as u32 - said.len() as u32;
            p.send(WAN, (client, vip), (1001, 5001), ACK, ask).unwrap();
            for again in 0..2 {
                let seen = p.send(LAN, real, (5001, 1007), ACK, &said).unwrap();
                assert_eq!((seen.text, seen.seq, seen.ack), (heard.clone(), 5001, 1007), "{again}");
            }
            assert_eq!(p.states()[1], ("LISTEN", at(n.client, 0), at(n.vip, 50000)));
            let (theirs, ours) = (5001 + said.len() as u32, 5001 + heard.len() as u32);
            let seen = p.send(WAN, (client, vip), (1007, ours), ACK, "").unwrap();
            assert_eq!((seen.seq, seen.ack), (1007, theirs));
            let seen = p.send(LAN, real, (theirs, 1007), ACK, "226 done\r\n").unwrap();
            assert_eq!((seen.seq, seen.ack), (ours, 1007));
            assert_eq!(by, ours - theirs);
            // only a SYN begins it, and only the client's
            let data = at(n.vip, 50000);
            assert!(p.send(WAN, (at(n.client, 4001), data), (1, 1), ACK, "").is_none());
            let stranger = at(if v6 { "2001:db8:9::6" } else { "198.51.100.6" }.parse().unwrap(), 4001);
            assert!(p.send(WAN, (stranger, data), (1, 0), SYN, "").is_none());
            let seen = p.send(WAN, (at(n.client, 4001), data), (1, 0), SYN, "").unwrap();
            assert_eq!(seen.dst, at(n.rs[0], 50000));
            assert_eq!(seen.src.ip(), real.1.ip(), "from where the control connection comes");
            let seen = p.send(LAN, (seen.dst, seen.src), (9, 2), SYN | ACK, "").unwrap();
            assert_eq!((seen.src, seen.dst), (data, at(n.client, 4001)));
            assert!(p.send(WAN, (at(n.client, 4002), data), (1, 0), SYN, "").is_none(), "once");
            assert_eq!(p.engine.connection_count(), 2);
            let dest = p.engine.snapshot().services[0].dests[0].clone();
            assert_eq!(dest.stats.read()[0], 1, "data connections are not scheduled");
        }
    }
}

#[test]
fn active_data_connections_reach_the_client() {
    for (workers, forward) in [1, 3].iter().flat_map(|w| [(*w, Forward::Nat), (*w, Forward::FullNat)]) {
        for v6 in [false, true] {
            let mut p = Play::with(workers, forward, v6, FtpHelper::On);
            let n = p.net;
            let real = p.login(4000);
            let (client, vip) = (at(n.client, 4000), at(n.vip, 21));
            let command = |to: SocketAddr| {
                if v6 {
                    format!("EPRT |2|{}|{}|\r\n", to.ip(), to.port())
                } else {
                    format!("PORT {}\r\n", six(to.ip(), to.port()))
                }
            };
            let listen = at(n.client, 9010);
            let said = command(listen);
            let seen = p.send(WAN, (client, vip), (1001, 5001), ACK, &said).unwrap();
            let again = p.send(WAN, (client, vip), (1001, 5001), ACK, &said).unwrap();
            assert_eq!(seen, again, "sent again it says the same");
            let row = p.engine.connections(p.now).find(|r| r.state == "LISTEN").unwrap();
            assert_eq!((row.client, row.virt, row.dest), (listen, at(n.vip, 20), at(n.rs[0], 2120)));
            let told = row.local.unwrap_or(listen);
            assert_eq!(row.local.is_some(), forward == Forward::FullNat);
            assert_eq!(told.ip(), real.1.ip());
            assert_eq!(seen.text, command(told));
            // the client's numbers move when the command did
            let (theirs, ours) = (1001 + said.len() as u32, 1001 + seen.text.len() as u32);
            let seen = p.send(LAN, real, (5001, ours), ACK, "200 ok\r\n").unwrap();
            assert_eq!((seen.seq, seen.ack), (5001, theirs));
            let seen = p.send(WAN, (client, vip), (theirs, 5009), ACK, "LIST\r\n").unwrap();
            assert_eq!((seen.seq, seen.ack), (ours, 5009));
            let seen = p.send(LAN, (at(n.rs[0], 2120), told), (1, 0), SYN, "").unwrap();
            assert_eq!((seen.src, seen.dst), (at(n.vip, 20), listen));
            let seen = p.send(WAN, (listen, at(n.vip, 20)), (9, 2), SYN | ACK, "").unwrap();
            assert_eq!((seen.src, seen.dst), (told, at(n.rs[0], 2120)));
        }
    }
}

#[test]
fn a_control_connection_outlives_its_data_connections_and_nothing_is_left() {
    let mut p = Play::new(Forward::Nat, false, FtpHelper::On);
    let n = p.net;
    let real = p.login(4000);
    p.send(WAN, (at(n.client, 4000), at(n.vip, 21)), (1001, 5001), ACK, "PASV\r\n").unwrap();
    let said = format!("227 ok ({})\r\n", six(n.rs[0], 50000));
    p.send(LAN, real, (5001, 1007), ACK, &said).unwrap();
    let data = (at(n.client, 4001), at(n.vip, 50000));
    for minutes in [0u64, 10, 20, 30] {
        p.now = Mono::from_millis(minutes * 60_000 + 1000);
        p.send(WAN, data, (1, 0), if minutes == 0 { SYN } else { ACK }, "").unwrap();
        p.engine.on_timeout(p.now);
        p.engine.check().unwrap();
        assert_eq!(p.engine.connection_count(), 2, "minute {minutes}");
    }
    for minutes in 31..50 {
        p.engine.on_timeout(Mono::from_millis(minutes * 60_000));
        p.engine.check().unwrap();
    }
    assert_eq!(p.engine.connection_count(), 0);
    assert!(
        p.engine.engines[0].core.ftp.controls.is_empty() && p.engine.engines[0].core.ftp.parents.is_empty()
    );
}

#[test]
fn ports_of_other_services_are_not_taken_over() {
    let mut p = Play::new(Forward::Nat, false, FtpHelper::On);
    let n = p.net;
    let real = p.login(4000);
    p.send(WAN, (at(n.client, 4000), at(n.vip, 21)), (1001, 5001), ACK, "PASV\r\n").unwrap();
    let seen = p.send(LAN, real, (5001, 1007), ACK, &format!("227 ok ({})\r\n", six(n.rs[0], 8080))).unwrap();
    assert_eq!(seen.text, format!("227 ok ({})\r\n", six(n.vip, 8081)));
    let seen = p.send(WAN, (at(n.client, 4001), at(n.vip, 8081)), (1, 0), SYN, "").unwrap();
    assert_eq!(seen.dst, at(n.rs[0], 8080));
}

#[test]
fn without_the_helper_or_its_reason_texts_stay_as_they_are() {
    let off = Play::new(Forward::Nat, false, FtpHelper::Off);
    let on = Play::new(Forward::Nat, false, FtpHelper::On);
    for (mut p, ask, ip) in [(off, "PASV\r\n", "10.2.0.11"), (on, "SYST\r\n", "10.2.0.11")] {
        let real = p.login(4000);
        p.send(WAN, (at(p.net.client, 4000), at(p.net.vip, 21)), (1001, 5001), ACK, ask).unwrap();
        let said = format!("227 ok ({})\r\n", six(ip.parse().unwrap(), 50000));
        assert_eq!(p.send(LAN, real, (5001, 1007), ACK, &said).unwrap().text, said);
        assert_eq!(p.engine.connection_count(), 1);
    }
}

/// A reply that a device put together with what was said before it (GRO, TSO) is found all the same.
#[test]
fn super_frames_are_taken_apart_and_their_texts_rewritten() {
    use crate::buf::{Csum, Gso, GsoKind, HEADROOM, Offload, PacketBuf};
    let mut p = Play::new(Forward::Nat, false, FtpHelper::On);
    let n = p.net;
    let real = p.login(4000);
    p.send(WAN, (at(n.client, 4000), at(n.vip, 21)), (1001, 5001), ACK, "PASV\r\n").unwrap();
    let text = |ip| format!("227 Entering Passive Mode ({}).\r\n", six(ip, 50000));
    let said = text(n.rs[0]);
    let before = format!("{}\r\n", "-".repeat(said.len() - 2));
    let both = format!("{before}{said}");
    let mut f = crate::engine::tests::frame(LAN_MAC, Proto::Tcp, real.0, real.1, ACK, both.as_bytes());
    let Ok(Parsed::Ip(m)) = parse(&f, Link::Ethernet) else { panic!() };
    put32(&mut f, m.l4 as usize + tcp::field::SEQ, 5001);
    put32(&mut f, m.l4 as usize + tcp::field::ACK, 1007);
    let mut memory = vec![0; 4096];
    let mut pkt = PacketBuf::empty(&mut memory, HEADROOM);
    pkt.fill(&f);
    let gso = Gso { kind: GsoKind::Tcp4, size: said.len() as u16, hdr_len: 54, ecn: false };
    let csum = Csum::Partial { start: m.l4, offset: tcp::field::CHECKSUM as u16 };
    pkt.offload = Offload { csum, gso: Some(gso) };
    let mut out = Out::new();
    let verdict = p.engine.engines[0].on_packet(Mono(p.now.0 + 1), LAN, &mut pkt, &mut out);
    assert_eq!(verdict, Verdict::Taken(Taken::Split));
    p.engine.check().unwrap();
    let mut heard = Vec::new();
    while let Some((port, mut piece)) = out.pop() {
        assert_eq!(port, WAN);
        piece.edit(crate::wire::offload::complete_checksum).unwrap();
        crate::engine::tests::sums_right(piece.bytes());
        let Ok(Parsed::Ip(m)) = parse(piece.bytes(), Link::Ethernet) else { panic!() };
        let seq = be32(piece.bytes(), m.l4 as usize + tcp::field::SEQ);
        heard.push((seq, String::from_utf8(ftp::payload(piece.bytes(), &m).to_vec()).unwrap()));
    }
    let second = 5001 + before.len() as u32;
    assert_eq!(heard, [(5001, before), (second, text(n.vip))]);
    assert_eq!(p.states()[1], ("LISTEN", at(n.client, 0), at(n.vip, 50000)));
}
