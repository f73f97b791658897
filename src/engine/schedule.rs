//! New connections: which real server, and one entry with all its keys (kernel: `ip_vs_schedule`).

use std::net::IpAddr;
use std::sync::Arc;

use super::family::IpFamily;
use super::inbound::timeout;
use super::input::Arrival;
use super::{Core, DropReason, PortId, Taken, Verdict, ftp};
use crate::addr::Cidr;
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::state::State;
use crate::conn::table::{Conn, NewConn, OpenError, flag};
use crate::host::IcmpError;
use crate::nat::pool::Remote;
use crate::sched::{self, PickKey};
use crate::svc::snapshot::FTP;
use crate::svc::{Dest, Forward, Proto, Service, ServiceKey, Snapshot};
use crate::time::Mono;
use crate::wire::{Meta, tcp};

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement<'a> {
    pub dest: &'a Dest,
    /// Port at the real server.
    pub rport: u16,
}

impl<'a> Placement<'a> {
    /// The server's port, or the packet's own.
    pub fn of<A>(dest: &'a Dest, tuple: &Tuple<A>) -> Placement<'a> {
        Placement { dest, rport: if dest.spec.port == 0 { tuple.dport } else { dest.spec.port } }
    }
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its service")]
    pub(super) fn schedule<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        (meta, tuple): (Meta, Tuple<A>),
        pkt: &mut PacketBuf<'_>,
        service: &Arc<Service>,
        ours: bool,
        out: &mut Out,
    ) -> Verdict {
        let Some(proto) = Proto::from_number(meta.proto) else {
            return Verdict::Drop(DropReason::Protocol);
        };
        let begins = may_begin(snap, proto, &meta, pkt.bytes());
        if self.told() {
            self.tell_begin(&meta, begins);
        }
        if !begins {
            // by mark, for somebody else: the kernel has routed it to itself and can answer with no address
            if !ours {
                return Verdict::Drop(DropReason::NotSyn);
            }
            return self.host.local_in(at.now, at.port, &meta, pkt, out);
        }
        if self.defense.drops_new() {
            self.tell_defence(snap);
            return Verdict::Drop(DropReason::DropPacketDefence);
        }
        if let Some(persistence) = service.spec.persistence {
            return self.persist::<A>(snap, at, meta, pkt, service, persistence, ours, out);
        }
        let Some(first) = self.pick_own(at.now, service, &tuple) else {
            return self.no_server::<A>(snap, at, meta, pkt, service, ours, out);
        };
        if service.spec.one_packet && proto == Proto::Udp {
            let to = Placement::of(&service.dests[first], &tuple);
            return self.one_packet::<A>(snap, at, meta, pkt, to, service, out);
        }
        if self.plan::<A>(snap, &meta, &tuple, service, first) {
            // decided about when it is opened
            return Verdict::Taken(Taken::Local);
        }
        self.open_now::<A>(snap, at, (meta, tuple), pkt, service, first, out)
    }

