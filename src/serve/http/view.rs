//! What is told: services, real servers, counters, settings, as JSON.

use std::net::{IpAddr, SocketAddr};

use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::{Body, Trouble, aside, json as answer, text};
use super::routes::Call;
use super::{Context, connections};
use crate::config::{save, sysctl};
use crate::ctl::{Overlay, RealKey, State};
use crate::engine::{Counters, DropCounters, DropReason, Engine};
use crate::ipvsadm::{list, proc};
use crate::svc::{Dest, DestSpec, Forward, Proto, Service, ServiceKey, Tunnel, TunnelCsum};

type Answer = Result<Response<Body>, Trouble>;

/// `GET /healthz`: the control task and every worker answer.
pub async fn healthz(context: Context, _: Call) -> Answer {
    context.control.look().await?;
    context.control.workers().ask_all(|_, _| ()).await?;
    Ok(text("text/plain; charset=utf-8", "ok\n".to_owned()))
}

/// What all workers counted.
pub async fn totals(context: &Context) -> Result<(Counters, DropCounters, usize), Trouble> {
    let one = |engine: &mut Engine, _| (engine.counters(), engine.drops().clone(), engine.connection_count());
    let mut counters = Counters::default();
    let mut drops = DropCounters::default();
    let mut connections = 0;
    for (c, d, n) in context.control.workers().ask_all(one).await? {
        counters = counters + c;
        drops.add(&d);
        connections += n;
    }
    Ok((counters, drops, connections))
}

/// What the director said by itself, all workers together, by its name.
async fn said(context: &Context) -> Result<[(&'static str, u64); 7], Trouble> {
    let one = |engine: &mut Engine, _| {
        let c = engine.host().counters;
        [
            ("icmp_errors", c.errors),
            ("icmp_errors_suppressed", c.errors_suppressed),
            ("echo_replies", c.echo_replies),
            ("resets", c.resets),
            ("neighbor_answers", c.answers),
            ("neighbor_questions", c.questions),
            ("address_conflicts", c.conflicts),
        ]
    };
    let all = context.control.workers().ask_all(one).await?;
    let first = all.first().copied().ok_or(crate::worker::Stopped)?;
    Ok(std::array::from_fn(|i| (first[i].0, all.iter().map(|of| of[i].1).sum())))
}

/// `GET /v1/status`
pub async fn status(context: Context, _: Call) -> Answer {
    let state = context.control.look().await?;
    let (counters, drops, connections) = totals(&context).await?;
    let reals: usize = state.catalog.services().iter().map(|s| s.dests.len()).sum();
    let ports = context.control.ports().await?;
    Ok(answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "workers": context.control.workers().count(),
        "ports": ports.iter().map(|(info, _)| info.name.clone()).collect::<Vec<_>>(),
        "services": state.catalog.services().len(),
        "reals": reals,
        "connections": connections,
        "connection_limit": state.plan.connection_limit,
        "templates": state.catalog.templates().len(),
        "packets": { "received": counters.received, "forwarded": counters.forwarded, "dropped": drops.total() },
        "totals": traffic(state.totals()),
        "rates": rates(state.total_rates()),
    })))
}

