//! Programs for the kernel: their assembler, and the kernel's numbers that they share. Loading them is
//! [`crate::io::sys::bpf`].

pub mod asm;

/// What programs call, and what they hand over with it (`enum bpf_func_id` in linux/bpf.h).
pub mod helper {
    /// `bpf_map_lookup_elem`
    pub const MAP_LOOKUP: i32 = 1;
    /// `bpf_skb_store_bytes`
    pub const STORE_BYTES: i32 = 9;
    /// `bpf_redirect`
    pub const REDIRECT: i32 = 23;
    /// `bpf_skb_load_bytes`
    pub const LOAD_BYTES: i32 = 26;
    /// `bpf_skb_adjust_room`
    pub const ADJUST_ROOM: i32 = 50;
    /// For it, `BPF_ADJ_ROOM_MAC`: behind the Ethernet header.
    pub const ROOM_MAC: i32 = 1;
    /// `bpf_redirect_map`
    pub const REDIRECT_MAP: i32 = 51;
}

/// What programs answer.
pub mod result {
    /// `XDP_PASS`
    pub const XDP_PASS: i32 = 2;
    /// `TCX_NEXT`: as if this program were not there.
    pub const TCX_NEXT: i32 = -1;
    /// `TCX_DROP`
    pub const TCX_DROP: i32 = 2;
}
