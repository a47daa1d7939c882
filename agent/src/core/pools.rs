//! From pools, blocks and Nodes to where this node's addresses come from, and which block it takes next; pure.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::{IpPool, IpamBlock, Node};
use ipnet::IpNet;
use netfilter::Family;
use sha2::{Digest as _, Sha256};

#[cfg(test)]
mod tests;

/// What the sources say of addresses, seen from one node.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// This node.
    pub(crate) node: &'a Node,
    /// All nodes, this one too.
    pub(crate) nodes: Vec<&'a Node>,
    /// All pools, by name.
    pub(crate) pools: Vec<&'a IpPool>,
    /// All blocks that are claimed.
    pub(crate) blocks: Vec<&'a IpamBlock>,
    /// What reservations hold.
    pub(crate) reserved: Vec<IpNet>,
}

/// What follows for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Where addresses are given from, in this order: blocks, and Pod CIDRs of families without pools.
    pub(crate) give: Vec<IpNet>,
    /// What is this node's alone: announced, and a blackhole where no pod is.
    pub(crate) own: BTreeSet<IpNet>,
    /// The blocks among that.
    pub(crate) blocks: BTreeSet<IpNet>,
    /// Where else an address may be asked for by name: pools, and other nodes' Pod CIDRs.
    pub(crate) elsewhere: Vec<IpNet>,
    /// Families whose addresses come from blocks.
    pub(crate) pooled: BTreeSet<Family>,
    /// Pools that nodes take further blocks of, by name.
    pub(crate) sources: Vec<IpPool>,
    /// What is wrong with pools, or is not built yet, in words for people.
    pub(crate) problems: Vec<String>,
    claimed: BTreeSet<IpNet>,
    /// What no block may lie in, and what it should not lie in while there are others.
    barred: Vec<IpNet>,
    avoided: Vec<IpNet>,
    start: u64,
}

/// Makes the plan. The same view gives the same one, whatever came first.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let refused = refused(&view.pools, &view.blocks);
    let is_used = |pool: &&&IpPool| is_used_by(pool, view.node);
    let used: Vec<&IpPool> = view.pools.iter().filter(is_used).copied().collect();
    let pooled = families(&used);
    let own_blocks = view.blocks.iter();
    let own_blocks = own_blocks.filter(|block| block.node == view.node.name);
    let blocks: BTreeSet<IpNet> = own_blocks.map(|block| block.cidr).collect();
    let is_unpooled = |cidr: &&IpNet| !pooled.contains(&Family::of(cidr.addr()));
    let pod_cidrs = view.node.pod_cidrs.iter().map(IpNet::trunc);
    let pod_cidrs: Vec<IpNet> = pod_cidrs.filter(|cidr| is_unpooled(&cidr)).collect();
    let is_source = |pool: &&&IpPool| !pool.disabled && !refused.contains_key(pool.name.as_str());
    let sources = used.iter().filter(is_source).map(|pool| (**pool).clone());
    let sources: Vec<IpPool> = sources.collect();
    let others = view
        .nodes
        .iter()
        .filter(|other| other.name != view.node.name);
    let others_cidrs = others
        .clone()
        .flat_map(|other| other.pod_cidrs.iter().copied());
    Plan {
        give: give(view.node, &used, &blocks, &pod_cidrs),
        own: blocks.iter().chain(&pod_cidrs).copied().collect(),
        elsewhere: elsewhere(view, others_cidrs.clone()),
        sources,
        claimed: view.blocks.iter().map(|block| block.cidr).collect(),
        barred: barred(view, others.copied()),
        avoided: others_cidrs.collect(),
        start: start(&view.node.name),
        pooled,
        problems: refused.into_values().map(|(_, why)| why).collect(),
        blocks,
    }
}

impl Plan {
    /// The block that this node takes next of a family; none if all are taken. Nodes begin at different places, so that
    /// they seldom want the same one.
    pub(crate) fn next_block(&self, family: Family, not: &BTreeSet<IpNet>) -> Option<IpNet> {
        let sources = self.sources.iter();
        let mut sources = sources.filter(|pool| Family::of(pool.cidr.addr()) == family);
        sources.find_map(|pool| {
            // A Pod CIDR of another node may hold pods that were there before the pool.
            let both = || self.barred.iter().chain(&self.avoided);
            self.free_block(pool, not, &both().collect::<Vec<_>>())
                .or_else(|| self.free_block(pool, not, &self.barred.iter().collect::<Vec<_>>()))
        })
    }

    fn free_block(&self, pool: &IpPool, not: &BTreeSet<IpNet>, nets: &[&IpNet]) -> Option<IpNet> {
        let first = u128::from(self.start) % pool.block_count();
        let from_first = self.free_from(pool, first, not, nets);
        from_first.or_else(|| self.free_from(pool, 0, not, nets))
    }

