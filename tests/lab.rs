//! `softlvs lab` as a user runs it, in every mode, as root and as an ordinary user.
//!
//! Everything happens in namespaces that the program makes itself. Where they are forbidden the tests skip,
//! except in CI (`CI=true`), where they must run.
#![cfg(feature = "daemon")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use softlvs::io::sys::netlink::Feature;
use softlvs::lab::run::{Lab, Options, best_io};
use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;
use softlvs::svc::SchedulerKind;

const MODES: [&str; 4] = ["nat", "fullnat", "tun", "dr"];
const NOBODY: u32 = 65_534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Whoever runs the tests.
    Same,
    /// An ordinary user (the same one when the tests are not run as root).
    Ordinary,
}

/// Labs share two cores: one at a time keeps latencies and time-outs honest.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A copy of the program that every user may execute, wherever the build folder is.
fn program() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &COPY
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let path = dir.path().join("softlvs");
            std::fs::copy(env!("CARGO_BIN_EXE_softlvs"), &path).unwrap();
            (dir, path)
        })
        .1
}

fn command(user: User, args: &[&str]) -> Command {
    let mut c = Command::new(program());
    c.args(args).current_dir("/").env_remove("XDG_RUNTIME_DIR").env_remove("HOME").stdin(Stdio::null());
    if user == User::Ordinary && root() {
        c.uid(NOBODY).gid(NOBODY);
    }
    c
}

/// Runs a lab; `None` when this machine forbids namespaces and the test may skip.
fn lab(user: User, args: &[&str]) -> Option<Output> {
    let out = command(user, &[&["lab"], args].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if said.contains("cannot make a user namespace") && std::env::var_os("CI").is_none() {
        eprintln!("skipped: {said}");
        return None;
    }
    Some(out)
}

fn report(user: User, args: &[&str]) -> Option<Value> {
    let out = lab(user, &[args, &["-o", "json"]].concat())?;
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{user:?} {args:?}: {said}");
    Some(serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}")))
}

fn ipv6_here() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Hops as `from>to source>destination [outer source>outer destination]`.
fn hops(r: &Value) -> Vec<String> {
    let text = |h: &Value, k: &str| h[k].as_str().unwrap_or("-").to_owned();
    r["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| {
            let mut t =
                format!("{}>{} {}>{}", text(h, "from"), text(h, "to"), text(h, "src"), text(h, "dst"));
            if !h["outer_src"].is_null() {
                t += &format!(" [{}>{}]", text(h, "outer_src"), text(h, "outer_dst"));
            }
            t
        })
        .collect()
}

/// The address tables that LVS documents, with the server that was chosen.
fn expected_hops(mode: &str, ipv6: bool, rs: u64, lip: &str) -> Vec<String> {
    let out = |n: u64| if ipv6 { format!("2001:db8:1::{n}") } else { format!("192.0.2.{n}") };
    let inn = |n: u64| if ipv6 { format!("2001:db8:2::{n}") } else { format!("10.0.0.{n}") };
    let (cip, vip, dip, rip) = (out(1), out(10), out(2), inn(10 + rs));
    let s = format!("rs{rs}");
    match mode {
        "nat" => vec![
            format!("client>director {cip}>{vip}"),
            format!("director>{s} {cip}>{rip}"),
            format!("{s}>director {rip}>{cip}"),
            format!("director>client {vip}>{cip}"),
        ],
        "fullnat" => vec![
            format!("client>director {cip}>{vip}"),
            format!("director>{s} {lip}>{rip}"),
            format!("{s}>director {rip}>{lip}"),
            format!("director>client {vip}>{cip}"),
        ],
        "tun" => vec![
            format!("client>director {cip}>{vip}"),
            format!("director>router {cip}>{vip} [{dip}>{rip}]"),
            format!("router>{s} {cip}>{vip} [{dip}>{rip}]"),
            format!("{s}>router {vip}>{cip}"),
            format!("router>client {vip}>{cip}"),
        ],
        _ => vec![
            format!("client>director {cip}>{vip}"),
            format!("director>{s} {cip}>{vip}"),
            format!("{s}>client {vip}>{cip}"),
        ],
    }
}

