//! What goes wrong with devices: at opening (for a person), and while running (for the worker).

use std::fmt;
use std::io;

/// Why a port could not be opened, with the remedy.
#[derive(Debug)]
pub struct OpenError {
    /// What was tried, such as `cannot open TAP device tap0`.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl OpenError {
    /// An error with a remedy.
    pub fn new(what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> OpenError {
        OpenError { what: what.into(), why: why.into(), help: Some(help.into()) }
    }
    /// An error nothing better is known about than what the kernel said.
    pub fn plain(what: impl Into<String>, why: &io::Error) -> OpenError {
        OpenError { what: what.into(), why: why.to_string(), help: None }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for OpenError {}

/// A device that does not work at the moment.
#[derive(Debug)]
pub enum PortError {
    /// The link is down; it may come back by itself (ENETDOWN).
    Down(io::Error),
    /// The device is gone (deleted: EBADFD, ENODEV, ENXIO).
    Gone(io::Error),
}

impl PortError {
    /// The error of the kernel.
    pub fn source(&self) -> &io::Error {
        match self {
            PortError::Down(e) | PortError::Gone(e) => e,
        }
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortError::Down(e) => write!(f, "link is down ({e})"),
            PortError::Gone(e) => write!(f, "device is gone ({e})"),
        }
    }
}

/// What an errno of a read or write on a device means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing there, or no room: EAGAIN, ENOBUFS, ENOMEM.
    Later,
    /// Interrupted: try again at once.
    Again,
    /// This packet does not suit the device.
    Unsuitable,
    /// The link is down.
    Down,
    /// The device is no more.
    Gone,
}

/// Sorts an errno. `tun` says `EIO` for a device that is down, and `EFAULT` or `EBADFD` for a deleted one;
/// packet sockets say `ENETDOWN` for both and `ENXIO` when the interface has gone.
pub(crate) fn meaning(errno: i32) -> Meaning {
    match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Meaning::Later,
        libc::EINTR => Meaning::Again,
        libc::ENETDOWN | libc::EIO => Meaning::Down,
        libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EBADF | libc::EFAULT => Meaning::Gone,
        // EMSGSIZE, EINVAL, EPERM (a filter said no), and whatever a driver may think of
        _ => Meaning::Unsuitable,
    }
}

/// The port error for an errno that is `Down` or `Gone`.
pub(crate) fn broken(errno: i32) -> PortError {
    let error = io::Error::from_raw_os_error(errno);
    if meaning(errno) == Meaning::Gone { PortError::Gone(error) } else { PortError::Down(error) }
}
