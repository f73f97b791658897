//! Whole frames and time steps through the engine; see `src/frame_body.rs`.
#![no_main]

#[path = "../src/frame_body.rs"]
mod frame_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| frame_body::run(data));
