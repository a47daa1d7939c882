//! The sets that chains ask for now: counted by who asks, their members by how many pods bring them.

use std::collections::{BTreeMap, BTreeSet};

use api::Labels;
use netfilter::{Family, Member, SetName};

use super::output::Output;
use super::population::Population;
use crate::Objects;
use crate::meaning::{Meaning, NamespaceChoice, Needs, PodChoice, insert};
use crate::people::Person;

/// A set that some chain asks for.
#[derive(Clone, Debug)]
struct LiveSet {
    family: Family,
    meaning: Meaning,
    /// How many chains ask for it.
    askers: usize,
    /// Members that several pods bring: by how many more than one.
    again: BTreeMap<Member, usize>,
}

/// All of them, both families, and those about pods by the namespaces they are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveSets {
    sets: BTreeMap<SetName, LiveSet>,
    /// About pods of one namespace.
    own: BTreeMap<String, BTreeSet<SetName>>,
    /// About pods of several.
    wide: BTreeSet<SetName>,
    /// About nodes, or domain names.
    others: BTreeSet<SetName>,
}

impl LiveSets {
    /// Asks for sets; those that were not there are filled.
    pub(crate) fn acquire(
        &mut self,
        family: Family,
        needs: &Needs,
        population: &Population,
        objects: &Objects,
        output: &mut Output,
    ) {
        for (name, meaning) in needs {
            if let Some(set) = self.sets.get_mut(name) {
                set.askers += 1;
                continue;
            }
            let mut live = LiveSet {
                family,
                meaning: meaning.clone(),
                askers: 1,
                again: BTreeMap::new(),
            };
            output.put_set(live.fill(population, objects));
            match choice(meaning).map(|choice| &choice.namespaces) {
                Some(NamespaceChoice::Own(namespace)) => {
                    let own = self.own.entry(namespace.clone()).or_default();
                    own.insert(name.clone());
                }
                Some(_) => drop(self.wide.insert(name.clone())),
                None => drop(self.others.insert(name.clone())),
            }
            self.sets.insert(name.clone(), live);
        }
    }

    /// Asks no longer; what nobody asks for goes.
    pub(crate) fn release(&mut self, needs: &Needs, output: &mut Output) {
        for name in needs.keys() {
            let Some(set) = self.sets.get_mut(name) else {
                continue;
            };
            set.askers = set.askers.saturating_sub(1);
            if set.askers > 0 {
                continue;
            }
            output.remove_set(set.family, name);
            let namespaces = choice(&set.meaning).map(|choice| &choice.namespaces);
            if let Some(NamespaceChoice::Own(namespace)) = namespaces
                && let Some(own) = self.own.get_mut(namespace)
            {
                own.remove(name);
                if own.is_empty() {
                    self.own.remove(namespace);
                }
            }
            self.wide.remove(name);
            self.others.remove(name);
            self.sets.remove(name);
        }
    }

    /// A pod is now another to others.
    pub(crate) fn change_person(
        &mut self,
        old: Option<&Person>,
        new: Option<&Person>,
        population: &Population,
        output: &mut Output,
    ) {
        let Some(namespace) = old.or(new).map(Person::namespace) else {
            return;
        };
        let of_namespace = population.labels(namespace);
        let own = self.own.get(namespace).into_iter().flatten();
        for name in own.chain(&self.wide) {
            if let Some(set) = self.sets.get_mut(name) {
                let brings = |person: Option<&Person>| {
                    person.map_or(Vec::new(), |one| set.brings(one, of_namespace))
                };
                let (old, new) = (brings(old), brings(new));
                set.exchange(name, old, new, output);
            }
        }
    }

