//! Ports: the devices packets come from and go to.
//!
//! A [`Port`] moves bursts of packets between a device and borrowed memory and never waits; the worker
//! waits on [`Port::fd`]. What a device said about checksum and segmentation travels in
//! [`crate::buf::Offload`], so that a 64 KiB packet passes whole wherever the device on the other side
//! takes it. Devices are wrapped, not flagged: [`wrap::Recorder`] and [`wrap::Faults`] are ports too.

pub mod sys;

use std::io;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use crate::addr::Mac;
use crate::buf::{HEADROOM, MAX_FRAME, PacketBuf};
use crate::engine::steer::Outline;
use crate::host::OffloadCaps;
use crate::time::Mono;
use crate::wire::Link;

pub mod ebpf;
pub mod error;
pub mod fanout;
pub mod fit;
pub mod guard;
pub mod mac;
pub mod mem;
pub mod outer;
pub mod packet;
pub mod pcap;
pub mod pcapng;
pub mod steering;
pub mod tap;
pub mod tun;
pub mod tuntap;
pub mod vnet;
pub mod wrap;
pub mod xdp;

pub use error::{OpenError, PortError};
pub use mem::MemPort;
pub use packet::PacketPort;
pub use pcap::{PcapIn, PcapOut};
pub use tap::TapPort;
pub use tun::TunPort;
pub use xdp::XdpPort;

/// Most packets taken from a port in one turn.
pub const BURST: usize = 64;

/// A burst of super-frames ends once it holds this many bytes: they are to be sent on while they are still in
/// the processor's cache. More may be waiting then.
pub const BURST_BYTES: usize = 192 * 1024;

/// Packets of one turn, in the memory of a [`Slots`].
pub type Burst<'m> = ArrayVec<PacketBuf<'m>, BURST>;

/// Whether a port asks its device for 64 KiB packets and partial checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadMode {
    /// Where the device has them.
    #[default]
    Auto,
    /// Opening fails where the device has not.
    On,
    /// Never: the kernel segments and completes checksums before the director sees a packet.
    Off,
}

/// Which MAC address the director uses on an Ethernet port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacChoice {
    /// A locally administered address made from the port's name.
    #[default]
    Derived,
    /// This address.
    Own(Mac),
    /// The interface's own address (raw and XDP ports only).
    Inherit,
}

/// What a port told about itself when it was opened.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Device name, for messages.
    pub name: String,
    /// Ethernet or bare IP.
    pub link: Link,
    /// The device's own MAC where it has one (the kernel's side).
    pub device_mac: Option<Mac>,
    /// The MAC the director answers with on this port; `None` on an IP link.
    pub mac: Option<Mac>,
    /// MTU of the device.
    pub mtu: u32,
    /// Which packets may be handed to it.
    pub offload: OffloadCaps,
}

/// A device. Never blocks: waiting is done on [`Port::fd`] by the worker.
pub trait Port: Send {
    /// What the device is and can do. May change at [`Port::reopen`].
    fn info(&self) -> &PortInfo;
    /// Descriptor to wait on for readability; `None` for ports that have none (files) or are out of order.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// For ports without a descriptor: the earliest time at which there is something to receive.
    fn ready_at(&mut self, now: Mono) -> Option<Mono> {
        let _ = now;
        None
    }
    /// Receives packets into the slots, one slot a packet, until the device is empty or room runs out.
    /// Fewer packets than there was room for, and less than [`BURST_BYTES`], mean that the device is empty.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone or down (packets received before it are in the burst); `Ok`
    /// with no packet when it is merely empty.
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError>;
    /// Sends packets in order and adds to `report` how many the device took and how many it refused.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone or down; the packets `report` does not count were not sent.
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError>;
    /// Another queue of the same device, for another worker; `None` when it has one only. The first
    /// one must have been opened for several.
    ///
    /// # Errors
    /// The device refuses.
    fn another(&self) -> Result<Option<Box<dyn Port>>, OpenError> {
        Ok(None)
    }
    /// Has the device give packets to the queue of the worker they belong to, where it can.
    fn steer(&mut self, outline: &Outline) {
        let _ = outline;
    }
    /// What the kernel lost of packets for this queue, since it was opened or [`Port::reopen`]ed.
    fn losses(&mut self) -> Losses {
        Losses::default()
    }
    /// Tries to get the device back after a [`PortError`]; `Ok` when it works again.
    ///
    /// # Errors
    /// Why it is still not there.
    fn reopen(&mut self) -> io::Result<()>;
}

