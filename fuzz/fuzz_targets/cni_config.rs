//! Feeds the reader of CNI configurations whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/cni_config.rs"]
mod cni_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cni_config::check(data));
