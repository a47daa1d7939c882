//! Notices that somebody else may have changed what is ours in the kernel, without a program run to find out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use netfilter::{SetName, Table};
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
    /// How many members each set had after our last write: what another did since shows at the first look.
    written: Option<BTreeMap<SetName, usize>>,
    /// Processes of ours that wrote rules.
    writers: VecDeque<u32>,
}

/// What tells damage without reading every rule and member.
#[derive(Debug, PartialEq, Eq)]
struct Sizes {
    tables: BTreeMap<(bool, Table), TableInfo>,
    sets: BTreeMap<String, SetHeader>,
}

impl Sizes {
    /// Whether the sets have so many members. Without any header the kernel could not be asked.
    fn are_sets(&self, written: &BTreeMap<SetName, usize>) -> bool {
        let entries = |name: &SetName| {
            let header = self.sets.get(name.as_str())?;
            usize::try_from(header.entries).ok()
        };
        self.sets.is_empty()
            || written
                .iter()
                .all(|(name, size)| entries(name) == Some(*size))
    }
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
            written: None,
            writers: VecDeque::new(),
        }
    }

    /// These processes of ours wrote: what they changed is no damage. The sets have so many members now.
    pub(crate) fn wrote(&mut self, writers: Vec<u32>, sets: BTreeMap<SetName, usize>) {
        self.written = Some(sets);
        self.writers.extend(writers);
        let most = self.writers.len().saturating_sub(WRITERS);
        self.writers.drain(..most);
        self.sizes = None;
    }

    /// Waits until somebody else may have changed something of ours; a wait that is given up loses nothing.
    pub(crate) async fn next(&mut self) {
        if self.sizes.is_none() {
            // After a write of ours the next look must have something to be compared with, at once.
            let now = self.look().await;
            let written = self.written.take();
            let is_as_written = written.is_none_or(|written| now.are_sets(&written));
            self.sizes = Some(now);
            if !is_as_written {
                debug!("sets are not as we wrote them");
                return;
            }
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

#[cfg(test)]
mod tests {
    use netfilter::Family as Of;

    use super::*;

    fn sizes(entries: &[(&SetName, u32)]) -> Sizes {
        let header = |entries| SetHeader {
            kind: "hash:ip".to_owned(),
            entries,
            references: 1,
        };
        let sets = entries.iter();
        Sizes {
            tables: BTreeMap::new(),
            sets: sets
                .map(|(name, size)| (name.to_string(), header(*size)))
                .collect(),
        }
    }

    #[test]
    fn a_set_that_another_emptied_right_after_our_write_shows_at_the_first_look() {
        let (one, two) = (SetName::fixed(Of::V4, "one"), SetName::fixed(Of::V6, "two"));
        let written = BTreeMap::from([(one.clone(), 3), (two.clone(), 0)]);
        assert!(sizes(&[(&one, 3), (&two, 0)]).are_sets(&written));
        assert!(
            !sizes(&[(&one, 0), (&two, 0)]).are_sets(&written),
            "emptied"
        );
        assert!(!sizes(&[(&one, 3)]).are_sets(&written), "destroyed");
        assert!(
            sizes(&[]).are_sets(&written),
            "the kernel could not be asked"
        );
    }
}
