//! The chains of policies, groups and endpoints that are in force now, each counted by who leads to it.

use std::collections::{BTreeMap, BTreeSet};

use api::Key;
use netfilter::{ChainName, Family, InterfaceName, SetName};

use super::Both;
use super::output::Output;
use super::population::Population;
use super::sets::LiveSets;
use super::subjects::{Moved, Subjects};
use crate::dispatch::Dispatch;
use crate::group::{Group, endpoint_chain, endpoint_rules};
use crate::layout;
use crate::policing::Policing;
use crate::render::{Context, Rendered};
use crate::scratch::Input;
use crate::{Direction, Endpoint, Origin, Problem};

/// Everything that is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chains {
    /// How many endpoints are asked of each policy.
    askers: BTreeMap<(Key, Direction), usize>,
    policies: BTreeMap<(Key, Direction), Both<Rendered>>,
    /// How many endpoints have each group.
    members: BTreeMap<(Direction, Policing), usize>,
    groups: BTreeMap<(Direction, Policing), Both<Group>>,
    /// How many groups have each chain: two may lead to one, and share their admin tier.
    shared: BTreeMap<(Family, ChainName), usize>,
    trees: BTreeMap<(Family, Direction), BTreeSet<ChainName>>,
    /// Of what IPVS sends on.
    by_source: BTreeMap<Family, BTreeSet<ChainName>>,
    bits: BTreeMap<Family, BTreeSet<u16>>,
    bit_sets: BTreeMap<Family, BTreeSet<SetName>>,
    /// The endpoints that have chains.
    endpoints: BTreeSet<InterfaceName>,
    /// Policies whose chains have other names since the last update.
    renamed: BTreeSet<(Key, Direction)>,
}

/// One update, carried out in the order of its functions.
pub(crate) struct Update<'a> {
    pub(crate) chains: &'a mut Chains,
    pub(crate) sets: &'a mut LiveSets,
    pub(crate) output: &'a mut Output,
    pub(crate) subjects: &'a Subjects,
    pub(crate) population: &'a Population,
    pub(crate) endpoints: &'a BTreeMap<InterfaceName, Endpoint>,
    pub(crate) input: Input<'a>,
}

