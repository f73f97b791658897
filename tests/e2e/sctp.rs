//! SCTP end to end. The kernel need not know the protocol: both ends are `sctp/peer.c`, an end-point of
//! usrsctp's over raw IP sockets, which checks every CRC32c as any receiver does.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use softlvs::explain::report::{Outcome, Report};
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::director::Director;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::gate;
use crate::sniff::{Frame, Sniffer};
use crate::traffic;

const PROGRAM: &str = env!("CARGO_BIN_EXE_softlvs");
/// The service's port, and the real servers' in modes that map ports.
const PORT: (u16, u16) = (7000, 7001);

/// The end-point's program, compiled once; or what is missing.
fn program() -> &'static Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(|| {
        if !Path::new("/usr/include/usrsctp.h").exists() {
            return Err("no usrsctp here: apt-get install libusrsctp-dev".to_owned());
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/sctp/peer.c");
        let (made, done) = (folder.join(format!("peer-{}", std::process::id())), folder.join("sctp-peer"));
        let cc = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&made, &source])
            .args(["-lusrsctp", "-lpthread"])
            .output()
            .map_err(|e| format!("no C compiler here: {e}"))?;
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        // another run of these tests may be using it
        std::fs::rename(&made, &done).unwrap();
        Ok(done)
    })
}

