//! The program against the steering it stands for, in an interpreter of classic BPF.

use std::net::SocketAddr;

use super::*;
use crate::addr::Mac;
use crate::engine::steer::Crew;
use crate::engine::tests::{LAN, WAN, catalog, frame, net};
use crate::engine::{Engine, EngineOptions, PortId};
use crate::svc::{Forward, Proto};
use crate::time::Mono;

/// Runs a program over an IP packet, as the kernel would.
fn run(program: &[Op], packet: &[u8]) -> u32 {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let load = |at: u32, len: usize| {
        let at = at.wrapping_sub(NET) as usize;
        packet[at..at + len].iter().fold(0u32, |n, b| n << 8 | u32::from(*b))
    };
    let (mut a, mut x, mut mem, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let Op { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |holds: bool| pc += usize::from(if holds { jt } else { jf });
        match code {
            LD_IMM => a = k,
            LD_H_ABS if k == PROTOCOL => a = kind,
            LD_W_ABS => a = load(k, 4),
            LD_H_ABS => a = load(k, 2),
            LD_B_ABS => a = load(k, 1),
            LD_H_IND => a = load(k.wrapping_add(x), 2),
            LDX_MSH => x = (load(k, 1) & 15) * 4,
            LDX_MEM => x = mem[k as usize],
            ST => mem[k as usize] = a,
            STX => mem[k as usize] = x,
            ADD_X => a = a.wrapping_add(x),
            SUB_K => a = a.wrapping_sub(k),
            MUL_K => a = a.wrapping_mul(k),
            DIV_K => a /= k,
            RSH_K => a >>= k,
            XOR_X => a ^= x,
            JA => pc += k as usize,
            JEQ => branch(a == k),
            JGT => branch(a > k),
            JGE => branch(a >= k),
            JSET => branch(a & k != 0),
            RET_K => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

#[test]
fn the_program_names_the_owner_that_steering_names() {
    for workers in [2, 3, 7] {
        for forward in [Forward::Nat, Forward::FullNat, Forward::Dr] {
            let crew = Arc::new(Crew::new(workers, 11));
            let snapshot = catalog(forward, Proto::Udp).commit();
            let outline = Outline::new(&crew, &snapshot);
            let options = EngineOptions { connection_limit: 100, ..EngineOptions::default() };
            let engine = Engine::in_crew(Mono::ZERO, options, snapshot, crew).unwrap();
            // sockets may have joined in any order
            let members: Vec<u16> = (0..workers).map(|q| (q + 1) % workers).collect();
            let ops = program(&outline, &members);
            let owner = |packet: &[u8]| members[run(&ops, packet) as usize];
            let check = |port: PortId, mac: u8, src: SocketAddr, dst: SocketAddr| {
                let frame = frame(Mac([2, 0, 0, 0, mac, 1]), Proto::Udp, src, dst, 0, b"x");
                assert_eq!(owner(&frame[14..]), engine.owner(port, &frame).0, "{src} > {dst}");
            };
            for v6 in [false, true] {
                let n = net(v6);
                for port in (1024..=65535u32).step_by(97).map(|p| p as u16) {
                    let client = SocketAddr::new(n.client, port);
                    check(WAN, 1, client, SocketAddr::new(n.vip, 80));
                    check(LAN, 2, SocketAddr::new(n.rs[0], 8080), client);
                    if forward == Forward::FullNat {
                        check(LAN, 2, SocketAddr::new(n.rs[1], 8080), SocketAddr::new(n.dip, port));
                    }
                }
            }
        }
    }
}
