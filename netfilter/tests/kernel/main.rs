//! Plans carried out by the real iptables (both back ends, both families) and ipset, each in a network namespace.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test, which starts the real programs"
)]
mod additive;
mod examples;
mod failures;
mod hooks;
mod nat;
mod programs;
mod rules;
mod sets;
