//! The last steps towards a real server and out of any port: TTL, size, rewriting, next hop.

use super::family::IpFamily;
use super::input::Arrival;
use super::related::client_quote;
use super::ways::{Way, leaves_too_little};
use super::{Core, DropReason, Taken, Verdict};
use crate::buf::{GsoKind, Out, PacketBuf};
use crate::conn::table::{Conn, flag};
use crate::host::{Host, IcmpError, OnFail, Quote, Route};
use crate::nat::Ends;
use crate::svc::{Dest, Forward, Snapshot, Tunnel};
use crate::tunnel::{self, EncapPlan};
use crate::wire::fragment::{fragment4, fragment6, recut4, recut6};
use crate::wire::offload::{self, SegmentCsum};
use crate::wire::{Family, Meta, ipv4, ipv6, tcp, ttl};

impl Core {
    /// Sends a packet of a connection to its real server (kernel: `ip_vs_nat_xmit`, `ip_vs_dr_xmit`,
    /// `ip_vs_tunnel_xmit`). Errors go to the client, from the VIP.
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and where it goes")]
    pub(super) fn deliver<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        self.tell_server(conn, dest);
        if dest.spec.ip.is_loopback() && !conn.two_keys() {
            // IPVS-RULES 20: the director itself is the real server
            return self.local_node::<A>(snap, at, &meta, pkt, conn, dest, out);
        }
        let way = self.way::<A>(snap, dest);
        self.tell_way(at.now, dest.spec.ip, way.as_ref());
        let Some(way) = &way else {
            return Verdict::Drop(DropReason::NoRoute);
        };
        // read where it is: a copy of what was just copied would have to wait for it
        let Way { route, neighbor, local } = way;
        if *local && dest.spec.ip.is_loopback() {
            // what came from outside cannot be translated to a loopback address
            return Verdict::Drop(DropReason::CannotForward);
        }
        if *local {
            return self.local_node::<A>(snap, at, &meta, pkt, conn, dest, out);
        }
        if route.unreachable {
            self.refuse(at, IcmpError::HostUnreachable, &meta, pkt, conn, dest, out);
            return Verdict::Drop(DropReason::Unreachable);
        }
        if let Err(why) = ttl::decrement(pkt, &mut meta) {
            if why == DropReason::TtlExpired {
                self.refuse(at, IcmpError::TimeExceeded, &meta, pkt, conn, dest, out);
            }
            return Verdict::Drop(why);
        }
        if conn.flags & flag::TUNNEL != 0 {
            return self.tunnel::<A>(snap, at, way, meta, pkt, conn, dest, out);
        }
        if let Some(verdict) = self.too_big::<A>(at, &meta, pkt, route.mtu, Some((conn, dest)), out) {
            return verdict;
        }
        if conn.two_keys() {
            let ends = Ends {
                src: (conn.flags & flag::FULLNAT != 0).then_some((conn.local, conn.lport)),
                dst: Some((conn.real, conn.rport)),
            };
            if let Err(why) = A::rewrite(pkt, &meta, &ends) {
                return Verdict::Drop(why);
            }
        }
        self.leave_options(&meta, pkt, None);
        if meta.ip_len() <= at.cut_to(route.mtu)
            && let Some(verdict) =
                self.host.transmit_ready(at.now, route, Some(neighbor), pkt, meta.l3 as usize)
        {
            return verdict;
        }
        let on_fail = if conn.two_keys() {
            OnFail::HostUnreachable { source: Some(conn.virt.ip()), quote: client_quote(conn) }
        } else {
            OnFail::HostUnreachable { source: None, quote: Quote::default() }
        };
        self.leave::<A>(at, route, meta, pkt, on_fail, out)
    }

    /// Tells the sender of a packet that is larger than the way out and must not be cut. `None`: go on.
    #[inline]
    pub(super) fn too_big<A: IpFamily>(
        &mut self,
        at: Arrival,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        mtu: u32,
        conn: Option<(&Conn<A>, &Dest)>,
        out: &mut Out,
    ) -> Option<Verdict> {
        // IPv4 senders that set DF are told about the datagram on its way to a server, and about fragments
        // as they pass; IPv6 ones always about their fragments (kernel: `ensure_mtu_is_adequate`)
        let in_parts = at.largest != 0 && (A::V6 || conn.is_none());
        let size = if in_parts { usize::from(at.largest) } else { meta.ip_len() };
        if size <= mtu as usize { None } else { self.is_too_big::<A>(at, meta, pkt, mtu, conn, out) }
    }

    #[cold]
    fn is_too_big<A: IpFamily>(
        &mut self,
        at: Arrival,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        mtu: u32,
        conn: Option<(&Conn<A>, &Dest)>,
        out: &mut Out,
    ) -> Option<Verdict> {
        if offload::fits(pkt, meta, mtu as usize) || A::may_fragment(pkt.bytes(), meta) {
            return None;
        }
        let kind = IcmpError::FragNeeded { mtu };
        match conn {
            Some((conn, dest)) => self.refuse(at, kind, meta, pkt, conn, dest, out),
            None => {
                self.host.error(at.now, kind, at.port, pkt.bytes(), meta, None, out);
            }
        }
        Some(Verdict::Drop(DropReason::TooBig))
    }

    /// Tells a client, from the VIP, why its packet does not reach its real server. Where the real server
    /// answers by itself (DR, TUN) the error counts as output: on its way out it is taken for the
    /// connection's (recorded in `2-pmtu-*` and `7-unreach-*`; kernel: `handle_response_icmp`).
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and what is wrong with it")]
    #[cold]
    fn refuse<A: IpFamily>(
        &mut self,
        at: Arrival,
        kind: IcmpError,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) {
        let vip = Some(conn.virt.ip());
        // a service by mark for addresses that are not ours: the kernel cannot answer from them
        if !A::V6 && !self.host.owns(at.port, conn.virt.ip()).is_unicast() && !conn.virt.ip().is_loopback() {
            return;
        }
        let told = self.host.error(at.now, kind, at.port, pkt.bytes(), meta, vip, out);
        if told > 0 && !conn.two_keys() {
            dest.count_output(self.worker, told as u64);
        }
    }

    /// Hands a finished IP packet to its route, in fragments where it is too large and may be cut.
    #[inline]
    pub(super) fn leave<A: IpFamily>(
        &mut self,
        at: Arrival,
        route: &Route,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        on_fail: OnFail,
        out: &mut Out,
    ) -> Verdict {
        let mtu = at.cut_to(route.mtu);
        if meta.ip_len() <= mtu || offload::fits(pkt, &meta, mtu) {
            return self.host.transmit(at.now, route, pkt, meta.l3 as usize, on_fail, out);
        }
        let l3 = meta.l3 as usize;
        let id = if A::V6 { self.random.next() as u32 } else { 0 };
        let host = &mut self.host;
        let mut each = |out: &mut Out, piece| send_piece(host, at, route, l3, on_fail, out, piece);
        let cut = if pkt.offload.gso.is_some() {
            let room = offload::payload_room(pkt, &meta, mtu);
            offload::segment(pkt, &meta, room, SegmentCsum::Partial, out, &mut each)
        } else if A::V6 {
            // only what was reassembled here gets this far: a router never cuts IPv6
            match at.largest {
                0 => fragment6(pkt, &meta, mtu, id, out, &mut each),
                largest => {
                    let mtu = (route.mtu as usize).min(usize::from(largest).max(1280));
                    recut6(pkt, &meta, mtu, id, &self.frags.cuts, out, &mut each)
                }
            }
        } else {
            fragment4(pkt, &meta, mtu, out, &mut each)
        };
        cut.map_or_else(Verdict::Drop, |_| Verdict::Taken(Taken::Split))
    }

    /// Tunnels a packet: whole where it fits, in segments where it is a super-frame (no device can cut
    /// one inside IPIP), in outer fragments where the client allows them (IPVS-RULES 30 and 31).
    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and where it goes")]
    pub(super) fn tunnel<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        Way { route, neighbor, .. }: &Way,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        let kind = match dest.spec.forward {
            Forward::Tun(kind) => kind,
            // the server was edited to another method; its connections keep theirs
            _ => Tunnel::Ipip,
        };
        let outer_v6 = dest.spec.ip.is_ipv6();
        let Some(src) = self.host.source_for(route, outer_v6) else {
            return Verdict::Drop(DropReason::NoLocalAddress);
        };
        if leaves_too_little(kind, outer_v6, route.mtu) {
            return Verdict::Drop(DropReason::TooBig);
        }
        let route = &Route { mtu: self.path_mtus.of(at.now, &dest.spec.ip, route.mtu), ..*route };
        let limit = (route.mtu as usize).saturating_sub(tunnel::overhead(kind, outer_v6));
        self.tell_tunnel(kind, (src, dest.spec.ip), limit);
        let copy_df = snap.sysctl.pmtu_disc;
        let whole_outside = outer_v6 || (copy_df && !A::V6 && !A::may_fragment(pkt.bytes(), &meta));
        let plan = EncapPlan {
            tunnel: kind,
            src,
            dst: dest.spec.ip,
            copy_df,
            ip_id: if whole_outside { 0 } else { self.random.next() as u16 },
            gue_sport: match kind {
                Tunnel::Gue { .. } => gue_port(A::table(&mut self.tables).hash(&conn.client_key())),
                _ => 0,
            },
        };
        if dest.mss_clamp && meta.tcp_flags & tcp::flag::SYN != 0 {
            let headers = if A::V6 { ipv6::LEN } else { ipv4::LEN } + tcp::LEN;
            tcp::clamp_mss(pkt, &meta, limit.saturating_sub(headers).min(usize::from(u16::MAX)) as u16);
        }
        if pkt.offload.gso.is_some() {
            let room = offload::payload_room(pkt, &meta, limit);
            let datagrams = pkt.offload.gso.is_some_and(|g| g.kind == GsoKind::Udp);
            if datagrams && !offload::fits(pkt, &meta, limit) && !A::may_fragment(pkt.bytes(), &meta) {
                return self.refuse_tunnel(at, &meta, pkt, limit, conn, dest, out);
            }
            self.leave_options(&meta, pkt, None);
            if self.host.offload(route.port).tunnel
                && let Some(outer) = tunnel::whole::encap(pkt, &meta, &plan, room)
            {
                return self.host.transmit(at.now, route, pkt, outer.l3 as usize, OnFail::Tunnel, out);
            }
            let (host, drops) = (&mut self.host, &mut self.drops);
            let cut = offload::segment(pkt, &meta, room, SegmentCsum::Partial, out, |out, mut piece| {
                let meta = Meta { end: piece.bytes().len() as u32, ..meta };
                match piece.edit(|p| tunnel::encap(p, &meta, &plan)) {
                    Ok(outer) => send_tunnelled(host, at, route, &outer, out, piece),
                    Err(why) => {
                        drops.count(why);
                        out.recycle(piece);
                    }
                }
            });
            return cut.map_or_else(Verdict::Drop, |_| Verdict::Taken(Taken::Split));
        }
        let whole = A::may_fragment(pkt.bytes(), &meta) || (!A::V6 && !snap.sysctl.pmtu_disc);
        let size = if at.largest != 0 && A::V6 { usize::from(at.largest) } else { meta.ip_len() };
        if size > limit && !whole {
            return self.refuse_tunnel(at, &meta, pkt, limit, conn, dest, out);
        }
        self.leave_options(&meta, pkt, None);
        // the kernel loses sight of the fragments' size between the families, but not of their borders
        let along = at.largest != 0 && A::V6 && !outer_v6;
        let at = if A::V6 == outer_v6 { at } else { Arrival { largest: 0, ..at } };
        match tunnel::encap(pkt, &meta, &plan) {
            Err(why) => Verdict::Drop(why),
            Ok(outer) if outer.ip_len() <= at.cut_to(route.mtu) => {
                let l3 = outer.l3 as usize;
                let ready = self.host.transmit_ready(at.now, route, Some(neighbor), pkt, l3);
                ready.unwrap_or_else(|| self.host.transmit(at.now, route, pkt, l3, OnFail::Tunnel, out))
            }
            Ok(outer) if outer.family == Family::V6 => {
                self.leave::<u128>(at, route, outer, pkt, OnFail::Tunnel, out)
            }
            Ok(outer) if along => {
                let (host, l3) = (&mut self.host, outer.l3 as usize);
                let each = |out: &mut Out, piece| send_piece(host, at, route, l3, OnFail::Tunnel, out, piece);
                let cut = recut4(pkt, &outer, route.mtu as usize, &self.frags.cuts, out, each);
                cut.map_or_else(Verdict::Drop, |_| Verdict::Taken(Taken::Split))
            }
            Ok(outer) => self.leave::<u32>(at, route, outer, pkt, OnFail::Tunnel, out),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a packet, its connection and where it goes")]
    fn refuse_tunnel<A: IpFamily>(
        &mut self,
        at: Arrival,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        limit: usize,
        conn: &Conn<A>,
        dest: &Dest,
        out: &mut Out,
    ) -> Verdict {
        self.refuse(at, IcmpError::FragNeeded { mtu: limit as u32 }, meta, pkt, conn, dest, out);
        Verdict::Drop(DropReason::TooBig)
    }
}

