//! The program that runs in the kernel for each frame: redirect it to a socket of the director's, or pass it on.
//!
//! It is [`super::claims::Claims::takes`] in instructions. The MAC stands in the program, addresses in two maps
//! (single ones hashed, networks by longest prefix), so that they can change while it runs. A frame that
//! arrives at a queue without a socket is passed on. With several workers it goes on to say whose packet it is
//! ([`crate::io::steering`]).

use super::claims::flag;
use crate::addr::Mac;
use crate::io::ebpf::asm::{Alu, Assembler, Insn, Label, Reg, Src, Test, Width};
use crate::io::ebpf::helper::{MAP_LOOKUP, REDIRECT_MAP};
use crate::io::ebpf::result::XDP_PASS;
use crate::io::steering::Steps;
use crate::io::steering::extended::Untranslatable;

use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use Src::Imm;

// struct xdp_md
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const QUEUE: i16 = 16;

/// The key of a lookup on the stack, with the prefix length in front of it.
const KEY: i16 = -16;
const PREFIX: i16 = -20;

/// Where things are in a frame.
const L3: i32 = 14;
const ETHERTYPE: i16 = 12;

/// What becomes of a frame that belongs to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// To a socket in an XSKMAP with this descriptor. Each queue has so many places in it, one after the other: with
    /// one, its socket; with more, one for each worker, and then that of the queue's own socket.
    Redirect {
        /// The map.
        sockets: i32,
        /// Places of a queue.
        places: u32,
    },
    /// The program ends with this result, and the worker's number added to it (tests).
    Return(i32),
}

/// What the program is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The director's MAC.
    pub mac: Mac,
    /// It is the interface's own.
    pub inherited: bool,
    /// Descriptor of the map of addresses.
    pub hosts: i32,
    /// Descriptor of the map of networks.
    pub nets: i32,
    /// What to do with the director's frames.
    pub take: Take,
    /// How to tell whose they are, where several workers take them.
    pub steps: Option<Steps>,
}

/// Writes the program.
///
/// # Errors
/// A mistake in this file or in steering.
pub fn build(p: &Parameters) -> Result<Vec<Insn>, Untranslatable> {
    let mut a = Assembler::new();
    let (take, pass) = (a.label(), a.label());
    Writer { a, p, take, pass }.write()
}

struct Writer<'p> {
    a: Assembler,
    p: &'p Parameters,
    take: Label,
    pass: Label,
}

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLANS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

