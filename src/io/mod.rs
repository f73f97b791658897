//! Ports: the devices packets come from and go to.

pub mod sys;

use std::io;

use arrayvec::ArrayVec;

use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::host::OffloadCaps;
use crate::wire::Link;

/// Most packets taken from a port in one turn.
pub const BURST: usize = 64;

/// Packets of one turn, in the memory of a [`Slots`].
pub type Burst<'m> = ArrayVec<PacketBuf<'m>, BURST>;

/// What a port told about itself when it was opened.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Device name, for messages.
    pub name: String,
    /// Ethernet or bare IP.
    pub link: Link,
    /// The device's own MAC where it has one (the kernel's side).
    pub device_mac: Option<Mac>,
    /// MTU of the device.
    pub mtu: u32,
    /// Which packets may be handed to it.
    pub offload: OffloadCaps,
}

/// A device. Never blocks: waiting is done on [`Port::fd`] by the worker.
pub trait Port: Send {
    /// What the device is and can do.
    fn info(&self) -> &PortInfo;
    /// Descriptor to wait on for readability; `None` for ports in memory.
    fn fd(&self) -> Option<std::os::fd::RawFd>;
    /// Receives packets into the slots, one slot a packet, until the device is empty or slots run out.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone or down; `Ok` with no packet when it is merely empty.
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError>;
    /// Sends packets in order and says how many the device took and how many it refused.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone or down.
    fn send_burst(&mut self, packets: &mut [&mut PacketBuf<'_>]) -> Result<SendReport, PortError>;
    /// Tries to get the device back after a [`PortError`]; `Ok` when it works again.
    ///
    /// # Errors
    /// Why it is still not there.
    fn reopen(&mut self) -> io::Result<()>;
}

/// Result of sending a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Packets the device took.
    pub sent: usize,
    /// Packets it refused because its queue is full (ENOBUFS, EAGAIN).
    pub full: usize,
    /// Packets it refused as unsuitable (EMSGSIZE, EINVAL).
    pub refused: usize,
}

/// A device that does not work at the moment.
#[derive(Debug)]
pub enum PortError {
    /// The link is down; it may come back by itself (ENETDOWN).
    Down(io::Error),
    /// The device is gone (deleted: EBADFD, ENODEV, ENXIO).
    Gone(io::Error),
}

/// Receive memory of a worker: a fixed number of slots, each with headroom and room for the largest frame.
#[derive(Debug)]
pub struct Slots {
    mem: Vec<u8>,
    slot: usize,
}

/// Hands out free slots during one turn.
pub type SlotIter<'m> = std::slice::ChunksExactMut<'m, u8>;

impl Slots {
    /// `count` slots for frames of up to `frame` bytes.
    pub fn new(count: usize, frame: usize) -> Slots {
        let slot = (crate::buf::HEADROOM + frame).next_multiple_of(64);
        Slots { mem: vec![0; slot * count], slot }
    }
    /// All slots, free again: call at the start of a turn.
    pub fn iter(&mut self) -> SlotIter<'_> {
        self.mem.chunks_exact_mut(self.slot)
    }
}
