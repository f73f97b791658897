//! The lab as a whole: build, start, measure, judge.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::capture::{Observed, Observer};
use super::director::Director;
use super::http::{self, Server};
use super::layout::{Io, Layout, Mode};
use super::report::{Hop, Latency, Report, ServerShare};
use super::topology::Topology;
use crate::real::Encapsulation;
use crate::svc::SchedulerKind;

/// What to build and how much to send.
#[derive(Clone, Debug)]
pub struct Options {
    /// Forwarding method.
    pub mode: Mode,
    /// Real servers.
    pub servers: usize,
    /// Requests.
    pub requests: u64,
    /// Scheduler.
    pub scheduler: SchedulerKind,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// How the director is attached.
    pub io: Io,
    /// Encapsulation in `tun`.
    pub encapsulation: Encapsulation,
    /// Requests at the same time.
    pub concurrency: usize,
    /// The program to run as director.
    pub program: PathBuf,
    /// Folder that every real server serves; `/index.html` is requested.
    pub share: PathBuf,
    /// Folder for the director's control socket.
    pub scratch: PathBuf,
}

/// TAP where `/dev/net/tun` may be opened, else raw sockets, and why in words.
pub fn best_io() -> (Io, String) {
    match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => (Io::Tap, "TAP devices".into()),
        Err(e) => (Io::Packet, format!("raw sockets (no TAP: /dev/net/tun cannot be opened: {e})")),
    }
}

/// Clients for schedulers that hash the client's address.
const MANY: u16 = 100;

/// Longest wait for the director's devices and first answer.
const START: Duration = Duration::from_secs(10);

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    topology: Topology,
    director: Director,
    _servers: Vec<Server>,
}

