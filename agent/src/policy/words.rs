//! Rules and selectors in few words, as tables show them.

use api::LabelSelector;
use api::labels::Requirement;
use api::resources::{
    ClusterAction, ClusterPeer, ClusterPort, ClusterRule, IpBlock, Peer, PolicyRule, Port,
    PortMatch, Protocol,
};

/// A NetworkPolicy's rule: who, and which ports.
pub(super) fn network_rule(rule: &PolicyRule) -> String {
    let peers = match &rule.peers {
        None => "everybody".to_owned(),
        Some(peers) => listed(peers.iter().map(peer), "nobody"),
    };
    let ports = match &rule.ports {
        None => "everything".to_owned(),
        Some(ports) => listed(ports.iter().map(port), "nothing"),
    };
    format!("{peers}: {ports}")
}

/// A ClusterNetworkPolicy's rule.
pub(super) fn cluster_rule(rule: &ClusterRule) -> String {
    let peers = listed(rule.peers.iter().map(cluster_peer), "nobody");
    let ports = match &rule.protocols {
        None => "everything".to_owned(),
        Some(ports) => listed(ports.iter().map(cluster_port), "nothing"),
    };
    format!("{peers}: {ports}")
}

/// What it does with what it matches.
pub(super) fn action(action: ClusterAction) -> &'static str {
    match action {
        ClusterAction::Accept => "Accept",
        ClusterAction::Deny => "Deny",
        ClusterAction::Pass => "Pass",
    }
}

/// In small letters.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn listed(parts: impl Iterator<Item = String>, none: &str) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        return none.to_owned();
    }
    parts.join(" or ")
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods {
            namespaces: None,
            pods,
        } => format!("pods {} of its namespace", selector(pods)),
        Peer::Pods {
            namespaces: Some(namespaces),
            pods,
        } => pods_of(namespaces, pods),
        Peer::IpBlock(IpBlock { cidr, except }) if except.is_empty() => cidr.to_string(),
        Peer::IpBlock(IpBlock { cidr, except }) => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} but {}", except.join(", "))
        }
        Peer::Unsupported(why) => format!("(not understood: {why})"),
    }
}

fn pods_of(namespaces: &LabelSelector, pods: &LabelSelector) -> String {
    format!(
        "pods {} of namespaces {}",
        selector(pods),
        selector(namespaces)
    )
}

fn cluster_peer(peer: &ClusterPeer) -> String {
    match peer {
        ClusterPeer::Pods(pods) => pods_of(&pods.namespaces, &pods.pods),
        ClusterPeer::Nodes(nodes) => format!("nodes {}", selector(nodes)),
        ClusterPeer::Networks(nets) => listed(nets.iter().map(ToString::to_string), "no network"),
        ClusterPeer::DomainNames(names) => listed(names.iter().map(ToString::to_string), "no name"),
        ClusterPeer::Unsupported(why) => format!("(not understood: {why})"),
    }
}

fn port(Port { protocol: of, port }: &Port) -> String {
    let of = protocol(*of);
    match port {
        PortMatch::Any => of.to_owned(),
        PortMatch::Range(first, last) if first == last => format!("{of} {first}"),
        PortMatch::Range(first, last) => format!("{of} {first}-{last}"),
        PortMatch::Named(name) => format!("{of} {name}"),
        PortMatch::Unsupported(why) => format!("(not understood: {why})"),
    }
}

fn cluster_port(one: &ClusterPort) -> String {
    match one {
        ClusterPort::Port(one) => port(one),
        ClusterPort::Named(name) => format!("port {name}"),
        ClusterPort::Unsupported(why) => format!("(not understood: {why})"),
    }
}

/// As kubectl takes it.
fn selector(selector: &LabelSelector) -> String {
    if selector.requirements.is_empty() {
        return "*".to_owned();
    }
    let parts = selector.requirements.iter().map(|one| match one {
        Requirement::In(key, values) if values.len() == 1 => {
            format!("{key}={}", joined(values))
        }
        Requirement::In(key, values) => format!("{key} in ({})", joined(values)),
        Requirement::NotIn(key, values) if values.len() == 1 => {
            format!("{key}!={}", joined(values))
        }
        Requirement::NotIn(key, values) => format!("{key} notin ({})", joined(values)),
        Requirement::Exists(key) => key.clone(),
        Requirement::DoesNotExist(key) => format!("!{key}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

fn joined(values: &std::collections::BTreeSet<String>) -> String {
    values
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}
