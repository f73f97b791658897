//! The Call-ID of a SIP message, as the kernel's persistence engine finds it (`ip_vs_pe_sip` with
//! `nf_conntrack_sip`): the first header line `Call-ID:` or `i:` after the request line.

/// Longest Call-ID that is used (kernel: `IP_VS_PEDATA_MAXLEN`).
const MAX: usize = 255;

/// The Call-ID in a datagram's payload. `None` when there is none, it is longer than 255 bytes, or its
/// line does not end.
pub(super) fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        at = line_after(message, at)?;
        let Some(value) = header(message, at) else { continue };
        // a header that names no word is passed over, the next one may
        if let Some(id) = word(message, value) {
            let ends = matches!(message.get(value + id.len()), Some(b'\r' | b'\n'));
            return (id.len() <= MAX && ends).then_some(id);
        }
    }
}

/// Start of the first line that begins behind `at` and is no continuation.
fn line_after(m: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += m.get(at..)?.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
        at += if m[at..].starts_with(b"\r\n") { 2 } else { 1 };
        if !matches!(m.get(at)?, b' ' | b'\t') {
            return Some(at);
        }
    }
}

/// Where the value begins if the line at `at` is a Call-ID.
fn header(m: &[u8], at: usize) -> Option<usize> {
    let line = &m[at..];
    let long = line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"Call-ID"));
    // the short name must not be the beginning of another one
    let short =
        || line[0].eq_ignore_ascii_case(&b'i') && line.get(1).is_some_and(|b| !b.is_ascii_alphabetic());
    let name = if long {
        7
    } else if short() {
        1
    } else {
        return None;
    };
    let colon = blanks(m, at + name)?;
    if m[colon] != b':' { None } else { blanks(m, colon + 1) }
}

/// First byte behind blanks, which a line that begins with a blank continues.
fn blanks(m: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += m.get(at..)?.iter().position(|b| !matches!(b, b' ' | b'\t'))?;
        if !matches!(m[at], b'\r' | b'\n') {
            return Some(at);
        }
        at += if m[at..].starts_with(b"\r\n") { 2 } else { 1 };
        if !matches!(m.get(at)?, b' ' | b'\t') {
            return None;
        }
    }
}

/// `word` or `word@word` (RFC 3261 section 25.1, `callid`).
fn word(m: &[u8], at: usize) -> Option<&[u8]> {
    let rest = m.get(at..)?;
    let len = |from: usize| rest[from..].iter().take_while(|b| is_word(**b)).count();
    let first = len(0);
    match (first, rest.get(first)) {
        (0, _) => None,
        (_, Some(b'@')) => match len(first + 1) {
            0 => None,
            host => Some(&rest[..first + 1 + host]),
        },
        _ => Some(&rest[..first]),
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(message: &str) -> Option<&str> {
        call_id(message.as_bytes()).map(|id| std::str::from_utf8(id).unwrap())
    }

    #[test]
    fn both_names_any_case_blanks_and_continuations() {
        for line in ["Call-ID: a1@h.x", "call-id:a1@h.x", "CALL-ID  :\t a1@h.x", "i: a1@h.x", "I :a1@h.x"] {
            assert_eq!(
                id(&format!("INVITE sip:x SIP/2.0\r\nVia: y\r\n{line}\r\n\r\n")),
                Some("a1@h.x"),
                "{line}"
            );
        }
        assert_eq!(id("X\nCall-ID:\r\n abc\r\n"), Some("abc"));
        assert_eq!(id("X\rCall-ID: abc\r"), Some("abc"));
    }

    #[test]
    fn what_is_no_call_id_is_not_taken_for_one() {
        for m in [
            "",
            "no sip at all",
            "Call-ID: first@line\r\nVia: y\r\n",
            "X\r\nVia: y\r\n Call-ID: a@b\r\n",
            "X\r\nidentity: a@b\r\n",
            "X\r\nCall-ID: a@\r\n",
            "X\r\nCall-ID: \r\n",
            "X\r\nCall-ID: a@b",
            "X\r\nCall-ID a@b\r\n",
            "X\r\nCall-ID: a b\r\n",
        ] {
            assert_eq!(id(m), None, "{m:?}");
        }
    }

    #[test]
    fn the_longest_call_id_has_255_bytes() {
        let message = |n: usize| format!("X\r\ni: {}\r\n", "a".repeat(n));
        assert_eq!(id(&message(255)).map(str::len), Some(255));
        assert_eq!(id(&message(256)), None);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(m in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'@'), Just(b'i'), any::<u8>()], 0..60
        )) {
            let _ = call_id(&m);
        }
    }
}
