//! A small assembler for eBPF: instructions with labels in, the bytes `bpf(2)` loads out.
//!
//! Only what the programs here need. Forward and backward jumps are by label and resolved at the end;
//! a jump that does not fit or a label that is nowhere is an error here and not one of the verifier's.

use std::fmt;

/// A register. `R0` holds results, `R1` to `R5` arguments, `R6` to `R9` outlive calls, `R10` is the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Width of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Width {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// Second operand: a register or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Src {
    Reg(Reg),
    Imm(i32),
}

impl Src {
    /// Two bytes of a packet as a load of two bytes has them.
    pub fn half(bytes: [u8; 2]) -> Src {
        Src::Imm(i32::from(u16::from_ne_bytes(bytes)))
    }
    /// Four bytes of a packet as a load of four bytes has them.
    pub fn word(bytes: [u8; 4]) -> Src {
        Src::Imm(i32::from_ne_bytes(bytes))
    }
}

/// Conditions of jumps. All but [`Test::Above64`] compare the low 32 bits, so that constants with the
/// highest bit set (addresses) mean what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Test {
    Equal,
    NotEqual,
    /// Some of the bits are set.
    Bits,
    /// Unsigned.
    AtLeast,
    Above,
    /// Unsigned, all 64 bits: pointers into the packet.
    Above64,
    /// All 64 bits: a pointer that is null.
    Zero64,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Div = 0x30,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Xor = 0xa0,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// One instruction as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

/// Marks the constant of a 64-bit load as a map's descriptor (`BPF_PSEUDO_MAP_FD`).
const PSEUDO_MAP_FD: u8 = 1;
const LOAD_64: u8 = 0x18;
const EXIT: u8 = 0x95;
const CALL: u8 = 0x85;
const JUMP: u8 = 0x05;
/// Loads of packets by classic BPF's instructions: at a constant, at a register and a constant.
const PACKET: u8 = 0x20;
const PACKET_AT: u8 = 0x40;
/// Brings the low bits of a register into the order of the network.
const BIG_ENDIAN: u8 = 0xdc;

impl Insn {
    /// The eight bytes of `struct bpf_insn`.
    pub fn bytes(self) -> [u8; 8] {
        let mut b = [0; 8];
        b[0] = self.code;
        b[1] =
            if cfg!(target_endian = "little") { self.dst | self.src << 4 } else { self.dst << 4 | self.src };
        b[2..4].copy_from_slice(&self.off.to_ne_bytes());
        b[4..].copy_from_slice(&self.imm.to_ne_bytes());
        b
    }
}

/// Why a program cannot be assembled: always a mistake in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsmError {
    /// A jump to a label that was never placed.
    NoPlace(Label),
    /// A jump further than 32,767 instructions.
    TooFar,
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AsmError::NoPlace(Label(n)) => write!(f, "label {n} has no place"),
            AsmError::TooFar => f.write_str("a jump is too far"),
        }
    }
}

impl std::error::Error for AsmError {}

