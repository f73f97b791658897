//! One cell of the matrix: a lab topology with the director in it, and what must be true of it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use softlvs::addr::Mac;
use softlvs::io::sys::netlink::{Feature, Netlink, set_feature};
use softlvs::io::sys::ns::NetNs;
use softlvs::io::sys::raw::Injector;
use softlvs::lab::director::Director;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::sniff::{self, Ip, Packet, Sniffer, counters, holds, received};
use crate::traffic::{self, BULK, Server};

/// Port of the UDP service, and where the real servers have it in modes that map ports.
const UDP: (u16, u16) = (53, 5353);
const SERVERS: usize = 2;
const CONNECTIONS: usize = 100;

/// A running cluster.
pub struct Cell {
    pub topology: Topology,
    pub director: Director,
    _servers: Vec<Server>,
    scratch: tempfile::TempDir,
}

impl Cell {
    pub fn start(mode: Mode, io: Io, ipv6: bool, encapsulation: Encapsulation) -> Cell {
        Cell::start_with(mode, io, ipv6, encapsulation, Attach::default())
    }

    pub fn start_with(mode: Mode, io: Io, ipv6: bool, encapsulation: Encapsulation, attach: Attach) -> Cell {
        let program = Path::new(env!("CARGO_BIN_EXE_softlvs"));
        Cell::start_program(program, mode, io, ipv6, encapsulation, attach)
    }

    pub fn start_program(
        program: &Path,
        mode: Mode,
        io: Io,
        ipv6: bool,
        encapsulation: Encapsulation,
        attach: Attach,
    ) -> Cell {
        let layout = Layout::new(mode, ipv6, SERVERS, encapsulation);
        let mut toml = layout.toml(io, "rr") + &udp_service(&layout);
        if attach.workers > 1 {
            toml = toml.replace("\nworkers = 1\n", &format!("\nworkers = {}\n", attach.workers));
        }
        if attach.generic {
            toml = toml.replace("\nxdp = ", "\nxdp_mode = \"generic\"\nxdp = ");
        }
        toml = toml.replace("ports = [\"outside\"]\n", &format!("ports = [\"outside\"]\n{}", attach.web));
        let mut topology = Topology::build(layout, io).unwrap();
        if io == Io::Xdp && attach.workers > 1 {
            let n = attach.workers.to_string();
            for nic in &topology.layout.director().nics {
                let mut queues = Command::new("ethtool");
                queues.args(["-L", &nic.name, "rx", &n, "tx", &n]);
                topology.node("director").unwrap().ns.confine(&mut queues).unwrap();
                assert!(queues.status().unwrap().success(), "{n} queues for {}", nic.name);
            }
        }
        if attach.inherit {
            let director = topology.layout.director().clone();
            let links = &mut topology.node_mut("director").unwrap().links;
            for nic in &director.nics {
                let index = links.index(&nic.name).unwrap();
                links.set_mac(index, nic.mac).unwrap();
                toml = toml.replace(&format!("mac = \"{}\"", nic.mac), "mac = \"inherit\"");
            }
        }
        topology.prepare_servers().unwrap();
        let servers = serve(&topology);
        let scratch = tempfile::tempdir().unwrap();
        let director = Director::start(
            &topology.node("director").unwrap().ns,
            program,
            &toml,
            &scratch.path().join("control.sock"),
        )
        .unwrap();
        let mut cell = Cell { topology, director, _servers: servers, scratch };
        let Cell { topology, director, .. } = &mut cell;
        topology.attach_taps(Duration::from_secs(10), || director.alive()).unwrap();
        let closed = SocketAddr::new(topology.layout.vip, 9);
        let client = &topology.node("client").unwrap().ns;
        client.run(|| traffic::wait_for_refusal(closed, || director.alive())).unwrap();
        cell
    }

    /// Everything, with the ends' checksum and segmentation offload on, then off. On, a kernel trusts a partial
    /// checksum that was never completed; so in a third turn the switch completes what the director sends on.
    pub fn check(&mut self) {
        for (offload, wires) in [(true, true), (true, false), (false, true)] {
            self.offload(offload, wires);
            self.address_table(offload);
            self.echo();
            self.many_connections();
            self.fragments();
            self.bulk(offload);
            if self.layout().mode == Mode::Tun {
                self.too_big();
            }
            assert!(self.director.alive(), "the director ended");
        }
        let log = self.director.log();
        assert!(log.lines().count() < 40, "the director talks too much:\n{log}");
        self.stop();
    }

