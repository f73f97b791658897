//! Answers: JSON, text, streams, and troubles with their place and remedy.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::diag::{Complaint, Diagnostic, Severity};
use crate::failure::Failure;
use crate::serve::control::Gone;
use crate::svc::CatalogError;
use crate::worker::Stopped;

/// The body of an answer: whole, or in pieces as they are made.
pub enum Body {
    /// All of it.
    Whole(Option<Bytes>),
    /// Pieces; the one who makes them waits while nobody reads.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    /// Nothing.
    pub fn empty() -> Body {
        Body::Whole(None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|b| Ok(Frame::data(b)))),
        }
    }
    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// `200` with JSON.
pub fn json(value: &Value) -> Response<Body> {
    json_with(StatusCode::OK, value)
}

/// JSON with another status.
pub fn json_with(status: StatusCode, value: &Value) -> Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    response(status, "application/json", Body::Whole(Some(text.into())))
}

/// `200` with text of a kind.
pub fn text(kind: &'static str, text: String) -> Response<Body> {
    response(StatusCode::OK, kind, Body::Whole(Some(text.into())))
}

/// `200` with pieces, and where to put them.
pub fn stream(kind: &'static str) -> (Response<Body>, mpsc::Sender<Bytes>) {
    let (sender, pieces) = mpsc::channel(4);
    (response(StatusCode::OK, kind, Body::Stream(pieces)), sender)
}

/// Does what takes long for many services on another thread: signals, changes and health checks wait for the one
/// that calls.
///
/// # Errors
/// It did not come to its end.
pub async fn aside<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        Trouble::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer cannot be made",
            "look into the director's log",
        )
    })
}

/// Why a request is not answered as asked.
#[derive(Debug)]
pub struct Trouble {
    status: StatusCode,
    errors: Vec<Value>,
    headers: Vec<(&'static str, String)>,
}

impl Trouble {
    /// One reason with its remedy.
    pub fn new(status: StatusCode, why: impl Into<String>, help: impl Into<String>) -> Trouble {
        let (why, help): (String, String) = (why.into(), help.into());
        Trouble { status, errors: vec![error(&why, &help)], headers: Vec::new() }
    }
    /// `400`
    pub fn bad(why: impl Into<String>, help: impl Into<String>) -> Trouble {
        Trouble::new(StatusCode::BAD_REQUEST, why, help)
    }
    /// `404`
    pub fn missing(why: impl Into<String>) -> Trouble {
        Trouble::new(StatusCode::NOT_FOUND, why, "GET /v1/openapi.json tells what there is")
    }
    /// With another header.
    pub fn header(mut self, name: &'static str, value: String) -> Trouble {
        self.headers.push((name, value));
        self
    }
    /// `422` with everything that is wrong with a configuration; `moved` lines were put before the text.
    pub fn config(all: &[Diagnostic], moved: usize) -> Trouble {
        let one = |d: &Diagnostic| {
            let mut e = error(&d.why, &d.help);
            e["key"] = json!(d.key);
            if d.line > moved {
                e["line"] = json!(d.line - moved);
                e["column"] = json!(d.column);
            }
            e
        };
        let errors = all.iter().filter(|d| d.severity == Severity::Error).map(one).collect();
        Trouble { status: StatusCode::UNPROCESSABLE_ENTITY, errors, headers: Vec::new() }
    }
    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = json_with(self.status, &json!({ "errors": self.errors }));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

fn error(why: &str, help: &str) -> Value {
    let mut e = json!({ "error": why });
    if !help.is_empty() {
        e["help"] = json!(help);
    }
    e
}

impl From<Gone> for Trouble {
    fn from(gone: Gone) -> Trouble {
        Trouble::new(StatusCode::SERVICE_UNAVAILABLE, gone.to_string(), "")
    }
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Trouble {
        Trouble::new(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string(), "")
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let one = |message: &String| {
            let (why, help) = message.split_once("\nhelp: ").unwrap_or((message, ""));
            error(why.trim_start_matches("error: "), help)
        };
        let errors = failure.messages().iter().map(one).collect();
        Trouble { status: StatusCode::CONFLICT, errors, headers: Vec::new() }
    }
}

impl From<Complaint> for Trouble {
    fn from(c: Complaint) -> Trouble {
        Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, c.why, c.help)
    }
}

impl From<CatalogError> for Trouble {
    fn from(e: CatalogError) -> Trouble {
        let status = match e {
            CatalogError::NoSuchService | CatalogError::ServiceNotDefined | CatalogError::NoSuchDest => {
                StatusCode::NOT_FOUND
            }
            CatalogError::ServiceExists | CatalogError::DestExists => StatusCode::CONFLICT,
            CatalogError::Range => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Trouble::new(status, e.to_string(), "")
    }
}
