//! What changes something: one transaction each.

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::answer::{Body, Trouble, json as answer, json_with};
use super::events::changes;
use super::routes::Call;
use super::view::{find, id, key, real_of, timeouts_value};
use crate::config::{Plan, check, save};
use crate::ctl::State;
use crate::ctl::diff;
use crate::ctl::ipvsadm::{Call as Line, Piece};
use crate::failure::Failure;
use crate::ipvsadm::{Command, Names};
use crate::svc::{DestSpec, ServiceKey, ServiceSpec};
use crate::time::Span;

type Answer = Result<Response<Body>, Trouble>;

/// `POST /v1/services`
pub async fn add_service(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let (spec, reals) = service_body(&state, object(&call)?)?;
    let key = spec.key;
    let mut commands = vec![Command::AddService(spec)];
    commands.extend(reals.into_iter().map(|r| Command::AddDest(key, r)));
    run(&context, commands).await?;
    Ok(json_with(StatusCode::CREATED, &json!({ "id": id(&key) })))
}

/// `PUT /v1/services/{kind}/{address}`
pub async fn put_service(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let key = key(&call)?;
    let mut body = object(&call)?;
    agrees(&body, &key)?;
    put_key(&mut body, &key);
    let with_reals = body.get("real").is_some();
    let (spec, reals) = service_body(&state, body)?;
    let Some(old) = state.catalog.service(&key) else {
        let mut commands = vec![Command::AddService(spec)];
        commands.extend(reals.into_iter().map(|r| Command::AddDest(key, r)));
        run(&context, commands).await?;
        return Ok(json_with(StatusCode::CREATED, &json!({ "id": id(&key) })));
    };
    let mut commands = Vec::new();
    if old.spec != spec {
        commands.push(Command::EditService(spec));
    }
    if with_reals {
        let beneath = state.overlays.beneath(old);
        let same = |a: &DestSpec, b: &DestSpec| (a.ip, a.port) == (b.ip, b.port);
        let gone = beneath.iter().filter(|o| !reals.iter().any(|r| same(o, r)));
        commands.extend(gone.map(|o| Command::DeleteDest(key, o.ip, o.port)));
        for r in reals {
            match beneath.iter().find(|o| same(o, &r)) {
                None => commands.push(Command::AddDest(key, r)),
                Some(o) if *o != r => commands.push(Command::EditDest(key, r)),
                Some(_) => {}
            }
        }
    }
    run(&context, commands).await?;
    Ok(answer(&json!({ "id": id(&key) })))
}

/// `DELETE /v1/services/{kind}/{address}`
pub async fn delete_service(context: Context, call: Call) -> Answer {
    let key = key(&call)?;
    run(&context, vec![Command::DeleteService(key)]).await?;
    Ok(answer(&json!({ "id": id(&key) })))
}

/// `POST /v1/services/{kind}/{address}/zero`
pub async fn zero_service(context: Context, call: Call) -> Answer {
    let key = key(&call)?;
    run(&context, vec![Command::Zero(Some(key))]).await?;
    Ok(answer(&json!({ "id": id(&key) })))
}

/// `POST /v1/counters/zero`
pub async fn zero(context: Context, _: Call) -> Answer {
    run(&context, vec![Command::Zero(None)]).await?;
    Ok(answer(&json!({})))
}

/// `POST /v1/services/{kind}/{address}/reals`
pub async fn add_real(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let key = key(&call)?;
    let real = real_body(&state, &key, object(&call)?)?;
    let name = std::net::SocketAddr::new(real.ip, real.port).to_string();
    run(&context, vec![Command::AddDest(key, real)]).await?;
    Ok(json_with(StatusCode::CREATED, &json!({ "id": name })))
}

/// `PUT /v1/services/{kind}/{address}/reals/{real}`
pub async fn put_real(context: Context, call: Call) -> Answer {
    let state = context.control.look().await?;
    let key = key(&call)?;
    let word = call.path.get(2).map_or("", String::as_str);
    let (ip, port) = real_of(&key, word)?;
    let mut body = object(&call)?;
    if let Some(said) = body.get("address")
        && said.as_str().is_none_or(|said| real_of(&key, said).ok() != Some((ip, port)))
    {
        return Err(disagreement("address", said, word));
    }
    body["address"] = json!(std::net::SocketAddr::new(ip, port).to_string());
    let real = real_body(&state, &key, body)?;
    let old = state.overlays.beneath(find(&state, &key)?);
    let there = old.iter().find(|o| (o.ip, o.port) == (real.ip, real.port));
    let (status, commands) = match there {
        None => (StatusCode::CREATED, vec![Command::AddDest(key, real)]),
        Some(o) if *o == real => (StatusCode::OK, Vec::new()),
        Some(_) => (StatusCode::OK, vec![Command::EditDest(key, real)]),
    };
    run(&context, commands).await?;
    Ok(json_with(status, &json!({ "id": word })))
}

