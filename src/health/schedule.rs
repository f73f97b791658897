//! Which check runs when, and how many at once.
//!
//! # Theory of operation
//! Sockets and processes are bounded, and servers that hang hold theirs until the timeout. So there are
//! three lanes with a bound each. A check whose last result was good starts in the *fast* lane. When that
//! lane is full and somebody waits, a check that has run for longer than `patience` makes room: it goes on
//! in the *slow* lane, or is given up there and begins again when the slow lane has a place. Checks that
//! failed last time start in the slow lane, in the order in which they were due. However many servers hang,
//! they wait for each other and never for one that answers. Programs have a lane of their own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::time::{Mono, Span};

/// Bounds of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Checks at once of servers that answered last time.
    pub fast: usize,
    /// Checks at once of the others.
    pub slow: usize,
    /// Programs at once.
    pub programs: usize,
    /// How long a check may hold a place in the fast lane that another one waits for.
    pub patience: Span,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { fast: 1024, slow: 1024, programs: 32, patience: Span::from_millis(100) }
    }
}

impl Limits {
    /// What fits `descriptors` file descriptors.
    pub fn within(descriptors: usize) -> Limits {
        let all = Limits::default();
        let half = (descriptors / 3).max(1);
        Limits { fast: all.fast.min(half), slow: all.slow.min(half), ..all }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Fast,
    Slow,
    Programs,
}

const LANES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Not known (any more).
    Gone,
    /// Waits for its time.
    Idle,
    /// Its time has come, its lane was full.
    Waits,
    Runs(Lane, Mono),
}

#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    /// Tells stale entries of heaps and queues.
    stamp: u32,
    program: bool,
    suspect: bool,
    due: Mono,
}

/// The schedule of all checks, by number.
#[derive(Clone, Debug)]
pub struct Schedule {
    limits: Limits,
    entries: Vec<Entry>,
    due: BinaryHeap<Reverse<(Mono, u32, u32)>>,
    queues: [VecDeque<(u32, u32)>; LANES],
    running: [usize; LANES],
    /// Checks of the fast lane in the order they began.
    began: VecDeque<(Mono, u32, u32)>,
    aborted: VecDeque<u32>,
    /// Longest time a check of a good server waited for its place.
    pub worst_wait: Span,
}

impl Schedule {
    /// Nothing to do yet.
    pub fn new(limits: Limits) -> Schedule {
        Schedule {
            limits,
            entries: Vec::new(),
            due: BinaryHeap::new(),
            queues: Default::default(),
            running: [0; LANES],
            began: VecDeque::new(),
            aborted: VecDeque::new(),
            worst_wait: Span::ZERO,
        }
    }

    /// Check `id` is to run at `at`; also for one that is known, but does not run.
    pub fn set(&mut self, id: u32, at: Mono, program: bool) {
        let i = id as usize;
        if self.entries.len() <= i {
            let none = Entry { place: Place::Gone, stamp: 0, program, suspect: false, due: at };
            self.entries.resize(i + 1, none);
        }
        let e = &mut self.entries[i];
        if matches!(e.place, Place::Gone) {
            e.suspect = false;
        }
        e.stamp = e.stamp.wrapping_add(1);
        (e.place, e.program, e.due) = (Place::Idle, program, at);
        self.due.push(Reverse((at, id, e.stamp)));
    }

    /// Check `id` is no more; if it runs it has to be stopped.
    pub fn remove(&mut self, id: u32) -> bool {
        let Some(e) = self.entries.get_mut(id as usize) else { return false };
        let was = std::mem::replace(&mut e.place, Place::Gone);
        e.stamp = e.stamp.wrapping_add(1);
        if let Place::Runs(lane, _) = was {
            self.running[lane as usize] -= 1;
            return true;
        }
        false
    }

    /// Check `id` ended; it is idle until it is [`Schedule::set`] again. False when it did not run.
    pub fn finished(&mut self, id: u32, ok: bool) -> bool {
        let Some(e) = self.entries.get_mut(id as usize) else { return false };
        let Place::Runs(lane, _) = e.place else { return false };
        self.running[lane as usize] -= 1;
        (e.place, e.suspect) = (Place::Idle, !ok);
        true
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        // a stale head is found out by looking at it
        let due = self.due.peek().map(|Reverse((at, ..))| *at);
        let crowded = !self.queues[Lane::Fast as usize].is_empty();
        let patience = self.began.front().filter(|_| crowded).map(|(at, ..)| *at + self.limits.patience);
        due.into_iter().chain(patience).min()
    }

