//! ARP and neighbour discovery: what is answered, what is learnt, what is announced.

use std::net::{IpAddr, Ipv6Addr};

use super::neigh::{Claim, Replace};
use super::{Host, HostEvent};
use crate::addr::Mac;
use crate::buf::{Out, PacketBuf};
use crate::engine::{DropReason, PortId, Taken, Verdict};
use crate::time::Mono;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ndp::{self, Ndp};
use crate::wire::{Link, Meta, eth, ipv6};

impl Host {
    /// An ARP packet at offset `at` of the frame came in. Requests for our addresses are answered
    /// (RFC 826); a sender is learnt when it asked for us or is known already.
    pub fn arp_in(
        &mut self,
        now: Mono,
        port: PortId,
        pkt: &mut PacketBuf<'_>,
        at: usize,
        out: &mut Out,
    ) -> Verdict {
        let bad = Verdict::Drop(DropReason::BadArp);
        let Some(&(Link::Ethernet, mac)) = self.links.get(usize::from(port.0)) else { return bad };
        let Some(arp) = pkt.bytes().get(at..).and_then(Arp::read) else { return bad };
        let (sender, target) = (IpAddr::V4(arp.sender_ip), IpAddr::V4(arp.target_ip));
        // our own frame come back, or a sender no frame can be sent to
        if arp.sender_mac == mac || arp.sender_mac.is_group() || arp.sender_mac == Mac::default() {
            return bad;
        }
        let probe = arp.sender_ip.is_unspecified();
        if !probe && self.own.answers(port, sender) {
            self.conflict(port, sender, arp.sender_mac);
            return Verdict::Taken(Taken::Local);
        }
        if !probe && !self.own.somebody(port, sender) {
            return bad;
        }
        let for_us = self.own.answers(port, target);
        if arp.operation == Operation::Request && for_us {
            if !probe {
                let claim =
                    Claim { mac: arp.sender_mac, solicited: false, replace: Replace::Always, create: true };
                self.learn(now, port, sender, claim, out);
            }
            let reply = Arp {
                operation: Operation::Reply,
                sender_mac: mac,
                sender_ip: arp.target_ip,
                target_mac: arp.sender_mac,
                target_ip: arp.sender_ip,
            };
            if !self.silent {
                self.counters.answers += 1;
                self.send_frame(port, &reply.frame(arp.sender_mac), out);
            }
            return Verdict::Taken(Taken::Local);
        }
        // the noise of a link: of use only when it is about a neighbour we have
        let to_us = eth::read(pkt.bytes()).is_some_and(|(dst, _, _)| dst == mac);
        let solicited = arp.operation == Operation::Reply && to_us;
        let gratuitous = sender == target;
        let replace = if gratuitous { Replace::Always } else { Replace::Later };
        let claim = Claim { mac: arp.sender_mac, solicited, replace, create: false };
        if !probe && self.learn(now, port, sender, claim, out) { Verdict::Taken(Taken::Local) } else { bad }
    }

    /// A neighbour solicitation or advertisement whose ICMPv6 checksum is right.
    pub(super) fn ndp_in(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let bad = Verdict::Drop(DropReason::BadNd);
        let Some(&(Link::Ethernet, mac)) = self.links.get(usize::from(port.0)) else { return bad };
        let frame = pkt.bytes();
        let header = frame.get(usize::from(meta.l3)..).and_then(|b| b.first_chunk::<{ ipv6::LEN }>());
        let icmp = frame.get(usize::from(meta.l4)..meta.end as usize);
        let (Some(header), Some(icmp)) = (header, icmp) else { return bad };
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (meta.src(frame), meta.dst(frame)) else { return bad };
        let Some(message) = Ndp::read(header, icmp) else { return bad };
        let from = eth::read(frame).map(|(_, from, _)| from);
        match message {
            Ndp::Solicit { target, source_mac } => {
                if !self.own.answers(port, target.into()) {
                    return bad;
                }
                let usable = |m: &Mac| *m != mac && !m.is_group();
                if src.is_unspecified() {
                    // somebody is about to take our address (RFC 4862 section 5.4): tell everybody
                    self.advertise(
                        port,
                        target,
                        Mac::of_multicast6(ndp::ALL_NODES),
                        ndp::ALL_NODES,
                        false,
                        out,
                    );
                    return Verdict::Taken(Taken::Local);
                }
                if !self.own.somebody(port, src.into()) {
                    return bad;
                }
                if let Some(source) = source_mac.filter(usable) {
                    let claim =
                        Claim { mac: source, solicited: false, replace: Replace::Always, create: true };
                    self.learn(now, port, src.into(), claim, out);
                }
                let known = self.neighbors.mac_of(port, src.into());
                let Some(to) = source_mac.or(known).or(from).filter(usable) else { return bad };
                self.advertise(port, target, to, src, true, out);
            }
            Ndp::Advertise { target, target_mac, solicited, replace, .. } => {
                if self.own.answers(port, target.into()) {
                    let mac = target_mac.or(from).unwrap_or_default();
                    self.conflict(port, target.into(), mac);
                    return Verdict::Taken(Taken::Local);
                }
                let known = self.neighbors.mac_of(port, target.into());
                // an advertisement without a MAC can confirm only (RFC 4861 section 7.2.5)
                let Some(claimed) = target_mac.or(known).filter(|m| *m != mac && !m.is_group()) else {
                    return bad;
                };
                let solicited = solicited && !dst.is_multicast();
                let replace = if replace { Replace::Always } else { Replace::Never };
                let claim = Claim { mac: claimed, solicited, replace, create: false };
                if !self.learn(now, port, target.into(), claim, out) {
                    return bad;
                }
            }
        }
        Verdict::Taken(Taken::Local)
    }

