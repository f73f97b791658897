//! New connections of a burst, opened together.
//!
//! # Theory of operation
//! The reply's key of a NAT or FULLNAT connection may lie anywhere in the index, and where is not known
//! before the server is: nothing could be read ahead, and the wait for that one cell was half of what a new
//! connection cost. So each SYN is scheduled in its turn, and the few that follow one another in a burst
//! are opened after that, all their cells read first. Reads that do not depend on one another wait
//! together.
//!
//! Servers count a connection as soon as it is scheduled, so the next one is scheduled as if it were open;
//! other packets that go the long way, and a SYN on the same tuple, wait until those before them are opened.
//! One thing is different: a connection that finds its reply tuple taken, and so goes to another server, was
//! counted at the first when those behind it in the burst were scheduled.

use std::hint::black_box;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::burst::{Kind, Look, Sight};
use super::family::IpFamily;
use super::input::Arrival;
use super::schedule::{Placement, new_conn, remote};
use super::{Core, DropReason, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::state::{Seen, State};
use crate::conn::table::flag;
use crate::host::options;
use crate::svc::{Dest, DestId, Forward, Proto, Service, Snapshot};
use crate::wire::{Family, Meta, Parsed, number, tcp};

/// As many as wait together: more reads than this a core does not have on their way at once.
const MOST: usize = 16;

/// A connection that has its server.
#[derive(Debug)]
struct Planned {
    /// Place of its packet in the burst.
    place: usize,
    /// Its server counts it as active: the SYN will have been seen.
    active: bool,
    at: Arrival,
    meta: Meta,
    dest: DestId,
    /// Place of the server in its service.
    first: usize,
    /// Taken for FULLNAT.
    local: Option<(IpAddr, u16)>,
    /// Hashes of both keys.
    hashes: [u64; 2],
}

/// What is planned, and whether the packet at hand may be.
#[derive(Debug, Default)]
pub(super) struct Together {
    planned: ArrayVec<Planned, MOST>,
    /// Place in the burst and hash of the packet at hand, where it may wait.
    now: Option<(usize, u64)>,
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
}

impl Core {
    /// Before a packet goes the long way: opens what has to be open by then.
    #[inline]
    pub(super) fn before(
        &mut self,
        snap: &Snapshot,
        (place, look): (usize, &Look),
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        let other = look.kind == Kind::Other && !self.told();
        let waits = other && self.sights.get(place).is_some_and(begins);
        let planned = &self.together.planned;
        let free = waits && !planned.is_full() && !planned.iter().any(|p| p.hashes[0] == look.hash);
        if !free {
            self.open_planned(snap, burst, verdicts, out);
        }
        self.together.now = (waits && burst.len() > 1).then_some((place, look.hash));
    }

    /// Plans the connection of the packet at hand at the server in place `first`. False: to be opened now.
    pub(super) fn plan<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        tuple: &Tuple<A>,
        service: &Service,
        first: usize,
    ) -> bool {
        let Some((place, hash)) = self.together.now.take() else { return false };
        let dest = &service.dests[first];
        if !dest.spec.forward.translates() || self.is_full(snap) {
            return false;
        }
        let Some(real) = A::from_ip(dest.spec.ip) else { return false };
        let rport = Placement::of(dest, tuple).rport;
        let local = match dest.spec.forward {
            Forward::FullNat => match self.take_local::<A>(dest, Proto::Tcp, rport) {
                Ok(local) => Some(local),
                Err(_) => return false,
            },
            _ => None,
        };
        let (to, lport) = local.unwrap_or((tuple.src, tuple.sport));
        let reply = Tuple { src: real, dst: to, sport: rport, dport: lport, proto: tuple.proto };
        let hashes = [hash, A::table(&mut self.tables).hash(&reply)];
        let begun = State::initial(Proto::Tcp);
        let state = match self.defense.attack {
            true => begun.after_tcp_attack(Seen::Input, meta.tcp_flags),
            false => begun.after_tcp(Seen::Input, meta.tcp_flags),
        };
        let active = state.active();
        dest.bind(active);
        self.together.planned.push(Planned {
            place,
            active,
            at,
            meta: *meta,
            dest: dest.id,
            first,
            local: local.map(|(ip, port)| (ip.ip(), port)),
            hashes,
        });
        true
    }

    /// Opens what is planned and sends its packets on.
    pub(super) fn open_planned(
        &mut self,
        snap: &Snapshot,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        if self.together.planned.is_empty() {
            return;
        }
        let planned = std::mem::take(&mut self.together.planned);
        let cell = |p: &Planned| match p.meta.family {
            Family::V4 => self.tables.v4.read_cell(p.hashes[1]),
            Family::V6 => self.tables.v6.read_cell(p.hashes[1]),
        };
        black_box(planned.iter().fold(0, |sum, p| sum ^ cell(p)));
        for p in planned {
            let (Some(pkt), Some(verdict)) = (burst.get_mut(p.place), verdicts.get_mut(p.place)) else {
                continue;
            };
            *verdict = match p.meta.family {
                Family::V4 => self.open_one::<u32>(snap, &p, pkt, out),
                Family::V6 => self.open_one::<u128>(snap, &p, pkt, out),
            };
            self.count(*verdict);
        }
    }

    fn open_one<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        p: &Planned,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let tuple = A::tuple(pkt.bytes(), &p.meta);
        // both were there when it was planned, and a burst has one snapshot
        let Some(dest) = snap.dest(p.dest) else { return Verdict::Drop(DropReason::DestinationGone) };
        let opened = self.open_as_planned::<A>(snap, p, &tuple, dest);
        let (slot, dest) = match opened {
            Some(slot) => (slot, &**dest),
            None => {
                dest.unbind(p.active);
                let mark = snap.mark_of(Some(Proto::Tcp), tuple.dst.ip(), tuple.dport);
                let Some(service) = snap.find(mark, Proto::Tcp, tuple.dst.ip(), tuple.dport) else {
                    return Verdict::Drop(DropReason::DestinationGone);
                };
                match self.open::<A>(snap, p.at, &tuple, service, p.first) {
                    Ok(opened) => opened,
                    Err(why) => return Verdict::Drop(why),
                }
            }
        };
        self.begun::<A>(snap, p.at, p.meta, pkt, slot, dest, out)
    }

    /// `None`: not as planned, for instance because a live connection has the reply's tuple. Nothing is
    /// taken then.
    fn open_as_planned<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        p: &Planned,
        tuple: &Tuple<A>,
        dest: &Dest,
    ) -> Option<u32> {
        let to = Placement::of(dest, tuple);
        let mut new = new_conn(snap, tuple, Proto::Tcp, to).ok()?;
        new.local = p.local.and_then(|(ip, port)| Some((A::from_ip(ip)?, port)));
        if p.active {
            new.flags &= !flag::INACTIVE;
        }
        match A::table(&mut self.tables).open_hashed(p.at.now, &new, p.hashes) {
            Ok(slot) => {
                self.counted::<A>(slot, dest);
                Some(slot)
            }
            Err(_) => {
                if let Some((ip, port)) = p.local {
                    self.free_local(remote(dest, Proto::Tcp, to.rport), ip, port);
                }
                None
            }
        }
    }
}

/// Is it a SYN that may begin a connection, whole and for a station?
fn begins(sight: &Sight) -> bool {
    let Ok(Parsed::Ip(meta)) = &sight.found else { return false };
    let flags = meta.tcp_flags & (tcp::flag::SYN | tcp::flag::ACK | tcp::flag::FIN | tcp::flag::RST);
    let plain = !meta.is_fragment() && !sight.group && !options::any(meta);
    meta.proto == number::TCP && flags == tcp::flag::SYN && plain
}