/// `DELETE /v1/services/{kind}/{address}/reals/{real}`
pub async fn delete_real(context: Context, call: Call) -> Answer {
    let key = key(&call)?;
    let word = call.path.get(2).map_or("", String::as_str);
    let (ip, port) = real_of(&key, word)?;
    run(&context, vec![Command::DeleteDest(key, ip, port)]).await?;
    Ok(answer(&json!({ "id": word })))
}

/// `PUT /v1/timeouts`
pub async fn put_timeouts(context: Context, call: Call) -> Answer {
    let body = object(&call)?;
    let mut times = [Span::ZERO; 3];
    for (name, value) in body.as_object().into_iter().flatten() {
        let place = ["tcp", "tcp_fin", "udp"].iter().position(|n| n == name);
        let place = place.ok_or_else(|| {
            Trouble::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("`{name}` is no timeout"),
                "known are: tcp, tcp_fin, udp",
            )
        })?;
        let seconds = value.as_u64().filter(|s| (1..=31 * 86_400).contains(s));
        let seconds = seconds.ok_or_else(|| {
            Trouble::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("{name}: {value} is out of range"),
                "whole seconds, from 1 to 31 days (2678400)",
            )
        })?;
        times[place] = Span::from_secs(seconds);
    }
    run(&context, vec![Command::Set(times)]).await?;
    Ok(answer(&timeouts_value(&context.control.look().await?)))
}

/// `PUT /v1/sysctls`
pub async fn put_sysctls(context: Context, call: Call) -> Answer {
    let body = object(&call)?;
    let mut values = Vec::new();
    for (name, value) in body.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(on) => u8::from(*on).to_string(),
            other => other.to_string(),
        };
        values.push((name.clone(), text));
    }
    context.control.sysctls(values).await??;
    super::view::sysctls(context, call).await
}

/// `POST /v1/config`
pub async fn config(context: Context, call: Call) -> Answer {
    let text = match call.toml {
        true => String::from_utf8(call.body.to_vec())
            .map_err(|_| Trouble::bad("the configuration is not text in UTF-8", ""))?,
        false => toml_of(&object(&call)?)?,
    };
    let dry_run = call.flag("dry_run")?;
    let tell = |failure: &Failure| {
        if !dry_run {
            context.control.refused(failure);
        }
    };
    let plan = check(&text, "request").map_err(|all| {
        tell(&Failure::config(&all));
        Trouble::config(&all, if call.toml { 0 } else { usize::MAX })
    })?;
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    let applied = context.control.apply(plan, dry_run).await.inspect_err(tell)?;
    Ok(answer(&json!({
        "applied": !dry_run,
        "changes": changes(&applied.changes),
        "difference": diff::lines(&applied.before, &applied.after),
        "warnings": warnings,
    })))
}

/// `POST /v1/ipvsadm`
pub async fn ipvsadm(context: Context, call: Call) -> Answer {
    let body = object(&call)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let words = |args: &Value| args.as_array()?.iter().map(|a| a.as_str().map(str::to_owned)).collect();
    let args: Option<Vec<String>> = body.get("args").map_or(Some(Vec::new()), words);
    let args =
        args.ok_or_else(|| Trouble::bad("`args` is a list of words", "{\"args\": [\"-L\", \"-n\"]}"))?;
    let names = Names::read(&text("hosts"), &text("services"));
    let outcome = context.control.ipvsadm(Line { args, stdin: text("stdin"), names }).await?;
    let pieces = outcome.stdout.into_iter().map(|piece| match piece {
        Piece::Text(text) => json!({ "text": text }),
        // asked for by the client itself, since it may be long
        Piece::Connections { numeric, persistence } => {
            json!({ "connections": { "numeric": numeric, "persistence": persistence } })
        }
    });
    let pieces: Vec<Value> = pieces.collect();
    Ok(answer(&json!({ "stdout": pieces, "stderr": outcome.stderr, "status": outcome.code })))
}

/// Names of this host.
pub fn own_names() -> Names {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    Names::read(&text("/etc/hosts"), &text("/etc/services"))
}

