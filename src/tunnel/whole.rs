//! TCP super-frames inside tunnel packets.
//!
//! No virtio-net header can ask a device to cut one, so a super-frame is cut before it enters a tunnel, unless the
//! way out says that it knows how ([`crate::host::OffloadCaps::tunnel`]). Then [`encap`] leaves it whole. Where the
//! way out cannot do it any more, [`segment`] makes of the tunnel packet what would have been made before.

use super::{EncapPlan, gre_len, wrap};
use crate::buf::{Csum, GsoKind, Offload, Out, OwnedPacket, PacketBuf};
use crate::engine::DropReason;
use crate::svc::{Tunnel, TunnelCsum};
use crate::wire::offload::{self, SegmentCsum};
use crate::wire::{Family, Link, Meta, Parsed, be16, gre, gue, ipv4, ipv6, number, parse, put16, sum, udp};

/// Encapsulates a TCP super-frame whole, its segments to have at most `room` bytes of payload, otherwise as
/// [`super::encap`]. `None`: it has to be cut first, and nothing was changed.
pub fn encap(pkt: &mut PacketBuf<'_>, meta: &Meta, plan: &EncapPlan, room: usize) -> Option<Meta> {
    let own = match plan.tunnel {
        Tunnel::Ipip | Tunnel::Gre { csum: TunnelCsum::None | TunnelCsum::RemCsum } => true,
        Tunnel::Gue { csum, .. } => csum == TunnelCsum::None,
        Tunnel::Gre { csum: TunnelCsum::Csum } => false,
    };
    let partial = matches!(pkt.offload.csum, Csum::Partial { start, offset: 16 } if start == meta.l4);
    let tcp = pkt.offload.gso.is_some_and(|gso| gso.kind != GsoKind::Udp);
    if !own || !partial || !tcp {
        return None;
    }
    let size = u16::try_from(offload::segment_size(pkt, meta, room)?).ok()?;
    let outer = wrap(pkt, meta, plan).ok()?;
    if let Some(gso) = &mut pkt.offload.gso {
        gso.size = size;
    }
    Some(outer)
}

/// A TCP super-frame inside a tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The outer header.
    pub outer: Meta,
    /// The inner one, positions from the first byte of the frame.
    pub inner: Meta,
}

/// Finds the super-frame in what [`encap`] made, a link header in front of it or not. `None`: this is none, for
/// instance because its outer header has options or a checksum over what is inside, which [`encap`] writes none of.
pub fn find(frame: &[u8], offload: &Offload, link: Link) -> Option<Inside> {
    let Csum::Partial { start, offset: 16 } = offload.csum else { return None };
    let family = match offload.gso?.kind {
        GsoKind::Tcp4 => Family::V4,
        GsoKind::Tcp6 => Family::V6,
        GsoKind::Udp => return None,
    };
    let Ok(Parsed::Ip(outer)) = parse(frame, link) else { return None };
    let ip = if outer.family == Family::V6 { ipv6::LEN } else { ipv4::LEN };
    let rest = frame.get(outer.l4.into()..).filter(|_| usize::from(outer.l4 - outer.l3) == ip)?;
    let header = match outer.proto {
        number::IPIP | number::IPV6 => 0,
        number::GRE => gre_len(rest).filter(|len| *len == gre::LEN)?,
        number::UDP if rest.len() >= udp::LEN && be16(rest, udp::field::CHECKSUM) == 0 => udp::LEN + gue::LEN,
        _ => return None,
    };
    let at = outer.l4 + header as u16;
    let packet = frame.get(at.into()..outer.end as usize).filter(|_| !outer.is_fragment())?;
    let Ok(Parsed::Ip(inner)) = parse(packet, Link::Ip) else { return None };
    let inner = Meta { l3: at, l4: inner.l4.checked_add(at)?, end: inner.end + u32::from(at), ..inner };
    let right = inner.family == family && inner.proto == number::TCP && !inner.is_fragment();
    (right && inner.l4 == start && inner.end == outer.end).then_some(Inside { outer, inner })
}

/// Cuts a tunnel packet with a super-frame into tunnel packets, and hands each to `each`, in order.
///
/// # Errors
/// As [`offload::segment`].
pub fn segment(
    pkt: &PacketBuf<'_>,
    Inside { outer, inner }: &Inside,
    csum: SegmentCsum,
    out: &mut Out,
    mut each: impl FnMut(&mut Out, OwnedPacket),
) -> Result<usize, DropReason> {
    let (l3, l4) = (usize::from(outer.l3), usize::from(outer.l4));
    // what stands in front of the inner header goes with every segment
    offload::segment(pkt, inner, usize::from(u16::MAX), csum, out, |out, mut piece| {
        piece.edit(|p| {
            let frame = p.bytes_mut();
            let len = frame.len() - l3;
            if outer.family == Family::V6 {
                put16(frame, l3 + ipv6::field::PAYLOAD, (len - ipv6::LEN) as u16);
            } else {
                put16(frame, l3 + ipv4::field::TOTAL, len as u16);
                put16(frame, l3 + ipv4::field::CHECKSUM, 0);
                let checksum = sum::checksum(&frame[l3..l4]);
                put16(frame, l3 + ipv4::field::CHECKSUM, checksum);
            }
            if outer.proto == number::UDP {
                put16(frame, l4 + udp::field::LENGTH, (len - (l4 - l3)) as u16);
            }
        });
        each(out, piece);
    })
}