fn judge(mode: &str, ipv6: bool, requests: u64, r: &Value) {
    let what = format!("{mode} ipv6={ipv6}: {r}");
    let keys: Vec<&str> = r.as_object().unwrap().keys().map(String::as_str).collect();
    for k in
        ["mode", "io", "ipv6", "scheduler", "servers", "requests", "ok", "failed", "replies_via_director"]
    {
        assert!(keys.contains(&k), "no {k}: {what}");
    }
    assert_eq!((&r["ok"], &r["failed"]), (&requests.into(), &0.into()), "{what}");
    for server in r["servers"].as_array().unwrap() {
        assert_eq!(server["requests"].as_u64(), Some(requests / 3), "{what}");
    }
    let passed = r["replies_via_director"].as_u64().unwrap();
    assert_eq!(passed > 0, matches!(mode, "nat" | "fullnat"), "{what}");

    let hops = hops(r);
    let rs = hops[1..].iter().find_map(|h| h.split_once("rs")?.1[..1].parse().ok()).expect("a real server");
    let lip = r["hops"][1]["src"].as_str().unwrap();
    assert_eq!(hops, expected_hops(mode, ipv6, rs, lip), "{what}");
    if mode == "fullnat" {
        let pool: Vec<String> = (100..=107)
            .map(|n| if ipv6 { format!("2001:db8:2::{n}") } else { format!("10.0.0.{n}") })
            .collect();
        assert!(pool.iter().any(|l| l == lip), "{lip} is no local address: {what}");
    }
    // Direct routing changes MAC addresses and nothing else: theirs to the server's, ours as source.
    if mode == "dr" {
        let mac = |i: usize, k: &str| r["hops"][i][k].as_str().unwrap().to_owned();
        assert_eq!(mac(1, "src_mac"), mac(0, "dst_mac"), "{what}");
        assert_eq!(mac(1, "dst_mac"), mac(2, "src_mac"), "{what}");
        assert_eq!(mac(2, "dst_mac"), mac(0, "src_mac"), "{what}");
    }
}

fn every_mode(user: User, io: &str) {
    let _one = one_at_a_time();
    for ipv6 in [false, true] {
        if ipv6 && !ipv6_here() {
            eprintln!("skipped: no IPv6 on this machine");
            continue;
        }
        for mode in MODES {
            let mut args = vec!["--mode", mode, "--requests", "60", "--io", io];
            args.extend(ipv6.then_some("--ipv6"));
            let Some(r) = report(user, &args) else { return };
            assert!(io == "auto" || r["io"] == io, "{r}");
            judge(mode, ipv6, 60, &r);
        }
    }
}

#[test]
fn every_mode_on_raw_sockets_as_an_ordinary_user() {
    every_mode(User::Ordinary, "packet");
}

#[test]
fn every_mode_on_what_is_best_for_an_ordinary_user() {
    every_mode(User::Ordinary, "auto");
}

#[test]
fn every_mode_on_tap_devices() {
    if best_io().0 == Io::Tap {
        every_mode(User::Same, "tap");
    } else {
        eprintln!("skipped: /dev/net/tun cannot be opened");
    }
}

#[test]
fn the_schedulers_and_the_tunnels_there_are() {
    let _one = one_at_a_time();
    for s in ["wrr", "lc", "wlc", "sh", "mh"] {
        let Some(r) = report(User::Same, &["--mode", "nat", "--scheduler", s]) else { return };
        assert_eq!(r["scheduler"], s);
    }
    for t in ["gre", "gue"] {
        for family in [&[][..], &["--ipv6"][..]] {
            let args = [&["--mode", "tun", "--requests", "30", "--tunnel", t][..], family].concat();
            let Some(r) = report(User::Same, &args) else { return };
            assert_eq!(r["replies_via_director"], 0);
            assert!(r["hops"][1]["outer_dst"].is_string(), "{r}");
        }
    }
}

