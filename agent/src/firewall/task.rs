//! The task that owns our chains and sets in the kernel: applies changes at once, heals damage, tidies up in quiet times.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::{Effort, Family, IpSet, SetKind};
use services::proxy::iptables;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::backend::{Backend, Choice};
use super::blame;
use super::broken::{Culprits, Quarantine};
use super::kernel::{ApplyError, Kernel, remove_rules, remove_sets};
use super::notices::Notices;
use super::pace::{Failure, Leftover, Outcome, Pace, Turn};
use super::programs::{BackendError, Look, Programs};
use super::ready::Ready;
use super::state::{Applied, Desired, ServiceRules};
use crate::message::Message;
use crate::{service, service_proxy};

/// So long after a write the programs for the next one are started.
const BREATH: Duration = Duration::from_millis(10);
/// How soon it is looked again whether another proxy, which is not one of chains, has gone: no notice tells of that.
const OTHER_LOOK: Duration = Duration::from_secs(2);
/// So many rules that nobody needs are too many to wait for a quiet time.
const TOO_MANY_LEFT: usize = 2000;
/// So often in a row what is refused is not blamed because a set it needs was gone: others may go on destroying sets.
const EXCUSES: u32 = 5;

/// What hangs on the flags where policy is left out.
pub(crate) struct WithoutPolicy {
    pub(crate) choice: Choice,
    pub(crate) attaches_pods: bool,
    pub(crate) held_until: Option<watch::Receiver<service_proxy::Applied>>,
}

/// Where policy is left out: every generation counts as applied, and nothing is written, until an address is to change on
/// the way, by a host port or by `natOutgoing`, or a tunnel stands: now or, where this agent attaches pods, in an earlier run.
pub(crate) async fn run_without_policy(
    flags: WithoutPolicy,
    mut desired: watch::Receiver<Desired>,
    applied: watch::Sender<Applied>,
    core: mpsc::Sender<Message>,
) {
    // Chains of the last mode, too, if Services are served by another one now.
    let mut may_be_left = flags.attaches_pods || flags.held_until.is_some();
    while desired.changed().await.is_ok() {
        let (generation, has_more_than_policy) = {
            let desired = desired.borrow_and_update();
            (desired.generation, desired.has_more_than_policy())
        };
        let is_left = std::mem::take(&mut may_be_left) && is_more_than_policy_left().await;
        if has_more_than_policy || is_left {
            let task = Task::new(flags.choice, desired, applied, core);
            let mut task = task.keeping_services(flags.held_until);
            task.is_without_policy = true;
            return task.run().await;
        }
        applied.send_modify(|state| state.generation = generation);
    }
}

/// Whether some chain of ours is in a nat table, or guards tunnels: the agent may have been away when it was to go.
async fn is_more_than_policy_left() -> bool {
    match Look::now().await {
        Ok(look) => look.has_more_than_policy(),
        Err(error) => {
            warn!(%error, "cannot look whether rules of an earlier run are left");
            false
        }
    }
}

/// Removes everything of ours, from both back ends.
///
/// # Errors
/// If the kernel cannot be read or written.
pub(crate) async fn clean() -> Result<(), ApplyError> {
    let look = Look::now().await?;
    for backend in Backend::BOTH {
        if let Some(programs) = look.ours_in(backend) {
            remove_rules(&programs).await?;
        }
    }
    remove_sets().await
}

