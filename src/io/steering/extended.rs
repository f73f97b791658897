//! Classic programs in extended BPF, for devices that take no other.
//!
//! Instruction by instruction, as the kernel itself translates socket filters: A is `r0`, the memory lies on the stack.
//! For TAP and TUN devices X is `r7`, `r6` leads to the packet, and loads from the packet are instructions of both
//! languages. XDP has none of those: there a load looks whether the frame is long enough and reads it. A packet that
//! is too short for a load ends the program with 0. What nothing leads to is left out, the kernel would refuse it.

use std::fmt;

use super::super::sys::packet::Op;
use super::{
    ADD_X, DIV_K, JA, JEQ, JGE, JGT, JSET, LD_B_ABS, LD_H_ABS, LD_H_IND, LD_IMM, LD_MEM, LD_W_ABS, LDX_MEM,
    LDX_MSH, MUL_K, NET, PROTOCOL, RET_K, RSH_K, ST, STX, SUB_K, XOR_X,
};
use crate::io::ebpf::asm::{Alu, AsmError, Assembler, Insn, Label, Reg, Src, Test, Width};

use Reg::{R0, R1, R2, R3, R5, R6, R7, R8, R9, R10};

/// `protocol` in `struct __sk_buff`, in the order of the network.
const SK_BUFF_PROTOCOL: i16 = 16;
/// Where a frame says the same.
const ETHERTYPE: i16 = 12;
/// Words of memory.
const MEMORY: u32 = 16;

