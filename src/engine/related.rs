//! ICMP errors about connections (IPVS-RULES 22 to 28, 33; kernel: `ip_vs_in_icmp`, `ip_vs_out_icmp`).
//!
//! An error quotes the packet it is about. Seen from here there are three kinds of quoted packet: one to
//! the client that the client's side complains about (it went VIP > CIP), one to a real server that its
//! side complains about (CIP > RIP, or LIP > RIP), and an outer packet of a tunnel (DIP > RIP).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, DropReason, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::table::{Conn, Side, flag};
use crate::host::{IcmpError, OnFail, Quote, options};
use crate::nat::Ends;
use crate::nat::icmp::{self, ErrorRewrite};
use crate::svc::{DestId, Proto, Service, Snapshot};
use crate::time::Span;
use crate::tunnel;
use crate::wire::{Family, Meta, be16, be32, number, sum, ttl};

impl Core {
    pub(super) fn related<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        ours: bool,
        out: &mut Out,
    ) -> Verdict {
        // the kernel sums over the whole packet, whose IP header it may just have written into
        let header = &pkt.bytes()[usize::from(meta.l3)..usize::from(meta.l4)];
        let broken = icmp::is_broken(pkt, &meta) || (options::any(&meta) && !sum::header_ok(header));
        let quoted = match icmp::quoted_as_it_is(pkt.bytes(), &meta) {
            Ok(quoted) => quoted,
            // scheduling by errors needs the ports, wherever the error goes (kernel: `tcp_conn_schedule`)
            Err(why @ DropReason::ShortTransport) if snap.sysctl.schedule_icmp => return Verdict::Drop(why),
            // what is quoted is no packet we could know; to others it may mean something
            Err(_) if !ours => return self.route_on::<A>(snap, at, meta, pkt, out),
            Err(_) => return Verdict::Drop(DropReason::IcmpIgnored),
        };
        if broken && !self.may_pass_broken::<A>(snap, &quoted, pkt.bytes(), ours) {
            return Verdict::Drop(DropReason::BadIcmpChecksum);
        }
        if matches!(quoted.proto, number::IPIP | number::IPV6 | number::GRE) && ours {
            return self.tunnel_error(snap, at, &meta, &quoted, pkt, out);
        }
        let went = A::tuple(pkt.bytes(), &quoted);
        let found = A::table(&mut self.tables).lookup(&went.reversed());
        self.tell_quoted(&went, found);
        let named = match found {
            None if snap.sysctl.schedule_icmp => self.named_service(snap, &quoted, &went.reversed()),
            _ => None,
        };
        let verdict = match found {
            Some((slot, Side::Client)) => {
                if let Err(why) = on_its_way(ours, &mut meta, pkt) {
                    return Verdict::Drop(why);
                }
                self.error_to_real::<A>(snap, at, meta, &quoted, pkt, slot, out)
            }
            Some((slot, Side::Real)) => {
                // one to the VIP is translated, and then it is the director's own
                let kept = ours && A::table(&mut self.tables).get(slot).flags & flag::FULLNAT == 0;
                if kept {
                    self.count_error::<A>(snap, &meta, slot);
                    return Verdict::Drop(DropReason::IcmpIgnored);
                }
                self.error_to_client::<A>(snap, at, meta, &quoted, pkt, slot, out)
            }
            None if let Some(service) = named => {
                if let Err(why) = on_its_way(ours, &mut meta, pkt) {
                    return Verdict::Drop(why);
                }
                return self.schedule_error::<A>(snap, at, meta, &quoted, service, pkt, out);
            }
            // GUE is UDP from the DIP; its ports are no connection's
            None if ours && quoted.proto == number::UDP => {
                return self.tunnel_error(snap, at, &meta, &quoted, pkt, out);
            }
            None if ours => return Verdict::Drop(DropReason::IcmpNoConnection),
            None => return self.route_on::<A>(snap, at, meta, pkt, out),
        };
        verdict.unwrap_or_else(Verdict::Drop)
    }

    /// An error with a wrong checksum: nobody looks at it where nothing in it changes, on its way to a real
    /// server that is reached without translation (TUN, DR) and to others (IPVS-RULES 27).
    fn may_pass_broken<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        quoted: &Meta,
        frame: &[u8],
        ours: bool,
    ) -> bool {
        let client = A::tuple(frame, quoted).reversed();
        if let Some((slot, _)) = A::table(&mut self.tables).lookup(&client) {
            return !A::table(&mut self.tables).get(slot).two_keys();
        }
        match self.named_service(snap, quoted, &client).filter(|_| snap.sysctl.schedule_icmp) {
            Some(service) => service.dests.iter().all(|d| !d.spec.forward.translates()),
            None => !ours,
        }
    }

    /// The client, or a router before it, complains about a reply: the real server has to know.
    #[expect(clippy::too_many_arguments, reason = "a packet, what it quotes and where it goes")]
    fn error_to_real<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        quoted: &Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        out: &mut Out,
    ) -> Result<Verdict, DropReason> {
        let conn = *A::table(&mut self.tables).get(slot);
        let dest = snap.dest(conn.dest).ok_or(DropReason::DestinationGone)?;
        let bytes = meta.ip_len() as u64;
        dest.count_input(self.worker, bytes);
        if !conn.two_keys() {
            return Ok(self.deliver::<A>(snap, at, meta, pkt, &conn, dest, out));
        }
        let route = self.host.route(conn.real.ip());
        self.tell_route(at.now, conn.real.ip(), route.as_ref());
        let route = route.ok_or(DropReason::NoRoute)?;
        if meta.ttl <= 1 {
            let vip = Some(conn.virt.ip());
            self.host.error(at.now, IcmpError::TimeExceeded, at.port, pkt.bytes(), &meta, vip, out);
        }
        ttl::decrement(pkt, &mut meta)?;
        let local = (conn.flags & flag::FULLNAT != 0).then(|| (conn.local.ip(), conn.lport));
        let plan = ErrorRewrite {
            // FULLNAT real servers may have no way to the sender, and expect everything from the LIP
            src: local.map(|l| l.0),
            dst: Some(conn.real.ip()),
            inner: Ends { src: Some((conn.real.ip(), conn.rport)), dst: local },
        };
        icmp::translate(pkt, &meta, quoted, &plan)?;
        self.leave_options(&meta, pkt, None);
        Ok(self.leave::<A>(at, &route, meta, pkt, OnFail::Nothing, out))
    }

    /// A real server, or a router before it, complains about a request: the client hears it from the VIP.
    #[expect(clippy::too_many_arguments, reason = "a packet, what it quotes and where it goes")]
    fn error_to_client<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        quoted: &Meta,
        pkt: &mut PacketBuf<'_>,
        slot: u32,
        out: &mut Out,
    ) -> Result<Verdict, DropReason> {
        let conn = *A::table(&mut self.tables).get(slot);
        let route = self.host.route(conn.client.ip());
        self.tell_route(at.now, conn.client.ip(), route.as_ref());
        let route = route.ok_or(DropReason::NoRoute)?;
        if meta.ttl <= 1 {
            self.host.error(at.now, IcmpError::TimeExceeded, at.port, pkt.bytes(), &meta, None, out);
        }
        ttl::decrement(pkt, &mut meta)?;
        self.count_error::<A>(snap, &meta, slot);
        let client = (conn.flags & flag::FULLNAT != 0).then(|| (conn.client.ip(), conn.cport));
        let plan = ErrorRewrite {
            src: Some(conn.virt.ip()),
            dst: client.map(|c| c.0),
            inner: Ends { src: client, dst: Some((conn.virt.ip(), conn.vport)) },
        };
        icmp::translate(pkt, &meta, quoted, &plan)?;
        self.leave_options(&meta, pkt, Some(conn.virt.ip()));
        Ok(self.leave::<A>(at, &route, meta, pkt, OnFail::Nothing, out))
    }

    /// The service that what an error quotes would have been an answer of.
    fn named_service<'s, A: IpFamily>(
        &mut self,
        snap: &'s Snapshot,
        quoted: &Meta,
        client: &Tuple<A>,
    ) -> Option<&'s Arc<Service>> {
        let proto = Proto::from_number(quoted.proto).filter(|_| !quoted.is_fragment())?;
        let mark = snap.mark_of(Some(proto), client.dst.ip(), client.dport);
        let found = snap.find(mark, proto, client.dst.ip(), client.dport);
        self.tell_service(mark != 0, mark, (proto, client.dst.ip(), client.dport), found)
    }

    /// Counts an error from a real server's side as output.
    fn count_error<A: IpFamily>(&mut self, snap: &Snapshot, meta: &Meta, slot: u32) {
        let id = A::table(&mut self.tables).get(slot).dest;
        if let Some(dest) = snap.dest(id).filter(|d| d.available) {
            dest.count_output(self.worker, meta.ip_len() as u64);
        }
    }

    /// A router on the way to a real server complains about a tunnel packet: the client hears it from the
    /// VIP, about the packet it sent (IPVS-RULES 33).
    fn tunnel_error(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        quoted: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let frame = pkt.bytes();
        // a GUE packet is known by its connection, not by its port
        let gue_port = (quoted.proto == number::UDP).then_some(quoted.dport);
        let Ok(inner) = tunnel::quoted_inner(frame, quoted, gue_port) else {
            return Verdict::Drop(DropReason::IcmpNoConnection);
        };
        // the inner header and its ports: what the client's own stack needs to find its socket
        if (inner.end as usize) < inner.l4 as usize + 8 || inner.is_fragment() {
            return Verdict::Drop(DropReason::IcmpNoConnection);
        }
        let known = match inner.family {
            Family::V4 => self.knows_tunnel::<u32>(frame, &inner),
            Family::V6 => self.knows_tunnel::<u128>(frame, &inner),
        };
        let real = quoted.dst(frame);
        let Some(dest) = known.and_then(|id| snap.dest(id)).filter(|d| d.spec.ip == real) else {
            return Verdict::Drop(DropReason::IcmpNoConnection);
        };
        let link = self.host.route(real).map_or(u32::from(u16::MAX), |r| r.mtu);
        let before = self.path_mtus.of(at.now, &real, link);
        if let Some(mtu) = too_big(frame, meta) {
            if let (Some(mtu), Some(post)) = (self.path_mtus.learn(at.now, real, mtu, link), &self.post) {
                post.tell_path(at.now, real, mtu);
            }
            if inner.family == Family::V4 && u32::may_fragment(frame, &inner) {
                // a client that allows fragments gets them
                return Verdict::Taken(Taken::Local);
            }
        }
        let overhead = (inner.l3 - quoted.l3).into();
        let Some(kind) = told(frame, meta, &inner, before, overhead) else {
            return Verdict::Drop(DropReason::IcmpIgnored);
        };
        let vip = inner.dst(frame);
        // what is quoted and what is told both count as output (2-pmtu-tun4-router)
        let output = |bytes: usize| {
            dest.count_output(self.worker, bytes as u64);
        };
        output(inner.ip_len());
        let told = self.host.error(at.now, kind, at.port, frame, &inner, Some(vip), out);
        if told > 0 {
            output(told);
        }
        Verdict::Taken(Taken::Local)
    }

    fn knows_tunnel<A: IpFamily>(&mut self, frame: &[u8], inner: &Meta) -> Option<DestId> {
        let tuple: Tuple<A> = A::tuple(frame, inner);
        let table = A::table(&mut self.tables);
        let (slot, side) = table.lookup(&tuple)?;
        let conn = table.get(slot);
        (side == Side::Client && conn.flags & flag::TUNNEL != 0).then_some(conn.dest)
    }

    /// An error about a connection nobody knows, to a service: the connection is scheduled by what the
    /// error quotes, and the error goes to its real server (IPVS-RULES 28).
    #[expect(clippy::too_many_arguments, reason = "a packet, what it quotes and whose it is")]
    fn schedule_error<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        quoted: &Meta,
        service: &Service,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let client = A::tuple(pkt.bytes(), quoted).reversed();
        let slot = match self.schedule_quoted::<A>(snap, at, &client, service) {
            Ok(slot) => slot,
            Err(why) => return Verdict::Drop(why),
        };
        // until a packet of the connection itself tells more
        A::table(&mut self.tables).touch(slot, at.now, Span::from_secs(3));
        self.error_to_real::<A>(snap, at, meta, quoted, pkt, slot, out).unwrap_or_else(Verdict::Drop)
    }
}

