//! `bpf(2)`: maps, programs, links and test runs, without libbpf.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::io::ebpf::asm::Insn;

// linux/bpf.h: enum bpf_cmd
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_INFO: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

const PROG_TYPE_SOCKET_FILTER: u32 = 1;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
/// `BPF_F_XDP_HAS_FRAGS`: the program may be given packets in several pieces (Linux 5.18).
const HAS_FRAGS: u32 = 1 << 5;
/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;

/// Kinds of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Any key to any value.
    Hash = 1,
    /// Number (host order) to value; all are there from the beginning, zero.
    Array = 2,
    /// Longest prefix; a key is the prefix length (host order) and the bytes.
    Lpm = 11,
    /// Queue number to AF_XDP socket.
    Xsk = 17,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().take(15).zip(text.bytes()) {
        *to = from;
    }
    name
}

/// Calls `bpf(2)`. Private: every caller passes the struct of its command.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live and of the size given; which pointers in it the kernel follows, and how far, is
    // up to the callers in this file, each of which lets them lead to live memory of the sizes it says.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command was one that returns a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

impl Map {
    /// Makes a map of `entries` entries.
    ///
    /// # Errors
    /// `EPERM` without the privilege, `ENOSYS`, `EINVAL` for a kind the kernel lacks.
    pub fn create(kind: MapKind, key: usize, value: usize, entries: u32, text: &str) -> io::Result<Map> {
        #[repr(C)]
        struct Attr {
            kind: u32,
            key: u32,
            value: u32,
            entries: u32,
            flags: u32,
            inner: u32,
            node: u32,
            name: [u8; 16],
        }
        let flags = match kind {
            MapKind::Hash | MapKind::Lpm => NO_PREALLOC,
            MapKind::Array | MapKind::Xsk => 0,
        };
        let mut attr = Attr {
            kind: kind as u32,
            key: key as u32,
            value: value as u32,
            entries,
            flags,
            inner: 0,
            node: 0,
            name: name(text),
        };
        Ok(Map { fd: bpf_fd(MAP_CREATE, &mut attr)?, key, value })
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// `E2BIG` when the map is full, `EINVAL` for a key or value of another size.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.value {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.entry(MAP_UPDATE, key, value.as_ptr() as u64)
    }

    /// Removes an entry; one that is not there is as good as removed.
    ///
    /// # Errors
    /// `EINVAL` for a key of another size.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        match self.entry(MAP_DELETE, key, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn entry(&self, command: libc::c_int, key: &[u8], value: u64) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            fd: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        // key and value are as long as the map's, checked by the callers, and live during the call
        let fd = self.fd.as_raw_fd() as u32;
        bpf(command, &mut Attr { fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 }).map(|_| ())
    }

    /// The number to name it by in a program.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames as the driver has them; `frags` says that it may be given packets in several pieces.
    Xdp {
        /// See there.
        frags: bool,
    },
    /// Packets as the kernel's stack has them, before anything else of the stack (tcx, Linux 6.6).
    Ingress,
    /// Packets on their way to a socket, or to a queue of a TAP or TUN device; it may read them, not more.
    Filter,
    /// Packets that leave, behind everything else of the stack (tcx, Linux 6.6).
    Egress,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads a program.
    ///
    /// # Errors
    /// `EPERM` without the privilege; what the verifier said for a program it does not like.
    pub fn load(program: &[Insn], kind: Kind, text: &str) -> io::Result<Program> {
        match load(program, kind, text, None) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                let mut log = vec![0u8; 256 * 1024];
                match load(program, kind, text, Some(&mut log)) {
                    Ok(p) => Ok(p),
                    Err(again) => {
                        let said = log.split(|b| *b == 0).next().unwrap_or_default();
                        let said = String::from_utf8_lossy(said);
                        let last: Vec<&str> = said.lines().rev().take(3).collect();
                        if last.is_empty() {
                            return Err(again);
                        }
                        let said = last.into_iter().rev().collect::<Vec<_>>().join("; ");
                        Err(io::Error::new(again.kind(), format!("{again}: {said}")))
                    }
                }
            }
            other => other,
        }
    }

    /// Runs the program on a frame (at least 14 bytes): its verdict.
    ///
    /// # Errors
    /// The frame is too short or too long for the kernel.
    pub fn test_run(&self, frame: &[u8]) -> io::Result<u32> {
        #[repr(C)]
        struct Attr {
            fd: u32,
            retval: u32,
            size_in: u32,
            size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
        }
        let mut out = vec![0u8; frame.len() + 512];
        let mut attr = Attr {
            fd: self.0.as_raw_fd() as u32,
            retval: 0,
            size_in: frame.len() as u32,
            size_out: out.len() as u32,
            // the kernel reads `size_in` and writes at most `size_out` bytes
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat: 1,
            duration: 0,
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        Ok(attr.retval)
    }
}

