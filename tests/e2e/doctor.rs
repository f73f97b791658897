//! `softlvs doctor` on topologies with one thing wrong each, and on healthy ones.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use softlvs::config;
use softlvs::doctor::{Examination, Finding};
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::director::Director;
use softlvs::lab::layout::{Io, Layout, Mode};
use softlvs::lab::topology::Topology;
use softlvs::real::{self, Encapsulation, Prepared};

use crate::{gate, in_namespaces};

/// A lab whose real servers are prepared and listen.
pub(crate) struct Clinic {
    pub(crate) topology: Topology,
    pub(crate) toml: String,
    prepared: Vec<Prepared>,
    listeners: Vec<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Clinic {
    /// `lazy`: no server runs on rs1. `bare`: rs1 is not prepared.
    pub(crate) fn new(mode: Mode, lazy: bool, bare: bool) -> Clinic {
        Clinic::of(Layout::new(mode, false, 2, Encapsulation::Ipip), lazy, bare)
    }

    fn of(layout: Layout, lazy: bool, bare: bool) -> Clinic {
        Clinic::at(layout, Io::Packet, lazy, bare)
    }

    /// With a director that is attached in another way.
    pub(crate) fn at(layout: Layout, io: Io, lazy: bool, bare: bool) -> Clinic {
        let toml = layout.toml(io, "rr");
        let topology = Topology::build(layout, io).unwrap();
        let mut clinic = Clinic { topology, toml, prepared: Vec::new(), listeners: Vec::new() };
        let layout = clinic.topology.layout.clone();
        for (host, _) in layout.servers() {
            let ns = &clinic.topology.node(&host.name).unwrap().ns;
            if let Some(role) = host.role.as_ref().filter(|_| !bare || host.name != "rs1") {
                clinic.prepared.push(ns.run(|| real::prepare(role)).unwrap());
            }
            if !lazy || host.name != "rs1" {
                clinic.listeners.push(listen(ns, layout.rport));
            }
        }
        clinic
    }

    pub(crate) fn ns(&self, host: &str) -> &NetNs {
        &self.topology.node(host).unwrap().ns
    }

    /// Runs a shell line on a host.
    pub(crate) fn sh(&self, host: &str, line: &str) {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).stdout(Stdio::null());
        self.ns(host).confine(&mut command).unwrap();
        assert!(command.status().unwrap().success(), "{host}: {line}");
    }

    fn examine(&self) -> Vec<Finding> {
        let plan = config::check(&self.toml, "softlvs.toml").unwrap_or_else(|all| panic!("{}", all[0]));
        let told = self.ns("director").run(|| {
            let mut told = Examination::default();
            told.topology(&plan, |_| Err(String::new()));
            Ok::<_, io::Error>(told)
        });
        let told = told.unwrap();
        assert!(told.notes.is_empty(), "{:?}", told.notes);
        told.findings
    }
}

impl Drop for Clinic {
    fn drop(&mut self) {
        for (stop, _) in &self.listeners {
            stop.store(true, Ordering::Relaxed);
        }
        for (_, thread) in self.listeners.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Works on all of them, four at a time: an examination mostly waits for answers.
pub(crate) fn each<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(one);
                }
            });
        }
    });
}

