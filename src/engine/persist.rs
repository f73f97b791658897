//! Persistent services: a client's new connections go where its template says (kernel:
//! `ip_vs_sched_persist`; IPVS-RULES 60 to 70).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::family::IpFamily;
use super::input::Arrival;
use super::rows::{ASSURED, ConnRow};
use super::schedule::Placement;
use super::{Core, DropReason, Engine, Verdict, sip};
use crate::addr;
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::state::State;
use crate::conn::table::flag;
use crate::conn::template::{NewTemplate, Template, TemplateKey, Templates};
use crate::svc::snapshot::FTP;
use crate::svc::{
    Dest, Ending, Persistence, PersistenceEngine, Proto, Service, ServiceKey, ServiceSpec, Snapshot,
};
use crate::time::Mono;
use crate::wire::Meta;

/// A template, held, and where it sends the connection.
pub(super) struct Tied {
    pub template: Arc<Template>,
    pub dest: Arc<Dest>,
    pub rport: u16,
}

impl Core {
    /// Schedules a packet that begins a connection to a persistent service.
    #[expect(clippy::too_many_arguments, reason = "the facts of a packet and its service")]
    pub(super) fn persist<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        service: &Arc<Service>,
        persistence: Persistence,
        ours: bool,
        out: &mut Out,
    ) -> Verdict {
        let tuple = A::tuple(pkt.bytes(), &meta);
        let placed = engine_data(service.spec.engine, &meta, pkt)
            .and_then(|data| self.place(snap, at.now, &tuple, service, persistence, data));
        let tied = match placed {
            Ok(tied) => tied,
            Err(DropReason::NoDestination) => {
                return self.no_server::<A>(snap, at, meta, pkt, service, ours, out);
            }
            Err(why) => return Verdict::Drop(why),
        };
        let dest = tied.dest.clone();
        if service.spec.one_packet && meta.proto == Proto::Udp.number() {
            tied.template.release();
            let to = Placement { dest: &dest, rport: tied.rport };
            return self.one_packet::<A>(snap, at, meta, pkt, to, service, out);
        }
        let slot = match self.open_tied::<A>(snap, at, &tuple, tied) {
            Ok(slot) => slot,
            Err(why) => return Verdict::Drop(why),
        };
        self.begun::<A>(snap, at, meta, pkt, slot, &dest, out)
    }

    /// Opens a connection of which only an error's quote is known. An engine finds nothing in that.
    pub(super) fn persist_quoted<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        tuple: &Tuple<A>,
        service: &Service,
        persistence: Persistence,
    ) -> Result<u32, DropReason> {
        if service.spec.engine.is_some() {
            return Err(DropReason::PersistenceData);
        }
        let tied = self.place(snap, at.now, tuple, service, persistence, None)?;
        self.open_tied::<A>(snap, at, tuple, tied)
    }

    /// The server of a client's new connection: its template's, or one that it gets a template for.
    fn place<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        now: Mono,
        tuple: &Tuple<A>,
        service: &Service,
        persistence: Persistence,
        data: Option<Box<[u8]>>,
    ) -> Result<Tied, DropReason> {
        let key = template_key(&service.spec, persistence, tuple, data);
        let was = if self.told() { snap.templates.find(&key) } else { None };
        let known = self.known(snap, &key);
        self.tell_template(snap, now, &key, was, known.is_some());
        let template = match known {
            Some(template) => template,
            None => {
                let picked = self.pick(now, service, tuple).ok_or(DropReason::NoDestination)?;
                if self.is_full(snap) {
                    return Err(DropReason::TableFull);
                }
                let dest = &service.dests[picked];
                let port = if ties_port(&service.spec.key, tuple.dport) { dest.spec.port } else { 0 };
                let new = NewTemplate {
                    key,
                    dest: dest.id,
                    real: (dest.spec.ip, port),
                    live: &dest.live,
                    timeout: persistence.timeout,
                };
                let template = snap.templates.add(now, new);
                dest.refresh_overload();
                template
            }
        };
        template.touch(now);
        let Some(dest) = snap.dest(template.dest).cloned() else {
            template.release();
            return Err(DropReason::DestinationGone);
        };
        // only the service's own port is mapped: with all ports, or by mark, they are kept
        let mapped = tuple.dport == service.spec.key.port() && dest.spec.port != 0;
        let rport = if mapped { dest.spec.port } else { tuple.dport };
        Ok(Tied { template, dest, rport })
    }

    /// Opens the connection where it is tied to. There is no other server it could go to instead.
    pub(super) fn open_tied<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        tuple: &Tuple<A>,
        tied: Tied,
    ) -> Result<u32, DropReason> {
        let to = Placement { dest: &tied.dest, rport: tied.rport };
        let opened = if self.is_full(snap) {
            Err(DropReason::TableFull)
        } else {
            self.open_at::<A>(snap, at, tuple, to)
        };
        self.tell_open(tuple, to, &opened);
        match opened {
            Ok(slot) => {
                self.opened::<A>(slot, &tied.dest);
                self.control::<A>(slot, tied.template);
                Ok(slot)
            }
            Err(why) => {
                tied.template.release();
                Err(why)
            }
        }
    }

    /// The client's template, held, if its server can still be used. One that cannot is retired (kernel:
    /// `ip_vs_check_template`). A full server is no reason, neither is weight 0 unless the switch says so.
    pub(super) fn known(&self, snap: &Snapshot, key: &TemplateKey) -> Option<Arc<Template>> {
        let template = snap.templates.hold(key)?;
        let quiesced = |weight: u32| snap.sysctl.expire_quiescent_template && weight == 0;
        if snap
            .dest(template.dest)
            .is_some_and(|d| d.available && d.ending == Ending::No && !quiesced(d.weight()))
        {
            return Some(template);
        }
        snap.templates.retire(&template);
        template.release();
        None
    }

    /// The connection holds its template from now on.
    fn control<A: IpFamily>(&mut self, slot: u32, template: Arc<Template>) {
        let controls = A::controls(&mut self.tables);
        let at = slot as usize;
        if controls.len() <= at {
            controls.resize(at + 1, None);
        }
        controls[at] = Some(template);
        A::table(&mut self.tables).get_mut(slot).flags |= flag::CONTROLLED | flag::UNASSURED;
    }
    /// The connection ended.
    pub(super) fn uncontrol<A: IpFamily>(&mut self, slot: u32) {
        if let Some(template) = A::controls(&mut self.tables).get_mut(slot as usize).and_then(Option::take) {
            template.release();
        }
    }
    /// Tells a connection's template that it is established, once: TCP and SCTP by their state, UDP by an
    /// answer (kernel: `ip_vs_control_assure_ct`).
    #[cold]
    pub(super) fn assure<A: IpFamily>(&mut self, slot: u32, answered: bool) {
        let conn = A::table(&mut self.tables).get_mut(slot);
        let established = match conn.state {
            State::TcpEstablished | State::SctpEstablished => true,
            State::Udp => answered,
            _ => false,
        };
        if !established {
            return;
        }
        conn.flags &= !flag::UNASSURED;
        if let Some(Some(template)) = A::controls(&mut self.tables).get(slot as usize) {
            template.assure();
        }
    }
    /// Connections and templates together have one limit.
    pub(super) fn is_full(&self, snap: &Snapshot) -> bool {
        self.live() + self.together.len() + snap.templates.len() >= self.limit as usize
    }
    /// Ends templates that are due.
    pub(super) fn expire_templates(&mut self, snap: &Snapshot, now: Mono) {
        snap.templates.expire(now, super::EXPIRE_BUDGET, |t| unbound(snap, t));
    }
    /// Ends the templates of removed servers (`expire_nodest_conn`).
    pub(super) fn purge_templates(&mut self, snap: &Snapshot) {
        let gone = |t: &Template| snap.dest(t.dest).is_none_or(|d| !d.available);
        snap.templates.purge(gone, |t| unbound(snap, t));
    }
}

