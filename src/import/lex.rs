//! The syntax of `keepalived.conf`: files that include others, conditions, sequences, definitions, lines.
//!
//! A line goes through these steps, as keepalived's documentation tells them: its comment is cut off; `include`
//! is seen; `@id` decides whether it counts; a sequence gives a line for each value; `$NAME=VALUE` defines;
//! definitions are put in, those of several lines as lines of their own; what is left are words.

use std::rc::Rc;

use super::define::{Definitions, Put, definition};
use super::sequence;
use super::tree::{Line, Node, build};
use super::words::{without_comment, words};
use super::{Notes, Source};

/// Reads what a file includes, and says what a file asks of its host.
pub trait Files {
    /// The files that a pattern names (as a shell does), with their text, in the order of their names.
    ///
    /// # Errors
    /// Why there are none.
    fn read(&mut self, from: &str, pattern: &str) -> Result<Vec<(String, String)>, String>;
    /// The id that lines with `@id` are for: keepalived's `--config-id`.
    fn instance(&self) -> String {
        String::new()
    }
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }
    /// Any number.
    fn random(&mut self) -> u64 {
        0
    }
}

/// Most files of one configuration.
pub const MAX_FILES: usize = 1000;
/// Most lines, those of sequences among them.
const MAX_LINES: usize = 200_000;
/// Most bytes of all lines, those that definitions and sequences make among them.
const MAX_BYTES: usize = 16 << 20;
/// What a line costs beside its bytes.
const WORK: usize = 32;
/// Deepest include.
const DEEPEST: usize = 16;
/// Deepest definition of several lines in another one, and sequence after another one.
const NESTED: usize = 32;

struct Reader<'a> {
    files: &'a mut dyn Files,
    notes: &'a mut Notes,
    lines: Vec<Line>,
    definitions: Definitions,
    /// Definitions of several lines that are being put in, the innermost last.
    open: Vec<String>,
    instance: String,
    read: usize,
    bytes: usize,
    full: bool,
}

/// The statements of a file with everything it includes.
pub(super) fn read(text: &str, name: &str, files: &mut dyn Files, notes: &mut Notes) -> Vec<Node> {
    let instance = files.instance();
    let mut reader = Reader {
        files,
        notes,
        lines: Vec::new(),
        definitions: Definitions::default(),
        open: Vec::new(),
        instance,
        read: 1,
        bytes: 0,
        full: false,
    };
    reader.file(text, name, 0);
    let lines = reader.lines;
    build(lines, notes)
}

