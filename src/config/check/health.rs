//! Health: which checks a server has, and what their results mean for its service.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::announce::announce;
use super::services::default_mode;
use crate::config::diag::{At, Place, Report, nearest};
use crate::config::doc::{Doc, Mode, RealDoc, ServiceDoc};
use crate::config::doc_health::{CheckDoc, RequestDoc, StateWord, Type};
use crate::health::spec::{Command, HttpRequest, TlsSpec};
use crate::health::{
    AdminState, CheckKind, CheckSpec, Dampening, HealthPlan, Panic, PanicUse, PassiveSpec, Policy,
    RealHealth, ServiceHealth, Timing, Via,
};
use crate::svc::{DestSpec, Forward, SchedulerKind, ServiceKey, ServiceSpec, Tunnel};
use crate::time::Span;

/// Interval when nothing is said.
const INTERVAL: Span = Span::from_secs(2);

/// Checks everything about health; `services` are those that were checked already.
pub fn check(doc: &Doc, services: &[(ServiceSpec, Vec<DestSpec>)], report: &mut Report) -> HealthPlan {
    let mut names: HashMap<&str, (usize, &Place)> = HashMap::new();
    let mut checks = Vec::with_capacity(doc.checks.len());
    for c in &doc.checks {
        let Some(name) = &c.name else { continue };
        if let Some((_, first)) = names.get(name.value.as_str()) {
            let why = format!("two checks have the name `{}`", name.value);
            report.error(&name.place, why, format!("the other one is {}", first.key));
            continue;
        }
        let Some(spec) = one(c, &name.value, report) else { continue };
        names.insert(&name.value, (checks.len(), &name.place));
        checks.push(spec);
    }
    let known: Vec<&str> =
        doc.checks.iter().filter_map(|c| c.name.as_ref()).map(|n| n.value.as_str()).collect();
    let mut used = vec![false; checks.len()];
    let mut find = |at: &At<String>, report: &mut Report| -> Option<usize> {
        if let Some((i, _)) = names.get(at.value.as_str()) {
            used[*i] = true;
            return Some(*i);
        }
        // one with mistakes of its own has been spoken of
        if !known.contains(&at.value.as_str()) {
            let help = match nearest(&at.value, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("add a [[check]] with name = \"{}\"", at.value),
            };
            report.error(&at.place, format!("there is no check `{}`", at.value), help);
        }
        None
    };
    let mut out = Vec::new();
    for s in &doc.services {
        let Some((spec, dests)) = services.iter().find(|(spec, _)| is(s, spec)) else { continue };
        let shared: Vec<(usize, &At<String>)> =
            s.health.checks.iter().filter_map(|n| Some((find(n, report)?, n))).collect();
        let mut reals = Vec::with_capacity(s.reals.len());
        for r in &s.reals {
            let own: Vec<_> = r.health.checks.iter().filter_map(|n| Some((find(n, report)?, n))).collect();
            let mine = if r.health.has_checks { &own } else { &shared };
            let Some(dest) = r.address.as_ref().and_then(|a| {
                dests.iter().find(|d| d.ip == a.value.0 && a.value.1.is_none_or(|p| p == d.port))
            }) else {
                continue;
            };
            for (i, at) in mine {
                fits(&checks[*i], at, spec, dest, report);
            }
            reals.push(real(s, r, dest, mine.iter().map(|(i, _)| *i).collect(), report));
        }
        let policy = policy(doc, s, spec, report);
        let plain = |r: &RealHealth| r.checks.is_empty() && r.state == AdminState::Up;
        if policy == Policy::default() && reals.iter().all(plain) {
            continue;
        }
        out.push(ServiceHealth { key: spec.key, name: spec.name.clone(), policy, reals });
    }
    for (c, used) in checks.iter().zip(&used).filter(|(_, used)| !**used) {
        debug_assert!(!used);
        if let Some((_, place)) = names.get(c.name.as_str()) {
            report.warn(place, "no service and no server asks for this check", "it never runs");
        }
    }
    HealthPlan { checks, services: out, fifo: doc.director.notify_fifo.as_ref().map(|f| f.value.clone()) }
}

