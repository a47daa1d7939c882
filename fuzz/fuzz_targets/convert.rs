//! Converts whatever libFuzzer thinks of, as objects of Calico, kube-router and MetalLB.
#![no_main]

#[path = "../bodies/convert.rs"]
mod convert;

libfuzzer_sys::fuzz_target!(|data: &[u8]| convert::check(data));
