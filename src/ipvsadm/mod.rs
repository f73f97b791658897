//! The language of `ipvsadm`: its command lines read, its listings written.
//!
//! Text in, typed commands out; a catalog in, text out. Nothing here opens a file, resolves a name or
//! talks to anybody, so the same code serves the command, the control socket and the replay of
//! recordings.

#![forbid(unsafe_code)]

mod address;
pub mod conns;
pub mod daemon;
mod help;
pub mod list;
pub mod names;
pub mod parse;
pub mod proc;
mod rules;
mod scan;
pub mod stats;

use std::fmt;

use crate::svc::{Catalog, CatalogError};

pub use daemon::{DaemonKind, DaemonSpec};
pub use help::{HELP, VERSION};
pub use names::Names;
pub use parse::{Command, ListCommand, Show, parse, parse_named};
pub use scan::HINT;
pub use stats::{Baseline, Rates};

/// Why a command line was refused, in `ipvsadm`'s words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The message for stderr, without line end.
    pub text: String,
    /// Exit status: 2 = refused by ipvsadm itself, 255 = by the kernel or the option parser
    /// (IPVS-RULES section 8).
    pub code: u8,
}

impl Refusal {
    /// Refused by ipvsadm's own checks (exit status 2).
    pub fn usage(text: impl Into<String>) -> Refusal {
        Refusal { text: text.into(), code: 2 }
    }
    /// Refused by the kernel or the option parser (exit status 255).
    pub fn kernel(text: impl Into<String>) -> Refusal {
        Refusal { text: text.into(), code: 255 }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

impl From<CatalogError> for Refusal {
    fn from(e: CatalogError) -> Refusal {
        Refusal::kernel(e.to_string())
    }
}

/// Refuses what the kernel refuses and the catalog does not know of, in the kernel's order.
///
/// # Errors
/// Its words.
pub fn check(command: &Command, catalog: &Catalog) -> Result<(), Refusal> {
    match command {
        Command::UnknownScheduler(key, edit) => match (catalog.service(key), edit) {
            (None, true) => Err(CatalogError::NoSuchService.into()),
            (Some(_), false) => Err(CatalogError::ServiceExists.into()),
            _ => Err(Refusal::kernel("Scheduler or persistence engine not found")),
        },
        Command::AddDest(key, spec) if !address::can_be_real_server(spec.ip) => {
            // it cannot be there; thresholds are looked at first
            catalog.clone().add_dest(key, spec.clone())?;
            Err(Refusal::kernel(
                "Invalid operation.  Possibly wrong module version, address not unicast, ...",
            ))
        }
        Command::DeleteDest(key, ip, port) => {
            let service = catalog.service(key).ok_or(CatalogError::ServiceNotDefined)?;
            // the port must be the one that is listed, even where it has no meaning
            let listed = service.dests.iter().any(|d| (d.spec.ip, d.spec.port) == (*ip, *port));
            if listed { Ok(()) } else { Err(CatalogError::NoSuchDest.into()) }
        }
        _ => Ok(()),
    }
}

/// Applies a command that changes something. Listings change nothing: see [`list`] and [`conns`].
///
/// # Errors
/// What the kernel would have refused, in its words.
pub fn apply(command: &Command, catalog: &mut Catalog, zero: &mut Baseline) -> Result<(), Refusal> {
    check(command, catalog)?;
    match command {
        Command::AddService(spec) => catalog.add_service(spec.clone()).map(drop)?,
        Command::EditService(spec) => catalog.edit_service(spec.clone())?,
        Command::DeleteService(key) => catalog.remove_service(key)?,
        Command::Clear => catalog.clear(),
        Command::AddDest(key, spec) => catalog.add_dest(key, spec.clone()).map(drop)?,
        Command::EditDest(key, spec) => catalog.edit_dest(key, spec.clone())?,
        Command::DeleteDest(key, ip, port) => catalog.remove_dest(key, *ip, *port)?,
        Command::Zero(None) => catalog.services().iter().for_each(|s| zero.zero(s)),
        Command::Zero(Some(key)) => zero.zero(catalog.service(key).ok_or(CatalogError::NoSuchService)?),
        Command::Set([tcp, tcp_fin, udp]) => catalog.timeouts.set(*tcp, *tcp_fin, *udp),
        Command::UnknownScheduler(..)
        | Command::List(_)
        | Command::Save(_)
        | Command::Restore
        | Command::StartDaemon(_)
        | Command::StopDaemon(_)
        | Command::Help
        | Command::Version => {}
    }
    Ok(())
}
