//! New connections of a burst, opened together.
//!
//! # Theory of operation
//! The reply's key of a NAT or FULLNAT connection may lie anywhere in the index, and where is not known
//! before the server is: nothing could be fetched ahead, and the wait for that one cell was half of what a new
//! connection cost. So each SYN is scheduled in its turn and its cell asked for, and the few that follow one
//! another in a burst are opened after that. What their SYN does to them is known when they are planned: they
//! are written once, as they are after it.
//!
//! Servers count a connection as soon as it is scheduled, so the next one is scheduled as if it were open;
//! other packets that go the long way, a SYN on the same tuple or on one that has a connection, and one that
//! finds the table full wait until those before them are opened: they may close a finished connection to have
//! its reply tuple.
//! One thing is different: a connection that finds its reply tuple taken, and so goes to another server, was
//! counted at the first when those behind it in the burst were scheduled.
//!
//! Most SYNs are for the same few services. What the long way asks about the packet's destination (is it ours,
//! may anybody send there, has it a mark, which service is there) has the same answers for the next one to the
//! same service, so the latest ones are remembered ([`Known`]) and an ordinary SYN to one of them is asked about
//! its source only.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::burst::{Kind, Look, Sight, Turn};
use super::family::IpFamily;
use super::inbound::timeout;
use super::input::Arrival;
use super::schedule::{Placement, new_conn, remote};
use super::{Core, DropReason, PortId, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::key::{Addr, Tuple};
use crate::conn::state::{Seen, State};
use crate::conn::table::{Conn, flag};
use crate::host::options;
use crate::svc::snapshot::FTP;
use crate::svc::{Dest, DestId, Forward, Proto, Service, ServiceKey, Snapshot};
use crate::wire::{Family, Meta, Parsed, number, tcp};

/// As many as wait together: more reads than this a core does not have on their way at once.
const MOST: usize = 16;

/// Most services that are remembered.
const KNOWN: usize = 16;

/// Where a service is remembered. Virtual addresses and ports lie side by side, and nobody but the operator
/// chooses them.
#[inline(always)]
fn slot(address: u128, dport: u16) -> usize {
    ((address as u32 ^ u32::from(dport)).wrapping_mul(0x9e37_79b1) >> 16) as usize % KNOWN
}

/// A connection that has its server.
#[derive(Debug)]
struct Planned {
    /// Place of its packet in the burst.
    place: usize,
    /// Its state once the SYN was seen.
    state: State,
    /// Its server counts it already, by that state.
    bound: bool,
    dest: DestId,
    /// Place of the server in its service.
    first: usize,
    /// Taken for FULLNAT.
    local: Option<(IpAddr, u16)>,
    /// Hashes of both keys; of one key the second says nothing.
    hashes: [u64; 2],
}

/// What a connection will be at a server.
#[derive(Debug)]
struct Draft<A> {
    state: State,
    local: Option<(A, u16)>,
    /// Hash of the second key.
    second: u64,
}

impl<A: IpFamily> Draft<A> {
    /// Of the packet at this place and with this hash, at this server.
    #[inline]
    fn planned(&self, (place, hash): (usize, u64), (dest, first): (&Dest, usize)) -> Planned {
        Planned {
            place,
            bound: false,
            state: self.state,
            dest: dest.id,
            first,
            local: self.local.map(|(ip, port)| (ip.ip(), port)),
            hashes: [hash, self.second],
        }
    }
}

/// A service that a SYN went to. What was found out on the way there is the same for every client.
#[derive(Debug)]
struct Known {
    /// Of the snapshot that it was found in.
    generation: u64,
    port: PortId,
    family: Family,
    address: u128,
    dport: u16,
    /// Place among all services.
    service: usize,
}

/// What is planned, and whether the packet at hand may be.
#[derive(Debug, Default)]
pub(super) struct Together {
    planned: ArrayVec<Planned, MOST>,
    /// A bit for each hash of a client's key that is planned, by its lowest bits: nearly always says that a
    /// key is not.
    hashes: u64,
    /// Place in the burst and hash of the packet at hand, where it may wait.
    now: Option<(usize, u64)>,
    /// Of the services with the same [`slot`] the latest.
    known: [Option<Known>; KNOWN],
}

impl Together {
    /// Connections that will be opened.
    pub fn len(&self) -> usize {
        self.planned.len()
    }
    /// The packet at hand was decided about.
    pub fn nobody(&mut self) {
        self.now = None;
    }
    #[inline]
    fn has(&self, hash: u64) -> bool {
        self.hashes >> (hash % 64) & 1 != 0 && self.planned.iter().any(|p| p.hashes[0] == hash)
    }
}

impl Core {
    /// Before a packet goes the long way: opens what has to be open by then.
    #[inline]
    pub(super) fn before(
        &mut self,
        snap: &Snapshot,
        turn: &Turn,
        (place, look): (usize, &Look),
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        let begins = match look.kind {
            Kind::Begins => true,
            Kind::Other => self.sights.get(place).is_some_and(begins),
            Kind::Plain4 | Kind::Plain6 => false,
        };
        let waits = begins && !self.told();
        let planned = &self.together.planned;
        let free = waits && !planned.is_full() && !self.together.has(look.hash);
        // what is planned may close what has the tuple at hand, or what kept the table full
        if !free || !planned.is_empty() && (self.is_full(snap) || self.knows((place, look), burst)) {
            self.open_planned(snap, turn, burst, verdicts, out);
        }
        self.together.now = (waits && burst.len() > 1).then_some((place, look.hash));
    }

    /// Has the packet a connection already?
    #[inline]
    fn knows(&self, (place, look): (usize, &Look), burst: &[PacketBuf<'_>]) -> bool {
        let (Some(sight), Some(pkt)) = (self.sights.get(place), burst.get(place)) else { return false };
        let Ok(Parsed::Ip(meta)) = &sight.found else { return false };
        match meta.family {
            Family::V4 => self.tables.v4.find(look.hash, &u32::tuple(pkt.bytes(), meta)).is_some(),
            Family::V6 => self.tables.v6.find(look.hash, &u128::tuple(pkt.bytes(), meta)).is_some(),
        }
    }

    /// A SYN goes to this service, of one of the director's addresses.
    pub(super) fn remember<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        port: PortId,
        tuple: &Tuple<A>,
        service: &Service,
    ) {
        let ServiceKey::Address { port: own, .. } = service.spec.key else { return };
        // others decide by more than where the packet goes
        let simple = service.spec.persistence.is_none()
            && (own == tuple.dport && own != FTP)
            && snap.net.marks.is_empty()
            && !snap.sysctl.nat_icmp_send;
        let Some(service) = snap.place_of(&service.spec.key).filter(|_| simple) else { return };
        let address = tuple.dst.into();
        self.together.known[slot(address, tuple.dport)] = Some(Known {
            generation: snap.generation,
            port,
            family: <A as Addr>::FAMILY,
            address,
            dport: tuple.dport,
            service,
        });
    }

    /// A SYN that is ordinary otherwise, of a new connection to a service that is remembered: the same as the
    /// long way, of which everything is left out that is known to let it pass. `None`: it is
    /// another one, nothing was decided.
    #[inline]
    pub(super) fn begin(
        &mut self,
        snap: &Snapshot,
        turn: &Turn,
        (place, look): (usize, &Look),
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Option<Verdict> {
        if look.kind != Kind::Begins {
            return None;
        }
        let Ok(Parsed::Ip(meta)) = self.sights.get(place)?.found else { return None };
        let verdict = match meta.family {
            Family::V4 => self.begin_of::<u32>(snap, turn, (meta, look.hash), pkt, out)?,
            Family::V6 => self.begin_of::<u128>(snap, turn, (meta, look.hash), pkt, out)?,
        };
        self.together.nobody();
        if let Some(verdict) = verdict {
            self.count(verdict);
        }
        Some(verdict.unwrap_or(Verdict::Taken(Taken::Local)))
    }

    /// The same; `Some(None)`: planned.
    #[inline(never)]
    fn begin_of<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        turn: &Turn,
        (meta, hash): (Meta, u64),
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Option<Option<Verdict>> {
        let (proto, ends, _) = A::read(pkt.bytes())?;
        let tuple = Tuple::<A>::of_ends(proto, ends);
        let address = tuple.dst.into();
        let known = self.together.known[slot(address, tuple.dport)].as_ref()?;
        let same = known.generation == snap.generation
            && known.port == turn.port
            && known.dport == tuple.dport
            && known.family == <A as Addr>::FAMILY
            && known.address == address;
        let others = self.told() || self.tap.is_some() || self.ftp.awaits();
        let service = snap.services.get(known.service)?;
        if !same || others || A::table(&mut self.tables).find(hash, &tuple).is_some() {
            return None;
        }
        let at = turn.arrival(true);
        pkt.truncate(meta.end as usize);
        if let Some(verdict) = self.steered(at, &meta, pkt, out) {
            return Some(Some(verdict));
        }
        if self.host.check_source(turn.port, tuple.src.ip()).is_some() {
            return None;
        }
        if self.defense.drops_new() {
            return Some(Some(Verdict::Drop(DropReason::DropPacketDefence)));
        }
        let Some(first) = self.pick(turn.now, service, &tuple) else {
            return Some(Some(self.no_server::<A>(snap, at, meta, pkt, service, true, out)));
        };
        let may_wait = self.together.now.take();
        let dest = &service.dests[first];
        let Some(draft) = self.draft::<A>(snap, &meta, &tuple, dest) else {
            return Some(Some(self.open_now::<A>(snap, at, (meta, tuple), pkt, service, first, out)));
        };
        match may_wait {
            Some(waiting) if dest.spec.forward.translates() => {
                self.wait(waiting, (dest, first), &draft);
                Some(None)
            }
            _ => {
                let planned = draft.planned((0, hash), (dest, first));
                Some(Some(self.open_one::<A>(snap, at, &planned, &meta, pkt, out)))
            }
        }
    }

    /// Plans the connection of the packet at hand at the server in place `first`. False: to be opened now.
    pub(super) fn plan<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        meta: &Meta,
        tuple: &Tuple<A>,
        service: &Service,
        first: usize,
    ) -> bool {
        let Some(waiting) = self.together.now.take() else { return false };
        let dest = &service.dests[first];
        if !dest.spec.forward.translates() {
            return false;
        }
        let Some(draft) = self.draft::<A>(snap, meta, tuple, dest) else { return false };
        self.wait(waiting, (dest, first), &draft);
        true
    }

    #[inline]
    fn wait<A: IpFamily>(&mut self, waiting: (usize, u64), to: (&Dest, usize), draft: &Draft<A>) {
        to.0.bind(draft.state.active());
        A::table(&mut self.tables).fetch_cell(draft.second);
        self.together.hashes |= 1 << (waiting.1 % 64);
        let planned = &mut self.together.planned;
        planned.push(draft.planned(waiting, to));
        if let Some(planned) = planned.last_mut() {
            planned.bound = true;
        }
    }

    /// What the connection will be at a server. `None`: it cannot be, or not without asking more.
    #[inline(always)]
    fn draft<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        meta: &Meta,
        tuple: &Tuple<A>,
        dest: &Dest,
    ) -> Option<Draft<A>> {
        if self.is_full(snap) {
            return None;
        }
        let (mut local, mut seen, mut second) = (None, Seen::InputOnly, 0);
        if dest.spec.forward.translates() {
            let real = A::from_ip(dest.spec.ip)?;
            let rport = Placement::of(dest, tuple).rport;
            if dest.spec.forward == Forward::FullNat {
                local = Some(self.take_local::<A>(dest, Proto::Tcp, rport).ok()?);
            }
            let (to, lport) = local.unwrap_or((tuple.src, tuple.sport));
            let reply = Tuple { src: real, dst: to, sport: rport, dport: lport, proto: tuple.proto };
            (seen, second) = (Seen::Input, A::table(&mut self.tables).hash(&reply));
        }
        let begun = State::initial(Proto::Tcp);
        let state = match self.defense.attack {
            true => begun.after_tcp_attack(seen, meta.tcp_flags),
            false => begun.after_tcp(seen, meta.tcp_flags),
        };
        Some(Draft { state, local, second })
    }

    /// Opens what is planned and sends its packets on.
    pub(super) fn open_planned(
        &mut self,
        snap: &Snapshot,
        turn: &Turn,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        if self.together.planned.is_empty() {
            return;
        }
        let planned = std::mem::take(&mut self.together.planned);
        self.together.hashes = 0;
        for p in &planned {
            let (Some(pkt), Some(verdict)) = (burst.get_mut(p.place), verdicts.get_mut(p.place)) else {
                continue;
            };
            // the sights are those of this burst
            let Some(&Sight { found: Ok(Parsed::Ip(meta)), plain, .. }) = self.sights.get(p.place) else {
                continue;
            };
            let at = turn.arrival(plain);
            *verdict = match meta.family {
                Family::V4 => self.open_one::<u32>(snap, at, p, &meta, pkt, out),
                Family::V6 => self.open_one::<u128>(snap, at, p, &meta, pkt, out),
            };
            self.count(*verdict);
        }
    }

    fn open_one<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        p: &Planned,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let tuple = A::tuple(pkt.bytes(), meta);
        // both were there when it was planned, and a burst has one snapshot
        let Some(dest) = snap.dest(p.dest) else { return Verdict::Drop(DropReason::DestinationGone) };
        let to = Placement::of(dest, &tuple);
        if let Ok(mut new) = new_conn(snap, &tuple, Proto::Tcp, to) {
            new.local = p.local.and_then(|(ip, port)| Some((A::from_ip(ip)?, port)));
            new.state = p.state;
            new.timeout = timeout(snap, dest, p.state);
            if p.state.active() {
                new.flags &= !flag::INACTIVE;
            }
            // as if it had been opened and then seen its SYN, but written once
            let mut conn = Conn::passing(&new);
            conn.packets = 1;
            let opened = A::table(&mut self.tables).enter(at.now, &mut conn, new.timeout, p.hashes);
            if let Ok(slot) = opened {
                if !p.bound {
                    dest.bind(p.state.active());
                }
                self.counted::<A>(slot, dest);
                dest.count_input(self.worker, meta.ip_len() as u64);
                return self.set_out::<A>(snap, at, *meta, pkt, &conn, dest, out);
            }
        }
        // not as planned, for instance because a live connection has the reply's tuple
        self.open_elsewhere::<A>(snap, at, p, (*meta, tuple), pkt, dest, out)
    }

    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its plan")]
    fn open_elsewhere<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        p: &Planned,
        (meta, tuple): (Meta, Tuple<A>),
        pkt: &mut PacketBuf<'_>,
        dest: &Arc<Dest>,
        out: &mut Out,
    ) -> Verdict {
        if let Some((ip, port)) = p.local {
            self.free_local(remote(dest, Proto::Tcp, Placement::of(dest, &tuple).rport), ip, port);
        }
        if p.bound {
            dest.unbind(p.state.active());
        }
        let mark = snap.mark_of(Some(Proto::Tcp), tuple.dst.ip(), tuple.dport);
        let Some(service) = snap.find(mark, Proto::Tcp, tuple.dst.ip(), tuple.dport) else {
            return Verdict::Drop(DropReason::DestinationGone);
        };
        self.open_now::<A>(snap, at, (meta, tuple), pkt, service, p.first, out)
    }
}

