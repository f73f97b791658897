//! The scripts of `netns/` as a reader runs them. They need root, `iproute2` and `python3`; in CI
//! (`CI=true`) they must run as root, elsewhere the test skips without them.
#![cfg(feature = "daemon")]

use std::path::Path;
use std::process::Command;

fn may_run() -> bool {
    let tools = ["ip", "python3", "bash"].iter().all(|t| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|d| d.join(t).exists())
    });
    let ok = nix::unistd::geteuid().is_root() && tools;
    if !ok {
        assert!(
            std::env::var_os("CI").is_none() || !nix::unistd::geteuid().is_root(),
            "CI has no iproute2, python3 or bash"
        );
        eprintln!("skipped: needs root, iproute2, python3 and bash");
    }
    ok
}

fn script(name: &str) {
    if !may_run() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns");
    let out = Command::new("bash")
        .arg(folder.join(name))
        .env("SOFTLVS", env!("CARGO_BIN_EXE_softlvs"))
        // Names of namespaces are the machine's: other runs must not meet this one.
        .env("LVS_PREFIX", format!("lvs{}{}", std::process::id(), &name[..1]))
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name}:\n{said}\n{complained}");
    for rs in ["rs1", "rs2"] {
        assert!(said.contains(rs), "{rs} got no request:\n{said}\n{complained}");
    }
}

#[test]
fn nat_as_in_the_picture() {
    script("nat.sh");
}

#[test]
fn dr_as_in_the_picture() {
    script("dr.sh");
}

#[test]
fn tun_as_in_the_picture() {
    script("tun.sh");
}
