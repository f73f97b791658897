//! Help texts: every one ends with three examples at least, and every example works.
#![cfg(feature = "daemon")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use softlvs::cli::args::Cli;

fn softlvs(words: &[String], folder: &Path) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    c.args(words).current_dir(folder).stdin(Stdio::null());
    for name in ["SOFTLVS_CONFIG", "SOFTLVS_CONTROL", "NO_COLOR"] {
        c.env_remove(name);
    }
    c.output().unwrap()
}

/// The lines of the examples of a help text, continued lines joined, without what explains them.
fn examples(help: &str) -> Vec<String> {
    let Some((_, rest)) = help.split_once("Examples:\n") else { return Vec::new() };
    let mut all: Vec<String> = Vec::new();
    for line in rest.lines().take_while(|l| l.starts_with(' ') || l.is_empty()) {
        let line = line.split("   ").find(|part| !part.trim().is_empty()).unwrap_or_default().trim();
        match all.last_mut().filter(|last| last.ends_with('\\')) {
            Some(last) => {
                last.pop();
                last.push_str(line);
            }
            None if !line.is_empty() => all.push(line.to_owned()),
            None => {}
        }
    }
    all
}

/// A shell's words; quotes are all that is needed.
fn words(line: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => all.push(String::new()),
            c => all.last_mut().unwrap().push(c),
        }
    }
    all.retain(|w| !w.is_empty());
    all
}

/// Every command with its own help text.
fn commands() -> Vec<(String, String)> {
    let mut root = Cli::command();
    root.build();
    let mut all = vec![("softlvs".to_owned(), root.render_help().to_string())];
    for command in root.get_subcommands_mut().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        all.push((format!("softlvs {}", command.get_name()), command.render_help().to_string()));
    }
    all
}

const CONFIG: &str = r#"
[director]
mode = "nat"
[[port]]
tap = "tap0"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
gateway = "192.0.2.1"
[[service]]
address = "192.0.2.10:80"
protocol = "tcp"
[[service.real]]
address = "10.0.0.11:80"
[[service]]
address = "192.0.2.10:53"
protocol = "udp"
[[service.real]]
address = "10.0.0.11:53"
"#;

#[test]
fn every_help_ends_with_examples_that_are_understood() {
    for (name, help) in commands() {
        let all = examples(&help);
        assert!(all.len() >= 3, "{name} has {} examples:\n{help}", all.len());
        for line in all.iter().filter(|l| l.starts_with("softlvs")) {
            let understood = Cli::command().try_get_matches_from(words(line));
            if let Err(e) = understood {
                panic!("{name}: `{line}`: {e}");
            }
        }
    }
}

/// Examples are run where they only look. Those that run a director, build a cluster or change this host
/// are run in their harmless form, or understood only (above).
#[test]
fn every_example_that_can_be_run_safely_runs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("softlvs.toml"), CONFIG).unwrap();
    let mut trace = Vec::new();
    let ports = [("wan".to_owned(), softlvs::wire::Link::Ip)];
    let mut w = softlvs::io::pcapng::Writer::new(&mut trace, &ports).unwrap();
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 0, 0, 9], [192, 0, 2, 10], 64)
        .tcp(40_000, 80, 1, 1000)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    for _ in 0..17 {
        w.write(0, softlvs::time::Span(1), &packet, "").unwrap();
    }
    std::fs::write(folder.path().join("trace.pcapng"), trace).unwrap();
    let mut ran = 0;
    for (name, help) in commands() {
        for line in examples(&help).iter().filter(|l| l.starts_with("softlvs")) {
            let mut line = words(&line.replace("/etc/softlvs/softlvs.toml", "softlvs.toml"));
            line.remove(0);
            match line.first().map(String::as_str) {
                Some("explain" | "check" | "completions" | "man") => {}
                // the network is asked by the e2e tests, in namespaces
                Some("doctor") if line.len() == 1 => {}
                Some("real") if line.iter().any(|w| w == "--dry-run") => {}
                _ => continue,
            }
            let out = softlvs(&line, folder.path());
            let code = out.status.code();
            let fine =
                code == Some(0) || (code == Some(1) && matches!(line[0].as_str(), "explain" | "doctor"));
            assert!(fine, "{name}: {line:?}: {code:?} {}", String::from_utf8_lossy(&out.stderr));
            ran += 1;
        }
    }
    assert!(ran >= 12, "{ran}");
}

#[test]
fn completions_and_pages_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let line = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for shell in ["bash", "zsh", "fish"] {
        let out = softlvs(&line(&format!("completions {shell}")), folder.path());
        let text = String::from_utf8(out.stdout).unwrap();
        for (name, _) in commands().iter().skip(1) {
            let word = name.trim_start_matches("softlvs ");
            assert!(out.status.success() && text.contains(word), "{shell} does not know {word}");
        }
    }
    assert!(softlvs(&line("man --folder pages"), folder.path()).status.success());
    for (name, _) in commands() {
        let page = folder.path().join("pages").join(format!("{}.1", name.replace(' ', "-")));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(text.contains(".TH") && text.contains(".SH SYNOPSIS"), "{name}");
    }
    let out = softlvs(&line("man nonsense"), folder.path());
    assert_eq!(out.status.code(), Some(2));
}
