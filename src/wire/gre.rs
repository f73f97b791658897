//! GRE header (RFC 2784), and the flags of RFC 2890 that are refused.

use super::put16;

/// Length without checksum.
pub const LEN: usize = 4;
/// Length with checksum and its reserved word.
pub const LEN_CSUM: usize = 8;
/// Flag: checksum present.
pub const CSUM: u16 = 0x8000;

/// Offsets in the header.
pub mod field {
    /// Flags and version.
    pub const FLAGS: usize = 0;
    /// EtherType of the payload.
    pub const KIND: usize = 2;
    /// Checksum over header and payload, when flagged.
    pub const CHECKSUM: usize = 4;
}

/// Writes the header into all of `out`: 4 bytes, or 8 with checksum 0 to be filled.
#[inline]
pub fn write(out: &mut [u8], kind: u16) {
    let csum = out.len() >= LEN_CSUM;
    put16(out, field::FLAGS, if csum { CSUM } else { 0 });
    put16(out, field::KIND, kind);
    if csum {
        out[LEN..LEN_CSUM].fill(0);
    }
}