/// Why a program cannot be translated: always a mistake in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untranslatable {
    /// An instruction that is not known here.
    Unknown(Op),
    /// A jump out of the program.
    Out,
    /// It is too long.
    Asm(AsmError),
}

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untranslatable::Unknown(op) => write!(f, "unknown instruction {:#x}", op.code),
            Untranslatable::Out => f.write_str("a jump out of the program"),
            Untranslatable::Asm(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Untranslatable {}

/// Translates a program for a TAP or TUN device.
///
/// # Errors
/// [`Untranslatable`]
pub fn translate(ops: &[Op]) -> Result<Vec<Insn>, Untranslatable> {
    let mut a = Assembler::new();
    a.mov(R6, Src::Reg(R1));
    write(&mut a, ops, Packet::Socket)?;
    a.finish().map_err(Untranslatable::Asm)
}

/// Where packets are read from, and what the end of the program is.
#[derive(Clone, Copy, Debug)]
enum Packet {
    /// By the instructions for it; the program ends.
    Socket,
    /// A frame, as in [`in_frame`]: if it is too short, and at the end.
    Frame { short: Label, done: Label },
}

/// Puts a program into one for XDP, where `r7` is the frame, `r8` its end and `r9` the network header, the Ethernet
/// header is there, and `r1` to `r5` are free. It goes on behind it, with the result in `r0`.
///
/// # Errors
/// [`Untranslatable`]
pub fn in_frame(a: &mut Assembler, ops: &[Op]) -> Result<(), Untranslatable> {
    let (short, done) = (a.label(), a.label());
    write(a, ops, Packet::Frame { short, done })?;
    a.place(short);
    a.mov(R0, Src::Imm(0));
    a.place(done);
    Ok(())
}

fn write(a: &mut Assembler, ops: &[Op], packet: Packet) -> Result<(), Untranslatable> {
    let x = packet.x();
    let labels: Vec<Label> = ops.iter().map(|_| a.label()).collect();
    let mut reached = vec![false; ops.len()];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    a.mov(R0, Src::Imm(0));
    a.mov(x, Src::Imm(0));
    for (at, op) in ops.iter().enumerate() {
        // jumps lead forward only, so all that lead here were seen
        if !reached[at] {
            continue;
        }
        a.place(labels[at]);
        let mut to = |distance: u32| {
            let target = at + 1 + distance as usize;
            *reached.get_mut(target).ok_or(Untranslatable::Out)? = true;
            Ok(labels[target])
        };
        let k = Src::Imm(op.k as i32);
        match op.code {
            JA => a.jump(to(op.k)?),
            RET_K => {
                a.mov(R0, k);
                match packet {
                    Packet::Socket => a.exit(),
                    Packet::Frame { done, .. } => a.jump(done),
                }
            }
            JEQ | JGT | JGE | JSET => {
                let (holds, otherwise) = (to(op.jt.into())?, to(op.jf.into())?);
                match (op.code, op.jt) {
                    (JEQ, 0) => a.jump_if(Test::NotEqual, R0, k, otherwise),
                    (code, _) => {
                        let test = match code {
                            JEQ => Test::Equal,
                            JGT => Test::Above,
                            JGE => Test::AtLeast,
                            _ => Test::Bits,
                        };
                        a.jump_if(test, R0, k, holds);
                        if op.jf != 0 {
                            a.jump(otherwise);
                        }
                    }
                }
            }
            _ => {
                to(0)?;
                straight(a, *op, packet)?;
            }
        }
    }
    Ok(())
}

impl Packet {
    /// The register for X.
    fn x(self) -> Reg {
        match self {
            Packet::Socket => R7,
            Packet::Frame { .. } => R5,
        }
    }
    /// `r0` = so many bytes at `off` from the network header, or `at` bytes behind that.
    fn load(self, a: &mut Assembler, width: Width, at: Option<Reg>, off: u32) {
        let Packet::Frame { short, .. } = self else {
            return a.load_packet(width, at, off as i32);
        };
        let off = off.wrapping_sub(NET) as i16;
        let len = match width {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
            Width::Double => 8,
        };
        a.mov(R2, Src::Reg(R9));
        if let Some(at) = at {
            // the length of an IPv4 header, so that the kernel knows how far it leads
            a.mov(R3, Src::Reg(at));
            a.alu(Alu::And, R3, Src::Imm(60));
            a.alu(Alu::Add, R2, Src::Reg(R3));
        }
        a.mov(R3, Src::Reg(R2));
        a.alu(Alu::Add, R3, Src::Imm(i32::from(off) + len));
        a.jump_if(Test::Above64, R3, Src::Reg(R8), short);
        a.load(width, R0, R2, off);
        match width {
            Width::Byte => {}
            Width::Half => a.network16(R0),
            Width::Word | Width::Double => a.network32(R0),
        }
    }
    /// `r0` = the number of the network's protocol.
    fn protocol(self, a: &mut Assembler) {
        match self {
            Packet::Socket => a.load(Width::Word, R0, R6, SK_BUFF_PROTOCOL),
            Packet::Frame { .. } => a.load(Width::Half, R0, R7, ETHERTYPE),
        }
        a.network16(R0);
    }
    /// A register for A while something else is loaded.
    fn aside(self) -> Reg {
        match self {
            Packet::Socket => R8,
            Packet::Frame { .. } => R1,
        }
    }
}

/// An instruction that goes on with the next.
fn straight(a: &mut Assembler, op: Op, packet: Packet) -> Result<(), Untranslatable> {
    let k = Src::Imm(op.k as i32);
    let x = packet.x();
    match op.code {
        LD_H_ABS if op.k == PROTOCOL => packet.protocol(a),
        LD_W_ABS => packet.load(a, Width::Word, None, op.k),
        LD_H_ABS => packet.load(a, Width::Half, None, op.k),
        LD_B_ABS => packet.load(a, Width::Byte, None, op.k),
        LD_H_IND => packet.load(a, Width::Half, Some(x), op.k),
        LDX_MSH => {
            let aside = packet.aside();
            a.mov(aside, Src::Reg(R0));
            packet.load(a, Width::Byte, None, op.k);
            a.alu32(Alu::And, R0, Src::Imm(15));
            a.alu32(Alu::ShiftLeft, R0, Src::Imm(2));
            a.mov(x, Src::Reg(R0));
            a.mov(R0, Src::Reg(aside));
        }
        // the highest bit would be spread over the upper half
        LD_IMM if op.k as i32 >= 0 => a.mov(R0, k),
        LD_MEM | LDX_MEM | ST | STX if op.k < MEMORY => {
            let slot = (4 * op.k) as i16 - 4 * MEMORY as i16;
            match op.code {
                LD_MEM => a.load(Width::Word, R0, R10, slot),
                LDX_MEM => a.load(Width::Word, x, R10, slot),
                ST => a.store(Width::Word, R10, slot, Src::Reg(R0)),
                _ => a.store(Width::Word, R10, slot, Src::Reg(x)),
            }
        }
        ADD_X => a.alu32(Alu::Add, R0, Src::Reg(x)),
        XOR_X => a.alu32(Alu::Xor, R0, Src::Reg(x)),
        SUB_K => a.alu32(Alu::Sub, R0, k),
        MUL_K => a.alu32(Alu::Mul, R0, k),
        DIV_K => a.alu32(Alu::Div, R0, k),
        RSH_K => a.alu32(Alu::ShiftRight, R0, k),
        _ => return Err(Untranslatable::Unknown(op)),
    }
    Ok(())
}