/// Persistence templates for listing, the next to expire first; no worker is asked.
pub fn template_rows(templates: &Templates, now: Mono) -> Vec<ConnRow> {
    templates.list().iter().map(|t| row(t, now)).collect()
}

impl Engine {
    /// Persistence templates for listing, the next to expire first. All workers share them: ask one.
    pub fn templates(&self, now: Mono) -> impl Iterator<Item = ConnRow> + use<> {
        self.snap.templates.list().into_iter().map(move |t| row(&t, now))
    }
    pub(super) fn check_templates(&self) -> Result<(), String> {
        let (snap, tables) = (&self.snap, &self.core.tables);
        snap.templates.check()?;
        let all = snap.templates.list();
        for dest in snap.dests.iter().flatten() {
            let tied = all.iter().filter(|t| t.dest == dest.id).count();
            if dest.persistent() as usize != tied {
                return Err(format!("{}: {} templates, {tied} listed", dest.spec.ip, dest.persistent()));
            }
        }
        let v4 = tables.v4.iter().filter(|(_, c)| c.flags & flag::CONTROLLED != 0).count();
        let v6 = tables.v6.iter().filter(|(_, c)| c.flags & flag::CONTROLLED != 0).count();
        let held = tables.control4.iter().chain(&tables.control6).flatten();
        if held.clone().count() != v4 + v6 {
            return Err(format!("{} connections of templates, {} held", v4 + v6, held.count()));
        }
        for t in &all {
            let mine = held.clone().filter(|h| Arc::ptr_eq(h, t)).count();
            // other workers may hold it too
            if (t.controlled() as usize) < mine {
                return Err(format!("{:?}: {mine} connections, {} counted", t.key, t.controlled()));
            }
        }
        Ok(())
    }
}

