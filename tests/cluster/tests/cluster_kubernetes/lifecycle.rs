//! What happens to a cluster in its life: an update of the agent, an API server that is away, a node that goes and comes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use cluster::portolan::{AGENT, NAMESPACE};
use tests::wait::{eventually, pause};

use crate::bgp::{pod_cidrs, route};
use crate::names::{Resolvers, assert_all_answered};
use crate::policies;
use crate::traffic::Traffic;
use crate::workloads::{PROBES, SHOP, client_on, curl};

const DRAIN: [&str; 5] = [
    "drain",
    "n2",
    "--ignore-daemonsets",
    "--delete-emptydir-data",
    "--timeout=60s",
];
/// How long a scheduler on a busy machine may take to hear of a node that is cordoned.
const CORDON_HEARD: Duration = Duration::from_secs(3);

/// How long a whole update is measured.
const UPDATE: Duration = Duration::from_secs(60);

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

/// The hold time, the time that a ToR keeps the routes of who may come back, and as much again.
const ROUTES_GO: Duration = Duration::from_secs(90);

pub(crate) fn a_rolling_update_of_the_agent_loses_nothing(cluster: &mut Cluster) {
    let traffic = Traffic::of_both(cluster);
    traffic.prove(cluster);
    let resolvers = Resolvers::of_both(cluster);
    let update = || {
        let start = Instant::now();
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", AGENT]);
        cluster.wait_rollout(NAMESPACE, AGENT);
        let took = start.elapsed();
        cluster.tell(&format!("rolled out in {took:?}"));
        ensure!(
            took < UPDATE,
            "the update took {took:?}, longer than it was measured"
        );
        Ok(())
    };
    let during = || Ok(traffic.send(cluster, "rolling update", UPDATE, update));
    let (names, (sent, lost)) = resolvers.ask_while("agents are updated", during).unwrap();
    assert_eq!(lost, 0, "of {sent}");
    assert_all_answered(&names);
}

pub(crate) fn an_api_server_that_is_away_for_a_minute_breaks_nothing(cluster: &mut Cluster) {
    let traffic = Traffic::of_both(cluster);
    let (sent, lost) = traffic.send(
        cluster,
        "API server away",
        AWAY + Duration::from_secs(5),
        || {
            cluster.plane().stop_api_server();
            pause(AWAY)?;
            // Neither liveness nor readiness hangs on it.
            for link in [Link(1), Link(2)] {
                for path in ["livez", "readyz"] {
                    let url = format!("http://{}:9179/{path}", link.v4());
                    cluster
                        .fabric()
                        .outside()
                        .run("curl", &["-s", "-f", "-m", "5", &url])?;
                }
            }
            cluster.plane().start_api_server();
            Ok(())
        },
    );
    assert_eq!(lost, 0, "of {sent}");
    cluster.tell("the API server is back");
    // It catches up: with policies, and with pods.
    policies::policies_by_kubectl_deny_and_allow(cluster);
    cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/web"]);
    cluster.wait_rollout(SHOP, "deployment/web");
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap();
    }
}

fn service_answers(cluster: &Cluster, from: &str) {
    let client = client_on(cluster, from);
    eventually(
        Duration::from_secs(30),
        "the Service web",
        || -> Result<()> {
            let answered = cluster.count(&client, &curl("http://web/hostname"), PROBES)?;
            ensure!(answered == PROBES, "{answered} of {PROBES}");
            Ok(())
        },
    )
    .unwrap();
}

pub(crate) fn a_node_is_drained_and_deleted_and_comes_back(cluster: &mut Cluster) {
    let gone = pod_cidrs(cluster, "n2");
    let traffic = Traffic::of_n1(cluster);
    let (sent, lost) = traffic.send(cluster, "drain of n2", Duration::from_secs(30), || {
        // A scheduler that has not heard of it yet would put an evicted pod there again.
        cluster.plane().try_kubectl(&["cordon", "n2"])?;
        pause(CORDON_HEARD)?;
        cluster.plane().try_kubectl(&DRAIN)?;
        cluster.wait_rollout(SHOP, "deployment/web");
        Ok(())
    });
    assert_eq!(lost, 0, "of {sent}");
    // The status that a rollout is waited for by may be older than the drain; and who finds a pod there still drains
    // once more.
    eventually(Duration::from_secs(120), "both pods on n1", || {
        let pods = cluster.pods(SHOP, "app=web")?;
        let here = pods.iter().filter(|pod| pod.node == "n1").count();
        if here != 2 {
            cluster.plane().try_kubectl(&DRAIN)?;
        }
        ensure!(here == 2, "{here} of {pods:?}");
        Ok(())
    })
    .unwrap();
    service_answers(cluster, "n1");
    cluster.tell("n2 is drained");

    cluster.power_off("n2").unwrap();
    cluster.kubectl(&["delete", "node", "n2"]);
    for cidr in &gone {
        eventually(
            ROUTES_GO,
            &format!("the ToR to forget {cidr}"),
            || -> Result<()> {
                let routes = route(cluster, cidr)?;
                ensure!(routes.trim().is_empty(), "{routes}");
                Ok(())
            },
        )
        .unwrap();
    }
    service_answers(cluster, "n1");
    cluster.tell("n2 is deleted and forgotten");

    cluster.boot("n2").unwrap();
    cluster.wait_ready("n2").unwrap();
    cluster.wait_rollout(SHOP, "daemonset/client");
    service_answers(cluster, "n2");
    for cidr in pod_cidrs(cluster, "n2") {
        eventually(
            ROUTES_GO,
            &format!("{cidr} on the ToR"),
            || -> Result<()> {
                ensure!(route(cluster, &cidr)?.contains("proto bgp"));
                Ok(())
            },
        )
        .unwrap();
    }
    cluster.tell("n2 is back");
}
