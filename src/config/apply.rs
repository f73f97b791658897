//! One transaction: what runs becomes what the plan says, all of it or nothing.
//!
//! Services and real servers that stay keep their identity, counts and connections; a scheduler starts
//! afresh only when it was changed itself.

use std::collections::HashSet;

use super::plan::Plan;
use super::sysctl::Value;
use crate::svc::{Catalog, CatalogError, DestSpec, ServiceKey, ServiceSpec, Sysctl, Timeouts};

/// What a transaction changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services added, changed, removed.
    pub services: [usize; 3],
    /// Real servers added, changed, removed (those of added and removed services among them).
    pub reals: [usize; 3],
    /// Timeouts or settings changed.
    pub settings: bool,
    /// Checks changed, or what they mean.
    pub checks: bool,
}

impl Changes {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (what, counts) in [("services", self.services), ("real servers", self.reals)] {
            for (n, how) in counts.into_iter().zip(["added", "changed", "removed"]) {
                if n > 0 {
                    parts.push(format!("{n} {what} {how}"));
                }
            }
        }
        if self.settings {
            parts.push("settings changed".to_owned());
        }
        if self.checks {
            parts.push("checks changed".to_owned());
        }
        if parts.is_empty() { f.write_str("nothing changed") } else { f.write_str(&parts.join(", ")) }
    }
}

/// Makes of what runs what the plan says. The network of the catalog stays.
///
/// # Errors
/// A change the catalog refuses; a checked plan has none.
pub fn apply(plan: &Plan, running: &Catalog) -> Result<(Catalog, Changes), CatalogError> {
    let mut next = running.clone();
    let mut changes = Changes::default();
    next.timeouts = timeouts(plan);
    next.sysctl = settings(plan);
    changes.settings = next.timeouts != running.timeouts || next.sysctl != running.sysctl;
    let keep: HashSet<ServiceKey> = plan.services.iter().map(|(s, _)| s.key).collect();
    for gone in running.services().iter().filter(|s| !keep.contains(&s.spec.key)) {
        next.remove_service(&gone.spec.key)?;
        changes.services[2] += 1;
        changes.reals[2] += gone.dests.len();
    }
    for (spec, reals) in &plan.services {
        match running.service(&spec.key) {
            None => {
                next.add_service(spec.clone())?;
                changes.services[0] += 1;
            }
            Some(old) if old.spec == *spec => {}
            Some(old) => {
                if same_scheduling(&old.spec, spec) {
                    next.retouch_service(spec.clone())?;
                } else {
                    next.edit_service(spec.clone())?;
                }
                changes.services[1] += 1;
            }
        }
        servers(running, &mut next, &spec.key, reals, &mut changes)?;
    }
    Ok((next, changes))
}

fn same_scheduling(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    a.scheduler == b.scheduler && a.flags == b.flags
}

fn servers(
    running: &Catalog,
    next: &mut Catalog,
    key: &ServiceKey,
    reals: &[DestSpec],
    changes: &mut Changes,
) -> Result<(), CatalogError> {
    let old = running.service(key).map(|s| s.dests.as_slice()).unwrap_or_default();
    // nearly always nothing changed, and the order is the reverse one: the newest server is the first
    if old.len() == reals.len() && old.iter().rev().zip(reals).all(|(d, real)| d.spec == *real) {
        return Ok(());
    }
    let keep: HashSet<_> = reals.iter().map(|r| (r.ip, r.port)).collect();
    for gone in old.iter().filter(|d| !keep.contains(&(d.spec.ip, d.spec.port))) {
        next.remove_dest(key, gone.spec.ip, gone.spec.port)?;
        changes.reals[2] += 1;
    }
    for real in reals {
        match old.iter().find(|d| d.spec.ip == real.ip && d.spec.port == real.port) {
            None => {
                next.add_dest(key, real.clone())?;
                changes.reals[0] += 1;
            }
            Some(d) if d.spec == *real => {}
            Some(_) => {
                next.edit_dest(key, real.clone())?;
                changes.reals[1] += 1;
            }
        }
    }
    Ok(())
}

fn timeouts(plan: &Plan) -> Timeouts {
    let mut t = Timeouts::default();
    t.set(plan.timeouts.tcp, plan.timeouts.tcp_fin, plan.timeouts.udp);
    t
}

