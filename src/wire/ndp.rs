//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements.

use std::net::Ipv6Addr;

use super::icmp::v6 as kind;
use super::{be128, eth, ipv6, number, put16, put32, put128, sum};
use crate::addr::Mac;

/// Bytes of a solicitation or advertisement without options.
const LEN: usize = 24;
/// Bytes of a link-layer address option for Ethernet.
const OPTION_LEN: usize = 8;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
/// Bytes of a frame with a message and one link-layer address option.
pub const FRAME_LEN: usize = eth::LEN + ipv6::LEN + LEN + OPTION_LEN;

const FLAG_ROUTER: u32 = 1 << 31;
const FLAG_SOLICITED: u32 = 1 << 30;
const FLAG_OVERRIDE: u32 = 1 << 29;

/// ff02::1
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub const fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let o = ip.octets();
    let low = u16::from_be_bytes([o[14], o[15]]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | o[13] as u16, low)
}

/// The link-local address a port's MAC gives (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let m = mac.0;
    let pair = |a: u8, b: u8| u16::from_be_bytes([a, b]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(m[0] ^ 2, m[1]), pair(m[2], 0xff), pair(0xfe, m[3]), pair(m[4], m[5]))
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// Who has `target`?
    Solicit {
        /// The address asked for.
        target: Ipv6Addr,
        /// The sender's MAC; never in a duplicate address probe.
        source_mac: Option<Mac>,
    },
    /// `target` is here.
    Advertise {
        /// The address announced.
        target: Ipv6Addr,
        /// Its MAC.
        target_mac: Option<Mac>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It may replace what is known.
        replace: bool,
    },
}

impl Ndp {
    /// Reads and validates a message as RFC 4861 sections 7.1.1 and 7.1.2 demand; `ip` is the IPv6 header,
    /// `icmp` the message up to the end of the datagram. The checksum is the caller's.
    /// `None`: to be discarded in silence.
    pub fn read(ip: &[u8; ipv6::LEN], icmp: &[u8]) -> Option<Ndp> {
        let (src, dst) =
            (Ipv6Addr::from(be128(ip, ipv6::field::SRC)), Ipv6Addr::from(be128(ip, ipv6::field::DST)));
        let head = icmp.first_chunk::<LEN>()?;
        let target = Ipv6Addr::from(be128(head, 8));
        // only a neighbour can send with hop limit 255
        if ip[ipv6::field::HOP_LIMIT] != 255 || head[1] != 0 || target.is_multicast() {
            return None;
        }
        match head[0] {
            kind::NEIGHBOR_SOLICITATION => {
                let source_mac = option(&icmp[LEN..], OPTION_SOURCE_MAC)?;
                if src.is_unspecified() && (dst != solicited_node(target) || source_mac.is_some()) {
                    return None;
                }
                Some(Ndp::Solicit { target, source_mac })
            }
            kind::NEIGHBOR_ADVERTISEMENT => {
                let flags = u32::from_be_bytes([head[4], 0, 0, 0]);
                let solicited = flags & FLAG_SOLICITED != 0;
                if dst.is_multicast() && solicited {
                    return None;
                }
                Some(Ndp::Advertise {
                    target,
                    target_mac: option(&icmp[LEN..], OPTION_TARGET_MAC)?,
                    router: flags & FLAG_ROUTER != 0,
                    solicited,
                    replace: flags & FLAG_OVERRIDE != 0,
                })
            }
            _ => None,
        }
    }

    /// The whole frame with its checksum; the length is what comes back, at most [`FRAME_LEN`].
    pub fn frame(&self, macs: (Mac, Mac), src: Ipv6Addr, dst: Ipv6Addr) -> ([u8; FRAME_LEN], usize) {
        let mut f = [0; FRAME_LEN];
        let (to, from) = macs;
        let (kind, flags, target, option) = match *self {
            Ndp::Solicit { target, source_mac } => {
                (kind::NEIGHBOR_SOLICITATION, 0, target, source_mac.map(|m| (OPTION_SOURCE_MAC, m)))
            }
            Ndp::Advertise { target, target_mac, router, solicited, replace } => {
                let flag = |on: bool, bit: u32| if on { bit } else { 0 };
                let flags = flag(router, FLAG_ROUTER)
                    | flag(solicited, FLAG_SOLICITED)
                    | flag(replace, FLAG_OVERRIDE);
                (kind::NEIGHBOR_ADVERTISEMENT, flags, target, target_mac.map(|m| (OPTION_TARGET_MAC, m)))
            }
        };
        let payload = LEN + if option.is_some() { OPTION_LEN } else { 0 };
        let (link, rest) = f.split_at_mut(eth::LEN);
        if let Some(link) = link.first_chunk_mut() {
            eth::write(link, to, from, number::ETH_IPV6);
        }
        let (ip, icmp) = rest.split_at_mut(ipv6::LEN);
        if let Some(ip) = ip.first_chunk_mut() {
            let (src, dst) = (src.to_bits(), dst.to_bits());
            ipv6::Header {
                class: 0,
                flow: 0,
                payload: payload as u16,
                next: number::ICMPV6,
                hop_limit: 255,
                src,
                dst,
            }
            .write(ip);
        }
        icmp[0] = kind;
        put32(icmp, 4, flags);
        put128(icmp, 8, target.to_bits());
        if let Some((number, mac)) = option {
            icmp[LEN] = number;
            icmp[LEN + 1] = 1;
            icmp[LEN + 2..LEN + 8].copy_from_slice(&mac.0);
        }
        let pseudo = sum::pseudo6(&src.octets(), &dst.octets(), number::ICMPV6, payload as u32);
        let check = !sum::fold(pseudo + sum::sum(&icmp[..payload]));
        put16(icmp, 2, check);
        (f, eth::LEN + ipv6::LEN + payload)
    }
}

