//! Raw port: an AF_PACKET socket on an existing interface.
//!
//! Packets come and go in batches with a virtio-net header each, so that super-frames and partial
//! checksums pass whole. Where the kernel has no such header, or offload is off, the checksum state is
//! taken from auxiliary data and the rest from the packet itself, and the worker segments and completes.
//!
//! A socket filter takes the place of a network card's: frames to the director's own MAC and to groups,
//! no VLAN tags. The kernel's own stack sees the same frames, see [`super::guard`](crate::io).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;

use super::error::{Meaning, broken, meaning};
use super::fanout::Fanout;
use super::outer::{Outers, Side};
use super::sys::{link, packet as sys};
use super::tuntap::framed;
use super::{
    BURST, BURST_BYTES, Burst, Losses, MacChoice, OffloadMode, OpenError, Port, PortError, PortInfo,
    SendReport, SlotIter, fit, mac, room, vnet,
};
use crate::addr::Mac;
use crate::buf::{HEADROOM, Offload, PacketBuf};
use crate::engine::steer::Outline;
use crate::host::OffloadCaps;
use crate::wire::Link;

/// Socket buffers asked for, in bytes: room for a burst of super-frames from several senders.
const BUFFER: i32 = 16 << 20;

/// What is wanted of a raw port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketConfig {
    /// Existing interface.
    pub interface: String,
    /// The director's MAC.
    pub mac: MacChoice,
    /// 64 KiB packets and partial checksums.
    pub offload: OffloadMode,
    /// The group it shares the interface with, when there are several queues.
    pub fanout: Option<Fanout>,
    /// Number of this queue in the group.
    pub queue: u16,
}

/// A raw socket bound to an interface.
pub struct PacketPort {
    config: PacketConfig,
    fd: OwnedFd,
    batch: sys::Batch,
    /// Frames asked for in one call.
    at_once: usize,
    /// Packets lost for lack of socket buffer so far.
    lost: u64,
    /// Packets the kernel could not hand over so far.
    unsuitable: u64,
    vnet: bool,
    /// For super-frames in tunnels, where the kernel helps with them.
    outers: Option<Outers>,
    info: PortInfo,
}

/// Average length from which frames are super-frames, and how many of those to ask for at once.
const LARGE: usize = 4096;
const FEW: usize = 4;

impl PacketPort {
    /// Opens a socket on an interface.
    ///
    /// # Errors
    /// [`OpenError`] with the remedy: no such interface, no Ethernet, no privilege, kernel too old.
    pub fn open(config: &PacketConfig) -> Result<PacketPort, OpenError> {
        let name = &config.interface;
        let what = || format!("cannot open a raw port on {name}");
        let plain = |e: io::Error| OpenError::plain(what(), &e);
        let no_device = |e: io::Error| {
            let help = "`ip link` lists the interfaces of this network namespace";
            OpenError::new(what(), e.to_string(), help)
        };
        link::check_name(name).map_err(plain)?;
        link::index(name).map_err(no_device)?;
        let Some(device) = link::mac(name).map_err(no_device)? else {
            return Err(OpenError::new(
                what(),
                "it is not an Ethernet interface",
                "choose an Ethernet, veth, macvlan or bridge interface; for an IP link use a TUN port (`--tun NAME`)",
            ));
        };
        let mac = mac::for_packet(name, config.mac, device)?;
        let (fd, vnet) = socket(config, mac).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::new(
                what(),
                "CAP_NET_RAW is missing in this network namespace",
                "run as root or in `unshare -Urn`, or `setcap cap_net_raw+ep` on the program",
            ),
            Some(libc::ENOPROTOOPT) => {
                OpenError::new(what(), "the kernel is too old", "Linux 4.20 or later; or use a TAP port")
            }
            _ => plain(e),
        })?;
        if config.offload == OffloadMode::On && !vnet {
            return Err(super::tap::no_offload(name));
        }
        let mut info = info(name, device, mac, vnet);
        let outers = Outers::load(&mut info, Side::Egress);
        Ok(PacketPort {
            config: config.clone(),
            fd,
            batch: sys::Batch::new(),
            at_once: BURST,
            lost: 0,
            unsuitable: 0,
            vnet,
            outers,
            info,
        })
    }

    /// Packets seen and packets lost for lack of socket buffer since the last call.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn kernel_statistics(&self) -> io::Result<(u32, u32)> {
        sys::statistics(self.fd.as_fd())
    }
}

fn info(name: &str, device: Mac, mac: Mac, vnet: bool) -> PortInfo {
    PortInfo {
        name: name.to_owned(),
        link: Link::Ethernet,
        device_mac: Some(device),
        mac: Some(mac),
        mtu: link::mtu(name).unwrap_or(1500),
        offload: OffloadCaps { csum: vnet, tso: vnet, uso: vnet, tunnel: false },
    }
}

/// A socket with all options, bound last so that nothing arrives before the filter is in place.
fn socket(config: &PacketConfig, mac: Mac) -> io::Result<(OwnedFd, bool)> {
    let ifindex = link::index(&config.interface)?;
    configure(sys::open()?, config, mac, ifindex)
}