fn is(s: &ServiceDoc, spec: &ServiceSpec) -> bool {
    match spec.key {
        ServiceKey::Address { proto, ip, port } => {
            s.address.as_ref().is_some_and(|a| a.value == (ip, port))
                && s.proto.as_ref().is_none_or(|p| p.value == proto)
                && (s.proto.is_some() || proto == crate::svc::Proto::Tcp)
        }
        ServiceKey::Mark { mark, v6 } => {
            s.fwmark.as_ref().is_some_and(|m| m.value == mark)
                && s.family6.as_ref().is_none_or(|f| f.value == v6)
        }
    }
}

/// Which types a key belongs to.
fn belongs(key: &str) -> &'static [Type] {
    match key {
        "sni" | "ca" => &[Type::Https],
        "query" | "record" => &[Type::Dns],
        "payload" | "reply" | "require_reply" | "min_reply" | "max_reply" => &[Type::Udp],
        "helo" => &[Type::Smtp],
        "command" | "dynamic" => &[Type::Exec],
        "file" | "factor" => &[Type::File],
        _ => &[Type::Http, Type::Https],
    }
}

fn type_name(kind: Type) -> &'static str {
    Type::ALL.iter().find(|(_, k)| *k == kind).map_or("?", |(n, _)| n)
}

