//! What differs between two states, in lines for people: `+` added, `-` removed, `~` changed.

use std::net::SocketAddr;

use super::State;
use crate::health::spec::HealthPlan;
use crate::svc::{DestSpec, ServiceKey, ServiceSpec};

/// Most lines; further differences are counted.
const LINES: usize = 1000;

/// The lines, in the order of the services.
pub fn lines(before: &State, after: &State) -> Vec<String> {
    let mut out = Vec::new();
    settings(before, after, &mut out);
    for s in before.catalog.services() {
        if after.catalog.service(&s.spec.key).is_none() {
            out.push(format!("- service {}", name(&s.spec.key)));
        }
    }
    for s in after.catalog.services() {
        let key = name(&s.spec.key);
        let now = after.overlays.beneath(s);
        let Some(old) = before.catalog.service(&s.spec.key) else {
            out.push(format!("+ service {key}: {}", service_text(&s.spec)));
            out.extend(now.iter().map(|d| format!("+ service {key} real {}", real_text(d))));
            continue;
        };
        if std::sync::Arc::ptr_eq(old, s) {
            continue;
        }
        if old.spec != s.spec {
            let (a, b) = (service_text(&old.spec), service_text(&s.spec));
            out.push(format!("~ service {key}: {a} -> {b}"));
        }
        let then = before.overlays.beneath(old);
        let same = |a: &DestSpec, b: &DestSpec| (a.ip, a.port) == (b.ip, b.port);
        for d in then.iter().filter(|d| !now.iter().any(|n| same(d, n))) {
            out.push(format!("- service {key} real {}", SocketAddr::new(d.ip, d.port)));
        }
        for d in &now {
            match then.iter().find(|o| same(o, d)) {
                None => out.push(format!("+ service {key} real {}", real_text(d))),
                Some(o) if o != d => {
                    out.push(format!("~ service {key} real {} -> {}", real_text(o), real_text(d)));
                }
                Some(_) => {}
            }
        }
    }
    health(&before.plan.health, &after.plan.health, &mut out);
    if out.len() > LINES {
        let more = out.len() - LINES;
        out.truncate(LINES);
        out.push(format!("and {more} more"));
    }
    out
}

fn settings(before: &State, after: &State, out: &mut Vec<String>) {
    let times = |s: &State| s.catalog.timeouts.listed().map(|t| t.as_secs());
    let (a, b) = (times(before), times(after));
    for (i, name) in ["tcp", "tcp_fin", "udp"].into_iter().enumerate().filter(|(i, _)| a[*i] != b[*i]) {
        out.push(format!("~ timeout {name}: {} s -> {} s", a[i], b[i]));
    }
    for known in crate::config::sysctl::ALL {
        let of = |s: &State| s.sysctl.0.get(known.name).cloned().or_else(|| known.parse(known.default).ok());
        if of(before) != of(after) {
            let text = |v: Option<crate::config::sysctl::Value>| match v {
                Some(crate::config::sysctl::Value::Int(n)) => n.to_string(),
                Some(crate::config::sysctl::Value::Pair(a, b)) => format!("{a} {b}"),
                Some(crate::config::sysctl::Value::Text(t)) => t,
                None => String::new(),
            };
            out.push(format!("~ sysctl {}: {} -> {}", known.name, text(of(before)), text(of(after))));
        }
    }
    let linger = |s: &State| s.plan.linger.map_or("default".to_owned(), |l| format!("{} us", l.as_micros()));
    let (a, b) = (linger(before), linger(after));
    if a != b {
        out.push(format!("~ linger: {a} -> {b}"));
    }
    if before.catalog.net != after.catalog.net {
        out.push("~ network: addresses, routes, marks or switches of the director".to_owned());
    }
}

/// Checks. Which servers have which is not compared: servers that came at run time have none of the file's.
fn health(before: &HealthPlan, after: &HealthPlan, out: &mut Vec<String>) {
    for c in before.checks.iter().filter(|c| after.checks.iter().all(|new| new.name != c.name)) {
        out.push(format!("- check {}", c.name));
    }
    for c in &after.checks {
        match before.checks.iter().find(|old| old.name == c.name) {
            None => out.push(format!("+ check {}", c.name)),
            Some(old) if old != c => out.push(format!("~ check {}: what, when or as whom it asks", c.name)),
            Some(_) => {}
        }
    }
    if before.fifo != after.fifo {
        out.push("~ notify_fifo: who hears of changes".to_owned());
    }
}

