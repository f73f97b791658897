//! The kernel's side of a TAP or TUN device (`--host-address`): its addresses, and routes that lead the
//! virtual addresses to the director. What was there before is kept; what was added is taken back at the end.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::addr::Cidr;
use crate::config::plan::PortSetup;
use crate::failure::Failure;
use crate::io::sys::netlink::{Netlink, Route};

/// What was set up for one port.
#[derive(Debug)]
pub struct HostSide {
    device: String,
    index: u32,
    netlink: Netlink,
    networks: Vec<Cidr>,
    dips: Vec<IpAddr>,
    addresses: Vec<Cidr>,
    routes: Vec<(IpAddr, Route)>,
}

impl HostSide {
    /// Gives the device its addresses, brings it up and routes the virtual addresses to it.
    ///
    /// # Errors
    /// The kernel refuses; what was done until then is taken back.
    pub fn set_up(setup: &PortSetup, device: &str, vips: &BTreeSet<IpAddr>) -> Result<HostSide, Failure> {
        let fail = |e: io::Error| failure(device, &e);
        let mut netlink = Netlink::open().map_err(fail)?;
        let index = netlink.index(device).map_err(fail)?;
        let mut side = HostSide {
            device: device.to_owned(),
            index,
            netlink,
            networks: setup.host_addresses.clone(),
            dips: setup.addresses.iter().map(|a| a.addr).collect(),
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        side.establish(vips)?;
        Ok(side)
    }

    /// The device was made anew: does everything again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn renew(&mut self, index: u32, vips: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        self.index = index;
        // they went with the old device
        self.addresses.clear();
        self.routes.clear();
        self.establish(vips)
    }

    /// Name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    fn establish(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        for cidr in self.networks.clone() {
            match self.netlink.add_address(self.index, cidr, true) {
                Ok(()) => self.addresses.push(cidr),
                Err(e) if is_there(&e) => {}
                Err(e) => return Err(failure(&self.device, &e)),
            }
        }
        self.netlink.set_up(self.index, true).map_err(|e| failure(&self.device, &e))?;
        self.route(vips)
    }

    /// Makes the routes those of `vips`: adds what is missing, removes what is no longer a virtual address.
    ///
    /// # Errors
    /// The kernel refuses a route; the others are there.
    pub fn route(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let netlink = &mut self.netlink;
        self.routes.retain(|(vip, route)| vips.contains(vip) || netlink.delete_route(*route).is_err());
        for vip in vips {
            // In a network of the device the kernel asks for the address itself.
            let near = self.networks.iter().any(|n| n.contains(*vip));
            if near || self.routes.iter().any(|(v, _)| v == vip) {
                continue;
            }
            let to = Cidr::host(*vip);
            let dip = self
                .dips
                .iter()
                .find(|d| d.is_ipv4() == vip.is_ipv4() && self.networks.iter().any(|n| n.contains(**d)));
            let route = match dip {
                Some(dip) => Route { dev: Some(self.index), ..Route::via(to, *dip) },
                None => Route::dev(to, self.index),
            };
            match self.netlink.add_route(route, false) {
                Ok(()) => self.routes.push((*vip, route)),
                Err(e) if is_there(&e) => {}
                Err(e) => return Err(failure(&self.device, &e)),
            }
        }
        Ok(())
    }
}

impl Drop for HostSide {
    fn drop(&mut self) {
        // The device may be gone, and with it everything that is removed here.
        for (_, route) in self.routes.drain(..) {
            let _ = self.netlink.delete_route(route);
        }
        for cidr in self.addresses.drain(..) {
            let _ = self.netlink.delete_address(self.index, cidr);
        }
    }
}

fn is_there(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::AlreadyExists
}

fn failure(device: &str, e: &io::Error) -> Failure {
    let what = format!("cannot set up the kernel's side of {device}");
    if e.kind() == io::ErrorKind::PermissionDenied {
        return Failure::run(
            what,
            "CAP_NET_ADMIN is missing in this network namespace",
            "run as root or in `unshare -Urn`, or leave --host-address out and let root set the device up",
        );
    }
    Failure::run(what, e.to_string(), "leave --host-address out and set the device up with `ip`")
}
