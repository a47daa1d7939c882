//! Feeds the reader of DNS answers whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/dns_answer.rs"]
mod dns_answer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_answer::check(data));
