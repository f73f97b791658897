//! Shell lines to a tree.

/// Pipelines and what joins them.
#[derive(Clone, Debug, Default)]
pub(super) struct List(pub Vec<(Join, Vec<Stage>)>);

/// When a pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    Always,
    And,
    Or,
}

/// One command of a pipeline.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub node: Node,
    pub redirects: Vec<Redirect>,
}

/// A command.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Simple(Vec<Word>),
    Group(List),
    Not(Box<Stage>),
    For { name: String, words: Vec<Word>, body: List },
    If { condition: List, then: List, otherwise: Option<List> },
    While { condition: List, body: List },
}

/// Where input comes from and output goes.
#[derive(Clone, Debug)]
pub(super) enum Redirect {
    From(Word),
    Here(String),
    To(Word, bool),
    ErrorTo(Word),
    ErrorToOut,
}

/// A word before substitution.
#[derive(Clone, Debug, Default)]
pub(super) struct Word(pub Vec<WordPart>);

/// A piece of a word; true when quoted.
#[derive(Clone, Debug)]
pub(super) enum WordPart {
    Text(String, bool),
    Variable(String, bool),
    Command(List, bool),
}

impl Word {
    /// `name=value` before a command.
    pub(super) fn assignment(&self) -> Option<(String, Word)> {
        let Some(WordPart::Text(first, false)) = self.0.first() else { return None };
        let (name, rest) = first.split_once('=')?;
        let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let mut parts = vec![WordPart::Text(rest.to_owned(), true)];
        parts.extend(self.0[1..].iter().cloned());
        fine.then(|| (name.to_owned(), Word(parts)))
    }

    /// The word when it is plain text.
    fn plain(&self) -> Option<&str> {
        match &self.0[..] {
            [WordPart::Text(text, false)] => Some(text),
            _ => None,
        }
    }
}

/// Reads a line or several.
///
/// # Errors
/// It uses something that is not understood here.
pub(super) fn parse(text: &str) -> Result<List, String> {
    let mut parser = Parser { rest: text, heres: Vec::new() };
    let list = parser.list(&[])?;
    parser.blanks();
    if parser.rest.is_empty() { Ok(list) } else { Err(format!("shell syntax at `{}`", parser.rest)) }
}

struct Parser<'t> {
    rest: &'t str,
    heres: Vec<(String, String)>,
}

/// Deepest nesting that is read.
const DEPTH: usize = 64;

