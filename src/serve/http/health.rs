//! `GET /v1/health`: what is known of the real servers.

use hyper::Response;
use serde_json::{Value, json};

use super::answer::{Body, Trouble, json as answer};
use super::routes::Call;
use super::{Context, view};
use crate::health::{AdminState, RealStatus, Wish};

/// What the operator wants of a server.
const STATES: [&str; 3] = ["up", "drain", "maintenance"];
/// What a server is for its service at this moment.
const NOW: [&str; 6] = ["serves", "slow_start", "drains", "cut", "inhibited", "removed"];

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
        AdminState::Up => STATES[0],
        AdminState::Drain { .. } => STATES[1],
        AdminState::Maintenance => STATES[2],
    };
    let now = match r.wish {
        Wish::Serve(_) if r.warming => NOW[1],
        Wish::Serve(_) => NOW[0],
        Wish::Drain => NOW[2],
        Wish::Cut => NOW[3],
        Wish::Inhibit => NOW[4],
        Wish::Remove => NOW[5],
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

/// What [`get`] answers, for the OpenAPI document.
pub fn schema() -> Value {
    let object = |properties: Value| {
        let names: Vec<&String> = properties.as_object().into_iter().flat_map(|p| p.keys()).collect();
        json!({ "type": "object", "required": names, "properties": properties })
    };
    let list = |of: Value| json!({ "type": "array", "items": of });
    let (text, yes, number) =
        (json!({ "type": "string" }), json!({ "type": "boolean" }), json!({ "type": "integer" }));
    let check = object(json!({
        "check": text,
        "up": yes,
        "last": { "type": "string", "description": "what it found last" },
        "for_ms": { "type": "integer", "description": "since it changed between up and down" },
    }));
    let real = object(json!({
        "real": { "type": "string", "description": "address and port" },
        "healthy": yes,
        "state": { "type": "string", "enum": STATES, "description": "what the operator wants" },
        "now": { "type": "string", "enum": NOW, "description": "what it is for the service" },
        "deadline_ms": { "type": ["integer", "null"], "description": "to the end of its drain" },
        "checks": list(check),
    }));
    object(json!({ "services": list(object(json!({
        "service": text,
        "name": text,
        "up": { "type": "boolean", "description": "the quorum is there" },
        "healthy_weight": number,
        "sorry_server": { "type": "boolean", "description": "it serves" },
        "reals": list(real),
    }))) }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::time::Span;

    /// Why a value is not what the schema says; enough of JSON schema for ours.
    fn wrong(value: &Value, schema: &Value, at: &str) -> Option<String> {
        let kinds = match &schema["type"] {
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if !kinds.contains(&json!(is)) {
            return Some(format!("{at}: {value} is no {kinds:?}"));
        }
        if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
            return Some(format!("{at}: {value} is none of {}", schema["enum"]));
        }
        match value {
            Value::Array(all) => all.iter().find_map(|v| wrong(v, &schema["items"], at)),
            Value::Object(all) => {
                let said: BTreeSet<&str> =
                    schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
                let there: BTreeSet<&str> = all.keys().map(String::as_str).collect();
                if said != there {
                    return Some(format!("{at}: {there:?}, described are {said:?}"));
                }
                all.iter().find_map(|(k, v)| wrong(v, &schema["properties"][k], &format!("{at}.{k}")))
            }
            _ => None,
        }
    }

    #[test]
    fn every_state_of_a_server_is_told_as_it_is_described() {
        let deadline = Some(Span::from_secs(30));
        let mut told = BTreeSet::new();
        for (state, wish, warming, as_what) in [
            (AdminState::Up, Wish::Serve(None), false, ("up", "serves")),
            (AdminState::Up, Wish::Serve(Some(7)), true, ("up", "slow_start")),
            (AdminState::Up, Wish::Inhibit, false, ("up", "inhibited")),
            (AdminState::Up, Wish::Remove, false, ("up", "removed")),
            (AdminState::Drain { deadline }, Wish::Drain, false, ("drain", "drains")),
            (AdminState::Drain { deadline }, Wish::Cut, false, ("drain", "cut")),
            (AdminState::Maintenance, Wish::Remove, false, ("maintenance", "removed")),
        ] {
            let status = RealStatus {
                at: "10.0.0.11:80".parse().unwrap(),
                healthy: true,
                wish,
                state,
                checks: vec![("page".to_owned(), true, "status 200".to_owned(), 1500)],
                deadline_ms: matches!(state, AdminState::Drain { .. }).then_some(20_000),
                warming,
            };
            let value = real(&status);
            assert_eq!((value["state"].as_str().unwrap(), value["now"].as_str().unwrap()), as_what);
            let schema = &schema()["properties"]["services"]["items"]["properties"]["reals"]["items"];
            assert_eq!(wrong(&value, schema, "real"), None);
            told.insert(as_what.1);
        }
        assert_eq!(told, NOW.into(), "every state is told");
    }
}