impl Lab {
    /// Builds everything and waits until the director answers.
    ///
    /// Call it on a thread that lives as long as the lab: the director dies with the thread.
    ///
    /// # Errors
    /// What could not be built; when the director is at fault, with what it said.
    pub fn start(options: Options) -> io::Result<Lab> {
        let mut layout = Layout::new(options.mode, options.ipv6, options.servers, options.encapsulation);
        // A scheduler that hashes the client's address needs many clients to choose many servers.
        if matches!(options.scheduler, SchedulerKind::Sh | SchedulerKind::Mh) {
            layout = layout.with_clients(MANY);
        }
        let toml = layout.toml(options.io, options.scheduler.name());
        let mut topology = Topology::build(layout, options.io)?;
        topology.prepare_servers()?;
        let servers = serve(&topology, &options.share)?;
        let ns = &topology.node("director").ok_or_else(|| io::Error::other("no director"))?.ns;
        let mut director =
            Director::start(ns, &options.program, &toml, &options.scratch.join("director.sock"))?;
        if let Err(e) = ready(&mut topology, &mut director) {
            let said = director.log();
            return Err(io::Error::new(e.kind(), format!("{e}; the director said:\n{}", said.trim_end())));
        }
        Ok(Lab { options, topology, director, _servers: servers })
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What the director has printed so far.
    pub fn director_log(&self) -> String {
        self.director.log()
    }

    /// Sends the requests and judges what came back.
    ///
    /// # Errors
    /// The capture cannot be opened or the shared file cannot be read.
    pub fn measure(&mut self) -> io::Result<Report> {
        let observer = Observer::start(&self.topology)?;
        let load = Load::new(&self.options, &self.topology.layout)?;
        let ns = &self.topology.node("client").ok_or_else(|| io::Error::other("no client"))?.ns;
        let begin = now();
        let hops = ns.run(|| {
            // The first request goes alone, so that its frames can be told from others.
            let hops = observer.trace(|| {
                load.one();
            })?;
            std::thread::scope(|s| {
                for _ in 0..self.options.concurrency.max(1) {
                    // Threads inherit the namespace of the thread that starts them.
                    s.spawn(|| while load.one() {});
                }
            });
            Ok(hops)
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let seen = observer.finish();
        Ok(self.judge(load.finish(), hops, seen, seconds))
    }

    /// Makes a command run in the client's namespace with `$VIP` and `$VIP_PORT` set.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn at_client(&self, command: &mut Command) -> io::Result<()> {
        let layout = &self.topology.layout;
        let url = format!("http://{}/", SocketAddr::new(layout.vip, layout.vport));
        command
            .env("VIP", layout.vip.to_string())
            .env("VIP_PORT", layout.vport.to_string())
            .env("VIP_URL", url);
        match self.topology.node("client") {
            Some(client) => client.ns.confine(command),
            None => Ok(()),
        }
    }

    /// Stops the director; true when it ended cleanly.
    pub fn stop(&mut self) -> bool {
        self.director.stop(Duration::from_secs(5))
    }

    fn judge(&mut self, done: Done, hops: Vec<Hop>, seen: Observed, seconds: f64) -> Report {
        let o = &self.options;
        let servers: Vec<ServerShare> = self
            .topology
            .layout
            .servers()
            .map(|(h, ip)| ServerShare {
                name: h.name.clone(),
                address: ip,
                requests: done.answered_by.iter().filter(|n| **n == h.name).count() as u64,
            })
            .collect();
        let ok = done.answered_by.len() as u64;
        let mut problems = done.failures;
        problems.extend(unfair(o.scheduler, &servers, ok));
        if !o.mode.replies_return() && seen.replies_via_director > 0 {
            problems.push(format!("{} replies passed the director", seen.replies_via_director));
        }
        // Where replies may pass the director a few frames more or less prove nothing.
        if !o.mode.replies_return() && seen.lost > 0 {
            problems.push(format!(
                "the capture lost {} frames, so it cannot be said that no reply passed the director",
                seen.lost
            ));
        }
        if !self.director.alive() {
            problems.push(format!("the director ended:\n{}", self.director.log().trim_end()));
        }
        Report {
            mode: o.mode.name().into(),
            io: o.io.name().into(),
            ipv6: o.ipv6,
            scheduler: o.scheduler.name().into(),
            servers,
            requests: o.requests,
            ok,
            failed: o.requests - ok,
            replies_via_director: seen.replies_via_director,
            hops,
            latency_us: Latency::of(done.latency_us),
            seconds: (seconds * 1000.0).round() / 1000.0,
            problems,
        }
    }
}

/// Starts the file servers of a topology.
///
/// # Errors
/// A port cannot be bound.
pub fn serve(topology: &Topology, share: &Path) -> io::Result<Vec<Server>> {
    let layout = &topology.layout;
    let mut servers = Vec::new();
    for (host, _) in layout.servers() {
        if let Some(node) = topology.node(&host.name) {
            servers.push(Server::start(&node.ns, &host.name, layout.rport, layout.ipv6, share)?);
        }
    }
    Ok(servers)
}

/// Waits until the director's devices are joined and it refuses a port that is no service: a refusal shows
/// that it is there without making a connection that a scheduler would count.
fn ready(topology: &mut Topology, director: &mut Director) -> io::Result<()> {
    topology.attach_taps(START, || director.alive())?;
    let closed = SocketAddr::new(topology.layout.vip, 9);
    let ns = &topology.node("client").ok_or_else(|| io::Error::other("no client"))?.ns;
    let begin = now();
    loop {
        if ns.run(|| Ok(http::answers(closed, Duration::from_millis(250))))? {
            return Ok(());
        }
        if !director.alive() {
            return Err(io::Error::other("the director ended at once"));
        }
        if begin.elapsed() > START {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the director does not answer"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The requests still to be sent and what became of the others.
struct Load {
    to: SocketAddr,
    from: Vec<IpAddr>,
    expected: Vec<u8>,
    total: u64,
    next: AtomicU64,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    answered_by: Vec<String>,
    latency_us: Vec<u64>,
    failures: Vec<String>,
}

/// More failures than these are only counted.
const TOLD_FAILURES: usize = 5;

impl Load {
    fn new(o: &Options, layout: &Layout) -> io::Result<Load> {
        let file = o.share.join("index.html");
        let expected =
            std::fs::read(&file).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
        let from = layout.clients();
        Ok(Load {
            to: SocketAddr::new(layout.vip, layout.vport),
            from,
            expected,
            total: o.requests,
            next: AtomicU64::new(0),
            done: Mutex::default(),
        })
    }

    /// Sends one request; false when all were sent.
    fn one(&self) -> bool {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        if n >= self.total {
            return false;
        }
        let from = self.from[n as usize % self.from.len()];
        let begin = now();
        let result = http::get(Some(from), self.to, "/index.html");
        let us = begin.elapsed().as_micros() as u64;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match result {
            Ok(a) if a.status == 200 && a.body == self.expected => {
                done.answered_by.push(a.server);
                done.latency_us.push(us);
                return true;
            }
            Ok(a) => format!("status {} and {} bytes from {}", a.status, a.body.len(), a.server),
            Err(e) => e.to_string(),
        };
        if done.failures.len() < TOLD_FAILURES {
            done.failures.push(format!("request {} failed: {failure}", n + 1));
        }
        true
    }

    fn finish(self) -> Done {
        self.done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with the shares, if anything. Every server has the same weight.
fn unfair(scheduler: SchedulerKind, servers: &[ServerShare], ok: u64) -> Option<String> {
    use SchedulerKind as S;
    let fair = ok / servers.len().max(1) as u64;
    let least = match scheduler {
        // Turn by turn.
        S::Rr | S::Wrr => fair - fair / 10,
        // By load, which depends on the moment.
        S::Lc | S::Wlc | S::Twos => fair / 2,
        // By hash of the client: enough clients reach every server, evenly only on the whole.
        S::Sh | S::Mh => u64::from(fair >= 30),
        // Methods that prefer one server while it can take more.
        S::Sed | S::Nq | S::Lblc | S::Lblcr | S::Dh | S::Fo | S::Ovf => 0,
    };
    let poor: Vec<String> = servers
        .iter()
        .filter(|s| s.requests < least)
        .map(|s| format!("{} got {} of {ok} requests, at least {least} expected", s.name, s.requests))
        .collect();
    (!poor.is_empty()).then(|| poor.join("; "))
}

/// The lab measures with the clock of the machine; it is no part of the director.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// Builds a lab, sends the requests and takes it down again.
///
/// # Errors
/// As [`Lab::start`] and [`Lab::measure`].
pub fn run(options: Options) -> io::Result<Report> {
    let mut lab = Lab::start(options)?;
    let mut report = lab.measure()?;
    if !lab.stop() {
        report
            .problems
            .push(format!("the director did not stop cleanly:\n{}", lab.director_log().trim_end()));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(requests: &[u64]) -> Vec<ServerShare> {
        let server = |(i, r): (usize, &u64)| ServerShare {
            name: format!("rs{}", i + 1),
            address: [10, 0, 0, 11 + i as u8].into(),
            requests: *r,
        };
        requests.iter().enumerate().map(server).collect()
    }

    #[test]
    fn a_server_without_its_share_is_a_problem() {
        assert_eq!(unfair(SchedulerKind::Rr, &shares(&[100, 100, 100]), 300), None);
        assert_eq!(unfair(SchedulerKind::Rr, &shares(&[1, 1, 0]), 2), None);
        assert!(unfair(SchedulerKind::Rr, &shares(&[150, 150, 0]), 300).unwrap().contains("rs3 got 0"));
        assert!(unfair(SchedulerKind::Mh, &shares(&[299, 1, 0]), 300).is_some());
        assert_eq!(unfair(SchedulerKind::Dh, &shares(&[300, 0, 0]), 300), None);
    }

    /// The wires, the servers and the client prove themselves with the kernel in the director's place.
    #[test]
    fn traffic_flows_with_the_kernel_in_the_directors_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("index.html"), "shared").unwrap();
        for io in [Io::Packet, Io::Tap] {
            for ipv6 in [false, true] {
                let layout = Layout::new(Mode::Nat, ipv6, 2, Encapsulation::Ipip);
                let mut t = match Topology::build(layout, io) {
                    Ok(t) => t,
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return,
                    Err(e) => panic!("{e}"),
                };
                t.kernel_route().unwrap();
                t.prepare_servers().unwrap();
                let _servers = serve(&t, dir.path()).unwrap();
                let servers: Vec<_> = t.layout.servers().map(|(h, ip)| (h.name.clone(), ip)).collect();
                for (name, ip) in servers {
                    let to = SocketAddr::new(ip, t.layout.rport);
                    let ns = &t.node("client").unwrap().ns;
                    let a = ns.run(|| http::get(None, to, "/index.html")).unwrap();
                    assert_eq!((a.server, a.body), (name, b"shared".to_vec()), "{io:?} ipv6={ipv6}");
                }
            }
        }
    }
}
