//! The sets that peers are matched by: one per distinct meaning, shared by all policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::LabelSelector;
use api::labels::Requirement;
use api::resources::{IpBlock, Peer};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netfilter::{Family, IpSet, SetKind, SetName};

use crate::model::Model;

/// The sets of one family, made as policies ask for them.
pub(crate) struct PeerSets<'a> {
    model: &'a Model<'a>,
    family: Family,
    sets: BTreeMap<SetName, Arc<IpSet>>,
}

impl<'a> PeerSets<'a> {
    pub(crate) fn new(model: &'a Model<'a>, family: Family) -> Self {
        Self {
            model,
            family,
            sets: BTreeMap::new(),
        }
    }

    pub(crate) fn finish(self) -> BTreeMap<SetName, Arc<IpSet>> {
        self.sets
    }

    /// The set of a peer of a policy in a namespace; `None` if it can match nothing in this family.
    pub(crate) fn of(&mut self, own: &str, peer: &Peer) -> Option<SetName> {
        match peer {
            Peer::Pods { namespaces, pods } => Some(self.pods(own, namespaces.as_ref(), pods)),
            Peer::IpBlock(block) => self.block(block),
            Peer::Unsupported(_) => None,
        }
    }

    fn pods(
        &mut self,
        own: &str,
        namespaces: Option<&LabelSelector>,
        pods: &LabelSelector,
    ) -> SetName {
        let mut words = match namespaces {
            None => vec!["namespace".to_owned(), own.to_owned()],
            Some(selector) => {
                let mut words = vec!["namespaces".to_owned()];
                words.extend(selector_words(selector));
                words
            }
        };
        words.push("pods".to_owned());
        words.extend(selector_words(pods));
        let name = SetName::hashed(self.family, "p", &words);
        if !self.sets.contains_key(&name) {
            let mut set = IpSet::new(name.clone(), self.family, SetKind::HashIp);
            for namespace in self.model.namespaces(own, namespaces) {
                let chosen = self
                    .model
                    .peer_pods(&namespace)
                    .filter(|pod| pods.matches(pod.labels));
                chosen
                    .flat_map(|pod| pod.addresses)
                    .for_each(|address| set.insert_ip(address));
            }
            self.sets.insert(name.clone(), Arc::new(set));
        }
        name
    }

    fn block(&mut self, block: &IpBlock) -> Option<SetName> {
        if family_of(&block.cidr) != self.family {
            return None;
        }
        let except: BTreeSet<IpNet> = block.except.iter().map(IpNet::trunc).collect();
        let mut words = vec![block.cidr.trunc().to_string()];
        words.extend(except.iter().map(IpNet::to_string));
        let name = SetName::hashed(self.family, "n", &words);
        let family = self.family;
        self.sets.entry(name.clone()).or_insert_with(|| {
            let mut set = IpSet::new(name.clone(), family, SetKind::HashNet);
            subtract(block.cidr.trunc(), &except)
                .into_iter()
                .for_each(|net| set.insert_net(net));
            Arc::new(set)
        });
        Some(name)
    }
}

/// A selector as words that differ for different selectors; lists are preceded by their length.
fn selector_words(selector: &LabelSelector) -> Vec<String> {
    let mut words = vec![selector.requirements.len().to_string()];
    for requirement in &selector.requirements {
        let none = BTreeSet::new();
        let (operator, key, values) = match requirement {
            Requirement::In(key, values) => ("In", key, values),
            Requirement::NotIn(key, values) => ("NotIn", key, values),
            Requirement::Exists(key) => ("Exists", key, &none),
            Requirement::DoesNotExist(key) => ("DoesNotExist", key, &none),
        };
        words.extend([operator.to_owned(), key.clone(), values.len().to_string()]);
        words.extend(values.iter().cloned());
    }
    words
}

fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// The networks that cover `net` less `except`: halves it only where an exception lies within.
fn subtract(net: IpNet, except: &BTreeSet<IpNet>) -> Vec<IpNet> {
    if except.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let within: BTreeSet<IpNet> = except
        .iter()
        .filter(|hole| net.contains(*hole))
        .copied()
        .collect();
    if within.is_empty() {
        return vec![net];
    }
    halves(net)
        .into_iter()
        .flat_map(|half| subtract(half, &within))
        .collect()
}

fn halves(net: IpNet) -> Vec<IpNet> {
    let longer = net.prefix_len().saturating_add(1);
    match net {
        IpNet::V4(net) => Ipv4Net::subnets(&net, longer)
            .into_iter()
            .flatten()
            .map(IpNet::V4)
            .collect(),
        IpNet::V6(net) => Ipv6Net::subnets(&net, longer)
            .into_iter()
            .flatten()
            .map(IpNet::V6)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        (any::<u32>(), 0u8..=32).prop_map(|(address, length)| {
            IpNet::V4(
                Ipv4Net::new(Ipv4Addr::from_bits(address & 0xf000_00ff), length)
                    .unwrap()
                    .trunc(),
            )
        })
    }

    proptest! {
        #[test]
        fn subtraction_leaves_exactly_what_is_outside_the_exceptions(
            cidr in net(), except in prop::collection::btree_set(net(), 0..5), address: u32
        ) {
            let left = subtract(cidr, &except);
            let address = IpAddr::V4(Ipv4Addr::from_bits(address & 0xf000_00ff));
            let wanted = cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address));
            prop_assert_eq!(left.iter().any(|net| net.contains(&address)), wanted);
            prop_assert!(left.len() <= 32 * 5 + 1);
        }
    }
}