    /// Opens the connection of a packet at the picked server, and the packet goes on.
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its service")]
    pub(super) fn open_now<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        (meta, tuple): (Meta, Tuple<A>),
        pkt: &mut PacketBuf<'_>,
        service: &Service,
        first: usize,
        out: &mut Out,
    ) -> Verdict {
        match self.open::<A>(snap, at, &tuple, service, first) {
            Ok((slot, dest)) => self.begun::<A>(snap, at, meta, pkt, slot, dest, out),
            Err(why) => Verdict::Drop(why),
        }
    }

    /// The packet that opened a connection goes on.
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its connection")]
    pub(super) fn begun<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        self.accept_input::<A>(snap, at.now, &meta, pkt.bytes(), slot, dest);
        let table = A::table(&mut self.tables);
        table.settle(slot);
        let conn = *table.get(slot);
        self.set_out::<A>(snap, at, meta, pkt, &conn, dest, out)
    }

    /// The same, counted already.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its connection")]
    pub(super) fn set_out<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        if at.plain
            && let Some(verdict) = self.launch(at.now, pkt, conn, dest)
        {
            return verdict;
        }
        self.deliver::<A>(snap, at, meta, pkt, conn, dest, out)
    }

    /// Schedules a connection of which only an error's quote is known.
    pub(super) fn schedule_quoted<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        client: &Tuple<A>,
        service: &Service,
    ) -> Result<u32, DropReason> {
        if self.defense.drops_new() {
            self.tell_defence(snap);
            return Err(DropReason::DropPacketDefence);
        }
        if let Some(persistence) = service.spec.persistence {
            return self.persist_quoted::<A>(snap, at, client, service, persistence);
        }
        let first = self.pick_own(at.now, service, client).ok_or(DropReason::NoDestination)?;
        self.open::<A>(snap, at, client, service, first).map(|(slot, _)| slot)
    }

    /// Asks the scheduler for a connection to the service's own port: without persistence the FTP service
    /// takes no other.
    fn pick_own<A: IpFamily>(&mut self, now: Mono, service: &Service, tuple: &Tuple<A>) -> Option<usize> {
        match service.spec.key {
            ServiceKey::Address { port, .. } if port != tuple.dport => None,
            _ => self.pick(now, service, tuple),
        }
    }

    /// Asks the scheduler.
    pub(super) fn pick<A: IpFamily>(
        &mut self,
        now: Mono,
        service: &Service,
        tuple: &Tuple<A>,
    ) -> Option<usize> {
        let key = PickKey {
            src: tuple.src.ip(),
            sport: tuple.sport,
            dst: tuple.dst.ip(),
            random: self.random.next(),
        };
        let kind = service.spec.scheduler;
        if sched::goes_by_counts(kind) && !service.is_gentle() && !self.told() {
            return sched::pick_by_counts(kind, &service.dests, &key);
        }
        let mut scheduler = service.scheduler.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = self.told().then(|| scheduler.clone());
        let picked = if service.is_gentle() {
            service.earn();
            let picked = scheduler.pick(now, &service.dests, &key).or_else(|| {
                service.lift();
                scheduler.pick(now, &service.dests, &key)
            });
            picked.inspect(|index| service.spend(*index))
        } else {
            scheduler.pick(now, &service.dests, &key)
        };
        if let Some(before) = before {
            self.tell_pick(now, service, &key, before, picked);
        }
        picked
    }

    /// No server takes the connection (kernel: `ip_vs_leave`).
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its service")]
    pub(super) fn no_server<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        service: &Service,
        ours: bool,
        out: &mut Out,
    ) -> Verdict {
        if !ours && matches!(service.spec.key, ServiceKey::Mark { .. }) {
            return self.nobody::<A>(snap, at, meta, pkt, service, out);
        }
        // the FTP service takes what may be its data connections, and leaves what is not to others
        if service.spec.key.port() == FTP && meta.dport != FTP {
            if !ours {
                return self.route_on::<A>(snap, at, meta, pkt, out);
            }
            return self.host.local_in(at.now, at.port, &meta, pkt, out);
        }
        // never a reset: the server may be back when the client tries again (IPVS-RULES 86)
        let dst = meta.dst(pkt.bytes());
        let kind = IcmpError::PortUnreachable;
        self.host.error(at.now, kind, at.port, pkt.bytes(), &meta, Some(dst), out);
        Verdict::Drop(DropReason::NoDestination)
    }

    /// Opens the connection at the picked server. Where a live connection already has the reply tuple
    /// (one client port to two services on one real server), the next usable servers are tried, so that
    /// no two flows can ever be taken for one another.
    pub(super) fn open<'s, A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        tuple: &Tuple<A>,
        service: &'s Service,
        first: usize,
    ) -> Result<(u32, &'s Dest), DropReason> {
        if self.is_full(snap) {
            return Err(DropReason::TableFull);
        }
        let mut why = DropReason::ReplyTupleTaken;
        for n in 0..service.dests.len() {
            let dest = &service.dests[(first + n) % service.dests.len()];
            if n > 0 && !dest.usable() {
                continue;
            }
            let opened = self.open_at::<A>(snap, at, tuple, Placement::of(dest, tuple));
            if self.told() {
                self.tell_open(tuple, Placement::of(dest, tuple), &opened);
            }
            match opened {
                Ok(slot) => {
                    self.opened::<A>(slot, dest);
                    return Ok((slot, dest));
                }
                Err(DropReason::ReplyTupleTaken) => {}
                Err(other) if n == 0 => return Err(other),
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    /// A connection was opened: binds it to its server and counts it.
    pub(super) fn opened<A: IpFamily>(&mut self, slot: u32, dest: &Dest) {
        dest.bind(false);
        self.counted::<A>(slot, dest);
    }

    /// The same where the server counts it as its own already.
    pub(super) fn counted<A: IpFamily>(&mut self, slot: u32, dest: &Dest) {
        self.count_opened::<A>(slot);
        dest.stats.connection(self.worker);
        dest.service_stats.connection(self.worker);
    }

    pub(super) fn open_at<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        tuple: &Tuple<A>,
        to: Placement<'_>,
    ) -> Result<u32, DropReason> {
        let dest = to.dest;
        let proto = Proto::from_number(tuple.proto).ok_or(DropReason::Protocol)?;
        let mut new = new_conn(snap, tuple, proto, to)?;
        for _ in 0..4 {
            if dest.spec.forward == Forward::FullNat {
                let rport = new.real.1;
                let local = match self.take_local::<A>(dest, proto, rport) {
                    Err(DropReason::LocalPortsExhausted) if self.reclaim::<A>(snap, dest, proto, rport) => {
                        self.take_local::<A>(dest, proto, rport)
                    }
                    other => other,
                };
                new.local = Some(local?);
            }
            let opened = A::table(&mut self.tables).open(at.now, &new);
            let error = match opened {
                Ok(slot) => return Ok(slot),
                Err(error) => error,
            };
            if let Some((lip, lport)) = new.local {
                self.free_local(remote(dest, proto, new.real.1), lip.ip(), lport);
            }
            match error {
                OpenError::Full => return Err(DropReason::TableFull),
                OpenError::Crowded => return Err(DropReason::TableCrowded),
                OpenError::ClientKeyTaken => return Err(DropReason::ReplyTupleTaken),
                OpenError::RealKeyTaken if !self.evict_finished::<A>(snap, &new) => {
                    if new.local.is_none() {
                        return Err(DropReason::ReplyTupleTaken);
                    }
                }
                OpenError::RealKeyTaken => {}
            }
        }
        Err(DropReason::ReplyTupleTaken)
    }

    /// A finished connection must not keep a new one from its tuple.
    fn evict_finished<A: IpFamily>(&mut self, snap: &Snapshot, new: &NewConn<A>) -> bool {
        let reply = Tuple {
            src: new.real.0,
            sport: new.real.1,
            dst: new.local.map_or(new.client.src, |l| l.0),
            dport: new.local.map_or(new.client.sport, |l| l.1),
            proto: new.client.proto,
        };
        let done = self.end_finished::<A>(snap, &reply);
        self.counters.made_room += u64::from(done);
        done
    }

    /// Where every local port is taken towards a real server, finished connections are the first to go: they
    /// are remembered for two minutes, in which a busy service would need more ports than there are. The server
    /// takes a SYN for a tuple that it remembers itself (RFC 9293, 3.6.1; RFC 6191), at the latest when the
    /// client asks again.
    #[cold]
    fn reclaim<A: IpFamily>(&mut self, snap: &Snapshot, dest: &Dest, proto: Proto, rport: u16) -> bool {
        let Ok((port, near)) = self.way_of_locals(dest) else { return false };
        let Some(real) = A::from_ip(dest.spec.ip) else { return false };
        let pool = self.pools.get_mut(usize::from(port.0));
        let Some((lip, ports)) = pool.and_then(|pool| pool.oldest(remote(dest, proto, rport), near)) else {
            return false;
        };
        let Some(lip) = A::from_ip(lip) else { return false };
        let ended = ports.iter().any(|lport| {
            let reply = Tuple { src: real, sport: rport, dst: lip, dport: *lport, proto: proto.number() };
            self.end_finished::<A>(snap, &reply)
        });
        self.counters.reclaimed += u64::from(ended);
        ended
    }

    /// Ends the connection with this reply tuple if nothing is left of it but its memory.
    fn end_finished<A: IpFamily>(&mut self, snap: &Snapshot, reply: &Tuple<A>) -> bool {
        let table = A::table(&mut self.tables);
        let Some((slot, _)) = table.lookup(reply) else { return false };
        let done = matches!(
            table.get(slot).state,
            State::TcpTimeWait | State::TcpClose | State::TcpLastAck | State::SctpClosed
        );
        if done {
            self.close::<A>(snap, slot);
        }
        done
    }

    /// The port towards a real server, and the network that local addresses there have to be of.
    fn way_of_locals(&self, dest: &Dest) -> Result<(PortId, Option<Cidr>), DropReason> {
        let (port, next_hop) = match self.ways.route(dest.id) {
            Some(known) => known,
            None => self.host.route(dest.spec.ip).map(|r| (r.port, r.next_hop)).ok_or(DropReason::NoRoute)?,
        };
        Ok((port, self.host.network_of_locals(port, next_hop)))
    }

    pub(super) fn take_local<A: IpFamily>(
        &mut self,
        dest: &Dest,
        proto: Proto,
        rport: u16,
    ) -> Result<(A, u16), DropReason> {
        let (port, near) = self.way_of_locals(dest)?;
        let random = self.random.next();
        let pool = self.pools.get_mut(usize::from(port.0)).ok_or(DropReason::NoLocalAddress)?;
        let got = pool.alloc_near(remote(dest, proto, rport), random, near);
        match got.and_then(|(ip, port)| Some((A::from_ip(ip)?, port))) {
            Some(local) => Ok(local),
            None if pool.serves(A::V6) => Err(DropReason::LocalPortsExhausted),
            None => Err(DropReason::NoLocalAddress),
        }
    }
    pub(super) fn free_local(&mut self, remote: Remote, lip: IpAddr, lport: u16) {
        // the route to a real server may have moved to another port meanwhile
        let _ = self.pools.iter_mut().any(|pool| pool.free(remote, lip, lport));
    }
    /// Gives back the local tuple of a connection that ended.
    pub(super) fn give_back<A: IpFamily>(&mut self, conn: &Conn<A>) {
        if let Some(proto) = Proto::from_number(conn.proto) {
            let remote = Remote { proto, ip: conn.real.ip(), port: conn.rport };
            self.free_local(remote, conn.local.ip(), conn.lport);
        }
    }

    /// One-packet scheduling: every datagram is scheduled on its own and leaves no connection
    /// (IPVS-RULES 58).
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and where it goes")]
    pub(super) fn one_packet<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        to: Placement<'_>,
        service: &Service,
        out: &mut Out,
    ) -> Verdict {
        let dest = to.dest;
        let tuple = A::tuple(pkt.bytes(), &meta);
        let new = match new_conn(snap, &tuple, Proto::Udp, to) {
            // without a connection there is nothing a reply could be translated back by
            Ok(_) if dest.spec.forward == Forward::FullNat => {
                return Verdict::Drop(DropReason::CannotForward);
            }
            Ok(new) => new,
            Err(why) => return Verdict::Drop(why),
        };
        dest.stats.connection(self.worker);
        service.stats.connection(self.worker);
        let bytes = meta.ip_len() as u64;
        dest.count_input(self.worker, bytes);
        self.deliver::<A>(snap, at, meta, pkt, &Conn::passing(&new), dest, out)
    }
}

