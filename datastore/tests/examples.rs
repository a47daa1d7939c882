//! The examples load without a problem, and hold what the demo counts on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::resources::{Peer, PeerAs, PeerTarget};
use api::{Event, Key, NamespacedName, Resource};
use datastore::watch_manifests;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

async fn load(folder: &str) -> BTreeMap<Key, Resource> {
    let mut source = watch_manifests(&examples().join(folder), "node1").unwrap();
    let mut state = BTreeMap::new();
    while let Some(Event::Change(change)) = source.events.recv().await {
        state.insert(change.key, change.value.unwrap());
    }
    assert_eq!(*source.problems.borrow(), []);
    state
}

#[tokio::test]
async fn the_demo_loads_whole() {
    let state = load("demo").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "BGPConfiguration default",
        "BGPPeer tor-node1",
        "BGPPeer tor-node2",
        "Namespace shop",
        "Namespace team",
        "Node node1",
        "Node node2",
        "Pod shop/cache",
        "Pod shop/db",
        "Pod shop/web",
        "Pod team/client",
        "Pod team/tester",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn each_node_of_the_demo_peers_with_the_tor_on_its_own_link() {
    let state = load("demo").await;
    for (number, asn) in [(1, 64513), (2, 64514)] {
        let Resource::Node(node) = &state[&Key::Node(format!("node{number}"))] else {
            panic!()
        };
        assert_eq!(node.as_number, Some(asn));
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(
            node.internal_ips[0].to_string(),
            format!("10.10.{number}.2")
        );
        let peers = state.values().filter_map(|resource| match resource {
            Resource::BgpPeer(peer) if peer.node_selector.matches(&node.labels) => Some(peer),
            _ => None,
        });
        let peers: Vec<_> = peers.collect();
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].as_number, PeerAs::Number(65_000));
        let address = format!("10.10.{number}.1:179").parse().unwrap();
        assert_eq!(peers[0].target, PeerTarget::Address(address));
    }
}

#[tokio::test]
async fn the_demo_policy_loads_whole_and_every_part_of_it_can_be_compiled() {
    let state = load("demo-policy").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "NetworkPolicy shop/db-only-from-web",
        "NetworkPolicy shop/default-deny",
        "NetworkPolicy shop/web-from-client-and-outside",
    ];
    assert_eq!(names, expected);
    for policy in state.values() {
        let Resource::NetworkPolicy(policy) = policy else {
            panic!()
        };
        assert_eq!(policy.egress, None);
        let peers = policy
            .ingress
            .iter()
            .flatten()
            .filter_map(|rule| rule.peers.as_ref());
        assert!(
            peers
                .flatten()
                .all(|peer| !matches!(peer, Peer::Unsupported(_)))
        );
    }
}

#[test]
fn every_folder_of_examples_is_loaded_here() {
    let mut folders: Vec<String> = std::fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, ["demo", "demo-policy"], "load the new ones above");
}

#[tokio::test]
async fn the_policy_dropped_into_the_demo_joins_it() {
    let folder = tempfile::tempdir().unwrap();
    for from in ["demo", "demo-policy"] {
        for entry in std::fs::read_dir(examples().join(from)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let mut source = watch_manifests(folder.path(), "node2").unwrap();
    let mut keys = Vec::new();
    while let Some(Event::Change(change)) = source.events.recv().await {
        keys.push(change.key);
    }
    assert_eq!(keys.len(), 15);
    assert!(keys.contains(&Key::Pod(NamespacedName::new("shop", "db"))));
    assert_eq!(*source.problems.borrow(), []);
}
