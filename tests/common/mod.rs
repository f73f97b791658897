//! A director on a little network for tests of the engine as a whole: a client network behind a router, a
//! server network, every mode, both families, simulated time. Packets are built and checked by code of its
//! own, so that a mistake of the library does not vouch for itself.
#![allow(dead_code, missing_docs)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use softlvs::addr::Mac;
use softlvs::buf::{HEADROOM, Offload, Out, PacketBuf};
use softlvs::engine::{DropReason, Engine, EngineOptions, PortId, Verdict};
use softlvs::host::{NetPlan, OffloadCaps, PortPlan};
use softlvs::svc::{Catalog, DestSpec, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec, Tunnel};
use softlvs::time::Mono;
use softlvs::wire::Link;

pub const WAN: PortId = PortId(0);
pub const LAN: PortId = PortId(1);
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
pub const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
pub const GW_MAC: Mac = Mac([2, 0, 0, 0, 1, 0xfe]);
/// Real servers with a static neighbour entry.
pub const SERVERS: u8 = 8;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const MODES: [Forward; 4] = [Forward::Nat, Forward::FullNat, Forward::Tun(Tunnel::Ipip), Forward::Dr];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
pub fn sock(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Addresses of one family.
#[derive(Clone, Copy)]
pub struct Net {
    pub v6: bool,
    pub client: IpAddr,
    pub vip: IpAddr,
    /// The director's address towards the servers.
    pub dip: IpAddr,
}

pub fn net(v6: bool) -> Net {
    let pick = |four: &str, six: &str| ip(if v6 { six } else { four });
    Net {
        v6,
        client: pick("198.51.100.5", "2001:db8:9::5"),
        vip: pick("192.0.2.10", "2001:db8:1::10"),
        dip: pick("10.2.0.1", "2001:db8:2::1"),
    }
}

impl Net {
    pub fn rs(&self, n: u8) -> IpAddr {
        ip(&if self.v6 { format!("2001:db8:2::{}", 11 + n) } else { format!("10.2.0.{}", 11 + n) })
    }
    pub fn client(&self, port: u16) -> SocketAddr {
        sock(self.client, port)
    }
    pub fn vip(&self) -> SocketAddr {
        sock(self.vip, 80)
    }
    /// The `n`th of many clients.
    pub fn nth_client(&self, n: u32) -> IpAddr {
        match self.client {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) + n).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(n)).into()),
        }
    }
}

pub fn rs_mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 3, n])
}

pub fn plan() -> NetPlan {
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
    (wan.gateway, wan.gateway6) = ("192.0.2.1".parse().ok(), "2001:db8:1::1".parse().ok());
    wan.neighbors = vec![(ip("192.0.2.1"), GW_MAC), (ip("2001:db8:1::1"), GW_MAC)];
    let mut lan = port("lan", LAN_MAC, ["10.2.0.1/16", "2001:db8:2::1/64"]);
    for n in 0..SERVERS {
        lan.neighbors.push((net(false).rs(n), rs_mac(n)));
        lan.neighbors.push((net(true).rs(n), rs_mac(n)));
    }
    NetPlan { ports: vec![wan, lan], ..NetPlan::default() }
}

pub fn key(proto: Proto, v6: bool) -> ServiceKey {
    ServiceKey::Address { proto, ip: net(v6).vip, port: 80 }
}
pub fn dest(ip: IpAddr, port: u16, weight: u32, forward: Forward) -> DestSpec {
    DestSpec { name: String::new(), ip, port, weight, forward, upper: 0, lower: 0 }
}

/// Services on port 80 of both VIPs for both TCP and UDP, `servers` real servers each on port 8080, `rr`.
pub fn catalog(forward: Forward, servers: u8) -> Catalog {
    let mut catalog = Catalog::new(Arc::new(plan()));
    for (proto, v6) in [(Proto::Tcp, false), (Proto::Udp, false), (Proto::Tcp, true), (Proto::Udp, true)] {
        let key = key(proto, v6);
        catalog.add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) }).unwrap();
        // the newest server is the first of the list: picks begin with server 0
        for n in (0..servers).rev() {
            catalog.add_dest(&key, dest(net(v6).rs(n), 8080, 1, forward)).unwrap();
        }
    }
    catalog
}

