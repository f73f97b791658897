//! How the program fails: one line `softlvs: error: WHAT: WHY`, `help: REMEDY`, and an exit status.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

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

/// What the option parser refused, said the way everything else is said. `command` is the subcommand that
/// was typed, empty for none.
pub fn usage(e: &clap::Error, command: &str) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe behind `softlvs --help | head` is success.
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let get = |kind| e.context().find(|(k, _)| *k == kind).map(|(_, v)| words(v)).filter(|w| !w.is_empty());
    let arg = get(ContextKind::InvalidArg).map(|a| a.join(", "));
    let value = get(ContextKind::InvalidValue).map(|v| v.join(", ")).unwrap_or_default();
    let valid = get(ContextKind::ValidValue).unwrap_or_default();
    let suggested =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(get);
    let mut help = match suggested {
        Some(meant) => format!("did you mean `{}`?", meant.join("` or `")),
        None if command.is_empty() => "`softlvs --help` shows the commands and options".to_owned(),
        None => format!("`softlvs {command} --help` shows its options"),
    };
    let what = arg.unwrap_or_else(|| "command line".to_owned());
    let (what, why) = match e.kind() {
        ErrorKind::UnknownArgument => (what, "unknown option or argument".to_owned()),
        ErrorKind::InvalidSubcommand => {
            (get(ContextKind::InvalidSubcommand).unwrap_or_default().join(" "), "unknown command".to_owned())
        }
        ErrorKind::InvalidValue if value.is_empty() => (what, "the value is missing".to_owned()),
        ErrorKind::InvalidValue => {
            help = format!("known are: {}", valid.join(", "));
            (what, format!("`{value}` is not known here"))
        }
        ErrorKind::ArgumentConflict => {
            let other = get(ContextKind::PriorArg).unwrap_or_default().join(", ");
            if other == what || other.is_empty() {
                (what, "given more than once".to_owned())
            } else {
                (what, format!("cannot be used together with {other}"))
            }
        }
        ErrorKind::MissingRequiredArgument => (what, "missing".to_owned()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            (format!("softlvs {command}"), "its command is missing".to_owned())
        }
        ErrorKind::ValueValidation if e.source().is_some() => {
            (what, e.source().map(ToString::to_string).unwrap_or_default())
        }
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues => {
            (what, "wrong number of values".to_owned())
        }
        _ => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            (what, first.trim_start_matches("error: ").to_owned())
        }
    };
    Failure::wrong(what, why, help).report()
}

fn words(value: &ContextValue) -> Vec<String> {
    match value {
        ContextValue::String(s) => vec![s.clone()],
        ContextValue::Strings(all) => all.clone(),
        _ => Vec::new(),
    }
}
