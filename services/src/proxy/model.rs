//! What every address of every Service does with a packet, by who sends it: the one model that all back ends carry out.

mod claims;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::NamespacedName;
use api::resources::{self, Service, ServiceType, TrafficPolicy};
use ipnet::IpNet;
use netfilter::Family;

use self::claims::{Claimant, Claims};
pub use self::claims::{Frontend, FrontendKind};
use super::PortName;
use super::endpoints::{self, Choice, Scopes};
use super::health::HealthCheck;
use super::index::{Index, Touched};

/// What becomes of a packet that opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It goes to one of the endpoints.
    Forward {
        /// Which.
        to: Scope,
        /// Whether it gets the node's address as its source. An endpoint that asks itself always does (semantics 129).
        masquerade: bool,
    },
    /// The sender is told that nobody listens.
    Reject,
    /// Nothing: whoever asks elsewhere may be answered.
    Drop,
}

/// Which of [`Choice`]'s lists is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `cluster`.
    Cluster,
    /// `local`.
    Local,
}

/// An answer for each kind of sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answers {
    /// This node's pods.
    pub own_pod: Answer,
    /// This node itself.
    pub node: Answer,
    /// Everybody else.
    pub other: Answer,
}

/// One port of a Service, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: PortName,
    /// The family.
    pub family: Family,
    /// Where it is asked, in order; those that another Service has are not among them.
    pub frontends: Vec<Frontend>,
    /// What it claims and another has.
    pub lost: Vec<(Frontend, PortName)>,
    /// What its cluster IP does.
    pub internal: Answers,
    /// What all its other frontends do.
    pub external: Answers,
    /// Who may ask its load balancer addresses; empty: everybody. All others' packets are dropped (semantics 136).
    pub sources: Vec<IpNet>,
    /// For how long a client keeps its endpoint (semantics 137).
    pub affinity: Option<Duration>,
    /// Its endpoints.
    pub choice: Choice,
}

impl ServicePort {
    /// What a frontend of this kind does.
    pub fn answers(&self, kind: FrontendKind) -> &Answers {
        match kind {
            FrontendKind::ClusterIp => &self.internal,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
                &self.external
            }
        }
    }

    /// The endpoints of a scope.
    pub fn endpoints(&self, scope: Scope) -> &[endpoints::Endpoint] {
        match scope {
            Scope::Cluster => &self.choice.cluster,
            Scope::Local => &self.choice.local,
        }
    }
}

/// A Service as this node serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its ports: IPv4's, then IPv6's.
    pub ports: Vec<ServicePort>,
    /// What a load balancer asks to know whether this node has endpoints.
    pub health: Option<HealthCheck>,
}

/// All Services as this node serves them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    services: BTreeMap<NamespacedName, Arc<Served>>,
    claims: Claims,
}

impl Model {
    /// Makes anew what a change of the index may concern; returns the Services that are served otherwise than before.
    pub fn refresh(&mut self, index: &Index, touched: &Touched) -> Touched {
        let mut concerned = touched.clone();
        for name in touched {
            let service = index.service(name).map(AsRef::as_ref);
            let claims = service.map_or_else(Vec::new, claims_of);
            concerned.extend(self.claims.set(name, claims));
        }
        concerned.retain(|name| self.refresh_one(index, name));
        concerned
    }

    fn refresh_one(&mut self, index: &Index, name: &NamespacedName) -> bool {
        let Some(service) = index.service(name) else {
            return self.services.remove(name).is_some();
        };
        let served = Served {
            ports: ports(service, index, &self.claims),
            health: HealthCheck::of(service, index),
        };
        if self.services.get(name).is_some_and(|old| **old == served) {
            return false;
        }
        self.services.insert(name.clone(), Arc::new(served));
        true
    }

    /// A Service, if this node serves it.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Served>> {
        self.services.get(name)
    }

    /// All, by their names.
    pub fn services(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<Served>)> {
        self.services.iter()
    }
}

fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    let addresses = addresses.iter().copied();
    addresses.filter(move |address| Family::of(*address) == family)
}

fn port_name(service: &Service, port: &resources::ServicePort) -> PortName {
    PortName {
        service: service.name.clone(),
        port: port.name.clone(),
        protocol: port.protocol,
    }
}

/// Where a port wants to be asked. Without a cluster IP of a family a Service has nothing in it (semantics 145).
fn frontends(service: &Service, port: &resources::ServicePort, family: Family) -> Vec<Frontend> {
    let Some(cluster_ip) = of_family(&service.cluster_ips, family).next() else {
        return Vec::new();
    };
    let at = |kind| move |address| Frontend::at(kind, address, port.port);
    let mut frontends = vec![Frontend::at(FrontendKind::ClusterIp, cluster_ip, port.port)];
    let external = of_family(&service.external_ips, family);
    frontends.extend(external.map(at(FrontendKind::ExternalIp)));
    let balanced = of_family(&service.load_balancer_ips, family);
    frontends.extend(balanced.map(at(FrontendKind::LoadBalancer)));
    frontends.extend(
        port.node_port
            .map(|number| Frontend::node_port(family, number)),
    );
    frontends.sort();
    frontends.dedup();
    frontends
}

