//! Devices that vanish and links that flap under load, and starts that must be refused.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use softlvs::io::sys::netlink::Netlink;
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::director::Director;
use softlvs::lab::layout::Net;
use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::Cell;
use crate::gate;
use crate::sniff::eventually;
use crate::traffic::{self, Server};
use crate::wires::{Host, PROGRAM, Running, program_for_others, run_to_end};

// ---------------------------------------------------------------- devices

/// Datagrams to the service, as many as go, until dropped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Load {
    fn start(client: &NetNs, to: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = client
            .spawn("load", move || {
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                socket.set_nonblocking(true).unwrap();
                let mut sent = 0;
                while !stopped.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        // Refused or lost: the load goes on.
                        sent += u64::from(socket.send_to(&[b'x'; 200], to).is_ok());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent
            })
            .unwrap();
        Load { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Processor time that a process has used.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc_pid_stat(5): behind the name in parentheses, utime and stime are the 12th and 13th field.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_millis(ticks * 1000 / per_second as u64)
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn lines(director: &Director) -> usize {
    director.log().lines().count()
}

/// Name of the director's outside device.
fn device(io: Io) -> &'static str {
    if io == Io::Tap { "tap0" } else { "eth0" }
}

/// Everything works: a connection from before, a new one, and many bytes.
fn works(cell: &Cell, old: &std::net::TcpStream) {
    let (tcp, udp) = (cell.tcp(), cell.udp());
    eventually(Duration::from_secs(10), "the service answers again", || {
        cell.client().run(|| traffic::ask_udp(udp, "again")).is_ok()
    });
    traffic::ask(old, "still-there").expect("the connection from before");
    cell.client().run(|| traffic::upload(tcp)).unwrap();
    cell.client().run(|| traffic::download(tcp)).unwrap();
}

fn deleted_under_load(io: Io, ipv6: bool) {
    if !gate::io(io) {
        return;
    }
    let mut cell = Cell::start(Mode::Nat, io, ipv6, Encapsulation::Ipip);
    let tcp = cell.tcp();
    let old = cell.client().run(|| traffic::connect(tcp)).unwrap();
    traffic::ask(&old, "before").unwrap();
    let load = Load::start(cell.client(), cell.udp());
    std::thread::sleep(Duration::from_millis(200));

    let pid = cell.director.pid();
    let said = lines(&cell.director);
    let mut links = Netlink::open_in(&cell.topology.node("director").unwrap().ns).unwrap();
    let index = links.index(device(io)).unwrap();
    links.delete_link(index).unwrap();
    let before = processor_time(pid);
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_time(pid) - before;
    assert!(cell.director.alive(), "it ended when its device was deleted");
    // one that spins without a device takes all of it; a TAP that is made again goes on with the load
    assert!(used < Duration::from_millis(800), "{used:?} of 2 s used up around a deleted device");
    assert!(lines(&cell.director) < said + 10, "it floods its log");

    let mut switch = Netlink::open_in(cell.topology.switch_ns()).unwrap();
    let port = if io == Io::Tap {
        // The director makes its device itself, and puts it back into its bridge.
        let bridge = switch.index(Net::Outside.bridge()).unwrap();
        eventually(Duration::from_secs(5), "the director makes its device again", || {
            links.link("tap0").is_ok_and(|tap| tap.master == Some(bridge))
        });
        None
    } else {
        let ns = cell.topology.node("director").unwrap().ns.try_clone().unwrap();
        switch.add_veth("director-0", "eth0", Some(&ns)).unwrap();
        let index = links.index("eth0").unwrap();
        links.set_up(index, true).unwrap();
        Some("director-0")
    };
    if let Some(port) = port {
        let (port, bridge) = (switch.index(port).unwrap(), switch.index(Net::Outside.bridge()).unwrap());
        switch.set_master(port, bridge).unwrap();
        switch.set_up(port, true).unwrap();
    }
    works(&cell, &old);
    assert!(load.finish() > 1000, "there was no load");
    cell.stop();
}

fn flaps_under_load(io: Io) {
    if !gate::io(io) {
        return;
    }
    let mut cell = Cell::start(Mode::Nat, io, false, Encapsulation::Ipip);
    let tcp = cell.tcp();
    let old = cell.client().run(|| traffic::connect(tcp)).unwrap();
    traffic::ask(&old, "before").unwrap();
    let load = Load::start(cell.client(), cell.udp());
    let pid = cell.director.pid();
    let (said, open) = (lines(&cell.director), descriptors(pid));
    let mut links = Netlink::open_in(&cell.topology.node("director").unwrap().ns).unwrap();
    let index = links.index(device(io)).unwrap();
    for _ in 0..10 {
        links.set_up(index, false).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        links.set_up(index, true).unwrap();
        std::thread::sleep(Duration::from_millis(40));
    }
    works(&cell, &old);

    links.set_up(index, false).unwrap();
    let before = processor_time(pid);
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_time(pid) - before;
    assert!(used < Duration::from_millis(200), "{used:?} of 2 s used up while the link was down");
    links.set_up(index, true).unwrap();
    works(&cell, &old);
    assert!(lines(&cell.director) < said + 15, "it floods its log:\n{}", cell.director.log());
    assert_eq!(descriptors(pid), open, "descriptors");
    assert!(load.finish() > 1000, "there was no load");
    cell.stop();
}

crate::in_namespaces! {
    fn raw_device_deleted_under_load_and_returned() {
        deleted_under_load(Io::Packet, false);
    }
}

crate::in_namespaces! {
    fn xdp_device_deleted_under_load_and_returned() {
        deleted_under_load(Io::Xdp, false);
    }
}

crate::in_namespaces! {
    fn xdp_link_flaps_under_load() {
        flaps_under_load(Io::Xdp);
    }
}

crate::in_namespaces! {
    fn tap_device_deleted_under_load_and_returned() {
        deleted_under_load(Io::Tap, true);
    }
}

crate::in_namespaces! {
    fn raw_link_flaps_under_load() {
        flaps_under_load(Io::Packet);
    }
}

crate::in_namespaces! {
    fn tap_link_flaps_under_load() {
        flaps_under_load(Io::Tap);
    }
}

// ---------------------------------------------------------------- refusals

/// Options of a whole director but for its port.
const SERVICE: [&str; 6] = ["--address", "192.0.2.2/24", "--vip", "192.0.2.10:80", "--real", "192.0.2.11:80"];

/// A host with one wire, `eth0`.
fn host() -> (Host, Host) {
    let (mut host, mut other) = (Host::silent(), Host::silent());
    host.wire("eth0", &mut other, "eth0");
    (host, other)
}

fn refused(host: &Host, port: &[&str]) -> (i32, String) {
    run_to_end(&host.ns, Command::new(PROGRAM).args(port).args(SERVICE))
}

/// The whole text, and the exit status.
fn assert_refused(got: (i32, String), status: i32, text: &[&str]) {
    assert_eq!((got.0, got.1.lines().collect::<Vec<_>>()), (status, text.to_vec()));
}

crate::in_namespaces! {
    fn a_vip_that_the_kernel_has_too_is_refused() {
        let (mut host, _other) = host();
        host.address("lo", "192.0.2.10/32");
        assert_refused(
            refused(&host, &["--packet", "eth0"]),
            1,
            &[
                "softlvs: error: 192.0.2.10 is configured in the kernel too, on lo: the kernel would answer \
                 beside softlvs, with resets",
                "help: remove it from the kernel: `ip address del 192.0.2.10/32 dev lo` (with its own prefix \
                 length), or set `guard = true` on the raw ports",
            ],
        );
        if gate::tap() {
            assert_refused(
                refused(&host, &["--tap", "tap0"]),
                1,
                &[
                    "softlvs: error: 192.0.2.10 is configured in the kernel too, on lo: the kernel keeps its \
                     packets, softlvs would never see them",
                    "help: remove it from the kernel: `ip address del 192.0.2.10/32 dev lo` (with its own \
                     prefix length)",
                ],
            );
        }
    }
}

/// The kernel owns both VIPs and forwards: it would answer ARP and neighbour solicitations, reset every
/// connection, and send what passes a second time.
fn guarded(mac: &str) {
    if Command::new("nft").arg("--version").output().is_err() {
        return gate::skip("no nft here");
    }
    let (mut host, mut client) = (Host::new(), Host::new());
    client.wire("eth0", &mut host, "eth0");
    let mut toml = format!(
        "[director]\nmode = \"fullnat\"\n[[port]]\nname = \"p\"\npacket = \"eth0\"\nguard = true\n\
         mac = \"{mac}\"\naddresses = [\"192.0.2.2/24\", \"2001:db8:1::2/64\"]\n",
    );
    // The real server is the client's own host: the second leg needs no further one.
    let (vips, reals) = (["192.0.2.10", "2001:db8:1::10"], ["192.0.2.1", "2001:db8:1::1"]);
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    let mut servers = Vec::new();
    for ((vip, real), len) in vips.into_iter().zip(reals).zip([24, 64]) {
        client.address("eth0", &format!("{real}/{len}"));
        host.address("eth0", &format!("{vip}/{len}"));
        servers.push(Server::start(&client.ns, "rs", at(real, 8080), at(real, 8080)));
        toml += &format!(
            "[[service]]\naddress = \"{}\"\nprotocol = \"tcp\"\n[[service.real]]\naddress = \"{}\"\n",
            at(vip, 80),
            at(real, 8080)
        );
    }
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    let mut director = Running::start(&host.ns, &toml);
    eventually(Duration::from_secs(10), "running", || {
        assert!(director.director.alive(), "it ended");
        director.director.log().contains("running:")
    });
    for vip in vips {
        client
            .ns
            .run(|| {
                traffic::upload(at(vip, 80))?;
                traffic::download(at(vip, 80))?;
                traffic::ping(vip.parse().unwrap(), 3)
            })
            .unwrap_or_else(|e| panic!("{vip}: {e}"));
    }
    director.stop();
    let rules = host.ns.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap();
    assert_eq!(String::from_utf8_lossy(&rules.stdout), "", "what is left of the guard");
}

crate::in_namespaces! {
    fn with_a_guard_the_kernel_may_have_the_vip_too() {
        guarded("02:00:00:00:00:99");
        guarded("inherit");
    }
}

crate::in_namespaces! {
    fn a_kernel_that_would_forward_the_same_frames_is_refused() {
        let (host, _other) = host();
        host.sysctl("net.ipv4.ip_forward", "1");
        let (status, said) = refused(&host, &["--packet", "eth0", "--mac", "inherit"]);
        assert_eq!(status, 1, "{said}");
        assert!(said.starts_with("softlvs: error: ") && said.contains("ip_forward"), "{said}");
        assert!(said.lines().nth(1).is_some_and(|l| l.starts_with("help: ")), "{said}");
    }
}

crate::in_namespaces! {
    fn a_device_that_somebody_else_has_is_refused() {
        if !gate::tap() {
            return;
        }
        let (host, _other) = host();
        let toml = "[[port]]\nname = \"p\"\ntap = \"tap0\"\naddresses = [\"192.0.2.2/24\"]\n";
        let first = Running::start(&host.ns, toml);
        let mut links = Netlink::open_in(&host.ns).unwrap();
        eventually(Duration::from_secs(10), "no tap0", || links.index("tap0").is_ok());
        eventually(Duration::from_secs(10), "not running", || first.director.log().contains("running:"));
        assert_refused(
            refused(&host, &["--tap", "tap0"]),
            1,
            &[
                "softlvs: error: cannot open TAP device tap0: another process has it",
                "help: stop that process (`ip tuntap list` shows it), or make the device with `ip tuntap add dev \
                 tap0 mode tap multi_queue`",
            ],
        );
        assert_refused(
            refused(&host, &["--tap", "eth0"]),
            1,
            &[
                "softlvs: error: cannot open TAP device eth0: an interface eth0 of another kind or with other \
                 flags exists",
                "help: choose another name, or delete it: `ip link delete eth0`",
            ],
        );
        first.stop();
    }
}

crate::in_namespaces! {
    fn an_interface_that_is_not_there_is_refused() {
        let (host, _other) = host();
        assert_refused(
            refused(&host, &["--packet", "eth7"]),
            1,
            &[
                "softlvs: error: cannot open interface eth7: there is no such interface",
                "help: the interfaces here are: lo, eth0",
            ],
        );
    }
}

crate::in_namespaces! {
    fn what_cannot_work_is_refused_as_configuration() {
        let (host, _other) = host();
        for (options, word) in [
            (&["--tun", "tun0", "--mode", "dr"][..], "dr"),
            (&["--packet", "eth0", "--real", "10.9.9.9:80"][..], "10.9.9.9"),
            (&["--packet", "eth0", "--scheduler", "best"][..], "best"),
        ] {
            let (status, said) = refused(&host, options);
            assert_eq!(status, 2, "{options:?}: {said}");
            let mut lines = said.lines();
            let first = lines.next().unwrap_or_default();
            assert!(first.starts_with("softlvs: error: ") && first.contains(word), "{options:?}: {said}");
            assert!(said.lines().any(|l| l.starts_with("help: ")), "{options:?}: {said}");
        }
    }
}

crate::in_namespaces! {
    fn a_user_without_the_right_is_told_which() {
        use std::os::unix::process::CommandExt;
        // Inside a user namespace there is nobody else to become.
        if std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().nth(2) == Some("1") {
            return println!("skipped: only one user in this user namespace");
        }
        let (host, _other) = host();
        let (_folder, program) = program_for_others();
        let as_nobody = |program: &Path, port: &[&str]| {
            let mut command = Command::new(program);
            command.args(port).args(SERVICE).uid(65534).gid(65534).current_dir("/");
            command.env_remove("SOFTLVS_CONFIG").env_remove("XDG_RUNTIME_DIR");
            // The child inherits the namespace of the thread that starts it.
            let out = host.ns.run(|| traffic::when_free(|| command.output())).unwrap();
            (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
        };
        assert_refused(
            as_nobody(&program, &["--packet", "eth0"]),
            1,
            &[
                "softlvs: error: cannot open a raw port on eth0: CAP_NET_RAW is missing in this network namespace",
                "help: run as root or in `unshare -Urn`, or `setcap cap_net_raw+ep` on the program",
            ],
        );
        let (status, said) = as_nobody(&program, &["--tap", "tap0"]);
        assert_eq!(status, 1, "{said}");
        // Depends on whether this machine lets users open /dev/net/tun.
        assert!(said.starts_with("softlvs: error: cannot open TAP device tap0: "), "{said}");
        assert!(said.lines().nth(1).is_some_and(|l| l.starts_with("help: ")), "{said}");
    }
}
