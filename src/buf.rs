//! Packet memory: bytes with headroom, and what the device said about checksum and segmentation.
//!
//! A [`PacketBuf`] borrows its memory, so a pool slot, a ring slot and a UMEM frame look alike to the
//! core. Encapsulation prepends into the headroom and copies nothing. [`Out`] collects packets the core
//! makes itself (ARP, ICMP, fragments, segments); its buffers are recycled by the caller.

use crate::engine::PortId;

/// Bytes kept free in front of a received frame: outer IPv6 (40) + UDP (8) + GUE (4), an Ethernet
/// header for packets from an L3 port (14) and the longest virtio-net header (24), rounded up.
pub const HEADROOM: usize = 128;

/// The largest frame a device with segmentation offload hands over: 64 KiB of IP behind Ethernet.
pub const MAX_FRAME: usize = 65_536 + 14 + 4;

/// What is known about the transport checksum of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// The field holds a complete checksum, nobody verified it.
    #[default]
    Complete,
    /// The device verified it (virtio-net `DATA_VALID`); the field is complete.
    Verified,
    /// The field holds only the folded pseudo-header sum, *not* complemented; whoever sends the packet
    /// to a wire must sum from `start` and store at `start + offset` (virtio-net `NEEDS_CSUM`).
    Partial {
        /// Where summing starts, from the first byte of the frame.
        start: u16,
        /// Where the field is, from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// Kind of a super-frame that stands for several packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, each segment a datagram (USO).
    Udp,
}

/// A super-frame: the payload is to be cut into pieces of `size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What is segmented.
    pub kind: GsoKind,
    /// Payload bytes of each segment (virtio-net `gso_size`).
    pub size: u16,
    /// Header bytes in front of the payload (virtio-net `hdr_len`); a hint, never trusted.
    pub hdr_len: u16,
    /// The TCP sender used ECN (virtio-net `GSO_ECN`): CWR only on the first segment.
    pub ecn: bool,
}

/// Offload metadata carried with each packet, offsets from the first byte of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the transport checksum.
    pub csum: Csum,
    /// Set on super-frames.
    pub gso: Option<Gso>,
}

impl Offload {
    /// A plain packet with complete checksums.
    pub const NONE: Offload = Offload { csum: Csum::Complete, gso: None };

    /// True unless it names a checksum field that a frame of `len` bytes does not have: what a device says
    /// is not believed, and no other device is told it.
    #[inline]
    pub fn lies_within(&self, len: usize) -> bool {
        match self.csum {
            Csum::Partial { start, offset } => usize::from(start) + usize::from(offset) + 2 <= len,
            Csum::Complete | Csum::Verified => true,
        }
    }

    /// Moves offsets by `by` bytes after bytes were prepended (positive) or removed (negative).
    pub fn shift(&mut self, by: isize) {
        if let Csum::Partial { start, .. } = &mut self.csum {
            *start = start.saturating_add_signed(by as i16);
        }
        if let Some(g) = &mut self.gso {
            g.hdr_len = g.hdr_len.saturating_add_signed(by as i16);
        }
    }
}

/// One packet in borrowed memory, `mem[head..tail]`, with free room on both sides.
#[derive(Debug)]
pub struct PacketBuf<'m> {
    mem: &'m mut [u8],
    head: u32,
    tail: u32,
    /// What the device said, kept in step by the core.
    pub offload: Offload,
}

