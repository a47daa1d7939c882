//! Drives a whole BGP speaker by whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/bgp_input.rs"]
mod bgp_input;
#[path = "../bodies/bgp_messages.rs"]
mod bgp_messages;
#[path = "../bodies/bgp_speaker.rs"]
mod bgp_speaker;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgp_speaker::check(data));
