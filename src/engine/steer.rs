//! Whose packet is it, when several workers share the work?
//!
//! # Theory of operation
//! A worker owns the connections it opened, and a packet found in its table is its own: established flows
//! ask nothing further. What is not found there is steered, by nothing but the packet and the configuration:
//! both directions of a connection name the *client's* end-point, so its hash names the owner. It is the
//! source of what goes to a virtual address, the destination of what a real server answers, the same of the
//! packet an ICMP error quotes. With FULLNAT the reply names a local port, of which each worker has a range
//! of its own.
//!
//! The rest is seen to by [`Foreign`]: whoever opens a connection one of whose keys is steered elsewhere (data
//! connections of FTP, marks without addresses) says so in a list that all workers share, and that is
//! asked before the hash. So ownership is right whatever the hash says; the hash decides how often a
//! packet has to be handed over.
//!
//! Addresses that were virtual, local or a FULLNAT server's once stay what they were to steering: a change
//! of the configuration does not move the connections that are left over from before.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dashmap::DashMap;
use hashbrown::HashSet;

use super::Random;
use super::path_mtu::Told;
use crate::conn::key::{Addr, Tuple};
use crate::host::{AddrRange, MarkRule};
use crate::nat::icmp;
use crate::nat::pool::{Keyed, PORTS};
use crate::svc::{Forward, Proto, Snapshot, WorkerId};
use crate::tunnel;
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Meta, be16, number};

/// Most workers of one director.
pub const MAX_WORKERS: u16 = 64;
/// Marking rules of earlier configurations that steering remembers.
const OLD_MARKS: usize = 64;

/// Secret factors of the hash that names owners, in 32-bit words so that a socket filter can compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerKey {
    /// For the words of an address; IPv4 has the last one only.
    pub address: [u32; 4],
    /// For the port.
    pub port: u32,
    /// For the sum of all.
    pub last: u32,
}

impl SteerKey {
    fn new(random: &mut Random) -> SteerKey {
        let mut odd = || random.next() as u32 | 1;
        SteerKey { address: [odd(), odd(), odd(), odd()], port: odd(), last: odd() }
    }
    /// Hash of an end-point.
    #[inline]
    pub fn hash(&self, ip: IpAddr, port: u16) -> u32 {
        let words = match ip {
            IpAddr::V4(a) => u32::from(a).wrapping_mul(self.address[3]),
            IpAddr::V6(a) => {
                let a = a.to_bits();
                (0..4).fold(0, |sum: u32, i| {
                    sum.wrapping_add(((a >> (96 - 32 * i)) as u32).wrapping_mul(self.address[i]))
                })
            }
        };
        let sum = words.wrapping_add(u32::from(port).wrapping_mul(self.port));
        (sum ^ sum >> 16).wrapping_mul(self.last)
    }
}

/// What all workers of a director share beside the snapshot.
#[derive(Debug)]
pub struct Crew {
    workers: u16,
    key: SteerKey,
    /// Live connections of all workers.
    live: AtomicUsize,
    foreign: Foreign,
    sets: (u64, u64),
    /// Path MTUs that the workers have learnt.
    pub(super) paths: Told,
}

impl Crew {
    /// For so many workers, 1 to [`MAX_WORKERS`]; `seed` keys all hashes.
    pub fn new(workers: u16, seed: u64) -> Crew {
        let mut random = Random(seed ^ 0x6c76_735f_6372_6577);
        let key = SteerKey::new(&mut random);
        Crew {
            workers: workers.clamp(1, MAX_WORKERS),
            key,
            live: AtomicUsize::new(0),
            foreign: Foreign::new((random.next(), random.next())),
            sets: (random.next(), random.next()),
            paths: Told::new(Keyed(random.next(), random.next())),
        }
    }
    /// Number of workers.
    pub fn workers(&self) -> u16 {
        self.workers
    }
    /// The factors of the hash, for devices that can steer.
    pub fn key(&self) -> SteerKey {
        self.key
    }
    /// Live connections of all workers.
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }
    /// Keys of connections that do not lie where the hash would have them.
    pub fn foreign(&self) -> usize {
        self.foreign.len()
    }
    /// Tells everybody that a key is `owner`'s.
    pub(super) fn tell<A: Addr>(&self, key: &Tuple<A>, owner: WorkerId) {
        if let Some(flow) = Flow::of_tuple(key) {
            self.foreign.insert(flow, owner);
        }
    }
    /// Takes back what [`Crew::tell`] said.
    pub(super) fn untell<A: Addr>(&self, key: &Tuple<A>, owner: WorkerId) {
        if let Some(flow) = Flow::of_tuple(key) {
            self.foreign.remove(&flow, owner);
        }
    }
    pub(super) fn opened(&self) {
        self.live.fetch_add(1, Relaxed);
    }
    pub(super) fn closed(&self) {
        self.live.fetch_sub(1, Relaxed);
    }
    /// The local ports of a worker.
    pub fn ports(&self, worker: WorkerId) -> RangeInclusive<u16> {
        let (first, last) = (u32::from(*PORTS.start()), u32::from(*PORTS.end()));
        let width = (last - first + 1) / u32::from(self.workers);
        let from = first + u32::from(worker.0) * width;
        let to = if worker.0 + 1 >= self.workers { last } else { from + width - 1 };
        from as u16..=to as u16
    }
    fn owner_of_port(&self, port: u16) -> WorkerId {
        let width = (PORTS.end() - PORTS.start() + 1) / self.workers;
        WorkerId((port.saturating_sub(*PORTS.start()) / width).min(self.workers - 1))
    }
    fn owner_of_hash(&self, hash: u32) -> WorkerId {
        WorkerId((((hash >> 16) * u32::from(self.workers)) >> 16) as u16)
    }
    fn owner_of_client(&self, ip: IpAddr, port: u16) -> WorkerId {
        self.owner_of_hash(self.key.hash(ip, port))
    }
}

