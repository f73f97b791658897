//! The only folder of the crate that may use `unsafe`: system calls that no safe crate wraps.
//! Everything it exports is safe to call.
#![allow(unsafe_code)]

pub mod bpf;
pub mod ethtool;
pub mod link;
pub mod netlink;
pub mod ns;
pub mod packet;
pub mod raw;
pub mod ring;
pub mod tuntap;
pub mod xsk;
