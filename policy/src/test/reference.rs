//! What a NetworkPolicy says, read straight from the objects for one packet: slow and obvious.

use std::net::IpAddr;

use api::resources::{NetworkPolicy, Peer, Pod, PolicyRule, PortMatch, Protocol};
use api::{Labels, NamespacedName};

use super::fixture::Cluster;
use super::interpreter::Packet;
use crate::Direction;

struct Holder {
    pod: NamespacedName,
    labels: Labels,
}

/// Who holds an address as a pod, if anyone.
fn holder(cluster: &Cluster, address: IpAddr) -> Option<Holder> {
    let manifest = |name: &NamespacedName| cluster.pods.iter().find(|pod| pod.name == *name);
    if let Some(endpoint) = cluster
        .endpoints
        .values()
        .find(|one| one.addresses.contains(&address))
    {
        return match manifest(&endpoint.pod) {
            None => Some(Holder {
                pod: endpoint.pod.clone(),
                labels: Labels::new(),
            }),
            Some(pod) if pod.host_network || pod.finished => None,
            Some(pod) => Some(Holder {
                pod: pod.name.clone(),
                labels: pod.labels.clone(),
            }),
        };
    }
    let is_local = |pod: &Pod| {
        cluster
            .endpoints
            .values()
            .any(|endpoint| endpoint.pod == pod.name)
    };
    let holds = |pod: &&Pod| {
        !pod.host_network && !pod.finished && !is_local(pod) && pod.pod_ips.contains(&address)
    };
    let pod = cluster.pods.iter().find(holds)?;
    Some(Holder {
        pod: pod.name.clone(),
        labels: pod.labels.clone(),
    })
}

/// Whether a new connection may pass this node.
pub(super) fn allows(cluster: &Cluster, packet: &Packet) -> bool {
    let local = |interface: &str| cluster.endpoints.contains_key(interface);
    let egress = !local(&packet.input)
        || side_allows(
            cluster,
            packet,
            Direction::Egress,
            packet.source,
            packet.destination,
        );
    let ingress = !local(&packet.output)
        || side_allows(
            cluster,
            packet,
            Direction::Ingress,
            packet.destination,
            packet.source,
        );
    egress && ingress
}

fn side_allows(
    cluster: &Cluster,
    packet: &Packet,
    way: Direction,
    own: IpAddr,
    other: IpAddr,
) -> bool {
    let Some(subject) = holder(cluster, own) else {
        return true;
    };
    let selects = |policy: &&NetworkPolicy| {
        policy.name.namespace == subject.pod.namespace
            && policy.pod_selector.matches(&subject.labels)
    };
    let of_way = |policy: &NetworkPolicy| match way {
        Direction::Ingress => policy.ingress.clone(),
        Direction::Egress => policy.egress.clone(),
    };
    let mut isolated = false;
    for policy in cluster.policies.iter().filter(selects) {
        let Some(rules) = of_way(policy) else {
            continue;
        };
        isolated = true;
        let allowed = |rule: &PolicyRule| {
            peers_match(cluster, &policy.name.namespace, rule, other) && ports_match(rule, packet)
        };
        if rules.iter().any(allowed) {
            return true;
        }
    }
    !isolated
}

fn peers_match(cluster: &Cluster, own: &str, rule: &PolicyRule, other: IpAddr) -> bool {
    let Some(peers) = &rule.peers else {
        return true;
    };
    peers.iter().any(|peer| match peer {
        Peer::Unsupported(_) => false,
        Peer::IpBlock(block) => {
            block.cidr.contains(&other) && !block.except.iter().any(|hole| hole.contains(&other))
        }
        Peer::Pods { namespaces, pods } => {
            let Some(holder) = holder(cluster, other) else {
                return false;
            };
            let namespace_matches = match namespaces {
                None => holder.pod.namespace == own,
                Some(selector) => cluster
                    .namespaces
                    .iter()
                    .any(|one| one.name == holder.pod.namespace && selector.matches(&one.labels)),
            };
            namespace_matches && pods.matches(&holder.labels)
        }
    })
}

fn ports_match(rule: &PolicyRule, packet: &Packet) -> bool {
    let Some(ports) = &rule.ports else {
        return true;
    };
    ports.iter().any(|port| {
        let number = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        };
        let in_range = match port.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => (first..=last).contains(&packet.port),
            PortMatch::Named(_) | PortMatch::Unsupported(_) => false,
        };
        number == packet.protocol && in_range
    })
}
