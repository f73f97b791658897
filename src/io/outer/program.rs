//! The program that puts outer headers in front of marked super-frames.

use crate::io::ebpf::asm::{Alu, AsmError, Assembler, Insn, Label, Reg, Src, Test, Width};
use crate::io::ebpf::helper::{ADJUST_ROOM, LOAD_BYTES, MAP_LOOKUP, ROOM_MAC, STORE_BYTES};
use crate::io::ebpf::result::{TCX_DROP, TCX_NEXT};
use crate::wire::{Family, eth, ipv4, ipv6, number, udp};

use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R10};
use Src::Imm;

// linux/bpf.h: flags of bpf_skb_adjust_room
const FIXED_GSO: u64 = 1;
const ENCAP_IPV4: u64 = 1 << 1;
const ENCAP_IPV6: u64 = 1 << 2;
const ENCAP_GRE: u64 = 1 << 3;
const ENCAP_UDP: u64 = 1 << 4;

/// `len` of `struct __sk_buff`
const SKB_LEN: i16 = 0;

/// Bytes of the mark, in front of the number of the outer header.
pub const MARK: usize = 4;
/// Bytes of the longest outer header: IPv6, UDP, GUE; a multiple of 8.
pub const HEADER: usize = 56;
/// Bytes of a value of the map.
pub const ENTRY: usize = at::HEADER + HEADER;

/// Where things are in a value of the map.
pub mod at {
    /// How room is to be made.
    pub const FLAGS: usize = 0;
    /// Length of the outer header.
    pub const LEN: usize = 8;
    /// It is one of IPv6.
    pub const V6: usize = 12;
    /// Sum of the words of an IPv4 header without length, identification and checksum.
    pub const SUM: usize = 16;
    /// There is a UDP header.
    pub const UDP: usize = 20;
    /// The link header.
    pub const LINK: usize = 24;
    /// The outer header.
    pub const HEADER: usize = 40;
}

/// How room is to be made for an outer header with this protocol and `behind` bytes behind its IP header.
pub fn flags(family: Family, proto: u8, behind: usize) -> u64 {
    let outer = if family == Family::V6 { ENCAP_IPV6 } else { ENCAP_IPV4 };
    let tunnel = match proto {
        number::GRE => ENCAP_GRE,
        number::UDP => ENCAP_UDP,
        _ => 0,
    };
    debug_assert!(tunnel != 0 || behind == 0);
    // the segment size was chosen with the outer header in mind
    FIXED_GSO | outer | tunnel
}

// on the stack
const LINK: i16 = -16;
const ID: i16 = LINK + 6;
const SPORT: i16 = LINK + 8;
const KEY: i16 = LINK - 8;
const OUTER: i16 = KEY - HEADER as i16;