impl<'t> Parser<'t> {
    fn blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t']);
            match self.rest.strip_prefix("\\\n") {
                Some(rest) => self.rest = rest,
                None => break,
            }
        }
        if self.rest.starts_with('#') {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Ends of commands: `;` and lines.
    fn ends(&mut self) {
        loop {
            self.blanks();
            if self.rest.starts_with(";;") {
                return;
            }
            match self.rest.strip_prefix([';', '\n']) {
                Some(rest) => self.rest = rest,
                None => return,
            }
        }
    }

    /// The next word, without taking it, when it is a plain one.
    fn peek(&mut self) -> &'t str {
        self.blanks();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '!').unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    fn list(&mut self, stops: &[&str]) -> Result<List, String> {
        if self.heres.len() > DEPTH {
            return Err("too much nesting".to_owned());
        }
        let mut list = List::default();
        let mut join = Join::Always;
        loop {
            self.ends();
            let next = self.peek();
            if self.rest.is_empty() || self.rest.starts_with([')', '}']) || stops.contains(&next) {
                return Ok(list);
            }
            list.0.push((join, self.pipeline()?));
            join = if self.eat("&&") {
                Join::And
            } else if self.eat("||") {
                Join::Or
            } else {
                self.here_texts()?;
                Join::Always
            };
            if self.rest.starts_with('&') {
                return Err("a command in the background".to_owned());
            }
        }
    }

    fn pipeline(&mut self) -> Result<Vec<Stage>, String> {
        let mut stages = Vec::new();
        loop {
            stages.push(self.stage()?);
            self.blanks();
            if self.rest.starts_with("||") || !self.eat("|") {
                return Ok(stages);
            }
        }
    }

    fn stage(&mut self) -> Result<Stage, String> {
        let mut redirects = Vec::new();
        let word = self.peek();
        let node = match word {
            "for" => {
                self.rest = &self.rest[3..];
                let name = self.peek().to_owned();
                self.rest = &self.rest[name.len()..];
                if self.peek() != "in" {
                    return Err("a `for` without `in`".to_owned());
                }
                self.rest = &self.rest[2..];
                let mut words = Vec::new();
                loop {
                    self.blanks();
                    if self.rest.starts_with([';', '\n']) || self.rest.is_empty() {
                        break;
                    }
                    words.push(self.word()?);
                }
                let body = self.body()?;
                Node::For { name, words, body }
            }
            "while" => {
                self.rest = &self.rest[5..];
                let condition = self.list(&["do"])?;
                let body = self.body()?;
                Node::While { condition, body }
            }
            "if" => {
                self.rest = &self.rest[2..];
                let condition = self.list(&["then"])?;
                self.keyword("then")?;
                let then = self.list(&["else", "fi"])?;
                let otherwise = match self.peek() {
                    "else" => {
                        self.keyword("else")?;
                        Some(self.list(&["fi"])?)
                    }
                    _ => None,
                };
                self.keyword("fi")?;
                Node::If { condition, then, otherwise }
            }
            "!" => {
                self.rest = &self.rest[1..];
                Node::Not(Box::new(self.stage()?))
            }
            _ if self.rest.starts_with('(') || self.rest.starts_with("{ ") => {
                let close = if self.rest.starts_with('(') { ")" } else { "}" };
                self.rest = &self.rest[1..];
                let list = self.list(&[])?;
                self.keyword(close)?;
                Node::Group(list)
            }
            _ => return self.simple(redirects),
        };
        while self.redirect(&mut redirects)? {}
        Ok(Stage { node, redirects })
    }

    fn body(&mut self) -> Result<List, String> {
        self.ends();
        self.keyword("do")?;
        let body = self.list(&["done"])?;
        self.keyword("done")?;
        Ok(body)
    }

    fn keyword(&mut self, word: &str) -> Result<(), String> {
        if self.eat(word) { Ok(()) } else { Err(format!("`{word}` is missing at `{}`", self.rest)) }
    }

    fn simple(&mut self, mut redirects: Vec<Redirect>) -> Result<Stage, String> {
        let mut words = Vec::new();
        loop {
            if self.redirect(&mut redirects)? {
                continue;
            }
            if self.rest.is_empty() || self.rest.starts_with([';', '\n', '|', '&', ')']) {
                break;
            }
            words.push(self.word()?);
        }
        Ok(Stage { node: Node::Simple(words), redirects })
    }

    fn redirect(&mut self, into: &mut Vec<Redirect>) -> Result<bool, String> {
        let redirect = if self.eat("2>&1") {
            Redirect::ErrorToOut
        } else if self.eat("2>") {
            self.blanks();
            Redirect::ErrorTo(self.word()?)
        } else if self.eat("<<") {
            self.blanks();
            let mark = self.word()?;
            let mark = mark.0.iter().map(|p| match p {
                WordPart::Text(text, _) => text.as_str(),
                _ => "",
            });
            let mark: String = mark.collect();
            let text = self.take_here(&mark)?;
            Redirect::Here(text)
        } else if self.eat("<") {
            self.blanks();
            Redirect::From(self.word()?)
        } else if self.eat(">>") {
            self.blanks();
            Redirect::To(self.word()?, true)
        } else if self.eat(">") {
            self.blanks();
            Redirect::To(self.word()?, false)
        } else {
            return Ok(false);
        };
        into.push(redirect);
        Ok(true)
    }

    /// The text of a here-document; its lines are passed over when the line of its command ends.
    fn take_here(&mut self, mark: &str) -> Result<String, String> {
        let missing = || format!("the here-document `{mark}` does not end");
        let (_, after) = self.rest.split_once('\n').ok_or_else(missing)?;
        let mut text = String::new();
        let mut whole = String::new();
        for line in after.lines() {
            whole.push_str(line);
            whole.push('\n');
            if line == mark {
                self.heres.push((mark.to_owned(), whole));
                return Ok(text);
            }
            text.push_str(line);
            text.push('\n');
        }
        Err(missing())
    }

    fn here_texts(&mut self) -> Result<(), String> {
        self.blanks();
        for (mark, whole) in std::mem::take(&mut self.heres) {
            let Some(rest) = self.rest.strip_prefix('\n') else {
                return Err(format!("the here-document `{mark}` in the middle of a line"));
            };
            let len = whole.len().min(rest.len());
            self.rest = &rest[len.saturating_sub(1)..];
        }
        Ok(())
    }

    fn word(&mut self) -> Result<Word, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let flush = |text: &mut String, parts: &mut Vec<WordPart>| {
            if !text.is_empty() {
                parts.push(WordPart::Text(std::mem::take(text), false));
            }
        };
        while let Some(c) = self.rest.chars().next() {
            match c {
                ' ' | '\t' | '\n' | ';' | '|' | '&' | '<' | '>' | '(' | ')' => break,
                '\'' => {
                    let (inside, rest) = self.rest[1..].split_once('\'').ok_or("a quote without its end")?;
                    flush(&mut text, &mut parts);
                    parts.push(WordPart::Text(inside.to_owned(), true));
                    self.rest = rest;
                }
                '"' => {
                    flush(&mut text, &mut parts);
                    self.rest = &self.rest[1..];
                    self.quoted(&mut parts)?;
                }
                '\\' => {
                    flush(&mut text, &mut parts);
                    let escaped = self.rest[1..].chars().next().ok_or("a backslash before nothing")?;
                    parts.push(WordPart::Text(escaped.to_string(), true));
                    self.rest = &self.rest[1 + escaped.len_utf8()..];
                }
                '$' => {
                    flush(&mut text, &mut parts);
                    let part = self.dollar(false)?;
                    parts.push(part);
                }
                '`' => return Err("a command in backquotes".to_owned()),
                _ => {
                    text.push(c);
                    self.rest = &self.rest[c.len_utf8()..];
                }
            }
        }
        flush(&mut text, &mut parts);
        if parts.is_empty() {
            return Err(format!("a word is missing at `{}`", self.rest));
        }
        let word = Word(parts);
        match word.plain() {
            Some("case" | "function" | "until" | "eval" | "exec") => Err("a shell construct".to_owned()),
            _ => Ok(word),
        }
    }

    fn quoted(&mut self, parts: &mut Vec<WordPart>) -> Result<(), String> {
        let mut text = String::new();
        loop {
            let c = self.rest.chars().next().ok_or("a quote without its end")?;
            match c {
                '"' => {
                    self.rest = &self.rest[1..];
                    parts.push(WordPart::Text(text, true));
                    return Ok(());
                }
                '$' => {
                    parts.push(WordPart::Text(std::mem::take(&mut text), true));
                    let part = self.dollar(true)?;
                    parts.push(part);
                }
                '\\' => {
                    let next = self.rest[1..].chars().next().ok_or("a backslash before nothing")?;
                    if !matches!(next, '$' | '"' | '\\' | '`') {
                        text.push('\\');
                    }
                    text.push(next);
                    self.rest = &self.rest[1 + next.len_utf8()..];
                }
                _ => {
                    text.push(c);
                    self.rest = &self.rest[c.len_utf8()..];
                }
            }
        }
    }

    fn dollar(&mut self, quoted: bool) -> Result<WordPart, String> {
        self.rest = &self.rest[1..];
        if self.rest.starts_with("((") {
            return Err("arithmetic".to_owned());
        }
        if let Some(rest) = self.rest.strip_prefix('(') {
            self.rest = rest;
            let list = self.list(&[])?;
            self.keyword(")")?;
            return Ok(WordPart::Command(list, quoted));
        }
        if let Some(rest) = self.rest.strip_prefix('?') {
            self.rest = rest;
            return Ok(WordPart::Variable("?".to_owned(), quoted));
        }
        let (text, close) = match self.rest.strip_prefix('{') {
            Some(rest) => (rest, 1),
            None => (self.rest, 0),
        };
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let name = text[..end].to_owned();
        if close == 1 && !text[end..].starts_with('}') || name.is_empty() {
            return Err("a variable of another kind".to_owned());
        }
        self.rest = &text[end + close..];
        Ok(WordPart::Variable(name, quoted))
    }
}
