//! See `src/import_body.rs`.
#![no_main]

#[path = "../src/import_body.rs"]
mod import_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| import_body::run(data));
