//! Feeds the reader of CNI requests whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/cni_request.rs"]
mod cni_request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cni_request::check(data));