/// Sets all options of a fresh socket.
fn configure(socket: OwnedFd, config: &PacketConfig, mac: Mac, ifindex: u32) -> io::Result<(OwnedFd, bool)> {
    let fd = socket.as_fd();
    sys::ignore_outgoing(fd)?;
    let vnet = config.offload != OffloadMode::Off && sys::set_vnet(fd).is_ok();
    if !vnet {
        sys::set_auxdata(fd)?;
    }
    sys::set_buffers(fd, BUFFER);
    match &config.fanout {
        // only a bound socket can join a group, and until then it would get what is the others'
        Some(fanout) => {
            sys::refuse_all(fd)?;
            sys::receive_for(fd, ifindex, mac)?;
            sys::bind(fd, ifindex)?;
            fanout.join(fd, ifindex, config.queue)?;
            sys::station_filter(fd, mac)?;
        }
        None => {
            sys::station_filter(fd, mac)?;
            sys::receive_for(fd, ifindex, mac)?;
            sys::bind(fd, ifindex)?;
        }
    }
    Ok((socket, vnet))
}

impl Port for PacketPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        let header = if self.vnet { vnet::LEN } else { 0 };
        let at = HEADROOM - header;
        let mut bytes = 0;
        loop {
            let want = room(slots, burst).min(self.at_once);
            if want == 0 || bytes >= BURST_BYTES {
                return Ok(());
            }
            let (mem, size) = slots.peek();
            let got = match self.batch.receive(self.fd.as_fd(), mem, size, at, want, !self.vnet) {
                Ok(got) => got,
                Err(e) => match e.raw_os_error().map_or(Meaning::Unsuitable, meaning) {
                    Meaning::Again => continue,
                    Meaning::Later => return Ok(()),
                    // gone: no virtio-net header can say what it is, such as a super-frame of SCTP
                    Meaning::Unsuitable => {
                        self.unsuitable += 1;
                        return Ok(());
                    }
                    Meaning::Down | Meaning::Gone => return Err(broken(e.raw_os_error().unwrap_or(0))),
                },
            };
            let before = bytes;
            for i in 0..got {
                // receive filled as many slots as there are
                let Some(slot) = slots.next() else { break };
                let Some(len) = self.batch.len(i).filter(|len| *len > header) else {
                    self.unsuitable += 1;
                    continue;
                };
                let end = at + len;
                let offload = if self.vnet {
                    slot[at..].first_chunk().map_or(Offload::NONE, vnet::decode)
                } else {
                    let aux = self.batch.aux(i).unwrap_or_default();
                    let frame = slot.get(HEADROOM..end).unwrap_or_default();
                    let (partial, valid) = (aux.csum_not_ready, aux.csum_valid);
                    fit::guess(frame, Link::Ethernet, partial, valid, self.info.mtu)
                };
                burst.push(PacketBuf::new(slot, HEADROOM, end, offload));
                bytes += len;
            }
            // one call cannot be told to stop at a number of bytes: few frames where they are large
            self.at_once = if bytes - before > got * LARGE { FEW } else { BURST };
            if got < want {
                return Ok(());
            }
        }
    }

    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        if let Some(outers) = &mut self.outers {
            outers.mark_all(packets);
            self.info.offload.tunnel = outers.works();
        }
        for chunk in packets.chunks_mut(BURST) {
            let mut frames = ArrayVec::<&[u8], BURST>::new();
            for packet in chunk {
                match framed(packet, self.vnet, Link::Ethernet) {
                    Some(frame) => frames.push(frame),
                    None => report.refused += 1,
                }
            }
            let mut rest = frames.as_slice();
            while !rest.is_empty() {
                match self.batch.send(self.fd.as_fd(), rest.iter().copied()) {
                    Ok(sent) => {
                        report.sent += sent;
                        rest = &rest[sent.min(rest.len())..];
                    }
                    Err(e) => {
                        let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
                        match meaning(errno) {
                            Meaning::Again => {}
                            Meaning::Later if errno == libc::EAGAIN => {
                                // the socket's memory is used up, the others would not get any either
                                report.full += rest.len();
                                rest = &[];
                            }
                            Meaning::Later => {
                                report.full += 1;
                                rest = &rest[1..];
                            }
                            Meaning::Unsuitable => {
                                report.refused += 1;
                                rest = &rest[1..];
                            }
                            Meaning::Down | Meaning::Gone => return Err(broken(errno)),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn another(&self) -> Result<Option<Box<dyn Port>>, OpenError> {
        let Some(fanout) = &self.config.fanout else { return Ok(None) };
        let queue = fanout.next_queue();
        Ok(Some(Box::new(PacketPort::open(&PacketConfig { queue, ..self.config.clone() })?)))
    }

    fn steer(&mut self, outline: &Outline) {
        if let Some(fanout) = &self.config.fanout
            && let Err(error) = fanout.steer(self.fd.as_fd(), outline)
        {
            tracing::debug!(port = %self.info.name, %error, "the kernel does not steer, packets are handed over");
        }
    }

    fn losses(&mut self) -> Losses {
        // the kernel begins anew with every question
        let lost = self.kernel_statistics().map_or(0, |(_, lost)| lost);
        self.lost += u64::from(lost);
        if let Some(outers) = &mut self.outers {
            outers.look();
        }
        Losses { full: self.lost, unsuitable: self.unsuitable, ..Losses::default() }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let name = &self.config.interface;
        let device =
            link::mac(name)?.ok_or_else(|| io::Error::other("it is no Ethernet interface any more"))?;
        if !link::is_up(name)? {
            return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
        }
        // the director keeps its MAC even when an interface it was inherited from came back with another
        let mac = self.info.mac.unwrap_or(device);
        if self.config.fanout.is_some() {
            // its place in the group of an interface that is gone keeps the others from a new one
            self.fd = sys::open()?;
        }
        let (fd, vnet) = socket(&self.config, mac)?;
        self.fd = fd;
        self.vnet = vnet;
        self.info = info(name, device, mac, vnet);
        self.outers = Outers::load(&mut self.info, Side::Egress);
        Ok(())
    }
}
