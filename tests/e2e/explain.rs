//! `softlvs explain` against a director at work: a flow, and live what passes.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use softlvs::explain::report::{Live, Outcome, Report};
use softlvs::explain::unhex;
use softlvs::io::pcapng;
use softlvs::lab::director::Director;
use softlvs::lab::layout::Mode;
use softlvs::wire::Link;

use crate::doctor::Clinic;
use crate::in_namespaces;

fn softlvs(clinic: &Clinic, control: &Path, words: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    c.arg("explain").arg("--control").arg(control).args(words).stdin(Stdio::null());
    clinic.ns("director").confine(&mut c).unwrap();
    c
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One packet of a capture with its comment, as tshark sees it.
fn comments(file: &Path) -> Option<String> {
    let out: Output =
        Command::new("tshark").args(["-T", "fields", "-e", "frame.comment", "-r"]).arg(file).output().ok()?;
    out.status.success().then(|| text(&out.stdout))
}

in_namespaces! {
    fn explain_tells_what_then_happens_and_watches_what_passes() {
        let clinic = Clinic::new(Mode::Nat, false, false);
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("s.sock");
        let program = Path::new(env!("CARGO_BIN_EXE_softlvs"));
        let mut director = Director::start(clinic.ns("director"), program, &clinic.toml, &control).unwrap();
        let vip = SocketAddr::new(clinic.topology.layout.vip, 80);
        let connect = |to| {
            let timeout = Duration::from_millis(500);
            clinic.ns("client").run(|| TcpStream::connect_timeout(&to, timeout)?.local_addr())
        };
        assert!((0..100).any(|_| connect(vip).is_ok()), "{}", director.log());

        // live first, so that a flow's answer can be compared with the next connection's; a connection sends
        // more than its SYN, and the last packets of the one before may be seen too
        let out = folder.path().join("out.pcapng");
        let words = ["--live", "tcp and dst port 80", "--count", "8", "-o", "json", "--write", out.to_str().unwrap()];
        let flow = format!("tcp 192.0.2.1:40000 > {vip}");
        let mut watching = softlvs(&clinic, &control, &words);
        let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = Vec::new();
        for _ in 0..200 {
            let answer = softlvs(&clinic, &control, &[&flow, "-o", "json"]).output().unwrap();
            assert_eq!(answer.status.code(), Some(0), "{}", text(&answer.stderr));
            let answer = serde_json::from_slice::<Report>(&answer.stdout).unwrap();
            // a server that was not talked to yet is asked for its MAC first
            assert!(matches!(answer.verdict, Outcome::Sent | Outcome::Waits));
            told.push((connect(vip).unwrap(), answer));
            if watching.try_wait().unwrap().is_some() {
                break;
            }
        }
        let watched = watching.wait_with_output().unwrap();
        assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
        let seen: Vec<Live> =
            text(&watched.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(seen.len(), 8);
        let mut compared = 0;
        for live in seen.iter().filter(|l| l.report.packet.contains("> 192.0.2.10:80 SYN")) {
            let begun = |(client, _): &&(SocketAddr, Report)| live.report.packet.contains(&format!("{client} > "));
            let Some((_, answer)) = told.iter().find(begun) else { continue };
            assert_eq!(live.report.server, answer.server, "the flow's answer is what then happened");
            compared += 1;
        }
        assert!(compared > 0, "no beginning was seen: {}", text(&watched.stdout));
        let live = &seen[0];

        let frame = unhex(&live.frame).unwrap();
        let file = std::fs::File::open(&out).unwrap();
        assert_eq!(pcapng::nth(file, 1).unwrap(), Some((Link::Ethernet, frame)));
        match comments(&out) {
            Some(comments) => assert!(comments.contains(&live.report.server.clone().unwrap()), "{comments}"),
            None => crate::gate::skip("tshark is not installed"),
        }

        // a drop, in words, and its exit status
        let dropped = softlvs(&clinic, &control, &["tcp 192.0.2.1:40000 > 203.0.113.9:80"]).output().unwrap();
        assert_eq!(dropped.status.code(), Some(1), "{}", text(&dropped.stderr));
        assert!(text(&dropped.stdout).contains("dropped: not_ours"), "{}", text(&dropped.stdout));
        let wrong = softlvs(&clinic, &control, &["tcp nonsense"]).output().unwrap();
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
        assert!(text(&wrong.stderr).contains("help: "), "{}", text(&wrong.stderr));
        director.stop(Duration::from_secs(5));
    }
}
