//! Recordings of the kernel's IPVS, played through the core.
//!
//! A [`Scenario`] is one recorded session: a network, `ipvsadm` lines, steps with packets and commands,
//! and what came of them. [`play`] builds the same director from it, moves simulated time from step to
//! step, and compares every emitted frame and every listing. Nothing is opened, no privilege is needed;
//! only [`load_dir`] reads files. The format is told in `tests/vectors/README.md`.

#![forbid(unsafe_code)]

mod clock;
mod compare;
mod decode;
mod frame;
mod picks;
mod player;
mod scenario;
mod session;
mod setup;
mod shell;
mod shell_parse;
mod shell_tools;
mod texts;

use std::path::{Path, PathBuf};

pub use player::{Outcome, play, play_verbose};
pub use scenario::{CommandRecord, Scenario};

/// A recording that could not be read.
#[derive(Debug)]
pub struct LoadError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for LoadError {}

/// Reads every `*.json` of a folder, by file name; a file that is no scenario does not hide the others.
///
/// # Errors
/// The folder cannot be read.
pub fn load_dir(dir: &Path) -> Result<Vec<Result<Scenario, LoadError>>, LoadError> {
    let unreadable = |e: std::io::Error| LoadError { path: dir.to_owned(), why: e.to_string() };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files.iter().map(|f| load(f)).collect())
}

/// Reads one scenario.
///
/// # Errors
/// The file cannot be read or is no scenario.
pub fn load(file: &Path) -> Result<Scenario, LoadError> {
    let fail = |why: String| LoadError { path: file.to_owned(), why };
    let text = std::fs::read_to_string(file).map_err(|e| fail(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| fail(e.to_string()))
}
