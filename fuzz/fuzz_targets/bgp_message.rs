//! Feeds the BGP decoder whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/bgp_message.rs"]
mod bgp_message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgp_message::check(data));
