//! What has to be done to a packet before a device can take it.
//!
//! The kernel takes a super-frame only when the header it is told about is the one that is there: an
//! encapsulated super-frame is lost in silence on a TAP device and refused with `ENOMEM` on a packet
//! socket (`ipip_gso_segment` wants a flag no virtio-net header can express). What does not fit is
//! segmented or completed by the worker, what cannot be is dropped with its reason.

use super::vnet;
use crate::buf::{Csum, Gso, GsoKind, Offload};
use crate::engine::DropReason;
use crate::host::OffloadCaps;
use crate::tunnel::whole;
use crate::wire::{Family, Link, Parsed, number, parse};

/// Where SCTP keeps its CRC32c: a checksum no virtio-net header can ask for.
const SCTP_FIELD: u16 = 8;

/// What a packet needs before it suits a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Its partial checksum is to be completed.
    Complete,
    /// It is to be cut into segments, each with a complete checksum.
    Segment,
}

/// What `frame` needs before a device with `caps` can take it.
///
/// # Errors
/// [`DropReason::BadOffload`] when the partial checksum lies outside the frame.
#[inline]
pub fn need(frame: &[u8], offload: &Offload, caps: OffloadCaps, link: Link) -> Result<Need, DropReason> {
    if let Csum::Partial { start, offset } = offload.csum {
        inside(frame, start, offset)?;
        if offload.gso.is_none() {
            return Ok(if caps.csum && offset != SCTP_FIELD { Need::Nothing } else { Need::Complete });
        }
    }
    let Some(gso) = offload.gso else { return Ok(Need::Nothing) };
    let able = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => caps.tso,
        GsoKind::Udp => caps.uso,
    };
    let partial = matches!(offload.csum, Csum::Partial { .. });
    if !able || (partial && !caps.csum) {
        return Ok(Need::Segment);
    }
    let whole = headers(frame, &gso, offload.csum, link).is_some()
        || (caps.tunnel && whole::find(frame, offload, link).is_some());
    Ok(if whole { Need::Nothing } else { Need::Segment })
}

/// The virtio-net header for `frame`; `None` when the kernel would refuse or lose the packet.
#[inline]
pub fn vnet_header(frame: &[u8], offload: &Offload, link: Link) -> Option<[u8; vnet::LEN]> {
    if let Csum::Partial { start, offset } = offload.csum {
        inside(frame, start, offset).ok()?;
        if offset == SCTP_FIELD {
            return None;
        }
    }
    let Some(gso) = offload.gso else { return Some(vnet::encode(offload, 0)) };
    let headers = headers(frame, &gso, offload.csum, link)?;
    if frame.len() - headers <= usize::from(gso.size) {
        // one segment is no super-frame, and a size beyond the payload makes the kernel lose it
        return Some(vnet::encode(&Offload { gso: None, ..*offload }, 0));
    }
    Some(vnet::encode(offload, headers as u16))
}

fn inside(frame: &[u8], start: u16, offset: u16) -> Result<(), DropReason> {
    let field = usize::from(start) + usize::from(offset);
    if field + 2 <= frame.len() { Ok(()) } else { Err(DropReason::BadOffload) }
}

/// Length of all headers of a super-frame the kernel can segment: plain TCP or UDP directly behind the
/// link header, of the kind it says, with the checksum where that protocol has it.
fn headers(frame: &[u8], gso: &Gso, csum: Csum, link: Link) -> Option<usize> {
    let Ok(Parsed::Ip(meta)) = parse(frame, link) else { return None };
    let (field, len) = match (gso.kind, meta.family, meta.proto) {
        (GsoKind::Tcp4, Family::V4, number::TCP) | (GsoKind::Tcp6, Family::V6, number::TCP) => {
            (16, usize::from(frame[usize::from(meta.l4) + 12] >> 4) * 4)
        }
        (GsoKind::Udp, _, number::UDP) => (6, 8),
        _ => return None,
    };
    let headers = usize::from(meta.l4) + len;
    let placed = match csum {
        Csum::Partial { start, offset } => start == meta.l4 && offset == field,
        Csum::Complete | Csum::Verified => true,
    };
    (placed && len >= 8 && headers < frame.len() && gso.size > 0 && !meta.is_fragment()).then_some(headers)
}