fn one(c: &CheckDoc, name: &str, report: &mut Report) -> Option<CheckSpec> {
    let at = c.kind.as_ref()?;
    let kind = at.value;
    for key in &c.said {
        let of = belongs(key.value);
        if !of.contains(&kind) {
            let names: Vec<_> = of.iter().map(|k| type_name(*k)).collect();
            report.error(
                &key.place,
                format!("`{}` belongs to checks of type {}", key.value, names.join(" and ")),
                format!("leave it out: this one is of type {}", type_name(kind)),
            );
        }
    }
    if let Some(user) = c.user.as_ref().filter(|_| kind != Type::Exec) {
        report.error(&user.place, "`user` belongs to checks of type exec", "leave it out");
    }
    let local = matches!(kind, Type::Exec | Type::File);
    for (there, key) in
        [(&c.address.as_ref().map(|a| &a.place), "address"), (&c.bind.as_ref().map(|a| &a.place), "bind")]
    {
        if let Some(place) = there.filter(|_| local) {
            report.error(
                place,
                format!("a check of type {} asks no address", type_name(kind)),
                format!("leave `{key}` out"),
            );
        }
    }
    if let Some(port) = c.port.as_ref().filter(|_| local || kind == Type::Ping) {
        report.error(
            &port.place,
            format!("a check of type {} has no port", type_name(kind)),
            "leave `port` out",
        );
    }
    if let Some(via) = &c.via {
        if local && via.value != Via::Host {
            report.error(
                &via.place,
                format!("a check of type {} sends nothing", type_name(kind)),
                "leave `via` out",
            );
        } else if !matches!(via.value, Via::Host | Via::Real)
            && (c.bind.is_some() || via.value == Via::Vip && c.address.is_some())
        {
            report.error(
                &via.place,
                "a check by the director's own way asks from its own address",
                "leave out `bind` and `address`, or write via = \"host\"",
            );
        }
    }
    let need = |there: bool, key: &str, example: &str, report: &mut Report| {
        if !there {
            let why = format!("a check of type {} needs `{key}`", type_name(kind));
            report.error(&at.place, why, format!("for example: {key} = {example}"));
        }
    };
    let kind = match kind {
        Type::Tcp => CheckKind::Tcp,
        Type::Ping => CheckKind::Ping,
        Type::Http | Type::Https => {
            if let (false, Some(first)) = (c.requests.is_empty(), c.request.path.as_ref()) {
                report.error(
                    &first.place,
                    "requests stand in [[check.request]] or in the check itself, not in both",
                    "move this one to a [[check.request]] too",
                );
            }
            let all: Vec<&RequestDoc> =
                if c.requests.is_empty() { vec![&c.request] } else { c.requests.iter().collect() };
            let requests: Vec<HttpRequest> = all.into_iter().map(request).collect();
            let sni = c.sni.as_ref().map(|s| s.value.clone());
            let host = requests.iter().find_map(|r| r.host.clone());
            let bare = |h: String| h.rsplit_once(':').map_or(h.clone(), |(n, _)| n.to_owned());
            let ca = c.ca.as_ref().map(|f| f.value.clone());
            let tls = (kind == Type::Https).then(|| TlsSpec { sni: sni.or(host.map(bare)), ca });
            CheckKind::Http {
                requests,
                version: c.version.as_ref().map_or(crate::health::spec::HttpVersion::V11, |v| v.value),
                tls,
            }
        }
        Type::Dns => CheckKind::Dns {
            name: c.query.as_ref().map_or(".".to_owned(), |q| q.value.clone()),
            kind: c.record.as_ref().map_or(6, |r| r.value),
        },
        Type::Udp => {
            let expect = c.reply.as_ref().map(|r| r.value.clone());
            CheckKind::Udp {
                payload: c.payload.as_ref().map(|p| p.value.clone()).unwrap_or_default(),
                reply: c.require_reply.as_ref().map_or(expect.is_some(), |r| r.value),
                min: c.min_reply.as_ref().map_or(0, |n| n.value as usize),
                max: c
                    .max_reply
                    .as_ref()
                    .map_or(if expect.is_some() { 65535 } else { 255 }, |n| n.value as usize),
                expect,
            }
        }
        Type::Smtp => {
            CheckKind::Smtp { helo: c.helo.as_ref().map_or("localhost".to_owned(), |h| h.value.clone()) }
        }
        Type::Exec => {
            need(!c.command.is_empty(), "command", "[\"/usr/local/bin/check\"]", report);
            command_path(&c.command, report);
            CheckKind::Exec {
                argv: c.command.iter().map(|a| a.value.clone()).collect(),
                user: c.user.as_ref().map(|u| u.value.clone()),
                dynamic: c.dynamic.as_ref().is_some_and(|d| d.value),
            }
        }
        Type::File => {
            need(c.file.is_some(), "file", "\"/run/weight\"", report);
            CheckKind::File {
                path: c.file.as_ref().map(|f| f.value.clone()).unwrap_or_default(),
                factor: c.factor.as_ref().map_or(1, |f| f.value),
            }
        }
    };
    Some(CheckSpec {
        name: name.to_owned(),
        kind,
        timing: timing(c, report),
        address: c.address.as_ref().map(|a| a.value),
        port: c.port.as_ref().map(|p| p.value),
        bind: c.bind.as_ref().map(|b| b.value),
        via: c.via.as_ref().map(|v| v.value),
    })
}

fn request(r: &RequestDoc) -> HttpRequest {
    let text = |t: &Option<At<String>>| t.as_ref().map(|t| t.value.clone());
    let status: Vec<_> = r.status.iter().map(|s| s.value).collect();
    HttpRequest {
        path: text(&r.path).unwrap_or_else(|| "/".to_owned()),
        host: text(&r.host),
        status: if status.is_empty() { vec![(200, 299)] } else { status },
        body: text(&r.body),
        not_body: text(&r.not_body),
        digest: text(&r.digest),
    }
}

fn timing(c: &CheckDoc, report: &mut Report) -> Timing {
    let interval = c.interval.as_ref().map_or(INTERVAL, |i| i.value);
    let base = Timing::every(interval);
    let t = Timing {
        timeout: c.timeout.as_ref().map_or(base.timeout, |t| t.value),
        rise: c.rise.as_ref().map_or(base.rise, |r| r.value),
        fall: c.fall.as_ref().map_or(base.fall, |f| f.value),
        retry_delay: c.retry_delay.as_ref().map(|d| d.value),
        warmup: c.warmup.as_ref().map_or(base.warmup, |w| w.value),
        jitter: c.jitter.as_ref().map_or(base.jitter, |j| j.value),
        start: c.start.as_ref().map_or(base.start, |s| s.value),
        dampening: c.dampening.as_ref().is_none_or(|d| d.value).then(Dampening::default),
        ..base
    };
    if interval < Span::from_millis(50)
        && let Some(at) = &c.interval
    {
        report.error(&at.place, "checks cannot come that often", "the shortest interval is \"50ms\"");
    }
    if let Some(at) = c.timeout.as_ref().filter(|at| at.value > interval) {
        report.warn(
            &at.place,
            "the timeout is longer than the interval",
            "a server that hangs is found later than after `fall` intervals",
        );
    }
    t
}

