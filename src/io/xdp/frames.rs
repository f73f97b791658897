//! The frames of one queue and where each of them is. No system call is made here.
//!
//! One half of the frames is for receiving: all of them are with the kernel, in the fill ring or in a receive
//! ring, at any time, because a frame goes back into the fill ring as soon as the packet was copied to its slot
//! ([`super::inbox`]). The other half is for sending: free, in the send ring, with the kernel, or in the
//! completion ring. Nothing else exists, so [`Census::total`] is constant; debug builds follow each single frame
//! that is for sending.
//!
//! Packets are copied between frames and the worker's slots: the slots hold 64 KiB packets with headroom on
//! both sides, frames are pages of the kernel's, and a packet that arrived on one interface mostly leaves by
//! another, which has frames of its own (`docs/decisions/0009-af-xdp.md` has what it costs).

use std::io;
use std::sync::Arc;

use super::inbox::{Inbox, Source};
use crate::io::sys::ring::{Consumer, Desc, Producer, Region};
use crate::io::sys::xsk::{Rings, Sizes};

/// Frames for receiving and for sending.
pub const RECEIVE: u32 = 2048;
/// See [`RECEIVE`].
pub const SEND: u32 = 1024;

/// Rings that hold every frame that may be in them.
pub const SIZES: Sizes = Sizes { fill: RECEIVE, rx: RECEIVE, tx: SEND, completion: SEND };

/// Where the frames of a socket are, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In the fill ring.
    pub fill: u32,
    /// With the kernel, being received into, or with another socket that receives from the queue.
    pub receiving: u32,
    /// In the receive ring.
    pub rx: u32,
    /// Free, for sending.
    pub free: u32,
    /// In the send ring.
    pub tx: u32,
    /// With the kernel, being sent.
    pub sending: u32,
    /// In the completion ring.
    pub completion: u32,
    /// The kernel gave back what is no frame of ours, or never gave it back.
    pub lost: u32,
}

impl Census {
    /// All frames.
    pub const fn total(&self) -> u32 {
        self.fill
            + self.receiving
            + self.rx
            + self.free
            + self.tx
            + self.sending
            + self.completion
            + self.lost
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Free,
    Sending,
}

/// The frames of a socket with its rings.
#[derive(Debug)]
pub struct Frames {
    /// Those for receiving.
    pub inbox: Inbox,
    tx: Producer<Desc>,
    completion: Consumer<u64>,
    memory: Arc<Region>,
    chunk: u32,
    /// Frames free for sending.
    free: Vec<u64>,
    /// Frames that the kernel is to send.
    sending: u32,
    lost: u32,
    /// Debug builds: who has each frame for sending.
    owner: Vec<Owner>,
}

/// Frame memory for frames of `chunk` bytes.
///
/// # Errors
/// `ENOMEM`
pub fn memory(chunk: u32) -> io::Result<Region> {
    Region::anonymous((RECEIVE + SEND) as usize * chunk as usize)
}

impl Frames {
    /// Gives the kernel its half.
    ///
    /// # Errors
    /// The rings are smaller than was asked for.
    pub fn new(memory: Arc<Region>, rings: Rings, chunk: u32) -> io::Result<Frames> {
        let frame = |i: u32| u64::from(i) * u64::from(chunk);
        let owner = if cfg!(debug_assertions) { vec![Owner::Free; SEND as usize] } else { Vec::new() };
        let free = (RECEIVE..RECEIVE + SEND).rev().map(frame).collect();
        let Rings { fill, rx, tx, completion } = rings;
        let inbox = Inbox::new(Source::new(memory.clone(), fill, chunk)?, rx);
        Ok(Frames { inbox, tx, completion, memory, chunk, free, sending: 0, lost: 0, owner })
    }

    /// Puts a packet into the send ring, in several frames when it is longer than one; false when there are
    /// not enough free ones. The kernel sees it after [`Frames::publish`].
    #[inline]
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let chunk = self.chunk as usize;
        if packet.len().div_ceil(chunk) > self.free.len() {
            return false;
        }
        let mut pieces = packet.chunks(chunk).peekable();
        while let Some(piece) = pieces.next() {
            let Some(frame) = self.free.pop() else { return false };
            let options = if pieces.peek().is_some() { Desc::MORE } else { 0 };
            let copied = self.memory.copy_in(frame, piece);
            let pushed = copied && self.tx.push(Desc { addr: frame, len: piece.len() as u32, options });
            debug_assert!(pushed, "a free frame has its place in the send ring");
            self.note(frame, Owner::Free, Owner::Sending);
            self.sending += 1;
        }
        true
    }

    /// Shows the kernel what was pushed.
    pub fn publish(&mut self) {
        self.tx.publish();
    }

