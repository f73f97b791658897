//! ICMP errors about somebody's packet, as the kernel sends them (`icmp_send`, `icmp6_send`).

use std::net::IpAddr;

use super::Host;
use super::options::with_options;
use crate::buf::Out;
use crate::engine::PortId;
use crate::time::{Mono, Span};
use crate::wire::icmp::{self, field, v4, v6};
use crate::wire::{Family, Meta, ipv4, ipv6, number as n, put16, put32, sum};

/// What is wrong with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit ran out: 11/0, 3/0.
    TimeExceeded,
    /// Fragments did not come in time: 11/1, 3/1.
    ReassemblyTimeout,
    /// Nothing listens there: 3/3, 1/4.
    PortUnreachable,
    /// The protocol is not known: 3/2; IPv6 parameter problem 4/1 with its place.
    ProtoUnreachable,
    /// The host does not answer or a route says so: 3/1, 1/3.
    HostUnreachable,
    /// No route: 3/0, 1/0.
    NetUnreachable,
    /// Not allowed: 3/13, 1/1.
    Prohibited,
    /// Some other kind of unreachable, told by a router on the way: 3/code, 1/3.
    PassedOn {
        /// Its code over IPv4.
        code: u8,
    },
    /// A header that makes no sense: 12/0, 4/0.
    ParameterProblem {
        /// Offset of the byte in question.
        at: u8,
    },
    /// Larger than the way out: 3/4, and 2/0 for an IPv6 packet.
    FragNeeded {
        /// Largest IP packet that fits.
        mtu: u32,
    },
    /// The same, under its IPv6 name.
    TooBig {
        /// Largest IP packet that fits.
        mtu: u32,
    },
}

/// Most bytes of an ICMP error over IPv4 (RFC 1812 section 4.3.2.3) and IPv6 (RFC 4443 section 2.4 (c)),
/// IP header included.
const LARGEST4: usize = 576;
const LARGEST6: usize = 1280;
/// Errors that may follow each other at once (kernel: `icmp_msgs_burst`).
const BURST: u64 = 50;
/// TOS: the precedence of network control, and of the packet's own TOS these bits
/// (kernel: `IPTOS_PREC_INTERNETCONTROL`, `IPTOS_TOS_MASK`).
const TOS_ERROR: u8 = 0xc0;
const TOS_KEPT: u8 = 0x1e;

impl IcmpError {
    fn message(self, family: Family, pointer: u32) -> (u8, u8, u32) {
        use IcmpError as E;
        match (family, self) {
            (Family::V4, E::TimeExceeded) => (v4::TIME_EXCEEDED, 0, 0),
            (Family::V4, E::ReassemblyTimeout) => (v4::TIME_EXCEEDED, 1, 0),
            (Family::V4, E::NetUnreachable) => (v4::UNREACHABLE, 0, 0),
            (Family::V4, E::HostUnreachable) => (v4::UNREACHABLE, 1, 0),
            (Family::V4, E::ProtoUnreachable) => (v4::UNREACHABLE, 2, 0),
            (Family::V4, E::PortUnreachable) => (v4::UNREACHABLE, 3, 0),
            (Family::V4, E::FragNeeded { mtu } | E::TooBig { mtu }) => (v4::UNREACHABLE, 4, mtu.min(0xffff)),
            (Family::V4, E::PassedOn { code }) => (v4::UNREACHABLE, code, 0),
            (Family::V4, E::Prohibited) => (v4::UNREACHABLE, 13, 0),
            (Family::V4, E::ParameterProblem { at }) => (v4::PARAMETER_PROBLEM, 0, u32::from(at) << 24),
            (Family::V6, E::TimeExceeded) => (v6::TIME_EXCEEDED, 0, 0),
            (Family::V6, E::ReassemblyTimeout) => (v6::TIME_EXCEEDED, 1, 0),
            (Family::V6, E::NetUnreachable) => (v6::UNREACHABLE, 0, 0),
            (Family::V6, E::Prohibited) => (v6::UNREACHABLE, 1, 0),
            (Family::V6, E::HostUnreachable | E::PassedOn { .. }) => (v6::UNREACHABLE, 3, 0),
            (Family::V6, E::PortUnreachable) => (v6::UNREACHABLE, 4, 0),
            (Family::V6, E::FragNeeded { mtu } | E::TooBig { mtu }) => (v6::TOO_BIG, 0, mtu),
            (Family::V6, E::ParameterProblem { at }) => (v6::PARAMETER_PROBLEM, 0, at.into()),
            (Family::V6, E::ProtoUnreachable) => (v6::PARAMETER_PROBLEM, 1, pointer),
        }
    }

