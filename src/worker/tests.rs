//! The worker over wires in memory.

use std::time::Duration;

use super::*;
use crate::addr::Mac;
use crate::buf::{Csum, Gso, GsoKind, Offload};
use crate::host::OffloadCaps;
use crate::io::mem::{MemPort, info};
use crate::io::wrap::{Faults, Rates};
use crate::io::{Port, SendReport};
use crate::wire::sum;

/// Sends everything back where it came from; with `echo` the director adds a packet of its own.
#[derive(Default)]
struct Back {
    echo: bool,
    tick: Option<Mono>,
    ticks: u32,
    drops: Vec<(DropReason, u64)>,
    ports: Vec<bool>,
}

impl Director for Back {
    fn on_burst(
        &mut self,
        _: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        for (packet, verdict) in burst.iter_mut().zip(verdicts) {
            *verdict = Verdict::Send(port);
            if self.echo {
                let made = out.copy_of(&[packet.bytes()[0] + 100; 60], Offload::NONE);
                out.push(port, made);
            }
        }
    }
    fn poll_timeout(&self) -> Option<Mono> {
        self.tick
    }
    fn on_timeout(&mut self, now: Mono, _: &mut Out) {
        self.ticks += 1;
        self.tick = Some(now + Span::from_millis(2));
    }
    fn device_drop(&mut self, _: PortId, why: DropReason, n: u64) {
        self.drops.push((why, n));
    }
    fn on_port(&mut self, _: Mono, _: PortId, up: bool, _: &mut Out) {
        self.ports.push(up);
    }
}

fn wire(caps: OffloadCaps) -> (MemPort, MemPort) {
    MemPort::pair(info("near", Mac::default(), caps), info("far", Mac::default(), caps), 4096).unwrap()
}

fn run(director: Back, port: impl Port + 'static) -> Handle<Back> {
    start("lvs-w0", director, vec![Box::new(port)]).unwrap()
}

/// The next `n` packets at the far end, within five seconds.
fn collect(far: &mut MemPort, n: usize) -> Vec<(Vec<u8>, Offload)> {
    let mut got = Vec::new();
    for _ in 0..5000 {
        while let Some(p) = far.pop() {
            got.push(p);
        }
        if got.len() >= n {
            return got;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} of {n} packets", got.len());
}

/// A TCP/IPv4 frame over Ethernet with a partial checksum, first byte `mark`.
fn tcp(mark: u8, payload: usize) -> (Vec<u8>, Offload) {
    let mut f = vec![0u8; 54 + payload];
    let len = (f.len() - 14) as u16;
    f[0] = mark;
    f[12] = 8;
    f[14] = 0x45;
    f[16..18].copy_from_slice(&len.to_be_bytes());
    f[22] = 64;
    f[23] = 6;
    f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let c = sum::checksum(&f[14..34]);
    f[24..26].copy_from_slice(&c.to_be_bytes());
    f[46] = 0x50;
    f[47] = 0x10;
    for (i, b) in f[54..].iter_mut().enumerate() {
        *b = i as u8;
    }
    let pseudo = sum::fold(sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], 6, 20 + payload as u32));
    f[50..52].copy_from_slice(&pseudo.to_be_bytes());
    (f, Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: None })
}

fn tcp_sum_ok(f: &[u8]) -> bool {
    let pseudo = sum::pseudo4([10, 0, 0, 1], [10, 0, 0, 2], 6, (f.len() - 34) as u32);
    sum::fold(pseudo + sum::sum(&f[34..])) == 0xffff
}

#[test]
fn a_burst_leaves_in_order_and_before_what_the_director_made() {
    let (near, mut far) = wire(OffloadCaps::default());
    for i in 0..40u8 {
        far.push(&[i; 60], Offload::NONE);
    }
    let handle = run(Back { echo: true, ..Back::default() }, near);
    let got: Vec<u8> = collect(&mut far, 80).iter().map(|(b, _)| b[0]).collect();
    // whatever the bursts were, packets keep their order and each comes before its echo
    let own: Vec<u8> = got.iter().copied().filter(|b| *b < 100).collect();
    let made: Vec<u8> = got.iter().copied().filter(|b| *b >= 100).collect();
    assert_eq!(own, (0..40).collect::<Vec<u8>>());
    assert_eq!(made, (100..140).collect::<Vec<u8>>());
    let place = |b: u8| got.iter().position(|g| *g == b).unwrap();
    assert!((0..40).all(|i| place(i) < place(i + 100)));
    assert_eq!(handle.ports()[0].1.read().sent, 80);
    handle.stop().unwrap();
}

