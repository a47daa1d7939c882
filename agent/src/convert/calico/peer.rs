//! Calico's BGPPeer.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::super::cluster::Cluster;
use super::super::input::Reader;
use super::super::output::{Draft, Output};

/// BIRD's hold time where none is set; Calico has no field for it.
const BIRD_HOLD_TIME: &str = "240s";
/// BIRD's `multihop` without a number.
const BIRD_HOPS: u8 = 64;

const DEFAULTS: &str = "not the same where nothing is said. A node sends a peer only what it originates (Calico's sends an external peer \
the pods of other nodes too: write a BGPFilter that accepts source: RemotePeers if you need that), takes no default route and no part of its \
own Pod CIDRs from an external peer (a filter may accept them), at most 100,000 prefixes, offers a hold time of 90s (BIRD 240s) and no \
ADD-PATH (addPath: Both says it)";

pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    if reader.text("spec.localWorkloadSelector").is_some() {
        reader.common(None);
        return reader.none(
            "spec",
            "Portolan does not peer with pods by selector: a BGPPeer with a listenRange that holds the pods' CIDR lets them dial the node",
        );
    }
    let mut draft = output.draft("BGPPeer", &reader.input.name);
    let mut name = draft.itself();
    name.field = "metadata.name".to_owned();
    reader.common(Some(name));
    nodes(reader, cluster, &mut draft);
    target(reader, cluster, &mut draft);
    super::password(reader, "spec.password", cluster, output, &mut draft);
    session(reader, &mut draft);
    next_hop(reader, &mut draft);
    filters(reader, cluster, &mut draft);
    reader.changed("(defaults)", vec![draft.itself()], DEFAULTS);
    output.add(draft);
}

fn nodes(reader: &mut Reader<'_>, cluster: &Cluster<'_>, draft: &mut Draft) {
    let selector = reader.text("spec.nodeSelector");
    if let Some(selector) = selector {
        let to = draft.set("nodeSelector", selector);
        reader.carried("spec.nodeSelector", to);
    }
    let Some(node) = reader.text("spec.node") else {
        return;
    };
    if selector.is_some() {
        return reader.none(
            "spec.node",
            "nodeSelector is there too: Calico refuses both",
        );
    }
    let (selector, known) = cluster.only(node);
    let to = draft.set("nodeSelector", selector);
    match known {
        true => reader.carried_so("spec.node", vec![to], "by the label of its Node"),
        false => reader.changed(
            "spec.node",
            vec![to],
            "by the label kubernetes.io/hostname, which mostly is the node's name: look whether it is",
        ),
    }
}

