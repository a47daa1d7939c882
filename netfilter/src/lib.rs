//! iptables and ipset as typed tables: rule to text, read-back to the smallest restore; starts no program.
//!
//! Names and addresses are types that cannot hold a quote, a blank or a newline, so no word from outside can change a
//! restore's lines. [`plan`] and [`plan_sets`] compare what is wanted with what was read back.

mod names;
mod plan;
mod rule;
mod ruleset;
mod save;
mod sets;
mod sets_plan;

pub use names::{Builtin, CHAIN_PREFIX, ChainName, Family, InterfaceName, NameError, SetName, Table, short_hash};
pub use plan::{Effort, Plan, plan};
pub use rule::{Action, COMMENT_PREFIX, CtState, InterfaceMatch, Match, PortRange, Protocol, Rule, SetDirection};
pub use ruleset::{Hook, HookPosition, Ruleset, TableRules};
pub use save::{Actual, ParseError};
pub use sets::{ActualSets, IpSet, Member, SetKind, parse_sets};
pub use sets_plan::{SetPlan, plan_sets};
