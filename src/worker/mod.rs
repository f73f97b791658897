//! The worker: one thread that owns a director and its ports and moves bursts between them.
//!
//! # Theory of operation
//!
//! A turn takes one burst of at most 64 packets from each port that has any, hands it to the director,
//! and sends what came out: the burst's own packets first, in order, then what the director made. After
//! 16 turns, or when every port is empty, the worker looks at commands, timers and the other ports:
//! no port, however busy, keeps them waiting longer. Waiting is one `ppoll` over all devices and a
//! doorbell, bounded by the director's next timer; it wakes on errors of a device too, and has no state
//! that could be out of date when a device was replaced (`docs/decisions/0003-worker-waits-with-ppoll.md`).
//!
//! Nothing here allocates, locks or logs per packet. A device that fails leaves the set that is waited
//! on and is tried again at growing intervals; packets for it are counted and dropped meanwhile.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tokio::sync::mpsc;

use crate::buf::{Out, PacketBuf};
use crate::engine::post::Handing;
use crate::engine::steer::Outline;
use crate::engine::{DropReason, PortId, Taken, Verdict};
use crate::io::{BURST, BURST_BYTES, Burst, Slots};
use crate::time::{Mono, Span};

pub mod clock;
pub mod counters;
mod egress;
mod engine;
mod handle;
mod lane;
mod mail;
mod patience;
mod ring;
pub mod stopwatch;

pub use counters::{PortCounters, PortStats};
pub use handle::{Asker, Handle, Stopped, start, start_all};
pub use patience::Linger;

use egress::Egress;
use handle::Message;
use lane::Lanes;
use mail::Mail;
use patience::Patience;
use ring::Bell;
use stopwatch::Stopwatch;

/// Turns before commands, timers and idle ports are looked at again.
const TURNS: usize = 16;
/// Most ports of one worker.
pub const MAX_PORTS: usize = 64;

/// What a worker drives: the engine, or in tests a stand-in. All methods return without waiting.
pub trait Director {
    /// Decides on the packets of one burst, in order; `verdicts` has one place for each. Packets may be
    /// changed in place, further ones go to `out`.
    fn on_burst(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    );
    /// When [`Director::on_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Mono>;
    /// Does what is due.
    fn on_timeout(&mut self, now: Mono, out: &mut Out);
    /// `n` packets that were to be sent on `port` were dropped by its device or on the way to it.
    fn device_drop(&mut self, port: PortId, why: DropReason, n: u64);
    /// As [`Director::on_burst`], for packets that other workers read and that are ours.
    fn on_handed(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        self.on_burst(now, port, burst, verdicts, out);
    }
    /// A datagram of ours that another worker put together; its largest fragment had `largest` bytes.
    fn on_whole(
        &mut self,
        now: Mono,
        port: PortId,
        largest: u16,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let _ = largest;
        let mut verdict = [Verdict::Taken(Taken::Local)];
        self.on_handed(now, port, std::slice::from_mut(pkt), &mut verdict, out);
        verdict[0]
    }
    /// A packet that another worker answers and this one learns from.
    fn on_heard(&mut self, now: Mono, port: PortId, pkt: &mut PacketBuf<'_>, out: &mut Out) {
        let _ = (now, port, pkt, out);
    }
    /// What is to be given to other workers beside packets with [`Verdict::HandTo`].
    fn poll_handing(&mut self) -> Option<Handing> {
        None
    }
    /// How devices are to steer, after each change.
    fn poll_outline(&mut self) -> Option<Outline> {
        None
    }
    /// `n` packets were dropped because their owner has too many waiting.
    fn handover_full(&mut self, n: u64) {
        let _ = n;
    }
    /// A device broke (`up = false`) or came back, perhaps as a new one that no neighbour knows yet.
    fn on_port(&mut self, now: Mono, port: PortId, up: bool, out: &mut Out) {
        let _ = (now, port, up, out);
    }
}

/// The state of a worker thread.
struct Worker<D> {
    director: D,
    lanes: Lanes,
    mail: Mail,
    slots: Slots,
    out: Out,
    egress: Egress,
    stopwatch: Stopwatch,
    patience: Patience,
    commands: mpsc::Receiver<Message<D>>,
    bell: UnixStream,
    /// Rings `bell`.
    ringer: Arc<Bell>,
}

impl<D: Director> Worker<D> {
    /// Runs until told to stop; gives the director back.
    fn run(mut self) -> D {
        loop {
            if !self.commands() {
                return self.director;
            }
            self.steer_devices();
            let mut busy = true;
            for _ in 0..TURNS {
                if !busy {
                    break;
                }
                busy = self.turn();
            }
            self.wait(busy);
        }
    }

