//! See `src/reply_body.rs`.
#![no_main]

#[path = "../src/reply_body.rs"]
mod reply_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reply_body::run(data));
