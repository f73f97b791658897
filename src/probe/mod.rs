//! Checks of real servers: one asynchronous function for each kind, all with bounded memory.
//!
//! A check is a future that is dropped at its timeout, which closes what it holds and kills what it
//! started. It knows nothing of other checks and has no way to the packet path. What a server sends is
//! read up to a bound and judged in [`text`], which believes nothing.

pub mod dial;
mod dns;
mod exec;
mod file;
pub mod http;
mod ping;
mod smtp;
pub mod stack;
pub mod text;
mod tls;
mod udp;

use std::io;

use crate::health::{CheckKind, Job, Outcome};
use dial::Dialer;

/// Why there is no good result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server is not as it should be.
    Failed(String),
    /// It could not be found out, for want of something here.
    Unchecked(String),
}

impl Trouble {
    /// What an error of the host's sockets says, met while doing `what`.
    pub fn of(what: &str, e: &io::Error) -> Trouble {
        use nix::errno::Errno;
        let here = [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EADDRNOTAVAIL,
            Errno::EADDRINUSE,
            Errno::EPERM,
            Errno::EAFNOSUPPORT,
        ];
        let text = format!("{what}: {}", plain(e));
        match e.raw_os_error().map(Errno::from_raw) {
            Some(n) if here.contains(&n) => Trouble::Unchecked(text),
            _ => Trouble::Failed(text),
        }
    }
}

/// An error without its number.
fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What a check found.
pub type Finding = Result<Outcome, Trouble>;

/// Runs a check to its end. The caller ends it at the timeout by dropping the future.
pub async fn run(job: &Job, dialer: &Dialer) -> Finding {
    match &job.check.kind {
        CheckKind::Tcp => {
            dialer.connect(job).await?.reset_on_close();
            Ok(Outcome::ok("connected"))
        }
        CheckKind::Http { requests, version, tls } => {
            http::run(job, dialer, requests, *version, tls.as_ref()).await
        }
        CheckKind::Dns { name, kind } => dns::run(job, dialer, name, *kind).await,
        CheckKind::Udp { .. } => udp::run(job, dialer).await,
        CheckKind::Ping => ping::run(job, dialer).await,
        CheckKind::Smtp { helo } => smtp::run(job, dialer, helo).await,
        CheckKind::Exec { argv, user, dynamic } => exec::check(job, argv, user.as_deref(), *dynamic).await,
        CheckKind::File { path, factor } => file::run(path, *factor).await,
    }
}

pub use exec::{Program, default_user};

#[cfg(test)]
mod tests;
