//! Ethernet II.

use super::{be16, put16};
use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::engine::DropReason;

/// Length of the header; VLAN tags are the device's business.
pub const LEN: usize = 14;

/// Offsets in the header.
pub mod field {
    use core::ops::Range;
    /// Destination station.
    pub const DST: Range<usize> = 0..6;
    /// Source station.
    pub const SRC: Range<usize> = 6..12;
    /// EtherType.
    pub const KIND: usize = 12;
}

/// Destination, source and EtherType of a frame; `None` when it is shorter than the header.
#[inline]
pub fn read(frame: &[u8]) -> Option<(Mac, Mac, u16)> {
    let h = frame.first_chunk::<LEN>()?;
    let (mut dst, mut src) = ([0; 6], [0; 6]);
    dst.copy_from_slice(&h[field::DST]);
    src.copy_from_slice(&h[field::SRC]);
    Some((Mac(dst), Mac(src), be16(h, field::KIND)))
}

/// Writes a whole header.
#[inline]
pub fn write(header: &mut [u8; LEN], dst: Mac, src: Mac, kind: u16) {
    header[field::DST].copy_from_slice(&dst.0);
    header[field::SRC].copy_from_slice(&src.0);
    put16(header, field::KIND, kind);
}

/// Puts a header in front of an IP packet.
///
/// # Errors
/// [`DropReason::NoHeadroom`]; the packet is as it was.
#[inline]
pub fn prepend(pkt: &mut PacketBuf<'_>, dst: Mac, src: Mac, kind: u16) -> Result<(), DropReason> {
    let room = pkt.prepend(LEN).and_then(|h| h.first_chunk_mut::<LEN>()).ok_or(DropReason::NoHeadroom)?;
    write(room, dst, src, kind);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepended_header_reads_back() {
        let mut mem = [0u8; 64];
        let mut pkt = PacketBuf::new(&mut mem, 20, 40, crate::buf::Offload::NONE);
        prepend(&mut pkt, Mac([1; 6]), Mac([2; 6]), 0x86dd).unwrap();
        assert_eq!((read(pkt.bytes()), pkt.len()), (Some((Mac([1; 6]), Mac([2; 6]), 0x86dd)), 34));
        assert_eq!(prepend(&mut pkt, Mac([1; 6]), Mac([2; 6]), 0x0800), Err(DropReason::NoHeadroom));
        assert_eq!(pkt.len(), 34, "a refused header changes nothing");
        assert_eq!(read(&[0; 13]), None);
    }
}
