//! A node is Ready when Portolan has put its CNI configuration there, and not before.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn nodes_without_a_cni_configuration_are_not_ready(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        let what = format!("a kubelet that says why {node} is not ready");
        eventually(PATIENCE, &what, || -> Result<()> {
            ensure!(cluster.readiness(node)? == "False");
            let node = cluster.get(&["node", node])?;
            ensure!(
                node.to_string().contains("cni plugin not initialized"),
                "{node}"
            );
            Ok(())
        })
        .unwrap();
    }
    cluster.tell("both nodes NotReady for want of a CNI configuration");
}

pub(crate) fn nodes_become_ready_by_our_configuration(cluster: &mut Cluster) {
    cluster.deploy_portolan().unwrap();
    cluster.tell("both nodes Ready");
    for node in ["n1", "n2"] {
        let what = format!("NetworkUnavailable of {node}");
        eventually(PATIENCE, &what, || -> Result<()> {
            let said = cluster.node_condition(node, "NetworkUnavailable")?;
            ensure!(
                said == ("False".to_owned(), "PortolanIsUp".to_owned()),
                "{said:?}"
            );
            Ok(())
        })
        .unwrap();
        let configs = cluster.node(node).run("ls", &["/etc/cni/net.d"]).unwrap();
        assert_eq!(configs.trim(), "10-portolan.conflist");
    }
}
