//! A wire in memory: two ports, what one sends the other receives, offload metadata included.
//!
//! For tests and benches. The other end may be another worker's port or be worked by hand with
//! [`MemPort::push`] and [`MemPort::pop`].

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::broken;
use super::{Burst, Port, PortError, PortInfo, SendReport, SlotIter, room};
use crate::buf::{HEADROOM, Offload, PacketBuf};

/// A packet on the wire.
type Packet = (Vec<u8>, Offload);

#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<Packet>,
    /// Emptied packets, to be used again.
    spare: Vec<Vec<u8>>,
    /// The end that reads from here is cut off.
    cut: bool,
}

/// One end of a wire.
#[derive(Debug)]
pub struct MemPort {
    info: PortInfo,
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    /// Readable while something is queued for us.
    bell: UnixStream,
    /// Rings at the other end.
    far_bell: UnixStream,
    capacity: usize,
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    // a queue is whole at every step: a panic elsewhere does no harm to it
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemPort {
    /// A wire between two ports that holds `capacity` packets in each direction.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn pair(a: PortInfo, b: PortInfo, capacity: usize) -> io::Result<(MemPort, MemPort)> {
        let (bell_a, far_a) = UnixStream::pair()?;
        let (bell_b, far_b) = UnixStream::pair()?;
        for s in [&bell_a, &far_a, &bell_b, &far_b] {
            s.set_nonblocking(true)?;
        }
        let (to_a, to_b) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
        let end = |info, incoming: &Arc<_>, outgoing: &Arc<_>, bell, far_bell| MemPort {
            info,
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            bell,
            far_bell,
            capacity,
        };
        Ok((end(a, &to_a, &to_b, bell_a, far_b), end(b, &to_b, &to_a, bell_b, far_a)))
    }

    /// Puts a packet on the wire by hand; false when the wire is full.
    pub fn push(&mut self, frame: &[u8], offload: Offload) -> bool {
        let first = {
            let mut pipe = lock(&self.outgoing);
            if pipe.queue.len() >= self.capacity {
                return false;
            }
            let mut bytes = pipe.spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(frame);
            pipe.queue.push_back((bytes, offload));
            pipe.queue.len() == 1
        };
        if first {
            // a full doorbell rings as well
            let _ = self.far_bell.write(&[1]);
        }
        true
    }

    /// Takes a packet off the wire by hand.
    pub fn pop(&mut self) -> Option<Packet> {
        lock(&self.incoming).queue.pop_front()
    }

    /// Cuts this end off (receiving and sending fail as on a link that is down) or joins it again.
    pub fn cut(&mut self, cut: bool) {
        lock(&self.incoming).cut = cut;
        let _ = (&self.far_bell).write(&[1]);
    }

    /// A switch for [`MemPort::cut`] that works while the port belongs to a worker.
    pub fn cutter(&self) -> impl Fn(bool) + Send + use<> {
        let pipe = Arc::clone(&self.incoming);
        move |cut| lock(&pipe).cut = cut
    }

    fn is_cut(&self) -> bool {
        lock(&self.incoming).cut
    }
}

impl Port for MemPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        let mut pipe = lock(&self.incoming);
        if pipe.cut {
            return Err(broken(libc::ENETDOWN));
        }
        while room(slots, burst) > 0 {
            let Some((bytes, offload)) = pipe.queue.pop_front() else {
                // empty under the lock: the next packet rings again
                let mut sink = [0; 16];
                while self.bell.read(&mut sink).is_ok_and(|n| n == sink.len()) {}
                break;
            };
            // room said there is one
            let Some(slot) = slots.next() else { break };
            let mut packet = PacketBuf::empty(slot, HEADROOM);
            packet.fill(&bytes);
            packet.offload = offload;
            burst.push(packet);
            if pipe.spare.len() < self.capacity {
                pipe.spare.push(bytes);
            }
        }
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        if self.is_cut() {
            return Err(broken(libc::ENETDOWN));
        }
        for packet in packets {
            if self.push(packet.bytes(), packet.offload) {
                report.sent += 1;
            } else {
                report.full += 1;
            }
        }
        Ok(())
    }
    fn reopen(&mut self) -> io::Result<()> {
        if self.is_cut() { Err(io::Error::from_raw_os_error(libc::ENETDOWN)) } else { Ok(()) }
    }
}

/// What a [`MemPort`] of these properties says of itself, MAC `mac`, MTU 1500.
pub fn info(name: &str, mac: crate::addr::Mac, offload: crate::host::OffloadCaps) -> PortInfo {
    PortInfo {
        name: name.to_owned(),
        link: crate::wire::Link::Ethernet,
        device_mac: None,
        mac: Some(mac),
        mtu: 1500,
        offload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use crate::buf::Csum;
    use crate::host::OffloadCaps;
    use crate::io::Slots;

    fn pair(capacity: usize) -> (MemPort, MemPort) {
        let side = |n| info(n, Mac::default(), OffloadCaps::default());
        MemPort::pair(side("a"), side("b"), capacity).unwrap()
    }
    fn rings(p: &MemPort) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(p.fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn packets_arrive_in_order_with_their_offload_and_the_bell_rings_while_there_are_some() {
        let (mut a, mut b) = pair(8);
        assert!(!rings(&b));
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 6 }, gso: None };
        assert!(a.push(&[1; 60], Offload::NONE) && a.push(&[2; 60], offload));
        assert!(rings(&b));
        let mut slots = Slots::new(1, 2048);
        for (first, want) in [(1, Offload::NONE), (2, offload)] {
            let mut burst = Burst::new();
            b.recv_burst(&mut slots.iter(), &mut burst).unwrap();
            assert_eq!((burst.len(), burst[0].bytes()[0], burst[0].offload), (1, first, want));
        }
        assert!(rings(&b), "not read to the end yet");
        let mut burst = Burst::new();
        b.recv_burst(&mut slots.iter(), &mut burst).unwrap();
        assert!(burst.is_empty() && !rings(&b));
    }

    #[test]
    fn full_wire_and_cut_wire_are_told_apart() {
        let (mut a, mut b) = pair(1);
        let mut mem = vec![0; 300];
        let mut p = PacketBuf::empty(&mut mem, HEADROOM);
        p.fill(&[7; 60]);
        let mut report = SendReport::default();
        a.send_burst(&mut [&mut p], &mut report).unwrap();
        a.send_burst(&mut [&mut p], &mut report).unwrap();
        assert_eq!(report, SendReport { sent: 1, full: 1, refused: 0 });
        b.cut(true);
        assert!(matches!(
            b.recv_burst(&mut Slots::new(1, 100).iter(), &mut Burst::new()),
            Err(PortError::Down(_))
        ));
        assert!(b.reopen().is_err());
        b.cut(false);
        assert!(b.reopen().is_ok());
        assert_eq!(b.pop().unwrap().0, [7; 60]);
    }
}
