//! What the real server does to a tunnel packet: find the inner packet and finish its checksum.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use crate::wire::{self, Family, Link, Parsed, be16, number, put16, sum};

/// How the director wraps packets, by what a receiver has to listen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// IP in IP: protocols 4 and 41.
    Ipip,
    /// GRE: protocol 47.
    Gre,
    /// Generic UDP encapsulation on this UDP port.
    Gue(u16),
}

/// Who unwraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// This process.
    #[default]
    User,
    /// A program in the kernel; what that leaves alone, this process.
    Kernel,
    /// The kernel where it can be had.
    Auto,
}

impl FromStr for Where {
    type Err = String;
    fn from_str(s: &str) -> Result<Where, String> {
        match s {
            "user" => Ok(Where::User),
            "kernel" => Ok(Where::Kernel),
            "auto" => Ok(Where::Auto),
            _ => Err(format!("`{s}` is none of user, kernel, auto")),
        }
    }
}

/// Port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encapsulation::Ipip => f.write_str("ipip"),
            Encapsulation::Gre => f.write_str("gre"),
            Encapsulation::Gue(GUE_PORT) => f.write_str("gue"),
            Encapsulation::Gue(port) => write!(f, "gue:{port}"),
        }
    }
}

impl FromStr for Encapsulation {
    type Err = String;
    fn from_str(s: &str) -> Result<Encapsulation, String> {
        match s.split_once(':') {
            None if s == "ipip" => Ok(Encapsulation::Ipip),
            None if s == "gre" => Ok(Encapsulation::Gre),
            None if s == "gue" => Ok(Encapsulation::Gue(GUE_PORT)),
            Some(("gue", port)) => match port.parse() {
                Ok(port) if port > 0 => Ok(Encapsulation::Gue(port)),
                _ => Err(format!("`{port}` is not a UDP port")),
            },
            _ => Err(format!("`{s}` is none of ipip, gre, gue, gue:PORT")),
        }
    }
}

impl Encapsulation {
    /// Where the inner packet lies in what follows the outer IP header (IPIP, GRE) or the outer UDP
    /// header (GUE); `None` when it is not one of ours.
    pub fn inner(self, b: &[u8]) -> Option<Range<usize>> {
        let at = match self {
            Encapsulation::Ipip => 0,
            Encapsulation::Gre => gre(b)?,
            Encapsulation::Gue(_) => gue(b)?,
        };
        matches!(b.get(at)? >> 4, 4 | 6).then_some(at..b.len())
    }
}

/// RFC 2784 section 2, RFC 2890 section 2: bits C, K, S each add four bytes; version 0.
fn gre(b: &[u8]) -> Option<usize> {
    let flags = be16(b.get(..4)?, 0);
    let kind = be16(b, 2);
    if flags & !0xb000 != 0 || !matches!(kind, number::ETH_IPV4 | number::ETH_IPV6) {
        return None;
    }
    if flags & 0x8000 != 0 && sum::fold(sum::sum(b)) != 0xffff {
        return None;
    }
    Some(4 + 4 * (flags & 0xb000).count_ones() as usize)
}

/// draft-ietf-intarea-gue section 3 (version 0) and 4 (version 1: the IP header is the GUE header).
fn gue(b: &[u8]) -> Option<usize> {
    let first = *b.first()?;
    match first >> 6 {
        1 => Some(0),
        0 => {
            let header = 4 + usize::from(first & 0x1f) * 4;
            let control = first & 0x20 != 0;
            let proto = *b.get(1)?;
            (!control && matches!(proto, number::IPIP | number::IPV6) && b.len() >= header).then_some(header)
        }
        _ => None,
    }
}

/// Destination of an inner packet, when it is a sound IP packet.
pub fn destination(inner: &[u8]) -> Option<IpAddr> {
    match wire::parse(inner, Link::Ip) {
        Ok(Parsed::Ip(m)) => Some(m.dst(inner)),
        _ => None,
    }
}

