//! What a frame is and whose it is.

use std::net::IpAddr;

use super::burst::Sight;
use super::family::IpFamily;
use super::fragment;
use super::steer::is_neighbor_discovery;
use super::{Core, DropReason, PortId, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::table::{Side, flag};
use crate::host::{IcmpError, OnFail, Owned, options};
use crate::nat::icmp;
use crate::svc::{Dest, Proto, ServiceKey, Snapshot};
use crate::time::Mono;
use crate::wire::{Family, Meta, Parsed, number, tcp, ttl};

/// Where a packet came from and when; passed along its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub now: Mono,
    pub port: PortId,
    /// IP length of the largest fragment of a reassembled datagram; 0 for a packet that came whole.
    pub largest: u16,
    /// Another worker gave it to us: it is ours.
    pub handed: bool,
    /// An ordinary frame but for its SYN.
    pub plain: bool,
}

impl Arrival {
    /// Largest IP packet to send where the way out takes `mtu`: fragments leave no larger than they came
    /// (IPVS-RULES 37).
    #[inline]
    pub fn cut_to(&self, mtu: u32) -> usize {
        if self.largest == 0 { mtu as usize } else { (mtu as usize).min(usize::from(self.largest)) }
    }
}

impl Core {
    /// The way of one packet, from the frame to the verdict.
    #[inline]
    pub(super) fn packet(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        look: &Sight,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let meta = match look.found {
            Ok(Parsed::Ip(meta)) => meta,
            Ok(Parsed::Arp(offset)) => {
                if let Some(verdict) = self.spread(at, pkt, out) {
                    return verdict;
                }
                return self.host.arp_in(at.now, at.port, pkt, offset, out);
            }
            Ok(Parsed::Other(_)) => return Verdict::Drop(DropReason::EtherType),
            Err(DropReason::ShortTransport) if !look.group => {
                return self.stub(snap, at, pkt, out);
            }
            Err(why) => return Verdict::Drop(why),
        };
        // Ethernet padding is no part of the packet and must not be forwarded
        pkt.truncate(meta.end as usize);
        if !pkt.offload.lies_within(pkt.len()) {
            return Verdict::Drop(DropReason::BadOffload);
        }
        if look.group {
            if is_neighbor_discovery(pkt.bytes(), &meta)
                && let Some(verdict) = self.spread(at, pkt, out)
            {
                return verdict;
            }
            return self.group(at, &meta, pkt, out);
        }
        match meta.family {
            Family::V4 => self.ip::<u32>(snap, at, meta, look.hash, pkt, out),
            Family::V6 => self.ip::<u128>(snap, at, meta, look.hash, pkt, out),
        }
    }

