//! iptables and ipset as typed tables: rule to text, read-back to the smallest restore; starts no program.
//!
//! Names and addresses are types that cannot hold a quote, a blank or a newline, so no word from outside can change a
//! restore's lines. [`plan`] and [`plan_sets`] compare what is wanted with what was read back.

mod edit;
mod failure;
mod held;
mod names;
pub mod nft;
mod plan;
mod ports;
mod rule;
mod rule_text;
mod ruleset;
mod save;
mod saved;
mod sets;
mod sets_plan;
mod shared_map;

pub use failure::failed_line;
pub use held::Actual;
pub use names::{
    Builtin, CHAIN_PREFIX, ChainName, Family, InterfaceName, NameError, Note, SetName, Table,
    short_hash,
};
pub use plan::{Effort, Plan, plan, plan_parts};
pub use ports::PortRange;
pub use rule::{Action, CtState, InterfaceMatch, Match, Protocol, Rule, SetDirection};
pub use rule_text::COMMENT_PREFIX;
pub use ruleset::{Chains, Hook, HookPosition, Ruleset, TableRules};
pub use save::ParseError;
pub use saved::{Saved, SavedHook, SavedRule, SavedText};
pub use sets::{ActualSets, IpSet, Member, SetKind, parse_sets};
pub use sets_plan::{SetPlan, plan_sets};
pub use shared_map::SharedMap;
