//! The queues of one TAP or TUN device, which know of each other so that the kernel deals packets out by owner.
//!
//! The device takes a program of extended BPF that names the place of a packet's queue; places follow the order in
//! which queues were attached. Loading it needs CAP_BPF in the initial user namespace, or a kernel that lets anybody
//! (`kernel.unprivileged_bpf_disabled = 0`). Without it the kernel goes by its own hash and by what was written where,
//! and packets that come to another worker than their owner are handed over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::steer::Outline;
use crate::io::steering::{Members, extended};
use crate::io::sys::bpf::{self, Program};
use crate::io::sys::packet::Op;
use crate::io::sys::{link, tuntap as sys};

/// Shared by the queues of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Siblings(Arc<Mutex<Group>>);

#[derive(Debug, Default)]
struct Group {
    members: Members,
    /// Open queues.
    open: usize,
    /// Which program the device should have: changes with members and outline.
    version: u64,
    /// The device has a program of ours.
    programmed: bool,
    /// The log says already that it has none.
    told: bool,
    /// Loads a program beside the packets; it looks for another version before it ends.
    loader: Option<JoinHandle<()>>,
    loading: bool,
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
        group.version += 1;
        if group.members.join(device, queue) {
            // a device that outlives its users keeps the program of one that was killed; kernels that know of
            // no programs have none
            let _ = sys::set_steering(fd, None);
            group.programmed = false;
        }
        if let Some(classic) = group.members.program() {
            group.set(fd, name, load(&classic));
        }
        Ok(())
    }
    /// Steers by another outline from now on.
    pub fn steer(&self, fd: BorrowedFd<'_>, name: &str, outline: &Outline) {
        let mut group = self.group();
        if !group.members.steer(outline) && group.programmed {
            return;
        }
        group.version += 1;
        let Some(classic) = group.members.program() else { return };
        if !group.programmed {
            group.set(fd, name, load(&classic));
            return;
        }
        // the kernel takes milliseconds to look through a program with many addresses; until then packets are
        // dealt out as before
        if !std::mem::replace(&mut group.loading, true) {
            let (siblings, name) = (self.clone(), name.to_owned());
            let renew = fd.try_clone_to_owned().and_then(|fd| {
                let renew = move || siblings.renew(fd.as_fd(), &name);
                std::thread::Builder::new().name("lvs-steer".to_owned()).spawn(renew)
            });
            group.loading = renew.is_ok();
            group.loader = renew.ok();
        }
    }
    /// Loads programs until the device has the one it should have.
    fn renew(&self, fd: BorrowedFd<'_>, name: &str) {
        let mut group = self.group();
        while let Some(classic) = group.members.program() {
            let version = group.version;
            drop(group);
            let program = load(&classic);
            group = self.group();
            if group.version == version {
                group.set(fd, name, program);
                break;
            }
        }
        group.loading = false;
    }
    /// Waits until nothing is being loaded.
    fn settle(&self) {
        let loader = self.group().loader.take();
        // one that panicked has set nothing
        let _ = loader.map(JoinHandle::join);
    }
    /// A queue is about to be closed. The last one takes the program off the device.
    pub fn leave(&self, fd: BorrowedFd<'_>) {
        let mut group = self.group();
        group.open = group.open.saturating_sub(1);
        if group.open > 0 {
            return;
        }
        drop(group);
        self.settle();
        if std::mem::take(&mut self.group().programmed) {
            // a device that is gone has taken its program along
            let _ = sys::set_steering(fd, None);
        }
    }
}

fn load(classic: &[Op]) -> io::Result<Program> {
    let code = extended::translate(classic).map_err(io::Error::other)?;
    Program::load(&code, bpf::Kind::Filter, "softlvs_steer")
}

impl Group {
    fn set(&mut self, fd: BorrowedFd<'_>, name: &str, program: io::Result<Program>) {
        match program.and_then(|program| sys::set_steering(fd, Some(program.as_fd()))) {
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
