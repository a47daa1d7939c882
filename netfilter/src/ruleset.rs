//! All that we want in the tables of one family.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::{Builtin, ChainName, Table};
use crate::rule::Rule;
use crate::shared_map::SharedMap;

/// Where in a built-in chain a rule of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookPosition {
    /// Before everyone else's.
    First,
    /// After everyone else's.
    Last,
}

/// A rule of ours in a built-in chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Which chain.
    pub chain: Builtin,
    /// Where in it.
    pub position: HookPosition,
    /// The rule.
    pub rule: Rule,
}

/// Chains by name. A copy shares all that it doesn't change, and a plan looks at what differs from the one before alone.
pub type Chains = SharedMap<ChainName, Arc<[Rule]>>;

/// What we want in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRules {
    /// Rules in built-in chains; several at one place stand in this order.
    pub hooks: Vec<Hook>,
    /// Chains of ours. What did not change since the last compilation is the same allocation.
    pub chains: Chains,
}

/// What we want in all tables of a family; the default is nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By table.
    pub tables: BTreeMap<Table, TableRules>,
}
