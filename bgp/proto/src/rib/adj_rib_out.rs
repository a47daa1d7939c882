//! What one peer is to be told: pending changes grouped by attributes, packed into UPDATEs only when there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use ipnet::IpNet;
use rustc_hash::FxSeededState;

use super::attributes::{Interned, hasher};
use super::export::family;
use crate::wire::{
    Family, Nlri, WireContext, encode_end_of_rib, encode_updates, encode_withdrawals,
};

/// The Adj-RIB-Out of one peer (RFC 4271 §3.2).
///
/// Its size is bounded by the number of prefixes: a prefix that changes again before it is sent replaces itself.
#[derive(Debug)]
pub(super) struct AdjRibOut {
    routes: HashMap<IpNet, Route, FxSeededState>,
    withdrawals: BTreeSet<IpNet>,
    announcements: BTreeMap<u64, (Arc<Interned>, BTreeSet<IpNet>)>,
    end_of_rib: BTreeSet<Family>,
    wanted: usize,
}

/// At least one of the two is `Some`.
#[derive(Debug, Default)]
struct Route {
    sent: Option<Arc<Interned>>,
    wanted: Option<Arc<Interned>>,
    /// The peer asked for it again (RFC 2918): it is sent though nothing changed.
    again: bool,
}

/// The fewest bytes a prefix takes on the wire that a full message is filled by: a length octet and two of prefix.
const SMALLEST_PREFIX: usize = 3;

impl AdjRibOut {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            routes: HashMap::with_hasher(hasher(seed)),
            withdrawals: BTreeSet::new(),
            announcements: BTreeMap::new(),
            end_of_rib: BTreeSet::new(),
            wanted: 0,
        }
    }

    /// Forgets all: the session is gone, the next one starts from nothing.
    pub(super) fn clear(&mut self) {
        self.routes.clear();
        self.withdrawals.clear();
        self.announcements.clear();
        self.end_of_rib.clear();
        self.wanted = 0;
    }

    /// Says what the peer is to know of `prefix` from now on; `None`: nothing.
    pub(super) fn set(&mut self, prefix: IpNet, wanted: Option<Arc<Interned>>) {
        let Some(route) = self.routes.get_mut(&prefix) else {
            if let Some(wanted) = wanted {
                self.wanted += 1;
                self.routes.insert(
                    prefix,
                    Route {
                        sent: None,
                        wanted: Some(Arc::clone(&wanted)),
                        again: false,
                    },
                );
                self.queue(prefix, wanted);
            }
            return;
        };
        if id(&route.wanted) == id(&wanted) {
            return;
        }
        let before = std::mem::replace(&mut route.wanted, wanted.clone());
        let (told, again) = (id(&route.sent), route.again);
        self.wanted = self.wanted + usize::from(wanted.is_some()) - usize::from(before.is_some());
        self.unqueue(&prefix, before.as_ref());
        match wanted {
            Some(wanted) if again || told != Some(wanted.id) => self.queue(prefix, wanted),
            None if told.is_some() => {
                self.withdrawals.insert(prefix);
            }
            None => {
                self.routes.remove(&prefix);
            }
            Some(_) => {}
        }
    }

    /// Sends all of a family again (RFC 2918) and its End-of-RIB after it.
    pub(super) fn refresh(&mut self, wanted_family: Family) {
        let again: Vec<_> = self
            .routes
            .iter_mut()
            .filter(|(prefix, _)| family(prefix) == wanted_family)
            .filter_map(|(prefix, route)| {
                let wanted = route.wanted.clone()?;
                route.again = true;
                Some((*prefix, wanted))
            })
            .collect();
        for (prefix, wanted) in again {
            self.queue(prefix, wanted);
        }
        self.end_of_rib.insert(wanted_family);
    }

    /// Marks that End-of-RIB is due once what is pending has been sent (RFC 4724 §2).
    pub(super) fn owe_end_of_rib(&mut self, family: Family) {
        self.end_of_rib.insert(family);
    }

    /// Prefixes the peer knows or is about to know.
    pub(super) fn len(&self) -> usize {
        self.wanted
    }

    /// Messages for about `budget` bytes; a message is never left half full for the budget's sake. `None`: nothing is due.
    pub(super) fn drain(&mut self, context: &WireContext, budget: usize) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < budget && !self.withdrawals.is_empty() {
            let room = prefixes_in(budget - out.len());
            let batch = take(&mut self.withdrawals, room);
            for prefix in &batch {
                self.routes.remove(prefix);
            }
            let batch: Vec<Nlri> = batch.into_iter().map(Nlri::from).collect();
            encode_withdrawals(&batch, context, &mut out);
        }
        while out.len() < budget
            && let Some(mut group) = self.announcements.first_entry()
        {
            let room = prefixes_in(budget - out.len());
            let (interned, prefixes) = group.get_mut();
            let interned = Arc::clone(interned);
            let batch = take(prefixes, room);
            if prefixes.is_empty() {
                group.remove();
            }
            for prefix in &batch {
                if let Some(route) = self.routes.get_mut(prefix) {
                    route.sent = Some(Arc::clone(&interned));
                    route.again = false;
                }
            }
            let batch: Vec<Nlri> = batch.into_iter().map(Nlri::from).collect();
            encode_updates(&interned.attributes, &batch, context, &mut out);
        }
        if self.withdrawals.is_empty() && self.announcements.is_empty() {
            while let Some(family) = self.end_of_rib.pop_first() {
                encode_end_of_rib(family, context, &mut out);
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn queue(&mut self, prefix: IpNet, wanted: Arc<Interned>) {
        self.withdrawals.remove(&prefix);
        let group = self.announcements.entry(wanted.id);
        group
            .or_insert_with(|| (wanted, BTreeSet::new()))
            .1
            .insert(prefix);
    }

    fn unqueue(&mut self, prefix: &IpNet, queued: Option<&Arc<Interned>>) {
        self.withdrawals.remove(prefix);
        if let Some(queued) = queued
            && let Some((_, prefixes)) = self.announcements.get_mut(&queued.id)
        {
            prefixes.remove(prefix);
            if prefixes.is_empty() {
                self.announcements.remove(&queued.id);
            }
        }
    }

    /// What the peer will know once everything pending has been sent.
    #[cfg(test)]
    pub(super) fn contents(&self) -> BTreeMap<IpNet, crate::wire::PathAttributes> {
        self.routes
            .iter()
            .filter_map(|(prefix, route)| {
                Some((*prefix, (*route.wanted.as_ref()?.attributes).clone()))
            })
            .collect()
    }
}

fn id(interned: &Option<Arc<Interned>>) -> Option<u64> {
    interned.as_ref().map(|interned| interned.id)
}

/// How many prefixes surely fill the room left, so that at most the last message is not full.
fn prefixes_in(room: usize) -> usize {
    (room / SMALLEST_PREFIX).max(1)
}

fn take(from: &mut BTreeSet<IpNet>, at_most: usize) -> Vec<IpNet> {
    if from.len() <= at_most {
        return std::mem::take(from).into_iter().collect();
    }
    let mut batch = Vec::with_capacity(at_most);
    while batch.len() < at_most
        && let Some(prefix) = from.pop_first()
    {
        batch.push(prefix);
    }
    batch
}