fn command_path(argv: &[At<String>], report: &mut Report) {
    if let Some(program) = argv.first().filter(|p| !p.value.starts_with('/')) {
        report.error(
            &program.place,
            format!("`{}` is not the path of a program", program.value),
            "write it from the root, such as \"/usr/local/bin/check\"; there is no shell and no search",
        );
    }
}

fn command(argv: &[At<String>], user: Option<&At<String>>, report: &mut Report) -> Option<Command> {
    command_path(argv, report);
    let argv: Vec<String> = argv.iter().map(|a| a.value.clone()).collect();
    (!argv.is_empty()).then(|| Command { argv, user: user.map(|u| u.value.clone()) })
}

/// Can the check be made of this server?
fn fits(check: &CheckSpec, at: &At<String>, spec: &ServiceSpec, dest: &DestSpec, report: &mut Report) {
    if check.kind.has_port() && check.port.is_none() && dest.port == 0 {
        report.error(
            &at.place,
            format!("`{}` does not know which port to ask: the server has every port", check.name),
            "give the check a `port`",
        );
    }
    if let Some(a) = check.bind.filter(|a| a.is_ipv6() != check.address.unwrap_or(dest.ip).is_ipv6()) {
        report.error(&at.place, format!("{a} cannot ask a server of the other address family"), "");
    }
    if check.via == Some(Via::Vip) {
        if dest.forward.translates() {
            report.error(
                &at.place,
                format!(
                    "`{}` asks for the virtual address, which {} does not have in mode {}",
                    check.name, dest.ip, dest.forward
                ),
                "write via = \"host\" or via = \"director\", or leave `via` out",
            );
        } else if matches!(spec.key, ServiceKey::Mark { .. }) {
            report.error(
                &at.place,
                "a service by fwmark has no virtual address to ask",
                "write via = \"host\", or give the check an `address`",
            );
        }
    }
}

fn real(s: &ServiceDoc, r: &RealDoc, dest: &DestSpec, checks: Vec<usize>, report: &mut Report) -> RealHealth {
    let h = &r.health;
    let deadline = h.deadline.as_ref().map(|d| d.value);
    let state = match h.state.as_ref().map(|s| s.value) {
        Some(StateWord::Drain) => AdminState::Drain { deadline },
        Some(StateWord::Maintenance) => AdminState::Maintenance,
        Some(StateWord::Up) | None => AdminState::Up,
    };
    if let (Some(d), AdminState::Maintenance) = (&h.deadline, state) {
        report.warn(
            &d.place,
            "`drain_deadline` has no effect in state maintenance",
            "write state = \"drain\"",
        );
    }
    let user = s.health.command_user.as_ref();
    RealHealth {
        at: SocketAddr::new(dest.ip, dest.port),
        name: dest.name.clone(),
        weight: dest.weight,
        forward: dest.forward,
        checks,
        state,
        on_failure: h.on_failure.as_ref().map(|f| f.value),
        up_command: command(&h.up_command, user, report),
        down_command: command(&h.down_command, user, report),
    }
}

