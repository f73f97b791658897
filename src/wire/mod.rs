//! Headers as checked views: one check, then accessors that cannot panic. Nothing here knows of LVS.
//!
//! [`parse`] is the one gate of the packet path: it checks every length once and returns [`Meta`],
//! offsets by which the rest of the core reads and changes the packet in place. The other modules build
//! and read single headers.
#![forbid(unsafe_code)]

pub mod arp;
pub mod eth;
pub mod fragment;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod meta;
pub mod ndp;
pub mod offload;
pub mod options;
pub mod plain;
pub mod sctp;
pub mod sum;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testkit;
pub mod ttl;
pub mod udp;

pub use meta::{Family, Link, Meta, Parsed, parse};

/// Protocol numbers (IANA) and EtherTypes that the core names.
pub mod number {
    #![allow(missing_docs)]
    pub const ETH_IPV4: u16 = 0x0800;
    pub const ETH_ARP: u16 = 0x0806;
    pub const ETH_IPV6: u16 = 0x86dd;
    pub const HOPOPTS: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DSTOPTS: u8 = 60;
    pub const SCTP: u8 = 132;
}

/// Reads a big-endian 16-bit word; the caller has checked the length.
#[inline]
pub fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Reads a big-endian 32-bit word; the caller has checked the length.
#[inline]
pub fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Reads a big-endian 64-bit word; the caller has checked the length.
#[inline]
pub fn be64(b: &[u8], at: usize) -> u64 {
    let mut w = [0u8; 8];
    w.copy_from_slice(&b[at..at + 8]);
    u64::from_be_bytes(w)
}

/// Reads a big-endian 128-bit word; the caller has checked the length.
#[inline]
pub fn be128(b: &[u8], at: usize) -> u128 {
    let mut w = [0u8; 16];
    w.copy_from_slice(&b[at..at + 16]);
    u128::from_be_bytes(w)
}

/// Writes a big-endian 16-bit word; the caller has checked the length.
#[inline]
pub fn put16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_be_bytes());
}

/// Writes a big-endian 32-bit word; the caller has checked the length.
#[inline]
pub fn put32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_be_bytes());
}

/// Writes a big-endian 64-bit word; the caller has checked the length.
#[inline]
pub fn put64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_be_bytes());
}

/// Writes a big-endian 128-bit word; the caller has checked the length.
#[inline]
pub fn put128(b: &mut [u8], at: usize, v: u128) {
    b[at..at + 16].copy_from_slice(&v.to_be_bytes());
}