fn send_tunnelled(
    host: &mut Host,
    at: Arrival,
    route: &Route,
    outer: &Meta,
    out: &mut Out,
    piece: crate::buf::OwnedPacket,
) {
    send_piece(host, at, route, outer.l3 as usize, OnFail::Tunnel, out, piece);
}

/// Sends one piece of a packet; what becomes of it counts at the host, the packet itself was split.
fn send_piece(
    host: &mut Host,
    at: Arrival,
    route: &Route,
    l3: usize,
    on_fail: OnFail,
    out: &mut Out,
    mut piece: crate::buf::OwnedPacket,
) {
    match piece.edit(|p| host.transmit(at.now, route, p, l3, on_fail, out)) {
        Verdict::Send(port) => out.push(port, piece),
        Verdict::Taken(_) | Verdict::HandTo(_) => out.recycle(piece),
        Verdict::Drop(why) => {
            host.drops.count(why);
            out.recycle(piece);
        }
    }
}

/// UDP source port of a GUE flow: the same for all its packets, from the dynamic range (RFC 7605;
/// kernel: `udp_flow_src_port` over 32768 to 60999). Made of the half of the hash that says nothing about
/// places in the connection table.
#[inline]
pub(super) fn gue_port(hash: u64) -> u16 {
    const LOW: u64 = 32_768;
    const HIGH: u64 = 60_999;
    (LOW + (((hash & 0xffff_ffff) * (HIGH - LOW + 1)) >> 32)) as u16
}