    /// The first free block from a number on.
    fn free_from(
        &self,
        pool: &IpPool,
        mut number: u128,
        not: &BTreeSet<IpNet>,
        nets: &[&IpNet],
    ) -> Option<IpNet> {
        while let Some(block) = pool.block(number) {
            let overlaps = |net: &&&IpNet| net.contains(&block) || block.contains(**net);
            number = match nets.iter().find(overlaps) {
                // A net may be as large as a million blocks.
                Some(net) => pool.block_number(net.broadcast()).unwrap_or(u128::MAX - 1) + 1,
                None if self.claimed.contains(&block) || not.contains(&block) => number + 1,
                None => return Some(block),
            };
        }
        None
    }

    /// In how many addresses the blocks of a family's pools come, the smallest ones; 0 if there are no pools.
    pub(crate) fn block_size(&self, family: Family) -> u128 {
        let sources = self.sources.iter();
        let of_family = sources.filter(|pool| Family::of(pool.cidr.addr()) == family);
        let sizes = of_family.map(|pool| 1_u128 << (pool.cidr.max_prefix_len() - pool.block_size));
        sizes.min().unwrap_or(0)
    }
}

fn is_used_by(pool: &IpPool, node: &Node) -> bool {
    pool.is_for_pods() && pool.node_selector.matches(&node.labels)
}

fn families(pools: &[&IpPool]) -> BTreeSet<Family> {
    pools
        .iter()
        .map(|pool| Family::of(pool.cidr.addr()))
        .collect()
}

/// The reason of a pool that shares addresses with another one.
pub(super) const CIDR_OVERLAPS: &str = "CidrOverlaps";

/// Pools that nodes take no blocks of, and why: in one word and for people.
pub(super) fn refused<'a>(
    pools: &[&'a IpPool],
    blocks: &[&IpamBlock],
) -> BTreeMap<&'a str, (&'static str, String)> {
    let mut refused = BTreeMap::new();
    let mut accepted: Vec<&IpPool> = Vec::new();
    for pool in pools.iter().copied() {
        let IpPool {
            name,
            cidr,
            block_size,
            ..
        } = pool;
        let odd = blocks
            .iter()
            .find(|block| cidr.contains(&block.cidr) && !pool.has_block(&block.cidr));
        if let Some(other) = accepted.iter().find(|other| other.overlaps(pool)) {
            let why = format!(
                "IPPool {name}: its cidr {cidr} overlaps {} of IPPool {}: nodes take no blocks of it; give it another cidr, or remove one of the two",
                other.cidr, other.name
            );
            refused.insert(name.as_str(), (CIDR_OVERLAPS, why));
        } else if let Some(odd) = odd {
            let why = format!(
                "IPPool {name}: nodes hold blocks of it of another size ({} of node {}), and blockSize cannot be changed to {block_size}: put it back, and make another pool; until then nodes take no blocks of it",
                odd.cidr, odd.node
            );
            refused.insert(name.as_str(), ("BlockSizeChanged", why));
            accepted.push(pool);
        } else {
            accepted.push(pool);
        }
    }
    refused
}

/// First the family of the node's first InternalIP, as a kubelet has it; then pools by name.
fn give(
    node: &Node,
    used: &[&IpPool],
    blocks: &BTreeSet<IpNet>,
    pod_cidrs: &[IpNet],
) -> Vec<IpNet> {
    let first = node.internal_ips.first().map(|ip| Family::of(*ip));
    let mut give: Vec<IpNet> = Vec::new();
    for pool in used.iter().filter(|pool| !pool.disabled) {
        let inside = blocks.iter().filter(|block| pool.cidr.contains(*block));
        give.extend(inside);
    }
    give.extend(pod_cidrs);
    give.sort_by_key(|cidr| Some(Family::of(cidr.addr())) != first);
    let mut seen = BTreeSet::new();
    give.retain(|cidr| seen.insert(*cidr));
    give
}

fn elsewhere(view: &View<'_>, others_cidrs: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let pools = view.pools.iter().filter(|pool| pool.is_for_pods());
    let own = view.node.pod_cidrs.iter().copied();
    pools
        .map(|pool| pool.cidr)
        .chain(others_cidrs)
        .chain(own)
        .collect()
}

/// Pod CIDRs that are given out as such, and whole blocks that are reserved.
fn barred<'a>(view: &View<'_>, others: impl Iterator<Item = &'a Node>) -> Vec<IpNet> {
    let mut barred = view.reserved.clone();
    // A smaller one leaves other addresses of the block.
    barred.retain(|cidr| {
        let pools = view
            .pools
            .iter()
            .filter(|pool| pool.cidr.contains(&cidr.addr()));
        pools
            .clone()
            .all(|pool| pool.block_size >= cidr.prefix_len())
    });
    for node in others {
        let used: Vec<&IpPool> = view
            .pools
            .iter()
            .copied()
            .filter(|pool| is_used_by(pool, node))
            .collect();
        let pooled = families(&used);
        let cidrs = node.pod_cidrs.iter();
        barred.extend(cidrs.filter(|cidr| !pooled.contains(&Family::of(cidr.addr()))));
    }
    barred
}

fn start(node: &str) -> u64 {
    let digest = Sha256::digest(node.as_bytes());
    u64::from_be_bytes(digest.first_chunk().copied().unwrap_or([0; 8]))
}
