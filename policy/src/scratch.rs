//! Everything compiled anew from the present objects: slow and plain. What the compiler that follows changes must give.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{Key, NamespacedName};
use netfilter::{ChainName, Family, IpSet, Member, SetName};

use crate::dispatch::Dispatch;
use crate::domain_hold;
use crate::group::{Group, endpoint_chain, endpoint_rules};
use crate::layout::{self, Filter};
use crate::meaning::{Meaning, Needs, insert};
use crate::part::{Part, subject_problem};
use crate::people::{Person, subject_labels};
use crate::policing::{Policed, Policing, Subject};
use crate::render::{Broken, Context, Rendered};
use crate::{Compiled, Direction, Endpoint, FamilyRules, Objects, Origin, Pods, Problem, Settings};

/// What everything is made of.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) settings: &'a Settings,
    pub(crate) broken: &'a Broken,
}

/// Compiles all.
pub(crate) fn compile(input: Input<'_>) -> Compiled {
    let parts = Parts::new(input.objects);
    let policed: BTreeMap<Direction, Policed> = Direction::ALL
        .iter()
        .map(|direction| (*direction, policed(input.objects, &parts, *direction)))
        .collect();
    let people = people(input.objects);
    let mut problems = parts.problems.clone();
    problems.extend(input.objects.refused.iter().cloned());
    let mut origins = BTreeMap::new();
    let mut family = |family| {
        let mut maker = Maker {
            context: Context {
                settings: input.settings,
                broken: input.broken,
                family,
            },
            objects: input.objects,
            parts: &parts,
            policed: &policed,
            people: &people,
            origins: &mut origins,
            problems: &mut problems,
            needs: Needs::new(),
        };
        maker.family()
    };
    let (v4, v6) = (family(Family::V4), family(Family::V6));
    Compiled {
        v4,
        v6,
        problems: problems.into_iter().collect(),
        origins: Arc::new(shared(origins)),
    }
}

fn shared(origins: BTreeMap<ChainName, Origin>) -> BTreeMap<ChainName, Arc<Origin>> {
    let origins = origins.into_iter();
    origins.map(|(name, one)| (name, Arc::new(one))).collect()
}

struct Parts {
    by_key: BTreeMap<(Key, Direction), Part>,
    problems: BTreeSet<Problem>,
}

impl Parts {
    fn new(objects: &Objects) -> Self {
        let mut parts = Vec::new();
        for direction in Direction::ALL {
            let policies = objects.policies.values();
            parts.extend(policies.filter_map(|policy| Part::of_policy(policy, direction)));
            let cluster = objects.cluster_policies.values();
            parts.extend(cluster.filter_map(|policy| Part::of_cluster(policy, direction)));
        }
        let mut problems: BTreeSet<Problem> = parts.iter().flat_map(Part::problems).collect();
        problems.extend(
            objects
                .cluster_policies
                .values()
                .filter_map(subject_problem),
        );
        let by_key = parts
            .into_iter()
            .map(|part| ((part.key.clone(), part.direction), part));
        Self {
            by_key: by_key.collect(),
            problems,
        }
    }
}

fn policed(objects: &Objects, parts: &Parts, direction: Direction) -> Policed {
    let mut policed = Policed::new();
    for (interface, endpoint) in &objects.endpoints {
        let Some(labels) = subject_labels(objects, endpoint) else {
            continue;
        };
        let namespace = objects.namespaces.get(&endpoint.pod.namespace);
        let who = Subject {
            namespace: &endpoint.pod.namespace,
            of_namespace: namespace.map(|namespace| &namespace.labels),
            labels,
        };
        let mut policing = Policing::default();
        for policy in objects.policies.values() {
            policing.ask(policy, direction, &who);
        }
        for policy in objects.cluster_policies.values() {
            let key = (Key::ClusterNetworkPolicy(policy.name.clone()), direction);
            if let Some(part) = parts.by_key.get(&key) {
                policing.ask_cluster(policy, part, &who);
            }
        }
        policing.settle();
        if !policing.is_empty() {
            policed.insert(interface.clone(), policing);
        }
    }
    policed
}

fn people(objects: &Objects) -> Vec<Person> {
    // What an endpoint that is not the object's very pod holds is not the object's, even under its name (semantics 47).
    let held: BTreeSet<IpAddr> = objects
        .endpoints
        .values()
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect();
    let mut by_pod: BTreeMap<&NamespacedName, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in objects.endpoints.values() {
        by_pod.entry(&endpoint.pod).or_default().push(endpoint);
    }
    let pods = objects.pods.values().flat_map(Pods::iter);
    let known = pods.filter_map(|pod| {
        let own = by_pod.get(&pod.name).map_or(&[][..], Vec::as_slice);
        Person::of_pod(pod, own, |address| held.contains(&address))
    });
    let endpoints = objects.endpoints.values();
    let unknown = endpoints.filter_map(|one| Person::of_endpoint(one, objects.pod(&one.pod)));
    known.chain(unknown).collect()
}

struct Maker<'a> {
    context: Context<'a>,
    objects: &'a Objects,
    parts: &'a Parts,
    policed: &'a BTreeMap<Direction, Policed>,
    people: &'a [Person],
    origins: &'a mut BTreeMap<ChainName, Origin>,
    problems: &'a mut BTreeSet<Problem>,
    needs: Needs,
}

