//! Which addresses the domain names of policies stand for now, as answers of the DNS have said it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::Key;
use api::resources::{ClusterPeer, DomainName};
use ipnet::IpNet;

use crate::domain_answer::{DnsAnswer, DnsData};
use crate::{Objects, Problem};

/// An address holds for so long beyond its TTL: who was told it uses it a little later.
const GRACE: Duration = Duration::from_secs(60);
/// A TTL counts as this at most.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
/// For how long addresses hold that an earlier run has left: their TTLs are not known any more.
const ADOPTED: Duration = Duration::from_secs(3600);
/// For how long an address that a live flow uses holds on.
const KEPT: Duration = Duration::from_secs(60);
/// A chain of CNAMEs is followed for so many steps.
const ALIASES: usize = 16;
/// Where adopted addresses stand: no name of the DNS is empty.
const NO_NAME: &str = "";

/// How much is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainLimits {
    /// Names that were asked for, of one `domainNames` entry with a `*`.
    pub names: usize,
    /// Addresses of one name that was asked for.
    pub addresses_per_name: usize,
    /// Addresses of all entries of one policy together.
    pub addresses_per_policy: usize,
}

impl Default for DomainLimits {
    /// 1,000 names, 256 addresses a name, 4,096 a policy.
    fn default() -> Self {
        Self {
            names: 1_000,
            addresses_per_name: 256,
            addresses_per_policy: 4_096,
        }
    }
}

/// What an answer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// A policy gives the name that was asked for.
    pub wanted: bool,
    /// [`DomainCache::addresses`] is another now (or may be, where a limit was reached): the sets must follow before the
    /// answer is let go.
    pub changed: bool,
    /// Addresses that no answer may give.
    pub refused: usize,
    /// Addresses that had to go because a limit was reached.
    pub evicted: usize,
}

/// Addresses until when, by the name that was asked for.
type Known = BTreeMap<String, BTreeMap<IpAddr, Instant>>;

/// What answers said of the names that policies give. An address counts for the entries that match the name that was
/// *asked for*: what an alias points to is not asked for, so no policy that gives the alias's target learns from it.
///
/// It holds for its TTL (the shortest on the way of aliases, a day at most) and a minute; [`Self::keep`] says which are
/// still used. Over a limit, what ends soonest goes first. Addresses of pods and nodes, and those that no host outside
/// has (loopback, link-local, multicast and the like), are refused: whoever answers for a name must not open the way to
/// the cluster's inside.
#[derive(Clone, Debug, Default)]
pub struct DomainCache {
    limits: DomainLimits,
    policies: BTreeMap<Key, BTreeSet<DomainName>>,
    refused: BTreeSet<IpNet>,
    known: BTreeMap<DomainName, Known>,
    /// Limits that were reached, until the policy goes.
    problems: BTreeSet<Problem>,
}

