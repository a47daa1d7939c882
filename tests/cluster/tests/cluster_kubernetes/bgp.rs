//! BGP to the ToR: it learns the Pod CIDRs, and a session's password is rotated while it runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::{Link, TOR_AS};
use cluster::portolan::NAMESPACE;
use tests::wait::{eventually, pause};

/// How long sessions may take: FRR tries again every two seconds, the agent after a while that grows.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than both sides take to try again.
const REFUSED: Duration = Duration::from_secs(5);

/// The Pod CIDRs of a node.
pub(crate) fn pod_cidrs(cluster: &Cluster, node: &str) -> Vec<String> {
    let found = cluster.get(&["node", node]).unwrap();
    let cidrs = found["spec"]["podCIDRs"].as_array().unwrap();
    cidrs
        .iter()
        .map(|cidr| cidr.as_str().unwrap().to_owned())
        .collect()
}

fn session(cluster: &Cluster, link: Link) -> String {
    let frr = cluster.fabric().frr();
    frr.session_state(&link.v4().to_string()).unwrap()
}

pub(crate) fn wait_established(cluster: &Cluster, link: Link) {
    eventually(
        PATIENCE,
        &format!("the session with {}", link.v4()),
        || -> Result<()> {
            let state = session(cluster, link);
            ensure!(state == "Established", "{state}");
            Ok(())
        },
    )
    .unwrap();
}

/// The next hops that the ToR's kernel has for a prefix.
pub(crate) fn route(cluster: &Cluster, prefix: &str) -> Result<String> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    cluster
        .fabric()
        .tor()
        .ip(&format!("{family} route show {prefix}"))
}

pub(crate) fn the_tor_learns_the_pod_cidrs_of_both_families(cluster: &mut Cluster) {
    for link in [Link(1), Link(2)] {
        wait_established(cluster, link);
        let cidrs = pod_cidrs(cluster, &format!("n{}", link.0));
        assert_eq!(cidrs.len(), 2, "{cidrs:?}");
        let hops = [link.v4().to_string(), link.v6().to_string()];
        for (cidr, hop) in cidrs.iter().zip(hops) {
            eventually(PATIENCE, &format!("{cidr} on the ToR"), || -> Result<()> {
                let routes = route(cluster, cidr)?;
                ensure!(routes.contains("proto bgp"), "{routes}");
                // Of IPv6 a next hop may be the link's own address.
                let link_local = cidr.contains(':') && routes.contains("via fe80:");
                ensure!(
                    routes.contains(&format!("via {hop} ")) || link_local,
                    "{routes}"
                );
                Ok(())
            })
            .unwrap();
        }
    }
    let statuses = cluster.kubectl(&["get", "bgpnodestatus", "-o", "json"]);
    assert_eq!(
        statuses.matches("\"state\": \"Established\"").count(),
        2,
        "{statuses}"
    );
}

fn set_secret(cluster: &Cluster, password: &str) {
    cluster.plane().apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: tor, namespace: {NAMESPACE}}}\nstringData: {{password: {password}}}\n"
    ));
}

pub(crate) fn set_tor(cluster: &Cluster, words: &str) {
    let router = format!("router bgp {TOR_AS}");
    cluster
        .fabric()
        .frr()
        .vtysh(&["configure terminal", &router, words])
        .unwrap();
}

/// The uids and restarts of the agents' containers.
fn agents(cluster: &Cluster) -> Vec<String> {
    let list = cluster
        .get(&[
            "-n",
            NAMESPACE,
            "pods",
            "-l",
            "app.kubernetes.io/component=agent",
        ])
        .unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    let mut told: Vec<String> = pods
        .map(|pod| {
            let containers = pod["status"]["containerStatuses"]
                .as_array()
                .unwrap()
                .iter();
            let restarts: Vec<String> = containers
                .map(|one| one["restartCount"].to_string())
                .collect();
            format!("{} {}", pod["metadata"]["uid"], restarts.join(" "))
        })
        .collect();
    told.sort();
    told
}

pub(crate) fn a_password_from_a_secret_is_rotated_live(cluster: &mut Cluster) {
    let (one, other) = (Link(1), Link(2));
    let before = agents(cluster);
    let neighbor = format!("neighbor {} password", one.v4());
    let is_down = |cluster: &Cluster| {
        eventually(PATIENCE, "the end of the session", || -> Result<()> {
            let state = session(cluster, one);
            ensure!(state != "Established", "{state}");
            Ok(())
        })
        .unwrap();
    };
    // A password that the agent doesn't know yet.
    set_tor(cluster, &format!("{neighbor} sesame"));
    is_down(cluster);
    set_secret(cluster, "sesame");
    let reference = r#"{"spec":{"password":{"secretKeyRef":{"name":"tor","key":"password"}}}}"#;
    cluster.kubectl(&[
        "patch",
        "bgppeer",
        "rack-r1",
        "--type=merge",
        "-p",
        reference,
    ]);
    wait_established(cluster, one);
    // Rotated on the ToR alone, the session can't come back; with the Secret it does.
    set_tor(cluster, &format!("{neighbor} mustard"));
    is_down(cluster);
    pause(REFUSED).unwrap();
    assert_ne!(session(cluster, one), "Established");
    set_secret(cluster, "mustard");
    wait_established(cluster, one);
    // The other one has nothing to do with it, and no agent was started anew.
    assert_eq!(session(cluster, other), "Established");
    assert_eq!(agents(cluster), before);
    let told = cluster.kubectl(&["get", "bgpnodestatus,bgppeer", "-o", "yaml"]);
    assert!(
        !told.contains("sesame") && !told.contains("mustard"),
        "{told}"
    );
    cluster.tell("password set, rotated, sessions Established");
}