impl Maker<'_> {
    fn family(&mut self) -> FamilyRules {
        let mut filter = Filter::default();
        layout::fixed_chains(self.context, &mut filter);
        let egress = self.policed.get(&Direction::Egress).into_iter();
        let (name, rules) = layout::input_chain(self.context, egress.flat_map(BTreeMap::values));
        filter.put(name, rules);
        let mut sets: Vec<IpSet> = Vec::new();
        let mut bits = BTreeSet::new();
        for (direction, policed) in self.policed {
            self.direction(*direction, policed, &mut filter);
            let endpoints = &self.objects.endpoints;
            let dispatch = Dispatch::new(self.context.family, *direction, endpoints);
            bits.extend(dispatch.bits.iter().copied());
            dispatch
                .chains
                .into_iter()
                .for_each(|(name, rules)| filter.put(name, rules));
            let addresses = policed
                .keys()
                .filter_map(|interface| self.objects.endpoints.get(interface))
                .flat_map(|endpoint| &endpoint.addresses);
            sets.push(layout::guard_set(
                self.context.family,
                *direction,
                addresses,
            ));
        }
        if self.context.settings.ipvs.is_some() {
            let sent = Dispatch::by_source(self.context.family, &self.objects.endpoints);
            let chains = sent.chains.into_iter();
            chains.for_each(|(name, rules)| filter.put(name, rules));
        }
        sets.extend(layout::endpoint_sets(
            self.context,
            &self.objects.endpoints,
            &bits,
        ));
        if let Some(names) = &self.context.settings.domain_names {
            sets.extend(domain_hold::sets(self.context.family, names, self.objects));
        }
        sets.extend(self.needs.values().map(|meaning| self.set(meaning)));
        let by_name = |set: IpSet| (set.name().clone(), Arc::new(set));
        let sets: BTreeMap<SetName, Arc<IpSet>> = sets.into_iter().map(by_name).collect();
        FamilyRules {
            sets,
            rules: layout::ruleset(self.context, filter),
        }
    }

    fn direction(&mut self, direction: Direction, policed: &Policed, filter: &mut Filter) {
        let mut chains: BTreeMap<Key, ChainName> = BTreeMap::new();
        let in_force: BTreeSet<Key> = policed.values().flat_map(Policing::keys).collect();
        for key in in_force {
            let Some(part) = self.parts.by_key.get(&(key.clone(), direction)) else {
                continue;
            };
            let rendered = Rendered::new(self.context, part);
            self.problems.extend(rendered.problems);
            self.needs.extend(rendered.needs);
            self.origins.insert(
                rendered.name.clone(),
                Origin::Policy {
                    key: key.clone(),
                    direction,
                    rules: rendered.origin,
                },
            );
            chains.insert(key, rendered.name.clone());
            filter.chains.insert(rendered.name, rendered.rules);
        }
        let mut groups: BTreeMap<&Policing, ChainName> = BTreeMap::new();
        for policing in policed.values() {
            if !groups.contains_key(policing) {
                let group = Group::new(self.context, direction, policing, &|key| {
                    chains.get(key).cloned()
                });
                groups.insert(policing, group.name.clone());
                self.problems.extend(group.problems.iter().cloned());
                self.origins.extend(group.origins(policing, direction));
                for (name, rules) in group.chains() {
                    filter.put(name.clone(), rules.to_vec());
                }
            }
        }
        for interface in self.objects.endpoints.keys() {
            let group = policed
                .get(interface)
                .and_then(|policing| groups.get(policing));
            let name = endpoint_chain(interface, direction);
            self.origins.insert(
                name.clone(),
                Origin::Endpoint {
                    interface: interface.clone(),
                    direction,
                },
            );
            filter.put(name, endpoint_rules(interface, direction, group));
        }
    }

    fn set(&self, meaning: &Meaning) -> IpSet {
        let mut set = meaning.empty_set(self.context.family);
        for member in self.members(meaning) {
            insert(&mut set, &member);
        }
        set
    }

    fn members(&self, meaning: &Meaning) -> Vec<Member> {
        match meaning {
            Meaning::Pods(choice) | Meaning::Ports(choice, ..) => {
                let chosen = self.people.iter().filter(|one| {
                    let namespace = self.objects.namespaces.get(one.namespace());
                    let of_namespace = namespace.map(|namespace| &namespace.labels);
                    choice.chooses(one.namespace(), of_namespace, one.labels())
                });
                chosen
                    .flat_map(|one| meaning.members(one.addresses(), one.ports()))
                    .collect()
            }
            Meaning::Nodes(selector) => {
                let nodes = self.objects.nodes.values();
                nodes
                    .filter(|node| selector.matches(&node.labels))
                    .flat_map(|node| meaning.members(&node.addresses, &[]))
                    .collect()
            }
            Meaning::Domain(name) => {
                let addresses = self.objects.domain_addresses.get(name);
                let addresses: Vec<IpAddr> = addresses.into_iter().flatten().copied().collect();
                meaning.members(&addresses, &[])
            }
            Meaning::Nets(_) => Vec::new(),
        }
    }
}