/// A packet that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// `None` for what the engine made.
    pub port: PortId,
    pub bytes: Vec<u8>,
}

/// The director with its master copy of the configuration and its clock.
pub struct Lab {
    pub engine: Engine,
    pub catalog: Catalog,
    pub now: Mono,
    mem: Vec<u8>,
    out: Out,
}

impl Lab {
    pub fn new(forward: Forward) -> Lab {
        Lab::of(catalog(forward, 2), 10_000)
    }
    pub fn of(mut catalog: Catalog, limit: u32) -> Lab {
        let options = EngineOptions { connection_limit: limit, seed: 7, ..EngineOptions::default() };
        let engine = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
        Lab { engine, catalog, now: Mono::ZERO, mem: vec![0; 70_000], out: Out::new() }
    }
    /// Puts the catalog in force.
    pub fn commit(&mut self) {
        self.catalog.now = self.now;
        let snapshot = self.catalog.commit();
        self.engine.on_snapshot(self.now, snapshot);
    }
    /// Gives the engine a frame and walks its invariants.
    pub fn give(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<Sent>) {
        let answer = self.give_fast(port, frame);
        self.engine.check().unwrap();
        answer
    }
    /// Gives the engine a frame.
    pub fn give_fast(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<Sent>) {
        self.give_with(port, frame, Offload::NONE)
    }
    pub fn give_with(&mut self, port: PortId, frame: &[u8], offload: Offload) -> (Verdict, Vec<Sent>) {
        let mut pkt = PacketBuf::empty(&mut self.mem, HEADROOM);
        pkt.fill(frame);
        pkt.offload = offload;
        let verdict = self.engine.on_packet(self.now, port, &mut pkt, &mut self.out);
        let mut sent = Vec::new();
        if let Verdict::Send(port) = verdict {
            sent.push(Sent { port, bytes: pkt.bytes().to_vec() });
        }
        self.take(&mut sent);
        (verdict, sent)
    }
    /// Gives a packet and says what happened and nothing was sent for.
    pub fn silent(&mut self, port: PortId, frame: &[u8]) -> DropReason {
        let (verdict, sent) = self.give(port, frame);
        assert!(sent.is_empty(), "{verdict:?} and {} packets", sent.len());
        match verdict {
            Verdict::Drop(why) => why,
            other => panic!("{other:?}"),
        }
    }
    /// Lets time pass; the engine is called whenever it asked to be.
    pub fn wait_ms(&mut self, ms: u64) -> Vec<Sent> {
        let end = Mono(self.now.0 + ms * 1_000_000);
        let mut sent = Vec::new();
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.engine.on_timeout(self.now, &mut self.out);
            self.take(&mut sent);
        }
        self.now = end;
        self.catalog.now = end;
        sent
    }
    pub fn wait(&mut self, secs: u64) -> Vec<Sent> {
        self.wait_ms(secs * 1000)
    }
    fn take(&mut self, sent: &mut Vec<Sent>) {
        while let Some((port, packet)) = self.out.pop() {
            sent.push(Sent { port, bytes: packet.bytes().to_vec() });
            self.out.recycle(packet);
        }
    }
    /// State of the only connection, its real server and the seconds it has left.
    pub fn only(&self) -> (&'static str, SocketAddr, u64) {
        let mut rows = self.engine.connections(self.now);
        let row = rows.next().expect("no connection");
        assert!(rows.next().is_none(), "more than one connection");
        (row.state, row.dest, row.expires.as_millis().div_ceil(1000))
    }
    pub fn state(&self) -> &'static str {
        self.only().0
    }
    /// Of the client's connection: its state.
    pub fn state_of(&self, client: SocketAddr) -> Option<&'static str> {
        self.engine.connections(self.now).find(|r| r.client == client).map(|r| r.state)
    }
    /// A client's TCP packet, without data.
    pub fn client_sends(&mut self, client: SocketAddr, flags: u8) -> (Verdict, Vec<Sent>) {
        let frame = Pkt::tcp(client, net(client.is_ipv6()).vip(), flags).frame();
        self.give(WAN, &frame)
    }
    /// Opens a connection and says where its SYN went.
    pub fn syn(&mut self, client: SocketAddr) -> Sent {
        let (verdict, mut sent) = self.client_sends(client, SYN);
        assert_eq!(verdict, Verdict::Send(LAN));
        sent.remove(0)
    }
    /// A real server's answer to a translated packet.
    pub fn answer(&mut self, seen: &Sent, flags: u8) -> (Verdict, Vec<Sent>) {
        let seen = Seen::of(&seen.bytes);
        let frame = Pkt::tcp(seen.dst, seen.src, flags).to(LAN_MAC).frame();
        self.give(LAN, &frame)
    }
    /// A whole handshake in a translating mode.
    pub fn establish(&mut self, client: SocketAddr) -> Sent {
        let syn = self.syn(client);
        let _ = self.answer(&syn, SYN | ACK);
        let _ = self.client_sends(client, ACK);
        assert_eq!(self.state_of(client), Some("ESTABLISHED"));
        syn
    }
}

