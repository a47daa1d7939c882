//! What the kernel holds of ours: read back, compared with what is wanted, and written by iptables' and ipset's programs.

use std::collections::BTreeMap;
use std::time::Instant;

use netfilter::{Actual, ActualSets, Effort, Family, Plan, Ruleset, SetName, SetPlan};
use tracing::debug;

use super::backend::Backend;
use super::broken::Culprits;
use super::programs::{BackendError, Programs, listings};
use super::ready::{IPSET, Ready, arguments};
use super::state::Desired;
use crate::exec::{ExecError, Started, run, run_process};

/// Why the kernel is not as desired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// No back end can be worked with.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A program failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A program refused what it was to write.
    #[error("{error}")]
    Refused {
        /// Which program, and its words.
        error: ExecError,
        /// What these words blame; none if they blame nothing of ours.
        culprits: Culprits,
    },
    /// A program's listing is not understood.
    #[error("cannot understand what {program} printed: {message}")]
    Listing {
        /// The program.
        program: &'static str,
        /// Why.
        message: String,
    },
}

/// What the kernel holds, as read back and as changed by us since.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    sets: ActualSets,
    v4: Actual,
    v6: Actual,
}

/// What is to be written to come to a desired state.
pub(crate) struct Plans {
    sets: SetPlan,
    v4: Plan,
    v6: Plan,
    effort: Effort,
}

impl Kernel {
    /// Reads everything of ours in one back end.
    ///
    /// # Errors
    /// If a program fails or is not understood.
    pub(crate) async fn read(programs: &Programs) -> Result<Self, ApplyError> {
        let (sets, [v4, v6]) = tokio::try_join!(save_sets(), listings(programs))?;
        Self::parse(programs, &sets, &[v4, v6])
    }

    /// The same where the rules have been listed already.
    ///
    /// # Errors
    /// If a program fails or is not understood.
    pub(crate) async fn of_listings(
        programs: &Programs,
        rules: &[String; 2],
    ) -> Result<Self, ApplyError> {
        Self::parse(programs, &save_sets().await?, rules)
    }

    fn parse(programs: &Programs, sets: &str, [v4, v6]: &[String; 2]) -> Result<Self, ApplyError> {
        Ok(Self {
            sets: netfilter::parse_sets(sets).map_err(not_understood("ipset save"))?,
            v4: Actual::parse(v4).map_err(not_understood(programs.save(Family::V4)))?,
            v6: Actual::parse(v6).map_err(not_understood(programs.save(Family::V6)))?,
        })
    }

    /// How many members each set of ours has.
    pub(crate) fn set_sizes(&self) -> BTreeMap<SetName, usize> {
        self.sets.sizes()
    }

    /// The same without what serves Services: neither planned with nor removed.
    pub(crate) fn without_services(self) -> Self {
        let [v4, v6] = [self.v4, self.v6].map(Actual::without_services);
        Self { v4, v6, ..self }
    }

    /// A chain of another proxy of Services.
    pub(crate) fn other_proxy(&self) -> Option<&str> {
        self.v4.other_proxy().or(self.v6.other_proxy())
    }

    /// Compares what is there with what is wanted. Of the old tables each write makes the whole one anew: what goes there goes
    /// with what comes, and no second write has to follow.
    pub(crate) fn plan(&self, goal: &Desired, effort: Effort, backend: Backend) -> Plans {
        match backend {
            Backend::Nft => self.plan_by(goal, effort, effort),
            Backend::Legacy => self.plan_by(goal, effort, Effort::Exact),
        }
    }

    /// The same, where what goes was refused with what comes.
    pub(crate) fn plan_apart(&self, goal: &Desired, effort: Effort) -> Plans {
        self.plan_by(goal, effort, effort)
    }

    fn plan_by(&self, goal: &Desired, effort: Effort, of_rules: Effort) -> Plans {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| goal.rules(family));
        Plans {
            sets: netfilter::plan_sets(&self.sets, &goal.sets()),
            v4: netfilter::plan_parts(&self.v4, &v4, of_rules),
            v6: netfilter::plan_parts(&self.v6, &v6, of_rules),
            effort,
        }
    }
}

impl Plans {
    /// How many members sets have for a moment while this is written, where that is more than before and after.
    pub(crate) fn set_peaks(&self) -> BTreeMap<SetName, usize> {
        self.sets.peaks.clone()
    }

    /// Whether there is nothing to be written.
    pub(crate) fn is_empty(&self) -> bool {
        let rules = self.v4.restore.is_none() && self.v6.restore.is_none();
        let removals = self.effort == Effort::Exact && self.sets.after.is_some();
        rules && self.sets.before.is_none() && !removals
    }

