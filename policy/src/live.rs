//! The compiler that follows changes: each costs as much as what it touches. Whatever way led to the present objects,
//! what comes out is what `scratch` makes of them.
//!
//! Three layers, each told by the one before what changed: who is who (people, labels), which policies are asked about
//! which endpoint, and the chains and sets that follow.

mod chains;
mod claims;
mod output;
mod population;
mod sets;
mod subjects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::Pod;
use api::{Key, NamespacedName};
use netfilter::{Family, InterfaceName};

use crate::domain_hold;
use crate::people::Person;
use crate::render::Broken;
use crate::scratch::{self, Input};
use crate::{Compiled, Endpoint, Objects, Settings};
use chains::Chains;
use claims::Claims;
use output::Output;
use population::{Population, Who};
use sets::LiveSets;
use subjects::Subjects;

/// What changed since the last compilation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Objects that are no pods.
    pub(crate) keys: BTreeSet<Key>,
    /// Pods, and their objects as of the last compilation.
    pub(crate) pods: BTreeMap<NamespacedName, Option<Arc<Pod>>>,
    pub(crate) endpoints: bool,
    pub(crate) domains: bool,
    pub(crate) broken: bool,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        let objects = self.keys.is_empty() && self.pods.is_empty();
        objects && !self.endpoints && !self.domains && !self.broken
    }

    /// Whether a resolver of the cluster or a policy that may give domain names is among them.
    fn touch_answers(&self, settings: &Settings) -> bool {
        let Some(names) = &settings.domain_names else {
            return false;
        };
        let (of_dns, _) = &names.cluster_dns;
        let is_policy = |key: &Key| matches!(key, Key::ClusterNetworkPolicy(_));
        self.pods.keys().any(|pod| pod.namespace == *of_dns) || self.keys.iter().any(is_policy)
    }
}

/// All that is kept between compilations.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    output: Output,
    endpoints: BTreeMap<InterfaceName, Endpoint>,
    by_pod: BTreeMap<NamespacedName, BTreeSet<InterfaceName>>,
    holders: BTreeMap<IpAddr, BTreeSet<InterfaceName>>,
    claims: Claims,
    population: Population,
    sets: LiveSets,
    subjects: Subjects,
    chains: Chains,
}

impl Live {
    /// What an empty cluster gives.
    pub(crate) fn new(settings: &Settings) -> Self {
        let nothing = Input {
            objects: &Objects::default(),
            settings,
            broken: &Broken::default(),
        };
        let compiled = scratch::compile(nothing);
        Self {
            chains: Chains::default(),
            output: Output::new(compiled),
            endpoints: BTreeMap::new(),
            by_pod: BTreeMap::new(),
            holders: BTreeMap::new(),
            claims: Claims::default(),
            population: Population::default(),
            sets: LiveSets::default(),
            subjects: Subjects::default(),
        }
    }

    /// What was compiled last.
    pub(crate) fn share(&self) -> Arc<Compiled> {
        self.output.share()
    }

    /// Follows changes; the input is as it is after them.
    pub(crate) fn follow(&mut self, changes: &Changes, input: Input<'_>) {
        let objects = input.objects;
        let mut policies = BTreeSet::new();
        let mut pods: BTreeSet<NamespacedName> = BTreeSet::new();
        let mut asked: BTreeSet<InterfaceName> = BTreeSet::new();
        let mut others = changes.domains;
        let tree = changes.endpoints && self.place_endpoints(objects, &mut pods, &mut asked);
        for key in &changes.keys {
            match key {
                Key::Namespace(name) => self.change_namespace(name, objects, &mut asked),
                Key::Node(_) => others = true,
                Key::NetworkPolicy(_) | Key::ClusterNetworkPolicy(_) => {
                    policies.insert(key.clone());
                }
                _ => {}
            }
        }
        for (name, before) in &changes.pods {
            self.claims.set(before.as_ref(), objects.shared_pod(name));
        }
        for name in changes.pods.keys().chain(&pods) {
            self.change_pod(name, objects, &mut asked);
        }
        if others {
            self.sets
                .refresh_others(&self.population, objects, &mut self.output);
        }
        for key in &policies {
            self.subjects.change_policy(key, objects);
            self.ask_about(key, &mut asked);
        }
        let moved = self.subjects.ask(&asked, &self.endpoints, objects);
        let mut maker = chains::Update {
            chains: &mut self.chains,
            sets: &mut self.sets,
            output: &mut self.output,
            subjects: &self.subjects,
            population: &self.population,
            endpoints: &self.endpoints,
            input,
        };
        maker.policies(&moved, &policies, changes.broken);
        maker.groups(&moved, changes.broken);
        if changes.endpoints {
            maker.endpoints(tree);
        }
        if changes.endpoints || !moved.is_empty() {
            maker.guards();
            maker.input();
        }
        maker.problems();
        if changes.endpoints || !asked.is_empty() || changes.touch_answers(input.settings) {
            self.hold_answers(input);
        }
    }

    /// The resolvers that count, and the pods that learn from them.
    fn hold_answers(&mut self, input: Input<'_>) {
        let Some(names) = &input.settings.domain_names else {
            return;
        };
        for family in Family::ALL {
            for set in domain_hold::sets(family, names, input.objects) {
                self.output.put_set(set);
            }
        }
    }