/// The task's state.
pub(crate) struct Task {
    choice: Choice,
    desired: watch::Receiver<Desired>,
    applied: watch::Sender<Applied>,
    /// The back end that is written to, once decided.
    programs: Option<Programs>,
    /// What is there, unless that is anybody's guess.
    kernel: Option<Kernel>,
    /// The other back end, if something of ours is left there.
    stray: Option<Programs>,
    pace: Pace,
    notices: Notices,
    /// Programs that wait for the next write.
    ready: Ready,
    /// When they are to be started: not while an ADD goes on with what was written.
    ready_at: Option<Instant>,
    /// Where refused sets and chains are told.
    core: mpsc::Sender<Message>,
    quarantine: Quarantine,
    /// How often in a row nobody was blamed for what was refused.
    excused: u32,
    /// What was seen of another proxy of Services besides chains, as of the last look.
    other: Option<String>,
    /// When it is looked again; never while there is none: that is done whenever the kernel is read.
    other_at: Option<Instant>,
    /// Nothing is to be there but what changes addresses.
    is_without_policy: bool,
    /// Where another mode is to serve Services: until it does, an earlier run's chains of Services stay as they are.
    held_until: Option<watch::Receiver<service_proxy::Applied>>,
}

impl Task {
    /// Makes the task; nothing is read or written before [`Self::run`].
    pub(crate) fn new(
        choice: Choice,
        desired: watch::Receiver<Desired>,
        applied: watch::Sender<Applied>,
        core: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            core,
            quarantine: Quarantine::new(),
            excused: 0,
            other: None,
            other_at: None,
            is_without_policy: false,
            held_until: None,
            choice,
            desired,
            applied,
            programs: None,
            kernel: None,
            stray: None,
            pace: Pace::new(Instant::now()),
            notices: Notices::new(),
            ready: Ready::default(),
            ready_at: None,
        }
    }

    /// Keeps chains of Services of an earlier run until another mode has a generation in the kernel.
    pub(crate) fn keeping_services(
        mut self,
        until: Option<watch::Receiver<service_proxy::Applied>>,
    ) -> Self {
        self.held_until = until;
        self
    }

    /// Runs until the desired state's sender is gone.
    pub(crate) async fn run(mut self) {
        let is_published = |goal: &Desired| goal.generation > 0;
        if self.desired.wait_for(is_published).await.is_err() {
            return;
        }
        let mut turn = Turn::Apply;
        loop {
            let mut goal = self.desired.borrow_and_update().clone();
            if self.is_without_policy {
                goal.compiled = Arc::default();
            }
            self.step(turn, &goal).await;
            turn = match self.next_turn().await {
                Some(turn) => turn,
                None => return,
            };
        }
    }

    async fn next_turn(&mut self) -> Option<Turn> {
        if let Some(turn) = self.pace.overdue(Instant::now()) {
            return Some(turn);
        }
        loop {
            let (at, turn) = self.pace.next();
            let release = self.quarantine.due();
            tokio::select! {
                biased;
                changed = self.desired.changed() => return changed.ok().map(|()| Turn::Apply),
                () = served_otherwise(&mut self.held_until), if self.held_until.is_some() => {
                    self.held_until = None;
                    // What was left out of the books is read.
                    self.kernel = None;
                    return Some(Turn::Apply);
                }
                () = sleep_until(self.other_at.unwrap_or(at).into()), if self.other_at.is_some() => {
                    if self.look_for_other().await {
                        return Some(Turn::Apply);
                    }
                }
                () = self.notices.next() => self.pace.doubt(Instant::now()),
                () = sleep_until(at.into()) => return Some(turn),
                () = sleep_until(self.ready_at.unwrap_or(at).into()), if self.ready_at.is_some() => {
                    self.ready_at = None;
                    if let Some(programs) = &self.programs {
                        self.ready.prepare(programs);
                    }
                }
                () = sleep_until(release.unwrap_or(at).into()), if release.is_some() => {
                    self.quarantine.release(Instant::now());
                    self.tell_broken(Culprits::default()).await;
                }
            }
        }
    }

    async fn step(&mut self, turn: Turn, goal: &Desired) {
        debug!(?turn, goal.generation, "firewall");
        match turn {
            Turn::Apply if self.pace.is_blocked(Instant::now()) => {}
            Turn::Apply => self.bring(goal, Effort::Additive).await,
            Turn::CleanUp => self.bring(goal, Effort::Exact).await,
            Turn::ReadBack => self.read_back(goal).await,
            Turn::Recheck => self.recheck(goal).await,
        }
    }

    /// Brings the kernel to the desired state, and reports how that went.
    async fn bring(&mut self, goal: &Desired, effort: Effort) {
        match self.try_to_bring(goal, effort).await {
            Ok(outcome) => {
                self.pace.applied(Instant::now(), outcome);
                self.excused = 0;
                self.report_applied(goal, outcome);
                self.remove_strays().await;
            }
            Err(error) => {
                if let ApplyError::Refused { culprits, .. } = &error {
                    self.accuse(culprits.clone(), goal).await;
                }
                self.fail(&error);
            }
        }
    }

    /// Has what the kernel refuses left out, so that all else is enforced.
    async fn accuse(&mut self, mut culprits: Culprits, goal: &Desired) {
        if let (true, Some(programs)) = (culprits.is_empty(), &self.programs) {
            match blame::search(programs, goal).await {
                Ok(found) => culprits = found,
                Err(error) => warn!(%error, "cannot find out which chain is refused"),
            }
        }
        if !culprits.is_empty() && !self.is_excused(&culprits, goal).await {
            warn!(
                ?culprits,
                "the kernel refuses these; they are left out, and tried again later"
            );
            let held = self.quarantine.add(Instant::now(), culprits);
            self.tell_broken(held).await;
        }
    }

    /// Whether chains were refused because others destroyed a set between our writing it and a rule that needs it: then
    /// they are sound, and written again soon instead of left out for long.
    async fn is_excused(&mut self, culprits: &Culprits, goal: &Desired) -> bool {
        if !culprits.sets.is_empty() || self.excused >= EXCUSES {
            return false;
        }
        let Ok(fresh) = self.read().await else {
            return false;
        };
        let goal = self.beside_another_proxy(goal, &fresh);
        let there = fresh.set_sizes();
        let is_robbed = goal.sets().keys().any(|name| !there.contains_key(name));
        if is_robbed {
            self.excused += 1;
            warn!("sets of ours were destroyed by someone else while rules were written");
        }
        is_robbed
    }

    async fn tell_broken(&self, Culprits { sets, chains }: Culprits) {
        // Without the core the agent is stopping.
        let _ = self.core.send(Message::Broken { sets, chains }).await;
    }

    async fn try_to_bring(
        &mut self,
        goal: &Desired,
        effort: Effort,
    ) -> Result<Outcome, ApplyError> {
        match self.write(goal, effort, false).await {
            // Another may have changed what we believed in: once more, from what is really there. And another's rule may lead to
            // a chain that is to go, which must not keep out what is to come.
            Err(ApplyError::Refused { error, .. }) => {
                self.kernel = None;
                debug!(%error, "reading back and trying again");
                self.write(goal, effort, true).await
            }
            outcome => outcome,
        }
    }

    /// `is_apart`: what goes is not to go with what comes where the caller does not ask for it.
    async fn write(
        &mut self,
        goal: &Desired,
        effort: Effort,
        is_apart: bool,
    ) -> Result<Outcome, ApplyError> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => self.read().await?,
        };
        let Some(programs) = &self.programs else {
            return Ok(Outcome {
                has_written: false,
                leftover: Leftover::None,
            });
        };
        let planning = Instant::now();
        let goal = self.beside_another_proxy(goal, &kernel);
        let plans = match is_apart {
            true => kernel.plan_apart(&goal, effort),
            false => kernel.plan(&goal, effort, programs.backend),
        };
        debug!(took = ?planning.elapsed(), "planned");
        let (has_leftover, dead) = (plans.has_leftover(), plans.dead_rules());
        let has_written = !plans.is_empty();
        let kernel = if has_written {
            let start = Instant::now();
            let peaks = plans.set_peaks();
            let (kernel, writers) = plans.write(programs, &mut self.ready).await?;
            self.ready_at = Some(Instant::now() + BREATH);
            if self.notices.wrote(writers, kernel.set_sizes(), &peaks) {
                self.pace.doubt(Instant::now());
            }
            let took = start.elapsed();
            info!(microseconds = took.as_micros(), "programmed policy");
            self.applied.send_modify(|state| {
                state.last_duration = took;
                state.writes += 1;
                state.apply.observe(took);
            });
            kernel
        } else {
            plans.unchanged()
        };
        let leftover = match has_leftover {
            false => Leftover::None,
            true if dead > TOO_MANY_LEFT => Leftover::TooMuch,
            true => Leftover::Some,
        };
        self.kernel = Some(kernel);
        Ok(Outcome {
            has_written,
            leftover,
        })
    }

    /// Looks for another proxy that works without chains; true if that is not as it was.
    async fn look_for_other(&mut self) -> bool {
        let serves = self.desired.borrow().serves_services;
        let found = match serves {
            true => service::other_proxy().await,
            false => None,
        };
        self.other_at = found.is_some().then(|| Instant::now() + OTHER_LOOK);
        let is_new = self.other != found;
        self.other = found;
        is_new
    }

    /// Leaves Services to another proxy that is there: two that serve the same addresses end each other's connections.
    fn beside_another_proxy<'a>(&self, goal: &'a Desired, kernel: &Kernel) -> Cow<'a, Desired> {
        let other = match goal.serves_services {
            false => None,
            true => {
                let chain = kernel.other_proxy().map(|chain| format!("chain {chain}"));
                chain.or_else(|| self.other.clone())
            }
        };
        let is_new = self.applied.borrow().other_proxy != other;
        if is_new {
            if let Some(sign) = &other {
                warn!(
                    sign,
                    "another proxy serves Services here: ours are not written"
                );
            }
            self.applied
                .send_modify(|state| state.other_proxy.clone_from(&other));
        }
        if other.is_none() && self.held_until.is_none() {
            return Cow::Borrowed(goal);
        }
        let mut goal = goal.clone();
        let mut services = ServiceRules::default();
        if other.is_none() {
            // Rules of an earlier run stay, and may ask them.
            services.sets.clone_from(&goal.services.sets);
        } else {
            // Policy's rules ask this one: nothing is ours to lead.
            let asked = Family::ALL.map(|family| (family, iptables::led_for_pods(family)));
            for (family, name) in asked {
                if goal.services.sets.contains_key(&name) {
                    let empty = IpSet::new(name.clone(), family, SetKind::HashIpPort);
                    services.sets.insert(name, Arc::new(empty));
                }
            }
        }
        goal.services = Arc::new(services);
        Cow::Owned(goal)
    }

    /// Reads the kernel; decides for a back end first where that is not done.
    async fn read(&mut self) -> Result<Kernel, ApplyError> {
        self.applied.send_modify(|state| state.read_backs += 1);
        let start = Instant::now();
        self.look_for_other().await;
        let kernel = match &self.programs {
            Some(programs) => Kernel::read(programs).await?,
            None => self.choose(&Look::now().await?).await?,
        };
        self.pace.read_back(start, Instant::now());
        Ok(match self.held_until {
            Some(_) => kernel.without_services(),
            None => kernel,
        })
    }

    /// Decides for a back end, and gives what is in it.
    async fn choose(&mut self, look: &Look) -> Result<Kernel, ApplyError> {
        let programs = look.choose(self.choice)?;
        let backend = programs.backend;
        let listings = look.listings.get(&backend).cloned().unwrap_or_default();
        let kernel = Kernel::of_listings(&programs, &listings).await?;
        if self.programs.as_ref() != Some(&programs) {
            info!(backend = backend.name(), "iptables back end");
            self.applied
                .send_modify(|state| state.backend = Some(backend.name()));
        }
        self.stray = look.ours_in(backend.other());
        self.programs = Some(programs);
        Ok(kernel)
    }

    /// Looks for damage by others. A change that comes meanwhile goes first, unless damage may be there for long.
    async fn read_back(&mut self, goal: &Desired) {
        let may_wait = self.pace.may_wait(Instant::now());
        let mut desired = self.desired.clone();
        let fresh = tokio::select! {
            biased;
            _ = desired.changed(), if may_wait => {
                self.pace.gave_up(Instant::now());
                return;
            }
            fresh = self.read() => fresh,
        };
        match fresh {
            Ok(fresh) => self.take_fresh(fresh, goal).await,
            Err(error) => self.fail(&error),
        }
    }

    async fn take_fresh(&mut self, fresh: Kernel, goal: &Desired) {
        let is_known = self.kernel.is_some();
        let held = self.beside_another_proxy(goal, &fresh);
        let is_damaged = self.programs.as_ref().is_some_and(|programs| {
            !fresh
                .plan(&held, Effort::Additive, programs.backend)
                .is_empty()
        });
        self.kernel = Some(fresh);
        if is_damaged && is_known && self.applied.borrow().generation == goal.generation {
            warn!("our chains or sets were changed by someone else; repairing them");
            self.applied.send_modify(|state| state.repairs += 1);
        }
        self.bring(goal, Effort::Additive).await;
    }

    /// Looks whether the host works with another back end now, and removes what of ours is left in the other.
    async fn recheck(&mut self, goal: &Desired) {
        self.pace.rechecked(Instant::now());
        let outcome = match Look::now().await {
            Ok(look) => self.choose(&look).await,
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(fresh) => self.take_fresh(fresh, goal).await,
            Err(error) => self.fail(&error),
        }
    }

    /// Once ours stand in the back end that the host uses, those in the other go.
    async fn remove_strays(&mut self) {
        if let Some(programs) = self.stray.take() {
            let backend = programs.backend.name();
            info!(backend, "removing our rules from the other back end");
            if let Err(error) = remove_rules(&programs).await {
                warn!(%error, backend, "cannot remove our rules from the other back end");
            }
        }
    }

    fn report_applied(&mut self, goal: &Desired, outcome: Outcome) {
        let now = Instant::now();
        self.applied.send_modify(|state| {
            if outcome.has_written {
                let waited = goal.waiting.iter();
                for stamp in waited.filter(|stamp| stamp.generation > state.generation) {
                    let time = now.saturating_duration_since(stamp.at);
                    state.event_to_kernel.observe(time);
                }
            }
            state.generation = goal.generation;
            state.host_ports = Arc::clone(&goal.host_ports);
            state.error = None;
            state.is_blocked = false;
            state.has_leftover = outcome.leftover != Leftover::None;
            (state.sets, state.chains) = sizes(goal);
        });
    }

    fn fail(&mut self, error: &ApplyError) {
        warn!(%error, "cannot program policy; what is in the kernel stays, trying again");
        // What is there now is anybody's guess: read it back before the next try.
        self.kernel = None;
        let why = match error {
            ApplyError::Backend(BackendError::Mix(_)) => Failure::Blocked,
            ApplyError::Exec(error) if error.is_locked() => Failure::Locked,
            _ => Failure::Other,
        };
        if why == Failure::Blocked {
            self.programs = None;
        }
        self.pace.failed(Instant::now(), why);
        self.applied.send_modify(|state| {
            state.error = Some(error.to_string());
            state.is_blocked = why == Failure::Blocked;
        });
    }
}

/// Waits until another mode serves Services; without its task for ever.
async fn served_otherwise(until: &mut Option<watch::Receiver<service_proxy::Applied>>) {
    let served = match until {
        Some(until) => until.wait_for(|state| state.generation > 0).await.is_ok(),
        None => false,
    };
    if !served {
        std::future::pending::<()>().await;
    }
}

fn sizes(goal: &Desired) -> (usize, usize) {
    let rules = [Family::V4, Family::V6].map(|family| goal.rules(family));
    let chains = rules
        .iter()
        .flatten()
        .flat_map(|rules| rules.tables.values())
        .map(|table| table.chains.len())
        .sum();
    (goal.set_count(), chains)
}