/// An error that is not for the director itself was a hop further when the kernel recognises it; one about
/// a connection is then sent as if it had come anew (recorded in `2-icmp-forwarded-*`).
fn on_its_way(ours: bool, meta: &mut Meta, pkt: &mut PacketBuf<'_>) -> Result<(), DropReason> {
    if ours { Ok(()) } else { ttl::decrement(pkt, meta) }
}

/// The MTU a router asks for.
fn too_big(frame: &[u8], meta: &Meta) -> Option<u32> {
    let icmp = frame.get(meta.l4 as usize..)?.get(..8)?;
    match (meta.family, icmp[0], icmp[1]) {
        (Family::V4, 3, 4) => Some(be16(icmp, 6).into()),
        (Family::V6, 2, _) => Some(be32(icmp, 4)),
        _ => None,
    }
}

/// What to tell the client about an error concerning the tunnel. An MTU is the one `before` the error,
/// without the tunnel's overhead: the first error finds the kernel's cached route (IPVS-RULES 34).
fn told(frame: &[u8], meta: &Meta, inner: &Meta, before: u32, overhead: u32) -> Option<IcmpError> {
    let icmp = frame.get(meta.l4 as usize..)?.get(..8)?;
    match (meta.family, icmp[0], icmp[1]) {
        (Family::V4, 3, 4) => {
            let mtu = if before > 68 + overhead { before - overhead } else { before };
            let least = if inner.family == Family::V6 { 1280 } else { 0 };
            Some(IcmpError::FragNeeded { mtu: mtu.max(least) })
        }
        (Family::V4, 3, code) => Some(IcmpError::PassedOn { code }),
        (Family::V4, 11, 0) | (Family::V6, 3, 0) => Some(IcmpError::TimeExceeded),
        (Family::V6, 2, _) => {
            let mtu = be32(icmp, 4).min(before).saturating_sub(overhead);
            Some(IcmpError::TooBig { mtu: mtu.max(1280) })
        }
        (Family::V6, 1, _) => Some(IcmpError::HostUnreachable),
        _ => None,
    }
}

/// What an error about a translated request quotes: the request as the client sent it.
pub(super) fn client_quote<A: IpFamily>(conn: &Conn<A>) -> Quote {
    let sock = |ip: IpAddr, port| SocketAddr::new(ip, port);
    Quote {
        src: (conn.flags & flag::FULLNAT != 0).then(|| sock(conn.client.ip(), conn.cport)),
        dst: Some(sock(conn.virt.ip(), conn.vport)),
    }
}
