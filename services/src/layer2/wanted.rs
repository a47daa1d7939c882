//! Which addresses are to be answered for, and which nodes may: from Services, their endpoints, Nodes and IPPools. Every node
//! comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{IpPool, Node, Service, TrafficPolicy};
use ipnet::IpNet;
use netfilter::Family;

use super::order::order;
use crate::proxy::announce::Unfit;
use crate::proxy::endpoints::{Endpoint, gather};
use crate::proxy::index::{Index, Touched};
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

/// All addresses of Services that are in a pool with `layer2`. A change costs what it concerns, not what there is.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    pools: Vec<Pool>,
    services: BTreeMap<NamespacedName, BTreeMap<IpAddr, Reason>>,
    /// The Services that have an address: several may share it.
    holders: BTreeMap<IpAddr, BTreeSet<NamespacedName>>,
    wanted: Arc<BTreeMap<IpAddr, Wanted>>,
}

/// A pool with `layer2`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    name: String,
    cidr: IpNet,
    interfaces: BTreeSet<String>,
    /// The nodes of its selector that take part.
    nodes: BTreeSet<String>,
}

/// Where packets to an address of one Service may come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Anywhere,
    /// To these nodes alone; without any, nobody can be asked.
    At(BTreeSet<String>),
}

impl Wants {
    /// Which nodes may answer for each address: the same allocation as long as that is the same.
    pub fn wanted(&self) -> &Arc<BTreeMap<IpAddr, Wanted>> {
        &self.wanted
    }

    /// The nodes that may answer for any address, as far as pools say.
    pub fn nodes(&self) -> BTreeSet<&str> {
        let nodes = self.pools.iter().flat_map(|pool| &pool.nodes);
        nodes.map(String::as_str).collect()
    }

    /// Takes Nodes and IPPools as they are now.
    pub fn set(&mut self, nodes: &[&Node], pools: &[&IpPool], (index, model): (&Index, &Model)) {
        let pools = read(nodes, pools);
        if pools == self.pools {
            return;
        }
        let was_empty = self.pools.is_empty();
        self.pools = pools;
        if self.pools.is_empty() {
            *self = Self::default();
        } else if was_empty {
            let all = index.services().map(|service| service.name.clone());
            self.update((index, model), &all.collect());
        } else {
            let all: BTreeSet<IpAddr> = self.holders.keys().copied().collect();
            self.decide(all);
        }
    }

    /// Takes the Services that a change concerns: all that the [`Index`] named, for readiness is more than the model shows, and all
    /// that [`Model::refresh`] did, for a Service may lose an address to another.
    pub fn update(&mut self, (index, model): (&Index, &Model), concerned: &Touched) {
        if self.pools.is_empty() {
            return;
        }
        let mut changed = BTreeSet::new();
        for name in concerned {
            let new = match index.service(name) {
                Some(service) => reasons(service, (index, model)),
                None => BTreeMap::new(),
            };
            changed.extend(self.replace(name, new));
        }
        self.decide(changed);
    }

    /// Takes a Service's addresses; gives those that it has otherwise than before.
    fn replace(
        &mut self,
        name: &NamespacedName,
        new: BTreeMap<IpAddr, Reason>,
    ) -> BTreeSet<IpAddr> {
        let old = match new.is_empty() {
            true => self.services.remove(name),
            false => self.services.insert(name.clone(), new.clone()),
        };
        let old = old.unwrap_or_default();
        let all: BTreeSet<IpAddr> = old.keys().chain(new.keys()).copied().collect();
        let is_other = |address: &IpAddr| old.get(address) != new.get(address);
        let changed: BTreeSet<IpAddr> = all.into_iter().filter(is_other).collect();
        for address in &changed {
            if new.contains_key(address) {
                let holders = self.holders.entry(*address).or_default();
                holders.insert(name.clone());
            } else if let Some(holders) = self.holders.get_mut(address) {
                holders.remove(name);
                if holders.is_empty() {
                    self.holders.remove(address);
                }
            }
        }
        changed
    }

    fn decide(&mut self, addresses: BTreeSet<IpAddr>) {
        let decided = addresses.into_iter().filter_map(|address| {
            let new = self.of(address);
            (new.as_ref() != self.wanted.get(&address)).then_some((address, new))
        });
        let decided: Vec<_> = decided.collect();
        if decided.is_empty() {
            return;
        }
        let wanted = Arc::make_mut(&mut self.wanted);
        for (address, new) in decided {
            match new {
                Some(new) => drop(wanted.insert(address, new)),
                None => drop(wanted.remove(&address)),
            }
        }
    }

    fn of(&self, address: IpAddr) -> Option<Wanted> {
        let holders = self.holders.get(&address)?;
        let pool = self
            .pools
            .iter()
            .find(|pool| pool.cidr.contains(&address))?;
        let mut nodes: BTreeSet<&str> = BTreeSet::new();
        for reason in holders
            .iter()
            .filter_map(|name| self.services.get(name)?.get(&address))
        {
            match reason {
                Reason::Anywhere => nodes.extend(pool.nodes.iter().map(String::as_str)),
                Reason::At(homes) => {
                    nodes.extend(homes.intersection(&pool.nodes).map(String::as_str));
                }
            }
        }
        let known = self.wanted.get(&address).map(|known| &known.order);
        let is_same = |known: &&Arc<[String]>| {
            known.len() == nodes.len() && known.iter().all(|node| nodes.contains(node.as_str()))
        };
        let as_before = known.filter(is_same).cloned();
        Some(Wanted {
            order: as_before.unwrap_or_else(|| order(address, nodes).into()),
            pool: pool.name.clone(),
            interfaces: pool.interfaces.clone(),
        })
    }
}

fn read(nodes: &[&Node], pools: &[&IpPool]) -> Vec<Pool> {
    let fit: Vec<_> = nodes
        .iter()
        .filter(|node| Unfit::of(node).is_none())
        .collect();
    let of = |pool: &&IpPool| {
        let interfaces = pool.layer2.clone()?;
        let nodes = fit
            .iter()
            .filter(|node| pool.node_selector.matches(&node.labels));
        Some(Pool {
            name: pool.name.clone(),
            cidr: pool.cidr,
            interfaces,
            nodes: nodes.map(|node| node.name.clone()).collect(),
        })
    };
    pools.iter().filter_map(of).collect()
}

/// The addresses of a Service that others than pods reach it by.
fn reasons(service: &Service, of: (&Index, &Model)) -> BTreeMap<IpAddr, Reason> {
    let both = [&service.load_balancer_ips, &service.external_ips];
    let addresses: BTreeSet<IpAddr> = both.into_iter().flatten().copied().collect();
    let with_reason = |address: IpAddr| (address, reason(service, address, of));
    addresses.into_iter().map(with_reason).collect()
}

fn reason(service: &Service, address: IpAddr, (index, model): (&Index, &Model)) -> Reason {
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
    let endpoints: Vec<Endpoint> = endpoints.collect();
    match service.external_traffic_policy {
        TrafficPolicy::Cluster if !endpoints.is_empty() => Reason::Anywhere,
        TrafficPolicy::Cluster => Reason::At(BTreeSet::new()),
        TrafficPolicy::Local => {
            Reason::At(endpoints.into_iter().filter_map(|one| one.node).collect())
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