    /// The next check to start now, if there is one and room for it.
    pub fn start(&mut self, now: Mono) -> Option<u32> {
        self.collect(now);
        for lane in [Lane::Fast, Lane::Slow, Lane::Programs] {
            let l = lane as usize;
            while let Some((id, stamp)) = self.queues[l].front().copied() {
                let e = &self.entries[id as usize];
                if e.stamp != stamp || e.place != Place::Waits {
                    self.queues[l].pop_front();
                    continue;
                }
                if self.running[l] >= self.limit(lane) && !(lane == Lane::Fast && self.make_room(now)) {
                    break;
                }
                self.queues[l].pop_front();
                let e = &mut self.entries[id as usize];
                e.place = Place::Runs(lane, now);
                self.running[l] += 1;
                if lane == Lane::Fast {
                    self.worst_wait = self.worst_wait.max(now.since(e.due));
                    self.began.push_back((now, id, stamp));
                }
                return Some(id);
            }
        }
        None
    }

    /// A check that has to be stopped; it will be started again.
    pub fn poll_abort(&mut self) -> Option<u32> {
        self.aborted.pop_front()
    }

    /// Checks that run now.
    pub fn running(&self) -> usize {
        self.running.iter().sum()
    }

    fn limit(&self, lane: Lane) -> usize {
        match lane {
            Lane::Fast => self.limits.fast,
            Lane::Slow => self.limits.slow,
            Lane::Programs => self.limits.programs,
        }
    }

    /// Puts what is due in line.
    fn collect(&mut self, now: Mono) {
        while let Some(Reverse((at, id, stamp))) = self.due.peek().copied() {
            let e = &mut self.entries[id as usize];
            let fresh = e.stamp == stamp && e.place == Place::Idle;
            if fresh && at > now {
                break;
            }
            self.due.pop();
            if fresh {
                e.place = Place::Waits;
                let lane = match (e.program, e.suspect) {
                    (true, _) => Lane::Programs,
                    (false, true) => Lane::Slow,
                    (false, false) => Lane::Fast,
                };
                self.queues[lane as usize].push_back((id, stamp));
            }
        }
    }

    /// Moves a check out of the full fast lane that has run for long enough.
    fn make_room(&mut self, now: Mono) -> bool {
        while let Some((began, id, stamp)) = self.began.front().copied() {
            let e = &mut self.entries[id as usize];
            if e.stamp != stamp || e.place != Place::Runs(Lane::Fast, began) {
                self.began.pop_front();
                continue;
            }
            if now.since(began) < self.limits.patience {
                return false;
            }
            self.began.pop_front();
            self.running[Lane::Fast as usize] -= 1;
            if self.running[Lane::Slow as usize] < self.limits.slow {
                e.place = Place::Runs(Lane::Slow, began);
                self.running[Lane::Slow as usize] += 1;
            } else {
                (e.place, e.suspect) = (Place::Waits, true);
                self.queues[Lane::Slow as usize].push_back((id, stamp));
                self.aborted.push_back(id);
            }
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Limits = Limits { fast: 2, slow: 1, programs: 1, patience: Span::from_millis(100) };

    fn starts(s: &mut Schedule, ms: u64) -> Vec<u32> {
        std::iter::from_fn(|| s.start(Mono::from_millis(ms))).collect()
    }

    #[test]
    fn a_hanging_check_makes_room_for_one_that_waits() {
        let mut s = Schedule::new(TINY);
        (0..4).for_each(|id| s.set(id, Mono::ZERO, false));
        assert_eq!(starts(&mut s, 0), [0, 1]);
        assert_eq!(s.poll_timeout(), Some(Mono::from_millis(100)));
        // one goes on in the slow lane, the other one is given up and waits for it
        assert_eq!(starts(&mut s, 100), [2, 3]);
        assert_eq!((s.poll_abort(), s.poll_abort(), s.running()), (Some(1), None, 3));
        assert!(s.finished(0, false) && !s.finished(1, true));
        assert_eq!(starts(&mut s, 150), [1]);
    }

    #[test]
    fn what_failed_last_time_waits_for_its_own_kind() {
        let mut s = Schedule::new(TINY);
        (0..3).for_each(|id| s.set(id, Mono::ZERO, false));
        assert_eq!(starts(&mut s, 0), [0, 1]);
        s.finished(0, false);
        s.finished(1, false);
        assert_eq!(starts(&mut s, 0), [2]);
        s.finished(2, true);
        (0..3).for_each(|id| s.set(id, Mono::from_millis(1000), false));
        assert_eq!(s.poll_timeout(), Some(Mono::from_millis(1000)));
        assert_eq!(starts(&mut s, 1000), [2, 0], "one place for those that failed");
        assert!(s.remove(0));
        assert_eq!(starts(&mut s, 1000), [1]);
    }

    #[test]
    fn programs_have_their_own_bound() {
        let mut s = Schedule::new(TINY);
        s.set(0, Mono::ZERO, true);
        s.set(1, Mono::ZERO, true);
        s.set(2, Mono::ZERO, false);
        assert_eq!(starts(&mut s, 0), [2, 0]);
        s.finished(0, true);
        assert_eq!(starts(&mut s, 1), [1]);
    }
}