/// Writes the program for a map of outer headers and a mark.
///
/// # Errors
/// None, in a program that was assembled once.
pub fn build(map: i32, mark: [u8; MARK]) -> Result<Vec<Insn>, AsmError> {
    let mut a = Assembler::new();
    let [next, drop, v6, write] = [(); 4].map(|()| a.label());
    let call = |a: &mut Assembler, helper, failed: Label| {
        a.mov(R1, Src::Reg(R6));
        a.call(helper);
        a.jump_if(Test::NotEqual, R0, Imm(0), failed);
    };
    let stack = |a: &mut Assembler, reg, off: i16| {
        a.mov(reg, Src::Reg(R10));
        a.alu(Alu::Add, reg, Imm(off.into()));
    };
    // r6 = context, r7 = outer header in the map, r8 = length of the packet behind its link header
    a.mov(R6, Src::Reg(R1));
    a.mov(R2, Imm(0));
    stack(&mut a, R3, LINK);
    a.mov(R4, Imm(eth::LEN as i32));
    call(&mut a, LOAD_BYTES, next);
    a.load(Width::Word, R1, R10, LINK);
    a.jump_if(Test::NotEqual, R1, Src::word(mark), next);
    a.load(Width::Half, R1, R10, LINK + MARK as i16);
    a.store(Width::Word, R10, KEY, Src::Reg(R1));
    a.load_map(R1, map);
    stack(&mut a, R2, KEY);
    a.call(MAP_LOOKUP);
    a.jump_if(Test::Zero64, R0, Imm(0), drop);
    a.mov(R7, Src::Reg(R0));

    a.load(Width::Word, R2, R7, at::LEN as i16);
    a.mov(R3, Imm(ROOM_MAC));
    a.load(Width::Double, R4, R7, at::FLAGS as i16);
    call(&mut a, ADJUST_ROOM, drop);

    for i in (0..HEADER as i16).step_by(8) {
        a.load(Width::Double, R1, R7, at::HEADER as i16 + i);
        a.store(Width::Double, R10, OUTER + i, Src::Reg(R1));
    }
    a.load(Width::Word, R8, R6, SKB_LEN);
    a.alu(Alu::Add, R8, Imm(-(eth::LEN as i32)));
    a.load(Width::Word, R1, R7, at::V6 as i16);
    a.jump_if(Test::NotEqual, R1, Imm(0), v6);

    a.mov(R1, Src::Reg(R8));
    a.network16(R1);
    a.store(Width::Half, R10, OUTER + ipv4::field::TOTAL as i16, Src::Reg(R1));
    a.load(Width::Half, R2, R10, ID);
    a.store(Width::Half, R10, OUTER + ipv4::field::ID as i16, Src::Reg(R2));
    a.load(Width::Word, R3, R7, at::SUM as i16);
    a.alu(Alu::Add, R3, Src::Reg(R1));
    a.alu(Alu::Add, R3, Src::Reg(R2));
    for _ in 0..2 {
        a.mov(R4, Src::Reg(R3));
        a.alu(Alu::ShiftRight, R4, Imm(16));
        a.alu(Alu::And, R3, Imm(0xffff));
        a.alu(Alu::Add, R3, Src::Reg(R4));
    }
    a.alu(Alu::Xor, R3, Imm(0xffff));
    a.store(Width::Half, R10, OUTER + ipv4::field::CHECKSUM as i16, Src::Reg(R3));
    datagram(&mut a, ipv4::LEN, write);
    a.jump(write);

    a.place(v6);
    a.mov(R1, Src::Reg(R8));
    a.alu(Alu::Add, R1, Imm(-(ipv6::LEN as i32)));
    a.network16(R1);
    a.store(Width::Half, R10, OUTER + ipv6::field::PAYLOAD as i16, Src::Reg(R1));
    datagram(&mut a, ipv6::LEN, write);

    a.place(write);
    a.mov(R2, Imm(eth::LEN as i32));
    stack(&mut a, R3, OUTER);
    a.load(Width::Word, R4, R7, at::LEN as i16);
    a.jump_if(Test::Above, R4, Imm(HEADER as i32), drop);
    a.jump_if(Test::Equal, R4, Imm(0), drop);
    a.mov(R5, Imm(0));
    call(&mut a, STORE_BYTES, drop);
    for i in [0, 8] {
        a.load(Width::Double, R1, R7, at::LINK as i16 + i);
        a.store(Width::Double, R10, LINK + i, Src::Reg(R1));
    }
    a.mov(R2, Imm(0));
    stack(&mut a, R3, LINK);
    a.mov(R4, Imm(eth::LEN as i32));
    a.mov(R5, Imm(0));
    call(&mut a, STORE_BYTES, drop);
    a.place(next);
    a.mov(R0, Imm(TCX_NEXT));
    a.exit();
    a.place(drop);
    a.mov(R0, Imm(TCX_DROP));
    a.exit();
    a.finish()
}

/// The UDP header behind an IP header of `ip` bytes, where there is one.
fn datagram(a: &mut Assembler, ip: usize, write: Label) {
    a.load(Width::Word, R1, R7, at::UDP as i16);
    a.jump_if(Test::Equal, R1, Imm(0), write);
    let udp_at = OUTER + ip as i16;
    a.load(Width::Half, R1, R10, SPORT);
    a.store(Width::Half, R10, udp_at + udp::field::SPORT as i16, Src::Reg(R1));
    a.mov(R1, Src::Reg(R8));
    a.alu(Alu::Add, R1, Imm(-(ip as i32)));
    a.network16(R1);
    a.store(Width::Half, R10, udp_at + udp::field::LENGTH as i16, Src::Reg(R1));
}
