//! Feeds the selector parser whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/selector.rs"]
mod selector;

libfuzzer_sys::fuzz_target!(|data: &[u8]| selector::check(data));
