//! What the traffic itself says: connections that a server did not answer, or refused.

use std::collections::VecDeque;

use super::spec::PassiveSpec;
use crate::time::{Mono, Span};

/// No server is kept out longer than this without another try.
const LONGEST: Span = Span::from_secs(3600);

/// Counts of a server's connections, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections opened.
    pub opened: u64,
    /// Clients that had to ask again because nobody answered.
    pub unanswered: u64,
    /// Connections the server refused by a reset.
    pub refused: u64,
}

/// The judgement on one server.
#[derive(Clone, Debug, Default)]
pub struct Passive {
    /// Counts at the last look, `None` before the first.
    last: Option<Traffic>,
    /// Opened and failed, by the time they were seen.
    lately: VecDeque<(Mono, u64, u64)>,
    out_until: Option<Mono>,
    /// When it was taken back last, and how long it had been out.
    back: Option<(Mono, Span)>,
}

impl Passive {
    /// Takes the counts of now. True when the judgement changed.
    pub fn observe(&mut self, now: Mono, spec: &PassiveSpec, counts: Traffic) -> bool {
        let last = self.last.replace(counts).unwrap_or(counts);
        let opened = counts.opened.saturating_sub(last.opened);
        let failed =
            counts.unanswered.saturating_sub(last.unanswered) + counts.refused.saturating_sub(last.refused);
        if self.out_until.is_some() {
            return self.on_timeout(now, spec);
        }
        if opened + failed > 0 {
            self.lately.push_back((now, opened, failed));
        }
        while self.lately.front().is_some_and(|(at, ..)| now.since(*at) > spec.window) {
            self.lately.pop_front();
        }
        let (opened, failed) = self.lately.iter().fold((0, 0), |(o, f), (_, a, b)| (o + a, f + b));
        if failed < u64::from(spec.failures.max(1)) || failed * 2 < opened {
            return false;
        }
        // trouble soon after it was taken back: longer this time
        let hold = match self.back {
            Some((at, hold)) if now.since(at) < Span(hold.0.max(spec.window.0) * 2) => {
                Span(hold.0.saturating_mul(2)).min(LONGEST)
            }
            _ => spec.hold,
        };
        self.lately.clear();
        self.out_until = Some(now + hold);
        self.back = Some((now + hold, hold));
        true
    }

    /// Takes a server back whose time is over. True when the judgement changed.
    pub fn on_timeout(&mut self, now: Mono, _: &PassiveSpec) -> bool {
        let over = self.out_until.is_some_and(|at| at <= now);
        if over {
            self.out_until = None;
        }
        over
    }

    /// When [`Passive::on_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.out_until
    }

    /// May it be used?
    pub fn is_fine(&self) -> bool {
        self.out_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: PassiveSpec =
        PassiveSpec { failures: 3, window: Span::from_secs(5), hold: Span::from_secs(5) };

    fn counts(opened: u64, unanswered: u64, refused: u64) -> Traffic {
        Traffic { opened, unanswered, refused }
    }

    #[test]
    fn refused_connections_take_a_server_out_for_longer_each_time() {
        let mut p = Passive::default();
        let mut now = Mono::from_millis(1000);
        let mut refused = 0;
        assert!(!p.observe(now, &SPEC, counts(0, 0, 0)));
        for hold in [5, 10, 20, 40] {
            refused += 3;
            now = now + Span::from_secs(1);
            assert!(p.observe(now, &SPEC, counts(refused, 0, refused)) && !p.is_fine());
            assert_eq!(p.poll_timeout(), Some(now + Span::from_secs(hold)));
            now = now + Span::from_secs(hold);
            assert!(p.on_timeout(now, &SPEC) && p.is_fine());
        }
    }

    #[test]
    fn a_few_failures_among_many_connections_are_no_reason() {
        let mut p = Passive::default();
        assert!(!p.observe(Mono::ZERO, &SPEC, counts(0, 0, 0)));
        assert!(!p.observe(Mono::from_millis(1000), &SPEC, counts(100, 20, 10)));
        assert!(p.is_fine());
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut p = Passive::default();
        p.observe(Mono::ZERO, &SPEC, counts(0, 0, 0));
        assert!(!p.observe(Mono::from_millis(1000), &SPEC, counts(2, 2, 0)));
        assert!(!p.observe(Mono::from_millis(9000), &SPEC, counts(3, 3, 0)));
        assert!(p.observe(Mono::from_millis(10_000), &SPEC, counts(5, 3, 2)));
    }
}
