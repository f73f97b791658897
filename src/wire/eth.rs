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

/// Receiver and sender of a frame, as the two numbers they are written by: pieces of six bytes on their
/// way through memory would hold up the processor longer than all arithmetic of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stations {
    first: u64,
    last: u32,
}

impl Stations {
    /// From the port `from` to the next hop `to`.
    #[inline(always)]
    pub fn new(to: Mac, from: Mac) -> Stations {
        let number = |Mac([a, b, c, d, e, f]): Mac| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let (to, from) = (number(to), number(from));
        Stations { first: to | from << 48, last: (from >> 16) as u32 }
    }
    /// Writes them; the EtherType stays.
    #[inline(always)]
    pub fn write(self, header: &mut [u8; LEN]) {
        header[..8].copy_from_slice(&self.first.to_le_bytes());
        header[8..12].copy_from_slice(&self.last.to_le_bytes());
    }
    /// The same in front of a frame; false when it has no room for them.
    #[inline(always)]
    pub fn write_to(self, frame: &mut [u8]) -> bool {
        let header = frame.first_chunk_mut();
        header.is_some_and(|header| {
            self.write(header);
            true
        })
    }
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
    fn stations_are_the_two_addresses_in_order() {
        let (to, from) = (Mac([1, 2, 3, 4, 5, 6]), Mac([7, 8, 9, 10, 11, 12]));
        let mut header = [0xee; LEN];
        Stations::new(to, from).write(&mut header);
        assert_eq!(read(&header), Some((to, from, 0xeeee)));
    }

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