/// A program being written.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Assembler {
        Assembler::default()
    }
    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    /// Places a label in front of the next instruction.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }
    /// `dst = src`, 64 bits; constants are sign-extended.
    pub fn mov(&mut self, dst: Reg, src: Src) {
        self.operate(0xb0, dst, src);
    }
    /// `dst = dst op src`, 64 bits.
    pub fn alu(&mut self, op: Alu, dst: Reg, src: Src) {
        self.operate(op as u8, dst, src);
    }
    /// `dst = dst op src` with the low 32 bits, the others become zero.
    pub fn alu32(&mut self, op: Alu, dst: Reg, src: Src) {
        match src {
            Src::Reg(r) => self.push(op as u8 | 0x0c, dst, r as u8, 0, 0),
            Src::Imm(i) => self.push(op as u8 | 0x04, dst, 0, 0, i),
        }
    }
    /// The low 16 bits of `reg`, the others become zero: from the network's order to the machine's or back.
    pub fn network16(&mut self, reg: Reg) {
        self.push(BIG_ENDIAN, reg, 0, 0, 16);
    }
    /// The same with 32 bits.
    pub fn network32(&mut self, reg: Reg) {
        self.push(BIG_ENDIAN, reg, 0, 0, 32);
    }
    /// `r0` = what the packet has at `off`, or at `at + off`, as a number; `r6` is the context, `r1` to `r5` are
    /// spoilt. Where the packet is too short the program ends with 0.
    pub fn load_packet(&mut self, width: Width, at: Option<Reg>, off: i32) {
        match at {
            None => self.push(PACKET | width as u8, Reg::R0, 0, 0, off),
            Some(r) => self.push(PACKET_AT | width as u8, Reg::R0, r as u8, 0, off),
        }
    }
    /// `dst = *(base + off)`, zero-extended.
    pub fn load(&mut self, width: Width, dst: Reg, base: Reg, off: i16) {
        self.push(0x61 | width as u8, dst, base as u8, off, 0);
    }
    /// `*(base + off) = src`.
    pub fn store(&mut self, width: Width, base: Reg, off: i16, src: Src) {
        match src {
            Src::Reg(r) => self.push(0x63 | width as u8, base, r as u8, off, 0),
            Src::Imm(i) => self.push(0x62 | width as u8, base, 0, off, i),
        }
    }
    /// The map with this descriptor, as an argument of a call.
    pub fn load_map(&mut self, dst: Reg, fd: i32) {
        self.push(LOAD_64, dst, PSEUDO_MAP_FD, 0, fd);
        self.push(0, Reg::R0, 0, 0, 0);
    }
    /// Goes to `label`.
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.push(JUMP, Reg::R0, 0, 0, 0);
    }
    /// Goes to `label` when the test of `left` against `right` holds.
    pub fn jump_if(&mut self, test: Test, left: Reg, right: Src, label: Label) {
        self.jumps.push((self.insns.len(), label));
        let code = match test {
            Test::Equal => 0x16,
            Test::NotEqual => 0x56,
            Test::Bits => 0x46,
            Test::AtLeast => 0x36,
            Test::Above => 0x26,
            Test::Above64 => 0x25,
            Test::Zero64 => 0x15,
        };
        match right {
            Src::Reg(r) => self.push(code | 0x08, left, r as u8, 0, 0),
            Src::Imm(i) => self.push(code, left, 0, 0, i),
        }
    }
    /// Calls a helper of the kernel by its number.
    pub fn call(&mut self, helper: i32) {
        self.push(CALL, Reg::R0, 0, 0, helper);
    }
    /// Ends the program with `R0` as its result.
    pub fn exit(&mut self) {
        self.push(EXIT, Reg::R0, 0, 0, 0);
    }
    /// The finished program.
    ///
    /// # Errors
    /// [`AsmError`]
    pub fn finish(mut self) -> Result<Vec<Insn>, AsmError> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].ok_or(AsmError::NoPlace(label))?;
            let distance = to as isize - at as isize - 1;
            self.insns[at].off = i16::try_from(distance).map_err(|_| AsmError::TooFar)?;
        }
        Ok(self.insns)
    }

    fn operate(&mut self, op: u8, dst: Reg, src: Src) {
        match src {
            Src::Reg(r) => self.push(op | 0x0f, dst, r as u8, 0, 0),
            Src::Imm(i) => self.push(op | 0x07, dst, 0, 0, i),
        }
    }
    fn push(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn { code, dst: dst as u8, src, off, imm });
    }
}

/// The program as text, one instruction a line, in the notation of the kernel's verifier.
pub fn disassemble(program: &[Insn]) -> String {
    let mut text = String::new();
    let mut second_half = false;
    for (at, i) in program.iter().enumerate() {
        if !std::mem::replace(&mut second_half, i.code == LOAD_64) {
            text += &format!("{at:3}: {}\n", line(at, i));
        }
    }
    text
}