    /// Takes back what was sent.
    pub fn reap(&mut self) {
        while let Some(addr) = self.completion.pop() {
            let frame = addr & !u64::from(self.chunk - 1);
            let first = u64::from(RECEIVE) * u64::from(self.chunk);
            self.sending -= 1;
            if (first..self.memory.len() as u64).contains(&frame) {
                self.note(frame, Owner::Sending, Owner::Free);
                self.free.push(frame);
            } else {
                debug_assert!(false, "{addr:#x} is no frame for sending");
                self.lost += 1;
            }
        }
        self.completion.release();
    }

    #[inline]
    fn note(&mut self, frame: u64, from: Owner, to: Owner) {
        if cfg!(debug_assertions) {
            let owner = &mut self.owner[(frame / u64::from(self.chunk)) as usize - RECEIVE as usize];
            assert_eq!(std::mem::replace(owner, to), from, "frame {frame:#x}");
        }
    }

    /// Free frames for sending.
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Packets' pieces that the kernel has not taken from the send ring.
    pub fn unsent(&self) -> u32 {
        self.tx.pending()
    }
    /// The kernel asks to be called for sending.
    pub fn tx_wants_call(&self) -> bool {
        self.tx.wants_call()
    }

    /// Where the frames are at this moment. While the kernel works, what is in its hands is what is left.
    pub fn census(&self) -> Census {
        let (fill, rx) = (self.inbox.source().waiting(), self.inbox.waiting());
        let (tx, completion) = (self.tx.pending(), self.completion.waiting());
        let lost = self.inbox.lost();
        Census {
            fill,
            rx,
            receiving: RECEIVE.saturating_sub(fill + rx + lost),
            free: self.free.len() as u32,
            tx,
            completion,
            sending: self.sending.saturating_sub(tx + completion),
            lost: lost + self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Offload;
    use crate::io::sys::ring::loose;
    use crate::io::{Burst, Slots};

    /// The other ends of the rings.
    struct Kernel {
        memory: Arc<Region>,
        fill: Consumer<u64>,
        rx: Producer<Desc>,
        tx: Consumer<Desc>,
        completion: Producer<u64>,
    }

    const CHUNK: u32 = 2048;
    const ALL: u32 = RECEIVE + SEND;

    fn pair() -> (Frames, Kernel) {
        let memory = Arc::new(memory(CHUNK).unwrap());
        let (fill, fill_end) = loose(SIZES.fill).unwrap();
        let (rx_end, rx) = loose(SIZES.rx).unwrap();
        let (tx, tx_end) = loose(SIZES.tx).unwrap();
        let (completion_end, completion) = loose(SIZES.completion).unwrap();
        let frames = Frames::new(memory.clone(), Rings { fill, rx, tx, completion }, CHUNK).unwrap();
        let kernel = Kernel { memory, fill: fill_end, rx: rx_end, tx: tx_end, completion: completion_end };
        (frames, kernel)
    }

    impl Kernel {
        /// Receives a packet, 256 bytes into each frame as the real one does; false without empty frames.
        fn deliver(&mut self, packet: &[u8]) -> bool {
            let mut pieces = packet.chunks(CHUNK as usize - 256).peekable();
            while let Some(piece) = pieces.next() {
                let Some(frame) = self.fill.pop() else { return false };
                assert!(self.memory.copy_in(frame + 256, piece));
                let options = if pieces.peek().is_some() { Desc::MORE } else { 0 };
                assert!(self.rx.push(Desc { addr: frame + 256, len: piece.len() as u32, options }));
            }
            self.fill.release();
            self.rx.publish();
            true
        }
        /// Sends up to `n` pieces.
        fn send(&mut self, n: usize) -> Vec<(Vec<u8>, bool)> {
            let mut sent = Vec::new();
            while sent.len() < n
                && let Some(d) = self.tx.pop()
            {
                let mut bytes = vec![0; d.len as usize];
                assert!(self.memory.copy_out(d.addr, &mut bytes));
                sent.push((bytes, d.options & Desc::MORE != 0));
                assert!(self.completion.push(d.addr));
            }
            self.tx.release();
            self.completion.publish();
            sent
        }
    }

    fn receive(inbox: &mut Inbox) -> Vec<Vec<u8>> {
        let mut slots = Slots::for_burst();
        let mut iter = slots.iter();
        let mut burst = Burst::new();
        inbox.receive(&mut iter, &mut burst, &mut 0, |_| Offload::NONE);
        burst.iter().map(|p| p.bytes().to_vec()).collect()
    }

    #[test]
    fn packets_come_out_whole_and_in_order_and_frames_go_back_at_once() {
        let (mut frames, mut kernel) = pair();
        assert_eq!(frames.census(), Census { fill: RECEIVE, free: SEND, ..Census::default() });
        let packets: Vec<Vec<u8>> = (1..=200u8).map(|i| vec![i; 60 + usize::from(i)]).collect();
        for p in &packets {
            assert!(kernel.deliver(p));
        }
        assert_eq!(frames.census().rx, 200);
        let mut got = Vec::new();
        for _ in 0..4 {
            got.extend(receive(&mut frames.inbox));
        }
        assert_eq!(got, packets);
        assert_eq!(frames.census(), Census { fill: RECEIVE, free: SEND, ..Census::default() });
    }

    #[test]
    fn a_packet_in_pieces_is_put_together_and_one_too_long_is_dropped_whole() {
        let (mut frames, mut kernel) = pair();
        let long: Vec<u8> = (0..9014u32).map(|i| i as u8).collect();
        assert!(kernel.deliver(&long) && kernel.deliver(&vec![7; 70_000]) && kernel.deliver(&[8; 60]));
        assert_eq!(receive(&mut frames.inbox), [long, vec![8; 60]]);
        assert_eq!(frames.census().fill, RECEIVE);
    }

    #[test]
    fn what_is_sent_leaves_in_order_and_its_frames_come_back() {
        let (mut frames, mut kernel) = pair();
        for i in 0..SEND {
            assert!(frames.push(&i.to_be_bytes()));
        }
        assert!(!frames.push(&[0; 60]), "no frame is left");
        assert!(kernel.send(1).is_empty(), "nothing is published");
        frames.publish();
        assert_eq!(frames.unsent(), SEND);
        for i in 0..SEND / 2 {
            assert_eq!(kernel.send(1), [(i.to_be_bytes().to_vec(), false)]);
        }
        assert_eq!(
            frames.census(),
            Census { fill: RECEIVE, tx: SEND / 2, completion: SEND / 2, ..Census::default() }
        );
        frames.reap();
        assert_eq!(frames.free(), SEND as usize / 2);
        let long: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        assert!(frames.push(&long));
        frames.publish();
        let rest = kernel.send(usize::MAX);
        let pieces = &rest[SEND as usize / 2..];
        assert_eq!(
            pieces.iter().map(|(b, more)| (b.len(), *more)).collect::<Vec<_>>(),
            [(2048, true), (2048, true), (904, false)]
        );
        assert_eq!(pieces.iter().flat_map(|(b, _)| b.clone()).collect::<Vec<_>>(), long);
        frames.reap();
        assert_eq!(frames.census(), Census { fill: RECEIVE, free: SEND, ..Census::default() });
    }

    #[test]
    fn sockets_that_receive_from_one_queue_give_its_frames_back_each_for_itself() {
        let (mut frames, mut kernel) = pair();
        let source = frames.inbox.source().clone();
        let (rx_end, rx) = loose(SIZES.rx).unwrap();
        let mut guest = Inbox::new(source.clone(), rx);
        // what the kernel receives goes to one or the other
        let mut ends = [rx_end, std::mem::replace(&mut kernel.rx, loose(2).unwrap().0)];
        for round in 0..200u32 {
            for i in 0..50u32 {
                let frame = kernel.fill.pop().unwrap();
                assert!(kernel.memory.copy_in(frame, &(round * 50 + i).to_be_bytes()));
                assert!(ends[i as usize % 2].push(Desc { addr: frame, len: 4, options: 0 }));
            }
            kernel.fill.release();
            ends.iter_mut().for_each(Producer::publish);
            let at = frames.census();
            assert_eq!((at.total(), at.rx, at.receiving, at.lost), (ALL, 25, 25, 0), "{at:?}");
            let mut got = receive(&mut frames.inbox);
            // somebody else has the fill ring: nobody waits for it
            let taken = source.fill.lock().unwrap();
            got.extend(receive(&mut guest));
            assert_eq!((guest.freed(), taken.pending()), (25, RECEIVE - 25));
            drop(taken);
            assert_eq!(receive(&mut guest), Vec::<Vec<u8>>::new());
            assert_eq!(got.len(), 50);
            got.sort();
            assert_eq!(got, (0..50).map(|i| (round * 50 + i).to_be_bytes().to_vec()).collect::<Vec<_>>());
            assert_eq!(frames.census(), Census { fill: RECEIVE, free: SEND, ..Census::default() });
        }
    }

    #[test]
    fn no_frame_is_ever_lost_whatever_both_sides_do() {
        let (mut frames, mut kernel) = pair();
        // a fixed walk: xorshift, seed 1
        let mut x = 1u64;
        let mut dice = move |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let (mut delivered, mut received, mut pushed, mut sent) = (0, 0, 0, 0);
        for _ in 0..20_000 {
            match dice(5) {
                0 => {
                    for _ in 0..dice(100) {
                        delivered += u32::from(kernel.deliver(&[1; 100]));
                    }
                }
                1 => received += receive(&mut frames.inbox).len() as u32,
                2 => {
                    for _ in 0..dice(100) {
                        pushed += u32::from(frames.push(&[2; 100]));
                    }
                    frames.publish();
                }
                3 => sent += kernel.send(dice(100) as usize).len() as u32,
                _ => frames.reap(),
            }
            let census = frames.census();
            assert_eq!((census.total(), census.lost), (ALL, 0), "{census:?}");
            assert_eq!((census.receiving, census.sending), (0, 0), "{census:?}");
        }
        assert!(delivered > 10_000 && pushed > 10_000);
        assert_eq!((delivered - received, pushed - sent), (frames.census().rx, frames.census().tx));
    }
}