/// Somebody who takes connections and datagrams and does nothing with them.
pub(crate) fn listen(ns: &NetNs, port: u16) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let listener = ns.run(|| TcpListener::bind(("::", port))).unwrap();
    let datagrams = ns.run(|| UdpSocket::bind(("::", port))).unwrap();
    listener.set_nonblocking(true).unwrap();
    let thread = std::thread::spawn(move || {
        let _datagrams = datagrams;
        while !seen.load(Ordering::Relaxed) {
            drop(listener.accept());
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    (stop, thread)
}

in_namespaces! {
    fn doctor_says_nothing_false_of_a_healthy_topology() {
        let mut all = Vec::new();
        for ipv6 in [false, true] {
            all.extend(Mode::ALL.map(|mode| Layout::new(mode, ipv6, 2, Encapsulation::Ipip)));
            all.extend([Encapsulation::Gre, Encapsulation::Gue(6080)].map(|e| Layout::new(Mode::Tun, ipv6, 2, e)));
        }
        each(&all, |layout| {
            let mut clinic = Clinic::of(layout.clone(), false, false);
            assert_eq!(clinic.examine(), [], "{layout:?}");
            clinic.toml = clinic.toml.replace(UDP.0, UDP.1);
            assert_eq!(clinic.examine(), [], "{layout:?} UDP");
            let toml = layout.toml(Io::Packet, "rr");
            clinic.toml = changed(&toml, if layout.ipv6 { MARK6 } else { MARK });
            assert_eq!(clinic.examine(), [], "{layout:?} by mark");
        });
    }
}

in_namespaces! {
    fn doctor_does_not_disturb_a_director_at_work_nor_is_disturbed_by_it() {
        for (mode, ipv6) in [(Mode::Nat, false), (Mode::Dr, false), (Mode::Nat, true), (Mode::Dr, true)] {
            let clinic = Clinic::of(Layout::new(mode, ipv6, 2, Encapsulation::Ipip), false, false);
            let control = tempfile::tempdir().unwrap();
            let program = std::path::Path::new(env!("CARGO_BIN_EXE_softlvs"));
            let path = control.path().join("s.sock");
            let mut director = Director::start(clinic.ns("director"), program, &clinic.toml, &path).unwrap();
            let vip = std::net::SocketAddr::new(clinic.topology.layout.vip, 80);
            let reached = || {
                clinic.ns("client").run(|| {
                    std::net::TcpStream::connect_timeout(&vip, Duration::from_millis(500)).map(drop)
                })
            };
            let begin = (0..100).find(|_| reached().is_ok());
            assert!(begin.is_some(), "{}", director.log());
            assert_eq!(clinic.examine(), [], "{mode:?}: {}", director.log());
            assert!(reached().is_ok() && director.alive(), "{}", director.log());
            // what runs needs no file, and what was changed at run time is looked at too
            let doctor = |what: &str| {
                let mut command = Command::new(program);
                command.args(["doctor", "--control"]).arg(&path);
                clinic.ns("director").confine(&mut command).unwrap();
                let out = command.output().unwrap();
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                assert!(said.contains("examined: the director that runs") && said.contains(what), "{said}");
                out.status.code()
            };
            assert_eq!(doctor("nothing is wrong with the topology"), Some(0));
            let real = clinic.topology.layout.servers().next().unwrap().1;
            let mut change = Command::new(program);
            let gone = std::net::SocketAddr::new(clinic.topology.layout.vip, 81).to_string();
            change.args(["ipvsadm", "-A", "-t", &gone]).env("SOFTLVS_CONTROL", &path);
            assert!(change.status().unwrap().success());
            let mut change = Command::new(program);
            let at = std::net::SocketAddr::new(real, 81).to_string();
            let way = if mode == Mode::Nat { "-m" } else { "-g" };
            change.args(["ipvsadm", "-a", "-t", &gone, "-r", &at, way]).env("SOFTLVS_CONTROL", &path);
            assert!(change.status().unwrap().success());
            assert_eq!(doctor("(port_closed)"), Some(1));
            director.stop(Duration::from_secs(5));
        }
    }
}

in_namespaces! {
    fn doctor_without_the_director_does_not_blame_a_network_whose_answers_its_xdp_program_takes() {
        if !crate::gate::xdp() {
            return;
        }
        let clinic = Clinic::new(Mode::Nat, false, false);
        let toml = clinic.topology.layout.toml(Io::Xdp, "rr");
        let control = tempfile::tempdir().unwrap();
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_softlvs"));
        let path = control.path().join("s.sock");
        let mut director = Director::start(clinic.ns("director"), program, &toml, &path).unwrap();
        let file = control.path().join("softlvs.toml");
        std::fs::write(&file, &toml).unwrap();
        while !path.exists() {
            assert!(director.alive(), "{}", director.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut command = Command::new(program);
        command.args(["doctor", "-o", "json", "--config"]).arg(&file);
        clinic.ns("director").confine(&mut command).unwrap();
        let out = command.output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(told["findings"], serde_json::json!([]), "{told}");
        let note = told["notes"][0].as_str().unwrap();
        assert!(note.contains("an XDP program on eth0 takes the answers; the director that runs"), "{note}");
        director.stop(Duration::from_secs(5));
    }
}

/// What is wrong: its name, the mode, whether rs1 runs no server and is not prepared, what is changed in
/// the configuration and on which host, and whom the finding is about.
pub(crate) type Seed = (
    &'static str,
    Mode,
    (bool, bool),
    (&'static str, &'static str),
    (&'static str, &'static str),
    &'static str,
);

const KEEP: (&str, &str) = ("", "");
const WELL: (bool, bool) = (false, false);
const LAZY: (bool, bool) = (true, false);
const BARE: (bool, bool) = (false, true);

/// One where all is well but for what a line changes on a host.
const fn broken(
    name: &'static str,
    mode: Mode,
    host: &'static str,
    line: &'static str,
    about: &'static str,
) -> Seed {
    (name, mode, WELL, KEEP, (host, line), about)
}

/// The same with a service of datagrams.
const fn broken_udp(
    name: &'static str,
    mode: Mode,
    host: &'static str,
    line: &'static str,
    about: &'static str,
) -> Seed {
    (name, mode, WELL, UDP, (host, line), about)
}

pub(crate) const SEEDS: &[Seed] = &[
    broken("address_in_kernel", Mode::Nat, "director", "ip addr add 192.0.2.10/32 dev eth0", "192.0.2.10"),
    broken("address_in_kernel", Mode::Dr, "director", "ip addr add 192.0.2.2/24 dev eth0", "192.0.2.2"),
    broken("ip_forward", Mode::Nat, "director", "echo 1 > /proc/sys/net/ipv4/ip_forward", "eth0"),
    ("interface_missing", Mode::Nat, WELL, ("packet = \"eth1\"", "packet = \"eth9\""), KEEP, "port inside"),
    broken("interface_down", Mode::Nat, "director", "ip link set eth1 down", "port inside"),
    (
        "interface_mtu",
        Mode::Nat,
        WELL,
        ("packet = \"eth1\"", "packet = \"eth1\"\nmtu = 1600"),
        KEEP,
        "port inside",
    ),
    broken("neighbour_silent", Mode::Tun, "router", "ip link set eth0 down", "192.0.2.254"),
    broken("neighbour_silent", Mode::Nat, "rs1", "ip link set eth0 down", "real server 10.0.0.11"),
    (
        "neighbour_other_mac",
        Mode::Nat,
        WELL,
        ("packet = \"eth1\"", "packet = \"eth1\"\nneighbors = { \"10.0.0.11\" = \"02:00:00:00:00:99\" }"),
        KEEP,
        "real server 10.0.0.11",
    ),
    broken("duplicate_address", Mode::Nat, "rs2", "ip addr add 10.0.0.1/24 dev eth0", "10.0.0.1"),
    broken("duplicate_address", Mode::Nat, "client", "ip addr add 192.0.2.10/24 dev eth0", "192.0.2.10"),
    broken("duplicate_address", Mode::Nat, "rs2", "ip addr add 10.0.0.11/24 dev eth0", "10.0.0.11"),
    ("port_closed", Mode::Nat, LAZY, KEEP, KEEP, "real server 10.0.0.11"),
    ("port_closed", Mode::FullNat, LAZY, KEEP, KEEP, "real server 10.0.0.11"),
    ("port_closed", Mode::Dr, LAZY, KEEP, KEEP, "real server 192.0.2.11"),
    ("port_closed", Mode::Tun, LAZY, KEEP, KEEP, "real server 10.0.0.11"),
    broken("port_silent", Mode::FullNat, "rs1", "ip route add blackhole 10.0.0.1", "real server 10.0.0.11"),
    broken("gateway_bypasses", Mode::Nat, "rs1", "ip route del default", "real server 10.0.0.11"),
    broken(
        "gateway_bypasses",
        Mode::Nat,
        "rs1",
        "ip route replace default via 10.0.0.12",
        "real server 10.0.0.11",
    ),
    broken("vip_missing", Mode::Dr, "rs1", "ip addr del 192.0.2.10/32 dev lo", "real server 192.0.2.11"),
    broken(
        "arp_ignore",
        Mode::Dr,
        "rs1",
        "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore",
        "real server 192.0.2.11",
    ),
    broken(
        "arp_announce",
        Mode::Dr,
        "rs1",
        "echo 0 > /proc/sys/net/ipv4/conf/all/arp_announce",
        "real server 192.0.2.11",
    ),
    ("no_tunnel", Mode::Tun, BARE, KEEP, KEEP, "real server 10.0.0.11"),
    broken(
        "tunnel_swallows",
        Mode::Tun,
        "rs1",
        "ip addr del 192.0.2.10/32 dev lvstun0",
        "real server 10.0.0.11",
    ),
    broken(
        "tunnel_swallows",
        Mode::Tun,
        "rs1",
        "echo 1 > /proc/sys/net/ipv4/conf/lvstun0/rp_filter",
        "real server 10.0.0.11",
    ),
    broken("path_mtu", Mode::Nat, "rs1", "ip link set eth0 mtu 1300", "real server 10.0.0.11"),
];

/// The same for IPv6, and for datagrams.
pub(crate) const UDP: (&str, &str) = ("protocol = \"tcp\"", "protocol = \"udp\"");
pub(crate) const SEEDS6: &[Seed] = &[
    (
        "address_in_kernel",
        Mode::Nat,
        WELL,
        KEEP,
        (
            "director",
            "echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; ip addr add 2001:db8:1::10/128 dev lo",
        ),
        "2001:db8:1::10",
    ),
    broken("ip_forward", Mode::Nat, "director", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding", "eth0"),
    broken("neighbour_silent", Mode::Tun, "router", "ip link set eth0 down", "gateway 2001:db8:"),
    broken("neighbour_silent", Mode::Nat, "rs1", "ip link set eth0 down", "real server 2001:db8:2::11"),
    (
        "neighbour_other_mac",
        Mode::Nat,
        WELL,
        (
            "packet = \"eth1\"",
            "packet = \"eth1\"\nneighbors = { \"2001:db8:2::11\" = \"02:00:00:00:00:99\" }",
        ),
        KEEP,
        "real server 2001:db8:2::11",
    ),
    broken(
        "duplicate_address",
        Mode::Nat,
        "rs2",
        "ip addr add 2001:db8:2::1/64 dev eth0 nodad",
        "2001:db8:2::1",
    ),
    broken(
        "duplicate_address",
        Mode::Nat,
        "client",
        "ip addr add 2001:db8:1::10/64 dev eth0 nodad",
        "2001:db8:1::10",
    ),
    broken(
        "vip_announced",
        Mode::Dr,
        "rs1",
        "ip addr add 2001:db8:1::10/64 dev eth0 nodad",
        "real server 2001:db8:1::11",
    ),
    ("port_closed", Mode::Nat, LAZY, KEEP, KEEP, "real server 2001:db8:2::11"),
    ("port_closed", Mode::Dr, LAZY, KEEP, KEEP, "real server 2001:db8:1::11"),
    ("port_closed", Mode::Tun, LAZY, KEEP, KEEP, "real server 2001:db8:2::11"),
    broken("gateway_bypasses", Mode::Nat, "rs1", "ip -6 route del default", "real server 2001:db8:2::11"),
    broken(
        "vip_missing",
        Mode::Dr,
        "rs1",
        "ip addr del 2001:db8:1::10/128 dev lo",
        "real server 2001:db8:1::11",
    ),
    ("no_tunnel", Mode::Tun, BARE, KEEP, KEEP, "real server 2001:db8:2::11"),
    broken(
        "tunnel_swallows",
        Mode::Tun,
        "rs1",
        "ip addr del 2001:db8:1::10/128 dev lvstun0",
        "real server 2001:db8:2::11",
    ),
    broken("path_mtu", Mode::Nat, "rs1", "ip link set eth0 mtu 1300", "real server 2001:db8:2::11"),
    ("port_closed", Mode::Nat, LAZY, UDP, KEEP, "real server 2001:db8:2::11"),
    ("port_closed", Mode::Dr, LAZY, UDP, KEEP, "real server 2001:db8:1::11"),
    ("port_closed", Mode::Tun, LAZY, UDP, KEEP, "real server 2001:db8:2::11"),
    broken_udp("gateway_bypasses", Mode::Nat, "rs1", "ip -6 route del default", "real server 2001:db8:2::11"),
    broken_udp(
        "vip_missing",
        Mode::Dr,
        "rs1",
        "ip addr del 2001:db8:1::10/128 dev lo",
        "real server 2001:db8:1::11",
    ),
    ("no_tunnel", Mode::Tun, BARE, UDP, KEEP, "real server 2001:db8:2::11"),
];
pub(crate) const UDP4: &[Seed] = &[
    ("port_closed", Mode::Nat, LAZY, UDP, KEEP, "real server 10.0.0.11"),
    ("port_closed", Mode::Dr, LAZY, UDP, KEEP, "real server 192.0.2.11"),
    ("port_closed", Mode::Tun, LAZY, UDP, KEEP, "real server 10.0.0.11"),
    broken_udp("gateway_bypasses", Mode::Nat, "rs1", "ip route del default", "real server 10.0.0.11"),
    broken_udp("vip_missing", Mode::Dr, "rs1", "ip addr del 192.0.2.10/32 dev lo", "real server 192.0.2.11"),
    ("no_tunnel", Mode::Tun, BARE, UDP, KEEP, "real server 10.0.0.11"),
];

/// The same for SCTP, which nobody listens for here, and for services by mark.
const SCTP: (&str, &str) = ("protocol = \"tcp\"", "protocol = \"sctp\"");
const MARK: (&str, &str) = (
    "[[service]]\nname = \"web\"\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\nports = [\"outside\"]\n",
    "[[mark]]\nmark = 7\nto = \"192.0.2.10/32\"\nports = \"80\"\nprotocol = \"tcp\"\n[[service]]\nname = \"web\"\nfwmark = 7\n",
);
const MARK6: (&str, &str) = (
    "[[service]]\nname = \"web\"\naddress = \"[2001:db8:1::10]:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\nports = [\"outside\"]\n",
    "[[mark]]\nmark = 7\nto = \"2001:db8:1::10/128\"\nports = \"80\"\nprotocol = \"tcp\"\n[[service]]\nname = \"web\"\nfwmark = 7\nfamily = \"ipv6\"\n",
);

/// The file with a change; real servers that cannot map ports have none in services by mark.
pub(crate) fn changed(toml: &str, (was, is): (&str, &str)) -> String {
    let toml = toml.replace(was, is);
    if !is.contains("fwmark") {
        return toml;
    }
    let bare = |line: &str| {
        let at = line.strip_prefix("address = \"").and_then(|l| l.strip_suffix(":80\"")).map(str::to_owned);
        at.map_or(line.to_owned(), |at| format!("address = \"{}\"", at.trim_matches(['[', ']'])))
    };
    toml.lines().map(bare).collect::<Vec<_>>().join("\n")
}

pub(crate) const OTHERS: &[Seed] = &[
    ("port_closed", Mode::Nat, WELL, SCTP, KEEP, "real server 10.0.0.11"),
    ("port_closed", Mode::Dr, WELL, SCTP, KEEP, "real server 192.0.2.11"),
    ("port_closed", Mode::Tun, WELL, SCTP, KEEP, "real server 10.0.0.11"),
    ("gateway_bypasses", Mode::Nat, WELL, SCTP, ("rs1", "ip route del default"), "real server 10.0.0.11"),
    (
        "vip_missing",
        Mode::Dr,
        WELL,
        SCTP,
        ("rs1", "ip addr del 192.0.2.10/32 dev lo"),
        "real server 192.0.2.11",
    ),
    ("no_tunnel", Mode::Tun, BARE, SCTP, KEEP, "real server 10.0.0.11"),
    (
        "tunnel_swallows",
        Mode::Tun,
        WELL,
        SCTP,
        ("rs1", "ip addr del 192.0.2.10/32 dev lvstun0"),
        "real server 10.0.0.11",
    ),
    (
        "arp_ignore",
        Mode::Dr,
        WELL,
        SCTP,
        ("rs1", "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore"),
        "real server 192.0.2.11",
    ),
    ("port_closed", Mode::Nat, LAZY, MARK, KEEP, "real server 10.0.0.11"),
    ("port_closed", Mode::Dr, LAZY, MARK, KEEP, "real server 192.0.2.11"),
    ("gateway_bypasses", Mode::Nat, WELL, MARK, ("rs1", "ip route del default"), "real server 10.0.0.11"),
    (
        "vip_missing",
        Mode::Dr,
        WELL,
        MARK,
        ("rs1", "ip addr del 192.0.2.10/32 dev lo"),
        "real server 192.0.2.11",
    ),
    ("no_tunnel", Mode::Tun, BARE, MARK, KEEP, "real server 10.0.0.11"),
    (
        "tunnel_swallows",
        Mode::Tun,
        WELL,
        MARK,
        ("rs1", "ip addr del 192.0.2.10/32 dev lvstun0"),
        "real server 10.0.0.11",
    ),
    (
        "arp_ignore",
        Mode::Dr,
        WELL,
        MARK,
        ("rs1", "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore"),
        "real server 192.0.2.11",
    ),
    (
        "arp_announce",
        Mode::Dr,
        WELL,
        MARK,
        ("rs1", "echo 0 > /proc/sys/net/ipv4/conf/all/arp_announce"),
        "real server 192.0.2.11",
    ),
];
pub(crate) const OTHERS6: &[Seed] = &[
    ("port_closed", Mode::Tun, WELL, SCTP, KEEP, "real server 2001:db8:2::11"),
    (
        "gateway_bypasses",
        Mode::Nat,
        WELL,
        SCTP,
        ("rs1", "ip -6 route del default"),
        "real server 2001:db8:2::11",
    ),
    (
        "vip_missing",
        Mode::Dr,
        WELL,
        SCTP,
        ("rs1", "ip addr del 2001:db8:1::10/128 dev lo"),
        "real server 2001:db8:1::11",
    ),
    ("no_tunnel", Mode::Tun, BARE, SCTP, KEEP, "real server 2001:db8:2::11"),
    (
        "vip_missing",
        Mode::Dr,
        WELL,
        MARK6,
        ("rs1", "ip addr del 2001:db8:1::10/128 dev lo"),
        "real server 2001:db8:1::11",
    ),
    (
        "gateway_bypasses",
        Mode::Nat,
        WELL,
        MARK6,
        ("rs1", "ip -6 route del default"),
        "real server 2001:db8:2::11",
    ),
];

in_namespaces! {
    fn doctor_looks_at_the_kernels_side_of_tap_and_tun_devices() {
        if !gate::tap() {
            return;
        }
        let clinic = Clinic::new(Mode::Nat, true, false);
        let found = |kind: &str| {
            let toml = format!("[[port]]\n{kind} = \"dev9\"\nmtu = 1700\naddresses = [\"10.9.0.2/24\"]\n\
                [[service]]\naddress = \"10.9.0.100:80\"\n");
            let plan = config::check(&toml, "f").unwrap();
            let told = clinic.ns("director").run(|| {
                let mut told = Examination::default();
                told.topology(&plan, |_| Err(String::new()));
                Ok::<_, io::Error>(told)
            });
            let names: Vec<String> = told.unwrap().findings.iter().map(|f| f.name.to_string()).collect();
            names.join(" ")
        };
        for kind in ["tap", "tun"] {
            assert_eq!(found(kind), "", "a device that is not there yet is made by the director");
            clinic.sh("director", &format!("ip tuntap add dev9 mode {kind}"));
            assert_eq!(found(kind), "device_unconnected interface_down interface_mtu");
            clinic.sh("director", "ip link set dev9 mtu 1700 up; ip addr add 10.9.0.1/24 dev dev9");
            assert_eq!(found(kind), "");
            clinic.sh("director", "ip addr add 10.9.0.100/32 dev lo");
            assert_eq!(found(kind), "address_in_kernel");
            clinic.sh("director", "ip addr del 10.9.0.100/32 dev lo; ip link del dev9");
        }
        clinic.sh("director", "ip tuntap add dev9 mode tap; ip link add br9 type bridge; \
            ip link set dev9 mtu 1700 master br9 up");
        assert_eq!(found("tap"), "");
    }
}

in_namespaces! {
    fn doctor_names_each_of_the_seeded_misconfigurations_with_its_remedy() {
        let all: Vec<(bool, &Seed)> =
            {
            let four = SEEDS.iter().chain(UDP4).chain(OTHERS).map(|s| (false, s));
            four.chain(SEEDS6.iter().chain(OTHERS6).map(|s| (true, s))).collect()
        };
        let wrong = Mutex::new(Vec::new());
        each(&all, |(ipv6, (name, mode, (lazy, bare), (was, is), (host, line), about))| {
            let mut clinic = Clinic::of(Layout::new(*mode, *ipv6, 2, Encapsulation::Ipip), *lazy, *bare);
            clinic.toml = changed(&clinic.toml, (was, is));
            if *name == "ip_forward" {
                clinic.toml = clinic.toml.lines().map(|l| if l.starts_with("mac = ") { "mac = \"inherit\"" } else { l }).collect::<Vec<_>>().join("\n");
            }
            if !line.is_empty() {
                clinic.sh(host, line);
            }
            let found = clinic.examine();
            let it = found.iter().find(|f| f.name == *name && f.about.contains(about));
            if it.is_none_or(|f| f.remedy.is_empty()) {
                wrong.lock().unwrap().push(format!("{name} ({mode:?}, {ipv6}, {host}: {line}): {found:#?}"));
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    }
}