    /// Path MTU discovery is never limited, as in the kernel.
    fn is_limited(self) -> bool {
        !matches!(self, IcmpError::FragNeeded { .. } | IcmpError::TooBig { .. })
    }
}

impl Host {
    /// Tells the sender of the packet `meta` describes in `frame` what is wrong with it. `source` is the
    /// error's source address; `None` = the packet's destination when it is ours, else our address on the
    /// way back. Gives the bytes of IP that were sent: none about ICMP errors, later IPv4 fragments, groups,
    /// broadcasts and senders that can be nobody (RFC 1122 section 3.2.2, RFC 4443 section 2.4), and not
    /// faster than [`super::HostOptions::icmp_limit`]. The quote is the packet as it is, partial
    /// checksums included.
    #[expect(clippy::too_many_arguments, reason = "an error has this many facts")]
    pub fn error(
        &mut self,
        now: Mono,
        kind: IcmpError,
        in_port: PortId,
        frame: &[u8],
        meta: &Meta,
        source: Option<IpAddr>,
        out: &mut Out,
    ) -> usize {
        let Some(packet) = frame.get(usize::from(meta.l3)..meta.end as usize) else { return 0 };
        if packet.len() < if meta.family == Family::V4 { ipv4::LEN } else { ipv6::LEN } {
            return 0;
        }
        let (sender, dst) = (meta.src(frame), meta.dst(frame));
        if !self.may_tell(in_port, frame, meta, sender, dst) {
            return 0;
        }
        let Some(route) = self.reply_route(in_port, sender) else { return 0 };
        let own = self.own.owns(in_port, dst).is_unicast().then_some(dst);
        let source = source.or(own).or_else(|| self.source_for(&route, sender.is_ipv6()));
        if kind.is_limited() && !self.within_limit(now) {
            self.counters.errors_suppressed += 1;
            return 0;
        }
        let pointer = if meta.family == Family::V6 { next_header_at(packet, meta) } else { 0 };
        let message = kind.message(meta.family, pointer);
        let made = match (source, sender) {
            (Some(IpAddr::V4(from)), IpAddr::V4(to)) => {
                let tos = packet[ipv4::field::TOS] & TOS_KEPT | TOS_ERROR;
                let id = self.random.next() as u16;
                let Some(options) = self.echoed_options(now, in_port, frame, meta, from) else { return 0 };
                let quoted = &packet[..packet.len().min(LARGEST4 - ipv4::LEN - options.len() - icmp::LEN)];
                let total = (ipv4::LEN + icmp::LEN + quoted.len()) as u16;
                let (src, dst) = (from.into(), to.into());
                let ip = ipv4::Header { tos, total, id, df: false, ttl: 64, proto: n::ICMP, src, dst };
                let made = error4(out, &ip, message, quoted);
                with_options(out, made, &options)
            }
            (Some(IpAddr::V6(from)), IpAddr::V6(to)) => {
                let flow = self.flow_label(source, sender, n::ICMPV6, 0);
                let quoted = &packet[..packet.len().min(LARGEST6 - ipv6::LEN - icmp::LEN)];
                let payload = (icmp::LEN + quoted.len()) as u16;
                let (src, dst) = (from.into(), to.into());
                let ip = ipv6::Header { class: 0, flow, payload, next: n::ICMPV6, hop_limit: 64, src, dst };
                error6(out, &ip, message, quoted)
            }
            _ => return 0,
        };
        self.counters.errors += 1;
        let sent = made.bytes().len();
        self.counters.refused_bytes += sent as u64;
        self.send_own(now, &route, made, out);
        sent
    }

