//! A running cluster, shown in order: each function is a test, and all share the one cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod bgp;
mod components;
mod egress;
mod installs;
mod lifecycle;
mod names;
mod overlays;
mod policies;
mod proxies;
mod readiness;
mod rights;
mod traffic;
mod workloads;

use std::process::ExitCode;

use cluster::tally::{self, Test};

/// In order: what a later one needs, an earlier one has made.
const TESTS: &[Test] = cluster::in_order![
    readiness::nodes_without_a_cni_configuration_are_not_ready,
    readiness::nodes_become_ready_by_our_configuration,
    rights::containers_have_the_capabilities_and_the_folders_that_they_are_given_and_no_others,
    workloads::deployments_run_on_both_nodes_and_their_pods_reach_each_other,
    workloads::kubectl_exec_and_logs_reach_pods_of_both_nodes,
    workloads::names_lead_to_services_and_pods,
    workloads::services_are_reached_by_cluster_ip_and_node_port,
    names::pods_find_services_and_each_other_by_name,
    names::names_are_answered_while_the_dns_is_updated,
    egress::outside_sees_nodes_and_endpoints_of_services_see_pods,
    policies::probes_of_the_kubelet_pass_under_deny_all,
    policies::policies_by_kubectl_deny_and_allow,
    bgp::the_tor_learns_the_pod_cidrs_of_both_families,
    bgp::a_password_from_a_secret_is_rotated_live,
    rights::who_has_the_token_of_an_agent_s_pod_writes_of_that_node_only,
    lifecycle::a_rolling_update_of_the_agent_loses_nothing,
    lifecycle::an_api_server_that_is_away_for_a_minute_breaks_nothing,
    lifecycle::a_node_is_drained_and_deleted_and_comes_back,
    overlays::overlays_change_live_and_lose_nothing,
    components::bfd_of_its_own_outlives_the_agent,
    overlays::a_reflector_passes_on_what_its_clients_tell,
    // The next one takes a right away.
    rights::no_agent_was_ever_refused_anything,
    components::a_new_node_gets_pods_when_its_network_is_up,
    proxies::services_and_policy_work_beside_kube_proxy_s_nftables_mode,
    installs::the_uninstall_leaves_nothing_of_ours_and_all_of_others,
    installs::helm_installs_upgrades_and_uninstalls,
];

fn main() -> ExitCode {
    tally::run("cluster_kubernetes", TESTS)
}
