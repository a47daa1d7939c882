//! The core's part: what answers said, handed to the policy's index before each compilation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Key;
use api::resources::DomainName;
use netfilter::{ActualSets, Family, SetName};
use policy::{DnsAnswer, DomainCache};
use tokio::sync::{mpsc, watch};

use super::counts::{Counts, DnsReport};
use super::flows;
use crate::message::Message;

/// Answers that came before the policies were known; they are taken once they are.
const EARLY: usize = 1_000;
/// Ended addresses are let go together, so often at most: each time the kernel's flows are listed.
const EXPIRY_PAUSE: Duration = Duration::from_secs(10);

/// The names that policies give; `None` until they are known.
pub(crate) type Names = Option<Arc<BTreeSet<DomainName>>>;

/// What the DNS said of policies' names.
pub(crate) struct Domains {
    cache: DomainCache,
    /// Something that the cache follows has changed since it did: in large clusters that is long work for each pod.
    is_stale: bool,
    /// What an earlier run left in the kernel, until the policies are known.
    left: Option<(Instant, ActualSets)>,
    early: VecDeque<(Instant, DnsAnswer)>,
    known: bool,
    /// What was handed out last, and in which generation it was first.
    addresses: BTreeMap<DomainName, BTreeSet<IpAddr>>,
    generation: u64,
    next_expiry: Option<Instant>,
    names: watch::Sender<Names>,
    counts: Arc<Counts>,
}

impl Domains {
    /// Starts with nothing.
    pub(crate) fn new() -> Self {
        Self {
            cache: DomainCache::default(),
            is_stale: true,
            left: None,
            early: VecDeque::new(),
            known: false,
            addresses: BTreeMap::new(),
            generation: 0,
            next_expiry: None,
            names: watch::Sender::default(),
            counts: Arc::default(),
        }
    }

    /// Takes what an earlier run left in the kernel's sets. Before the first publication.
    pub(crate) fn restore(&mut self, now: Instant, left: ActualSets) {
        self.left = Some((now, left));
    }

    /// The names that answers are held for.
    pub(crate) fn names(&self) -> watch::Receiver<Names> {
        self.names.subscribe()
    }

    /// What is counted.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// What there is to tell.
    pub(crate) fn report(&self) -> DnsReport {
        DnsReport {
            names: self.addresses.len(),
            addresses: self.addresses.values().map(BTreeSet::len).sum(),
            ..self.counts.report()
        }
    }

    /// Limits that policies have reached.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.cache.problems().iter().map(ToString::to_string)
    }

    /// An object has changed.
    pub(crate) fn note(&mut self, key: &Key) {
        self.is_stale |= matches!(
            key,
            Key::ClusterNetworkPolicy(_) | Key::Node(_) | Key::IpPool(_)
        );
    }

    /// Hands the index its addresses, for the compilation of this generation. Every source is in sync.
    pub(crate) fn prepare(&mut self, index: &mut policy::Index, generation: u64) {
        if std::mem::take(&mut self.is_stale) {
            self.cache.follow(index.objects());
        }
        if let Some((now, left)) = self.left.take() {
            let of = |name: &DomainName| {
                let sets = Family::ALL.map(|family| set_name(family, name));
                sets.iter().flat_map(|set| left.addresses(set)).collect()
            };
            let names = self.cache.names();
            let adopted = names.into_iter().map(|name| (name.clone(), of(&name)));
            self.cache.adopt(now, &adopted.collect());
        }
        self.known = true;
        for (at, answer) in std::mem::take(&mut self.early) {
            self.counts
                .add_learned(self.cache.handle_answer(at, &answer));
        }
        let addresses = self.cache.addresses();
        if addresses != self.addresses {
            let names: BTreeSet<DomainName> = addresses.keys().cloned().collect();
            self.addresses.clone_from(&addresses);
            self.generation = generation;
            index.set_domain_addresses(addresses);
            self.tell(names);
        } else if self.names.borrow().is_none() {
            self.tell(BTreeSet::new());
        }
    }

    fn tell(&self, names: BTreeSet<DomainName>) {
        self.names.send_if_modified(|told| {
            let changed = told.as_deref() != Some(&names);
            if changed {
                *told = Some(Arc::new(names));
            }
            changed
        });
    }

    /// Takes an answer. `None`: its addresses come with the next publication; else the generation that holds them.
    pub(crate) fn handle_answer(&mut self, now: Instant, answer: DnsAnswer) -> Option<u64> {
        if !self.known {
            self.early.truncate(EARLY - 1);
            self.early.push_front((now, answer));
            return Some(0);
        }
        let learned = self.cache.handle_answer(now, &answer);
        self.counts.add_learned(learned);
        (!learned.changed).then_some(self.generation)
    }

    /// When [`Self::look_for_flows`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.cache.poll_timeout()?;
        Some(self.next_expiry.map_or(due, |pause| due.max(pause)))
    }

    /// Has the kernel's flows listed; their answer is for [`Self::handle_flows`].
    pub(crate) fn look_for_flows(&mut self, now: Instant, core: mpsc::Sender<Message>) {
        self.next_expiry = Some(now + EXPIRY_PAUSE);
        let due = self.cache.due(now);
        if !due.is_empty() {
            tokio::spawn(async move {
                let used = flows::used_of(due).await;
                // A core that is gone needs no answer.
                let _ = core.send(Message::LiveFlows(used)).await;
            });
        }
    }

    /// Lets go what has ended and no flow uses; true if there must be a publication.
    pub(crate) fn handle_flows(&mut self, now: Instant, used: &BTreeSet<IpAddr>) -> bool {
        self.cache.keep(now, used);
        self.cache.handle_timeout(now)
    }
}

/// Waits until that instant, for ever if there is none.
pub(crate) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The kernel's set of a domain name.
fn set_name(family: Family, name: &DomainName) -> SetName {
    SetName::hashed(family, "d", &[name.to_string()])
}

#[cfg(test)]
mod tests;
