//! The AF_XDP socket that a queue of an interface belongs to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::frames::{self, Census, Frames, SIZES};
use super::inbox::Source;
use crate::buf::Offload;
use crate::io::error::{Meaning, broken, meaning};
use crate::io::sys::bpf::Attach;
use crate::io::sys::packet;
use crate::io::sys::ring::Region;
use crate::io::sys::xsk::{Sizes, Socket, Statistics};
use crate::io::{BURST, Burst, PortError, SlotIter};

/// Calls for sending that move nothing before the rest is left for later.
const PATIENCE: u32 = 64;
/// Bytes of packets that may be on their way at once, in copy mode.
const BUFFER: i32 = 16 << 20;
/// Bytes that the kernel keeps in front of a received packet (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;

/// How a socket is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The program is attached like this.
    pub attach: Attach,
    /// The program takes packets in pieces.
    pub frags: bool,
    /// Longest frame of the interface.
    pub frame: u32,
    /// Busy polling, in microseconds.
    pub busy_poll: Option<u32>,
    /// Packets that may wait to be fetched, a power of two.
    pub waiting: u32,
}

/// The step at which opening failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The socket itself.
    Socket,
    /// Frame memory.
    Memory,
    /// Binding to the queue.
    Bind,
    /// Busy polling.
    BusyPoll,
    /// Entering it into the program's map.
    Enter,
}

/// A socket on a queue.
pub struct Queue {
    number: u32,
    chunk: u32,
    socket: Arc<Socket>,
    frames: Frames,
    zero_copy: bool,
    pieces: bool,
    busy: bool,
}

impl Queue {
    /// Opens a socket and binds it; nothing arrives before it stands in the program's map.
    ///
    /// # Errors
    /// The step, and what the kernel said.
    pub fn open(ifindex: u32, queue: u32, o: &Options) -> Result<Queue, (Step, io::Error)> {
        let at = |step| move |e| (step, e);
        let socket = Socket::open().map_err(at(Step::Socket))?;
        let chunk = if o.frame + KERNEL_HEADROOM <= 2048 { 2048 } else { 4096 };
        let memory: Arc<Region> = Arc::new(frames::memory(chunk).map_err(at(Step::Memory))?);
        socket.register(&memory, chunk).map_err(at(Step::Memory))?;
        let rings = socket.rings(Sizes { rx: o.waiting, ..SIZES }).map_err(at(Step::Memory))?;
        let pieces = bind(&socket, ifindex, queue, o, chunk).map_err(at(Step::Bind))?;
        if let Some(us) = o.busy_poll {
            socket.busy_poll(us.min(1_000_000) as i32, BURST as i32).map_err(at(Step::BusyPoll))?;
        }
        // as many packets as there are frames may be on their way to a slow receiver
        packet::set_buffers(socket.as_fd(), BUFFER);
        let zero_copy = socket.is_zero_copy().unwrap_or(false);
        let frames = Frames::new(memory, rings, chunk).map_err(at(Step::Memory))?;
        let (socket, busy) = (Arc::new(socket), o.busy_poll.is_some());
        Ok(Queue { number: queue, chunk, socket, frames, zero_copy, pieces, busy })
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }
    /// What others receive from too.
    pub fn source(&self) -> &Source {
        self.frames.inbox.source()
    }
    /// Descriptor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
    /// The driver and the director share the frames.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }
    /// A packet of this length can be sent: in one frame, or in pieces where the kernel takes them.
    #[inline]
    pub fn carries(&self, len: usize) -> bool {
        len <= self.chunk as usize || self.pieces
    }
    /// Its number on the interface.
    pub fn number(&self) -> u32 {
        self.number
    }
    /// Where the frames are.
    pub fn census(&self) -> Census {
        self.frames.census()
    }
    /// What the kernel lost.
    pub fn statistics(&self) -> Statistics {
        self.socket.statistics().unwrap_or_default()
    }

    /// Receives what is there.
    ///
    /// # Errors
    /// The interface is down or gone, noticed when the kernel has to be called; see [`Queue::call`].
    pub fn receive<'m>(
        &mut self,
        slots: &mut SlotIter<'m>,
        burst: &mut Burst<'m>,
        bytes: &mut usize,
        what: impl Fn(&[u8]) -> Offload,
    ) -> Result<(), PortError> {
        self.frames.reap();
        if self.frames.unsent() > 0 {
            self.transmit()?;
        }
        if self.busy && self.frames.inbox.waiting() == 0 {
            self.call()?;
        }
        self.frames.inbox.receive(slots, burst, bytes, what);
        if self.frames.inbox.wants_call() { self.call() } else { Ok(()) }
    }

    /// Lets the kernel look for packets.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn call(&self) -> Result<(), PortError> {
        call(&self.socket)
    }

    /// Puts a packet into the send ring; false when there is no room. Follow with [`Queue::transmit`].
    #[inline]
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        if self.frames.push(packet) {
            return true;
        }
        // let the kernel send what is there and take its frames back
        if self.transmit().is_err() {
            return false;
        }
        self.frames.push(packet)
    }

    /// Pieces the kernel has not taken.
    pub fn unsent(&self) -> u32 {
        self.frames.unsent()
    }

    /// Has the kernel send what was pushed. In copy mode it sends while it is called; what its device does
    /// not take stays in the ring for the next call.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn transmit(&mut self) -> Result<(), PortError> {
        self.frames.publish();
        let mut idle = 0;
        loop {
            let before = self.frames.unsent();
            if before == 0 || self.zero_copy && !self.frames.tx_wants_call() {
                break;
            }
            if let Err(e) = self.socket.wake_tx() {
                failed(&e)?;
            }
            if self.zero_copy {
                break;
            }
            idle = if self.frames.unsent() < before { 0 } else { idle + 1 };
            if idle > PATIENCE {
                break;
            }
        }
        self.frames.reap();
        Ok(())
    }
}

/// Lets the kernel look for packets of this socket's queue.
///
/// # Errors
/// The interface is down or gone.
pub fn call(socket: &Socket) -> Result<(), PortError> {
    match socket.wake_rx() {
        Ok(()) => Ok(()),
        Err(e) => failed(&e),
    }
}

fn failed(e: &io::Error) -> Result<(), PortError> {
    let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
    match meaning(errno) {
        Meaning::Down | Meaning::Gone => Err(broken(errno)),
        // EAGAIN, ENOBUFS, EBUSY: the device has no room at the moment
        Meaning::Later | Meaning::Again | Meaning::Unsuitable => Ok(()),
    }
}

/// Binds in the best way that works: zero-copy where the driver can (only under a native program, and for frames
/// that lie in one piece), else by copying, with packets in pieces where the kernel knows that (Linux 6.6). Says
/// whether packets may come in pieces.
fn bind(socket: &Socket, ifindex: u32, queue: u32, o: &Options, chunk: u32) -> io::Result<bool> {
    let wake = libc::XDP_USE_NEED_WAKEUP;
    let mut ways = Vec::new();
    if o.attach == Attach::Native && o.frame + KERNEL_HEADROOM <= chunk {
        ways.push((libc::XDP_ZEROCOPY | wake, false));
    }
    if o.frags {
        ways.push((libc::XDP_COPY | wake | libc::XDP_USE_SG, true));
    }
    ways.push((libc::XDP_COPY | wake, false));
    let mut last = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    for (flags, pieces) in ways {
        match socket.bind(ifindex, queue, flags) {
            Ok(()) => return Ok(pieces),
            // no other way would help either
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EPERM | libc::ENODEV)) => {
                return Err(e);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}