    fn may_tell(&self, port: PortId, frame: &[u8], meta: &Meta, sender: IpAddr, dst: IpAddr) -> bool {
        let group = match dst {
            IpAddr::V4(a) => a.is_multicast() || self.own.is_broadcast(a),
            IpAddr::V6(a) => a.is_multicast(),
        };
        if group || !self.own.somebody(port, sender) {
            return false;
        }
        if meta.frag_offset != 0 {
            return meta.family == Family::V6;
        }
        let kind = frame.get(usize::from(meta.l4)).filter(|_| u32::from(meta.l4) < meta.end);
        match meta.proto {
            n::ICMP if meta.family == Family::V4 => kind.is_some_and(|k| !icmp::is_error4(*k)),
            n::ICMPV6 if meta.family == Family::V6 => kind.is_some_and(|k| !icmp::is_error6(*k)),
            _ => true,
        }
    }

    /// The generic cell rate algorithm: a bucket without a bucket.
    fn within_limit(&mut self, now: Mono) -> bool {
        let Some(limit) = self.options.icmp_limit else { return true };
        if limit == 0 {
            return false;
        }
        let sharers = u64::from(self.sharers);
        let step = Span(1_000_000_000 * sharers / u64::from(limit));
        let burst = (BURST.min(u64::from(limit)) / sharers).max(1);
        let tat = self.limit_tat.max(now);
        if tat - now > Span(step.0.saturating_mul(burst - 1)) {
            return false;
        }
        self.limit_tat = tat + step;
        true
    }

    /// A flow label that is the same for all packets of a flow and tells nothing (kernel: `auto_flowlabels`).
    pub(super) fn flow_label(&self, src: Option<IpAddr>, dst: IpAddr, proto: u8, ports: u32) -> u32 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = self.folded.build_hasher();
        for ip in src.into_iter().chain([dst]) {
            super::key::Key::of(ip).hash(&mut hasher);
        }
        hasher.write_u64(u64::from(proto) << 32 | u64::from(ports));
        hasher.finish() as u32 & 0xf_ffff
    }
}

fn error4(
    out: &mut Out,
    ip: &ipv4::Header,
    message: (u8, u8, u32),
    quoted: &[u8],
) -> crate::buf::OwnedPacket {
    let mut packet = out.packet(usize::from(ip.total));
    packet.edit(|p| {
        let b = p.bytes_mut();
        if let Some(header) = b.first_chunk_mut() {
            ip.write(header);
        }
        let icmp = &mut b[ipv4::LEN..];
        fill(icmp, message, quoted);
        let check = sum::checksum(icmp);
        put16(icmp, field::CHECKSUM, check);
    });
    packet
}

fn error6(
    out: &mut Out,
    ip: &ipv6::Header,
    message: (u8, u8, u32),
    quoted: &[u8],
) -> crate::buf::OwnedPacket {
    let mut packet = out.packet(ipv6::LEN + usize::from(ip.payload));
    packet.edit(|p| {
        let b = p.bytes_mut();
        if let Some(header) = b.first_chunk_mut() {
            ip.write(header);
        }
        let icmp = &mut b[ipv6::LEN..];
        fill(icmp, message, quoted);
        let pseudo =
            sum::pseudo6(&ip.src.to_be_bytes(), &ip.dst.to_be_bytes(), n::ICMPV6, u32::from(ip.payload));
        let check = !sum::fold(pseudo + sum::sum(icmp));
        put16(icmp, field::CHECKSUM, check);
    });
    packet
}

fn fill(icmp: &mut [u8], (kind, code, rest): (u8, u8, u32), quoted: &[u8]) {
    icmp[field::TYPE] = kind;
    icmp[field::CODE] = code;
    put16(icmp, field::CHECKSUM, 0);
    put32(icmp, field::REST, rest);
    icmp[icmp::LEN..].copy_from_slice(quoted);
}

/// Where the IPv6 header chain names the protocol `meta` found: the pointer of a parameter problem.
fn next_header_at(packet: &[u8], meta: &Meta) -> u32 {
    let l4 = usize::from(meta.l4 - meta.l3);
    let (mut at, mut names, mut kind) = (ipv6::LEN, ipv6::field::NEXT, packet[ipv6::field::NEXT]);
    while at < l4 && at + 1 < packet.len() {
        let len = match kind {
            n::FRAGMENT => 8,
            n::AH => 8 + usize::from(packet[at + 1]) * 4,
            _ => 8 + usize::from(packet[at + 1]) * 8,
        };
        (names, kind) = (at, packet[at]);
        at += len;
    }
    names as u32
}
