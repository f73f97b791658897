//! The virtual host: the director's own addresses, neighbours, routes, and what it answers itself.
//!
//! It never sees services or connections. The engine asks it whose an address is ([`Host::owns`]), hands
//! over what no service took ([`Host::local_in`], [`Host::arp_in`]), and sends through it
//! ([`Host::route`], [`Host::transmit`], [`Host::error`]). It sends nothing of its own accord but the
//! announcement of an address it takes.
//!
//! | file | subject |
//! |---|---|
//! | `own`, `vips` | whose an address is; martians |
//! | `route` | the way to a destination |
//! | `neigh`, `neighbor` | the neighbour table; one neighbour, its states, what waits for it |
//! | `resolve` | the packet path out: link header, parking, questions |
//! | `answer` | ARP and neighbour discovery received; announcements |
//! | `local` | echo, resets, unreachables |
//! | `error` | ICMP errors about somebody's packet |
//! | `options` | options of the IPv4 header |
//! | `segment` | TCP segments of its own |
//! | `frag` | fragments kept until their datagram is whole |
#![forbid(unsafe_code)]

mod answer;
mod error;
pub mod frag;
mod key;
mod local;
mod neigh;
mod neighbor;
pub mod options;
mod own;
pub mod plan;
#[cfg(test)]
mod property_tests;
mod resolve;
mod route;
mod screen;
mod segment;
#[cfg(test)]
mod testing;
mod vips;
#[cfg(test)]
mod wire_tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

pub use error::IcmpError;
pub use neigh::{Known, MAX_LEARNT};
pub use neighbor::{Neighbor, NeighborInfo, NeighborState};
pub use own::{FrameTo, Owned};
pub use plan::*;
pub use resolve::{OnFail, Quote, Undelivered};
pub use route::Route;
pub use segment::Segment;
pub use vips::{Vip, Vips};

use crate::addr::{Cidr, Mac};
use crate::buf::Out;
use crate::engine::{DropCounters, DropReason, PortId};
use crate::time::{Mono, Span};
use crate::wire::{Family, Link};
pub use key::Folded;
use key::Random;
use neigh::Neighbors;
use own::OwnAddresses;
use route::RouteTable;

/// What is left to choice in the host's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// ICMP errors per second, but those that PMTU discovery needs (kernel: `icmp_msgs_per_sec`, bursts
    /// of 50); `None` = no limit, for replays.
    pub icmp_limit: Option<u32>,
    /// Announce addresses that are taken (gratuitous ARP, unsolicited advertisement).
    pub announce: bool,
    /// Milliseconds since midnight UT at [`Mono::ZERO`], for ICMP time stamps.
    pub midnight_ms: u32,
}

impl Default for HostOptions {
    fn default() -> HostOptions {
        HostOptions { icmp_limit: Some(1000), announce: true, midnight_ms: 0 }
    }
}

/// What the host did, beside drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// ICMP errors sent.
    pub errors: u64,
    /// ICMP errors not sent because of the rate limit.
    pub errors_suppressed: u64,
    /// Echo and time stamp replies.
    pub echo_replies: u64,
    /// TCP resets.
    pub resets: u64,
    /// Bytes of IP of errors and resets.
    pub refused_bytes: u64,
    /// ARP replies and neighbour advertisements, announcements included.
    pub answers: u64,
    /// ARP requests and neighbour solicitations.
    pub questions: u64,
    /// Packets sent after they had waited for a neighbour.
    pub released: u64,
    /// Claims of others to an address of ours.
    pub conflicts: u64,
}

/// Something an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// Another station says that it has an address of ours.
    AddressConflict {
        /// Port it was heard on.
        port: PortId,
        /// The address.
        ip: IpAddr,
        /// Who claims it.
        mac: Mac,
    },
    /// A neighbour moved to another MAC.
    NeighborMoved {
        /// Its port.
        port: PortId,
        /// Its address.
        ip: IpAddr,
        /// Where it was.
        from: Mac,
        /// Where it is.
        to: Mac,
    },
    /// A neighbour does not answer.
    NeighborFailed {
        /// Its port.
        port: PortId,
        /// Its address.
        ip: IpAddr,
    },
}

/// Events kept for [`Host::poll_event`]; the oldest go first.
const MAX_EVENTS: usize = 256;

/// The virtual host of one worker.
#[derive(Clone, Debug)]
pub struct Host {
    plan: Arc<NetPlan>,
    links: Vec<(Link, Mac)>,
    own: OwnAddresses,
    routes: RouteTable,
    neighbors: Neighbors,
    options: HostOptions,
    /// Somebody else answers for our addresses.
    silent: bool,
    folded: Folded,
    random: Random,
    /// Theoretical arrival time of the rate limit (GCRA).
    limit_tat: Mono,
    /// Hosts that keep the limit together: the workers of a director.
    sharers: u32,
    /// Addresses to announce since then, and those to announce again, in order of time.
    fresh: VecDeque<IpAddr>,
    fresh_since: Mono,
    again: VecDeque<(Mono, IpAddr)>,
    events: VecDeque<HostEvent>,
    /// Packets whose neighbour failed with the last [`Host::on_timeout`], for whoever counts them.
    pub undelivered: Vec<Undelivered>,
    /// Packets dropped after the verdict on them was [`crate::engine::Taken::Parked`], or while answering.
    pub drops: DropCounters,
    /// What was sent.
    pub counters: HostCounters,
    /// The options of the packet at hand, where it has any.
    received: options::Received,
}

