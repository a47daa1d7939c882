//! kube-router's annotations of a Node.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::input::{Reader, at};
use super::super::output::Output;
use super::super::report::{Place, join};
use super::filter::{Routes, filter_name};
use super::peers::{Whom, is_base64, write};
use super::settings::{BfdSettings, Peer, Settings, listed, split};
use super::{PREFIX, groups};

const NEW_NODES: &str =
    "by name in a BGPPeer's selector: put a label on the nodes if more are to come";

pub(in super::super) fn annotations(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
) {
    let entries = reader
        .get("metadata.annotations")
        .and_then(Value::as_object);
    let ours: Vec<(&String, &Value)> = entries
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(PREFIX))
        .collect();
    if ours.is_empty() {
        return;
    }
    let settings = Settings::of(cluster);
    let routes = Routes::of(reader.input);
    let filter = routes
        .is_needed()
        .then(|| routes.write(&reader.input.name, output));
    let peers = own_peers(reader, cluster, output, &settings, filter.is_some());
    let changes = Changes {
        routes: &routes,
        filter: filter.as_ref(),
        has_peers: !settings.peers.is_empty() || peers.as_ref().is_ok_and(|list| !list.is_empty()),
    };
    for (key, value) in ours {
        let field = join("metadata.annotations", key);
        let Some(text) = value.as_str() else {
            reader.none(&field, "it is no text");
            continue;
        };
        let word = key.strip_prefix(PREFIX).unwrap_or_default();
        match word {
            "node.asn" => as_number(reader, output, cluster, &settings, &field, text),
            "rr.server" | "rr.client" => reflector(reader, output, cluster, &field, word, text),
            "peers" => {}
            "peer.ips" | "peer.asns" | "peer.ports" | "peer.passwords" | "peer.localips" => {
                of_peers(reader, &settings, &peers, &field, word);
            }
            "path-prepend.as" | "path-prepend.repeat-n" | "node.bgp.communities"
            | "node.bgp.customimportreject" => {
                of_routes(reader, &changes, &field, word);
            }
            "pod-cidr" | "pod-cidrs" => pod_cidrs(reader, &field, text),
            "bgp-local-addresses" => reader.none(
                &field,
                "Portolan listens on every address, and closes a connection from nobody it peers with; sourceAddress of a BGPPeer says where from it dials",
            ),
            _ => reader.none(&field, "Portolan does not know this annotation"),
        }
    }
}

/// The node's peers as they came out: those written, or why there are none.
type Peers = Result<Vec<Place>, &'static str>;

const OVERRULED: &str = "kube-router does not read it where --peer-router-ips is given";

fn own_peers(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
    settings: &Settings,
    filtered: bool,
) -> Peers {
    let node = reader.input;
    let consolidated = join("metadata.annotations", "kube-router.io/peers");
    let whole = node.annotation("kube-router.io/peers");
    if !settings.peers.is_empty() {
        if whole.is_some() {
            reader.not_needed(&consolidated, OVERRULED);
        }
        return Err(OVERRULED);
    }
    let specs = match whole {
        Some(text) => match read_peers(text) {
            Some(specs) => specs,
            None => {
                let why = "it is no YAML list of peers with remoteip and remoteasn: kube-router makes none of it";
                reader.none(&consolidated, why);
                return Err(why);
            }
        },
        None => {
            let list = |key: &str| {
                let text = node.annotation(&format!("{PREFIX}{key}"));
                text.map(split).unwrap_or_default()
            };
            listed(
                &list("peer.ips"),
                &list("peer.asns"),
                &list("peer.ports"),
                &list("peer.passwords"),
                &list("peer.localips"),
            )?
        }
    };
    if specs
        .iter()
        .filter_map(|peer| peer.password.as_ref())
        .any(|text| !is_base64(text))
    {
        let why = "a password is not base64: kube-router makes no peers of them";
        if whole.is_some() {
            reader.none(&consolidated, why);
        }
        return Err(why);
    }
    let prefix = format!("kube-router-{}", node.name);
    let mut places = Vec::new();
    for peer in &specs {
        let whom = Whom {
            prefix: &prefix,
            selector: Some(cluster.only(&node.name).0),
            filter: filtered.then(|| filter_name(&node.name)),
        };
        places.push(write(output, settings, peer, &whom));
    }
    if whole.is_some() {
        reader.carried_so(&consolidated, places.clone(), "");
        if specs.iter().any(|peer| peer.bfd.enabled) {
            let why = "a BFD port other than 3784 is not carried over: RFC 5881 and RFC 5883 have fixed ones";
            reader.not_needed("(bfd.port)", why);
        }
    }
    Ok(places)
}

/// The list in `kube-router.io/peers`. Its text may hold passwords: nothing of it goes into an error.
fn read_peers(text: &str) -> Option<Vec<Peer>> {
    let documents = datastore::read_documents(text).ok()?;
    let [document] = documents.as_slice() else {
        return None;
    };
    document.value.as_array()?.iter().map(read_peer).collect()
}

