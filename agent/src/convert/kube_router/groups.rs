//! kube-router's sessions between nodes where they are no full mesh: nodes of one AS, and route reflectors.

use std::collections::{BTreeMap, BTreeSet};

use super::super::cluster::Cluster;
use super::super::output::Output;
use super::super::report::Place;
use super::settings::Settings;

const SERVER: &str = "kube-router.io/rr.server";
const CLIENT: &str = "kube-router.io/rr.client";
const AS_NUMBER: &str = "kube-router.io/node.asn";

/// Nodes that have sessions with each other.
#[derive(Default)]
struct Group<'a> {
    servers: BTreeSet<&'a str>,
    clients: BTreeSet<&'a str>,
    others: BTreeSet<&'a str>,
}

/// Whether nodes have other sessions than the full mesh.
pub(super) fn are_needed(cluster: &Cluster<'_>, settings: &Settings) -> bool {
    let reflect = |key| cluster.nodes().any(|node| node.annotation(key).is_some());
    settings.internal
        && ((settings.known && !settings.full_mesh) || reflect(SERVER) || reflect(CLIENT))
}

/// The BGPPeers that a node's sessions with nodes are in.
pub(super) fn places(cluster: &Cluster<'_>, node: &str) -> Vec<Place> {
    let settings = Settings::of(cluster);
    let mut places = Vec::new();
    for (name, group) in groups(cluster, &settings) {
        let is_client = group.clients.contains(node);
        let is_server = group.servers.contains(node);
        if !is_client && !is_server && !group.others.contains(node) {
            continue;
        }
        let place = |name: String| Place {
            kind: "BGPPeer",
            name,
            field: "spec.nodeSelector".to_owned(),
        };
        if !is_client {
            places.push(place(name.clone()));
        }
        if (is_client || is_server) && !group.servers.is_empty() && !group.clients.is_empty() {
            places.push(place(format!("{name}-clients")));
        }
    }
    places
}

/// Writes them. Sessions: servers with all, clients with servers alone, the others with servers and each other.
pub(in super::super) fn write(cluster: &Cluster<'_>, output: &mut Output) {
    let settings = Settings::of(cluster);
    if !are_needed(cluster, &settings) || cluster.nodes().next().is_none() {
        return;
    }
    // It stands there already if the DaemonSet said so.
    let disabled = output.replace("nodeToNodeMeshEnabled", false.into());
    debug_assert!(disabled.is_ok(), "{disabled:?}");
    for (name, group) in groups(cluster, &settings) {
        let core: BTreeSet<&str> = group.servers.union(&group.others).copied().collect();
        if core.len() > 1 {
            let mut draft = output.draft("BGPPeer", &name);
            draft.set("nodeSelector", cluster.among(&core));
            draft.set("peerSelector", cluster.among(&core));
            draft.set("asNumber", "internal");
            output.add(draft);
        }
        if !group.servers.is_empty() && !group.clients.is_empty() {
            let mut draft = output.draft("BGPPeer", &format!("{name}-clients"));
            draft.set("nodeSelector", cluster.among(&group.servers));
            draft.set("peerSelector", cluster.among(&group.clients));
            draft.set("asNumber", "internal");
            draft.set("routeReflectorClient", true);
            output.add(draft);
        }
    }
}

fn groups<'a>(cluster: &Cluster<'a>, settings: &Settings) -> BTreeMap<String, Group<'a>> {
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for node in cluster.nodes() {
        let name = match (
            settings.known && !settings.full_mesh,
            node.annotation(AS_NUMBER),
        ) {
            (false, _) => "kube-router-nodes".to_owned(),
            (true, Some(number)) => format!("kube-router-as-{}", number.trim()),
            // Without the annotation kube-router does not begin to speak.
            (true, None) => continue,
        };
        let group = groups.entry(name).or_default();
        // The server's annotation is looked at first.
        let kind = match (node.annotation(SERVER), node.annotation(CLIENT)) {
            (Some(_), _) => &mut group.servers,
            (None, Some(_)) => &mut group.clients,
            (None, None) => &mut group.others,
        };
        kind.insert(node.name.as_str());
    }
    groups
}
