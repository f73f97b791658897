//! The packet path out: the link header in front of an IP packet, or a place to wait for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::neigh::{Probe, Slow};
use super::neighbor::{Neighbor, Parked};
use super::{Host, HostEvent, IcmpError, Known, Route, family};
use crate::addr::Mac;
use crate::buf::{Offload, Out, OwnedPacket, PacketBuf};
use crate::engine::{DropReason, PortId, Taken, Verdict};
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::fragment::{fragment4, fragment6};
use crate::wire::meta::parse_quoted;
use crate::wire::ndp::{self, Ndp};
use crate::wire::sum::Delta;
use crate::wire::{Family, Link, Parsed, be16, be32, eth, ipv4, ipv6, number, parse, put16, put32, put128};

/// What an ICMP error about a translated packet quotes instead of the packet's own end-points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// The sender as it was, where the source was translated (FULLNAT); the error goes there.
    pub src: Option<SocketAddr>,
    /// The destination as it was: VIP and virtual port (vector `7-noarp-rs-m`). Transport checksums are
    /// left as they are.
    pub dst: Option<SocketAddr>,
}

/// What to do for a parked packet when its neighbour does not answer (kernel rule 95).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFail {
    /// Nothing (what the director sends itself).
    #[default]
    Nothing,
    /// Nothing is sent, but it is reported as [`Undelivered`] (TUN: the sender is the director).
    Tunnel,
    /// ICMP host unreachable to the packet's sender.
    HostUnreachable {
        /// Its source: the VIP for NAT; `None` = the director's own address (DR).
        source: Option<IpAddr>,
        /// What it quotes.
        quote: Quote,
    },
}

/// A packet that waited for its neighbour in vain.
#[derive(Clone, Debug)]
pub struct Undelivered {
    /// The packet, its end-points as its sender knows them.
    pub packet: OwnedPacket,
    /// Offset of its IP header.
    pub l3: usize,
    /// Bytes its sender was told.
    pub told: usize,
    /// It was parked as [`OnFail::Tunnel`].
    pub tunnel: bool,
}

impl Host {
    /// Makes the packet ready for the wire of a route: its IP header is at `l3`, bytes before that are an
    /// old link header or nothing. Without the neighbour's MAC a copy is parked while it is asked for.
    /// No MTU is checked. Established flows neither allocate nor copy.
    #[inline]
    pub fn transmit(
        &mut self,
        now: Mono,
        route: &Route,
        pkt: &mut PacketBuf<'_>,
        l3: usize,
        on_fail: OnFail,
        out: &mut Out,
    ) -> Verdict {
        let neighbor = self.neighbors.find(route.port, route.next_hop);
        if let Some(verdict) = ready(&self.links, neighbor, now, route, pkt, l3) {
            return verdict;
        }
        self.transmit_slow(now, route, pkt, l3, on_fail, out)
    }

    /// The same where nothing stands in the way: a neighbour that needs no thought, or none needed.
    /// `None`: nothing was done, use [`Host::transmit`].
    #[inline]
    pub fn transmit_ready(
        &mut self,
        now: Mono,
        route: &Route,
        neighbor: Option<&Known>,
        pkt: &mut PacketBuf<'_>,
        l3: usize,
    ) -> Option<Verdict> {
        let neighbor = match neighbor {
            Some(known) => self.neighbors.at(known),
            None => self.neighbors.find(route.port, route.next_hop),
        };
        ready(&self.links, neighbor, now, route, pkt, l3)
    }

    /// The neighbour at a place, where [`Host::transmit_ready`] would send to it. It counts as used when the
    /// caller says so.
    #[inline(always)]
    pub fn neighbor_at(&mut self, now: Mono, known: &Known) -> Option<&mut Neighbor> {
        self.neighbors.at(known).filter(|n| now < n.good_until)
    }

