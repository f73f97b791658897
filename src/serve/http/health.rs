//! `GET /v1/health`: what is known of the real servers.

use hyper::Response;
use serde_json::{Value, json};

use super::answer::{Body, Trouble, json as answer};
use super::routes::Call;
use super::{Context, view};
use crate::health::{AdminState, RealStatus, Wish};

/// Services with what their checks found and what follows.
pub async fn get(context: Context, _: Call) -> Result<Response<Body>, Trouble> {
    let services = context.control.health().await;
    let one = |s: crate::serve::health::ServiceStatus| {
        json!({
            "service": view::id(&s.key),
            "name": s.name,
            "up": s.quorum,
            "healthy_weight": s.alive,
            "sorry_server": s.sorry,
            "reals": s.reals.iter().map(real).collect::<Vec<_>>(),
        })
    };
    Ok(answer(&json!({ "services": services.into_iter().map(one).collect::<Vec<_>>() })))
}

fn real(r: &RealStatus) -> Value {
    let state = match r.state {
        AdminState::Up => "up",
        AdminState::Drain { .. } => "drain",
        AdminState::Maintenance => "maintenance",
    };
    let now = match r.wish {
        Wish::Serve(_) if r.warming => "slow_start",
        Wish::Serve(_) => "serves",
        Wish::Drain => "drains",
        Wish::Cut => "cut",
        Wish::Inhibit => "inhibited",
        Wish::Remove => "removed",
    };
    let check = |(name, up, why, ms): &(String, bool, String, u64)| json!({ "check": name, "up": up, "last": why, "for_ms": ms });
    json!({
        "real": r.at.to_string(),
        "healthy": r.healthy,
        "state": state,
        "now": now,
        "deadline_ms": r.deadline_ms,
        "checks": r.checks.iter().map(check).collect::<Vec<_>>(),
    })
}
