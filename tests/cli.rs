//! The command itself: what it prints, where, and how it exits.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

fn softlvs(line: &str) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    c.args(line.split_whitespace()).stdin(Stdio::null());
    // What is set where the tests run must not decide them.
    for name in ["SOFTLVS_CONFIG", "SOFTLVS_CONTROL", "NO_COLOR"] {
        c.env_remove(name);
    }
    c
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(line: &str) -> Ended {
    ended(softlvs(line).output().unwrap())
}

fn ended(o: Output) -> Ended {
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Ended { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
}

/// The text of a refusal and its exit status.
fn refused(line: &str, code: i32) -> String {
    let e = run(line);
    assert_eq!((e.code, e.out.as_str()), (Some(code), ""), "{line}: {}", e.err);
    for message in e.err.lines().filter(|l| l.starts_with("softlvs")) {
        assert!(
            message.starts_with("softlvs: error: ") || message.starts_with("softlvs: warning: "),
            "{message}"
        );
    }
    e.err
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    for line in ["--help", "-h", "--version", "run --help", "check --help"] {
        let e = run(line);
        assert_eq!((e.code, e.err.as_str()), (Some(0), ""), "{line}");
        assert!(!e.out.is_empty());
    }
    assert!(run("--version").out.starts_with("softlvs 0."));
    let help = run("--help").out;
    assert!(help.contains("Exit status: 0 done") && help.contains("--host-address"));
}

#[test]
fn usage_errors_say_what_why_and_the_remedy_and_exit_2() {
    for (line, text) in [
        ("--tapp tap0", "softlvs: error: --tapp: unknown option or argument\nhelp: did you mean `--tap`?\n"),
        (
            "--nonsense",
            "softlvs: error: --nonsense: unknown option or argument\nhelp: `softlvs --help` shows the commands and options\n",
        ),
        (
            "--tap",
            "softlvs: error: --tap <NAME>: the value is missing\nhelp: `softlvs --help` shows the commands and options\n",
        ),
        (
            "--mtu 1 --mtu 2",
            "softlvs: error: --mtu <N>: given more than once\nhelp: `softlvs --help` shows the commands and options\n",
        ),
        ("check", "softlvs: error: <FILE>: missing\nhelp: `softlvs check --help` shows its options\n"),
        (
            "real",
            "softlvs: error: softlvs real: its command is missing\nhelp: `softlvs real --help` shows its options\n",
        ),
        (
            "lab --mode foo",
            "softlvs: error: --mode <MODE>: `foo` is none of nat, fullnat, tun, dr\nhelp: `softlvs lab --help` shows its options\n",
        ),
        (
            "frobnicate",
            "softlvs: error: frobnicate: unknown command\nhelp: `softlvs --help` shows the commands and options\n",
        ),
        ("chekc", "softlvs: error: chekc: unknown command\nhelp: did you mean `check`?\n"),
        (
            "--tap t --mode natt",
            "softlvs: error: --mode: `natt` is not known here\nhelp: did you mean `nat`? Known are: nat, fullnat, tun, dr\n",
        ),
        (
            "--tap t --log loud",
            "softlvs: error: --log: `loud` is not a level\nhelp: known are: error, warn, info, debug, trace\n",
        ),
        (
            "--packet lo --vip 10.0.0.1:80",
            "softlvs: error: --packet: the port has no address\nhelp: add addresses = [\"192.0.2.2/24\"] \
             (--address 192.0.2.2/24), with --host-address the director takes the next free one of that network\n",
        ),
    ] {
        assert_eq!(refused(line, 2), text, "{line}");
    }
}

#[test]
fn check_accepts_the_sample_files() {
    let e = run("check tests/config/two-arm.toml");
    assert_eq!(e.code, Some(0), "{}", e.err);
    assert_eq!(e.out, "tests/config/two-arm.toml: ok: 2 ports, 2 services, 3 real servers\n");
    assert_eq!(e.err, "");
    let e = run("check tests/config/spec.toml");
    assert_eq!(e.code, Some(0));
    assert!(e.err.starts_with("softlvs: warning: tests/config/spec.toml:34:7: route[0].via: "), "{}", e.err);
}

#[test]
fn check_shows_every_mistake_and_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "[[port]]\ntap = \"tap0\"\nmtu = 12\naddreses = [\"10.0.0.2/24\"]\n").unwrap();
    let name = file.display().to_string();
    let err = refused(&format!("check {name}"), 2);
    let expected = format!(
        "softlvs: error: {name}:3:7: port[0].mtu: 12 is out of range\n  |\n3 | mtu = 12\n  |       ^^\n\
         help: mtu is a whole number from 68 to 65535\n\
         softlvs: error: {name}:4:1: port[0].addreses: unknown key\n  |\n4 | addreses = [\"10.0.0.2/24\"]\n  | ^^^^^^^^\n\
         help: did you mean `addresses`?\n"
    );
    assert_eq!(err, expected);
    assert_eq!(refused(&format!("--config {name}"), 2), err, "run says the same");
}

#[test]
fn check_reads_standard_input() {
    let mut child = softlvs("check -")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"[[port]]\ntap = 1\n").unwrap();
    let e = ended(child.wait_with_output().unwrap());
    assert_eq!(e.code, Some(2));
    assert!(e.err.contains("standard input:2:7: port[0].tap: expected a string"), "{}", e.err);
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_at_run_time() {
    for line in ["check /nonexistent/softlvs.toml", "--config /nonexistent/softlvs.toml"] {
        let err = refused(line, 1);
        assert!(err.starts_with("softlvs: error: cannot read /nonexistent/softlvs.toml: "), "{err}");
    }
}

#[test]
fn the_file_named_by_the_environment_is_read() {
    let e = ended(softlvs("run").env("SOFTLVS_CONFIG", "/nonexistent/env.toml").output().unwrap());
    assert_eq!(e.code, Some(1));
    assert!(e.err.contains("/nonexistent/env.toml"), "{}", e.err);
}

#[test]
fn the_schema_is_json() {
    let e = run("check --schema");
    assert_eq!(e.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&e.out).unwrap();
    assert_eq!(schema["properties"]["port"]["items"]["properties"]["mtu"]["maximum"], 65535);
}

#[test]
fn a_reader_that_goes_away_is_success() {
    let mut child = softlvs("check --schema").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let e = ended(child.wait_with_output().unwrap());
    assert_eq!((e.code, e.err.as_str()), (Some(0), ""));
}
