//! A report for people.

use std::fmt::Write as _;

use super::report::{Fact, Facts, Report};

/// Column at which what came of a step begins.
const MARGIN: usize = 16;
const WIDTH: usize = 110;

impl Report {
    /// The report as text, a line for each step and its inputs below.
    pub fn text(&self) -> String {
        let made = if self.made_up { " (made up for the question)" } else { "" };
        let mut out = format!("{} on port {}{made}\n\n", self.packet, self.port);
        for (i, step) in self.steps.iter().enumerate() {
            let head = format!("{:>2}  {}", i + 1, step.step);
            let _ = writeln!(out, "{head:MARGIN$}{}", step.result);
            inputs(&mut out, &step.inputs);
        }
        for assumed in &self.assumed {
            let _ = writeln!(out, "\nassumed: {assumed}");
        }
        out
    }
}

fn inputs(out: &mut String, facts: &Facts) {
    let mut line = String::new();
    for (name, fact) in &facts.0 {
        let Some(value) = plain(fact) else { continue };
        let word = format!("{} {value}", name.replace('_', " "));
        if !line.is_empty() && MARGIN + 2 + line.len() + 2 + word.len() > WIDTH {
            let _ = writeln!(out, "{:MARGIN$}{line},", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{:MARGIN$}{line}", "");
    }
    for (_, fact) in &facts.0 {
        if let Fact::Rows(rows) = fact {
            table(out, rows);
        }
    }
}

fn plain(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Flag(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Fact::Number(n) => Some(n.to_string()),
        Fact::Text(text) => Some(text.clone()),
        Fact::Rows(_) => None,
    }
}

fn table(out: &mut String, rows: &[Facts]) {
    let Some(first) = rows.first() else { return };
    let head: Vec<String> = first.0.iter().map(|(name, _)| name.replace('_', " ")).collect();
    let cells = |row: &Facts| -> Vec<String> {
        row.0.iter().map(|(_, fact)| plain(fact).unwrap_or_default()).collect()
    };
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let columns = all.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| all.iter().filter_map(|r| r.get(c)).map(String::len).max().unwrap_or(0))
        .collect();
    for row in &all {
        let mut line = format!("{:MARGIN$}", "");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
