//! The syntax of `keepalived.conf`: words, quotes, comments, blocks, includes, conditions, definitions.

use std::collections::HashMap;
use std::rc::Rc;

use super::tree::{Line, Node, build};
use super::{Notes, Source};

/// Reads what a file includes.
pub trait Files {
    /// The files that a pattern names (`*`, `?`), with their text, in the order of their names.
    ///
    /// # Errors
    /// Why there are none.
    fn read(&mut self, from: &str, pattern: &str) -> Result<Vec<(String, String)>, String>;
}

/// Most files of one configuration.
pub const MAX_FILES: usize = 1000;
/// Most lines, those of sequences among them.
const MAX_LINES: usize = 200_000;
/// Deepest include.
const DEEPEST: usize = 16;
/// Longest line after substitution.
const LONGEST: usize = 64 * 1024;
/// Most substitutions in one line.
const SUBSTITUTIONS: usize = 1000;

struct Reader<'a> {
    files: &'a mut dyn Files,
    notes: &'a mut Notes,
    lines: Vec<Line>,
    definitions: HashMap<String, Vec<String>>,
    read: usize,
    full: bool,
}

/// The statements of a file with everything it includes.
pub(super) fn read(text: &str, name: &str, files: &mut dyn Files, notes: &mut Notes) -> Vec<Node> {
    let mut reader =
        Reader { files, notes, lines: Vec::new(), definitions: HashMap::new(), read: 1, full: false };
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
            let text = raw.trim();
            if let Some((name, value)) = definition(text) {
                let mut value = vec![value.to_owned()];
                // a backslash at the end carries the definition on to the next line
                while value.last().is_some_and(|l| l.ends_with('\\')) {
                    if let Some(last) = value.last_mut() {
                        last.pop();
                        last.truncate(last.trim_end().len());
                    }
                    match lines.next() {
                        Some((_, more)) => value.push(more.trim().to_owned()),
                        None => break,
                    }
                }
                value.retain(|l| !l.is_empty());
                self.definitions.insert(name.to_owned(), value);
                continue;
            }
            self.line(&at, text, depth);
        }
    }

    /// One line: conditions, sequences, definitions, then its words.
    fn line(&mut self, at: &Source, text: &str, depth: usize) {
        if self.lines.len() >= MAX_LINES {
            if !std::mem::replace(&mut self.full, true) {
                self.notes.add(
                    at,
                    "",
                    format!("there are more than {MAX_LINES} lines: the rest was left out"),
                );
            }
            return;
        }
        if let Some(rest) = text.strip_prefix('@') {
            let word = rest.split_whitespace().next().unwrap_or("");
            self.notes.add(
                at,
                &format!("@{word}"),
                "lines for one instance only are left out: there is no instance name here",
            );
            return;
        }
        if text.starts_with("~SEQ(") || text.starts_with("~LST(") {
            return self.sequence(at, text, depth);
        }
        if text.contains('$') {
            match self.substitute(text) {
                Ok(all) if all.len() == 1 && all[0] == text => {}
                Ok(all) => {
                    for line in all {
                        self.plain(at, &line, depth);
                    }
                    return;
                }
                Err(why) => self.notes.add(at, text, why),
            }
        }
        self.plain(at, text, depth);
    }

    fn plain(&mut self, at: &Source, text: &str, depth: usize) {
        let words = words(text);
        let Some(first) = words.first() else { return };
        let include = matches!(
            first.as_str(),
            "include" | "includer" | "includea" | "includem" | "includew" | "includeb"
        );
        if include && words.len() == 2 {
            return self.include(at, &words[1], depth);
        }
        self.lines.push(Line { at: at.clone(), words });
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

    /// `~SEQ(var, first, [step,] last) text` and `~LST(var, a, b, ...) text`: the text for each value.
    fn sequence(&mut self, at: &Source, text: &str, depth: usize) {
        let Some((inside, rest)) = text[5..].split_once(')') else {
            return self.notes.add(at, &text[..4], "the bracket is not closed: left out");
        };
        let inside = self.substitute(inside).ok().and_then(|mut l| l.pop()).unwrap_or_default();
        let parts: Vec<&str> = inside.split(',').map(str::trim).collect();
        let values: Vec<String> = if text.starts_with("~LST") {
            parts.iter().skip(1).map(|p| (*p).to_owned()).collect()
        } else {
            let number = |i: usize| parts.get(i).and_then(|p| p.parse::<i64>().ok());
            let (first, step, last) = match parts.len() {
                3 => (number(1), Some(1), number(2)),
                4 => (number(1), number(2), number(3)),
                _ => (None, None, None),
            };
            let (Some(first), Some(step), Some(last)) = (first, step, last) else {
                return self.notes.add(at, "~SEQ", "it is not ~SEQ(NAME, FIRST, STEP, LAST): left out");
            };
            if step == 0 || (last - first) / step > MAX_LINES as i64 {
                return self.notes.add(at, "~SEQ", "it has no end: left out");
            }
            let count = if (last - first) / step < 0 { 0 } else { (last - first) / step + 1 };
            (0..count).map(|i| (first + i * step).to_string()).collect()
        };
        let name = parts.first().copied().unwrap_or_default().trim_start_matches('$').to_owned();
        let before = self.definitions.remove(&name);
        for value in values {
            self.definitions.insert(name.clone(), vec![value]);
            self.line(at, rest.trim(), depth);
        }
        match before {
            Some(before) => self.definitions.insert(name, before),
            None => self.definitions.remove(&name),
        };
    }

    /// The line with its definitions put in; several lines for definitions of several.
    fn substitute(&self, text: &str) -> Result<Vec<String>, String> {
        let mut text = text.to_owned();
        let mut from = 0;
        for _ in 0..SUBSTITUTIONS {
            let Some(at) = text[from..].find('$').map(|i| from + i) else { return Ok(vec![text]) };
            let (name, end) = match text[at + 1..].strip_prefix('{') {
                Some(rest) => match rest.find('}') {
                    Some(n) => (&rest[..n], at + 3 + n),
                    None => return Err("`${` is not closed".to_owned()),
                },
                None => {
                    let rest = &text[at + 1..];
                    let n =
                        rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                    (&rest[..n], at + 1 + n)
                }
            };
            let built_in = match name {
                "_HASH" => Some("#"),
                "_BANG" => Some("!"),
                _ => None,
            };
            let value = match (built_in, self.definitions.get(name)) {
                (Some(v), _) => vec![v.to_owned()],
                (None, Some(v)) => v.clone(),
                // a dollar of a regular expression or a password
                (None, None) => {
                    from = at + 1;
                    continue;
                }
            };
            if text[end..].starts_with('(') {
                return Err(format!(
                    "definition `{name}` with parameters: not understood, the line is taken as it is"
                ));
            }
            if value.len() > 1 && at == 0 && end == text.len() {
                let mut all = Vec::new();
                for line in value {
                    all.extend(self.substitute_once(&line));
                }
                return Ok(all);
            }
            text.replace_range(at..end, &value.join(" "));
            if text.len() > LONGEST {
                return Err("it becomes too long with its definitions put in".to_owned());
            }
        }
        Err("definitions stand for each other without end".to_owned())
    }

    fn substitute_once(&self, line: &str) -> Vec<String> {
        // lines of a definition may name plain definitions, not further ones of several lines
        let plain = self.definitions.iter().filter(|(_, v)| v.len() == 1);
        let mut text = line.to_owned();
        for (name, value) in plain {
            if text.len() < LONGEST {
                text =
                    text.replace(&format!("${{{name}}}"), &value[0]).replace(&format!("${name}"), &value[0]);
            }
        }
        vec![text]
    }
}

