//! Ports and worker on real devices, in network namespaces of the test's own.
//!
//! A null forwarder stands in for the director: it changes MAC addresses and nothing else, so that what
//! arrives is what the ports carried. Without the privilege to make namespaces each test says so and
//! passes; with `CI=true` it fails instead.
#![cfg(feature = "daemon")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use softlvs::addr::{Cidr, Mac};
use softlvs::buf::{Out, PacketBuf};
use softlvs::engine::{DropCounters, DropReason, PortId, Verdict};
use softlvs::io::guard::{self, Exposure, Guard};
use softlvs::io::packet::PacketConfig;
use softlvs::io::sys::netlink::{Feature, Netlink, set_feature};
use softlvs::io::sys::ns::NetNs;
use softlvs::io::tap::TapConfig;
use softlvs::io::tun::TunConfig;
use softlvs::io::{MacChoice, OffloadMode, PacketPort, Port, TapPort, TunPort};
use softlvs::time::Mono;
use softlvs::worker::{self, Director, Handle, clock};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const MAC_C: Mac = Mac([2, 0, 0, 0, 0, 0x0c]);
const MAC_S: Mac = Mac([2, 0, 0, 0, 0, 0x05]);
const MAC_0: Mac = Mac([2, 0, 0, 0, 0, 0xd0]);
const MAC_1: Mac = Mac([2, 0, 0, 0, 0, 0xd1]);

// ---------------------------------------------------------------- null forwarder

/// Sends what is for the client or the server there, with the port's own MAC as source.
#[derive(Default)]
struct Null {
    ways: Vec<(Ipv4Addr, PortId, Mac, Mac)>,
    drops: DropCounters,
    lost: u64,
    ups: u32,
    largest: usize,
}

impl Director for Null {
    fn on_burst(
        &mut self,
        _now: Mono,
        _port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        _out: &mut Out,
    ) {
        for (packet, verdict) in burst.iter_mut().zip(verdicts) {
            self.largest = self.largest.max(packet.len());
            let frame = packet.bytes_mut();
            *verdict = Verdict::Drop(DropReason::EtherType);
            let to = match frame.get(12..14) {
                Some([8, 0]) if frame.len() >= 34 => {
                    Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33])
                }
                // fd77::1 is the client as 10.77.0.1 is
                Some([0x86, 0xdd]) if frame.len() >= 54 && frame[38] == 0xfd => {
                    Ipv4Addr::new(10, 77, 0, frame[53])
                }
                _ => continue,
            };
            if let Some((_, port, dst, src)) = self.ways.iter().find(|w| w.0 == to) {
                frame[..6].copy_from_slice(&dst.0);
                frame[6..12].copy_from_slice(&src.0);
                *verdict = Verdict::Send(*port);
            }
        }
    }
    fn poll_timeout(&self) -> Option<Mono> {
        None
    }
    fn on_timeout(&mut self, _now: Mono, _out: &mut Out) {}
    fn device_drop(&mut self, _port: PortId, why: DropReason, n: u64) {
        self.drops.count(why);
        self.lost += n;
    }
    fn on_port(&mut self, _now: Mono, _port: PortId, up: bool, _out: &mut Out) {
        self.ups += u32::from(up);
    }
}

// ---------------------------------------------------------------- topology

struct Net {
    c: NetNs,
    d: NetNs,
    s: NetNs,
}

fn net() -> Option<Net> {
    let make = || -> io::Result<Net> { Ok(Net { c: NetNs::new()?, d: NetNs::new()?, s: NetNs::new()? }) };
    match make() {
        Ok(net) => Some(net),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "no network namespaces: {e}");
            println!("skipped: cannot make network namespaces: {e}");
            None
        }
    }
}

fn tap_allowed() -> bool {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => true,
        Err(e) => {
            assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "/dev/net/tun: {e}");
            println!("skipped: /dev/net/tun: {e}");
            false
        }
    }
}

/// The IPv6 address of the host with this IPv4 address.
fn v6(ip: Ipv4Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, ip.octets()[3].into()))
}

