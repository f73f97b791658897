//! Coarse time for connections: ticks of 1/64 s in 32 bits, buckets of 1/4 s.
//!
//! # Theory of operation
//! A packet only stores a new deadline in its connection ([`super::table::Table::touch`]); the wheel is
//! touched when the deadline moves *before* the bucket the connection hangs in, which happens on state
//! changes to shorter timeouts only. When a bucket's time comes, its connections are looked at: the
//! expired ones are handed out, the others are hung where their deadline now says. So an established flow
//! costs the wheel one visit per timeout, not one per packet. Nothing expires early.
//!
//! The kernel's timers are late by up to a step of its own wheel (IPVS-RULES 79), which decides what a
//! packet meets that comes about then. [`crate::time::fires`] tells when they go off; connections and templates stay
//! as long.

use crate::time::{Mono, Span};

/// Nanoseconds in a tick.
const TICK: u64 = 15_625_000;
/// Ticks in a bucket: 1/4 s.
pub const BUCKET: u32 = 16;
/// Buckets in the wheel: 2,048 s, longer than every default timeout. Later deadlines are hung at the far
/// end and looked at again there.
pub const BUCKETS: u32 = 8192;
/// No connection.
pub const NIL: u32 = u32::MAX;

/// A point in time in ticks, wrapping after 776 days; compared by distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick `now` lies in.
    #[inline]
    pub fn of(now: Mono) -> Tick {
        Tick((now.0 / TICK) as u32)
    }
    /// `span` later, rounded up to a tick. Spans beyond 194 days are cut.
    #[inline]
    pub fn after(self, span: Span) -> Tick {
        self.plus(ticks(span))
    }
    /// So many ticks later.
    #[inline]
    pub const fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.wrapping_add(ticks))
    }
    /// Ticks from `self` until `later`, negative when it has passed.
    #[inline]
    pub fn until(self, later: Tick) -> i32 {
        later.0.wrapping_sub(self.0) as i32
    }
    /// Time from `self` until `later`; zero when it has passed.
    pub fn span_until(self, later: Tick) -> Span {
        Span(self.until(later).max(0) as u64 * TICK)
    }
    /// This tick's time, given one that is not before it.
    pub fn before(self, now: Mono) -> Mono {
        Mono((now.0 / TICK).saturating_sub(u64::from(self.until(Tick::of(now)).unsigned_abs())) * TICK)
    }
    /// Number of the bucket of this tick, not yet reduced to the wheel's size.
    #[inline]
    pub const fn bucket(self) -> u32 {
        self.0 / BUCKET
    }
}

/// Ticks in a span, rounded up. Spans beyond 194 days are cut.
#[inline]
pub fn ticks(span: Span) -> u32 {
    span.0.div_ceil(TICK).min(1 << 30) as u32
}

/// When what is armed for `at` is looked at: its bucket has passed.
pub fn looked_at(at: Mono) -> Mono {
    next_bucket(Mono(at.0.div_ceil(TICK) * TICK))
}

/// Start of the bucket after the one that `now` lies in.
pub fn next_bucket(now: Mono) -> Mono {
    let width = TICK * u64::from(BUCKET);
    Mono((now.0 / width).saturating_add(1).saturating_mul(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_compare_across_the_wrap() {
        let before = Tick(u32::MAX - 5);
        let after = before.after(Span::from_secs(1));
        assert_eq!(before.until(after), 64);
        assert_eq!(after.until(before), -64);
        assert_eq!(before.span_until(after), Span::from_secs(1));
        assert_eq!(after.span_until(before), Span::ZERO);
    }

    #[test]
    fn spans_round_up_so_that_nothing_expires_early() {
        assert_eq!(Tick(0).after(Span(1)), Tick(1));
        assert_eq!(Tick(0).after(Span::from_millis(16)), Tick(2));
    }

    #[test]
    fn the_next_bucket_is_later_and_at_most_a_quarter_second_away() {
        for ms in [0, 1, 249, 250, 251, 1_000_000] {
            let now = Mono::from_millis(ms);
            let next = next_bucket(now);
            assert!(next > now && next.since(now) <= Span::from_millis(250));
        }
    }
}
