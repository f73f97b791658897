//! Sockets of other workers on a queue: each receives its own packets, whichever queue they come to.
//!
//! # Theory of operation
//! A device deals packets out to its queues by a hash of its own, or by the processor that sends (veth), and a
//! socket receives from the one queue it is bound to. With a socket for each queue half of the packets would come
//! to another worker than their owner's and be handed over, which costs waking two workers for one packet. So
//! the XDP program says whose a packet is ([`crate::io::steering`]), and each worker has a socket on each queue:
//! on its own one with frames and all rings, on the others a *guest's*, which shares the frames of the queue and
//! has nothing but a receive ring. Sending goes by the worker's own queue.
//!
//! In the map of sockets each queue has a place for each worker. The queue's own socket stands in all of them
//! until a guest comes and when it goes, so that a packet always finds one; whoever gets a packet that is not
//! his hands it over as before.
//!
//! Guests come where the program runs in the driver. At the entrance of the stack packets of one queue may be
//! received on several processors at once, for which the kernel's locking of shared frames was made right only
//! lately (Linux 6.15).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::filter::Filter;
use super::frames::RECEIVE;
use super::inbox::{Inbox, Source};
use super::queue;
use crate::buf::Offload;
use crate::io::error::{Meaning, meaning};
use crate::io::sys::xsk::{Socket, Statistics};
use crate::io::{BURST, Burst, PortError, SlotIter};

/// Longer than the kernel takes to have everybody see a change.
const MOMENT: Duration = Duration::from_millis(1);

/// Packets that may wait for one of so many workers in a queue: who does not look leaves the others their frames.
pub fn waiting(workers: u32) -> u32 {
    (RECEIVE / workers.max(1).next_power_of_two()).max(BURST as u32)
}

/// A queue that may be received from.
#[derive(Clone, Debug)]
pub struct Host {
    /// Which opening of the queue it is.
    opening: u64,
    ifindex: u32,
    queue: u32,
    socket: Arc<Socket>,
    source: Source,
    /// What guests could not receive, as far as they have said.
    dropped: u64,
}

/// The queues of one interface, which its ports share.
#[derive(Debug, Default)]
pub struct Hosts {
    queues: Mutex<Queues>,
    /// Counts what happens to them.
    changes: AtomicU64,
    /// Wake the workers when something does.
    bells: Mutex<Vec<Arc<EventFd>>>,
}

#[derive(Debug, Default)]
struct Queues {
    open: Vec<Host>,
    /// How many were opened so far.
    openings: u64,
}

impl Hosts {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        // whole at every step
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Lets others receive from a queue.
    pub fn publish(&self, ifindex: u32, queue: u32, socket: &Arc<Socket>, source: &Source) {
        let (socket, source) = (socket.clone(), source.clone());
        let mut queues = self.queues();
        queues.openings += 1;
        let opening = queues.openings;
        queues.open.retain(|h| h.queue != queue);
        queues.open.push(Host { opening, ifindex, queue, socket, source, dropped: 0 });
        drop(queues);
        self.changed();
    }
    /// Queues that are about to be closed.
    pub fn withdraw(&self, queues: &[u32]) {
        self.queues().open.retain(|h| !queues.contains(&h.queue));
        self.changed();
    }
    fn changed(&self) {
        self.changes.fetch_add(1, Relaxed);
        for bell in self.bells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // one that has been rung already stays so
            let _ = bell.write(1);
        }
    }
    /// Changes with every queue that comes or goes.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
    fn others(&self, own: &[u32]) -> Vec<Host> {
        self.queues().open.iter().filter(|h| !own.contains(&h.queue)).cloned().collect()
    }
    fn find(&self, opening: u64) -> Option<Host> {
        self.queues().open.iter().find(|h| h.opening == opening).cloned()
    }
    /// What guests of a queue could not receive since it was opened, as far as they have said.
    pub fn dropped(&self, queue: u32) -> u64 {
        self.queues().open.iter().find(|h| h.queue == queue).map_or(0, |h| h.dropped)
    }
    fn drop_more(&self, opening: u64, more: u64) {
        if let Some(host) = self.queues().open.iter_mut().find(|h| h.opening == opening) {
            host.dropped += more;
        }
    }
}

/// A worker's socket on another worker's queue.
#[derive(Debug)]
pub struct Guest {
    opening: u64,
    socket: Socket,
    /// What it receives.
    inbox: Inbox,
    /// What it has said of its losses.
    told: u64,
}

