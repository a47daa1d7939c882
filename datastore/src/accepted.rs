//! Which blocks count: claims are made by many nodes, and read by all of them in the same way.

use std::collections::BTreeMap;

use api::resources::{IpPool, IpamBlock};
use ipnet::IpNet;

/// All blocks, judged.
#[derive(Debug, Default)]
pub(crate) struct Judged<'a> {
    /// Those that count. No two overlap.
    pub(crate) accepted: Vec<&'a IpamBlock>,
    /// Those that are nobody's, and why.
    pub(crate) refused: Vec<(&'a IpamBlock, String)>,
}

/// What lies in no pool, or overlaps another block, is nobody's. The answer does not hang on the order.
pub(crate) fn blocks<'a, 'p>(
    found: impl Iterator<Item = &'a IpamBlock>,
    pools: impl Iterator<Item = &'p IpPool>,
) -> Judged<'a> {
    let pools: Vec<&IpPool> = pools.collect();
    let is_odd = |block: &IpamBlock| !pools.iter().any(|pool| pool.has_block(&block.cidr));
    let mut found: Vec<(bool, &IpamBlock)> = found.map(|block| (is_odd(block), block)).collect();
    // One of another size than its pool's takes nothing away from those that are right.
    found.sort_by_key(|(is_odd, block)| (*is_odd, block.cidr));
    let mut judged = Judged::default();
    let mut taken: BTreeMap<IpNet, &str> = BTreeMap::new();
    for (_, block) in found {
        let IpamBlock { cidr, node } = block;
        let why = if !pools.iter().any(|pool| pool.cidr.contains(cidr)) {
            format!(
                "is ignored: {cidr} of node {node} is in no IPPool; was the cidr of one changed?"
            )
        } else if let Some((other, holder)) = overlapping(&taken, cidr) {
            format!("is ignored: {cidr} of node {node} overlaps {other} of node {holder}")
        } else {
            taken.insert(*cidr, node);
            judged.accepted.push(block);
            continue;
        };
        judged.refused.push((block, why));
    }
    judged
}

/// One of these CIDRs, no two of which overlap, that this one overlaps.
fn overlapping<'a>(
    accepted: &'a BTreeMap<IpNet, &'a str>,
    cidr: &IpNet,
) -> Option<(&'a IpNet, &'a str)> {
    // What contains it begins before it, with nothing in between; what it contains comes next.
    let before = accepted.range(..=*cidr).next_back();
    let after = accepted.range(*cidr..).next();
    let found = before.filter(|(other, _)| other.contains(cidr));
    let found = found.or(after.filter(|(other, _)| cidr.contains(*other)));
    found.map(|(other, node)| (other, *node))
}