/// What is to be told about a packet that came without a virtio-net header but with the remark that its
/// checksum is partial (`partial`): position by its protocol, and for a TCP packet too long for the `mtu`
/// the segment size by which any wire of that MTU can carry it.
pub fn guess(frame: &[u8], link: Link, partial: bool, verified: bool, mtu: u32) -> Offload {
    let mut offload = Offload::NONE;
    if verified {
        offload.csum = Csum::Verified;
    }
    let long = frame.len() > link.header_len() + mtu as usize;
    if !partial && !long {
        return offload;
    }
    let Ok(Parsed::Ip(meta)) = parse(frame, link) else { return offload };
    if meta.is_fragment() {
        return offload;
    }
    let field = match meta.proto {
        number::TCP => 16,
        number::UDP => 6,
        number::SCTP => SCTP_FIELD,
        _ => return offload,
    };
    if partial {
        offload.csum = Csum::Partial { start: meta.l4, offset: field };
    }
    if long && meta.proto == number::TCP {
        let len = usize::from(frame[usize::from(meta.l4) + 12] >> 4) * 4;
        let inner = usize::from(meta.l4 - meta.l3) + len;
        let kind = if meta.family == Family::V4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        if let Some(size) = (mtu as usize).checked_sub(inner).filter(|s| *s > 0) {
            let size = size.min(usize::from(u16::MAX)) as u16;
            let hdr_len = (usize::from(meta.l4) + len) as u16;
            offload.gso = Some(Gso { kind, size, hdr_len, ecn: false });
        }
    }
    offload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sum;

    const ALL: OffloadCaps = OffloadCaps { csum: true, tso: true, uso: true, tunnel: true };

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut f = vec![0u8; 14 + 20 + 20 + payload];
        let len = (f.len() - 14) as u16;
        f[12] = 8;
        f[14] = 0x45;
        f[16..18].copy_from_slice(&len.to_be_bytes());
        f[22] = 64;
        f[23] = 6;
        f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let c = sum::checksum(&f[14..34]);
        f[24..26].copy_from_slice(&c.to_be_bytes());
        f[46] = 0x50;
        f
    }
    fn gso(kind: GsoKind, size: u16) -> Offload {
        let gso = Some(Gso { kind, size, hdr_len: 54, ecn: false });
        Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso }
    }

    #[test]
    fn plain_super_frame_passes_whole_and_is_cut_where_the_device_cannot() {
        let f = tcp4(4000);
        let o = gso(GsoKind::Tcp4, 1448);
        assert_eq!(need(&f, &o, ALL, Link::Ethernet), Ok(Need::Nothing));
        let h = vnet_header(&f, &o, Link::Ethernet).unwrap();
        assert_eq!(u16::from_ne_bytes([h[2], h[3]]), 54);
        assert_eq!(need(&f, &o, OffloadCaps { tso: false, ..ALL }, Link::Ethernet), Ok(Need::Segment));
        assert_eq!(need(&f, &o, OffloadCaps { csum: false, ..ALL }, Link::Ethernet), Ok(Need::Segment));
    }

    #[test]
    fn what_the_kernel_would_lose_is_segmented_here() {
        let mut ipip = tcp4(4000);
        ipip[23] = 4;
        ipip[24..26].fill(0);
        let c = sum::checksum(&ipip[14..34]);
        ipip[24..26].copy_from_slice(&c.to_be_bytes());
        let o = gso(GsoKind::Tcp4, 1448);
        assert_eq!(need(&ipip, &o, ALL, Link::Ethernet), Ok(Need::Segment));
        assert_eq!(vnet_header(&ipip, &o, Link::Ethernet), None);
        // the kind of the other family, and the checksum of the other protocol
        assert_eq!(vnet_header(&tcp4(4000), &gso(GsoKind::Tcp6, 1448), Link::Ethernet), None);
        let mut wrong = gso(GsoKind::Tcp4, 1448);
        wrong.csum = Csum::Partial { start: 34, offset: 6 };
        assert_eq!(vnet_header(&tcp4(4000), &wrong, Link::Ethernet), None);
    }

    #[test]
    fn one_segment_is_written_as_no_super_frame() {
        let h = vnet_header(&tcp4(100), &gso(GsoKind::Tcp4, 1448), Link::Ethernet).unwrap();
        assert_eq!((h[0], h[1]), (1, 0));
    }

    #[test]
    fn partial_checksum_outside_the_frame_has_its_drop_reason() {
        let o = Offload { csum: Csum::Partial { start: 60, offset: 16 }, gso: None };
        assert_eq!(need(&[0; 64], &o, ALL, Link::Ethernet), Err(DropReason::BadOffload));
        assert_eq!(vnet_header(&[0; 64], &o, Link::Ethernet), None);
        assert_eq!(need(&[0; 78], &o, ALL, Link::Ethernet), Ok(Need::Nothing));
        assert_eq!(need(&[0; 78], &o, OffloadCaps::default(), Link::Ethernet), Ok(Need::Complete));
    }

    #[test]
    fn sctp_is_completed_here_whatever_the_device_can() {
        let o = Offload { csum: Csum::Partial { start: 34, offset: 8 }, gso: None };
        assert_eq!(need(&[0; 64], &o, ALL, Link::Ethernet), Ok(Need::Complete));
    }

    #[test]
    fn guess_finds_checksum_and_segment_size_by_the_protocol() {
        let o = guess(&tcp4(4000), Link::Ethernet, true, false, 1500);
        assert_eq!(o.csum, Csum::Partial { start: 34, offset: 16 });
        assert_eq!(o.gso.unwrap().size, 1460);
        assert_eq!(guess(&tcp4(400), Link::Ethernet, false, false, 1500), Offload::NONE);
        assert_eq!(guess(&[0; 20], Link::Ethernet, true, true, 1500).csum, Csum::Verified);
    }
}
