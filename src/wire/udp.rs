//! UDP header (RFC 768).

use super::put16;

/// Length of the header.
pub const LEN: usize = 8;

/// Offsets in the header.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Length, header included.
    pub const LENGTH: usize = 4;
    /// Checksum; 0 = none.
    pub const CHECKSUM: usize = 6;
}

/// Writes a header with checksum 0.
#[inline]
pub fn write(out: &mut [u8; LEN], sport: u16, dport: u16, length: u16) {
    put16(out, field::SPORT, sport);
    put16(out, field::DPORT, dport);
    put16(out, field::LENGTH, length);
    put16(out, field::CHECKSUM, 0);
}

/// A computed checksum as it is sent: 0 would mean "none" and is sent as all ones (RFC 768).
#[inline]
pub const fn on_wire(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}
