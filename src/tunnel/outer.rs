//! The outer headers of one real server, made ready: most of their bytes never change.
//!
//! Writes exactly what [`super::encap`] and the link header after it would write, for ordinary inner packets
//! and tunnels without an outer checksum over them.

use std::net::IpAddr;

use super::{EncapPlan, overhead, write_outer};
use crate::buf::PacketBuf;
use crate::svc::{Tunnel, TunnelCsum};
use crate::wire::eth::Stations;
use crate::wire::sum::{fold_few, sum};
use crate::wire::{Family, be16, eth, gue, ipv4, ipv6, number, put16, put32, udp};

/// Link header, IPv6, UDP and GUE.
const LONGEST: usize = eth::LEN + ipv6::LEN + udp::LEN + gue::LEN;

/// The headers in front of inner packets of one family.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Left-aligned, link header included; what differs from packet to packet is zero.
    bytes: [u8; LONGEST],
    len: u8,
    v6: bool,
    /// Sum of an IPv4 header's words.
    sum: u32,
    copy_df: bool,
}

/// What the outer headers take over from the inner packet.
struct Taken {
    tos: u8,
    ttl: u8,
    df: bool,
    len: u16,
}

impl Outer {
    /// The headers for a tunnel between two addresses. `None`: it needs [`super::encap`] for every packet.
    pub fn new(tunnel: Tunnel, src: IpAddr, dst: IpAddr, inner: Family, copy_df: bool) -> Option<Outer> {
        let sums = match tunnel {
            Tunnel::Ipip => false,
            Tunnel::Gre { csum } => csum == TunnelCsum::Csum,
            Tunnel::Gue { csum, .. } => csum != TunnelCsum::None,
        };
        if sums || src.is_ipv6() != dst.is_ipv6() {
            return None;
        }
        let v6 = src.is_ipv6();
        let plan = EncapPlan { tunnel, src, dst, copy_df, ip_id: 0, gue_sport: 0 };
        let mut bytes = [0; LONGEST];
        let len = eth::LEN + overhead(tunnel, v6);
        put16(&mut bytes, eth::field::KIND, if v6 { number::ETH_IPV6 } else { number::ETH_IPV4 });
        write_outer(bytes.get_mut(eth::LEN..len)?, &plan, inner);
        let sum = if v6 { 0 } else { sum(&bytes[eth::LEN..eth::LEN + ipv4::LEN]) as u32 };
        Some(Outer { bytes, len: len as u8, v6, sum, copy_df })
    }

    /// Bytes in front of the inner packet, without the link header.
    #[inline]
    pub fn overhead(&self) -> usize {
        usize::from(self.len) - eth::LEN
    }

    /// Puts the first `len` bytes of an ordinary frame, its TTL lowered already, behind these headers. `id` is
    /// asked for where the outer packet may be fragmented, `sport` is for GUE. False: refused, nothing was
    /// written.
    #[inline(always)]
    pub fn wrap(
        &self,
        pkt: &mut PacketBuf<'_>,
        (inner, len): (Family, usize),
        stations: Stations,
        sport: u16,
        id: impl FnOnce() -> u16,
    ) -> bool {
        const V4: usize = eth::LEN + ipv4::LEN;
        const V6: usize = eth::LEN + ipv6::LEN;
        // all of the inner header that is read here
        const HEAD: usize = ipv4::LEN;
        let Some(frame) = pkt.cover(self.overhead(), len) else { return false };
        match (self.v6, usize::from(self.len)) {
            (false, V4) => self.put::<V4, { V4 + HEAD }>(frame, inner, stations, sport, id),
            (false, 38) => self.put::<38, { 38 + HEAD }>(frame, inner, stations, sport, id),
            (false, _) => self.put::<46, { 46 + HEAD }>(frame, inner, stations, sport, id),
            (true, V6) => self.put::<V6, { V6 + HEAD }>(frame, inner, stations, sport, id),
            (true, 58) => self.put::<58, { 58 + HEAD }>(frame, inner, stations, sport, id),
            (true, _) => self.put::<LONGEST, { LONGEST + HEAD }>(frame, inner, stations, sport, id),
        }
    }

    /// Writes `N` bytes in front of what begins the inner packet, `M` bytes together.
    #[inline(always)]
    fn put<const N: usize, const M: usize>(
        &self,
        frame: &mut [u8],
        inner: Family,
        stations: Stations,
        sport: u16,
        id: impl FnOnce() -> u16,
    ) -> bool {
        let (Some(h), Some(ready)) = (frame.first_chunk_mut::<M>(), self.bytes.first_chunk::<N>()) else {
            return false;
        };
        let inner = Taken::from(&h[N..], inner);
        let id = if self.v6 || (self.copy_df && inner.df) { 0 } else { id() };
        h[..N].copy_from_slice(ready);
        if let Some(link) = h.first_chunk_mut() {
            stations.write(link);
        }
        // RFC 3168 section 9.1.1: congestion already experienced is not copied outside (rule 5)
        let tos = if inner.tos & 3 == 3 { inner.tos & !1 } else { inner.tos };
        let ip = eth::LEN;
        let ip_len = if self.v6 { ipv6::LEN } else { ipv4::LEN };
        let behind = (N - eth::LEN - ip_len) as u16 + inner.len;
        if self.v6 {
            put32(h, ip, 6 << 28 | u32::from(tos) << 20);
            put16(h, ip + ipv6::field::PAYLOAD, behind);
            h[ip + ipv6::field::HOP_LIMIT] = inner.ttl;
        } else {
            let total = behind + ipv4::LEN as u16;
            let fragment = if self.copy_df && inner.df { ipv4::DF } else { 0 };
            h[ip + ipv4::field::TOS] = tos;
            put16(h, ip + ipv4::field::TOTAL, total);
            put16(h, ip + ipv4::field::ID, id);
            put16(h, ip + ipv4::field::FRAGMENT, fragment);
            h[ip + ipv4::field::TTL] = inner.ttl;
            let words = u32::from(tos) + u32::from(total) + u32::from(id) + u32::from(fragment);
            let field = !fold_few(self.sum + words + (u32::from(inner.ttl) << 8));
            put16(h, ip + ipv4::field::CHECKSUM, field);
        }
        let at = ip + ip_len;
        if N >= at + udp::LEN + gue::LEN {
            put16(h, at + udp::field::SPORT, sport);
            put16(h, at + udp::field::LENGTH, behind);
        }
        true
    }
}

