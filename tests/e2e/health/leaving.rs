//! Servers that leave and come back, with one worker and with two: drains, slow start, datagrams over a dead one.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use softlvs::lab::Mode;

use super::clients::{ask, request};
use super::cluster::{Cluster, FALL, How, INTERVAL, Setup};
use crate::in_namespaces;
use crate::traffic;

fn setup(workers: u8) -> Setup<'static> {
    Setup { workers, ..Setup::of(Mode::Nat) }
}

fn a_drain_ends_at_its_deadline(workers: u8) {
    let mut c = Cluster::start(setup(workers));
    let to = c.vip();
    let mut flows: Vec<(String, TcpStream)> = Vec::new();
    for _ in 0..30 {
        let mut stream = c.client().run(|| traffic::connect(to)).unwrap();
        let name = request(&mut stream).unwrap();
        flows.push((name, stream));
    }
    c.reload(&c.configuration("state = \"drain\"\ndrain_deadline = \"2s\""));
    c.wait_for(": draining", 1);
    let began = Instant::now();
    // the old ones go on, new ones go elsewhere
    for (name, stream) in &mut flows {
        assert_eq!(request(stream).as_ref(), Some(&*name));
    }
    let names: Vec<_> = (0..10).filter_map(|_| c.client().run(|| Ok(ask(to))).unwrap()).collect();
    assert!(names.len() == 10 && names.iter().all(|n| n != "rs2"), "{names:?}");
    // the clients are silent: they are asked, and both ends get a reset
    let mut reset = 0;
    for (_, stream) in flows.iter_mut().filter(|(name, _)| name == "rs2") {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let e = stream.read(&mut [0; 16]).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}");
        reset += 1;
    }
    assert_eq!(reset, 10);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    for (name, stream) in flows.iter_mut().filter(|(n, _)| n != "rs2") {
        assert_eq!(request(stream).as_ref(), Some(&*name), "no other flow is touched");
    }
    c.wait_for("10 connections were ended", 1);
}

in_namespaces! {
    fn a_drain_ends_at_its_deadline_with_resets_and_no_other() {
        a_drain_ends_at_its_deadline(1);
    }
}

in_namespaces! {
    fn a_drain_over_two_workers_ends_the_connections_of_both_and_no_other() {
        a_drain_ends_at_its_deadline(2);
    }
}

fn a_server_that_comes_back_is_not_flooded(workers: u8) {
    let mut c = Cluster::start(Setup { scheduler: "wlc", service: "slow_start = \"20s\"", ..setup(workers) });
    let to = c.vip();
    c.reals[1].be(How::Wrong);
    c.wait_for(": down: ", 1);
    // many connections stay on the others, so that an empty server is most attractive
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(c.client().run(|| traffic::connect(to)).unwrap());
    }
    c.reals[1].be(How::Fine);
    c.wait_for(": up: ", 1);
    let mut back = 0;
    const ASKED: usize = 120;
    for _ in 0..ASKED {
        let mut stream = c.client().run(|| traffic::connect(to)).unwrap();
        back += usize::from(request(&mut stream).as_deref() == Some("rs2"));
        held.push(stream);
    }
    println!("{workers} workers: {back} of {ASKED} new connections went to the newcomer");
    assert!((1..=ASKED / 3 * 2).contains(&back), "{back} of {ASKED}, twice the share is {}", ASKED / 3 * 2);
}

in_namespaces! {
    fn a_server_that_comes_back_is_not_flooded_under_wlc() {
        a_server_that_comes_back_is_not_flooded(1);
    }
}

in_namespaces! {
    fn a_server_that_comes_back_is_not_flooded_by_two_workers_either() {
        a_server_that_comes_back_is_not_flooded(2);
    }
}

