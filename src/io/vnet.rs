//! The virtio-net header (virtio 1.2 section 5.1.6, legacy layout of 10 bytes, the machine's byte order)
//! as TAP devices and packet sockets use it.
//!
//! Written only from [`Offload`], after [`super::fit`] said that the device understands it: a kernel that
//! is told nonsense answers `EINVAL` at best and loses the packet in silence at worst.

use crate::buf::{Csum, Gso, GsoKind, Offload};

/// Length of the header in bytes.
pub const LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the header in front of a received packet says. Kinds of super-frames the port did not ask for
/// (UDP fragmentation, tunnels) read as none: such a packet is too big for any wire and ends there.
#[inline]
pub fn decode(h: &[u8; LEN]) -> Offload {
    if *h == [0; LEN] {
        return Offload::NONE;
    }
    let half = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    let csum = if h[0] & F_NEEDS_CSUM != 0 {
        Csum::Partial { start: half(6), offset: half(8) }
    } else if h[0] & F_DATA_VALID != 0 {
        Csum::Verified
    } else {
        Csum::Complete
    };
    let kind = match h[1] & !GSO_ECN {
        GSO_TCPV4 => Some(GsoKind::Tcp4),
        GSO_TCPV6 => Some(GsoKind::Tcp6),
        GSO_UDP_L4 => Some(GsoKind::Udp),
        _ => None,
    };
    let gso = kind.filter(|_| half(4) != 0).map(|kind| Gso {
        kind,
        size: half(4),
        hdr_len: half(2),
        ecn: h[1] & GSO_ECN != 0,
    });
    Offload { csum, gso }
}

/// The header for a packet whose headers, up to the payload, are `headers` bytes long (used for
/// super-frames only).
#[inline]
pub fn encode(offload: &Offload, headers: u16) -> [u8; LEN] {
    let mut h = [0; LEN];
    if let Csum::Partial { start, offset } = offload.csum {
        h[0] = F_NEEDS_CSUM;
        h[6..8].copy_from_slice(&start.to_ne_bytes());
        h[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    if let Some(gso) = offload.gso {
        h[1] = match gso.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        if gso.ecn && gso.kind != GsoKind::Udp {
            h[1] |= GSO_ECN;
        }
        h[2..4].copy_from_slice(&headers.to_ne_bytes());
        h[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    } else {
        h[1] = GSO_NONE;
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offload_survives_the_header() {
        let partial = Csum::Partial { start: 34, offset: 16 };
        for csum in [Csum::Complete, partial] {
            for kind in [None, Some(GsoKind::Tcp4), Some(GsoKind::Tcp6), Some(GsoKind::Udp)] {
                for ecn in [false, true] {
                    let ecn = ecn && matches!(kind, Some(GsoKind::Tcp4 | GsoKind::Tcp6));
                    let gso = kind.map(|kind| Gso { kind, size: 1448, hdr_len: 66, ecn });
                    let o = Offload { csum, gso };
                    assert_eq!(decode(&encode(&o, 66)), o);
                }
            }
        }
    }

    #[test]
    fn verified_is_read_but_never_written() {
        assert_eq!(decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]).csum, Csum::Verified);
        assert_eq!(encode(&Offload { csum: Csum::Verified, gso: None }, 0), [0; LEN]);
    }

    #[test]
    fn any_ten_bytes_decode() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let b = seed.to_le_bytes();
            let mut h = [0; LEN];
            h[..8].copy_from_slice(&b);
            if let Some(g) = decode(&h).gso {
                assert_ne!(g.size, 0);
            }
        }
    }
}