    /// A namespace's labels are now others; its pods are the same.
    pub(crate) fn change_namespace(
        &mut self,
        namespace: &str,
        old: Option<&Labels>,
        new: Option<&Labels>,
        population: &Population,
        output: &mut Output,
    ) {
        for name in &self.wide {
            let Some(set) = self.sets.get_mut(name) else {
                continue;
            };
            let chosen = |labels| {
                choice(&set.meaning)
                    .is_some_and(|choice| choice.namespaces.chooses(namespace, labels))
            };
            if chosen(old) == chosen(new) {
                continue;
            }
            for person in population.of_namespace(namespace) {
                let (before, after) = (set.brings(person, old), set.brings(person, new));
                set.exchange(name, before, after, output);
            }
        }
    }

    /// Nodes, or what the DNS says, have changed.
    pub(crate) fn refresh_others(
        &mut self,
        population: &Population,
        objects: &Objects,
        output: &mut Output,
    ) {
        for name in &self.others {
            if let Some(set) = self.sets.get_mut(name) {
                output.put_set(set.fill(population, objects));
            }
        }
    }
}

impl LiveSet {
    /// The whole set, with its members counted anew.
    fn fill(&mut self, population: &Population, objects: &Objects) -> netfilter::IpSet {
        let mut set = self.meaning.empty_set(self.family);
        self.again.clear();
        let mut add = |members: Vec<Member>| {
            for member in members.iter().filter(|one| is_of(self.family, one)) {
                if set.members().contains(member) {
                    *self.again.entry(member.clone()).or_default() += 1;
                } else {
                    insert(&mut set, member);
                }
            }
        };
        match &self.meaning {
            Meaning::Pods(choice) | Meaning::Ports(choice, ..) => {
                for person in population.chosen(choice) {
                    add(self.meaning.members(person.addresses(), person.ports()));
                }
            }
            Meaning::Nodes(selector) => {
                let nodes = objects.nodes.values();
                for node in nodes.filter(|node| selector.matches(&node.labels)) {
                    add(self.meaning.members(&node.addresses, &[]));
                }
            }
            Meaning::Domain(name) => {
                for address in objects.domain_addresses.get(name).into_iter().flatten() {
                    add(vec![Member::Ip(*address)]);
                }
            }
            Meaning::Nets(_) => {}
        }
        set
    }

    /// What a pod brings; an address that it has twice counts twice.
    fn brings(&self, person: &Person, of_namespace: Option<&Labels>) -> Vec<Member> {
        let chosen = choice(&self.meaning).is_some_and(|choice| {
            choice.chooses(person.namespace(), of_namespace, person.labels())
        });
        if !chosen {
            return Vec::new();
        }
        let mut members = self.meaning.members(person.addresses(), person.ports());
        members.retain(|member| is_of(self.family, member));
        members
    }

    fn exchange(
        &mut self,
        name: &SetName,
        mut old: Vec<Member>,
        mut new: Vec<Member>,
        output: &mut Output,
    ) {
        new.retain(|member| match old.iter().position(|one| one == member) {
            Some(same) => {
                old.swap_remove(same);
                false
            }
            None => true,
        });
        if old.is_empty() && new.is_empty() {
            return;
        }
        for member in new {
            let Some(set) = output.set(self.family, name) else {
                return;
            };
            if set.members().contains(&member) {
                *self.again.entry(member).or_default() += 1;
            } else if let Some(set) = output.set_mut(self.family, name) {
                insert(set, &member);
            }
        }
        for member in old {
            match self.again.get_mut(&member) {
                Some(more) if *more > 1 => *more -= 1,
                Some(_) => drop(self.again.remove(&member)),
                None => {
                    if let Some(set) = output.set_mut(self.family, name) {
                        set.remove(&member);
                    }
                }
            }
        }
    }
}

fn choice(meaning: &Meaning) -> Option<&PodChoice> {
    match meaning {
        Meaning::Pods(choice) | Meaning::Ports(choice, ..) => Some(choice),
        Meaning::Nodes(_) | Meaning::Nets(_) | Meaning::Domain(_) => None,
    }
}

fn is_of(family: Family, member: &Member) -> bool {
    let address = match member {
        Member::Ip(address) | Member::IpPort(address, ..) => *address,
        Member::Net(net) | Member::NetIface(net, _) => net.addr(),
    };
    address.is_ipv4() == (family == Family::V4)
}
