//! The way to each real server, remembered: everything about it that does not change from packet to packet.

use std::net::IpAddr;

use super::family::IpFamily;
use super::inbound::timeout;
use super::{Core, PortId};
use crate::addr::Mac;
use crate::conn::state::State;
use crate::conn::wheel::ticks;
use crate::host::{Known, Route};
use crate::svc::{Dest, DestId, Ending, Forward, Snapshot, Tally, Tunnel};
use crate::tunnel::{Outer, overhead};
use crate::wire::Link;

/// A way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub route: Route,
    /// Where the neighbour's entry was.
    pub neighbor: Known,
    /// It ends at the director itself.
    pub local: bool,
}

/// What the express lane has to know of a real server that is reached through another station.
#[derive(Debug)]
pub(super) struct Lane {
    pub port: PortId,
    /// The port's own station.
    pub from: Mac,
    /// Where the neighbour's entry was.
    pub neighbor: Known,
    /// Largest IP packet on the link.
    pub mtu: u32,
    /// Timeouts of established TCP and of UDP, in ticks.
    pub timeouts: [u32; 2],
    /// Where this worker counts the traffic of the real server and of its service.
    pub tallies: [Tally; 2],
    /// The real server, for what is known of the path to it.
    pub ip: IpAddr,
    /// Headers of its tunnel, where they can be made ready.
    pub outer: Option<Outer>,
}

/// Something about a real server that is good as long as nothing was forgotten.
#[derive(Debug)]
struct Place<T> {
    generation: u32,
    what: T,
}

/// Real servers with neighbouring identities are together in memory that comes with the first of them.
const CHUNK: usize = 64;

#[derive(Debug)]
struct Chunk {
    ways: [Option<Place<Way>>; CHUNK],
    /// Of servers whose packets may be ordinary; apart, because nothing else is read for those.
    lanes: [Option<Place<Lane>>; CHUNK],
}

/// All ways known. Routes and real servers change with the configuration only, which forgets all ways at
/// once by counting on; the neighbour's entry says by itself whether it still is the one.
#[derive(Debug, Default)]
pub(super) struct Ways {
    chunks: Vec<Option<Box<Chunk>>>,
    generation: u32,
}

impl Ways {
    #[inline]
    fn chunk(&self, dest: DestId) -> Option<&Chunk> {
        self.chunks.get(dest.0 as usize / CHUNK)?.as_deref()
    }
    #[inline]
    fn way(&self, dest: DestId) -> Option<&Way> {
        let place = self.chunk(dest)?.ways[dest.0 as usize % CHUNK].as_ref()?;
        (place.generation == self.generation).then_some(&place.what)
    }
    /// Port and next hop of the route to a real server, if they are remembered.
    #[inline]
    pub fn route(&self, dest: DestId) -> Option<(PortId, IpAddr)> {
        self.way(dest).map(|way| (way.route.port, way.route.next_hop))
    }
    /// The lane of a real server, if it is remembered and has one.
    #[inline(always)]
    pub fn lane(&self, dest: DestId) -> Option<&Lane> {
        let place = self.chunk(dest)?.lanes[dest.0 as usize % CHUNK].as_ref()?;
        (place.generation == self.generation).then_some(&place.what)
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
    fn set(&mut self, dest: DestId, way: Way, lane: Option<Lane>) {
        let (at, i) = (dest.0 as usize / CHUNK, dest.0 as usize % CHUNK);
        if self.chunks.len() <= at {
            self.chunks.resize_with(at + 1, || None);
        }
        let chunk = self.chunks[at].get_or_insert_with(|| {
            Box::new(Chunk { ways: [const { None }; CHUNK], lanes: [const { None }; CHUNK] })
        });
        let generation = self.generation;
        chunk.ways[i] = Some(Place { generation, what: way });
        chunk.lanes[i] = lane.map(|what| Place { generation, what });
    }
}

impl Core {
    /// The way to a real server.
    #[inline]
    pub(super) fn way<A: IpFamily>(&mut self, snap: &Snapshot, dest: &Dest) -> Option<Way> {
        match self.ways.way(dest.id) {
            Some(way) if self.host.still(&way.neighbor) => Some(*way),
            _ => self.find_way::<A>(snap, dest),
        }
    }

    #[cold]
    fn find_way<A: IpFamily>(&mut self, snap: &Snapshot, dest: &Dest) -> Option<Way> {
        let route = self.host.route(dest.spec.ip)?;
        let ip = dest.spec.ip;
        let local = ip.is_loopback() || self.host.owns(route.port, ip).is_unicast();
        let way = Way { neighbor: self.host.known(&route), route, local };
        let lane = self.lane::<A>(snap, dest, &way);
        self.ways.set(dest.id, way, lane);
        Some(way)
    }

    fn lane<A: IpFamily>(&self, snap: &Snapshot, dest: &Dest, way: &Way) -> Option<Lane> {
        let route = &way.route;
        let (Link::Ethernet, from) = self.host.station(route.port)? else { return None };
        if route.unreachable || way.local || !dest.available || dest.ending != Ending::No {
            return None;
        }
        // a server that was edited to another method keeps its connections in their tunnels
        let kind = match dest.spec.forward {
            Forward::Tun(kind) => kind,
            _ => Tunnel::Ipip,
        };
        let outer = self
            .host
            .source_for(route, dest.spec.ip.is_ipv6())
            .filter(|_| !leaves_too_little(kind, dest.spec.ip.is_ipv6(), route.mtu))
            .and_then(|src| Outer::new(kind, src, dest.spec.ip, A::FAMILY, snap.sysctl.pmtu_disc));
        Some(Lane {
            port: route.port,
            from,
            neighbor: way.neighbor,
            mtu: route.mtu.min(u16::MAX.into()),
            timeouts: [State::TcpEstablished, State::Udp].map(|s| ticks(timeout(snap, dest, s))),
            tallies: [&dest.stats, &dest.service_stats].map(|s| s.of(self.worker).clone()),
            ip: dest.spec.ip,
            outer,
        })
    }
}

/// Does an IPv6 tunnel leave less than the 1280 bytes that every IPv6 sender may count on? The kernel
/// lets nothing through then, whatever its size and family (`2-pmtu-tun6-small`).
pub(super) fn leaves_too_little(kind: Tunnel, outer_v6: bool, mtu: u32) -> bool {
    outer_v6 && (mtu as usize) < overhead(kind, true) + 1280
}
