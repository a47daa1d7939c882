//! Our kinds as people meet them on the real API server: manifests of the directory mode, mistyped fields, defaults, columns,
//! explanations.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use cluster::ControlPlane;
use serde_json::{Value, json};
use tests::wait::eventually;

/// The control plane with all kinds that an agent reads.
fn plane() -> &'static ControlPlane {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let plane = ControlPlane::shared();
    INSTALLED.get_or_init(|| {
        plane.install_crds();
        plane.install_cluster_network_policy();
    });
    plane
}

/// An example for one machine alone, and why an API server refuses it.
const NOT_FOR_A_CLUSTER: (&str, &str) = (
    "examples/ingress/endpoints.yaml",
    "may not be in the loopback range",
);

#[test]
fn every_manifest_of_the_examples_and_the_documentation_is_taken() {
    let plane = plane();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = files_below(&root.join("examples"), "yaml");
    assert!(files.len() >= 17, "{files:?}");
    files.extend(files_below(&root.join("docs"), "md"));
    let mut manifests = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let is_page = file.extension().is_some_and(|extension| extension == "md");
        let parts = if is_page { blocks(&text) } else { vec![text] };
        manifests.extend(parts.into_iter().map(|part| (file.clone(), part)));
    }
    let namespaces: BTreeSet<String> = manifests
        .iter()
        .flat_map(|(_, text)| namespaces_in(text))
        .collect();
    for name in &namespaces {
        make_namespace(plane, name);
    }
    let (mut taken, mut refused) = (0, Vec::new());
    for (file, text) in manifests {
        match plane.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &text) {
            Ok(said) => taken += said.matches("(server dry run)").count(),
            Err(error)
                if file.ends_with(NOT_FOR_A_CLUSTER.0)
                    && format!("{error:#}").contains(NOT_FOR_A_CLUSTER.1) => {}
            Err(error) => refused.push(format!("{}: {error:#}\n{text}", file.display())),
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(taken >= 60, "only {taken} objects");
}

#[test]
fn a_mistyped_field_is_told_by_its_name() {
    let plane = plane();
    let manifest = "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: mistyped}
spec: {peerAddress: 192.0.2.1, asNumber: 64513, holdTimer: 9s, bfd: {minTX: 300ms}}
";
    let refused = plane.try_apply(manifest).unwrap_err().to_string();
    for field in [
        r#"unknown field "spec.holdTimer""#,
        r#"unknown field "spec.bfd.minTX""#,
    ] {
        assert!(refused.contains(field), "{refused}");
    }
    // Clients that do not ask for more are warned, and the field is dropped: no agent meets it.
    let warned = plane
        .kubectl_with(&["apply", "--validate=warn", "-f", "-"], manifest)
        .unwrap();
    assert!(
        warned.contains(r#"unknown field "spec.holdTimer""#),
        "{warned}"
    );
    let stored = plane.kubectl(&["get", "bgppeer", "mistyped", "-o", "jsonpath={.spec}"]);
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        stored,
        json!({ "peerAddress": "192.0.2.1", "asNumber": 64513, "bfd": {} })
    );
}

#[test]
fn what_the_server_fills_in_is_what_the_directory_mode_means() {
    let plane = plane();
    let given = json!({ "cidr": "10.77.0.0/16" });
    let manifest = json!({
        "apiVersion": "portolan.io/v1alpha1",
        "kind": "IPPool",
        "metadata": { "name": "filled-in" },
        "spec": given,
    });
    plane.apply(&manifest.to_string());
    let stored = plane.kubectl(&["get", "ippool", "filled-in", "-o", "jsonpath={.spec}"]);
    let stored: Value = serde_json::from_str(&stored).unwrap();
    let read: api::crd::IpPoolSpec = serde_json::from_value(given).unwrap();
    assert_eq!(
        serde_json::from_value::<api::crd::IpPoolSpec>(stored.clone()).unwrap(),
        read
    );
    let fields = [
        "allowedUses",
        "cidr",
        "disabled",
        "encapsulation",
        "natOutgoing",
        "nodeSelector",
    ];
    let names: Vec<&String> = stored.as_object().unwrap().keys().collect();
    assert_eq!(names, fields);
}

