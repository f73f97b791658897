//! What the kernel and the director both have to hear: neighbours that announce themselves to everybody.
//!
//! XDP cannot give one frame to two. ARP and neighbour advertisements to groups that are not about an address of
//! the director are passed on, because the host needs them; a packet socket behind the program gives the
//! director its copy, so that it follows a gateway or real server that has moved as a raw port does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::buf::{HEADROOM, Offload, PacketBuf};
use crate::io::sys::packet;
use crate::io::{BURST, Burst, SlotIter, room};

/// The socket.
pub struct Ear {
    fd: OwnedFd,
    batch: packet::Batch,
}

impl Ear {
    /// Listens on an interface.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub fn open(ifindex: u32) -> io::Result<Ear> {
        let fd = packet::open()?;
        packet::ignore_outgoing(fd.as_fd())?;
        packet::announcement_filter(fd.as_fd())?;
        packet::bind(fd.as_fd(), ifindex)?;
        Ok(Ear { fd, batch: packet::Batch::new() })
    }

    /// Receives what was announced. An interface in trouble is noticed by the queues.
    pub fn receive<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) {
        let want = room(slots, burst).min(BURST);
        let (mem, size) = slots.peek();
        let got = self.batch.receive(self.fd.as_fd(), mem, size, HEADROOM, want, false).unwrap_or(0);
        for i in 0..got {
            let Some(slot) = slots.next() else { break };
            let Some(len) = self.batch.len(i) else { continue };
            burst.push(PacketBuf::new(slot, HEADROOM, HEADROOM + len, Offload::NONE));
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
