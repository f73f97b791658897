//! The little of a shell that recorded sessions use: lists, pipes, redirections, quotes, variables, command
//! substitution, `for`, `if`, and a handful of programs. Everything else is reported, not guessed.

use std::collections::BTreeMap;

use super::shell_parse::{Join, List, Node, Redirect, Stage, Word, WordPart, parse};
use super::shell_tools as tools;

/// What programs and files there are.
pub(super) trait World {
    /// Runs a program with these words; `None` when there is none of this name.
    fn call(
        &mut self,
        words: &[String],
        stdin: &str,
        out: &mut String,
        err: &mut String,
    ) -> Result<Option<i32>, String>;
    /// The text of a file.
    fn read(&self, path: &str) -> Option<String>;
    /// Writes a file, or says why not.
    fn write(&mut self, path: &str, text: &str, append: bool) -> Result<(), String>;
    /// Removes a file; false when there was none.
    fn remove(&mut self, path: &str) -> bool;
    /// Names of the files in a folder.
    fn list(&self, folder: &str) -> Vec<String>;
}

/// What a line came to.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// A shell; every line begins in the same folder with no variables.
pub(super) struct Shell<W> {
    world: W,
    folder: String,
    variables: BTreeMap<String, String>,
    code: i32,
    stderr: String,
}

/// Turns of a loop, before it is taken for endless.
const TURNS: usize = 10_000;

impl<W: World> Shell<W> {
    pub(super) fn new(world: W) -> Shell<W> {
        Shell { world, folder: "/".into(), variables: BTreeMap::new(), code: 0, stderr: String::new() }
    }

    /// Runs a line.
    ///
    /// # Errors
    /// It uses something that is not here.
    pub(super) fn run(&mut self, line: &str, stdin: &str) -> Result<Got, String> {
        let list = parse(line)?;
        self.folder = "/".into();
        self.variables.clear();
        self.code = 0;
        self.stderr.clear();
        let mut out = String::new();
        self.list(&list, stdin, &mut out)?;
        Ok(Got { stdout: out, stderr: std::mem::take(&mut self.stderr), code: self.code })
    }

