//! Between receiving and sending the worker allocates nothing, whatever becomes of a packet.
#![cfg(feature = "daemon")]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use softlvs::addr::Mac;
use softlvs::buf::{Csum, Gso, GsoKind, Offload, Out, PacketBuf};
use softlvs::engine::{DropReason, PortId, Verdict};
use softlvs::host::OffloadCaps;
use softlvs::io::{Burst, Port, PortError, PortInfo, SendReport, SlotIter, mem};
use softlvs::time::Mono;
use softlvs::wire::sum;
use softlvs::worker::{self, Director};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.get() {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Set on the worker's thread only.
    static WATCHED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Always has packets: every eighth a TCP super-frame, the others small ones with a partial checksum.
struct Source {
    info: PortInfo,
    frames: [(Vec<u8>, Offload); 2],
    count: usize,
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut f = vec![0u8; 54 + payload];
    let len = (f.len() - 14) as u16;
    f[12] = 8;
    f[14] = 0x45;
    f[16..18].copy_from_slice(&len.to_be_bytes());
    f[22..24].copy_from_slice(&[64, 6]);
    f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let c = sum::checksum(&f[14..34]);
    f[24..26].copy_from_slice(&c.to_be_bytes());
    f[46..48].copy_from_slice(&[0x50, 0x10]);
    f
}

impl Port for Source {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        for slot in slots {
            self.count += 1;
            let (frame, offload) = &self.frames[usize::from(self.count.is_multiple_of(8))];
            let mut packet = PacketBuf::empty(slot, 128);
            packet.fill(frame);
            packet.offload = *offload;
            burst.push(packet);
        }
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        report.sent += packets.len();
        Ok(())
    }
    fn reopen(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends each packet on, drops some, and makes one of its own for some.
struct Busy(u32);

impl Director for Busy {
    fn on_burst(
        &mut self,
        _: Mono,
        _: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        for (packet, verdict) in burst.iter().zip(verdicts) {
            self.0 += 1;
            *verdict = match self.0 % 5 {
                0 => Verdict::Drop(DropReason::NoRoute),
                n => Verdict::Send(PortId((n % 2) as u16)),
            };
            if self.0.is_multiple_of(3) {
                let made = out.copy_of(&packet.bytes()[..54], Offload::NONE);
                out.push(PortId(1), made);
            }
        }
    }
    fn poll_timeout(&self) -> Option<Mono> {
        Some(Mono::ZERO)
    }
    fn on_timeout(&mut self, _: Mono, _: &mut Out) {}
    fn device_drop(&mut self, _: PortId, _: DropReason, _: u64) {}
}

#[test]
fn the_worker_allocates_nothing_per_packet() {
    let csum = Csum::Partial { start: 34, offset: 16 };
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1448, hdr_len: 54, ecn: false });
    let frames = [(tcp(10), Offload { csum, gso: None }), (tcp(20_000), Offload { csum, gso })];
    let info =
        |name, on| mem::info(name, Mac::default(), OffloadCaps { csum: on, tso: on, uso: on, tunnel: false });
    // one device that takes everything, one for which all is completed and segmented
    let ports: Vec<Box<dyn Port>> = vec![
        Box::new(Source { info: info("whole", true), frames: frames.clone(), count: 0 }),
        Box::new(Source { info: info("plain", false), frames, count: 0 }),
    ];
    let handle = worker::start("lvs-w0", Busy(0), ports).unwrap();
    // the buffers reach their size first
    std::thread::sleep(Duration::from_millis(200));
    handle.call(|_, _, _| WATCHED.set(true)).unwrap();
    let packets = |h: &worker::Handle<Busy>| h.ports()[0].1.read().received;
    let (before, start) = (packets(&handle), ALLOCATIONS.load(Relaxed));
    while packets(&handle) < before + 20_000 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let allocated = ALLOCATIONS.load(Relaxed) - start;
    assert_eq!(allocated, 0, "in 20,000 packets");
    handle.stop().unwrap();
}
