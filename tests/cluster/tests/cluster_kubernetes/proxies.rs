//! kube-proxy in its nftables mode beside our iptables.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::kubelet::ProxyMode;
use tests::wait::eventually;

use crate::egress;
use crate::policies;
use crate::workloads;

const PATIENCE: Duration = Duration::from_secs(60);

/// Both nodes' proxies are switched while everything runs; then what was shown with iptables is shown again.
pub(crate) fn services_and_policy_work_beside_kube_proxy_s_nftables_mode(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        cluster.start_proxy(node, ProxyMode::Nftables).unwrap();
    }
    for node in ["n1", "n2"] {
        eventually(
            PATIENCE,
            &format!("kube-proxy's tables on {node}"),
            || -> Result<()> {
                let node = cluster.node(node);
                node.check_running("kube-proxy")?;
                for family in ["ip", "ip6"] {
                    let chains = node.run("nft", &["list", "chains", family])?;
                    ensure!(chains.contains("table ip"), "{chains}");
                    ensure!(chains.contains("kube-proxy"), "{chains}");
                }
                // Nothing of the other mode answers in its place.
                let saved = node.run("iptables-save", &[])?;
                ensure!(!saved.contains("KUBE-SVC-"), "{saved}");
                ensure!(saved.contains("PTL-"), "{saved}");
                Ok(())
            },
        )
        .unwrap();
    }
    workloads::services_are_reached_by_cluster_ip_and_node_port(cluster);
    policies::services_by_name_are_denied_and_allowed(cluster);
    egress::outside_sees_nodes_and_endpoints_of_services_see_pods(cluster);
    cluster.tell("kube-proxy by nftables: Services answered, policy in force");
}