/// An end host on a veth to the director's namespace, where the other end is `far`.
fn host(
    net: &Net,
    ns: &NetNs,
    far: &str,
    ip: Ipv4Addr,
    mac: Mac,
    peer: Ipv4Addr,
    via: Mac,
) -> io::Result<()> {
    let mut d = Netlink::open_in(&net.d)?;
    d.add_veth(far, "eth0", Some(ns))?;
    let index = d.index(far)?;
    d.set_up(index, true)?;
    let mut h = Netlink::open_in(ns)?;
    let eth = h.index("eth0")?;
    h.set_mac(eth, mac)?;
    h.add_address(eth, Cidr { addr: IpAddr::V4(ip), len: 24 }, true)?;
    h.add_address(eth, Cidr { addr: v6(ip), len: 64 }, true)?;
    h.set_up(eth, true)?;
    h.add_neighbor(eth, IpAddr::V4(peer), via)?;
    h.add_neighbor(eth, v6(peer), via)?;
    Ok(())
}

/// Client and server each on a veth of the director: raw ports on both.
fn two_arm(net: &Net, offload: OffloadMode) -> Handle<Null> {
    host(net, &net.c, "d0", CLIENT, MAC_C, SERVER, MAC_0).unwrap();
    host(net, &net.s, "d1", SERVER, MAC_S, CLIENT, MAC_1).unwrap();
    let ways = vec![(SERVER, PortId(1), MAC_S, MAC_1), (CLIENT, PortId(0), MAC_C, MAC_0)];
    net.d
        .run(|| {
            let open = |interface: &str, mac| -> io::Result<Box<dyn Port>> {
                let config = PacketConfig {
                    interface: interface.to_owned(),
                    mac: MacChoice::Own(mac),
                    offload,
                    ..PacketConfig::default()
                };
                Ok(Box::new(PacketPort::open(&config).map_err(io::Error::other)?))
            };
            let ports = vec![open("d0", MAC_0)?, open("d1", MAC_1)?];
            worker::start("lvs-w0", Null { ways, ..Null::default() }, ports)
        })
        .unwrap()
}

/// Client, server and a TAP port of the director on one bridge.
fn one_arm(net: &Net, tap: &str, offload: OffloadMode) -> Handle<Null> {
    host(net, &net.c, "d0", CLIENT, MAC_C, SERVER, MAC_0).unwrap();
    host(net, &net.s, "d1", SERVER, MAC_S, CLIENT, MAC_0).unwrap();
    let ways = vec![(SERVER, PortId(0), MAC_S, MAC_0), (CLIENT, PortId(0), MAC_C, MAC_0)];
    let mut d = Netlink::open_in(&net.d).unwrap();
    d.add_bridge("br0").unwrap();
    let bridge = d.index("br0").unwrap();
    d.set_up(bridge, true).unwrap();
    let handle = net.d.run(|| {
        let config =
            TapConfig { name: tap.to_owned(), mac: MacChoice::Own(MAC_0), offload, ..TapConfig::default() };
        let port = TapPort::open(&config).map_err(io::Error::other)?;
        worker::start("lvs-w0", Null { ways, ..Null::default() }, vec![Box::new(port) as Box<dyn Port>])
    });
    for name in ["d0", "d1", tap] {
        let index = d.index(name).unwrap();
        d.set_master(index, bridge).unwrap();
    }
    handle.unwrap()
}

fn offloads(net: &Net, on: bool) {
    for ns in [&net.c, &net.s] {
        ns.run(|| {
            set_feature("eth0", Feature::TxChecksum, on)?;
            set_feature("eth0", Feature::Tso, on)
        })
        .unwrap();
    }
}

// ---------------------------------------------------------------- traffic

fn noise(mut seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        })
        .collect()
}

/// 10 MiB from client to server and other 10 MiB back, compared byte for byte.
fn tcp_both_ways(net: &Net, server: IpAddr) {
    let at = SocketAddr::from((server, 8000));
    tcp(&net.s, at, &net.c, at);
}

/// 10 MiB each way between a listener `at` and a client that connects `to`.
fn tcp(server: &NetNs, at: SocketAddr, client: &NetNs, to: SocketAddr) {
    const LEN: usize = 10 << 20;
    let listener = server.run(|| TcpListener::bind(at)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut got = vec![0; LEN];
        s.read_exact(&mut got).unwrap();
        assert!(got == noise(1, LEN), "client's bytes changed on the way");
        s.write_all(&noise(2, LEN)).unwrap();
    });
    client
        .run(|| {
            let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            s.set_read_timeout(Some(Duration::from_secs(20)))?;
            s.write_all(&noise(1, LEN))?;
            let mut got = vec![0; LEN];
            s.read_exact(&mut got)?;
            assert!(got == noise(2, LEN), "server's bytes changed on the way");
            Ok(())
        })
        .unwrap();
    server.join().unwrap();
}

