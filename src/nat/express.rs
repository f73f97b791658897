//! All headers of an ordinary frame in one go: stations, TTL, addresses, ports, checksums.
//!
//! Writes exactly what [`crate::wire::ttl::decrement`], [`super::rewrite4`] (or 6) and
//! [`crate::wire::eth::write`] would write one after the other, for frames that need no more: TCP or UDP
//! behind a plain IP header behind Ethernet, checksums complete. Everything else is refused unchanged.

use super::Ends;
use crate::wire::eth::Stations;
use crate::wire::sum::Delta;
use crate::wire::{Meta, be16, be32, be128, eth, ipv4, ipv6, number, put16, put32, put128, tcp, udp};

/// Ethernet and IPv4 header.
const HEAD4: usize = eth::LEN + ipv4::LEN;
/// Ethernet and IPv6 header.
const HEAD6: usize = eth::LEN + ipv6::LEN;

/// An IPv4 frame; the caller has seen that its TTL is above 1 and its checksum not partial. False: refused.
#[inline(always)]
pub fn forward4(frame: &mut [u8], meta: &Meta, stations: Stations, ends: &Ends<u32>) -> bool {
    const SRC: usize = eth::LEN + ipv4::field::SRC;
    const DST: usize = eth::LEN + ipv4::field::DST;
    const TTL: usize = eth::LEN + ipv4::field::TTL;
    const CHECKSUM: usize = eth::LEN + ipv4::field::CHECKSUM;
    let Some((head, l4)) = frame.split_first_chunk_mut::<HEAD4>() else { return false };
    if usize::from(meta.l4) != HEAD4 || usize::from(meta.l3) != eth::LEN {
        return false;
    }
    let mut addresses = Delta::new();
    if let Some((addr, _)) = ends.src {
        addresses = addresses.dword(be32(head, SRC), addr);
    }
    if let Some((addr, _)) = ends.dst {
        addresses = addresses.dword(be32(head, DST), addr);
    }
    if !transport(l4, meta.proto, ends, addresses) {
        return false;
    }
    if let Some((addr, _)) = ends.src {
        put32(head, SRC, addr);
    }
    if let Some((addr, _)) = ends.dst {
        put32(head, DST, addr);
    }
    let old = be16(head, TTL);
    head[TTL] = head[TTL].saturating_sub(1);
    let sum = addresses.word(old, be16(head, TTL)).apply(be16(head, CHECKSUM));
    put16(head, CHECKSUM, sum);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
    true
}

/// An IPv6 frame, as [`forward4`].
#[inline(always)]
pub fn forward6(frame: &mut [u8], meta: &Meta, stations: Stations, ends: &Ends<u128>) -> bool {
    const SRC: usize = eth::LEN + ipv6::field::SRC;
    const DST: usize = eth::LEN + ipv6::field::DST;
    const HOP_LIMIT: usize = eth::LEN + ipv6::field::HOP_LIMIT;
    let Some((head, l4)) = frame.split_first_chunk_mut::<HEAD6>() else { return false };
    if usize::from(meta.l4) != HEAD6 || usize::from(meta.l3) != eth::LEN {
        return false;
    }
    let mut addresses = Delta::new();
    if let Some((addr, _)) = ends.src {
        addresses = addresses.wide(be128(head, SRC), addr);
    }
    if let Some((addr, _)) = ends.dst {
        addresses = addresses.wide(be128(head, DST), addr);
    }
    if !transport(l4, meta.proto, ends, addresses) {
        return false;
    }
    if let Some((addr, _)) = ends.src {
        put128(head, SRC, addr);
    }
    if let Some((addr, _)) = ends.dst {
        put128(head, DST, addr);
    }
    head[HOP_LIMIT] = head[HOP_LIMIT].saturating_sub(1);
    if let Some(header) = head.first_chunk_mut() {
        stations.write(header);
    }
    true
}

