//! NetworkPolicy by kubectl: what it denies is denied, what it allows is not, and the kubelet's probes pass.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use tests::wait::{eventually, pause};

use crate::workloads::{PROBES, SHOP, client_on, curl, url_of};

/// How long a policy may take from kubectl to the kernel of every node.
const IN_FORCE: Duration = Duration::from_secs(30);

const DENY_ALL: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

const WEB_FROM_FRIENDS: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-from-friends, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: http}]
";

/// Policy holds for a Service's address, too: it judges the pod that answers, not the address that was asked.
pub(crate) fn services_by_name_are_denied_and_allowed(cluster: &mut Cluster) {
    let client = client_on(cluster, "n2");
    let url = curl("http://web/hostname");
    let wait = |cluster: &Cluster, expected: usize| {
        eventually(
            IN_FORCE,
            &format!("{expected} answers"),
            || -> Result<()> {
                let count = cluster.count(&client, &url, PROBES)?;
                ensure!(count == expected, "{count}");
                Ok(())
            },
        )
        .unwrap();
    };
    cluster.plane().apply(WEB_FROM_FRIENDS);
    wait(cluster, 0);
    cluster.kubectl(&["-n", SHOP, "delete", "networkpolicy", "web-from-friends"]);
    wait(cluster, PROBES);
}

/// How many probes of each of the four ways, in both families, were answered.
fn answered(cluster: &Cluster, from: &str) -> Vec<usize> {
    let client = client_on(cluster, from);
    let mut commands = Vec::new();
    for to in ["n1", "n2"] {
        let web = cluster.pod_on(to, SHOP, "app=web").unwrap();
        commands.extend([false, true].map(|is_v6| curl(&url_of(&web, is_v6))));
    }
    cluster.count_each(&client, &commands, PROBES).unwrap()
}

fn wait_answered(cluster: &Cluster, from: &str, expected: usize) {
    eventually(
        IN_FORCE,
        &format!("{expected} of {PROBES} answered from {from}"),
        || -> Result<()> {
            let counts = answered(cluster, from);
            ensure!(counts.iter().all(|&count| count == expected), "{counts:?}");
            Ok(())
        },
    )
    .unwrap();
    // And it stays so: once more, all counted.
    assert_eq!(answered(cluster, from), [expected; 4], "from {from}");
}

pub(crate) fn probes_of_the_kubelet_pass_under_deny_all(cluster: &mut Cluster) {
    cluster.plane().apply(DENY_ALL);
    for node in ["n1", "n2"] {
        wait_answered(cluster, node, 0);
    }
    cluster.tell("deny-all in force on both nodes: 0 answered");
    cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/web"]);
    cluster.wait_rollout(SHOP, "deployment/web");
    // Three periods of the liveness probe and more.
    pause(Duration::from_secs(10)).unwrap();
    let list = cluster.get(&["-n", SHOP, "pods", "-l", "app=web"]).unwrap();
    let mut seen = 0;
    for pod in list["items"].as_array().unwrap() {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            let status = &pod["status"]["containerStatuses"][0];
            assert_eq!(status["ready"], true, "{status}");
            assert_eq!(status["restartCount"], 0, "{status}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    for node in ["n1", "n2"] {
        assert_eq!(answered(cluster, node), [0; 4]);
    }
    cluster.kubectl(&["-n", SHOP, "delete", "networkpolicy", "deny-all"]);
    for node in ["n1", "n2"] {
        wait_answered(cluster, node, PROBES);
    }
}

pub(crate) fn policies_by_kubectl_deny_and_allow(cluster: &mut Cluster) {
    cluster.plane().apply(WEB_FROM_FRIENDS);
    for node in ["n1", "n2"] {
        wait_answered(cluster, node, 0);
    }
    let friend = client_on(cluster, "n1");
    cluster.kubectl(&["-n", SHOP, "label", "pod", &friend.name, "role=friend"]);
    wait_answered(cluster, "n1", PROBES);
    assert_eq!(answered(cluster, "n2"), [0; 4]);
    cluster.kubectl(&["-n", SHOP, "label", "pod", &friend.name, "role-"]);
    wait_answered(cluster, "n1", 0);
    cluster.kubectl(&["-n", SHOP, "delete", "networkpolicy", "web-from-friends"]);
    for node in ["n1", "n2"] {
        wait_answered(cluster, node, PROBES);
    }
    cluster.tell("NetworkPolicy: denied, allowed to one, denied again, lifted");
}