impl<'m> PacketBuf<'m> {
    /// An empty packet whose first byte will lie at `headroom` (cut to the memory's length).
    pub fn empty(mem: &'m mut [u8], headroom: usize) -> PacketBuf<'m> {
        let head = headroom.min(mem.len()) as u32;
        PacketBuf { mem, head, tail: head, offload: Offload::NONE }
    }
    /// The packet `mem[head..tail]`; bounds are cut to what `mem` has.
    pub fn new(mem: &'m mut [u8], head: usize, tail: usize, offload: Offload) -> PacketBuf<'m> {
        let tail = tail.min(mem.len());
        PacketBuf { head: head.min(tail) as u32, tail: tail as u32, mem, offload }
    }
    /// The frame.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.head as usize..self.tail as usize]
    }
    /// The frame, to be changed in place.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.head as usize..self.tail as usize]
    }
    /// Length of the frame in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }
    /// True when there is no byte.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }
    /// Offset of the first byte in the memory: room for headers to prepend.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head as usize
    }
    /// Bytes free behind the frame.
    pub fn tailroom(&self) -> usize {
        self.mem.len() - self.tail as usize
    }
    /// Everything behind the headroom position: memory to receive into. Follow with [`Self::set_len`].
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.head as usize..]
    }
    /// The whole memory with the position of the frame in it (for device headers in the headroom).
    pub fn parts_mut(&mut self) -> (&mut [u8], usize, usize) {
        (self.mem, self.head as usize, self.tail as usize)
    }
    /// Sets the length of the frame, cut to the memory.
    pub fn set_len(&mut self, len: usize) {
        self.tail = (self.head as usize).saturating_add(len).min(self.mem.len()) as u32;
    }
    /// Makes room for `n` bytes in front and moves the offload offsets; the new bytes hold garbage.
    /// `None` when the headroom is too small; nothing is changed then.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.head as usize {
            return None;
        }
        self.head -= n as u32;
        self.offload.shift(n as isize);
        Some(&mut self.mem[self.head as usize..self.head as usize + n])
    }
    /// Makes room for `n` bytes in front of the first `len` bytes of the frame, and cuts off the rest. For
    /// frames that no device has anything left to do for: the checksums are complete then. `None` when the
    /// headroom is too small; nothing is changed then.
    #[inline(always)]
    pub fn cover(&mut self, n: usize, len: usize) -> Option<&mut [u8]> {
        let (head, tail) = (self.head.checked_sub(n as u32)?, self.tail.min(self.head + len as u32));
        let frame = self.mem.get_mut(head as usize..tail as usize)?;
        (self.head, self.tail) = (head, tail);
        self.offload.csum = Csum::Complete;
        Some(frame)
    }
    /// Removes `n` bytes in front (at most all) and moves the offload offsets.
    #[inline]
    pub fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len());
        self.head += n as u32;
        self.offload.shift(-(n as isize));
    }
    /// Cuts the frame to `len` bytes; longer than the frame changes nothing.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.tail = self.head + len as u32;
        }
    }
    /// Replaces the frame by `bytes` (cut to the room there is), position kept, offload cleared.
    pub fn fill(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.mem.len() - self.head as usize);
        self.mem[self.head as usize..self.head as usize + n].copy_from_slice(&bytes[..n]);
        self.tail = self.head + n as u32;
        self.offload = Offload::NONE;
    }
}

/// A packet that owns its memory: what the core makes itself, and packets that wait for a neighbour.
#[derive(Clone, Debug, Default)]
pub struct OwnedPacket {
    mem: Vec<u8>,
    head: usize,
    tail: usize,
    offload: Offload,
}

impl OwnedPacket {
    /// The packet as the core and the ports see it. Changes of length, position and offload made through
    /// it are kept by [`OwnedPacket::edit`], not by this.
    pub fn view(&mut self) -> PacketBuf<'_> {
        PacketBuf::new(&mut self.mem, self.head, self.tail, self.offload)
    }
    /// Runs `f` on the packet and keeps what it did.
    pub fn edit<R>(&mut self, f: impl FnOnce(&mut PacketBuf<'_>) -> R) -> R {
        let mut view = PacketBuf::new(&mut self.mem, self.head, self.tail, self.offload);
        let result = f(&mut view);
        let (head, tail, offload) = (view.head as usize, view.tail as usize, view.offload);
        (self.head, self.tail, self.offload) = (head, tail, offload);
        result
    }
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.head..self.tail]
    }
    /// Offload metadata.
    pub fn offload(&self) -> Offload {
        self.offload
    }
    /// Makes it a copy of `bytes` with their offload metadata, headroom in front.
    pub fn fill(&mut self, bytes: &[u8], offload: Offload) {
        self.reset(bytes.len());
        self.mem[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        self.offload = offload;
    }
    fn reset(&mut self, len: usize) {
        let need = HEADROOM + len;
        if self.mem.len() < need {
            self.mem.resize(need.next_multiple_of(2048), 0);
        }
        (self.head, self.tail, self.offload) = (HEADROOM, HEADROOM + len, Offload::NONE);
    }
}

