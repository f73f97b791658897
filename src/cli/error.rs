//! What the option parser refused, said the way every other failure is said.

use std::error::Error as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

pub use crate::failure::{Failure, complain};

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
