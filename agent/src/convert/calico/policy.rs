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

/// Fields of FelixConfiguration that objects of Portolan's say.
const FELIX_HINTS: &[(&str, &str)] = &[
    (
        "wireguardEnabled",
        "`encapsulation: WireGuard` of each IPPool of IPv4, in place of what it has: Portolan encrypts what goes through the tunnel, and sends \
nothing of such a pool in the clear; let the network pass UDP 51820 and 51821",
    ),
    (
        "wireguardEnabledV6",
        "`encapsulation: WireGuard` of each IPPool of IPv6; its packets go through the same devices as those of IPv4",
    ),
    (
        "wireguardListeningPort",
        "the ports are UDP 51820 and 51821, of one device each, so that keys are replaced without a loss",
    ),
    (
        "wireguardHostEncryptionEnabled",
        "what nodes send each other is not encrypted by Portolan",
    ),
];

pub(super) fn convert(reader: &mut Reader<'_>) {
    reader.common(None);
    let kind = reader.input.kind.as_str();
    let hints = match kind {
        "FelixConfiguration" => FELIX_HINTS,
        _ if kind.ends_with("Policy") => HINTS,
        _ => &[],
    };
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
        let hint = hints.iter().find(|(name, _)| name == field);
        let note = match hint {
            Some((_, hint)) => format!("{hint}; {instead}"),
            None => (*instead).to_owned(),
        };
        reader.none(&join("spec", field), &note);
    }
}
