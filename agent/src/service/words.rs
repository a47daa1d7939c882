//! What the model's values are called before people.

use std::net::SocketAddr;

use api::resources::{Protocol, ServiceType, TrafficPolicy};
use ipnet::IpNet;
use netfilter::Family;
use services::proxy::endpoints::{Topology, Why};
use services::proxy::model::{Answer, Frontend, FrontendKind, Scope};

pub(super) fn service_type(of: ServiceType) -> &'static str {
    match of {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    }
}

pub(super) fn policy(of: TrafficPolicy) -> &'static str {
    match of {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

pub(super) fn protocol(of: Protocol) -> &'static str {
    match of {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

pub(super) fn kind(of: FrontendKind) -> &'static str {
    match of {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::LoadBalancer => "load balancer",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::NodePort => "node port",
    }
}

/// `ranges`: the node's addresses that answer at node ports; empty: all.
pub(super) fn address(of: &Frontend, ranges: &[IpNet]) -> String {
    if let Some(address) = of.address {
        return SocketAddr::new(address, of.port).to_string();
    }
    let of_family = ranges
        .iter()
        .filter(|range| Family::of(range.addr()) == of.family);
    let of_family: Vec<String> = of_family.map(ToString::to_string).collect();
    match (ranges.is_empty(), of_family.is_empty()) {
        (true, _) => format!("*:{}", of.port),
        (false, true) => format!("nowhere:{}", of.port),
        (false, false) => format!("{}:{}", of_family.join(","), of.port),
    }
}

pub(super) fn answer(of: Answer) -> String {
    match of {
        Answer::Forward { to, masquerade } => {
            let to = match to {
                Scope::Cluster => "cluster",
                Scope::Local => "local",
            };
            let by = if masquerade {
                ", by the node's address"
            } else {
                ""
            };
            format!("to {to}{by}")
        }
        Answer::Reject => "refused".to_owned(),
        Answer::Drop => "dropped".to_owned(),
    }
}

pub(super) fn why(of: Why) -> &'static str {
    match of {
        Why::NotReady => {
            "not ready: its readiness probe fails, or it has none of its containers up yet"
        }
        Why::NotServing => "it ends, and answers no more",
        Why::Draining => "it ends, and others are ready",
        Why::ForOtherNodes => {
            "its hints mean it for other nodes, and some endpoint is meant for this one"
        }
        Why::ForOtherZones => {
            "its hints mean it for other zones, and some endpoint is meant for this one's"
        }
        Why::NotLocal => "it is on another node, and traffic policy Local asks this node's alone",
    }
}

pub(super) fn topology(of: Topology) -> Option<&'static str> {
    match of {
        Topology::Everywhere => None,
        Topology::SameNode => Some("only endpoints that are meant for this node are asked"),
        Topology::SameZone => Some("only endpoints that are meant for this node's zone are asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_132_a_node_port_is_shown_at_the_addresses_that_are_said() {
        let shown = |family, ranges: &[&str]| {
            let ranges: Vec<IpNet> = ranges.iter().map(|one| one.parse().unwrap()).collect();
            let frontend = Frontend {
                kind: FrontendKind::NodePort,
                family,
                address: None,
                port: 30080,
            };
            address(&frontend, &ranges)
        };
        let ranges = ["10.0.0.0/8", "192.0.2.0/24"];
        assert_eq!(shown(Family::V4, &[]), "*:30080");
        assert_eq!(shown(Family::V4, &ranges), "10.0.0.0/8,192.0.2.0/24:30080");
        assert_eq!(shown(Family::V6, &ranges), "nowhere:30080");
    }
}
