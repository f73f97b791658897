//! See `src/control_body.rs`.
#![no_main]

#[path = "../src/control_body.rs"]
mod control_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| control_body::run(data));