    /// Whether something that is not needed any more is there still once this is written.
    pub(crate) fn has_leftover(&self) -> bool {
        let sets = self.effort == Effort::Additive && self.sets.after.is_some();
        sets || self.v4.leftover || self.v6.leftover
    }

    /// How many rules nothing needs any more once this is written.
    pub(crate) fn dead_rules(&self) -> usize {
        self.v4.dead_rules + self.v6.dead_rules
    }

    /// Sets first, then chains of both families side by side, then, if all is to be exact, the sets nobody needs.
    /// Gives what is there then, and the numbers of the processes that wrote rules.
    ///
    /// # Errors
    /// If a program refuses; what the kernel holds is unknown then.
    pub(crate) async fn write(
        self,
        programs: &Programs,
        ready: &mut Ready,
    ) -> Result<(Kernel, Vec<u32>), ApplyError> {
        let start = Instant::now();
        // All are started at once: those that write rules are ready when the sets are.
        let sets = Write::start(ready, IPSET, self.sets.before.as_deref());
        let v4 = Write::start(
            ready,
            programs.restore(Family::V4),
            self.v4.restore.as_deref(),
        );
        let v6 = Write::start(
            ready,
            programs.restore(Family::V6),
            self.v6.restore.as_deref(),
        );
        sets.finish()
            .await
            .map_err(|error| self.blame_a_set(error))?;
        let sets_took = start.elapsed();
        let (v4, v6) = match programs.backend {
            Backend::Nft => one_commit_after_the_other(v4, v6).await,
            // One lock for both families: who reads has it.
            Backend::Legacy => tokio::join!(v4.finish(), v6.finish()),
        };
        let writers = self.blame_chains(v4, v6)?;
        debug!(
            members = self.sets.members_written,
            ?sets_took,
            rules = self.v4.rules_written + self.v6.rules_written,
            rules_took = ?(start.elapsed() - sets_took),
            effort = ?self.effort,
            "written"
        );
        let sets = match self.effort {
            Effort::Additive => self.sets.applied,
            Effort::Exact => {
                restore_sets(self.sets.after.as_deref()).await?;
                self.sets.applied_after
            }
        };
        let kernel = Kernel {
            sets,
            v4: self.v4.after,
            v6: self.v6.after,
        };
        Ok((kernel, writers))
    }

    fn blame_a_set(&self, error: ExecError) -> ApplyError {
        if !error.is_refusal() {
            return error.into();
        }
        let line = netfilter::failed_line(&error.to_string());
        let set = line.and_then(|line| self.sets.set_at_line(line));
        let culprits = Culprits {
            sets: set.into_iter().collect(),
            ..Culprits::default()
        };
        ApplyError::Refused { error, culprits }
    }

    /// The processes that wrote, or whom to blame.
    fn blame_chains(&self, v4: Wrote, v6: Wrote) -> Result<Vec<u32>, ApplyError> {
        let mut culprits = Culprits::default();
        let (mut writers, mut first) = (Vec::new(), None);
        for (outcome, plan) in [(v4, &self.v4), (v6, &self.v6)] {
            match outcome {
                Ok(process) => writers.extend(process),
                Err(error) if error.is_refusal() => {
                    let line = netfilter::failed_line(&error.to_string());
                    let chain = line.and_then(|line| plan.chain_at_line(line));
                    culprits.chains.extend(chain.map(|(_, name)| name));
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match first {
            None => Ok(writers),
            Some(error) => Err(ApplyError::Refused { error, culprits }),
        }
    }

    /// What the kernel holds if this is empty.
    pub(crate) fn unchanged(self) -> Kernel {
        Kernel {
            sets: self.sets.applied,
            v4: self.v4.after,
            v6: self.v6.after,
        }
    }
}

/// What ends a table's transaction.
const COMMIT: &str = "COMMIT";

/// One program's part of a write, if it has one.
struct Write<'a>(Option<(Result<Started, ExecError>, &'a str)>);

impl<'a> Write<'a> {
    fn start(ready: &mut Ready, program: &'static str, text: Option<&'a str>) -> Self {
        Self(text.map(|text| (ready.take(program), text)))
    }

    /// Has all read but the last line, which commits.
    async fn read(&mut self) {
        if let Some((Ok(started), text)) = &mut self.0
            && let Some(at) = text.rfind(COMMIT)
        {
            let (beginning, end) = text.split_at(at);
            started.feed(beginning).await;
            *text = end;
        }
    }

