//! Bursts: what can be known of every packet beforehand is found out for all of them first.
//!
//! # Theory of operation
//! With a million flows the connection of nearly every packet has to come from memory: first the cell of
//! the index, then the connection, one wait after the other. So a burst is gone through three times: look
//! at all frames, hash their tuples and ask for the cells; read the cells and ask for the connections; and only
//! then decide, packet by packet. What is asked for is on its way while the next frames are looked at, so hardly
//! anything is waited for. With few connections the waits are short, but the processor looks ahead no further than
//! one packet, so it is told, too.
//!
//! What is read ahead is a guess. An earlier packet of the burst may open or close connections, so the
//! decision checks that the connection named still is the packet's, and otherwise looks it up anew.
//!
//! The first look knows ordinary frames only ([`crate::wire::plain`]); they take the express lane where the
//! rest is ordinary too. All other frames are parsed, and wait for the decision as [`Sight`]s.

use std::hint::black_box;

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, DropReason, Engine, PortId, Verdict};
use crate::addr::Mac;
use crate::buf::{Csum, Out, PacketBuf};
use crate::conn::key::Addr;
use crate::conn::table::Entry;
use crate::conn::wheel::Tick;
use crate::host::FrameTo;
use crate::svc::{Proto, Snapshot};
use crate::time::Mono;
use crate::wire::plain::{self, Plain, Station};
use crate::wire::{Family, Link, Meta, Parsed, parse};

/// Most packets gone through together: their headers and connections stay in the first-level cache.
pub(super) const WAVE: usize = 64;

/// What is the same for all packets of a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub now: Mono,
    pub tick: Tick,
    pub port: PortId,
    /// Other workers gave the packets to us: they are ours.
    handed: bool,
    /// Station of the port, where ordinary frames may take the express lane.
    station: Option<Station>,
    /// IPVS is awake: it sleeps while there is no service, its connections are not looked at then.
    awake: bool,
}

/// What is known of a packet before it is decided about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Hash of its tuple where it may be of a connection.
    pub hash: u64,
    /// What the index said of it when it was read ahead: most likely where its connection is.
    pub entry: Entry,
    pub kind: Kind,
    family: Option<Family>,
}

/// What kind of frame it is at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary IPv4.
    Plain4,
    /// Ordinary IPv6.
    Plain6,
    /// Ordinary but for its SYN.
    Begins,
    /// Not ordinary.
    Other,
}

/// What a frame says that is not ordinary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub found: Result<Parsed, DropReason>,
    /// It was sent to a group.
    pub group: bool,
    /// Hash of its tuple where it may be of a connection, otherwise nothing.
    pub hash: u64,
    /// Only its SYN is not ordinary.
    pub plain: bool,
}

impl Turn {
    /// How a whole packet of the burst came.
    #[inline]
    pub fn arrival(&self, plain: bool) -> Arrival {
        Arrival { now: self.now, port: self.port, largest: 0, handed: self.handed, plain }
    }
}

impl Kind {
    /// What was seen of it is kept as a [`Sight`].
    #[inline]
    pub fn is_sighted(self) -> bool {
        matches!(self, Kind::Begins | Kind::Other)
    }
}

impl Look {
    const NOTHING: Look = Look::new(0, Kind::Other, None);

    #[inline(always)]
    const fn new(hash: u64, kind: Kind, family: Option<Family>) -> Look {
        Look { hash, entry: Entry::NONE, kind, family }
    }
}

impl Sight {
    pub const NOTHING: Sight =
        Sight { found: Err(DropReason::ShortFrame), group: false, hash: 0, plain: false };

    pub fn family(&self) -> Option<Family> {
        match &self.found {
            Ok(Parsed::Ip(meta)) => Some(meta.family),
            _ => None,
        }
    }
}

impl Engine {
    /// Decides about one packet, changes it in place, and puts what it makes beside it into `out`.
    #[inline]
    pub fn on_packet(&mut self, now: Mono, port: PortId, pkt: &mut PacketBuf<'_>, out: &mut Out) -> Verdict {
        let mut verdict = [Verdict::Drop(DropReason::DeviceDown)];
        self.wave(now, port, false, std::slice::from_mut(pkt), &mut verdict, out);
        verdict[0]
    }

    /// Decides about a burst of packets that came in on one port, in order: the same as one
    /// [`Engine::on_packet`] after the other, but memory is waited for once.
    pub fn on_burst(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        if self.ear.is_some() {
            self.overhear(port, burst);
        }
        if self.watched.is_some() {
            return self.watched_burst(now, port, false, burst, verdicts, out);
        }
        for (burst, verdicts) in burst.chunks_mut(WAVE).zip(verdicts.chunks_mut(WAVE)) {
            self.wave(now, port, false, burst, verdicts, out);
        }
    }

