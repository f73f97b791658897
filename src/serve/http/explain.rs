//! Why packets go where they go: of a question, and live.

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use serde::Serialize;

use super::Context;
use super::answer::{Body, Trouble, stream, text};
use super::routes::Call;
use crate::engine::Engine;
use crate::engine::explain::watch::{Watch, Watched};
use crate::explain::report::Live;
use crate::explain::{Filter, Question, Report, decide, statement};
use crate::serve::workers::Askers;
use crate::time::{Mono, Span};
use crate::wire::Link;

/// How often the workers are asked what they have gathered.
const EVERY: Duration = Duration::from_millis(50);
/// Workers that are not asked for so long stop gathering.
const GONE: Span = Span::from_secs(5);

/// `POST /v1/explain`
pub async fn explain(context: Context, call: Call) -> Result<Response<Body>, Trouble> {
    let question: Question = serde_json::from_slice(&call.body).map_err(|e| {
        let example = r#"for example {"flow": "tcp 10.0.0.9:40000 > 192.0.2.10:80"}"#;
        Trouble::bad(format!("the body is no question: {e}"), example)
    })?;
    let ask = move |engine: &mut Engine, now: Mono| statement(engine, now, &question);
    let report = decide(context.control.workers().ask_all(ask).await?)?;
    line(&report).map(|line| text("application/json", line))
}

/// `GET /v1/explain/live`
pub async fn live(context: Context, call: Call) -> Result<Response<Body>, Trouble> {
    let filter: Filter = call.get("filter").unwrap_or_default().parse()?;
    let count = match call.get("count") {
        None => u32::MAX,
        Some(n) => n.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            Trouble::bad(format!("count: `{n}` is not a number of packets"), "a whole number from 1")
        })?,
    };
    let terms = filter.terms(&context.control.look().await?.catalog.net)?;
    let workers = context.control.workers().clone();
    let begin = move |engine: &mut Engine, now: Mono| {
        let free = !engine.is_watched(now);
        if free {
            engine.watch(Watch { terms: terms.clone(), left: count, until: now + GONE });
        }
        free
    };
    if !workers.ask_all(begin).await?.into_iter().all(|free| free) {
        return Err(Trouble::new(
            hyper::StatusCode::CONFLICT,
            "somebody else watches already",
            "wait until that has ended",
        ));
    }
    let (response, sender) = stream("application/x-ndjson");
    tokio::spawn(async move {
        let mut left = count;
        while left > 0 {
            let Ok(all) = workers.ask_all(gather).await else { return };
            for line in all.into_iter().flatten().take(left as usize) {
                left -= 1;
                if sender.send(line).await.is_err() {
                    return end(&workers).await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = sender.closed() => break,
            }
        }
        end(&workers).await;
    });
    Ok(response)
}

fn gather(engine: &mut Engine, now: Mono) -> Vec<Bytes> {
    let (seen, missed) = engine.take_watched(now + GONE);
    let mut missed = Some(missed);
    let told = |w: &Watched| {
        let plan = engine.host().plan();
        let bare = plan.ports.get(usize::from(w.port.0)).is_some_and(|p| p.link == Link::Ip);
        let live = Live {
            frame: w.frame.iter().map(|b| format!("{b:02x}")).collect(),
            bare,
            missed: missed.take().unwrap_or(0),
            report: Report::new(engine, w.port, &w.frame, false, &w.told),
        };
        line(&live).ok().map(Bytes::from)
    };
    seen.iter().filter_map(told).collect()
}

async fn end(workers: &Askers) {
    // who has ended watches nothing
    let _ = workers.ask_all(|engine, _| engine.unwatch()).await;
}

/// A document in a line, its keys in their order.
fn line(value: &impl Serialize) -> Result<String, Trouble> {
    let text = serde_json::to_string(value);
    text.map(|t| t + "\n").map_err(|e| {
        Trouble::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the answer: {e}"), "")
    })
}
