//! The Internet checksum: whole (RFC 1071), incremental (RFC 1624) and partial (offload).

/// Adds up 16-bit big-endian words without folding to 16 bits; an odd last byte counts as `byte << 8`.
///
/// Sums in native order over eight 32-bit lanes (RFC 1071 section 2: the order of bytes does not
/// matter until the end) and swaps once.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    for pair in blocks.remainder().chunks(2) {
        total += u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    u64::from(u16::from_be(fold(total)))
}

/// Folds carries back until 16 bits are left.
#[inline]
pub const fn fold(s: u64) -> u16 {
    let (low, carry) = (s as u32).overflowing_add((s >> 32) as u32);
    // cannot overflow: two halves that carry leave at most 2^32 - 2
    fold_few(low.wrapping_add(carry as u32))
}

/// The same for a sum of so few words that it has 32 bits.
#[inline]
pub const fn fold_few(s: u32) -> u16 {
    // the low half carries into the high one, where the sum of both halves is left
    (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
}

/// The checksum field for bytes whose field is zero: complement of the folded sum.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The checksum of an IPv4 header of 20 bytes; true when `header` (field included) sums to all ones.
#[inline]
pub fn header_ok(header: &[u8]) -> bool {
    let mut s = 0u64;
    for w in header.chunks_exact(4) {
        s += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    }
    fold(s) == 0xffff
}

/// Sum of the IPv4 pseudo-header (RFC 793 section 3.1), unfolded.
pub fn pseudo4(src: [u8; 4], dst: [u8; 4], proto: u8, len: u32) -> u64 {
    sum(&src) + sum(&dst) + u64::from(proto) + u64::from(len)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1), unfolded.
pub fn pseudo6(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u32) -> u64 {
    sum(src) + sum(dst) + u64::from(proto) + u64::from(len >> 16) + u64::from(len & 0xffff)
}

/// What a checksum has to learn about changed words (RFC 1624 equation 3: HC' = ~(~HC + ~m + m')).
///
/// Collect every change, then apply once. All values are big-endian words as they stand in the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const fn new() -> Delta {
        Delta(0)
    }
    /// A 16-bit word changed.
    #[inline]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Delta {
        Delta(self.0 + (!old) as u64 + new as u64)
    }
    /// A 32-bit value at an even offset changed.
    #[inline]
    #[must_use]
    pub const fn dword(self, old: u32, new: u32) -> Delta {
        Delta(self.0 + (!old) as u64 + new as u64)
    }
    /// A 128-bit value at an even offset changed.
    #[inline]
    #[must_use]
    pub const fn wide(self, old: u128, new: u128) -> Delta {
        let mut d = self;
        let mut i = 0;
        while i < 128 {
            d = d.dword((old >> i) as u32, (new >> i) as u32);
            i += 32;
        }
        d
    }
    /// Both changes.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }
    /// The new field of a complete checksum.
    #[inline]
    pub const fn apply(self, field: u16) -> u16 {
        !fold((!field) as u64 + self.0)
    }
    /// The new field of a partial checksum: the pseudo-header sum is not complemented, and only changes
    /// of the pseudo-header may be collected in this delta.
    #[inline]
    pub const fn apply_partial(self, field: u16) -> u16 {
        fold(field as u64 + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut s = 0u32;
        for w in bytes.chunks(2) {
            s += u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    #[test]
    fn folding_is_adding_the_halves_until_there_is_one() {
        let edges = [0u64, 1, 0xffff, 0x1_0000, 0x1_ffff, 0xffff_ffff, 0x1_0000_0000, 0xffff_ffff_0000_0000];
        for (s, more) in edges.iter().flat_map(|s| (0..100u64).map(move |i| (*s, i * 0x1234_5678_9abc))) {
            for s in [s, s.wrapping_add(more), s.wrapping_sub(more), u64::MAX - more] {
                let mut halves = s;
                while halves >> 16 != 0 {
                    halves = (halves & 0xffff) + (halves >> 16);
                }
                assert_eq!(u64::from(fold(s)), halves, "{s:#x}");
            }
        }
    }

    #[test]
    fn sum_agrees_with_the_obvious_loop_at_every_length() {
        let data: Vec<u8> = (0..200u32).map(|i| (i * 37 + 11) as u8).collect();
        for n in 0..data.len() {
            assert_eq!(fold(sum(&data[..n])), naive(&data[..n]), "{n}");
        }
        assert_eq!(fold(sum(&vec![0xff; 65_535])), naive(&vec![0xff; 65_535]));
    }

    #[test]
    fn rfc1624_example() {
        // RFC 1624 section 4: HC 0xdd2f, m 0x5555 -> 0x3285 gives 0x0000
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn wide_equals_its_words() {
        let (a, b) =
            (0x2001_0db8_0000_0000_0000_0000_0000_0001u128, 0xfe80_1234_5678_9abc_def0_0000_ffff_0002u128);
        let mut words = Delta::new();
        for (x, y) in a.to_be_bytes().chunks(2).zip(b.to_be_bytes().chunks(2)) {
            words = words.word(u16::from_be_bytes([x[0], x[1]]), u16::from_be_bytes([y[0], y[1]]));
        }
        for field in [0u16, 1, 0x1234, 0xffff] {
            assert_eq!(Delta::new().wide(a, b).apply(field), words.apply(field));
        }
    }
}
