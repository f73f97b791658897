//! TUN port: IP packets of a virtual interface, without link headers.

use std::io;
use std::os::fd::BorrowedFd;

use super::tap::no_offload;
use super::tuntap::{Kind, Queue, Wish};
use super::{Burst, OffloadMode, OpenError, Port, PortError, PortInfo, SendReport, SlotIter};
use crate::buf::PacketBuf;
use crate::engine::steer::Outline;
use crate::wire::Link;

/// What is wanted of a TUN port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunConfig {
    /// Device name; made when there is none.
    pub name: String,
    /// MTU to set, in bytes.
    pub mtu: Option<u32>,
    /// 64 KiB packets and partial checksums.
    pub offload: OffloadMode,
    /// Attach as one of several queues.
    pub multi_queue: bool,
}

/// An attached TUN device.
#[derive(Debug)]
pub struct TunPort {
    queue: Queue,
    info: PortInfo,
}

impl TunPort {
    /// Attaches to a TUN device, or makes it; brings it up.
    ///
    /// # Errors
    /// [`OpenError`] with the remedy: no access, no privilege, device in use, or of another kind.
    pub fn open(config: &TunConfig) -> Result<TunPort, OpenError> {
        let wish = Wish {
            kind: Kind::Tun,
            name: config.name.clone(),
            mtu: config.mtu,
            offload: config.offload,
            multi_queue: config.multi_queue,
        };
        let queue = Queue::open(&wish)?;
        if config.offload == OffloadMode::On && !queue.caps().csum {
            return Err(no_offload(&config.name));
        }
        let info = info(&queue);
        Ok(TunPort { queue, info })
    }
}

fn info(queue: &Queue) -> PortInfo {
    PortInfo {
        name: queue.name().to_owned(),
        link: Link::Ip,
        device_mac: None,
        mac: None,
        mtu: queue.mtu(),
        offload: queue.caps(),
    }
}

impl Port for TunPort {
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
        self.queue.send(packets, Link::Ip, report)
    }
    fn another(&self) -> Result<Option<Box<dyn Port>>, OpenError> {
        let queue = self.queue.another()?;
        Ok(Some(Box::new(TunPort { queue, info: self.info.clone() })))
    }
    fn steer(&mut self, outline: &Outline) {
        self.queue.steer(outline);
    }
    fn reopen(&mut self) -> io::Result<()> {
        self.queue.reopen()?;
        self.info = info(&self.queue);
        Ok(())
    }
}
