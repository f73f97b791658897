//! Replays the committed fuzz corpora through the fuzz bodies: every finding that was ever committed stays
//! found out, with an ordinary toolchain.

#[cfg(feature = "daemon")]
#[path = "../fuzz/src/control_body.rs"]
mod control_body;
#[path = "../fuzz/src/frame_body.rs"]
mod frame_body;
#[cfg(feature = "daemon")]
#[path = "../fuzz/src/import_body.rs"]
mod import_body;
#[path = "../fuzz/src/ipvsadm_args_body.rs"]
mod ipvsadm_args_body;
#[cfg(feature = "daemon")]
#[path = "../fuzz/src/reply_body.rs"]
mod reply_body;

use std::fs;

fn replay(target: &str, least: usize, run: fn(&[u8])) {
    let dir = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        let ended = std::panic::catch_unwind(|| run(&data));
        assert!(ended.is_ok(), "{} breaks an invariant", path.display());
        count += 1;
    }
    assert!(count >= least, "{count} inputs only");
}

#[test]
fn the_frame_corpus_breaks_no_invariant() {
    replay("frame", 50, frame_body::run);
}

#[cfg(feature = "daemon")]
#[test]
fn the_import_corpus_comes_out_as_toml() {
    replay("import", 12, import_body::run);
}

#[cfg(feature = "daemon")]
#[test]
fn the_replies_of_servers_are_judged() {
    replay("reply", 20, reply_body::run);
}

#[test]
fn the_corpus_of_ipvsadm_lines_breaks_no_invariant() {
    replay("ipvsadm_args", 15, ipvsadm_args_body::run);
}

#[cfg(feature = "daemon")]
#[test]
fn the_corpus_of_control_requests_breaks_no_invariant() {
    replay("control", 20, control_body::run);
}
