//! Drives a BGP session by whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/bgp_input.rs"]
mod bgp_input;
#[path = "../bodies/bgp_messages.rs"]
mod bgp_messages;
#[path = "../bodies/bgp_session.rs"]
mod bgp_session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bgp_session::check(data));
