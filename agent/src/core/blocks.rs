//! The blocks of this node over time: which it claims, and which it gives back when they have been empty for long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netfilter::Family;

use super::pools::Plan;

/// A further block is claimed when fewer addresses of a family are free than this, or than a quarter of a block.
const FREE: u128 = 8;

/// So many blocks that could not be had are remembered.
const MOST_AVOIDED: usize = 64;

/// What the shell is to claim and to release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// At most one a family.
    pub(crate) claim: BTreeSet<IpNet>,
    /// Nothing of these is given any more.
    pub(crate) release: BTreeSet<IpNet>,
}

/// How full one block or Pod CIDR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Which.
    pub(crate) cidr: IpNet,
    /// Addresses that the next pods could have.
    pub(crate) free: u128,
}

/// Why an attachment gets no address now, but may soon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node has no block of an IPPool with a free {} address{}",
    match family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
    if *is_coming { " yet: it claims one" } else { ", and none is left to claim: see `portolan status`" }
)]
pub(crate) struct NoBlock {
    family: Family,
    /// Whether one is being claimed.
    pub(crate) is_coming: bool,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Blocks {
    plan: Plan,
    quiet: Duration,
    /// Since when no address of an own block is held.
    empty_since: BTreeMap<IpNet, Instant>,
    leaving: BTreeSet<IpNet>,
    /// Blocks that are taken, although no source says so.
    avoid: BTreeSet<IpNet>,
    claim: BTreeMap<Family, IpNet>,
    /// When it was looked last.
    looked: Option<Instant>,
}

impl Blocks {
    /// With no plan yet; an empty block is given back after `quiet`.
    pub(crate) fn new(quiet: Duration) -> Self {
        Self {
            plan: Plan::default(),
            quiet,
            empty_since: BTreeMap::new(),
            leaving: BTreeSet::new(),
            avoid: BTreeSet::new(),
            claim: BTreeMap::new(),
            looked: None,
        }
    }

    /// What follows from the sources.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes a new plan.
    pub(crate) fn set_plan(&mut self, plan: Plan) {
        self.leaving.retain(|block| plan.blocks.contains(block));
        self.empty_since
            .retain(|block, _| plan.blocks.contains(block));
        self.avoid.retain(|block| !plan.blocks.contains(block));
        self.plan = plan;
    }

    /// Where addresses are given from.
    pub(crate) fn give(&self) -> Vec<IpNet> {
        let give = self.plan.give.iter();
        give.filter(|cidr| !self.leaving.contains(cidr))
            .copied()
            .collect()
    }

    /// What is this node's alone.
    pub(crate) fn own(&self) -> BTreeSet<IpNet> {
        self.plan.own.difference(&self.leaving).copied().collect()
    }

    /// Another node was faster, or something is in the way: another block is claimed.
    pub(crate) fn handle_taken(&mut self, block: IpNet) {
        if self.avoid.len() >= MOST_AVOIDED {
            self.avoid.clear();
        }
        self.avoid.insert(block);
    }

    /// Looks at how full everything is: `fills` of what is given from, and every address that is held.
    pub(crate) fn update(&mut self, now: Instant, fills: &[Fill], held: &BTreeSet<IpAddr>) {
        self.looked = Some(now);
        self.note_empty(now, held);
        self.leave(now, fills);
        self.claim.clear();
        for family in self.plan.pooled.clone() {
            if self.free(family, fills) < self.bound(family).max(1) {
                let next = self.plan.next_block(family, &self.avoid);
                if next.is_none() {
                    // What was taken once may be free by the next look.
                    self.avoid.clear();
                }
                self.claim.extend(next.map(|block| (family, block)));
            }
        }
    }

    /// What the shell is to do.
    pub(crate) fn goal(&self) -> Goal {
        Goal {
            claim: self.claim.values().copied().collect(),
            release: self.leaving.clone(),
        }
    }

    /// When to look again without a change.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let empty = self.empty_since.iter();
        let waiting = empty.filter(|(block, _)| !self.leaving.contains(block));
        let due = waiting.map(|(_, since)| *since + self.quiet);
        // One that must stay all the same is not looked at again before something changes.
        due.filter(|due| self.looked.is_none_or(|looked| looked < *due))
            .min()
    }

    /// A family that no address can be given of before this node has a block of it.
    pub(crate) fn lacks(&self, fixed: &[IpAddr]) -> Option<NoBlock> {
        let give = self.give();
        let has = |family| give.iter().any(|cidr| Family::of(cidr.addr()) == family);
        let asks = |family| fixed.iter().any(|ip| Family::of(*ip) == family);
        let mut pooled = self.plan.pooled.iter().copied();
        let family = pooled.find(|family| !has(*family) && !asks(*family))?;
        Some(self.no_block(family))
    }

    /// A pooled family of which nothing is free.
    pub(crate) fn exhausted(&self, fills: &[Fill]) -> Option<NoBlock> {
        let mut pooled = self.plan.pooled.iter().copied();
        let family = pooled.find(|family| self.free(*family, fills) == 0)?;
        Some(self.no_block(family))
    }

    fn no_block(&self, family: Family) -> NoBlock {
        NoBlock {
            family,
            is_coming: self.claim.contains_key(&family),
        }
    }

    fn note_empty(&mut self, now: Instant, held: &BTreeSet<IpAddr>) {
        for block in &self.plan.blocks {
            let inside = block.network()..=block.broadcast();
            if held.range(inside).next().is_some() {
                self.empty_since.remove(block);
            } else {
                self.empty_since.entry(*block).or_insert(now);
            }
        }
    }

    /// Empty blocks go when they have been so for long, as long as enough is left for a while.
    fn leave(&mut self, now: Instant, fills: &[Fill]) {
        let quiet_blocks: Vec<IpNet> = self
            .empty_since
            .iter()
            .filter(|(block, since)| {
                !self.leaving.contains(block)
                    && now.saturating_duration_since(**since) >= self.quiet
            })
            .map(|(block, _)| *block)
            .collect();
        // The highest first: those that came first stay.
        for block in quiet_blocks.into_iter().rev() {
            let family = Family::of(block.addr());
            let of_block = fills.iter().find(|fill| fill.cidr == block);
            // Nothing is given from it: its pool is disabled, or not this node's any more.
            let Some(fill) = of_block.filter(|_| self.plan.give.contains(&block)) else {
                self.leaving.insert(block);
                continue;
            };
            let rest = self.free(family, fills).saturating_sub(fill.free);
            if rest >= (2 * self.bound(family)).max(1) {
                self.leaving.insert(block);
            }
        }
    }

    fn bound(&self, family: Family) -> u128 {
        FREE.min(self.plan.block_size(family) / 4)
    }

    fn free(&self, family: Family, fills: &[Fill]) -> u128 {
        let of_family = fills.iter().filter(|fill| {
            Family::of(fill.cidr.addr()) == family && !self.leaving.contains(&fill.cidr)
        });
        of_family.map(|fill| fill.free).sum()
    }
}

#[cfg(test)]
mod tests;
