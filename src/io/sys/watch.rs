//! Waiting for a descriptor under tokio.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a duplicate of `fd` for readability with the current runtime. The duplicate keeps the open
/// file alive: drop it before expecting a device to vanish with its port.
///
/// # Errors
/// What `dup` or `epoll_ctl` said.
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: the `OwnedFd` is open, moves into the `AsyncFd` and is neither closed nor replaced while
    // it is there; `as_raw_fd` of an `OwnedFd` always answers the same descriptor.
    unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}
