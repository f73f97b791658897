//! Packets from one worker to another: copied into a bounded ring, which wakes the owner when it sleeps.
//!
//! # Theory of operation
//! From each worker to each other one there is a pair of rings: full buffers go one way, emptied ones come
//! back, so handing over allocates nothing once every buffer has grown to the packets there are. Who finds no
//! empty buffer drops the packet (`handover_full`): a worker that cannot keep up must not hold up another.
//! The owner says that it sleeps before it looks at its rings for the last time; the giver fills the
//! ring before it looks whether the owner sleeps: one of them sees the other.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::buf::{Offload, OwnedPacket};
use crate::engine::PortId;

/// Packets that may wait from one worker for one other.
pub const CAPACITY: usize = 256;

/// Wakes a worker.
#[derive(Debug)]
pub(super) struct Bell {
    stream: UnixStream,
    asleep: AtomicBool,
}

impl Bell {
    /// Rings at the other end of `stream`.
    pub fn new(stream: UnixStream) -> Bell {
        Bell { stream, asleep: AtomicBool::new(false) }
    }
    /// Wakes the worker, or keeps it from falling asleep.
    pub fn ring(&self) {
        // a full pipe has rung already
        let _ = (&self.stream).write(&[1]);
    }
    /// Wakes the worker if it sleeps; call after filling a ring.
    pub fn nudge(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }
    /// Its worker is about to sleep; it has to look at its rings once more.
    pub fn falls_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
    /// Its worker is awake.
    pub fn wakes(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// What is to be done with a packet that was given to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matter {
    /// It is ours.
    Owned,
    /// It is ours, and was put together from fragments the largest of which had so many bytes.
    Whole(u16),
    /// Another worker answers it; we learn from it.
    Heard,
}

/// A packet under way.
#[derive(Debug)]
pub(super) struct Letter {
    pub matter: Matter,
    pub port: PortId,
    pub packet: OwnedPacket,
}

/// The giving end.
#[derive(Debug)]
pub(super) struct Outbox {
    full: Producer<Letter>,
    empty: Consumer<OwnedPacket>,
    bell: Arc<Bell>,
    /// Something was put in since the owner was last woken.
    fresh: bool,
}

impl Outbox {
    /// Copies a packet for the owner; false when there is no room.
    pub fn put(&mut self, matter: Matter, port: PortId, bytes: &[u8], offload: Offload) -> bool {
        let Ok(mut packet) = self.empty.pop() else { return false };
        packet.fill(bytes, offload);
        self.fresh = true;
        // there are no more buffers than places
        self.full.push(Letter { matter, port, packet }).is_ok()
    }
    /// Wakes the owner if it sleeps and there is something new for it.
    pub fn nudge(&mut self) {
        if std::mem::take(&mut self.fresh) {
            self.bell.nudge();
        }
    }
}

/// The taking end.
#[derive(Debug)]
pub(super) struct Inbox {
    full: Consumer<Letter>,
    empty: Producer<OwnedPacket>,
}

impl Inbox {
    /// The next packet; to be given back with [`Inbox::give_back`].
    pub fn take(&mut self) -> Option<Letter> {
        self.full.pop().ok()
    }
    /// Returns a buffer to the giver.
    pub fn give_back(&mut self, packet: OwnedPacket) {
        // there are no more buffers than places; a giver that is gone needs none
        let _ = self.empty.push(packet);
    }
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

/// A pair of rings to the worker that `bell` wakes.
pub(super) fn ring(bell: Arc<Bell>) -> (Outbox, Inbox) {
    let (full_in, full_out) = RingBuffer::new(CAPACITY);
    let (mut empty_in, empty_out) = RingBuffer::new(CAPACITY);
    for _ in 0..CAPACITY {
        let _ = empty_in.push(OwnedPacket::default());
    }
    (
        Outbox { full: full_in, empty: empty_out, bell, fresh: false },
        Inbox { full: full_out, empty: empty_in },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_keep_their_order_and_no_more_than_the_buffers_are_under_way() {
        let (near, _far) = UnixStream::pair().unwrap();
        let (mut outbox, mut inbox) = ring(Arc::new(Bell::new(near)));
        let put = |outbox: &mut Outbox, i: usize| {
            outbox.put(Matter::Owned, PortId(3), &i.to_be_bytes(), Offload::NONE)
        };
        for round in 0..3 {
            assert!((0..CAPACITY).all(|i| put(&mut outbox, round * 1000 + i)));
            assert!(!put(&mut outbox, 0), "full");
            for i in 0..CAPACITY {
                let letter = inbox.take().unwrap();
                assert_eq!((letter.matter, letter.port), (Matter::Owned, PortId(3)));
                assert_eq!(letter.packet.bytes(), (round * 1000 + i).to_be_bytes());
                inbox.give_back(letter.packet);
            }
            assert!(inbox.is_empty() && inbox.take().is_none());
        }
    }

    #[test]
    fn a_sleeper_is_woken_once_and_nobody_else_is() {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let bell = Arc::new(Bell::new(near));
        let (mut outbox, _inbox) = ring(bell.clone());
        let rings = || {
            let mut buf = [0; 8];
            std::io::Read::read(&mut &far, &mut buf).unwrap_or(0)
        };
        assert!(outbox.put(Matter::Heard, PortId(0), b"x", Offload::NONE));
        outbox.nudge();
        assert_eq!(rings(), 0, "it is awake");
        bell.falls_asleep();
        outbox.nudge();
        assert_eq!(rings(), 0, "nothing new");
        assert!(outbox.put(Matter::Whole(9), PortId(0), b"y", Offload::NONE));
        outbox.nudge();
        assert!(outbox.put(Matter::Owned, PortId(0), b"z", Offload::NONE));
        outbox.nudge();
        assert_eq!(rings(), 1);
    }
}
