//! `fo` and `ovf`: the server with the highest weight takes everything, the others are reserves.

use std::sync::Arc;

use crate::svc::Dest;

/// The first of the heaviest among the usable servers that `may` take it.
fn heaviest(dests: &[Arc<Dest>], may: impl Fn(&Dest) -> bool) -> Option<usize> {
    let mut best: Option<(usize, u32)> = None;
    for (i, dest) in dests.iter().enumerate().filter(|(_, d)| d.usable() && may(d)) {
        if best.is_none_or(|(_, weight)| dest.weight() > weight) {
            best = Some((i, dest.weight()));
        }
    }
    best.map(|(i, _)| i)
}

/// `fo`: weighted failover (IPVS-RULES 49).
pub(super) fn failover(dests: &[Arc<Dest>]) -> Option<usize> {
    heaviest(dests, |_| true)
}

/// `ovf`: weighted overflow: a server is full when its active connections exceed its weight; inactive
/// ones do not count (IPVS-RULES 49).
pub(super) fn overflow(dests: &[Arc<Dest>]) -> Option<usize> {
    heaviest(dests, |d| d.active() <= d.weight())
}
