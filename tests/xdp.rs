//! XDP ports against the real kernel: the program against its rule in Rust, ports on wires, frames counted.
//!
//! Needs root in the initial user namespace (loading a program); without it tests print `skipped: why`, with
//! `CI=true` they fail.
#![cfg(feature = "daemon")]
// Tests measure with the clock of the machine; it is no part of the director.
#![allow(clippy::disallowed_methods)]

#[path = "xdp/port.rs"]
mod port;
#[path = "xdp/program.rs"]
mod program;

/// Runs `f` unless the machine does not let this process load programs.
fn with_bpf(f: impl FnOnce()) {
    use softlvs::io::sys::bpf::{Map, MapKind};
    match Map::create(MapKind::Xsk, 4, 4, 1, "softlvs_may_i") {
        Ok(_) => f(),
        Err(e) => {
            assert!(
                std::env::var_os("CI").is_none_or(|v| v != "true"),
                "with CI=true nothing is skipped: {e}"
            );
            println!("skipped: no BPF here: {e}");
        }
    }
}
