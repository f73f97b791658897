//! XDP ports beside the kernel's own stack: who gets what, and how the program comes and goes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use softlvs::io::sys::ns::NetNs;
use softlvs::io::xdp;
use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::{self, Attach, Cell};
use crate::gate;
use crate::sniff::eventually;
use crate::traffic::{self, Server};
use crate::wires::{Host, PROGRAM, Running, program_for_others, run_to_end};

macro_rules! cells {
    ($($name:ident: $mode:ident $ipv6:literal $generic:literal $inherit:literal;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                let attach = Attach { generic: $generic, inherit: $inherit, workers: 1, web: "" };
                cell::run_with(Mode::$mode, Io::Xdp, $ipv6, Encapsulation::Ipip, attach);
            }
        })*
    };
}

cells! {
    nat_generic_ipv4: Nat false true false;
    dr_generic_ipv6: Dr true true false;
    nat_with_the_interfaces_mac_ipv4: Nat false false true;
    nat_with_the_interfaces_mac_ipv6: Nat true false true;
    fullnat_with_the_interfaces_mac_ipv4: FullNat false false true;
    dr_with_the_interfaces_mac_ipv6: Dr true false true;
    tun_with_the_interfaces_mac_ipv4: Tun false false true;
}

/// What `ip link` says about an XDP program on the director's interface.
fn program_on(ns: &NetNs, interface: &str) -> bool {
    let out = ns.run(|| Command::new("ip").args(["link", "show", "dev", interface]).output()).unwrap();
    String::from_utf8_lossy(&out.stdout).contains("xdp")
}

crate::in_namespaces! {
    fn a_killed_director_leaves_no_program_behind() {
        if !gate::xdp() {
            return;
        }
        let mut cell = Cell::start(Mode::Nat, Io::Xdp, false, Encapsulation::Ipip);
        let ns = cell.topology.node("director").unwrap().ns.try_clone().unwrap();
        assert!(program_on(&ns, "eth0") && program_on(&ns, "eth1"));
        kill(Pid::from_raw(cell.director.pid() as i32), Signal::SIGKILL).unwrap();
        eventually(Duration::from_secs(5), "the program is gone", || {
            !cell.director.alive() && !program_on(&ns, "eth0") && !program_on(&ns, "eth1")
        });
    }
}

crate::in_namespaces! {
    fn the_program_cannot_be_taken_off_by_mistake() {
        if !gate::xdp() {
            return;
        }
        let mut cell = Cell::start(Mode::Nat, Io::Xdp, false, Encapsulation::Ipip);
        let ns = cell.topology.node("director").unwrap().ns.try_clone().unwrap();
        let udp = cell.udp();
        cell.client().run(|| traffic::ask_udp(udp, "before")).unwrap();
        let out = ns
            .run(|| Command::new("ip").args(["link", "set", "dev", "eth0", "xdp", "off"]).output())
            .unwrap();
        // the kernel protects a program that is attached by a link
        assert!(!out.status.success(), "{out:?}");
        assert!(program_on(&ns, "eth0"));
        cell.client().run(|| traffic::ask_udp(udp, "after")).unwrap();
        cell.stop();
        assert!(!program_on(&ns, "eth0"));
    }
}

/// Detaches the programs of a director that are of this kind, as an administrator would who knows better.
pub fn detach_by_force(director: u32, kind: &str) -> usize {
    let mut links = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{director}/fdinfo")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        if field("link_type:") == Some(kind) {
            links.extend(field("link_id:").map(str::to_owned));
        }
    }
    for id in &links {
        let out = Command::new("bpftool").args(["link", "detach", "id", id]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }
    links.len()
}

crate::in_namespaces! {
    fn a_program_that_is_taken_off_by_force_is_put_back_and_traffic_goes_on() {
        if !gate::xdp() || !gate::program("bpftool") {
            return;
        }
        let mut cell = Cell::start(Mode::Nat, Io::Xdp, false, Encapsulation::Ipip);
        let ns = cell.topology.node("director").unwrap().ns.try_clone().unwrap();
        let udp = cell.udp();
        cell.client().run(|| traffic::ask_udp(udp, "before")).unwrap();
        assert_eq!(detach_by_force(cell.director.pid(), "xdp"), 2);
        let back = "the XDP program was taken off the interface and is back";
        eventually(Duration::from_secs(10), "the programs are back", || {
            assert!(cell.director.alive());
            cell.director.log().matches(back).count() == 2
        });
        assert!(program_on(&ns, "eth0") && program_on(&ns, "eth1"));
        for _ in 0..20 {
            cell.client().run(|| traffic::ask_udp(udp, "after")).unwrap();
        }
        cell.stop();
        assert!(!program_on(&ns, "eth0") && !program_on(&ns, "eth1"));
    }
}

