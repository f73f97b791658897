//! Small packets: as many as go, and one at a time.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use nix::unistd::Pid;

use super::Outcome;
use crate::net::Net;
use crate::plan::{Mode, Way};
use crate::rig::Rig;
use crate::server::{DISCARD, UDP_ECHO};
use crate::sink::Sink;
use crate::stats::percentile;

/// Flows, and packets sent in one go on each.
const FLOWS: usize = 32;
const BATCH: usize = 32;
/// With headers of 42 bytes a frame of 64.
const PAYLOAD: usize = 22;

/// Sends from one processor as fast as it can; counts what arrives at the real server, where it is thrown
/// away before the kernel's stack.
pub fn packets(rig: &Rig, seconds: f64) -> io::Result<Outcome> {
    let net = &rig.net;
    let tunnel = matches!(rig.config.way, Way::Softlvs { mode: Mode::Tun, .. });
    let what = if tunnel { "ip protocol 4".to_owned() } else { format!("udp dport {DISCARD}") };
    let _wrapped = net.wrapped();
    let sink = Sink::install(net, net.arrival, &format!("{what} counter name \"n\" drop"))?;
    let (sent, elapsed) = net.client.ns.run(|| blast(net, seconds))?;
    // what is still under way
    std::thread::sleep(Duration::from_millis(30));
    let arrived = sink.count()? as f64;
    let lost = if sent > 0.0 { (1.0 - arrived / sent).max(0.0) } else { 0.0 };
    let values = [("rate", arrived / elapsed), ("sent", sent / elapsed), ("lost", lost)];
    Ok(Outcome::new(&values, Some((arrived, 1e-9))))
}

fn blast(net: &Net, seconds: f64) -> io::Result<(f64, f64)> {
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first)?;
    let mut sockets = Vec::new();
    for _ in 0..FLOWS {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((net.target, DISCARD))?;
        sockets.push(socket);
    }
    let payload = [0x55; PAYLOAD];
    let slices: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&payload)]).collect();
    let nowhere = [const { None::<()> }; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        for socket in &sockets {
            // a full queue or an ICMP message: those that were not sent do not count
            if let Ok(done) =
                sendmmsg(socket.as_raw_fd(), &mut headers, &slices, nowhere, [], MsgFlags::empty())
            {
                sent += done.count();
            }
        }
    }
    Ok((sent as f64, begun.elapsed().as_secs_f64()))
}

/// Parts of the time, each with a socket of its own: where processes land on processors changes from one to the
/// next.
const PARTS: u32 = 8;

/// One byte there and back, the next when it is back: with idle processors as they are, and kept awake. A
/// virtual processor that has halted takes its host tens of microseconds to wake, at every hop, unless a
/// process that looks for packets keeps it from halting; that is not what the director adds.
pub fn ping_pong(net: &Net, seconds: f64) -> io::Result<Outcome> {
    let mut values = Vec::new();
    let mut n = round_trips(net, seconds, ["p50", "p99"], &mut values)?;
    match Awake::keep() {
        Ok(_awake) => n += round_trips(net, seconds, ["awake_p50", "awake_p99"], &mut values)?,
        Err(e) => eprintln!("ping-pong with idle processors as they are only: {AWAKE}: {e}"),
    }
    values.push(("n", n as f64));
    Ok(Outcome::new(&values, None))
}

fn round_trips(
    net: &Net,
    seconds: f64,
    [p50, p99]: [&'static str; 2],
    values: &mut Vec<(&'static str, f64)>,
) -> io::Result<usize> {
    let mut all = Vec::new();
    for _ in 0..PARTS {
        all.append(&mut net.client.ns.run(|| part(net, seconds / f64::from(PARTS)))?);
    }
    all.sort_by(f64::total_cmp);
    values.extend([(p50, percentile(&all, 0.5)), (p99, percentile(&all, 0.99))]);
    Ok(all.len())
}

/// The longest that processors may take to wake up, as long as somebody has it open.
const AWAKE: &str = "/dev/cpu_dma_latency";

/// Idle processors look for work instead of sleeping while this lives (Documentation/power/pm_qos_interface.rst).
struct Awake(#[expect(dead_code, reason = "closing it ends the request")] File);

impl Awake {
    fn keep() -> io::Result<Awake> {
        let mut file = File::options().write(true).open(AWAKE)?;
        file.write_all(&0i32.to_ne_bytes())?;
        Ok(Awake(file))
    }
}

/// Microseconds of each round trip within `seconds`, at least 50 of them.
fn part(net: &Net, seconds: f64) -> io::Result<Vec<f64>> {
    const WARM: u32 = 20;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((net.target, UDP_ECHO))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut times, mut lost, mut done) = (Vec::new(), 0, 0u32);
    let mut buf = [0; 16];
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds || times.len() < 50 {
        let at = Instant::now();
        socket.send(b"x")?;
        match socket.recv(&mut buf) {
            Ok(_) if done >= WARM => times.push(at.elapsed().as_secs_f64() * 1e6),
            Ok(_) => {}
            Err(_) if lost < 5 => lost += 1,
            Err(e) => return Err(io::Error::new(e.kind(), format!("ping-pong: {e}"))),
        }
        done += 1;
    }
    Ok(times)
}