    fn list(&mut self, list: &List, stdin: &str, out: &mut String) -> Result<(), String> {
        for (join, pipeline) in &list.0 {
            let skip = match join {
                Join::Always => false,
                Join::And => self.code != 0,
                Join::Or => self.code == 0,
            };
            if !skip {
                self.pipeline(pipeline, stdin, out)?;
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, stages: &[Stage], stdin: &str, out: &mut String) -> Result<(), String> {
        let mut input = stdin.to_owned();
        let last = stages.len().saturating_sub(1);
        for (i, stage) in stages.iter().enumerate() {
            let mut text = String::new();
            self.stage(stage, &input, &mut text)?;
            if i == last {
                out.push_str(&text);
            }
            input = text;
        }
        Ok(())
    }

    fn stage(&mut self, stage: &Stage, stdin: &str, out: &mut String) -> Result<(), String> {
        let mut input = stdin.to_owned();
        let (mut to, mut error_to, mut merge) = (None, None, false);
        for redirect in &stage.redirects {
            match redirect {
                Redirect::From(word) => {
                    let path = self.path(word)?;
                    match self.file(&path) {
                        Some(text) => input = text,
                        None => {
                            self.stderr.push_str(&format!("sh: can't open {path}: no such file\n"));
                            self.code = 1;
                            return Ok(());
                        }
                    }
                }
                Redirect::Here(text) => input.clone_from(text),
                Redirect::To(word, append) => to = Some((self.path(word)?, *append)),
                Redirect::ErrorTo(word) => error_to = Some(self.path(word)?),
                Redirect::ErrorToOut => merge = true,
            }
        }
        let before = std::mem::take(&mut self.stderr);
        let mut text = String::new();
        self.node(&stage.node, &input, &mut text)?;
        let mine = std::mem::replace(&mut self.stderr, before);
        match error_to {
            _ if merge => text.push_str(&mine),
            Some(path) => self.save(&path, &mine, false)?,
            None => self.stderr.push_str(&mine),
        }
        match to {
            None => out.push_str(&text),
            Some((path, append)) => self.save(&path, &text, append)?,
        }
        Ok(())
    }

    fn save(&mut self, path: &str, text: &str, append: bool) -> Result<(), String> {
        if path != "/dev/null"
            && let Err(why) = self.world.write(path, text, append)
        {
            self.stderr.push_str(&format!("sh: write error: {why}\n"));
            self.code = 1;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, stdin: &str, out: &mut String) -> Result<(), String> {
        match node {
            Node::Group(list) => self.list(list, stdin, out),
            Node::Not(stage) => {
                self.stage(stage, stdin, out)?;
                self.code = i32::from(self.code == 0);
                Ok(())
            }
            Node::For { name, words, body } => {
                let all = self.expand_all(words, stdin)?;
                self.code = 0;
                for value in all {
                    self.variables.insert(name.clone(), value);
                    self.list(body, stdin, out)?;
                }
                Ok(())
            }
            Node::If { condition, then, otherwise } => {
                self.list(condition, stdin, out)?;
                match (self.code == 0, otherwise) {
                    (true, _) => self.list(then, stdin, out),
                    (false, Some(list)) => self.list(list, stdin, out),
                    (false, None) => {
                        self.code = 0;
                        Ok(())
                    }
                }
            }
            Node::While { condition, body } => {
                for _ in 0..TURNS {
                    self.list(condition, stdin, out)?;
                    if self.code != 0 {
                        self.code = 0;
                        return Ok(());
                    }
                    self.list(body, stdin, out)?;
                }
                Err("a loop without an end".to_owned())
            }
            Node::Simple(words) => self.simple(words, stdin, out),
        }
    }

    fn simple(&mut self, words: &[Word], stdin: &str, out: &mut String) -> Result<(), String> {
        let mut at = 0;
        while let Some((name, value)) = words.get(at).and_then(Word::assignment) {
            let value = self.expand_all(&[value], stdin)?.join(" ");
            self.variables.insert(name, value);
            at += 1;
        }
        let words = self.expand_all(&words[at..], stdin)?;
        let Some((program, args)) = words.split_first() else {
            self.code = 0;
            return Ok(());
        };
        match program.as_str() {
            "cd" => {
                self.folder = self.absolute(args.first().map_or("/", String::as_str));
                self.code = 0;
            }
            "rm" => {
                for path in args.iter().filter(|a| !a.starts_with('-')) {
                    let path = self.absolute(path);
                    self.world.remove(&path);
                }
                self.code = 0;
            }
            "mkdir" | "sleep" | "set" | "true" | ":" | "export" | "modprobe" => self.code = 0,
            "false" => self.code = 1,
            "ls" => {
                let folder = self.absolute(args.iter().find(|a| !a.starts_with('-')).map_or(".", |a| a));
                for name in self.world.list(&folder) {
                    out.push_str(&name);
                    out.push('\n');
                }
                self.code = 0;
            }
            _ => {
                let called = self.world.call(&words, stdin, out, &mut self.stderr)?;
                self.code = match called {
                    Some(code) => code,
                    None => {
                        let mut err = String::new();
                        let open = |path: &str| self.file(&self.absolute(path));
                        let ran = tools::run(program, args, stdin, &open, out, &mut err)?;
                        self.stderr.push_str(&err);
                        match ran {
                            Some(code) => code,
                            None => return Err(format!("the recording host ran `{}`", words.join(" "))),
                        }
                    }
                };
            }
        }
        Ok(())
    }

    fn file(&self, path: &str) -> Option<String> {
        if path == "/dev/null" { Some(String::new()) } else { self.world.read(path) }
    }

    fn absolute(&self, path: &str) -> String {
        let path = path.trim_start_matches("./");
        match path {
            "" | "." => self.folder.clone(),
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("{}/{path}", self.folder.trim_end_matches('/')),
        }
    }

    fn path(&mut self, word: &Word) -> Result<String, String> {
        let words = self.expand_all(std::slice::from_ref(word), "")?;
        words.first().map(|w| self.absolute(w)).ok_or_else(|| "a redirection to nothing".to_owned())
    }

    /// Words after all substitutions; what is not quoted is split at blanks and matched with files.
    fn expand_all(&mut self, words: &[Word], stdin: &str) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for word in words {
            let (mut now, mut any, mut star) = (String::new(), false, false);
            for part in &word.0 {
                match part {
                    WordPart::Text(text, quoted) => {
                        any |= *quoted || !text.is_empty();
                        star |= !quoted && text.contains('*');
                        now.push_str(text);
                    }
                    WordPart::Variable(name, quoted) => {
                        let value = match name.as_str() {
                            "?" => self.code.to_string(),
                            _ => self.variables.get(name).cloned().unwrap_or_default(),
                        };
                        any |= split(&value, *quoted, &mut now, &mut all);
                    }
                    WordPart::Command(list, quoted) => {
                        let mut out = String::new();
                        self.list(list, stdin, &mut out)?;
                        any |= split(out.trim_end_matches('\n'), *quoted, &mut now, &mut all);
                    }
                }
            }
            if star && now == "*" {
                all.extend(self.world.list(&self.folder));
            } else if any {
                all.push(now);
            }
        }
        Ok(all)
    }
}

/// Adds a value to the word that is being made; unquoted blanks end it and begin another.
fn split(value: &str, quoted: bool, now: &mut String, all: &mut Vec<String>) -> bool {
    if quoted {
        now.push_str(value);
        return true;
    }
    let mut pieces = value.split_whitespace().peekable();
    let mut any = false;
    while let Some(piece) = pieces.next() {
        now.push_str(piece);
        any = true;
        if pieces.peek().is_some() {
            all.push(std::mem::take(now));
        }
    }
    any
}