    /// Stops the director, which has to end well and by itself.
    pub fn stop(&mut self) {
        let ended_well = self.director.stop(Duration::from_secs(5));
        assert!(ended_well, "the director did not end well");
    }

    fn layout(&self) -> &Layout {
        &self.topology.layout
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.scratch.path().join("control.sock")
    }

    /// One of the director's counters.
    pub fn counter(&self, name: &str) -> u64 {
        let mut ask = Command::new(env!("CARGO_BIN_EXE_softlvs"));
        let out = ask.args(["api", "/v1/counters"]).env("SOFTLVS_CONTROL", self.control()).output().unwrap();
        let counters: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        counters[name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {counters}"))
    }

    pub fn client(&self) -> &NetNs {
        &self.topology.node("client").unwrap().ns
    }

    pub fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.layout().vip, self.layout().vport)
    }

    pub fn udp(&self) -> SocketAddr {
        SocketAddr::new(self.layout().vip, UDP.0)
    }

    fn offload(&self, ends: bool, wires: bool) {
        for host in self.layout().hosts.iter().filter(|h| h.name != "director" && !h.router) {
            for feature in [Feature::TxChecksum, Feature::Tso] {
                self.topology.set_feature(&host.name, "eth0", feature, ends).unwrap();
                let port = format!("{}-0", host.name);
                self.topology.switch_ns().run(|| set_feature(&port, feature, wires)).unwrap();
            }
        }
    }

    fn echo(&self) {
        let vip = self.layout().vip;
        self.client().run(|| traffic::ping(vip, 3)).unwrap();
    }

    fn many_connections(&self) {
        let to = self.tcp();
        let shares = self.client().run(|| traffic::parallel(to, CONNECTIONS)).unwrap();
        let each = CONNECTIONS / SERVERS;
        let fair: Vec<_> = (1..=SERVERS).map(|i| (format!("rs{i}"), each)).collect();
        assert_eq!(shares, fair, "round robin");
    }

    /// Datagrams that fit everywhere, that fit on the wire but in no tunnel, that fit nowhere in one piece; the
    /// largest leaves room for a tunnel's headers in 65,535 bytes.
    fn fragments(&self) {
        let to = self.udp();
        for size in [1440, 1466, 4000, 30_000, 64_000] {
            self.client().run(|| traffic::ask_big_udp(to, size)).unwrap();
        }
    }

    /// Both ways, byte for byte. In DR and TUN the download must not pass the director.
    fn bulk(&self, offload: bool) {
        let to = self.tcp();
        let before = received(self.topology.switch_ns(), "client-0");
        let up = self.client().run(|| traffic::upload(to)).unwrap();
        let frames = received(self.topology.switch_ns(), "client-0") - before;
        // Super-frames or frames of the MTU: the offload setting did what it should.
        assert_eq!(frames < BULK as u64 / 1500, offload, "{frames} frames, offload {offload}");
        let before = self.director_bytes();
        let down = self.client().run(|| traffic::download(to)).unwrap();
        let after = self.director_bytes();
        // The director hears the client's acknowledgements in every mode.
        let passed = (after.0 - before.0).min(after.1 - before.1);
        if self.layout().mode.replies_return() {
            assert!(passed > BULK as u64, "{passed} bytes passed the director, {BULK} were fetched");
        } else {
            assert!(
                passed < BULK as u64 / 10,
                "{passed} bytes passed the director, the reply goes around it"
            );
        }
        println!(
            "{}: offload {}: 10 MiB up {up:.0?}, down {down:.0?}",
            self.name(),
            if offload { "on" } else { "off" }
        );
    }

    /// Bytes that came from the director and went to it, summed over its ports.
    fn director_bytes(&self) -> (u64, u64) {
        self.director_wires()
            .map(|name| counters(self.topology.switch_ns(), &name))
            .fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1))
    }

    /// Frames that came from the director so far, super-frames as one.
    pub fn director_frames(&self) -> u64 {
        self.director_wires().map(|name| received(self.topology.switch_ns(), &name)).sum()
    }

    /// Ports of the switch that lead to the director.
    fn director_wires(&self) -> impl Iterator<Item = String> {
        let tap = self.topology.io == Io::Tap;
        (0..self.layout().director().nics.len())
            .map(move |i| if tap { format!("tap{i}") } else { format!("director-{i}") })
    }

    /// One TCP request and one UDP datagram, followed over every wire.
    fn address_table(&self, offload: bool) {
        let sniffer = Sniffer::start(self.topology.switch_ns());
        let (tcp, udp) = (self.tcp(), self.udp());
        let (by_tcp, tcp_client) = self.client().run(|| traffic::ask_tcp(tcp, "marker-tcp")).unwrap();
        let (by_udp, udp_client) = self.client().run(|| traffic::ask_udp(udp, "marker-udp")).unwrap();
        let frames = sniffer.finish();
        let of = |marker: &[u8]| -> Vec<(String, String, &[u8], Packet)> {
            let mut hops = Vec::new();
            for frame in frames.iter().filter(|f| holds(&f.bytes, marker)) {
                let Some(port) = self.topology.switch_ports().iter().find(|p| p.index == frame.port) else {
                    continue;
                };
                let tunnel = (self.layout().mode == Mode::Tun).then_some(self.layout().encapsulation);
                let packet = sniff::read(&frame.bytes, tunnel).expect("TCP or UDP");
                let to = self.topology.owner(packet.dst_mac).unwrap_or("?").to_owned();
                hops.push((port.host.clone(), to, &frame.bytes[..], packet));
            }
            hops
        };
        let rport = self.layout().rport;
        let udp_rport = if self.layout().mode.replies_return() { UDP.1 } else { UDP.0 };
        for (marker, answer, cip, vport, rport) in [
            ("marker-tcp", by_tcp, tcp_client, self.layout().vport, rport),
            ("marker-udp", by_udp, udp_client, UDP.0, udp_rport),
        ] {
            let hops = of(marker.as_bytes());
            let rip = self.layout().servers().find(|(h, _)| h.name == answer.server).unwrap().1;
            let names = Names { cell: self, cip, rip, vport, rport };
            let table: Vec<String> = hops.iter().map(|(from, to, _, p)| names.line(from, to, p)).collect();
            assert_eq!(table, expected(self.layout().mode), "{marker}, served by {}", answer.server);
            let seen = names.address(answer.client.ip());
            let lip = self.layout().mode == Mode::FullNat;
            assert_eq!(seen, if lip { "LIP" } else { "CIP" }, "whom the real server sees: {}", answer.client);
            if self.layout().mode == Mode::Dr {
                only_mac_and_ttl_differ(hops[0].2, hops[1].2, offload);
            }
        }
        if !self.layout().mode.replies_return() {
            for frame in &frames {
                let Some(p) = sniff::read(&frame.bytes, None) else { continue };
                let from = self.topology.switch_ports().iter().find(|s| s.index == frame.port);
                let of_service = p.ip.src == self.layout().vip && !p.icmp;
                let director = from.is_some_and(|s| s.host == "director")
                    || self.topology.owner(p.dst_mac) == Some("director");
                assert!(!(of_service && director), "a reply passed the director: {p:?}");
            }
        }
    }

    /// A datagram of the full MTU that must not be fragmented draws an ICMP error with the tunnel's MTU.
    /// It is put on the wire as it is: the kernel remembers from the upload what fits.
    fn too_big(&self) {
        let client = &self.layout().hosts[0].nics[0];
        let (cip, vip) = (client.addresses[0].addr, self.layout().vip);
        let frame = full_size(client.mac, self.layout().director().nics[0].mac, cip, vip);
        let sniffer = Sniffer::start(self.topology.switch_ns());
        self.client().run(|| Injector::open(Netlink::open()?.index("eth0")?)?.send(&frame)).unwrap();
        sniffer.wait_for("an ICMP error to the client", |p| p.icmp && p.ip.dst == cip);
        let frames = sniffer.finish();
        let errors: Vec<Packet> = frames
            .iter()
            .filter_map(|f| sniff::read(&f.bytes, None))
            .filter(|p| p.icmp && p.ip.dst == cip)
            .collect();
        let outer = if self.layout().ipv6 { 40 } else { 20 };
        let mtu = 1500
            - outer
            - match self.layout().encapsulation {
                Encapsulation::Ipip => 0,
                Encapsulation::Gre => 4,
                Encapsulation::Gue(_) => 12,
            };
        let kind = if self.layout().ipv6 { (2, 0) } else { (3, 4) };
        let got: Vec<_> = errors.iter().map(|p| (p.ports, p.mtu)).collect();
        assert_eq!(got, [(kind, mtu)], "ICMP errors to the client: {errors:?}");
    }

    fn name(&self) -> String {
        let l = self.layout();
        let tunnel = match (l.mode, l.encapsulation) {
            (Mode::Tun, e) => format!("-{e}"),
            _ => String::new(),
        };
        format!(
            "{}{tunnel} {} {}",
            l.mode.name(),
            self.topology.io.name(),
            if l.ipv6 { "IPv6" } else { "IPv4" }
        )
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}: the director said:\n{}", self.name(), self.director.log());
        }
    }
}

