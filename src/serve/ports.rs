//! Opens the devices of a plan.

use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::failure::Failure;
use crate::io::packet::PacketConfig;
use crate::io::sys::netlink::Netlink;
use crate::io::tap::TapConfig;
use crate::io::tun::TunConfig;
use crate::io::{OpenError, PacketPort, Port, TapPort, TunPort};

/// Opens a port.
///
/// # Errors
/// Why not, with the remedy.
pub fn open(setup: &PortSetup) -> Result<Box<dyn Port>, Failure> {
    let (mac, offload, mtu) = (setup.mac, setup.offload, setup.mtu);
    let port: Result<Box<dyn Port>, OpenError> = match &setup.device {
        Device::Tap(name) => {
            let config = TapConfig { name: name.clone(), mac, mtu, offload, ..TapConfig::default() };
            TapPort::open(&config).map(|p| Box::new(p) as Box<dyn Port>)
        }
        Device::Tun(name) => {
            let config = TunConfig { name: name.clone(), mtu, offload, ..TunConfig::default() };
            TunPort::open(&config).map(|p| Box::new(p) as Box<dyn Port>)
        }
        // The check refuses xdp; of what `device` may choose from only packet is there.
        Device::Packet(name) | Device::Auto(name) | Device::Xdp(name) => {
            exists(name)?;
            let config = PacketConfig { interface: name.clone(), mac, offload };
            PacketPort::open(&config).map(|p| Box::new(p) as Box<dyn Port>)
        }
    };
    Ok(port?)
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