impl Update<'_> {
    /// Renders the policies that are asked now and were not, and those that changed; takes away those nobody asks.
    pub(crate) fn policies(&mut self, moved: &[Moved], changed: &BTreeSet<Key>, all: bool) {
        let mut touched: BTreeSet<(Key, Direction)> = BTreeSet::new();
        for one in moved {
            let now = self.subjects.of(&one.interface, one.direction);
            for key in now.into_iter().flat_map(Policing::keys) {
                let id = (key, one.direction);
                *self.chains.askers.entry(id.clone()).or_default() += 1;
                touched.insert(id);
            }
            for key in one.before.iter().flat_map(Policing::keys) {
                let id = (key, one.direction);
                discount(&mut self.chains.askers, &id);
                touched.insert(id);
            }
        }
        for key in changed {
            touched.extend(Direction::ALL.map(|direction| (key.clone(), direction)));
        }
        if all {
            touched.extend(self.chains.askers.keys().cloned());
        }
        let renders_anew = |id: &(Key, Direction)| all || changed.contains(&id.0);
        let mut gone = Vec::new();
        for id in touched {
            let old = if !self.chains.askers.contains_key(&id) {
                self.chains.policies.remove(&id)
            } else if !self.chains.policies.contains_key(&id) || renders_anew(&id) {
                self.render(&id)
            } else {
                None
            };
            gone.extend(old.map(|old| (id, old)));
        }
        for (id, old) in gone {
            for (family, rendered) in old.iter() {
                self.drop_policy(&id, family, rendered);
            }
        }
    }

    /// Renders a policy; gives what stood for it before.
    fn render(&mut self, id: &(Key, Direction)) -> Option<Both<Rendered>> {
        let part = self.subjects.part(&id.0, id.1)?;
        let input = self.input;
        let new = Both::make(|family| Rendered::new(context(input, family), part));
        for (family, rendered) in new.iter() {
            self.sets.acquire(
                family,
                &rendered.needs,
                self.population,
                self.input.objects,
                self.output,
            );
            self.output
                .put_chain(family, &rendered.name, &rendered.rules);
            let origin = Origin::Policy {
                key: id.0.clone(),
                direction: id.1,
                rules: rendered.origin.clone(),
            };
            self.output.put_origin(&rendered.name, origin);
        }
        self.chains.renamed.insert(id.clone());
        self.chains.policies.insert(id.clone(), new)
    }

    /// Takes an old rendering's chain away, unless the new one is the same.
    fn drop_policy(&mut self, id: &(Key, Direction), family: Family, old: &Rendered) {
        self.sets.release(&old.needs, self.output);
        let present = self.chains.policies.get(id);
        if present.is_none_or(|both| both.of(family).name != old.name) {
            self.output.remove_chain(family, &old.name);
            self.output.remove_origin(&old.name);
        }
    }

    /// The groups that have endpoints now, and where each endpoint goes.
    pub(crate) fn groups(&mut self, moved: &[Moved], all: bool) {
        let mut leads: BTreeSet<(InterfaceName, Direction)> = BTreeSet::new();
        let mut gone: Vec<Both<Group>> = Vec::new();
        for one in moved {
            leads.insert((one.interface.clone(), one.direction));
            if let Some(now) = self.subjects.of(&one.interface, one.direction) {
                let id = (one.direction, now.clone());
                *self.chains.members.entry(id).or_default() += 1;
            }
        }
        for one in moved {
            if let Some(before) = &one.before {
                let id = (one.direction, before.clone());
                discount(&mut self.chains.members, &id);
                if !self.chains.members.contains_key(&id) {
                    gone.extend(self.chains.groups.remove(&id));
                }
            }
        }
        let anew = self.groups_to_make(all);
        for (direction, policing) in &anew {
            for (interface, of) in self.subjects.policed(*direction) {
                if of == policing {
                    leads.insert((interface.clone(), *direction));
                }
            }
        }
        for id in anew {
            gone.extend(self.make_group(id));
        }
        for (interface, direction) in leads {
            self.lead(&interface, direction);
        }
        for group in gone {
            self.drop_group(&group);
        }
        self.chains.renamed.clear();
    }

    fn groups_to_make(&self, all: bool) -> Vec<(Direction, Policing)> {
        let renamed = &self.chains.renamed;
        let stale = |id: &(Direction, Policing)| {
            all || !self.chains.groups.contains_key(id)
                || !renamed.is_empty()
                    && id
                        .1
                        .keys()
                        .into_iter()
                        .any(|key| renamed.contains(&(key, id.0)))
        };
        let ids = self.chains.members.keys();
        ids.filter(|id| stale(id)).cloned().collect()
    }

    fn make_group(&mut self, id: (Direction, Policing)) -> Option<Both<Group>> {
        let (direction, policing) = &id;
        let (input, policies) = (self.input, &self.chains.policies);
        let new = Both::make(|family| {
            let chain_of = |key: &Key| {
                let both = policies.get(&(key.clone(), *direction))?;
                Some(both.of(family).name.clone())
            };
            Group::new(context(input, family), *direction, policing, &chain_of)
        });
        for (family, group) in new.iter() {
            for (name, rules) in group.chains() {
                let count = self
                    .chains
                    .shared
                    .entry((family, name.clone()))
                    .or_default();
                *count += 1;
                self.output.put_chain(family, name, rules);
            }
            for (name, origin) in group.origins(policing, *direction) {
                self.output.put_origin(&name, origin);
            }
        }
        self.chains.groups.insert(id, new)
    }

    fn drop_group(&mut self, group: &Both<Group>) {
        for (family, group) in group.iter() {
            for (name, _) in group.chains() {
                let id = (family, name.clone());
                discount(&mut self.chains.shared, &id);
                if !self.chains.shared.contains_key(&id) {
                    self.output.remove_chain(family, name);
                    self.output.remove_origin(name);
                }
            }
        }
    }

    /// Writes the chain of an endpoint that is there.
    fn lead(&mut self, interface: &InterfaceName, direction: Direction) {
        if !self.endpoints.contains_key(interface) {
            return;
        }
        let policing = self.subjects.of(interface, direction);
        let group =
            policing.and_then(|policing| self.chains.groups.get(&(direction, policing.clone())));
        let name = endpoint_chain(interface, direction);
        for family in Family::ALL {
            let group = group.map(|both| &both.of(family).name);
            let rules = endpoint_rules(interface, direction, group);
            self.output.put_chain(family, &name, &rules);
        }
    }

    /// Endpoints came, went or have other addresses: their sets, and the trees if some came or went; that by source in any case.
    pub(crate) fn endpoints(&mut self, tree: bool) {
        if tree {
            self.endpoint_chains();
            for family in Family::ALL {
                self.chains.bits.remove(&family);
                for direction in Direction::ALL {
                    self.tree(family, direction);
                }
            }
        }
        let none = BTreeSet::new();
        for family in Family::ALL {
            let bits = self.chains.bits.get(&family).unwrap_or(&none);
            let context = context(self.input, family);
            let sets = layout::endpoint_sets(context, self.endpoints, bits);
            let names: BTreeSet<SetName> = sets.iter().map(|set| set.name().clone()).collect();
            sets.into_iter().for_each(|set| self.output.put_set(set));
            let old = self.chains.bit_sets.insert(family, names.clone());
            for name in old.unwrap_or_default().difference(&names) {
                self.output.remove_set(family, name);
            }
            if self.input.settings.ipvs.is_some() {
                let dispatch = Dispatch::by_source(family, self.endpoints);
                let old = self.chains.by_source.remove(&family);
                let new = self.put_tree(family, dispatch, old.unwrap_or_default());
                self.chains.by_source.insert(family, new);
            }
        }
    }

    fn endpoint_chains(&mut self) {
        let now: BTreeSet<InterfaceName> = self.endpoints.keys().cloned().collect();
        let before = std::mem::replace(&mut self.chains.endpoints, now.clone());
        for direction in Direction::ALL {
            for interface in before.difference(&now) {
                let name = endpoint_chain(interface, direction);
                self.output.remove_origin(&name);
                Family::ALL
                    .iter()
                    .for_each(|family| self.output.remove_chain(*family, &name));
            }
            for interface in now.difference(&before) {
                let origin = Origin::Endpoint {
                    interface: interface.clone(),
                    direction,
                };
                self.output
                    .put_origin(&endpoint_chain(interface, direction), origin);
                self.lead(interface, direction);
            }
        }
    }

    fn tree(&mut self, family: Family, direction: Direction) {
        let dispatch = Dispatch::new(family, direction, self.endpoints);
        let bits = self.chains.bits.entry(family).or_default();
        bits.extend(dispatch.bits.iter().copied());
        let old = self.chains.trees.remove(&(family, direction));
        let new = self.put_tree(family, dispatch, old.unwrap_or_default());
        self.chains.trees.insert((family, direction), new);
    }

    /// Puts a tree's chains in the place of its last ones; gives their names.
    fn put_tree(
        &mut self,
        family: Family,
        tree: Dispatch<'_>,
        old: BTreeSet<ChainName>,
    ) -> BTreeSet<ChainName> {
        for (name, rules) in &tree.chains {
            self.output.put_chain(family, name, rules);
        }
        let new: BTreeSet<ChainName> = tree.chains.into_keys().collect();
        for name in old.difference(&new) {
            self.output.remove_chain(family, name);
        }
        new
    }

    /// The addresses of policed endpoints.
    pub(crate) fn guards(&mut self) {
        for family in Family::ALL {
            for direction in Direction::ALL {
                let policed = self.subjects.policed(direction);
                let addresses = policed
                    .filter_map(|(interface, _)| self.endpoints.get(interface))
                    .flat_map(|endpoint| &endpoint.addresses);
                let set = layout::guard_set(family, direction, addresses);
                self.output.put_set(set);
            }
        }
    }

    /// What pods send to their own node.
    pub(crate) fn input(&mut self) {
        for family in Family::ALL {
            let egress = self.subjects.policed(Direction::Egress);
            let egress = egress.map(|(_, policing)| policing);
            let (name, rules) = layout::input_chain(context(self.input, family), egress);
            self.output.put_chain(family, &name, &rules);
        }
    }

    /// All that could not be put into force.
    pub(crate) fn problems(&mut self) {
        let mut problems: BTreeSet<Problem> = self.subjects.problems().cloned().collect();
        problems.extend(self.input.objects.refused.iter().cloned());
        let policies = self.chains.policies.values().flat_map(Both::iter);
        problems.extend(policies.flat_map(|(_, one)| one.problems.iter().cloned()));
        let groups = self.chains.groups.values().flat_map(Both::iter);
        problems.extend(groups.flat_map(|(_, one)| one.problems.iter().cloned()));
        self.output.put_problems(problems.into_iter().collect());
    }
}

fn context(input: Input<'_>, family: Family) -> Context<'_> {
    Context {
        settings: input.settings,
        broken: input.broken,
        family,
    }
}

/// One less; none left is no entry.
fn discount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