/// `GET /v1/ports`
pub async fn ports(context: Context, _: Call) -> Answer {
    let state = context.control.look().await?;
    let all = context.control.ports().await?;
    let one = |(i, (info, stats)): (usize, &(crate::io::PortInfo, crate::worker::PortStats))| {
        let setup = state.plan.ports.get(i);
        json!({
            "name": setup.map_or(info.name.as_str(), |p| p.name.as_str()),
            "device": info.name,
            "kind": setup.map(|p| p.device.kind()),
            "mac": info.mac.map(|m| m.to_string()),
            "mtu": setup.and_then(|p| p.mtu).unwrap_or(info.mtu),
            "addresses": setup.map(|p| p.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "received": stats.received,
            "received_bytes": stats.received_bytes,
            "sent": stats.sent,
            "full": stats.full,
            "refused": stats.refused,
            "down": stats.down,
            "transitions": stats.transitions,
            "lost": stats.lost.named().into_iter().map(|(k, n)| (k.to_owned(), n.into())).collect::<Map<_, Value>>(),
        })
    };
    Ok(answer(&json!({ "ports": all.iter().enumerate().map(one).collect::<Vec<_>>() })))
}

/// `GET /v1/counters`
pub async fn counters(context: Context, _: Call) -> Answer {
    let (c, drops, connections) = totals(&context).await?;
    let reasons: Map<String, Value> =
        DropReason::ALL.iter().map(|r| (r.name().to_owned(), json!(drops.of(*r)))).collect();
    Ok(answer(&json!({
        "received": c.received,
        "forwarded": c.forwarded,
        "local": c.local,
        "parked": c.parked,
        "split": c.split,
        "reassembling": c.reassembling,
        "made": c.made,
        "handed": c.handed,
        "opened": c.opened,
        "connections": connections,
        "dropped": drops.total(),
        "drops": reasons,
        "host": said(&context).await?.into_iter().map(|(name, n)| (name.to_owned(), json!(n))).collect::<Map<_, _>>(),
    })))
}

/// `GET /v1/services`
pub async fn services(context: Context, _: Call) -> Answer {
    let state = context.control.look().await?;
    aside(move || {
        let all: Vec<Value> = state.catalog.services().iter().map(|s| service_value(&state, s)).collect();
        answer(&json!({ "services": all }))
    })
    .await
}

/// `GET /v1/services/{kind}/{address}`
pub async fn service(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let service = find(&state, &key(&call)?)?;
    Ok(answer(&service_value(&state, service)))
}

/// `GET /v1/services/{kind}/{address}/reals`
pub async fn reals(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let service = find(&state, &key(&call)?)?;
    Ok(answer(&json!({ "reals": reals_value(&state, service) })))
}

/// `GET /v1/timeouts`
pub async fn timeouts(context: Context, _: Call) -> Answer {
    let state = context.control.look().await?;
    Ok(answer(&timeouts_value(&state)))
}

/// The three timeouts.
pub fn timeouts_value(state: &State) -> Value {
    let [tcp, tcp_fin, udp] = state.catalog.timeouts.listed().map(|s| s.as_secs());
    json!({ "tcp": tcp, "tcp_fin": tcp_fin, "udp": udp })
}

/// `GET /v1/sysctls`
pub async fn sysctls(context: Context, _: Call) -> Answer {
    let state = context.control.look().await?;
    let one = |k: &sysctl::Known| {
        let value = match state.sysctl.0.get(k.name) {
            Some(sysctl::Value::Int(n)) => json!(n),
            Some(sysctl::Value::Pair(a, b)) => json!(format!("{a} {b}")),
            Some(sysctl::Value::Text(t)) => json!(t),
            None => k.default.parse::<i64>().map_or(json!(k.default), |n| json!(n)),
        };
        (k.name.to_owned(), value)
    };
    Ok(answer(&Value::Object(sysctl::ALL.iter().map(one).collect())))
}

/// `GET /v1/config`
pub async fn config(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    match call.get("format").unwrap_or("toml") {
        "toml" => {
            let plan = state.current();
            // a large file is read back too
            Ok(text("application/toml", aside(move || save::file(&plan)).await?))
        }
        "ipvsadm" => {
            let lines = aside(move || list::rules_with_thresholds(state.catalog.services())).await?;
            Ok(text("text/plain; charset=utf-8", lines))
        }
        other => Err(Trouble::bad(format!("format `{other}` is not known"), "toml or ipvsadm")),
    }
}

/// `GET /v1/proc/{file}`
pub async fn proc_file(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let kind = "text/plain; charset=utf-8";
    let name = call.path.first().map_or("", String::as_str);
    match name {
        "ip_vs_conn" => Ok(connections::stream_all(context, connections::Format::Proc, Default::default())),
        _ => proc_text(&state, name).map(|t| text(kind, t)).ok_or_else(|| {
            Trouble::missing(format!(
                "`{name}` is not one of ip_vs, ip_vs_conn, ip_vs_stats, ip_vs_stats_percpu"
            ))
        }),
    }
}

/// The text of a file in `/proc/net`, but for the connections.
pub fn proc_text(state: &State, name: &str) -> Option<String> {
    match name {
        "ip_vs" => Some(proc::services(state.catalog.services())),
        "ip_vs_stats" => Some(proc::stats(state.totals(), state.total_rates())),
        "ip_vs_stats_percpu" => Some(proc::stats_percpu(state.totals(), state.total_rates())),
        _ => None,
    }
}

/// The key in a path: `tcp/192.0.2.10:80`, `fwmark/7`, `fwmark6/7`.
pub fn key(call: &Call) -> Result<ServiceKey, Trouble> {
    let (kind, address) = match &call.path[..] {
        [kind, address, ..] => (kind.as_str(), address.as_str()),
        _ => ("", ""),
    };
    key_of(kind, address).ok_or_else(|| {
        Trouble::bad(
            format!("`{kind}/{address}` names no service"),
            "tcp/192.0.2.10:80, udp/[2001:db8::10]:53, fwmark/7 (IPv4) or fwmark6/7",
        )
    })
}

fn key_of(kind: &str, address: &str) -> Option<ServiceKey> {
    let mark = |v6| Some(ServiceKey::Mark { mark: address.parse().ok().filter(|m| *m > 0)?, v6 });
    let proto = match kind {
        "fwmark" => return mark(false),
        "fwmark6" => return mark(true),
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        "sctp" => Proto::Sctp,
        _ => return None,
    };
    let at: SocketAddr = address.parse().ok()?;
    Some(ServiceKey::Address { proto, ip: at.ip(), port: at.port() })
}

/// How a key is written in a path.
pub fn id(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { proto, ip, port } => {
            format!("{}/{}", proto.name(), SocketAddr::new(*ip, *port))
        }
        ServiceKey::Mark { mark, v6 } => format!("fwmark{}/{mark}", if *v6 { "6" } else { "" }),
    }
}

