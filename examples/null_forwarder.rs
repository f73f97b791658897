//! A forwarder that does nothing but rewrite MAC addresses: what ports and worker cost without a director.
//!
//! ```text
//! null_forwarder PORT [PORT] PEER_A PEER_B      PORT: KIND:NAME@MAC, KIND: tap, packet or xdp, PEER: a MAC
//! ```
//! Frames from PEER_A go to PEER_B through the last port, all others to PEER_A through the first. With
//! `OFFLOAD=off` the ports are opened without offload. Ends at end of input, with the counters.

use std::io::Read as _;

use softlvs::addr::Mac;
use softlvs::buf::{Out, PacketBuf};
use softlvs::engine::{DropReason, PortId, Taken, Verdict};
use softlvs::io::packet::PacketConfig;
use softlvs::io::tap::TapConfig;
use softlvs::io::xdp::XdpConfig;
use softlvs::io::{MacChoice, OffloadMode, PacketPort, Port, TapPort, XdpPort};
use softlvs::time::Mono;
use softlvs::worker::{self, Director};

struct Null {
    peers: [Mac; 2],
    own: Vec<Mac>,
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
    fn on_timeout(&mut self, _: Mono, _: &mut Out) {}
    fn device_drop(&mut self, _: PortId, _: DropReason, _: u64) {}
}

fn open(text: &str) -> Result<(Mac, Box<dyn Port>), Box<dyn std::error::Error>> {
    let offload = match std::env::var("OFFLOAD").as_deref() {
        Ok("off") => OffloadMode::Off,
        _ => OffloadMode::Auto,
    };
    let (device, mac) = text.split_once('@').ok_or("PORT is KIND:NAME@MAC")?;
    let own: Mac = mac.parse()?;
    let mac = MacChoice::Own(own);
    let port: Box<dyn Port> = match device.split_once(':') {
        Some(("tap", name)) => {
            let config = TapConfig { name: name.to_owned(), mac, offload, ..TapConfig::default() };
            Box::new(TapPort::open(&config)?)
        }
        Some(("packet", name)) => Box::new(PacketPort::open(&PacketConfig {
            interface: name.to_owned(),
            mac,
            offload,
            ..PacketConfig::default()
        })?),
        Some(("xdp", name)) => {
            Box::new(XdpPort::open(&XdpConfig { interface: name.to_owned(), mac, ..XdpConfig::default() })?)
        }
        _ => return Err("PORT is tap:NAME@MAC, packet:IFACE@MAC or xdp:IFACE@MAC".into()),
    };
    Ok((own, port))
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
    let mut own = Vec::new();
    let mut opened = Vec::new();
    for text in ports {
        let (mac, port) = open(text)?;
        own.push(mac);
        opened.push(port);
    }
    if own.is_empty() {
        return Err("at least one PORT".into());
    }
    let peers = [peers[0].parse()?, peers[1].parse()?];
    let handle = worker::start("lvs-w0", Null { peers, own }, opened)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for (info, counters) in handle.ports() {
        println!("{}: {:?}", info.name, counters.read());
    }
    handle.stop()?;
    Ok(())
}
