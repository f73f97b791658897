//! The program against the steering it stands for, in an interpreter of classic BPF and, translated both ways, in the kernel
//! (with CAP_BPF in the initial user namespace; with `CI=true` that is not left out).

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::extended::Untranslatable;
use super::*;
use crate::addr::Mac;
use crate::engine::steer::Crew;
use crate::engine::tests::{LAN, WAN, catalog, frame, net};
use crate::engine::{Engine, EngineOptions, PortId};
use crate::host::AddrRange;
use crate::io::ebpf::asm::{Insn, disassemble};
use crate::io::sys::bpf::{Kind, Map, MapKind, Program};
use crate::io::xdp::program::{Parameters, Take, build};
use crate::svc::{Forward, Proto};
use crate::time::Mono;

/// Runs a program over a frame, as the kernel would.
fn run(program: &[Op], frame: &[u8]) -> u32 {
    let packet = &frame[14..];
    let load = |at: u32, len: usize| match at {
        PROTOCOL => Some(u32::from(u16::from_be_bytes([frame[12], frame[13]]))),
        _ => {
            let bytes = packet.get(at.wrapping_sub(NET) as usize..)?.get(..len)?;
            Some(bytes.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)))
        }
    };
    let (mut a, mut x, mut mem, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let Op { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |holds: bool| pc += usize::from(if holds { jt } else { jf });
        let mut loaded = |value: Option<u32>| value.map(|v| a = v);
        let whole = match code {
            LD_W_ABS => loaded(load(k, 4)),
            LD_H_ABS => loaded(load(k, 2)),
            LD_B_ABS => loaded(load(k, 1)),
            LD_H_IND => loaded(load(k.wrapping_add(x), 2)),
            LDX_MSH => load(k, 1).map(|v| x = (v & 15) * 4),
            _ => Some(()),
        };
        if whole.is_none() {
            // too short
            return 0;
        }
        match code {
            LD_W_ABS | LD_H_ABS | LD_B_ABS | LD_H_IND | LDX_MSH => {}
            LD_IMM => a = k,
            LD_MEM => a = mem[k as usize],
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

/// The same in extended BPF by the kernel; nothing where the test may not load programs.
fn loaded(ops: &[Op]) -> Option<Program> {
    load(&extended::translate(ops).unwrap(), Kind::Filter)
}

/// XDP's result where the program names no owner, and what is added to one.
const PASSED: u32 = 2;
const OWNED: u32 = 1000;

/// The same in a program for XDP, for frames to this MAC.
fn in_xdp(mac: Mac, steps: Steps) -> Option<Program> {
    // no address is looked up where the MAC is the director's own
    let maps = [MapKind::Hash, MapKind::Hash].map(|kind| Map::create(kind, 16, 4, 1, "t_steer").ok());
    let [hosts, nets] = maps.each_ref().map(|m| m.as_ref().map_or(-1, Map::number));
    let take = Take::Return(OWNED as i32);
    let code = build(&Parameters { mac, inherited: false, hosts, nets, take, steps: Some(steps) }).unwrap();
    load(&code, Kind::Xdp { frags: false })
}

fn load(code: &[Insn], kind: Kind) -> Option<Program> {
    match Program::load(code, kind, "t_steer") {
        Ok(program) => Some(program),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            assert!(
                std::env::var_os("CI").is_none_or(|v| v != "true"),
                "with CI=true nothing is skipped: {e}"
            );
            println!("skipped: no BPF here: {e}");
            None
        }
        Err(e) => panic!("{e}\n{}", disassemble(code)),
    }
}

const WAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);

/// A configuration, what devices are told of it, and the engine that knows the owners.
pub(in crate::io) fn setup(workers: u16, forward: Forward) -> (Outline, Engine) {
    let crew = Arc::new(Crew::new(workers, 11));
    let snapshot = catalog(forward, Proto::Udp).commit();
    let outline = Outline::new(&crew, &snapshot);
    let options = EngineOptions { connection_limit: 100, ..EngineOptions::default() };
    (outline, Engine::in_crew(Mono::ZERO, options, snapshot, crew).unwrap())
}

/// Frames of clients and real servers, each with the port it comes in on.
pub(in crate::io) fn frames(forward: Forward, step: usize) -> Vec<(PortId, Vec<u8>)> {
    let mut frames = Vec::new();
    for v6 in [false, true] {
        let n = net(v6);
        for port in (1024..=65535u32).step_by(step).map(|p| p as u16) {
            let mut add = |port: PortId, to: Mac, src: SocketAddr, dst: SocketAddr| {
                frames.push((port, frame(to, Proto::Udp, src, dst, 0, b"x")));
            };
            let client = SocketAddr::new(n.client, port);
            add(WAN, WAN_MAC, client, SocketAddr::new(n.vip, 80));
            add(LAN, LAN_MAC, SocketAddr::new(n.rs[0], 8080), client);
            if forward == Forward::FullNat {
                add(LAN, LAN_MAC, SocketAddr::new(n.rs[1], 8080), SocketAddr::new(n.dip, port));
            }
        }
    }
    frames
}

#[test]
fn the_program_names_the_owner_that_steering_names() {
    for workers in [2, 3, 7] {
        for forward in [Forward::Nat, Forward::FullNat, Forward::Dr] {
            let (outline, engine) = setup(workers, forward);
            // queues may have been attached in any order
            let members: Vec<u16> = (0..workers).map(|q| (q + 1) % workers).collect();
            let ops = program(&outline, &members);
            let loaded = loaded(&ops);
            let xdp = [WAN_MAC, LAN_MAC].map(|mac| in_xdp(mac, Steps::new(&outline)));
            for (port, frame) in frames(forward, 97) {
                let owner = engine.owner(port, &frame).0;
                assert_eq!(members[run(&ops, &frame) as usize], owner, "{frame:02x?}");
                if let Some(program) = &loaded {
                    let place = program.test_run(&frame).unwrap();
                    assert_eq!(members[place as usize], owner, "{frame:02x?}");
                }
                if let Some(program) = &xdp[usize::from(port == LAN)] {
                    assert_eq!(program.test_run(&frame).unwrap(), OWNED + u32::from(owner), "{frame:02x?}");
                }
            }
        }
    }
}

#[test]
fn all_languages_say_the_same_of_any_packet() {
    let many = |n: u32| (1..n).flat_map(|i| [v4(i), v6(i)]);
    let (mut outline, _) = setup(5, Forward::FullNat);
    let two = program(&outline, &[0, 1, 2, 3, 4]);
    outline.vips.extend(many(100));
    outline.local.extend(many(100).map(|ip| AddrRange { first: ip, last: ip }));
    let many = program(&outline, &[4, 3, 2, 1, 0]);
    outline.vips.clear();
    outline.local.clear();
    let none = program(&outline, &[0, 1, 2, 3, 4]);
    let frames = frames(Forward::FullNat, 6000);
    for ops in [two, many, none] {
        let Some(loaded) = loaded(&ops) else { return };
        let xdp = [WAN_MAC, LAN_MAC].map(|mac| in_xdp(mac, Steps(ops.clone())).unwrap());
        let frame = (select(frames.clone()), vec((0..60usize, any::<u8>()), 0..3), 14..80usize);
        let mut runner =
            TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
        let same = runner.run(&frame, |((port, mut frame), changes, len)| {
            for (at, byte) in changes {
                // the MAC stays
                let at = 6 + at % (frame.len() - 6);
                frame[at] = byte;
            }
            frame.truncate(len);
            let by_xdp = xdp[usize::from(port == LAN)].test_run(&frame).unwrap();
            if by_xdp == PASSED {
                // of a network of its own
                prop_assert!(matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]), "{:02x?}", frame);
            } else {
                prop_assert_eq!(by_xdp, OWNED + run(&ops, &frame), "{:02x?}", frame);
            }
            match loaded.test_run(&frame) {
                Ok(got) => prop_assert_eq!(got, run(&ops, &frame), "{:02x?}", frame),
                // the kernel tests no frame that has less than an IP header
                Err(e) => prop_assert!(frame.len() < 14 + 40, "{e}: {frame:02x?}"),
            }
            Ok(())
        });
        same.unwrap();
    }
}

