//! Generic UDP encapsulation, version 0 (draft-ietf-intarea-gue-09 section 3).

/// Length without optional fields.
pub const LEN: usize = 4;

/// The header of a data message without optional fields: version 0, no control, no flags.
#[inline]
pub const fn header(proto: u8) -> [u8; LEN] {
    [0, proto, 0, 0]
}

/// Reads the header of a data message: the protocol carried and the length of the header.
///
/// `None` for another version, a control message, flags that ask for processing nobody here does, and a
/// header that is cut off. Unknown optional fields without flags do not exist (section 3.1).
#[inline]
pub fn read(bytes: &[u8]) -> Option<(u8, usize)> {
    let h = bytes.first_chunk::<LEN>()?;
    (h[0] == 0 && h[2] == 0 && h[3] == 0).then_some((h[1], LEN))
}