    /// Runs what was asked for; false when asked to stop.
    fn commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Message::Run(command)) => {
                    let now = clock::now();
                    command(&mut self.director, now, &mut self.out);
                    self.flush(now);
                }
                Ok(Message::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return false,
                Err(mpsc::error::TryRecvError::Empty) => return true,
            }
        }
    }

    /// Tells devices whose packets go to which worker, when that has changed.
    fn steer_devices(&mut self) {
        if let Some(outline) = self.director.poll_outline() {
            self.lanes.all.iter_mut().for_each(|lane| lane.port.steer(&outline));
        }
    }

    /// One burst from each port that may have packets; true when there may be more.
    fn turn(&mut self) -> bool {
        let mut more = false;
        let mut now = clock::now();
        for i in 0..self.lanes.all.len() {
            self.lanes.all[i].revive(now);
            if self.lanes.all[i].ready {
                now = self.burst(i);
                more |= self.lanes.all[i].ready;
            }
            if let Some(up) = self.lanes.all[i].news() {
                let id = self.lanes.all[i].id;
                self.director.on_port(now, id, up, &mut self.out);
                self.flush(now);
            }
        }
        if self.mail.waits() {
            let (lanes, director) = (&mut self.lanes, &mut self.director);
            more |= self.mail.receive(now, lanes, director, &mut self.egress, &mut self.out);
            self.flush(now);
        }
        if self.director.poll_timeout().is_some_and(|at| at <= now) {
            self.director.on_timeout(now, &mut self.out);
            self.flush(now);
        }
        more
    }

    fn burst(&mut self, i: usize) -> Mono {
        let lane = &mut self.lanes.all[i];
        let mut slots = self.slots.iter();
        let mut burst = Burst::new();
        let result = lane.port.recv_burst(&mut slots, &mut burst);
        let now = clock::now();
        let id = lane.id;
        let bytes = burst.iter().map(PacketBuf::len).sum();
        lane.ready = burst.is_full() || bytes >= BURST_BYTES;
        if !burst.is_empty() {
            lane.counters.received(burst.len(), bytes);
            self.lanes.stirred = true;
            let mut verdicts = [Verdict::Taken(Taken::Local); BURST];
            let verdicts = &mut verdicts[..burst.len()];
            let (director, out) = (&mut self.director, &mut self.out);
            self.stopwatch.time(burst.len(), || director.on_burst(now, id, &mut burst, verdicts, out));
            self.mail.send(id, &burst, verdicts, &mut self.director);
            self.egress.burst(now, &mut self.lanes, &mut burst, verdicts, &mut self.director);
        }
        drop(burst);
        if let Err(e) = result {
            self.lanes.all[i].fail(now, &e);
        }
        self.flush(now);
        now
    }

    fn flush(&mut self, now: Mono) {
        self.mail.forward(now, &mut self.director, &mut self.out);
        if !self.out.is_empty() {
            self.egress.queue(now, &mut self.lanes, &mut self.out, &mut self.director);
        }
    }

    /// Waits until a device or the doorbell calls or something is due; not at all when `busy`.
    fn wait(&mut self, busy: bool) {
        let now = clock::now();
        let mut due = self.director.poll_timeout().into_iter().chain(self.lanes.ask_for_losses(now)).min();
        for lane in &mut self.lanes.all {
            let at = lane.wants_at(now);
            lane.ready |= lane.works() && at.is_some_and(|at| at <= now);
            due = due.into_iter().chain(at).min();
        }
        let busy = busy || self.mail.waits();
        let mut fds = ArrayVec::<PollFd<'_>, { MAX_PORTS + 1 }>::new();
        let mut who = ArrayVec::<u8, MAX_PORTS>::new();
        for (i, lane) in self.lanes.all.iter().enumerate() {
            // a port that is ready already needs no asking
            if lane.works()
                && !lane.ready
                && let Some(fd) = lane.port.fd()
            {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
                who.push(i as u8);
            }
        }
        fds.push(PollFd::new(std::os::fd::AsFd::as_fd(&self.bell), PollFlags::POLLIN));
        // EINTR and the like: everything is looked at again anyway
        if busy {
            let _ = ppoll(&mut fds, Some(TimeSpec::new(0, 0)), None);
        } else if !self.patience.linger(&mut fds, now, due, || self.mail.waits()) {
            // whoever fills a ring from here on wakes us
            self.ringer.falls_asleep();
            let left =
                if self.mail.waits() { Some(Span::ZERO) } else { due.map(|at| at.since(clock::now())) };
            let timeout = left.map(|s| TimeSpec::from_duration(Duration::from_nanos(s.0)));
            let _ = ppoll(&mut fds, timeout, None);
            self.ringer.wakes();
        }
        let called = |fd: &PollFd<'_>| fd.revents().is_none_or(|r| !r.is_empty());
        let rung = fds.last().is_some_and(called);
        let mut ready = 0u64;
        for (fd, i) in fds.iter().zip(&who) {
            ready |= u64::from(called(fd)) << i;
        }
        drop(fds);
        if !busy {
            self.patience.waited(clock::now().since(now), ready != 0 || self.mail.waits());
        }
        for (i, lane) in self.lanes.all.iter_mut().enumerate() {
            lane.ready |= ready >> i & 1 == 1;
        }
        if rung {
            let mut sink = [0; 64];
            while std::io::Read::read(&mut self.bell, &mut sink).is_ok_and(|n| n == sink.len()) {}
        }
    }
}

#[cfg(test)]
mod tests;
