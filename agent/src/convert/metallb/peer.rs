//! MetalLB's BGPPeer, v1beta1 and v1beta2.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::super::cluster::Cluster;
use super::super::input::Reader;
use super::super::output::{Draft, Output, SecretText};
use super::super::selectors;
use super::advertisement;

/// FRR's `ebgp-multihop` without a number.
const FRR_HOPS: u8 = 255;
const BGP_PORT: u16 = 179;

const ROUTES: &str = "MetalLB takes no route from its peers and sends them addresses of Services alone: this filter says so. Take it out of \
the BGPPeer, or add rules, if the nodes are to learn routes or to announce their pods there";
const DEFAULTS: &str = "not the same where nothing is said: graceful restart is on, both families are offered on every session, and the hold \
time is 90s (MetalLB's FRR 180s)";

pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    if reader.text("spec.vrf").is_some() {
        reader.common(None);
        let why = "Portolan's sessions and routes are in the main routing table; a session outside its VRF would be another one, so the peer is left out";
        for key in reader.spec().into_iter().flatten().map(|(key, _)| key) {
            reader.none(&super::super::report::join("spec", key), why);
        }
        return;
    }
    let mut draft = output.draft("BGPPeer", &reader.input.name);
    let mut name = draft.itself();
    name.field = "metadata.name".to_owned();
    reader.common(Some(name));
    node_selectors(reader, &mut draft);
    target(reader, &mut draft);
    as_numbers(reader, cluster, output, &mut draft);
    timers(reader, &mut draft);
    password(reader, cluster, output, &mut draft);
    bfd(reader, cluster, &mut draft);
    rest(reader, &mut draft);
    routes(reader, cluster, output, &mut draft);
    reader.changed("(defaults)", vec![draft.itself()], DEFAULTS);
    output.add(draft);
}

fn node_selectors(reader: &mut Reader<'_>, draft: &mut Draft) {
    let list = reader.list("spec.nodeSelectors");
    if list.is_empty() {
        return;
    }
    match selectors::any_of(list) {
        Some(text) => {
            let to = draft.set("nodeSelector", text);
            reader.carried("spec.nodeSelectors", to);
        }
        None => {
            // Nodes that were not meant must not get the peer.
            draft.set("nodeSelector", super::super::cluster::NOBODY);
            reader.none(
                "spec.nodeSelectors",
                "it is no label selector: the BGPPeer selects no node until you have written nodeSelector",
            );
        }
    }
}

fn target(reader: &mut Reader<'_>, draft: &mut Draft) {
    let port = reader
        .number::<u16>("spec.peerPort")
        .filter(|port| *port != 0);
    if let Some(address) = reader.address("spec.peerAddress") {
        let text = match port {
            None | Some(BGP_PORT) => address.to_string(),
            Some(port) => SocketAddr::new(address, port).to_string(),
        };
        let to = draft.set("peerAddress", text);
        reader.carried("spec.peerAddress", to);
    }
    if let Some(interface) = reader.text("spec.interface") {
        let to = draft.set("interface", interface);
        reader.carried("spec.interface", to);
    }
    match port {
        _ if reader.get("spec.peerPort").is_none() => {}
        None | Some(BGP_PORT) => reader.not_needed("spec.peerPort", "the default"),
        Some(_) if draft.has("peerAddress") => {
            let to = draft.place("peerAddress");
            reader.carried("spec.peerPort", to);
        }
        Some(_) => reader.none(
            "spec.peerPort",
            "a neighbour on an interface is found at the listenPort of the BGPConfiguration",
        ),
    }
    if let Some(source) = reader.address("spec.sourceAddress") {
        let to = draft.set("sourceAddress", source.to_string());
        reader.carried("spec.sourceAddress", to);
    }
}