impl Reader<'_> {
    fn file(&mut self, text: &str, name: &str, depth: usize) {
        let file: Rc<str> = name.into();
        let mut lines = text.lines().enumerate();
        while let Some((i, raw)) = lines.next() {
            let at = Source { file: file.clone(), line: i + 1 };
            let text = without_comment(raw.trim());
            if let Some(pattern) = included(text) {
                self.include(&at, &pattern, depth);
                continue;
            }
            // a backslash at the end carries a definition on to the next line, also one that does not count
            let bare = text.split_once(char::is_whitespace).filter(|_| text.starts_with('@'));
            if !text.ends_with('\\') || definition(bare.map_or(text, |(_, rest)| rest.trim())).is_none() {
                self.line(&at, text, 0);
                continue;
            }
            let mut whole = vec![text];
            while whole.last().is_some_and(|l| l.ends_with('\\')) {
                let Some((_, more)) = lines.next() else { break };
                whole.push(without_comment(more.trim()));
            }
            let mut value = whole.iter().map(|l| l.trim_end_matches('\\').trim_end());
            let first = value.next().unwrap_or_default();
            let Some(first) = self.counts(first) else { continue };
            if let Some((name, first)) = definition(first) {
                let all = std::iter::once(first).chain(value);
                let all = all.filter(|l| !l.is_empty()).map(str::to_owned).collect();
                self.definitions.set(name, all);
            }
        }
    }

    /// What is left of a line behind its conditions; `None` when it is for another instance.
    fn counts<'t>(&self, mut text: &'t str) -> Option<&'t str> {
        while let Some(rest) = text.strip_prefix('@') {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let (id, is) = word.strip_prefix('^').map_or((word, true), |id| (id, false));
            if (id == self.instance) != is {
                return None;
            }
            text = after.trim_start();
        }
        Some(text)
    }

    fn line(&mut self, at: &Source, text: &str, depth: usize) {
        self.bytes = self.bytes.saturating_add(text.len() + WORK);
        if self.lines.len() >= MAX_LINES || self.bytes > MAX_BYTES {
            if !std::mem::replace(&mut self.full, true) {
                let most = format!("there are more than {MAX_LINES} lines or {} MiB", MAX_BYTES >> 20);
                self.notes.add(at, "", format!("{most}: the rest was left out"));
            }
            return;
        }
        if depth > NESTED {
            return self.notes.add(at, text, "definitions stand for each other without end: left out");
        }
        let Some(text) = self.counts(text) else { return };
        match sequence::read(text) {
            Some(Ok(all)) => return self.sequence(at, &all, depth),
            Some(Err(why)) => {
                // definitions may stand in its brackets
                match self.put(at, text) {
                    Some(Put::Line(put)) if put != text => return self.line(at, &put, depth + 1),
                    _ => return self.notes.add(at, &text[..4], why),
                }
            }
            None => {}
        }
        if let Some((name, value)) = definition(text) {
            return self.definitions.set(name, vec![value.to_owned()]);
        }
        match self.put(at, text) {
            Some(Put::Line(put)) if put.starts_with(['@', '~']) && put != text => {
                self.line(at, &put, depth + 1)
            }
            Some(Put::Line(put)) => self.plain(at, &put),
            Some(Put::Lines(name, all)) => self.several(at, name, &all, depth),
            None => self.plain(at, text),
        }
    }

    /// The lines of a definition.
    fn several(&mut self, at: &Source, name: String, lines: &[String], depth: usize) {
        if self.open.contains(&name) {
            let why = "the definition names itself, without end: left out";
            return self.notes.add(at, &format!("${name}"), why);
        }
        self.open.push(name);
        lines.iter().for_each(|l| self.line(at, l, depth + 1));
        self.open.pop();
    }

    fn put(&mut self, at: &Source, text: &str) -> Option<Put> {
        if !text.contains('$') {
            return None;
        }
        let put = self.definitions.put(text, &at.file, self.files);
        put.map_err(|why| self.notes.add(at, text, format!("{why}: the line is taken as it is"))).ok()
    }

    fn plain(&mut self, at: &Source, text: &str) {
        let words = words(text);
        if included(text).is_some() {
            return self.notes.add(
                at,
                "include",
                "it comes out of a condition, sequence or definition: left out",
            );
        }
        if !words.is_empty() {
            self.lines.push(Line { at: at.clone(), words });
        }
    }

    fn include(&mut self, at: &Source, pattern: &str, depth: usize) {
        if depth >= DEEPEST {
            return self.notes.add(at, "include", "files include each other without end: left out");
        }
        match self.files.read(&at.file, pattern) {
            Err(why) => self.notes.add(at, "include", format!("{pattern}: {why}: left out")),
            Ok(all) => {
                for (name, text) in all {
                    self.read += 1;
                    if self.read > MAX_FILES {
                        return self.notes.add(
                            at,
                            "include",
                            format!("there are more than {MAX_FILES} files: the rest was left out"),
                        );
                    }
                    self.file(&text, &name, depth + 1);
                }
            }
        }
    }

    /// The rest of a line for each value of its sequence; the names are as before afterwards.
    fn sequence(&mut self, at: &Source, all: &sequence::Sequence<'_>, depth: usize) {
        let before: Vec<_> = all.names.iter().map(|n| self.definitions.take(n)).collect();
        for values in &all.values {
            if self.full {
                break;
            }
            for (name, value) in all.names.iter().zip(values) {
                self.definitions.set(name, vec![value.clone()]);
            }
            self.line(at, all.rest, depth + 1);
        }
        for (name, before) in all.names.iter().zip(before) {
            match before {
                Some(before) => self.definitions.set(name, before),
                None => drop(self.definitions.take(name)),
            }
        }
    }
}

/// `include PATTERN` and its variants, which differ in what keepalived complains of.
fn included(text: &str) -> Option<String> {
    let (word, rest) = text.split_once(char::is_whitespace)?;
    let known = ["include", "includer", "includem", "includew", "includeb", "includea"];
    if !known.contains(&word) {
        return None;
    }
    let rest = rest.trim();
    let bare = rest.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap_or(rest);
    (!bare.is_empty()).then(|| bare.to_owned())
}