#[test]
fn what_the_device_cannot_take_is_completed_and_segmented_in_its_place() {
    let (near, mut far) = wire(OffloadCaps::default());
    let (first, partial) = tcp(1, 100);
    let (large, _) = tcp(2, 3000);
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, hdr_len: 0, ecn: false });
    far.push(&first, partial);
    far.push(&large, Offload { gso, ..partial });
    far.push(&tcp(3, 10).0, partial);
    let handle = run(Back::default(), near);
    let got = collect(&mut far, 5);
    let marks: Vec<(u8, usize)> = got.iter().map(|(f, _)| (f[0], f.len() - 54)).collect();
    assert_eq!(marks, [(1, 100), (2, 1000), (2, 1000), (2, 1000), (3, 10)]);
    for (f, offload) in &got {
        assert_eq!(*offload, Offload::NONE);
        assert!(tcp_sum_ok(f));
    }
    let payload: Vec<u8> = got[1..4].iter().flat_map(|(f, _)| f[54..].to_vec()).collect();
    assert_eq!(payload, large[54..]);
    handle.stop().unwrap();
}

#[test]
fn a_device_that_can_takes_the_super_frame_whole() {
    let (near, mut far) = wire(OffloadCaps { csum: true, tso: true, uso: false, tunnel: false });
    let (large, partial) = tcp(2, 3000);
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, hdr_len: 0, ecn: false });
    let offload = Offload { gso, ..partial };
    far.push(&large, offload);
    let handle = run(Back::default(), near);
    assert_eq!(collect(&mut far, 1), [(large, offload)]);
    handle.stop().unwrap();
}

#[test]
fn nonsense_from_a_device_is_a_counted_drop() {
    let (near, mut far) = wire(OffloadCaps::default());
    let gso = Some(Gso { kind: GsoKind::Udp, size: 1, hdr_len: 0, ecn: false });
    far.push(&[1; 60], Offload { csum: Csum::Partial { start: 60, offset: 0 }, gso: None });
    far.push(&[2; 60], Offload { csum: Csum::Complete, gso });
    far.push(&[3; 60], Offload::NONE);
    let handle = run(Back::default(), near);
    assert_eq!(collect(&mut far, 1)[0].0[0], 3);
    let drops = handle.stop().unwrap().drops;
    assert_eq!(drops, [(DropReason::BadOffload, 1), (DropReason::BadSegmentation, 1)]);
}

/// A port that always has packets.
struct Flood(crate::io::PortInfo);

