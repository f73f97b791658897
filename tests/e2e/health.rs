//! Real servers that stop, freeze, answer wrongly, lose their virtual address or their decapsulator: how soon no
//! new connection goes there, and that nobody else notices.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use softlvs::io::sys::netlink::Netlink;
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::in_namespaces;
use crate::traffic;

const INTERVAL: Duration = Duration::from_millis(500);
const FALL: u32 = 2;

/// How a real server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
enum How {
    Fine,
    /// Takes connections and says nothing, as a stopped process does.
    Frozen,
    /// Says that it is out of order.
    Wrong,
    /// Closes by a reset.
    Resets,
}

/// A small HTTP server that can be made to misbehave; it says its name.
struct Real {
    how: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Real {
    fn start(ns: &NetNs, name: &str, at: SocketAddr) -> Real {
        let listener = ns.run(|| traffic::when_free(|| TcpListener::bind(at))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (how, stop) = (Arc::new(AtomicU8::new(How::Fine as u8)), Arc::new(AtomicBool::new(false)));
        let (h, s, name) = (how.clone(), stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while !s.load(SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let (h, name) = (h.clone(), name.clone());
                std::thread::spawn(move || drop(answer(stream, &name, &h)));
            }
        });
        Real { how, stop, threads: vec![thread] }
    }
    fn be(&self, how: How) {
        self.how.store(how as u8, SeqCst);
    }
    /// Nobody listens any more.
    fn stop(&mut self) {
        self.stop.store(true, SeqCst);
        self.threads.drain(..).for_each(|t| t.join().unwrap());
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(mut stream: TcpStream, name: &str, how: &AtomicU8) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    loop {
        let mut buf = [0; 1024];
        if stream.read(&mut buf)? == 0 {
            return Ok(());
        }
        let how = how.load(SeqCst);
        if how == How::Frozen as u8 {
            std::thread::sleep(Duration::from_secs(20));
            return Ok(());
        }
        if how == How::Resets as u8 {
            nix::sys::socket::setsockopt(
                &stream,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )?;
            return Ok(());
        }
        let status = if how == How::Wrong as u8 { "503 Busy" } else { "200 OK" };
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        stream.write_all(text.as_bytes())?;
    }
}

/// A cluster with checks.
struct Cluster {
    topology: Topology,
    reals: Vec<Real>,
    director: Child,
    scratch: tempfile::TempDir,
}

impl Cluster {
    fn start(
        mode: Mode,
        encapsulation: Encapsulation,
        scheduler: &str,
        check: &str,
        service: &str,
    ) -> Cluster {
        let layout = Layout::new(mode, false, 3, encapsulation);
        let mut topology = Topology::build(layout, Io::Packet).unwrap();
        topology.prepare_servers().unwrap();
        let any: IpAddr = [0, 0, 0, 0].into();
        let l = &topology.layout;
        let at = SocketAddr::new(any, l.rport);
        let names: Vec<String> = l.servers().map(|(h, _)| h.name.clone()).collect();
        let reals = names.iter().map(|n| Real::start(&topology.node(n).unwrap().ns, n, at)).collect();
        let scratch = tempfile::tempdir().unwrap();
        let toml = configuration(l, scheduler, check, service, "");
        let director = run(&topology, &scratch, &toml);
        let mut cluster = Cluster { topology, reals, director, scratch };
        cluster.wait_for("running: ");
        let closed = SocketAddr::new(cluster.topology.layout.vip, 9);
        let client = &cluster.topology.node("client").unwrap().ns;
        client.run(|| traffic::wait_for_refusal(closed, || true)).unwrap();
        cluster
    }
    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.topology.layout.vip, self.topology.layout.vport)
    }
    fn client(&self) -> &NetNs {
        &self.topology.node("client").unwrap().ns
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap()
    }
    /// Waits until the log has these words; the count of them.
    fn wait_for(&mut self, words: &str) -> usize {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.log().matches(words).count();
            if found > 0 {
                return found;
            }
            assert!(self.director.try_wait().unwrap().is_none(), "the director ended:\n{}", self.log());
            assert!(Instant::now() < end, "`{words}` did not come:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    fn reload(&self, toml: &str) {
        std::fs::write(self.scratch.path().join("softlvs.toml"), toml).unwrap();
        kill(Pid::from_raw(self.director.id() as i32), Signal::SIGHUP).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.director.id() as i32), Signal::SIGTERM);
        let _ = self.director.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

fn configuration(l: &Layout, scheduler: &str, check: &str, service: &str, second: &str) -> String {
    let toml = l.toml(Io::Packet, scheduler);
    let toml = toml.replace("[[service]]\n", &format!("[[service]]\ncheck = \"c\"\n{service}\n"));
    let toml = toml.replace("name = \"rs2\"\n", &format!("name = \"rs2\"\n{second}\n"));
    format!(
        "{toml}\n[[check]]\nname = \"c\"\ninterval = \"{}ms\"\ntimeout = \"250ms\"\nrise = 1\nfall = {FALL}\n{check}\n",
        INTERVAL.as_millis()
    )
}

fn run(topology: &Topology, scratch: &tempfile::TempDir, toml: &str) -> Child {
    let (file, log) = (scratch.path().join("softlvs.toml"), scratch.path().join("log"));
    std::fs::write(&file, toml).unwrap();
    let log = std::fs::File::create(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    command
        .args(["run", "--config"])
        .arg(&file)
        .env("SOFTLVS_CONTROL", scratch.path().join("control.sock"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    topology.node("director").unwrap().ns.confine(&mut command).unwrap();
    command.spawn().unwrap()
}

/// One request over a connection of its own: who answered, or nobody did.
fn ask(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(300)).ok()?;
    request(&mut stream)
}

fn request(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").ok()?;
    let mut buf = [0; 512];
    let n = stream.read(&mut buf).ok()?;
    let text = String::from_utf8_lossy(&buf[..n]).into_owned();
    if !text.starts_with("HTTP/1.1 200") {
        return None;
    }
    text.rsplit("\r\n").next().map(str::to_owned)
}

/// Clients that ask all the time, each when its last question is over. Failures with the time they began.
struct Clients {
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<Instant>>>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(ns: &NetNs, to: SocketAddr, n: usize) -> Clients {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let answered = Arc::new(AtomicU64::new(0));
        let threads = (0..n)
            .map(|_| {
                let (stop, failed, answered) = (stop.clone(), failed.clone(), answered.clone());
                ns.spawn("client", move || {
                    while !stop.load(SeqCst) {
                        let began = Instant::now();
                        match ask(to) {
                            Some(_) => drop(answered.fetch_add(1, SeqCst)),
                            None => failed.lock().unwrap().push(began),
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                })
                .unwrap()
            })
            .collect();
        Clients { stop, failed, answered, threads }
    }
    fn stop(self) -> (Vec<Instant>, u64) {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        let mut failed = self.failed.lock().unwrap().clone();
        failed.sort();
        (failed, self.answered.load(SeqCst))
    }
}

/// How late this machine wakes up, while it is measured.
struct Noise(Arc<AtomicBool>, std::thread::JoinHandle<Duration>);

impl Noise {
    fn start() -> Noise {
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !s.load(SeqCst) {
                let began = Instant::now();
                std::thread::sleep(Duration::from_millis(5));
                worst = worst.max(began.elapsed().saturating_sub(Duration::from_millis(5)));
            }
            worst
        });
        Noise(stop, thread)
    }
    fn worst(self) -> Duration {
        self.0.store(true, SeqCst);
        self.1.join().unwrap()
    }
}

/// A fault of rs2: the last new connection goes there within `FALL` intervals and 100 ms, flows of others go on.
fn fault(c: &mut Cluster, what: &str, hurt: impl FnOnce(&mut Cluster)) {
    std::thread::sleep(INTERVAL * 3);
    assert!(!c.log().contains(": down: "), "{what}: too early:\n{}", c.log());
    let to = c.vip();
    // long flows, one on each server
    let mut flows: HashMap<String, TcpStream> = HashMap::new();
    for _ in 0..30 {
        let stream = c.client().run(|| traffic::connect(to)).unwrap();
        let mut stream = stream;
        if let Some(name) = request(&mut stream) {
            flows.entry(name).or_insert(stream);
        }
    }
    assert_eq!(flows.len(), 3, "{what}: {:?}", flows.keys());
    let clients = Clients::start(c.client(), to, 4);
    std::thread::sleep(INTERVAL);
    assert!(clients.failed.lock().unwrap().is_empty(), "{what}: failures before the fault");
    let noise = Noise::start();
    let began = Instant::now();
    hurt(c);
    c.wait_for(": down: ");
    std::thread::sleep(INTERVAL * 2);
    let worst = noise.worst();
    let (failed, answered) = clients.stop();
    let last = failed.last().map_or(Duration::ZERO, |t| t.saturating_duration_since(began));
    let bound = INTERVAL * FALL + Duration::from_millis(100);
    println!(
        "{what}: last connection {last:?} after the fault (bound {bound:?}, the machine {worst:?} late), {answered} answered"
    );
    assert!(last <= bound + worst * 3, "{what}: {last:?}\n{}", c.log());
    assert!(answered > 20, "{what}: {answered}");
    assert_eq!(c.log().matches(": down: ").count(), 1, "{what}:\n{}", c.log());
    for (name, stream) in &mut flows {
        if name != "rs2" {
            assert_eq!(request(stream).as_ref(), Some(name), "{what}: the flow of {name} moved");
        }
    }
}

const HTTP: &str = "type = \"http\"\nvia = \"director\"";

in_namespaces! {
    fn a_server_that_stops_gets_no_new_connections() {
        // the kernel of the director's host has no address here: it asks by itself without being told to
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "rr", "type = \"http\"", "");
        fault(&mut c, "stopped", |c| c.reals[1].stop());
    }
}

in_namespaces! {
    fn a_server_that_freezes_gets_no_new_connections() {
        let mut c = Cluster::start(Mode::FullNat, Encapsulation::Ipip, "rr", HTTP, "");
        fault(&mut c, "frozen", |c| c.reals[1].be(How::Frozen));
    }
}

in_namespaces! {
    fn servers_that_answer_wrongly_or_reset_are_found_and_come_back() {
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "rr", HTTP, "");
        fault(&mut c, "wrong answer", |c| c.reals[1].be(How::Wrong));
        c.reals[1].be(How::Fine);
        c.wait_for(": up: ");
        let to = c.vip();
        let names: Vec<_> = (0..9).filter_map(|_| c.client().run(|| Ok(ask(to))).unwrap()).collect();
        assert_eq!(names.iter().filter(|n| *n == "rs2").count(), 3, "{names:?}");
        c.reals[1].be(How::Resets);
        let end = Instant::now() + Duration::from_secs(20);
        while c.log().matches(": down: ").count() < 2 {
            assert!(Instant::now() < end, "{}", c.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

in_namespaces! {
    fn a_server_that_loses_its_virtual_address_is_found_in_dr() {
        let mut c = Cluster::start(Mode::Dr, Encapsulation::Ipip, "rr", "type = \"http\"", "");
        fault(&mut c, "lost its VIP", |c| {
            let vip = c.topology.layout.vip;
            c.topology.node("rs2").unwrap().ns.run(|| {
                let mut netlink = Netlink::open()?;
                for a in netlink.addresses()? {
                    if a.cidr.addr == vip {
                        netlink.delete_address(a.index, a.cidr)?;
                    }
                }
                Ok(())
            }).unwrap();
        });
    }
}

in_namespaces! {
    fn a_server_that_loses_its_decapsulator_is_found_in_tun() {
        let mut c = Cluster::start(Mode::Tun, Encapsulation::Ipip, "rr", "type = \"http\"", "");
        fault(&mut c, "lost its decapsulator", |c| {
            c.topology.node("rs2").unwrap().ns.run(|| {
                let mut netlink = Netlink::open()?;
                let links = netlink.links()?;
                for l in links.iter().filter(|l| l.name != "lo" && !l.name.starts_with("eth")) {
                    netlink.set_up(l.index, false)?;
                }
                Ok(())
            }).unwrap();
        });
    }
}

in_namespaces! {
    fn a_drain_ends_at_its_deadline_with_resets_and_no_other() {
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "rr", HTTP, "");
        let to = c.vip();
        let mut flows: Vec<(String, TcpStream)> = Vec::new();
        for _ in 0..12 {
            let mut stream = c.client().run(|| traffic::connect(to)).unwrap();
            let name = request(&mut stream).unwrap();
            flows.push((name, stream));
        }
        let drain = "state = \"drain\"\ndrain_deadline = \"2s\"";
        c.reload(&configuration(&c.topology.layout, "rr", HTTP, "", drain));
        c.wait_for(": draining");
        let began = Instant::now();
        // the old ones go on, new ones go elsewhere
        for (name, stream) in &mut flows {
            assert_eq!(request(stream).as_ref(), Some(&*name));
        }
        let names: Vec<_> = (0..10).filter_map(|_| c.client().run(|| Ok(ask(to))).unwrap()).collect();
        assert!(names.len() == 10 && names.iter().all(|n| n != "rs2"), "{names:?}");
        // the clients are silent: they are asked, and both ends get a reset
        let mut reset = 0;
        for (name, stream) in &mut flows {
            if name != "rs2" {
                continue;
            }
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            let e = stream.read(&mut [0; 16]).unwrap_err();
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}");
            reset += 1;
        }
        assert_eq!(reset, 4);
        assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
        for (name, stream) in flows.iter_mut().filter(|(n, _)| n != "rs2") {
            assert_eq!(request(stream).as_ref(), Some(&*name), "no other flow is touched");
        }
        c.wait_for("4 connections were ended");
    }
}

in_namespaces! {
    fn a_server_that_comes_back_is_not_flooded_under_wlc() {
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "wlc", HTTP, "slow_start = \"20s\"");
        let to = c.vip();
        c.reals[1].be(How::Wrong);
        c.wait_for(": down: ");
        // many connections stay on the others, so that an empty server is most attractive
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(c.client().run(|| traffic::connect(to)).unwrap());
        }
        c.reals[1].be(How::Fine);
        c.wait_for(": up: ");
        let mut back = 0;
        const ASKED: usize = 120;
        for _ in 0..ASKED {
            let mut stream = c.client().run(|| traffic::connect(to)).unwrap();
            back += usize::from(request(&mut stream).as_deref() == Some("rs2"));
            held.push(stream);
        }
        println!("{back} of {ASKED} new connections went to the newcomer");
        assert!((1..=ASKED / 3 * 2).contains(&back), "{back} of {ASKED}, twice the share is {}", ASKED / 3 * 2);
    }
}

in_namespaces! {
    fn datagrams_over_a_killed_server_are_answered_after_the_check() {
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "rr", HTTP, "");
        let l = &c.topology.layout;
        let toml = configuration(l, "rr", HTTP, "", "").replace("protocol = \"tcp\"", "protocol = \"udp\"");
        let udp = toml.replace("type = \"http\"", "type = \"udp\"\nrequire_reply = true\npayload = \"70\"");
        let stop = Arc::new(AtomicBool::new(false));
        let killed = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (host, ip) in l.servers() {
            let at = SocketAddr::new(ip, l.rport);
            let socket = c.topology.node(&host.name).unwrap().ns.run(|| UdpSocket::bind(at)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (stop, killed, name) = (stop.clone(), killed.clone(), host.name.clone());
            threads.push(std::thread::spawn(move || {
                let mut buf = [0; 64];
                while !stop.load(SeqCst) {
                    let Ok((_, from)) = socket.recv_from(&mut buf) else { continue };
                    if !(name == "rs2" && killed.load(SeqCst)) {
                        let _ = socket.send_to(name.as_bytes(), from);
                    }
                }
            }));
        }
        c.reload(&udp);
        c.wait_for("configuration read again");
        let to = c.vip();
        let sockets: Vec<UdpSocket> = (0..6).map(|_| c.client().run(|| {
            let s = UdpSocket::bind("0.0.0.0:0")?;
            s.connect(to)?;
            s.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(s)
        }).unwrap()).collect();
        let query = |s: &UdpSocket| {
            s.send(b"q").unwrap();
            let mut buf = [0; 16];
            s.recv(&mut buf).ok().map(|n| String::from_utf8_lossy(&buf[..n]).into_owned())
        };
        let first: Vec<_> = sockets.iter().map(|s| query(s).unwrap()).collect();
        assert_eq!(first.iter().filter(|n| *n == "rs2").count(), 2, "{first:?}");
        killed.store(true, SeqCst);
        c.wait_for(": down: ");
        c.wait_for(": down: ");
        // twenty queries a second for two seconds: none is lost, though the flows were bound to the dead server
        let mut lost = 0;
        std::thread::sleep(Duration::from_millis(100));
        for i in 0..40 {
            lost += usize::from(query(&sockets[i % sockets.len()]).is_none());
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, SeqCst);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(lost, 0);
    }
}

in_namespaces! {
    fn who_wants_to_hear_is_told_and_the_address_is_announced_while_the_service_is_up() {
        let scratch = tempfile::tempdir().unwrap();
        let (fifo, told) = (scratch.path().join("fifo"), scratch.path().join("told"));
        std::fs::write(&told, "").unwrap();
        for path in [scratch.path(), told.as_path()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        let script = format!("echo $SOFTLVS_STATE $SOFTLVS_SERVICE >> {}", told.display());
        let service = format!(
            "announce = \"dummy0\"\ndown_command = [\"/bin/sh\", \"-c\", '{script}']\nup_command = [\"/bin/sh\", \"-c\", '{script}']"
        );
        let mut c = Cluster::start(Mode::Nat, Encapsulation::Ipip, "rr", HTTP, "");
        let vip = c.topology.layout.vip;
        let ns = &c.topology.node("director").unwrap().ns;
        // any device will do; not every kernel has dummies
        ns.run(|| Netlink::open()?.add_bridge("dummy0")).unwrap();
        let toml = configuration(&c.topology.layout, "rr", HTTP, &service, "");
        let toml = toml.replace("[director]\n", &format!("[director]\nnotify_fifo = \"{}\"\n", fifo.display()));
        c.reload(&toml);
        c.wait_for("is announced on dummy0");
        let announced = |c: &Cluster| {
            let ns = &c.topology.node("director").unwrap().ns;
            let all = ns.run(|| Netlink::open()?.addresses()).unwrap();
            all.iter().any(|a| a.cidr.addr == vip)
        };
        assert!(announced(&c));
        let reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        c.reals.iter_mut().for_each(Real::stop);
        c.wait_for("is withdrawn from dummy0");
        assert!(!announced(&c));
        let mut lines = vec![0; 4096];
        let n = (&reader).read(&mut lines).unwrap();
        let lines = String::from_utf8_lossy(&lines[..n]).into_owned();
        let down = format!("RS [10.0.0.12]:tcp:{} [{vip}]:tcp:80 DOWN\n", c.topology.layout.rport);
        assert!(lines.contains(&down), "{lines}");
        let end = Instant::now() + Duration::from_secs(20);
        let wanted = format!("DOWN [{vip}]:tcp:80\n");
        while std::fs::read_to_string(&told).unwrap() != wanted {
            assert!(Instant::now() < end, "{:?}", std::fs::read_to_string(&told));
            std::thread::sleep(Duration::from_millis(10));
        }
        // with nobody left clients are refused, and not sent to a server that is known to be dead
        let to = c.vip();
        let asked = c.client().run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5)))).unwrap();
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