fn v4(i: u32) -> IpAddr {
    IpAddr::V4((0xac10_0000 + i).into())
}

fn v6(i: u32) -> IpAddr {
    IpAddr::V6((0xfd00_u128 << 112 | u128::from(i)).into())
}

#[test]
fn a_queue_that_comes_again_is_the_last_and_a_new_device_forgets_the_old_queues() {
    let mut members = Members::default();
    let joined: Vec<bool> = (0..3).map(|q| members.join(7, q)).collect();
    assert_eq!((joined, members.next_queue()), (vec![true, false, false], 3));
    assert!(!members.join(7, 0));
    // the last one has filled the gap
    assert_eq!(members.queues, [2, 1, 0]);
    assert!(members.join(8, 1));
    assert!(!members.join(8, 2));
    assert!(!members.join(8, 0));
    assert_eq!(members.queues, [1, 2, 0]);
}

#[test]
fn what_is_no_program_is_not_translated() {
    let op = |code, k| Op { code, jt: 0, jf: 0, k };
    assert_eq!(extended::translate(&[op(JA, 1), op(RET_K, 0)]), Err(Untranslatable::Out));
    assert_eq!(extended::translate(&[op(LD_IMM, 1)]), Err(Untranslatable::Out));
    // a shift to the left, memory that is not there
    for unknown in [op(0x64, 1), op(ST, 16)] {
        assert_eq!(extended::translate(&[unknown, op(RET_K, 0)]), Err(Untranslatable::Unknown(unknown)));
    }
}
