//! Which policies are asked about which endpoint now.

use std::collections::{BTreeMap, BTreeSet};

use api::{Key, NamespacedName};
use netfilter::InterfaceName;

use crate::part::{Part, subject_problem};
use crate::people::subject_labels;
use crate::policing::{Policed, Policing, Subject};
use crate::{Direction, Endpoint, Objects, Problem};

/// The policies as parts, and what each endpoint is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subjects {
    parts: BTreeMap<(Key, Direction), Part>,
    /// What cannot be compiled; policies without problems are not in it.
    problems: BTreeMap<Key, BTreeSet<Problem>>,
    policed: BTreeMap<Direction, Policed>,
}

/// An endpoint that other policies are asked about than before.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) interface: InterfaceName,
    pub(crate) direction: Direction,
    pub(crate) before: Option<Policing>,
}

impl Subjects {
    /// Reads a policy anew.
    pub(crate) fn change_policy(&mut self, key: &Key, objects: &Objects) {
        let mut problems = BTreeSet::new();
        for direction in Direction::ALL {
            let part = match key {
                Key::NetworkPolicy(name) => objects
                    .policies
                    .get(name)
                    .and_then(|policy| Part::of_policy(policy, direction)),
                Key::ClusterNetworkPolicy(name) => objects
                    .cluster_policies
                    .get(name)
                    .and_then(|policy| Part::of_cluster(policy, direction)),
                _ => None,
            };
            match part {
                Some(part) => {
                    problems.extend(part.problems());
                    self.parts.insert((key.clone(), direction), part);
                }
                None => drop(self.parts.remove(&(key.clone(), direction))),
            }
        }
        if let Key::ClusterNetworkPolicy(name) = key {
            let policy = objects.cluster_policies.get(name);
            problems.extend(policy.and_then(subject_problem));
        }
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
    }

    /// Asks all policies about endpoints (those that are gone among them); gives those whose answer is another now.
    pub(crate) fn ask(
        &mut self,
        asked: &BTreeSet<InterfaceName>,
        endpoints: &BTreeMap<InterfaceName, Endpoint>,
        objects: &Objects,
    ) -> Vec<Moved> {
        let mut moved = Vec::new();
        for interface in asked {
            for direction in Direction::ALL {
                let now = endpoints
                    .get(interface)
                    .map(|endpoint| self.policing(endpoint, direction, objects))
                    .filter(|policing| !policing.is_empty());
                let policed = self.policed.entry(direction).or_default();
                if policed.get(interface) == now.as_ref() {
                    continue;
                }
                let before = match now {
                    Some(policing) => policed.insert(interface.clone(), policing),
                    None => policed.remove(interface),
                };
                moved.push(Moved {
                    interface: interface.clone(),
                    direction,
                    before,
                });
            }
        }
        moved
    }

    pub(crate) fn part(&self, key: &Key, direction: Direction) -> Option<&Part> {
        self.parts.get(&(key.clone(), direction))
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// What an endpoint is asked.
    pub(crate) fn of(&self, interface: &InterfaceName, direction: Direction) -> Option<&Policing> {
        self.policed.get(&direction)?.get(interface)
    }

    /// The endpoints that some policy is asked about.
    pub(crate) fn policed(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (&InterfaceName, &Policing)> {
        self.policed.get(&direction).into_iter().flatten()
    }

    fn policing(&self, endpoint: &Endpoint, direction: Direction, objects: &Objects) -> Policing {
        let mut policing = Policing::default();
        let Some(labels) = subject_labels(objects, endpoint) else {
            return policing;
        };
        let namespace = endpoint.pod.namespace.as_str();
        let who = Subject {
            namespace,
            of_namespace: objects.namespaces.get(namespace).map(|one| &one.labels),
            labels,
        };
        let first = NamespacedName::new(namespace, "");
        let own = objects.policies.range(first..);
        for (_, policy) in own.take_while(|(name, _)| name.namespace == namespace) {
            policing.ask(policy, direction, &who);
        }
        for (name, policy) in &objects.cluster_policies {
            let key = Key::ClusterNetworkPolicy(name.clone());
            if let Some(part) = self.part(&key, direction) {
                policing.ask_cluster(policy, part, &who);
            }
        }
        policing.settle();
        policing
    }
}
