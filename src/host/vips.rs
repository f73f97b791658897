//! The VIPs of one configuration: made by the control side, so that a worker takes ten thousand of them by
//! exchanging a pointer.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::NetPlan;
use super::key::{Folded, Key};
use super::own::low24;
use super::screen::{Place, Screen};
use crate::engine::PortId;

/// A VIP with the ports that own it; `None` = every port.
pub type Vip = (IpAddr, Option<Vec<PortId>>);

/// VIPs by address. Only the configuration adds any, so nobody can choose addresses that collide and the
/// hash needs no secret.
#[derive(Debug)]
pub struct Vips {
    /// Which these are, and which came before them: numbers of the control side.
    number: u64,
    before: u64,
    list: Vec<Vip>,
    at: HashMap<Key, u32, Folded>,
    screen: Screen,
    /// Low 24 bits of the IPv6 ones, sorted: their solicited-node groups.
    groups: Vec<u32>,
    /// Those that the ones before had not, or not on the same ports.
    added: Vec<IpAddr>,
}

impl Default for Vips {
    fn default() -> Vips {
        Vips::new(0, Vec::new(), None)
    }
}

impl Vips {
    /// VIPs that come after others; an address named several times is owned on all ports named. `added` are
    /// those to be announced when they replace the ones before; without it nothing came before.
    pub fn new(number: u64, vips: Vec<Vip>, before: Option<(u64, Vec<IpAddr>)>) -> Vips {
        let list = merge(vips);
        let mut at = HashMap::with_capacity_and_hasher(list.len(), Folded::new(0x7669_7073));
        at.extend(list.iter().enumerate().map(|(i, (ip, _))| (Key::of(*ip), i as u32)));
        let mut screen = Screen::default();
        list.iter().for_each(|(ip, _)| screen.add(*ip));
        let mut groups: Vec<u32> = list
            .iter()
            .filter_map(|(ip, _)| match ip {
                IpAddr::V6(a) => Some(low24(*a)),
                IpAddr::V4(_) => None,
            })
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let (before, added) = before.unwrap_or_else(|| (number, list.iter().map(|(ip, _)| *ip).collect()));
        Vips { number, before, list, at, screen, groups, added }
    }
    /// The same from names of ports; names that a network does not have are nobody's.
    pub fn named(
        number: u64,
        vips: &[(IpAddr, Option<Vec<String>>)],
        net: &NetPlan,
        before: (u64, Vec<IpAddr>),
    ) -> Vips {
        let id = |name: &String| net.ports.iter().position(|p| p.name == *name);
        let ids = |names: &Vec<String>| names.iter().filter_map(id).map(|i| PortId(i as u16)).collect();
        let vips = vips.iter().map(|(ip, names)| (*ip, names.as_ref().map(ids))).collect();
        Vips::new(number, vips, Some(before))
    }
    /// All of them, sorted by address.
    pub fn iter(&self) -> impl Iterator<Item = &Vip> {
        self.list.iter()
    }
    /// Which these are.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// The ports that own an address; `None` when it is no VIP.
    #[inline]
    pub fn ports(&self, ip: IpAddr) -> Option<&Option<Vec<PortId>>> {
        self.at.get(&Key::of(ip)).and_then(|i| self.list.get(*i as usize)).map(|(_, ports)| ports)
    }
    /// False when no VIP is at this place.
    #[inline]
    pub(super) fn may_be(&self, place: Place) -> bool {
        self.screen.has(place)
    }
    /// Whether a port owns an address.
    #[inline]
    pub fn on(&self, port: PortId, ip: IpAddr) -> bool {
        self.ports(ip).is_some_and(|ports| ports.as_ref().is_none_or(|p| p.contains(&port)))
    }
    /// Whether a solicited-node group, by its low 24 bits, is one of theirs.
    pub fn joined(&self, low: u32) -> bool {
        self.groups.binary_search(&low).is_ok()
    }
    /// Those that `old` had not, or not on the same ports. Told at once where these came right after.
    pub(super) fn added_to(&self, old: &Vips) -> Vec<IpAddr> {
        if self.before == old.number && self.number != old.number {
            return self.added.clone();
        }
        let new = self.list.iter().filter(|(ip, ports)| old.ports(*ip) != Some(ports));
        new.map(|(ip, _)| *ip).collect()
    }
    /// The same on ports that got other numbers; `None` for one that is no more.
    pub(super) fn moved(&self, mut to: impl FnMut(PortId) -> Option<PortId>) -> Vips {
        let mut moved = self.list.clone();
        for (_, ports) in &mut moved {
            if let Some(ports) = ports {
                *ports = ports.iter().filter_map(|p| to(*p)).collect();
            }
        }
        Vips::new(self.number, moved, Some((self.before, self.added.clone())))
    }
}

/// One entry for each address, with the ports of all that named it.
fn merge(mut vips: Vec<Vip>) -> Vec<Vip> {
    vips.sort_by_key(|(ip, _)| *ip);
    vips.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            match (&mut first.1, later.1.take()) {
                (Some(ports), Some(more)) => ports.extend(more),
                (ports, _) => *ports = None,
            }
        }
        same
    });
    for ports in vips.iter_mut().filter_map(|(_, ports)| ports.as_mut()) {
        ports.sort_unstable();
        ports.dedup();
    }
    vips
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn services_that_share_a_vip_share_its_ports() {
        let on = |p: u16| Some(vec![PortId(p)]);
        let all = vec![(ip(2), on(0)), (ip(1), on(0)), (ip(2), None), (ip(1), on(1)), (ip(2), on(1))];
        let vips = Vips::new(1, all, None);
        let merged: Vec<_> = vips.iter().cloned().collect();
        assert_eq!(merged, [(ip(1), Some(vec![PortId(0), PortId(1)])), (ip(2), None)]);
        assert!(vips.on(PortId(1), ip(1)) && !vips.on(PortId(2), ip(1)) && vips.on(PortId(2), ip(2)));
        assert!(vips.ports(ip(3)).is_none());
    }

    #[test]
    fn what_was_added_is_told_by_the_maker_or_found_out() {
        let first = Vips::new(1, vec![(ip(1), None)], None);
        let second = Vips::new(2, vec![(ip(1), None), (ip(2), None)], Some((1, vec![ip(2)])));
        let third = Vips::new(3, vec![(ip(2), None), (ip(3), None)], Some((2, vec![ip(3)])));
        assert_eq!(first.added_to(&Vips::default()), [ip(1)]);
        assert_eq!(second.added_to(&first), [ip(2)]);
        assert_eq!(third.added_to(&first), [ip(2), ip(3)], "one was passed over");
    }
}
