//! AF_PACKET sockets: options, and bursts by recvmmsg/sendmmsg on arrays made once.

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::addr::Mac;

/// Most packets of one system call.
pub const BATCH: usize = crate::io::BURST;

const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;
/// Room for one control message of auxiliary data, rounded up.
const CONTROL: usize = 64;

/// What the kernel says beside a packet (`struct tpacket_auxdata`), as far as it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aux {
    /// The checksum field is partial (`TP_STATUS_CSUMNOTREADY`).
    pub csum_not_ready: bool,
    /// The checksum was verified (`TP_STATUS_CSUM_VALID`).
    pub csum_valid: bool,
}

/// Opens a raw packet socket that receives nothing before [`bind`]. Non-blocking.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub fn open() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    };
    check(fd)?;
    // SAFETY: `socket` just returned this open descriptor, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds to an interface for all protocols; packets flow from here on.
///
/// # Errors
/// `ENODEV` when there is no such interface. A bind to one that is down succeeds.
pub fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain integers; all zero is a valid value.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as libc::c_ushort;
    addr.sll_protocol = ETH_P_ALL.to_be();
    addr.sll_ifindex = ifindex as libc::c_int;
    // SAFETY: the address is a valid `sockaddr_ll` and its size is given.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&addr).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })
}

