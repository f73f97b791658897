//! The settings that IPVS has under `net.ipv4.vs`: names, defaults and ranges as the kernel has them.
//!
//! Vector `8-cli-sysctl` shows the defaults and which values the kernel refuses.

use std::collections::BTreeMap;

use super::diag::Complaint;

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// A whole number, both ends included.
    Int(i64, i64),
    /// A power of two up to this (`sync_ports`).
    PowerOfTwo(i64),
    /// Two numbers in a string, `"3 50"`: the first below the second, or the second 0.
    Pair,
    /// Free text (`est_cpulist`).
    Text,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Name without `net.ipv4.vs.`.
    pub name: &'static str,
    /// What it takes.
    pub range: Range,
    /// The kernel's default.
    pub default: &'static str,
}

const ANY: Range = Range::Int(i32::MIN as i64, i32::MAX as i64);

const fn known(name: &'static str, range: Range, default: &'static str) -> Known {
    Known { name, range, default }
}

/// Every setting, by name.
pub const ALL: &[Known] = &[
    known("am_droprate", ANY, "10"),
    known("amemthresh", ANY, "1024"),
    known("backup_only", ANY, "0"),
    known("cache_bypass", ANY, "0"),
    known("conn_lfactor", Range::Int(-8, 8), "-4"),
    known("conn_reuse_mode", ANY, "1"),
    known("conntrack", ANY, "0"),
    known("debug_level", ANY, "0"),
    known("drop_entry", Range::Int(0, 3), "0"),
    known("drop_packet", Range::Int(0, 3), "0"),
    known("est_cpulist", Range::Text, ""),
    known("est_nice", Range::Int(-20, 19), "0"),
    known("expire_nodest_conn", ANY, "0"),
    known("expire_quiescent_template", ANY, "0"),
    known("ignore_tunneled", ANY, "0"),
    known("lblc_expiration", ANY, "86400"),
    known("lblcr_expiration", ANY, "86400"),
    known("nat_icmp_send", ANY, "0"),
    known("pmtu_disc", ANY, "1"),
    known("run_estimation", ANY, "1"),
    known("schedule_icmp", ANY, "0"),
    known("secure_tcp", Range::Int(0, 3), "0"),
    known("sloppy_sctp", ANY, "0"),
    known("sloppy_tcp", ANY, "0"),
    known("snat_reroute", ANY, "1"),
    known("svc_lfactor", Range::Int(-8, 8), "-3"),
    known("sync_persist_mode", ANY, "0"),
    known("sync_ports", Range::PowerOfTwo(64), "1"),
    known("sync_qlen_max", Range::Int(0, i64::MAX), "11161"),
    known("sync_refresh_period", ANY, "0"),
    known("sync_retries", Range::Int(0, 3), "0"),
    known("sync_sock_size", ANY, "0"),
    known("sync_threshold", Range::Pair, "3 50"),
    known("sync_version", Range::Int(0, 1), "1"),
];

/// The setting of this name; `net.ipv4.vs.` before it is allowed.
pub fn find(name: &str) -> Option<&'static Known> {
    let name = name.strip_prefix("net.ipv4.vs.").unwrap_or(name);
    ALL.iter().find(|k| k.name == name)
}

/// True when the setting does something in this version; the others are taken and reported, and
/// `docs/differences.md` says why they have no meaning.
pub fn has_effect(name: &str) -> bool {
    crate::svc::Sysctl::default().set(name, 0).is_ok()
}

/// A value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Int(i64),
    /// Two numbers.
    Pair(i64, i64),
    /// Text.
    Text(String),
}

impl Known {
    /// Checks a value given as text, as written to `/proc/sys`.
    ///
    /// # Errors
    /// What the kernel would refuse.
    pub fn parse(&self, text: &str) -> Result<Value, Complaint> {
        let refuse = |what: String| {
            Err(Complaint::new(
                format!("`{text}` is not {what}"),
                format!(
                    "the default of {} is {}",
                    self.name,
                    if self.default.is_empty() { "empty" } else { self.default }
                ),
            ))
        };
        let int = || text.trim().parse::<i64>().ok();
        match self.range {
            Range::Int(low, high) => match int() {
                Some(n) if (low..=high).contains(&n) => Ok(Value::Int(n)),
                _ => refuse(format!("a whole number from {low} to {high}")),
            },
            Range::PowerOfTwo(high) => match int() {
                Some(n) if (1..=high).contains(&n) && n & (n - 1) == 0 => Ok(Value::Int(n)),
                _ => refuse(format!("a power of two from 1 to {high}")),
            },
            Range::Pair => {
                let mut parts = text.split_whitespace().map(str::parse::<i64>);
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(Ok(a)), Some(Ok(b)), None) if a >= 0 && b >= 0 && (a < b || b == 0) => {
                        Ok(Value::Pair(a, b))
                    }
                    _ => refuse("two numbers, the first below the second".to_owned()),
                }
            }
            Range::Text => Ok(Value::Text(text.to_owned())),
        }
    }
}

/// The settings that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls(pub BTreeMap<&'static str, Value>);

impl Sysctls {
    /// A numeric setting, its default when not given; `None` when there is no such number.
    pub fn int(&self, name: &str) -> Option<i64> {
        let known = find(name)?;
        match self.0.get(known.name) {
            Some(Value::Int(n)) => Some(*n),
            Some(_) => None,
            None => known.default.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_refused_and_what_it_takes_is_taken() {
        let ok = |name: &str, v: &str| find(name).unwrap().parse(v).is_ok();
        // 8-cli-sysctl
        for (name, v) in [
            ("drop_entry", "4"),
            ("drop_entry", "-1"),
            ("secure_tcp", "7"),
            ("sync_version", "2"),
            ("sync_threshold", "5 3"),
            ("sync_threshold", "-1 20"),
            ("sync_ports", "3"),
            ("sync_retries", "4"),
            ("sync_retries", "-1"),
        ] {
            assert!(!ok(name, v), "{name} {v}");
        }
        for (name, v) in [
            ("drop_entry", "1"),
            ("sync_version", "0"),
            ("sync_threshold", "2 20"),
            ("sync_ports", "4"),
            ("conn_reuse_mode", "-1"),
            ("conn_reuse_mode", "5"),
            ("expire_nodest_conn", "2"),
            ("am_droprate", "-3"),
            ("sync_sock_size", "-5"),
            ("run_estimation", "0"),
        ] {
            assert!(ok(name, v), "{name} {v}");
        }
    }

    #[test]
    fn every_setting_does_something_or_the_list_of_differences_says_why_not() {
        let differences = include_str!("../../docs/differences.md");
        let (_, settings) = differences.split_once("## Settings").unwrap();
        for k in ALL {
            let named = settings.contains(&format!("`{}`", k.name));
            assert_eq!(has_effect(k.name), !named, "{}", k.name);
        }
    }

    #[test]
    fn every_default_is_in_its_range_and_names_are_sorted() {
        for k in ALL {
            assert!(k.parse(k.default).is_ok(), "{}", k.name);
        }
        assert!(ALL.windows(2).all(|w| w[0].name < w[1].name));
        assert_eq!(Sysctls::default().int("net.ipv4.vs.pmtu_disc"), Some(1));
        assert_eq!(Sysctls::default().int("nonsense"), None);
    }
}
