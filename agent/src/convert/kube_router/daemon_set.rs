//! kube-router's DaemonSet: each of its flags.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::cluster::{Cluster, HOSTNAME};
use super::super::input::{Input, Reader};
use super::super::output::Output;
use super::super::report::{Place, join};
use super::filter::{Routes, filter_name};
use super::flags::{DEFAULTS, Fate, Flag, containers, fate, of};
use super::groups;
use super::peers::{Whom, is_base64, write};
use super::settings::{Settings, is_true, seconds};

/// Whether this DaemonSet runs kube-router.
pub(in super::super) fn is_daemon_set(input: &Input) -> bool {
    input.kind == "DaemonSet" && !containers(input).is_empty()
}

pub(in super::super) fn convert(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
) {
    for key in reader
        .input
        .value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        if !matches!(key.as_str(), "apiVersion" | "kind") {
            let why =
                "kube-router's own deployment, which goes with it; its flags stand by themselves";
            reader.not_needed(&join("", key), why);
        }
    }
    let settings = Settings::of(cluster);
    let all = of(reader.input);
    let made = Made {
        peers: &write_peers(&settings, cluster, output),
        settings: &settings,
    };
    for flag in &all {
        let field = format!("{} (--{})", flag.path, flag.name);
        match fate(&flag.name) {
            None => reader.none(&field, "Portolan does not know this flag"),
            Some((_, Fate::Used)) => used(reader, cluster, output, &made, flag, &field),
            Some((_, Fate::Moot(why))) => reader.not_needed(&field, why),
            Some((_, Fate::None(why))) => reader.none(&field, why),
            Some((is_switch, Fate::Unless(fine, why))) => {
                let same = match is_switch {
                    true => is_true(&flag.value) == is_true(fine),
                    false => flag.value == fine,
                };
                match same {
                    true => reader.not_needed(&field, "so it is here"),
                    false => reader.none(&field, why),
                }
            }
        }
        if let Some(path) = &flag.value_path {
            reader.not_needed(
                &format!("{path} (of --{})", flag.name),
                "the value of the flag before it",
            );
        }
    }
    for (name, value) in DEFAULTS {
        if all.iter().all(|flag| flag.name != *name)
            && let Some((_, Fate::Unless(_, why))) = fate(name)
        {
            reader.none(&format!("(--{name}={value}, the default)"), why);
        }
    }
}

/// Peers of all nodes; nodes that change routes have their own, with a filter.
fn write_peers(settings: &Settings, cluster: &Cluster<'_>, output: &mut Output) -> Vec<Place> {
    if settings
        .peers
        .iter()
        .filter_map(|peer| peer.password.as_ref())
        .any(|text| !is_base64(text))
    {
        return Vec::new();
    }
    let special: BTreeSet<&str> = cluster
        .nodes()
        .filter(|node| Routes::of(node).is_needed())
        .map(|node| node.name.as_str())
        .collect();
    let mut places = Vec::new();
    for peer in &settings.peers {
        let selector = match special.is_empty() {
            true => None,
            false => Some(format!("{HOSTNAME} not in {}", cluster.set(&special))),
        };
        let whom = Whom {
            prefix: "kube-router",
            selector,
            filter: None,
        };
        places.push(write(output, settings, peer, &whom));
        for node in &special {
            let whom = Whom {
                prefix: &format!("kube-router-{node}"),
                selector: Some(cluster.only(node).0),
                filter: Some(filter_name(node)),
            };
            places.push(write(output, settings, peer, &whom));
        }
    }
    places
}

/// What the flags together came to.
struct Made<'a> {
    settings: &'a Settings,
    peers: &'a [Place],
}