/// Completes a TCP or UDP checksum of which only the pseudo-header was summed: how packets leave a local
/// sender whose device computes checksums, and how they arrive here when nothing on the way did (also GUE
/// with remote checksum offload). A field that is wrong in any other way is left wrong.
pub fn complete_checksum(inner: &mut [u8]) {
    let Ok(Parsed::Ip(m)) = wire::parse(inner, Link::Ip) else { return };
    let (l4, end) = (usize::from(m.l4), m.end as usize);
    let at = match m.proto {
        number::TCP => 16,
        number::UDP => 6,
        _ => return,
    };
    if m.is_fragment() || end < l4 + at + 2 {
        return;
    }
    let field = be16(inner, l4 + at);
    let len = (end - l4) as u32;
    let pseudo = match (m.src(inner), m.dst(inner)) {
        (IpAddr::V4(s), IpAddr::V4(d)) => sum::pseudo4(s.octets(), d.octets(), m.proto, len),
        (IpAddr::V6(s), IpAddr::V6(d)) => sum::pseudo6(&s.octets(), &d.octets(), m.proto, len),
        _ => return,
    };
    debug_assert!(matches!(m.family, Family::V4 | Family::V6));
    if field != sum::fold(pseudo) || sum::fold(pseudo + sum::sum(&inner[l4..end])) == 0xffff {
        return;
    }
    put16(inner, l4 + at, 0);
    let full = !sum::fold(pseudo + sum::sum(&inner[l4..end]));
    // RFC 768: a computed zero is sent as all ones.
    put16(inner, l4 + at, if full == 0 && m.proto == number::UDP { 0xffff } else { full });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet 10.0.0.1:1 > 10.0.0.2:2 with the given checksum field.
    fn udp(field: u16) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let head = sum::checksum(&p);
        put16(&mut p, 10, head);
        p.extend_from_slice(&[0, 1, 0, 2, 0, 12, 0, 0, b'l', b'v', b's', b'!']);
        put16(&mut p, 26, field);
        p
    }

    fn full(p: &[u8]) -> bool {
        let pseudo = sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], 17, 12);
        sum::fold(pseudo + sum::sum(&p[20..])) == 0xffff
    }

    #[test]
    fn a_partial_checksum_is_completed_and_a_wrong_one_is_left_wrong() {
        let pseudo = sum::fold(sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], 17, 12));
        let mut p = udp(pseudo);
        complete_checksum(&mut p);
        assert!(full(&p));
        let good = p.clone();
        complete_checksum(&mut p);
        assert_eq!(p, good);
        for wrong in [0, 1, 0x1234, 0xffff] {
            let mut p = udp(wrong);
            complete_checksum(&mut p);
            assert_eq!(be16(&p, 26), wrong);
        }
    }

    #[test]
    fn inner_packets_are_found_behind_each_header() {
        let p = udp(0);
        let behind = |head: &[u8]| [head, &p].concat();
        assert_eq!(Encapsulation::Ipip.inner(&p), Some(0..32));
        assert_eq!(Encapsulation::Gre.inner(&behind(&[0, 0, 8, 0])), Some(4..36));
        assert_eq!(Encapsulation::Gre.inner(&behind(&[0x20, 0, 8, 0, 0, 0, 0, 1])), Some(8..40));
        assert_eq!(Encapsulation::Gue(6080).inner(&behind(&[0, 4, 0, 0])), Some(4..36));
        assert_eq!(
            Encapsulation::Gue(6080).inner(&behind(&[2, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
            Some(12..44)
        );
        assert_eq!(Encapsulation::Gue(6080).inner(&p), Some(0..32), "version 1 is bare IP");
        let mut summed = behind(&[0x80, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(Encapsulation::Gre.inner(&summed), None, "a GRE checksum is verified");
        let c = sum::checksum(&summed);
        put16(&mut summed, 4, c);
        assert_eq!(Encapsulation::Gre.inner(&summed), Some(8..40));
        assert_eq!(destination(&p), Some("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn nothing_panics_on_cut_off_packets() {
        let p = [&[0x80, 0, 8, 0, 0, 0, 0, 0][..], &udp(7)].concat();
        for n in 0..p.len() {
            for e in [Encapsulation::Ipip, Encapsulation::Gre, Encapsulation::Gue(1)] {
                let _ = e.inner(&p[..n]);
            }
            complete_checksum(&mut p[n..].to_vec());
        }
    }

    #[test]
    fn names_round_trip() {
        for e in ["ipip", "gre", "gue", "gue:7000"] {
            assert_eq!(e.parse::<Encapsulation>().unwrap().to_string(), e);
        }
        assert!("gue:0".parse::<Encapsulation>().is_err());
        assert!("vxlan".parse::<Encapsulation>().is_err());
    }
}
