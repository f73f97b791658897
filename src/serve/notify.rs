//! Telling systemd (sd_notify(3)): ready, reloading, stopping, and a sign of life for its watchdog.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager; does nothing when there is none.
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often a sign of life is wanted.
    pub watchdog: Option<Duration>,
}

impl Notify {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn from_env() -> Notify {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // half of what is allowed, as systemd recommends
        let watchdog =
            number("WATCHDOG_USEC").filter(|us| mine && *us > 0).map(|us| Duration::from_micros(us / 2));
        Notify { socket: connect(std::env::var_os("NOTIFY_SOCKET").as_deref()), watchdog }
    }
    /// Sends `KEY=VALUE` lines.
    pub fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // a manager that does not listen is no trouble of ours
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

fn connect(name: Option<&std::ffi::OsStr>) -> Option<(UnixDatagram, SocketAddr)> {
    let name = name?.as_bytes();
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok()?,
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok()?,
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_what_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify { socket: connect(Some(path.as_os_str())), watchdog: None };
        notify.tell("READY=1");
        let mut bytes = [0; 64];
        let n = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..n], b"READY=1");
        assert!(connect(Some("relative".as_ref())).is_none() && connect(None).is_none());
    }
}