fn used(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
    made: &Made<'_>,
    flag: &Flag,
    field: &str,
) {
    let Made { settings, peers } = *made;
    let at = |name: &str| -> Vec<Place> {
        let place = |place: &Place| Place {
            field: format!("spec.{name}"),
            ..place.clone()
        };
        peers.iter().map(place).collect()
    };
    match flag.name.as_str() {
        "cluster-asn" | "bgp-port" => {
            let ours = if flag.name == "bgp-port" { "listenPort" } else { "asNumber" };
            match flag.value.parse::<u32>() {
                Ok(0) => reader.not_needed(field, "0 is the default"),
                Ok(number) => configure(reader, output, field, ours, number.into()),
                Err(_) => reader.none(field, "it is no number"),
            }
        }
        "nodes-full-mesh" | "enable-ibgp" => mesh(reader, cluster, output, settings, flag, field),
        "bgp-graceful-restart" => match is_true(&flag.value) {
            true => reader.not_needed(field, "so it is here"),
            false => reader.changed(
                field,
                Vec::new(),
                "graceful restart is always on here: gracefulRestart.restartTime says for how long",
            ),
        },
        "bgp-graceful-restart-time" => match seconds(&flag.value) {
            Some(time) => {
                let value = json!({"restartTime": format!("{time}s")});
                configure(reader, output, field, "gracefulRestart", value);
            }
            None => reader.none(field, "it is no duration"),
        },
        _ if peers.is_empty() && !flag.name.starts_with("peer-router-") => {
            reader.not_needed(field, "there is no peer by flags that it would hold for");
        }
        _ if peers.is_empty() => reader.none(field, settings.wrong.unwrap_or(NO_PEERS)),
        "peer-router-ips" | "peer-router-ports" => reader.carried_so(field, at("peerAddress"), ""),
        "peer-router-asns" => reader.carried_so(field, at("asNumber"), ""),
        "peer-router-passwords" => reader.carried_so(field, at("password"), "in a Secret"),
        "peer-router-passwords-file" if !settings.passwords_in_file => {
            reader.not_needed(field, "--peer-router-passwords is there, which overrules it");
        }
        "peer-router-passwords-file" => reader.none(
            field,
            "the file was not read: write its passwords into Secret kube-router-peers, under the key that each BGPPeer names; without it they make no session",
        ),
        "peer-router-multihop-ttl" => match settings.hops {
            Some(_) => reader.carried_so(field, at("multihop"), ""),
            None => reader.not_needed(field, "less than 2 is none"),
        },
        "bgp-holdtime" => match settings.hold_time {
            Some(_) => reader.carried_so(field, at("holdTime"), "sessions between nodes offer 90s"),
            None => reader.none(field, "it is no duration"),
        },
        "override-nexthop" => match settings.override_next_hop {
            true => reader.carried_so(field, at("nextHopMode"), ""),
            false => reader.not_needed(field, "so it is here"),
        },
        _ if settings.bfd.enabled => reader.carried_so(field, at("bfd"), ""),
        _ => reader.not_needed(field, "BFD is off"),
    }
}

const NO_PEERS: &str = "no peers could be made of the flags: --peer-router-ips and --peer-router-asns belong together, passwords are base64";

fn configure(reader: &mut Reader<'_>, output: &mut Output, field: &str, ours: &str, value: Value) {
    match output.configure(ours, value) {
        Ok(to) => reader.carried(field, to),
        Err(why) => reader.none(field, &why),
    }
}

fn mesh(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
    settings: &Settings,
    flag: &Flag,
    field: &str,
) {
    const NEW_NODES: &str = "BGPPeers between the nodes that were read; nodes that come later need a place in their selectors";
    let on = is_true(&flag.value);
    if groups::are_needed(cluster, settings) {
        if cluster.nodes().next().is_none() {
            let why = "which nodes have sessions stands in annotations of the Nodes: give `convert` them too (kubectl get nodes -o yaml)";
            return reader.none(field, why);
        }
        return match output.configure("nodeToNodeMeshEnabled", false.into()) {
            Ok(to) => reader.changed(field, vec![to], NEW_NODES),
            Err(why) => reader.none(field, &why),
        };
    }
    match (flag.name.as_str(), on) {
        ("enable-ibgp", false) => {
            configure(reader, output, field, "nodeToNodeMeshEnabled", false.into())
        }
        ("nodes-full-mesh", _) if settings.internal => {
            configure(reader, output, field, "nodeToNodeMeshEnabled", on.into());
        }
        _ => reader.not_needed(field, "so it is here"),
    }
}
