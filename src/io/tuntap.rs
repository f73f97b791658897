//! What TAP and TUN ports have in common: attaching, the offload header, reading and writing.
//!
//! With `offload = auto` or `on` the device is opened by our own ioctls, because the offload header and
//! further queues need flags `tun-tap` does not expose; the plain device (`off`, or a kernel that
//! refuses the header) is opened by `tun-tap`. Both give the same queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::error::{Meaning, broken, meaning};
use super::sys::{link, tuntap as sys};
use super::{BURST_BYTES, Burst, OffloadMode, OpenError, PortError, SendReport, SlotIter, fit, room, vnet};
use crate::addr::Mac;
use crate::buf::{HEADROOM, Offload, PacketBuf};
use crate::engine::steer::Outline;
use crate::host::OffloadCaps;
use crate::wire::Link;

mod siblings;

pub use super::sys::tuntap::Kind;
use siblings::Siblings;

/// Masks for the device, best first: kernels before 6.2 know no UDP super-frames.
const MASKS: [u32; 3] = [
    sys::F_CSUM | sys::F_TSO4 | sys::F_TSO6 | sys::F_ECN | sys::F_USO,
    sys::F_CSUM | sys::F_TSO4 | sys::F_TSO6 | sys::F_ECN,
    sys::F_CSUM,
];

/// What is wanted of a TUN or TAP device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// TAP or TUN.
    pub kind: Kind,
    /// Device name; `%d` is replaced by the first free number.
    pub name: String,
    /// MTU to set, in bytes; `None` leaves what is there.
    pub mtu: Option<u32>,
    /// 64 KiB packets and partial checksums.
    pub offload: OffloadMode,
    /// Attach as one of several queues.
    pub multi_queue: bool,
}

/// One attached queue.
#[derive(Debug)]
pub(super) struct Queue {
    wish: Wish,
    fd: OwnedFd,
    vnet: bool,
    uso: bool,
    /// The device was there before us: wait for it when it goes, do not make another.
    found: bool,
    name: String,
    siblings: Siblings,
    /// Its number among them: the worker it belongs to.
    number: u16,
}

impl Queue {
    /// Attaches to the device, or makes it; brings it up and sets its MTU.
    pub(super) fn open(wish: &Wish) -> Result<Queue, OpenError> {
        Queue::join(wish, &Siblings::default(), 0)
    }

    fn join(wish: &Wish, siblings: &Siblings, number: u16) -> Result<Queue, OpenError> {
        let what = || format!("cannot open {} device {}", word(wish.kind), wish.name);
        link::check_name(&wish.name).map_err(|e| OpenError::plain(what(), &e))?;
        let found = link::index(&wish.name).is_ok();
        let (fd, vnet) = attach(wish).map_err(|e| explain(wish, what(), &e))?;
        let at = sys::attached(fd.as_fd()).map_err(|e| OpenError::plain(what(), &e))?;
        siblings.join(fd.as_fd(), &at.name, number).map_err(|e| OpenError::plain(what(), &e))?;
        let (siblings, wish) = (siblings.clone(), wish.clone());
        let mut queue = Queue { wish, fd, vnet, uso: false, found, name: at.name, siblings, number };
        queue.prepare().map_err(|e| OpenError { what: what(), ..e })?;
        Ok(queue)
    }

