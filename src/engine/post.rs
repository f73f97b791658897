//! An engine as one of several: what it gives to others, what others are told of its connections.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use super::family::IpFamily;
use super::input::Arrival;
use super::steer::{Crew, Outline, Owner, Steering};
use super::{Core, DropReason, Engine, PortId, Taken, Verdict};
use crate::buf::{Out, OwnedPacket, PacketBuf};
use crate::conn::table::{Conn, flag};
use crate::svc::{Snapshot, WorkerId};
use crate::time::Mono;
use crate::wire::{Meta, Parsed};

/// The worker that answers for the host: ARP, neighbour discovery, announcements, shared timers.
pub const HOST: WorkerId = WorkerId(0);

/// Who is to get a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Its owner, by [`Engine::on_whole`].
    Worker(WorkerId),
    /// Everybody but [`HOST`], the sender included, by [`Engine::on_heard`].
    Listeners,
}

/// A packet that the engine made or copied for other workers.
#[derive(Debug)]
pub struct Handing {
    /// Who is to get it.
    pub to: Recipient,
    /// The port it came in on.
    pub port: PortId,
    /// IP length of its largest fragment; 0 for a packet that came whole.
    pub largest: u16,
    /// The packet; to be given back with [`Out::recycle`].
    pub packet: OwnedPacket,
}

/// An engine's place in the crew.
#[derive(Debug)]
pub(super) struct Post {
    crew: Arc<Crew>,
    me: WorkerId,
    steering: Steering,
    handing: VecDeque<Handing>,
    /// Devices were not told yet how to steer by this configuration.
    untold: bool,
}

impl Post {
    pub fn new(crew: Arc<Crew>, me: WorkerId) -> Post {
        Post { me, steering: Steering::new(&crew), crew, handing: VecDeque::new(), untold: false }
    }
    pub fn crew(&self) -> &Crew {
        &self.crew
    }
    /// Steers by another configuration from now on.
    pub fn configure(&mut self, snap: &Snapshot) {
        self.steering.learn(snap);
        self.untold = self.me == HOST;
    }
    /// The way to a real server takes no more than `mtu` bytes: the other workers' packets too.
    pub fn tell_path(&self, now: Mono, real: IpAddr, mtu: u32) {
        self.crew.paths.tell(now, real, mtu);
    }
}

impl Engine {
    /// Takes over what other workers have learnt, before a burst.
    #[inline]
    pub fn catch_up(&mut self, now: Mono) {
        if let Some(post) = &self.core.post {
            self.core.path_mtus.hear(now, &post.crew.paths);
        }
    }
    /// What is to be given to other workers; to be drained after every call that takes an [`Out`].
    pub fn poll_handing(&mut self) -> Option<Handing> {
        self.core.post.as_mut()?.handing.pop_front()
    }
    /// What devices that can steer are to go by, once after each change; only from the first worker.
    pub fn poll_outline(&mut self) -> Option<Outline> {
        let post = self.core.post.as_mut()?;
        std::mem::take(&mut post.untold).then(|| Outline::new(&post.crew, &self.snap))
    }
    /// The worker that decides about a frame that comes in on `port`: us, where it makes no difference. Of
    /// several workers only the owner can explain a packet.
    pub fn owner(&self, port: PortId, frame: &[u8]) -> WorkerId {
        let core = &self.core;
        let look = core.sight(&core.turn(&self.snap, core.now, port), frame);
        let (Some(post), Ok(Parsed::Ip(meta))) = (&self.core.post, look.found) else {
            return self.core.worker;
        };
        match post.steering.of_packet(&post.crew, frame, &meta) {
            Owner::Worker(owner) => owner,
            Owner::Everyone => HOST,
            Owner::Anyone => post.me,
        }
    }
    /// A datagram that another worker put together from fragments, the largest of which had `largest` bytes.
    pub fn on_whole(
        &mut self,
        now: Mono,
        port: PortId,
        largest: u16,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let verdict = self.one(Arrival { now, port, largest, handed: true, plain: false }, pkt, out);
        // a datagram that came in fragments counts as one that was split, wherever it was put together
        let counted = if let Verdict::Send(_) = verdict { Verdict::Taken(Taken::Split) } else { verdict };
        self.core.count(counted);
        verdict
    }
    /// A packet that [`HOST`] answers and all others learn from: it is not counted.
    pub fn on_heard(&mut self, now: Mono, port: PortId, pkt: &mut PacketBuf<'_>, out: &mut Out) {
        let _ = self.one(Arrival { now, port, largest: 0, handed: true, plain: false }, pkt, out);
    }
    /// Packets for another worker that it had no room for.
    pub fn handover_full(&mut self, packets: u64) {
        self.core.counters.received += packets;
        self.device_drop(DropReason::HandoverFull, packets);
    }
    fn one(&mut self, at: Arrival, pkt: &mut PacketBuf<'_>, out: &mut Out) -> Verdict {
        let Engine { snap, core, .. } = self;
        core.now = at.now;
        let before = out.len();
        let look = core.sight(&core.turn(snap, at.now, at.port), pkt.bytes());
        let verdict = core.packet(snap, at, &look, pkt, out);
        core.counters.made += (out.len() - before) as u64;
        verdict
    }
}

