//! Ports on wires: every frame accounted for, queues, packets in pieces.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use softlvs::addr::Mac;
use softlvs::buf::PacketBuf;
use softlvs::engine::steer::{Crew, Outline};
use softlvs::io::sys::netlink::Netlink;
use softlvs::io::sys::ns::NetNs;
use softlvs::io::sys::raw::{Capture, Injector};
use softlvs::io::xdp::frames::{RECEIVE, SEND};
use softlvs::io::xdp::{XdpConfig, XdpMode, XdpPort};
use softlvs::io::{BURST, Burst, MacChoice, OpenError, Port, SendReport, Slots};

use crate::with_bpf;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 9]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 8]);

/// Two hosts and a wire with so many queues.
struct Wire {
    near: NetNs,
    far: NetNs,
}

impl Wire {
    fn new(queues: u32) -> Wire {
        let wire = Wire { near: NetNs::new().unwrap(), far: NetNs::new().unwrap() };
        wire.lay(queues);
        wire
    }

    fn lay(&self, queues: u32) {
        let wire = self;
        let q = queues.to_string();
        let script = format!(
            "ip link add eth0 numrxqueues {q} numtxqueues {q} type veth peer name peer0 numrxqueues {q} numtxqueues {q}"
        );
        let run = shell;
        run(&wire.near, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        run(&wire.far, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        run(&wire.near, &script);
        let mut links = Netlink::open_in(&wire.near).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&wire.far));
        run(&wire.near, &format!("ip link set peer0 netns /proc/{}/fd/{fd}", std::process::id()));
        let eth0 = links.index("eth0").unwrap();
        links.set_up(eth0, true).unwrap();
        let mut far = Netlink::open_in(&wire.far).unwrap();
        let index = far.index("peer0").unwrap();
        far.set_up(index, true).unwrap();
    }

    fn port(&self, mode: XdpMode) -> XdpPort {
        self.ports(mode, 1).pop().unwrap()
    }

    fn ports(&self, mode: XdpMode, n: usize) -> Vec<XdpPort> {
        let config =
            XdpConfig { interface: "eth0".into(), mac: MacChoice::Own(OWN), mode, ..XdpConfig::default() };
        // a process that another test is about to start may still hold the program of the last port
        let again = |e: &OpenError| e.to_string().contains("has an XDP program already");
        for _ in 0..50 {
            match self.near.run(|| Ok(XdpPort::open_queues(&config, n))).unwrap() {
                Err(e) if again(&e) => std::thread::sleep(Duration::from_millis(20)),
                opened => return opened.unwrap(),
            }
        }
        panic!("somebody else's program stays on the interface");
    }

    fn peer(&self) -> (Injector, Capture) {
        let index = Netlink::open_in(&self.far).unwrap().index("peer0").unwrap();
        self.far.run(|| Ok((Injector::open(index)?, Capture::arrivals()?))).unwrap()
    }
}

/// A UDP packet to the director, from a port of its own.
fn packet(from: u16, len: usize) -> Vec<u8> {
    let mut f = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, OWN.0)
        .ipv4([10, 0, 0, 8], [10, 0, 0, 9], 64)
        .udp(from, 53)
        .write(&mut f, &vec![from as u8; len])
        .unwrap();
    f
}

/// Receives until there was nothing for a while, and sends everything back.
fn bounce(port: &mut XdpPort, sent: &mut SendReport) -> Vec<Vec<u8>> {
    let mut slots = Slots::for_burst();
    let mut got = Vec::new();
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(200) {
        let mut iter = slots.iter();
        let mut burst = Burst::new();
        port.recv_burst(&mut iter, &mut burst).unwrap();
        if !burst.is_empty() {
            quiet = Instant::now();
        }
        for p in &mut burst {
            got.push(p.bytes().to_vec());
            let f = p.bytes_mut();
            f[..6].copy_from_slice(&PEER.0);
            f[6..12].copy_from_slice(&OWN.0);
        }
        let mut back: Vec<&mut PacketBuf<'_>> = burst.iter_mut().collect();
        port.send_burst(&mut back, sent).unwrap();
        drop(back);
        for census in port.census() {
            assert_eq!((census.total(), census.lost), (RECEIVE + SEND, 0), "{census:?}");
        }
    }
    got
}

