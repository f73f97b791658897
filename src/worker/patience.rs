//! How long a worker looks for packets before it sleeps.
//!
//! Waking a sleeping thread costs its sender some microseconds and the packet more: the processor may have gone
//! to sleep too. Where packets come at shorter intervals than that, a worker looks again a while, and lets
//! whoever wants its processor go first each time. The time adapts itself: it grows while packets keep coming
//! soon, and one long wait ends it, so that a worker with little to do sleeps at once, always
//! (`docs/decisions/0021-looking-before-sleeping.md` has the measurements).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, ppoll};
use nix::sys::time::TimeSpec;

use super::clock;
use crate::time::{Mono, Span};

/// How long to look at first.
const FIRST: Span = Span::from_micros(10);

/// The longest time to look for packets, shared by the workers of a process and changed while they run.
#[derive(Clone, Debug)]
pub struct Linger(Arc<AtomicU64>);

impl Default for Linger {
    fn default() -> Linger {
        Linger(Arc::new(AtomicU64::new(Linger::usual().0)))
    }
}

impl Linger {
    /// What is used where nothing was asked for. With one processor, whoever is to send the next packet waits
    /// for it.
    pub fn usual() -> Span {
        let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
        if alone { Span::ZERO } else { Span::from_micros(100) }
    }
    /// Sets it; zero means to sleep at once.
    pub fn set(&self, most: Span) {
        self.0.store(most.0, Ordering::Relaxed);
    }
    fn most(&self) -> Span {
        Span(self.0.load(Ordering::Relaxed))
    }
}

/// A worker's own state of it.
#[derive(Debug)]
pub(super) struct Patience {
    linger: Linger,
    window: Span,
}

impl Patience {
    pub fn new(linger: Linger) -> Patience {
        Patience { linger, window: Span::ZERO }
    }

    /// Looks until a descriptor calls or `other` says that there is something, at most until `due`; true when
    /// there is.
    pub fn linger(
        &self,
        fds: &mut [PollFd<'_>],
        since: Mono,
        due: Option<Mono>,
        other: impl Fn() -> bool,
    ) -> bool {
        if self.window == Span::ZERO {
            return false;
        }
        let end = since + self.window;
        let end = due.map_or(end, |due| due.min(end));
        loop {
            std::thread::yield_now();
            let called = ppoll(fds, Some(TimeSpec::new(0, 0)), None).is_ok_and(|n| n > 0);
            if called || other() {
                return true;
            }
            if clock::now() >= end {
                return false;
            }
        }
    }

    /// Learns from a wait: how long it was, and whether packets ended it.
    pub fn waited(&mut self, time: Span, packets: bool) {
        let most = self.linger.most();
        self.window = if time > most {
            Span::ZERO
        } else if packets {
            Span((self.window.0 * 2).max(FIRST.0)).min(most)
        } else {
            self.window.min(most)
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::PollFlags;

    use super::*;

    fn patience(most: u64) -> Patience {
        let linger = Linger::default();
        linger.set(Span::from_micros(most));
        Patience::new(linger)
    }

    #[test]
    fn it_grows_while_packets_come_soon_and_ends_with_one_long_wait() {
        let mut p = patience(50);
        let mut windows = Vec::new();
        for _ in 0..5 {
            windows.push(p.window.0 / 1000);
            p.waited(Span::from_micros(20), true);
        }
        assert_eq!(windows, [0, 10, 20, 40, 50]);
        p.waited(Span::from_micros(20), false);
        assert_eq!(p.window, Span::from_micros(50), "a timer says nothing about packets");
        p.waited(Span::from_micros(51), true);
        assert_eq!(p.window, Span::ZERO);
        p.waited(Span::from_micros(20), false);
        assert_eq!(p.window, Span::ZERO);
    }

    #[test]
    fn a_shorter_time_and_none_hold_from_the_next_wait_on() {
        let mut p = patience(50);
        let linger = p.linger.clone();
        for _ in 0..5 {
            p.waited(Span::from_micros(1), true);
        }
        linger.set(Span::from_micros(30));
        p.waited(Span::from_micros(1), false);
        assert_eq!(p.window, Span::from_micros(30));
        linger.set(Span::ZERO);
        p.waited(Span::from_micros(1), true);
        assert_eq!(p.window, Span::ZERO);
    }

    #[test]
    fn what_calls_is_found_and_otherwise_it_gives_up() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut p = patience(1_000_000);
        let look = |p: &Patience, due, other: bool| {
            let mut fds = [PollFd::new(near.as_fd(), PollFlags::POLLIN)];
            let found = p.linger(&mut fds, clock::now(), due, || other);
            (found, fds[0].any() == Some(true))
        };
        (&far).write_all(&[1]).unwrap();
        assert_eq!(look(&p, None, false), (false, false), "nobody looks before packets came soon");
        p.waited(Span::from_micros(1), true);
        assert_eq!(look(&p, None, false), (true, true));
        std::io::Read::read_exact(&mut (&near), &mut [0]).unwrap();
        assert_eq!(look(&p, None, true), (true, false));
        assert_eq!(look(&p, None, false), (false, false));
        p.window = Span::from_secs(1_000_000);
        assert_eq!(look(&p, Some(clock::now()), false), (false, false), "what is due waits for nobody");
    }
}
