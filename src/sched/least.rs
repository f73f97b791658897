//! `lc`, `wlc`, `sed`, `nq`: the server with the least load, the first in list order among equals.

use std::sync::Arc;

use crate::svc::Dest;

/// Load by connections: an active one counts as much as 256 inactive ones (IPVS-RULES 46).
pub(super) fn overhead(dest: &Dest) -> u64 {
    u64::from(dest.active()) * 256 + u64::from(dest.inactive())
}

/// True when load `a` on weight `wa` is more than load `b` on weight `wb`; no division, no rounding.
pub(super) fn heavier(a: u64, wa: u32, b: u64, wb: u32) -> bool {
    u128::from(a) * u128::from(wb) > u128::from(b) * u128::from(wa)
}

/// The usable server with the least `load` divided by its weight.
fn least<'a>(
    dests: impl Iterator<Item = (usize, &'a Arc<Dest>)>,
    load: impl Fn(&Dest) -> u64,
) -> Option<usize> {
    let mut best: Option<(usize, u64, u32)> = None;
    for (i, dest) in dests.filter(|(_, d)| d.usable()) {
        // both read once: other workers change the counts meanwhile
        let (load, weight) = (load(dest), dest.weight());
        if best.is_none_or(|(_, l, w)| heavier(l, w, load, weight)) {
            best = Some((i, load, weight));
        }
    }
    best.map(|(i, _, _)| i)
}

/// `lc`: least connections, weights do not count except 0.
pub(super) fn connections(dests: &[Arc<Dest>]) -> Option<usize> {
    (0..dests.len()).filter(|i| dests[*i].usable()).min_by_key(|i| overhead(&dests[*i]))
}

/// `wlc`: least connections in proportion to weight.
pub(super) fn weighted<'a>(dests: impl Iterator<Item = (usize, &'a Arc<Dest>)>) -> Option<usize> {
    least(dests, overhead)
}

/// `sed`: shortest expected delay, (active + 1) / weight (rule 48).
pub(super) fn expected_delay(dests: &[Arc<Dest>]) -> Option<usize> {
    least(dests.iter().enumerate(), |d| u64::from(d.active()) + 1)
}

/// `nq`: a server without active connections if there is one, else as `sed` (rule 48).
pub(super) fn never_queue(dests: &[Arc<Dest>]) -> Option<usize> {
    dests.iter().position(|d| d.usable() && d.active() == 0).or_else(|| expected_delay(dests))
}
