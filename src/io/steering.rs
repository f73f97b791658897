//! Which queue of a device gets a packet, as a program that the kernel runs for each.
//!
//! # Theory of operation
//! The program computes the owner of a packet just as [`crate::engine::steer`] does, for whole TCP, UDP and SCTP
//! packets that are plain to see: virtual address or local address, hash of the client's end-point, range of the
//! local port. What it cannot tell goes to the first worker; whoever reads a packet of another worker hands it
//! over, so the program is a help and no more.
//!
//! It is written once, in classic BPF, which is what raw sockets take ([`super::fanout`]). TAP and TUN devices and
//! XDP take extended BPF only: [`extended`] says the same in its instructions. All offsets count from the network
//! header, so that it makes no difference whether a packet has an Ethernet header.

use std::net::IpAddr;

use super::sys::packet::Op;
use crate::engine::steer::{Outline, SteerKey};
use crate::io::ebpf::asm::Assembler;
use crate::nat::pool::PORTS;

pub mod extended;

/// Addresses a program compares with, one after the other; with more of them it does not.
const MOST: usize = 64;

/// The queues of a device in the kernel's order, and what they are steered by.
#[derive(Debug, Default)]
pub(super) struct Members {
    device: u32,
    queues: Vec<u16>,
    outline: Option<Outline>,
}

impl Members {
    /// A number for one more queue.
    pub fn next_queue(&self) -> u16 {
        self.queues.iter().max().map_or(0, |q| q + 1)
    }
    /// A queue was attached, perhaps in place of an older one with its number; true when it is the first that is
    /// known of the device with this index.
    pub fn join(&mut self, device: u32, queue: u16) -> bool {
        let anew = self.queues.is_empty() || self.device != device;
        if anew {
            // all queues went with the device that was there before
            self.queues.clear();
            self.device = device;
        }
        // the kernel fills a gap with its last queue
        if let Some(at) = self.queues.iter().position(|q| *q == queue) {
            self.queues.swap_remove(at);
        }
        self.queues.push(queue);
        anew
    }
    /// Steers by this outline from now on; true when it is another one than before.
    pub fn steer(&mut self, outline: &Outline) -> bool {
        let other = self.outline.as_ref() != Some(outline);
        if other {
            self.outline = Some(outline.clone());
        }
        other
    }
    /// The program: it gives the place of the owner's queue.
    pub fn program(&self) -> Option<Vec<Op>> {
        self.outline.as_ref().map(|outline| program(outline, &self.queues))
    }
}

/// How an XDP program tells a packet's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps(Vec<Op>);

impl Steps {
    /// Of an outline; the result is the number of the worker.
    pub fn new(outline: &Outline) -> Steps {
        let workers: Vec<u16> = (0..outline.workers).collect();
        Steps(program(outline, &workers))
    }
    /// Puts them into a program, as [`extended::in_frame`] says.
    pub(super) fn write(&self, a: &mut Assembler) -> Result<(), extended::Untranslatable> {
        extended::in_frame(a, &self.0)
    }
}

/// Where a jump leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    V4,
    V6,
    Transport4,
    Transport6,
    FromClient4,
    FromClient6,
    ByPort,
    ByPortOf4,
    ByPortOf6,
    Owner,
    Sum,
    First,
}

/// Assembles with jumps to labels further on.
#[derive(Default)]
struct Asm {
    ops: Vec<Op>,
    places: Vec<(Label, usize)>,
    /// Jumps to be filled in.
    open: Vec<(usize, Label)>,
}

// classic BPF
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_H_IND: u16 = 0x48;
const LDX_MSH: u16 = 0xb1;
const LD_IMM: u16 = 0x00;
const STX: u16 = 0x03;
const LD_MEM: u16 = 0x60;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const ADD_X: u16 = 0x0c;
const SUB_K: u16 = 0x14;
const MUL_K: u16 = 0x24;
const DIV_K: u16 = 0x34;
const RSH_K: u16 = 0x74;
const XOR_X: u16 = 0xac;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET_K: u16 = 0x06;
/// Offsets from the network header, and of what the kernel knows besides.
const NET: u32 = -0x10_0000_i32 as u32;
const PROTOCOL: u32 = -0x1000_i32 as u32;

