//! Opens the devices of a plan.

use std::sync::Arc;

use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::failure::Failure;
use crate::io::fanout::Fanout;
use crate::io::packet::PacketConfig;
use crate::io::sys::netlink::Netlink;
use crate::io::tap::TapConfig;
use crate::io::tun::TunConfig;
use crate::io::xdp::{Filter, XdpConfig, XdpMode, local_peers};
use crate::io::{OpenError, PacketPort, Port, TapPort, TunPort, XdpPort};

/// An open port.
pub struct Opened {
    /// A queue of it for each worker.
    pub queues: Vec<Box<dyn Port>>,
    /// What it is, for people: `tap`, `xdp (native, copy)`; for `device` with the reason.
    pub kind: String,
    /// Of an XDP port: the program that has to be told what belongs to the director.
    pub filter: Option<Arc<Filter>>,
}

impl Opened {
    fn plain(port: impl Port + 'static, kind: impl Into<String>, workers: u16) -> Result<Opened, OpenError> {
        let mut queues: Vec<Box<dyn Port>> = vec![Box::new(port)];
        for _ in 1..workers {
            queues.extend(queues[0].another()?);
        }
        Ok(Opened { queues, kind: kind.into(), filter: None })
    }
    fn xdp(ports: Vec<XdpPort>, note: &str) -> Opened {
        let how = ports.first().map_or_else(String::new, |port| port.how());
        let filter = ports.first().map(|port| port.filter().clone());
        let queues = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        Opened { queues, kind: format!("xdp ({how}{note})"), filter }
    }
}

/// Opens a port for so many workers.
///
/// # Errors
/// Why not, with the remedy.
pub fn open(setup: &PortSetup, workers: u16) -> Result<Opened, Failure> {
    let (mac, offload, mtu) = (setup.mac, setup.offload, setup.mtu);
    let multi_queue = workers > 1;
    let packet = |name: &String| {
        let fanout = multi_queue.then(Fanout::default);
        PacketPort::open(&PacketConfig { interface: name.clone(), mac, offload, fanout, queue: 0 })
    };
    let xdp = |name: &String, mode| {
        let busy_poll = setup.busy_poll;
        let config = XdpConfig { interface: name.clone(), mac, mode, busy_poll };
        XdpPort::open_queues(&config, usize::from(workers))
    };
    Ok(match &setup.device {
        Device::Tap(name) => {
            let config = TapConfig { name: name.clone(), mac, mtu, offload, multi_queue };
            Opened::plain(TapPort::open(&config)?, "tap", workers)?
        }
        Device::Tun(name) => {
            let config = TunConfig { name: name.clone(), mtu, offload, multi_queue };
            Opened::plain(TunPort::open(&config)?, "tun", workers)?
        }
        Device::Packet(name) => {
            exists(name)?;
            Opened::plain(packet(name)?, "packet", workers)?
        }
        Device::Xdp(name) => {
            exists(name)?;
            Opened::xdp(xdp(name, setup.xdp_mode)?, "")
        }
        Device::Auto(name) => {
            exists(name)?;
            match choose(local_peers(name), || xdp(name, XdpMode::Native)) {
                Ok(ports) => Opened::xdp(ports, ": the fastest that works here"),
                Err(why) => Opened::plain(packet(name)?, format!("packet (not xdp: {why})"), workers)?,
            }
        }
    })
}

/// XDP where the packets come from a wire and the driver runs the program; otherwise why a raw port is better.
fn choose<T>(local: bool, native: impl FnOnce() -> Result<T, OpenError>) -> Result<T, String> {
    if local {
        return Err(
            "its packets come from this machine, in super-frames that only a raw port takes whole".into()
        );
    }
    native().map_err(|e| e.why)
}

/// An interface that is to be there is there.
fn exists(name: &str) -> Result<(), Failure> {
    // Without a list of interfaces opening will say what is wrong.
    let Ok(links) = Netlink::open().and_then(|mut n| n.links()) else { return Ok(()) };
    if links.iter().any(|l| l.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = links.iter().map(|l| l.name.as_str()).collect();
    Err(Failure::run(
        format!("cannot open interface {name}"),
        "there is no such interface",
        format!("the interfaces here are: {}", names.join(", ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_xdp_on_cards_whose_driver_runs_it_and_says_why_not_elsewhere() {
        assert_eq!(choose(false, || Ok(7)), Ok(7));
        let refused = choose(false, || Err::<(), _>(OpenError::new("what", "its driver has no XDP", "help")));
        assert_eq!(refused, Err("its driver has no XDP".to_owned()));
        let local = choose(true, || -> Result<(), OpenError> { unreachable!("is not even tried") });
        assert!(local.unwrap_err().contains("super-frames"));
    }
}