impl Guest {
    fn open(host: &Host, workers: u32) -> io::Result<Guest> {
        let socket = Socket::open()?;
        let rx = socket.receive_ring(waiting(workers))?;
        socket.bind_beside(host.ifindex, host.queue, &host.socket)?;
        let inbox = Inbox::new(host.source.clone(), rx);
        Ok(Guest { opening: host.opening, socket, inbox, told: 0 })
    }
    /// Descriptor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
    /// Packets that its receive ring had no place for. What found no frame or did not fit one is told to the queue.
    pub fn full(&mut self, hosts: &Hosts) -> u64 {
        let Statistics { dropped, ring_full, .. } = self.socket.statistics().unwrap_or_default();
        hosts.drop_more(self.opening, dropped.saturating_sub(self.told));
        self.told = self.told.max(dropped);
        ring_full
    }
}

/// A worker's sockets on the queues of the others.
#[derive(Debug)]
pub struct Guests {
    hosts: Arc<Hosts>,
    worker: u32,
    /// Rings when a queue has come or gone.
    bell: Arc<EventFd>,
    /// [`Hosts::changes`] when last looked at.
    seen: u64,
    all: Vec<Guest>,
    /// What those that are gone could not receive.
    gone_full: u64,
}

impl Guests {
    /// None so far.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(hosts: Arc<Hosts>, worker: u32) -> io::Result<Guests> {
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        hosts.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell.clone());
        Ok(Guests { hosts, worker, bell, seen: 0, all: Vec::new(), gone_full: 0 })
    }
    /// Descriptor to wait on, beside those of the sockets.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
    /// The queues.
    pub fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }
    /// The sockets.
    pub fn all(&self) -> &[Guest] {
        &self.all
    }
    /// Receives what is there; the next time with another one first.
    ///
    /// # Errors
    /// The interface is down or gone, noticed when the kernel has to be called.
    pub fn receive<'m>(
        &mut self,
        slots: &mut SlotIter<'m>,
        burst: &mut Burst<'m>,
        bytes: &mut usize,
        what: impl Fn(&[u8]) -> Offload + Copy,
    ) -> Result<(), PortError> {
        for guest in &mut self.all {
            guest.inbox.receive(slots, burst, bytes, what);
            if guest.inbox.wants_call() {
                queue::call(&guest.socket)?;
            }
        }
        if self.all.len() > 1 {
            self.all.rotate_left(1);
        }
        Ok(())
    }
    /// Another queue has come or one has gone since the last look.
    #[inline]
    pub fn changed(&self) -> bool {
        self.seen != self.hosts.changes()
    }

    /// Takes note of what has happened to the queues until now; the bell is silent again.
    pub fn look(&mut self) {
        let _ = self.bell.read();
        self.seen = self.hosts.changes();
    }

    /// Has a socket on each queue but `own`, and none on what is gone. Says whether there are other ones than before.
    ///
    /// # Errors
    /// What the kernel said; those that are there stay.
    pub fn follow(&mut self, filter: &Filter, own: &[u32]) -> io::Result<bool> {
        let open = self.hosts.others(own);
        let before = self.all.len();
        let hosts = &self.hosts;
        let mut full = 0;
        // what is gone has taken its frames along
        self.all.retain_mut(|guest| {
            let stays = open.iter().any(|h| h.opening == guest.opening);
            full += if stays { 0 } else { guest.full(hosts) };
            stays
        });
        self.gone_full += full;
        let mut other = self.all.len() != before;
        for host in open {
            if self.all.iter().any(|g| g.opening == host.opening) {
                continue;
            }
            let guest = match Guest::open(&host, filter.workers()) {
                Ok(guest) => guest,
                // its worker has not noticed yet; the bell rings when it opens the queue anew
                Err(e) if is_gone(&e) => continue,
                Err(e) => return Err(e),
            };
            guest.socket.enter(filter.sockets(), filter.place(host.queue, self.worker))?;
            self.all.push(guest);
            other = true;
        }
        Ok(other)
    }

    /// Leaves all queues to those they belong to, and the frames with them. Not for the packet path: it waits until
    /// the kernel knows.
    pub fn clear(&mut self, filter: &Filter) {
        let mut guests = std::mem::take(&mut self.all);
        let mut leaves = false;
        for guest in &guests {
            if let Some(host) = self.hosts.find(guest.opening) {
                let place = filter.place(host.queue, self.worker);
                leaves |= host.socket.enter(filter.sockets(), place).is_ok();
            }
        }
        if leaves {
            // a packet that is on its way to the guest has arrived by then
            std::thread::sleep(MOMENT);
        }
        // the port begins to count anew, as its own sockets do; what has not been read is lost
        self.gone_full = guests.iter_mut().map(|g| u64::from(g.inbox.leave())).sum();
    }

    /// Packets that receive rings had no place for.
    pub fn full(&mut self) -> u64 {
        let hosts = &self.hosts;
        self.gone_full + self.all.iter_mut().map(|g| g.full(hosts)).sum::<u64>()
    }
}

/// The interface has gone or is down.
fn is_gone(e: &io::Error) -> bool {
    let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
    // EBADF: the socket beside which this one is to be bound is not bound any more
    errno == libc::EBADF || matches!(meaning(errno), Meaning::Gone | Meaning::Down)
}
