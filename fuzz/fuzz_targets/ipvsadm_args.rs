//! See `src/ipvsadm_args_body.rs`.
#![no_main]

#[path = "../src/ipvsadm_args_body.rs"]
mod ipvsadm_args_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvsadm_args_body::run(data));
