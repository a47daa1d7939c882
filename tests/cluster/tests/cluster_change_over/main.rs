//! The change-over from kube-router as docs/from-kube-router.md says it, its very commands, on two nodes with pods and traffic: each node
//! in turn, and one back again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod change;
mod old;
mod page;
mod shop;
mod traffic;

use std::process::ExitCode;

use cluster::tally::{self, Test};

/// In order: what a later one needs, an earlier one has made.
const TESTS: &[Test] = cluster::in_order![
    old::both_nodes_are_kube_router_s,
    change::what_is_converted_is_taken_and_nothing_changes_yet,
    change::a_node_changes_over,
    change::the_last_node_changes_over,
    change::a_node_goes_back,
];

fn main() -> ExitCode {
    tally::run("cluster_change_over", TESTS)
}
