//! Unwrapping in the kernel, where it takes programs: one on each interface, in front of the stack, removes the
//! outer header and lets the inner packet arrive at the device that owns the VIPs.
//!
//! It takes what is plain: for this host's own addresses, in one piece, without options, with a VIP inside.
//! Everything else (fragments, GRE with checksum or key, GUE with options or an outer checksum, addresses that came
//! later) goes on to the sockets of [`super::tunnel`], as all does where there is no such program. Super-frames and
//! checksums that the kernel has marked as partial pass as they are; one that is so without a mark is wrong here, as
//! with the kernel's own tunnels. The kernel detaches the programs when the process ends, however it ends.
//!
//! The host's packet filter sees the inner packets, on that device, and not the outer ones.

use std::io;
use std::net::IpAddr;

use super::unwrap::Encapsulation;
use crate::io::ebpf::asm::{Alu, AsmError, Assembler, Insn, Label, Reg, Src, Test, Width};
use crate::io::ebpf::helper::{ADJUST_ROOM, MAP_LOOKUP, REDIRECT, ROOM_MAC};
use crate::io::ebpf::result::TCX_NEXT;
use crate::io::sys::bpf::{Kind, Link, Map, MapKind, Program};
use crate::io::sys::netlink::Netlink;
use crate::wire::number;

use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use Src::Imm;

// linux/bpf.h: flags of bpf_skb_adjust_room and bpf_redirect
const DECAP_IPV4: i32 = 1 << 7;
const DECAP_IPV6: i32 = 1 << 8;
const TO_INGRESS: i32 = 1;

// struct __sk_buff
const PACKET_TYPE: i16 = 4;
const VLAN_PRESENT: i16 = 20;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// What an address is, in the map.
const LOCAL: i32 = 1;
const VIP: i32 = 2;

/// Most addresses.
const ADDRESSES: u32 = 1 << 16;
/// The key of a lookup on the stack.
const KEY: i16 = -16;

/// The programs, attached as long as this lives.
#[derive(Debug)]
pub struct InKernel {
    _links: Vec<Link>,
    _addresses: Map,
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
}

impl InKernel {
    /// Puts a program on every Ethernet interface of the calling thread's namespace but `device`, which receives
    /// the inner packets.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN in the initial user namespace, `InvalidInput` on
    /// kernels before 6.6.
    pub fn attach(device: &str, encapsulation: Encapsulation, vips: &[IpAddr]) -> io::Result<InKernel> {
        let mut nl = Netlink::open()?;
        let target = nl.link(device)?;
        // a packet that was cut outside its tunnel comes out whole, however long
        nl.set_mtu(target.index, u16::MAX.into())?;
        let addresses = Map::create(MapKind::Hash, 16, 4, ADDRESSES, "softlvs_real")?;
        for a in nl.addresses()? {
            addresses.set(&key(a.cidr.addr), &LOCAL.to_ne_bytes())?;
        }
        for vip in vips {
            addresses.set(&key(*vip), &VIP.to_ne_bytes())?;
        }
        let code = build(encapsulation, addresses.number(), target.index).map_err(io::Error::other)?;
        let program = Program::load(&code, Kind::Ingress, "softlvs_unwrap")?;
        let (mut links, mut interfaces) = (Vec::new(), Vec::new());
        for link in nl.links()? {
            if link.mac.is_some_and(|m| m.0 != [0; 6]) && link.index != target.index {
                links.push(Link::attach_ingress(&program, link.index)?);
                interfaces.push(link.name);
            }
        }
        Ok(InKernel { _links: links, _addresses: addresses, interfaces })
    }
}

fn key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// Writes the program.
fn build(encapsulation: Encapsulation, addresses: i32, device: u32) -> Result<Vec<Insn>, AsmError> {
    let mut a = Assembler::new();
    let [next, inner4, inner6] = [(); 3].map(|()| a.label());
    Writer { a, addresses, next, inner4, inner6 }.write(encapsulation, device)
}