/// What steering goes by, for devices that can do it themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Number of workers.
    pub workers: u16,
    /// Factors of the hash of a client's end-point.
    pub key: SteerKey,
    /// Virtual addresses: clients are the sources of packets to them.
    pub vips: Vec<IpAddr>,
    /// Local addresses: where FULLNAT is used, the port names the owner.
    pub local: Vec<AddrRange>,
    /// FULLNAT is used.
    pub fullnat: bool,
}

impl Outline {
    /// The outline of a configuration.
    pub fn new(crew: &Crew, snap: &Snapshot) -> Outline {
        let dips = snap.net.ports.iter().flat_map(|p| &p.addresses);
        let dips = dips.map(|c| AddrRange { first: c.addr, last: c.addr });
        Outline {
            workers: crew.workers,
            key: crew.key,
            vips: snap.vips.iter().map(|(ip, _)| *ip).collect(),
            local: snap.net.local_addresses.iter().copied().chain(dips).collect(),
            fullnat: snap.dests.iter().flatten().any(|d| d.spec.forward == Forward::FullNat),
        }
    }
}

/// Who is to decide about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever has it: no memory of flows is involved.
    Anyone,
    /// This worker.
    Worker(WorkerId),
    /// The first worker, which answers for the host; the others listen (ARP, neighbour discovery).
    Everyone,
}

/// What a packet is steered by.
#[derive(Debug)]
pub(super) struct Steering {
    vips: HashSet<IpAddr, Keyed>,
    fullnat: HashSet<IpAddr, Keyed>,
    local: Vec<AddrRange>,
    marks: Vec<MarkRule>,
}

impl Steering {
    pub fn new(crew: &Crew) -> Steering {
        let set = || HashSet::with_hasher(Keyed(crew.sets.0, crew.sets.1));
        Steering { vips: set(), fullnat: set(), local: Vec::new(), marks: Vec::new() }
    }
    /// Adds what a configuration has; nothing is forgotten but very old marks.
    pub fn learn(&mut self, snap: &Snapshot) {
        self.vips.extend(snap.vips.iter().map(|(ip, _)| *ip));
        let fullnat = snap.dests.iter().flatten().filter(|d| d.spec.forward == Forward::FullNat);
        self.fullnat.extend(fullnat.map(|d| d.spec.ip));
        let dips = snap.net.ports.iter().flat_map(|p| &p.addresses);
        let dips = dips.map(|c| AddrRange { first: c.addr, last: c.addr });
        for range in snap.net.local_addresses.iter().copied().chain(dips) {
            if !self.local.contains(&range) {
                self.local.push(range);
            }
        }
        let mut marks = snap.net.marks.clone();
        let old = self.marks.iter().filter(|m| !snap.net.marks.contains(m)).take(OLD_MARKS);
        marks.extend(old.copied());
        self.marks = marks;
    }

    /// The owner of the connection that a packet between these end-points belongs to.
    pub fn of_ends(&self, crew: &Crew, proto: Proto, src: (IpAddr, u16), dst: (IpAddr, u16)) -> WorkerId {
        let local = self.local.iter().any(|range| range.contains(dst.0));
        let virt = self.vips.contains(&dst.0);
        if local && (!virt || self.fullnat.contains(&src.0)) {
            return crew.owner_of_port(dst.1);
        }
        let marked = || {
            self.marks.iter().any(|m| {
                m.to.is_none_or(|net| net.contains(dst.0))
                    && m.ports.is_none_or(|(a, b)| (a..=b).contains(&dst.1))
                    && m.proto.is_none_or(|p| p == proto)
            })
        };
        let client = if virt || marked() { src } else { dst };
        crew.owner_of_client(client.0, client.1)
    }