/// Answers queries with its name until it is told to be dead.
struct Answerer {
    dead: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Answerer {
    fn start(socket: UdpSocket, name: String) -> Answerer {
        let (dead, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (d, s) = (dead.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 64];
            while !s.load(SeqCst) {
                let Ok((n, from)) = socket.recv_from(&mut buf) else { continue };
                if !d.load(SeqCst) {
                    let _ = socket.send_to(&[&buf[..n], name.as_bytes()].concat(), from);
                }
            }
        });
        Answerer { dead, stop, thread: Some(thread) }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

/// Twenty queries a second, over six flows that were there before, across the death of a server.
fn datagrams_over_a_killed_server(workers: u8) {
    let udp = "type = \"udp\"\nrequire_reply = true\npayload = \"70\"";
    let mut c = Cluster::start(Setup { check: udp, ..setup(workers) });
    let l = &c.topology.layout;
    let mut servers = Vec::new();
    for (host, ip) in l.servers() {
        let at = SocketAddr::new(ip, l.rport);
        let socket = c.topology.node(&host.name).unwrap().ns.run(|| UdpSocket::bind(at)).unwrap();
        servers.push(Answerer::start(socket, host.name.clone()));
    }
    c.reload(&c.configuration("").replace("protocol = \"tcp\"", "protocol = \"udp\""));
    c.wait_for("configuration read again", 1);
    let to = c.vip();
    let flow = || {
        let s = UdpSocket::bind("0.0.0.0:0")?;
        s.connect(to)?;
        s.set_nonblocking(true)?;
        Ok(s)
    };
    let flows: Vec<UdpSocket> = (0..6).map(|_| c.client().run(flow).unwrap()).collect();
    let mut sent: Vec<Instant> = Vec::new();
    let mut answered: Vec<Option<String>> = Vec::new();
    let mut killed = None;
    let began = Instant::now();
    for turn in 0u32..80 {
        // on time, however long the last turn took
        let due = began + Duration::from_millis(50) * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if turn == 20 {
            killed = Some(Instant::now());
            servers[1].dead.store(true, SeqCst);
        }
        sent.push(Instant::now());
        answered.push(None);
        // a refusal of before would be told here
        let _ = flows[turn as usize % flows.len()].send(&turn.to_be_bytes());
        collect(&flows, &mut answered);
    }
    std::thread::sleep(Duration::from_millis(300));
    collect(&flows, &mut answered);
    let (killed, bound) = (killed.unwrap(), INTERVAL * FALL + Duration::from_millis(100));
    let before = answered[..20].iter().flatten().filter(|n| *n == "rs2").count();
    assert!(before >= 6, "rs2 had its share: {answered:?}");
    let lost: Vec<Duration> = sent
        .iter()
        .zip(&answered)
        .filter(|(_, a)| a.is_none())
        .map(|(at, _)| at.saturating_duration_since(killed))
        .collect();
    println!(
        "{workers} workers: {} of {} lost, the last one {:?} after",
        lost.len(),
        sent.len(),
        lost.last()
    );
    assert!(!lost.is_empty() && lost.iter().all(|at| *at <= bound && !at.is_zero()), "{lost:?}");
    let moved = answered[50..].iter().flatten().filter(|n| *n != "rs2").count();
    assert_eq!(moved, 30, "{answered:?}");
    c.wait_for(": down: ", 1);
    assert_eq!(c.count(": down: "), 1);
}

fn collect(flows: &[UdpSocket], answered: &mut [Option<String>]) {
    let mut buf = [0; 64];
    for s in flows {
        while let Ok(n) = s.recv(&mut buf) {
            let turn = u32::from_be_bytes(buf[..4].try_into().unwrap()) as usize;
            answered[turn] = Some(String::from_utf8_lossy(&buf[4..n]).into_owned());
        }
    }
}

in_namespaces! {
    fn datagrams_over_a_killed_server_are_answered_after_the_check() {
        datagrams_over_a_killed_server(1);
    }
}

in_namespaces! {
    fn datagrams_over_a_killed_server_are_answered_after_the_check_with_two_workers() {
        datagrams_over_a_killed_server(2);
    }
}
