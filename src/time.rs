//! Injected time.
//!
//! The core never reads a clock: every entry point takes `now: Mono` as its first argument. The only
//! clock read of the program is `worker/clock.rs`; tests and replays make up their own times.

use std::ops::{Add, Sub};

/// A point in monotonic time, nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

impl Mono {
    /// The start of time, used by tests.
    pub const ZERO: Mono = Mono(0);

    /// A point `ms` milliseconds after the start.
    pub const fn from_millis(ms: u64) -> Mono {
        Mono(ms.saturating_mul(1_000_000))
    }
    /// Time passed since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Mono) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
    /// Whole milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// `s` seconds.
    pub const fn from_secs(s: u64) -> Span {
        Span(s.saturating_mul(1_000_000_000))
    }
    /// `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Span {
        Span(ms.saturating_mul(1_000_000))
    }
    /// `us` microseconds.
    pub const fn from_micros(us: u64) -> Span {
        Span(us.saturating_mul(1000))
    }
    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
    /// Whole microseconds, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1000
    }
}

impl Add<Span> for Mono {
    type Output = Mono;
    fn add(self, span: Span) -> Mono {
        Mono(self.0.saturating_add(span.0))
    }
}

impl Sub<Mono> for Mono {
    type Output = Span;
    fn sub(self, earlier: Mono) -> Span {
        self.since(earlier)
    }
}

/// How finely the kernel's timers count: with 250 ticks a second, in steps eight times longer from one
/// level of its wheel to the next.
fn step(timeout: Span) -> Span {
    let tick = Span::from_millis(4);
    let level = (0..7).find(|n| timeout.0 < (tick.0 * 63) << (3 * n)).unwrap_or(7);
    Span(tick.0 << (3 * level))
}

/// When a timer of the kernel's goes off that was set `timeout` before `deadline`: at the end of the step
/// that this lies in, 2 s long for a minute, 16 s for five. Steps begin at time zero.
pub fn fires(deadline: Mono, timeout: Span) -> Mono {
    let step = step(timeout).0;
    Mono((deadline.0 / step).saturating_add(1).saturating_mul(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Mono::ZERO - Mono(5), Span::ZERO);
        assert_eq!(Mono(u64::MAX) + Span::from_secs(1), Mono(u64::MAX));
        assert_eq!(Mono::from_millis(1500).since(Mono::from_millis(500)).as_secs(), 1);
    }

    #[test]
    fn the_kernels_timer_steps() {
        let ms = |n: u64| step(Span::from_secs(n)).as_millis();
        assert_eq!([ms(0), ms(1), ms(10), ms(60), ms(300), ms(3600)], [4, 32, 256, 2048, 16_384, 131_072]);
    }

    #[test]
    fn a_timer_goes_off_at_the_end_of_its_step() {
        let minute = Span::from_secs(60);
        let fired = fires(Mono::ZERO + minute, minute);
        assert_eq!(fired, Mono::from_millis(30 * 2048));
        // one that is set at the moment it fires gets whole steps (`5-pers-udp-template-extend`)
        assert_eq!(fires(fired + minute, minute), Mono::from_millis(60 * 2048));
        assert_eq!(fires(Mono::from_millis(2047), minute), Mono::from_millis(2048));
    }
}
