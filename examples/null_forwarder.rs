//! A forwarder that does nothing but rewrite MAC addresses: what ports and worker cost without a director.
//!
//! ```text
//! null_forwarder PORT [PORT] PEER_A PEER_B      PORT: KIND:NAME@MAC, KIND: tap, packet or xdp, PEER: a MAC
//! ```
//! Frames from PEER_A go to PEER_B through the last port, all others to PEER_A through the first. With
//! `OFFLOAD=off` the ports are opened without offload, with `QUEUES=2` for two workers with a queue each. Nothing is
//! handed over between these. Ends at end of input, with the counters.

use std::io::Read as _;

use softlvs::addr::Mac;
use softlvs::buf::{Out, PacketBuf};
use softlvs::engine::steer::{Crew, Outline};
use softlvs::engine::{DropReason, PortId, Taken, Verdict};
use softlvs::io::fanout::Fanout;
use softlvs::io::packet::PacketConfig;
use softlvs::io::tap::TapConfig;
use softlvs::io::xdp::XdpConfig;
use softlvs::io::{MacChoice, OffloadMode, PacketPort, Port, TapPort, XdpPort};
use softlvs::time::Mono;
use softlvs::worker::{self, Director, Linger};

struct Null {
    peers: [Mac; 2],
    own: Vec<Mac>,
    outline: Option<Outline>,
}

impl Director for Null {
    fn on_burst(
        &mut self,
        _: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        _: &mut Out,
    ) {
        let last = self.own.len() - 1;
        let mine = self.own[usize::from(port.0)];
        for (packet, verdict) in burst.iter_mut().zip(verdicts) {
            let frame = packet.bytes_mut();
            *verdict = Verdict::Taken(Taken::Local);
            if frame.len() < 14 || frame[..6] != mine.0 {
                continue;
            }
            let (to, peer) = if frame[6..12] == self.peers[0].0 { (last, 1) } else { (0, 0) };
            frame[..6].copy_from_slice(&self.peers[peer].0);
            frame[6..12].copy_from_slice(&self.own[to].0);
            *verdict = Verdict::Send(PortId(to as u16));
        }
    }
    fn poll_timeout(&self) -> Option<Mono> {
        None
    }
    fn poll_outline(&mut self) -> Option<Outline> {
        self.outline.take()
    }
    fn on_timeout(&mut self, _: Mono, _: &mut Out) {}
    fn device_drop(&mut self, _: PortId, _: DropReason, _: u64) {}
}

type Queues = Vec<Box<dyn Port>>;

/// A port's MAC and its queues, one for each worker.
fn open(text: &str, workers: u16) -> Result<(Mac, Queues), Box<dyn std::error::Error>> {
    let multi_queue = workers > 1;
    let offload = match std::env::var("OFFLOAD").as_deref() {
        Ok("off") => OffloadMode::Off,
        _ => OffloadMode::Auto,
    };
    let (device, mac) = text.split_once('@').ok_or("PORT is KIND:NAME@MAC")?;
    let own: Mac = mac.parse()?;
    let mac = MacChoice::Own(own);
    let port: Box<dyn Port> = match device.split_once(':') {
        Some(("tap", name)) => {
            let config =
                TapConfig { name: name.to_owned(), mac, offload, multi_queue, ..TapConfig::default() };
            Box::new(TapPort::open(&config)?)
        }
        Some(("packet", name)) => Box::new(PacketPort::open(&PacketConfig {
            interface: name.to_owned(),
            mac,
            offload,
            fanout: multi_queue.then(Fanout::default),
            ..PacketConfig::default()
        })?),
        Some(("xdp", name)) => {
            let config = XdpConfig { interface: name.to_owned(), mac, ..XdpConfig::default() };
            let all = XdpPort::open_queues(&config, workers.into())?;
            return Ok((own, all.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect()));
        }
        _ => return Err("PORT is tap:NAME@MAC, packet:IFACE@MAC or xdp:IFACE@MAC".into()),
    };
    let mut queues = vec![port];
    for _ in 1..workers {
        queues.extend(queues[0].another()?);
    }
    Ok((own, queues))
}

/// The program; `benches/e2e` calls it too.
///
/// # Errors
/// Wrong arguments, or a port cannot be opened.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((peers, ports)) = args.split_last_chunk::<2>().map(|(ports, peers)| (peers, ports)) else {
        return Err("usage: null_forwarder PORT [PORT] PEER_A PEER_B".into());
    };
    let workers: u16 = std::env::var("QUEUES").map_or(Ok(1), |n| n.parse())?;
    let mut own = Vec::new();
    let mut posts: Vec<Vec<Queues>> = (0..workers).map(|_| Vec::new()).collect();
    for text in ports {
        let (mac, queues) = open(text, workers)?;
        own.push(mac);
        for (post, queue) in posts.iter_mut().zip(queues) {
            post.push(vec![queue]);
        }
    }
    if own.is_empty() {
        return Err("at least one PORT".into());
    }
    let peers = [peers[0].parse()?, peers[1].parse()?];
    // packets are spread by what the director spreads the replies of real servers by
    let key = Crew::new(workers, 1).key();
    let outline = Outline { workers, key, vips: Vec::new(), local: Vec::new(), fullnat: false };
    // on a TAP device the kernel's own way is the cheaper one for who hands nothing over
    let steered = workers > 1 && !ports.iter().any(|text| text.starts_with("tap:"));
    let mut outline = Some(outline).filter(|_| steered);
    let crew =
        posts.into_iter().map(|post| (Null { peers, own: own.clone(), outline: outline.take() }, post));
    let names: Vec<String> = (0..workers).map(|i| format!("lvs-w{i}")).collect();
    let handles = worker::start_all(&names, crew.collect(), &Linger::default())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for handle in &handles {
        for (info, counters) in handle.ports() {
            println!("{}: {:?}", info.name, counters.read());
        }
    }
    for handle in handles {
        handle.stop()?;
    }
    Ok(())
}