/// One UDP request of each length and its reply; true when all came back right within the time.
fn udp_echo(net: &Net, port: u16, wait: Duration) -> bool {
    let at = SocketAddr::from((SERVER, port));
    let server = net.s.run(|| UdpSocket::bind(at)).unwrap();
    server.set_read_timeout(Some(wait)).unwrap();
    let lens = [1usize, 100, 1400];
    let echo = std::thread::spawn(move || {
        let mut buf = [0; 2000];
        for _ in lens {
            let Ok((n, from)) = server.recv_from(&mut buf) else { return };
            let _ = server.send_to(&buf[..n], from);
        }
    });
    let client = net.c.run(|| UdpSocket::bind(SocketAddr::from((CLIENT, 0)))).unwrap();
    client.set_read_timeout(Some(wait)).unwrap();
    let ok = lens.iter().all(|len| {
        let sent = noise(*len as u64, *len);
        let mut buf = [0; 2000];
        client.send_to(&sent, at).is_ok() && client.recv(&mut buf).is_ok_and(|n| buf[..n] == sent[..])
    });
    echo.join().unwrap();
    ok
}

fn ping(net: &Net) {
    let mut command = Command::new("ping");
    command.args(["-c", "3", "-i", "0.05", "-W", "2", "-s", "1000", &SERVER.to_string()]);
    net.c.confine(&mut command).unwrap();
    let out = command.output().expect("ping is installed");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("3 received") && !text.contains("DUP"), "{text}");
}

