//! What a director with a million connections costs while none of them says anything.
//!
//! The connections are made by frames with invented senders, SYN and then ACK, in mode `dr`, where the
//! director sees the client's packets only. An ACK without a connection would not be forwarded: those that
//! arrive at the real server count the connections.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use softlvs::io::sys::netlink::Netlink;
use softlvs::io::sys::raw::Injector;
use softlvs::lab::director::Director;

use crate::exec;
use crate::net::{CLIENT_MAC, Net, OUTSIDE_MAC, VIP};
use crate::plan::{Config, Device, Mode, Way, Wiring};
use crate::results::Idle;
use crate::server::HTTP;
use crate::sink::Sink;
use crate::{check, rig, scratch, server, usage};

const CONNECTIONS: u32 = 1_000_000;
/// Frames under way before the sender waits for them to arrive.
const WINDOW: u32 = 512;
/// How long it waits for a window; what has not arrived then is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Makes the connections, then looks at the director for `seconds`.
pub fn idle(softlvs: &Path, seconds: f64) -> io::Result<Idle> {
    let (device, mode) = (Device::Packet, Mode::Dr);
    let config = Config { wiring: Wiring::Veth, way: Way::Softlvs { device, mode, queues: 1 } };
    let net = Net::build(&config)?;
    let _nginx = server::start(&net)?;
    let toml = rig::configuration(config.wiring, device, mode, 1, 2_000_000);
    let control = scratch::file("idle.sock");
    let mut director = Director::start(&net.director.ns, softlvs, &toml, &control)?;
    exec::wait_for("softlvs", Duration::from_secs(6), || {
        !director.alive() || check::http(&net, Duration::from_millis(300)).is_ok()
    })?;
    if !director.alive() {
        return Err(io::Error::other(director.log()));
    }
    let pids = [director.pid()];
    let before = usage::memory(&pids).0;
    let rules = "tcp dport 80 tcp flags & (syn | ack) == ack counter name \"n\" drop\ntcp dport 80 drop";
    let sink = Sink::install(&net, "eth0", rules)?;
    let index = Netlink::open_in(&net.client.ns)?.index("eth0")?;
    let wire = net.client.ns.run(|| Injector::open(index))?;
    for syn in [true, false] {
        send(&net, &wire, syn)?;
    }
    let connections = sink.count()?;
    let memory = usage::memory(&pids).0;
    let (used, begun) = (usage::processes(&pids), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let share = (usage::processes(&pids) - used) / begun.elapsed().as_secs_f64();
    let bytes_each = (memory - before) * 1024.0 * 1024.0 / connections.max(1) as f64;
    Ok(Idle { connections, seconds, share, memory_mib: memory, bytes_each })
}

fn send(net: &Net, wire: &Injector, syn: bool) -> io::Result<()> {
    let mut frame = Vec::with_capacity(64);
    let mut begun = net.server.received("eth0")?;
    for i in 0..CONNECTIONS {
        if i % WINDOW == 0 && i > 0 {
            // the loss of a few is counted at the end, not waited for
            let arrived = || net.server.received("eth0").is_ok_and(|n| n - begun >= u64::from(WINDOW));
            let _ = exec::wait_for("frames", PATIENCE, arrived);
            begun = net.server.received("eth0")?;
        }
        // 198.18.0.0/15 is for benchmarks (RFC 2544); 32 ports of each address
        let sender = Ipv4Addr::from_bits(0xc612_0100 + i / 32);
        let port = 20_000 + (i % 32) as u16;
        let builder = PacketBuilder::ethernet2(CLIENT_MAC.0, OUTSIDE_MAC.0)
            .ipv4(sender.octets(), VIP.octets(), 64)
            .tcp(port, HTTP, 1000 + u32::from(!syn), 64_000);
        let builder = if syn { builder.syn() } else { builder.ack(1) };
        frame.clear();
        builder.write(&mut frame, &[]).map_err(io::Error::other)?;
        wire.send(&frame)?;
    }
    Ok(())
}
