//! What one family is to have in the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::{IpSet, Ruleset, SetName};

/// Sets and chains of one family; the default is nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRules {
    /// The sets, to be there before the rules.
    pub sets: BTreeMap<SetName, Arc<IpSet>>,
    /// The chains and hooks; no table at all where nothing is asked for.
    pub rules: Ruleset,
}
