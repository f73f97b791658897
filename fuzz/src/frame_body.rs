//! Body of the fuzz target `frame`: bytes become a director and a sequence of frames, time steps and
//! configuration changes; after each the invariants are checked. `tests/fuzz_replay.rs` runs the committed
//! corpus through it with an ordinary toolchain.
//!
//! ```text
//! mode      1 byte   0-1 NAT FULLNAT TUN DR, 2-3 IPIP GRE GUE GUE+csum, 4 TUN in the other family,
//!                    5 ports without link header, 6 forwarding, 7 all switches
//! scheduler 1 byte   low 4 bits: index, 4 port, 5 fallback
//! records            op 1 byte, low 2 bits:
//!   0, 1  frame      into port 0 or 1; bit 2 repair the IPv4 header, bit 3 partial checksum (start,
//!                    offset: 1 byte each), bit 4 super-frame (kind and size: 2 bytes, hdr_len: 1 byte);
//!                    length 2 bytes, big endian; the frame
//!   2     time       2 bytes, big endian, in units of 16 ms
//!   3     change     1 byte what, 1 byte weight
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use softlvs::addr::Mac;
use softlvs::buf::{Csum, Gso, GsoKind, HEADROOM, Offload, Out, PacketBuf};
use softlvs::engine::{Engine, EngineOptions, PortId, Verdict};
use softlvs::host::{NetPlan, OffloadCaps, PortPlan};
use softlvs::svc::{
    Catalog, DestSpec, Forward, Persistence, PersistenceEngine, Proto, SchedulerFlags, SchedulerKind,
    ServiceKey, ServiceSpec, Tunnel, TunnelCsum,
};
use softlvs::time::{Mono, Span};
use softlvs::tunnel::whole;
use softlvs::wire::{Link, Parsed, offload, parse, put16, sum};

/// Records of one input; more only make it slow.
const MAX_RECORDS: usize = 64;
/// Connections of the director: few, so that a full table is seen too.
const MAX_CONNECTIONS: u32 = 24;
const MTU: u32 = 1500;

/// Runs one input.
///
/// # Panics
/// When an invariant is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(mode), Some(scheduler)) = (input.byte(), input.byte()) else { return };
    let mut world = World::new(mode, scheduler);
    for n in 0..MAX_RECORDS {
        if world.record(&mut input).is_none() {
            break;
        }
        // walks every bucket of the timer wheels: too slow for each record, and what is broken stays so
        if n % 16 == 15 {
            world.check();
        }
    }
    world.finish();
}