/// A template ended: its server may be below its threshold again (kernel: `ip_vs_unbind_dest`).
fn unbound(snap: &Snapshot, template: &Template) {
    if let Some(dest) = snap.dest(template.dest) {
        dest.refresh_overload();
    }
}

/// Does the template tie one port, or all of them? FTP's data connections have other ports.
fn ties_port(key: &ServiceKey, dport: u16) -> bool {
    dport == key.port() && dport != FTP
}

/// What the service's persistence engine finds in a packet.
pub(super) fn engine_data(
    engine: Option<PersistenceEngine>,
    meta: &Meta,
    pkt: &PacketBuf<'_>,
) -> Result<Option<Box<[u8]>>, DropReason> {
    match engine {
        None => Ok(None),
        Some(PersistenceEngine::Sip) if meta.proto == Proto::Udp.number() => {
            let frame = pkt.bytes();
            let payload = frame.get(meta.l4 as usize + 8..(meta.end as usize).min(frame.len()));
            let id = payload.and_then(sip::call_id).ok_or(DropReason::PersistenceData)?;
            Ok(Some(id.into()))
        }
        Some(PersistenceEngine::Sip) => Err(DropReason::PersistenceData),
    }
}

/// What the client is known by: its network, and the service's address and port, or its mark.
pub(super) fn template_key<A: IpFamily>(
    spec: &ServiceSpec,
    persistence: Persistence,
    tuple: &Tuple<A>,
    data: Option<Box<[u8]>>,
) -> TemplateKey {
    let service = &spec.key;
    let client = match (tuple.src.ip(), spec.netmask_bits) {
        (IpAddr::V4(ip), Some(bits)) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & bits)),
        (ip, _) => addr::mask(ip, persistence.netmask),
    };
    let (proto, virt) = match *service {
        ServiceKey::Mark { mark, v6: false } => (0, IpAddr::V4(Ipv4Addr::from_bits(mark))),
        ServiceKey::Mark { mark, v6: true } => (0, IpAddr::V6(Ipv6Addr::from_bits(u128::from(mark) << 96))),
        ServiceKey::Address { .. } => (tuple.proto, tuple.dst.ip()),
    };
    TemplateKey {
        proto,
        client,
        virt,
        vport: if ties_port(service, tuple.dport) { tuple.dport } else { 0 },
        data,
    }
}

/// A retired template is listed with port 65535 at both ends, as the kernel marks it.
fn row(t: &Template, now: Mono) -> ConnRow {
    use std::net::SocketAddr;
    let (vport, rport) = if t.is_retired() { (0xffff, 0xffff) } else { (t.key.vport, t.real.1) };
    ConnRow {
        proto: t.key.proto,
        expires: t.deadline().since(now),
        state: if t.is_assured() { ASSURED } else { State::TcpNone.name() },
        client: SocketAddr::new(t.key.client, 0),
        virt: SocketAddr::new(t.key.virt, vport),
        dest: SocketAddr::new(t.real.0, rport),
        local: None,
        pe: t
            .key
            .data
            .as_ref()
            .map(|data| (PersistenceEngine::Sip.name(), String::from_utf8_lossy(data).into_owned())),
    }
}

#[cfg(test)]
mod tests;
