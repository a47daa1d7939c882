//! Which addresses are to be answered for, and which nodes may: from Services, their endpoints, Nodes and IPPools. Every node
//! comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::{IpPool, Node, Service, TrafficPolicy};
use netfilter::Family;

use super::order::order;
use crate::proxy::announce::Unfit;
use crate::proxy::endpoints::{Endpoint, gather};
use crate::proxy::index::Index;
use crate::proxy::model::{FrontendKind, Model, ServicePort};

/// An address to answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The nodes that may, the first one first. Empty: nobody may.
    pub order: Arc<[String]>,
    /// The IPPool that says so.
    pub pool: String,
    /// The interfaces that answer; empty: those of the address's subnet.
    pub interfaces: BTreeSet<String>,
}

/// All addresses of Services that are in a pool with `layer2`. `before`: what it was, so that only what differs is worked out.
pub fn wanted(
    (index, model): (&Index, &Model),
    nodes: &[&Node],
    pools: &[&IpPool],
    before: &BTreeMap<IpAddr, Wanted>,
) -> BTreeMap<IpAddr, Wanted> {
    let mut may: BTreeMap<IpAddr, (&IpPool, BTreeSet<&str>)> = BTreeMap::new();
    let pools: Vec<_> = pools.iter().filter(|pool| pool.layer2.is_some()).collect();
    if pools.is_empty() {
        return BTreeMap::new();
    }
    let fit: Vec<_> = nodes
        .iter()
        .filter(|node| Unfit::of(node).is_none())
        .collect();
    for service in index.services() {
        let both = [&service.load_balancer_ips, &service.external_ips];
        for address in both.into_iter().flatten() {
            let Some(pool) = pools.iter().find(|pool| pool.cidr.contains(address)) else {
                continue;
            };
            let fit = fit
                .iter()
                .filter(|node| pool.node_selector.matches(&node.labels));
            let fit: BTreeSet<&str> = fit.map(|node| node.name.as_str()).collect();
            let (_, nodes) = may
                .entry(*address)
                .or_insert_with(|| (pool, BTreeSet::new()));
            nodes.extend(with_a_reason(service, *address, (index, model), fit));
        }
    }
    let of = |(address, (pool, nodes)): (IpAddr, (&IpPool, BTreeSet<&str>))| {
        let known = before.get(&address).map(|before| &before.order);
        let known = known
            .filter(|known| known.iter().map(String::as_str).collect::<BTreeSet<_>>() == nodes);
        let wanted = Wanted {
            order: known
                .cloned()
                .unwrap_or_else(|| order(address, nodes).into()),
            pool: pool.name.clone(),
            interfaces: pool.layer2.clone().unwrap_or_default(),
        };
        (address, wanted)
    };
    may.into_iter().map(of).collect()
}

/// Of these nodes those that packets to an address of this Service should come to.
fn with_a_reason<'a>(
    service: &Service,
    address: IpAddr,
    (index, model): (&Index, &Model),
    fit: BTreeSet<&'a str>,
) -> BTreeSet<&'a str> {
    let served = model.service(&service.name);
    let ports = served.map_or(&[][..], |served| &served.ports);
    // What another Service has, it has not.
    let has_it = |port: &&ServicePort| {
        let mut frontends = port.frontends.iter();
        frontends.any(|one| one.address == Some(address) && one.kind != FrontendKind::ClusterIp)
    };
    let endpoints = ports.iter().filter(has_it).flat_map(|port| {
        let family = Family::of(address);
        let slices = index.slices(&service.name);
        asked(gather(slices, &port.name, family, index.place()))
    });
    match service.external_traffic_policy {
        TrafficPolicy::Cluster => {
            let is_anybody_there = endpoints.into_iter().next().is_some();
            fit.into_iter().filter(|_| is_anybody_there).collect()
        }
        TrafficPolicy::Local => {
            let homes: BTreeSet<String> = endpoints.filter_map(|one| one.node).collect();
            fit.into_iter()
                .filter(|node| homes.contains(*node))
                .collect()
        }
    }
}

/// Who is asked: those that are ready, and where nobody is, those that end and answer still (KEP-1669).
fn asked(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let is_any_ready = endpoints.iter().any(|one| one.is_ready);
    let is_asked = |one: &Endpoint| match is_any_ready {
        true => one.is_ready,
        false => one.is_serving && one.is_terminating,
    };
    endpoints.into_iter().filter(is_asked).collect()
}

#[cfg(test)]
mod tests;