impl DomainCache {
    /// Makes an empty one.
    pub fn new(limits: DomainLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes the names of all policies, and the Pod CIDRs and addresses of all nodes and pools. What is held of names that no
    /// policy gives any more goes.
    pub fn follow(&mut self, objects: &Objects) {
        self.policies = objects
            .cluster_policies
            .values()
            .map(|policy| {
                let peers = policy.egress.iter().flat_map(|rule| &rule.peers);
                let names = peers.filter_map(|peer| match peer {
                    ClusterPeer::DomainNames(names) => Some(names),
                    _ => None,
                });
                let key = Key::ClusterNetworkPolicy(policy.name.clone());
                (key, names.flatten().cloned().collect::<BTreeSet<_>>())
            })
            .filter(|(_, names)| !names.is_empty())
            .collect();
        let pools = objects.pools.values().filter(|pool| pool.is_for_pods());
        let pools = pools.map(|pool| pool.cidr);
        self.refused = objects
            .nodes
            .values()
            .flat_map(|node| {
                let own = node.addresses.iter().map(|address| IpNet::from(*address));
                own.chain(node.pod_cidrs.iter().copied())
            })
            .chain(pools)
            .collect();
        let given: BTreeSet<DomainName> = self.policies.values().flatten().cloned().collect();
        self.known.retain(|name, _| given.contains(name));
        for name in given {
            self.known.entry(name).or_default();
        }
        let refused = self.refused.clone();
        self.retain(|address, _| !is_refused(&refused, address));
        self.problems
            .retain(|problem| self.policies.contains_key(&problem.key));
    }

    /// The names that policies give.
    pub fn names(&self) -> BTreeSet<DomainName> {
        self.known.keys().cloned().collect()
    }

    /// Takes an answer.
    pub fn handle_answer(&mut self, now: Instant, answer: &DnsAnswer) -> Learned {
        let mut learned = Learned::default();
        let matching = |name: &&DomainName| name.matches(&answer.question);
        let wanting: Vec<DomainName> = self.known.keys().filter(matching).cloned().collect();
        if wanting.is_empty() {
            return learned;
        }
        learned.wanted = true;
        let mut addresses = reached(answer);
        let all = addresses.len();
        addresses.retain(|address, _| !is_refused(&self.refused, *address));
        learned.refused = all - addresses.len();
        if addresses.is_empty() {
            return learned;
        }
        let before: Vec<_> = wanting.iter().map(|name| self.addresses_of(name)).collect();
        for name in &wanting {
            let known = self.known.entry(name.clone()).or_default();
            let held = known.entry(answer.question.clone()).or_default();
            for (address, ttl) in &addresses {
                let until = now + (*ttl).min(LONGEST_TTL) + GRACE;
                let present = held.entry(*address).or_insert(until);
                *present = until.max(*present);
            }
            learned.evicted += self.hold_limits_of(name, &answer.question);
        }
        learned.evicted += self.hold_limits_of_policies(&wanting);
        let now = wanting.iter().map(|name| self.addresses_of(name));
        learned.changed = learned.evicted > 0 || !now.eq(before);
        learned
    }

    /// Takes over what an earlier run has left in the kernel, for names that policies give. It holds for an hour: its
    /// TTLs are not known any more.
    pub fn adopt(&mut self, now: Instant, addresses: &BTreeMap<DomainName, BTreeSet<IpAddr>>) {
        for (name, addresses) in addresses {
            let Some(known) = self.known.get_mut(name) else {
                continue;
            };
            let good = addresses
                .iter()
                .filter(|address| !is_refused(&self.refused, **address))
                .take(self.limits.addresses_per_policy)
                .map(|address| (*address, now + ADOPTED));
            known.entry(NO_NAME.to_owned()).or_default().extend(good);
            known.retain(|_, held| !held.is_empty());
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held().map(|(_, until)| until).min()
    }

    /// The addresses that [`Self::handle_timeout`] would let go now.
    pub fn due(&self, now: Instant) -> BTreeSet<IpAddr> {
        self.held()
            .filter(|(_, until)| *until <= now)
            .map(|(address, _)| address)
            .collect()
    }

    /// Says which addresses live flows use: they hold for a minute more at least.
    pub fn keep(&mut self, now: Instant, used: &BTreeSet<IpAddr>) {
        for held in self.known.values_mut().flat_map(BTreeMap::values_mut) {
            for (_, until) in held
                .iter_mut()
                .filter(|(address, _)| used.contains(*address))
            {
                *until = (now + KEPT).max(*until);
            }
        }
    }

    /// Lets go what has ended; true if [`Self::addresses`] is another now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.addresses();
        self.retain(|_, until| until > now);
        self.addresses() != before
    }

    /// The addresses of each name that a policy gives; none as yet is an empty set.
    pub fn addresses(&self) -> BTreeMap<DomainName, BTreeSet<IpAddr>> {
        let names = self.known.keys();
        names
            .map(|name| (name.clone(), self.addresses_of(name)))
            .collect()
    }

    /// Which policies have reached a limit.
    pub fn problems(&self) -> &BTreeSet<Problem> {
        &self.problems
    }

    fn addresses_of(&self, name: &DomainName) -> BTreeSet<IpAddr> {
        let known = self.known.get(name).into_iter();
        let held = known.flat_map(BTreeMap::values);
        held.flat_map(BTreeMap::keys).copied().collect()
    }

    fn held(&self) -> impl Iterator<Item = (IpAddr, Instant)> {
        let all = self.known.values().flat_map(BTreeMap::values).flatten();
        all.map(|(address, until)| (*address, *until))
    }

    fn retain(&mut self, mut wanted: impl FnMut(IpAddr, Instant) -> bool) {
        for known in self.known.values_mut() {
            for held in known.values_mut() {
                held.retain(|address, until| wanted(*address, *until));
            }
            known.retain(|_, held| !held.is_empty());
        }
    }

    /// Names of an entry, addresses of a name.
    fn hold_limits_of(&mut self, name: &DomainName, asked: &str) -> usize {
        let mut evicted = 0;
        let Some(known) = self.known.get_mut(name) else {
            return 0;
        };
        let limit = self.limits.addresses_per_name;
        let mut reached = Vec::new();
        if let Some(held) = known.get_mut(asked) {
            while held.len() > limit && drop_soonest(held) {
                evicted += 1;
            }
            if evicted > 0 {
                reached.push(format!("{name} has more than {limit} addresses"));
            }
        }
        let limit = self.limits.names;
        while known.len() > limit {
            let last = |held: &BTreeMap<IpAddr, Instant>| held.values().max().copied();
            let soonest = known
                .iter()
                .min_by_key(|(asked, held)| (last(held), *asked));
            let Some(gone) = soonest.map(|(asked, _)| asked.clone()) else {
                break;
            };
            evicted += known.remove(&gone).map_or(0, |held| held.len());
            reached.push(format!("more than {limit} names of {name} were asked for"));
        }
        let givers = self
            .policies
            .iter()
            .filter(|(_, names)| names.contains(name));
        for (key, _) in givers {
            self.problems
                .extend(reached.iter().map(|what| over(key, what)));
        }
        evicted
    }

    /// Addresses of a policy: the entry that holds most gives way.
    fn hold_limits_of_policies(&mut self, touched: &[DomainName]) -> usize {
        let limit = self.limits.addresses_per_policy;
        let mut evicted = 0;
        for (key, names) in &self.policies {
            if !touched.iter().any(|name| names.contains(name)) {
                continue;
            }
            loop {
                let size = |known: &Known| known.values().map(BTreeMap::len).sum::<usize>();
                let sizes = names.iter().filter_map(|name| {
                    let known = self.known.get(name)?;
                    Some((size(known), name))
                });
                let total: usize = sizes.clone().map(|(size, _)| size).sum();
                let Some((_, largest)) = sizes.max().filter(|_| total > limit) else {
                    break;
                };
                let Some(known) = self.known.get_mut(largest) else {
                    break;
                };
                let soonest = known
                    .iter_mut()
                    .min_by_key(|(_, held)| held.values().min().copied());
                if !soonest.is_some_and(|(_, held)| drop_soonest(held)) {
                    break;
                }
                known.retain(|_, held| !held.is_empty());
                evicted += 1;
                let what = format!("its domain names have more than {limit} addresses");
                self.problems.insert(over(key, &what));
            }
        }
        evicted
    }
}

fn over(key: &Key, what: &str) -> Problem {
    Problem {
        key: key.clone(),
        message: format!("{what}: those whose time ends soonest were let go"),
    }
}

fn drop_soonest(held: &mut BTreeMap<IpAddr, Instant>) -> bool {
    let soonest = held
        .iter()
        .min_by_key(|(address, until)| (**until, **address));
    let soonest = soonest.map(|(address, _)| *address);
    soonest.is_some_and(|address| held.remove(&address).is_some())
}

/// The addresses that the question leads to, each with the shortest TTL on the way to it.
fn reached(answer: &DnsAnswer) -> BTreeMap<IpAddr, Duration> {
    let mut addresses = BTreeMap::new();
    let mut ways = BTreeMap::from([(answer.question.as_str(), Duration::MAX)]);
    for _ in 0..=ALIASES {
        let mut further: BTreeMap<&str, Duration> = BTreeMap::new();
        for record in &answer.records {
            let Some(way) = ways.get(record.owner.as_str()) else {
                continue;
            };
            let ttl = record.ttl.min(*way);
            match &record.data {
                DnsData::Address(address) => {
                    let present = addresses.entry(*address).or_insert(ttl);
                    *present = ttl.max(*present);
                }
                DnsData::Alias(name) => {
                    let present = further.entry(name).or_insert(ttl);
                    *present = ttl.max(*present);
                }
            }
        }
        if further.is_empty() {
            break;
        }
        ways = further;
    }
    addresses
}

fn is_refused(refused: &BTreeSet<IpNet>, address: IpAddr) -> bool {
    let nowhere = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4().is_some()
        }
    };
    nowhere || refused.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests;