impl Host {
    /// A host with the addresses, routes and static neighbours of `plan`; `seed` makes packet
    /// identifications and table order its own. Nothing is announced: see [`Host::announce`].
    pub fn new(now: Mono, plan: Arc<NetPlan>, seed: u64) -> Host {
        let folded = Folded::new(seed);
        let mut host = Host {
            links: links(&plan),
            own: OwnAddresses::new(&plan, Arc::default(), folded),
            routes: RouteTable::new(&plan),
            neighbors: Neighbors::new(folded),
            options: HostOptions::default(),
            silent: false,
            folded,
            random: Random::new(seed ^ 0x6c76_735f_686f_7374),
            limit_tat: now,
            sharers: 1,
            fresh: VecDeque::new(),
            fresh_since: now,
            again: VecDeque::new(),
            events: VecDeque::new(),
            undelivered: Vec::new(),
            drops: DropCounters::default(),
            counters: HostCounters::default(),
            received: options::Received::default(),
            plan,
        };
        host.static_neighbors();
        host
    }

    /// The plan in force.
    pub fn plan(&self) -> &Arc<NetPlan> {
        &self.plan
    }

    /// Sets what is left to choice.
    pub fn set_options(&mut self, options: HostOptions) {
        self.options = options;
    }

    /// One of so many hosts that keep the limit of ICMP errors together, each its share of rate and burst.
    pub fn share_limit(&mut self, sharers: u32) {
        self.sharers = sharers.max(1);
    }

    /// A silent host answers and announces no address, and reports no conflict: another one does, and this
    /// one only learns from what it hears.
    pub fn set_silent(&mut self, silent: bool) {
        self.silent = silent;
    }