/// What is left of the bytes.
struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }
    /// As many of `len` bytes as there are.
    fn take(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct World {
    catalog: Catalog,
    engine: Engine,
    now: Mono,
    out: Out,
    mem: Vec<u8>,
    link: Link,
    forward: [Forward; 2],
    other_family: bool,
    given: u64,
}

fn ip(s: &str) -> IpAddr {
    s.parse().expect("a literal address")
}

const VIPS: [&str; 2] = ["10.1.0.100", "2001:db8:1::100"];
const REALS: [[&str; 2]; 2] = [["10.2.0.11", "10.2.0.12"], ["2001:db8:2::11", "2001:db8:2::12"]];
/// Protocol, virtual port, real port with NAT: those of the recorded vectors.
const SERVICES: [(Proto, u16, u16); 3] =
    [(Proto::Tcp, 80, 8080), (Proto::Udp, 53, 5353), (Proto::Sctp, 9999, 9998)];

impl World {
    fn new(mode: u8, scheduler: u8) -> World {
        let tunnel = match mode >> 2 & 3 {
            0 => Tunnel::Ipip,
            1 => Tunnel::Gre { csum: TunnelCsum::None },
            2 => Tunnel::Gue { port: 6080, csum: TunnelCsum::None },
            _ => Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum },
        };
        let forward =
            [Forward::Nat, Forward::FullNat, Forward::Tun(tunnel), Forward::Dr][usize::from(mode & 3)];
        let link = if mode & 0x20 != 0 { Link::Ip } else { Link::Ethernet };
        let mut catalog = Catalog::new(Arc::new(net(link, mode & 0x40 != 0)));
        if mode & 0x80 != 0 {
            for name in [
                "expire_nodest_conn",
                "expire_quiescent_template",
                "nat_icmp_send",
                "schedule_icmp",
                "sloppy_tcp",
                "sloppy_sctp",
            ] {
                // unknown names are the engine's business to refuse
                let _ = catalog.sysctl.set(name, 1);
            }
        }
        let mut world = World {
            engine: Engine::new(
                Mono::ZERO,
                EngineOptions { connection_limit: MAX_CONNECTIONS, seed: 7, ..EngineOptions::default() },
                catalog.commit(),
            )
            .expect("a small table"),
            catalog,
            now: Mono::ZERO,
            out: Out::new(),
            mem: vec![0; HEADROOM + (1 << 16) + 64],
            link,
            // the second real server has another method, as ipvsadm allows
            forward: [forward, Forward::Nat],
            other_family: mode & 0x10 != 0 && matches!(forward, Forward::Tun(_)),
            given: 0,
        };
        let (kind, _) = SchedulerKind::ALL[usize::from(scheduler & 15) % SchedulerKind::ALL.len()];
        let flags = SchedulerFlags { port: scheduler & 16 != 0, fallback: scheduler & 32 != 0 };
        for (v6, proto, port) in services() {
            let key = key(v6, proto, port);
            let mut spec = ServiceSpec { scheduler: kind, flags, ..ServiceSpec::new(key) };
            if scheduler & 64 != 0 {
                let netmask = if v6 { 64 } else { 24 };
                spec.persistence = Some(Persistence { timeout: Span::from_secs(60), netmask });
                spec.engine = (scheduler & 128 != 0 && proto == Proto::Udp).then_some(PersistenceEngine::Sip);
            }
            world.catalog.add_service(spec).expect("a new service");
            for n in 0..2 {
                let _ = world.catalog.add_dest(&key, world.dest(v6, n, proto, 1));
            }
        }
        world.commit();
        world
    }
    fn dest(&self, v6: bool, n: usize, proto: Proto, weight: u32) -> DestSpec {
        let forward = self.forward[n];
        let (_, vport, rport) = SERVICES[SERVICES.iter().position(|s| s.0 == proto).unwrap_or(0)];
        let family = v6 != (self.other_family && matches!(forward, Forward::Tun(_)));
        let ip = ip(REALS[usize::from(family)][n]);
        let port = if forward.translates() { rport } else { vport };
        DestSpec { name: String::new(), ip, port, weight, forward, upper: 0, lower: 0 }
    }
    fn commit(&mut self) {
        let snapshot = self.catalog.commit();
        self.engine.on_snapshot(self.now, snapshot);
    }
    fn record(&mut self, input: &mut Input<'_>) -> Option<()> {
        let op = input.byte()?;
        match op & 3 {
            2 => {
                let step = input.word()?;
                self.advance(Span::from_millis(u64::from(step) * 16));
            }
            3 => {
                let (what, weight) = (input.byte()?, input.byte()?);
                self.change(what, weight.into());
            }
            port => self.frame(op, PortId(port.into()), input)?,
        }
        Some(())
    }
    fn check(&self) {
        self.engine.check().expect("the engine's books balance");
        assert_eq!(self.engine.counters().received, self.given);
    }
    fn frame(&mut self, op: u8, port: PortId, input: &mut Input<'_>) -> Option<()> {
        let mut meta = Offload::NONE;
        if op & 8 != 0 {
            meta.csum = Csum::Partial { start: input.byte()?.into(), offset: input.byte()?.into() };
        }
        if op & 16 != 0 {
            let word = input.word()?;
            let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp, GsoKind::Tcp4][usize::from(word >> 14)];
            let hdr_len = input.byte()?.into();
            meta.gso = Some(Gso { kind, size: word & 0x3fff, hdr_len, ecn: op & 32 != 0 });
        }
        let len = input.word()?.into();
        let bytes = input.take(len);
        let mut mem = std::mem::take(&mut self.mem);
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(bytes);
        pkt.offload = meta;
        if op & 4 != 0 {
            repair(pkt.bytes_mut(), self.link);
        }
        self.given += 1;
        let verdict = self.engine.on_packet(self.now, port, &mut pkt, &mut self.out);
        if let Verdict::Send(to) = verdict {
            self.sent(to, &pkt);
        }
        self.mem = mem;
        self.drain();
        Some(())
    }
    fn drain(&mut self) {
        while let Some((to, mut packet)) = self.out.pop() {
            self.sent(to, &packet.view());
            self.out.recycle(packet);
        }
    }
    /// What leaves must be a packet that the next station takes.
    fn sent(&self, to: PortId, pkt: &PacketBuf<'_>) {
        assert!(to.0 < 2, "port {to:?}");
        let frame = pkt.bytes();
        let meta = match parse(frame, self.link) {
            Ok(Parsed::Ip(meta)) => meta,
            Ok(Parsed::Arp(_)) => return,
            other => panic!("sent {other:?}: {frame:02x?}"),
        };
        let mtu = MTU as usize;
        // of a super-frame in a tunnel each segment gets the outer header
        let fits = match whole::find(frame, &pkt.offload, self.link) {
            Some(whole::Inside { outer, inner }) => {
                offload::fits(pkt, &inner, mtu - usize::from(inner.l3 - outer.l3))
            }
            None => meta.ip_len() <= mtu || offload::fits(pkt, &meta, mtu),
        };
        assert!(fits, "sent {} bytes over an MTU of {MTU}: {meta:?} {:?}", meta.ip_len(), pkt.offload);
        assert!(meta.ttl > 0);
        if let Csum::Partial { start, offset } = pkt.offload.csum {
            assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len(), "{:?}", pkt.offload);
        }
    }
    fn advance(&mut self, by: Span) {
        let end = self.now + by;
        // Punctual at first, then late as a busy worker is.
        for turn in 0..40 {
            let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) else { break };
            self.now = if turn < 20 { self.now.max(due) } else { end };
            self.engine.on_timeout(self.now, &mut self.out);
            self.drain();
        }
        self.now = end;
    }
    fn change(&mut self, what: u8, weight: u32) {
        let (v6, proto, port) = services().nth(usize::from(what & 7) % 6).expect("one of six");
        let (key, n) = (key(v6, proto, port), usize::from(what >> 3 & 1));
        let dest = self.dest(v6, n, proto, weight);
        // refusals are answers too
        let _ = match what >> 4 & 3 {
            0 => self.catalog.edit_dest(&key, dest).is_ok(),
            1 => self.catalog.remove_dest(&key, dest.ip, dest.port).is_ok(),
            2 => self.catalog.add_dest(&key, dest).is_ok(),
            _ => {
                let (kind, _) = SchedulerKind::ALL[weight as usize % SchedulerKind::ALL.len()];
                let spec = ServiceSpec { scheduler: kind, ..ServiceSpec::new(key) };
                if weight & 0x80 == 0 {
                    self.catalog.edit_service(spec).is_ok()
                } else {
                    self.catalog.remove_service(&key).is_ok() && self.catalog.add_service(spec).is_ok()
                }
            }
        };
        self.commit();
    }
    /// Left alone, every connection ends and every count goes back to nothing.
    fn finish(mut self) {
        self.check();
        self.advance(Span::from_secs(4000));
        self.check();
        assert_eq!(self.engine.connection_count(), 0, "connections that never end");
    }
}

