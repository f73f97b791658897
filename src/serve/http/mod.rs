//! HTTP/1.1 on a stream: who may ask, how much and how long, and what is answered.
//!
//! `routes` is the table of what there is, `guard` refuses what a browser or an attacker would send,
//! `answer` makes answers. Whatever a client does costs it its own connection and nothing else: heads are
//! bounded in size and time, bodies too, and so is the number of connections (`listen`).

mod answer;
pub mod change;
mod connections;
mod doctor;
mod events;
mod explain;
pub mod guard;
mod health;
pub mod metrics;
mod metrics_health;
mod openapi;
pub mod routes;
pub mod view;

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Control;
pub use answer::Body;
use answer::Trouble;
use guard::Trust;
pub use openapi::document as openapi_document;

/// Longest head of a request, bytes.
const HEAD: usize = 16 * 1024;
/// How long a client may take for the head of a request, and be silent between two.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Longest body of a request, bytes: a configuration of some ten thousand services.
const BODY: usize = 64 * 1024 * 1024;
/// How long a client may take for a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What a connection's requests may do.
#[derive(Clone)]
pub struct Context {
    /// The control task.
    pub control: Control,
    /// How far the other end is trusted.
    pub trust: Trust,
}

/// Serves one connection until it ends.
pub async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, context: Context) {
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(respond(&context, request).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD).half_close(true);
    // a client that breaks off or speaks nonsense has ended its own connection
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(context: &Context, request: Request<Incoming>) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    let mut response = match act(context, request).await {
        Ok(response) => response,
        Err(trouble) => trouble.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn act(context: &Context, request: Request<Incoming>) -> Result<Response<Body>, Trouble> {
    let (parts, body) = request.into_parts();
    guard::check(&parts, &context.trust)?;
    let (route, captured) = routes::find(&parts.method, parts.uri.path(), context.trust.may_change())?;
    let bytes = if route.takes_body { read_body(body).await? } else { Bytes::new() };
    let mut call = routes::Call::new(&parts, captured, bytes)?;
    route.knows(&call)?;
    call.pass = context.trust.pass(&parts.headers);
    (route.run)(context.clone(), call).await
}

async fn read_body(body: Incoming) -> Result<Bytes, Trouble> {
    let reading = Limited::new(body, BODY).collect();
    match tokio::time::timeout(BODY_TIME, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Trouble::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large or was broken off",
            format!("send at most {BODY} bytes"),
        )),
        Err(_) => Err(Trouble::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time", "")),
    }
}