impl Port for Flood {
    fn info(&self) -> &crate::io::PortInfo {
        &self.0
    }
    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
    fn recv_burst<'m>(
        &mut self,
        slots: &mut crate::io::SlotIter<'m>,
        burst: &mut Burst<'m>,
    ) -> Result<(), crate::io::PortError> {
        burst.extend(slots.map(|slot| PacketBuf::new(slot, 128, 188, Offload::NONE)));
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), crate::io::PortError> {
        report.sent += packets.len();
        Ok(())
    }
    fn reopen(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_saturated_port_delays_neither_commands_nor_timers_nor_other_ports() {
    let (near, mut far) = wire(OffloadCaps::default());
    let flood = Flood(info("flood", Mac::default(), OffloadCaps::default()));
    let director = Back { tick: Some(Mono::ZERO), ..Back::default() };
    let handle = start("lvs-w0", director, vec![Box::new(flood), Box::new(near)]).unwrap();
    let begin = clock::now();
    let before = handle.call(|d, _, _| d.ticks).unwrap();
    for i in 0..20 {
        far.push(&[i; 60], Offload::NONE);
        collect(&mut far, 1);
        handle.call(|_, _, _| ()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let took = clock::now().since(begin).as_millis();
    let ticks = handle.call(|d, _, _| d.ticks).unwrap() - before;
    assert!(took < 4000, "{took} ms");
    assert!(u64::from(ticks) >= took / 100, "{ticks} ticks of 2 ms in {took} ms");
    assert!(handle.ports()[0].1.read().received > 10_000);
    handle.stop().unwrap();
}

#[test]
fn timers_wake_an_idle_worker_and_an_idle_worker_sleeps() {
    let (near, _far) = wire(OffloadCaps::default());
    let handle = run(Back { tick: Some(Mono::ZERO), ..Back::default() }, near);
    let begin = clock::now();
    let mut ticks = 0;
    while ticks < 20 {
        std::thread::sleep(Duration::from_millis(20));
        ticks = handle.call(|d, _, _| d.ticks).unwrap();
    }
    let took = clock::now().since(begin).as_millis();
    assert!(took < 5000, "{took} ms");
    assert!(u64::from(ticks) <= took / 2 + 20, "{ticks} ticks of 2 ms in {took} ms");
    handle.stop().unwrap();
}

#[test]
fn a_broken_port_is_counted_told_and_tried_again() {
    let (near, mut far) = wire(OffloadCaps::default());
    let cut = near.cutter();
    let handle = run(Back::default(), near);
    cut(true);
    far.push(&[1; 60], Offload::NONE);
    for _ in 0..2000 {
        if handle.ports()[0].1.read().transitions == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    handle
        .call(|_, _, out| {
            let packet = out.copy_of(&[9; 60], Offload::NONE);
            out.push(PortId(0), packet);
        })
        .unwrap();
    cut(false);
    // what waited in the device comes through, what was sent meanwhile is lost
    assert_eq!(collect(&mut far, 1)[0].0[0], 1);
    let stats = handle.ports()[0].1.read();
    assert_eq!((stats.transitions, stats.down), (2, 1));
    let director = handle.stop().unwrap();
    assert_eq!(director.ports, [false, true]);
    assert_eq!(director.drops, [(DropReason::DeviceDown, 1)]);
}

#[test]
fn a_port_that_breaks_again_and_again_balances_its_books() {
    let (near, mut far) = wire(OffloadCaps::default());
    let rates = Rates { broken: 200, full: 7, ..Rates::default() };
    let handle = run(Back::default(), Faults::new(near, rates, 11));
    for round in 0..20u8 {
        for _ in 0..50 {
            far.push(&[round; 60], Offload::NONE);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..2000 {
        if handle.ports()[0].1.read().received == 1000 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let s = handle.ports()[0].1.read();
    assert_eq!(s.received, 1000);
    let stats = handle.call(|_, _, _| ()).map(|()| handle.ports()[0].1.read()).unwrap();
    assert_eq!(stats.sent + stats.full + stats.refused + stats.down, 1000);
    assert!(stats.full > 50);
    let director = handle.stop().unwrap();
    let told: u64 = director.drops.iter().map(|(_, n)| n).sum();
    assert_eq!(told, stats.full + stats.refused + stats.down);
}

#[test]
fn stopping_gives_the_director_back_and_later_questions_fail() {
    let (near, _far) = wire(OffloadCaps::default());
    let handle = run(Back::default(), near);
    handle.call(|d, _, _| d.echo = true).unwrap();
    assert!(!handle.is_finished());
    assert!(handle.stop().unwrap().echo);
    let too_many: Vec<Box<dyn Port>> = (0..=MAX_PORTS)
        .map(|i| {
            Box::new(Flood(info(&i.to_string(), Mac::default(), OffloadCaps::default()))) as Box<dyn Port>
        })
        .collect();
    assert!(start("lvs-w0", Back::default(), too_many).is_err());
}

#[test]
fn asynchronous_code_can_ask() {
    let (near, _far) = wire(OffloadCaps::default());
    let handle = run(Back::default(), near);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(handle.ask(|_, now, _| now));
    assert!(answer.unwrap() > Mono::ZERO);
}
