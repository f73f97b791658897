//! AF_XDP sockets: frame memory, the four rings, binding, and the calls that wake the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::bpf::Map;
use super::ring::{Consumer, Desc, Layout, Producer, Region};

/// The rings of a socket.
#[derive(Debug)]
pub struct Rings {
    /// Empty frames for the kernel to receive into.
    pub fill: Producer<u64>,
    /// Packets received.
    pub rx: Consumer<Desc>,
    /// Packets to send.
    pub tx: Producer<Desc>,
    /// Frames that were sent.
    pub completion: Consumer<u64>,
}

/// Numbers of descriptors, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Fill ring.
    pub fill: u32,
    /// Receive ring.
    pub rx: u32,
    /// Send ring.
    pub tx: u32,
    /// Completion ring.
    pub completion: u32,
}

/// What the kernel counted (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets dropped: too long for a frame, and the like.
    pub dropped: u64,
    /// Packets dropped because the receive ring was full.
    pub ring_full: u64,
    /// Packets dropped because there was no empty frame.
    pub no_frame: u64,
    /// Descriptors that were refused.
    pub invalid: u64,
}

/// A socket that is not bound yet, or is.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` on kernels without AF_XDP.
    pub fn open() -> io::Result<Socket> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: `socket` just returned this open descriptor, nobody else has it.
        Ok(Socket { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Gives the kernel the memory for frames of `chunk` bytes (2048 or 4096) each.
    ///
    /// # Errors
    /// `ENOBUFS` beyond RLIMIT_MEMLOCK.
    pub fn register(&self, memory: &Region, chunk: u32) -> io::Result<()> {
        let registration = libc::xdp_umem_reg_v1 {
            addr: memory.address(),
            len: memory.len() as u64,
            chunk_size: chunk,
            headroom: 0,
        };
        // The kernel holds on to the pages by itself: they outlive the mapping if need be.
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
    }

    /// Makes the rings.
    ///
    /// # Errors
    /// No memory.
    pub fn rings(&self, sizes: Sizes) -> io::Result<Rings> {
        for (option, size) in
            [(libc::XDP_UMEM_FILL_RING, sizes.fill), (libc::XDP_UMEM_COMPLETION_RING, sizes.completion)]
        {
            self.set(libc::SOL_XDP, option, &size)?;
        }
        let rx = self.receive_ring(sizes.rx)?;
        self.set(libc::SOL_XDP, libc::XDP_TX_RING, &sizes.tx)?;
        let at = self.offsets()?;
        let (desc, address) = (size_of::<Desc>(), size_of::<u64>());
        let (fill, fill_at) = self.map(&at.fr, libc::XDP_UMEM_PGOFF_FILL_RING, sizes.fill, address)?;
        let (done, done_at) =
            self.map(&at.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING, sizes.completion, address)?;
        let (tx, tx_at) = self.map(&at.tx, libc::XDP_PGOFF_TX_RING as u64, sizes.tx, desc)?;
        Ok(Rings {
            fill: Producer::new(fill, fill_at, sizes.fill)?,
            rx,
            tx: Producer::new(tx, tx_at, sizes.tx)?,
            completion: Consumer::new(done, done_at, sizes.completion)?,
        })
    }

    /// Makes a receive ring.
    ///
    /// # Errors
    /// No memory.
    pub fn receive_ring(&self, size: u32) -> io::Result<Consumer<Desc>> {
        self.set(libc::SOL_XDP, libc::XDP_RX_RING, &size)?;
        let at = self.offsets()?;
        let (rx, rx_at) = self.map(&at.rx, libc::XDP_PGOFF_RX_RING as u64, size, size_of::<Desc>())?;
        Consumer::new(rx, rx_at, size)
    }

    fn offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        // SAFETY: plain integers; all zero is a valid value.
        let mut at: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        self.get(libc::XDP_MMAP_OFFSETS, &mut at)?;
        Ok(at)
    }

    /// A ring's memory, and where its parts are.
    fn map(
        &self,
        of: &libc::xdp_ring_offset,
        page: u64,
        size: u32,
        item: usize,
    ) -> io::Result<(Arc<Region>, Layout)> {
        let at = Layout { producer: of.producer, consumer: of.consumer, flags: of.flags, items: of.desc };
        let len = of.desc as usize + size as usize * item;
        Ok((Arc::new(Region::of(self.fd.as_raw_fd(), page as i64, len)?), at))
    }

    /// Binds to a queue of an interface; packets flow from here on. `flags` are those of `sockaddr_xdp`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the driver cannot do what the flags say, `EBUSY` when the queue has a socket.
    pub fn bind(&self, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
        self.bind_to(ifindex, queue, flags, 0)
    }

    /// Binds to the queue that another socket is bound to, to share its frames, fill ring and completion ring.
    ///
    /// # Errors
    /// `EBADF`: the other one is not bound; `EINVAL`: this one has frames of its own.
    pub fn bind_beside(&self, ifindex: u32, queue: u32, other: &Socket) -> io::Result<()> {
        self.bind_to(ifindex, queue, libc::XDP_SHARED_UMEM, other.fd.as_raw_fd() as u32)
    }

    fn bind_to(&self, ifindex: u32, queue: u32, flags: u16, shared: u32) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: shared,
        };
        // SAFETY: the address is live and of the size given, only read.
        check(unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        })
    }

    /// Puts the socket into an XSKMAP under this number.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn enter(&self, map: &Map, place: u32) -> io::Result<()> {
        map.set(&place.to_ne_bytes(), &self.fd.as_raw_fd().to_ne_bytes())
    }

    /// Asks the kernel to poll the driver for this socket for so many microseconds, rather than wait for
    /// interrupts.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN for more than the system's own setting; kernels before 5.11.
    pub fn busy_poll(&self, microseconds: i32, budget: i32) -> io::Result<()> {
        // asm-generic/socket.h: SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_BUSY_POLL_BUDGET
        for (option, value) in [(69, 1), (46, microseconds), (70, budget)] {
            self.set(libc::SOL_SOCKET, option, &value)?;
        }
        Ok(())
    }

    /// Lets the kernel send what is in the send ring (a few dozen packets at most in copy mode).
    ///
    /// # Errors
    /// `EAGAIN`, `EBUSY`, `ENOBUFS`: later; `ENETDOWN`, `ENXIO`: the interface is down or gone.
    pub fn wake_tx(&self) -> io::Result<()> {
        // SAFETY: no memory is passed.
        let done = unsafe {
            libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
        };
        check(done as libc::c_int)
    }

    /// Lets the kernel receive; says when the interface is down or gone.
    ///
    /// # Errors
    /// `ENETDOWN`, `ENXIO`.
    pub fn wake_rx(&self) -> io::Result<()> {
        // SAFETY: no memory is passed.
        let done = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        check(done as libc::c_int)
    }

    /// Whether frames go to and from the device without a copy.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn is_zero_copy(&self) -> io::Result<bool> {
        let mut options = libc::xdp_options { flags: 0 };
        self.get(libc::XDP_OPTIONS, &mut options)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// What was lost.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: plain integers; all zero is a valid value.
        let mut s: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        self.get(libc::XDP_STATISTICS, &mut s)?;
        Ok(Statistics {
            dropped: s.rx_dropped,
            ring_full: s.rx_ring_full,
            no_frame: s.rx_fill_ring_empty_descs,
            invalid: s.rx_invalid_descs + s.tx_invalid_descs,
        })
    }

    fn set<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` points to `size_of::<T>()` readable bytes; the kernel only reads them.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })
    }

    fn get<T: Copy>(&self, option: libc::c_int, value: &mut T) -> io::Result<()> {
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is plain integers of `len` bytes; the kernel writes at most so many.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_XDP,
                option,
                std::ptr::from_mut(value).cast(),
                &raw mut len,
            )
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One descriptor that is readable when one of several is.
#[derive(Debug)]
pub struct AnyOf(OwnedFd);

impl AnyOf {
    /// Readiness of all of these; each leaves by being closed.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new<'f>(all: impl IntoIterator<Item = BorrowedFd<'f>>) -> io::Result<AnyOf> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: just made, nobody else has it.
        let any = AnyOf(unsafe { OwnedFd::from_raw_fd(fd) });
        for one in all {
            any.add(one)?;
        }
        Ok(any)
    }

    /// One more.
    ///
    /// # Errors
    /// Out of memory.
    pub fn add(&self, one: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open during the call, the event is live and only read.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, one.as_raw_fd(), &raw mut event)
        })
    }
}

impl AsFd for AnyOf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
