//! MetalLB's objects: its peers are carried over whole, its addresses as far as Portolan has words for them.

mod advertisement;
mod peer;
mod pool;

use serde_json::Value;

use super::cluster::Cluster;
use super::conversion::whole;
use super::input::{Reader, at};
use super::output::Output;
use super::report::join;

const GROUP: &str = "metallb.io";

const LAYER_2: &str = "not carried over: write `layer2: {}` into the IPPools of these addresses (docs/l2.md), or announce them by BGP";

/// Converts an object of MetalLB's group.
pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    match reader.input.kind.as_str() {
        "BGPPeer" => peer::convert(reader, cluster, output),
        "BGPAdvertisement" => advertisement::convert(reader, cluster, output),
        "IPAddressPool" => pool::convert(reader, output),
        "BFDProfile" => profile(reader, cluster),
        "Community" => communities(reader, cluster),
        "L2Advertisement" => {
            reader.common(None);
            for field in reader.spec().into_iter().flatten().map(|(key, _)| key) {
                reader.none(&join("spec", field), LAYER_2);
            }
            if reader.spec().is_none_or(serde_json::Map::is_empty) {
                reader.none("(the whole object)", LAYER_2);
            }
        }
        "ServiceBGPStatus" | "ServiceL2Status" | "ConfigurationState" => {
            whole(reader, "MetalLB's own notes");
        }
        _ => {
            reader.common(None);
            reader.none("spec", "Portolan does not know this kind of MetalLB's");
        }
    }
}

/// A BFDProfile stands in each BGPPeer that names it.
fn profile(reader: &mut Reader<'_>, cluster: &Cluster<'_>) {
    reader.common(None);
    let name = reader.input.name.as_str();
    let peers: Vec<_> = cluster
        .all(GROUP, "BGPPeer")
        .filter(|peer| peer.get("spec.bfdProfile").and_then(Value::as_str) == Some(name))
        .map(|peer| super::report::Place {
            kind: "BGPPeer",
            name: peer.name.clone(),
            field: "spec.bfd".to_owned(),
        })
        .collect();
    for field in ["receiveInterval", "transmitInterval", "detectMultiplier"] {
        let field = format!("spec.{field}");
        match (reader.number::<u32>(&field), peers.is_empty()) {
            (None, _) => {}
            (Some(_), true) => {
                reader.not_needed(&field, "no BGPPeer that was read names this profile")
            }
            (Some(_), false) => {
                reader.carried_so(&field, peers.clone(), "in each BGPPeer that names it")
            }
        }
    }
    let echo = reader.flag("spec.echoMode").unwrap_or(false);
    for (field, asked, why) in [
        (
            "echoMode",
            echo,
            "Portolan's BFD has no echo: minTx and minRx of 10ms are as quick",
        ),
        (
            "echoInterval",
            echo,
            "Portolan's BFD has no echo: minTx and minRx of 10ms are as quick",
        ),
        (
            "passiveMode",
            reader.get("spec.passiveMode") == Some(&Value::Bool(true)),
            "Portolan's BFD always begins: set the other side passive if one must be",
        ),
        (
            "minimumTtl",
            reader.get("spec.minimumTtl").is_some(),
            "BFD takes the BGPPeer's own ttlSecurity or multihop",
        ),
    ] {
        let field = format!("spec.{field}");
        match (reader.get(&field), asked) {
            (None, _) => {}
            (Some(_), true) => reader.none(&field, why),
            (Some(_), false) => reader.not_needed(&field, "so it is here"),
        }
    }
}

/// Names of communities become the communities where advertisements use them.
fn communities(reader: &mut Reader<'_>, cluster: &Cluster<'_>) {
    reader.common(None);
    for (index, entry) in reader.list("spec.communities").iter().enumerate() {
        let field = format!("spec.communities[{index}]");
        let text = |key| at(entry, key).and_then(Value::as_str);
        let known = text("value").and_then(super::communities::of_metallb);
        let used = text("name").is_some_and(|name| {
            let adverts = cluster.all(GROUP, "BGPAdvertisement");
            let mut names = adverts.filter_map(|advert| advert.get("spec.communities"));
            names.any(|list| {
                list.as_array()
                    .into_iter()
                    .flatten()
                    .any(|one| one.as_str() == Some(name))
            })
        });
        match (known, used) {
            (None, _) => reader.none(&field, "its value is no community aa:nn or large:aa:nn:mm"),
            (Some(_), false) => {
                reader.not_needed(&field, "no BGPAdvertisement that was read names it")
            }
            (Some(_), true) => reader.carried_so(
                &field,
                Vec::new(),
                "its value stands in the BGPFilters of the advertisements that name it",
            ),
        }
    }
}
