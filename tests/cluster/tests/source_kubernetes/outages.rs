//! The server goes, comes, forgets and learns; what is in force stays what it is.

use std::time::Duration;

use api::{Key, NamespacedName, Resource};

use crate::heard::Heard;
use crate::watched::{Watched, plane, requests};

const NAMES: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: portolan}}\n---\n";

fn policy(name: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {label}}}}}}}\n---\n"
    )
}

fn peer(name: &str, secret: &str) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
         spec: {{peerAddress: 10.0.0.1, asNumber: 65000, password: {{secretKeyRef: {{name: {secret}, key: p}}}}}}\n---\n"
    )
}

fn secret(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: portolan}}\nstringData: {{p: {value}}}\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_read_by_streamed_lists_alone_and_definitions_that_come_later_are_picked_up() {
    let plane = plane("", &[]);
    plane.apply(&format!("{NAMES}{}", policy("p", "web")));
    let mut watched = Watched::start(&plane).await;
    watched.until_in_sync().await;
    assert_eq!(watched.keys("NetworkPolicy"), ["default/p"]);
    assert_eq!(watched.connections(), 1, "of all kinds together");
    assert_eq!(watched.keys("Namespace").len(), 5, "{:?}", watched.told);
    let problems = watched.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("the cluster does not know BGPConfiguration, "),
        "{problems:?}"
    );
    for kind in ["pods", "nodes", "namespaces", "networkpolicies"] {
        let asked = requests(&plane, kind);
        let ours: Vec<_> = asked
            .iter()
            .filter(|(_, uri)| uri.contains("allowWatchBookmarks"))
            .collect();
        assert_eq!(ours.len(), 1, "{kind}: {asked:?}");
        assert!(
            ours[0].0 == "watch" && ours[0].1.contains("sendInitialEvents=true"),
            "{asked:?}"
        );
    }
    assert!(
        requests(&plane, "secrets").is_empty(),
        "no BGPPeer means any"
    );

    plane.install_crds();
    plane.install_cluster_network_policy();
    plane.apply(&(secret("tor", "hush") + &secret("other", "hush") + &peer("tor", "tor")));
    plane.apply("{apiVersion: portolan.io/v1alpha1, kind: IPPool, metadata: {name: pods}, spec: {cidr: 10.48.0.0/16}}");
    watched.refresh().await;
    assert_eq!(watched.keys("BGPPeer"), ["tor"]);
    assert_eq!(watched.keys("IPPool"), ["pods"]);
    let named = |watched: &Heard| watched.keys("Secret") == ["portolan/tor"];
    watched.until("the Secret that is meant", named).await;
    assert_eq!(watched.problems(), [""; 0]);

    // Rotated live.
    let key = Key::Secret(NamespacedName::new("portolan", "tor"));
    plane.apply(&secret("tor", "changed"));
    let is_new = |watched: &Heard| match watched.state.get(&key) {
        Some(Resource::Secret(secret)) => secret.get("p").is_some_and(|p| p.expose() == b"changed"),
        _ => false,
    };
    watched.until("the new password", is_new).await;
    plane.kubectl(&["delete", "bgppeer", "tor"]);
    watched
        .until("no Secret", |watched| watched.keys("Secret").is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_and_started_changes_nothing_and_then_what_has_changed() {
    let plane = plane("", &[]);
    plane.install_crds();
    plane.install_cluster_network_policy();
    plane.apply(&(policy("a", "web") + &policy("b", "web")));
    let mut watched = Watched::start(&plane).await;
    watched.until_in_sync().await;
    let (before, state) = (watched.told.len(), watched.state.clone());
    plane.stop_api_server();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(watched.source.events.try_recv().is_err(), "nothing is told");
    let problems = watched.problems();
    assert!(
        problems
            .iter()
            .any(|line| line.starts_with("cannot read ") && line.contains("the last state stays")),
        "{problems:?}"
    );
    plane.start_api_server();
    plane.apply(&policy("b", "db"));
    plane.kubectl(&["delete", "networkpolicy", "a"]);
    let done = |watched: &Heard| watched.keys("NetworkPolicy") == ["default/b"];
    watched.until("the deletion", done).await;
    watched.refresh().await;
    let told: Vec<&String> = watched.told[before..]
        .iter()
        .filter(|word| !word.contains("kube-system") && !word.contains("Namespace"))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_ne!(watched.state, state);
    assert_eq!(watched.problems(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_line_was_cut_and_was_compacted_is_told_as_differences() {
    for gates in ["", "WatchList=false"] {
        let plane = plane(gates, &[]);
        plane.install_crds();
        plane.install_cluster_network_policy();
        plane.apply(&(policy("a", "web") + &policy("b", "web") + &policy("c", "web")));
        let mut watched = Watched::start(&plane).await;
        watched.until_in_sync().await;
        let before = watched.told.len();
        watched.cut();
        plane.kubectl(&["delete", "networkpolicy", "a"]);
        plane.apply(&(policy("b", "db") + &policy("d", "web")));
        plane.compact();
        // It remembers itself what etcd has forgotten, until it is another.
        plane.stop_api_server();
        plane.start_api_server();
        watched.mend();
        let names = ["default/b", "default/c", "default/d"];
        let done = |watched: &Heard| watched.keys("NetworkPolicy") == names;
        watched.until("the differences", done).await;
        watched.refresh().await;
        let mut told: Vec<&str> = watched.told[before..].iter().map(String::as_str).collect();
        told.retain(|word| word.contains("NetworkPolicy"));
        told.sort_unstable();
        assert_eq!(
            told,
            [
                "+NetworkPolicy default/b",
                "+NetworkPolicy default/d",
                "-NetworkPolicy default/a"
            ],
            "{gates}"
        );
        let asked = requests(&plane, "networkpolicies");
        let asked: Vec<&str> = asked.iter().map(|(_, uri)| uri.as_str()).collect();
        let resumes = |uri: &&str| uri.contains("watch=1") && uri.contains("&resourceVersion=");
        let resumed = asked.iter().position(resumes);
        let list = match gates {
            "" => "sendInitialEvents",
            _ => "limit=500",
        };
        let lists = asked.iter().skip(resumed.unwrap());
        let lists = lists.filter(|uri| uri.contains(list)).count();
        // One because of the 410, and one for the refresh.
        assert_eq!(lists, 2, "{gates}: {asked:?}");
    }
}
