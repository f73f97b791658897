//! The FTP helper (IPVS-RULES 71; kernel: `ip_vs_ftp`): data connections of FTP through NAT and FULLNAT.
//!
//! # Theory of operation
//! Control connections are marked when they open ([`marks`]); every other connection costs one test of a
//! flag. Once a client asks for a data connection its control connection gets a [`Control`] in a table
//! beside the connections. What is agreed on becomes a connection in state LISTEN, bound to the same real
//! server and counted there, but not as one that was scheduled:
//! - *passive*: client (port 0, not known yet) to VIP:port; the first SYN to there fills in the port. The
//!   port is the server's own unless another expectation of the client or another service has it.
//! - *active*: what the client named to VIP:20, towards the server's port beside its control port. With
//!   FULLNAT the server is told a local address in place of the client's.
//!
//! A control connection outlives its data connections: while there are any it does not expire.
//!
//! Beyond the kernel: a reply or command that is sent again is rewritten again (the kernel lets the
//! repetition through as it was, and the stream tears); ports of 227 and 229 that collide are moved; a SYN
//! has to begin the data connection; a server that names an address other than its own or the VIP is left
//! alone, because nothing could be sent there.

mod part;

use std::collections::HashMap;
use std::net::IpAddr;

use super::family::IpFamily;
use super::{Core, DropReason};
use crate::buf::PacketBuf;
use crate::conn::key::Tuple;
use crate::conn::state::State;
use crate::conn::table::{Conn, ConnId, NewConn, OpenError, Side, Table, flag};
use crate::host::FtpHelper;
use crate::nat::ftp::{self, Command, Passive, Place, Shift};
use crate::nat::pool::Remote;
use crate::svc::snapshot::FTP;
use crate::svc::{Dest, Proto, ServiceKey, Snapshot};
use crate::time::{Mono, Span};
use crate::wire::{Meta, number, tcp};

/// A control connection that is due waits this long for its data connections (kernel: 60 s).
const CONTROL_WAITS: Span = Span::from_secs(60);
/// Ports tried for a passive data connection.
const PORTS_TRIED: u16 = 16;
/// Local ports tried for a data connection.
const LOCAL_PORTS_TRIED: u32 = 64;

/// A connection of either family.
pub(super) type Key = (bool, ConnId);

/// A text that was rewritten, in case it is sent again.
#[derive(Clone, Debug)]
struct Told {
    seq: u32,
    passive: Option<Passive>,
    was: (Option<IpAddr>, u16),
    now: (IpAddr, u16),
}

/// What is remembered of a control connection.
#[derive(Clone, Debug, Default)]
struct Control {
    /// The client waits for this reply.
    wants: Option<Passive>,
    from_client: Shift,
    from_real: Shift,
    /// Last text of the client and of the real server that was rewritten.
    client_told: Option<Told>,
    real_told: Option<Told>,
    /// Live data connections.
    children: u32,
}

/// The helper's memory: bounded by the connections, because each has at most one entry.
#[derive(Debug, Default)]
pub(super) struct Ftp {
    controls: HashMap<Key, Control>,
    /// Control connections by data connection.
    parents: HashMap<Key, Key>,
    /// Live connections whose client port is not known yet.
    awaited: usize,
}

impl Ftp {
    /// Is there a connection whose client's port is not known yet?
    #[inline]
    pub fn awaits(&self) -> bool {
        self.awaited != 0
    }
}

/// Flags of a connection that the helper looks after.
#[inline]
pub(super) fn marks<A: IpFamily>(snap: &Snapshot, tuple: &Tuple<A>, flags: u16) -> u16 {
    let is = tuple.dport == FTP
        && tuple.proto == number::TCP
        && flags & flag::TWO_KEYS != 0
        && snap.net.ftp == FtpHelper::On;
    if is { flag::HELPED } else { 0 }
}

