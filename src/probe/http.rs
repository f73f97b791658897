//! `http` and `https`: every request is answered as it should be, each over a connection of its own.

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::dial::Dialer;
use super::{Finding, Trouble, text, tls};
use crate::health::spec::{HttpRequest, HttpVersion, TlsSpec};
use crate::health::{Job, Outcome};

pub(super) async fn run(
    job: &Job,
    dialer: &Dialer,
    requests: &[HttpRequest],
    version: HttpVersion,
    tls: Option<&TlsSpec>,
) -> Finding {
    let mut last = String::new();
    for request in requests {
        let stream = dialer.connect(job).await?;
        last = match tls {
            None => ask(job, request, version, stream).await?,
            Some(spec) => ask(job, request, version, tls::over(job, spec, stream).await?).await?,
        };
    }
    Ok(Outcome::ok(last))
}

/// Ends its task with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks over a connection and judges the answer; gives what was found.
///
/// # Errors
/// It is not as it should be.
pub async fn ask<S>(
    job: &Job,
    request: &HttpRequest,
    version: HttpVersion,
    stream: S,
) -> Result<String, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| Trouble::Failed(format!("{}: {}", request.path, said(&e)));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(text::MOST)
        .max_headers(256)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let _driver = Driver(tokio::spawn(async move {
        // what goes wrong here is told to the one who asked
        let _ = connection.await;
    }));
    let host = request.host.clone().unwrap_or_else(|| job.to.to_string());
    let mut builder = Request::builder().uri(&request.path).header(USER_AGENT, "softlvs");
    builder = match version {
        HttpVersion::V10 => builder.version(Version::HTTP_10),
        HttpVersion::V10Close => builder.version(Version::HTTP_10).header(CONNECTION, "close"),
        HttpVersion::V11 => builder.version(Version::HTTP_11).header(CONNECTION, "close"),
    };
    let question = builder
        .header(HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|e| Trouble::Unchecked(format!("the request cannot be made: {e}")))?;
    let answer = sender.send_request(question).await.map_err(failed)?;
    let status = answer.status().as_u16();
    let refuse = |why: String| Trouble::Failed(format!("{}: {why}", request.path));
    text::status(request, status).map_err(refuse)?;
    if text::wants_body(request) {
        let mut body = answer.into_body();
        let mut read: Vec<u8> = Vec::new();
        let mut whole = true;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(failed)?.into_data() else { continue };
            let room = text::MOST - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() >= room {
                whole = data.len() == room && body.is_end_stream();
                break;
            }
        }
        text::body(request, &read, whole).map_err(refuse)?;
    }
    Ok(format!("status {status}"))
}

fn said(e: &hyper::Error) -> String {
    use std::error::Error as _;
    match e.source() {
        Some(inner) => format!("{e}: {inner}"),
        None if e.is_incomplete_message() => "the connection was closed without an answer".to_owned(),
        None => e.to_string(),
    }
}