    /// An IP packet; `hash` is that of its tuple.
    #[inline]
    pub(super) fn ip<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        hash: u64,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        if !A::V6
            && options::any(&meta)
            && let Some(verdict) = self.options::<A>(snap, at, &meta, pkt, out)
        {
            return verdict;
        }
        if meta.is_fragment() || fragment::is_atomic(pkt.bytes(), &meta) {
            if let Some(verdict) = self.steered(at, &meta, pkt, out) {
                return verdict;
            }
            return self.fragment::<A>(snap, at, &meta, pkt, out);
        }
        // IPVS sleeps while there is no service: its connections are not looked at (6-service-removed)
        if let Some(proto) = Proto::from_number(meta.proto)
            && !snap.services.is_empty()
        {
            let tuple = A::tuple(pkt.bytes(), &meta);
            let Some((slot, side)) = A::table(&mut self.tables).find(hash, &tuple) else {
                if let Some(verdict) = self.steered(at, &meta, pkt, out) {
                    return verdict;
                }
                A::table(&mut self.tables).missed(hash, tuple);
                return self.unknown::<A>(snap, at, meta, pkt, Some(proto), out);
            };
            if pkt.offload.gso.is_some() && A::table(&mut self.tables).get(slot).flags & flag::HELPED != 0 {
                return self.one_by_one::<A>(snap, at, &meta, pkt, out);
            }
            return match side {
                Side::Client => self.inbound::<A>(snap, at, meta, pkt, slot, out),
                Side::Real => self.outbound::<A>(snap, at, meta, pkt, slot, out),
            };
        }
        if let Some(verdict) = self.steered(at, &meta, pkt, out) {
            return verdict;
        }
        self.unknown::<A>(snap, at, meta, pkt, Proto::from_number(meta.proto), out)
    }

    /// A packet of no connection.
    pub(super) fn unknown<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        proto: Option<Proto>,
        out: &mut Out,
    ) -> Verdict {
        self.tell_unknown::<A>(snap, pkt.bytes(), &meta, proto);
        let tuple = A::tuple(pkt.bytes(), &meta);
        if let Some(slot) = self.awaited::<A>(&tuple, &meta) {
            return self.inbound::<A>(snap, at, meta, pkt, slot, out);
        }
        if self.tap.is_some()
            && let Some(verdict) = self.tapped(snap, &meta, pkt)
        {
            return verdict;
        }
        let (src, dst) = (tuple.src.ip(), tuple.dst.ip());
        if let Some(why) = self.host.check_source(at.port, src).or_else(|| self.host.check_dest(at.port, dst))
        {
            return Verdict::Drop(why);
        }
        let ours = self.host.owns(at.port, dst).is_unicast();
        if self.told() {
            self.tell_address(at.port, dst);
        }
        if proto.is_none()
            && !snap.services.is_empty()
            && icmp::kind(pkt.bytes(), &meta) == Some(icmp::Kind::Error)
        {
            return self.related::<A>(snap, at, meta, pkt, ours, out);
        }
        if snap.engines
            && !ours
            && proto == Some(Proto::Udp)
            && let Some(verdict) = self.begun_by_server::<A>(snap, at, meta, pkt, out)
        {
            return verdict;
        }
        let marked = proto.map(|p| (p, snap.mark_of(Some(p), dst, meta.dport)));
        if snap.sysctl.nat_icmp_send
            && let Some((proto, mark)) = marked
            && is_real_server(snap, proto, src, meta.sport)
            && !is_reset(proto, &meta, pkt.bytes())
        {
            // the kernel says so where packets for itself come in, and on the forwarding path, there behind
            // the TTL (2-icmp-nat-sysctl-off)
            let on_its_way = !ours && mark == 0;
            let (kind, why) = match if on_its_way { ttl::decrement(pkt, &mut meta) } else { Ok(()) } {
                Ok(()) => (IcmpError::PortUnreachable, DropReason::NoService),
                Err(why) => (IcmpError::TimeExceeded, why),
            };
            self.host.error(at.now, kind, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(why);
        }
        if let Some((proto, mark)) = marked {
            let found = if ours || mark != 0 { snap.find(mark, proto, dst, meta.dport) } else { None };
            let found = if self.told() {
                self.tell_service(!snap.net.marks.is_empty(), mark, (proto, dst, meta.dport), found)
            } else {
                found
            };
            if let Some(service) = found {
                if at.plain && ours {
                    self.remember::<A>(snap, at.port, &tuple, service);
                }
                return self.schedule::<A>(snap, at, (meta, tuple), pkt, service, ours, out);
            }
        }
        if ours || (dst.is_multicast() && meta.proto == number::ICMPV6) {
            return self.host.local_in(at.now, at.port, &meta, pkt, out);
        }
        self.route_on::<A>(snap, at, meta, pkt, out)
    }

    /// A packet in a broadcast or multicast frame: neighbour discovery, or nothing for us.
    fn group(&mut self, at: Arrival, meta: &Meta, pkt: &mut PacketBuf<'_>, out: &mut Out) -> Verdict {
        let dst = meta.dst(pkt.bytes());
        if !dst.is_multicast() {
            return Verdict::Drop(DropReason::GroupFrame);
        }
        if self.host.owns(at.port, dst) == Owned::Group && meta.proto == number::ICMPV6 {
            return self.host.local_in(at.now, at.port, meta, pkt, out);
        }
        Verdict::Drop(DropReason::MartianDestination)
    }

    /// Routes what is for somebody else, as a host with `ip_forward=1` does.
    pub(super) fn route_on<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        if !snap.net.forwarding {
            return Verdict::Drop(DropReason::NotOurs);
        }
        self.pass::<A>(at, meta, pkt, out)
    }

    /// Routes a packet, whoever may want that.
    pub(super) fn pass<A: IpFamily>(
        &mut self,
        at: Arrival,
        mut meta: Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let dst = meta.dst(pkt.bytes());
        let route = self.host.route(dst);
        self.tell_route(at.now, dst, route.as_ref());
        let Some(route) = route else {
            self.host.error(at.now, IcmpError::NetUnreachable, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::NoRoute);
        };
        if route.unreachable {
            self.host.error(at.now, IcmpError::HostUnreachable, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::Unreachable);
        }
        if meta.ttl <= 1 {
            self.host.error(at.now, IcmpError::TimeExceeded, at.port, pkt.bytes(), &meta, None, out);
            return Verdict::Drop(DropReason::TtlExpired);
        }
        if let Some(verdict) = self.too_big::<A>(at, &meta, pkt, route.mtu, None, out) {
            return verdict;
        }
        if let Err(why) = ttl::decrement(pkt, &mut meta) {
            return Verdict::Drop(why);
        }
        self.forward_options(&route, &meta, pkt);
        self.leave::<A>(
            at,
            &route,
            meta,
            pkt,
            OnFail::HostUnreachable { source: None, quote: Default::default() },
            out,
        )
    }
}

/// Is this the end of a real server whose replies have to pass here (kernel: `ip_vs_has_real_service`)?
fn is_real_server(snap: &Snapshot, proto: Proto, ip: IpAddr, port: u16) -> bool {
    let of_proto = |key: &ServiceKey| match *key {
        ServiceKey::Address { proto: p, .. } => p == proto,
        ServiceKey::Mark { .. } => true,
    };
    snap.services.iter().filter(|s| of_proto(&s.spec.key)).any(|s| {
        let is_it = |d: &Dest| d.spec.forward.translates() && d.spec.ip == ip && d.spec.port == port;
        s.dests.iter().any(|d| is_it(d))
    })
}

/// TCP RST or SCTP ABORT: not to be answered.
fn is_reset(proto: Proto, meta: &Meta, frame: &[u8]) -> bool {
    match proto {
        Proto::Tcp => meta.tcp_flags & tcp::flag::RST != 0,
        Proto::Sctp => frame.get(meta.l4 as usize + 12) == Some(&6),
        Proto::Udp => false,
    }
}
