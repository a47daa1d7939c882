//! Which endpoints of a Service's port packets of this node are sent to, and why the others are left out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use api::resources::{AddressType, EndpointSlice, Service, TrafficPolicy};
use netfilter::Family;

use super::PortName;
use super::index::Place;

/// An endpoint as the slices tell of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address, and the port it listens at.
    pub address: SocketAddr,
    /// Whether it runs on this node.
    pub is_local: bool,
    /// Whether it wants new connections.
    pub is_ready: bool,
    /// Whether it would answer them.
    pub is_serving: bool,
    /// Whether it is about to end.
    pub is_terminating: bool,
    /// The node it runs on; none of what is outside of the cluster (semantics 122).
    pub node: Option<String>,
    /// The zones that it is meant for.
    pub for_zones: BTreeSet<String>,
    /// The nodes that it is meant for.
    pub for_nodes: BTreeSet<String>,
}

impl Endpoint {
    /// Whether it may be asked where nobody is ready (KEP-1669, semantics 123).
    fn is_last_resort(&self) -> bool {
        !self.is_ready && self.is_serving && self.is_terminating
    }
}

/// Why no packet of this node is sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It says that it wants no connections.
    NotReady,
    /// It ends, and would answer no more.
    NotServing,
    /// It ends, and others are ready.
    Draining,
    /// Its hints mean it for other nodes, and there are some for this node.
    ForOtherNodes,
    /// Its hints mean it for other zones, and there are some for this zone.
    ForOtherZones,
    /// It is on another node, and the policies of this Service ask this node's alone.
    NotLocal,
}

/// How hints narrowed the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Not at all.
    #[default]
    Everywhere,
    /// To those meant for this node.
    SameNode,
    /// To those meant for this node's zone.
    SameZone,
}

/// What there is to choose from behind one port of a Service, in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Whom policy Cluster asks, in the order of their addresses. Empty if no policy of this Service does.
    pub cluster: Vec<Endpoint>,
    /// Whom policy Local asks; likewise.
    pub local: Vec<Endpoint>,
    /// Whom nobody on this node asks.
    pub left_out: Vec<(Endpoint, Why)>,
    /// How hints narrowed `cluster`.
    pub topology: Topology,
    /// Whether anyone in the cluster can be asked: what tells "refused" from "not here" (semantics 125).
    pub has_any: bool,
}

impl Choice {
    /// All that would answer, asked or not: a UDP flow to another leads nowhere (semantics 140).
    pub fn serving(&self) -> BTreeSet<SocketAddr> {
        let left_out = self.left_out.iter().map(|(one, _)| one);
        let all = self.cluster.iter().chain(&self.local).chain(left_out);
        all.filter(|one| one.is_serving)
            .map(|one| one.address)
            .collect()
    }
}

/// Which policies of a Service ask for endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// Whether somebody's packets go to the cluster's endpoints.
    pub cluster: bool,
    /// Whether somebody's packets go to this node's endpoints alone.
    pub local: bool,
}

impl Scopes {
    /// Of a port that is reachable from outside (or not). Even with policy Local from outside this node itself and its pods
    /// ask the cluster's endpoints (semantics 130).
    pub fn of(service: &Service, is_external: bool) -> Self {
        let is_local = |policy| policy == TrafficPolicy::Local;
        let internal_is_local = is_local(service.internal_traffic_policy);
        Self {
            cluster: !internal_is_local || is_external,
            local: internal_is_local || (is_external && is_local(service.external_traffic_policy)),
        }
    }
}

