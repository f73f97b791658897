//! Slow start: a server that comes back grows to its full share of new connections.
//!
//! Weights alone cannot do this: a weight of 1 has no tenth, `rr` and `lc` do not look at weights, and the
//! least-connection schedulers give an empty server everything until it has as many connections as the
//! others, whatever its weight. So the share itself is bounded: the packet path gives the newcomer credit
//! for each connection of its service and passes it over while it has none.

use crate::time::{Mono, Span};

/// A whole in the units of [`Ramp::share`].
pub const WHOLE: u32 = 1 << 16;
/// How often a share is looked at anew.
pub const STEP: Span = Span::from_millis(100);
/// The share at first, in hundredths of the server's fair one.
const FIRST: u64 = 10;

/// A server on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    began: Mono,
    window: Span,
}

impl Ramp {
    /// It begins now.
    pub fn new(now: Mono, window: Span) -> Ramp {
        Ramp { began: now, window }
    }
    /// True when the server has its full share again.
    pub fn is_over(&self, now: Mono) -> bool {
        now.since(self.began) >= self.window
    }
    /// Bound of its part of the service's new connections, in parts of [`WHOLE`], for a server of `weight`
    /// of `total`: a tenth of its fair share at first, in a line to all of it. `None` once it is over.
    pub fn share(&self, now: Mono, weight: u32, total: u64) -> Option<u32> {
        if self.is_over(now) || total == 0 {
            return None;
        }
        let passed =
            now.since(self.began).0 as u128 * u128::from(100 - FIRST) / u128::from(self.window.0.max(1));
        let hundredths = u128::from(FIRST) + passed;
        let share = u128::from(weight) * u128::from(WHOLE) * hundredths / (u128::from(total) * 100);
        Some((share as u32).clamp(1, WHOLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_in_a_line_from_a_tenth() {
        let r = Ramp::new(Mono::from_millis(500), Span::from_secs(10));
        let at = |ms| r.share(Mono::from_millis(ms), 1, 4);
        let fair = WHOLE / 4;
        assert_eq!(at(500), Some(fair / 10));
        assert_eq!(at(5500), Some(fair * 55 / 100));
        assert_eq!(at(10_500), None);
        assert_eq!(r.share(Mono::from_millis(500), 1, u64::MAX), Some(1), "never nothing at all");
    }
}