/// A sender of small UDP packets that runs until it is dropped.
struct Blast(Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Blast {
    fn start(net: &Net) -> Blast {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let socket = net.c.run(|| UdpSocket::bind(SocketAddr::from((CLIENT, 0)))).unwrap();
        let thread = std::thread::spawn(move || {
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                for _ in 0..32 {
                    let _ = socket.send_to(&[0; 22], SocketAddr::from((SERVER, 9)));
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        Blast(stop, Some(thread))
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// CPU time the worker thread has used.
fn cpu(handle: &Handle<Null>) -> Duration {
    let text = handle
        .call(|_, _, _| std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default())
        .unwrap();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Share of one core used by the worker during `time`.
fn cpu_share(handle: &Handle<Null>, time: Duration) -> f64 {
    let (used, start) = (cpu(handle), clock::now());
    std::thread::sleep(time);
    let ns = (cpu(handle) - used).as_nanos() as f64;
    ns / clock::now().since(start).0 as f64
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..100 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: not within 5 s");
}

// ---------------------------------------------------------------- log

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(b);
        Ok(b.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines logged so far about a port. All tests share the log, port names tell them apart.
fn logged(port: &str) -> Vec<String> {
    let log = log().0.lock().unwrap().clone();
    let wanted = format!("port={port} ");
    String::from_utf8_lossy(&log).lines().filter(|l| l.contains(&wanted)).map(str::to_owned).collect()
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log(Arc::default());
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    })
}

// ---------------------------------------------------------------- tests

fn carries_everything(net: &Net, handle: Handle<Null>, whole: bool) {
    ping(net);
    assert!(udp_echo(net, 7000, Duration::from_secs(2)), "udp");
    tcp_both_ways(net, SERVER.into());
    tcp_both_ways(net, v6(SERVER));
    let null = handle.stop().unwrap();
    assert_eq!(null.drops.of(DropReason::DeviceRefused), 0);
    assert_eq!(null.drops.of(DropReason::BadOffload) + null.drops.of(DropReason::BadSegmentation), 0);
    if whole {
        assert!(null.largest > 10_000, "super-frames pass whole, largest {}", null.largest);
    }
}

#[test]
fn raw_ports_carry_ping_udp_and_tcp_with_the_ends_offloads_on_and_off() {
    for on in [true, false] {
        let Some(net) = net() else { return };
        let handle = two_arm(&net, OffloadMode::Auto);
        offloads(&net, on);
        carries_everything(&net, handle, on);
    }
}

#[test]
fn raw_ports_without_offload_segment_and_complete_what_a_veth_hands_over() {
    let Some(net) = net() else { return };
    let handle = two_arm(&net, OffloadMode::Off);
    offloads(&net, true);
    assert!(!handle.ports()[0].0.offload.csum);
    carries_everything(&net, handle, false);
}

#[test]
fn tap_port_carries_ping_udp_and_tcp_with_the_ends_offloads_on_and_off() {
    if !tap_allowed() {
        return;
    }
    for on in [true, false] {
        let Some(net) = net() else { return };
        let handle = one_arm(&net, "tap0", OffloadMode::Auto);
        assert!(handle.ports()[0].0.offload.tso);
        offloads(&net, on);
        carries_everything(&net, handle, on);
    }
}

#[test]
fn plain_tap_port_has_packets_segmented_and_completed_by_the_kernel() {
    if !tap_allowed() {
        return;
    }
    let Some(net) = net() else { return };
    let handle = one_arm(&net, "tap0", OffloadMode::Off);
    assert!(!handle.ports()[0].0.offload.csum);
    ping(&net);
    assert!(udp_echo(&net, 7000, Duration::from_secs(2)), "udp");
    tcp_both_ways(&net, SERVER.into());
    assert!(handle.stop().unwrap().largest <= 1514);
}

#[test]
fn tap_deleted_under_load_costs_no_cpu_and_is_attached_again() {
    log();
    if !tap_allowed() {
        return;
    }
    let Some(net) = net() else { return };
    let ip = |args: &str| {
        let mut c = Command::new("ip");
        c.args(args.split(' '));
        net.d.confine(&mut c).unwrap();
        assert!(c.status().unwrap().success(), "ip {args}");
    };
    ip("tuntap add dev tapgone mode tap");
    let handle = one_arm(&net, "tapgone", OffloadMode::Auto);
    assert!(udp_echo(&net, 7000, Duration::from_secs(2)), "udp before");
    let load = Blast::start(&net);
    ip("link delete tapgone");
    wait_for("the port is seen to be gone", || logged("tapgone").len() == 1);
    let share = cpu_share(&handle, Duration::from_millis(1500));
    assert!(share <= 0.05, "worker uses {:.1} % of a core while its device is gone", share * 100.0);
    // it was there before the director was: it is not made by us
    assert!(Netlink::open_in(&net.d).unwrap().link("tapgone").is_err());
    ip("tuntap add dev tapgone mode tap");
    ip("link set tapgone up master br0");
    let works = |lines: &[String]| lines.last().is_some_and(|line| line.contains("works again"));
    wait_for("the port works again", || works(&logged("tapgone")));
    drop(load);
    wait_for("traffic flows again", || udp_echo(&net, 7001, Duration::from_millis(200)));
    let null = handle.stop().unwrap();
    assert_eq!(null.ups, 1);
    // a line when it goes, one when the reason is another, one when it is back
    assert!(logged("tapgone").len() <= 3 && works(&logged("tapgone")), "{:#?}", logged("tapgone"));
}

#[test]
fn tap_made_by_the_port_is_made_again_when_deleted() {
    log();
    if !tap_allowed() {
        return;
    }
    let Some(net) = net() else { return };
    let handle = one_arm(&net, "tapours", OffloadMode::Auto);
    let mut d = Netlink::open_in(&net.d).unwrap();
    let index = d.index("tapours").unwrap();
    d.delete_link(index).unwrap();
    wait_for("made again", || d.link("tapours").is_ok_and(|l| l.up));
    let (tap, bridge) = (d.index("tapours").unwrap(), d.index("br0").unwrap());
    d.set_master(tap, bridge).unwrap();
    wait_for("traffic flows again", || udp_echo(&net, 7001, Duration::from_millis(200)));
    assert_eq!(handle.stop().unwrap().ups, 1);
}

#[test]
fn interface_deleted_under_load_costs_no_cpu_and_is_attached_again() {
    log();
    let Some(net) = net() else { return };
    let handle = two_arm(&net, OffloadMode::Auto);
    assert!(udp_echo(&net, 7000, Duration::from_secs(2)), "udp before");
    let before = logged("d1").len();
    let mut d = Netlink::open_in(&net.d).unwrap();
    {
        let _load = Blast::start(&net);
        let index = d.index("d1").unwrap();
        d.delete_link(index).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    // the other port still receives what was sent: without load the rest must be nothing
    let share = cpu_share(&handle, Duration::from_millis(1500));
    assert!(share <= 0.05, "worker uses {:.1} % of a core while its device is gone", share * 100.0);
    host(&net, &net.s, "d1", SERVER, MAC_S, CLIENT, MAC_1).unwrap();
    wait_for("traffic flows again", || udp_echo(&net, 7001, Duration::from_millis(200)));
    let null = handle.stop().unwrap();
    assert!(null.drops.of(DropReason::DeviceDown) > 0, "losses have their reason");
    assert!(logged("d1").len() - before <= 8, "{:#?}", logged("d1"));
}

#[test]
fn tcp_survives_a_flapping_link() {
    log();
    let Some(net) = net() else { return };
    let handle = two_arm(&net, OffloadMode::Auto);
    std::thread::scope(|s| {
        let flap = s.spawn(|| {
            let mut d = Netlink::open_in(&net.d).unwrap();
            let index = d.index("d1").unwrap();
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(10));
                d.set_up(index, false).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                d.set_up(index, true).unwrap();
            }
        });
        tcp_both_ways(&net, SERVER.into());
        flap.join().unwrap();
    });
    wait_for("traffic flows again", || udp_echo(&net, 7001, Duration::from_millis(200)));
    handle.stop().unwrap();
}

/// Exchanges source and destination of IPv4: what the kernel sends into the TUN device comes back to it as
/// if it came from the other address. No checksum changes by that.
struct Mirror;

impl Director for Mirror {
    fn on_burst(
        &mut self,
        _now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        _out: &mut Out,
    ) {
        for (packet, verdict) in burst.iter_mut().zip(verdicts) {
            *verdict = Verdict::Drop(DropReason::BadVersion);
            if let Some((head, tail)) = packet.bytes_mut().split_at_mut_checked(16)
                && head[0] >> 4 == 4
                && tail.len() >= 4
            {
                head[12..].swap_with_slice(&mut tail[..4]);
                *verdict = Verdict::Send(port);
            }
        }
    }
    fn poll_timeout(&self) -> Option<Mono> {
        None
    }
    fn on_timeout(&mut self, _now: Mono, _out: &mut Out) {}
    fn device_drop(&mut self, _port: PortId, why: DropReason, n: u64) {
        panic!("{n} packets lost: {why:?}");
    }
}

#[test]
fn tun_port_carries_tcp_with_and_without_offload() {
    if !tap_allowed() {
        return;
    }
    for offload in [OffloadMode::On, OffloadMode::Off] {
        let Some(net) = net() else { return };
        let handle = net
            .d
            .run(|| {
                let config =
                    TunConfig { name: "tun%d".to_owned(), mtu: Some(1400), offload, ..TunConfig::default() };
                let port = TunPort::open(&config).map_err(io::Error::other)?;
                worker::start("lvs-w0", Mirror, vec![Box::new(port) as Box<dyn Port>])
            })
            .unwrap();
        let info = &handle.ports()[0].0;
        assert_eq!((info.name.as_str(), info.mtu, info.mac), ("tun0", 1400, None));
        assert_eq!(info.offload.tso, offload == OffloadMode::On);
        let mut d = Netlink::open_in(&net.d).unwrap();
        let tun = d.index("tun0").unwrap();
        d.add_address(tun, "10.78.0.1/24".parse().unwrap(), true).unwrap();
        tcp(&net.d, "10.78.0.1:8000".parse().unwrap(), &net.d, "10.78.0.2:8000".parse().unwrap());
        handle.stop().unwrap();
    }
}

#[test]
fn guard_keeps_the_kernel_that_owns_the_vip_out_and_is_removed() {
    let Some(net) = net() else { return };
    let handle = two_arm(&net, OffloadMode::Auto);
    let mut d = Netlink::open_in(&net.d).unwrap();
    // as with mac = "inherit": the kernel takes the director's frames for its own
    let mut ports = Vec::new();
    for (name, mac) in [("d0", MAC_0), ("d1", MAC_1)] {
        let index = d.index(name).unwrap();
        d.set_mac(index, mac).unwrap();
        ports.push(Exposure {
            interface: name.to_owned(),
            shared: true,
            mac: Some(mac),
            device_mac: Some(mac),
        });
    }
    // an ordinary host of the network, which knows the way back to the client
    let d0 = d.index("d0").unwrap();
    d.add_address(d0, "10.77.0.254/24".parse().unwrap(), true).unwrap();
    let vips = [IpAddr::V4(SERVER)];
    let check = |guarded| net.d.run(|| Ok(guard::check(&ports, &vips, guarded))).unwrap();
    assert!(check(false).is_ok());
    net.d.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
    let e = check(false).unwrap_err();
    assert!(e.to_string().contains("net.ipv4.ip_forward = 1"), "{e}");
    let lo = d.index("lo").unwrap();
    d.add_address(lo, Cidr::host(SERVER.into()), true).unwrap();
    let e = check(false).unwrap_err();
    assert!(e.to_string().contains("10.77.0.2 is configured in the kernel too, on lo"), "{e}");
    assert!(check(true).is_ok());
    // what the check is for: the kernel resets the connection before the director has forwarded the SYN
    let at = SocketAddr::from((SERVER, 8000));
    let listener = net.s.run(|| TcpListener::bind(at)).unwrap();
    let refused = net.c.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(2))).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(listener);

    let install = || net.d.run(|| ports.iter().map(|p| Ok(Guard::install(p, &vips))).collect());
    let guards: Vec<Result<Guard, _>> = install().unwrap();
    if let Some(Err(e)) = guards.iter().find(|g| g.is_err()) {
        // Only the lack of the program is a reason: a rule that nft refuses is a defect.
        assert!(e.to_string().contains("`nft` is not there"), "{e}");
        assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "{e}");
        println!("skipped: {e}: {:?}", e.help);
        return;
    }
    ping(&net);
    tcp_both_ways(&net, SERVER.into());
    handle.stop().unwrap();
    let tables = || {
        let mut nft = Command::new("nft");
        nft.args(["list", "tables"]);
        net.d.confine(&mut nft).unwrap();
        String::from_utf8(nft.output().unwrap().stdout).unwrap()
    };
    assert!(tables().contains("netdev softlvs_d0") && tables().contains("netdev softlvs_d1"));
    // other addresses come in one transaction: where one rule is refused, no other has changed either
    let guards: Vec<Guard> = guards.into_iter().map(Result::unwrap).collect();
    let rules = || {
        let mut nft = Command::new("nft");
        nft.args(["list", "ruleset"]);
        net.d.confine(&mut nft).unwrap();
        String::from_utf8(nft.output().unwrap().stdout).unwrap()
    };
    let renew = |second: &Exposure, vips: &[&str]| {
        let vips: Vec<IpAddr> = vips.iter().map(|v| v.parse().unwrap()).collect();
        net.d.run(|| Ok(Guard::renew(&guards, &[&ports[0], second], &vips))).unwrap()
    };
    let before = rules();
    let gone = Exposure { interface: "no-such-name-can-be".to_owned(), ..ports[1].clone() };
    renew(&gone, &["10.77.0.3"]).unwrap_err();
    assert_eq!(rules(), before);
    renew(&ports[1], &["10.77.0.3"]).unwrap();
    assert_eq!(rules().matches("ip daddr 10.77.0.3 drop").count(), 2, "{}", rules());
    // a second one takes the place of the first, dropped outside the namespace it goes as well
    drop((install().unwrap(), guards));
    assert_eq!(tables(), "");
}

#[test]
fn a_port_says_what_is_wrong_and_what_to_do() {
    let Some(net) = net() else { return };
    net.d
        .run(|| {
            let raw = |interface: &str| {
                let config = PacketConfig { interface: interface.to_owned(), ..PacketConfig::default() };
                PacketPort::open(&config).err().expect("an error")
            };
            let e = raw("nosuch0");
            assert!(e.to_string().contains("nosuch0: No such device"), "{e}");
            assert!(e.help.unwrap().contains("ip link"));
            assert!(raw("lo").to_string().contains("not an Ethernet interface"));
            if !tap_allowed() {
                return Ok(());
            }
            let tap =
                |name: &str| TapPort::open(&TapConfig { name: name.to_owned(), ..TapConfig::default() });
            let e = tap("averyveryverylongname").err().unwrap();
            assert!(e.to_string().contains("is not an interface name"), "{e}");
            let first = tap("tap7").map_err(io::Error::other)?;
            let info = first.info().clone();
            assert_ne!(info.mac, info.device_mac);
            let e = tap("tap7").err().unwrap();
            assert!(e.to_string().contains("another process has it"), "{e}");
            let own = TapConfig {
                name: "tap7".to_owned(),
                mac: MacChoice::Own(info.device_mac.unwrap()),
                ..TapConfig::default()
            };
            drop(first);
            // the device went with the port; a new one has another address
            assert!(TapPort::open(&own).is_ok());
            Ok(())
        })
        .unwrap();
}
