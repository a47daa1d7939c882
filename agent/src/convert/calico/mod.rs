//! Calico's objects, as `kubectl` (crd.projectcalico.org/v1) and `calicoctl` (projectcalico.org/v3) show them.

mod configuration;
mod filter;
mod node;
mod peer;
mod policy;
mod pool;

use serde_json::Value;

use super::cluster::Cluster;
use super::conversion::whole;
use super::input::Reader;
use super::output::{Output, SecretText};

pub(super) use node::annotations as node_annotations;

const GROUP: &str = "projectcalico.org";

/// Converts an object of Calico's group.
pub(super) fn convert(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    match reader.input.kind.as_str() {
        "BGPConfiguration" => configuration::convert(reader, cluster, output),
        "BGPPeer" => peer::convert(reader, cluster, output),
        "BGPFilter" => filter::convert(reader, output),
        "IPPool" => pool::convert(reader, output),
        "IPReservation" => pool::reservation(reader, output),
        "Node" => node::convert(reader, output),
        "CalicoNodeStatus"
        | "ClusterInformation"
        | "BlockAffinity"
        | "IPAMBlock"
        | "IPAMHandle"
        | "IPAMConfig"
        | "IPAMConfiguration"
        | "KubeControllersConfiguration" => {
            whole(reader, "Calico's own notes: Portolan keeps its own");
        }
        _ => policy::convert(reader),
    }
}

/// A Secret of Kubernetes: copied to the agent's namespace if a BGPPeer of Calico's names it.
pub(super) fn secret(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    let input = reader.input;
    let ours = input.namespace == output.namespace();
    if ours
        || !named_secrets(cluster)
            .iter()
            .any(|name| *name == input.name)
    {
        return whole(reader, "no peer that was read names it");
    }
    let mut to = Vec::new();
    for (field, read) in [
        ("data", SecretText::Base64 as fn(String) -> SecretText),
        ("stringData", SecretText::Plain),
    ] {
        let values = reader.get(field).and_then(Value::as_object);
        for (key, value) in values.into_iter().flatten() {
            let Some(text) = value.as_str() else { continue };
            to.push(output.secret(&input.name, key, read(text.to_owned())));
        }
    }
    let object = input.value.as_object();
    for key in object.into_iter().flat_map(serde_json::Map::keys) {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "data" | "stringData" => {
                let here = format!(
                    "a copy in namespace {}, where the agent reads it",
                    output.namespace()
                );
                reader.carried_so(key, to.clone(), &here);
            }
            _ => reader.not_needed(&super::report::join("", key), "said by the copy itself"),
        }
    }
}

/// The names of Secrets that peers of Calico and of MetalLB refer to.
fn named_secrets<'a>(cluster: &Cluster<'a>) -> Vec<&'a str> {
    let peers = cluster.all(GROUP, "BGPPeer");
    let of_peers = peers.filter_map(|input| input.get("spec.password.secretKeyRef.name"));
    let configurations = cluster.all(GROUP, "BGPConfiguration");
    let of_mesh =
        configurations.filter_map(|input| input.get("spec.nodeMeshPassword.secretKeyRef.name"));
    let metallb = cluster.all("metallb.io", "BGPPeer");
    let of_metallb = metallb.filter_map(|input| input.get("spec.passwordSecret.name"));
    let all = of_peers.chain(of_mesh).chain(of_metallb);
    all.filter_map(Value::as_str).collect()
}

/// Carries a reference to a password into a peer.
fn password(
    reader: &mut Reader<'_>,
    field: &str,
    cluster: &Cluster<'_>,
    output: &Output,
    draft: &mut super::output::Draft,
) {
    let (name_field, key_field) = (
        format!("{field}.secretKeyRef.name"),
        format!("{field}.secretKeyRef.key"),
    );
    let (Some(name), Some(key)) = (reader.text(&name_field), reader.text(&key_field)) else {
        if reader.get(field).is_some() {
            reader.none(
                field,
                "it names no key of a Secret: without one there is no password",
            );
        }
        return;
    };
    let reference = serde_json::json!({"secretKeyRef": {"name": name, "key": key}});
    let to = draft.set("password", reference);
    let namespace = output.namespace();
    let known = cluster
        .inputs
        .iter()
        .any(|input| input.kind == "Secret" && input.name == name && input.namespace != namespace);
    match known {
        true => {
            reader.carried(&name_field, to.clone());
        }
        false => {
            let note = format!(
                "Portolan reads it in namespace {namespace}: copy the Secret there, or give `convert` the Secret too"
            );
            reader.changed(&name_field, vec![to.clone()], &note);
        }
    }
    reader.carried(&key_field, to);
    let optional = format!("{field}.secretKeyRef.optional");
    match reader.flag(&optional) {
        Some(true) => reader.none(
            &optional,
            "a peer whose password is not there makes no session: take the password out of the BGPPeer if there is none",
        ),
        Some(false) => reader.not_needed(&optional, "it never is"),
        None => {}
    }
}
