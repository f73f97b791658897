//! Opens the devices of a plan.

use std::sync::Arc;

use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::failure::Failure;
use crate::io::packet::PacketConfig;
use crate::io::sys::netlink::Netlink;
use crate::io::tap::TapConfig;
use crate::io::tun::TunConfig;
use crate::io::xdp::{Filter, XdpConfig, XdpMode, local_peers};
use crate::io::{OpenError, PacketPort, Port, TapPort, TunPort, XdpPort};

/// An open port.
pub struct Opened {
    /// The port.
    pub port: Box<dyn Port>,
    /// What it is, for people: `tap`, `xdp (native, copy)`; for `device` with the reason.
    pub kind: String,
    /// Of an XDP port: the program that has to be told what belongs to the director.
    pub filter: Option<Arc<Filter>>,
}

impl Opened {
    fn plain(port: impl Port + 'static, kind: impl Into<String>) -> Opened {
        Opened { port: Box::new(port), kind: kind.into(), filter: None }
    }
    fn xdp(port: XdpPort, note: &str) -> Opened {
        let (kind, filter) = (format!("xdp ({}{note})", port.how()), Some(port.filter().clone()));
        Opened { port: Box::new(port), kind, filter }
    }
}

/// Opens a port.
///
/// # Errors
/// Why not, with the remedy.
pub fn open(setup: &PortSetup) -> Result<Opened, Failure> {
    let (mac, offload, mtu) = (setup.mac, setup.offload, setup.mtu);
    let packet = |name: &String| PacketPort::open(&PacketConfig { interface: name.clone(), mac, offload });
    let xdp = |name: &String, mode| {
        let busy_poll = setup.busy_poll;
        XdpPort::open(&XdpConfig { interface: name.clone(), mac, mode, busy_poll })
    };
    Ok(match &setup.device {
        Device::Tap(name) => {
            let config = TapConfig { name: name.clone(), mac, mtu, offload, ..TapConfig::default() };
            Opened::plain(TapPort::open(&config)?, "tap")
        }
        Device::Tun(name) => {
            let config = TunConfig { name: name.clone(), mtu, offload, ..TunConfig::default() };
            Opened::plain(TunPort::open(&config)?, "tun")
        }
        Device::Packet(name) => {
            exists(name)?;
            Opened::plain(packet(name)?, "packet")
        }
        Device::Xdp(name) => {
            exists(name)?;
            Opened::xdp(xdp(name, setup.xdp_mode)?, "")
        }
        Device::Auto(name) => {
            exists(name)?;
            match choose(local_peers(name), || xdp(name, XdpMode::Native)) {
                Ok(port) => Opened::xdp(port, ": the fastest that works here"),
                Err(why) => Opened::plain(packet(name)?, format!("packet (not xdp: {why})")),
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