impl Writer<'_> {
    /// r6 = context, r7 = frame, r8 = its end, r9 = r7 + 14.
    fn write(mut self) -> Result<Vec<Insn>, Untranslatable> {
        let (take, pass) = (self.take, self.pass);
        let (arp, group, v4, v6) = (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let m = self.p.mac.0;
        let a = &mut self.a;
        a.mov(R6, Src::Reg(R1));
        a.load(Width::Word, R7, R1, DATA);
        a.load(Width::Word, R8, R1, DATA_END);
        self.reach(R7, L3);
        let a = &mut self.a;
        a.mov(R9, Src::Reg(R7));
        a.alu(Alu::Add, R9, Imm(L3));
        a.load(Width::Half, R5, R7, ETHERTYPE);
        a.load(Width::Byte, R4, R7, 0);
        a.jump_if(Test::Bits, R4, Imm(1), group);
        a.load(Width::Word, R4, R7, 0);
        a.jump_if(Test::NotEqual, R4, Src::word([m[0], m[1], m[2], m[3]]), pass);
        a.load(Width::Half, R4, R7, 4);
        a.jump_if(Test::NotEqual, R4, Src::half([m[4], m[5]]), pass);
        for vlan in VLANS {
            a.jump_if(Test::Equal, R5, Src::half(vlan), pass);
        }
        if self.p.inherited {
            a.jump_if(Test::Equal, R5, Src::half(IPV4), v4);
            a.jump_if(Test::Equal, R5, Src::half(IPV6), v6);
            a.jump_if(Test::Equal, R5, Src::half(ARP), arp);
            a.jump(pass);
            a.place(v4);
            self.ipv4();
            self.a.place(v6);
            self.ipv6();
        } else {
            a.jump(take);
        }
        self.a.place(group);
        self.a.jump_if(Test::Equal, R5, Src::half(ARP), arp);
        self.a.jump_if(Test::NotEqual, R5, Src::half(IPV6), pass);
        self.discovery();
        self.a.place(arp);
        self.arp();
        self.end()?;
        self.a.finish().map_err(Untranslatable::Asm)
    }

    /// Passes frames on that do not have `n` bytes from `base` on.
    fn reach(&mut self, base: Reg, n: i32) {
        self.a.mov(R4, Src::Reg(base));
        self.a.alu(Alu::Add, R4, Imm(n));
        self.a.jump_if(Test::Above64, R4, Src::Reg(R8), self.pass);
    }

    /// The flags of the address at `base + off` into r0. Spoils r1 to r5.
    fn look_up(&mut self, base: Reg, off: i16, v6: bool) {
        let a = &mut self.a;
        if v6 {
            for i in 0..4 {
                a.load(Width::Word, R1, base, off + 4 * i);
                a.store(Width::Word, R10, KEY + 4 * i, Src::Reg(R1));
            }
        } else {
            a.load(Width::Word, R1, base, off);
            a.store(Width::Double, R10, KEY, Imm(0));
            a.store(Width::Word, R10, KEY + 8, Src::word([0, 0, 0xff, 0xff]));
            a.store(Width::Word, R10, KEY + 12, Src::Reg(R1));
        }
        self.look_up_key(true);
    }

    fn look_up_key(&mut self, nets: bool) {
        let a = &mut self.a;
        let (found, done) = (a.label(), a.label());
        a.load_map(R1, self.p.hosts);
        a.mov(R2, Src::Reg(R10));
        a.alu(Alu::Add, R2, Imm(KEY.into()));
        a.call(MAP_LOOKUP);
        if nets {
            let net = a.label();
            a.jump_if(Test::Zero64, R0, Imm(0), net);
            a.jump(found);
            a.place(net);
            a.store(Width::Word, R10, PREFIX, Imm(128));
            a.load_map(R1, self.p.nets);
            a.mov(R2, Src::Reg(R10));
            a.alu(Alu::Add, R2, Imm(PREFIX.into()));
            a.call(MAP_LOOKUP);
        }
        // a null pointer is as good as no flags
        a.jump_if(Test::Zero64, R0, Imm(0), done);
        a.place(found);
        a.load(Width::Word, R0, R0, 0);
        a.place(done);
    }

    fn take_if(&mut self, flags: u32) {
        self.a.jump_if(Test::Bits, R0, Imm(flags as i32), self.take);
    }

    /// ARP, whoever it was sent to: taken when its target or sender is an address of the director.
    fn arp(&mut self) {
        self.reach(R9, 28);
        let a = &mut self.a;
        a.load(Width::Word, R4, R9, 0);
        a.jump_if(Test::NotEqual, R4, Src::word([0, 1, 8, 0]), self.pass);
        a.load(Width::Half, R4, R9, 4);
        a.jump_if(Test::NotEqual, R4, Src::half([6, 4]), self.pass);
        for address in [24, 14] {
            self.look_up(R9, address, false);
            self.take_if(flag::OURS);
        }
        self.a.jump(self.pass);
    }

    /// Neighbour discovery to a group: taken when it is about an address of the director.
    fn discovery(&mut self) {
        let about = self.a.label();
        self.reach(R9, 64);
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 0);
        a.alu(Alu::ShiftRight, R4, Imm(4));
        a.jump_if(Test::NotEqual, R4, Imm(6), self.pass);
        a.load(Width::Half, R4, R9, 6);
        a.jump_if(Test::NotEqual, R4, Src::half([58, 255]), self.pass);
        a.load(Width::Byte, R4, R9, 40);
        a.jump_if(Test::Equal, R4, Imm(135), about);
        a.jump_if(Test::NotEqual, R4, Imm(136), self.pass);
        a.place(about);
        self.look_up(R9, 48, true);
        self.take_if(flag::OURS);
        self.a.jump(self.pass);
    }

    fn ipv4(&mut self) {
        let by_error = self.a.label();
        self.reach(R9, 20);
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 0);
        a.alu(Alu::ShiftRight, R4, Imm(4));
        a.jump_if(Test::NotEqual, R4, Imm(4), self.pass);
        self.destination(16, false);
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 16);
        a.jump_if(Test::AtLeast, R4, Imm(224), self.pass);
        self.look_up(R9, 12, false);
        self.take_if(flag::REAL);
        // an ICMP error, not in a later fragment
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 9);
        let rest = a.label();
        a.jump_if(Test::NotEqual, R4, Imm(1), rest);
        a.load(Width::Half, R4, R9, 6);
        a.jump_if(Test::Bits, R4, Src::half([0x1f, 0xff]), rest);
        a.load(Width::Byte, R5, R9, 0);
        a.alu(Alu::And, R5, Imm(15));
        a.alu(Alu::ShiftLeft, R5, Imm(2));
        a.jump_if(Test::Above, Reg::R5, Imm(19), by_error);
        a.jump(rest);
        a.place(by_error);
        a.alu(Alu::Add, R5, Src::Reg(R9));
        a.mov(R4, Src::Reg(R5));
        a.alu(Alu::Add, R4, Imm(8 + 20));
        a.jump_if(Test::Above64, R4, Src::Reg(R8), rest);
        a.load(Width::Byte, R3, R5, 0);
        let quoted = a.label();
        for kind in [3, 4, 11] {
            a.jump_if(Test::Equal, R3, Imm(kind), quoted);
        }
        a.jump_if(Test::NotEqual, R3, Imm(12), rest);
        a.place(quoted);
        self.look_up(R5, 8 + 16, false);
        self.take_if(flag::REAL);
        self.a.place(rest);
        self.otherwise();
    }

    fn ipv6(&mut self) {
        self.reach(R9, 40);
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 0);
        a.alu(Alu::ShiftRight, R4, Imm(4));
        a.jump_if(Test::NotEqual, R4, Imm(6), self.pass);
        self.destination(24, true);
        let a = &mut self.a;
        a.load(Width::Byte, R4, R9, 24);
        a.jump_if(Test::Equal, R4, Imm(0xff), self.pass);
        self.look_up(R9, 8, true);
        self.take_if(flag::REAL);
        let a = &mut self.a;
        let rest = a.label();
        a.load(Width::Byte, R4, R9, 6);
        a.jump_if(Test::NotEqual, R4, Imm(58), rest);
        a.mov(R4, Src::Reg(R9));
        a.alu(Alu::Add, R4, Imm(40 + 8 + 40));
        a.jump_if(Test::Above64, R4, Src::Reg(R8), rest);
        a.load(Width::Byte, R3, R9, 40);
        a.jump_if(Test::Equal, R3, Imm(0), rest);
        a.jump_if(Test::AtLeast, R3, Imm(5), rest);
        self.look_up(R9, 40 + 8 + 24, true);
        self.take_if(flag::REAL);
        self.a.place(rest);
        self.otherwise();
    }

    /// By destination: the director's is taken, the host's passed on.
    fn destination(&mut self, off: i16, v6: bool) {
        self.look_up(R9, off, v6);
        self.take_if(flag::OURS | flag::MARKED);
        self.a.jump_if(Test::Bits, R0, Imm(flag::HOST as i32), self.pass);
    }

    /// By the wildcard.
    fn otherwise(&mut self) {
        self.a.store(Width::Double, R10, KEY, Imm(0));
        self.a.store(Width::Double, R10, KEY + 8, Imm(0));
        self.look_up_key(false);
        self.take_if(flag::EVERYTHING);
        self.a.jump(self.pass);
    }

    fn end(&mut self) -> Result<(), Untranslatable> {
        let a = &mut self.a;
        a.place(self.take);
        let steered = self.p.steps.is_some();
        if let Some(steps) = &self.p.steps {
            // the worker, in r0
            steps.write(a)?;
        }
        match self.p.take {
            Take::Redirect { sockets, places } => {
                a.load(Width::Word, R2, R6, QUEUE);
                if places > 1 {
                    a.alu(Alu::Mul, R2, Imm(places as i32));
                    a.alu(Alu::Add, R2, if steered { Src::Reg(R0) } else { Imm(places as i32 - 1) });
                }
                a.load_map(R1, sockets);
                // the result where the place has no socket
                a.mov(R3, Imm(XDP_PASS));
                a.call(REDIRECT_MAP);
                a.exit();
            }
            Take::Return(result) if steered => {
                a.alu(Alu::Add, R0, Imm(result));
                a.exit();
            }
            Take::Return(result) => {
                a.mov(R0, Imm(result));
                a.exit();
            }
        }
        a.place(self.pass);
        a.mov(R0, Imm(XDP_PASS));
        a.exit();
        Ok(())
    }
}
