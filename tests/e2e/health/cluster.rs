//! A cluster with checks: real servers that are processes of their own and misbehave as they are told, a
//! director, a client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use softlvs::io::sys::ns::NetNs;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::traffic;

pub const INTERVAL: Duration = Duration::from_millis(500);
pub const FALL: u32 = 2;

/// How a real server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Fine,
    /// Answers, but later than anybody waits.
    Slow,
    /// Says that it is out of order.
    Wrong,
    /// Closes by a reset.
    Resets,
}

/// A small HTTP server that can be made to misbehave; it says its name. A process, so that it can be frozen.
pub struct Real {
    ns: NetNs,
    name: String,
    at: SocketAddr,
    process: Option<Child>,
}

impl Real {
    pub fn start(ns: &NetNs, name: &str, at: SocketAddr) -> Real {
        let mut real = Real { ns: ns.try_clone().unwrap(), name: name.to_owned(), at, process: None };
        real.begin();
        real
    }
    pub fn begin(&mut self) {
        let mut command = Command::new("python3");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/health/server.py"))
            .args([self.at.ip().to_string(), self.at.port().to_string(), self.name.clone()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        self.ns.confine(&mut command).unwrap();
        let mut child = command.spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{} at {}", self.name, self.at);
        self.process = Some(child);
    }
    pub fn be(&mut self, how: How) {
        let letter: &[u8] = match how {
            How::Fine => b"f",
            How::Slow => b"s",
            How::Wrong => b"w",
            How::Resets => b"r",
        };
        self.process.as_mut().unwrap().stdin.as_mut().unwrap().write_all(letter).unwrap();
    }
    /// Stops the process where it is, or lets it go on: its kernel still takes connections for it.
    pub fn freeze(&self, on: bool) {
        let signal = if on { Signal::SIGSTOP } else { Signal::SIGCONT };
        let id = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(id as i32), signal).unwrap();
    }
    /// Nobody listens any more.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a cluster is to be.
pub struct Setup<'a> {
    pub mode: Mode,
    pub io: Io,
    pub ipv6: bool,
    pub encapsulation: Encapsulation,
    pub workers: u8,
    pub scheduler: &'a str,
    /// Lines of the check.
    pub check: &'a str,
    /// Lines of the service.
    pub service: &'a str,
}

impl Setup<'_> {
    pub fn of(mode: Mode) -> Setup<'static> {
        Setup {
            mode,
            io: Io::Packet,
            ipv6: false,
            encapsulation: Encapsulation::Ipip,
            workers: 1,
            scheduler: "rr",
            check: "type = \"http\"",
            service: "",
        }
    }
}

pub struct Cluster<'a> {
    pub setup: Setup<'a>,
    pub topology: Topology,
    pub reals: Vec<Real>,
    pub director: Child,
    pub scratch: tempfile::TempDir,
    /// Checks that wait 250 ms want a machine that is there.
    pub _calm: std::sync::RwLockReadGuard<'static, ()>,
}

impl<'a> Cluster<'a> {
    pub fn start(setup: Setup<'a>) -> Cluster<'a> {
        let calm = crate::gate::calm();
        let layout = Layout::new(setup.mode, setup.ipv6, 3, setup.encapsulation);
        let mut topology = Topology::build(layout, setup.io).unwrap();
        topology.prepare_servers().unwrap();
        let any: IpAddr =
            if setup.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let at = SocketAddr::new(any, topology.layout.rport);
        let names: Vec<String> = topology.layout.servers().map(|(h, _)| h.name.clone()).collect();
        let reals = names.iter().map(|n| Real::start(&topology.node(n).unwrap().ns, n, at)).collect();
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("softlvs.toml");
        std::fs::write(&file, configuration(&topology.layout, &setup, "")).unwrap();
        let director = run(&topology, &scratch, &["--config", &file.display().to_string()]);
        let mut cluster = Cluster { setup, topology, reals, director, scratch, _calm: calm };
        cluster.ready();
        cluster
    }
    /// Waits until the director answers for its addresses.
    pub fn ready(&mut self) {
        self.wait_for("running: ", 1);
        let director = &mut self.director;
        self.topology
            .attach_taps(Duration::from_secs(10), || director.try_wait().is_ok_and(|s| s.is_none()))
            .unwrap();
        let closed = SocketAddr::new(self.topology.layout.vip, 9);
        self.client().run(|| traffic::wait_for_refusal(closed, || true)).unwrap();
    }
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.topology.layout.vip, self.topology.layout.vport)
    }
    pub fn client(&self) -> &NetNs {
        &self.topology.node("client").unwrap().ns
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap()
    }
    pub fn count(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }
    /// Waits until the log has these words so often.
    pub fn wait_for(&mut self, words: &str, times: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.count(words) < times {
            assert!(self.director.try_wait().unwrap().is_none(), "the director ended:\n{}", self.log());
            assert!(Instant::now() < end, "`{words}` did not come {times} times:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    pub fn configuration(&self, second: &str) -> String {
        configuration(&self.topology.layout, &self.setup, second)
    }
    pub fn reload(&self, toml: &str) {
        std::fs::write(self.scratch.path().join("softlvs.toml"), toml).unwrap();
        self.hang_up();
    }
    pub fn hang_up(&self) {
        kill(Pid::from_raw(self.director.id() as i32), Signal::SIGHUP).unwrap();
    }
    /// A command of the program, asked of this director: what it printed.
    pub fn tell(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_softlvs"));
        command.args(args).env("SOFTLVS_CONTROL", self.scratch.path().join("control.sock"));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.director.id() as i32), Signal::SIGTERM);
        let _ = self.director.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

/// The director's file; `second` are lines of the second real server.
pub fn configuration(l: &Layout, setup: &Setup<'_>, second: &str) -> String {
    let toml = l.toml(setup.io, setup.scheduler);
    let toml = toml.replace("\nworkers = 1\n", &format!("\nworkers = {}\n", setup.workers));
    let toml = toml.replace("[[service]]\n", &format!("[[service]]\ncheck = \"c\"\n{}\n", setup.service));
    let toml = toml.replace("name = \"rs2\"\n", &format!("name = \"rs2\"\n{second}\n"));
    format!(
        "{toml}\n[[check]]\nname = \"c\"\ninterval = \"{}ms\"\ntimeout = \"250ms\"\nrise = 1\nfall = {FALL}\ndampening = false\n{}\n",
        INTERVAL.as_millis(),
        setup.check
    )
}

/// Starts the director in its namespace.
pub fn run(topology: &Topology, scratch: &tempfile::TempDir, args: &[&str]) -> Child {
    let log = std::fs::File::create(scratch.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    command
        .arg("run")
        .args(args)
        .env("SOFTLVS_CONTROL", scratch.path().join("control.sock"))
        .env_remove("SOFTLVS_CONFIG")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    topology.node("director").unwrap().ns.confine(&mut command).unwrap();
    command.spawn().unwrap()
}
