//! Listings against recorded ones.

use super::scenario::Text;

/// Compares a listing with the recorded text; the first difference as one line.
pub(super) fn compare(text: &Text, got: &str) -> Result<(), String> {
    let other = text.other_run.as_deref();
    let first = match (&text.rows, &text.stdout) {
        (Some(rows), _) => rows_equal(&rows.iter().map(String::as_str).collect::<Vec<_>>(), got),
        (None, Some(stdout)) if text.args.contains('c') && stdout.starts_with("IPVS connection") => {
            if stdout.lines().take(2).ne(got.lines().take(2)) {
                Err(format!("titles differ: {:?}", got.lines().take(2).collect::<Vec<_>>()))
            } else {
                rows_equal(&stdout.lines().skip(2).collect::<Vec<_>>(), got)
            }
        }
        // the order of a hash with a random key
        (None, Some(stdout)) if text.args.contains("--nosort") => lines_equal(&sorted(stdout), &sorted(got)),
        (None, Some(stdout)) => lines_equal(stdout, got),
        (None, None) => Ok(()),
    };
    match (first, other) {
        (Err(why), Some(other)) if text.rows.is_some() => {
            rows_equal(&other.lines().skip(2).collect::<Vec<_>>(), got).map_err(|_| why)
        }
        (Err(why), Some(other)) if text.args.contains("--rate") => between(text, other, got).map_err(|_| why),
        (Err(why), Some(other)) => lines_equal(other, got).map_err(|_| why),
        (first, _) => first,
    }
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

pub(super) fn lines_equal(want: &str, got: &str) -> Result<(), String> {
    let differs = want.lines().zip(got.lines()).position(|(w, g)| w != g);
    match differs {
        Some(i) => {
            let line = |t: &str| t.lines().nth(i).unwrap_or("").to_string();
            Err(format!("line {}: got {:?}, expected {:?}", i + 1, line(got), line(want)))
        }
        None if want.lines().count() != got.lines().count() => Err(format!(
            "{} lines, expected {}: {:?}",
            got.lines().count(),
            want.lines().count(),
            got.lines().chain(want.lines()).last().unwrap_or("")
        )),
        None => Ok(()),
    }
}

/// A connection's line without its time left, and that in seconds.
fn split_row(row: &str) -> (String, i64) {
    let mut words: Vec<_> = row.split_whitespace().collect();
    let expiry = if words.len() > 1 { words.remove(1) } else { "" };
    let seconds = expiry.split(':').fold(0i64, |s, part| s * 60 + part.parse::<i64>().unwrap_or(-1));
    (words.join(" "), seconds)
}

/// Rows as a set (the recorded order is that of a random hash), seconds +-1. The kernel's timers may be
/// late, and list a connection with 00:00 until they fire (IPVS-RULES 79): such a row may be missing.
fn rows_equal(want: &[&str], got: &str) -> Result<(), String> {
    let mut left: Vec<_> = got.lines().skip(2).map(split_row).collect();
    for row in want {
        let (key, seconds) = split_row(row);
        match left.iter().position(|(k, s)| *k == key && (s - seconds).abs() <= 1) {
            Some(at) => drop(left.swap_remove(at)),
            None if seconds == 0 => {}
            None => {
                let mut near: Vec<_> = left.iter().map(|(k, s)| format!("{k} {s}s")).collect();
                near.sort();
                near.truncate(4);
                return Err(format!("no row like {row:?}; got {near:?}"));
            }
        }
    }
    // ours may be about to expire where the kernel's was just gone
    left.retain(|(_, s)| *s > 0);
    match left.first() {
        None => Ok(()),
        Some((key, s)) => Err(format!("a row too much: {key} ({s} s left)")),
    }
}

/// Rates depend on when the estimator's timer runs: each number must lie between those of the two runs,
/// give or take what their distance is.
fn between(text: &Text, other: &str, got: &str) -> Result<(), String> {
    let first = text.stdout.as_deref().unwrap_or("");
    let number = |w: &str| w.parse::<i64>().ok();
    for ((a, b), g) in first.lines().zip(other.lines()).zip(got.lines()) {
        let words = a.split_whitespace().zip(b.split_whitespace()).zip(g.split_whitespace());
        for ((a, b), g) in words {
            let near = match (number(a), number(b), number(g)) {
                (Some(a), Some(b), Some(g)) => {
                    let slack = (a - b).abs().max(1);
                    (a.min(b) - slack..=a.max(b) + slack).contains(&g)
                }
                _ => a == g,
            };
            if !near {
                return Err(format!("{g} is not near {a} and {b}"));
            }
        }
    }
    if got.lines().count() == first.lines().count() { Ok(()) } else { Err("number of lines".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: &str = "IPVS connection entries\npro expire state\n";

    #[test]
    fn rows_are_a_set_with_a_second_of_grace() {
        let got = format!("{TITLES}TCP 00:58  CLOSE a b c   \nUDP 04:59  UDP d e f\n");
        assert_eq!(rows_equal(&["UDP 05:00  UDP d e f", "TCP 00:59  CLOSE a b c"], &got), Ok(()));
        assert!(rows_equal(&["UDP 05:00  UDP d e f", "TCP 01:00  CLOSE a b c"], &got).is_err());
        assert!(rows_equal(&["UDP 05:00  UDP d e f"], &got).unwrap_err().contains("too much"));
        assert_eq!(rows_equal(&["TCP 00:00  CLOSE gone"], TITLES), Ok(()));
    }
}
