//! Where questions go out and answers come in: a raw socket of ours, or a port of the director that runs.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::Mac;
use crate::buf::{HEADROOM, PacketBuf};
use crate::io::packet::PacketConfig;
use crate::io::{Burst, MacChoice, OffloadMode, OpenError, PacketPort, Port as _, SendReport, Slots};

/// A way to a network, with whole Ethernet frames. Where packets are bare, the frames are made up.
pub trait Wire: Send {
    /// The director's MAC there.
    fn mac(&self) -> Mac;
    /// Packets are bare: nobody has a MAC, and nobody is asked for one.
    fn bare(&self) -> bool {
        false
    }
    /// Frames to the director's MAC come in whoever they name.
    fn hears_all(&self) -> bool {
        true
    }
    /// Sends a frame. What cannot be sent is not answered, and that is what is told.
    fn send(&mut self, frame: &[u8]);
    /// What came in, as soon as something did; nothing after `patience`, or `None` where nothing can come.
    fn receive(&mut self, patience: Duration) -> Option<Vec<Vec<u8>>>;
}

/// A raw socket on an interface with the MAC that the director has there.
pub struct Socket {
    port: PacketPort,
    slots: Slots,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// As [`PacketPort::open`].
    pub fn open(interface: &str, mac: MacChoice) -> Result<Socket, OpenError> {
        let interface = interface.to_owned();
        let config = PacketConfig { interface, mac, offload: OffloadMode::Off, ..PacketConfig::default() };
        Ok(Socket { port: PacketPort::open(&config)?, slots: Slots::for_burst() })
    }
    fn waiting(&mut self) -> Vec<Vec<u8>> {
        let mut slots = self.slots.iter();
        let mut burst = Burst::new();
        // a device that broke is silent
        let _ = self.port.recv_burst(&mut slots, &mut burst);
        burst.iter().map(|p| p.bytes().to_vec()).collect()
    }
}

impl Wire for Socket {
    fn mac(&self) -> Mac {
        self.port.info().mac.unwrap_or_default()
    }
    fn send(&mut self, frame: &[u8]) {
        let mut mem = vec![0; HEADROOM + frame.len() + 64];
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(frame);
        let _ = self.port.send_burst(&mut [&mut pkt], &mut SendReport::default());
    }
    fn receive(&mut self, patience: Duration) -> Option<Vec<Vec<u8>>> {
        let frames = self.waiting();
        if !frames.is_empty() {
            return Some(frames);
        }
        let fd = self.port.fd()?;
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let ms = u16::try_from(patience.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(ms)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                tracing::debug!("poll: {e}");
                return None;
            }
        }
        Some(self.waiting())
    }
}
