//! Everything a packet decision reads, in one immutable piece that is swapped whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::settings::{Sysctl, Timeouts};
use super::{Dest, DestId, Dests, Proto, Service, ServiceKey};
use crate::conn::template::Templates;
use crate::host::{Folded, NetPlan, Vips};

/// Services by key. Packets only ask; what is in it the administrator wrote, so that the hash needs no secret.
pub(super) type ByKey = HashMap<ServiceKey, u32, Folded>;

/// Port of FTP's control connections: its service takes their data connections too.
pub const FTP: u16 = 21;
/// Port from which active FTP opens data connections.
const FTP_DATA: u16 = 20;

/// A VIP with the names of the ports that own it.
pub type NamedVip = (IpAddr, Option<Vec<String>>);

/// One generation of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts changes; never repeats.
    pub generation: u64,
    /// Services in the order they were added.
    pub services: Vec<Arc<Service>>,
    /// Real servers by [`DestId`]; removed ones stay until their last connection ends.
    pub dests: Dests,
    /// A removed server still has connections.
    pub trash: bool,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Switches.
    pub sysctl: Sysctl,
    /// Network.
    pub net: Arc<NetPlan>,
    /// Persistence templates: the same in every generation, shared by all workers.
    pub templates: Arc<Templates>,
    pub(super) by_key: Arc<ByKey>,
    /// VIPs with the ports that own them; `None` = every port.
    pub vips: Arc<Vec<NamedVip>>,
    /// The same, ready for a worker.
    pub owned: Arc<Vips>,
    /// Addresses of real servers whose replies pass here, with how many have each.
    pub reals: Arc<HashMap<IpAddr, u32>>,
    /// A service has a persistence engine.
    pub engines: bool,
}

impl Snapshot {
    /// The real server, removed or not.
    #[inline]
    pub fn dest(&self, id: DestId) -> Option<&Arc<Dest>> {
        self.dests.get(id.0 as usize)
    }
    /// The service with exactly this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key).map(|i| &self.services[*i as usize])
    }
    /// The service that takes a packet: by mark first, then address with port, then the FTP service for
    /// what may be its data connections, then port 0 (IPVS-RULES 65 and 67; kernel: `ip_vs_service_find`).
    pub fn find(&self, mark: u32, proto: Proto, ip: IpAddr, port: u16) -> Option<&Arc<Service>> {
        if mark != 0
            && let Some(s) = self.service(&ServiceKey::Mark { mark, v6: ip.is_ipv6() })
        {
            return Some(s);
        }
        let of_port = |port| self.service(&ServiceKey::Address { proto, ip, port });
        let ftp_data = proto == Proto::Tcp && (port == FTP_DATA || port >= 1024);
        of_port(port).or_else(|| of_port(FTP).filter(|_| ftp_data)).or_else(|| of_port(0))
    }
    /// Place of the service with exactly this key among all.
    pub fn place_of(&self, key: &ServiceKey) -> Option<usize> {
        self.by_key.get(key).map(|i| *i as usize)
    }
    /// The firewall mark the configured rules give a packet; 0 for none.
    pub fn mark_of(&self, proto: Option<Proto>, dst: IpAddr, dport: u16) -> u32 {
        let hit = self.net.marks.iter().find(|r| {
            r.to.is_none_or(|net| net.contains(dst))
                && r.ports.is_none_or(|(a, b)| (a..=b).contains(&dport))
                && r.proto.is_none_or(|p| Some(p) == proto)
        });
        hit.map_or(0, |r| r.mark)
    }
}

#[cfg(test)]
mod tests {
    use crate::svc::{Catalog, Proto, ServiceKey, ServiceSpec};

    #[test]
    fn a_preview_says_what_the_commit_publishes_and_a_refused_one_leaves_nothing() {
        let key = |n: u8| ServiceKey::Address { proto: Proto::Tcp, ip: [192, 0, 2, n].into(), port: 80 };
        let mut running = Catalog::default();
        running.add_service(ServiceSpec::new(key(1))).unwrap();
        let first = running.commit();
        let mut next = running.clone();
        next.add_service(ServiceSpec::new(key(2))).unwrap();
        let seen = next.preview();
        assert_eq!((seen.generation, seen.vips.len(), seen.by_key.len()), (first.generation + 1, 2, 2));
        let done = next.commit();
        assert_eq!((done.generation, &done.vips), (seen.generation, &seen.vips));
        assert_eq!(done.owned.number(), seen.owned.number());
        let again = running.commit();
        assert_eq!((again.generation, &again.vips), (seen.generation, &first.vips));
    }
}