#[test]
fn an_ordinary_user_is_told_why_there_is_no_tap() {
    let _one = one_at_a_time();
    let Some(out) = lab(User::Ordinary, &["--mode", "dr", "--requests", "3"]) else { return };
    let text = String::from_utf8_lossy(&out.stdout);
    let headline = text.lines().next().unwrap_or_default();
    assert!(
        headline.contains("TAP devices") || headline.contains("raw sockets (no TAP: /dev/net/tun cannot be"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(text.contains("A request and its reply"), "{text}");
}

#[test]
fn ten_mebibytes_arrive_byte_for_byte_with_and_without_checksum_offload() {
    if !root() {
        eprintln!("skipped: a lab inside the test process needs root");
        return;
    }
    let _one = one_at_a_time();
    let share = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut byte = 1u32;
    let body: Vec<u8> = (0..10 << 20)
        .map(|_| {
            byte = byte.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (byte >> 24) as u8
        })
        .collect();
    std::fs::write(share.path().join("index.html"), body).unwrap();
    let ios: &[Io] = if best_io().0 == Io::Tap { &[Io::Tap, Io::Packet] } else { &[Io::Packet] };
    for io in ios {
        for mode in Mode::ALL {
            for ipv6 in [false, true] {
                let options = Options {
                    mode,
                    servers: 2,
                    requests: 4,
                    scheduler: SchedulerKind::Rr,
                    ipv6: ipv6 && ipv6_here(),
                    io: *io,
                    encapsulation: Encapsulation::Ipip,
                    concurrency: 2,
                    program: program().into(),
                    share: share.path().into(),
                    scratch: scratch.path().into(),
                };
                let mut lab = Lab::start(options).unwrap();
                for offload in [true, false] {
                    for host in ["client", "rs1", "rs2"] {
                        lab.topology().set_feature(host, "eth0", Feature::TxChecksum, offload).unwrap();
                    }
                    let r = lab.measure().unwrap();
                    assert!(r.problems.is_empty(), "{io:?} {mode:?} ipv6={ipv6} offload={offload}: {r:?}");
                    assert_eq!(r.ok, 4);
                }
                assert!(lab.stop(), "{}", lab.director_log());
            }
        }
    }
}

#[test]
fn a_command_runs_at_the_client_and_its_status_is_passed_on() {
    let _one = one_at_a_time();
    let script =
        "test \"$VIP_URL\" = http://$VIP:80/ && test \"$VIP_PORT\" = 80 && echo reached $VIP; exit 7";
    let args = ["--mode", "nat", "--requests", "3", "--", "sh", "-c", script];
    let Some(out) = lab(User::Ordinary, &args) else { return };
    assert_eq!(out.status.code(), Some(7), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("reached 192.0.2.10"));
}

#[test]
fn exec_reaches_the_hosts_of_a_running_lab_and_nothing_is_left_after_a_kill() {
    let _one = one_at_a_time();
    if lab(User::Ordinary, &["--mode", "tun", "--requests", "1"]).is_none() {
        return;
    }
    let wait = ["lab", "--mode", "tun", "--requests", "1", "--", "sleep", "60"];
    let mut running = command(User::Ordinary, &wait).stdout(Stdio::null()).spawn().unwrap();
    let exec = |args: &[&str]| {
        let line = [&["lab", "exec"], args].concat();
        command(User::Ordinary, &line).output().unwrap()
    };
    // Other labs of the same user may run on the machine, so the lab is named.
    let pid = (0..100)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            let children = format!("/proc/{0}/task/{0}/children", running.id());
            let child = std::fs::read_to_string(children).ok()?.split_whitespace().next()?.to_owned();
            exec(&["--lab", &child, "rs1", "--", "true"]).status.success().then_some(child)
        })
        .expect("the lab can be entered");
    let out = exec(&["--lab", &pid, "rs1", "--", "sh", "-c", "cat /proc/net/dev; exit 3"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stdout).contains("lvstun0"), "{out:?}");
    let out = exec(&["--lab", &pid, "rs9", "--", "true"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("client, director, router, rs1"), "{out:?}");

    // Killed without a chance to clean up; the kernel takes everything with it.
    running.kill().unwrap();
    running.wait().unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    assert!(gone, "the lab outlives its parent");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.contains(&format!("softlvs-lab-{NOBODY}-{pid}")), "{sockets}");
}

#[test]
fn wrong_usage_is_status_2_with_a_remedy() {
    for (args, said) in [
        (&["lab"][..], "--mode"),
        (&["lab", "--mode", "direct"], "none of nat, fullnat, tun, dr"),
        (&["lab", "--mode", "nat", "--servers", "0"], "from 1 to 64"),
        (&["lab", "--mode", "nat", "--scheduler", "fair"], "known are: rr, wrr"),
        (&["lab", "--mode", "nat", "--io", "dpdk"], "auto, tap, packet or xdp"),
        (&["real", "tun", "--vip", "192.0.2.10", "--tunnel", "vxlan"], "none of ipip, gre, gue"),
        (&["real", "dr"], "--vip"),
    ] {
        let out = command(User::Ordinary, args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
}

#[test]
fn real_prints_shell_commands_without_any_right() {
    let out = command(User::Ordinary, &["real", "dr", "--vip", "192.0.2.10", "--dry-run"]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "sysctl -w net.ipv4.conf.all.arp_ignore=1\nsysctl -w net.ipv4.conf.all.arp_announce=2\n\
         ip addr add 192.0.2.10/32 dev lo\n"
    );
}
