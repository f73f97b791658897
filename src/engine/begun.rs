//! Requests that a real server begins by itself (kernel: `ip_vs_new_conn_out`).
//!
//! Where a service has a persistence engine, the first packet of one of its real servers to somebody opens
//! a connection as if that one had begun it, tied to the real server by what the engine finds in the packet.
//! Answers come back to the real server that way. The client may have a connection of the same tuple with
//! another real server: the younger one gets its packets, the older one waits behind it
//! ([`crate::conn::table::Table::hide`]); each server's own packets still are its own connection's.

use std::sync::Arc;

use super::family::IpFamily;
use super::input::Arrival;
use super::persist::{Tied, engine_data, template_key};
use super::{Core, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::table::Side;
use crate::conn::template::NewTemplate;
use crate::svc::{Dest, Forward, Proto, Service, ServiceKey, Snapshot};
use crate::wire::Meta;

impl Core {
    /// A datagram to somebody else that belongs to no connection.
    #[cold]
    pub(super) fn begun_by_server<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Option<Verdict> {
        let went = A::tuple(pkt.bytes(), &meta);
        if !snap.reals.contains_key(&went.src.ip()) {
            return None;
        }
        // what cannot be routed on has not begun anything
        let route = self.host.route(went.dst.ip()).filter(|r| !r.unreachable && meta.ttl > 1)?;
        if meta.ip_len() > route.mtu as usize && !A::may_fragment(pkt.bytes(), &meta) {
            return None;
        }
        let (service, dest) = sender(snap, &went)?;
        let persistence = service.spec.persistence?;
        let ServiceKey::Address { ip, port, .. } = service.spec.key else { return None };
        if self.told() {
            self.tell_service(false, 0, (Proto::Udp, ip, port), Some(service));
        }
        // a twin that was not told of the service has no servers to change
        let dest = snap.dest(dest.id)?;
        let data = engine_data(service.spec.engine, &meta, pkt).ok()?;
        let client =
            Tuple { src: went.dst, sport: went.dport, dst: A::from_ip(ip)?, dport: port, proto: went.proto };
        let key = template_key(&service.spec, persistence, &client, data);
        let was = if self.told() { snap.templates.find(&key) } else { None };
        let known = self.known(snap, &key);
        self.tell_template(snap, at.now, &key, was, known.is_some());
        let template = match known {
            Some(template) if template.dest == dest.id => template,
            other => {
                let full = self.is_full(snap);
                if let Some(elsewhere) = other {
                    if !full {
                        snap.templates.retire(&elsewhere);
                    }
                    elsewhere.release();
                }
                if full {
                    return None;
                }
                let (real, timeout) = ((dest.spec.ip, went.sport), persistence.timeout);
                let new = NewTemplate { key, dest: dest.id, real, live: &dest.live, timeout };
                snap.templates.add(at.now, new)
            }
        };
        template.touch(at.now);
        let table = A::table(&mut self.tables);
        let older = match table.lookup(&client) {
            Some((slot, Side::Client)) if table.hide(slot) => true,
            Some(_) => {
                template.release();
                return None;
            }
            None => false,
        };
        let tied = Tied { template, dest: dest.clone(), rport: went.sport };
        let Ok(slot) = self.open_tied::<A>(snap, at, &client, tied) else {
            if older {
                A::table(&mut self.tables).uncover(&client);
            }
            return None;
        };
        let id = A::table(&mut self.tables).id(slot);
        let verdict = self.outbound::<A>(snap, at, meta, pkt, slot, out);
        if service.spec.one_packet
            && let Some(slot) = A::table(&mut self.tables).resolve(id)
        {
            self.close::<A>(snap, slot);
        }
        Some(verdict)
    }
}

/// Whose real server sent this: of those with this address and port the one added last (kernel:
/// `ip_vs_find_real_service`), if its service has an engine.
fn sender<'s, A: IpFamily>(snap: &'s Snapshot, went: &Tuple<A>) -> Option<(&'s Arc<Service>, &'s Arc<Dest>)> {
    let is_it = |d: &&Arc<Dest>| {
        d.spec.forward == Forward::Nat && (d.spec.ip, d.spec.port) == (went.src.ip(), went.sport)
    };
    let of_proto = |s: &&Arc<Service>| match s.spec.key {
        ServiceKey::Address { proto, .. } => proto == Proto::Udp,
        ServiceKey::Mark { .. } => true,
    };
    let found =
        snap.services.iter().rev().filter(of_proto).find_map(|s| Some((s, s.dests.iter().find(is_it)?)));
    found.filter(|(s, _)| s.spec.engine.is_some())
}