fn policy(doc: &Doc, s: &ServiceDoc, spec: &ServiceSpec, report: &mut Report) -> Policy {
    let h = &s.health;
    let default = Policy::default();
    let sorry = h.sorry.as_ref().and_then(|at| sorry(doc, s, spec, at, report));
    if let Some(mode) = h.sorry_mode.as_ref().filter(|_| h.sorry.is_none()) {
        report.error(&mode.place, "there is no sorry server", "add sorry_server = \"10.0.0.99:80\"");
    }
    let panic = h.panic_below.as_ref().zip(h.panic_use.as_ref());
    if let Some((_, using)) = panic.filter(|(_, u)| u.value == PanicUse::Sorry && h.sorry.is_none()) {
        report.error(&using.place, "there is no sorry server", "add sorry_server = \"10.0.0.99:80\"");
    }
    if let (Some(hy), quorum) = (&h.hysteresis, h.quorum.as_ref().map_or(default.quorum, |q| q.value))
        && hy.value > quorum
    {
        report.error(
            &hy.place,
            format!("the hysteresis is larger than the quorum ({quorum})"),
            "the service could never go down by its quorum",
        );
    }
    let hashes = matches!(spec.scheduler, SchedulerKind::Sh | SchedulerKind::Dh | SchedulerKind::Mh);
    if let Some(slow) = h.slow_start.as_ref().filter(|_| hashes) {
        report.error(
            &slow.place,
            format!("the scheduler {} finds servers by hash and cannot pass one over", spec.scheduler.name()),
            "leave `slow_start` out, or use another scheduler",
        );
    }
    let user = h.command_user.as_ref();
    let spans = |at: &Option<At<Span>>, default| at.as_ref().map_or(default, |s| s.value);
    Policy {
        quorum: h.quorum.as_ref().map_or(default.quorum, |q| q.value),
        hysteresis: h.hysteresis.as_ref().map_or(0, |q| q.value),
        on_failure: h.on_failure.as_ref().map_or(default.on_failure, |f| f.value),
        sorry,
        sorry_inhibit: h.sorry_inhibit.as_ref().is_some_and(|i| i.value),
        slow_start: h.slow_start.as_ref().map(|s| s.value).filter(|s| *s > Span::ZERO),
        panic: panic.map(|(below, using)| Panic { below: below.value, using: using.value }),
        passive: h.passive.as_ref().map(|p| PassiveSpec {
            failures: p.failures.as_ref().map_or(5, |f| f.value),
            window: spans(&p.window, Span::from_secs(5)),
            hold: spans(&p.hold, Span::from_secs(5)),
        }),
        up_command: command(&h.up_command, user, report),
        down_command: command(&h.down_command, user, report),
        omega: h.down_at_stop.as_ref().is_some_and(|d| d.value),
        announce: announce(doc, spec, h.announce.as_ref(), report),
    }
}

fn sorry(
    doc: &Doc,
    s: &ServiceDoc,
    spec: &ServiceSpec,
    at: &At<(IpAddr, Option<u16>)>,
    report: &mut Report,
) -> Option<DestSpec> {
    let mode = s.health.sorry_mode.as_ref().map_or_else(|| default_mode(doc, s), |m| m.value);
    let (ip, port) = at.value;
    let port = match (mode, port) {
        (Mode::Nat | Mode::FullNat, Some(port)) => port,
        (_, None) => spec.key.port(),
        (_, Some(port)) if port == spec.key.port() => port,
        (_, Some(_)) => {
            let why = "this mode cannot map ports".to_owned();
            report.error(&at.place, why, "leave the port out, or write sorry_mode = \"nat\"");
            return None;
        }
    };
    if ip.is_ipv6() != spec.key.is_v6() && mode != Mode::Tun {
        report.error(
            &at.place,
            "the sorry server is of the other address family",
            "use one of the service's family",
        );
        return None;
    }
    if s.reals
        .iter()
        .filter_map(|r| r.address.as_ref())
        .any(|a| a.value.0 == ip && a.value.1.is_none_or(|p| p == port))
    {
        report.error(&at.place, "the sorry server is one of the real servers", "use another one");
        return None;
    }
    let forward = match mode {
        Mode::Nat => Forward::Nat,
        Mode::FullNat => Forward::FullNat,
        Mode::Dr => Forward::Dr,
        Mode::Tun => Forward::Tun(Tunnel::Ipip),
    };
    Some(DestSpec { name: "sorry".to_owned(), ip, port, weight: 1, forward, upper: 0, lower: 0 })
}