/// A running end-point, spoken to line by line.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(ns: &NetNs, words: &[&str]) -> Peer {
        let mut command = Command::new(program().as_ref().unwrap());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        ns.confine(&mut command).unwrap();
        let mut child = traffic::when_free(|| command.spawn()).unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Peer { child, input, output };
        assert_eq!(peer.line(), "ready", "{words:?}");
        peer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn tell(&mut self, what: &str) -> String {
        writeln!(self.input.as_ref().unwrap(), "{what}").unwrap();
        self.line()
    }

    /// Ends it, which has seen packets and none with a wrong checksum.
    fn end(mut self, who: &str) {
        self.input = None;
        let said = self.line();
        let rest = said.strip_prefix("0 of ").unwrap_or_else(|| panic!("{who}: {said}"));
        assert!(!rest.starts_with("0 "), "{who}: {said}");
        assert!(self.child.wait().unwrap().success(), "{who}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of `ipvsadm -Lnc`.
#[derive(Debug, PartialEq)]
struct Row {
    seconds: u32,
    state: String,
    server: SocketAddr,
}

/// What runs: topology, director, end-points.
struct World {
    topology: Topology,
    director: Director,
    servers: Vec<(String, Peer)>,
    client: Peer,
    scratch: tempfile::TempDir,
}

impl World {
    fn start(mode: Mode, io: Io, ipv6: bool) -> World {
        let layout = Layout::new(mode, ipv6, 2, Encapsulation::Ipip);
        let (vip, cip) = (layout.vip, layout.clients()[0]);
        let rport = if mode.replies_return() { PORT.1 } else { PORT.0 };
        let mut toml = layout.toml(io, "rr");
        toml += &format!(
            "\n[[service]]\nname = \"signalling\"\naddress = \"{}\"\nprotocol = \"sctp\"\nscheduler = \"rr\"\n",
            SocketAddr::new(vip, PORT.0)
        );
        for (host, rip) in layout.servers() {
            let real = SocketAddr::new(rip, rport);
            toml += &format!("[[service.real]]\nname = \"{}\"\naddress = \"{real}\"\n", host.name);
        }
        let mut topology = Topology::build(layout, io).unwrap();
        topology.prepare_servers().unwrap();
        let mut servers = Vec::new();
        for (host, rip) in topology.layout.servers() {
            let own = if mode.replies_return() { rip } else { vip };
            let words = ["serve", &own.to_string(), &rport.to_string(), &host.name];
            let ns = &topology.node(&host.name).unwrap().ns;
            servers.push((host.name.clone(), Peer::start(ns, &words)));
        }
        let scratch = tempfile::tempdir().unwrap();
        let ns = &topology.node("director").unwrap().ns;
        let control = scratch.path().join("control.sock");
        let mut director = Director::start(ns, Path::new(PROGRAM), &toml, &control).unwrap();
        topology.attach_taps(Duration::from_secs(10), || director.alive()).unwrap();
        let ns = &topology.node("client").unwrap().ns;
        ns.run(|| traffic::wait_for_refusal(SocketAddr::new(vip, 9), || director.alive())).unwrap();
        let client = Peer::start(ns, &["ask", &cip.to_string(), &vip.to_string(), &PORT.0.to_string()]);
        World { topology, director, servers, client, scratch }
    }

    fn vip(&self) -> IpAddr {
        self.topology.layout.vip
    }

    fn cip(&self) -> IpAddr {
        self.topology.layout.clients()[0]
    }

    fn softlvs(&self, words: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(words).stdin(Stdio::null());
        command.env("SOFTLVS_CONTROL", self.scratch.path().join("control.sock"));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The association from this port, as `ipvsadm -Lnc` lists it.
    fn row(&self, lport: u16) -> Row {
        let text = self.softlvs(&["ipvsadm", "-Lnc"]);
        let from = SocketAddr::new(self.cip(), lport).to_string();
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        let of: Vec<_> =
            rows.iter().filter(|w| w.first() == Some(&"SCTP") && w.get(3) == Some(&&from[..])).collect();
        let [words] = of[..] else { panic!("{from} in\n{text}") };
        assert_eq!(words[4], SocketAddr::new(self.vip(), PORT.0).to_string());
        let (minutes, seconds) = words[1].split_once(':').unwrap();
        Row {
            seconds: minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap(),
            state: words[2].to_owned(),
            server: words[5].parse().unwrap(),
        }
    }

    fn rip(&self, name: &str) -> IpAddr {
        self.topology.layout.servers().find(|(host, _)| host.name == name).unwrap().1
    }
}

/// The checksum of RFC 9260 appendix A bit by bit: nothing in common with the director's.
fn crc32c(packet: &[u8]) -> u32 {
    let bytes = packet.iter().enumerate().map(|(i, b)| if (8..12).contains(&i) { 0 } else { *b });
    !bytes.fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(b), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Looks at every SCTP packet that was captured whole: how many, and whether each sum is right.
fn right_sums(frames: &[Frame]) -> usize {
    let mut checked = 0;
    for frame in frames {
        let Some(packet) = sctp(frame.bytes.get(14..).unwrap_or_default()) else { continue };
        let sum = u32::from_le_bytes(packet[8..12].try_into().unwrap());
        assert_eq!(sum, crc32c(packet), "a wrong checksum on the wire: {packet:02x?}");
        checked += 1;
    }
    checked
}

/// The SCTP packet in an IP packet, one header deep or two; `None` when it was not captured whole.
fn sctp(ip: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    let (header, end, protocol) = match ip.first()? >> 4 {
        4 => (20, word(2)?, *ip.get(9)?),
        6 => (40, 40 + word(4)?, *ip.get(6)?),
        _ => return None,
    };
    let body = ip.get(header..end)?;
    match protocol {
        132 => Some(body),
        4 | 41 => sctp(body),
        _ => None,
    }
}

fn equal<T: PartialEq + Debug>(got: T, want: T, world: &World, what: &str) {
    assert_eq!(got, want, "{what}; the director said:\n{}", world.director.log());
}

/// Associations with data both ways, ended in every way, and what the director knows of each.
fn associations(mode: Mode, io: Io, ipv6: bool) {
    if !gate::io(io) {
        return;
    }
    if let Err(why) = program() {
        return gate::skip(why);
    }
    let mut world = World::start(mode, io, ipv6);
    let sniffer = Sniffer::start(world.topology.switch_ns());
    let ports = [41_000, 41_001, 41_002, 41_003];
    let mut names = Vec::new();
    for lport in ports {
        names.push(world.client.tell(&format!("open {lport}")));
    }
    for (lport, name) in ports.into_iter().zip(&names) {
        let ours = world.servers.iter().filter(|(n, _)| n == name).count();
        equal(ours, 1, &world, &format!("{lport} was answered with `{name}`"));
        // one small packet, a packet of the MTU, many
        for bytes in [3, 400, 1_200, 200_000] {
            let said = world.client.tell(&format!("data {lport} {bytes}"));
            equal(&said[..], "same", &world, &format!("{bytes} bytes from {lport}"));
        }
        let row = world.row(lport);
        equal(&row.state[..], "ESTABLISHED", &world, "state");
        equal(row.server.ip(), world.rip(name), &world, "server");
        assert!((14 * 60 + 30..=15 * 60).contains(&row.seconds), "timeout: {row:?}");
    }
    names.dedup();
    assert_eq!(names.len(), 4, "turns: {names:?}");

    // what would become of the next packet of an association that is there
    let flow =
        format!("sctp {} > {}", SocketAddr::new(world.cip(), 41_003), SocketAddr::new(world.vip(), PORT.0));
    let told = world.softlvs(&["explain", &flow, "-o", "json"]);
    let report: Report = serde_json::from_str(&told).unwrap();
    let server = world.row(41_003).server.to_string();
    assert_eq!((report.verdict, report.server), (Outcome::Sent, Some(server)), "{told}");
    assert!(told.contains("ESTABLISHED"), "{told}");

    for (what, lport) in [("shut", 41_000), ("bye", 41_001), ("abort", 41_002)] {
        let said = world.client.tell(&format!("{what} {lport}"));
        equal(&said[..], "ended", &world, what);
        // the last packet may still be under way to the director
        crate::sniff::eventually(Duration::from_secs(5), what, || world.row(lport).state == "CLOSED");
        let row = world.row(lport);
        // the kernel keeps it for the longest wait between two tries (RFC 9260: 60 s) and one second
        assert!((50..=61).contains(&row.seconds), "what is left of an ended association: {row:?}");
    }
    equal(&world.row(41_003).state[..], "ESTABLISHED", &world, "the one that was left alone");

    // a port is used again at once
    let again = world.client.tell("open 41000");
    assert!(again.starts_with("rs"), "{again}");
    equal(&world.client.tell("data 41000 20000")[..], "same", &world, "data of the second association");
    let row = world.row(41_000);
    equal(
        (&row.state[..], row.server.ip()),
        ("ESTABLISHED", world.rip(&again)),
        &world,
        "second association",
    );
    equal(&world.client.tell("shut 41000")[..], "ended", &world, "end of the second association");

    let checked = right_sums(&sniffer.finish());
    // four handshakes of four packets, over two wires at least
    assert!(checked > 32, "only {checked} packets were captured whole");
    let World { client, servers, mut director, .. } = world;
    client.end("client");
    for (name, server) in servers {
        server.end(&name);
    }
    assert!(director.stop(Duration::from_secs(5)), "the director did not end well");
}

macro_rules! modes {
    ($($name:ident: $mode:ident $io:ident $ipv6:literal;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                associations(Mode::$mode, Io::$io, $ipv6);
            }
        })*
    };
}

modes! {
    nat: Nat Packet false;
    nat6: Nat Packet true;
    nat_tap: Nat Tap false;
    nat_xdp: Nat Xdp false;
    fullnat: FullNat Packet false;
    fullnat6: FullNat Packet true;
    fullnat6_tap: FullNat Tap true;
    tun: Tun Packet false;
    tun6: Tun Packet true;
    dr: Dr Packet false;
    dr6: Dr Packet true;
}