/// Is it a SYN that may begin a connection, whole and for a station?
fn begins(sight: &Sight) -> bool {
    let Ok(Parsed::Ip(meta)) = &sight.found else { return false };
    let flags = meta.tcp_flags & (tcp::flag::SYN | tcp::flag::ACK | tcp::flag::FIN | tcp::flag::RST);
    let plain = !meta.is_fragment() && !sight.group && !options::any(meta);
    meta.proto == number::TCP && flags == tcp::flag::SYN && plain
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use crate::addr::Mac;
    use crate::engine::tests::{LAN, WAN, catalog, dest, engine, frame, give, net, respecified, reweighted};
    use crate::engine::{DropReason, Engine, EngineOptions, Verdict};
    use crate::svc::{Forward, Persistence, Proto, ServiceKey, ServiceSpec};
    use crate::time::{Mono, Span};

    const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
    const SYN: u8 = 2;

    #[test]
    fn what_is_remembered_of_a_service_says_nothing_of_sources_other_ports_or_other_configurations() {
        for (v6, forward) in
            [Forward::Nat, Forward::FullNat, Forward::Dr].map(|f| [(false, f), (true, f)]).concat()
        {
            let (mut e, n) = (engine(forward, Proto::Tcp), net(v6));
            let asks = |e: &mut _, from: SocketAddr, port| {
                let f = frame(WAN_MAC, Proto::Tcp, from, SocketAddr::new(n.vip, port), SYN, &[]);
                give(e, Mono::ZERO, WAN, &f).0
            };
            let client = |port| SocketAddr::new(n.client, port);
            for port in 4000..4003 {
                assert_eq!(asks(&mut e, client(port), 80), Verdict::Send(LAN));
            }
            let own = SocketAddr::new(n.vip, 4000);
            assert_eq!(asks(&mut e, own, 80), Verdict::Drop(DropReason::MartianSource));
            assert_ne!(asks(&mut e, client(4010), 82), Verdict::Send(LAN), "there is no such service");
            assert_eq!(asks(&mut e, client(4011), 80), Verdict::Send(LAN));
            // persistence needs a template, which only the long way makes
            let persistence =
                Some(Persistence { timeout: Span::from_secs(60), netmask: if v6 { 128 } else { 32 } });
            let snapshot = respecified(&e, |s| s.persistence = persistence);
            e.on_snapshot(Mono::ZERO, snapshot);
            assert_eq!(asks(&mut e, client(4012), 80), Verdict::Send(LAN));
            assert_eq!(e.templates(Mono::ZERO).count(), 1);
            let snapshot = respecified(&e, |s| s.persistence = None);
            e.on_snapshot(Mono::ZERO, snapshot);
            assert_eq!(asks(&mut e, client(4013), 80), Verdict::Send(LAN));
            let snapshot = reweighted(&e, v6, [0, 0]);
            e.on_snapshot(Mono::ZERO, snapshot);
            assert_eq!(asks(&mut e, client(4014), 80), Verdict::Drop(DropReason::NoDestination));
            assert_eq!(e.connection_count(), 6);
        }
    }

    #[test]
    fn many_services_asked_in_turn_are_not_taken_for_one_another() {
        // more of them than are remembered, so that some have the same place
        let ports = 80..80 + 3 * super::KNOWN as u16;
        for (v6, forward) in [(false, Forward::Nat), (true, Forward::Nat), (false, Forward::FullNat)] {
            let (mut catalog, n) = (catalog(forward, Proto::Tcp), net(v6));
            for port in ports.clone().skip(1) {
                let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port };
                catalog.add_service(ServiceSpec::new(key)).unwrap();
                catalog.add_dest(&key, dest(n.rs[0], 8000 + port, forward)).unwrap();
            }
            let options = EngineOptions { connection_limit: 1000, seed: 7, ..EngineOptions::default() };
            let mut e = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
            for round in 0..3 {
                for port in ports.clone() {
                    let (from, to) = (SocketAddr::new(n.client, 4000 + round), SocketAddr::new(n.vip, port));
                    let f = frame(WAN_MAC, Proto::Tcp, from, to, SYN, &[]);
                    assert_eq!(give(&mut e, Mono::ZERO, WAN, &f).0, Verdict::Send(LAN));
                }
            }
            assert_eq!(e.connection_count(), 3 * ports.len());
            for c in e.connections(Mono::ZERO) {
                let wanted = if c.virt.port() == 80 { 8080 } else { 8000 + c.virt.port() };
                assert_eq!(c.dest.port(), wanted, "{} went to {}", c.virt, c.dest);
            }
        }
    }
}