    fn prepare(&mut self) -> Result<(), OpenError> {
        let name = &self.name;
        if self.vnet {
            let header = sys::set_header_len(self.fd.as_fd(), vnet::LEN);
            header.map_err(|e| OpenError::plain("", &e))?;
            let wanted = self.wish.offload != OffloadMode::Off;
            let taken = MASKS.iter().find(|m| wanted && sys::set_offload(self.fd.as_fd(), **m).is_ok());
            if taken.is_none() {
                // the mask is the device's and may be left from an earlier user; ignoring a kernel that
                // takes no mask at all is right, it then has none either
                let _ = sys::set_offload(self.fd.as_fd(), 0);
            }
            self.uso = taken.is_some_and(|m| m & sys::F_USO != 0);
        }
        if let Some(mtu) = self.wish.mtu
            && link::mtu(name).is_ok_and(|now| now != mtu)
        {
            link::set_mtu(name, mtu).map_err(|e| {
                let help = format!("leave `mtu` out, or `ip link set {name} mtu {mtu}` as root");
                OpenError::new("", format!("its MTU cannot be set to {mtu}: {e}"), help)
            })?;
        }
        if !link::is_up(name).unwrap_or(false) {
            link::set_up(name, true).map_err(|e| {
                OpenError::new("", format!("it is down: {e}"), format!("`ip link set {name} up` as root"))
            })?;
        }
        Ok(())
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let attached = sys::attached(self.fd.as_fd()).is_ok_and(|a| a.name == self.name);
        if attached {
            // set down by somebody: it is theirs to set up again
            return if link::is_up(&self.name)? { Ok(()) } else { Err(Errno::ENETDOWN.into()) };
        }
        if self.found {
            link::index(&self.name)?;
        }
        let wish = Wish { name: self.name.clone(), ..self.wish.clone() };
        let found = self.found;
        let again = Queue::join(&wish, &self.siblings, self.number);
        *self = again.map_err(|e| io::Error::other(e.to_string()))?;
        self.found = found;
        Ok(())
    }

    /// One more queue of the device.
    pub(super) fn another(&self) -> Result<Queue, OpenError> {
        let wish = Wish { name: self.name.clone(), multi_queue: true, ..self.wish.clone() };
        let mut queue = Queue::join(&wish, &self.siblings, self.siblings.next_queue())?;
        queue.found = self.found;
        Ok(queue)
    }

    /// Has the kernel give packets to the queue of the worker they belong to.
    pub(super) fn steer(&self, outline: &Outline) {
        self.siblings.steer(self.fd.as_fd(), &self.name, outline);
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    pub(super) fn caps(&self) -> OffloadCaps {
        // what the kernel takes from us does not depend on the mask, that only limits what it gives
        OffloadCaps { csum: self.vnet, tso: self.vnet, uso: self.vnet && self.uso, tunnel: false }
    }
    pub(super) fn mtu(&self) -> u32 {
        link::mtu(&self.name).unwrap_or(1500)
    }
    pub(super) fn device_mac(&self) -> Option<Mac> {
        link::mac(&self.name).ok().flatten()
    }

    pub(super) fn recv<'m>(
        &mut self,
        slots: &mut SlotIter<'m>,
        burst: &mut Burst<'m>,
    ) -> Result<(), PortError> {
        let header = if self.vnet { vnet::LEN } else { 0 };
        let mut bytes = 0;
        while room(slots, burst) > 0 && bytes < BURST_BYTES {
            let (mem, size) = slots.peek();
            let at = HEADROOM - header;
            match nix::unistd::read(&self.fd, &mut mem[at..size]) {
                Ok(n) if n > header => {
                    // peek showed this slot
                    let Some(slot) = slots.next() else { break };
                    let mut offload = Offload::NONE;
                    if self.vnet
                        && let Some(h) = slot[at..].first_chunk()
                    {
                        offload = vnet::decode(h);
                    }
                    burst.push(PacketBuf::new(slot, HEADROOM, at + n, offload));
                    bytes += n;
                }
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(_) => {}
                Err(e) => match meaning(e as i32) {
                    Meaning::Again => {}
                    Meaning::Later | Meaning::Unsuitable => break,
                    Meaning::Down | Meaning::Gone => return Err(broken(e as i32)),
                },
            }
        }
        Ok(())
    }