fn option<T: Copy>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` points to `size_of::<T>()` readable bytes; the kernel only reads them.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of_val(value) as libc::socklen_t,
        )
    })
}

/// Every packet, both ways, carries a virtio-net header of 10 bytes.
///
/// # Errors
/// `ENOPROTOOPT` or `EINVAL` on kernels that cannot.
pub fn set_vnet(fd: BorrowedFd<'_>) -> io::Result<()> {
    option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)
}

/// The socket does not see what is sent through the interface, its own packets included.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.20.
pub fn ignore_outgoing(fd: BorrowedFd<'_>) -> io::Result<()> {
    option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)
}

/// Asks for [`Aux`] with every packet.
///
/// # Errors
/// What the kernel said.
pub fn set_auxdata(fd: BorrowedFd<'_>) -> io::Result<()> {
    option(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)
}

/// Asks for large socket buffers: beyond the system's limit where permitted, up to it otherwise.
pub fn set_buffers(fd: BorrowedFd<'_>, bytes: i32) {
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if option(fd, libc::SOL_SOCKET, force, &bytes).is_err() {
            // the kernel cuts the value to its limit and does not complain
            let _ = option(fd, libc::SOL_SOCKET, plain, &bytes);
        }
    }
}

/// Makes the interface pass up frames to `mac` although it is not its own, and all multicast; falls back
/// to promiscuous mode. Undone by the kernel when the socket is closed.
///
/// # Errors
/// `ENODEV`, `EPERM`.
pub fn receive_for(fd: BorrowedFd<'_>, ifindex: u32, mac: Mac) -> io::Result<()> {
    let member = |kind: libc::c_int, mac: Option<Mac>| {
        let mut request = libc::packet_mreq {
            mr_ifindex: ifindex as libc::c_int,
            mr_type: kind as libc::c_ushort,
            mr_alen: if mac.is_some() { 6 } else { 0 },
            mr_address: [0; 8],
        };
        request.mr_address[..6].copy_from_slice(&mac.unwrap_or_default().0);
        option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    };
    member(libc::PACKET_MR_UNICAST, Some(mac)).or_else(|_| member(libc::PACKET_MR_PROMISC, None))?;
    member(libc::PACKET_MR_ALLMULTI, None).or_else(|_| member(libc::PACKET_MR_PROMISC, None))
}

/// A socket filter that is to the director what a network card's is to a host: frames to `mac` and to
/// groups, without a VLAN tag (the kernel keeps tags beside the frame, so that a tagged frame would look
/// like an untagged one).
///
/// # Errors
/// `ENOMEM` when the socket's option memory is used up.
pub fn station_filter(fd: BorrowedFd<'_>, mac: Mac) -> io::Result<()> {
    let m = mac.0;
    let high = u32::from_be_bytes([m[0], m[1], m[2], m[3]]);
    let low = u32::from(u16::from_be_bytes([m[4], m[5]]));
    let mut program = [
        op(LD | BYTE | ABS, 0, 0, VLAN_TAG),
        op(AND, 0, 0, 0x0fff),
        op(JEQ, 0, 7, 0), // a VLAN other than 0: drop
        op(LD | BYTE | ABS, 0, 0, 0),
        op(JSET, 4, 0, 1), // a group: take
        op(LD | WORD | ABS, 0, 0, 0),
        op(JEQ, 0, 3, high),
        op(LD | HALF | ABS, 0, 0, 4),
        op(JEQ, 0, 1, low),
        op(RET, 0, 0, ALL),
        op(RET, 0, 0, 0),
    ];
    attach_filter(fd, &mut program)
}

/// A socket filter for ARP and neighbour advertisements to groups, without a VLAN tag.
///
/// # Errors
/// As [`station_filter`].
pub fn announcement_filter(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut program = [
        op(LD | BYTE | ABS, 0, 0, VLAN_TAG),
        op(AND, 0, 0, 0x0fff),
        op(JEQ, 0, 10, 0),
        op(LD | BYTE | ABS, 0, 0, 0),
        op(JSET, 0, 8, 1),
        op(LD | HALF | ABS, 0, 0, 12),
        op(JEQ, 5, 0, 0x0806),
        op(JEQ, 0, 5, 0x86dd),
        op(LD | BYTE | ABS, 0, 0, 14 + 6),
        op(JEQ, 0, 3, 58),
        op(LD | BYTE | ABS, 0, 0, 14 + 40),
        op(JEQ, 0, 1, 136),
        op(RET, 0, 0, ALL),
        op(RET, 0, 0, 0),
    ];
    attach_filter(fd, &mut program)
}

// Classic BPF, linux/bpf_common.h
const LD: u32 = 0x00;
const WORD: u32 = 0x00;
const HALF: u32 = 0x08;
const BYTE: u32 = 0x10;
const ABS: u32 = 0x20;
const AND: u32 = 0x54;
const JEQ: u32 = 0x15;
const JSET: u32 = 0x45;
const RET: u32 = 0x06;
const VLAN_TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;
/// More than any frame has.
const ALL: u32 = 0x0004_0000;

fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn attach_filter(fd: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // the kernel copies the program during the call
    option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// A socket filter that takes nothing, until another one takes its place.
///
/// # Errors
/// What the kernel said.
pub fn refuse_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    attach(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &[Op { code: 0x06, jt: 0, jf: 0, k: 0 }])
}

/// An instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// And when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

fn attach(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, program: &[Op]) -> io::Result<()> {
    let op = |o: &Op| libc::sock_filter { code: o.code, jt: o.jt, jf: o.jf, k: o.k };
    let mut program: Vec<libc::sock_filter> = program.iter().map(op).collect();
    let filter = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // the kernel copies the program during the call
    option(fd, level, name, &filter)
}

// linux/if_packet.h
const FANOUT_DATA: libc::c_int = 22;
const FANOUT_CBPF: u32 = 6;
const FANOUT_UNIQUE_ID: u32 = 0x2000;

/// Joins the fanout group `id` of sockets steered by a program, or makes one of its own; gives its id.
/// Until [`fanout_program`] everything goes to the first socket.
///
/// # Errors
/// `EINVAL` when the socket is not bound, its interface is down, or the group is of another one.
pub fn join_fanout(fd: BorrowedFd<'_>, id: Option<u16>) -> io::Result<u16> {
    let flags = if id.is_some() { FANOUT_CBPF } else { FANOUT_CBPF | FANOUT_UNIQUE_ID };
    option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &(u32::from(id.unwrap_or(0)) | flags << 16))?;
    let mut joined = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `joined` is `len` writable bytes, and `len` says so.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            std::ptr::from_mut(&mut joined).cast(),
            &mut len,
        )
    })?;
    Ok(joined as u16)
}

/// Sets the program of the fanout group a socket is in: it gives the number of the socket in the group.
///
/// # Errors
/// `EINVAL` for a program the kernel does not take.
pub fn fanout_program(fd: BorrowedFd<'_>, program: &[Op]) -> io::Result<()> {
    attach(fd, libc::SOL_PACKET, FANOUT_DATA, program)
}

/// Packets received and dropped for lack of buffer since the last call.
///
/// # Errors
/// What the kernel said.
pub fn statistics(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `stats` is `len` writable bytes of plain integers, and `len` says so.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut stats).cast(),
            &mut len,
        )
    })?;
    Ok((stats.tp_packets, stats.tp_drops))
}

/// The arrays of recvmmsg and sendmmsg, made once: per packet only a pointer and a length are written.
pub struct Batch {
    msgs: Box<[libc::mmsghdr]>,
    iov: Box<[libc::iovec]>,
    control: Box<[[u64; CONTROL / 8]]>,
}

// SAFETY: the pointers inside lead to the boxes of the same value (made in `new`), or to packet memory
// that is only used during the call that set them.
unsafe impl Send for Batch {}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Arrays for [`BATCH`] packets.
    pub fn new() -> Batch {
        let iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut iov = vec![iov; BATCH].into_boxed_slice();
        let msgs = iov
            .iter_mut()
            .map(|v| {
                // SAFETY: `mmsghdr` is pointers and integers; all zero is a valid value.
                let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
                m.msg_hdr.msg_iov = std::ptr::from_mut(v);
                m.msg_hdr.msg_iovlen = 1;
                m
            })
            .collect();
        Batch { msgs, iov, control: vec![[0; CONTROL / 8]; BATCH].into_boxed_slice() }
    }

    /// Receives up to `max` packets: packet `i` goes to `mem[i * slot + offset..(i + 1) * slot]`. With
    /// `aux` the socket must have [`set_auxdata`].
    ///
    /// # Errors
    /// What recvmmsg said when no packet could be had, `EAGAIN` included.
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        mem: &mut [u8],
        slot: usize,
        offset: usize,
        max: usize,
        aux: bool,
    ) -> io::Result<usize> {
        if slot == 0 {
            return Ok(0);
        }
        let mut n = 0;
        for piece in mem.chunks_exact_mut(slot).take(max.min(BATCH)) {
            let Some(room) = piece.get_mut(offset..) else { break };
            self.iov[n] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut self.msgs[n].msg_hdr;
            if aux {
                header.msg_control = self.control[n].as_mut_ptr().cast();
                header.msg_controllen = CONTROL as _;
            } else {
                header.msg_control = std::ptr::null_mut();
                header.msg_controllen = 0;
            }
            n += 1;
        }
        if n == 0 {
            return Ok(0);
        }
        // SAFETY: the first `n` headers each point to one iovec of `self.iov` and, with `aux`, to
        // `CONTROL` bytes of `self.control`; the first `n` iovecs point into `mem`, which is borrowed
        // mutably during the call and cut into disjoint pieces. A null timeout is allowed.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.msgs.as_mut_ptr(),
                n as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        check(got)?;
        Ok(got as usize)
    }

    /// Length of packet `i` of the last [`Batch::receive`]; `None` when it did not fit its slot.
    pub fn len(&self, i: usize) -> Option<usize> {
        let m = self.msgs.get(i)?;
        (m.msg_hdr.msg_flags & libc::MSG_TRUNC == 0).then_some(m.msg_len as usize)
    }

    /// What was said beside packet `i` of the last [`Batch::receive`] with `aux`.
    pub fn aux(&self, i: usize) -> Option<Aux> {
        let header = &self.msgs.get(i)?.msg_hdr;
        // SAFETY: after `receive` with `aux` the header's control pointer leads to the `CONTROL` aligned
        // bytes of `self.control[i]`, of which the kernel filled `msg_controllen`; without, it is null and
        // CMSG_FIRSTHDR answers null.
        let first = unsafe { libc::CMSG_FIRSTHDR(header) };
        if first.is_null() {
            return None;
        }
        // SAFETY: CMSG_FIRSTHDR is not null, so a whole `cmsghdr` lies in the control bytes.
        let (level, kind, len) = unsafe { ((*first).cmsg_level, (*first).cmsg_type, (*first).cmsg_len) };
        // SAFETY: CMSG_LEN only computes.
        let need = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as libc::c_uint) };
        if level != libc::SOL_PACKET || kind != libc::PACKET_AUXDATA || len < need as _ {
            return None;
        }
        // SAFETY: the message is at least as long as `tpacket_auxdata`; read without assuming alignment.
        let data =
            unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>()) };
        Some(Aux {
            csum_not_ready: data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0,
            csum_valid: data.tp_status & libc::TP_STATUS_CSUM_VALID != 0,
        })
    }

    /// Sends packets in order, at most [`BATCH`]; says how many were taken. The first that is refused
    /// ends the call: when it is the very first its error is returned.
    ///
    /// # Errors
    /// What sendmmsg said of the first packet.
    pub fn send<'p>(
        &mut self,
        fd: BorrowedFd<'_>,
        packets: impl Iterator<Item = &'p [u8]>,
    ) -> io::Result<usize> {
        let mut n = 0;
        for (packet, iov) in packets.zip(self.iov.iter_mut()) {
            *iov = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
            let header = &mut self.msgs[n].msg_hdr;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            n += 1;
        }
        if n == 0 {
            return Ok(0);
        }
        // SAFETY: the first `n` headers each point to one iovec of `self.iov`, which points to a packet
        // borrowed for `'p`, which outlives this call; the kernel only reads what iovecs of a send lead to.
        let sent = unsafe {
            libc::sendmmsg(fd.as_raw_fd(), self.msgs.as_mut_ptr(), n as libc::c_uint, libc::MSG_DONTWAIT as _)
        };
        check(sent)?;
        Ok(sent as usize)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
