//! Which policies hold for which endpoint, and which pods have which addresses: what both families share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::resources::{NetworkPolicy, Peer, Pod, PolicyRule, PortMatch};
use api::{Key, LabelSelector, Labels, NamespacedName};
use netfilter::InterfaceName;

use crate::index::Index;
use crate::{Direction, Endpoint, Isolated, Problem, Settings};

/// A pod that a peer may mean.
pub(crate) struct PeerPod<'a> {
    pub(crate) labels: &'a Labels,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The present objects, seen as policies see them.
pub(crate) struct Model<'a> {
    index: &'a Index,
    no_labels: Labels,
    pub(crate) isolated: BTreeMap<Direction, Isolated>,
    problems: BTreeSet<Problem>,
    /// Addresses that a local endpoint holds: another pod's object that still names them is out of date.
    held: BTreeMap<IpAddr, &'a NamespacedName>,
    /// Endpoints whose pod has no manifest, by namespace: peers without labels.
    unknown: BTreeMap<&'a str, Vec<&'a Endpoint>>,
    /// Endpoints by pod, where the manifest is that very pod's.
    local: BTreeMap<&'a NamespacedName, Vec<&'a Endpoint>>,
}

impl<'a> Model<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        let mut model = Self {
            index,
            no_labels: Labels::new(),
            isolated: BTreeMap::from([
                (Direction::Ingress, Isolated::new()),
                (Direction::Egress, Isolated::new()),
            ]),
            problems: index.objects.refused.clone(),
            held: BTreeMap::new(),
            unknown: BTreeMap::new(),
            local: BTreeMap::new(),
        };
        for endpoint in index.objects.endpoints.values() {
            model.place_endpoint(endpoint);
        }
        model.isolate();
        for policy in index.objects.policies.values() {
            model.report(policy);
        }
        model
    }

    pub(crate) fn settings(&self) -> &'a Settings {
        &self.index.settings
    }

    pub(crate) fn endpoints(&self) -> &'a BTreeMap<InterfaceName, Endpoint> {
        &self.index.objects.endpoints
    }

    pub(crate) fn policy(&self, name: &NamespacedName) -> Option<&'a NetworkPolicy> {
        self.index.objects.policies.get(name)
    }

    pub(crate) fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems).into_iter().collect()
    }

    /// The policies that hold for some local endpoint in a direction.
    pub(crate) fn policies_in_force(&self, direction: Direction) -> BTreeSet<&NamespacedName> {
        self.isolated
            .get(&direction)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .collect()
    }

    /// The namespaces that a selector means; `None` means the policy's own.
    pub(crate) fn namespaces(
        &self,
        own: &str,
        selector: Option<&LabelSelector>,
    ) -> BTreeSet<String> {
        let Some(selector) = selector else {
            return BTreeSet::from([own.to_owned()]);
        };
        let chosen = self
            .index
            .objects
            .namespaces
            .values()
            .filter(|one| selector.matches(&one.labels));
        chosen.map(|one| one.name.clone()).collect()
    }

    /// The pods of a namespace that a peer may mean: neither host-network nor finished ones (semantics 39, 45).
    pub(crate) fn peer_pods(&self, namespace: &str) -> impl Iterator<Item = PeerPod<'_>> {
        let known = self
            .index
            .objects
            .pods
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values);
        let known = known.filter(|pod| !pod.host_network && !pod.finished);
        let known = known.map(|pod| PeerPod {
            labels: &pod.labels,
            addresses: self.addresses(pod),
        });
        let unknown = self.unknown.get(namespace).into_iter().flatten();
        let unknown = unknown.map(|endpoint| PeerPod {
            labels: &self.no_labels,
            addresses: endpoint.addresses.clone(),
        });
        known.chain(unknown)
    }

    fn addresses(&self, pod: &Pod) -> Vec<IpAddr> {
        if let Some(endpoints) = self.local.get(&pod.name) {
            return endpoints
                .iter()
                .flat_map(|endpoint| endpoint.addresses.clone())
                .collect();
        }
        let current = |address: &&IpAddr| {
            self.held
                .get(*address)
                .is_none_or(|name| **name == pod.name)
        };
        pod.pod_ips.iter().filter(current).copied().collect()
    }

    fn place_endpoint(&mut self, endpoint: &'a Endpoint) {
        for address in &endpoint.addresses {
            self.held.insert(*address, &endpoint.pod);
        }
        match self.index.objects.pod(&endpoint.pod) {
            Some(pod) if is_of(endpoint, pod) => {
                self.local.entry(&endpoint.pod).or_default().push(endpoint)
            }
            _ => self
                .unknown
                .entry(&endpoint.pod.namespace)
                .or_default()
                .push(endpoint),
        }
    }

    fn isolate(&mut self) {
        let mut by_namespace: BTreeMap<&str, Vec<&NetworkPolicy>> = BTreeMap::new();
        for policy in self.index.objects.policies.values() {
            by_namespace
                .entry(&policy.name.namespace)
                .or_default()
                .push(policy);
        }
        for (interface, endpoint) in &self.index.objects.endpoints {
            let Some(labels) = self.subject_labels(endpoint) else {
                continue;
            };
            let policies = by_namespace
                .get(endpoint.pod.namespace.as_str())
                .into_iter()
                .flatten();
            for policy in policies.filter(|policy| policy.pod_selector.matches(labels)) {
                for direction in [Direction::Ingress, Direction::Egress] {
                    if rules(policy, direction).is_none() {
                        continue;
                    }
                    let isolated = self.isolated.entry(direction).or_default();
                    isolated
                        .entry(interface.clone())
                        .or_default()
                        .insert(policy.name.clone());
                }
            }
        }
    }

    /// The labels by which policies choose an endpoint; `None` if none may (host network, finished).
    ///
    /// A pod made anew under its name (another uid) is the best that is known of the one before: its labels count,
    /// its phase doesn't.
    fn subject_labels(&self, endpoint: &Endpoint) -> Option<&'a Labels> {
        static NO_LABELS: Labels = Labels::new();
        match self.index.objects.pod(&endpoint.pod) {
            None => Some(&NO_LABELS),
            Some(pod) if is_of(endpoint, pod) && (pod.host_network || pod.finished) => None,
            Some(pod) => Some(&pod.labels),
        }
    }

    fn report(&mut self, policy: &NetworkPolicy) {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (index, rule) in rules(policy, direction).into_iter().flatten().enumerate() {
                for problem in problems(rule) {
                    let way = match direction {
                        Direction::Ingress => "ingress",
                        Direction::Egress => "egress",
                    };
                    let number = index + 1;
                    self.problems.insert(Problem {
                        key: Key::NetworkPolicy(policy.name.clone()),
                        message: format!("{way} rule {number}: {problem}"),
                    });
                }
            }
        }
    }
}

/// A policy's rules for a direction; `None` if it does not isolate for it.
pub(crate) fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

/// Whether a Pod object is the very pod of an endpoint: no other uid where both are known.
fn is_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.uid.is_empty() || pod.uid.is_empty() || endpoint.uid == pod.uid
}

fn problems(rule: &PolicyRule) -> Vec<String> {
    let ports = rule
        .ports
        .iter()
        .flatten()
        .filter_map(|port| match &port.port {
            PortMatch::Named(name) => Some(format!(
                "named port {name:?} is not supported yet: it matches nothing"
            )),
            PortMatch::Unsupported(why) => Some(format!("{why}: it matches nothing")),
            PortMatch::Any | PortMatch::Range(..) => None,
        });
    let peers = rule.peers.iter().flatten().filter_map(|peer| match peer {
        Peer::Unsupported(why) => Some(format!("{why}: it matches nothing")),
        Peer::Pods { .. } | Peer::IpBlock(_) => None,
    });
    ports.chain(peers).collect()
}
