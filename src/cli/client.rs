//! Asking a running director through its control socket.

use std::io::Write as _;
use std::path::PathBuf;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::error::Failure;
use crate::serve::listen;

/// Content types of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// A configuration file.
    Toml,
}

/// A connection to a director.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Full<Bytes>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct NoDirector {
    /// Where one was looked for.
    pub path: PathBuf,
    /// Why not.
    pub error: std::io::Error,
}

impl From<NoDirector> for Failure {
    fn from(e: NoDirector) -> Failure {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let (why, help) = match e.error.kind() {
            NotFound => {
                ("there is no control socket".to_owned(), "start softlvs, or name its socket with --control")
            }
            ConnectionRefused => {
                ("nobody listens there".to_owned(), "the director has ended: start it again")
            }
            PermissionDenied => {
                ("it belongs to another user".to_owned(), "run this as the director's user or root")
            }
            _ => (e.error.to_string(), "name the director's socket with --control or SOFTLVS_CONTROL"),
        };
        Failure::run(format!("cannot reach the director at {}", e.path.display()), why, help)
    }
}

/// Connects to the socket named, or to where it is by default.
///
/// # Errors
/// There is no director, or no runtime to be had.
pub fn connect(control: Option<&str>) -> Result<Client, NoDirector> {
    let path = listen::path(control).map_or_else(|| PathBuf::from("softlvs.sock"), |(path, _)| path);
    let fail = |error| NoDirector { path: path.clone(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let sender = runtime.block_on(async {
        let stream = UnixStream::connect(&path).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    });
    Ok(Client { sender: sender.map_err(fail)?, runtime })
}

impl Client {
    /// `GET`, the answer as JSON.
    ///
    /// # Errors
    /// What the director refuses.
    pub fn get(&mut self, path: &str) -> Result<Value, Failure> {
        let text = self.text("GET", path, None)?;
        serde_json::from_str(&text).map_err(|e| broken(&e.to_string()))
    }
    /// A request with a body, the answer as JSON.
    ///
    /// # Errors
    /// What the director refuses.
    pub fn send(&mut self, method: &str, path: &str, kind: Kind, body: String) -> Result<Value, Failure> {
        let text = self.text(method, path, Some((kind, body)))?;
        serde_json::from_str(&text).map_err(|e| broken(&e.to_string()))
    }
    /// A request, the answer as text.
    ///
    /// # Errors
    /// What the director refuses.
    pub fn text(
        &mut self,
        method: &str,
        path: &str,
        body: Option<(Kind, String)>,
    ) -> Result<String, Failure> {
        let request = request(method, path, body)?;
        let (sender, runtime) = (&mut self.sender, &self.runtime);
        let (status, bytes) = runtime
            .block_on(async {
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let status = response.status();
                Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
            })
            .map_err(|e| broken(&e.to_string()))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() { Ok(text) } else { Err(refused(&text, status.as_u16())) }
    }
    /// `GET`, the answer copied to standard output as it comes.
    ///
    /// # Errors
    /// What the director refuses; a reader that went away is no failure.
    pub fn copy(&mut self, path: &str) -> Result<(), Failure> {
        let request = request("GET", path, None)?;
        let (sender, runtime) = (&mut self.sender, &self.runtime);
        runtime.block_on(async {
            sender.ready().await.map_err(|e| broken(&e.to_string()))?;
            let response = sender.send_request(request).await.map_err(|e| broken(&e.to_string()))?;
            if !response.status().is_success() {
                let status = response.status().as_u16();
                let text = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                return Err(refused(&String::from_utf8_lossy(&text), status));
            }
            copy(response.into_body()).await
        })
    }
}

impl Client {
    /// `GET`, the lines of the answer as they come, until `each` says that it is enough.
    ///
    /// # Errors
    /// What the director refuses, or `each`.
    pub fn lines(
        &mut self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let request = request("GET", path, None)?;
        let (sender, runtime) = (&mut self.sender, &self.runtime);
        runtime.block_on(async {
            sender.ready().await.map_err(|e| broken(&e.to_string()))?;
            let response = sender.send_request(request).await.map_err(|e| broken(&e.to_string()))?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let text = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                return Err(refused(&String::from_utf8_lossy(&text), status.as_u16()));
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| broken(&e.to_string()))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |b| b));
                while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !each(String::from_utf8_lossy(&line).trim())? {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }
}

async fn copy(mut body: Incoming) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken(&e.to_string()))?;
        if let Some(bytes) = frame.data_ref() {
            let mut out = std::io::stdout().lock();
            match out.write_all(bytes).and_then(|()| out.flush()) {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(e) => return Err(Failure::run("cannot write the output", e.to_string(), "")),
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

fn request(method: &str, path: &str, body: Option<(Kind, String)>) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some((kind, _)) = &body {
        let kind = if *kind == Kind::Json { "application/json" } else { "application/toml" };
        request = request.header("content-type", kind);
    }
    let body = body.map(|(_, text)| Bytes::from(text)).unwrap_or_default();
    request
        .body(Full::new(body))
        .map_err(|e| Failure::wrong("request", e.to_string(), "a path begins with a slash: /v1/status"))
}

fn broken(why: &str) -> Failure {
    Failure::run("the director broke off", why, "look into its log")
}

/// The reasons in an answer, as everything else is said.
fn refused(text: &str, status: u16) -> Failure {
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let errors = parsed["errors"].as_array().cloned().unwrap_or_default();
    let one = |e: &Value| {
        let word = |name: &str| e[name].as_str().unwrap_or_default().to_owned();
        let line = e["line"].as_u64().map(|l| format!("line {l}, column {}: ", e["column"]));
        let key = if word("key").is_empty() { String::new() } else { format!("{}: ", word("key")) };
        let why = format!("error: {}{key}{}", line.unwrap_or_default(), word("error"));
        if word("help").is_empty() { why } else { format!("{why}\nhelp: {}", word("help")) }
    };
    let messages: Vec<String> = errors.iter().map(one).collect();
    if messages.is_empty() {
        return Failure::run("the director refuses", format!("status {status}"), "");
    }
    Failure::refused(messages, matches!(status, 400 | 409 | 415 | 422))
}
