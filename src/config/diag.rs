//! Messages about a configuration: where, which key, why, and what to do about it.

use std::fmt;
use std::ops::Range;

/// Where a value was said: a key of the file, or an option of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Key path such as `service[0].real[1].address`, or the option as typed (`--vip`).
    pub key: String,
    /// Bytes of the file, `None` for the command line.
    pub span: Option<Range<usize>>,
}

impl Place {
    /// A place on the command line.
    pub fn option(name: impl Into<String>) -> Place {
        Place { key: name.into(), span: None }
    }
    /// The same place, another key below it.
    pub fn below(&self, key: &str) -> Place {
        let key = if self.span.is_none() || self.key.is_empty() {
            if self.key.is_empty() { key.to_owned() } else { self.key.clone() }
        } else {
            format!("{}.{key}", self.key)
        };
        Place { key, span: self.span.clone() }
    }
}

/// A value with the place where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub place: Place,
}

impl<T> At<T> {
    /// `value`, said at `place`.
    pub fn new(value: T, place: Place) -> At<T> {
        At { value, place }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, but something in it has no effect or an unexpected one.
    Warning,
}

/// What is wrong with a value and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What is wrong, without the key.
    pub why: String,
    /// The remedy; empty when the reason says it all.
    pub help: String,
}

impl Complaint {
    /// A complaint with its remedy.
    pub fn new(why: impl Into<String>, help: impl Into<String>) -> Complaint {
        Complaint { why: why.into(), help: help.into() }
    }
}

/// One message about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// File name as given by the user; `None` for the command line.
    pub file: Option<String>,
    /// Line, from 1; 0 for the command line.
    pub line: usize,
    /// Column in characters, from 1; 0 for the command line.
    pub column: usize,
    /// Key path or option.
    pub key: String,
    /// What is wrong.
    pub why: String,
    /// Remedy, may be empty.
    pub help: String,
    /// The line of the file and how many characters of it are meant.
    pub source: Option<(String, usize)>,
}

impl fmt::Display for Diagnostic {
    /// `error: FILE:LINE:COLUMN: KEY: WHY`, the line with a caret, `help: REMEDY`; no line end at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if let Some(file) = &self.file {
            write!(f, "{}:{}:{}: ", printable(file), self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", printable(&self.key))?;
        }
        f.write_str(&printable(&self.why))?;
        if let Some((text, width)) = &self.source {
            let number = self.line.to_string();
            let pad = " ".repeat(number.len());
            // A tab stays one so that the caret stands below its character.
            let indent: String = text
                .chars()
                .take(self.column.saturating_sub(1))
                .map(|c| if c == '\t' { c } else { ' ' })
                .collect();
            let line: String =
                text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
            write!(f, "\n{pad} |\n{number} | {line}\n{pad} | {indent}{}", "^".repeat((*width).max(1)))?;
        }
        if !self.help.is_empty() {
            write!(f, "\nhelp: {}", printable(&self.help))?;
        }
        Ok(())
    }
}

/// Text from a file, made safe for one line of a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Collects everything that is wrong, so that one run shows all of it.
#[derive(Debug, Default)]
pub struct Report {
    found: Vec<(Severity, Place, Complaint)>,
}

impl Report {
    /// Refuses the configuration.
    pub fn error(&mut self, place: &Place, why: impl Into<String>, help: impl Into<String>) {
        self.found.push((Severity::Error, place.clone(), Complaint::new(why, help)));
    }
    /// Says something that is accepted nevertheless.
    pub fn warn(&mut self, place: &Place, why: impl Into<String>, help: impl Into<String>) {
        self.found.push((Severity::Warning, place.clone(), Complaint::new(why, help)));
    }
    /// True when the configuration is refused.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|(s, ..)| *s == Severity::Error)
    }
    /// The messages in the order of the file, those about the command line first.
    pub fn finish(mut self, file: &str, text: &str) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(_, p, _)| p.span.as_ref().map_or(0, |s| s.start + 1));
        let mut out: Vec<Diagnostic> = Vec::with_capacity(self.found.len());
        for (severity, place, complaint) in self.found {
            let mut d = Diagnostic {
                severity,
                file: None,
                line: 0,
                column: 0,
                key: place.key,
                why: complaint.why,
                help: complaint.help,
                source: None,
            };
            if let Some(span) = place.span {
                let (line, column, source, width) = locate(text, span);
                d.file = Some(file.to_owned());
                (d.line, d.column, d.source) = (line, column, Some((source, width)));
            }
            if !out.contains(&d) {
                out.push(d);
            }
        }
        out
    }
}

/// Line and column (from 1), the line's text and the number of characters of it inside `span`.
fn locate(text: &str, span: Range<usize>) -> (usize, usize, String, usize) {
    let start = floor_char(text, span.start);
    let end = floor_char(text, span.end.max(span.start));
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let line = text[line_start..line_end].trim_end_matches('\r');
    let column = text[line_start..start].chars().count() + 1;
    let width = text[start..end.clamp(start, line_end)].trim_end().chars().count();
    (before.matches('\n').count() + 1, column, line.to_owned(), width.max(1))
}

/// The nearest character boundary at or below `at`.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The known word nearest to what was typed, if it is near enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match typed.chars().count() {
        0 => return None,
        1..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .map(|word| (edits(typed, word), word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Edit distance with swaps of neighbours as one edit (optimal string alignment), case ignored.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_word_that_was_meant() {
        let keys = ["address", "addresses", "scheduler", "weight", "mtu"];
        assert_eq!(nearest("adress", keys), Some("address"));
        assert_eq!(nearest("wieght", keys), Some("weight"));
        assert_eq!(nearest("Scheduler", keys), Some("scheduler"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
    }

    #[test]
    fn line_and_column_count_characters_not_bytes() {
        let text = "# für\nname = \"ä\" oops\n";
        let at = text.find("oops").unwrap();
        assert_eq!(locate(text, at..at + 4), (2, 12, "name = \"ä\" oops".to_owned(), 4));
        assert_eq!(locate(text, 3..4).0, 1);
        assert_eq!(locate("", 9..12), (1, 1, String::new(), 1));
    }

    #[test]
    fn messages_come_in_the_order_of_the_file_and_once() {
        let mut r = Report::default();
        let at = |s: usize| Place { key: "k".into(), span: Some(s..s + 1) };
        r.error(&at(4), "second", "");
        r.warn(&at(0), "first", "do it");
        r.error(&at(4), "second", "");
        assert!(r.has_errors());
        let all = r.finish("f", "abc\ndef");
        let text: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "warning: f:1:1: k: first\n  |\n1 | abc\n  | ^\nhelp: do it",
                "error: f:2:1: k: second\n  |\n2 | def\n  | ^",
            ]
        );
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let mut r = Report::default();
        r.error(&Place { key: "a\u{1b}[31m".into(), span: Some(0..2) }, "b\u{7}", "c\nd");
        let text = r.finish("f", "\u{1b}[2J").remove(0).to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    }
}
