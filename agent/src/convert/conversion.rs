//! The whole of a conversion: a text in, objects and a report out; no I/O.

use datastore::TextError;
use serde::Serialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::input::{Input, Reader, at, read};
use super::output::{Output, Written};
use super::report::{Counts, ObjectReport, Place};
use super::{calico, kube_router, metallb};

/// What a text became.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversion {
    /// The objects to apply, in order.
    pub objects: Vec<Written>,
    /// What became of each field of each object that was read, in the order read.
    pub report: Vec<ObjectReport>,
    /// How many fields had each outcome.
    pub counts: Counts,
}

/// Converts every object of a text (YAML or JSON). Secrets are written to `namespace`, the agent's.
///
/// # Errors
/// The line at which the text is no YAML or holds no object.
pub fn convert(text: &str, namespace: &str) -> Result<Conversion, TextError> {
    let inputs = read(text)?;
    let cluster = Cluster::new(&inputs);
    let mut output = Output::new(namespace);
    let mut report = Vec::new();
    // What all peers hang on comes first; the report keeps the order of the text.
    let mut order: Vec<(usize, &Input)> = inputs.iter().enumerate().collect();
    order.sort_by_key(|(_, input)| rank(input));
    for (index, input) in order {
        let reader = Reader::new(input);
        report.push((index, one(reader, &cluster, &mut output)));
    }
    kube_router::groups(&cluster, &mut output);
    report.sort_by_key(|(index, _)| *index);
    let mut report: Vec<ObjectReport> = report.into_iter().map(|(_, one)| one).collect();
    let (objects, refused) = output.finish();
    for (kind, name, why) in refused {
        for object in &mut report {
            object.withdraw(kind, &name, &why);
        }
    }
    let is_written = |place: &Place| {
        objects.iter().any(|object| {
            let text = |path| at(&object.value, path).and_then(Value::as_str);
            text("kind") == Some(place.kind) && text("metadata.name") == Some(&place.name)
        })
    };
    for object in &mut report {
        object.keep(is_written);
    }
    let counts = Counts::of(&report);
    Ok(Conversion {
        objects,
        report,
        counts,
    })
}

/// The BGPConfiguration's AS and the flags of kube-router decide what peers mean.
fn rank(input: &Input) -> u8 {
    match input.kind.as_str() {
        "BGPConfiguration" => 0,
        "DaemonSet" => 1,
        _ => 2,
    }
}

fn one(mut reader: Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) -> ObjectReport {
    let input = reader.input;
    match input.group() {
        "projectcalico.org" | "crd.projectcalico.org" => {
            calico::convert(&mut reader, cluster, output);
        }
        "metallb.io" => metallb::convert(&mut reader, cluster, output),
        _ => match input.kind.as_str() {
            "Node" => node(&mut reader, cluster, output),
            "Secret" => calico::secret(&mut reader, cluster, output),
            "DaemonSet" if kube_router::is_daemon_set(input) => {
                kube_router::daemon_set(&mut reader, cluster, output);
            }
            _ => whole(&mut reader, "no object of Calico, kube-router or MetalLB"),
        },
    }
    reader.close()
}

/// A Node belongs to Kubernetes: only what the old networks wrote on it is looked at.
fn node(reader: &mut Reader<'_>, cluster: &Cluster<'_>, output: &mut Output) {
    const KUBERNETES: &str = "Kubernetes' own: it stays as it is";
    calico::node_annotations(reader, output);
    kube_router::node_annotations(reader, cluster, output);
    let Some(object) = reader.input.value.as_object() else {
        return;
    };
    for key in object.keys() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            reader.not_needed(&super::report::join("", key), KUBERNETES);
        }
    }
    let metadata = reader.get("metadata").and_then(Value::as_object);
    for key in metadata.into_iter().flat_map(serde_json::Map::keys) {
        if key != "annotations" {
            reader.not_needed(&super::report::join("metadata", key), KUBERNETES);
        }
    }
    let annotations = reader.get("metadata.annotations");
    let annotations = annotations.and_then(Value::as_object);
    for key in annotations.into_iter().flat_map(serde_json::Map::keys) {
        let theirs = ["projectcalico.org/", "kube-router.io/"];
        if !theirs.iter().any(|prefix| key.starts_with(prefix)) {
            reader.not_needed(
                &super::report::join("metadata.annotations", key),
                KUBERNETES,
            );
        }
    }
}

/// Says one thing of every field of an object.
pub(super) fn whole(reader: &mut Reader<'_>, why: &str) {
    let Some(object) = reader.input.value.as_object() else {
        return;
    };
    for key in object.keys() {
        if !matches!(key.as_str(), "apiVersion" | "kind") {
            reader.not_needed(&super::report::join("", key), why);
        }
    }
}
