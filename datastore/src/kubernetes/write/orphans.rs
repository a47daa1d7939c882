//! Blocks whose node has been deleted from the cluster: given back after a grace, if no Pod of that node is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;

use super::blocks::{self, Release};
use super::calls::Calls;
use crate::kubernetes::failure::Failure;

/// How long a node is missing before its blocks are given back: it may be registered again.
pub(crate) const GRACE: Duration = Duration::from_secs(300);

/// A block without a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Orphan {
    pub(crate) cidr: IpNet,
    pub(crate) node: String,
}

/// Since when each block has been without its node.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    since: BTreeMap<Orphan, Instant>,
}

impl Orphans {
    /// Takes all blocks and all nodes there are.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        blocks: impl IntoIterator<Item = Orphan>,
        nodes: &BTreeSet<String>,
    ) {
        let present: BTreeSet<Orphan> = blocks
            .into_iter()
            .filter(|block| !nodes.contains(&block.node))
            .collect();
        self.since.retain(|orphan, _| present.contains(orphan));
        for orphan in present {
            self.since.entry(orphan).or_insert(now);
        }
    }

    /// Those that may be given back.
    pub(crate) fn due(&self, now: Instant) -> Vec<Orphan> {
        let since = self.since.iter();
        let due = since.filter(|(_, at)| now.saturating_duration_since(**at) >= GRACE);
        due.map(|(orphan, _)| orphan.clone()).collect()
    }

    /// When the next may be.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let ends = self.since.values().map(|at| *at + GRACE);
        ends.filter(|end| *end > now).min()
    }

    /// Begins the grace anew: it could not be given back.
    pub(crate) fn postpone(&mut self, now: Instant, orphan: &Orphan) {
        self.since.insert(orphan.clone(), now);
    }
}

/// Gives the block back if the server, too, knows neither the node nor a Pod on it. Says whether it did.
pub(crate) async fn release(calls: &Calls, orphan: &Orphan) -> Result<bool, Failure> {
    let node = &orphan.node;
    for of_it in [
        "nodes?fieldSelector=metadata.name",
        "pods?fieldSelector=spec.nodeName",
    ] {
        let list = format!("/api/v1/{of_it}%3D{node}&limit=1");
        let list: Value = calls.get(&list).await?;
        let items = list.get("items").and_then(Value::as_array);
        if items.is_none_or(|items| !items.is_empty()) {
            return Ok(false);
        }
    }
    let released = blocks::release(calls, node, &orphan.cidr).await?;
    Ok(released == Release::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_due_once_its_node_has_been_missing_for_the_whole_grace() {
        let block = Orphan {
            cidr: "10.48.0.0/26".parse().expect("a CIDR"),
            node: "n1".to_owned(),
        };
        let (none, one) = (BTreeSet::new(), BTreeSet::from(["n1".to_owned()]));
        let start = Instant::now();
        let mut orphans = Orphans::default();
        orphans.take(start, [block.clone()], &one);
        assert_eq!(orphans.next(start), None);
        orphans.take(start, [block.clone()], &none);
        assert_eq!(orphans.next(start), Some(start + GRACE));
        orphans.take(start + GRACE / 2, [block.clone()], &none);
        assert!(orphans.due(start + GRACE / 2).is_empty());
        assert_eq!(orphans.due(start + GRACE), std::slice::from_ref(&block));

        orphans.take(start + GRACE, [block.clone()], &one);
        orphans.take(start + GRACE, [block], &none);
        assert!(orphans.due(start + GRACE).is_empty(), "it was there again");
        orphans.take(start + GRACE, [], &none);
        assert_eq!(orphans.next(start + GRACE), None);
    }
}