/// The service with this key.
pub fn find<'s>(state: &'s State, key: &ServiceKey) -> Result<&'s Service, Trouble> {
    let found = state.catalog.service(key).map(|s| &**s);
    found.ok_or_else(|| Trouble::missing(format!("there is no service {}", id(key))))
}

/// A real server in a path: address with port, or address alone.
pub fn real_of(key: &ServiceKey, word: &str) -> Result<(IpAddr, u16), Trouble> {
    if let Ok(at) = word.parse::<SocketAddr>() {
        return Ok((at.ip(), at.port()));
    }
    let bare = word.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().map(|ip| (ip, key.port())).map_err(|_| {
        Trouble::bad(format!("`{word}` is no real server's address"), "10.0.0.11:8080 or [2001:db8::11]:8080")
    })
}

/// Conns, InPkts, OutPkts, InBytes, OutBytes.
pub fn traffic([conns, in_pkts, out_pkts, in_bytes, out_bytes]: [u64; 5]) -> Value {
    json!({
        "connections": conns, "in_packets": in_pkts, "out_packets": out_pkts,
        "in_bytes": in_bytes, "out_bytes": out_bytes,
    })
}

fn rates(values: [u64; 5]) -> Value {
    traffic(values)
}

fn service_value(state: &State, s: &Service) -> Value {
    let spec = &s.spec;
    let mut value = json!({
        "id": id(&spec.key),
        "name": spec.name,
        "scheduler": spec.scheduler.name(),
        "scheduler_flags": spec.flag_names(),
        "persistence": spec.persistence.map(|p| json!({
            "timeout": p.timeout.as_secs(),
            "netmask": p.netmask,
            "engine": spec.engine.map(|e| e.name()),
        })),
        "one_packet": spec.one_packet,
        "ports": spec.ports,
        "mss_clamp": spec.mss_clamp,
        "timeouts": {
            "tcp": spec.timeouts.tcp.map(|t| t.as_secs()),
            "tcp_fin": spec.timeouts.tcp_fin.map(|t| t.as_secs()),
            "udp": spec.timeouts.udp.map(|t| t.as_secs()),
        },
        "counters": traffic(state.zero.service(s)),
        "rates": rates(state.rates.service(s)),
        "reals": reals_value(state, s),
    });
    match spec.key {
        ServiceKey::Address { proto, ip, port } => {
            value["protocol"] = json!(proto.name());
            value["address"] = json!(SocketAddr::new(ip, port).to_string());
        }
        ServiceKey::Mark { mark, v6 } => {
            value["fwmark"] = json!(mark);
            value["family"] = json!(if v6 { "ipv6" } else { "ipv4" });
        }
    }
    value
}

