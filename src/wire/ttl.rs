//! Time to live, hop limit.

use super::{Family, Meta, ipv4, ipv6};
use crate::buf::PacketBuf;
use crate::engine::DropReason;

/// Lowers the TTL or hop limit by one, in the packet and in `meta`.
///
/// # Errors
/// [`DropReason::TtlExpired`] when it is 1 or 0 already: the packet is unchanged then, as the ICMP error
/// quotes it (kernel rule 11). [`DropReason::ShortIpHeader`] when `meta` is not of this packet.
#[inline]
pub fn decrement(pkt: &mut PacketBuf<'_>, meta: &mut Meta) -> Result<(), DropReason> {
    if meta.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let ip = pkt.bytes_mut().get_mut(meta.l3 as usize..).ok_or(DropReason::ShortIpHeader)?;
    match meta.family {
        Family::V4 => ipv4::decrement_ttl(ip.first_chunk_mut().ok_or(DropReason::ShortIpHeader)?),
        Family::V6 => {
            let ip = ip.first_chunk_mut::<{ ipv6::LEN }>().ok_or(DropReason::ShortIpHeader)?;
            ip[ipv6::field::HOP_LIMIT] = ip[ipv6::field::HOP_LIMIT].saturating_sub(1);
        }
    }
    meta.ttl -= 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Offload;
    use crate::wire::{Link, Parsed, parse, sum};

    fn header(ttl: u8, id: u16) -> [u8; 20] {
        let mut h = [0; 20];
        let h4 = ipv4::Header {
            tos: 0,
            total: 20,
            id,
            df: true,
            ttl,
            proto: 253,
            src: 0xc633_6405,
            dst: 0x0a01_0064,
        };
        h4.write(&mut h);
        h
    }

    fn meta_of(bytes: &[u8]) -> Meta {
        match parse(bytes, Link::Ip) {
            Ok(Parsed::Ip(m)) => m,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn header_checksum_stays_right_for_every_ttl_and_many_headers() {
        for id in (0..=0xffffu16).step_by(7) {
            let ttl = (id % 254) as u8 + 2;
            let mut mem = header(ttl, id);
            let mut meta = meta_of(&mem);
            let mut pkt = PacketBuf::new(&mut mem, 0, 20, Offload::NONE);
            decrement(&mut pkt, &mut meta).unwrap();
            assert!(sum::header_ok(pkt.bytes()));
            assert_eq!((pkt.bytes()[8], meta.ttl), (ttl - 1, ttl - 1));
        }
    }

    #[test]
    fn the_last_hop_is_refused_and_unchanged() {
        for ttl in [0, 1] {
            let mut mem = header(ttl, 7);
            let mut meta = meta_of(&mem);
            let mut pkt = PacketBuf::new(&mut mem, 0, 20, Offload::NONE);
            assert_eq!(decrement(&mut pkt, &mut meta), Err(DropReason::TtlExpired));
            assert_eq!(pkt.bytes(), header(ttl, 7));
        }
    }
}