impl Core {
    /// A packet of a client on a control connection, before it is rewritten.
    #[cold]
    pub(super) fn ftp_in<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        dest: &Dest,
    ) -> Result<Meta, DropReason> {
        let table = A::table(&mut self.tables);
        let (key, conn) = ((A::V6, table.id(slot)), *table.get(slot));
        let Some(seq) = ftp::sequence(pkt.bytes(), &meta) else { return Ok(meta) };
        let said = ftp::command(ftp::payload(pkt.bytes(), &meta), A::V6);
        if conn.state == State::TcpEstablished
            && let Some(said) = said
            && ftp::is_intact(pkt, &meta)
        {
            match said {
                Command::Passive(kind) => {
                    self.ftp.controls.entry(key).or_default().wants = Some(kind);
                }
                Command::Active(place) => {
                    self.ftp.controls.entry(key).or_default().wants = None;
                    meta = self.active::<A>(snap, now, meta, pkt, (key, &conn), seq, &place, dest)?;
                }
            }
        }
        if let Some(control) = self.ftp.controls.get(&key) {
            shift(pkt, &meta, &control.from_client, &control.from_real);
        }
        Ok(meta)
    }

    /// A packet of the real server on a control connection, before it is rewritten.
    #[cold]
    pub(super) fn ftp_out<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        dest: &Dest,
    ) -> Result<Meta, DropReason> {
        let table = A::table(&mut self.tables);
        let (key, conn) = ((A::V6, table.id(slot)), *table.get(slot));
        let Some(seq) = ftp::sequence(pkt.bytes(), &meta) else { return Ok(meta) };
        let Some(control) = self.ftp.controls.get(&key) else { return Ok(meta) };
        let again = control.real_told.as_ref().filter(|t| t.seq == seq);
        let kind = again.map_or(control.wants, |t| t.passive);
        let said = kind.and_then(|kind| ftp::reply(ftp::payload(pkt.bytes(), &meta), kind, A::V6));
        let own = |ip: Option<IpAddr>| {
            ip.is_none_or(|ip| ip == conn.real.ip() || ip == conn.virt.ip() || ip.is_unspecified())
        };
        if let (Some(kind), Some(place)) = (kind, said)
            && own(place.ip)
            && ftp::is_intact(pkt, &meta)
        {
            let was = (place.ip, place.port);
            let again = again.filter(|t| t.was == was).map(|t| t.now);
            if again.is_some() || conn.state == State::TcpEstablished && control.from_real.allows(seq) {
                let end = match again {
                    Some(end) => Some(end),
                    None => {
                        let port = passable(self.passive::<A>(snap, now, key, &conn, place.port, dest))?;
                        port.map(|port| (conn.virt.ip(), port))
                    }
                };
                let text = end.map(|(ip, port)| ftp::text(&place, ip, port));
                if let (Some(end), Some(text)) = (end, text)
                    && let Some(longer) = ftp::splice(pkt, &meta, &place.at, text.as_bytes())
                {
                    meta = longer;
                    if let Some(control) = self.ftp.controls.get_mut(&key).filter(|_| again.is_none()) {
                        control.from_real.add(seq, text.len() as i32 - place.at.len() as i32);
                        control.real_told = Some(Told { seq, passive: Some(kind), was, now: end });
                        control.wants = None;
                    }
                }
            }
        }
        if let Some(control) = self.ftp.controls.get(&key) {
            shift(pkt, &meta, &control.from_real, &control.from_client);
        }
        Ok(meta)
    }

    /// The server will listen on `port`: expects the client at the VIP. Gives the port it is told.
    fn passive<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        parent: Key,
        conn: &Conn<A>,
        port: u16,
        dest: &Dest,
    ) -> Result<u16, DropReason> {
        for vport in (0..PORTS_TRIED).filter_map(|n| port.checked_add(n)) {
            let client =
                Tuple { src: conn.client, dst: conn.virt, sport: 0, dport: vport, proto: number::TCP };
            let table = A::table(&mut self.tables);
            if let Some((slot, _)) = table.lookup(&client) {
                let old = table.get(slot);
                if (old.real, old.rport) == (conn.real, port) {
                    table.touch(slot, now, snap.timeouts.of(State::TcpListen));
                    return Ok(vport);
                }
                continue;
            }
            let own = ServiceKey::Address { proto: Proto::Tcp, ip: conn.virt.ip(), port: vport };
            if snap.service(&own).is_some() {
                continue;
            }
            let flags = flag::AWAITED;
            self.expect::<A>(snap, now, parent, client, (conn.real, port), flags, dest)?;
            return Ok(vport);
        }
        Err(DropReason::ReplyTupleTaken)
    }

    /// The client will listen at `place`: expects the real server, and tells it where with FULLNAT.
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and what it says")]
    fn active<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        (parent, conn): (Key, &Conn<A>),
        seq: u32,
        place: &Place,
        dest: &Dest,
    ) -> Result<Meta, DropReason> {
        let Some(ip) = place.ip.and_then(A::from_ip) else { return Ok(meta) };
        let fullnat = conn.flags & flag::FULLNAT != 0;
        let was = (place.ip, place.port);
        let control = self.ftp.controls.get(&parent);
        let told = control.and_then(|c| c.client_told.as_ref()).filter(|t| t.seq == seq && t.was == was);
        if let Some(end) = told.map(|t| t.now) {
            let text = ftp::text(place, end.0, end.1);
            return Ok(ftp::splice(pkt, &meta, &place.at, text.as_bytes()).unwrap_or(meta));
        }
        if fullnat && (pkt.offload.gso.is_some() || !control.is_some_and(|c| c.from_client.allows(seq))) {
            return Ok(meta);
        }
        let (vport, rport) = (conn.vport.wrapping_sub(1), conn.rport.wrapping_sub(1));
        let client = Tuple { src: ip, dst: conn.virt, sport: place.port, dport: vport, proto: number::TCP };
        let table = A::table(&mut self.tables);
        let known = table.lookup(&client).filter(|(slot, side)| {
            let old = table.get(*slot);
            *side == Side::Client && (old.real, old.rport) == (conn.real, rport) && old.dest == conn.dest
        });
        let slot = match known {
            Some((slot, _)) => {
                // a finished one begins again, one at work goes on
                if table.get(slot).state != State::TcpEstablished {
                    table.get_mut(slot).state = State::TcpListen;
                    table.touch(slot, now, snap.timeouts.of(State::TcpListen));
                }
                slot
            }
            None => {
                let opened = self.expect::<A>(snap, now, parent, client, (conn.real, rport), 0, dest);
                let Some(slot) = passable(opened)? else { return Ok(meta) };
                slot
            }
        };
        if !fullnat {
            return Ok(meta);
        }
        let data = *A::table(&mut self.tables).get(slot);
        let end = (data.local.ip(), data.lport);
        let text = ftp::text(place, end.0, end.1);
        let Some(longer) = ftp::splice(pkt, &meta, &place.at, text.as_bytes()) else { return Ok(meta) };
        if let Some(control) = self.ftp.controls.get_mut(&parent) {
            control.from_client.add(seq, text.len() as i32 - place.at.len() as i32);
            control.client_told = Some(Told { seq, passive: None, was, now: end });
        }
        Ok(longer)
    }

    /// Opens a data connection in state LISTEN.
    #[expect(clippy::too_many_arguments, reason = "the facts of a connection")]
    fn expect<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        parent: Key,
        client: Tuple<A>,
        real: (A, u16),
        flags: u16,
        dest: &Dest,
    ) -> Result<u32, DropReason> {
        if self.is_full(snap) {
            return Err(DropReason::TableFull);
        }
        let table = A::table(&mut self.tables);
        let control = table.resolve(parent.1).map(|slot| *table.get(slot));
        let local = match control.filter(|control| control.flags & flag::FULLNAT != 0) {
            Some(control) => Some(self.local_beside(dest, &control, real.1)?),
            None => None,
        };
        let new = NewConn {
            client,
            real,
            local,
            flags: flag::TWO_KEYS | flag::BOUND | flag::INACTIVE | flag::CHILD | flags,
            dest: dest.id,
            state: State::TcpListen,
            timeout: snap.timeouts.of(State::TcpListen),
        };
        let mut opened = A::table(&mut self.tables).open(now, &new);
        if opened == Err(OpenError::RealKeyTaken) && self.evict_idle::<A>(snap, &Conn::passing(&new)) {
            opened = A::table(&mut self.tables).open(now, &new);
        }
        let slot = match opened {
            Ok(slot) => slot,
            Err(error) => {
                if let Some((lip, lport)) = local {
                    let remote = Remote { proto: Proto::Tcp, ip: dest.spec.ip, port: real.1 };
                    self.free_local(remote, lip.ip(), lport);
                }
                return Err(match error {
                    OpenError::Full => DropReason::TableFull,
                    OpenError::Crowded => DropReason::TableCrowded,
                    OpenError::ClientKeyTaken | OpenError::RealKeyTaken => DropReason::ReplyTupleTaken,
                });
            }
        };
        dest.bind(false);
        self.count_opened::<A>(slot);
        self.ftp.awaited += usize::from(flags & flag::AWAITED != 0);
        let id = A::table(&mut self.tables).id(slot);
        self.ftp.parents.insert((A::V6, id), parent);
        self.ftp.controls.entry(parent).or_default().children += 1;
        Ok(slot)
    }

    /// A port of the control connection's local address: servers refuse data connections from elsewhere.
    fn local_beside<A: IpFamily>(
        &mut self,
        dest: &Dest,
        control: &Conn<A>,
        rport: u16,
    ) -> Result<(A, u16), DropReason> {
        let port = self.host.route(dest.spec.ip).ok_or(DropReason::NoRoute)?.port;
        let pool = self.pools.get_mut(usize::from(port.0)).ok_or(DropReason::NoLocalAddress)?;
        let remote = Remote { proto: Proto::Tcp, ip: dest.spec.ip, port: rport };
        let free = (0..LOCAL_PORTS_TRIED).find_map(|_| {
            let (first, last) = (*pool.ports().start(), *pool.ports().end());
            let lport = first + (self.random.next() % (u64::from(last - first) + 1)) as u16;
            pool.claim(remote, control.local.ip(), lport).then_some((control.local, lport))
        });
        free.ok_or(DropReason::LocalPortsExhausted)
    }

    /// An expectation nobody came for, or a finished connection, must not keep a new one from its tuple.
    fn evict_idle<A: IpFamily>(&mut self, snap: &Snapshot, new: &Conn<A>) -> bool {
        let table = A::table(&mut self.tables);
        let Some((slot, _)) = table.lookup(&new.real_key()) else { return false };
        let old = table.get(slot);
        let idle = old.flags & flag::AWAITED != 0
            || matches!(old.state, State::TcpListen | State::TcpTimeWait | State::TcpClose);
        if idle {
            self.close::<A>(snap, slot);
        }
        idle
    }

    /// The expected connection that this packet of no known connection begins: it gets the client's port
    /// (kernel: `ip_vs_conn_fill_cport`).
    #[inline]
    pub(super) fn awaited<A: IpFamily>(&mut self, tuple: &Tuple<A>, meta: &Meta) -> Option<u32> {
        if self.ftp.awaited == 0 || meta.proto != number::TCP {
            return None;
        }
        let begins = meta.tcp_flags & (tcp::flag::SYN | tcp::flag::ACK | tcp::flag::RST) == tcp::flag::SYN;
        if !begins { None } else { self.fill_port::<A>(tuple) }
    }

    #[cold]
    fn fill_port<A: IpFamily>(&mut self, tuple: &Tuple<A>) -> Option<u32> {
        let table: &mut Table<A> = A::table(&mut self.tables);
        let (slot, side) = table.lookup(&Tuple { sport: 0, ..*tuple })?;
        if side != Side::Client || table.get(slot).flags & flag::AWAITED == 0 {
            return None;
        }
        let before = *table.get(slot);
        table.set_client_port(slot, tuple.sport).ok()?;
        table.get_mut(slot).flags &= !(flag::AWAITED | flag::FOREIGN);
        self.ftp.awaited -= 1;
        if before.flags & flag::FOREIGN != 0 {
            self.withdraw_keys(&before);
        }
        self.publish_keys::<A>(slot);
        Some(slot)
    }

    /// Is this due connection needed by data connections? Then it waits.
    pub(super) fn ftp_waits<A: IpFamily>(&mut self, slot: u32, now: Mono) -> bool {
        let table = A::table(&mut self.tables);
        if table.get(slot).flags & flag::HELPED == 0 {
            return false;
        }
        let waits = self.ftp.controls.get(&(A::V6, table.id(slot))).is_some_and(|c| c.children != 0);
        if waits {
            table.touch(slot, now, CONTROL_WAITS);
        }
        waits
    }

    /// A connection of the helper is about to be closed.
    #[cold]
    pub(super) fn ftp_closes<A: IpFamily>(&mut self, slot: u32) {
        let table = A::table(&mut self.tables);
        let (key, flags) = ((A::V6, table.id(slot)), table.get(slot).flags);
        if flags & flag::AWAITED != 0 {
            self.ftp.awaited -= 1;
        }
        if flags & flag::CHILD != 0
            && let Some(parent) = self.ftp.parents.remove(&key)
            && let Some(control) = self.ftp.controls.get_mut(&parent)
        {
            control.children = control.children.saturating_sub(1);
        }
        if flags & flag::HELPED != 0 {
            self.ftp.controls.remove(&key);
        }
    }

    /// Compares the helper's memory with the tables. For tests; slow.
    ///
    /// # Errors
    /// The first difference.
    pub(super) fn ftp_check(&self) -> Result<(), String> {
        fn count<A: crate::conn::key::Addr>(table: &Table<A>, flags: u16) -> usize {
            table.iter().filter(|(_, c)| c.flags & flags != 0).count()
        }
        let all = |flags| count(&self.tables.v4, flags) + count(&self.tables.v6, flags);
        let f = &self.ftp;
        if (all(flag::AWAITED), all(flag::CHILD)) != (f.awaited, f.parents.len()) {
            return Err(format!("{} awaited, {} data connections", f.awaited, f.parents.len()));
        }
        let live = f.controls.keys().filter(|(v6, id)| {
            if *v6 { self.tables.v6.resolve(*id) } else { self.tables.v4.resolve(*id) }.is_some()
        });
        if live.count() != f.controls.len() {
            return Err("a control connection ended and is remembered".to_owned());
        }
        for (key, control) in &f.controls {
            let children = f.parents.values().filter(|p| *p == key).count();
            if children != control.children as usize {
                return Err(format!("{} data connections counted, {children} live", control.children));
            }
        }
        Ok(())
    }
}

/// Where others have the tuple the text stays as it is, and the ends find out; a lack of room passes, so
/// the packet is dropped and comes again.
fn passable<T>(result: Result<T, DropReason>) -> Result<Option<T>, DropReason> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(DropReason::ReplyTupleTaken) => Ok(None),
        Err(why) => Err(why),
    }
}

fn shift(pkt: &mut PacketBuf<'_>, meta: &Meta, own: &Shift, other: &Shift) {
    if !own.is_none() || !other.is_none() {
        ftp::shift(pkt, meta, own, other);
    }
}

#[cfg(test)]
mod tests;