crate::in_namespaces! {
    fn a_program_that_took_the_directors_place_is_named_and_outlived() {
        if !gate::xdp() || !gate::program("bpftool") {
            return;
        }
        let mut cell = Cell::start(Mode::Nat, Io::Xdp, false, Encapsulation::Ipip);
        let ns = cell.topology.node("director").unwrap().ns.try_clone().unwrap();
        let director = Pid::from_raw(cell.director.pid() as i32);
        let udp = cell.udp();
        // while it cannot look
        kill(director, Signal::SIGSTOP).unwrap();
        assert_eq!(detach_by_force(cell.director.pid(), "xdp"), 2);
        let other = ns
            .run(|| {
                let mac = softlvs::addr::Mac([2, 0, 0, 0, 0, 0x77]);
                let f = xdp::Filter::new("eth0", mac, true, xdp::XdpMode::Auto, 1).map_err(std::io::Error::other)?;
                f.attach()?;
                Ok(f)
            })
            .unwrap();
        kill(director, Signal::SIGCONT).unwrap();
        let taken = "another XDP program has taken the place of the director's";
        eventually(Duration::from_secs(10), "it says so", || cell.director.log().contains(taken));
        assert!(cell.client().run(|| traffic::ask_udp(udp, "meanwhile")).is_err());
        drop(other);
        eventually(Duration::from_secs(10), "the programs are back", || {
            assert!(cell.director.alive());
            cell.director.log().matches("and is back").count() == 2
        });
        assert_eq!(cell.director.log().matches(taken).count(), 1, "said once");
        for _ in 0..20 {
            cell.client().run(|| traffic::ask_udp(udp, "after")).unwrap();
        }
        cell.stop();
    }
}

/// A TCP conversation with the host's own address that goes on until told to stop: rounds done.
struct Talk {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Talk {
    fn start(host: &NetNs, client: &NetNs, to: SocketAddr) -> Talk {
        let listener = host.run(|| TcpListener::bind(to)).unwrap();
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut buf = [0; 2000];
            loop {
                let n = stream.read(&mut buf)?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&buf[..n])?;
            }
        });
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), rounds.clone());
        let thread = client
            .spawn("talk", move || {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                let mut buf = [0; 1500];
                while !stopped.load(Ordering::Relaxed) {
                    stream.write_all(&buf)?;
                    stream.read_exact(&mut buf)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            })
            .unwrap();
        Talk { stop, rounds, thread: Some(thread) }
    }
    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().expect("the conversation with the host broke");
        self.rounds.load(Ordering::Relaxed)
    }
}

/// A host with addresses and services of its own, and a director on the same interface.
fn beside_the_host(v6: bool, mac: &str) {
    if !gate::xdp() {
        return;
    }
    let (mut host, mut client) = (Host::new(), Host::new());
    client.wire("eth0", &mut host, "eth0");
    let n = |n: u8| -> IpAddr {
        if v6 { format!("2001:db8:1::{n}") } else { format!("192.0.2.{n}") }.parse().unwrap()
    };
    let on = |ip: IpAddr| format!("{ip}/{}", if v6 { 64 } else { 24 });
    host.address("eth0", &on(n(5)));
    client.address("eth0", &on(n(1)));
    let talk = Talk::start(&host.ns, &client.ns, SocketAddr::new(n(5), 22));
    eventually(Duration::from_secs(5), "the conversation begins", || talk.rounds.load(Ordering::Relaxed) > 0);

    let server = SocketAddr::new(n(1), 8080);
    let _server = Server::start(&client.ns, "rs", server, server);
    let toml = format!(
        "[director]\nmode = \"fullnat\"\n[[port]]\nname = \"p\"\nxdp = \"eth0\"\nmac = \"{mac}\"\n\
         addresses = [\"{}\"]\n[[service]]\naddress = \"{}\"\nprotocol = \"tcp\"\n[[service.real]]\naddress = \"{server}\"\n",
        on(n(2)),
        SocketAddr::new(n(10), 80),
    );
    let mut director = Running::start(&host.ns, &toml);
    eventually(Duration::from_secs(10), "running", || {
        assert!(director.director.alive(), "it ended");
        director.director.log().contains("running:")
    });
    let before = talk.rounds.load(Ordering::Relaxed);
    for _ in 0..3 {
        client
            .ns
            .run(|| {
                traffic::upload(SocketAddr::new(n(10), 80))?;
                traffic::download(SocketAddr::new(n(10), 80))?;
                traffic::ping(n(10), 1)?;
                // the host itself answers for itself, and is asked by ARP or ND anew
                traffic::ping(n(5), 1)?;
                Command::new("ip").args(["neigh", "flush", "dev", "eth0"]).status()?;
                Ok(())
            })
            .unwrap();
    }
    // a new address of the host is noticed
    host.address("eth0", &on(n(6)));
    std::thread::sleep(Duration::from_millis(1500));
    client.ns.run(|| traffic::ping(n(6), 2)).unwrap();
    let rounds = talk.finish();
    assert!(rounds > before + 20, "the conversation with the host stood still: {before}, {rounds}");
    director.stop();
}