impl Core {
    /// Whose is a packet of no connection in our table? Nothing if it is ours.
    #[inline]
    pub(super) fn steered(
        &mut self,
        at: Arrival,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Option<Verdict> {
        if self.post.is_none() || at.handed { None } else { self.steer(at, meta, pkt, out) }
    }

    #[cold]
    fn steer(&mut self, at: Arrival, meta: &Meta, pkt: &PacketBuf<'_>, out: &mut Out) -> Option<Verdict> {
        let post = self.post.as_ref()?;
        match post.steering.of_packet(&post.crew, pkt.bytes(), meta) {
            Owner::Anyone => None,
            Owner::Worker(owner) => (owner != post.me).then_some(Verdict::HandTo(owner)),
            Owner::Everyone => self.spread(at, pkt, out),
        }
    }

    /// Gives a packet that says where a neighbour is to everybody.
    #[cold]
    pub(super) fn spread(&mut self, at: Arrival, pkt: &PacketBuf<'_>, out: &mut Out) -> Option<Verdict> {
        let me = self.post.as_ref().filter(|_| !at.handed)?.me;
        let copy = out.copy_of(pkt.bytes(), pkt.offload);
        self.hand(Recipient::Listeners, at, copy);
        (me != HOST).then_some(Verdict::HandTo(HOST))
    }

    pub(super) fn hand(&mut self, to: Recipient, at: Arrival, packet: OwnedPacket) {
        if let Some(post) = &mut self.post {
            post.handing.push_back(Handing { to, port: at.port, largest: at.largest, packet });
        }
    }

    /// Live connections of all workers.
    pub(super) fn live(&self) -> usize {
        self.post.as_ref().map_or_else(|| self.tables.len(), |post| post.crew.live())
    }

    /// A connection was opened: counts it, and tells the others if they would look for it elsewhere.
    #[inline]
    pub(super) fn count_opened<A: IpFamily>(&mut self, slot: u32) {
        self.counters.opened += 1;
        if let Some(post) = &self.post {
            post.crew.opened();
            self.publish_keys::<A>(slot);
        }
    }

    /// Tells the other workers of those keys of a connection that are steered elsewhere.
    pub(super) fn publish_keys<A: IpFamily>(&mut self, slot: u32) {
        let Some(post) = &self.post else { return };
        let conn = A::table(&mut self.tables).get_mut(slot);
        for key in keys(conn) {
            if post.steering.of_tuple(&post.crew, &key).is_some_and(|owner| owner != post.me) {
                post.crew.tell(&key, post.me);
                conn.flags |= flag::FOREIGN;
            }
        }
    }

    /// Takes back what was told of a connection.
    #[cold]
    pub(super) fn withdraw_keys<A: IpFamily>(&mut self, conn: &Conn<A>) {
        if let Some(post) = &self.post {
            keys(conn).for_each(|key| post.crew.untell(&key, post.me));
        }
    }
}

fn keys<A: IpFamily>(conn: &Conn<A>) -> impl Iterator<Item = crate::conn::key::Tuple<A>> + use<A> {
    [Some(conn.client_key()), conn.two_keys().then(|| conn.real_key())].into_iter().flatten()
}
