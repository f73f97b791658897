//! May this test run here?

use std::io;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use softlvs::io::sys::ns::NetNs;

const INSIDE: &str = "SOFTLVS_E2E_INSIDE";

/// True when the caller may go on: namespaces can be made. Otherwise the test has been run again inside a
/// user namespace (and has passed there), or is skipped.
pub fn may_run(module: &str, test: &str) -> bool {
    let Err(e) = NetNs::new() else { return true };
    if std::env::var_os(INSIDE).is_some() || !user_namespaces() {
        skip(&format!("no network namespaces here: {e}"));
        return false;
    }
    let name = format!("{}::{test}", module.trim_start_matches("e2e::"));
    let exe = std::env::current_exe().unwrap();
    let out = Command::new("unshare")
        .arg("-Urm")
        .arg(exe)
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    print!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name} failed inside a user namespace");
    false
}

/// True when TAP devices can be opened. An ordinary user without them is nothing unusual.
pub fn tap() -> bool {
    let Err(e) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") else { return true };
    if std::env::var_os(INSIDE).is_none() && e.kind() != io::ErrorKind::NotFound {
        skip(&format!("/dev/net/tun: {e}"));
    } else {
        println!("skipped: /dev/net/tun: {e}");
    }
    false
}

/// True when there is the user `nobody`: not where an ordinary user has mapped none but himself.
pub fn nobody() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let has = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (numbers[0]..numbers[0] + numbers[2]).contains(&65534)
    };
    map.lines().any(has)
}

/// True when XDP programs can be loaded: by root outside of user namespaces.
pub fn xdp() -> bool {
    use softlvs::io::sys::bpf::{Map, MapKind};
    let Err(e) = Map::create(MapKind::Xsk, 4, 4, 1, "softlvs_may_i") else { return true };
    if std::env::var_os(INSIDE).is_none() {
        skip(&format!("no XDP here: {e}"));
    } else {
        println!("skipped: no XDP in a user namespace: {e}");
    }
    false
}

/// True when a program of another package is there.
pub fn program(name: &str) -> bool {
    match Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => true,
        Err(e) => {
            skip(&format!("{name}: {e}"));
            false
        }
    }
}

/// True when a port of this kind can be opened.
pub fn io(io: softlvs::lab::Io) -> bool {
    match io {
        softlvs::lab::Io::Tap => tap(),
        softlvs::lab::Io::Packet => true,
        softlvs::lab::Io::Xdp => xdp(),
    }
}

/// Tests that take all of the machine, and those that measure how soon something happens.
static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that takes all of the machine.
pub fn loud() -> RwLockWriteGuard<'static, ()> {
    // what another test broke is its own affair
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that measures times: no loud one runs meanwhile.
pub fn calm() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Says why a test does not run; fails where everything has to run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "with CI=true nothing is skipped: {why}");
    println!("skipped: {why}");
}

fn user_namespaces() -> bool {
    let able = Command::new("unshare").args(["-Urm", "true"]).stderr(Stdio::null()).status();
    able.is_ok_and(|s| s.success())
}

/// A test that runs only where namespaces can be made.
#[macro_export]
macro_rules! in_namespaces {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            if $crate::gate::may_run(module_path!(), stringify!($name)) $body
        }
    };
}
