//! Very many connections are listed while packets go on: each once, in bounded memory, and no packet waits for it.
//!
//! `SOFTLVS_LISTING` is how many: 300,000 when it is not set.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use softlvs::addr::Mac;
use softlvs::io::sys::netlink::Netlink;
use softlvs::io::sys::ns::NetNs;
use softlvs::io::sys::raw::Injector;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::health::clients::Noise;
use crate::in_namespaces;
use crate::traffic::{self, Server};
use crate::wires::Running;

/// Connections put in at once before it is looked whether they are there.
const CHUNK: u32 = 10_000;
/// Source ports of one client.
const PORTS: u32 = 50_000;
/// First of them.
const FIRST_PORT: u32 = 10_000;
/// Memory that listing may take, in KiB.
const ROOM: u64 = 24 * 1024;

/// Client `i`: 198.18.0.0/15 is for benchmarks (RFC 2544).
fn client(i: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0xc612_0000 + 1 + i / PORTS), (FIRST_PORT + i % PORTS) as u16)
}

/// The number of a client that was listed.
fn number(address: &str) -> Option<u32> {
    let at: SocketAddr = address.parse().ok()?;
    let SocketAddr::V4(at) = at else { return None };
    let ip = u32::from(*at.ip()).checked_sub(0xc612_0001)?;
    Some(ip * PORTS + u32::from(at.port()) - FIRST_PORT)
}

/// A datagram of client `i` to the silent service.
fn datagram(i: u32, to: Mac, vip: Ipv4Addr) -> Vec<u8> {
    let (ip, port) = client(i);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], to.0)
        .ipv4(ip.octets(), vip.octets(), 64)
        .udp(port, 99)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

/// The control socket, asked by hand.
struct Ask(PathBuf);

impl Ask {
    fn get(&self, path: &str, accept: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let text = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut stream = BufReader::with_capacity(1 << 16, stream);
        let mut line = String::new();
        while stream.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        stream
    }
    fn json(&self, path: &str) -> serde_json::Value {
        let mut text = String::new();
        self.get(path, "application/json").read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
    }
    fn connections(&self) -> u64 {
        self.json("/v1/status")["connections"].as_u64().unwrap()
    }
}

/// Opens `n` connections; what was lost on the way is sent again.
fn fill(ns: &NetNs, to: Mac, vip: Ipv4Addr, n: u32, ask: &Ask) {
    let injector = ns.run(|| Injector::open(Netlink::open()?.index("eth0")?)).unwrap();
    let end = Instant::now() + Duration::from_secs(60) + Duration::from_micros(200) * n;
    let before = ask.connections();
    for first in (0..n).step_by(CHUNK as usize) {
        let chunk = first..n.min(first + CHUNK);
        let wanted = before + u64::from(chunk.end);
        loop {
            for i in chunk.clone() {
                // a full queue is a loss like others
                let _ = injector.send(&datagram(i, to, vip));
            }
            let soon = Instant::now() + Duration::from_millis(200);
            while ask.connections() < wanted && Instant::now() < soon {
                std::thread::sleep(Duration::from_millis(2));
            }
            if ask.connections() >= wanted {
                break;
            }
            assert!(Instant::now() < end, "{} of {wanted} connections", ask.connections());
        }
    }
}

/// One datagram after the other to a server that answers: how long each took, until it is told to stop.
struct Pings {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
    noise: Noise,
}

impl Pings {
    fn start(ns: &NetNs, to: SocketAddr) -> Pings {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let (mut took, mut buf) = (Vec::new(), [0; 64]);
            while !stopped.load(Relaxed) {
                let began = Instant::now();
                socket.send(b"ping").unwrap();
                // one that is lost has taken all that time
                let _ = socket.recv(&mut buf);
                took.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            took.sort();
            took
        };
        Pings { stop, thread: ns.spawn("pings", work).unwrap(), noise: Noise::start() }
    }
    /// Half of them, nearly all, the longest, and how late the machine was.
    fn stop(self) -> [Duration; 4] {
        self.stop.store(true, Relaxed);
        let took = self.thread.join().unwrap();
        assert!(took.len() > 50, "{} pings only", took.len());
        let at = |part: usize| took[(took.len() - 1) * part / 1000];
        [at(500), at(999), at(1000), self.noise.worst()]
    }
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The largest resident memory while something is done.
fn watched<R>(pid: u32, work: impl FnOnce() -> R) -> (R, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut most = 0;
        while !stopped.load(Relaxed) {
            most = resident(pid).max(most);
            std::thread::sleep(Duration::from_millis(20));
        }
        most
    });
    let done = work();
    stop.store(true, Relaxed);
    (done, thread.join().unwrap())
}

