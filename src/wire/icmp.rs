//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages: numbers, and which of them are errors.

/// Bytes of the part every message has: type, code, checksum and four bytes that depend on the type.
pub const LEN: usize = 8;

/// Where the fields are, from the first byte of the message.
pub mod field {
    #![allow(missing_docs)]
    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const REST: usize = 4;
}

/// ICMP types.
pub mod v4 {
    #![allow(missing_docs)]
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// The last type there is a query or reply for; all above are unknown.
    pub const LAST: u8 = 18;
}

/// ICMPv6 types.
pub mod v6 {
    #![allow(missing_docs)]
    pub const UNREACHABLE: u8 = 1;
    pub const TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
}

/// True for messages no error may be sent about (RFC 1122 section 3.2.2); as in the kernel, router
/// discovery and unknown types count as errors (`icmp_pointers`).
pub const fn is_error4(kind: u8) -> bool {
    !matches!(kind, v4::ECHO_REPLY | v4::ECHO | v4::TIMESTAMP..=v4::LAST)
}

/// True for messages no error may be sent about (RFC 4443 section 2.4 (e.1)). The kernel does about a
/// redirect that passes, which (e.2) forbids; no router passes one on.
pub const fn is_error6(kind: u8) -> bool {
    kind < v6::ECHO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_no_errors_and_unknown_types_are() {
        for kind in [0, 8, 13, 14, 17, 18] {
            assert!(!is_error4(kind), "{kind}");
        }
        for kind in [1, 3, 4, 5, 7, 9, 10, 11, 12, 19, 255] {
            assert!(is_error4(kind), "{kind}");
        }
        assert!(is_error6(1) && is_error6(127));
        assert!(!is_error6(128) && !is_error6(137));
    }
}
