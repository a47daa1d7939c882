//! Notices that somebody else may have changed what is ours in the kernel, without a program run to find out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use netfilter::Table;
use routes::conntrack::Family;
use routes::rule_notices::{
    LegacyTables, RuleNotice, RuleNotices, SetHeader, TableInfo, TablesChanged, set_headers,
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

/// How often the sizes of sets and of the old tables are looked at.
const POLL: Duration = Duration::from_millis(500);
/// So many of our own writers are remembered until their notices have come.
const WRITERS: usize = 64;

/// Where notices come from.
pub(crate) struct Notices {
    /// None where the kernel has no nftables.
    nftables: Option<RuleNotices>,
    /// None without the right to ask.
    legacy: Option<LegacyTables>,
    ticks: Interval,
    sizes: Option<Sizes>,
    /// Processes of ours that wrote rules.
    writers: VecDeque<u32>,
}

/// What tells damage without reading every rule and member.
#[derive(Debug, PartialEq, Eq)]
struct Sizes {
    tables: BTreeMap<(bool, Table), TableInfo>,
    sets: BTreeMap<String, SetHeader>,
}

impl Notices {
    /// Listens from now on. Without netlink only the regular read-backs are left.
    pub(crate) fn new() -> Self {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let nftables = RuleNotices::open();
        let legacy = LegacyTables::open();
        for error in [nftables.as_ref().err(), legacy.as_ref().err()]
            .into_iter()
            .flatten()
        {
            warn!(%error, "damage to our rules may be noticed late");
        }
        Self {
            nftables: nftables.ok(),
            legacy: legacy.ok(),
            ticks,
            sizes: None,
            writers: VecDeque::new(),
        }
    }

    /// These processes of ours wrote: what they changed is no damage.
    pub(crate) fn wrote(&mut self, writers: Vec<u32>) {
        self.writers.extend(writers);
        let most = self.writers.len().saturating_sub(WRITERS);
        self.writers.drain(..most);
        self.sizes = None;
    }

    /// Waits until somebody else may have changed something of ours; a wait that is given up loses nothing.
    pub(crate) async fn next(&mut self) {
        if self.sizes.is_none() {
            // After a write of ours the next look must have something to be compared with, at once.
            self.sizes = Some(self.look().await);
        }
        loop {
            let Self {
                nftables, ticks, ..
            } = self;
            let heard = async {
                match nftables {
                    Some(nftables) => nftables.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                notice = heard => if !self.is_own(&notice) {
                    debug!(?notice, "another changed the tables");
                    return;
                },
                _ = ticks.tick() => {
                    let now = self.look().await;
                    if self.sizes.as_ref() != Some(&now) {
                        debug!("sets or tables have another size");
                        self.sizes = Some(now);
                        return;
                    }
                }
            }
        }
    }

    fn is_own(&self, notice: &RuleNotice) -> bool {
        match notice {
            RuleNotice::Overrun => false,
            RuleNotice::Tables(TablesChanged {
                tables,
                process,
                port,
                ..
            }) => {
                let is_writer = |id: &u32| process.as_ref() == Some(id) || port == id;
                let is_table_of_ours =
                    |(_, name): &(_, String)| Table::ALL.iter().any(|table| table.name() == name);
                self.writers.iter().any(is_writer) || !tables.iter().any(is_table_of_ours)
            }
        }
    }

    async fn look(&self) -> Sizes {
        let sets = set_headers().await.unwrap_or_else(|error| {
            debug!(%error, "the sets' headers cannot be read");
            BTreeMap::new()
        });
        let mut tables = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            for table in Table::ALL {
                let asked = self.legacy.as_ref();
                let info = asked.and_then(|legacy| legacy.info(family, table.name()).ok()?);
                if let Some(info) = info {
                    tables.insert((family == Family::V6, table), info);
                }
            }
        }
        Sizes { tables, sets }
    }
}