fn at_rest(port: &XdpPort) {
    for c in port.census() {
        assert_eq!((c.fill, c.rx, c.receiving), (RECEIVE, 0, 0), "{c:?}");
        assert_eq!((c.free, c.tx, c.sending), (SEND, 0, 0), "{c:?}");
    }
}

fn every_frame(mode: XdpMode, how: &str) {
    with_bpf(|| {
        let wire = Wire::new(1);
        let mut port = wire.port(mode);
        assert_eq!(port.how(), how);
        let (peer, ear) = wire.peer();
        let mut sent = SendReport::default();
        bounce(&mut port, &mut sent);
        assert!(!readable(&port), "nobody is woken for nothing");
        let mut total = 0;
        // more than there are frames for sending, and more than there are for receiving
        for (n, len) in [(1, 18), (100, 18), (1500, 100), (500, 1472)] {
            for i in 0..n {
                peer.send(&packet(i, len)).unwrap();
            }
            let got = bounce(&mut port, &mut sent);
            assert_eq!(got.len(), usize::from(n));
            assert!((0..n).zip(&got).all(|(i, f)| *f == packet(i, len)), "order and contents");
            at_rest(&port);
            total += usize::from(n);
        }
        assert_eq!(sent, SendReport { sent: total, ..SendReport::default() });
        let mut buf = [0; 600];
        let mut back = 0;
        while let Ok((_, f)) = ear.recv(&mut buf) {
            back += usize::from(f[..6] == PEER.0);
        }
        assert_eq!(back, total);
        // more than the receive ring holds: the rest is lost, no frame is
        for i in 0..5000 {
            peer.send(&packet(i, 18)).unwrap();
        }
        let got = bounce(&mut port, &mut sent).len();
        assert!((RECEIVE as usize..5000).contains(&got), "{got}");
        let lost = port.statistics()[0];
        assert_eq!(lost.dropped + lost.ring_full, 5000 - got as u64, "{lost:?}");
        assert_eq!(port.losses().total(), 5000 - got as u64);
        at_rest(&port);
    });
}

#[test]
fn native_accounts_for_every_frame() {
    every_frame(XdpMode::Native, "native, copy");
}

#[test]
fn generic_accounts_for_every_frame() {
    every_frame(XdpMode::Generic, "generic, copy");
}

#[test]
fn busy_polling_changes_nothing_about_packets() {
    with_bpf(|| {
        let wire = Wire::new(1);
        let config = XdpConfig {
            interface: "eth0".into(),
            mac: MacChoice::Own(OWN),
            busy_poll: Some(50),
            ..XdpConfig::default()
        };
        let mut port = wire.near.run(|| Ok(XdpPort::open(&config).unwrap())).unwrap();
        let (peer, _ear) = wire.peer();
        (0..300).for_each(|i| peer.send(&packet(i, 64)).unwrap());
        let mut sent = SendReport::default();
        assert_eq!(bounce(&mut port, &mut sent).len(), 300);
        assert_eq!(sent.sent, 300);
        at_rest(&port);
    });
}

#[test]
fn the_interface_that_vanishes_is_an_error_and_comes_back() {
    with_bpf(|| {
        let wire = Wire::new(1);
        let mut port = wire.port(XdpMode::Auto);
        let mut links = Netlink::open_in(&wire.near).unwrap();
        let index = links.index("eth0").unwrap();
        links.set_up(index, false).unwrap();
        let mut slots = Slots::for_burst();
        let e = port.recv_burst(&mut slots.iter(), &mut Burst::new()).unwrap_err();
        assert_eq!(e.source().raw_os_error(), Some(libc::ENETDOWN));
        assert!(wire.near.run(|| port.reopen()).is_err(), "it is still down");
        links.set_up(index, true).unwrap();
        wire.near.run(|| port.reopen()).unwrap();
        let (peer, _ear) = wire.peer();
        peer.send(&packet(7, 18)).unwrap();
        assert_eq!(bounce(&mut port, &mut SendReport::default()), [packet(7, 18)]);
        links.delete_link(index).unwrap();
        assert!(port.recv_burst(&mut slots.iter(), &mut Burst::new()).is_err());
        assert!(wire.near.run(|| port.reopen()).is_err());
    });
}