struct Writer {
    a: Assembler,
    addresses: i32,
    next: Label,
    inner4: Label,
    inner6: Label,
}

impl Writer {
    /// r6 = context, r7 = bytes to remove, negative, r8 = the packet's end, r9 = where the next header is; after
    /// the last one, flags.
    fn write(mut self, encapsulation: Encapsulation, device: u32) -> Result<Vec<Insn>, AsmError> {
        let (outer4, outer6, tunnel, unwrap) =
            (self.a.label(), self.a.label(), self.a.label(), self.a.label());
        let next = self.next;
        let a = &mut self.a;
        a.mov(R6, Src::Reg(R1));
        // for this host (PACKET_HOST is 0), and not of a VLAN, whose device has a program of its own
        for field in [PACKET_TYPE, VLAN_PRESENT] {
            a.load(Width::Word, R2, R1, field);
            a.jump_if(Test::NotEqual, R2, Imm(0), next);
        }
        a.load(Width::Word, R9, R1, DATA);
        a.load(Width::Word, R8, R1, DATA_END);
        self.reach(14 + 20);
        self.a.load(Width::Half, R5, R9, 12);
        self.a.alu(Alu::Add, R9, Imm(14));
        self.a.jump_if(Test::Equal, R5, Src::half(number::ETH_IPV4.to_be_bytes()), outer4);
        self.a.jump_if(Test::Equal, R5, Src::half(number::ETH_IPV6.to_be_bytes()), outer6);
        self.a.jump(next);

        self.a.place(outer4);
        self.a.load(Width::Byte, R4, R9, 0);
        self.a.jump_if(Test::NotEqual, R4, Imm(0x45), next);
        self.a.load(Width::Half, R4, R9, 6);
        // part of a fragmented packet
        self.a.jump_if(Test::Bits, R4, Src::half([0x3f, 0xff]), next);
        self.want(16, false, LOCAL);
        self.a.load(Width::Byte, R3, R9, 9);
        self.a.mov(R7, Imm(0));
        self.skip(20);
        self.a.jump(tunnel);

        self.a.place(outer6);
        self.reach(40);
        self.version(6);
        self.want(24, true, LOCAL);
        self.a.load(Width::Byte, R3, R9, 6);
        self.a.mov(R7, Imm(0));
        self.skip(40);

        self.a.place(tunnel);
        self.tunnel(encapsulation);

        self.a.place(self.inner4);
        self.reach(20);
        self.version(4);
        self.want(16, false, VIP);
        self.a.mov(R9, Imm(DECAP_IPV4));
        self.a.jump(unwrap);
        self.a.place(self.inner6);
        self.reach(40);
        self.version(6);
        self.want(24, true, VIP);
        self.a.mov(R9, Imm(DECAP_IPV6));

        let a = &mut self.a;
        a.place(unwrap);
        a.mov(R1, Src::Reg(R6));
        a.mov(R2, Src::Reg(R7));
        a.mov(R3, Imm(ROOM_MAC));
        a.mov(R4, Src::Reg(R9));
        a.call(ADJUST_ROOM);
        a.jump_if(Test::NotEqual, R0, Imm(0), next);
        a.mov(R1, Imm(device as i32));
        a.mov(R2, Imm(TO_INGRESS));
        a.call(REDIRECT);
        a.exit();
        a.place(next);
        a.mov(R0, Imm(TCX_NEXT));
        a.exit();
        self.a.finish()
    }

