//! What the model's values are called before people.

use std::net::SocketAddr;

use api::resources::{Protocol, ServiceType, TrafficPolicy};
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

pub(super) fn address(of: &Frontend) -> String {
    match of.address {
        Some(address) => SocketAddr::new(address, of.port).to_string(),
        None => format!("*:{}", of.port),
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