/// Packets that the kernel could not give to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The socket's buffer, or the receive ring of an XDP queue, was full.
    pub full: u64,
    /// XDP: there was no empty frame.
    pub no_frame: u64,
    /// Packets longer than a frame, and on raw ports super-frames that no virtio-net header describes (of SCTP,
    /// UDP fragmentation offload).
    pub unsuitable: u64,
    /// XDP: descriptors the kernel refused, which would be a defect here.
    pub invalid: u64,
}

impl Losses {
    /// All together.
    pub const fn total(&self) -> u64 {
        self.full + self.no_frame + self.unsuitable + self.invalid
    }
    /// In the order of the fields, with the names they have in metrics and JSON.
    pub const fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("full", self.full),
            ("no_frame", self.no_frame),
            ("unsuitable", self.unsuitable),
            ("invalid", self.invalid),
        ]
    }
    /// What came since `before`; everything when the device began anew in between.
    pub fn since(self, before: Losses) -> Losses {
        let parts = self.named().iter().zip(before.named()).all(|(now, then)| now.1 >= then.1);
        if !parts {
            return self;
        }
        Losses {
            full: self.full - before.full,
            no_frame: self.no_frame - before.no_frame,
            unsuitable: self.unsuitable - before.unsuitable,
            invalid: self.invalid - before.invalid,
        }
    }
}

impl std::ops::Add for Losses {
    type Output = Losses;
    fn add(self, other: Losses) -> Losses {
        Losses {
            full: self.full + other.full,
            no_frame: self.no_frame + other.no_frame,
            unsuitable: self.unsuitable + other.unsuitable,
            invalid: self.invalid + other.invalid,
        }
    }
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

impl SendReport {
    /// Packets accounted for.
    pub const fn total(&self) -> usize {
        self.sent + self.full + self.refused
    }
}

/// Receive memory of a worker: a fixed number of slots, each with headroom and room for the largest frame.
#[derive(Debug)]
pub struct Slots {
    mem: Vec<u8>,
    slot: usize,
}

impl Slots {
    /// `count` slots for frames of up to `frame` bytes.
    pub fn new(count: usize, frame: usize) -> Slots {
        let slot = (HEADROOM + frame).next_multiple_of(64);
        Slots { mem: vec![0; slot * count], slot }
    }
    /// Slots for one burst of the largest frames.
    pub fn for_burst() -> Slots {
        Slots::new(BURST, MAX_FRAME)
    }
    /// All slots, free again: call at the start of a turn.
    pub fn iter(&mut self) -> SlotIter<'_> {
        SlotIter { rest: &mut self.mem, slot: self.slot }
    }
}

/// Hands out free slots during one turn.
#[derive(Debug)]
pub struct SlotIter<'m> {
    rest: &'m mut [u8],
    slot: usize,
}

impl<'m> SlotIter<'m> {
    /// Free slots left.
    pub fn remaining(&self) -> usize {
        self.rest.len() / self.slot
    }
    /// The next `n` free slots (at most what there is) as an iterator of their own.
    pub fn carve(&mut self, n: usize) -> SlotIter<'m> {
        let at = n.min(self.remaining()) * self.slot;
        let (mine, rest) = std::mem::take(&mut self.rest).split_at_mut(at);
        self.rest = rest;
        SlotIter { rest: mine, slot: self.slot }
    }
    /// The memory of all free slots, in the order in which they will be handed out, and the size of one.
    pub fn peek(&mut self) -> (&mut [u8], usize) {
        (self.rest, self.slot)
    }
}

impl<'m> Iterator for SlotIter<'m> {
    type Item = &'m mut [u8];
    fn next(&mut self) -> Option<&'m mut [u8]> {
        if self.rest.len() < self.slot {
            return None;
        }
        let (slot, rest) = std::mem::take(&mut self.rest).split_at_mut(self.slot);
        self.rest = rest;
        Some(slot)
    }
}

/// Room for one more burst: what is free both in the slots and in the burst.
pub(crate) fn room(slots: &SlotIter<'_>, burst: &Burst<'_>) -> usize {
    slots.remaining().min(burst.remaining_capacity())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_handed_out_once_a_turn_in_the_order_of_peek() {
        let mut slots = Slots::new(3, 100);
        let mut it = slots.iter();
        let (mem, size) = it.peek();
        assert_eq!(size % 64, 0);
        mem[size] = 7;
        assert_eq!(it.remaining(), 3);
        it.next().unwrap();
        assert_eq!(it.next().unwrap()[0], 7);
        it.next().unwrap();
        assert!(it.next().is_none());
        assert_eq!(slots.iter().remaining(), 3);
    }
}