    /// What stands between the outer IP header, whose protocol is in r3, and the inner one.
    fn tunnel(&mut self, encapsulation: Encapsulation) {
        match encapsulation {
            Encapsulation::Ipip => self.by_protocol(R3),
            Encapsulation::Gre => {
                self.a.jump_if(Test::NotEqual, R3, Imm(number::GRE.into()), self.next);
                self.reach(4);
                let a = &mut self.a;
                a.load(Width::Word, R3, R9, 0);
                self.skip(4);
                for (kind, to) in [(number::ETH_IPV4, self.inner4), (number::ETH_IPV6, self.inner6)] {
                    let [high, low] = kind.to_be_bytes();
                    // no checksum, key or sequence number, version 0
                    self.a.jump_if(Test::Equal, R3, Src::word([0, 0, high, low]), to);
                }
                self.a.jump(self.next);
            }
            Encapsulation::Gue(port) => {
                self.a.jump_if(Test::NotEqual, R3, Imm(number::UDP.into()), self.next);
                self.reach(8 + 4);
                let a = &mut self.a;
                a.load(Width::Half, R4, R9, 2);
                a.jump_if(Test::NotEqual, R4, Src::half(port.to_be_bytes()), self.next);
                // a checksum would have to be verified
                a.load(Width::Half, R4, R9, 6);
                a.jump_if(Test::NotEqual, R4, Imm(0), self.next);
                let whole = a.label();
                a.load(Width::Byte, R4, R9, 8);
                a.load(Width::Byte, R3, R9, 9);
                a.load(Width::Half, R5, R9, 10);
                self.skip(8);
                let a = &mut self.a;
                a.jump_if(Test::Equal, R4, Imm(0), whole);
                // version 1: the IP header is the GUE header
                a.alu(Alu::ShiftRight, R4, Imm(4));
                a.jump_if(Test::Equal, R4, Imm(4), self.inner4);
                a.jump_if(Test::Equal, R4, Imm(6), self.inner6);
                a.jump(self.next);
                a.place(whole);
                a.jump_if(Test::NotEqual, R5, Imm(0), self.next);
                self.skip(4);
                self.by_protocol(R3);
            }
        }
    }

    fn by_protocol(&mut self, protocol: Reg) {
        self.a.jump_if(Test::Equal, protocol, Imm(number::IPIP.into()), self.inner4);
        self.a.jump_if(Test::Equal, protocol, Imm(number::IPV6.into()), self.inner6);
        self.a.jump(self.next);
    }

    /// Leaves packets alone that have less than `n` bytes from r9 on.
    fn reach(&mut self, n: i32) {
        self.a.mov(R4, Src::Reg(R9));
        self.a.alu(Alu::Add, R4, Imm(n));
        self.a.jump_if(Test::Above64, R4, Src::Reg(R8), self.next);
    }

    /// A header of `n` bytes that will be removed.
    fn skip(&mut self, n: i32) {
        self.a.alu(Alu::Add, R9, Imm(n));
        self.a.alu(Alu::Add, R7, Imm(-n));
    }

    fn version(&mut self, n: i32) {
        self.a.load(Width::Byte, R4, R9, 0);
        self.a.alu(Alu::ShiftRight, R4, Imm(4));
        self.a.jump_if(Test::NotEqual, R4, Imm(n), self.next);
    }

    /// Goes on only when the address at `off` from r9 is of this kind. Spoils r0 to r5.
    fn want(&mut self, off: i16, v6: bool, kind: i32) {
        let a = &mut self.a;
        if v6 {
            for i in (0..16).step_by(4) {
                a.load(Width::Word, R1, R9, off + i);
                a.store(Width::Word, R10, KEY + i, Src::Reg(R1));
            }
        } else {
            a.load(Width::Word, R1, R9, off);
            a.store(Width::Double, R10, KEY, Imm(0));
            a.store(Width::Word, R10, KEY + 8, Src::word([0, 0, 0xff, 0xff]));
            a.store(Width::Word, R10, KEY + 12, Src::Reg(R1));
        }
        a.load_map(R1, self.addresses);
        a.mov(R2, Src::Reg(R10));
        a.alu(Alu::Add, R2, Imm(KEY.into()));
        a.call(MAP_LOOKUP);
        a.jump_if(Test::Zero64, R0, Imm(0), self.next);
        a.load(Width::Word, R0, R0, 0);
        a.jump_if(Test::NotEqual, R0, Imm(kind), self.next);
    }
}