    /// Takes another plan. Ports are matched by name; neighbours learnt on a port that stays, and that
    /// still can be neighbours there, are kept. VIPs stay, on the ports of the same names.
    pub fn reconfigure(&mut self, _now: Mono, plan: Arc<NetPlan>) {
        let old = std::mem::replace(&mut self.plan, plan);
        let moved = |id: PortId| {
            let name = &old.ports.get(usize::from(id.0))?.name;
            let at = self.plan.ports.iter().position(|p| p.name == *name)?;
            Some(PortId(at as u16))
        };
        let mut vips = self.own.vips().clone();
        if vips.iter().any(|(_, ports)| ports.is_some()) {
            vips = Arc::new(vips.moved(moved));
        }
        self.links = links(&self.plan);
        self.own = OwnAddresses::new(&self.plan, vips, self.folded);
        self.routes = RouteTable::new(&self.plan);
        let (routes, own, links) = (&self.routes, &self.own, &self.links);
        self.neighbors.retain(|port, ip| {
            let port = moved(port)?;
            let ethernet = links.get(usize::from(port.0))?.0 == Link::Ethernet;
            let link_local = matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local());
            let neighbor =
                link_local || routes.lookup(ip).is_some_and(|r| r.port == port && r.next_hop == ip);
            (ethernet && (neighbor || routes.is_next_hop(port, ip)) && !own.is_ours(ip)).then_some(port)
        });
        self.static_neighbors();
    }

    fn static_neighbors(&mut self) {
        for (i, port) in self.plan.ports.iter().enumerate() {
            for (ip, mac) in &port.neighbors {
                self.neighbors.set_static(PortId(i as u16), *ip, *mac);
            }
        }
    }

    /// Sets the VIPs owned (`None` = on every port). Those that are new are announced with the next
    /// [`Host::on_timeout`], which is due at once, and once more after 2 s.
    pub fn set_vips(&mut self, now: Mono, vips: &Arc<Vips>) {
        if Arc::ptr_eq(self.own.vips(), vips) {
            return;
        }
        let old = self.own.set_vips(vips.clone());
        if !self.options.announce {
            return;
        }
        let own = &self.own;
        self.fresh.retain(|ip| own.is_ours(*ip));
        self.again.retain(|(_, ip)| own.is_ours(*ip));
        if self.fresh.is_empty() {
            self.fresh_since = now;
        }
        self.fresh.extend(vips.added_to(&old));
    }

    /// Whether `ip` is the director's own for packets that come in on `port`.
    #[inline]
    pub fn owns(&self, port: PortId, ip: IpAddr) -> Owned {
        self.own.owns(port, ip)
    }

    /// To whom a frame with this destination MAC is addressed. A unicast IP packet in a
    /// [`FrameTo::Group`] frame is to be dropped as [`DropReason::GroupFrame`].
    #[inline]
    pub fn frame_to(&self, port: PortId, dst: Mac) -> FrameTo {
        self.own.frame_to(port, dst)
    }

    /// True for the port's own MAC, and for everything on an IP link.
    #[inline]
    pub fn is_mine_mac(&self, port: PortId, dst: Mac) -> bool {
        self.frame_to(port, dst) == FrameTo::Us
    }

    /// Refuses sources that can be nobody's: loopback, multicast, broadcast, 0.0.0.0, our own addresses
    /// (kernel rule 91).
    #[inline]
    pub fn check_source(&self, port: PortId, ip: IpAddr) -> Option<DropReason> {
        self.own.check_source(port, ip)
    }

    /// Refuses destinations that can be nobody's, broadcasts, and groups the director is not part of.
    #[inline]
    pub fn check_dest(&self, port: PortId, ip: IpAddr) -> Option<DropReason> {
        self.own.check_dest(port, ip)
    }

    /// The way to `dst`: connected networks, static routes, gateways; longest prefix first.
    #[inline]
    pub fn route(&self, dst: IpAddr) -> Option<Route> {
        self.routes.lookup(dst)
    }

    /// Where the neighbour of a route is in the table.
    pub fn known(&self, route: &Route) -> Known {
        self.neighbors.known(route.port, route.next_hop)
    }

    /// True while [`Host::known`] would say the same.
    #[inline]
    pub fn still(&self, known: &Known) -> bool {
        self.neighbors.still(known)
    }

    /// What the device of a port can do.
    pub fn offload(&self, port: PortId) -> OffloadCaps {
        self.plan.ports.get(usize::from(port.0)).map_or_else(OffloadCaps::default, |p| p.offload)
    }

    /// The director's own address to use as source on a route: of the outgoing port, in the network of
    /// the next hop where there is one, of the family asked for.
    pub fn source_for(&self, route: &Route, v6: bool) -> Option<IpAddr> {
        if let Some(source) = route.source.filter(|s| s.is_ipv6() == v6) {
            return Some(source);
        }
        if let IpAddr::V6(hop) = route.next_hop
            && hop.is_unicast_link_local()
            && v6
            && let Some(own) = self.own.link_local(route.port)
        {
            return route::source(&self.plan, route.port, route.next_hop, v6).or(Some(own.into()));
        }
        route::source(&self.plan, route.port, route.next_hop, v6)
    }

    /// Without `local_addresses` of their own, FULLNAT connections have the port's addresses in the network
    /// of the next hop as source: no real server need know a way to the port's other networks. `None`: any.
    pub fn network_of_locals(&self, port: PortId, next_hop: IpAddr) -> Option<Cidr> {
        if !self.plan.local_addresses.is_empty() {
            return None;
        }
        let port = self.plan.ports.get(usize::from(port.0))?;
        let near = port.addresses.iter().filter(|c| c.contains(next_hop));
        near.max_by_key(|c| c.len).copied()
    }

    /// Neighbours, for listing.
    pub fn neighbors(&self, now: Mono) -> impl Iterator<Item = NeighborInfo> + '_ {
        self.neighbors.iter(now)
    }

    /// The next thing an operator wants to know.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.events.pop_front()
    }

    /// When [`Host::on_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let fresh = (!self.fresh.is_empty()).then_some(self.fresh_since);
        let again = self.again.front().map(|(at, _)| *at);
        [fresh, again, self.neighbors.next()].into_iter().flatten().min()
    }

    /// Does what is due: announcements, questions, and the errors for packets whose neighbour failed.
    pub fn on_timeout(&mut self, now: Mono, out: &mut Out) {
        // a thousand new VIPs must not hold up the packets of one turn
        for _ in 0..MAX_ANNOUNCEMENTS {
            if let Some(ip) = self.fresh.pop_front() {
                self.announce_address(ip, out);
                self.again.push_back((now + ANNOUNCE_AGAIN, ip));
            } else if self.again.front().is_some_and(|(at, _)| now >= *at)
                && let Some((_, ip)) = self.again.pop_front()
            {
                self.announce_address(ip, out);
            } else {
                break;
            }
        }
        self.neighbor_timeout(now, out);
    }

    fn event(&mut self, event: HostEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The route of an answer to `dst`: link-local addresses are on the port they came from.
    fn reply_route(&self, port: PortId, dst: IpAddr) -> Option<Route> {
        match dst {
            IpAddr::V6(a) if a.is_unicast_link_local() => self.routes.on_link(port, dst),
            _ => self.routes.lookup(dst).filter(|r| !r.unreachable),
        }
    }
}

/// How long after the first an address is announced for the second time (RFC 5227: `ANNOUNCE_NUM` 2,
/// `ANNOUNCE_INTERVAL`).
const ANNOUNCE_AGAIN: Span = Span::from_secs(2);
/// Most addresses announced in one turn.
const MAX_ANNOUNCEMENTS: usize = 64;

fn links(plan: &NetPlan) -> Vec<(Link, Mac)> {
    plan.ports.iter().map(|p| (p.link, p.mac)).collect()
}

/// Family of an address.
fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}
