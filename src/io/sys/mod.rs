//! The only folder of the crate that may use `unsafe`: system calls that no safe crate wraps.
//! Everything it exports is safe to call.
#![allow(unsafe_code)]

pub mod bpf;
pub mod ethtool;
pub mod huge;
pub mod link;
pub mod netlink;
pub mod ns;
pub mod packet;
pub mod raw;
pub mod ring;
pub mod tuntap;
pub mod xsk;

/// The kernel's monotonic clock in microseconds, as systemd wants it; for messages to it only.
pub fn monotonic_usec() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which lives until the call returns.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    if done == 0 { now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000 } else { 0 }
}