fn serve(topology: &Topology) -> Vec<Server> {
    let l = &topology.layout;
    l.servers()
        .map(|(host, rip)| {
            let any = if l.ipv6 { "::" } else { "0.0.0.0" }.parse().unwrap();
            // Replies by UDP come from the address the socket is bound to.
            let udp = match l.mode {
                Mode::Nat | Mode::FullNat => SocketAddr::new(rip, UDP.1),
                Mode::Dr | Mode::Tun => SocketAddr::new(l.vip, UDP.0),
            };
            Server::start(
                &topology.node(&host.name).unwrap().ns,
                &host.name,
                SocketAddr::new(any, l.rport),
                udp,
            )
        })
        .collect()
}

fn udp_service(l: &Layout) -> String {
    let rport = if l.mode.replies_return() { UDP.1 } else { UDP.0 };
    let mut t = format!(
        "\n[[service]]\nname = \"names\"\naddress = \"{}\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n",
        SocketAddr::new(l.vip, UDP.0)
    );
    for (host, rip) in l.servers() {
        t += &format!(
            "\n[[service.real]]\nname = \"{}\"\naddress = \"{}\"\n",
            host.name,
            SocketAddr::new(rip, rport)
        );
        match (l.mode, l.encapsulation) {
            (Mode::Tun, Encapsulation::Gre) => t += "tunnel = { type = \"gre\" }\n",
            (Mode::Tun, Encapsulation::Gue(p)) => {
                t += &format!("tunnel = {{ type = \"gue\", port = {p} }}\n")
            }
            _ => {}
        }
    }
    t
}

