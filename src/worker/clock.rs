//! The only clock read of the program.

use std::sync::OnceLock;
use std::time::Instant;

use crate::time::Mono;

static START: OnceLock<Instant> = OnceLock::new();

/// Monotonic time since the program first asked. All threads share the start.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Mono {
    let start = *START.get_or_init(Instant::now);
    Mono(Instant::now().saturating_duration_since(start).as_nanos() as u64)
}

/// Seconds since 1970, for people: nothing is decided by it.
#[allow(clippy::disallowed_methods)]
pub fn wall_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back() {
        let mut last = now();
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
