//! The containerlab topology: whole in itself, with leaves that FRR reads and manifests that agents read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::netns::run;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/containerlab")
}

fn topology() -> Value {
    let text = fs::read_to_string(folder().join("portolan.clab.yml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn every_link_ends_at_a_node_of_its_own_interface_and_every_bound_file_is_there() {
    let topology = topology();
    let nodes = topology["topology"]["nodes"].as_object().unwrap();
    assert_eq!(nodes.len(), 5);
    let mut ends = BTreeSet::new();
    for link in topology["topology"]["links"].as_array().unwrap() {
        let both = words(&link["endpoints"]);
        assert_eq!(both.len(), 2, "{link}");
        for end in both {
            let (node, interface) = end.split_once(':').unwrap();
            assert!(nodes.contains_key(node), "{end}");
            assert!(interface.starts_with("eth") && interface != "eth0", "{end}");
            assert!(ends.insert(end.to_owned()), "{end} is used twice");
        }
    }
    let mut bound = 0;
    for (name, node) in nodes {
        assert!(
            ends.iter().any(|end| end.starts_with(&format!("{name}:"))),
            "{name} has no link"
        );
        for bind in words(&node["binds"]) {
            let (file, _) = bind.split_once(':').unwrap();
            assert!(folder().join(file).exists(), "{name}: {bind}");
            bound += 1;
        }
    }
    assert_eq!(bound, 7);
}

#[test]
fn frr_takes_each_leafs_configuration_which_names_its_own_links() {
    let topology = topology();
    for leaf in ["leaf1", "leaf2"] {
        let file = folder().join(leaf).join("frr.conf");
        run("vtysh", &["-C", "-f", file.to_str().unwrap()]).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let links = topology["topology"]["links"].as_array().unwrap();
        let ends = links.iter().flat_map(|link| words(&link["endpoints"]));
        for end in ends.filter(|end| end.starts_with(leaf)) {
            let (_, interface) = end.split_once(':').unwrap();
            assert!(
                text.contains(&format!("neighbor {interface} interface ")),
                "{end}"
            );
        }
    }
}

#[test]
fn frr_refuses_a_configuration_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("frr.conf");
    fs::write(&file, "router bgp 65001\n neighbour eth1 interface\n").unwrap();
    assert!(run("vtysh", &["-C", "-f", file.to_str().unwrap()]).is_err());
}

#[test]
fn every_agent_finds_its_node_and_its_peer_in_the_manifests() {
    let mut names = BTreeSet::new();
    let mut peers = 0;
    for file in ["10-nodes.yaml", "20-bgp.yaml"] {
        let text = fs::read_to_string(folder().join("manifests").join(file)).unwrap();
        for document in text
            .split("---\n")
            .filter(|document| !document.trim().is_empty())
        {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            let [kind, version] =
                ["kind", "apiVersion"].map(|word| value[word].as_str().unwrap().to_owned());
            match api::parse::parse(&kind, &version, value)
                .unwrap()
                .unwrap()
                .1
            {
                api::Resource::Node(node) => drop(names.insert(node.name)),
                api::Resource::BgpPeer(_) => peers += 1,
                _ => {}
            }
        }
    }
    assert_eq!(peers, 1);
    let topology = topology();
    let nodes = topology["topology"]["nodes"].as_object().unwrap();
    let mut agents = 0;
    for (name, node) in nodes {
        let Some(command) = node["cmd"].as_str() else {
            continue;
        };
        assert_eq!(node["image"], "localhost/portolan:dev");
        assert!(
            command.starts_with(&format!("agent --node {name} --manifests /manifests ")),
            "{command}"
        );
        assert!(names.contains(name), "{name}");
        agents += 1;
    }
    assert_eq!(agents, names.len());
}
