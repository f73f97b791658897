//! TAP and TUN devices that vanish and are made again: what belongs to them in the kernel is put back.
//!
//! The port makes its device again by itself. The kernel forgets with a device in which bridge it was and
//! what addresses and routes its side had; so the devices are looked at once in a while, and a new one gets what
//! the old one had. What became of a device between two looks the kernel tells in order, and keeps until then:
//! one that was put into a bridge and deleted a moment later is known to have been there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::{info, warn};

use super::host_side::HostSide;
use crate::io::sys::netlink::Netlink;

/// The virtual devices of a director as they were seen last.
#[derive(Debug, Default)]
pub struct Tended {
    seen: Vec<Seen>,
    /// `None` where the kernel tells nothing.
    told: Option<Netlink>,
}

#[derive(Debug)]
struct Seen {
    name: String,
    index: u32,
    master: Option<u32>,
}

impl Tended {
    /// Devices with these names, which are there.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Tended {
        let seen: Vec<_> = names.map(|n| Seen { name: n.to_owned(), index: 0, master: None }).collect();
        let told = if seen.is_empty() { None } else { Netlink::listening().ok() };
        let mut tended = Tended { seen, told };
        tended.look(&mut [], &BTreeSet::new());
        tended
    }

    /// Looks for devices that were made again, and puts back what they had.
    pub fn look(&mut self, sides: &mut [HostSide], vips: &BTreeSet<IpAddr>) {
        if self.seen.is_empty() {
            return;
        }
        for link in self.told.iter_mut().flat_map(Netlink::heard) {
            let of_it = |seen: &&mut Seen| seen.index == link.index && seen.name == link.name;
            // a device that is being deleted goes down first and leaves its bridge then
            if let Some(seen) = self.seen.iter_mut().find(of_it)
                && (link.up || link.master.is_some())
            {
                seen.master = link.master;
            }
        }
        // without netlink nothing can be put back either
        let Ok(mut netlink) = Netlink::open() else { return };
        for seen in &mut self.seen {
            let Ok(link) = netlink.link(&seen.name) else { continue };
            if seen.index == 0 || seen.index == link.index {
                (seen.index, seen.master) = (link.index, link.master);
                continue;
            }
            seen.index = link.index;
            let name = &seen.name;
            match (seen.master, link.master) {
                (Some(master), None) => match netlink.set_master(link.index, master) {
                    Ok(()) => info!(port = %name, "the device was made again and is back in its bridge"),
                    Err(error) => {
                        warn!(port = %name, %error, "the device was made again and cannot be put back into its bridge");
                    }
                },
                (_, master) => seen.master = master,
            }
            for side in sides.iter_mut().filter(|side| side.device() == name) {
                if let Err(failure) = side.renew(link.index, vips) {
                    warn!(port = %name, "the kernel's side cannot be set up again: {}", failure.messages().join(": "));
                }
            }
        }
    }
}