#[test]
fn queues_are_dealt_out_to_workers_and_each_packet_arrives_at_one() {
    with_bpf(|| {
        let wire = Wire::new(4);
        let mut whole = wire.port(XdpMode::Native);
        assert_eq!((whole.how().as_str(), whole.census().len()), ("native, copy, 4 queues", 4));
        let (peer, _ear) = wire.peer();
        let send = || (0..400).for_each(|i| peer.send(&packet(1000 + i, 18)).unwrap());
        send();
        let got = bounce(&mut whole, &mut SendReport::default());
        assert_eq!(got.len(), 400);
        at_rest(&whole);
        drop(whole);
        let mut two = wire.ports(XdpMode::Native, 2);
        send();
        let shares: Vec<usize> =
            two.iter_mut().map(|p| bounce(p, &mut SendReport::default()).len()).collect();
        assert_eq!(shares.iter().sum::<usize>(), 400, "{shares:?}");
        drop(two);
        let config = XdpConfig { interface: "eth0".into(), ..XdpConfig::default() };
        let e = wire.near.run(|| Ok(XdpPort::open_queues(&config, 5).err().unwrap())).unwrap();
        assert!(e.to_string().contains("5 workers want a queue each, it has 4"), "{e}");
    });
}

/// What two workers are steered by where 10.0.0.9 is virtual.
fn outline() -> Outline {
    let vips = vec![Ipv4Addr::new(10, 0, 0, 9).into()];
    Outline { workers: 2, key: Crew::new(2, 5).key(), vips, local: Vec::new(), fullnat: false }
}

/// The client's ports whose packets are this worker's.
fn ports_of(worker: u32, outline: &Outline, from: Range<u16>) -> Vec<u16> {
    let client = Ipv4Addr::new(10, 0, 0, 8).into();
    let owner = |port: &u16| ((outline.key.hash(client, *port) >> 16) * 2) >> 16;
    from.filter(|port| owner(port) == worker).collect()
}

/// The client's ports of these packets, in order.
fn client_ports(frames: &[Vec<u8>]) -> Vec<u16> {
    let mut ports: Vec<u16> = frames.iter().map(|f| u16::from_be_bytes([f[34], f[35]])).collect();
    ports.sort_unstable();
    ports
}

