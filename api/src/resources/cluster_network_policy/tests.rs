//! The rules of semantics.md §2 that reading a ClusterNetworkPolicy decides, and what of one may be wrong.

mod parts;
mod whole;

use serde_json::{Value, json};

use super::*;
use crate::resources::{PortMatch, Protocol};
use crate::{Key, Labels, ParseError, Resource, parse};

fn read(spec: Value) -> Result<ClusterNetworkPolicy, ParseError> {
    let value = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": spec,
        "status": {"conditions": []},
    });
    match parse(
        "ClusterNetworkPolicy",
        "policy.networking.k8s.io/v1alpha2",
        value,
    )? {
        Some((Key::ClusterNetworkPolicy(name), Resource::ClusterNetworkPolicy(policy))) => {
            assert_eq!(name, policy.name);
            Ok(policy)
        }
        other => panic!("{other:?}"),
    }
}

/// A policy for all pods with these fields changed.
fn spec(changes: Value) -> Value {
    let mut spec = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}});
    for (field, value) in changes.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    spec
}

fn policy(changes: Value) -> ClusterNetworkPolicy {
    read(spec(changes)).expect("a policy")
}

fn refused(changes: Value) -> String {
    let error = read(spec(changes)).expect_err("a wrong policy");
    assert_eq!(error.object(), Some("ClusterNetworkPolicy p"));
    error.to_string()
}

/// The only egress rule.
fn egress(rule: Value) -> ClusterRule {
    policy(json!({"egress": [rule]})).egress.remove(0)
}

fn ingress(rule: Value) -> ClusterRule {
    policy(json!({"ingress": [rule]})).ingress.remove(0)
}

/// The only peer of an egress rule that accepts.
fn to(peer: Value) -> ClusterPeer {
    let mut rule = egress(json!({"action": "Accept", "to": [peer]}));
    assert_eq!(rule.peers.len(), 1);
    rule.peers.remove(0)
}

fn from(peer: Value) -> ClusterPeer {
    let mut rule = ingress(json!({"action": "Accept", "from": [peer]}));
    assert_eq!(rule.peers.len(), 1);
    rule.peers.remove(0)
}

/// The only entry of `protocols`, beside a peer that is pods.
fn protocol(entry: Value) -> ClusterPort {
    let rule = json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": [entry]});
    let mut protocols = egress(rule).protocols.expect("protocols");
    assert_eq!(protocols.len(), 1);
    protocols.remove(0)
}

fn why(peer: &ClusterPeer) -> &str {
    match peer {
        ClusterPeer::Unsupported(why) => why,
        other => panic!("{other:?}"),
    }
}

fn why_port(port: &ClusterPort) -> &str {
    match port {
        ClusterPort::Unsupported(why) => why,
        other => panic!("{other:?}"),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn all_pods() -> NamespacedPods {
    NamespacedPods {
        namespaces: LabelSelector::default(),
        pods: LabelSelector::default(),
    }
}
