//! TUN/TAP devices by their own ioctls: what the `tun-tap` crate cannot set (offload header, queues).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::link;

/// The control device.
pub const CONTROL: &str = "/dev/net/tun";

/// Checksums may be partial.
pub const F_CSUM: u32 = 0x01;
/// TCP over IPv4 super-frames.
pub const F_TSO4: u32 = 0x02;
/// TCP over IPv6 super-frames.
pub const F_TSO6: u32 = 0x04;
/// Super-frames of ECN senders.
pub const F_ECN: u32 = 0x08;
/// UDP super-frames; the kernel wants both families or none.
pub const F_USO: u32 = 0x60;

/// TAP or TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

/// What a queue was attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The name the kernel gave (a `%d` is filled in).
    pub name: String,
    /// Every packet carries a virtio-net header. It is a property of the device, not of the queue.
    pub vnet: bool,
    /// The device takes several queues.
    pub multi_queue: bool,
}

/// Opens the control device and attaches to `name`, making the device when there is none. Non-blocking.
///
/// # Errors
/// `EACCES`/`ENOENT` on the control device, `EPERM` without CAP_NET_ADMIN, `EBUSY` when somebody else
/// has the device, `EINVAL` when it exists with other flags or another kind.
pub fn attach(name: &str, kind: Kind, vnet: bool, multi_queue: bool) -> io::Result<OwnedFd> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CONTROL)?;
    let mut req = link::request(name)?;
    let mut flags = libc::IFF_NO_PI
        | match kind {
            Kind::Tap => libc::IFF_TAP,
            Kind::Tun => libc::IFF_TUN,
        };
    if vnet {
        flags |= libc::IFF_VNET_HDR;
    }
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    let fd = OwnedFd::from(control);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `req` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_mut(&mut req)) })?;
    Ok(fd)
}

/// What `fd` is really attached to; never trust what was asked for.
///
/// # Errors
/// `EBADFD` when it is attached to nothing.
pub fn attached(fd: BorrowedFd<'_>) -> io::Result<Attached> {
    // SAFETY: `ifreq` is plain integers, characters and pointers; all zero is a valid value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which `req` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, std::ptr::from_mut(&mut req)) })?;
    // SAFETY: TUNGETIFF has written this member of the union.
    let flags = i32::from(unsafe { req.ifr_ifru.ifru_flags });
    let name = req.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
    Ok(Attached {
        name,
        vnet: flags & libc::IFF_VNET_HDR != 0,
        multi_queue: flags & libc::IFF_MULTI_QUEUE != 0,
    })
}

/// Sets the length of the virtio-net header in bytes.
///
/// # Errors
/// `EINVAL` for a length the kernel does not know.
pub fn set_header_len(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let len = len as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one `int` at the address of `len`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, std::ptr::from_ref(&len)) })
}

/// Says which packets the reader takes (`F_*`); the mask belongs to the device and outlives the queue.
///
/// # Errors
/// `EINVAL` for bits the kernel does not know.
pub fn set_offload(fd: BorrowedFd<'_>, mask: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(mask)) })
}

/// Makes the device stay when its last queue is closed, or go with it.
///
/// # Errors
/// `EBADFD` when attached to nothing.
pub fn set_persistent(fd: BorrowedFd<'_>, stay: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST as _, libc::c_ulong::from(stay)) })
}

/// Has a program name the queue of each packet for a device, by its place in the order of attachment; `None` leaves
/// it to the kernel again. It belongs to the device, not to the queue.
///
/// # Errors
/// `EINVAL` before Linux 4.16 or for a program of another kind, `EBADFD` when attached to nothing.
pub fn set_steering(fd: BorrowedFd<'_>, program: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let program = program.map_or(-1, |p| p.as_raw_fd());
    let at = std::ptr::from_ref(&program);
    // SAFETY: TUNSETSTEERINGEBPF reads one `int` at the address it is given; the kernel keeps the program itself.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETSTEERINGEBPF as _, at) })
}

/// Opens a plain device with the `tun-tap` crate: no offload header, one queue. Non-blocking.
///
/// # Errors
/// As [`attach`]; `EINVAL` also for a device with several queues. `EOPNOTSUPP` when the device carries an
/// offload header all the same (another queue of it has set one).
pub fn attach_plain(name: &str, kind: Kind) -> io::Result<OwnedFd> {
    // the crate would cut a long name and attach to another device
    link::request(name)?;
    let mode = match kind {
        Kind::Tap => tun_tap::Mode::Tap,
        Kind::Tun => tun_tap::Mode::Tun,
    };
    let iface = tun_tap::Iface::without_packet_info(name, mode)?;
    // SAFETY: `into_raw_fd` gives up an open descriptor that nobody else closes.
    let fd = unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) };
    if attached(fd.as_fd())?.vnet {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    // a persistent device remembers the mask of its last user: without the header that would be the end
    // of TCP, segments would arrive with checksums nobody completes
    set_offload(fd.as_fd(), 0)?;
    set_nonblocking(fd.as_fd())?;
    Ok(fd)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