fn name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { proto, ip, port } => {
            format!("{} {}", proto.name(), SocketAddr::new(*ip, *port))
        }
        ServiceKey::Mark { mark, v6 } => format!("fwmark {mark}{}", if *v6 { " (IPv6)" } else { "" }),
    }
}

fn service_text(spec: &ServiceSpec) -> String {
    let mut text = spec.scheduler.name().to_owned();
    if let Some(p) = spec.persistence {
        text.push_str(&format!(", persistent {} s /{}", p.timeout.as_secs(), p.netmask));
    }
    if spec.one_packet {
        text.push_str(", one packet");
    }
    if spec.flags.port || spec.flags.fallback || spec.engine.is_some() || spec.mss_clamp {
        text.push_str(", with options");
    }
    if !spec.name.is_empty() {
        text.push_str(&format!(", named {}", spec.name));
    }
    text
}

fn real_text(d: &DestSpec) -> String {
    let at = SocketAddr::new(d.ip, d.port);
    let mut text = format!("{at} {} weight {}", d.forward, d.weight);
    if d.upper != 0 {
        text.push_str(&format!(" thresholds {} {}", d.upper, d.lower));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;
    use crate::svc::Catalog;

    #[test]
    fn a_difference_names_what_is_added_changed_and_removed() {
        let state = |text: &str| {
            let net = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\"]\n";
            State::new(check(&format!("{net}{text}"), "f").unwrap(), Catalog::default()).unwrap()
        };
        let before = state(
            "[[service]]\naddress = \"10.0.0.100:80\"\n[[service.real]]\naddress = \"10.0.0.11\"\n\
             [[service.real]]\naddress = \"10.0.0.12\"\n[[service]]\naddress = \"10.0.0.101:80\"\n",
        );
        let after = state(
            "[director]\nlinger = \"0us\"\n[timeouts]\ntcp = \"60s\"\n[sysctl]\ndrop_entry = 3\n\
             [[service]]\naddress = \"10.0.0.100:80\"\nscheduler = \"rr\"\n\
             [[service.real]]\naddress = \"10.0.0.11\"\nweight = 5\n[[service.real]]\naddress = \"10.0.0.13\"\n\
             [[service]]\naddress = \"10.0.0.102:80\"\n",
        );
        assert_eq!(
            lines(&before, &after),
            [
                "~ timeout tcp: 900 s -> 60 s",
                "~ sysctl drop_entry: 0 -> 3",
                "~ linger: default -> 0 us",
                "- service tcp 10.0.0.101:80",
                "~ service tcp 10.0.0.100:80: wlc -> rr",
                "- service tcp 10.0.0.100:80 real 10.0.0.12:80",
                "+ service tcp 10.0.0.100:80 real 10.0.0.13:80 nat weight 1",
                "~ service tcp 10.0.0.100:80 real 10.0.0.11:80 nat weight 1 -> 10.0.0.11:80 nat weight 5",
                "+ service tcp 10.0.0.102:80: wlc",
            ]
        );
        assert!(lines(&before, &before).is_empty());
    }

    #[test]
    fn a_difference_names_checks() {
        let state = |text: &str| {
            let net = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\"]\n";
            let service = "[[service]]\naddress = \"10.0.0.100:80\"\ncheck = \"b\"\n\
                           [[service.real]]\naddress = \"10.0.0.11\"\n";
            let plan = check(&format!("{net}{text}{service}"), "f").unwrap();
            State::new(plan, Catalog::default()).unwrap()
        };
        let tcp =
            |name: &str, rise: u32| format!("[[check]]\nname = \"{name}\"\ntype = \"tcp\"\nrise = {rise}\n");
        let before = state(&(tcp("a", 2) + &tcp("b", 2)));
        for (after, wanted) in [
            (tcp("a", 2) + &tcp("b", 3), vec!["~ check b: what, when or as whom it asks"]),
            (tcp("b", 2), vec!["- check a"]),
            (tcp("c", 2) + &tcp("b", 2), vec!["- check a", "+ check c"]),
            (tcp("b", 2) + &tcp("a", 2), vec![]),
        ] {
            assert_eq!(lines(&before, &state(&after)), wanted, "{after}");
        }
    }
}
