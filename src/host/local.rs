//! What the director answers itself: echo, time stamps, resets and unreachables, as the kernel's own
//! stack does for packets no service took (kernel rules 21, 80, 87).

use std::net::IpAddr;

use super::options::with_options;
use super::{Closed, Host, IcmpError, Owned, Route, Segment};
use crate::buf::{Csum, Out, OwnedPacket, PacketBuf};
use crate::engine::{DropReason, PortId, Taken, Verdict};
use crate::time::Mono;
use crate::wire::icmp::{self, field, v4, v6};
use crate::wire::tcp::{self, flag};
use crate::wire::{Family, Meta, be16, be32, ipv4, ipv6, number as n, put16, put32, sum};

/// Protocols a kernel host listens to without an answer.
const IGMP: u8 = 2;
const PIM: u8 = 103;
const UDP_LITE: u8 = 136;
const ECN: u8 = 0x03;
/// Bytes of an ICMP time stamp message; a question needs no more than its own time.
const TIMESTAMP_LEN: usize = 20;
const TIMESTAMP_ASKED: usize = 12;

const LOCAL: Verdict = Verdict::Taken(Taken::Local);

impl Host {
    /// A packet to one of our addresses, or to a group we have joined, that no service took. Fragments
    /// are to be put together before.
    pub fn local_in(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        if meta.is_fragment() {
            return Verdict::Drop(DropReason::BadFragment);
        }
        if pkt.bytes().len() < meta.end as usize || u32::from(meta.l4) > meta.end {
            return Verdict::Drop(DropReason::BadIpLength);
        }
        match (meta.family, meta.proto) {
            (Family::V4, n::ICMP) => return self.icmp4_in(now, port, meta, pkt, out),
            (Family::V6, n::ICMPV6) => return self.icmp6_in(now, port, meta, pkt, out),
            _ => {}
        }
        if self.owns(port, meta.dst(pkt.bytes())) == Owned::Group {
            return Verdict::Drop(DropReason::MartianDestination);
        }
        if self.plan.closed == Closed::Drop {
            return Verdict::Drop(DropReason::NoService);
        }
        match meta.proto {
            n::TCP => self.reset(now, port, meta, pkt, out),
            n::UDP => self.udp_in(now, port, meta, pkt, out),
            // listened to and of no interest; "no next header" asks for nothing
            IGMP if meta.family == Family::V4 => Verdict::Drop(DropReason::Protocol),
            n::NONE if meta.family == Family::V6 => Verdict::Drop(DropReason::Protocol),
            PIM | UDP_LITE => Verdict::Drop(DropReason::Protocol),
            // the recorded host knows tunnels but has none (vectors 7-nodest, 7-protos4, 7-protos6)
            n::IPIP | n::IPV6 | n::GRE if meta.family == Family::V4 || meta.proto != n::GRE => {
                if !is_tunnel(&pkt.bytes()[usize::from(meta.l4)..meta.end as usize], meta.proto) {
                    return Verdict::Drop(DropReason::BadTunnel);
                }
                self.refuse(now, IcmpError::PortUnreachable, port, meta, pkt, out)
            }
            _ => self.refuse(now, IcmpError::ProtoUnreachable, port, meta, pkt, out),
        }
    }

    fn refuse(
        &mut self,
        now: Mono,
        kind: IcmpError,
        port: PortId,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let source = Some(meta.dst(pkt.bytes()));
        self.error(now, kind, port, pkt.bytes(), meta, source, out);
        LOCAL
    }

    fn icmp4_in(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let (l3, l4) = (usize::from(meta.l3), usize::from(meta.l4));
        let message = &pkt.bytes()[l4..meta.end as usize];
        if message.len() < icmp::LEN || sum::checksum(message) != 0 {
            return Verdict::Drop(DropReason::BadIcmpChecksum);
        }
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (meta.src(pkt.bytes()), meta.dst(pkt.bytes())) else {
            return Verdict::Drop(DropReason::IcmpIgnored);
        };
        let (answer, len) = match message[field::TYPE] {
            v4::ECHO => (v4::ECHO_REPLY, message.len()),
            v4::TIMESTAMP if message.len() >= TIMESTAMP_ASKED => (v4::TIMESTAMP_REPLY, TIMESTAMP_LEN),
            _ => return Verdict::Drop(DropReason::IcmpIgnored),
        };
        let Some(route) = self.answerable(port, src.into()) else {
            return Verdict::Drop(DropReason::NoRoute);
        };
        let ip = ipv4::Header {
            tos: pkt.bytes()[l3 + ipv4::field::TOS],
            total: (ipv4::LEN + len) as u16,
            id: self.random.next() as u16,
            df: false,
            ttl: 64,
            proto: n::ICMP,
            src: dst.into(),
            dst: src.into(),
        };
        let Some(options) = self.echoed_options(now, port, pkt.bytes(), meta, dst) else { return LOCAL };
        let stamp = self.since_midnight(now);
        let mut reply = out.packet(ipv4::LEN + len);
        reply.edit(|p| {
            let b = p.bytes_mut();
            if let Some(header) = b.first_chunk_mut() {
                ip.write(header);
            }
            let icmp = &mut b[ipv4::LEN..];
            let asked = message.len().min(len);
            icmp[..asked].copy_from_slice(&message[..asked]);
            icmp[field::TYPE] = answer;
            // an echo keeps its code, as in the kernel
            if answer == v4::TIMESTAMP_REPLY {
                icmp[field::CODE] = 0;
                put32(icmp, 12, stamp);
                put32(icmp, 16, stamp);
            }
            put16(icmp, field::CHECKSUM, 0);
            let check = sum::checksum(icmp);
            put16(icmp, field::CHECKSUM, check);
        });
        let reply = with_options(out, reply, &options);
        self.counters.echo_replies += 1;
        self.send_own(now, &route, reply, out);
        LOCAL
    }