/// `$NAME=VALUE`
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let name = name.trim_end();
    let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fine.then(|| (name, value.trim()))
}

/// The words of a line without its comment; braces are words of their own, quotes keep words together.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut open = false;
    let mut chars = text.chars().peekable();
    let mut end = |word: &mut String, open: &mut bool| {
        if !word.is_empty() || *open {
            out.push(std::mem::take(word));
        }
        *open = false;
    };
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                open = true;
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' if chars.peek().is_some_and(|n| matches!(n, '"' | '\\')) => {
                            word.extend(chars.next());
                        }
                        c => word.push(c),
                    }
                }
            }
            '#' | '!' if word.is_empty() => break,
            '{' | '}' => {
                end(&mut word, &mut open);
                word.push(c);
                end(&mut word, &mut open);
            }
            c if c.is_whitespace() => end(&mut word, &mut open),
            c => word.push(c),
        }
    }
    end(&mut word, &mut open);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_comments_quotes_and_braces() {
        assert_eq!(words("real_server 10.0.0.1 80 { # web"), ["real_server", "10.0.0.1", "80", "{"]);
        assert_eq!(words("group{"), ["group", "{"]);
        assert_eq!(words("misc_path \"/bin/x -a \\\"b c\\\"\" ! no"), ["misc_path", "/bin/x -a \"b c\""]);
        assert_eq!(words("a#b \"\""), ["a#b", ""]);
        assert!(words("! comment").is_empty() && words("  ").is_empty());
    }

    #[test]
    fn definitions_have_names() {
        assert_eq!(definition("$VIP = 10.0.0.1"), Some(("VIP", "10.0.0.1")));
        assert_eq!(definition("$VIP"), None);
        assert_eq!(definition("digest a=b"), None);
    }
}