fn readable(port: &XdpPort) -> bool {
    let mut fds = [PollFd::new(port.fd().unwrap(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// Workers live where their ports are.
fn steer(wire: &Wire, ports: &mut [XdpPort], outline: &Outline) {
    let steer = || {
        ports.iter_mut().for_each(|port| port.steer(outline));
        Ok(())
    };
    wire.near.run(steer).unwrap();
}

/// Sends from each processor in turn, which chooses the queue of a veth.
fn from_all_processors(peer: &Injector, from: Range<u16>) {
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let all: Vec<usize> = (0..CpuSet::count()).filter(|cpu| before.is_set(*cpu).unwrap()).collect();
    for (i, port) in from.enumerate() {
        let mut one = CpuSet::new();
        one.set(all[i / 50 % all.len()]).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        peer.send(&packet(port, 18)).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &before).unwrap();
}

#[test]
fn each_worker_receives_its_own_packets_from_every_queue() {
    with_bpf(|| {
        let wire = Wire::new(2);
        let mut two = wire.ports(XdpMode::Native, 2);
        let outline = outline();
        let receive = |two: &mut [XdpPort], what: &str| {
            let (peer, _ear) = wire.peer();
            from_all_processors(&peer, 1000..1400);
            for (port, worker) in two.iter_mut().zip(0..) {
                let got = bounce(port, &mut SendReport::default());
                assert_eq!(
                    client_ports(&got),
                    ports_of(worker, &outline, 1000..1400),
                    "{what}, worker {worker}"
                );
            }
            two.iter().for_each(at_rest);
        };
        steer(&wire, &mut two, &outline);
        receive(&mut two, "steered");
        // another outline takes the place of this one while packets come; the same once more changes nothing
        let other = Outline { fullnat: true, ..outline.clone() };
        steer(&wire, &mut two, &other);
        receive(&mut two, "steered otherwise");
        // one that begins anew on an interface that is there
        let mut links = Netlink::open_in(&wire.near).unwrap();
        let index = links.index("eth0").unwrap();
        links.set_up(index, false).unwrap();
        links.set_up(index, true).unwrap();
        two.iter_mut().for_each(|port| wire.near.run(|| port.reopen()).unwrap());
        receive(&mut two, "after a flap");
        // an interface that was another one's place
        links.delete_link(index).unwrap();
        for port in &mut two {
            assert!(port.recv_burst(&mut Slots::for_burst().iter(), &mut Burst::new()).is_err());
            assert!(wire.near.run(|| port.reopen()).is_err());
        }
        wire.lay(2);
        two.iter_mut().rev().for_each(|port| wire.near.run(|| port.reopen()).unwrap());
        // a bell wakes each to notice the other
        for port in &mut two {
            assert!(readable(port));
            wire.near.run(|| Ok(bounce(port, &mut SendReport::default()))).unwrap();
            assert!(!readable(port));
        }
        receive(&mut two, "on a new interface");
        // who is not there any more leaves his packets of this queue to the other one, and the frames of those that he
        // had not read
        let (peer, _ear) = wire.peer();
        from_all_processors(&peer, 1000..1400);
        let gone = two.pop().unwrap();
        bounce(&mut two[0], &mut SendReport::default());
        assert_ne!(two[0].census()[0].receiving, 0, "frames that wait for the other one");
        drop(gone);
        from_all_processors(&peer, 1000..1400);
        let got = client_ports(&bounce(&mut two[0], &mut SendReport::default()));
        let others = ports_of(1, &outline, 1000..1400);
        assert!(got.iter().any(|port| others.contains(port)), "{got:?}");
        at_rest(&two[0]);
    });
}

#[test]
fn packets_of_a_worker_in_one_queue_do_not_keep_it_from_those_in_the_other() {
    with_bpf(|| {
        let wire = Wire::new(2);
        let mut two = wire.ports(XdpMode::Native, 2);
        steer(&wire, &mut two, &outline());
        let (peer, _ear) = wire.peer();
        from_all_processors(&peer, 1000..1800);
        let port = &mut two[0];
        let waiting = |port: &XdpPort| port.census()[0].rx as usize;
        let before = waiting(port);
        assert!(before > 2 * BURST, "{before} wait in its own queue");
        let mut slots = Slots::for_burst();
        let (mut got, mut of_guests) = (0, 0);
        for _ in 0..2 {
            let (mut iter, mut burst) = (slots.iter(), Burst::new());
            let left = waiting(port);
            port.recv_burst(&mut iter, &mut burst).unwrap();
            got += burst.len();
            of_guests += burst.len() - (left - waiting(port));
        }
        assert_eq!((got, of_guests), (2 * BURST, BURST), "one burst of each");
    });
}

#[test]
fn what_a_worker_does_not_fetch_is_lost_for_it_alone_and_counted() {
    with_bpf(|| {
        let wire = Wire::new(2);
        let mut two = wire.ports(XdpMode::Native, 2);
        let outline = outline();
        steer(&wire, &mut two, &outline);
        let (peer, _ear) = wire.peer();
        let all = 1000..9000;
        let mut got = 0;
        // the first one fetches, the second is asleep
        for part in all.clone().step_by(500) {
            from_all_processors(&peer, part..part + 500);
            got += bounce(&mut two[0], &mut SendReport::default()).len();
        }
        assert_eq!(got, ports_of(0, &outline, all.clone()).len(), "nothing of the first one's");
        let late = bounce(&mut two[1], &mut SendReport::default()).len();
        let missing = ports_of(1, &outline, all).len() - late;
        assert!(missing > 0 && late > 0, "{late} of it");
        // the first look tells the queue what its guests could not receive
        two.iter_mut().for_each(|port| {
            port.losses();
        });
        let lost: u64 = two.iter_mut().map(|port| port.losses().total()).sum();
        assert_eq!(lost, missing as u64);
        two.iter().for_each(at_rest);
    });
}

#[test]
fn a_packet_longer_than_a_frame_comes_and_goes_in_pieces() {
    with_bpf(|| {
        let wire = Wire::new(1);
        for (ns, name) in [(&wire.near, "eth0"), (&wire.far, "peer0")] {
            ns.run(|| softlvs::io::sys::link::set_mtu(name, 9000)).unwrap();
        }
        let mut port = wire.port(XdpMode::Generic);
        let (peer, _ear) = wire.peer();
        peer.send(&packet(1, 8972)).unwrap();
        peer.send(&packet(2, 18)).unwrap();
        let mut sent = SendReport::default();
        assert_eq!(bounce(&mut port, &mut sent), [packet(1, 8972), packet(2, 18)]);
        assert_eq!(sent.sent, 2);
        at_rest(&port);
    });
}

/// Runs commands in a namespace.
fn shell(ns: &NetNs, script: &str) {
    let mut c = Command::new("sh");
    c.args(["-ec", script]);
    ns.confine(&mut c).unwrap();
    let out = c.output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn announcements_reach_both_the_host_and_the_director() {
    with_bpf(|| {
        let wire = Wire::new(1);
        shell(&wire.near, "ip address add 10.0.0.5/24 dev eth0");
        let mut port = wire.port(XdpMode::Auto);
        shell(&wire.near, "ip neigh add 10.0.0.8 lladdr 02:00:00:00:00:77 nud stale dev eth0");
        // the kernel protects an entry for a second (locktime)
        std::thread::sleep(Duration::from_millis(1200));
        let (peer, _ear) = wire.peer();
        // a gratuitous ARP reply: 10.0.0.8 is at PEER now
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        let ip = [10, 0, 0, 8];
        let arp = [&head[..], &PEER.0, &ip, &[0xff; 6], &ip].concat();
        let frame = [&[0xff; 6][..], &PEER.0, &[8, 6], &arp].concat();
        peer.send(&frame).unwrap();
        let got = bounce(&mut port, &mut SendReport::default());
        assert_eq!(got.iter().map(|f| f[..42].to_vec()).collect::<Vec<_>>(), [frame]);
        let out = wire.near.run(|| Command::new("ip").args(["neigh", "show", "10.0.0.8"]).output()).unwrap();
        let line = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(line.contains(&PEER.to_string()), "the kernel's entry: {line}");
    });
}

/// VLANs on the same interface are the kernel's.
#[test]
fn tagged_frames_are_left_to_the_kernel() {
    with_bpf(|| {
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let wire = Wire::new(1);
            let mut port = wire.port(mode);
            let (peer, _ear) = wire.peer();
            for (tpid, vid) in [([0x81, 0x00], 7), ([0x88, 0xa8], 7), ([0x81, 0x00], 0)] {
                let plain = packet(1, 18);
                let tag = [tpid[0], tpid[1], 0, vid];
                peer.send(&[&plain[..12], &tag, &plain[12..]].concat()).unwrap();
            }
            peer.send(&packet(2, 18)).unwrap();
            assert_eq!(bounce(&mut port, &mut SendReport::default()), [packet(2, 18)], "{mode:?}");
        }
    });
}