    fn icmp6_in(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let frame = pkt.bytes();
        let (l3, l4) = (usize::from(meta.l3), usize::from(meta.l4));
        let message = &frame[l4..meta.end as usize];
        if message.len() < icmp::LEN || !checksum_ok(frame, meta, Csum::Complete, message.len()) {
            return Verdict::Drop(DropReason::BadIcmpChecksum);
        }
        match message[field::TYPE] {
            v6::NEIGHBOR_SOLICITATION | v6::NEIGHBOR_ADVERTISEMENT => {
                return self.ndp_in(now, port, meta, pkt, out);
            }
            v6::ECHO => {}
            _ => return Verdict::Drop(DropReason::IcmpIgnored),
        }
        let (src, dst) = (meta.src(frame), meta.dst(frame));
        let Some(route) = self.answerable(port, src) else { return Verdict::Drop(DropReason::NoRoute) };
        // who asks a group is answered by each of it
        let own = if dst.is_multicast() { self.source_for(&route, true) } else { Some(dst) };
        let Some(dst) = own else { return Verdict::Drop(DropReason::IcmpIgnored) };
        let class = frame[l3] << 4 | frame[l3 + 1] >> 4;
        let flow = self.flow_label(Some(dst), src, n::ICMPV6, 0);
        let message = &pkt.bytes()[l4..meta.end as usize];
        let reply =
            reply6(out, (class, flow, n::ICMPV6), (dst, src), message.len(), field::CHECKSUM, |icmp| {
                icmp.copy_from_slice(message);
                icmp[field::TYPE] = v6::ECHO_REPLY;
                icmp[field::CODE] = 0;
            });
        self.counters.echo_replies += 1;
        self.send_own(now, &route, reply, out);
        LOCAL
    }

    /// Answers a TCP segment with a reset its sender accepts.
    pub fn reset(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let frame = pkt.bytes();
        let (l3, l4) = (usize::from(meta.l3), usize::from(meta.l4));
        let segment = &frame[l4..meta.end as usize];
        if segment.len() < tcp::LEN {
            return Verdict::Drop(DropReason::ShortTransport);
        }
        let header = usize::from(segment[tcp::field::OFFSET] >> 4) * 4;
        if header < tcp::LEN || header > segment.len() {
            return Verdict::Drop(DropReason::ShortTransport);
        }
        let flags = segment[tcp::field::FLAGS];
        // the kernel looks at the checksum before anything else
        if !checksum_ok(frame, meta, pkt.offload.csum, segment.len()) {
            return Verdict::Drop(DropReason::BadTransportChecksum);
        }
        if flags & flag::RST != 0 {
            return Verdict::Drop(DropReason::NoService);
        }
        let (src, dst) = (meta.src(frame), meta.dst(frame));
        let Some(route) = self.answerable(port, src) else { return Verdict::Drop(DropReason::NoRoute) };
        // RFC 793 section 3.4: the reset must be acceptable to the sender's state
        let (seq, ack, answer) = if flags & flag::ACK != 0 {
            (be32(segment, tcp::field::ACK), 0, flag::RST)
        } else {
            let data = (segment.len() - header) as u32;
            let virtual_bytes = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
            let next = be32(segment, tcp::field::SEQ).wrapping_add(data).wrapping_add(virtual_bytes);
            (0, next, flag::RST | flag::ACK)
        };
        let (sport, dport) = (meta.sport, meta.dport);
        let (tos, flow) = match meta.family {
            Family::V4 => (frame[l3 + ipv4::field::TOS], 0),
            Family::V6 => {
                let ports = u32::from(dport) << 16 | u32::from(sport);
                (frame[l3] << 4 | frame[l3 + 1] >> 4, self.flow_label(Some(dst), src, n::TCP, ports))
            }
        };
        let (from, to) = ((dst, dport), (src, sport));
        let mut reset = Segment { tos: tos & !ECN, flow, from, to, seq, ack, flags: answer }.build(out);
        if let IpAddr::V4(own) = dst {
            let Some(options) = self.echoed_options(now, port, frame, meta, own) else { return LOCAL };
            reset = with_options(out, reset, &options);
        }
        self.counters.resets += 1;
        self.counters.refused_bytes += reset.bytes().len() as u64;
        self.send_own(now, &route, reset, out);
        LOCAL
    }

