//! Other configurations as ours: `keepalived.conf`, and what `ipvsadm -S` prints.
//!
//! The result is the text of a configuration file, so that what is run is what can be read. Whatever has
//! no counterpart is noted with its line and the reason; nothing disappears without a word. Files are
//! read through a function of the caller: nothing here touches the disk.

mod checker;
mod define;
mod global;
mod ipvsadm;
mod lex;
mod network;
mod output;
mod sequence;
mod service;
mod tree;
mod words;

use std::fmt;

pub use lex::{Files, MAX_FILES};

/// Something of the source that has no counterpart, or is not quite the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where: file and line.
    pub at: Source,
    /// The word it is about.
    pub word: String,
    /// What became of it and why.
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.at.file, self.at.line, printable(&self.word), self.why)
    }
}

/// A place in a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Name of the file.
    pub file: std::rc::Rc<str>,
    /// Line, from 1.
    pub line: usize,
}

/// What an import came to.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// Settings and services, as a configuration file without ports.
    pub text: String,
    /// A `[[port]]` that fits the addresses, for somebody to look over.
    pub port: String,
    /// What has no counterpart.
    pub notes: Vec<Note>,
    /// Services made of it.
    pub services: usize,
}

/// Most notes that are kept; a file of rubbish makes no more.
const MAX_NOTES: usize = 10_000;

#[derive(Debug, Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn add(&mut self, at: &Source, word: &str, why: impl Into<String>) {
        if self.0.len() < MAX_NOTES {
            self.0.push(Note { at: at.clone(), word: word.to_owned(), why: why.into() });
        }
    }
}

/// Is it what `ipvsadm -S` prints?
pub fn is_ipvsadm(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.next().is_some_and(|l| {
        let l = l.strip_prefix("ipvsadm").map_or(l, str::trim_start);
        l.starts_with("-A ") || l.starts_with("--add-service ") || l == "-C" || l.starts_with("-C ")
    })
}

/// Imports the output of `ipvsadm -S`.
pub fn from_ipvsadm(text: &str, name: &str) -> Imported {
    ipvsadm::import(text, name)
}

/// Imports a `keepalived.conf`; `files` reads what it includes.
pub fn from_keepalived(text: &str, name: &str, files: &mut dyn Files) -> Imported {
    let mut notes = Notes::default();
    let nodes = lex::read(text, name, files, &mut notes);
    service::import(&nodes, notes)
}

/// Text of somebody else, safe for one line of a terminal.
fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A string as TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of strings as TOML.
fn list<S: AsRef<str>>(words: &[S]) -> String {
    let all: Vec<String> = words.iter().map(|w| quoted(w.as_ref())).collect();
    format!("[{}]", all.join(", "))
}

#[cfg(test)]
mod tests;
