//! Several packet sockets on one interface, of which each gets the packets of one worker.
//!
//! The sockets form a fanout group, whose program is that of [`super::steering`]. Classic BPF needs no privilege
//! beyond the socket's own.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::steering::Members;
use super::sys::packet as sys;
use crate::engine::steer::Outline;

/// A fanout group, shared by its ports.
#[derive(Clone, Debug, Default)]
pub struct Fanout(Arc<Mutex<Group>>);

impl PartialEq for Fanout {
    fn eq(&self, other: &Fanout) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Fanout {}

#[derive(Debug, Default)]
struct Group {
    id: Option<u16>,
    members: Members,
    /// The program is that of the members and the outline.
    programmed: bool,
}

impl Fanout {
    fn group(&self) -> MutexGuard<'_, Group> {
        // whole at every step
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A number for one more queue.
    pub(super) fn next_queue(&self) -> u16 {
        self.group().members.next_queue()
    }
    /// Joins with a socket that is bound to the interface `device` and receives nothing yet.
    pub(super) fn join(&self, fd: BorrowedFd<'_>, device: u32, queue: u16) -> io::Result<()> {
        let mut group = self.group();
        let id = sys::join_fanout(fd, group.id)?;
        group.id = Some(id);
        group.members.join(device, queue);
        group.program(fd)
    }
    /// Steers by another outline from now on.
    pub(super) fn steer(&self, fd: BorrowedFd<'_>, outline: &Outline) -> io::Result<()> {
        let mut group = self.group();
        if !group.members.steer(outline) && group.programmed {
            return Ok(());
        }
        group.program(fd)
    }
}

impl Group {
    fn program(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let Some(program) = self.members.program() else { return Ok(()) };
        let done = sys::fanout_program(fd, &program);
        self.programmed = done.is_ok();
        done
    }
}
