//! MACs that ports have from their interfaces (`mac = "inherit"`, and macvlan's): the director keeps the one it
//! started with, and says so when an interface gets another.

use tracing::{info, warn};

use crate::addr::Mac;
use crate::io::PortInfo;
use crate::io::sys::link;

/// The ports with their interfaces' MACs.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Heir>);

#[derive(Debug, PartialEq, Eq)]
struct Heir {
    interface: String,
    mac: Mac,
    /// What the interface was seen with last.
    seen: Mac,
}

impl Inherited {
    /// Those of these ports that have their interface's.
    pub fn new(ports: &[PortInfo]) -> Inherited {
        let heir = |port: &PortInfo| {
            let mac = port.mac.filter(|_| port.mac == port.device_mac)?;
            Some(Heir { interface: port.name.clone(), mac, seen: mac })
        };
        Inherited(ports.iter().filter_map(heir).collect())
    }

    /// Once in a while: an interface may have got another MAC. One that is gone is its port's business.
    pub fn look(&mut self) {
        for heir in &mut self.0 {
            let Ok(Some(device)) = link::mac(&heir.interface) else { continue };
            if !heir.sees(device) {
                continue;
            }
            let Heir { interface, mac, seen } = heir;
            if seen == mac {
                info!(%interface, %mac, "the interface has the director's MAC again");
            } else {
                warn!(
                    %interface,
                    "the interface has another MAC, {seen}; the director goes on with {mac}, to which the interface may \
                     get no frames: restart softlvs, or give it back (`ip link set {interface} address {mac}`)"
                );
            }
        }
    }
}

impl Heir {
    /// True when that is another MAC than before.
    fn sees(&mut self, device: Mac) -> bool {
        std::mem::replace(&mut self.seen, device) != device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::OffloadCaps;
    use crate::wire::Link;

    #[test]
    fn every_change_of_a_mac_is_news_once_and_ports_with_their_own_do_not_mind() {
        let [first, other] = [1, 2].map(|n| Mac([2, 0, 0, 0, 0, n]));
        let port = |name: &str, mac: Option<Mac>, device_mac: Option<Mac>| PortInfo {
            name: name.to_owned(),
            link: Link::Ethernet,
            device_mac,
            mac,
            mtu: 1500,
            offload: OffloadCaps::default(),
        };
        let ports = [
            port("eth0", Some(first), Some(first)),
            port("eth1", Some(other), Some(first)),
            port("tun0", None, None),
        ];
        let mut all = Inherited::new(&ports);
        assert_eq!(all.0, [Heir { interface: "eth0".to_owned(), mac: first, seen: first }]);
        let news = [first, other, other, first, first].map(|mac| all.0[0].sees(mac));
        assert_eq!(news, [false, true, false, true, false]);
    }
}
