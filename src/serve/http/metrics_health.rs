//! What checks found, as metrics.

use std::collections::BTreeSet;

use super::metrics::{Family, borrowed, labels};
use crate::ctl::State;
use crate::health::Wish;
use crate::health::tally::{CheckTally, Failed, STEPS};
use crate::serve::health::ServiceStatus;

/// Writes what the runs of checks came to; nothing where there were none.
pub(super) fn write_runs(o: &mut String, tallies: &[(String, CheckTally)]) {
    if tallies.is_empty() {
        return;
    }
    let about = "How long checks took, those at their timeout included.";
    let mut f = Family::new(o, "softlvs_check_duration_seconds", "histogram", about);
    for (check, tally) in tallies {
        f.add_histogram(
            &[("check", check)],
            &STEPS.map(|ms| ms * 1_000_000),
            &tally.steps,
            (tally.runs, tally.took),
        );
    }
    let about =
        "Checks that did not find their server as it should be; unchecked: nothing could be found out.";
    let mut f = Family::new(o, "softlvs_check_failures_total", "counter", about);
    for (check, tally) in tallies {
        for why in Failed::ALL {
            f.add(&[("check", check), ("reason", why.name())], tally.failed(why));
        }
    }
}

/// Writes the families; none of them where nothing is watched.
pub(super) fn write(o: &mut String, state: &State, known: &[ServiceStatus]) {
    let watched = || known.iter().filter_map(|k| Some((k, state.catalog.service(&k.key)?)));
    // a server that checks took out is not in the catalog, but it is here
    let reals = || {
        watched().flat_map(|(status, service)| {
            status.reals.iter().map(move |real| {
                let mut all = labels(service).to_vec();
                all.push(("rs", real.at.to_string()));
                (service, real, all)
            })
        })
    };
    if watched().next().is_some() {
        let about = "1 while enough of a service's servers are healthy.";
        let mut f = Family::new(o, "softlvs_service_quorum_ok", "gauge", about);
        for (status, service) in watched() {
            f.add(&borrowed(&labels(service), &[]), u8::from(status.quorum));
        }
    }
    if reals().any(|(_, r, _)| !r.checks.is_empty()) {
        let mut f =
            Family::new(o, "softlvs_check_status", "gauge", "1 while a check finds a real server up.");
        for (_, real, labels) in reals() {
            // a server may name a check twice
            let each: BTreeSet<_> = real.checks.iter().map(|(name, up, ..)| (name.as_str(), *up)).collect();
            for (name, up) in each {
                f.add(&borrowed(&labels, &[("check", name)]), u8::from(up));
            }
        }
    }
    let draining = || {
        reals().filter(|(_, r, _)| matches!(r.wish, Wish::Drain | Wish::Cut)).filter_map(|(s, r, labels)| {
            let dest = s.dests.iter().find(|d| (d.spec.ip, d.spec.port) == (r.at.ip(), r.at.port()))?;
            Some((dest.active() + dest.inactive(), labels))
        })
    };
    if draining().next().is_some() {
        let about = "Connections left on a real server that is being drained.";
        let mut f = Family::new(o, "softlvs_rs_drain_remaining_connections", "gauge", about);
        for (left, labels) in draining() {
            f.add(&borrowed(&labels, &[]), left);
        }
    }
}