/// `myASN` is the nodes' AS where all say the same and nobody else says another.
fn as_numbers(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
    draft: &mut Draft,
) {
    let peer = reader
        .as_number("spec.peerASN")
        .filter(|number| *number != 0);
    if let Some(number) = peer {
        let to = draft.set("asNumber", number);
        reader.carried("spec.peerASN", to);
    }
    match reader.text("spec.dynamicASN") {
        Some(word @ ("internal" | "external")) => {
            let to = draft.set("asNumber", word);
            reader.carried("spec.dynamicASN", to);
        }
        Some(_) => reader.none("spec.dynamicASN", "it is not internal or external"),
        None => {}
    }
    let local = reader
        .as_number("spec.localASN")
        .filter(|number| *number != 0);
    if let Some(local) = local {
        let to = draft.set("localASNumber", local);
        reader.carried("spec.localASN", to);
    }
    let Some(mine) = reader.as_number("spec.myASN") else {
        return;
    };
    match nodes_as(cluster, output) {
        Some(nodes) if nodes == mine => {
            reader.not_needed("spec.myASN", "it is the nodes' AS by what was read besides");
        }
        None if all_say(cluster, mine) => match output.configure("asNumber", mine.into()) {
            Ok(to) => reader.carried("spec.myASN", to),
            Err(why) => reader.none("spec.myASN", &why),
        },
        _ if local.is_some() => reader.not_needed("spec.myASN", "localASN is what the peer sees"),
        _ => {
            let to = draft.set("localASNumber", mine);
            reader.changed(
                "spec.myASN",
                vec![to],
                "the nodes are in another AS: they show the peer this one (RFC 7705)",
            );
        }
    }
}

/// The nodes' AS as others than MetalLB say it.
fn nodes_as(cluster: &Cluster<'_>, output: &Output) -> Option<u32> {
    let configured = output.configured("asNumber").and_then(Value::as_u64);
    if let Some(number) = configured.and_then(|number| u32::try_from(number).ok()) {
        return Some(number);
    }
    let mut others = cluster.inputs.iter();
    let said = others.any(|input| {
        input.group().ends_with("projectcalico.org")
            || super::super::kube_router::is_daemon_set(input)
    });
    said.then(|| cluster.calico_as())
}

fn all_say(cluster: &Cluster<'_>, mine: u32) -> bool {
    cluster.all(super::GROUP, "BGPPeer").all(|peer| {
        let number = peer
            .get("spec.myASN")
            .and_then(super::super::input::as_number);
        number.is_none_or(|number| number == mine)
    })
}

fn timers(reader: &mut Reader<'_>, draft: &mut Draft) {
    if let Some(seconds) = reader.seconds("spec.holdTime") {
        let to = draft.set("holdTime", format!("{seconds}s"));
        reader.carried("spec.holdTime", to);
    }
    if let Some(seconds) = reader.seconds("spec.keepaliveTime") {
        let mut to = vec![draft.set("keepaliveTime", format!("{seconds}s"))];
        if !draft.has("holdTime") {
            to.push(draft.set("holdTime", format!("{}s", seconds.saturating_mul(3))));
        }
        reader.carried_so("spec.keepaliveTime", to, "");
    }
    if reader.get("spec.connectTime").is_some() {
        let why = "Portolan dials again after 5s and then less often, by itself";
        reader.not_needed("spec.connectTime", why);
    }
}

fn password(
    reader: &mut Reader<'_>,
    cluster: &Cluster<'_>,
    output: &mut Output,
    draft: &mut Draft,
) {
    const KEY: &str = "password";
    let mut reference = |name: &str| {
        draft.set(
            "password",
            json!({"secretKeyRef": {"name": name, "key": KEY}}),
        )
    };
    if let Some(text) = reader.text("spec.password") {
        let name = format!("metallb-{}", reader.input.name);
        let to = vec![
            output.secret(&name, KEY, SecretText::Plain(text.to_owned())),
            reference(&name),
        ];
        reader.carried_so(
            "spec.password",
            to,
            "in a Secret: passwords do not stand in BGPPeers here",
        );
    }
    if let Some(name) = reader.text("spec.passwordSecret.name") {
        let to = vec![reference(name)];
        let namespace = output.namespace();
        let known = cluster.inputs.iter().any(|input| {
            input.kind == "Secret" && input.name == name && input.namespace != namespace
        });
        match known {
            true => reader.carried_so("spec.passwordSecret.name", to, ""),
            false => {
                let note = format!(
                    "Portolan reads it in namespace {namespace}: copy the Secret there, or give `convert` the Secret too"
                );
                reader.changed("spec.passwordSecret.name", to, &note);
            }
        }
    }
    if reader.get("spec.passwordSecret.namespace").is_some() {
        reader.not_needed(
            "spec.passwordSecret.namespace",
            "Secrets are the agent's own namespace's here",
        );
    }
}