/// Ports and checksum. A datagram without checksum is refused: it would need one (kernel rule 13).
#[inline(always)]
fn transport<A>(l4: &mut [u8], proto: u8, ends: &Ends<A>, addresses: Delta) -> bool {
    if ends.src.is_none() && ends.dst.is_none() {
        return true;
    }
    match proto {
        number::TCP => {
            let Some(l4) = l4.first_chunk_mut::<{ tcp::LEN }>() else { return false };
            let changed = addresses.and(super::put_ports(l4, ends));
            let field = changed.apply(be16(l4, tcp::field::CHECKSUM));
            put16(l4, tcp::field::CHECKSUM, field);
            true
        }
        number::UDP => {
            let Some(l4) = l4.first_chunk_mut::<{ udp::LEN }>() else { return false };
            let old = be16(l4, udp::field::CHECKSUM);
            if old == 0 {
                return false;
            }
            let changed = addresses.and(super::put_ports(l4, ends));
            put16(l4, udp::field::CHECKSUM, udp::on_wire(changed.apply(old)));
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Mac;
    use crate::buf::{Offload, PacketBuf};
    use crate::nat::{rewrite4, rewrite6};
    use crate::wire::{Family, Link, Parsed, parse, sum, ttl};

    const TO: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const FROM: Mac = Mac([2, 0, 0, 0, 0, 8]);

    /// A frame with any fields and any transport checksum, right or wrong.
    fn frame(v6: bool, proto: u8, fill: &[u8], words: usize) -> Vec<u8> {
        let mut f = fill.to_vec();
        let l4 = if v6 { HEAD6 } else { HEAD4 };
        if v6 {
            put16(&mut f, 12, number::ETH_IPV6);
            f[14] = 0x60 | (f[14] & 15);
            put16(&mut f, 18, (fill.len() - l4) as u16);
            f[20] = proto;
            f[21] = f[21].max(2);
        } else {
            put16(&mut f, 12, number::ETH_IPV4);
            f[14] = 0x45 + words as u8;
            put16(&mut f, 16, (fill.len() - 14) as u16);
            put16(&mut f, 20, 0x4000);
            f[22] = f[22].max(2);
            f[23] = proto;
            put16(&mut f, 24, 0);
            let field = sum::checksum(&f[14..34 + words * 4]);
            put16(&mut f, 24, field);
        }
        f
    }

    proptest! {
        #[test]
        fn one_go_is_the_same_as_step_by_step(
            fill in prop::collection::vec(any::<u8>(), 100),
            v6: bool,
            proto in prop::sample::select(vec![number::TCP, number::UDP, number::SCTP]),
            words in prop::sample::select(vec![0usize, 0, 0, 1]),
            field in prop::option::of(prop::sample::select(vec![0u16, 0xffff, 0xfffe, 1])),
            src in prop::option::of(any::<(u128, u16)>()),
            dst in prop::option::of(any::<(u128, u16)>()),
        ) {
            let mut before = frame(v6, proto, &fill, words);
            if let Some(field) = field {
                let at = if proto == number::TCP { 16 } else { 6 };
                put16(&mut before, if v6 { HEAD6 } else { HEAD4 } + at, field);
            }
            let Ok(Parsed::Ip(meta)) = parse(&before, Link::Ethernet) else { panic!("not IP") };
            let (ends6, stations) = (Ends { src, dst }, Stations::new(TO, FROM));
            let four = |e: Option<(u128, u16)>| e.map(|(a, p)| (a as u32, p));
            let ends4 = Ends { src: four(src), dst: four(dst) };
            let mut at_once = before.clone();
            let done = if v6 {
                forward6(&mut at_once, &meta, stations, &ends6)
            } else {
                forward4(&mut at_once, &meta, stations, &ends4)
            };
            if !done {
                prop_assert_eq!(at_once, before, "what is refused is unchanged");
                return Ok(());
            }
            let mut steps = before.clone();
            let len = steps.len();
            let mut pkt = PacketBuf::new(&mut steps, 0, len, Offload::NONE);
            let mut moved = meta;
            ttl::decrement(&mut pkt, &mut moved).unwrap();
            if src.is_some() || dst.is_some() {
                match meta.family {
                    Family::V4 => rewrite4(&mut pkt, &moved, &ends4).unwrap(),
                    Family::V6 => rewrite6(&mut pkt, &moved, &ends6).unwrap(),
                }
            }
            let kind = if v6 { number::ETH_IPV6 } else { number::ETH_IPV4 };
            eth::write(steps.first_chunk_mut().unwrap(), TO, FROM, kind);
            prop_assert_eq!(at_once, steps);
        }
    }
}