fn line(at: usize, i: &Insn) -> String {
    let Insn { code, dst, src, off, imm } = *i;
    let width = |code: u8| match code & 0x18 {
        0x10 => "u8",
        0x08 => "u16",
        0x00 => "u32",
        _ => "u64",
    };
    let right = |wide: &str| {
        if code & 0x08 != 0 {
            format!("{wide}{src}")
        } else if imm < 0 {
            imm.to_string()
        } else {
            format!("{imm:#x}")
        }
    };
    let to = at as isize + 1 + isize::from(off);
    match code {
        EXIT => "exit".into(),
        CALL => format!("call {imm}"),
        JUMP => format!("goto {to}"),
        LOAD_64 => format!("r{dst} = map {imm}"),
        BIG_ENDIAN => format!("r{dst} = be{imm} r{dst}"),
        _ => match code & 0x07 {
            0 if code & PACKET_AT != 0 => format!("r0 = *({} *)skb[r{src} {imm:+}]", width(code)),
            0 => format!("r0 = *({} *)skb[{imm}]", width(code)),
            1 => format!("r{dst} = *({} *)(r{src} {off:+})", width(code)),
            2 => format!("*({} *)(r{dst} {off:+}) = {imm:#x}", width(code)),
            3 => format!("*({} *)(r{dst} {off:+}) = r{src}", width(code)),
            class @ (4 | 7) => {
                let wide = if class == 7 { "r" } else { "w" };
                let sign = match code & 0xf0 {
                    0xb0 => "=",
                    0x50 => "&=",
                    0x60 => "<<=",
                    0x70 => ">>=",
                    0x10 => "-=",
                    0x20 => "*=",
                    0x30 => "/=",
                    0xa0 => "^=",
                    _ => "+=",
                };
                format!("{wide}{dst} {sign} {}", right(wide))
            }
            class => {
                let wide = if class == 5 { "r" } else { "w" };
                let sign = match code & 0xf0 {
                    0x10 => "==",
                    0x50 => "!=",
                    0x40 => "&",
                    0x30 => ">=",
                    _ => ">",
                };
                format!("if {wide}{dst} {sign} {} goto {to}", right(wide))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(write: impl FnOnce(&mut Assembler)) -> [u8; 8] {
        let mut a = Assembler::new();
        write(&mut a);
        a.finish().unwrap()[0].bytes()
    }

    /// What clang makes of the same statements (`llvm-objdump -d` of a little-endian object).
    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_those_of_the_compiler() {
        use Reg::*;
        let cases: [(&str, [u8; 8], [u8; 8]); 18] = [
            ("r0 = 2", one(|a| a.mov(R0, Src::Imm(2))), [0xb7, 0, 0, 0, 2, 0, 0, 0]),
            ("r6 = r1", one(|a| a.mov(R6, Src::Reg(R1))), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]),
            ("r2 += 14", one(|a| a.alu(Alu::Add, R2, Src::Imm(14))), [0x07, 2, 0, 0, 14, 0, 0, 0]),
            ("r2 += r3", one(|a| a.alu(Alu::Add, R2, Src::Reg(R3))), [0x0f, 0x32, 0, 0, 0, 0, 0, 0]),
            (
                "r2 = *(u32 *)(r1 + 4)",
                one(|a| a.load(Width::Word, R2, R1, 4)),
                [0x61, 0x12, 4, 0, 0, 0, 0, 0],
            ),
            (
                "r2 = *(u16 *)(r1 + 12)",
                one(|a| a.load(Width::Half, R2, R1, 12)),
                [0x69, 0x12, 12, 0, 0, 0, 0, 0],
            ),
            ("r2 = *(u8 *)(r1 + 0)", one(|a| a.load(Width::Byte, R2, R1, 0)), [0x71, 0x12, 0, 0, 0, 0, 0, 0]),
            (
                "*(u64 *)(r10 - 16) = r1",
                one(|a| a.store(Width::Double, R10, -16, Src::Reg(R1))),
                [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
            ),
            (
                "*(u32 *)(r10 - 4) = 1",
                one(|a| a.store(Width::Word, R10, -4, Src::Imm(1))),
                [0x62, 0x0a, 0xfc, 0xff, 1, 0, 0, 0],
            ),
            ("w0 *= 5", one(|a| a.alu32(Alu::Mul, R0, Src::Imm(5))), [0x24, 0, 0, 0, 5, 0, 0, 0]),
            ("w0 /= 5", one(|a| a.alu32(Alu::Div, R0, Src::Imm(5))), [0x34, 0, 0, 0, 5, 0, 0, 0]),
            ("w0 ^= w7", one(|a| a.alu32(Alu::Xor, R0, Src::Reg(R7))), [0xac, 0x70, 0, 0, 0, 0, 0, 0]),
            ("r0 = be16 r0", one(|a| a.network16(R0)), [0xdc, 0, 0, 0, 16, 0, 0, 0]),
            (
                "r0 = *(u8 *)skb[23]",
                one(|a| a.load_packet(Width::Byte, None, 23)),
                [0x30, 0, 0, 0, 23, 0, 0, 0],
            ),
            (
                "r0 = *(u16 *)skb[r7 + 14]",
                one(|a| a.load_packet(Width::Half, Some(R7), 14)),
                [0x48, 0x70, 0, 0, 14, 0, 0, 0],
            ),
            ("call 51", one(|a| a.call(51)), [0x85, 0, 0, 0, 51, 0, 0, 0]),
            ("exit", one(Assembler::exit), [0x95, 0, 0, 0, 0, 0, 0, 0]),
            ("r1 = map fd 5", one(|a| a.load_map(R1, 5)), [0x18, 0x11, 0, 0, 5, 0, 0, 0]),
        ];
        for (what, got, want) in cases {
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn jumps_reach_their_labels_both_ways() {
        let mut a = Assembler::new();
        let (back, out) = (a.label(), a.label());
        a.place(back);
        a.jump_if(Test::Equal, Reg::R1, Src::Imm(7), out);
        a.jump_if(Test::Above64, Reg::R1, Src::Reg(Reg::R2), out);
        a.jump(back);
        a.place(out);
        a.exit();
        let text = disassemble(&a.finish().unwrap());
        assert_eq!(text, "  0: if w1 == 0x7 goto 3\n  1: if r1 > r2 goto 3\n  2: goto 0\n  3: exit\n");
    }

    #[test]
    fn a_label_without_a_place_and_a_jump_too_far_are_errors() {
        let mut a = Assembler::new();
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish().unwrap_err(), AsmError::NoPlace(nowhere));
        let mut a = Assembler::new();
        let far = a.label();
        a.jump(far);
        for _ in 0..40_000 {
            a.exit();
        }
        a.place(far);
        assert_eq!(a.finish().unwrap_err(), AsmError::TooFar);
    }
}