/// Where the destination is kept: M[2] to M[5]. M[0] is the sum, M[1] the length of the IPv4 header.
const KEPT: u32 = 2;

impl Asm {
    fn op(&mut self, code: u16, k: u32) {
        self.ops.push(Op { code, jt: 0, jf: 0, k });
    }
    /// Jumps to `label` when the comparison holds. A jump of its own, because conditional ones are short.
    fn when(&mut self, code: u16, k: u32, label: Label) {
        self.ops.push(Op { code, jt: 0, jf: 1, k });
        self.jump(label);
    }
    /// Jumps to `label` when A is in this range.
    fn between(&mut self, first: u32, last: u32, label: Label) {
        self.ops.push(Op { code: JGE, jt: 0, jf: 2, k: first });
        self.ops.push(Op { code: JGT, jt: 1, jf: 0, k: last });
        self.jump(label);
    }
    fn jump(&mut self, label: Label) {
        self.open.push((self.ops.len(), label));
        self.op(JA, 0);
    }
    fn place(&mut self, label: Label) {
        self.places.push((label, self.ops.len()));
    }
    fn finish(mut self) -> Vec<Op> {
        for (at, label) in self.open {
            let to = self.places.iter().find(|(l, _)| *l == label).map_or(at + 1, |(_, to)| *to);
            self.ops[at].k = (to - at - 1) as u32;
        }
        self.ops
    }
    /// Adds a word of the address in A, times its factor, to the sum in M[0].
    fn add_word(&mut self, factor: u32) {
        self.op(MUL_K, factor);
        self.op(LDX_MEM, 0);
        self.op(ADD_X, 0);
        self.op(ST, 0);
    }
    /// Adds the address at an offset from the network header to the sum.
    fn address(&mut self, at: u32, words: u32, key: &SteerKey) {
        for i in 0..words {
            self.op(LD_W_ABS, NET + at + 4 * i);
            self.add_word(key.address[(4 - words + i) as usize]);
        }
    }
    /// Loads the destination into M[2] and those that follow: it is asked for more than once.
    fn keep_destination(&mut self, at: u32, words: u32) {
        for i in 0..words {
            self.op(LD_W_ABS, NET + at + 4 * i);
            self.op(ST, KEPT + i);
        }
    }
    /// Adds the destination to the sum.
    fn destination(&mut self, words: u32, key: &SteerKey) {
        for i in 0..words {
            self.op(LD_MEM, KEPT + i);
            self.add_word(key.address[(4 - words + i) as usize]);
        }
    }
}

