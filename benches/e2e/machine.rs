//! What machine this is and what is installed on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::exec;
use crate::results::Machine;

/// Programs with their Debian packages and the option that makes them say their version.
const TOOLS: [(&str, &str, &str); 6] = [
    ("iperf3", "iperf3", "-v"),
    ("wrk", "wrk", "-v"),
    ("nginx", "nginx-light", "-v"),
    ("haproxy", "haproxy", "-v"),
    ("nft", "nftables", "-v"),
    ("ethtool", "ethtool", "--version"),
];
/// nginx' stream module is a package of its own.
const MORE: [&str; 1] = ["libnginx-mod-stream"];

/// Describes the machine.
pub fn describe() -> Machine {
    let read = |p: &str| fs::read_to_string(p).unwrap_or_default();
    let field = |text: &str, key: &str, split: char| {
        let line = text.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(split)?.1.trim().trim_matches('"').to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal", ':').unwrap_or_default();
    let kib: f64 = memory.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0.0);
    let tools: BTreeMap<String, String> = TOOLS
        .iter()
        .filter_map(|(name, _, flag)| Some(((*name).to_owned(), exec::version(&exec::find(name)?, flag)?)))
        .collect();
    Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name", ':')
            .unwrap_or_else(|| std::env::consts::ARCH.into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: (kib / 1024.0 / 1024.0).round(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        system: field(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_default(),
        tools,
    }
}

/// Packages of the programs that are missing.
pub fn missing() -> Vec<&'static str> {
    TOOLS.iter().filter(|(name, ..)| exec::find(name).is_none()).map(|(_, package, _)| *package).collect()
}

/// Installs what is missing with apt-get.
pub fn install() -> std::io::Result<()> {
    let mut packages = missing();
    packages.extend(MORE);
    let apt =
        |args: &[&str]| Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
    let install: Vec<&str> =
        ["install", "-y", "--no-install-recommends"].into_iter().chain(packages.iter().copied()).collect();
    if !apt(&install)?.success() {
        apt(&["update"])?;
        if !apt(&install)?.success() {
            return Err(std::io::Error::other("apt-get install failed"));
        }
    }
    Ok(())
}

/// The version of the source tree: `git describe`, with a mark when it was changed.
pub fn source() -> String {
    let git = |args: &[&str]| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = Command::new("git").arg("-C").arg(dir).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let version = env!("CARGO_PKG_VERSION");
    match git(&["describe", "--always", "--dirty=, changed", "--exclude=*"]) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

/// Today, UTC.
pub fn date() -> String {
    let out = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    out.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