/// All endpoints of a port in one family, each once (semantics 119–122).
pub fn gather<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &PortName,
    family: Family,
    place: &Place,
) -> Vec<Endpoint> {
    let of_family = |slice: &&EndpointSlice| match slice.address_type {
        AddressType::Ipv4 => family == Family::V4,
        AddressType::Ipv6 => family == Family::V6,
        AddressType::Fqdn => false,
    };
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices.filter(of_family) {
        let is_asked = |one: &&api::resources::EndpointPort| {
            one.name == port.port && one.protocol == port.protocol
        };
        for number in slice.ports.iter().filter(is_asked).map(|one| one.port) {
            for endpoint in &slice.endpoints {
                let endpoint = read(endpoint, number, place);
                match found.entry(endpoint.address) {
                    Entry::Vacant(empty) => drop(empty.insert(endpoint)),
                    Entry::Occupied(mut held) if is_better(&endpoint, held.get()) => {
                        held.insert(endpoint);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
    found.into_values().collect()
}

fn read(endpoint: &api::resources::Endpoint, port: u16, place: &Place) -> Endpoint {
    let is_local = endpoint.node_name.as_ref() == Some(&place.node);
    Endpoint {
        address: SocketAddr::new(endpoint.address, port),
        is_local,
        is_ready: endpoint.is_ready,
        is_serving: endpoint.is_serving,
        is_terminating: endpoint.is_terminating,
        node: endpoint.node_name.clone(),
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
    }
}

/// Of two copies, while a pod moves between slices: the local one, then the one that can do more; the rest keeps the choice
/// from hanging on the slices' order (semantics 120).
fn is_better(new: &Endpoint, held: &Endpoint) -> bool {
    let rank = |one: &Endpoint| {
        (
            one.is_local,
            one.is_ready,
            one.is_serving,
            !one.is_terminating,
        )
    };
    (rank(new), new) > (rank(held), held)
}

/// Chooses among the endpoints of a port (semantics 123–124, 130–131).
pub fn choose(endpoints: Vec<Endpoint>, scopes: Scopes, place: &Place) -> Choice {
    let topology = match scopes.cluster {
        true => topology(&endpoints, place),
        false => Topology::Everywhere,
    };
    let ready = |one: &&Endpoint| one.is_ready && is_meant(one, topology, place);
    let cluster = match scopes.cluster {
        true => usable(&endpoints, ready, |_| true),
        false => Vec::new(),
    };
    let local = match scopes.local {
        true => usable(
            &endpoints,
            |one| one.is_ready && one.is_local,
            |one| one.is_local,
        ),
        false => Vec::new(),
    };
    let has_any = endpoints
        .iter()
        .any(|one| one.is_ready || one.is_last_resort());
    let asked: BTreeSet<SocketAddr> = cluster
        .iter()
        .chain(&local)
        .map(|one| one.address)
        .collect();
    let left_out = endpoints
        .into_iter()
        .filter(|one| !asked.contains(&one.address))
        .map(|one| {
            let why = why(&one, topology, scopes);
            (one, why)
        });
    Choice {
        left_out: left_out.collect(),
        cluster,
        local,
        topology,
        has_any,
    }
}

/// Those that are ready; if there are none, those that end and still serve: of the same scope, and without hints.
fn usable(
    endpoints: &[Endpoint],
    is_usable: impl Fn(&&Endpoint) -> bool,
    is_in_scope: impl Fn(&Endpoint) -> bool,
) -> Vec<Endpoint> {
    let ready: Vec<Endpoint> = endpoints.iter().filter(is_usable).cloned().collect();
    if !ready.is_empty() {
        return ready;
    }
    let last = endpoints
        .iter()
        .filter(|one| one.is_last_resort() && is_in_scope(one));
    last.cloned().collect()
}

/// Hints count only if every ready endpoint has one of the kind, and one is for us (semantics 124).
fn topology(endpoints: &[Endpoint], place: &Place) -> Topology {
    let ready = || endpoints.iter().filter(|one| one.is_ready);
    let all_for_nodes = ready().all(|one| !one.for_nodes.is_empty());
    if all_for_nodes && ready().any(|one| one.for_nodes.contains(&place.node)) {
        return Topology::SameNode;
    }
    let all_for_zones = ready().all(|one| !one.for_zones.is_empty());
    let is_ours = |one: &Endpoint| match &place.zone {
        Some(zone) => one.for_zones.contains(zone),
        None => false,
    };
    match all_for_zones && ready().any(is_ours) {
        true => Topology::SameZone,
        false => Topology::Everywhere,
    }
}

fn is_meant(endpoint: &Endpoint, topology: Topology, place: &Place) -> bool {
    match topology {
        Topology::Everywhere => true,
        Topology::SameNode => endpoint.for_nodes.contains(&place.node),
        Topology::SameZone => match &place.zone {
            Some(zone) => endpoint.for_zones.contains(zone),
            None => false,
        },
    }
}

fn why(endpoint: &Endpoint, topology: Topology, scopes: Scopes) -> Why {
    match endpoint {
        one if !one.is_ready && one.is_terminating && one.is_serving => Why::Draining,
        one if !one.is_ready && one.is_terminating => Why::NotServing,
        one if !one.is_ready => Why::NotReady,
        _ if !scopes.cluster => Why::NotLocal,
        _ => match topology {
            Topology::SameNode => Why::ForOtherNodes,
            Topology::SameZone => Why::ForOtherZones,
            // Policy Cluster asks all that are ready then.
            Topology::Everywhere => Why::NotLocal,
        },
    }
}

#[cfg(test)]
mod tests;
