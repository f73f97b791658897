//! Packets of established flows are forwarded without a single heap allocation, in every mode and family.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

#[path = "../benches/common/mod.rs"]
mod common;

use softlvs::buf::{HEADROOM, Out, PacketBuf};
use softlvs::engine::{Engine, PortId, Verdict};
use softlvs::svc::{Forward, Persistence, Tunnel, TunnelCsum};
use softlvs::time::{Mono, Span};
use softlvs::wire::{Link, Parsed, parse};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; counting touches a thread-local cell
// that needs no allocation itself.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the caller promises for `System`.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the same contract, passed on.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the caller promises for `System`.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the same contract, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn give(
    engine: &mut Engine,
    now: Mono,
    port: PortId,
    frame: &[u8],
    mem: &mut [u8],
    out: &mut Out,
) -> Vec<u8> {
    let mut pkt = PacketBuf::empty(mem, HEADROOM);
    pkt.fill(frame);
    assert!(matches!(engine.on_packet(now, port, &mut pkt, out), Verdict::Send(_)));
    pkt.bytes().to_vec()
}

/// The reply of the real server to a packet it got: ends and MACs swapped, checksums still right.
fn reply_to(sent: &[u8]) -> Vec<u8> {
    let mut r = sent.to_vec();
    r[..6].copy_from_slice(&[2, 0, 0, 0, 2, 1]);
    let Ok(Parsed::Ip(m)) = parse(sent, Link::Ethernet) else { panic!("not IP") };
    let (l3, l4) = (m.l3 as usize, m.l4 as usize);
    let (src, len) = if m.family == softlvs::wire::Family::V4 { (l3 + 12, 4) } else { (l3 + 8, 16) };
    r[src..src + len].copy_from_slice(&sent[src + len..src + 2 * len]);
    r[src + len..src + 2 * len].copy_from_slice(&sent[src..src + len]);
    r[l4..l4 + 2].copy_from_slice(&sent[l4 + 2..l4 + 4]);
    r[l4 + 2..l4 + 4].copy_from_slice(&sent[l4..l4 + 2]);
    r
}

/// Makes the service persistent: every connection then holds its client's template.
fn make_persistent(engine: &mut Engine) {
    let mut snapshot = (**engine.snapshot()).clone();
    for service in &mut snapshot.services {
        let spec = &mut Arc::make_mut(service).spec;
        let netmask = if spec.key.is_v6() { 128 } else { 32 };
        spec.persistence = Some(Persistence { timeout: Span::from_secs(300), netmask });
    }
    engine.on_snapshot(Mono::ZERO, Arc::new(snapshot));
}

#[test]
fn established_flows_cost_no_allocation() {
    let modes = [
        Forward::Nat,
        Forward::FullNat,
        Forward::Dr,
        Forward::Tun(Tunnel::Ipip),
        Forward::Tun(Tunnel::Gre { csum: TunnelCsum::Csum }),
        Forward::Tun(Tunnel::Gue { port: 6080, csum: TunnelCsum::None }),
    ];
    for (v6, persistent) in [(false, false), (true, false), (false, true), (true, true)] {
        for forward in modes {
            let mut engine = common::engine(v6, forward, 1000);
            if persistent {
                make_persistent(&mut engine);
            }
            let (mut out, mut mem) = (Out::new(), vec![0; 4096]);
            let mut replies = Vec::new();
            for i in 0..100 {
                for flags in [0x02, 0x10] {
                    let frame = common::tcp_frame(v6, i, flags);
                    let sent = give(&mut engine, Mono::ZERO, PortId(0), &frame, &mut mem, &mut out);
                    if flags == 0x10 && forward.translates() {
                        replies.push(reply_to(&sent));
                    }
                }
            }
            // the VIPs are announced, twice: that is no packet of a flow
            for ms in [0, 2_500] {
                engine.on_timeout(Mono::from_millis(ms), &mut out);
            }
            while let Some((_, packet)) = out.pop() {
                out.recycle(packet);
            }
            let frames: Vec<_> = (0..100).map(|i| common::tcp_frame(v6, i, 0x10)).collect();
            let before = ALLOCATIONS.with(Cell::get);
            for round in 0..2_000u64 {
                let now = Mono::from_millis(3_000 + round);
                for (port, set) in [(PortId(0), &frames), (PortId(1), &replies)] {
                    for frame in set {
                        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
                        pkt.fill(frame);
                        let verdict = engine.on_packet(now, port, &mut pkt, &mut out);
                        assert!(matches!(verdict, Verdict::Send(_)), "{verdict:?} {forward} v6={v6}");
                    }
                }
                engine.on_timeout(now, &mut out);
            }
            let made = ALLOCATIONS.with(Cell::get) - before;
            assert_eq!(made, 0, "{forward}, v6 {v6}, persistent {persistent}");
        }
    }
}
