//! Whose packets to the outside bear this node's address, from pools, blocks and Nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::resources::IpPool;
use api::{Key, Resource};
use ipnet::IpNet;
use netfilter::{ChainName, Family};
use services::egress::{Compiled, Pool, View, compile};

use super::Core;

/// What was found and compiled last.
#[derive(Debug, Default)]
pub(super) struct Egress {
    /// What is inside besides pools; `None` once that may be something else.
    inside: Option<Arc<BTreeSet<IpNet>>>,
    broken: BTreeSet<ChainName>,
    last: (View, Arc<Compiled>),
}

impl Egress {
    /// An object has changed.
    pub(super) fn note(&mut self, key: &Key) {
        if matches!(key, Key::Node(_) | Key::IpamBlock(_)) {
            self.inside = None;
        }
    }

    /// Says which chains the kernel refuses.
    pub(super) fn set_broken(&mut self, broken: BTreeSet<ChainName>) {
        if self.broken != broken {
            self.broken = broken;
            self.last = <(View, Arc<Compiled>)>::default();
        }
    }
}

impl Core {
    /// What is to be in the kernel: the same allocation if that is what it was. An agent that attaches no pods does nothing
    /// here: whose they are is another's to say.
    pub(super) fn compile_egress(&mut self) -> Arc<Compiled> {
        let pools = self.egress_pools();
        if !self.uses_pools || pools.iter().all(|pool| !pool.nat_outgoing) {
            self.egress.last = <(View, Arc<Compiled>)>::default();
            return Arc::clone(&self.egress.last.1);
        }
        let inside = match self.egress.inside.take() {
            Some(inside) => inside,
            None => Arc::new(self.egress_inside()),
        };
        self.egress.inside = Some(Arc::clone(&inside));
        let own = self.blocks.own();
        let addresses = self.leases.iter().flat_map(|lease| &lease.addresses);
        let strays = addresses.filter(|ip| !own.iter().any(|cidr| cidr.contains(*ip)));
        let strays: Vec<IpNet> = strays.map(|ip| IpNet::from(*ip)).collect();
        let view = View {
            pools,
            own: own.into_iter().chain(strays).collect(),
            inside,
        };
        if self.egress.last.0 != view {
            let prefix = &self.policy.settings().interface_prefix;
            let compiled = compile(&view, prefix, &self.egress.broken);
            self.egress.last = (view, Arc::new(compiled));
        }
        Arc::clone(&self.egress.last.1)
    }

    /// In the order of their names: of pools that overlap the first counts, here as elsewhere.
    fn egress_pools(&self) -> Vec<Pool> {
        // By the order of kinds: those that are many come later.
        let few = self.store.range(..Key::Namespace(String::new()));
        let pools = few.filter_map(|(_, resource)| match resource {
            Resource::IpPool(pool) => Some(pool),
            _ => None,
        });
        let pool = |pool: &IpPool| Pool {
            cidr: pool.cidr,
            nat_outgoing: pool.nat_outgoing && pool.is_for_pods(),
            exceptions: pool.non_masquerade_cidrs.clone(),
        };
        pools.map(pool).collect()
    }

    /// All nodes, whatever type of address, and what their pods have that may be in no pool: Pod CIDRs, and blocks of a
    /// pool that was removed.
    fn egress_inside(&self) -> BTreeSet<IpNet> {
        let mut inside = BTreeSet::new();
        for node in self.nodes() {
            let addresses = node.addresses.iter().chain(&node.internal_ips);
            inside.extend(addresses.map(|ip| IpNet::from(*ip)));
            inside.extend(&node.pod_cidrs);
        }
        let few = self.store.range(..Key::Namespace(String::new()));
        let blocks = few.filter_map(|(_, resource)| match resource {
            Resource::IpamBlock(block) => Some(block.cidr),
            _ => None,
        });
        inside.extend(blocks);
        inside
    }
}

/// What goes without because the kernel refuses it, for people.
pub(super) fn refused(compiled: &Compiled) -> Vec<String> {
    let text = |family: &Family| {
        let family = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        format!(
            "natOutgoing: the kernel or its iptables refuses the rules for {family} (needed: the nat table, iptables 1.6.2, Linux 3.14): pods reach the outside with their own addresses"
        )
    };
    compiled.left_out.iter().map(text).collect()
}
