//! IPv4 header (RFC 791).

use super::sum::{Delta, fold};
use super::{be16, be32, put16, put32};

/// Length without options.
pub const LEN: usize = 20;
/// The don't-fragment bit of [`field::FRAGMENT`].
pub const DF: u16 = 0x4000;

/// Offsets in the header.
pub mod field {
    /// DSCP and ECN.
    pub const TOS: usize = 1;
    /// Length of the datagram.
    pub const TOTAL: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTO: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
}

/// A header without options, to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the datagram, header included.
    pub total: u16,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub proto: u8,
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
}

impl Header {
    /// Writes the header with its checksum.
    pub fn write(&self, out: &mut [u8; LEN]) {
        out[0] = 0x45;
        out[field::TOS] = self.tos;
        put16(out, field::TOTAL, self.total);
        put16(out, field::ID, self.id);
        put16(out, field::FRAGMENT, if self.df { DF } else { 0 });
        out[field::TTL] = self.ttl;
        out[field::PROTO] = self.proto;
        put16(out, field::CHECKSUM, 0);
        put32(out, field::SRC, self.src);
        put32(out, field::DST, self.dst);
        let words = [0, 4, 8, 12, 16].map(|at| u64::from(be32(out, at)));
        put16(out, field::CHECKSUM, !fold(words.iter().sum()));
    }
}

/// Lowers the TTL by one and keeps the header checksum right. The caller knows it is above 1.
#[inline]
pub fn decrement_ttl(header: &mut [u8; LEN]) {
    let old = be16(header, field::TTL);
    header[field::TTL] = header[field::TTL].saturating_sub(1);
    let sum = Delta::new().word(old, be16(header, field::TTL)).apply(be16(header, field::CHECKSUM));
    put16(header, field::CHECKSUM, sum);
}
