//! What others do to firewall rules and sets, without a program run each second: nftables by notice, legacy tables and sets by a cheap look.

mod legacy;
mod nftables;
mod sets;

pub use legacy::{LegacyTables, TableInfo};
pub use nftables::{NftFamily, RuleNotice, RuleNotices, TablesChanged};
pub use sets::{SetHeader, set_headers};
