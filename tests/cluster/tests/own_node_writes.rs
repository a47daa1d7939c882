//! deploy/components/own-node-writes on the real API server: an agent writes what is of its own node, and of no other.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use api::crd::BgpNodeStatusStatus;
use cluster::ControlPlane;
use datastore::{Claim, ClusterSettings, NodeHealth, NodeWrites, StatusWriter, watch_kubernetes};
use serde_json::json;
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-n1, namespace: portolan}
spec: {nodeName: n1, serviceAccountName: portolan-agent, containers: [{name: agent, image: none}]}
";

fn plane() -> ControlPlane {
    let plane = ControlPlane::start(cluster::Options::default());
    plane.install_crds();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for file in [
        "kubernetes/namespace.yaml",
        "kubernetes/rbac.yaml",
        "components/own-node-writes/policy.yaml",
    ] {
        plane.apply(&std::fs::read_to_string(deploy.join(file)).unwrap());
    }
    plane.apply(OBJECTS);
    plane
}

/// Writes as the agent of `node`, with the rights of this kubeconfig.
async fn writer(kubeconfig: &Path, node: &str) -> StatusWriter {
    let settings = ClusterSettings {
        kubeconfig: Some(kubeconfig.to_owned()),
        node: node.to_owned(),
        namespace: "portolan".to_owned(),
        node_writes: NodeWrites::default(),
        services: false,
    };
    let mut source = watch_kubernetes(&settings).await.unwrap();
    let in_sync = async { while source.events.recv().await != Some(api::Event::InSync) {} };
    tokio::time::timeout(SOON, in_sync).await.unwrap();
    let status = source.status.clone();
    tokio::spawn(async move { while source.events.recv().await.is_some() {} });
    status
}

fn established() -> BgpNodeStatusStatus {
    BgpNodeStatusStatus {
        established: 1,
        ..BgpNodeStatusStatus::default()
    }
}

/// A new policy is in force a moment after it was made.
fn wait_until_in_force(plane: &ControlPlane, kubeconfig: &Path) {
    let file = plane.dir().join("n2.json");
    let object = json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "BGPNodeStatus",
        "metadata": {"name": "n2"}, "spec": {"node": "n2"},
    });
    std::fs::write(&file, object.to_string()).unwrap();
    let path = "/apis/portolan.io/v1alpha1/bgpnodestatuses?dryRun=All";
    let file = file.to_string_lossy();
    let words = ["create", "--raw", path, "-f", &file];
    eventually(SOON, "the policy", || -> Result<()> {
        let refused = plane.kubectl_as(kubeconfig, &words).err();
        let said = refused.context("it is not in force")?.to_string();
        ensure!(said.contains("portolan-own-node-writes"), "{said}");
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_of_its_own_node_is_written_and_what_is_of_another_is_refused_and_says_why() {
    let plane = plane();
    let bound = plane.pod_kubeconfig("portolan", "portolan-agent", "agent-n1");
    wait_until_in_force(&plane, &bound);

    let own = writer(&bound, "n1").await;
    own.publish_node(NodeHealth::Up).await.unwrap();
    own.publish_bgp(established()).await.unwrap();
    let block = "10.48.0.0/26".parse().unwrap();
    assert_eq!(own.claim_block(block).await.unwrap(), Claim::Ours);
    own.release_block(block).await.unwrap();
    let told = || {
        plane.try_kubectl(&[
            "get",
            "bgpnodestatus",
            "n1",
            "-o",
            "jsonpath={.status.established}",
        ])
    };
    eventually(SOON, "its BGPNodeStatus", || {
        let told = told()?;
        ensure!(told == "1", "{told}");
        Ok(())
    })
    .unwrap();

    // The same token, used to pass for another's agent; and one that is bound to no pod.
    let unbound = plane.service_account_kubeconfig("portolan", "portolan-agent");
    for (kubeconfig, node, why) in [
        (
            &bound,
            "n2",
            "the agent of node n1 must not write what is of node n2",
        ),
        (&unbound, "n1", "bound to no node"),
    ] {
        let other = writer(kubeconfig, node).await;
        let down = NodeHealth::Down {
            message: "a lie".to_owned(),
        };
        let refused = other.publish_node(down).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let refused = other.claim_block(block).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        other.publish_bgp(established()).await.unwrap();
        eventually(SOON, "the refusal of a BGPNodeStatus", || {
            let requests = plane.requests();
            let refused = requests.iter().any(|one| {
                (one.resource.as_str(), one.code) == ("bgpnodestatuses", 403) && one.name == node
            });
            ensure!(refused, "none yet");
            Ok(())
        })
        .unwrap();
    }
    let left = plane.kubectl(&["get", "ipamblocks,bgpnodestatuses", "-o", "name"]);
    assert_eq!(left.trim(), "bgpnodestatus.portolan.io/n1");
    let n1 = plane.kubectl(&["get", "node", "n1", "n2", "-o", "json"]);
    assert!(n1.contains("PortolanIsUp") && !n1.contains("a lie"), "{n1}");
}
