//! The public conformance suites of policy without a cluster: the same policies and tables, on the kernel, by real packets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::excessive_nesting,
    clippy::duplicate_mod,
    reason = "a test"
)]

mod cyclonus;
#[allow(dead_code, reason = "what the random clusters need beyond it")]
#[path = "../policy_kernel/kernel.rs"]
mod kernel;
#[allow(dead_code, reason = "what the random clusters need beyond it")]
#[path = "../policy_kernel/lab.rs"]
mod lab;
mod matrix;
mod netpol;
mod network_policy_api;
#[path = "../policy_kernel/packet.rs"]
mod packet;
#[allow(dead_code, reason = "what the random clusters need beyond it")]
#[path = "../policy_kernel/prober.rs"]
mod prober;
mod rules;
mod stage;
#[path = "../policy_kernel/wire.rs"]
mod wire;