/// Every service: both families, three protocols.
fn services() -> impl Iterator<Item = (bool, Proto, u16)> {
    [false, true].into_iter().flat_map(|v6| SERVICES.iter().map(move |(proto, port, _)| (v6, *proto, *port)))
}

fn key(v6: bool, proto: Proto, port: u16) -> ServiceKey {
    ServiceKey::Address { proto, ip: ip(VIPS[usize::from(v6)]), port }
}

/// The network of the recorded vectors.
fn net(link: Link, forwarding: bool) -> NetPlan {
    let port = |name: &str, mac, addresses: [&str; 2]| PortPlan {
        name: name.into(),
        link,
        mac: Mac(mac),
        mtu: MTU,
        addresses: addresses.iter().map(|a| a.parse().expect("a literal network")).collect(),
        gateway: None,
        gateway6: None,
        neighbors: Vec::new(),
        offload: OffloadCaps { csum: true, tso: true, uso: true, tunnel: true },
    };
    let mut wan = port("wan", [2, 0, 0, 0, 1, 1], ["10.1.0.1/24", "2001:db8:1::1/64"]);
    wan.gateway = Some("10.1.0.254".parse().expect("a literal address"));
    wan.gateway6 = Some("2001:db8:1::fe".parse().expect("a literal address"));
    if link == Link::Ethernet {
        for gateway in ["10.1.0.254", "2001:db8:1::fe"] {
            wan.neighbors.push((ip(gateway), Mac([2, 0, 0, 0, 1, 0xfe])));
        }
    }
    let mut lan = port("lan", [2, 0, 0, 0, 2, 1], ["10.2.0.1/24", "2001:db8:2::1/64"]);
    if link == Link::Ethernet {
        // the second server has to be asked for
        for reals in REALS {
            lan.neighbors.push((ip(reals[0]), Mac([2, 0, 0, 0, 2, 0x0b])));
        }
    }
    NetPlan { ports: vec![wan, lan], forwarding, ..NetPlan::default() }
}

/// Gives an IPv4 packet the length and the header checksum it needs to be looked at further.
fn repair(frame: &mut [u8], link: Link) {
    let Some(ip) = frame.get_mut(link.header_len()..).filter(|ip| ip.len() >= 20 && ip[0] >> 4 == 4) else {
        return;
    };
    let header = usize::from(ip[0] & 15) * 4;
    if header < 20 || header > ip.len() {
        return;
    }
    let total = ip.len().min(0xffff) as u16;
    put16(ip, 2, total);
    put16(ip, 10, 0);
    let checksum = sum::checksum(&ip[..header]);
    put16(ip, 10, checksum);
}
