//! The walls of the house (ARCHITECTURE.md): who may name whom, where `unsafe` may stand, where a clock is
//! read, and how long a file may be. Reads the sources as text.

use std::fs;
use std::path::{Path, PathBuf};

/// Core folders with the core modules each may name. `time`, `addr` and `buf` are leaves for everybody.
/// Every drop has one name, so `DropReason` and its neighbours in `engine::verdict` are for everybody too.
const CORE: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("svc", &["sched", "conn", "host", "wire"]),
    ("sched", &["svc", "wire"]),
    ("conn", &["svc", "wire"]),
    ("nat", &["wire", "svc"]),
    ("tunnel", &["wire", "svc", "nat"]),
    ("dr", &["wire"]),
    ("health", &["svc"]),
    ("host", &["wire", "svc", "dr"]),
    ("ipvsadm", &["svc", "host", "sched", "conn", "wire"]),
    ("engine", &["conn", "dr", "host", "nat", "sched", "svc", "tunnel", "wire"]),
];
const LEAVES: &[&str] = &["addr", "buf", "engine", "hash", "time"];
const FOREIGN: &[&str] =
    &["tokio", "nix", "libc", "clap", "serde", "serde_json", "toml", "tracing", "tun_tap"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|x| x == "rs") {
            found.push(path);
        }
    }
}

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(below), &mut found);
    found.sort();
    found.into_iter().map(|p| (p.clone(), fs::read_to_string(p).unwrap())).collect()
}

/// Lines of code before the first test module, numbered, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("")))
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let of_tests = [
        "tests",
        "golden",
        "testing",
        "testkit",
        "properties",
        "property_tests",
        "wire_tests",
        "scenarios",
        "ending_tests",
    ];
    of_tests.contains(&name.as_ref()) || path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn core_modules_name_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (module, allowed) in CORE {
        for (path, text) in sources(&format!("src/{module}")) {
            if is_test(&path) {
                continue;
            }
            for (line, code) in code(&text) {
                for rest in code.split("crate::").skip(1) {
                    let named: String =
                        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let fine = named == *module
                        || LEAVES.contains(&named.as_str())
                        || allowed.contains(&named.as_str());
                    if !fine && !named.is_empty() {
                        wrong.push(format!("{}:{line}: {module} names {named}", path.display()));
                    }
                }
                for foreign in FOREIGN {
                    if code.contains(&format!("{foreign}::")) {
                        wrong.push(format!("{}:{line}: {module} names {foreign}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_core_folder_forbids_unsafe_and_only_io_sys_allows_it() {
    for (module, _) in CORE {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{module}/mod.rs"));
        let text = fs::read_to_string(&top).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{}", top.display());
    }
    for (path, text) in sources("src") {
        let inside = path.to_string_lossy().contains("src/io/sys/");
        let allows = code(&text).any(|(_, l)| l.contains("allow(unsafe_code)"));
        assert!(inside || !allows || is_test(&path), "{} allows unsafe code", path.display());
    }
}

#[test]
fn time_is_read_in_one_place() {
    let wanted = ["Instant::now(", "SystemTime::now("];
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let name = path.to_string_lossy().into_owned();
        // what measures or waits for the world outside of the director has a clock of its own
        let outside = ["src/worker/clock.rs", "src/lab/", "src/real/", "src/cli/", "src/io/sys/"];
        if outside.iter().any(|o| name.contains(o)) || is_test(&path) {
            continue;
        }
        for (line, code) in code(&text) {
            if wanted.iter().any(|w| code.contains(w)) {
                found.push(format!("{name}:{line}"));
            }
        }
    }
    assert!(found.is_empty(), "clock read outside of worker/clock.rs: {found:?}");
}

#[test]
fn files_stay_short() {
    let mut lengths = Vec::new();
    for (path, text) in sources("src") {
        if !is_test(&path) {
            let lines = code(&text).count();
            assert!(lines <= 700, "{} has {lines} lines without its tests", path.display());
            lengths.push(lines);
        }
    }
    lengths.sort_unstable();
    let p90 = lengths[lengths.len() * 9 / 10];
    assert!(p90 <= 450, "a tenth of the files is longer than {p90} lines");
}
