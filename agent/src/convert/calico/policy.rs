//! What of Calico's has no counterpart as a kind: policy, host endpoints, Felix.

use serde_json::Value;

use super::super::input::Reader;
use super::super::report::join;

const POLICY: &str = "write a NetworkPolicy, or where it holds for the whole cluster a ClusterNetworkPolicy \
(policy.networking.k8s.io/v1alpha2: tiers Admin and Baseline, priority, action Accept, Deny or Pass); `portolan policy try` tells what a change would do";

/// A kind, and what to do instead.
const KINDS: &[(&str, &str)] = &[
    ("GlobalNetworkPolicy", POLICY),
    ("NetworkPolicy", POLICY),
    (
        "StagedGlobalNetworkPolicy",
        "`portolan policy try` tells what a policy would do before it is applied",
    ),
    (
        "StagedNetworkPolicy",
        "`portolan policy try` tells what a policy would do before it is applied",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        "`portolan policy try` tells what a policy would do before it is applied",
    ),
    (
        "Tier",
        "ClusterNetworkPolicy has two: Admin before and Baseline after the NetworkPolicies",
    ),
    (
        "GlobalNetworkSet",
        "name the networks in the rules of a ClusterNetworkPolicy, or as ipBlock in a NetworkPolicy",
    ),
    (
        "NetworkSet",
        "name the networks as ipBlock in the rules of a NetworkPolicy",
    ),
    (
        "HostEndpoint",
        "Portolan's policy is for pods: guard the nodes' own ports by the hosts' firewall, which Portolan leaves alone",
    ),
    (
        "Profile",
        "a pod that no policy selects may send and receive, as Kubernetes has it",
    ),
    (
        "FelixConfiguration",
        "flags of the agent say such things (`portolan agent --help`): --mtu, --mark-mask, --iptables, --metrics, --log, --egress-to-own-node",
    ),
    (
        "LiveMigration",
        "Portolan moves no addresses of running machines",
    ),
];

/// Fields that have a counterpart of their own in the kinds of Kubernetes.
const HINTS: &[(&str, &str)] = &[
    (
        "order",
        "as priority of a ClusterNetworkPolicy: the lower is asked first",
    ),
    (
        "tier",
        "tier Admin or Baseline of a ClusterNetworkPolicy; NetworkPolicies stand between",
    ),
    (
        "selector",
        "podSelector of a NetworkPolicy, subject of a ClusterNetworkPolicy: label selectors of Kubernetes",
    ),
    (
        "namespaceSelector",
        "subject.namespaces of a ClusterNetworkPolicy",
    ),
    ("types", "policyTypes of a NetworkPolicy"),
    (
        "ingress",
        "ingress rules; action Log has none (--drop-log shows what is denied), nor have ICMP types, HTTP and services",
    ),
    (
        "egress",
        "egress rules, `domainNames` in a ClusterNetworkPolicy; action Log has none, nor have ICMP types and services",
    ),
    (
        "serviceAccountSelector",
        "no policy of Kubernetes selects by service account: put a label on the pods",
    ),
    ("doNotTrack", "it is for host endpoints"),
    ("preDNAT", "it is for host endpoints"),
    ("applyOnForward", "it is for host endpoints"),
    (
        "performanceHints",
        "nothing is needed: sets are built for every peer of a rule",
    ),
];

pub(super) fn convert(reader: &mut Reader<'_>) {
    reader.common(None);
    let kind = reader.input.kind.as_str();
    let is_policy = kind.ends_with("Policy");
    let instead = KINDS.iter().find(|(known, _)| *known == kind);
    let Some((_, instead)) = instead else {
        return reader.none("spec", "Portolan does not know this kind of Calico's");
    };
    let Some(Value::Object(fields)) = reader.get("spec") else {
        return reader.none("(the whole object)", instead);
    };
    if fields.is_empty() {
        reader.none("spec", instead);
    }
    for field in fields.keys() {
        let hint = HINTS.iter().find(|(name, _)| is_policy && name == field);
        let note = match hint {
            Some((_, hint)) => format!("{hint}; {instead}"),
            None => (*instead).to_owned(),
        };
        reader.none(&join("spec", field), &note);
    }
}