    /// The way to `ip` where it leads to another station and nothing stands in it: port, MTU, own station,
    /// neighbour.
    #[inline(always)]
    pub fn neighbor_towards(&mut self, now: Mono, ip: IpAddr) -> Option<(PortId, u32, Mac, &mut Neighbor)> {
        let (route, next_hop) = self.routes.line(ip).filter(|(r, _)| !r.unreachable)?;
        let &(Link::Ethernet, from) = self.links.get(usize::from(route.port.0))? else { return None };
        let neighbor = self.neighbors.find(route.port, next_hop).filter(|n| now < n.good_until)?;
        Some((route.port, route.mtu, from, neighbor))
    }

    /// What a port is, and its station.
    pub fn station(&self, port: PortId) -> Option<(Link, Mac)> {
        self.links.get(usize::from(port.0)).copied()
    }

    #[cold]
    fn transmit_slow(
        &mut self,
        now: Mono,
        route: &Route,
        pkt: &mut PacketBuf<'_>,
        l3: usize,
        on_fail: OnFail,
        out: &mut Out,
    ) -> Verdict {
        let Some(&(_, mac)) = self.links.get(usize::from(route.port.0)) else {
            return Verdict::Drop(DropReason::DeviceDown);
        };
        if route.unreachable {
            return Verdict::Drop(DropReason::Unreachable);
        }
        let hop = route.next_hop;
        let nobody = match hop {
            IpAddr::V4(a) => a.is_unspecified() || a.is_multicast() || self.own.is_broadcast(a),
            IpAddr::V6(a) => a.is_unspecified() || a.is_multicast(),
        };
        if nobody || self.own.is_ours(hop) {
            return Verdict::Drop(DropReason::MartianDestination);
        }
        let pinned = self.routes.is_next_hop(route.port, hop);
        let slow = self.neighbors.slow(now, route.port, hop, pinned);
        let verdict = match slow {
            Slow::Use(to) => {
                link_header(pkt, l3, to, mac).map_or_else(Verdict::Drop, |()| Verdict::Send(route.port))
            }
            Slow::Full => Verdict::Drop(DropReason::NeighborTableFull),
            Slow::Wait(question) => {
                let packet = out.copy_of(pkt.bytes(), pkt.offload);
                self.neighbors.park(route.port, hop, Parked { packet, l3, on_fail });
                if let Some(question) = question {
                    self.ask(question, out);
                }
                Verdict::Taken(Taken::Parked)
            }
        };
        self.count_lost(out);
        verdict
    }

    /// Sends an IP packet of our own, cut to the MTU where needed.
    pub fn send_own(&mut self, now: Mono, route: &Route, mut packet: OwnedPacket, out: &mut Out) {
        if packet.bytes().len() > route.mtu as usize {
            self.send_pieces(now, route, packet, out);
            return;
        }
        let port = route.port;
        match packet.edit(|p| self.transmit(now, route, p, 0, OnFail::Nothing, out)) {
            Verdict::Send(_) => out.push(port, packet),
            Verdict::Taken(_) | Verdict::HandTo(_) => out.recycle(packet),
            Verdict::Drop(why) => {
                self.drops.count(why);
                out.recycle(packet);
            }
        }
    }

    /// Cuts an IP packet of our own, which is never forbidden.
    fn send_pieces(&mut self, now: Mono, route: &Route, mut packet: OwnedPacket, out: &mut Out) {
        let (mtu, id) = (route.mtu as usize, self.random.next() as u32);
        let cut = packet.edit(|p| {
            let Ok(Parsed::Ip(meta)) = parse(p.bytes(), Link::Ip) else { return Err(DropReason::TooBig) };
            let each = |out: &mut Out, piece: OwnedPacket| {
                // what cannot be cut small enough comes back whole, and would again
                if piece.bytes().len() <= mtu {
                    self.send_own(now, route, piece, out);
                }
            };
            match meta.family {
                Family::V4 => fragment4(p, &meta, mtu, out, each),
                Family::V6 => fragment6(p, &meta, mtu, id, out, each),
            }
        });
        if let Err(why) = cut {
            self.drops.count(why);
        }
        out.recycle(packet);
    }

