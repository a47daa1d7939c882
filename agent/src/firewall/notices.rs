//! Notices that somebody else may have changed what is ours in the kernel, without a program run to find out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use netfilter::Table;
use routes::conntrack::Family;
use routes::rule_notices::{
    LegacyTables, RuleNotice, RuleNotices, SetHeader, TableInfo, TablesChanged, set_headers,
};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::set_counts::{Counts, SetCounts};

/// How often the sizes of sets and of the old tables are looked at.
const POLL: Duration = Duration::from_millis(500);
/// Where there are many sets, a look at them takes a fiftieth of the time ...
const POLL_PER_COST: u32 = 50;
/// ... and is never further away than this, so that damage heals within two seconds.
const MOST_POLL: Duration = Duration::from_millis(800);
/// So many of our own writers are remembered until their notices have come.
const WRITERS: usize = 64;
/// So many notices are read after a write: each of ours brings two.
const NOTICES: usize = 1000;

/// Where notices come from.
pub(crate) struct Notices {
    /// None where the kernel has no nftables.
    nftables: Option<RuleNotices>,
    /// None without the right to ask.
    legacy: Option<LegacyTables>,
    ticks: Interval,
    /// The old tables as they were seen last.
    tables: Option<Tables>,
    /// The sets by our own books.
    counts: SetCounts,
    /// A look at the sets that goes on: it is not begun anew because something else came first.
    looking: JoinSet<Seen>,
    /// No other look at the sets begins before.
    next_look: Instant,
    /// Processes of ours that wrote rules.
    writers: VecDeque<u32>,
}

/// The sets as a look saw them, and when it ended and how long it took.
type Seen = (Option<BTreeMap<String, SetHeader>>, Instant, Duration);

/// The sizes of the old tables: IPv6 or not, and which.
type Tables = BTreeMap<(bool, Table), TableInfo>;

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
            tables: None,
            counts: SetCounts::default(),
            looking: JoinSet::new(),
            next_look: Instant::now(),
            writers: VecDeque::new(),
        }
    }

    /// These processes of ours wrote: what they changed is no damage. The sets have so many members now, and had `peaks`
    /// meanwhile. Says whether another wrote, too: where changes stream in nobody has the time to wait for notices, and ours
    /// would be forgotten by the time they are read.
    pub(crate) fn wrote(&mut self, writers: Vec<u32>, sets: Counts, peaks: &Counts) -> bool {
        self.counts.wrote(sets, peaks);
        self.writers.extend(writers);
        let most = self.writers.len().saturating_sub(WRITERS);
        self.writers.drain(..most);
        self.tables = None;
        let has_other = self.read_notices();
        if has_other {
            debug!("another changed the tables while we did");
        }
        has_other
    }

    /// Reads what there is, and says whether any of it is another's.
    fn read_notices(&mut self) -> bool {
        let mut has_other = false;
        for _ in 0..NOTICES {
            let nftables = self.nftables.as_mut();
            let Some(notice) = nftables.and_then(|nftables| nftables.next().now_or_never()) else {
                break;
            };
            has_other |= !self.is_own(&notice);
        }
        has_other
    }

    /// Waits until somebody else may have changed something of ours; a wait that is given up loses nothing.
    pub(crate) async fn next(&mut self) {
        if self.tables.is_none() {
            // After a write of ours the next look must have something to be compared with, at once.
            self.tables = Some(self.look_at_tables());
        }
        loop {
            let Self {
                nftables,
                ticks,
                looking,
                ..
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
                Some(Ok((seen, end, took))) = looking.join_next() => {
                    self.next_look = end + (took * POLL_PER_COST).min(MOST_POLL);
                    if let Some(seen) = seen && !self.counts.agree(&seen) {
                        debug!("sets are not as we wrote them");
                        self.counts.accept(&seen);
                        return;
                    }
                }
                _ = ticks.tick() => if self.tick() {
                    debug!("tables have another size");
                    return;
                },
            }
        }
    }

    /// Whether the old tables have another size; has the sets looked at, too.
    fn tick(&mut self) -> bool {
        if self.looking.is_empty() && Instant::now() >= self.next_look {
            self.counts.begin();
            self.looking.spawn(look_at_sets());
        }
        let now = self.look_at_tables();
        let is_same = self.tables.as_ref() == Some(&now);
        self.tables = Some(now);
        !is_same
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

    fn look_at_tables(&self) -> Tables {
        let mut tables = Tables::new();
        for family in [Family::V4, Family::V6] {
            for table in Table::ALL {
                let asked = self.legacy.as_ref();
                let info = asked.and_then(|legacy| legacy.info(family, table.name()).ok()?);
                if let Some(info) = info {
                    tables.insert((family == Family::V6, table), info);
                }
            }
        }
        tables
    }
}

async fn look_at_sets() -> Seen {
    let begin = Instant::now();
    let seen = set_headers().await;
    let seen = seen.inspect_err(|error| debug!(%error, "the sets' headers cannot be read"));
    let end = Instant::now();
    (seen.ok(), end, end - begin)
}