/// Packets the core wants sent beside the one it was given, in order, each with its port.
#[derive(Debug, Default)]
pub struct Out {
    queue: std::collections::VecDeque<(PortId, OwnedPacket)>,
    spare: Vec<OwnedPacket>,
}

impl Out {
    /// An empty queue.
    pub fn new() -> Out {
        Out::default()
    }
    /// A packet of `len` bytes (contents undefined, headroom in front) taken from the spare buffers.
    pub fn packet(&mut self, len: usize) -> OwnedPacket {
        let mut p = self.spare.pop().unwrap_or_default();
        p.reset(len);
        p
    }
    /// A copy of `bytes` with its offload metadata.
    pub fn copy_of(&mut self, bytes: &[u8], offload: Offload) -> OwnedPacket {
        let mut p = self.spare.pop().unwrap_or_default();
        p.fill(bytes, offload);
        p
    }
    /// Queues a packet for `port`.
    pub fn push(&mut self, port: PortId, packet: OwnedPacket) {
        self.queue.push_back((port, packet));
    }
    /// Takes the oldest queued packet; give it back with [`Out::recycle`].
    pub fn pop(&mut self) -> Option<(PortId, OwnedPacket)> {
        self.queue.pop_front()
    }
    /// Gives a buffer back for reuse.
    pub fn recycle(&mut self, packet: OwnedPacket) {
        if self.spare.len() < 1024 {
            self.spare.push(packet);
        }
    }
    /// Number of queued packets.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
    /// True when nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepend_moves_partial_checksum_and_refuses_beyond_headroom() {
        let mut mem = vec![0u8; 200];
        let mut p = PacketBuf::empty(&mut mem, 40);
        p.fill(&[1, 2, 3, 4]);
        p.offload.csum = Csum::Partial { start: 34, offset: 16 };
        p.prepend(20).unwrap().fill(9);
        assert_eq!(p.len(), 24);
        assert_eq!(p.offload.csum, Csum::Partial { start: 54, offset: 16 });
        assert!(p.prepend(21).is_none());
        p.trim_front(20);
        assert_eq!(p.bytes(), [1, 2, 3, 4]);
        assert_eq!(p.offload.csum, Csum::Partial { start: 34, offset: 16 });
    }

    #[test]
    fn out_reuses_buffers_and_keeps_order() {
        let mut out = Out::new();
        for i in 0..3u8 {
            let p = out.copy_of(&[i; 60], Offload::NONE);
            out.push(PortId(0), p);
        }
        let (_, first) = out.pop().unwrap();
        assert_eq!(first.bytes(), [0; 60]);
        let ptr = first.bytes().as_ptr();
        out.recycle(first);
        let again = out.copy_of(&[7; 10], Offload::NONE);
        assert_eq!(again.bytes().as_ptr(), ptr);
        assert_eq!(again.bytes(), [7; 10]);
    }

    #[test]
    fn edit_keeps_what_the_closure_did() {
        let mut out = Out::new();
        let mut p = out.copy_of(&[1, 2, 3], Offload::NONE);
        p.edit(|b| b.prepend(2).unwrap().copy_from_slice(&[8, 9]));
        assert_eq!(p.bytes(), [8, 9, 1, 2, 3]);
    }
}
