//! TCP header (RFC 9293).

use super::sum::Delta;
use super::{Meta, be16, number, put16};
use crate::buf::{Csum, PacketBuf};

/// Length without options.
pub const LEN: usize = 20;

/// Offsets in the header.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Sequence number.
    pub const SEQ: usize = 4;
    /// Acknowledgement number.
    pub const ACK: usize = 8;
    /// Header length in 32-bit words, in the upper four bits.
    pub const OFFSET: usize = 12;
    /// CWR ECE URG ACK PSH RST SYN FIN.
    pub const FLAGS: usize = 13;
    /// Receive window.
    pub const WINDOW: usize = 14;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
    /// Urgent pointer.
    pub const URGENT: usize = 18;
}

/// Bits of [`field::FLAGS`].
pub mod flag {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Lowers the MSS that a SYN or SYN-ACK announces to at most `limit`; true when it was higher. Packets
/// without SYN, without the option (RFC 9293 section 3.7.1) or with options that make no sense stay.
pub fn clamp_mss(pkt: &mut PacketBuf<'_>, meta: &Meta, limit: u16) -> bool {
    if meta.proto != number::TCP || meta.tcp_flags & flag::SYN == 0 || meta.frag_offset != 0 {
        return false;
    }
    let summed_later = matches!(pkt.offload.csum, Csum::Partial { .. });
    let Some(tcp) = pkt.bytes_mut().get_mut(meta.l4 as usize..meta.end as usize) else { return false };
    let Some(at) = mss_at(tcp) else { return false };
    let old = be16(tcp, at);
    if old <= limit {
        return false;
    }
    put16(tcp, at, limit);
    if !summed_later {
        // a value at an odd offset stands in two words of the sum, its bytes exchanged
        let (old, new) = if at % 2 == 0 { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
        let sum = Delta::new().word(old, new).apply(be16(tcp, field::CHECKSUM));
        put16(tcp, field::CHECKSUM, sum);
    }
    true
}

/// Offset of the value of the MSS option; it and the whole fixed header are inside `tcp`.
fn mss_at(tcp: &[u8]) -> Option<usize> {
    let header = usize::from(*tcp.get(field::OFFSET)? >> 4) * 4;
    let options = tcp.get(..header)?;
    let mut at = LEN;
    loop {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if kind == 2 {
                    return (len == 4 && at + 4 <= header).then_some(at + 2);
                }
                at += len.max(2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buf::Offload;
    use crate::wire::Link;
    use crate::wire::testkit::{checksums_ok, meta, packet, partial, set_checksum, with_packet};

    /// A SYN with these options.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let mut p = packet(v6, number::TCP, (1, 2), (3, 4), &options);
        let l4 = meta(&p, Link::Ip).l4 as usize;
        p[l4 + field::OFFSET] = (((LEN + options.len()) / 4) << 4) as u8;
        p[l4 + field::FLAGS] = flag::SYN;
        set_checksum(&mut p, false);
        p
    }

    fn clamped(before: &[u8], offload: Offload, limit: u16) -> (bool, Vec<u8>) {
        let m = meta(before, Link::Ip);
        let (changed, after, _) = with_packet(before, offload, |p| clamp_mss(p, &m, limit));
        (changed, after)
    }

    #[test]
    fn only_a_higher_mss_is_lowered_and_the_checksum_stays_right() {
        for (v6, before) in [(false, 1), (false, 0), (true, 3)] {
            let mut options = vec![1; before];
            options.extend_from_slice(&[2, 4, 0x05, 0xb4]);
            let syn = syn(v6, &options);
            let m = meta(&syn, Link::Ip);
            let (changed, after) = clamped(&syn, Offload::NONE, 1400);
            let at = m.l4 as usize + LEN + before + 2;
            assert!(changed && be16(&after, at) == 1400 && checksums_ok(&after, &m));
            assert_eq!(clamped(&syn, Offload::NONE, 1460), (false, syn.clone()));
            let mut lazy = syn.clone();
            set_checksum(&mut lazy, true);
            let (_, mut lazy) = clamped(&lazy, partial(&m), 1400);
            set_checksum(&mut lazy, false);
            assert_eq!(lazy, after, "a partial checksum does not hold the options");
        }
    }

    #[test]
    fn packets_without_syn_or_without_the_option_stay() {
        for options in [&[0, 2, 4, 255, 255][..], &[2, 3, 255, 255], &[3, 0, 2, 4], &[8, 10], &[]] {
            let p = syn(false, options);
            assert_eq!(clamped(&p, Offload::NONE, 1), (false, p.clone()), "{options:?}");
        }
        let mut data = syn(false, &[2, 4, 5, 0xb4]);
        data[20 + field::FLAGS] = flag::ACK;
        assert_eq!(clamped(&data, Offload::NONE, 1), (false, data.clone()));
    }

    proptest! {
        #[test]
        fn any_options_are_survived_and_the_checksum_stays_right(
            options in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 8, 200]), 0..40),
            limit in any::<u16>(), offset in any::<u8>(),
        ) {
            let mut p = syn(false, &options);
            let m = meta(&p, Link::Ip);
            let (_, after) = clamped(&p, Offload::NONE, limit);
            prop_assert!(checksums_ok(&after, &m));
            p[20 + field::OFFSET] = offset;
            clamped(&p, Offload::NONE, limit);
        }
    }
}