    /// Sends a frame that is complete.
    pub(super) fn send_frame(&mut self, port: PortId, frame: &[u8], out: &mut Out) {
        let packet = out.copy_of(frame, Offload::NONE);
        out.push(port, packet);
    }

    /// Asks for a neighbour.
    pub(super) fn ask(&mut self, probe: Probe, out: &mut Out) {
        let Some(&(Link::Ethernet, mac)) = self.links.get(usize::from(probe.port.0)) else { return };
        self.counters.questions += 1;
        match probe.ip {
            IpAddr::V4(target_ip) => {
                let source = super::route::source(&self.plan, probe.port, probe.ip, false);
                let sender_ip = match source {
                    Some(IpAddr::V4(a)) => a,
                    // without an address of our own it is a probe: those are answered too (RFC 5227)
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let request = Arp {
                    operation: Operation::Request,
                    sender_mac: mac,
                    sender_ip,
                    target_mac: Mac::default(),
                    target_ip,
                };
                self.send_frame(probe.port, &request.frame(probe.to.unwrap_or(Mac::BROADCAST)), out);
            }
            IpAddr::V6(target) => {
                let Some(source) = self.own.link_local(probe.port) else { return };
                let group = ndp::solicited_node(target);
                let (to, dst) = match probe.to {
                    Some(known) => (known, target),
                    None => (Mac::of_multicast6(group), group),
                };
                let question = Ndp::Solicit { target, source_mac: Some(mac) };
                let (frame, len) = question.frame((to, mac), source, dst);
                self.send_frame(probe.port, &frame[..len], out);
            }
        }
    }

    /// Sends what waited for a neighbour, in order.
    pub(super) fn release(
        &mut self,
        port: PortId,
        to: Mac,
        waiting: impl IntoIterator<Item = Parked>,
        out: &mut Out,
    ) {
        let Some(&(_, mac)) = self.links.get(usize::from(port.0)) else { return };
        for Parked { mut packet, l3, .. } in waiting {
            match packet.edit(|p| link_header(p, l3, to, mac)) {
                Ok(()) => {
                    self.counters.released += 1;
                    out.push(port, packet);
                }
                Err(why) => {
                    self.drops.count(why);
                    out.recycle(packet);
                }
            }
        }
    }

    /// Timers of the neighbour table.
    pub(super) fn neighbor_timeout(&mut self, now: Mono, out: &mut Out) {
        if self.neighbors.next().is_none_or(|t| now < t) {
            return;
        }
        // who does not ask what became of them does not keep them
        self.undelivered.drain(..).for_each(|u| out.recycle(u.packet));
        let (mut ask, mut failed) = (Vec::new(), Vec::new());
        self.neighbors.due(now, &mut ask, &mut failed);
        for question in ask {
            self.ask(question, out);
        }
        for (port, ip, waiting) in failed {
            self.event(HostEvent::NeighborFailed { port, ip });
            for parked in waiting {
                self.drops.count(DropReason::NeighborFailed);
                self.failed(now, port, parked, out);
            }
        }
        self.count_lost(out);
    }

    /// Tells the sender of a packet that waited in vain.
    fn failed(&mut self, now: Mono, port: PortId, mut parked: Parked, out: &mut Out) {
        let mut told = 0;
        if let OnFail::HostUnreachable { source, quote } = parked.on_fail {
            parked.packet.edit(|p| untranslate(p.bytes_mut(), parked.l3, &quote));
            let bytes = parked.packet.bytes();
            let kind = match bytes.get(parked.l3).map(|b| b >> 4) {
                Some(4) => Family::V4,
                _ => Family::V6,
            };
            if let Ok(meta) = parse_quoted(bytes, parked.l3, kind) {
                let sender = meta.src(bytes);
                let own = || self.source_for(&self.reply_route(port, sender)?, sender.is_ipv6());
                let source = source.or_else(own);
                self.recall_options(bytes, &meta, true);
                told = self.error(now, IcmpError::HostUnreachable, port, bytes, &meta, source, out);
            }
        }
        if parked.on_fail == OnFail::Nothing {
            out.recycle(parked.packet);
        } else {
            let Parked { packet, l3, on_fail } = parked;
            self.undelivered.push(Undelivered { packet, l3, told, tunnel: on_fail == OnFail::Tunnel });
        }
    }

    pub(super) fn count_lost(&mut self, out: &mut Out) {
        for (packet, why) in self.neighbors.lost.drain(..) {
            self.drops.count(why);
            out.recycle(packet);
        }
    }
}

#[inline]
fn ready(
    links: &[(Link, Mac)],
    neighbor: Option<&mut Neighbor>,
    now: Mono,
    route: &Route,
    pkt: &mut PacketBuf<'_>,
    l3: usize,
) -> Option<Verdict> {
    let &(link, mac) = links.get(usize::from(route.port.0))?;
    if route.unreachable {
        return None;
    }
    if link == Link::Ip {
        pkt.trim_front(l3);
        return Some(Verdict::Send(route.port));
    }
    let n = neighbor.filter(|n| now < n.good_until)?;
    n.used = now;
    let to = n.mac;
    Some(link_header(pkt, l3, to, mac).map_or_else(Verdict::Drop, |()| Verdict::Send(route.port)))
}

/// Writes the Ethernet header just before the IP header at `l3`.
#[inline]
fn link_header(pkt: &mut PacketBuf<'_>, l3: usize, to: Mac, from: Mac) -> Result<(), DropReason> {
    let kind = match pkt.bytes().get(l3).map(|b| b >> 4) {
        Some(4) => number::ETH_IPV4,
        Some(6) => number::ETH_IPV6,
        _ => return Err(DropReason::BadVersion),
    };
    if l3 > eth::LEN {
        pkt.trim_front(l3 - eth::LEN);
    } else if l3 < eth::LEN {
        pkt.prepend(eth::LEN - l3).ok_or(DropReason::NoHeadroom)?;
    }
    let header = pkt.bytes_mut().first_chunk_mut().ok_or(DropReason::ShortFrame)?;
    eth::write(header, to, from, kind);
    Ok(())
}

/// Puts the end-points back that the packet had before translation. Only the IP header checksum follows
/// (kernel: `ip_vs_nat_icmp`, seen in vector `7-noarp-rs-m`).
fn untranslate(frame: &mut [u8], l3: usize, quote: &Quote) {
    let Some(version) = frame.get(l3).map(|b| b >> 4) else { return };
    let Ok(meta) = parse_quoted(frame, l3, if version == 4 { Family::V4 } else { Family::V6 }) else {
        return;
    };
    let ported = matches!(meta.proto, number::TCP | number::UDP | number::SCTP) && meta.frag_offset == 0;
    for (end, at4, at6, at_port) in [
        (quote.src, ipv4::field::SRC, ipv6::field::SRC, 0),
        (quote.dst, ipv4::field::DST, ipv6::field::DST, 2),
    ] {
        let Some(end) = end.filter(|e| family(e.ip()) == meta.family) else { continue };
        match end.ip() {
            IpAddr::V4(a) => {
                let old = be32(frame, l3 + at4);
                let check = be16(frame, l3 + ipv4::field::CHECKSUM);
                put32(frame, l3 + at4, a.into());
                put16(frame, l3 + ipv4::field::CHECKSUM, Delta::new().dword(old, a.into()).apply(check));
            }
            IpAddr::V6(a) => put128(frame, l3 + at6, a.into()),
        }
        if ported {
            put16(frame, usize::from(meta.l4) + at_port, end.port());
        }
    }
}