fn claims_of(service: &Service) -> Vec<Claimant> {
    let mut claims = Vec::new();
    for family in Family::ALL {
        for port in &service.ports {
            let name = port_name(service, port);
            let created = service.created.clone();
            let claimed = frontends(service, port, family).into_iter();
            claims.extend(claimed.map(|one| Claimant::new(one, created.clone(), name.clone())));
        }
    }
    claims
}

fn ports(service: &Service, index: &Index, claims: &Claims) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for family in Family::ALL {
        for port in &service.ports {
            let wanted = frontends(service, port, family);
            if !wanted.is_empty() {
                ports.push(served(service, port, family, wanted, (index, claims)));
            }
        }
    }
    ports
}

fn served(
    service: &Service,
    port: &resources::ServicePort,
    family: Family,
    wanted: Vec<Frontend>,
    (index, claims): (&Index, &Claims),
) -> ServicePort {
    let name = port_name(service, port);
    let is_external = wanted.iter().any(|one| one.kind != FrontendKind::ClusterIp);
    let scopes = Scopes::of(service, is_external);
    let place = index.place();
    let found = endpoints::gather(index.slices(&service.name), &name, family, place);
    let choice = endpoints::choose(found, scopes, place);
    let (mut frontends, mut lost) = (Vec::new(), Vec::new());
    for one in wanted {
        match claims.holder(&one, name.protocol) {
            Some(holder) if !holder.is(&one, &name) => {
                // An address that a Service names twice is its own still.
                if holder.name != name {
                    lost.push((one, holder.name.clone()));
                }
            }
            _ => frontends.push(one),
        }
    }
    ServicePort {
        internal: internal(service, &choice),
        external: external(service, &choice),
        sources: sources(service, family, &place.addresses),
        affinity: service.session_affinity,
        name,
        family,
        frontends,
        lost,
        choice,
    }
}

impl Answers {
    fn all(answer: Answer) -> Self {
        Self {
            own_pod: answer,
            node: answer,
            other: answer,
        }
    }
}

/// Semantics 125, 128: who is no pod of ours comes through this node, and answers must, too.
fn internal(service: &Service, choice: &Choice) -> Answers {
    if !choice.has_any {
        return Answers::all(Answer::Reject);
    }
    let to = match service.internal_traffic_policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local if choice.local.is_empty() => return Answers::all(Answer::Drop),
        TrafficPolicy::Local => Scope::Local,
    };
    let forward = |masquerade| Answer::Forward { to, masquerade };
    Answers {
        own_pod: forward(false),
        node: forward(true),
        other: forward(true),
    }
}

/// Semantics 125, 130.
fn external(service: &Service, choice: &Choice) -> Answers {
    if !choice.has_any {
        return Answers::all(Answer::Reject);
    }
    let forward = |to, masquerade| Answer::Forward { to, masquerade };
    match service.external_traffic_policy {
        TrafficPolicy::Cluster => Answers::all(forward(Scope::Cluster, true)),
        TrafficPolicy::Local => Answers {
            own_pod: forward(Scope::Cluster, false),
            node: forward(Scope::Cluster, true),
            other: match choice.local.is_empty() {
                true => Answer::Drop,
                false => forward(Scope::Local, false),
            },
        },
    }
}

/// Semantics 136: of this family; one range of all addresses is no restriction. Where the node may ask, it may do so from the
/// load balancer's address, which it has when it asks itself.
fn sources(service: &Service, family: Family, node: &[IpAddr]) -> Vec<IpNet> {
    let ranges = service.load_balancer_source_ranges.iter().copied();
    let mut ranges: Vec<IpNet> = ranges
        .filter(|range| Family::of(range.addr()) == family)
        .collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    let holds_node = node
        .iter()
        .any(|address| ranges.iter().any(|range| range.contains(address)));
    if holds_node {
        ranges.extend(of_family(&service.load_balancer_ips, family).map(IpNet::from));
    }
    ranges.sort();
    ranges.dedup();
    ranges
}

/// Whether a load balancer asks for this Service's health: others have no such port (semantics 138).
pub(super) fn needs_health_check(service: &Service) -> bool {
    service.service_type == ServiceType::LoadBalancer
        && service.external_traffic_policy == TrafficPolicy::Local
}

#[cfg(test)]
mod tests;
