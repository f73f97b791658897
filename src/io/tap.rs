//! TAP port: Ethernet frames of a virtual interface, of which the director is the other end.

use std::io;
use std::os::fd::BorrowedFd;

use super::outer::{Outers, Side};
use super::tuntap::{Kind, Queue, Wish};
use super::{
    Burst, Losses, MacChoice, OffloadMode, OpenError, Port, PortError, PortInfo, SendReport, SlotIter, mac,
};
use crate::addr::Mac;
use crate::buf::PacketBuf;
use crate::engine::steer::Outline;
use crate::wire::Link;

/// What is wanted of a TAP port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapConfig {
    /// Device name; made when there is none.
    pub name: String,
    /// The director's MAC.
    pub mac: MacChoice,
    /// MTU to set, in bytes.
    pub mtu: Option<u32>,
    /// 64 KiB packets and partial checksums.
    pub offload: OffloadMode,
    /// Attach as one of several queues.
    pub multi_queue: bool,
}

/// An attached TAP device.
#[derive(Debug)]
pub struct TapPort {
    queue: Queue,
    /// For super-frames in tunnels, where the kernel helps with them.
    outers: Option<Outers>,
    info: PortInfo,
}

impl TapPort {
    /// Attaches to a TAP device, or makes it; brings it up.
    ///
    /// # Errors
    /// [`OpenError`] with the remedy: no access, no privilege, device in use, of another kind, or a MAC
    /// that is the device's own.
    pub fn open(config: &TapConfig) -> Result<TapPort, OpenError> {
        let wish = Wish {
            kind: Kind::Tap,
            name: config.name.clone(),
            mtu: config.mtu,
            offload: config.offload,
            multi_queue: config.multi_queue,
        };
        let queue = Queue::open(&wish)?;
        if config.offload == OffloadMode::On && !queue.caps().csum {
            return Err(no_offload(&config.name));
        }
        let mac = mac::for_tap(queue.name(), config.mac, queue.device_mac().unwrap_or_default())?;
        Ok(TapPort::new(queue, mac))
    }

    fn new(queue: Queue, mac: Mac) -> TapPort {
        let mut info = info(&queue, mac);
        let outers = Outers::load(&mut info, Side::Ingress);
        TapPort { queue, outers, info }
    }
}

pub(super) fn no_offload(name: &str) -> OpenError {
    OpenError::new(
        format!("cannot open device {name} with offload = \"on\""),
        "the kernel or the existing device has no offload header",
        "use offload = \"auto\"",
    )
}

fn info(queue: &Queue, mac: Mac) -> PortInfo {
    PortInfo {
        name: queue.name().to_owned(),
        link: Link::Ethernet,
        device_mac: queue.device_mac(),
        mac: Some(mac),
        mtu: queue.mtu(),
        offload: queue.caps(),
    }
}

impl Port for TapPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.fd())
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        self.queue.recv(slots, burst)
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
        self.queue.send(packets, Link::Ethernet, report)
    }
    fn another(&self) -> Result<Option<Box<dyn Port>>, OpenError> {
        let queue = self.queue.another()?;
        Ok(Some(Box::new(TapPort::new(queue, self.info.mac.unwrap_or_default()))))
    }
    fn steer(&mut self, outline: &Outline) {
        self.queue.steer(outline);
    }
    fn reopen(&mut self) -> io::Result<()> {
        self.queue.reopen()?;
        let mac = self.info.mac.unwrap_or_default();
        if self.queue.device_mac() == Some(mac) {
            return Err(io::Error::other(format!("the device came back with the director's own MAC {mac}")));
        }
        self.info = info(&self.queue, mac);
        self.outers = Outers::load(&mut self.info, Side::Ingress);
        Ok(())
    }
    fn losses(&mut self) -> Losses {
        if let Some(outers) = &mut self.outers {
            outers.look();
        }
        Losses::default()
    }
}
