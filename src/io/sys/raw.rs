//! Raw sockets for the edges of the director's world: whole packets of one IP protocol (the real server's
//! unwrapping) and whole frames of any interface (the lab's capture, the injection of unwrapped packets).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is a live c_int of the size given, only read.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives into `buf` with the sender's address; the length may exceed `buf` when `MSG_TRUNC` cut it.
fn recv_from(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, libc::sockaddr_storage)> {
    // SAFETY: sockaddr_storage is plain data for which all zeroes is a valid value.
    let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: buffer, address and length are live and of the sizes given.
    let n = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            0,
            (&raw mut from).cast(),
            &raw mut len,
        )
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok((n as usize, from)) }
}

/// A raw IP socket: packets of one protocol that are addressed to this host, reassembled by the kernel.
/// While it is open the kernel does not answer them with "protocol unreachable".
#[derive(Debug)]
pub struct RawIp {
    fd: OwnedFd,
    v4: bool,
}

impl RawIp {
    /// Listens for an IP protocol over IPv4 or IPv6.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`; IPv6 switched off.
    pub fn open(v4: bool, protocol: u8) -> io::Result<RawIp> {
        let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
        let fd = socket(family, libc::SOCK_RAW, protocol.into())?;
        // Best effort: the default holds a few hundred packets.
        let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
        Ok(RawIp { fd, v4 })
    }

    /// What follows the outer IP header in what was received; `None` when that is too short to be a packet.
    pub fn payload<'b>(&self, received: &'b mut [u8]) -> Option<&'b mut [u8]> {
        // raw(7): over IPv4 the packet includes its IP header, over IPv6 it does not.
        let skip = if self.v4 { usize::from(received.first()? & 15) * 4 } else { 0 };
        received.get_mut(skip..).filter(|p| !p.is_empty())
    }
}

impl AsFd for RawIp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes of a frame that a capture keeps.
pub const HEAD: usize = 512;

/// Cuts frames to their first bytes before they are queued: a 64 KiB super-frame would else use up the
/// receive buffer of a hundred small ones.
fn keep_heads(fd: BorrowedFd<'_>) -> io::Result<()> {
    // BPF_RET | BPF_K: accept so many bytes.
    let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: HEAD as u32 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the one instruction that the live struct points to.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A packet socket that sees the frames of interfaces. Never blocks.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
}

impl Capture {
    /// Captures what *arrives* at every interface of the calling thread's namespace.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`.
    pub fn arrivals() -> io::Result<Capture> {
        let c = Capture::open()?;
        set_int(c.fd.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        bind(c.fd.as_fd(), 0)?;
        Ok(c)
    }

    /// Captures what arrives at and what leaves by one interface of the calling thread's namespace.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`, or no such interface.
    pub fn of(ifindex: u32) -> io::Result<Capture> {
        let c = Capture::open()?;
        bind(c.fd.as_fd(), ifindex)?;
        Ok(c)
    }

    /// Protocol 0 receives nothing; binding switches the socket on when its options are set.
    fn open() -> io::Result<Capture> {
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 16 << 20);
        let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        keep_heads(fd.as_fd())?;
        Ok(Capture { fd })
    }

    /// Takes the next frame: index of the interface where it arrived and its first bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, or the socket's error.
    pub fn recv<'b>(&self, buf: &'b mut [u8]) -> io::Result<(u32, &'b [u8])> {
        let (n, from) = recv_from(self.fd.as_fd(), buf)?;
        // SAFETY: packet sockets fill in a sockaddr_ll; sockaddr_storage is larger and aligned for it.
        let ll = unsafe { &*(&raw const from).cast::<libc::sockaddr_ll>() };
        let n = n.min(buf.len());
        Ok((ll.sll_ifindex as u32, &buf[..n]))
    }

    /// Frames lost since the last call because the reader was too slow.
    pub fn lost(&self) -> u32 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the struct is live and of the size given; the kernel writes at most that much.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if done < 0 { 0 } else { stats.tp_drops }
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A packet socket that only sends, on one interface.
#[derive(Debug)]
pub struct Injector {
    fd: OwnedFd,
}

impl Injector {
    /// Sends on the interface with this index.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`, or no such interface.
    pub fn open(ifindex: u32) -> io::Result<Injector> {
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        let address = link_address(ifindex, 0);
        bind_to(fd.as_fd(), &address)?;
        Ok(Injector { fd })
    }

    /// Sends a frame, Ethernet header first.
    ///
    /// # Errors
    /// The device refuses it (too long, down, queue full).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.fd.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty())?;
        Ok(())
    }
}

fn link_address(ifindex: u32, protocol: i32) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut a: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    a.sll_family = libc::AF_PACKET as u16;
    a.sll_protocol = (protocol as u16).to_be();
    a.sll_ifindex = ifindex as i32;
    a
}

fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    bind_to(fd, &link_address(ifindex, libc::ETH_P_ALL))
}

fn bind_to(fd: BorrowedFd<'_>, address: &libc::sockaddr_ll) -> io::Result<()> {
    // SAFETY: the address is live and of the size given, only read.
    let done = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const *address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets a UDP socket over IPv6 receive datagrams without checksum (RFC 6935, tunnels).
///
/// # Errors
/// It is no IPv6 UDP socket.
pub fn accept_zero_checksum6(fd: BorrowedFd<'_>) -> io::Result<()> {
    // linux/udp.h: UDP_NO_CHECK6_RX
    set_int(fd, libc::SOL_UDP, 102, 1)
}
