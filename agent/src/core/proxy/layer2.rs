//! Which addresses of Services are to be answered for by ARP and neighbour discovery: what IPPools, Nodes and Services say.

use api::resources::{IpPool, Node};
use api::{Key, Resource};

use crate::core::Core;
use crate::layer2::Goal;

impl Core {
    /// As of the last [`Self::compile_services`]: the same allocation if that is what it was.
    pub(in crate::core) fn layer2(&mut self) -> Goal {
        // Put back below: what it hangs on is read from beside it.
        let Some(mut services) = self.services.take() else {
            return Goal::default();
        };
        let pools = self.layer2_pools();
        let nodes: Vec<&Node> = match pools.is_empty() {
            true => Vec::new(),
            false => self.nodes().collect(),
        };
        let of = (&services.index, &services.model);
        services.layer2.set(&nodes, &pools, of);
        let candidates = services.layer2.nodes();
        let is_asked_for =
            |node: &&&Node| node.name == self.node || candidates.contains(node.name.as_str());
        let nodes = nodes.iter().filter(is_asked_for);
        let goal = Goal {
            since: self.generation,
            wanted: services.layer2.wanted().clone(),
            nodes: nodes
                .map(|node| (node.name.clone(), node.internal_ips.clone()))
                .collect(),
        };
        self.services = Some(services);
        goal
    }

    fn layer2_pools(&self) -> Vec<&IpPool> {
        let after_pools = Key::IpReservation(String::new());
        let pools = self
            .store
            .range(Key::IpPool(String::new())..after_pools)
            .filter_map(|(_, resource)| match resource {
                Resource::IpPool(pool) => Some(pool),
                _ => None,
            });
        pools.filter(|pool| pool.layer2.is_some()).collect()
    }
}
