//! A cluster without kube-proxy whose agents serve Services: each function is a test, and all share the one cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod ingress;
#[path = "../cluster_kubernetes/names.rs"]
mod names;
mod outside;
mod served;
#[path = "../cluster_kubernetes/workloads.rs"]
mod workloads;

use std::process::ExitCode;

use cluster::tally::{self, Test};

/// In order: what a later one needs, an earlier one has made.
const TESTS: &[Test] = cluster::in_order![
    served::nodes_become_ready_without_kube_proxy,
    workloads::deployments_run_on_both_nodes_and_their_pods_reach_each_other,
    workloads::names_lead_to_services_and_pods,
    workloads::services_are_reached_by_cluster_ip_and_node_port,
    served::pods_reach_the_api_server_by_its_service,
    served::a_rollout_refuses_nobody,
    ingress::sites_are_reached_from_outside_by_name_over_https,
    ingress::an_ingress_fails_no_request_while_all_behind_it_changes,
    ingress::the_ingress_is_updated_and_fails_no_request,
    names::pods_find_services_and_each_other_by_name,
    names::names_are_answered_while_the_dns_is_updated,
    served::agents_killed_under_traffic_to_services_lose_nothing,
    served::names_are_answered_while_agents_are_updated,
];

fn main() -> ExitCode {
    // What the workloads' module has for others, too.
    let _ = workloads::kubectl_exec_and_logs_reach_pods_of_both_nodes;
    tally::run_with("cluster_services", TESTS, None)
}