    /// Packets that other workers read and that are ours; otherwise as [`Engine::on_burst`].
    pub fn on_handed(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        if self.watched.is_some() {
            return self.watched_burst(now, port, true, burst, verdicts, out);
        }
        for (burst, verdicts) in burst.chunks_mut(WAVE).zip(verdicts.chunks_mut(WAVE)) {
            self.wave(now, port, true, burst, verdicts, out);
        }
    }

    pub(super) fn wave(
        &mut self,
        now: Mono,
        port: PortId,
        handed: bool,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        let Engine { snap, core, .. } = self;
        core.now = now;
        let before = out.len();
        let turn = Turn { handed, ..core.turn(snap, now, port) };
        let mut looks = [Look::NOTHING; WAVE];
        for (i, (look, pkt)) in looks.iter_mut().zip(burst.iter()).enumerate() {
            *look = core.look(&turn, i, pkt);
        }
        core.read_ahead(&mut looks[..burst.len().min(WAVE)]);
        let (mut at, mut sent) = (0, 0);
        let all = burst.len().min(verdicts.len()).min(WAVE);
        while at < all {
            let kind = looks[at].kind;
            let (rest, burst_rest, verdicts_rest) =
                (&looks[at..all], &mut burst[at..all], &mut verdicts[at..all]);
            let quick = match kind {
                Kind::Plain4 => core.run::<u32>(&turn, rest, burst_rest, verdicts_rest),
                Kind::Plain6 => core.run::<u128>(&turn, rest, burst_rest, verdicts_rest),
                Kind::Begins | Kind::Other => 0,
            };
            sent += quick;
            at += quick;
            if at < all && looks[at].kind == kind {
                core.before(snap, &turn, (at, &looks[at]), burst, verdicts, out);
                let begun = core.begin(snap, &turn, (at, &looks[at]), &mut burst[at], out);
                verdicts[at] = match begun {
                    Some(verdict) => verdict,
                    None => core.slowly(snap, &turn, (at, &looks[at]), &mut burst[at], out),
                };
                at += 1;
            }
        }
        core.open_planned(snap, &turn, burst, verdicts, out);
        let sent = sent as u64;
        core.counters.received += sent;
        core.counters.forwarded += sent;
        core.counters.made += (out.len() - before) as u64;
    }
}

impl Core {
    pub(super) fn turn(&self, snap: &Snapshot, now: Mono, port: PortId) -> Turn {
        let awake = !snap.services.is_empty();
        let station = match self.host.station(port) {
            Some((Link::Ethernet, mac)) if awake && !self.defense.long_way => Some(Station::of(mac)),
            _ => None,
        };
        Turn { now, tick: Tick::of(now), port, handed: false, station, awake }
    }

    /// Looks at one frame; what is found of one that is not ordinary is kept at place `i`.
    #[inline(always)]
    fn look(&mut self, turn: &Turn, i: usize, pkt: &PacketBuf<'_>) -> Look {
        let frame = pkt.bytes();
        let whole = !matches!(pkt.offload.csum, Csum::Partial { .. }) && pkt.offload.gso.is_none();
        let sort = turn.station.filter(|_| whole).and_then(|to| plain::sort(frame, to));
        let plain = match sort {
            Some(Plain::Goes(Family::V4)) => plain::read4(frame).map(|(proto, ends, _)| {
                let hash = self.tables.v4.hash_ends(proto, ends);
                self.tables.v4.fetch_cell(hash);
                Look::new(hash, Kind::Plain4, Some(Family::V4))
            }),
            Some(Plain::Goes(Family::V6)) => plain::read6(frame).map(|(proto, ends, _)| {
                let hash = self.tables.v6.hash_ends(proto, ends);
                self.tables.v6.fetch_cell(hash);
                Look::new(hash, Kind::Plain6, Some(Family::V6))
            }),
            Some(Plain::Begins(family)) => Some(self.look_at_syn(turn, i, frame, family)),
            None => None,
        };
        match plain {
            Some(look) => look,
            None => self.look_closer(turn, i, frame),
        }
    }

