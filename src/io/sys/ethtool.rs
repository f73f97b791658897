//! What the driver of an interface says about itself (`ethtool -i`, `ethtool -l`).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use super::link;

/// A driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its name: `veth`, `virtio_net`, `ixgbe` ...
    pub name: String,
    /// Where the hardware is; empty for a device that is none.
    pub bus: String,
}

/// Calls a command whose struct `value` is.
fn call<T>(interface: &str, value: &mut T) -> io::Result<()> {
    let mut request = link::request(interface)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    let socket = UnixDatagram::unbound()?;
    // SAFETY: SIOCETHTOOL follows the data pointer to a live struct whose first field is the command; the two
    // callers below pass the struct of the command they write there.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The driver of an interface of the calling thread's namespace.
///
/// # Errors
/// `ENODEV`; `EOPNOTSUPP` for a driver that says nothing.
pub fn driver(interface: &str) -> io::Result<Driver> {
    /// `struct ethtool_drvinfo`
    #[repr(C)]
    struct Info {
        cmd: u32,
        driver: [u8; 32],
        version: [u8; 32],
        firmware: [u8; 32],
        bus: [u8; 32],
        erom: [u8; 32],
        reserved: [u8; 12],
        numbers: [u32; 5],
    }
    // linux/ethtool.h: ETHTOOL_GDRVINFO
    let mut info = Info {
        cmd: 3,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        erom: [0; 32],
        reserved: [0; 12],
        numbers: [0; 5],
    };
    call(interface, &mut info)?;
    let text = |b: &[u8; 32]| {
        let text = b.split(|c| *c == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    Ok(Driver { name: text(&info.driver), bus: text(&info.bus) })
}

/// How many queues an interface receives on; 1 for a driver that does not say.
///
/// # Errors
/// `ENODEV`
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    /// `struct ethtool_channels`: command, four maxima, then the numbers in use.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        cmd: u32,
        most: [u32; 4],
        rx: u32,
        tx: u32,
        other: u32,
        combined: u32,
    }
    // linux/ethtool.h: ETHTOOL_GCHANNELS
    let mut channels = Channels { cmd: 0x3c, ..Channels::default() };
    match call(interface, &mut channels) {
        Ok(()) => Ok((channels.rx + channels.combined).max(1)),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Err(e),
        Err(_) => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_one_queue_and_what_is_not_there_is_an_error() {
        assert_eq!(receive_queues("lo").unwrap(), 1);
        assert_eq!(receive_queues("nosuchdev").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(driver("nosuchdev").is_err());
    }
}