#[test]
fn a_list_shows_what_one_looks_for() {
    let plane = plane();
    plane.apply(
        "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: listed}
spec: {nodeSelector: rack == 'r1', peerAddress: 192.0.2.9, asNumber: 65001}
---
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: listed}
spec: {cidr: 10.78.0.0/16, blockSize: 26, encapsulation: VXLAN}
---
apiVersion: portolan.io/v1alpha1
kind: BGPNodeStatus
metadata: {name: listed}
spec: {node: listed}
---
apiVersion: portolan.io/v1alpha1
kind: IPAMBlock
metadata: {name: 10-78-0-0-26}
spec: {cidr: 10.78.0.0/26, node: n7}
---
apiVersion: portolan.io/v1alpha1
kind: IPReservation
metadata: {name: listed}
spec: {reservedCIDRs: [10.78.0.1]}
",
    );
    let condition = json!({
        "type": "Accepted", "status": "False", "reason": "Invalid", "message": "why",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({ "status": { "conditions": [condition] } }).to_string();
    patch_status(plane, "bgppeer/listed", &status);
    patch_status(plane, "ippool/listed", &status);
    let sessions = json!({ "status": { "asNumber": 64512, "established": 3, "configured": 4 } });
    patch_status(plane, "bgpnodestatus/listed", &sessions.to_string());

    for (object, shown) in [
        (
            "bgppeer/listed",
            &[
                ("NODES", "rack == 'r1'"),
                ("PEER", "192.0.2.9"),
                ("AS", "65001"),
                ("ACCEPTED", "False"),
            ][..],
        ),
        (
            "ippool/listed",
            &[
                ("CIDR", "10.78.0.0/16"),
                ("BLOCK", "26"),
                ("ENCAPSULATION", "VXLAN"),
                ("ACCEPTED", "False"),
            ],
        ),
        (
            "bgpnodestatus/listed",
            &[("AS", "64512"), ("ESTABLISHED", "3"), ("CONFIGURED", "4")],
        ),
        (
            "ipamblock/10-78-0-0-26",
            &[("CIDR", "10.78.0.0/26"), ("NODE", "n7")],
        ),
        ("ipreservation/listed", &[("CIDRS", r#"["10.78.0.1"]"#)]),
    ] {
        let table = plane.kubectl(&["get", object]);
        for (column, value) in shown {
            assert_eq!(
                cell(&table, column).as_deref(),
                Some(*value),
                "{column} of\n{table}"
            );
        }
    }
}

#[test]
fn explain_reads_well() {
    let plane = plane();
    let explain = |what: &str| plane.try_kubectl(&["explain", what]);
    let peer = eventually(
        Duration::from_secs(60),
        "the server to publish the schema",
        || explain("bgppeer.spec"),
    );
    let peer = peer.unwrap();
    for text in [
        "Which nodes peer with whom.",
        "peerAddress\t<string>\n    The peer: `ip` or `ip:port`; a link-local one with its interface,",
        "holdTime\t<string>\n    RFC 4271 hold time (90 s; 0 or at least 3 s).",
        "enum: Auto, Self, Keep\n    Which next hop a peer is told.",
    ] {
        assert!(peer.contains(text), "{text} is not in\n{peer}");
    }
    for crd in api::crd::crds() {
        let plural = crd.spec.names.plural;
        let text = explain(&plural).unwrap();
        assert!(
            !text.contains("Auto-generated") && text.contains("spec\t<Object>"),
            "{text}"
        );
    }
}

#[test]
fn every_field_says_what_it_is() {
    let mut fields = 0;
    for crd in api::crd::crds() {
        let schema = json!(crd.spec.versions[0].schema);
        let schema = &schema["openAPIV3Schema"];
        fields += described(&crd.spec.names.kind, schema);
    }
    assert!(fields > 150, "only {fields}");
}

/// Panics at a field without a description; gives how many there are.
fn described(path: &str, schema: &Value) -> usize {
    let own = schema["properties"].as_object().into_iter().flatten();
    let own = own.map(|(name, field)| {
        let path = format!("{path}.{name}");
        let text = field["description"].as_str().unwrap_or_default();
        assert!(
            text.len() > 3 && text.ends_with(['.', ')', '`', ':']),
            "{path}: {text:?}"
        );
        1 + described(&path, field)
    });
    let own: usize = own.sum();
    own + schema
        .get("items")
        .map_or(0, |items| described(path, items))
}

fn patch_status(plane: &ControlPlane, object: &str, status: &str) {
    let patch = [
        "patch",
        object,
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    plane.kubectl(&patch);
}

/// A cell of the first row; kubectl's columns begin below their names.
fn cell(table: &str, column: &str) -> Option<String> {
    let mut lines = table.lines();
    let (head, row) = (lines.next()?, lines.next()?);
    let names: Vec<&str> = head.split_whitespace().collect();
    let place = names.iter().position(|name| *name == column)?;
    let begins: Vec<usize> = names
        .iter()
        .scan(0, |from, name| {
            let begin = head[*from..].find(name)? + *from;
            *from = begin + name.len();
            Some(begin)
        })
        .collect();
    let begin = *begins.get(place)?;
    let end = begins.get(place + 1).copied().unwrap_or(row.len());
    row.get(begin..end.min(row.len()))
        .map(|cell| cell.trim().to_owned())
}

fn make_namespace(plane: &ControlPlane, name: &str) {
    // No controller makes the ServiceAccount here, which admission asks of Pods.
    plane.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{namespace: {name}, name: default}}}}\n"
    ));
}

fn namespaces_in(manifest: &str) -> Vec<String> {
    let parts = manifest.split("namespace: ").skip(1);
    let names = parts.map(|part| {
        let end = part.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        part[..end.unwrap_or(part.len())].to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// The YAML of a page's blocks that are whole objects.
fn blocks(page: &str) -> Vec<String> {
    let blocks = page.split("\n```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| Some(block.split_once("\n```")?.0.to_owned()));
    blocks
        .filter(|block| block.contains("apiVersion:") && block.contains("kind:"))
        .collect()
}

fn files_below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}
