//! How the program fails: one line `softlvs: error: WHAT: WHY`, `help: REMEDY`, and an exit status.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use crate::config::diag::{Complaint, Diagnostic, Severity};
use crate::io::OpenError;

/// Asked for, but it failed.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;

/// Why a command ends without success.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    /// Messages as [`Diagnostic`] prints them: `error: WHAT: WHY`, perhaps a piece of source, `help: REMEDY`.
    messages: Vec<String>,
}

impl Failure {
    fn new(code: u8, what: &str, why: &str, help: &str) -> Failure {
        let mut text = format!("error: {what}: {why}");
        if !help.is_empty() {
            let _ = write!(text, "\nhelp: {help}");
        }
        Failure { code, messages: vec![text] }
    }
    /// It failed at run time.
    pub fn run(what: impl AsRef<str>, why: impl AsRef<str>, help: impl AsRef<str>) -> Failure {
        Failure::new(FAILED, what.as_ref(), why.as_ref(), help.as_ref())
    }
    /// It was asked for in the wrong way.
    pub fn wrong(what: impl AsRef<str>, why: impl AsRef<str>, help: impl AsRef<str>) -> Failure {
        Failure::new(WRONG, what.as_ref(), why.as_ref(), help.as_ref())
    }
    /// The configuration is refused. Warnings wait until it is accepted.
    pub fn config(all: &[Diagnostic]) -> Failure {
        let errors = all.iter().filter(|d| d.severity == Severity::Error);
        Failure { code: WRONG, messages: errors.map(ToString::to_string).collect() }
    }
    /// Ports cannot be what the plan says.
    pub fn ports(wrong: &[(String, Complaint)]) -> Failure {
        let one = |(port, c): &(String, Complaint)| {
            let help = if c.help.is_empty() { String::new() } else { format!("\nhelp: {}", c.help) };
            format!("error: port {port}: {}{help}", c.why)
        };
        Failure { code: WRONG, messages: wrong.iter().map(one).collect() }
    }
    /// The director refused it; `wrong` when what was sent is wrong.
    pub fn refused(messages: Vec<String>, wrong: bool) -> Failure {
        Failure { code: if wrong { WRONG } else { FAILED }, messages }
    }
    /// The messages, without the program's name.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }
    /// Writes the messages to standard error and gives the exit status.
    pub fn report(&self) -> ExitCode {
        for message in &self.messages {
            complain(message);
        }
        ExitCode::from(self.code)
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Failure {
        Failure::run(e.what, e.why, e.help.unwrap_or_default())
    }
}

/// Writes one message to standard error, in colour on a terminal unless `NO_COLOR` is set.
pub fn complain(message: &str) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut text = String::from("softlvs: ");
    for (i, line) in message.lines().enumerate() {
        let word = match line.split_once(": ") {
            Some((w @ ("error" | "warning"), _)) if i == 0 => w,
            Some((w @ "help", _)) => w,
            _ => "",
        };
        let ansi = match word {
            "error" => "\u{1b}[1;31m",
            "warning" => "\u{1b}[1;33m",
            _ => "\u{1b}[1;36m",
        };
        if colour && !word.is_empty() {
            let _ = writeln!(text, "{ansi}{word}\u{1b}[0m{}", &line[word.len()..]);
        } else {
            let _ = writeln!(text, "{line}");
        }
    }
    // Nobody is left to be told when standard error is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
