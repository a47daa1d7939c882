//! Feeds the reader of tracked flows whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/conntrack_entry.rs"]
mod conntrack_entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| conntrack_entry::check(data));
