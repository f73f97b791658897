//! Replays the committed fuzz corpora through the fuzz bodies: every finding that was ever committed stays
//! found out, with an ordinary toolchain.

#[path = "../fuzz/src/frame_body.rs"]
mod frame_body;

use std::fs;

#[test]
fn the_frame_corpus_breaks_no_invariant() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frame");
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        let ended = std::panic::catch_unwind(|| frame_body::run(&data));
        assert!(ended.is_ok(), "{} breaks an invariant", path.display());
        count += 1;
    }
    assert!(count >= 50, "{count} inputs only");
}
