//! Which addresses of Services are to be answered for by ARP and neighbour discovery: what IPPools, Nodes and Services say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::resources::{IpPool, Node};
use api::{Key, Resource};
use services::layer2::wanted;

use crate::core::Core;
use crate::layer2::Goal;

impl Core {
    /// As of the last [`Self::compile_services`]: the same allocation if that is what it was.
    pub(in crate::core) fn layer2(&mut self) -> Goal {
        let after_pools = Key::IpReservation(String::new());
        let pools: Vec<&IpPool> = self
            .store
            .range(Key::IpPool(String::new())..after_pools)
            .filter_map(|(_, resource)| match resource {
                Resource::IpPool(pool) => Some(pool),
                _ => None,
            })
            .filter(|pool| pool.layer2.is_some())
            .collect();
        let Some(services) = &self.services else {
            return Goal::default();
        };
        let nodes: Vec<&Node> = self.nodes().collect();
        let of = (&services.index, &services.model);
        let found = wanted(of, &nodes, &pools, &services.layer2);
        let candidates = found.values().flat_map(|wanted| wanted.order.iter());
        let candidates: BTreeSet<&str> = candidates
            .map(String::as_str)
            .chain([self.node.as_str()])
            .collect();
        let nodes: BTreeMap<_, _> = match found.is_empty() {
            true => BTreeMap::new(),
            false => nodes
                .iter()
                .filter(|node| candidates.contains(node.name.as_str()))
                .map(|node| (node.name.clone(), node.internal_ips.clone()))
                .collect(),
        };
        let is_new = *services.layer2 != found;
        let Some(services) = &mut self.services else {
            return Goal::default();
        };
        if is_new {
            services.layer2 = Arc::new(found);
        }
        Goal {
            since: self.generation,
            wanted: services.layer2.clone(),
            nodes,
        }
    }
}
