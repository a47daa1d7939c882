//! Drives a BFD session and its decoder by whatever libFuzzer thinks of.
#![no_main]

#[path = "../bodies/bgp_input.rs"]
mod bgp_input;
#[path = "../bodies/bfd_packet.rs"]
mod bfd_packet;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bfd_packet::check(data));