    /// Takes the endpoints. Says whether some came or went, which pods that may concern, and whom to ask about.
    fn place_endpoints(
        &mut self,
        objects: &Objects,
        pods: &mut BTreeSet<NamespacedName>,
        asked: &mut BTreeSet<InterfaceName>,
    ) -> bool {
        let mut addresses = BTreeSet::new();
        let mut tree = false;
        let old = std::mem::replace(&mut self.endpoints, objects.endpoints.clone());
        let names: BTreeSet<&InterfaceName> = old.keys().chain(objects.endpoints.keys()).collect();
        for name in names {
            let (before, after) = (old.get(name), objects.endpoints.get(name));
            if before == after {
                continue;
            }
            tree |= before.is_some() != after.is_some();
            asked.insert(name.clone());
            if let Some(endpoint) = before {
                forget(&mut self.by_pod, &endpoint.pod, name);
                for address in &endpoint.addresses {
                    forget(&mut self.holders, address, name);
                }
                self.change_endpoint_person(name, endpoint, None);
            }
            if let Some(endpoint) = after {
                let of_pod = self.by_pod.entry(endpoint.pod.clone()).or_default();
                of_pod.insert(name.clone());
                for address in &endpoint.addresses {
                    self.holders
                        .entry(*address)
                        .or_default()
                        .insert(name.clone());
                }
            }
            for endpoint in before.into_iter().chain(after) {
                pods.insert(endpoint.pod.clone());
                addresses.extend(endpoint.addresses.iter().copied());
            }
        }
        for address in &addresses {
            pods.extend(self.claims.of(*address).cloned());
        }
        tree
    }

    fn change_namespace(
        &mut self,
        name: &str,
        objects: &Objects,
        asked: &mut BTreeSet<InterfaceName>,
    ) {
        let new = objects
            .namespaces
            .get(name)
            .map(|namespace| &namespace.labels);
        if self.population.labels(name) == new {
            return;
        }
        let old = self.population.set_labels(name, new);
        self.sets
            .change_namespace(name, old.as_ref(), new, &self.population, &mut self.output);
        asked.extend(self.of_namespace(name));
    }

    fn change_pod(
        &mut self,
        name: &NamespacedName,
        objects: &Objects,
        asked: &mut BTreeSet<InterfaceName>,
    ) {
        let interfaces = self.by_pod.get(name).cloned().unwrap_or_default();
        let pod = objects.shared_pod(name);
        let own: Vec<&Endpoint> = interfaces
            .iter()
            .filter_map(|interface| self.endpoints.get(interface))
            .collect();
        let held = |address| self.holders.contains_key(&address);
        let person = pod.and_then(|pod| Person::of_pod(pod, &own, held));
        self.change_person(&name.namespace, Who::Pod(name.name.clone()), person);
        for interface in &interfaces {
            if let Some(endpoint) = self.endpoints.get(interface).cloned() {
                let person = Person::of_endpoint(&endpoint, objects.pod(name));
                self.change_endpoint_person(interface, &endpoint, person);
            }
        }
        asked.extend(interfaces);
    }

    fn change_endpoint_person(
        &mut self,
        name: &InterfaceName,
        endpoint: &Endpoint,
        person: Option<Person>,
    ) {
        let who = Who::Endpoint(name.clone());
        self.change_person(&endpoint.pod.namespace, who, person);
    }

    fn change_person(&mut self, namespace: &str, who: Who, person: Option<Person>) {
        if self.population.get(namespace, &who) == person.as_ref() {
            // An object that differs in what is no matter to others: the old one is not held on to.
            self.population.set(namespace, who, person);
            return;
        }
        let old = self.population.set(namespace, who.clone(), person);
        let new = self.population.get(namespace, &who);
        self.sets
            .change_person(old.as_ref(), new, &self.population, &mut self.output);
    }

    /// The endpoints that a policy may select or have selected.
    fn ask_about(&self, key: &Key, asked: &mut BTreeSet<InterfaceName>) {
        match key {
            Key::NetworkPolicy(name) => asked.extend(self.of_namespace(&name.namespace)),
            _ => asked.extend(self.endpoints.keys().cloned()),
        }
    }

    fn of_namespace<'a>(&'a self, name: &'a str) -> impl Iterator<Item = InterfaceName> + 'a {
        let first = NamespacedName::new(name, "");
        let pods = self.by_pod.range(first..);
        pods.take_while(move |(pod, _)| pod.namespace == name)
            .flat_map(|(_, interfaces)| interfaces.iter().cloned())
    }
}

fn forget<K: Ord>(
    map: &mut BTreeMap<K, BTreeSet<InterfaceName>>,
    key: &K,
    interface: &InterfaceName,
) {
    if let Some(interfaces) = map.get_mut(key) {
        interfaces.remove(interface);
        if interfaces.is_empty() {
            map.remove(key);
        }
    }
}

/// Both families' value of something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Both<T> {
    v4: T,
    v6: T,
}

impl<T> Both<T> {
    fn make(mut one: impl FnMut(Family) -> T) -> Self {
        let v4 = one(Family::V4);
        Self {
            v4,
            v6: one(Family::V6),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        [(Family::V4, &self.v4), (Family::V6, &self.v6)].into_iter()
    }

    fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}
