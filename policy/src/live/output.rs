//! What is compiled, changed in place: what stays the same stays the same allocation.

use std::sync::Arc;

use netfilter::{ChainName, Chains, Family, IpSet, Rule, SetName, Table};

use crate::{Compiled, FamilyRules, Origin, Problem};

/// The newest result. It is copied (its maps, not what they hold) once someone else holds it and it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    compiled: Arc<Compiled>,
}

impl Output {
    pub(crate) fn new(compiled: Compiled) -> Self {
        Self {
            compiled: Arc::new(compiled),
        }
    }

    pub(crate) fn share(&self) -> Arc<Compiled> {
        Arc::clone(&self.compiled)
    }

    /// Puts a chain of the filter table.
    pub(crate) fn put_chain(&mut self, family: Family, name: &ChainName, rules: &[Rule]) {
        let same = self
            .chain(family, name)
            .is_some_and(|present| **present == *rules);
        if !same && let Some(chains) = self.chains_mut(family) {
            chains.insert(name.clone(), rules.into());
        }
    }

    pub(crate) fn remove_chain(&mut self, family: Family, name: &ChainName) {
        if self.chain(family, name).is_some()
            && let Some(chains) = self.chains_mut(family)
        {
            chains.remove(name);
        }
    }

    pub(crate) fn put_origin(&mut self, name: &ChainName, origin: Origin) {
        if self.compiled.origins.get(name).map(Arc::as_ref) != Some(&origin) {
            let compiled = Arc::make_mut(&mut self.compiled);
            Arc::make_mut(&mut compiled.origins).insert(name.clone(), Arc::new(origin));
        }
    }

    pub(crate) fn remove_origin(&mut self, name: &ChainName) {
        if self.compiled.origins.contains_key(name) {
            let compiled = Arc::make_mut(&mut self.compiled);
            Arc::make_mut(&mut compiled.origins).remove(name);
        }
    }

    pub(crate) fn put_problems(&mut self, problems: Vec<Problem>) {
        if self.compiled.problems != problems {
            Arc::make_mut(&mut self.compiled).problems = problems;
        }
    }

    pub(crate) fn put_set(&mut self, set: IpSet) {
        let sets = &self.rules(set.family()).sets;
        if sets.get(set.name()).is_none_or(|present| **present != set) {
            let sets = &mut self.rules_mut(set.family()).sets;
            sets.insert(set.name().clone(), Arc::new(set));
        }
    }

    pub(crate) fn remove_set(&mut self, family: Family, name: &SetName) {
        if self.rules(family).sets.contains_key(name) {
            self.rules_mut(family).sets.remove(name);
        }
    }

    /// A set as it is.
    pub(crate) fn set(&self, family: Family, name: &SetName) -> Option<&IpSet> {
        self.rules(family).sets.get(name).map(Arc::as_ref)
    }

    /// A set to be changed; the caller changes it.
    pub(crate) fn set_mut(&mut self, family: Family, name: &SetName) -> Option<&mut IpSet> {
        let set = self.rules_mut(family).sets.get_mut(name)?;
        Some(Arc::make_mut(set))
    }

    fn chain(&self, family: Family, name: &ChainName) -> Option<&Arc<[Rule]>> {
        let table = self.rules(family).rules.tables.get(&Table::Filter)?;
        table.chains.get(name)
    }

    fn chains_mut(&mut self, family: Family) -> Option<&mut Chains> {
        let tables = &mut self.rules_mut(family).rules.tables;
        Some(&mut tables.get_mut(&Table::Filter)?.chains)
    }

    fn rules(&self, family: Family) -> &FamilyRules {
        match family {
            Family::V4 => &self.compiled.v4,
            Family::V6 => &self.compiled.v6,
        }
    }

    fn rules_mut(&mut self, family: Family) -> &mut FamilyRules {
        let compiled = Arc::make_mut(&mut self.compiled);
        match family {
            Family::V4 => &mut compiled.v4,
            Family::V6 => &mut compiled.v6,
        }
    }
}
