//! What all workers know together: who holds which address now, which attachments live, and what was done how often.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, RwLock};

/// Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    held: Mutex<BTreeMap<IpAddr, String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Held for reading over each request, for writing over a GC: the runtime's duty (CNI specification, "GC").
    pub(crate) requests: RwLock<()>,
}

impl Ledger {
    /// Notes that a container has these addresses: no other one that lives may have them.
    pub(crate) fn hold(&self, container: &str, addresses: &[IpAddr]) {
        assert_eq!(addresses.len(), 2, "{container}: {addresses:?}");
        let mut held = self.held.lock().unwrap();
        for address in addresses {
            let other = held.insert(*address, container.to_owned());
            let is_double = other.as_ref().is_some_and(|other| other != container);
            assert!(!is_double, "{address} is {container}'s and {other:?}'s");
        }
    }

    /// Notes that it lives no longer; to be called before its deletion begins.
    pub(crate) fn free(&self, container: &str) {
        self.held
            .lock()
            .unwrap()
            .retain(|_, holder| holder != container);
    }

    /// The containers that live.
    pub(crate) fn living(&self) -> Vec<String> {
        let mut all: Vec<String> = self.held.lock().unwrap().values().cloned().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    /// All counts, for a person.
    pub(crate) fn told(&self) -> String {
        let counts = self.counts.lock().unwrap();
        let told: Vec<String> = counts
            .iter()
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        told.join(", ")
    }

    /// A run that did too little proves nothing. `least` is for 45 s.
    pub(crate) fn assert_enough(&self, least: &[(&str, u64)], seconds: u64) {
        let counts = self.counts.lock().unwrap();
        for (what, least) in least {
            let (did, least) = (counts.get(what).copied().unwrap_or(0), least * seconds / 45);
            assert!(did >= least, "{what}: only {did} of {least}; {counts:?}");
        }
    }
}
