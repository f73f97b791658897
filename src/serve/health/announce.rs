//! The virtual address on an interface of the host while its service is up, for a routing daemon (BIRD,
//! FRR) that announces what it finds there.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use tracing::{info, warn};

use crate::addr::Cidr;
use crate::health::{Event, Monitor};
use crate::io::sys::netlink::Netlink;
use crate::svc::ServiceKey;

/// The addresses that are announced at the moment.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// Device and address, those that were put there by us.
    ours: BTreeSet<(String, IpAddr)>,
    /// Those that could not be put there, spoken of once.
    refused: BTreeSet<(String, IpAddr)>,
}

impl Announcer {
    /// A service may have come up or gone down.
    pub(super) fn on_event(&mut self, monitor: &Monitor, event: &Event) {
        if matches!(event, Event::QuorumGained { .. } | Event::QuorumLost { .. }) {
            self.update(monitor);
        }
    }

    /// Makes the addresses there those of services that are up.
    pub(super) fn update(&mut self, monitor: &Monitor) {
        let mut wanted = BTreeSet::new();
        for key in monitor.services() {
            let ServiceKey::Address { ip, .. } = key else { continue };
            let up = monitor.standing(key).is_some_and(|(s, _)| s.quorum);
            if let (Some(device), true) = (monitor.service(key).and_then(|s| s.policy.announce.clone()), up) {
                wanted.insert((device, *ip));
            }
        }
        for at in self.ours.difference(&wanted).cloned().collect::<Vec<_>>() {
            self.withdraw(&at);
        }
        for at in wanted.difference(&self.ours).cloned().collect::<Vec<_>>() {
            let (device, ip) = &at;
            match change(device, *ip, true) {
                Ok(true) => {
                    info!("{ip} is announced on {device}");
                    self.refused.remove(&at);
                    self.ours.insert(at);
                }
                // somebody else put it there: it is not ours to take away
                Ok(false) => {}
                Err(e) if self.refused.insert(at.clone()) => warn!("cannot announce {ip} on {device}: {e}"),
                Err(_) => {}
            }
        }
    }

    /// Withdraws everything.
    pub(super) fn clear(&mut self) {
        for at in std::mem::take(&mut self.ours) {
            self.withdraw(&at);
        }
    }

    fn withdraw(&mut self, at: &(String, IpAddr)) {
        let (device, ip) = at;
        match change(device, *ip, false) {
            Ok(_) => info!("{ip} is withdrawn from {device}"),
            // with its device it is gone as well
            Err(e) => warn!("cannot withdraw {ip} from {device}: {e}"),
        }
        self.ours.remove(at);
    }
}

/// Adds or removes an address; false when it is there already.
fn change(device: &str, ip: IpAddr, add: bool) -> io::Result<bool> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(device)?;
    if !add {
        return netlink.delete_address(index, Cidr::host(ip)).map(|()| true);
    }
    match netlink.add_address(index, Cidr::host(ip), true) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}
