//! Events as they happen.

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Context;
use super::answer::{Body, Trouble, stream};
use super::routes::Call;
use super::view;
use crate::config::apply::Changes;
use crate::ctl::{Event, Overlay};
use crate::health;

/// A sign of life for whoever stands between.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/events`
pub async fn get(context: Context, mut call: Call) -> Result<Response<Body>, Trouble> {
    let sse = call.accept.contains("text/event-stream");
    let (response, sender) = stream(if sse { "text/event-stream" } else { "application/x-ndjson" });
    let mut events = context.control.subscribe();
    let mut pass = call.pass.take();
    tokio::spawn(async move {
        let withdrawn = async {
            match &mut pass {
                Some(pass) => pass.ends().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(withdrawn);
        let first = if sse { Bytes::from_static(b": softlvs\n\n") } else { Bytes::from_static(b"\n") };
        if sender.send(first.clone()).await.is_err() {
            return;
        }
        loop {
            let next = tokio::select! {
                event = events.recv() => Some(event),
                () = tokio::time::sleep(KEEP_ALIVE) => None,
                () = sender.closed() => return,
                () = &mut withdrawn => return,
            };
            let text = match next {
                None => first.clone(),
                Some(Ok(event)) => line(&value(&event), sse),
                Some(Err(RecvError::Lagged(n))) => line(&json!({ "event": "lost", "events": n }), sse),
                Some(Err(RecvError::Closed)) => return,
            };
            if sender.send(text).await.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

fn line(value: &Value, sse: bool) -> Bytes {
    if sse { format!("data: {value}\n\n").into() } else { format!("{value}\n").into() }
}

/// How many services and real servers a change touched.
pub fn changes(c: &Changes) -> Value {
    let three = |[added, changed, removed]: [usize; 3]| json!({ "added": added, "changed": changed, "removed": removed });
    json!({
        "services": three(c.services), "reals": three(c.reals), "settings": c.settings, "checks": c.checks
    })
}

fn health(event: &health::Event) -> Value {
    use health::Event::{Cut, Draining, Panic, QuorumGained, QuorumLost, RealDown, RealUp, Sorry, Weight};
    let of = |service, what: &str| json!({ "event": what, "service": view::id(service) });
    let real = |service, at: &std::net::SocketAddr, what: &str| {
        let mut value = of(service, what);
        value["real"] = json!(at.to_string());
        value
    };
    let with = |mut value: Value, name: &str, what: Value| {
        value[name] = what;
        value
    };
    match event {
        RealUp { service, real: at, why } => with(real(service, at, "real_up"), "why", json!(why)),
        RealDown { service, real: at, why } => with(real(service, at, "real_down"), "why", json!(why)),
        Weight { service, real: at, weight } => with(real(service, at, "weight"), "weight", json!(weight)),
        QuorumGained { service, alive, quorum } => {
            with(with(of(service, "quorum_gained"), "alive", json!(alive)), "quorum", json!(quorum))
        }
        QuorumLost { service, alive, quorum } => {
            with(with(of(service, "quorum_lost"), "alive", json!(alive)), "quorum", json!(quorum))
        }
        Sorry { service, serves } => with(of(service, "sorry_server"), "serves", json!(serves)),
        Panic { service, on } => with(of(service, "panic"), "on", json!(on)),
        Draining { service, real: at, deadline } => {
            with(real(service, at, "draining"), "deadline", json!(deadline.map(|d| d.as_secs())))
        }
        Cut { service, real: at } => real(service, at, "cut"),
    }
}

/// An event as JSON.
pub fn value(event: &Event) -> Value {
    match event {
        Event::Changed { generation, changes: c } => {
            json!({ "event": "changed", "generation": generation, "changes": changes(c) })
        }
        Event::Health(event) => health(event),
        Event::Refused { why } => json!({ "event": "refused", "why": why }),
        Event::Overlaid { real, overlay } => {
            let what = match overlay {
                None => json!("restored"),
                Some(Overlay::Weight(weight)) => json!({ "weight": weight }),
                Some(Overlay::Inhibit) => json!("inhibited"),
                Some(Overlay::Cut) => json!("cut"),
                Some(Overlay::Remove) => json!("removed"),
                Some(Overlay::Extra(_)) => json!("added"),
            };
            let at = std::net::SocketAddr::new(real.ip, real.port);
            json!({ "event": "overlaid", "service": view::id(&real.service), "real": at.to_string(), "overlay": what })
        }
        Event::AddressConflict { port, ip, mac } => {
            json!({ "event": "address_conflict", "port": port, "address": ip.to_string(), "mac": mac.to_string() })
        }
        Event::NeighborMoved { port, ip, from, to } => json!({
            "event": "neighbor_moved", "port": port, "address": ip.to_string(),
            "from": from.to_string(), "to": to.to_string(),
        }),
        Event::NeighborFailed { port, ip } => {
            json!({ "event": "neighbor_failed", "port": port, "address": ip.to_string() })
        }
    }
}