async fn run(context: &Context, commands: Vec<Command>) -> Result<(), Trouble> {
    if commands.is_empty() {
        return Ok(());
    }
    match context.control.transaction(commands).await? {
        Ok(()) => Ok(()),
        Err((_, refusal)) => {
            let status = match refusal.text.as_str() {
                "No such service" | "Service not defined" | "No such destination" => StatusCode::NOT_FOUND,
                "Service already exists" | "Destination already exists" => StatusCode::CONFLICT,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            Err(Trouble::new(status, refusal.text, ""))
        }
    }
}

fn object(call: &Call) -> Result<Value, Trouble> {
    let value: Value = serde_json::from_slice(&call.body).map_err(|e| {
        Trouble::bad(format!("the body is not JSON: {e}"), "send an object: {\"key\": value}")
    })?;
    if value.is_object() { Ok(value) } else { Err(Trouble::bad("the body is not a JSON object", "")) }
}

fn put_key(body: &mut Value, key: &ServiceKey) {
    match key {
        ServiceKey::Address { proto, ip, port } => {
            body["address"] = json!(std::net::SocketAddr::new(*ip, *port).to_string());
            body["protocol"] = json!(proto.name());
        }
        ServiceKey::Mark { mark, v6 } => {
            body["fwmark"] = json!(mark);
            body["family"] = json!(if *v6 { "ipv6" } else { "ipv4" });
        }
    }
}

/// A body says nothing else of what a service is than the path: it would be overridden in silence.
fn agrees(body: &Value, key: &ServiceKey) -> Result<(), Trouble> {
    let mut wanted = json!({});
    put_key(&mut wanted, key);
    for (name, wanted) in wanted.as_object().into_iter().flatten() {
        let Some(said) = body.get(name) else { continue };
        let address = |v: &Value| v.as_str().and_then(|t| t.parse::<std::net::SocketAddr>().ok());
        if said != wanted && (address(said).is_none() || address(said) != address(wanted)) {
            return Err(disagreement(name, said, &id(key)));
        }
    }
    Ok(())
}

fn disagreement(name: &str, said: &Value, path: &str) -> Trouble {
    Trouble::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("{name}: the body says {said}, the path {path}"),
        "leave it out of the body; another one is another resource: add it and delete this one",
    )
}

/// A service in JSON, checked by the rules of the file, against the network that runs.
///
/// # Errors
/// What is wrong with it.
pub fn service_body(state: &State, body: Value) -> Result<(ServiceSpec, Vec<DestSpec>), Trouble> {
    let before = save::base(&state.plan);
    let text = format!("{before}\n{}", toml_of(&json!({ "service": [body] }))?);
    let plan = checked(&text)?;
    plan.services.into_iter().next().ok_or_else(|| Trouble::bad("there is no service in the body", ""))
}

/// A real server in JSON.
///
/// # Errors
/// What is wrong with it.
pub fn real_body(state: &State, key: &ServiceKey, body: Value) -> Result<DestSpec, Trouble> {
    let service = find(state, key)?;
    let mut text = save::base(&state.plan);
    save::service(&mut text, &service.spec, &[]);
    let real = toml_of(&json!({ "service": [{ "real": [body] }] }))?;
    // what toml puts around it belongs to the service that stands there already
    text.push_str(&real.replacen("[[service]]\n", "", 1));
    let plan = checked(&text)?;
    let real = plan.services.into_iter().next().and_then(|(_, reals)| reals.into_iter().next());
    real.ok_or_else(|| Trouble::bad("there is no real server in the body", ""))
}

fn checked(text: &str) -> Result<Plan, Trouble> {
    check(text, "request").map_err(|all| Trouble::config(&all, usize::MAX))
}

/// JSON as the text of a file.
fn toml_of(value: &Value) -> Result<String, Trouble> {
    toml::to_string(value).map_err(|e| {
        Trouble::bad(format!("the body cannot be a configuration: {e}"), "leave keys out instead of null")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svc::Proto;

    #[test]
    fn a_body_that_says_another_service_than_the_path_is_refused() {
        let status =
            |body: Value, key: &ServiceKey| agrees(&body, key).map_err(|t| t.into_response().status());
        let (six, mark) = (
            ServiceKey::Address { proto: Proto::Udp, ip: "2001:db8::1".parse().unwrap(), port: 53 },
            ServiceKey::Mark { mark: 7, v6: false },
        );
        for body in [
            json!({}),
            json!({ "scheduler": "rr" }),
            json!({ "address": "[2001:db8::1]:53", "protocol": "udp" }),
            json!({ "address": "[2001:DB8:0::1]:53" }),
        ] {
            assert_eq!(status(body.clone(), &six), Ok(()), "{body}");
        }
        for body in [
            json!({ "address": "[2001:db8::1]:54" }),
            json!({ "address": 5 }),
            json!({ "address": "x" }),
            json!({ "protocol": "tcp" }),
        ] {
            assert_eq!(status(body.clone(), &six), Err(StatusCode::UNPROCESSABLE_ENTITY), "{body}");
        }
        assert_eq!(status(json!({ "fwmark": 7, "family": "ipv4" }), &mark), Ok(()));
        assert!(
            status(json!({ "fwmark": 8 }), &mark).is_err()
                && status(json!({ "family": "ipv6" }), &mark).is_err()
        );
    }
}