fn target(reader: &mut Reader<'_>, cluster: &Cluster<'_>, draft: &mut Draft) {
    let peers = reader.text("spec.peerSelector");
    if let Some(selector) = peers {
        let to = draft.set("peerSelector", selector);
        reader.carried("spec.peerSelector", to);
        draft.set("asNumber", "internal");
    }
    let address = reader.text("spec.peerIP");
    if let Some(text) = address {
        match (peers, is_address(text)) {
            (Some(_), _) => reader.none(
                "spec.peerIP",
                "peerSelector is there too: Calico refuses both",
            ),
            (None, false) => reader.none("spec.peerIP", "it is not `ip`, `ip:port` or `[ip]:port`"),
            (None, true) => {
                let to = draft.set("peerAddress", text);
                reader.carried("spec.peerIP", to);
            }
        }
    }
    let number = reader.as_number("spec.asNumber");
    match (number, peers) {
        (Some(0), _) => reader.not_needed("spec.asNumber", "0 is none"),
        (Some(_), Some(_)) => reader.not_needed(
            "spec.asNumber",
            "each selected node's own AS counts, as in Calico",
        ),
        (Some(number), None) => {
            let to = draft.set("asNumber", number);
            reader.carried("spec.asNumber", to);
        }
        (None, _) => {}
    }
    let local = reader.as_number("spec.localASNumber");
    match local {
        Some(0) => reader.not_needed("spec.localASNumber", "0 is none"),
        Some(local) if local == cluster.calico_as() && number != Some(local) => {
            reader.not_needed("spec.localASNumber", "it is the nodes' AS");
        }
        Some(local) => {
            let to = draft.set("localASNumber", local);
            reader.carried("spec.localASNumber", to);
        }
        None => {}
    }
    match reader.text("spec.reversePeering") {
        Some("Auto") => reader.not_needed("spec.reversePeering", "both sides make the session here"),
        Some(_) if peers.is_none() => {
            reader.not_needed("spec.reversePeering", "a peerAddress is never reversed here");
        }
        Some(_) => reader.none(
            "spec.reversePeering",
            "both nodes of a pair always make the session here: what the other side is to have stands in this BGPPeer too",
        ),
        None => {}
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

fn session(reader: &mut Reader<'_>, draft: &mut Draft) {
    match reader.text("spec.sourceAddress") {
        Some("UseNodeIP") => reader.not_needed("spec.sourceAddress", "so it is here"),
        Some(_) => reader.changed(
            "spec.sourceAddress",
            vec![draft.itself()],
            "a session uses the node's own address here, as UseNodeIP; sourceAddress names another",
        ),
        None => {}
    }
    if let Some(seconds) = reader.seconds("spec.maxRestartTime") {
        let to = draft.set(
            "gracefulRestart",
            json!({"restartTime": format!("{seconds}s")}),
        );
        reader.carried("spec.maxRestartTime", to);
    }
    if let Some(seconds) = reader.seconds("spec.keepaliveTime") {
        let to = draft.set("keepaliveTime", format!("{seconds}s"));
        let hold = draft.set("holdTime", BIRD_HOLD_TIME);
        reader.carried_so(
            "spec.keepaliveTime",
            vec![to, hold],
            "with BIRD's hold time, so that as many may be missed as before",
        );
    }
    match reader.number::<u8>("spec.numAllowedLocalASNumbers") {
        Some(0) => reader.not_needed("spec.numAllowedLocalASNumbers", "so it is here"),
        Some(number @ 1..=10) => {
            let to = draft.set("allowASIn", number);
            reader.carried("spec.numAllowedLocalASNumbers", to);
        }
        Some(_) => {
            let to = draft.set("allowASIn", 10);
            let note = "10 at most";
            reader.changed("spec.numAllowedLocalASNumbers", vec![to], note);
        }
        None => {}
    }
    hops(reader, draft);
    if reader.text("spec.reachableBy").is_some() {
        reader.none(
            "spec.reachableBy",
            "Portolan writes no static route to a peer: add it to the hosts' own network configuration (ip route add PEER/32 via GATEWAY)",
        );
    }
}

/// Calico's sessions may cross routers unless GTSM says how many.
fn hops(reader: &mut Reader<'_>, draft: &mut Draft) {
    match reader.number::<u8>("spec.ttlSecurity") {
        Some(0) => reader.not_needed("spec.ttlSecurity", "0 is off"),
        Some(255) => {
            let to = draft.set("ttlSecurity", 254);
            let note =
                "254 at most, which is no guard worth the name: say how many hops away the peer is";
            return reader.changed("spec.ttlSecurity", vec![to], note);
        }
        Some(hops) => {
            let to = draft.set("ttlSecurity", hops);
            return reader.carried("spec.ttlSecurity", to);
        }
        None => {}
    }
    if draft.has("peerAddress") {
        let to = draft.set("multihop", BIRD_HOPS);
        let note = "so that the session may cross routers, as BIRD's; a peer on the nodes' own link is better guarded by ttlSecurity: 1 instead";
        reader.carried_so("(hops)", vec![to], note);
    }
}

fn next_hop(reader: &mut Reader<'_>, draft: &mut Draft) {
    let mode = reader.text("spec.nextHopMode");
    match mode {
        Some(text @ ("Auto" | "Self" | "Keep")) => {
            let to = draft.set("nextHopMode", text);
            reader.carried("spec.nextHopMode", to);
        }
        Some(_) => reader.none("spec.nextHopMode", "it is not Auto, Self or Keep"),
        None => {}
    }
    match (reader.flag("spec.keepOriginalNextHop"), mode) {
        (Some(_), Some(_)) => {
            reader.not_needed(
                "spec.keepOriginalNextHop",
                "nextHopMode is there, which overrules it",
            );
        }
        (Some(true), None) => {
            let to = draft.set("nextHopMode", "Keep");
            reader.changed(
                "spec.keepOriginalNextHop",
                vec![to],
                "for internal peers too; Calico keeps it for external ones alone (internal ones are told the original next hop anyway)",
            );
        }
        (Some(false), None) => reader.not_needed("spec.keepOriginalNextHop", "so it is here"),
        (None, _) => {}
    }
}

fn filters(reader: &mut Reader<'_>, cluster: &Cluster<'_>, draft: &mut Draft) {
    let mut names: Vec<&str> = Vec::new();
    for (field, name) in reader.texts("spec.filters") {
        if names.contains(&name) {
            reader.not_needed(&field, "it is named before: a second time never decides");
            continue;
        }
        names.push(name);
        let to = draft.set("filters", names.clone());
        match cluster.find(super::GROUP, "BGPFilter", name) {
            Some(_) => reader.carried(&field, to),
            None => reader.changed(
                &field,
                vec![to],
                "no such BGPFilter was read: Calico passes over a filter that is not there, here the peer makes no session until it is",
            ),
        }
    }
}