pub(super) fn remote(dest: &Dest, proto: Proto, port: u16) -> Remote {
    Remote { proto, ip: dest.spec.ip, port }
}

/// May this packet begin a connection (IPVS-RULES 16 and 80)?
fn may_begin(snap: &Snapshot, proto: Proto, meta: &Meta, frame: &[u8]) -> bool {
    match proto {
        Proto::Udp => true,
        Proto::Tcp => {
            let reset = meta.tcp_flags & tcp::flag::RST != 0;
            !reset && (snap.sysctl.sloppy_tcp || meta.tcp_flags & tcp::flag::SYN != 0)
        }
        Proto::Sctp => match frame.get(meta.l4 as usize + 12) {
            Some(1) => true,
            Some(6) | None => false,
            Some(_) => snap.sysctl.sloppy_sctp,
        },
    }
}

/// The connection for a packet at a real server.
pub(super) fn new_conn<A: IpFamily>(
    snap: &Snapshot,
    tuple: &Tuple<A>,
    proto: Proto,
    to: Placement<'_>,
) -> Result<NewConn<A>, DropReason> {
    let Placement { dest, rport } = to;
    let (real, flags) = match dest.spec.forward {
        Forward::Nat | Forward::FullNat => {
            (A::from_ip(dest.spec.ip).ok_or(DropReason::CannotForward)?, flag::TWO_KEYS)
        }
        Forward::Dr => (A::from_ip(dest.spec.ip).ok_or(DropReason::CannotForward)?, flag::NO_OUTPUT),
        Forward::Tun(_) => (A::from_ip(dest.spec.ip).unwrap_or_default(), flag::TUNNEL | flag::NO_OUTPUT),
    };
    let state = State::initial(proto);
    // the kernel takes client port 0 for one that is not known yet, and never finds the connection
    let unseen = if tuple.sport == 0 { flag::HIDDEN } else { 0 };
    Ok(NewConn {
        client: *tuple,
        real: (real, rport),
        local: None,
        flags: flags | flag::BOUND | flag::INACTIVE | unseen | ftp::marks(snap, tuple, flags),
        dest: dest.id,
        state,
        timeout: timeout(snap, dest, state),
    })
}
