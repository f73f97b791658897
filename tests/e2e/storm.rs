//! A storm of reloads under load: SIGHUP, `softlvs apply`, `POST /v1/config` and `ipvsadm` in turns, a broken
//! file now and then, while new connections come and long ones go on. Nobody notices.
//!
//! `SOFTLVS_STORM` is the seconds it lasts: 10 when it is not set, 60 for 1,000 reloads.
//!
//! Each new connection comes from another address and port, unless `SOFTLVS_STORM_TUPLES` says how many there are.
//! Then clients send resets on a loaded machine, and nothing can be done about it: a client's FIN is answered so late
//! that it is sent again, the real server (in TIME_WAIT) acknowledges it again, and this second acknowledgment
//! meets a client whose port is in SYN_SENT for the next connection, which answers it by a reset as RFC 9293
//! 3.10.7.3 wants. Captured at the client and at every real server, 26,391 connections over 4,000 tuples with twice
//! the load that two processors can do: 2,879 resets, each from the client, each with the number that such an
//! acknowledgment had; none from a real server, none from the director. 120,012 over 12,000 on a machine that keeps
//! up: 183 from clients, no others. No connection failed or was reset once established: the real server drops that
//! reset, as it is out of its window, and in the director it leaves SYN_RECV alone, as in the kernel's table.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::health::cluster;
use crate::in_namespaces;
use crate::traffic;

/// New connections a second.
const RATE: u32 = 2000;
/// Connections that stay, each with a question every two seconds.
const LONG: usize = 1000;
/// Reloads in sixty seconds.
const RELOADS: u32 = 1000;
/// Most new connections that are under way.
const AT_ONCE: u32 = 3000;
/// Client addresses, so that ports last.
const CLIENTS: u16 = 20;
/// Longest wait of a client.
const PATIENCE: Duration = Duration::from_secs(15);

/// One thread in a namespace with its own runtime; its sockets are those of the namespace.
fn inside<R: Send + 'static>(
    ns: &NetNs,
    name: &str,
    work: impl AsyncFnOnce() -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    ns.spawn(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work())
    })
    .unwrap()
}

/// A server: answers each byte with its number; to `q` it also closes.
fn serve(ns: &NetNs, number: u8, at: SocketAddr) {
    let (tell, told) = std::sync::mpsc::channel();
    // it ends with the process: the namespace is gone before
    drop(inside(ns, "server", async move || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(at).unwrap();
        let listener = socket.listen(4096).unwrap();
        tell.send(()).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(answer(stream, number));
        }
    }));
    told.recv().unwrap();
}

async fn answer(mut stream: TcpStream, number: u8) -> std::io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte).await? == 1 {
        stream.write_all(&[number]).await?;
        if byte[0] == b'q' {
            break;
        }
    }
    stream.shutdown().await
}

/// What the clients came to.
#[derive(Debug, Default)]
struct Told {
    asked: u64,
    answered: u64,
    /// Kinds of failures.
    failed: HashMap<String, u64>,
    long_questions: u64,
    /// Answers by server.
    shares: [u64; 4],
    worst: Duration,
}

