//! Direct routing: the packet goes to the real server's station as it came.
//!
//! Only the two Ethernet addresses change (kernel rule 3); the TTL was lowered before. The real server
//! has the VIP on a device that does not answer ARP, so the destination address, the port and every
//! checksum must stay what the client sent.
#![forbid(unsafe_code)]

use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::engine::DropReason;
use crate::wire::eth;

/// Readdresses a frame to `dst_mac`, from `src_mac` (the MAC of the port it leaves by).
///
/// # Errors
/// [`DropReason::ShortFrame`] when there is no Ethernet header.
#[inline]
pub fn readdress(pkt: &mut PacketBuf<'_>, dst_mac: Mac, src_mac: Mac) -> Result<(), DropReason> {
    let header = pkt.bytes_mut().first_chunk_mut::<{ eth::LEN }>().ok_or(DropReason::ShortFrame)?;
    header[eth::field::DST].copy_from_slice(&dst_mac.0);
    header[eth::field::SRC].copy_from_slice(&src_mac.0);
    Ok(())
}

#[cfg(test)]
mod tests {}