    /// Learns what was said and sends what waited for it; says whether it is about a neighbour we have.
    fn learn(&mut self, now: Mono, port: PortId, ip: IpAddr, claim: Claim, out: &mut Out) -> bool {
        // who asks for us from outside the link's networks will not be sent to directly
        let on_link = match ip {
            IpAddr::V6(a) if a.is_unicast_link_local() => true,
            _ => {
                self.routes.is_next_hop(port, ip)
                    || self.routes.lookup(ip).is_some_and(|r| r.port == port && r.next_hop == ip)
            }
        };
        let claim = Claim { create: claim.create && on_link, ..claim };
        let learnt = self.neighbors.learn(now, port, ip, claim);
        if self.routes.is_next_hop(port, ip) {
            self.neighbors.pin(port, ip);
        }
        if let Some(from) = learnt.replaced {
            self.event(HostEvent::NeighborMoved { port, ip, from, to: claim.mac });
        }
        self.release(port, claim.mac, learnt.released, out);
        self.count_lost(out);
        learnt.known
    }

    fn conflict(&mut self, port: PortId, ip: IpAddr, mac: Mac) {
        if self.silent {
            return;
        }
        self.counters.conflicts += 1;
        let event = HostEvent::AddressConflict { port, ip, mac };
        if !self.events.contains(&event) {
            self.event(event);
        }
    }

    fn advertise(
        &mut self,
        port: PortId,
        target: Ipv6Addr,
        to: Mac,
        dst: Ipv6Addr,
        solicited: bool,
        out: &mut Out,
    ) {
        let Some(&(Link::Ethernet, mac)) = self.links.get(usize::from(port.0)).filter(|_| !self.silent)
        else {
            return;
        };
        let answer = Ndp::Advertise {
            target,
            target_mac: Some(mac),
            router: self.plan.forwarding,
            solicited,
            replace: true,
        };
        let (frame, len) = answer.frame((to, mac), target, dst);
        self.counters.answers += 1;
        self.send_frame(port, &frame[..len], out);
    }

    /// Announces every DIP and VIP on the ports that own it: gratuitous ARP (RFC 5227 section 2.3) and
    /// unsolicited advertisements (RFC 4861 section 7.2.6).
    pub fn announce(&mut self, now: Mono, out: &mut Out) {
        let plan = std::sync::Arc::clone(&self.plan);
        let dips = plan.ports.iter().flat_map(|p| p.addresses.iter().map(|c| c.addr));
        let mut all: Vec<IpAddr> = dips.chain(self.own.vips().iter().map(|(ip, _)| *ip)).collect();
        all.sort_unstable();
        all.dedup();
        for ip in all {
            self.announce_address(ip, out);
            // a device that is new may not be in its bridge yet
            if self.options.announce {
                self.again.push_back((now + super::ANNOUNCE_AGAIN, ip));
            }
        }
    }

    /// Announces one address on the ports that answer for it.
    pub(super) fn announce_address(&mut self, ip: IpAddr, out: &mut Out) {
        for at in 0..self.links.len() {
            let port = PortId(at as u16);
            let (link, mac) = self.links[at];
            if self.silent || link != Link::Ethernet || !self.own.answers(port, ip) {
                continue;
            }
            match ip {
                IpAddr::V4(a) => {
                    let arp = Arp {
                        operation: Operation::Request,
                        sender_mac: mac,
                        sender_ip: a,
                        target_mac: Mac::default(),
                        target_ip: a,
                    };
                    self.counters.answers += 1;
                    self.send_frame(port, &arp.frame(Mac::BROADCAST), out);
                }
                IpAddr::V6(a) => {
                    self.advertise(port, a, Mac::of_multicast6(ndp::ALL_NODES), ndp::ALL_NODES, false, out);
                }
            }
        }
    }
}
