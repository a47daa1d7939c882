//! The task that owns our chains and sets in the kernel: reads back, plans the difference, applies it in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::{Actual, ActualSets, Effort, Family, IpSet, SetName};
use policy::{Compiled, FamilyRules};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::exec::{ExecError, run};

/// How often the kernel is read back to find what others did to our rules.
const DRIFT_CHECK: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// What is to be in the kernel, and which state of the inputs it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// Grows with every publication; 0 means nothing published yet.
    pub(crate) generation: u64,
    /// Sets and chains of both families.
    pub(crate) compiled: Arc<Compiled>,
}

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// The newest generation that is wholly in the kernel.
    pub(crate) generation: u64,
    /// Why the newest try failed.
    pub(crate) error: Option<String>,
    /// How long the last write took.
    pub(crate) last_duration: Duration,
    /// How many times something was written.
    pub(crate) writes: u64,
    /// Sets of ours, both families.
    pub(crate) sets: usize,
    /// Chains of ours, both families.
    pub(crate) chains: usize,
    /// How many times a drift check found our rules changed by another.
    pub(crate) repairs: u64,
}

/// What the kernel holds, as read back and as changed by us since.
struct Kernel {
    sets: ActualSets,
    v4: Actual,
    v6: Actual,
}

/// Where policy is left out: every generation counts as applied, and nothing is written.
pub(crate) async fn pass_through(
    mut desired: watch::Receiver<Desired>,
    applied: watch::Sender<Applied>,
) {
    while desired.changed().await.is_ok() {
        let generation = desired.borrow_and_update().generation;
        applied.send_modify(|state| state.generation = generation);
    }
}

/// Runs until the desired state's sender is gone.
pub(crate) async fn run_task(
    mut desired: watch::Receiver<Desired>,
    applied: watch::Sender<Applied>,
) {
    let mut kernel: Option<Kernel> = None;
    let mut retry = FIRST_RETRY;
    loop {
        let goal = desired.borrow_and_update().clone();
        let pause = if goal.generation == 0 {
            DRIFT_CHECK
        } else {
            match apply(&mut kernel, &goal.compiled, &applied).await {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    applied.send_modify(|state| {
                        state.generation = goal.generation;
                        state.error = None;
                        (state.sets, state.chains) = sizes(&goal.compiled);
                    });
                    DRIFT_CHECK
                }
                Err(error) => {
                    warn!(%error, "cannot program policy; what is in the kernel stays, trying again");
                    // What is there now is anybody's guess: read it back before the next try.
                    kernel = None;
                    applied.send_modify(|state| state.error = Some(error.to_string()));
                    retry = (retry * 2).min(LAST_RETRY);
                    retry
                }
            }
        };
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {
                if kernel.is_some() {
                    check_drift(&mut kernel, &goal.compiled, &applied).await;
                }
            }
        }
    }
}

/// Reads the kernel back; what differs from what we believe is repaired by the next pass.
async fn check_drift(
    kernel: &mut Option<Kernel>,
    compiled: &Compiled,
    applied: &watch::Sender<Applied>,
) {
    match read_back().await {
        Ok(fresh) => {
            if !nothing_to_do(&fresh, compiled) {
                warn!("our chains or sets were changed by someone else; repairing them");
                applied.send_modify(|state| state.repairs += 1);
            }
            *kernel = Some(fresh);
        }
        Err(error) => {
            warn!(%error, "cannot read the rules back");
            *kernel = None;
        }
    }
}

fn nothing_to_do(kernel: &Kernel, compiled: &Compiled) -> bool {
    let sets = netfilter::plan_sets(&kernel.sets, &all_sets(compiled));
    sets.before.is_none()
        && sets.after.is_none()
        && netfilter::plan(&kernel.v4, &compiled.v4.rules, Effort::Exact)
            .restore
            .is_none()
        && netfilter::plan(&kernel.v6, &compiled.v6.rules, Effort::Exact)
            .restore
            .is_none()
}

