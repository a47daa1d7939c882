//! Feeds the reader of iptables-save whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/iptables_save.rs"]
mod iptables_save;

libfuzzer_sys::fuzz_target!(|data: &[u8]| iptables_save::check(data));
