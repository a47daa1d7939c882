//! All Adj-RIBs-In and the Loc-RIB in one table by prefix: a peer's Adj-RIB-In is the paths that bear its slot.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;
use rustc_hash::FxSeededState;
use smallvec::SmallVec;

use super::attributes::{Interned, hasher};
use super::export::Source;
use super::import::Verdict;

/// A path a peer announced.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) peer: u32,
    pub(super) interned: Arc<Interned>,
    pub(super) verdict: Verdict,
    /// Of a session that is gone, kept until the peer is back (RFC 4724 §4.2).
    pub(super) stale: bool,
}

/// Everything known of one prefix.
#[derive(Debug, Default)]
pub(super) struct Destination {
    pub(super) paths: SmallVec<[Path; 1]>,
    pub(super) local: Option<Arc<Interned>>,
    pub(super) best: Option<Best>,
    /// The next hop last given out by `poll_best_changes`.
    pub(super) reported: Option<IpAddr>,
    dirty: bool,
}

/// The Loc-RIB's entry of a prefix.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) source: Source,
    pub(super) interned: Arc<Interned>,
}

impl Best {
    pub(super) fn is(&self, other: &Self) -> bool {
        self.source == other.source && self.interned.id == other.interned.id
    }

    /// Where packets go; `None` for what is originated here.
    pub(super) fn next_hop(&self) -> Option<IpAddr> {
        match self.source {
            Source::Local => None,
            Source::Peer { .. } => Some(self.interned.attributes.next_hop),
        }
    }
}

impl Destination {
    fn is_empty(&self) -> bool {
        self.paths.is_empty()
            && self.local.is_none()
            && self.best.is_none()
            && self.reported.is_none()
    }
}

/// The table, and which of its prefixes must be decided anew.
#[derive(Debug)]
pub(super) struct Table {
    destinations: HashMap<IpNet, Destination, FxSeededState>,
    dirty: Vec<IpNet>,
}

impl Table {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            destinations: HashMap::with_hasher(hasher(seed)),
            dirty: Vec::new(),
        }
    }

    /// Changes a destination (made if need be); when `change` says so it is decided anew.
    pub(super) fn change(&mut self, prefix: IpNet, change: impl FnOnce(&mut Destination) -> bool) {
        let destination = self.destinations.entry(prefix).or_default();
        if change(destination) && !destination.dirty {
            destination.dirty = true;
            self.dirty.push(prefix);
        } else if destination.is_empty() && !destination.dirty {
            self.destinations.remove(&prefix);
        }
    }

    /// Changes every destination; `change` says which are to be decided anew.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(&IpNet, &mut Destination) -> bool) {
        for (prefix, destination) in &mut self.destinations {
            if change(prefix, destination) && !destination.dirty {
                destination.dirty = true;
                self.dirty.push(*prefix);
            }
        }
    }

    /// The prefixes to decide anew, in order, whatever the order in which they became so.
    pub(super) fn take_dirty(&mut self) -> Vec<IpNet> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty
    }

    /// Changes one of the prefixes `take_dirty` gave, and drops it if nothing is left of it.
    pub(super) fn settle<T>(
        &mut self,
        prefix: IpNet,
        settle: impl FnOnce(&mut Destination) -> T,
    ) -> Option<T> {
        let destination = self.destinations.get_mut(&prefix)?;
        destination.dirty = false;
        let result = settle(destination);
        if destination.is_empty() {
            self.destinations.remove(&prefix);
        }
        Some(result)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&IpNet, &Destination)> {
        self.destinations.iter()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.destinations.len()
    }
}