/// Sets first, then chains of both families side by side, then the sets nobody needs any more.
async fn apply(
    kernel: &mut Option<Kernel>,
    compiled: &Compiled,
    applied: &watch::Sender<Applied>,
) -> Result<(), ApplyError> {
    let known = match kernel.take() {
        Some(known) => known,
        None => read_back().await?,
    };
    let sets = netfilter::plan_sets(&known.sets, &all_sets(compiled));
    let v4 = netfilter::plan(&known.v4, &compiled.v4.rules, Effort::Exact);
    let v6 = netfilter::plan(&known.v6, &compiled.v6.rules, Effort::Exact);
    let writes = [&sets.before, &v4.restore, &v6.restore, &sets.after];
    if writes.iter().any(|text| text.is_some()) {
        let start = Instant::now();
        restore_sets(sets.before.as_deref()).await?;
        let (first, second) = tokio::join!(
            restore_rules(Family::V4, v4.restore.as_deref()),
            restore_rules(Family::V6, v6.restore.as_deref()),
        );
        first?;
        second?;
        restore_sets(sets.after.as_deref()).await?;
        let took = start.elapsed();
        info!(milliseconds = took.as_millis(), "programmed policy");
        applied.send_modify(|state| {
            state.last_duration = took;
            state.writes += 1;
        });
    }
    *kernel = Some(Kernel {
        sets: sets.applied_after,
        v4: v4.after,
        v6: v6.after,
    });
    Ok(())
}

/// Removes everything of ours.
///
/// # Errors
/// If the kernel cannot be read or written.
pub(crate) async fn clean() -> Result<(), ApplyError> {
    let nothing = Compiled::default();
    let (applied, _) = watch::channel(Applied::default());
    apply(&mut None, &nothing, &applied).await
}

/// Why the kernel is not as desired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// A program failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A program's listing is not understood.
    #[error("cannot understand what {program} printed: {message}")]
    Listing {
        /// The program.
        program: &'static str,
        /// Why.
        message: String,
    },
}

async fn read_back() -> Result<Kernel, ApplyError> {
    let (sets, v4, v6) = tokio::try_join!(
        run("ipset", &["save"], None),
        run("iptables-save", &[], None),
        run("ip6tables-save", &[], None),
    )?;
    let listing = |program| {
        move |error: netfilter::ParseError| ApplyError::Listing {
            program,
            message: error.to_string(),
        }
    };
    Ok(Kernel {
        sets: netfilter::parse_sets(&sets).map_err(listing("ipset save"))?,
        v4: Actual::parse(&v4).map_err(listing("iptables-save"))?,
        v6: Actual::parse(&v6).map_err(listing("ip6tables-save"))?,
    })
}

async fn restore_sets(text: Option<&str>) -> Result<(), ExecError> {
    match text {
        Some(text) => run("ipset", &["restore", "-exist"], Some(text))
            .await
            .map(drop),
        None => Ok(()),
    }
}

async fn restore_rules(family: Family, text: Option<&str>) -> Result<(), ExecError> {
    let program = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    match text {
        Some(text) => run(program, &["--noflush", "--wait", "5"], Some(text))
            .await
            .map(drop),
        None => Ok(()),
    }
}

fn all_sets(compiled: &Compiled) -> BTreeMap<SetName, Arc<IpSet>> {
    let FamilyRules { sets: v4, .. } = &compiled.v4;
    v4.iter()
        .chain(&compiled.v6.sets)
        .map(|(name, set)| (name.clone(), set.clone()))
        .collect()
}

fn sizes(compiled: &Compiled) -> (usize, usize) {
    let families = [&compiled.v4, &compiled.v6];
    let sets = families.iter().map(|family| family.sets.len()).sum();
    let chains = families
        .iter()
        .flat_map(|family| family.rules.tables.values())
        .map(|table| table.chains.len())
        .sum();
    (sets, chains)
}
