//! The queues of one TAP or TUN device, which know of each other so that the kernel deals packets out by owner.
//!
//! The device takes a program of extended BPF that names the place of a packet's queue; places follow the order in
//! which queues were attached. Loading it needs CAP_BPF in the initial user namespace, or a kernel that lets anybody
//! (`kernel.unprivileged_bpf_disabled = 0`). Without it the kernel goes by its own hash and by what was written where,
//! and packets that come to another worker than their owner are handed over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::steer::Outline;
use crate::io::steering::{Members, extended};
use crate::io::sys::bpf::{self, Program};
use crate::io::sys::{link, tuntap as sys};

/// Shared by the queues of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Siblings(Arc<Mutex<Group>>);

#[derive(Debug, Default)]
struct Group {
    members: Members,
    /// Open queues.
    open: usize,
    /// The device has a program of ours.
    programmed: bool,
    /// The log says already that it has none.
    told: bool,
}

impl Siblings {
    fn group(&self) -> MutexGuard<'_, Group> {
        // whole at every step
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A number for one more queue.
    pub fn next_queue(&self) -> u16 {
        self.group().members.next_queue()
    }
    /// A queue was attached to the device `name`, perhaps in place of one whose device is gone.
    pub fn join(&self, fd: BorrowedFd<'_>, name: &str, queue: u16) -> io::Result<()> {
        let device = link::index(name)?;
        let mut group = self.group();
        group.open += 1;
        if group.members.join(device, queue) {
            // a device that outlives its users keeps the program of one that was killed; kernels that know of
            // no programs have none
            let _ = sys::set_steering(fd, None);
            group.programmed = false;
        }
        group.program(fd, name);
        Ok(())
    }
    /// Steers by another outline from now on.
    pub fn steer(&self, fd: BorrowedFd<'_>, name: &str, outline: &Outline) {
        let mut group = self.group();
        if group.members.steer(outline) || !group.programmed {
            group.program(fd, name);
        }
    }
    /// A queue is about to be closed. The last one takes the program off the device.
    pub fn leave(&self, fd: BorrowedFd<'_>) {
        let mut group = self.group();
        group.open = group.open.saturating_sub(1);
        if group.open == 0 && std::mem::take(&mut group.programmed) {
            // a device that is gone has taken its program along
            let _ = sys::set_steering(fd, None);
        }
    }
}

impl Group {
    fn program(&mut self, fd: BorrowedFd<'_>, name: &str) {
        let Some(classic) = self.members.program() else { return };
        let done = extended::translate(&classic)
            .map_err(io::Error::other)
            .and_then(|code| Program::load(&code, bpf::Kind::Filter, "softlvs_steer"))
            .and_then(|program| sys::set_steering(fd, Some(program.as_fd())));
        match done {
            Ok(()) => (self.programmed, self.told) = (true, false),
            Err(error) if !self.told => {
                self.told = true;
                let help =
                    "CAP_BPF in the initial user namespace lets the kernel deal packets out by their owners";
                tracing::info!(
                    port = %name, %error, help,
                    "the kernel does not steer, packets are handed over"
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