/// The program for an outline; `members` are the queues in the kernel's order.
fn program(outline: &Outline, members: &[u16]) -> Vec<Op> {
    use Label::*;
    let mut a = Asm::default();
    let of = |v6: bool| outline.vips.iter().filter(move |ip| ip.is_ipv6() == v6);
    // M[0] = 0
    a.op(LD_IMM, 0);
    a.op(ST, 0);
    a.op(LD_H_ABS, PROTOCOL);
    a.when(JEQ, 0x0800, V4);
    a.when(JEQ, 0x86dd, V6);
    a.jump(First);

    a.place(V4);
    a.op(LD_H_ABS, NET + 6);
    a.when(JSET, 0x3fff, First);
    a.op(LD_B_ABS, NET + 9);
    for proto in [6, 17, 132] {
        a.when(JEQ, proto, Transport4);
    }
    a.jump(First);
    a.place(Transport4);
    a.op(LDX_MSH, NET);
    // X has to be kept for later: M[1]
    a.op(STX, 1);
    a.keep_destination(16, 1);
    for ip in of(false).take(MOST) {
        if let IpAddr::V4(ip) = ip {
            a.when(JEQ, u32::from(*ip), FromClient4);
        }
    }
    for range in outline.local.iter().take(MOST).filter(|_| outline.fullnat) {
        if let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first, range.last) {
            a.between(first.into(), last.into(), ByPortOf4);
        }
    }
    a.destination(1, &outline.key);
    a.op(LDX_MEM, 1);
    a.op(LD_H_IND, NET + 2);
    a.jump(Sum);
    a.place(FromClient4);
    a.address(12, 1, &outline.key);
    a.op(LDX_MEM, 1);
    a.op(LD_H_IND, NET);
    a.jump(Sum);
    a.place(ByPortOf4);
    a.op(LDX_MEM, 1);
    a.op(LD_H_IND, NET + 2);
    a.jump(ByPort);

    a.place(V6);
    a.op(LD_B_ABS, NET + 6);
    for proto in [6, 17, 132] {
        a.when(JEQ, proto, Transport6);
    }
    a.jump(First);
    a.place(Transport6);
    let words = |ip: &IpAddr| match ip {
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
        IpAddr::V4(_) => [0; 4],
    };
    a.keep_destination(24, 4);
    for ip in of(true).take(MOST) {
        within(&mut a, words(ip), words(ip), FromClient6);
    }
    for range in outline.local.iter().take(MOST).filter(|r| outline.fullnat && r.first.is_ipv6()) {
        let (first, last) = (words(&range.first), words(&range.last));
        if first[..3] == last[..3] {
            within(&mut a, first, last, ByPortOf6);
        }
    }
    a.destination(4, &outline.key);
    a.op(LD_H_ABS, NET + 42);
    a.jump(Sum);
    a.place(FromClient6);
    a.address(8, 4, &outline.key);
    a.op(LD_H_ABS, NET + 40);
    a.jump(Sum);
    a.place(ByPortOf6);
    a.op(LD_H_ABS, NET + 42);

    // A is a local port
    a.place(ByPort);
    let (first, width) = (u32::from(*PORTS.start()), PORTS.end() - PORTS.start() + 1);
    a.ops.push(Op { code: JGE, jt: 1, jf: 0, k: first });
    a.jump(First);
    a.op(SUB_K, first);
    a.op(DIV_K, (width / outline.workers.max(1)).into());
    a.jump(Owner);

    // A is the port, M[0] the sum over the address
    a.place(Sum);
    a.op(MUL_K, outline.key.port);
    a.op(LDX_MEM, 0);
    a.op(ADD_X, 0);
    a.op(ST, 0);
    a.op(RSH_K, 16);
    a.op(LDX_MEM, 0);
    a.op(XOR_X, 0);
    a.op(MUL_K, outline.key.last);
    a.op(RSH_K, 16);
    a.op(MUL_K, outline.workers.into());
    a.op(RSH_K, 16);

    // A is the owner: the place of its queue
    a.place(Owner);
    for (place, queue) in members.iter().enumerate() {
        a.ops.push(Op { code: JEQ, jt: 0, jf: 1, k: (*queue).into() });
        a.op(RET_K, place as u32);
    }
    // the last range is a little longer than the others
    let last = members.iter().position(|q| *q + 1 == outline.workers).unwrap_or(0);
    a.ops.push(Op { code: JGE, jt: 0, jf: 1, k: outline.workers.into() });
    a.op(RET_K, last as u32);
    a.place(First);
    a.op(RET_K, members.iter().position(|q| *q == 0).unwrap_or(0) as u32);
    a.finish()
}

/// Jumps when the IPv6 destination is in this range, whose addresses differ in the last word only.
fn within(a: &mut Asm, first: [u32; 4], last: [u32; 4], label: Label) {
    for i in 0..3 {
        let left = 2 - i as u8;
        a.op(LD_MEM, KEPT + i);
        // over the rest of the words, the comparison with the range and the jump
        a.ops.push(Op { code: JEQ, jt: 0, jf: left * 2 + 4, k: first[i as usize] });
    }
    a.op(LD_MEM, KEPT + 3);
    a.between(first[3], last[3], label);
}

#[cfg(test)]
pub(super) mod tests;