fn read_peer(value: &Value) -> Option<Peer> {
    let text = |key: &str| match at(value, key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let number = |key: &str| at(value, &format!("bfd.{key}")).and_then(Value::as_u64);
    Some(Peer {
        address: text("remoteip")?,
        as_number: text("remoteasn")?,
        port: text("port"),
        password: text("password"),
        source: text("localip"),
        bfd: BfdSettings {
            enabled: at(value, "bfd.enabled").and_then(Value::as_bool) == Some(true),
            min_tx: number("desired_min_tx_interval"),
            min_rx: number("required_min_rx_interval"),
            multiplier: number("detection_multiplier"),
        },
    })
}

fn of_peers(reader: &mut Reader<'_>, settings: &Settings, peers: &Peers, field: &str, word: &str) {
    if settings.peers.is_empty() && reader.input.annotation("kube-router.io/peers").is_some() {
        return reader.not_needed(field, "kube-router.io/peers is there, which overrules it");
    }
    let ours = match word {
        "peer.asns" => "spec.asNumber",
        "peer.passwords" => "spec.password",
        "peer.localips" => "spec.sourceAddress",
        _ => "spec.peerAddress",
    };
    match peers {
        Err(why) if *why == OVERRULED => reader.not_needed(field, why),
        Err(why) => reader.none(field, why),
        Ok(places) if places.is_empty() => {
            reader.none(
                field,
                "kube-router makes peers only of peer.ips and peer.asns together",
            );
        }
        Ok(places) => {
            let place = |place: &Place| Place {
                field: ours.to_owned(),
                ..place.clone()
            };
            let note = if word == "peer.passwords" {
                "in a Secret"
            } else {
                ""
            };
            reader.carried_so(field, places.iter().map(place).collect(), note);
        }
    }
}

fn as_number(
    reader: &mut Reader<'_>,
    output: &mut Output,
    cluster: &Cluster<'_>,
    settings: &Settings,
    field: &str,
    text: &str,
) {
    if settings.known && settings.full_mesh {
        return reader.not_needed(
            field,
            "kube-router does not read it in a full mesh: all nodes are in --cluster-asn",
        );
    }
    let Ok(number) = text.trim().parse::<u32>() else {
        return reader.none(field, "it is no AS number");
    };
    let node = &reader.input.name;
    let mut to = vec![output.annotate(node, "portolan.io/as-number", &number.to_string())];
    match groups::are_needed(cluster, settings) && settings.known {
        true => {
            to.extend(groups::places(cluster, node));
            reader.carried_so(field, to, NEW_NODES);
        }
        false => reader.changed(
            field,
            to,
            "kube-router joins nodes of the same AS alone; the mesh here joins all nodes: give `convert` kube-router's DaemonSet too, which says which it is",
        ),
    }
}

fn reflector(
    reader: &mut Reader<'_>,
    output: &mut Output,
    cluster: &Cluster<'_>,
    field: &str,
    word: &str,
    text: &str,
) {
    let id = match text.trim().parse::<u32>() {
        Ok(number) => Some(Ipv4Addr::from(number)),
        Err(_) => text.trim().parse().ok(),
    };
    let node = &reader.input.name;
    let mut to = groups::places(cluster, node);
    match (word, id) {
        ("rr.server", Some(id)) => {
            let key = "portolan.io/route-reflector-cluster-id";
            to.insert(0, output.annotate(node, key, &id.to_string()));
            reader.carried_so(field, to, NEW_NODES);
        }
        ("rr.server", None) => {
            reader.none(field, "it is no cluster ID: a number or an IPv4 address")
        }
        _ => reader.carried_so(field, to, NEW_NODES),
    }
}

/// What a node does to routes, and to whose.
struct Changes<'a> {
    routes: &'a Routes,
    filter: Option<&'a Place>,
    has_peers: bool,
}

fn of_routes(reader: &mut Reader<'_>, changes: &Changes<'_>, field: &str, word: &str) {
    let Changes {
        routes,
        filter,
        has_peers,
    } = *changes;
    let Some(filter) = filter else {
        return reader.none(
            field,
            "it cannot be read, or its other half is not there: kube-router does nothing either",
        );
    };
    let place = |list: &str| Place {
        field: format!("spec.{list}"),
        ..filter.clone()
    };
    let exports = vec![place("exportV4"), place("exportV6")];
    let imports = vec![place("importV4"), place("importV6")];
    match word {
        _ if !has_peers => reader.none(
            field,
            "the BGPFilter is written, but no peer of this node was read: name it in the BGPPeers that are its",
        ),
        "node.bgp.customimportreject" if routes.reject_is_wrong => {
            reader.none(field, "one of them is no CIDR: kube-router then rejects nothing");
        }
        "node.bgp.customimportreject" => reader.changed(
            field,
            imports,
            "for the node's external peers; kube-router rejects them from other nodes too, which announce no such routes here unless they learned them",
        ),
        "node.bgp.communities" if routes.no_communities > 0 => reader.changed(
            field,
            exports,
            "what is no community is left out, as kube-router leaves it out",
        ),
        "path-prepend.as" | "path-prepend.repeat-n" => match routes.prepend {
            Some((_, 11..)) => reader.changed(field, exports, "10 times at most"),
            Some((_, 1..)) => reader.carried_so(field, exports, ""),
            _ => reader.none(field, "it is no number, or its other half is not there: kube-router does not start so"),
        },
        _ => reader.carried_so(field, exports, ""),
    }
}

fn pod_cidrs(reader: &mut Reader<'_>, field: &str, text: &str) {
    let list = reader.get("spec.podCIDRs").and_then(Value::as_array);
    let one = reader.get("spec.podCIDR").and_then(Value::as_str);
    let there: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .chain(one)
        .collect();
    match split(text).iter().all(|cidr| there.contains(&cidr.as_str())) {
        true => reader.not_needed(field, "it is what spec.podCIDRs says, which Portolan reads"),
        false => reader.none(
            field,
            "Portolan gives pods addresses of spec.podCIDRs or of IPPools: make an IPPool with this cidr and a nodeSelector for this node",
        ),
    }
}
