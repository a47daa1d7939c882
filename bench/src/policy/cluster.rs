//! A seeded cluster as manifests: 1,000 policies, 10,000 pods, 110 of them on the node under test, and changes of it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::random::Random;

/// The node under test.
pub(super) const NODE: &str = "bench";
/// NetworkPolicies.
pub(super) const POLICIES: usize = 1_000;
/// Pods of all nodes.
pub(super) const PODS: usize = 10_000;
/// Those of this node.
pub(crate) const LOCAL: usize = 110;
/// The address of the pod that is watched.
pub(super) const PROBE: [u8; 4] = [10, 99, 0, 1];
/// Namespaces; the first [`LOCAL`] hold a pod of this node each.
const NAMESPACES: usize = 500;
const CLUSTER_POLICIES: usize = 20;
/// Pods of other nodes that change; each has a file of its own.
const MOVING: usize = 400;
/// Namespaces and policies that change.
const CHANGING: usize = 40;
/// The directory refuses files above 4 MiB.
const PER_FILE: usize = 2_500;

/// What changes, one after the other.
#[derive(Debug)]
pub(super) struct Churn {
    random: Random,
    gone: Option<usize>,
    round: usize,
}

/// A file and its new text; `None`: it goes.
pub(super) type Edit = (String, Option<String>);

/// Writes all of it into a folder.
pub(super) fn write(folder: &Path) -> Result<()> {
    let mut random = Random::new(4_179);
    let mut pods = Vec::new();
    for number in 0..PODS {
        let pod = pod(number, &mut random);
        if is_moving(number) {
            put(folder, &file("pod", number), Some(&pod.to_string()))?;
        } else {
            pods.push(pod);
        }
    }
    for (part, items) in pods.chunks(PER_FILE).enumerate() {
        put(folder, &format!("pods{part}.json"), Some(&list(items)))?;
    }
    let mut rest = vec![node()];
    for number in 0..NAMESPACES {
        let namespace = namespace(number, &mut random);
        match number < CHANGING {
            true => put(folder, &file("ns", number), Some(&namespace.to_string()))?,
            false => rest.push(namespace),
        }
    }
    for number in 0..POLICIES {
        let policy = policy(number, 0, &mut random);
        match number < CHANGING {
            true => put(folder, &file("policy", number), Some(&policy.to_string()))?,
            false => rest.push(policy),
        }
    }
    rest.extend((0..CLUSTER_POLICIES).map(|number| cluster_policy(number, &mut random)));
    rest.extend(probe_policy());
    put(folder, "rest.json", Some(&list(&rest)))?;
    put(folder, "probe.json", Some(&probe(false)))
}

/// Renames a new text into place, or removes the file.
pub(super) fn put(folder: &Path, name: &str, text: Option<&str>) -> Result<()> {
    let path = folder.join(name);
    let Some(text) = text else {
        return std::fs::remove_file(&path).with_context(|| path.display().to_string());
    };
    let aside = folder.join(format!(".{name}.new"));
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, &path).with_context(|| path.display().to_string())
}

/// Name and namespace of a local pod.
pub(crate) fn local(number: usize) -> (String, String) {
    (namespace_of(number), format!("pod{number}"))
}

/// The watched pod's file: on, it is a peer of a policy that isolates a local pod.
pub(super) fn probe(on: bool) -> String {
    let state = if on { "on" } else { "off" };
    let labels = json!({"probe": state});
    pod_json(
        "ns499",
        "probe",
        &labels,
        &[PROBE.map(|octet| octet.to_string()).join(".")],
    )
    .to_string()
}

impl Churn {
    pub(super) fn new() -> Self {
        Self {
            random: Random::new(99),
            gone: None,
            round: 0,
        }
    }