fn settings(plan: &Plan) -> Sysctl {
    let mut s = Sysctl::default();
    for (name, value) in &plan.sysctl.0 {
        if let Value::Int(n) = value {
            // The kernel keeps these in an int and looks at its bits. What has no effect was said at the
            // check, so a name that is refused here needs no second message.
            let _ = s.set(name, i64::from(*n as u32));
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    const NET: &str = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\"]\n";

    fn plan(text: &str) -> Plan {
        check(&format!("{NET}{text}"), "f").unwrap()
    }

    fn service(vip: u8, more: &str, reals: &[(u8, u32)]) -> String {
        let mut text = format!("[[service]]\naddress = \"10.0.0.{vip}:80\"\n{more}\n");
        for (rip, weight) in reals {
            text += &format!("[[service.real]]\naddress = \"10.0.0.{rip}\"\nweight = {weight}\n");
        }
        text
    }

    #[test]
    fn what_stays_keeps_its_identity_and_counts() {
        let first = plan(&(service(100, "", &[(11, 1), (12, 1)]) + &service(101, "", &[(11, 1)])));
        let (mut catalog, changes) = apply(&first, &Catalog::default()).unwrap();
        assert_eq!((changes.services, changes.reals), ([2, 0, 0], [3, 0, 0]));
        let snapshot = catalog.commit();
        let before = snapshot.services[0].dests.clone();
        before[0].bind(true);

        let second = plan(&(service(100, "", &[(11, 5), (13, 1)]) + &service(102, "", &[])));
        let (mut catalog, changes) = apply(&second, &catalog).unwrap();
        assert_eq!((changes.services, changes.reals), ([1, 0, 1], [1, 1, 2]));
        assert_eq!(
            changes.to_string(),
            "1 services added, 1 services removed, 1 real servers added, 1 real servers changed, 2 real servers removed"
        );
        let after = catalog.commit();
        let kept = after.services[0].dests.iter().find(|d| d.spec.weight == 5).unwrap();
        let old = before.iter().find(|d| d.spec.ip == kept.spec.ip).unwrap();
        assert_eq!(kept.id, old.id);
        let removed = before.iter().find(|d| d.spec.ip.to_string() == "10.0.0.12").unwrap();
        assert!(after.dest(removed.id).is_some(), "a removed server with connections stays until they end");
    }

    #[test]
    fn the_same_plan_again_changes_nothing() {
        let p = plan(&service(100, "scheduler = \"wrr\"", &[(11, 1)]));
        let (catalog, _) = apply(&p, &Catalog::default()).unwrap();
        let (_, changes) = apply(&p, &catalog).unwrap();
        assert!(changes.is_empty());
        assert_eq!(changes.to_string(), "nothing changed");
    }

    #[test]
    fn only_a_changed_scheduler_starts_afresh() {
        let (catalog, _) = apply(&plan(&service(100, "", &[(11, 1)])), &Catalog::default()).unwrap();
        let scheduler = |c: &Catalog| std::sync::Arc::as_ptr(&c.services()[0].scheduler);
        let (renamed, _) = apply(&plan(&service(100, "name = \"web\"", &[(11, 1)])), &catalog).unwrap();
        assert_eq!(scheduler(&renamed), scheduler(&catalog));
        let (other, changes) =
            apply(&plan(&service(100, "scheduler = \"rr\"", &[(11, 1)])), &catalog).unwrap();
        assert_ne!(scheduler(&other), scheduler(&catalog));
        assert_eq!(changes.services, [0, 1, 0]);
    }

    #[test]
    fn settings_go_back_to_their_defaults_when_they_are_left_out() {
        let text = "[sysctl]\nexpire_nodest_conn = 1\nconn_reuse_mode = -1\n[timeouts]\ntcp = \"1m\"\n";
        let (catalog, changes) = apply(&plan(text), &Catalog::default()).unwrap();
        assert!(catalog.sysctl.expire_nodest_conn && changes.settings);
        assert_eq!(catalog.sysctl.conn_reuse_mode, u32::MAX);
        assert_eq!(catalog.timeouts.listed()[0].as_secs(), 60);
        let (catalog, _) = apply(&plan(""), &catalog).unwrap();
        assert_eq!((catalog.sysctl, catalog.timeouts), (Sysctl::default(), Timeouts::default()));
    }
}