/// The MAC of the first option of this kind. Outer `None`: an option is malformed, the message is void
/// (RFC 4861 section 4.6: "nodes MUST silently discard an ND packet that contains an option with length
/// zero").
#[expect(clippy::option_option, reason = "void and absent are two things here")]
fn option(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let len = usize::from(*options.get(1)?) * 8;
        if len == 0 || len > options.len() {
            return None;
        }
        if options[0] == wanted && found.is_none() {
            let mut mac = [0; 6];
            mac.copy_from_slice(&options[2..8]);
            found = Some(Mac(mac));
        }
        options = &options[len..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(frame: &[u8]) -> ([u8; 40], &[u8]) {
        (frame[14..54].try_into().unwrap(), &frame[54..])
    }

    fn ip(s: &str) -> Ipv6Addr {
        s.parse().unwrap()
    }

    #[test]
    fn addresses_derived_as_the_rfcs_say() {
        assert_eq!(link_local(Mac([0x02, 0, 0, 0, 1, 1])), ip("fe80::ff:fe00:101"));
        assert_eq!(solicited_node(ip("2001:db8::1234:5678")), ip("ff02::1:ff34:5678"));
    }

    #[test]
    fn messages_read_back_and_carry_a_right_checksum() {
        let me = Mac([2, 0, 0, 0, 1, 1]);
        let (src, target) = (ip("fe80::1"), ip("2001:db8::5"));
        for message in [
            Ndp::Solicit { target, source_mac: Some(me) },
            Ndp::Solicit { target, source_mac: None },
            Ndp::Advertise { target, target_mac: Some(me), router: false, solicited: true, replace: true },
        ] {
            let (frame, len) = message.frame((Mac([4; 6]), me), src, ip("2001:db8::9"));
            let (header, icmp) = split(&frame[..len]);
            assert_eq!(Ndp::read(&header, icmp), Some(message));
            let packet = etherparse::SlicedPacket::from_ethernet(&frame[..len]).unwrap();
            let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!() };
            assert!(icmp.is_checksum_valid(src.octets(), ip("2001:db8::9").octets()));
        }
    }

    #[test]
    fn validation_refuses_what_rfc4861_refuses() {
        let me = Mac([2, 0, 0, 0, 1, 1]);
        let target = ip("2001:db8::5");
        let (frame, len) = Ndp::Solicit { target, source_mac: Some(me) }.frame(
            (me, me),
            ip("fe80::1"),
            solicited_node(target),
        );
        let (header, icmp) = split(&frame[..len]);
        assert!(Ndp::read(&header, icmp).is_some());

        let mut far = header;
        far[7] = 254;
        assert_eq!(Ndp::read(&far, icmp), None, "hop limit 254");
        let mut bad = icmp.to_vec();
        bad[1] = 1;
        assert_eq!(Ndp::read(&header, &bad), None, "code 1");
        let mut bad = icmp.to_vec();
        bad[25] = 0;
        assert_eq!(Ndp::read(&header, &bad), None, "option of length 0");
        bad[25] = 2;
        assert_eq!(Ndp::read(&header, &bad), None, "option beyond the end");
        let mut bad = icmp.to_vec();
        bad[8] = 0xff;
        assert_eq!(Ndp::read(&header, &bad), None, "multicast target");
        assert_eq!(Ndp::read(&header, &icmp[..23]), None, "cut off");

        let mut dad = header;
        dad[8..24].fill(0);
        assert_eq!(Ndp::read(&dad, icmp), None, "probe with a source option");
        assert!(Ndp::read(&dad, &icmp[..24]).is_some(), "probe");
        dad[24..40].copy_from_slice(&target.octets());
        assert_eq!(Ndp::read(&dad, &icmp[..24]), None, "probe to a unicast address");

        let answer =
            Ndp::Advertise { target, target_mac: Some(me), router: false, solicited: true, replace: true };
        let (frame, len) = answer.frame((me, me), ip("fe80::1"), ALL_NODES);
        let (header, icmp) = split(&frame[..len]);
        assert_eq!(Ndp::read(&header, icmp), None, "solicited to a group");
    }
}