impl Taken {
    #[inline(always)]
    fn from(h: &[u8], family: Family) -> Taken {
        match family {
            Family::V4 => Taken {
                tos: h[ipv4::field::TOS],
                ttl: h[ipv4::field::TTL],
                df: be16(h, ipv4::field::FRAGMENT) & ipv4::DF != 0,
                len: be16(h, ipv4::field::TOTAL),
            },
            Family::V6 => {
                let len = be16(h, ipv6::field::PAYLOAD).saturating_add(ipv6::LEN as u16);
                // the class lies across the first two bytes
                Taken { tos: (be16(h, 0) >> 4) as u8, ttl: h[ipv6::field::HOP_LIMIT], df: false, len }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Mac;
    use crate::buf::Offload;
    use crate::tunnel::encap;
    use crate::wire::testkit::{meta, with_packet};
    use crate::wire::{Link, sum};

    fn frame(v6: bool, fill: &[u8]) -> Vec<u8> {
        let mut f = fill.to_vec();
        let ip = if v6 { ipv6::LEN } else { ipv4::LEN };
        if v6 {
            put16(&mut f, 12, number::ETH_IPV6);
            f[14] = 0x60 | (f[14] & 15);
            put16(&mut f, 18, (fill.len() - 14 - ip) as u16);
            f[20] = number::UDP;
        } else {
            put16(&mut f, 12, number::ETH_IPV4);
            f[14] = 0x45;
            put16(&mut f, 16, (fill.len() - 14) as u16);
            f[20] &= 0x40;
            f[21] = 0;
            f[23] = number::UDP;
            put16(&mut f, 24, 0);
            let field = sum::checksum(&f[14..34]);
            put16(&mut f, 24, field);
        }
        f
    }

    proptest! {
        #[test]
        fn ready_headers_are_those_of_encap(
            fill in prop::collection::vec(any::<u8>(), 80..120),
            (v6, outer_v6, copy_df) in any::<(bool, bool, bool)>(),
            tunnel in prop::sample::select(vec![
                Tunnel::Ipip,
                Tunnel::Gre { csum: TunnelCsum::None },
                Tunnel::Gre { csum: TunnelCsum::RemCsum },
                Tunnel::Gue { port: 6080, csum: TunnelCsum::None },
            ]),
            (src, dst, sport, id) in any::<(u128, u128, u16, u16)>(),
        ) {
            let ip = |a: u128| if outer_v6 { IpAddr::V6(a.into()) } else { IpAddr::V4((a as u32).into()) };
            let f = frame(v6, &fill);
            let meta = meta(&f, Link::Ethernet);
            let family = meta.family;
            let (to, from) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
            let ready = Outer::new(tunnel, ip(src), ip(dst), family, copy_df).unwrap();
            let stations = Stations::new(to, from);
            let (done, at_once, _) =
                with_packet(&f, Offload::NONE, |p| ready.wrap(p, (family, f.len()), stations, sport, || id));
            prop_assert!(done);
            let plan = EncapPlan { tunnel, src: ip(src), dst: ip(dst), copy_df, ip_id: id, gue_sport: sport };
            let kind = if outer_v6 { number::ETH_IPV6 } else { number::ETH_IPV4 };
            let (_, steps, _) = with_packet(&f, Offload::NONE, |p| {
                encap(p, &meta, &plan).unwrap();
                eth::prepend(p, to, from, kind).unwrap();
            });
            prop_assert_eq!(at_once, steps);
        }
    }

    #[test]
    fn tunnels_with_outer_checksums_are_not_made_ready() {
        let ip: IpAddr = [10, 0, 0, 1].into();
        for tunnel in [
            Tunnel::Gre { csum: TunnelCsum::Csum },
            Tunnel::Gue { port: 1, csum: TunnelCsum::Csum },
            Tunnel::Gue { port: 1, csum: TunnelCsum::RemCsum },
        ] {
            assert!(Outer::new(tunnel, ip, ip, Family::V4, true).is_none());
        }
        let v6 = std::net::Ipv6Addr::LOCALHOST.into();
        assert!(Outer::new(Tunnel::Ipip, ip, v6, Family::V4, true).is_none());
    }

    #[test]
    fn without_headroom_nothing_is_written() {
        let f = frame(false, &[7; 80]);
        let ip: IpAddr = [10, 0, 0, 1].into();
        let ready = Outer::new(Tunnel::Ipip, ip, ip, Family::V4, true).unwrap();
        let mut mem = f.clone();
        let mut pkt = PacketBuf::new(&mut mem, 0, 80, Offload::NONE);
        let stations = Stations::new(Mac([1; 6]), Mac([2; 6]));
        assert!(!ready.wrap(&mut pkt, (Family::V4, 100), stations, 0, || 0));
        assert_eq!(pkt.bytes(), f);
    }
}
