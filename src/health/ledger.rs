//! One checked address: how many results in a row it takes to be believed, when to look again, and what
//! flapping costs.

use super::spec::{Start, Timing};
use crate::time::{Mono, Span};

/// A change of what is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It works now.
    Up,
    /// It does not work any more.
    Down,
}

/// What is known of one checked address.
#[derive(Clone, Debug)]
pub struct Ledger {
    up: bool,
    /// A result has come.
    seen: bool,
    /// Results in a row that say otherwise than what is believed.
    against: u32,
    /// Since when every result has been good.
    good_since: Option<Mono>,
    /// How often it went down without having worked for long before.
    relapses: u32,
    changed: Mono,
}

impl Ledger {
    /// Nothing known yet.
    pub fn new(now: Mono, timing: &Timing) -> Ledger {
        Ledger {
            up: timing.start == Start::Up,
            seen: false,
            against: 0,
            good_since: None,
            relapses: 0,
            changed: now,
        }
    }

    /// Takes the result of a check; says when that changes what is believed.
    pub fn observe(&mut self, now: Mono, timing: &Timing, ok: bool) -> Option<Transition> {
        let first = !std::mem::replace(&mut self.seen, true);
        self.good_since = if ok { self.good_since.or(Some(now)) } else { None };
        if ok == self.up {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match (first && timing.start == Start::First, ok) {
            (true, _) => 1,
            (false, true) => timing.rise,
            (false, false) => timing.fall,
        };
        if self.against < needed.max(1) || ok && !self.steady(now, timing) {
            return None;
        }
        let lasted = now.since(std::mem::replace(&mut self.changed, now));
        (self.up, self.against) = (ok, 0);
        if ok {
            return Some(Transition::Up);
        }
        let soon = timing.dampening.is_some_and(|d| lasted <= d.window);
        self.relapses = if soon { self.relapses.saturating_add(1) } else { 1 };
        Some(Transition::Down)
    }

    /// Has a server that keeps failing worked long enough?
    fn steady(&self, now: Mono, timing: &Timing) -> bool {
        let since = self.good_since.unwrap_or(now);
        self.hold(timing).is_none_or(|hold| now.since(since) >= hold)
    }

    /// How long it has to work before it is taken back; `None` = `rise` successes will do.
    pub fn hold(&self, timing: &Timing) -> Option<Span> {
        let d = timing.dampening?;
        let doublings = self.relapses.checked_sub(2)?;
        Some(Span(d.hold.0.saturating_mul(1 << doublings.min(32)).min(d.longest.0)))
    }

    /// When the next check begins, after one that ran from `began` to `now`.
    pub fn next(&self, began: Mono, now: Mono, timing: &Timing) -> Mono {
        let failing = self.up && self.against > 0;
        let at = match timing.retry_delay {
            Some(delay) if failing => return now + delay,
            None if failing && timing.fall > 1 => {
                // each of the checks to come may take as long as this one did
                let taken = now.since(began).0.min(timing.timeout.0);
                began + Span(timing.interval.0.saturating_sub(taken / u64::from(timing.fall - 1)))
            }
            _ => began + timing.interval,
        };
        at.max(now)
    }

    /// What is believed.
    pub fn is_up(&self) -> bool {
        self.up
    }
    /// True once a result has come.
    pub fn is_known(&self) -> bool {
        self.seen
    }
    /// Since when.
    pub fn since(&self) -> Mono {
        self.changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timing(rise: u32, fall: u32, start: Start) -> Timing {
        Timing { rise, fall, start, dampening: None, ..Timing::every(Span::from_secs(1)) }
    }

    fn believed(t: &Timing, results: &str) -> String {
        let mut ledger = Ledger::new(Mono::ZERO, t);
        let mut now = Mono::ZERO;
        let one = |c: char| {
            now = now + t.interval;
            ledger.observe(now, t, c == '+');
            if ledger.is_up() { '+' } else { '-' }
        };
        results.chars().map(one).collect()
    }

    // what github/glb-director's own tests say of its dampener, in our words
    #[test]
    fn the_vectors_of_glb_are_reproduced() {
        let cases = [
            (1, 1, "+-+-+-", "+-+-+-"),
            (1, 3, "--+-+-----+-", "--+++++---++"),
            (3, 1, "++-+-+++++-+", "++-----+++--"),
            (3, 3, "--+-+-----+-+++++", "--------------+++"),
            (3, 3, "++-+-+++++-+-----", "++++++++++++++---"),
        ];
        for (rise, fall, results, expected) in cases {
            assert_eq!(believed(&timing(rise, fall, Start::First), results), expected, "{rise}/{fall}");
        }
    }

    #[test]
    fn the_start_state_holds_until_enough_results_speak_against_it() {
        assert_eq!(believed(&timing(2, 3, Start::Up), "--++---+"), "++++++--");
        assert_eq!(believed(&timing(2, 3, Start::Down), "+-++--"), "---+++");
    }

    #[test]
    fn a_flapping_server_stays_out_until_it_has_worked_for_a_while() {
        let t = Timing { rise: 1, fall: 1, ..Timing::every(Span::from_secs(1)) };
        let mut ledger = Ledger::new(Mono::ZERO, &t);
        let mut changes = 0;
        for second in 1..=3600u64 {
            changes +=
                u32::from(ledger.observe(Mono::from_millis(second * 1000), &t, second % 2 == 0).is_some());
        }
        assert!(changes <= 3, "{changes} changes in an hour of flapping");
        let mut now = Mono::from_millis(3_600_000);
        let quiet = now;
        while ledger.observe(now, &t, true).is_none() {
            now = now + t.interval;
            assert!(now.since(quiet).as_secs() <= 3600, "a server that works comes back");
        }
        assert!(now.since(quiet).as_secs() >= 30);
    }

    #[test]
    fn one_failure_costs_nothing_extra() {
        let t = Timing { rise: 2, fall: 1, ..Timing::every(Span::from_secs(1)) };
        let mut ledger = Ledger::new(Mono::ZERO, &t);
        assert_eq!(ledger.observe(Mono::from_millis(1000), &t, false), Some(Transition::Down));
        assert_eq!(ledger.observe(Mono::from_millis(2000), &t, true), None);
        assert_eq!(ledger.observe(Mono::from_millis(3000), &t, true), Some(Transition::Up));
    }

    proptest! {
        /// However long the failing checks take: the last of `fall` failures is known `fall` intervals after
        /// the last success began.
        #[test]
        fn a_fault_is_known_in_fall_intervals(
            interval in 200u64..10_000, fall in 2u32..6, share in 1u64..=100, jitter in 0u64..=10,
        ) {
            let longest = interval * u64::from(fall - 1) / u64::from(fall);
            let taken = Span::from_millis(longest * share / 100);
            let t = Timing {
                timeout: Span::from_millis(longest),
                ..timing(2, fall, Start::Up)
            };
            let t = Timing { interval: Span::from_millis(interval), ..t };
            let mut ledger = Ledger::new(Mono::ZERO, &t);
            let good = Mono::from_millis(1_000_000);
            ledger.observe(good, &t, true);
            let mut began = ledger.next(good, good, &t);
            prop_assert_eq!(began, good + t.interval);
            // jitter only makes it earlier
            began = Mono(began.0 - t.interval.0 * jitter / 100);
            loop {
                let ended = began + taken;
                if ledger.observe(ended, &t, false).is_some() {
                    prop_assert!(ended.since(good).as_millis() <= u64::from(fall) * interval + 1);
                    break;
                }
                began = ledger.next(began, ended, &t);
            }
        }

        /// A state changes only after `rise` or `fall` equal results in a row.
        #[test]
        fn only_results_in_a_row_change_what_is_believed(
            rise in 1u32..5, fall in 1u32..5, results in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let t = timing(rise, fall, Start::Up);
            let mut ledger = Ledger::new(Mono::ZERO, &t);
            for (i, ok) in results.iter().enumerate() {
                let changed = ledger.observe(Mono::from_millis(i as u64), &t, *ok);
                let row = results[..=i].iter().rev().take_while(|r| *r == ok).count() as u32;
                match changed {
                    Some(Transition::Up) => prop_assert!(*ok && row >= rise),
                    Some(Transition::Down) => prop_assert!(!*ok && row >= fall),
                    None => {
                        let needed = if *ok { rise } else { fall };
                        prop_assert!(ledger.is_up() == *ok || row < needed);
                    }
                }
            }
        }
    }
}