    pub(super) fn send(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        link: Link,
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        for packet in packets {
            let Some(bytes) = framed(packet, self.vnet, link) else {
                report.refused += 1;
                continue;
            };
            loop {
                match nix::unistd::write(&self.fd, bytes) {
                    Ok(_) => report.sent += 1,
                    Err(e) => match meaning(e as i32) {
                        Meaning::Again => continue,
                        Meaning::Later => report.full += 1,
                        Meaning::Unsuitable => report.refused += 1,
                        Meaning::Down | Meaning::Gone => return Err(broken(e as i32)),
                    },
                }
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.siblings.leave(self.fd.as_fd());
    }
}

/// The packet with its virtio-net header written in front of it where there is one; `None` when the
/// device could not take it.
#[inline]
pub(super) fn framed<'a>(packet: &'a mut PacketBuf<'_>, vnet: bool, link: Link) -> Option<&'a [u8]> {
    let offload = packet.offload;
    if !vnet {
        let plain = offload.gso.is_none() && !matches!(offload.csum, crate::buf::Csum::Partial { .. });
        return plain.then(|| packet.bytes());
    }
    let header = fit::vnet_header(packet.bytes(), &offload, link)?;
    let (mem, head, tail) = packet.parts_mut();
    let at = head.checked_sub(vnet::LEN)?;
    mem[at..head].copy_from_slice(&header);
    Some(&mem[at..tail])
}

/// Attaches in the best way the wish and the kernel allow; says whether packets carry the header.
fn attach(wish: &Wish) -> io::Result<(OwnedFd, bool)> {
    let own = |vnet: bool, multi: bool| -> io::Result<(OwnedFd, bool)> {
        let fd = sys::attach(&wish.name, wish.kind, vnet, multi)?;
        // read back: the header is a property of the device, another queue may have set it
        let vnet = sys::attached(fd.as_fd())?.vnet;
        if !vnet {
            sys::set_offload(fd.as_fd(), 0)?;
        }
        Ok((fd, vnet))
    };
    let invalid = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
    if wish.offload != OffloadMode::Off {
        let with_header = own(true, wish.multi_queue).or_else(|e| {
            // an existing device with several queues wants the flag
            if invalid(&e) && !wish.multi_queue { own(true, true) } else { Err(e) }
        });
        match with_header {
            Err(e) if invalid(&e) && wish.offload == OffloadMode::Auto => {}
            other => return other,
        }
    }
    if wish.multi_queue {
        return own(false, true);
    }
    match sys::attach_plain(&wish.name, wish.kind) {
        Ok(fd) => Ok((fd, false)),
        Err(e) if invalid(&e) => own(false, true).map_err(|_| e),
        Err(e) => Err(e),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Tap => "TAP",
        Kind::Tun => "TUN",
    }
}

fn explain(wish: &Wish, what: String, e: &io::Error) -> OpenError {
    let name = &wish.name;
    let lower = word(wish.kind).to_lowercase();
    let control = std::fs::OpenOptions::new().read(true).write(true).open(sys::CONTROL);
    let (why, help) = match (control.err().and_then(|e| e.raw_os_error()), e.raw_os_error()) {
        (Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _) => (
            format!("{} is not there", sys::CONTROL),
            "`modprobe tun` as root; in a container pass it on (`--device /dev/net/tun`); or use a raw port (`--packet IFACE`)"
                .to_owned(),
        ),
        (Some(libc::EACCES | libc::EPERM), _) => (
            format!("no access to {}", sys::CONTROL),
            format!("`chmod 0666 {}` as root, or use a raw port (`--packet IFACE`)", sys::CONTROL),
        ),
        (_, Some(libc::EPERM | libc::EACCES)) => (
            "CAP_NET_ADMIN is missing in this network namespace".to_owned(),
            format!("run as root or in `unshare -Urn`, or let root make the device for you: `ip tuntap add dev {name} mode {lower} user $USER`"),
        ),
        (_, Some(libc::EBUSY)) => (
            "another process has it".to_owned(),
            format!("stop that process (`ip tuntap list` shows it), or make the device with `ip tuntap add dev {name} mode {lower} multi_queue`"),
        ),
        (_, Some(libc::EINVAL)) => (
            format!("an interface {name} of another kind or with other flags exists"),
            if wish.multi_queue {
                format!("with several workers it has to be made with `ip tuntap add dev {name} mode {lower} multi_queue`; or choose another name, or workers = 1")
            } else {
                format!("choose another name, or delete it: `ip link delete {name}`")
            },
        ),
        _ => return OpenError::plain(what, e),
    };
    OpenError::new(what, why, help)
}