crate::in_namespaces! {
    fn the_hosts_own_traffic_is_not_disturbed() {
        beside_the_host(false, "02:00:00:00:00:99");
        beside_the_host(true, "02:00:00:00:00:99");
    }
}

crate::in_namespaces! {
    fn the_hosts_own_traffic_is_not_disturbed_on_its_own_mac() {
        beside_the_host(false, "inherit");
        beside_the_host(true, "inherit");
    }
}

const SERVICE: [&str; 6] = ["--address", "192.0.2.2/24", "--vip", "192.0.2.10:80", "--real", "192.0.2.11:80"];

fn refused(host: &Host, command: &mut Command) -> (i32, Vec<String>) {
    let (status, said) = run_to_end(&host.ns, command.args(["--xdp", "eth0"]).args(SERVICE));
    (status, said.lines().map(str::to_owned).collect())
}

crate::in_namespaces! {
    fn an_interface_with_a_program_is_refused() {
        if !gate::xdp() {
            return;
        }
        let (mut host, mut other) = (Host::silent(), Host::silent());
        host.wire("eth0", &mut other, "eth0");
        let toml = "[[port]]\nname = \"p\"\nxdp = \"eth0\"\naddresses = [\"192.0.2.3/24\"]\n";
        let first = Running::start(&host.ns, toml);
        eventually(Duration::from_secs(10), "running", || first.director.log().contains("running:"));
        let (status, said) = refused(&host, &mut Command::new(PROGRAM));
        assert_eq!(status, 1);
        assert_eq!(said, [
            "softlvs: error: cannot open an XDP port on eth0: the interface has an XDP program already",
            "help: stop what put it there (`ip link show dev eth0` shows its number), or take it off: `ip link \
             set dev eth0 xdp off`, or use a raw port: `--packet eth0`",
        ]);
        first.stop();
        assert!(!program_on(&host.ns, "eth0"));
    }
}

crate::in_namespaces! {
    fn without_the_privilege_each_cause_has_its_remedy() {
        if !gate::xdp() {
            return;
        }
        let (mut host, mut other) = (Host::silent(), Host::silent());
        host.wire("eth0", &mut other, "eth0");
        let (_folder, program) = program_for_others();
        let nobody = |caps: &str, limit: &str| {
            let mut c = Command::new("setpriv");
            c.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            c.args([format!("--inh-caps={caps}"), format!("--ambient-caps={caps}")]);
            c.args(["prlimit", &format!("--memlock={limit}")]).arg(&program).current_dir("/");
            c
        };
        let (status, said) = refused(&host, &mut nobody("-all", "8388608"));
        assert_eq!(status, 1, "{said:?}");
        assert!(said[0].contains("CAP_BPF and CAP_NET_ADMIN in the initial user namespace"), "{said:?}");
        assert!(said[1].contains("setcap") && said[1].contains("--packet eth0"), "{said:?}");
        let (status, said) = refused(&host, &mut nobody("+bpf,+net_admin,+net_raw", "65536"));
        assert_eq!(status, 1, "{said:?}");
        assert!(said[0].contains("RLIMIT_MEMLOCK"), "{said:?}");
        assert!(said[1].contains("ulimit -l"), "{said:?}");
    }
}

crate::in_namespaces! {
    fn auto_says_in_one_line_what_it_took_and_why() {
        let (mut host, mut other) = (Host::silent(), Host::silent());
        host.wire("eth0", &mut other, "eth0");
        let toml = "[[port]]\nname = \"p\"\ndevice = \"eth0\"\naddresses = [\"192.0.2.3/24\"]\n";
        let director = Running::start(&host.ns, toml);
        eventually(Duration::from_secs(10), "running", || director.director.log().contains("running:"));
        let log = director.director.log();
        let line = log.lines().find(|l| l.contains("port p:")).unwrap();
        assert!(line.contains("packet (not xdp: its packets come from this machine"), "{line}");
        director.stop();
    }
}