/// The address table that LVS documents, hop by hop. The tunnel header takes over the TTL that the inner
/// packet leaves with, as the kernel does.
fn expected(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Nat => &[
            "client>director CIP:cport>VIP:vport ttl 64",
            "director>rs CIP:cport>RIP:rport ttl 63",
            "rs>director RIP:rport>CIP:cport ttl 64",
            "director>client VIP:vport>CIP:cport ttl 63",
        ],
        Mode::FullNat => &[
            "client>director CIP:cport>VIP:vport ttl 64",
            "director>rs LIP:lport>RIP:rport ttl 63",
            "rs>director RIP:rport>LIP:lport ttl 64",
            "director>client VIP:vport>CIP:cport ttl 63",
        ],
        Mode::Tun => &[
            "client>director CIP:cport>VIP:vport ttl 64",
            "director>router [DIP>RIP ttl 63] CIP:cport>VIP:vport ttl 63",
            "router>rs [DIP>RIP ttl 62] CIP:cport>VIP:vport ttl 63",
            "rs>router VIP:vport>CIP:cport ttl 64",
            "router>client VIP:vport>CIP:cport ttl 63",
        ],
        Mode::Dr => &[
            "client>director CIP:cport>VIP:vport ttl 64",
            "director>rs CIP:cport>VIP:vport ttl 63",
            "rs>client VIP:vport>CIP:cport ttl 64",
        ],
    }
}

/// Addresses by the names LVS gives them.
struct Names<'c> {
    cell: &'c Cell,
    cip: SocketAddr,
    rip: IpAddr,
    vport: u16,
    rport: u16,
}

