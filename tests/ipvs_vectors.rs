//! Every recorded scenario, played through the core. See `tests/vectors/README.md`.
//!
//! Reads the folders of `SOFTLVS_VECTORS` (colon-separated), or the project's own copy. Arguments: parts
//! of names to play only those, `--verbose` to see every packet and listing of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use softlvs::replay::{Outcome, Scenario, load_dir, play_verbose};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let verbose = args.iter().any(|a| a == "--verbose");
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folders = std::env::var_os("SOFTLVS_VECTORS").filter(|v| !v.is_empty());
    let (folders, expected): (Vec<PathBuf>, _) = match folders {
        Some(list) => (std::env::split_paths(&list).collect(), BTreeMap::new()),
        None => (vec![own.join("vectors")], expected(&own.join("vectors-expected.txt"))),
    };
    let (mut scenarios, mut unreadable) = (Vec::new(), Vec::new());
    for folder in &folders {
        match load_dir(folder) {
            Ok(files) => files.into_iter().for_each(|f| match f {
                Ok(s) => scenarios.push(s),
                Err(e) => unreadable.push(e),
            }),
            Err(e) => {
                eprintln!("ipvs_vectors: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    scenarios.retain(|s| filters.is_empty() || filters.iter().any(|f| s.title().contains(f.as_str())));
    for e in &unreadable {
        println!("DIFF {}: cannot be read: {}", e.path.display(), one_line(&e.why));
    }
    report(&scenarios, unreadable.len() as u32, &expected, verbose, filters.is_empty())
}

/// Counts of one group.
#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    expected: u32,
}

fn report(
    scenarios: &[Scenario],
    unreadable: u32,
    expected: &BTreeMap<String, String>,
    verbose: bool,
    all: bool,
) -> ExitCode {
    let mut groups: BTreeMap<u32, Count> = BTreeMap::new();
    for s in scenarios {
        let name = s.title();
        let count = groups.entry(s.group).or_default();
        let outcome = play_verbose(s, &mut |line| {
            if verbose {
                println!("    {line}");
            }
        });
        match (outcome, expected.get(&name)) {
            (Outcome::Same, None) => {
                println!("ok {name}");
                count.passed += 1;
            }
            (Outcome::Same, Some(_)) => {
                println!("DIFF {name}: unexpectedly passes: take it off the list of expected failures");
                count.failed += 1;
            }
            (Outcome::Differs(why) | Outcome::Unsupported(why), Some(reason)) => {
                println!("expected {name}: {reason}");
                if verbose {
                    println!("    {why}");
                }
                count.expected += 1;
            }
            (Outcome::Differs(why), None) => {
                println!("DIFF {name}: {}", one_line(&why));
                count.failed += 1;
            }
            (Outcome::Unsupported(why), None) => {
                println!("DIFF {name}: cannot be played: {}", one_line(&why));
                count.failed += 1;
            }
        }
    }
    let mut stale = unreadable;
    for name in expected.keys().filter(|n| all && !scenarios.iter().any(|s| s.title() == **n)) {
        println!("DIFF {name}: is on the list of expected failures, but there is no such scenario");
        stale += 1;
    }
    let (mut passed, mut failed, mut forgiven) = (0, stale, 0);
    for (group, c) in &groups {
        println!("group {group}: {} passed, {} failed, {} expected", c.passed, c.failed, c.expected);
        passed += c.passed;
        failed += c.failed;
        forgiven += c.expected;
    }
    if forgiven > 0 {
        println!("{forgiven} expected to fail");
    }
    if scenarios.is_empty() {
        println!("no scenario found");
        failed += 1;
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one_line(text: &str) -> String {
    text.trim_end().replace('\n', " / ")
}

/// `NAME: reason` lines; `#` begins a comment.
fn expected(file: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, why)| (name.trim().to_string(), why.trim().to_string()))
        .collect()
}