/// Ones' complement sum.
pub fn fold(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// A packet to be built: right unless told otherwise.
#[derive(Clone)]
pub struct Pkt {
    pub to: Mac,
    pub from: Mac,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset of IPv4, in 8-byte units below.
    pub frag: u16,
    /// IPv4 options or IPv6 extension headers; their first protocol number.
    pub options: (u8, Vec<u8>),
    pub l4: Vec<u8>,
    /// Where the transport checksum is.
    pub check_at: Option<usize>,
}

impl Pkt {
    pub fn raw(src: IpAddr, dst: IpAddr, proto: u8, l4: Vec<u8>) -> Pkt {
        Pkt {
            to: WAN_MAC,
            from: GW_MAC,
            src,
            dst,
            proto,
            ttl: 64,
            id: 7,
            frag: 0,
            options: (proto, Vec::new()),
            l4,
            check_at: None,
        }
    }
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Pkt {
        Pkt::segment(src, dst, flags, 1000, if flags & ACK != 0 { 5000 } else { 0 }, b"")
    }
    pub fn segment(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Pkt {
        let mut l4 = Vec::new();
        l4.extend(src.port().to_be_bytes());
        l4.extend(dst.port().to_be_bytes());
        l4.extend(seq.to_be_bytes());
        l4.extend(ack.to_be_bytes());
        l4.extend([5 << 4, flags, 0xfa, 0, 0, 0, 0, 0]);
        l4.extend(data);
        Pkt { check_at: Some(16), ..Pkt::raw(src.ip(), dst.ip(), 6, l4) }
    }
    pub fn udp(src: SocketAddr, dst: SocketAddr, data: &[u8]) -> Pkt {
        let mut l4 = Vec::new();
        l4.extend(src.port().to_be_bytes());
        l4.extend(dst.port().to_be_bytes());
        l4.extend((8 + data.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(data);
        Pkt { check_at: Some(6), ..Pkt::raw(src.ip(), dst.ip(), 17, l4) }
    }
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: (u8, u8), rest: u32, body: &[u8]) -> Pkt {
        let mut l4 = vec![kind.0, kind.1, 0, 0];
        l4.extend(rest.to_be_bytes());
        l4.extend(body);
        let proto = if src.is_ipv4() { 1 } else { 58 };
        Pkt { check_at: Some(2), ..Pkt::raw(src, dst, proto, l4) }
    }
    pub fn to(mut self, mac: Mac) -> Pkt {
        self.to = mac;
        self
    }
    pub fn ttl(mut self, ttl: u8) -> Pkt {
        self.ttl = ttl;
        self
    }
    pub fn df(mut self) -> Pkt {
        self.frag |= 0x4000;
        self
    }
    pub fn option(mut self, bytes: &[u8]) -> Pkt {
        self.options.1 = bytes.to_vec();
        self
    }
    /// The transport part with its checksum.
    fn summed(&self) -> Vec<u8> {
        let mut l4 = self.l4.clone();
        if let Some(at) = self.check_at {
            let tail = [(l4.len() as u32).to_be_bytes(), [0, 0, 0, self.proto]].concat();
            let (src, dst) = (octets(self.src), octets(self.dst));
            let check = match self.proto {
                1 => !fold(&[&l4]),
                _ => !fold(&[&src, &dst, &tail, &l4]),
            };
            let check = if check == 0 && self.proto == 17 { 0xffff } else { check };
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        l4
    }
    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let l4 = self.summed();
        self.with_payload(&l4, self.frag)
    }
    fn with_payload(&self, l4: &[u8], frag: u16) -> Vec<u8> {
        let options = &self.options.1;
        let mut b = Vec::new();
        if self.src.is_ipv4() {
            assert!(options.len().is_multiple_of(4));
            b.extend([0x45 + (options.len() / 4) as u8, 0]);
            b.extend(((20 + options.len() + l4.len()) as u16).to_be_bytes());
            b.extend(self.id.to_be_bytes());
            b.extend(frag.to_be_bytes());
            b.extend([self.ttl, self.proto, 0, 0]);
            b.extend(octets(self.src));
            b.extend(octets(self.dst));
            b.extend(options);
            let check = !fold(&[&b]);
            b[10..12].copy_from_slice(&check.to_be_bytes());
        } else {
            b.extend([0x60, 0, 0, 0]);
            b.extend(((options.len() + l4.len()) as u16).to_be_bytes());
            b.extend([self.options.0, self.ttl]);
            b.extend(octets(self.src));
            b.extend(octets(self.dst));
            b.extend(options);
        }
        b.extend(l4);
        b
    }
    pub fn frame(&self) -> Vec<u8> {
        self.framed(&self.ip())
    }
    pub fn framed(&self, ip: &[u8]) -> Vec<u8> {
        let kind: [u8; 2] = if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        [&self.to.0[..], &self.from.0, &kind, ip].concat()
    }
    /// One fragment of the packet: `range` of its transport part, and whether more follow.
    pub fn piece(&self, range: std::ops::Range<usize>, more: bool) -> Vec<u8> {
        let l4 = self.summed();
        let at = range.start;
        self.any_piece(&l4[range], at, more)
    }
    /// A fragment of any bytes.
    pub fn any_piece(&self, bytes: &[u8], at: usize, more: bool) -> Vec<u8> {
        assert!(at.is_multiple_of(8));
        if self.src.is_ipv4() {
            let frag = self.frag | (at / 8) as u16 | if more { 0x2000 } else { 0 };
            return self.framed(&self.with_payload(bytes, frag));
        }
        let mut header = vec![self.proto, 0];
        header.extend((at as u16 | u16::from(more)).to_be_bytes());
        header.extend(u32::from(self.id).to_be_bytes());
        let p = Pkt { options: (44, header), ..self.clone() };
        p.framed(&p.with_payload(bytes, 0))
    }
}

/// What a frame says, read plainly. Panics on what is no packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub to: Mac,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub proto: u8,
    pub ttl: u8,
    /// The IP packet's length by its header.
    pub len: usize,
    /// Offset of the transport part in the frame.
    pub l4: usize,
}

impl Seen {
    pub fn of(frame: &[u8]) -> Seen {
        let be = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (src, dst, proto, ttl, len, l4): (IpAddr, IpAddr, _, _, _, _) = if frame[14] >> 4 == 4 {
            let a = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap();
            let l4 = 14 + usize::from(frame[14] & 15) * 4;
            (a(26).into(), a(30).into(), frame[23], frame[22], usize::from(be(16)), l4)
        } else {
            let a = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
            (a(22).into(), a(38).into(), frame[20], frame[21], 40 + usize::from(be(18)), 54)
        };
        let ports = if matches!(proto, 6 | 17) { (be(l4), be(l4 + 2)) } else { (0, 0) };
        let to = Mac(frame[..6].try_into().unwrap());
        Seen { to, src: sock(src, ports.0), dst: sock(dst, ports.1), proto, ttl, len, l4 }
    }
}

/// Panics unless the header and transport checksums are right.
pub fn sums_right(frame: &[u8]) {
    assert!(ip_sum_right(frame) && l4_sum_right(frame), "checksum");
}
pub fn ip_sum_right(frame: &[u8]) -> bool {
    frame[14] >> 4 == 6 || fold(&[&frame[14..Seen::of(frame).l4]]) == 0xffff
}
pub fn l4_sum_right(frame: &[u8]) -> bool {
    let seen = Seen::of(frame);
    let l4 = &frame[seen.l4..14 + seen.len];
    if seen.proto == 1 {
        return fold(&[l4]) == 0xffff;
    }
    let tail = [(l4.len() as u32).to_be_bytes(), [0, 0, 0, seen.proto]].concat();
    fold(&[&octets(seen.src.ip()), &octets(seen.dst.ip()), &tail, l4]) == 0xffff
}
