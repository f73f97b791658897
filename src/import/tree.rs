//! Lines of words as statements with blocks.

use super::{Notes, Source};

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub at: Source,
    pub words: Vec<String>,
}

/// A statement, with its block if it has one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: Source,
    /// The word it begins with.
    pub name: String,
    /// What follows on its line.
    pub args: Vec<String>,
    pub body: Option<Vec<Node>>,
}

impl Node {
    /// What follows on its line at `i`.
    pub fn arg(&self, i: usize) -> Option<&str> {
        self.args.get(i).map(String::as_str)
    }
    /// Its block; empty without one.
    pub fn inside(&self) -> &[Node] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// Deepest block.
const DEEPEST: usize = 32;

pub(super) fn build(lines: Vec<Line>, notes: &mut Notes) -> Vec<Node> {
    // blocks that are open, the innermost last, each with the statement it belongs to
    let mut open: Vec<(Option<Node>, Vec<Node>)> = vec![(None, Vec::new())];
    let last = lines.last().map(|l| l.at.clone()).unwrap_or_default();
    for Line { at, words } in lines {
        let mut statement: Vec<String> = Vec::new();
        for word in words {
            match word.as_str() {
                "{" => {
                    let (name, args) = take(&mut statement);
                    let owner = if name.is_empty() {
                        // the brace stands on a line of its own
                        open.last_mut().and_then(|(_, body)| body.pop())
                    } else {
                        Some(Node { at: at.clone(), name, args, body: None })
                    };
                    if open.len() > DEEPEST {
                        notes.add(&at, "{", "blocks are too deep: what is inside is taken as outside");
                        continue;
                    }
                    open.push((owner, Vec::new()));
                }
                "}" => {
                    finish(&mut statement, &at, &mut open);
                    if open.len() == 1 {
                        notes.add(&at, "}", "there is no block to close: left out");
                        continue;
                    }
                    close(&mut open);
                }
                _ => statement.push(word),
            }
        }
        finish(&mut statement, &at, &mut open);
    }
    if open.len() > 1 {
        notes.add(&last, "}", format!("{} missing at the end: taken as closed there", open.len() - 1));
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop().map(|(_, body)| body).unwrap_or_default()
}

fn take(statement: &mut Vec<String>) -> (String, Vec<String>) {
    let mut words = std::mem::take(statement).into_iter();
    (words.next().unwrap_or_default(), words.collect())
}

fn finish(statement: &mut Vec<String>, at: &Source, open: &mut [(Option<Node>, Vec<Node>)]) {
    let (name, args) = take(statement);
    if let (false, Some((_, body))) = (name.is_empty() && args.is_empty(), open.last_mut()) {
        body.push(Node { at: at.clone(), name, args, body: None });
    }
}

fn close(open: &mut Vec<(Option<Node>, Vec<Node>)>) {
    let Some((owner, body)) = open.pop() else { return };
    let node = match owner {
        Some(owner) => Node { body: Some(body), ..owner },
        None => Node { at: Source::default(), name: String::new(), args: Vec::new(), body: Some(body) },
    };
    if let Some((_, outer)) = open.last_mut() {
        outer.push(node);
    }
}