    /// A frame that is ordinary but for its SYN.
    #[inline(never)]
    fn look_at_syn(&mut self, turn: &Turn, i: usize, frame: &[u8], family: Family) -> Look {
        let hash = match family {
            Family::V4 => plain::read4(frame).map(|(proto, ends, _)| self.tables.v4.hash_ends(proto, ends)),
            Family::V6 => plain::read6(frame).map(|(proto, ends, _)| self.tables.v6.hash_ends(proto, ends)),
        };
        let (Some(hash), Some(meta), Some(place)) =
            (hash, plain::meta(frame, family), self.sights.get_mut(i))
        else {
            // never the sight of an earlier burst
            return self.look_closer(turn, i, frame);
        };
        *place = Sight { found: Ok(Parsed::Ip(meta)), group: false, hash, plain: true };
        self.fetch_cell(Some(family), hash);
        Look::new(hash, Kind::Begins, Some(family))
    }

    /// Has the cell of the index brought into the cache where a search for this hash begins.
    #[inline]
    pub(super) fn fetch_cell(&self, family: Option<Family>, hash: u64) {
        match family {
            Some(Family::V4) => self.tables.v4.fetch_cell(hash),
            Some(Family::V6) => self.tables.v6.fetch_cell(hash),
            None => {}
        }
    }

    #[inline(never)]
    fn look_closer(&mut self, turn: &Turn, i: usize, frame: &[u8]) -> Look {
        let sight = self.sight(turn, frame);
        if let Some(place) = self.sights.get_mut(i) {
            *place = sight;
        }
        self.fetch_cell(sight.family(), sight.hash);
        Look::new(sight.hash, Kind::Other, sight.family())
    }

    pub(super) fn sight(&self, turn: &Turn, frame: &[u8]) -> Sight {
        let nothing = |why| Sight { found: Err(why), ..Sight::NOTHING };
        let Some(&link) = self.links.get(usize::from(turn.port.0)) else {
            return nothing(DropReason::DeviceDown);
        };
        let mut group = false;
        if link == Link::Ethernet {
            let Some(dst) = frame.first_chunk::<6>() else { return nothing(DropReason::ShortFrame) };
            match self.host.frame_to(turn.port, Mac(*dst)) {
                FrameTo::Us => {}
                FrameTo::Group => group = true,
                FrameTo::Other => return nothing(DropReason::OtherStation),
            }
        }
        let found = parse(frame, link);
        let hash = match &found {
            Ok(Parsed::Ip(meta)) if !turn.awake || !is_balanced(meta) => 0,
            Ok(Parsed::Ip(meta)) if meta.family == Family::V4 => {
                self.tables.v4.hash(&<u32 as IpFamily>::tuple(frame, meta))
            }
            Ok(Parsed::Ip(meta)) => self.tables.v6.hash(&<u128 as IpFamily>::tuple(frame, meta)),
            _ => 0,
        };
        Sight { found, group, hash, plain: false }
    }

    /// The long way of packet `i`.
    #[inline(never)]
    fn slowly(
        &mut self,
        snap: &Snapshot,
        turn: &Turn,
        (i, look): (usize, &Look),
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let sight = match self.sights.get(i) {
            Some(sight) if look.kind.is_sighted() => *sight,
            _ => self.sight(turn, pkt.bytes()),
        };
        let at = turn.arrival(sight.plain);
        let waiting = self.together.len();
        let verdict = self.packet(snap, at, &sight, pkt, out);
        self.together.nobody();
        if self.together.len() == waiting {
            self.count(verdict);
        }
        verdict
    }

    /// Has the connections of these packets brought into the cache; the cells of the index were asked for at the
    /// first look.
    #[inline]
    fn read_ahead(&mut self, looks: &mut [Look]) {
        self.read_ahead_of::<u32>(looks);
        self.read_ahead_of::<u128>(looks);
    }

    #[inline]
    fn read_ahead_of<A: IpFamily>(&mut self, looks: &mut [Look]) {
        let table = A::table(&mut self.tables);
        if table.is_empty() {
            return;
        }
        let family = Some(<A as Addr>::FAMILY);
        // what begins is of no connection yet
        for look in looks.iter_mut().filter(|look| look.family == family && look.kind != Kind::Begins) {
            look.entry = table.guess(look.hash);
            table.fetch_conn(look.entry);
        }
        // second lines are read: asking for them as well takes longer than to wait for all of them together
        if table.needs_rest() {
            let mut sum = 0;
            for look in looks.iter().filter(|look| look.family == family && look.kind != Kind::Begins) {
                sum ^= table.read_rest(look.entry);
            }
            black_box(sum);
        }
    }
}

fn is_balanced(meta: &Meta) -> bool {
    Proto::from_number(meta.proto).is_some() && !meta.is_fragment()
}
