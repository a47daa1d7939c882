//! Addresses that were given back and rest before somebody else gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use serde::{Deserialize, Serialize};

use crate::written::WrittenCooling;

/// One address that rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenCooling", into = "WrittenCooling")]
pub struct Cooling {
    /// Which one.
    pub address: IpAddr,
    /// When it was given back, in seconds since 1970.
    pub since: u64,
    /// Whose it was, when the runtime had named a pod.
    pub pod: Option<NamespacedName>,
    /// That pod's UID; empty when the runtime did not say it.
    pub uid: String,
}

impl Cooling {
    /// Whether it rests still. A clock that stepped back makes no rest longer than the cool-down from then on.
    pub(crate) fn rests(&self, now: u64, cool_down: u64) -> bool {
        self.since.min(now).saturating_add(cool_down) > now
    }
}

/// All that rest, by address, by age and by pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resting {
    entries: BTreeMap<IpAddr, Cooling>,
    by_age: BTreeSet<(u64, IpAddr)>,
    by_pod: BTreeMap<(NamespacedName, String), BTreeSet<IpAddr>>,
}

impl Resting {
    pub(crate) fn insert(&mut self, entry: Cooling) {
        self.remove(entry.address);
        self.by_age.insert((entry.since, entry.address));
        if let Some(key) = key(entry.pod.as_ref(), &entry.uid) {
            self.by_pod.entry(key).or_default().insert(entry.address);
        }
        self.entries.insert(entry.address, entry);
    }

    pub(crate) fn remove(&mut self, address: IpAddr) -> Option<Cooling> {
        let entry = self.entries.remove(&address)?;
        self.by_age.remove(&(entry.since, address));
        if let Some(key) = key(entry.pod.as_ref(), &entry.uid)
            && let Some(addresses) = self.by_pod.get_mut(&key)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_pod.remove(&key);
            }
        }
        Some(entry)
    }

    /// Takes out what has rested enough. What seems to have been given back in the future (the clock has stepped
    /// back) counts from now on.
    pub(crate) fn settle(&mut self, now: u64, cool_down: u64) -> Vec<IpAddr> {
        while let Some((since, address)) = self.by_age.last().copied()
            && since > now
        {
            if let Some(mut entry) = self.remove(address) {
                entry.since = now;
                self.insert(entry);
            }
        }
        let mut rested = Vec::new();
        while let Some((_, address)) = self.by_age.first().copied()
            && let Some(entry) = self.entries.get(&address)
            && !entry.rests(now, cool_down)
        {
            self.remove(address);
            rested.push(address);
        }
        rested
    }

    /// Those that a pod gave back itself, in order. A pod without a UID is not known to be the same one.
    pub(crate) fn of_pod(
        &self,
        pod: Option<&NamespacedName>,
        uid: &str,
    ) -> impl Iterator<Item = IpAddr> {
        let addresses = key(pod, uid).and_then(|key| self.by_pod.get(&key));
        addresses.into_iter().flatten().copied()
    }

    /// All of them, the longest rested first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = IpAddr> {
        self.by_age.iter().map(|(_, address)| *address)
    }

    /// All of them, in the addresses' order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cooling> {
        self.entries.values()
    }

    /// Those from one address to another.
    pub(crate) fn between(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = &Cooling> {
        self.entries.range(first..=last).map(|(_, entry)| entry)
    }
}

fn key(pod: Option<&NamespacedName>, uid: &str) -> Option<(NamespacedName, String)> {
    let pod = pod.filter(|_| !uid.is_empty())?;
    Some((pod.clone(), uid.to_owned()))
}
