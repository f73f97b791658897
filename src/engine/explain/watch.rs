//! Explanations of what passes: packets that match a filter are explained just before they are decided
//! about. Nothing of it costs a director anything that nobody watches: one test a burst.

use std::net::IpAddr;

use super::super::{DropReason, Engine, PortId, Verdict};
use super::{Explanation, link_of};
use crate::addr::Cidr;
use crate::buf::{Out, PacketBuf};
use crate::time::Mono;
use crate::wire::{Parsed, parse};

/// Explanations that wait to be fetched; what comes while there are so many is counted only.
const WAITING: usize = 256;
/// Explanations in one burst: packets wait for them.
const IN_A_BURST: usize = 4;

/// Which end of a packet a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// One of them.
    Either,
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// A protocol, by number; ICMP stands for both.
    Proto(u8),
    /// An address or network.
    Net(Side, Cidr),
    /// A port.
    Port(Side, u16),
    /// It came in on this port of the director.
    On(PortId),
    /// It is dropped.
    Dropped,
    /// It is dropped for this reason.
    DroppedFor(DropReason),
}

/// Packets wanted: those that meet all conditions, as many as are left, until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// All of these.
    pub terms: Vec<Term>,
    /// How many more are wanted.
    pub left: u32,
    /// Who does not ask again by then is gone.
    pub until: Mono,
}

/// A packet that was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Port it came in on.
    pub port: PortId,
    /// When.
    pub at: Mono,
    /// The frame as it came.
    pub frame: Vec<u8>,
    /// What became of it, and why.
    pub told: Explanation,
}

/// What an engine that is watched has gathered.
#[derive(Debug, Default)]
pub(in crate::engine) struct Gathered {
    watch: Option<Watch>,
    seen: Vec<Watched>,
    missed: u64,
}

impl Engine {
    /// Watches from now on, in place of what was watched before.
    pub fn watch(&mut self, watch: Watch) {
        let gathered = self.watched.get_or_insert_default();
        gathered.watch = Some(watch);
    }

    /// What was gathered since the last call, and how many more there would have been. Watching goes on
    /// until `until`; it ends when nothing more is wanted.
    pub fn take_watched(&mut self, until: Mono) -> (Vec<Watched>, u64) {
        let Some(gathered) = &mut self.watched else { return Default::default() };
        let (seen, missed) = (std::mem::take(&mut gathered.seen), std::mem::take(&mut gathered.missed));
        match &mut gathered.watch {
            Some(watch) => watch.until = until,
            None => self.watched = None,
        }
        (seen, missed)
    }

    /// Does somebody watch?
    pub fn is_watched(&self, now: Mono) -> bool {
        let watch = self.watched.as_ref().and_then(|g| g.watch.as_ref());
        watch.is_some_and(|w| now <= w.until)
    }

    /// Nobody watches any more.
    pub fn unwatch(&mut self) {
        self.watched = None;
    }

    /// A burst, packet by packet, with explanations of those that are watched.
    #[cold]
    pub(in crate::engine) fn watched_burst(
        &mut self,
        now: Mono,
        port: PortId,
        handed: bool,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        let mut room = IN_A_BURST;
        for (pkt, verdict) in burst.iter_mut().zip(verdicts) {
            let wanted = self.watched.as_ref().and_then(|g| g.watch.as_ref()).is_some_and(|w| {
                w.left > 0 && now <= w.until && w.terms.iter().all(|t| self.meets(t, port, pkt.bytes()))
            });
            let told = match wanted && room > 0 && self.has_room() {
                true => self.explain(now, port, pkt.bytes(), pkt.offload).ok(),
                false => None,
            };
            let frame = told.as_ref().map(|_| pkt.bytes().to_vec());
            self.wave(now, port, handed, std::slice::from_mut(pkt), std::slice::from_mut(verdict), out);
            if matches!(verdict, Verdict::HandTo(_)) {
                // its owner sees it too, and knows better
                continue;
            }
            let Some(gathered) = self.watched.as_mut().filter(|_| wanted) else { continue };
            let Some(watch) = gathered.watch.as_mut().filter(|w| w.terms.iter().all(|t| t.allows(*verdict)))
            else {
                room -= usize::from(told.is_some());
                continue;
            };
            match told.zip(frame) {
                Some((told, frame)) => {
                    room -= 1;
                    watch.left -= 1;
                    gathered.seen.push(Watched { port, at: now, frame, told });
                }
                None => gathered.missed += 1,
            }
        }
        self.end_watch(now);
    }

    fn has_room(&self) -> bool {
        self.watched.as_ref().is_some_and(|g| g.seen.len() < WAITING)
    }

    fn end_watch(&mut self, now: Mono) {
        let Some(gathered) = &mut self.watched else { return };
        let Some(watch) = &gathered.watch else { return };
        if now > watch.until {
            self.watched = None;
        } else if watch.left == 0 {
            gathered.watch = None;
        }
    }

    fn meets(&self, term: &Term, port: PortId, frame: &[u8]) -> bool {
        let meta = match parse(frame, link_of(self, port)) {
            Ok(Parsed::Ip(meta)) => Some(meta),
            _ => None,
        };
        let either = |side: Side, is: &dyn Fn(bool) -> bool| match side {
            Side::Either => is(true) || is(false),
            Side::Source => is(true),
            Side::Destination => is(false),
        };
        match (*term, meta) {
            (Term::On(on), _) => on == port,
            (Term::Dropped | Term::DroppedFor(_), _) => true,
            (_, None) => false,
            (Term::Proto(1), Some(m)) => matches!(m.proto, 1 | 58),
            (Term::Proto(proto), Some(m)) => m.proto == proto,
            (Term::Port(side, wanted), Some(m)) => {
                either(side, &|source| wanted == if source { m.sport } else { m.dport })
            }
            (Term::Net(side, net), Some(m)) => {
                let ip = |source| -> IpAddr { if source { m.src(frame) } else { m.dst(frame) } };
                either(side, &|source| net.contains(ip(source)))
            }
        }
    }
}

impl Term {
    /// The condition as far as it is about what became of the packet.
    fn allows(&self, verdict: Verdict) -> bool {
        match self {
            Term::Dropped => matches!(verdict, Verdict::Drop(_)),
            Term::DroppedFor(why) => verdict == Verdict::Drop(*why),
            _ => true,
        }
    }
}
