//! Health written back: checks, and what services and real servers say about them.

use std::net::SocketAddr;

use super::doc_health::{RECORDS, VERSIONS, VIAS};
use super::save::{line, list, quoted, span};
use crate::health::spec::{Command, HttpRequest};
use crate::health::{
    AdminState, CheckKind, CheckSpec, HealthPlan, OnFailure, PanicUse, Policy, RealHealth, ServiceHealth,
    Start,
};
use crate::svc::{SchedulerKind, ServiceKey, ServiceSpec};

fn name_of<T: PartialEq>(all: &[(&'static str, T)], value: &T) -> &'static str {
    all.iter().find(|(_, v)| v == value).map_or("", |(n, _)| n)
}

/// All checks.
pub(super) fn checks(out: &mut String, plan: &HealthPlan) {
    for c in &plan.checks {
        out.push_str("\n[[check]]\n");
        check(out, c);
    }
}

fn check(out: &mut String, c: &CheckSpec) {
    let t = &c.timing;
    line(out, "name", quoted(&c.name));
    line(out, "type", quoted(c.kind.name()));
    for (key, value) in [("interval", t.interval), ("timeout", t.timeout), ("warmup", t.warmup)] {
        line(out, key, span(value));
    }
    if let Some(delay) = t.retry_delay {
        line(out, "retry_delay", span(delay));
    }
    for (key, value) in [("rise", t.rise), ("fall", t.fall), ("jitter", t.jitter)] {
        line(out, key, value.to_string());
    }
    let start = match t.start {
        Start::Up => "up",
        Start::Down => "down",
        Start::First => "first",
    };
    line(out, "start", quoted(start));
    line(out, "dampening", t.dampening.is_some().to_string());
    if let Some(via) = &c.via {
        line(out, "via", quoted(name_of(&VIAS, via)));
    }
    if let Some(ip) = c.address {
        line(out, "address", quoted(&ip.to_string()));
    }
    if let Some(port) = c.port {
        line(out, "port", port.to_string());
    }
    if let Some(ip) = c.bind {
        line(out, "bind", quoted(&ip.to_string()));
    }
    kind(out, &c.kind);
}

fn kind(out: &mut String, kind: &CheckKind) {
    let hex = |bytes: &[Option<u8>]| -> String {
        bytes.iter().map(|b| b.map_or("xx".to_owned(), |b| format!("{b:02x}"))).collect()
    };
    match kind {
        CheckKind::Tcp | CheckKind::Ping => {}
        CheckKind::Http { requests, version, tls } => {
            line(out, "version", quoted(name_of(&VERSIONS, version)));
            if let Some(tls) = tls {
                for (key, value) in [("sni", &tls.sni), ("ca", &tls.ca)] {
                    if let Some(value) = value {
                        line(out, key, quoted(value));
                    }
                }
            }
            for r in requests {
                out.push_str("[[check.request]]\n");
                request(out, r);
            }
        }
        CheckKind::Dns { name, kind } => {
            line(out, "query", quoted(name));
            line(out, "record", quoted(name_of(&RECORDS, kind)));
        }
        CheckKind::Udp { payload, expect, reply, min, max } => {
            let payload: Vec<Option<u8>> = payload.iter().map(|b| Some(*b)).collect();
            line(out, "payload", quoted(&hex(&payload)));
            if let Some(expect) = expect {
                line(out, "reply", quoted(&hex(expect)));
            }
            line(out, "require_reply", reply.to_string());
            line(out, "min_reply", min.to_string());
            line(out, "max_reply", max.to_string());
        }
        CheckKind::Smtp { helo } => line(out, "helo", quoted(helo)),
        CheckKind::Exec { argv, user, dynamic } => {
            line(out, "command", list(argv.iter().cloned()));
            if let Some(user) = user {
                line(out, "user", quoted(user));
            }
            line(out, "dynamic", dynamic.to_string());
        }
        CheckKind::File { path, factor } => {
            line(out, "file", quoted(path));
            line(out, "factor", factor.to_string());
        }
    }
}

fn request(out: &mut String, r: &HttpRequest) {
    line(out, "path", quoted(&r.path));
    line(out, "status", list(r.status.iter().map(|(a, b)| format!("{a}-{b}"))));
    for (key, value) in
        [("host", &r.host), ("body", &r.body), ("not_body", &r.not_body), ("digest", &r.digest)]
    {
        if let Some(value) = value {
            line(out, key, quoted(value));
        }
    }
}

fn on_failure(how: OnFailure) -> String {
    quoted(match how {
        OnFailure::Remove => "remove",
        OnFailure::Inhibit => "inhibit",
    })
}

fn commands(out: &mut String, up: Option<&Command>, down: Option<&Command>) {
    for (key, command) in [("up_command", up), ("down_command", down)] {
        if let Some(command) = command {
            line(out, key, list(command.argv.iter().cloned()));
        }
    }
}

/// What a service says.
pub(super) fn service(out: &mut String, spec: &ServiceSpec, s: &ServiceHealth) {
    let (p, default) = (&s.policy, Policy::default());
    for (key, value, usual) in
        [("quorum", p.quorum, default.quorum), ("hysteresis", p.hysteresis, default.hysteresis)]
    {
        if value != usual {
            line(out, key, value.to_string());
        }
    }
    if p.on_failure != default.on_failure {
        line(out, "on_failure", on_failure(p.on_failure));
    }
    if let Some(d) = &p.sorry {
        let own =
            d.forward.translates() && !matches!(s.key, ServiceKey::Mark { .. }) && d.port != s.key.port();
        let at = if own { SocketAddr::new(d.ip, d.port).to_string() } else { d.ip.to_string() };
        line(out, "sorry_server", quoted(&at));
        line(out, "sorry_mode", quoted(d.forward.name()));
    }
    for (key, value) in [("sorry_inhibit", p.sorry_inhibit), ("down_at_stop", p.omega)] {
        if value {
            line(out, key, "true".to_owned());
        }
    }
    let hashes = matches!(spec.scheduler, SchedulerKind::Sh | SchedulerKind::Dh | SchedulerKind::Mh);
    if let Some(window) = p.slow_start {
        // without effect since the scheduler was changed, and refused beside it
        let said = if hashes { "# slow_start" } else { "slow_start" };
        line(out, said, span(window));
    }
    if let Some(panic) = p.panic {
        let using = match panic.using {
            PanicUse::All => "all",
            PanicUse::None => "none",
            PanicUse::Sorry => "sorry",
        };
        line(out, "panic", format!("{{ below = {}, use = \"{using}\" }}", panic.below));
    }
    if let Some(x) = p.passive {
        let parts =
            format!("{{ failures = {}, window = {}, hold = {} }}", x.failures, span(x.window), span(x.hold));
        line(out, "passive", parts);
    }
    commands(out, p.up_command.as_ref(), p.down_command.as_ref());
    let own = [p.up_command.as_ref(), p.down_command.as_ref()];
    let of_reals = s.reals.iter().flat_map(|r| [r.up_command.as_ref(), r.down_command.as_ref()]);
    if let Some(user) = own.into_iter().chain(of_reals).flatten().find_map(|c| c.user.as_ref()) {
        line(out, "command_user", quoted(user));
    }
    if let Some(device) = &p.announce {
        line(out, "announce", quoted(device));
    }
}

/// What a real server says.
pub(super) fn real(out: &mut String, r: &RealHealth, plan: &HealthPlan) {
    let names = r.checks.iter().filter_map(|c| plan.checks.get(*c)).map(|c| c.name.clone());
    if !r.checks.is_empty() {
        line(out, "check", list(names));
    }
    match r.state {
        AdminState::Up => {}
        AdminState::Maintenance => line(out, "state", quoted("maintenance")),
        AdminState::Drain { deadline } => {
            line(out, "state", quoted("drain"));
            if let Some(deadline) = deadline {
                line(out, "drain_deadline", span(deadline));
            }
        }
    }
    if let Some(how) = r.on_failure {
        line(out, "on_failure", on_failure(how));
    }
    commands(out, r.up_command.as_ref(), r.down_command.as_ref());
}

#[cfg(test)]
mod tests {
    use crate::config::{check, save};

    const FILE: &str = include_str!("../../tests/config/health.toml");

    #[test]
    fn what_is_written_means_the_same() {
        let plan = check(FILE, "f").unwrap();
        let text = save::toml(&plan, &plan.services);
        let again = check(&text, "saved").unwrap_or_else(|all| panic!("{}\n{text}", all[0]));
        assert_eq!(again.health, plan.health, "{text}");
    }
}