fn reals_value(state: &State, s: &Service) -> Vec<Value> {
    let mut all: Vec<Value> = s.dests.iter().map(|d| real_value(state, s, d)).collect();
    let gone = |spec: &DestSpec| {
        let mut value = spec_value(spec);
        value["state"] = json!("removed");
        value
    };
    all.extend(state.overlays.removed(&s.spec.key).map(gone));
    all
}

fn spec_value(spec: &DestSpec) -> Value {
    let csum = |c| match c {
        TunnelCsum::None => "none",
        TunnelCsum::Csum => "csum",
        TunnelCsum::RemCsum => "remcsum",
    };
    let tunnel = match spec.forward {
        Forward::Tun(Tunnel::Ipip) => json!({ "type": "ipip" }),
        Forward::Tun(Tunnel::Gre { csum: c }) => json!({ "type": "gre", "checksum": csum(c) }),
        Forward::Tun(Tunnel::Gue { port, csum: c }) => {
            json!({ "type": "gue", "port": port, "checksum": csum(c) })
        }
        Forward::Nat | Forward::FullNat | Forward::Dr => Value::Null,
    };
    json!({
        "id": SocketAddr::new(spec.ip, spec.port).to_string(),
        "name": spec.name,
        "address": SocketAddr::new(spec.ip, spec.port).to_string(),
        "mode": spec.forward.name(),
        "tunnel": tunnel,
        "weight": spec.weight,
        "upper_threshold": spec.upper,
        "lower_threshold": spec.lower,
    })
}

fn real_value(state: &State, s: &Service, d: &Dest) -> Value {
    let mut value = spec_value(&d.spec);
    let key = RealKey { service: s.spec.key, ip: d.spec.ip, port: d.spec.port };
    let configured = state.overlays.configured(&key).map_or(d.spec.weight, |c| c.weight);
    let word = match state.overlays.get(&key) {
        Some(Overlay::Extra(_)) => "extra",
        Some(Overlay::Weight(0) | Overlay::Inhibit | Overlay::Cut) => "inhibited",
        _ if d.overloaded() => "overloaded",
        _ if d.spec.weight == 0 => "quiesced",
        Some(Overlay::Weight(_) | Overlay::Remove) | None => "up",
    };
    value["configured_weight"] = json!(configured);
    value["state"] = json!(word);
    value["active"] = json!(d.active());
    value["inactive"] = json!(d.inactive());
    value["persistent"] = json!(d.persistent());
    value["counters"] = traffic(state.zero.dest(d));
    value["rates"] = rates(state.rates.dest(d));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_is_written() {
        for word in
            ["tcp/192.0.2.10:80", "udp/[2001:db8::10]:53", "sctp/192.0.2.10:0", "fwmark/7", "fwmark6/7"]
        {
            let (kind, address) = word.split_once('/').unwrap();
            assert_eq!(id(&key_of(kind, address).unwrap()), word);
        }
        for word in ["icmp/192.0.2.10:80", "tcp/192.0.2.10", "tcp/a:80", "fwmark/0", "fwmark/-1", "fwmark/x"]
        {
            let (kind, address) = word.split_once('/').unwrap();
            assert_eq!(key_of(kind, address), None, "{word}");
        }
    }
}
