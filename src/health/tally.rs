//! How long checks took and how often they failed, by the check's name: for metrics.

use std::collections::BTreeMap;

use crate::time::Span;

/// Upper bounds of the steps by which durations are counted, milliseconds.
pub const STEPS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Why a check did not find its server as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The server said so, or would not talk.
    Answer,
    /// Nothing came in time.
    Timeout,
    /// Nothing could be found out, for want of something here; nobody goes down for it.
    Unchecked,
}

impl Failed {
    /// All of them.
    pub const ALL: [Failed; 3] = [Failed::Answer, Failed::Timeout, Failed::Unchecked];
    /// Name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Failed::Answer => "answer",
            Failed::Timeout => "timeout",
            Failed::Unchecked => "unchecked",
        }
    }
}

/// What the runs of one check came to, at all servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckTally {
    /// Runs that took at most as long as the step of that place in [`STEPS`] says, and longer than the one before.
    pub steps: [u64; STEPS.len()],
    /// All runs that told something.
    pub runs: u64,
    /// Time they took together.
    pub took: Span,
    failed: [u64; Failed::ALL.len()],
}

impl CheckTally {
    /// How often it failed for this reason.
    pub fn failed(&self, why: Failed) -> u64 {
        self.failed[why as usize]
    }
    fn count(&mut self, took: Span, failed: Option<Failed>) {
        if let Some(why) = failed {
            self.failed[why as usize] += 1;
        }
        if failed == Some(Failed::Unchecked) {
            return;
        }
        self.runs += 1;
        self.took = Span(self.took.0.saturating_add(took.0));
        if let Some(step) = STEPS.iter().position(|step| took <= Span::from_millis(*step)) {
            self.steps[step] += 1;
        }
    }
}

/// Of all checks; one that is no more is forgotten.
#[derive(Debug, Default)]
pub struct Tallies(BTreeMap<String, CheckTally>);

impl Tallies {
    /// A run ended.
    pub fn count(&mut self, check: &str, took: Span, failed: Option<Failed>) {
        match self.0.get_mut(check) {
            Some(tally) => tally.count(took, failed),
            None => self.0.entry(check.to_owned()).or_default().count(took, failed),
        }
    }
    /// Keeps the checks that are still there.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_there(name));
    }
    /// Checks with what they came to, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &CheckTally)> {
        self.0.iter().map(|(name, tally)| (name.as_str(), tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_how_long_they_took_and_why_they_failed() {
        let mut all = Tallies::default();
        let ms = Span::from_millis;
        all.count("web", ms(1), None);
        all.count("web", ms(6), Some(Failed::Answer));
        all.count("web", ms(9000), Some(Failed::Timeout));
        all.count("web", ms(3), Some(Failed::Unchecked));
        all.count("dns", ms(2), None);
        let (_, web) = all.iter().nth(1).unwrap();
        assert_eq!((web.runs, web.took), (3, ms(9007)));
        assert_eq!((web.steps[0], web.steps[3], web.steps.iter().sum::<u64>()), (1, 1, 2));
        assert_eq!(Failed::ALL.map(|why| web.failed(why)), [1, 1, 1]);
        all.retain(|name| name == "dns");
        assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["dns"]);
    }
}
