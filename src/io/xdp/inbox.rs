//! What a socket received, and the way of its frames back to the kernel. No system call is made here.
//!
//! The frames for receiving belong to a queue. Where several sockets receive from one, each has a receive ring of
//! its own, and the fill ring, through which frames go back, is theirs together: whoever has copied packets out
//! puts the frames into it, once a burst, under a lock. No burst waits for that lock; who finds it taken keeps the
//! frames until the next one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::frames::RECEIVE;
use crate::buf::{HEADROOM, Offload, PacketBuf};
use crate::io::sys::ring::{Consumer, Desc, Producer, Region};
use crate::io::{BURST_BYTES, Burst, SlotIter, room};

/// The fill ring of a queue, for all that receive from it.
pub type Fill = Arc<Mutex<Producer<u64>>>;

/// The frames of a queue, as a socket sees them that receives from it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Memory of the frames; those for receiving come first.
    pub memory: Arc<Region>,
    /// Where they go back to.
    pub fill: Fill,
    /// Bytes of a frame.
    pub chunk: u32,
}

impl Source {
    /// A queue that nobody has received from yet: all frames are given to the kernel.
    ///
    /// # Errors
    /// The fill ring has no room for them.
    pub fn new(memory: Arc<Region>, mut fill: Producer<u64>, chunk: u32) -> io::Result<Source> {
        for i in 0..RECEIVE {
            if !fill.push(u64::from(i) * u64::from(chunk)) {
                return Err(io::Error::other("the fill ring is smaller than was asked for"));
            }
        }
        fill.publish();
        Ok(Source { memory, fill: Arc::new(Mutex::new(fill)), chunk })
    }
    /// Frames that wait for the kernel.
    pub fn waiting(&self) -> u32 {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner).pending()
    }
}

/// A receive ring.
#[derive(Debug)]
pub struct Inbox {
    source: Source,
    rx: Consumer<Desc>,
    /// Frames that are on their way back.
    freed: Vec<u64>,
    /// The kernel named what is no frame for receiving.
    lost: u32,
    wants_call: bool,
}

impl Inbox {
    /// A socket's receive ring and what it receives from.
    pub fn new(source: Source, rx: Consumer<Desc>) -> Inbox {
        Inbox { source, rx, freed: Vec::with_capacity(RECEIVE as usize), lost: 0, wants_call: false }
    }

    /// Moves packets to slots until there are none, or room or a burst's bytes run out. `what` says what is
    /// to be said about checksum and segmentation. `bytes` counts on.
    pub fn receive<'m>(
        &mut self,
        slots: &mut SlotIter<'m>,
        burst: &mut Burst<'m>,
        bytes: &mut usize,
        what: impl Fn(&[u8]) -> Offload,
    ) {
        while room(slots, burst) > 0 && *bytes < BURST_BYTES {
            let Some(first) = self.rx.pop() else { break };
            let Some(slot) = slots.next() else { break };
            if let Some(end) = self.gather(first, slot) {
                let offload = what(&slot[HEADROOM..end]);
                *bytes += end - HEADROOM;
                burst.push(PacketBuf::new(slot, HEADROOM, end, offload));
            }
        }
        self.rx.release();
        self.give_back();
    }

    /// Gives the frames of all packets that wait back, unread. Says how many pieces it were.
    pub fn leave(&mut self) -> u32 {
        let mut pieces = 0;
        while let Some(piece) = self.rx.pop() {
            self.free(piece.addr);
            pieces += 1;
        }
        self.rx.release();
        let mut fill = self.source.fill.lock().unwrap_or_else(PoisonError::into_inner);
        put_back(&mut fill, &mut self.freed, &mut self.lost);
        pieces
    }

    /// Copies a packet, which may lie in several frames; `None` when it does not fit.
    #[inline]
    fn gather(&mut self, first: Desc, slot: &mut [u8]) -> Option<usize> {
        let (mut end, mut fits, mut piece) = (HEADROOM, true, first);
        loop {
            let len = piece.len as usize;
            fits = fits
                && slot
                    .get_mut(end..end + len)
                    .is_some_and(|room| self.source.memory.copy_out(piece.addr, room));
            end += len;
            self.free(piece.addr);
            if piece.options & Desc::MORE == 0 {
                return fits.then_some(end);
            }
            // the kernel shows all pieces of a packet at once
            piece = self.rx.pop()?;
        }
    }

    #[inline]
    fn free(&mut self, addr: u64) {
        let chunk = u64::from(self.source.chunk);
        let known = addr < u64::from(RECEIVE) * chunk && self.freed.len() < RECEIVE as usize;
        debug_assert!(known, "{addr:#x} is no frame for receiving");
        if known {
            self.freed.push(addr & !(chunk - 1));
        } else {
            self.lost += 1;
        }
    }

    fn give_back(&mut self) {
        let mut fill = match self.source.fill.try_lock() {
            Ok(fill) => fill,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // the next look gives them back, which follows at once where there were packets
            Err(TryLockError::WouldBlock) => return,
        };
        put_back(&mut fill, &mut self.freed, &mut self.lost);
        self.wants_call = fill.wants_call();
    }

    /// What it receives from.
    pub fn source(&self) -> &Source {
        &self.source
    }
    /// Packets wait in the receive ring.
    pub fn waiting(&self) -> u32 {
        self.rx.waiting()
    }
    /// Frames on their way back.
    pub fn freed(&self) -> u32 {
        self.freed.len() as u32
    }
    /// Frames that were lost.
    pub fn lost(&self) -> u32 {
        self.lost
    }
    /// The kernel asked to be called for receiving, when frames last went back.
    pub fn wants_call(&self) -> bool {
        self.wants_call
    }
}

fn put_back(fill: &mut Producer<u64>, freed: &mut Vec<u64>, lost: &mut u32) {
    for frame in freed.drain(..) {
        // there are no more frames than places
        if !fill.push(frame) {
            *lost += 1;
        }
    }
    fill.publish();
}
