//! IPv6 header (RFC 8200).

use super::{put16, put32, put128};

/// Length of the fixed header.
pub const LEN: usize = 40;

/// Offsets in the header.
pub mod field {
    /// Length of everything behind the fixed header.
    pub const PAYLOAD: usize = 4;
    /// Next header.
    pub const NEXT: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
}

/// A fixed header, to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Traffic class.
    pub class: u8,
    /// Flow label, 20 bits.
    pub flow: u32,
    /// Length of everything behind the fixed header.
    pub payload: u16,
    /// Next header.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
}

impl Header {
    /// Writes the header.
    pub fn write(&self, out: &mut [u8; LEN]) {
        put32(out, 0, 6 << 28 | u32::from(self.class) << 20 | (self.flow & 0xf_ffff));
        put16(out, field::PAYLOAD, self.payload);
        out[field::NEXT] = self.next;
        out[field::HOP_LIMIT] = self.hop_limit;
        put128(out, field::SRC, self.src);
        put128(out, field::DST, self.dst);
    }
}

/// Traffic class of a header.
#[inline]
pub fn class(header: &[u8; LEN]) -> u8 {
    header[0] << 4 | header[1] >> 4
}