impl Names<'_> {
    fn address(&self, ip: IpAddr) -> String {
        let l = self.cell.layout();
        let local = |n| softlvs::lab::layout::address(l.ipv6, softlvs::lab::layout::Net::Inside, n);
        match ip {
            ip if ip == l.vip => "VIP".into(),
            ip if l.clients().contains(&ip) => "CIP".into(),
            ip if ip == self.rip => "RIP".into(),
            ip if (100..=107).any(|n| ip == local(n)) => "LIP".into(),
            ip if l.director().nics.iter().any(|n| n.addresses.iter().any(|a| a.addr == ip)) => "DIP".into(),
            other => other.to_string(),
        }
    }

    fn port(&self, address: &str, port: u16) -> String {
        match (address, port) {
            ("VIP", p) if p == self.vport => "vport".into(),
            ("RIP", p) if p == self.rport => "rport".into(),
            ("CIP", p) if p == self.cip.port() => "cport".into(),
            ("LIP", _) => "lport".into(),
            (_, other) => other.to_string(),
        }
    }

    fn line(&self, from: &str, to: &str, p: &Packet) -> String {
        let host = |h: &str| h.trim_end_matches(char::is_numeric).to_owned();
        let end = |ip: IpAddr, port| {
            let name = self.address(ip);
            let port = self.port(&name, port);
            format!("{name}:{port}")
        };
        let outer = |o: Ip| format!(" [{}>{} ttl {}]", self.address(o.src), self.address(o.dst), o.ttl);
        format!(
            "{}>{}{} {}>{} ttl {}",
            host(from),
            host(to),
            p.outer.map(outer).unwrap_or_default(),
            end(p.ip.src, p.ports.0),
            end(p.ip.dst, p.ports.1),
            p.ip.ttl
        )
    }
}

/// DR: the two frames differ in MAC addresses, TTL and IPv4 header checksum, and in nothing else; with the
/// sender's checksum offload on the director may have completed the checksum.
fn only_mac_and_ttl_differ(before: &[u8], after: &[u8], offload: bool) {
    let v4 = before[12..14] == [8, 0];
    assert_eq!(before.len(), after.len());
    let (ttl, sum) = if v4 { (14 + 8, Some(14 + 10..14 + 12)) } else { (14 + 7, None) };
    assert_eq!(after[ttl], before[ttl] - 1, "TTL");
    let tcp = before[if v4 { 14 + 9 } else { 14 + 6 }] == 6;
    let l4 = if v4 { 34 } else { 54 };
    let l4_sum = l4 + if tcp { 16 } else { 6 };
    for i in 12..before.len() {
        let free = i == ttl
            || sum.as_ref().is_some_and(|s| s.contains(&i))
            || (offload && (l4_sum..l4_sum + 2).contains(&i));
        assert!(free || before[i] == after[i], "byte {i} was changed from {} to {}", before[i], after[i]);
    }
}

/// A UDP datagram that makes an IP packet of 1500 bytes, not to be fragmented.
fn full_size(from: Mac, to: Mac, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder};
    let eth = PacketBuilder::ethernet2(from.0, to.0);
    let (builder, header) = match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut h = Ipv4Header::new(0, 64, IpNumber::UDP, s.octets(), d.octets()).unwrap();
            h.dont_fragment = true;
            (eth.ip(etherparse::IpHeaders::Ipv4(h, Default::default())), 28)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let h = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: 64,
                source: s.octets(),
                destination: d.octets(),
            };
            (eth.ip(etherparse::IpHeaders::Ipv6(h, Default::default())), 48)
        }
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    builder.udp(40_000, UDP.0).write(&mut frame, &vec![0x55; 1500 - header]).unwrap();
    frame
}

/// What could not be done because the machine lacks it is not a failure of the cell.
pub fn run(mode: Mode, io: Io, ipv6: bool, encapsulation: Encapsulation) {
    run_with(mode, io, ipv6, encapsulation, Attach::default());
}

/// How the director's ports and services differ from the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attach {
    /// XDP in generic mode.
    pub generic: bool,
    /// The interface's own MAC.
    pub inherit: bool,
    /// Packet workers; 0 for one.
    pub workers: u8,
    /// More lines for the TCP service.
    pub web: &'static str,
}

pub fn run_with(mode: Mode, io: Io, ipv6: bool, encapsulation: Encapsulation, attach: Attach) {
    if !crate::gate::io(io) {
        return;
    }
    let begin = std::time::Instant::now();
    let mut cell = Cell::start_with(mode, io, ipv6, encapsulation, attach);
    cell.check();
    println!("{}: passed in {:.1?}", cell.name(), begin.elapsed());
}
