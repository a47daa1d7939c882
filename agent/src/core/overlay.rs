//! What the sources ask of tunnels between nodes.

use api::crd::Encapsulation;
use api::resources::IpPool;
use api::{Key, Resource};
use overlay::{Demand, View, demand};

use super::{Core, pools};

impl Core {
    /// What is asked for, if anything is; beside it, what is wrong, in words for people.
    pub(super) fn overlay(&self) -> (Option<Demand>, Vec<String>) {
        let Some(node) = self.own_node() else {
            return (None, Vec::new());
        };
        let (mut all, mut blocks): (Vec<&IpPool>, Vec<_>) = (Vec::new(), Vec::new());
        // By the order of kinds: those that are many come later.
        for (_, resource) in self.store.range(..Key::Namespace(String::new())) {
            match resource {
                Resource::IpPool(pool) => all.push(pool),
                Resource::IpamBlock(block) => blocks.push(block),
                _ => {}
            }
        }
        if all
            .iter()
            .all(|pool| pool.encapsulation == Encapsulation::None)
        {
            return (None, Vec::new());
        }
        let refused = pools::refused(&all, &blocks);
        let overlaps = |pool: &IpPool| {
            let said = refused.get(pool.name.as_str());
            said.is_some_and(|(reason, _)| *reason == pools::CIDR_OVERLAPS)
        };
        all.retain(|pool| !overlaps(pool));
        let pods = self.other_pods().filter(|pod| !pod.finished);
        let pods = pods.filter_map(|pod| Some((&pod.pod_ips, pod.node_name.as_deref()?)));
        let pods = pods.flat_map(|(ips, node)| ips.iter().map(move |ip| (*ip, node)));
        demand(&View {
            node,
            nodes: self.nodes().collect(),
            pools: all,
            blocks,
            own: &self.blocks.own(),
            pods: pods.collect(),
        })
    }
}