    /// The owner of the connection with this key; nobody's for other protocols.
    pub fn of_tuple<A: Addr>(&self, crew: &Crew, tuple: &Tuple<A>) -> Option<WorkerId> {
        let proto = Proto::from_number(tuple.proto)?;
        Some(self.of_ends(crew, proto, (tuple.src.ip(), tuple.sport), (tuple.dst.ip(), tuple.dport)))
    }

    /// The owner of an IP packet, and whether one of the two tuples it may be known by is in `foreign`.
    pub fn of_packet(&self, crew: &Crew, frame: &[u8], meta: &Meta) -> Owner {
        if meta.is_fragment() {
            let id = if meta.family == Family::V4 { be16(frame, usize::from(meta.l3) + 4) } else { 0 };
            let (a, b) = (meta.src(frame), meta.dst(frame));
            let hash = crew.key.hash(a, id).rotate_left(9) ^ crew.key.hash(b, u16::from(meta.proto));
            return Owner::Worker(crew.owner_of_hash(hash.wrapping_mul(crew.key.last)));
        }
        if is_neighbor_discovery(frame, meta) {
            return Owner::Everyone;
        }
        match self.flow(frame, meta) {
            Some(flow) => Owner::Worker(crew.foreign.owner(&flow).unwrap_or_else(|| {
                self.of_ends(crew, flow.proto, (flow.src, flow.sport), (flow.dst, flow.dport))
            })),
            None => Owner::Anyone,
        }
    }

    /// The flow that a packet, or the packet an ICMP error quotes, belongs to, as it arrives here.
    fn flow(&self, frame: &[u8], meta: &Meta) -> Option<Flow> {
        if Proto::from_number(meta.proto).is_some() {
            return Flow::of(frame, meta);
        }
        if icmp::kind(frame, meta) != Some(icmp::Kind::Error) {
            return None;
        }
        let datagram = frame.get(..meta.end as usize)?;
        let quoted =
            parse_quoted(datagram, usize::from(meta.l4) + crate::wire::icmp::LEN, meta.family).ok()?;
        // a packet in a tunnel goes the way the client's packets do
        let gue_port = (quoted.proto == number::UDP).then_some(quoted.dport);
        match tunnel::quoted_inner(frame, &quoted, gue_port).ok().and_then(|inner| Flow::of(frame, &inner)) {
            Some(flow) if quoted.proto != number::UDP || self.vips.contains(&flow.dst) => Some(flow),
            // what is quoted went out; its flow comes in
            _ => Flow::of(frame, &quoted).map(Flow::reversed),
        }
    }
}

/// A neighbour solicitation or advertisement.
pub(super) fn is_neighbor_discovery(frame: &[u8], meta: &Meta) -> bool {
    meta.family == Family::V6
        && meta.proto == number::ICMPV6
        && matches!(frame.get(usize::from(meta.l4)), Some(135 | 136))
}

/// Addresses and ports of a packet, either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    proto: Proto,
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
}

impl Flow {
    fn of(frame: &[u8], meta: &Meta) -> Option<Flow> {
        // a first fragment that is quoted names its ports
        let proto = Proto::from_number(meta.proto).filter(|_| meta.frag_offset == 0)?;
        let (src, dst) = (meta.src(frame), meta.dst(frame));
        Some(Flow { proto, src, sport: meta.sport, dst, dport: meta.dport })
    }
    fn of_tuple<A: Addr>(t: &Tuple<A>) -> Option<Flow> {
        let proto = Proto::from_number(t.proto)?;
        Some(Flow { proto, src: t.src.ip(), sport: t.sport, dst: t.dst.ip(), dport: t.dport })
    }
    fn reversed(self) -> Flow {
        Flow { proto: self.proto, src: self.dst, sport: self.dport, dst: self.src, dport: self.sport }
    }
}

/// Keys of connections that are not where the hash would have them, with their owners.
#[derive(Debug)]
struct Foreign {
    owners: DashMap<Flow, WorkerId, Keyed>,
    /// So that nobody looks while there is none, which is nearly always.
    count: AtomicUsize,
}

impl Foreign {
    fn new(key: (u64, u64)) -> Foreign {
        Foreign { owners: DashMap::with_hasher(Keyed(key.0, key.1)), count: AtomicUsize::new(0) }
    }
    fn len(&self) -> usize {
        self.count.load(Relaxed)
    }
    fn owner(&self, flow: &Flow) -> Option<WorkerId> {
        if self.len() == 0 {
            return None;
        }
        let owner = |flow: &Flow| self.owners.get(flow).map(|w| *w);
        // an expected connection has no client port yet
        owner(flow).or_else(|| owner(&Flow { sport: 0, ..*flow }))
    }
    fn insert(&self, flow: Flow, owner: WorkerId) {
        if self.owners.insert(flow, owner).is_none() {
            self.count.fetch_add(1, Relaxed);
        }
    }
    fn remove(&self, flow: &Flow, owner: WorkerId) {
        if self.owners.remove_if(flow, |_, w| *w == owner).is_some() {
            self.count.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