    async fn finish(self) -> Wrote {
        match self.0 {
            Some((started, text)) => Ok(started?.finish(text).await?.process),
            None => Ok(None),
        }
    }
}

/// Of two transactions of nftables side by side one fails, whichever families they are of, and its program does all of
/// its work again. So the second one is read while the first goes on, and committed after it.
async fn one_commit_after_the_other(first: Write<'_>, mut second: Write<'_>) -> (Wrote, Wrote) {
    let (first, ()) = tokio::join!(first.finish(), second.read());
    (first, second.finish().await)
}

/// The process that wrote, if anything was to be written.
type Wrote = Result<Option<u32>, ExecError>;

/// Takes all chains and hooks of ours out of one back end.
///
/// # Errors
/// If a program fails or is not understood.
pub(crate) async fn remove_rules(programs: &Programs) -> Result<(), ApplyError> {
    let listings = listings(programs).await?;
    for (family, listing) in [Family::V4, Family::V6].into_iter().zip(&listings) {
        let there = Actual::parse(listing).map_err(not_understood(programs.save(family)))?;
        let plan = netfilter::plan(&there, &Ruleset::default(), Effort::Exact);
        restore_rules(programs.restore(family), plan.restore.as_deref()).await?;
    }
    Ok(())
}

/// Destroys all sets of ours; nothing may refer to them any more.
///
/// # Errors
/// If the program fails or is not understood.
pub(crate) async fn remove_sets() -> Result<(), ApplyError> {
    let text = save_sets().await?;
    let there = netfilter::parse_sets(&text).map_err(not_understood("ipset save"))?;
    let plan = netfilter::plan_sets(&there, &BTreeMap::new());
    restore_sets(plan.before.as_deref()).await?;
    Ok(restore_sets(plan.after.as_deref()).await?)
}

pub(super) async fn save_sets() -> Result<String, ExecError> {
    run("ipset", &["save"], None).await
}

async fn restore_sets(text: Option<&str>) -> Result<(), ExecError> {
    match text {
        Some(text) => run(IPSET, arguments(IPSET), Some(text)).await.map(drop),
        None => Ok(()),
    }
}

/// Gives the number of the process that wrote.
pub(super) async fn restore_rules(program: &'static str, text: Option<&str>) -> Wrote {
    let Some(text) = text else {
        return Ok(None);
    };
    let done = run_process(program, arguments(program), Some(text)).await?;
    Ok(done.process)
}

pub(super) fn not_understood(
    program: &'static str,
) -> impl Fn(netfilter::ParseError) -> ApplyError {
    move |error| ApplyError::Listing {
        program,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netfilter::{Action, ChainName, Rule, Table, TableRules};

    use super::*;
    use crate::firewall::state::ServiceRules;

    /// One chain of Services, and nothing else.
    fn goal(chain: &'static str) -> Desired {
        let table = TableRules {
            hooks: Vec::new(),
            chains: [(
                ChainName::fixed(chain),
                vec![Rule::new([], Action::Return)].into(),
            )]
            .into(),
        };
        let rules = Ruleset {
            tables: BTreeMap::from([(Table::Nat, table)]),
        };
        let services = ServiceRules {
            v4: Arc::new(rules),
            ..ServiceRules::default()
        };
        Desired {
            services: Arc::new(services),
            ..Desired::default()
        }
    }

    #[test]
    fn in_the_old_tables_what_goes_goes_with_the_write_of_what_comes_and_no_other_write_follows() {
        for (backend, is_left) in [(Backend::Nft, true), (Backend::Legacy, false)] {
            let kernel = Kernel {
                sets: ActualSets::default(),
                v4: Actual::default(),
                v6: Actual::default(),
            };
            let first = kernel.plan(&goal("A"), Effort::Additive, backend);
            let kernel = first.unchanged();
            let plans = kernel.plan(&goal("B"), Effort::Additive, backend);
            let text = plans.v4.restore.clone().unwrap();
            assert!(text.contains(":PTL-B "), "{backend:?}: {text}");
            assert_eq!(!text.contains("-X PTL-A"), is_left, "{backend:?}: {text}");
            assert_eq!(plans.has_leftover(), is_left, "{backend:?}");
            // Once that was refused: another's rule may lead to the chain that goes.
            let apart = kernel.plan_apart(&goal("B"), Effort::Additive);
            let text = apart.v4.restore.clone().unwrap();
            assert!(
                text.contains(":PTL-B ") && !text.contains("-X PTL-A"),
                "{text}"
            );
        }
    }
}