fn bfd(reader: &mut Reader<'_>, cluster: &Cluster<'_>, draft: &mut Draft) {
    let Some(name) = reader.text("spec.bfdProfile") else {
        return;
    };
    let Some(profile) = cluster.find(super::GROUP, "BFDProfile", name) else {
        return reader.none("spec.bfdProfile", "no such BFDProfile was read: give it to `convert` too, or write bfd {minTx, minRx, multiplier}");
    };
    let number = |field: &str| {
        profile
            .get(&format!("spec.{field}"))
            .and_then(Value::as_u64)
    };
    let mut bfd = Map::new();
    for (theirs, ours) in [("receiveInterval", "minRx"), ("transmitInterval", "minTx")] {
        if let Some(milliseconds) = number(theirs) {
            bfd.insert(ours.to_owned(), format!("{milliseconds}ms").into());
        }
    }
    if let Some(multiplier) = number("detectMultiplier") {
        bfd.insert("multiplier".to_owned(), multiplier.into());
    }
    let to = draft.set("bfd", Value::Object(bfd));
    reader.carried("spec.bfdProfile", to);
}

fn rest(reader: &mut Reader<'_>, draft: &mut Draft) {
    match reader.flag("spec.ebgpMultiHop") {
        Some(true) => {
            let to = draft.set("multihop", FRR_HOPS);
            reader.carried("spec.ebgpMultiHop", to);
        }
        Some(false) => reader.not_needed("spec.ebgpMultiHop", "so it is here"),
        None => {}
    }
    match reader.flag("spec.enableGracefulRestart") {
        Some(true) => reader.not_needed("spec.enableGracefulRestart", "so it is here"),
        Some(false) => reader.changed(
            "spec.enableGracefulRestart",
            vec![draft.itself()],
            "it is always on here: gracefulRestart.restartTime says for how long",
        ),
        None => {}
    }
    match reader.flag("spec.dualStackAddressFamily") {
        Some(true) => reader.not_needed("spec.dualStackAddressFamily", "so it is here"),
        Some(false) => reader.changed(
            "spec.dualStackAddressFamily",
            vec![draft.itself()],
            "both families are offered on every session here; the peer says which it takes",
        ),
        None => {}
    }
    match reader.flag("spec.disableMP") {
        Some(true) => reader.changed(
            "spec.disableMP",
            vec![draft.itself()],
            "both families are offered on every session here; let the peer take one alone",
        ),
        Some(false) => reader.not_needed("spec.disableMP", "so it is here"),
        None => {}
    }
    if reader.text("spec.routerID").is_some() {
        reader.none(
            "spec.routerID",
            "a node has one router ID for all peers: its annotation portolan.io/router-id, else its IPv4 address",
        );
    }
}

fn routes(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output, draft: &mut Draft) {
    let name = advertisement::filter_name(&reader.input.name);
    let mut filter = output.draft("BGPFilter", &name);
    for list in ["importV4", "importV6"] {
        filter.set(list, json!([{"action": "Reject"}]));
    }
    let [v4, v6] = advertisement::exports(cluster, &reader.input.name);
    filter.set("exportV4", v4);
    filter.set("exportV6", v6);
    let place = filter.itself();
    let to = vec![place.clone(), draft.set("filters", json!([place.name]))];
    reader.carried_so("(routes)", to, ROUTES);
    output.add(filter);
}