    /// The next change: of ten, six pods change labels, two come or go, a namespace changes labels, a policy its ports.
    pub(super) fn next(&mut self) -> Edit {
        self.round += 1;
        let moving = self.below(MOVING);
        let number = PODS - MOVING + moving;
        match self.round % 10 {
            0 => {
                let number = self.below(CHANGING);
                let namespace = namespace(number, &mut self.random);
                (file("ns", number), Some(namespace.to_string()))
            }
            5 => {
                let number = self.below(CHANGING);
                let policy = policy(number, self.round, &mut self.random);
                (file("policy", number), Some(policy.to_string()))
            }
            3 if self.gone.is_none() => {
                self.gone = Some(number);
                (file("pod", number), None)
            }
            _ => {
                // The one that is gone comes back with the next change of a pod but four.
                let back = if self.round % 10 == 8 {
                    self.gone.take()
                } else {
                    None
                };
                let number = back.unwrap_or(number);
                if self.gone == Some(number) {
                    self.gone = None;
                }
                let pod = pod(number, &mut self.random);
                (file("pod", number), Some(pod.to_string()))
            }
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(u32::try_from(bound).unwrap_or(1)) as usize
    }
}

fn is_moving(number: usize) -> bool {
    number >= PODS - MOVING
}

fn file(kind: &str, number: usize) -> String {
    format!("{kind}-{number}.json")
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn namespace_of(number: usize) -> String {
    format!("ns{}", number % NAMESPACES)
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.244.0.0/22", "fd00:244::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

fn namespace(number: usize, random: &mut Random) -> Value {
    let team = format!("t{}", random.below(50));
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace_of(number), "labels": {"team": team}},
    })
}

/// A local one has no address here: CNI gives it.
fn pod(number: usize, random: &mut Random) -> Value {
    let labels =
        json!({"app": format!("a{}", random.below(20)), "tier": format!("r{}", random.below(5))});
    let addresses = match number < LOCAL {
        true => Vec::new(),
        false => vec![
            format!("10.100.{}.{}", number >> 8, number & 255),
            format!("fd00:100::{:x}", number + 1),
        ],
    };
    pod_json(
        &namespace_of(number),
        &format!("pod{number}"),
        &labels,
        &addresses,
    )
}

fn pod_json(namespace: &str, name: &str, labels: &Value, addresses: &[String]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let node = if addresses.is_empty() {
        NODE
    } else {
        "elsewhere"
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"podIPs": ips},
    })
}

/// Every second one is in a namespace of a local pod, so that some hundred are in force here.
fn policy(number: usize, port: usize, random: &mut Random) -> Value {
    let own = match number.is_multiple_of(2) {
        true => number / 2 % LOCAL,
        false => number % NAMESPACES,
    };
    let mut rules = |side: &str| {
        json!([{
            side: [
                {"podSelector": {"matchLabels": {"app": format!("a{}", random.below(20))}}},
                {"namespaceSelector": {"matchLabels": {"team": format!("t{}", random.below(50))}},
                 "podSelector": {"matchLabels": {"tier": format!("r{}", random.below(5))}}},
                {"ipBlock": {"cidr": format!("172.16.{}.0/24", random.below(256))}},
            ],
            "ports": [{"protocol": "TCP", "port": 8_000 + random.below(100)}, {"protocol": "TCP", "port": 9_000 + port}],
        }])
    };
    let mut spec = json!({"podSelector": {}, "ingress": rules("from"), "policyTypes": ["Ingress"]});
    if number.is_multiple_of(4)
        && let Some(spec) = spec.as_object_mut()
    {
        spec.insert("egress".to_owned(), rules("to"));
        spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress"]));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace_of(own), "name": format!("policy{number}")}, "spec": spec,
    })
}

fn cluster_policy(number: usize, random: &mut Random) -> Value {
    let (tier, action) = match number.is_multiple_of(2) {
        true => ("Admin", "Pass"),
        false => ("Baseline", "Deny"),
    };
    let team =
        |random: &mut Random| json!({"matchLabels": {"team": format!("t{}", random.below(50))}});
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("cluster{number}")},
        "spec": {
            "tier": tier, "priority": number,
            "subject": {"namespaces": team(random)},
            "ingress": [{"name": "one", "action": action, "from": [{"namespaces": team(random)}]}],
        },
    })
}

fn probe_policy() -> [Value; 1] {
    [json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace_of(0), "name": "probe"},
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"probe": "on"}},
            }]}],
        },
    })]
}