fn load(program: &[Insn], kind: Kind, text: &str, log: Option<&mut [u8]>) -> io::Result<Program> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach: u32,
    }
    let bytes: Vec<[u8; 8]> = program.iter().map(|i| i.bytes()).collect();
    let (log_level, log_size, log) = match log {
        Some(log) => (1, log.len() as u32, log.as_mut_ptr() as u64),
        None => (0, 0, 0),
    };
    let (kind, attach, flags) = match kind {
        Kind::Xdp { frags } => (PROG_TYPE_XDP, ATTACH_XDP, if frags { HAS_FRAGS } else { 0 }),
        Kind::Ingress => (PROG_TYPE_SCHED_CLS, ATTACH_TCX_INGRESS, 0),
        Kind::Filter => (PROG_TYPE_SOCKET_FILTER, 0, 0),
        Kind::Egress => (PROG_TYPE_SCHED_CLS, ATTACH_TCX_EGRESS, 0),
    };
    let mut attr = Attr {
        kind,
        count: bytes.len() as u32,
        // the kernel reads `count` instructions and the text up to its zero, and writes `log_size` bytes
        insns: bytes.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level,
        log_size,
        log,
        kernel: 0,
        flags,
        name: name(text),
        ifindex: 0,
        attach,
    };
    Ok(Program(bpf_fd(PROG_LOAD, &mut attr)?))
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// In the driver, before the kernel has made anything of the frame.
    Native,
    /// At the entrance of the kernel's stack, for drivers without XDP.
    Generic,
}

/// A program on an interface. The kernel detaches it when the descriptor is closed, a crash included.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Attaches an XDP program.
    ///
    /// # Errors
    /// `EBUSY`, `EEXIST`: there is another one; `EOPNOTSUPP`: not this way on this interface; `EPERM`.
    pub fn attach(program: &Program, ifindex: u32, how: Attach) -> io::Result<Link> {
        // linux/if_link.h: XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
        Link::create(program, ifindex, ATTACH_XDP, if how == Attach::Native { 4 } else { 2 })
    }

    /// Attaches a program to what an interface receives, behind those that are there.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; `ENODEV`; `EPERM`.
    pub fn attach_ingress(program: &Program, ifindex: u32) -> io::Result<Link> {
        Link::create(program, ifindex, ATTACH_TCX_INGRESS, 0)
    }

    /// Attaches a program to what an interface sends, behind those that are there.
    ///
    /// # Errors
    /// As [`Link::attach_ingress`].
    pub fn attach_egress(program: &Program, ifindex: u32) -> io::Result<Link> {
        Link::create(program, ifindex, ATTACH_TCX_EGRESS, 0)
    }

    fn create(program: &Program, ifindex: u32, kind: u32, flags: u32) -> io::Result<Link> {
        /// As far as everybody's goes; what a shorter struct does not say is zero.
        #[repr(C)]
        struct Attr {
            program: u32,
            ifindex: u32,
            kind: u32,
            flags: u32,
        }
        let program = program.0.as_raw_fd() as u32;
        Ok(Link(bpf_fd(LINK_CREATE, &mut Attr { program, ifindex, kind, flags })?))
    }

    /// Puts another program in the place of the one that is there; no packet meets none.
    ///
    /// # Errors
    /// The interface has gone, somebody took the program off.
    pub fn replace(&self, program: &Program) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            link: u32,
            program: u32,
            flags: u32,
            old: u32,
        }
        let (link, program) = (self.0.as_raw_fd() as u32, program.0.as_raw_fd() as u32);
        bpf(LINK_UPDATE, &mut Attr { link, program, flags: 0, old: 0 }).map(|_| ())
    }

    /// The interface the program is on; `None` when that has gone or somebody took the program off.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn interface(&self) -> io::Result<Option<u32>> {
        /// `struct bpf_link_info`, as far as XDP's goes.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            pad: u32,
            ifindex: u32,
            rest: [u32; 27],
        }
        #[repr(C)]
        struct Attr {
            fd: u32,
            len: u32,
            info: u64,
        }
        let mut info = Info::default();
        let mut attr = Attr {
            fd: self.0.as_raw_fd() as u32,
            len: size_of::<Info>() as u32,
            // the kernel writes at most `len` bytes
            info: (&raw mut info) as u64,
        };
        bpf(OBJ_INFO, &mut attr)?;
        Ok((info.ifindex != 0).then_some(info.ifindex))
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