    fn udp_in(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let frame = pkt.bytes();
        let datagram = &frame[usize::from(meta.l4)..meta.end as usize];
        if datagram.len() < 8 {
            return Verdict::Drop(DropReason::ShortTransport);
        }
        let len = match usize::from(be16(datagram, 4)) {
            // RFC 2675: zero stands for the IP length
            0 if meta.family == Family::V6 => datagram.len(),
            len if len < 8 || len > datagram.len() => return Verdict::Drop(DropReason::ShortTransport),
            len => len,
        };
        let unsummed = be16(datagram, 6) == 0;
        let fine = match meta.family {
            Family::V4 if unsummed => true,
            Family::V6 if unsummed => false,
            _ => checksum_ok(frame, meta, pkt.offload.csum, len),
        };
        if !fine {
            return Verdict::Drop(DropReason::BadTransportChecksum);
        }
        // what lies behind the UDP length is not quoted: the kernel cuts it off before it looks further
        let meta = Meta { end: u32::from(meta.l4) + len as u32, ..*meta };
        self.refuse(now, IcmpError::PortUnreachable, port, &meta, pkt, out)
    }

    /// The way back to a sender that may be answered.
    fn answerable(&self, port: PortId, src: IpAddr) -> Option<Route> {
        if self.own.somebody(port, src) { self.reply_route(port, src) } else { None }
    }
}

/// Is this a packet of a tunnel that a kernel without tunnels would refuse, rather than pass over?
fn is_tunnel(payload: &[u8], proto: u8) -> bool {
    match proto {
        n::IPIP => payload.len() >= ipv4::LEN,
        n::IPV6 => payload.len() >= ipv6::LEN,
        _ => {
            // version 0 without a source route; the checksum, the key and the number have four bytes each
            let Some(&[flags, version, ..]) = payload.first_chunk::<12>() else { return false };
            let fields = [0x80, 0x20, 0x10].iter().filter(|bit| flags & **bit != 0).count();
            let summed = flags & 0x80 == 0 || sum::checksum(payload) == 0;
            flags & 0x40 == 0 && version & 0x7f == 0 && payload.len() >= 4 + 4 * fields && summed
        }
    }
}

/// True when the transport checksum over `len` bytes is right, or the device vouches for it.
fn checksum_ok(frame: &[u8], meta: &Meta, csum: Csum, len: usize) -> bool {
    if csum != Csum::Complete {
        return true;
    }
    let at = usize::from(meta.l4);
    let Some(bytes) = frame.get(at..at + len) else { return false };
    let pseudo = match (meta.src(frame), meta.dst(frame)) {
        (IpAddr::V4(s), IpAddr::V4(d)) => sum::pseudo4(s.octets(), d.octets(), meta.proto, len as u32),
        (IpAddr::V6(s), IpAddr::V6(d)) => sum::pseudo6(&s.octets(), &d.octets(), meta.proto, len as u32),
        _ => return false,
    };
    sum::fold(pseudo + sum::sum(bytes)) == 0xffff
}

/// An IPv6 packet of our own, hop limit 64, whose transport part `fill` writes; the checksum at `check_at`
/// is computed here.
pub(super) fn reply6(
    out: &mut Out,
    (class, flow, next): (u8, u32, u8),
    (src, dst): (IpAddr, IpAddr),
    len: usize,
    check_at: usize,
    fill: impl FnOnce(&mut [u8]),
) -> OwnedPacket {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V6(a) => a.to_bits(),
        IpAddr::V4(_) => 0,
    };
    let (src, dst) = (bits(src), bits(dst));
    let mut reply = out.packet(ipv6::LEN + len);
    reply.edit(|p| {
        let b = p.bytes_mut();
        if let Some(header) = b.first_chunk_mut() {
            ipv6::Header { class, flow, payload: len as u16, next, hop_limit: 64, src, dst }.write(header);
        }
        let body = &mut b[ipv6::LEN..];
        fill(body);
        put16(body, check_at, 0);
        let pseudo = sum::pseudo6(&src.to_be_bytes(), &dst.to_be_bytes(), next, len as u32);
        let check = !sum::fold(pseudo + sum::sum(body));
        put16(body, check_at, check);
    });
    reply
}
