//! Feeds the reader of CNI results whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/cni_result.rs"]
mod cni_result;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cni_result::check(data));