/// All of them as a stream, each once; the reader pauses now and then, and nothing piles up for it.
fn stream(ask: &Ask, n: u32) -> u64 {
    let mut seen = vec![0u64; n as usize / 64 + 1];
    let (mut lines, mut bytes, mut line) = (0u64, 0u64, String::new());
    let mut stream = ask.get("/v1/connections", "application/x-ndjson");
    while stream.read_line(&mut line).unwrap() > 0 {
        bytes += line.len() as u64;
        lines += 1;
        if lines.is_multiple_of(u64::from(n / 4)) {
            std::thread::sleep(Duration::from_millis(300));
        }
        let at = line.find("\"client\":\"").unwrap() + 10;
        let end = line[at..].find('"').unwrap();
        if let Some(i) = number(&line[at..at + end]) {
            let (word, bit) = (i as usize / 64, 1 << (i % 64));
            assert_eq!(seen[word] & bit, 0, "client {i} is listed twice");
            seen[word] |= bit;
        }
        line.clear();
    }
    let found: u32 = seen.iter().map(|w| w.count_ones()).sum();
    assert_eq!(found, n, "connections listed");
    bytes
}

/// The first pages, and those that a filter leaves of all.
fn pages(ask: &Ask, n: u32) {
    let mut cursor = String::new();
    let mut rows = 0;
    for _ in 0..5 {
        let page = ask.json(&format!("/v1/connections?limit=1000{cursor}"));
        let these = page["connections"].as_array().unwrap().len();
        assert!((1000..1600).contains(&these), "a page of {these}");
        rows += these;
        cursor = format!("&cursor={}", page["next"].as_str().unwrap());
    }
    assert!(rows < n as usize);
    let (ip, _) = client(n - 1);
    let wanted = (n - 1) % PORTS + 1;
    let mut lines =
        ask.get(&format!("/v1/connections?protocol=udp&client={ip}"), "application/x-ndjson").lines();
    let found = lines.by_ref().map(|l| assert!(l.unwrap().contains(&ip.to_string()))).count();
    assert_eq!(found, wanted as usize, "connections of {ip}");
}

fn configuration(l: &Layout, n: u32) -> String {
    let toml = l.toml(Io::Packet, "rr");
    let limit = n + n / 20 + 1000;
    let toml = toml.replace("[director]\n", &format!("[director]\nconnection_limit = {limit}\n"));
    toml + "
[[service]]
name = \"silent\"
address = \"192.0.2.10:99\"
protocol = \"udp\"
scheduler = \"rr\"
timeouts = { udp = \"2h\" }
[[service.real]]
address = \"10.0.0.11:9999\"
[[service]]
name = \"answers\"
address = \"192.0.2.10:53\"
protocol = \"udp\"
[[service.real]]
address = \"10.0.0.12:5353\"
"
}

in_namespaces! {
    fn very_many_connections_are_listed_while_no_packet_waits_for_it() {
        let _alone = crate::gate::loud();
        let n = std::env::var("SOFTLVS_LISTING").ok().map_or(300_000, |n| n.parse().unwrap());
        let mut topology =
            Topology::build(Layout::new(Mode::Nat, false, 2, Encapsulation::Ipip), Io::Packet).unwrap();
        topology.prepare_servers().unwrap();
        let l = topology.layout.clone();
        let rs = |name: &str| &topology.node(name).unwrap().ns;
        // reads nothing and answers nothing
        let _silent = rs("rs1").run(|| UdpSocket::bind("10.0.0.11:9999")).unwrap();
        let _server = Server::start(rs("rs2"), "rs2", ([10, 0, 0, 12], 8080).into(), ([10, 0, 0, 12], 5353).into());
        let mut running = Running::start(rs("director"), &configuration(&l, n));
        let ns = rs("client");
        ns.run(|| traffic::wait_for_refusal((l.vip, 9).into(), || running.director.alive())).unwrap();
        let ask = Ask(running.control());
        measure(ns, &l, n, &ask, running.director.pid());
        running.stop();
    }
}

fn measure(ns: &NetNs, l: &Layout, n: u32, ask: &Ask, pid: u32) {
    let (vip, mac) = (Ipv4Addr::new(192, 0, 2, 10), l.director().nics[0].mac);
    let began = Instant::now();
    fill(ns, mac, vip, n, ask);
    println!("{n} connections in {:.1?}, {} MiB", began.elapsed(), resident(pid) >> 10);

    let pings = Pings::start(ns, (l.vip, 53).into());
    std::thread::sleep(Duration::from_secs(2));
    let quiet = pings.stop();
    let before = resident(pid);
    let pings = Pings::start(ns, (l.vip, 53).into());
    let began = Instant::now();
    let (bytes, most) = watched(pid, || {
        let bytes = stream(ask, n);
        pages(ask, n);
        bytes
    });
    let took = began.elapsed();
    let busy = pings.stop();
    println!(
        "listed in {took:.1?}, {} MiB of text, at most {} KiB more memory; pings (half, 999 of 1000, longest, machine \
         late): quiet {quiet:.1?}, meanwhile {busy:.1?}",
        bytes >> 20,
        most.saturating_sub(before)
    );
    assert!(most <= before + ROOM, "{} KiB more", most - before);
    let bound = Duration::from_millis(50) + quiet[2] + busy[3] * 3;
    assert!(busy[2] <= bound, "a packet waited {:?}, quiet {:?}, bound {bound:?}", busy[2], quiet[2]);
}