async fn open(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn question(stream: &mut TcpStream, word: u8) -> std::io::Result<u8> {
    stream.write_all(&[word]).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    Ok(answer[0])
}

/// One that comes and goes; the server closes.
async fn short(from: SocketAddr, to: SocketAddr) -> std::io::Result<u8> {
    let mut stream = open(from, to).await?;
    let server = question(&mut stream, b'q').await?;
    match stream.read(&mut [0; 8]).await? {
        0 => Ok(server),
        _ => Err(std::io::Error::other("more than one answer")),
    }
}

/// One that stays: the same server answers until the end.
async fn long(
    from: SocketAddr,
    to: SocketAddr,
    i: usize,
    end: Instant,
    told: Rc<RefCell<Told>>,
) -> std::io::Result<()> {
    let mut stream = open(from, to).await?;
    let first = question(&mut stream, b'l').await?;
    tokio::time::sleep(Duration::from_millis(i as u64 * 2000 / LONG as u64)).await;
    while Instant::now() < end {
        let server = question(&mut stream, b'l').await?;
        if server != first {
            return Err(std::io::Error::other(format!("moved from {first} to {server}")));
        }
        told.borrow_mut().long_questions += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(())
}

async fn patient<T>(
    work: impl Future<Output = std::io::Result<T>>,
    what: &str,
    told: &Rc<RefCell<Told>>,
) -> Option<T> {
    let why = match work.await {
        Ok(value) => return Some(value),
        Err(e) => format!("{what}: {e}"),
    };
    *told.borrow_mut().failed.entry(why).or_default() += 1;
    None
}

/// How many addresses with port there are for new connections, when that is said.
fn tuples() -> Option<usize> {
    std::env::var("SOFTLVS_STORM_TUPLES").ok().map(|n| n.parse().unwrap())
}

/// Another address and port for each connection: the director has seen none of them before.
fn nth(clients: &[IpAddr], first: u16, i: usize) -> SocketAddr {
    SocketAddr::new(clients[i % clients.len()], first + (i / clients.len()) as u16)
}

async fn load(clients: Vec<IpAddr>, to: SocketAddr, lasts: Duration) -> Told {
    let told = Rc::new(RefCell::new(Told::default()));
    let began = Instant::now();
    let end = began + lasts;
    let open = Rc::new(Cell::new(0u32));
    let mut longs = Vec::new();
    for i in 0..LONG {
        let (from, told) = (nth(&clients, 50_000, i), told.clone());
        longs.push(tokio::task::spawn_local(async move {
            // whatever is said in between, it may last as long as the storm
            patient(long(from, to, i, end, told.clone()), "long connection", &told).await;
        }));
    }
    let tuples = tuples().unwrap_or(usize::MAX);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut made = 0;
    while Instant::now() < end {
        tick.tick().await;
        let due = (began.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        // a machine that is late catches up, but not with more descriptors than there are
        while made < due && open.get() < AT_ONCE {
            made += 1;
            let (from, told, open) =
                (nth(&clients, 10_000, made as usize % tuples), told.clone(), open.clone());
            told.borrow_mut().asked += 1;
            open.set(open.get() + 1);
            tokio::task::spawn_local(async move {
                let began = Instant::now();
                let work = async {
                    let out = tokio::time::timeout(PATIENCE, short(from, to)).await;
                    out.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                };
                let done = work.await;
                let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::AddrInUse;
                if tuples < usize::MAX && done.as_ref().is_err_and(busy) {
                    // the last connection of this tuple is not over yet
                    told.borrow_mut().asked -= 1;
                } else if let Some(server) = patient(async { done }, "new connection", &told).await {
                    let mut told = told.borrow_mut();
                    told.answered += 1;
                    told.shares[usize::from(server)] += 1;
                    told.worst = told.worst.max(began.elapsed());
                }
                open.set(open.get() - 1);
            });
        }
    }
    for one in longs {
        one.await.unwrap();
    }
    while open.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Rc::try_unwrap(told).unwrap().into_inner()
}

/// The director and what is asked of it.
struct Director {
    pid: Pid,
    folder: PathBuf,
    base: String,
}

impl Director {
    /// Configuration number `n`: other weights, now and then a further server and a further service.
    fn text(&self, n: u32) -> String {
        let mut reals = 0;
        let mut text = String::new();
        for line in self.base.lines() {
            if line == "weight = 1" {
                reals += 1;
                text += &format!("weight = {}\n", 1 + (n + reals) % 3);
            } else {
                text += &format!("{line}\n");
            }
        }
        if n.is_multiple_of(2) {
            // the last service of the file is the one with the servers
            text += "\n[[service.real]]\naddress = \"10.0.0.77:8080\"\nweight = 0\n";
        }
        if n.is_multiple_of(3) {
            text += "\n[[service]]\naddress = \"192.0.2.10:81\"\n[[service.real]]\naddress = \"10.0.0.11:8081\"\n";
        }
        text
    }
    fn file(&self) -> PathBuf {
        self.folder.join("softlvs.toml")
    }
    fn program(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_softlvs"));
        command.args(args).env("SOFTLVS_CONTROL", self.folder.join("control.sock")).output().unwrap()
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }
    /// Waits until the log has these words so often.
    fn wait_for(&self, words: &str, times: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.log().matches(words).count() < times {
            assert!(Instant::now() < end, "`{words}` did not come {times} times");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    fn http(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.folder.join("control.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
    fn post(&self, text: &str) -> String {
        self.http(&format!(
            "POST /v1/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/toml\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        ))
    }
    fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }
    /// The configuration that runs.
    fn running(&self) -> String {
        let answer = self.get("/v1/config");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
    fn hang_up(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap();
        kill(self.pid, Signal::SIGHUP).unwrap();
    }
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }
    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Reload `n`, in one of four ways; `signals` is how many were read again so far.
    fn reload(&self, n: u32, signals: &mut usize) {
        match n % 4 {
            0 => {
                self.hang_up(&self.text(n));
                *signals += 1;
                self.wait_for("configuration read again", *signals);
            }
            1 => {
                std::fs::write(self.file(), self.text(n)).unwrap();
                let out = self.program(&["apply", &self.file().display().to_string()]);
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }
            2 => {
                let answer = self.post(&self.text(n));
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            _ => {
                let weight = (1 + n % 5).to_string();
                let args =
                    ["ipvsadm", "-e", "-t", "192.0.2.10:80", "-r", "10.0.0.11:8080", "-m", "-w", &weight];
                let out = self.program(&args);
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }
        }
    }

    /// A broken file, in one of three ways: refused with line and key, and what runs stays.
    fn broken(&self, n: u32, refusals: &mut usize) {
        let text = self.text(n).replace("scheduler = ", "shceduler = ");
        let line = text.lines().position(|l| l.starts_with("shceduler")).unwrap() + 1;
        let before = self.running();
        match n % 3 {
            0 => {
                self.hang_up(&text);
                *refusals += 1;
                self.wait_for("configuration refused, what runs stays as it is", *refusals);
                let named = format!("softlvs.toml:{line}:1: service[0].shceduler: unknown key");
                assert!(self.log().matches(&named).count() >= *refusals, "{named}:\n{}", self.log());
            }
            1 => {
                std::fs::write(self.file(), &text).unwrap();
                let out = self.program(&["apply", &self.file().display().to_string()]);
                let said = String::from_utf8_lossy(&out.stderr);
                assert_eq!(out.status.code(), Some(2), "{said}");
                assert!(said.contains(&format!(":{line}:1: service[0].shceduler: unknown key")), "{said}");
            }
            _ => {
                let answer = self.post(&text);
                assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
                let body: serde_json::Value =
                    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
                let error = &body["errors"][0];
                assert_eq!(
                    (&error["line"], &error["key"]),
                    (&line.into(), &"service[0].shceduler".into()),
                    "{body}"
                );
            }
        }
        assert_eq!(self.running(), before, "what runs is as it was");
    }
}

/// Counters of TCP of a namespace.
fn tcp_counters(ns: &NetNs) -> HashMap<String, u64> {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let mut lines = text.lines().filter(|l| l.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let pairs = names.split_whitespace().zip(values.split_whitespace()).skip(1);
    pairs.map(|(n, v)| (n.to_owned(), v.parse().unwrap_or(0))).collect()
}

fn storm(io: Io) {
    if !crate::gate::io(io) {
        return;
    }
    let _alone = crate::gate::loud();
    // clients and servers are all of this process
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let seconds = std::env::var("SOFTLVS_STORM").ok().map_or(10, |s| s.parse().unwrap());
    let lasts = Duration::from_secs(seconds);
    let reloads = RELOADS * seconds as u32 / 60;
    let layout = Layout::new(Mode::Nat, false, 3, Encapsulation::Ipip).with_clients(CLIENTS);
    let mut topology = Topology::build(layout, io).unwrap();
    topology.prepare_servers().unwrap();
    for (n, (host, rip)) in topology.layout.servers().enumerate() {
        serve(
            &topology.node(&host.name).unwrap().ns,
            n as u8 + 1,
            SocketAddr::new(rip, topology.layout.rport),
        );
    }
    let scratch = tempfile::tempdir().unwrap();
    let base =
        topology.layout.toml(io, "wrr").replace("[director]\n", "[director]\nconnection_limit = 300_000\n");
    let file = scratch.path().join("softlvs.toml");
    std::fs::write(&file, &base).unwrap();
    let mut child = cluster::run(&topology, &scratch, &["--config", &file.display().to_string()]);
    let director =
        Director { pid: Pid::from_raw(child.id() as i32), folder: scratch.path().to_owned(), base };
    topology.attach_taps(Duration::from_secs(10), || true).unwrap();
    let client = topology.node("client").unwrap().ns.try_clone().unwrap();
    let closed = SocketAddr::new(topology.layout.vip, 9);
    client.run(|| traffic::wait_for_refusal(closed, || true)).unwrap();

    let to = SocketAddr::new(topology.layout.vip, topology.layout.vport);
    let clients = topology.layout.clients()[1..].to_vec();
    let before = tcp_counters(&client);
    let servers: Vec<_> = topology.layout.servers().map(|(host, _)| host.name.clone()).collect();
    let server_resets = || -> u64 {
        servers.iter().map(|name| tcp_counters(&topology.node(name).unwrap().ns)["OutRsts"]).sum()
    };
    let own_resets = || -> u64 {
        let answer = director.get("/v1/counters");
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body["host"]["resets"].as_u64().unwrap()
    };
    let resets_before = (server_resets(), own_resets());
    let (mut signals, mut refusals) = (0, 0);
    // each way once before anything is counted
    (0..4).for_each(|n| director.reload(n, &mut signals));
    let descriptors = director.descriptors();
    let clients = inside(&client, "clients", async move || load(clients, to, lasts).await);
    let began = Instant::now();
    let (mut most, mut resident, mut late) = (0, 0, Duration::ZERO);
    for n in 0..reloads {
        let due = began + lasts * n / reloads;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        late = late.max(Instant::now().saturating_duration_since(due));
        director.reload(n, &mut signals);
        if n % 50 == 25 {
            director.broken(n, &mut refusals);
        }
        if n % 10 == 0 {
            most = most.max(director.descriptors());
        }
        if n == reloads / 4 {
            resident = director.resident();
        }
    }
    let told = clients.join().unwrap();
    let grown = director.resident().saturating_sub(resident);
    let after = tcp_counters(&client);
    let counted = |name: &str| after[name] - before[name];
    println!(
        "{}: {reloads} reloads in {:.1?} (latest {late:?}), {} new connections, {} questions on {LONG} long ones, failed {:?}, \
         shares {:?}, slowest {:?}, resets {}, segments again {}, descriptors {descriptors} then at most {most}, \
         {grown} KiB more in the last three quarters",
        io.name(),
        began.elapsed(),
        told.answered,
        told.long_questions,
        told.failed,
        told.shares,
        told.worst,
        counted("EstabResets"),
        counted("RetransSegs"),
    );
    assert_eq!(told.failed, HashMap::new());
    assert_eq!(told.asked, told.answered);
    // tuples that are not free yet are left out
    let least = if tuples().is_some() { 1 } else { u64::from(RATE) * seconds * 9 / 10 };
    assert!(told.asked >= least, "{} new connections only", told.asked);
    assert!(told.long_questions >= LONG as u64 * seconds / 4, "{} questions", told.long_questions);
    // the closed port before the storm is the only one that refused
    assert_eq!((counted("AttemptFails"), counted("EstabResets")), (0, 0), "failed and reset connections");
    assert_eq!((server_resets(), own_resets()), resets_before, "resets of servers and of the director");
    // requests of reloads may be under way at the moment of the count
    assert!(most <= descriptors + 3, "{descriptors} descriptors, then {most}");
    // entries are touched for the first time: 128 bytes a connection
    let entries = (told.answered * 128).div_ceil(1024);
    assert!(grown <= entries + 8 * 1024, "{grown} KiB more, connections take {entries}");
    let metrics = director.get("/metrics");
    let total = |result: &str| -> u32 {
        let name = format!("softlvs_config_reload_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|l| l.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    let whole = |n: u32| (0..n).filter(|n| n % 4 != 3).count() as u32;
    assert_eq!(total("applied"), whole(4) + whole(reloads));
    // `apply` finds out by itself and does not bother the director
    assert_eq!(total("refused"), (0..reloads).filter(|n| n % 50 == 25 && n % 3 != 1).count() as u32);
    kill(director.pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", director.log());
}

in_namespaces! {
    fn nobody_notices_a_storm_of_reloads_on_raw_ports() {
        storm(Io::Packet);
    }
}
