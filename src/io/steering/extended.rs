//! Classic programs in extended BPF, for devices that take no other.
//!
//! Instruction by instruction, as the kernel itself translates socket filters: A is `r0`, X is `r7`, the memory lies
//! on the stack, `r6` leads to the packet. Loads from the packet are instructions of both languages; a packet that
//! is too short for one ends the program with 0. What nothing leads to is left out, the kernel would refuse it.

use std::fmt;

use super::super::sys::packet::Op;
use super::super::xdp::asm::{Alu, AsmError, Assembler, Insn, Label, Reg, Src, Test, Width};
use super::*;

use Reg::{R0, R1, R6, R7, R8, R10};

/// `protocol` in `struct __sk_buff`, in the order of the network.
const SK_BUFF_PROTOCOL: i16 = 16;
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

/// Translates a program.
///
/// # Errors
/// [`Untranslatable`]
pub fn translate(ops: &[Op]) -> Result<Vec<Insn>, Untranslatable> {
    let mut a = Assembler::new();
    let labels: Vec<Label> = ops.iter().map(|_| a.label()).collect();
    let mut reached = vec![false; ops.len()];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    a.mov(R6, Src::Reg(R1));
    a.mov(R0, Src::Imm(0));
    a.mov(R7, Src::Imm(0));
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
                a.exit();
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
                straight(&mut a, *op)?;
            }
        }
    }
    a.finish().map_err(Untranslatable::Asm)
}

/// An instruction that goes on with the next.
fn straight(a: &mut Assembler, op: Op) -> Result<(), Untranslatable> {
    let k = Src::Imm(op.k as i32);
    let at = op.k as i32;
    match op.code {
        LD_H_ABS if op.k == PROTOCOL => {
            a.load(Width::Word, R0, R6, SK_BUFF_PROTOCOL);
            a.network16(R0);
        }
        LD_W_ABS => a.load_packet(Width::Word, None, at),
        LD_H_ABS => a.load_packet(Width::Half, None, at),
        LD_B_ABS => a.load_packet(Width::Byte, None, at),
        LD_H_IND => a.load_packet(Width::Half, Some(R7), at),
        LDX_MSH => {
            a.mov(R8, Src::Reg(R0));
            a.load_packet(Width::Byte, None, at);
            a.alu32(Alu::And, R0, Src::Imm(15));
            a.alu32(Alu::ShiftLeft, R0, Src::Imm(2));
            a.mov(R7, Src::Reg(R0));
            a.mov(R0, Src::Reg(R8));
        }
        // the highest bit would be spread over the upper half
        LD_IMM if at >= 0 => a.mov(R0, k),
        LD_MEM | LDX_MEM | ST | STX if op.k < MEMORY => {
            let slot = (4 * op.k) as i16 - 4 * MEMORY as i16;
            match op.code {
                LD_MEM => a.load(Width::Word, R0, R10, slot),
                LDX_MEM => a.load(Width::Word, R7, R10, slot),
                ST => a.store(Width::Word, R10, slot, Src::Reg(R0)),
                _ => a.store(Width::Word, R10, slot, Src::Reg(R7)),
            }
        }
        ADD_X => a.alu32(Alu::Add, R0, Src::Reg(R7)),
        XOR_X => a.alu32(Alu::Xor, R0, Src::Reg(R7)),
        SUB_K => a.alu32(Alu::Sub, R0, k),
        MUL_K => a.alu32(Alu::Mul, R0, k),
        DIV_K => a.alu32(Alu::Div, R0, k),
        RSH_K => a.alu32(Alu::ShiftRight, R0, k),
        _ => return Err(Untranslatable::Unknown(op)),
    }
    Ok(())
}
