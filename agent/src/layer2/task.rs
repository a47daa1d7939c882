//! The one task that owns who answers for what: events in, the election's wishes carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bgp_speaker::PathState;
use datastore::{AddressLease, AddressLeaseEvent, AddressLeases, LeaseNotWritten};
use services::layer2::{Action, DURATION, Election, LeaseState, Rule, Standing, Wanted, Written};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::links::{self, answering};
use super::report::{Answering, Layer2Report};
use super::responder::{self, Answered, Counts};
use super::watching::{self, Wish, meaning};
use super::{Goal, Parts};

/// How often the interfaces are looked at, while there is something to answer for.
const LOOK: Duration = Duration::from_secs(3);

/// What came of a write, and when it was asked for.
type Outcome = (
    IpAddr,
    Instant,
    Result<Option<AddressLease>, LeaseNotWritten>,
);

struct Task {
    node: String,
    goal: Goal,
    election: Election,
    leases: Option<AddressLeases>,
    /// The Leases as they were last read or written.
    seen: BTreeMap<IpAddr, AddressLease>,
    told: Option<mpsc::Receiver<AddressLeaseEvent>>,
    /// Whether all of them have been told.
    has_read: bool,
    writes: JoinSet<Outcome>,
    responders: BTreeMap<String, responder::Handle>,
    /// By which interfaces each wanted address is answered for here.
    interfaces: BTreeMap<IpAddr, BTreeSet<String>>,
    answered: watch::Sender<Answered>,
    claims: mpsc::Sender<IpAddr>,
    counts: Arc<Counts>,
    wish: watch::Sender<Wish>,
    /// What BFD said last of the nodes that are watched.
    paths: BTreeMap<String, PathState>,
    report: watch::Sender<Layer2Report>,
    totals: Layer2Report,
    stopping: Option<oneshot::Sender<()>>,
}

/// Runs until the agent stops.
pub(super) async fn run(
    mut parts: Parts,
    mut goals: watch::Receiver<Goal>,
    mut stops: mpsc::Receiver<oneshot::Sender<()>>,
    report: watch::Sender<Layer2Report>,
) {
    let (wish, wished) = watch::channel(Wish::new());
    let (paths, mut path_states) = watch::channel(BTreeMap::new());
    tokio::spawn(watching::run_task(parts.speaker.clone(), wished, paths));
    let (claims, mut claimed) = responder::claims();
    let mut task = Task::new(&parts, (claims, wish, report));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The generation whose Services the kernel has, once it has any; and what waits for a later one.
    let (mut in_force, mut waiting) = (None::<u64>, None::<Goal>);
    loop {
        let next = task.election.poll_timeout();
        tokio::select! {
            Some(done) = stops.recv() => task.stop(done),
            changed = goals.changed(), if in_force.is_some() => match changed {
                Ok(()) => waiting = task.take(goals.borrow_and_update().clone(), in_force),
                Err(_) => return,
            },
            changed = parts.in_force.changed() => match changed {
                Ok(()) => {
                    let (rules, served) = parts.in_force.look();
                    let is_first = in_force.is_none();
                    in_force = Some(served.map_or(rules, |served| served.min(rules)))
                        .filter(|generation| *generation > 0)
                        .or(in_force);
                    if is_first {
                        goals.mark_changed();
                    }
                    waiting = waiting.and_then(|goal| task.take(goal, in_force));
                }
                Err(_) => return,
            },
            event = next_event(&mut task.told) => task.read(event),
            Some(done) = task.writes.join_next() => if let Ok(done) = done {
                task.has_written(done);
            },
            Ok(()) = path_states.changed() => {
                let states = path_states.borrow_and_update().clone();
                task.follow_paths(&states);
            }
            Some(address) = claimed.recv() => task.election.handle_claim(now(), address),
            _ = look.tick(), if !task.goal.wanted.is_empty() => task.look_at_links(),
            () = until(next) => {}
        }
        task.carry_out();
    }
}

async fn next_event(told: &mut Option<mpsc::Receiver<AddressLeaseEvent>>) -> AddressLeaseEvent {
    if let Some(told) = told
        && let Some(event) = told.recv().await
    {
        return event;
    }
    std::future::pending().await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    Instant::now()
}

impl Task {
    fn new(
        parts: &Parts,
        (claims, wish, report): (
            mpsc::Sender<IpAddr>,
            watch::Sender<Wish>,
            watch::Sender<Layer2Report>,
        ),
    ) -> Self {
        let rule = match parts.leases {
            Some(_) => Rule::Lease,
            None => Rule::Order,
        };
        Self {
            node: parts.node.clone(),
            goal: Goal::default(),
            election: Election::new(&parts.node, rule),
            leases: parts.leases.clone(),
            seen: BTreeMap::new(),
            told: None,
            has_read: false,
            writes: JoinSet::new(),
            responders: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            answered: watch::Sender::default(),
            claims,
            counts: Arc::default(),
            wish,
            paths: BTreeMap::new(),
            report,
            totals: Layer2Report::default(),
            stopping: None,
        }
    }

    fn stop(&mut self, done: oneshot::Sender<()>) {
        self.election.handle_stop(now());
        self.stopping = Some(done);
    }

    /// Takes a goal as far as it may be carried out now; what is left of it waits.
    fn take(&mut self, goal: Goal, in_force: Option<u64>) -> Option<Goal> {
        if in_force >= Some(goal.since) {
            self.set_goal(goal);
            return None;
        }
        let held = goal.held_back(&self.goal, &self.node);
        if !held.says_the_same(&self.goal) {
            self.set_goal(held);
        }
        Some(goal)
    }

    fn set_goal(&mut self, goal: Goal) {
        self.goal = goal;
        if !self.goal.wanted.is_empty()
            && self.told.is_none()
            && let Some(leases) = &self.leases
        {
            // From now on, for what this node holds is to be given up, too.
            self.told = Some(leases.watch());
        }
        self.look_at_links();
    }

    /// Takes the interfaces as they are now: an address without any here is not this node's to answer for.
    fn look_at_links(&mut self) {
        let links = links::links().unwrap_or_else(|error| {
            warn!(%error, "cannot list this host's interfaces: nothing is answered for");
            BTreeMap::new()
        });
        let own = self
            .goal
            .nodes
            .get(&self.node)
            .map_or(&[][..], Vec::as_slice);
        let of = |(address, wanted): (&IpAddr, &Wanted)| {
            (
                *address,
                answering(&links, *address, &wanted.interfaces, own),
            )
        };
        let interfaces: BTreeMap<_, _> = self.goal.wanted.iter().map(of).collect();
        let used: BTreeSet<&String> = interfaces.values().flatten().collect();
        self.responders
            .retain(|name, running| used.contains(name) && running.runs());
        let mut begun = BTreeSet::new();
        for name in used {
            let Some(link) = links.get(name) else {
                continue;
            };
            let is_same = |running: &responder::Handle| running.link == *link;
            if self.responders.get(name).is_some_and(is_same) {
                continue;
            }
            let counts = self.counts.clone();
            let answered = self.answered.subscribe();
            match responder::start(name, link, answered, self.claims.clone(), counts) {
                Ok(started) => {
                    self.responders.insert(name.clone(), started);
                    begun.insert(name.clone());
                }
                Err(error) => {
                    warn!(interface = name, %error, "cannot answer ARP and neighbour discovery here");
                }
            }
        }
        let has_one = |address: &IpAddr| {
            let mut by = interfaces.get(address).into_iter().flatten();
            by.any(|name| self.responders.contains_key(name))
        };
        let without_this: Arc<[String]> = Arc::default();
        let orders = self
            .goal
            .wanted
            .iter()
            .map(|(address, wanted)| match has_one(address) {
                true => (*address, wanted.order.clone()),
                false => (*address, without_this.clone()),
            });
        self.election.handle_wanted(now(), &orders.collect());
        // A node that two changes let go and took up again is watched as before, and BFD has nothing new to say of it.
        let known = std::mem::take(&mut self.paths);
        self.follow_paths(&known);
        self.interfaces = interfaces;
        // An interface that comes says nothing of what is answered for already.
        for address in self.election.answered() {
            let by = self.interfaces.get(&address).into_iter().flatten();
            for name in by.filter(|name| begun.contains(*name)) {
                self.announce_on(name, address);
            }
        }
    }

    fn follow_paths(&mut self, states: &BTreeMap<String, PathState>) {
        for (node, state) in states {
            self.election.handle_path(now(), node, meaning(*state));
        }
        self.paths.clone_from(states);
    }

    fn read(&mut self, event: AddressLeaseEvent) {
        match event {
            AddressLeaseEvent::All(all) => {
                let gone: Vec<_> = self
                    .seen
                    .keys()
                    .filter(|address| !all.contains_key(*address))
                    .copied()
                    .collect();
                for address in gone {
                    self.see(address, None);
                }
                for (address, lease) in all {
                    self.see(address, Some(lease));
                }
                self.has_read = true;
                self.election.handle_leases_known(now());
            }
            AddressLeaseEvent::Changed(address, lease) => self.see(address, lease),
        }
    }

    fn see(&mut self, address: IpAddr, lease: Option<AddressLease>) {
        let known = self.seen.get(&address).map(|known| known.version);
        match &lease {
            // Told of late: what is known is newer.
            Some(lease) if known.is_some_and(|known| known >= lease.version) => return,
            Some(lease) => drop(self.seen.insert(address, lease.clone())),
            None => drop(self.seen.remove(&address)),
        }
        self.election
            .handle_lease(now(), address, lease.as_ref().map(state));
    }

    fn has_written(&mut self, (address, asked, done): Outcome) {
        if !matches!(done, Err(LeaseNotWritten::Failed(_))) {
            self.totals.last_failure = None;
        }
        let written = match done {
            Ok(Some(lease)) => {
                let version = lease.version;
                if self
                    .seen
                    .get(&address)
                    .is_none_or(|known| known.version < version)
                {
                    self.seen.insert(address, lease);
                }
                Written::Done(version)
            }
            Ok(None) => {
                self.seen.remove(&address);
                Written::Done(0)
            }
            Err(LeaseNotWritten::Conflict(present)) => {
                let told = present.as_ref().map(state);
                match present {
                    Some(lease) => drop(self.seen.insert(address, lease)),
                    None => drop(self.seen.remove(&address)),
                }
                Written::Conflict(told)
            }
            Err(LeaseNotWritten::Failed(why)) => {
                self.totals.failed_writes += 1;
                self.totals.last_failure = Some((address, why.clone()));
                warn!(%address, why, "cannot write the Lease of an address; trying again");
                Written::Failed
            }
        };
        self.election.handle_written(now(), address, asked, written);
    }

    /// Does what the election wants, and says what has become of it.
    fn carry_out(&mut self) {
        self.election.handle_timeout(now());
        self.publish_answered();
        while let Some(action) = self.election.poll_action() {
            match action {
                Action::Announce(address) => {
                    let by = self.interfaces.get(&address).cloned().unwrap_or_default();
                    by.iter().for_each(|name| self.announce_on(name, address));
                }
                Action::Hold { address, version } => self.write(address, version, true),
                Action::Release { address, version } => self.write(address, Some(version), false),
            }
        }
        let of = |node: String| {
            let own = self.goal.nodes.get(&self.node)?;
            let path = watching::path(own, self.goal.nodes.get(&node)?)?;
            Some((node, path))
        };
        let wish: Wish = self.election.watched().into_iter().filter_map(of).collect();
        self.wish.send_if_modified(|old| {
            let is_new = *old != wish;
            *old = wish;
            is_new
        });
        if self.election.is_done()
            && let Some(done) = self.stopping.take()
        {
            // Who waited for it may have gone.
            let _ = done.send(());
        }
        self.publish_report();
    }

    fn announce_on(&self, name: &str, address: IpAddr) {
        if let Some(responder) = self.responders.get(name) {
            responder.announce(address);
        }
    }

    fn write(&mut self, address: IpAddr, version: Option<u64>, is_hold: bool) {
        let Some(leases) = self.leases.clone() else {
            return;
        };
        let seen = self.seen.get(&address).cloned();
        let asked = now();
        self.totals.writes += 1;
        self.writes.spawn(async move {
            // What it is made from is known, or another event of it is on its way.
            if seen.as_ref().map(|seen| seen.version) != version {
                return (address, asked, Err(LeaseNotWritten::Conflict(seen)));
            }
            let done = match (is_hold, seen) {
                (true, seen) => leases
                    .hold(address, seen.as_ref(), DURATION)
                    .await
                    .map(Some),
                (false, Some(seen)) => leases.release(address, &seen).await.map(|()| None),
                (false, None) => Ok(None),
            };
            (address, asked, done)
        });
    }

    fn publish_answered(&mut self) {
        let answered = self.election.answered().into_iter();
        let answered: BTreeMap<_, _> = answered
            .map(|address| {
                (
                    address,
                    self.interfaces.get(&address).cloned().unwrap_or_default(),
                )
            })
            .collect();
        let before = self.answered.borrow().clone();
        if *before == answered {
            return;
        }
        for (address, interfaces) in &answered {
            if !before.contains_key(address) {
                self.totals.taken += 1;
                info!(%address, ?interfaces, "this node answers ARP and neighbour discovery for an address");
            }
        }
        for address in before
            .keys()
            .filter(|address| !answered.contains_key(*address))
        {
            info!(%address, "this node no longer answers for an address");
        }
        self.answered.send_replace(Arc::new(answered));
    }

    fn publish_report(&mut self) {
        let standings = self.election.standings(now());
        let of = |(address, wanted): (&IpAddr, &Wanted)| {
            let standing = standings.get(address);
            let node = match standing {
                Some(Standing::Answers | Standing::AnswersOverdue) => Some(self.node.clone()),
                Some(Standing::Other(node)) => Some(node.clone()),
                Some(Standing::Nobody) | None => None,
            };
            let answering = Answering {
                node,
                is_overdue: standing == Some(&Standing::AnswersOverdue),
                order: wanted.order.to_vec(),
                pool: wanted.pool.clone(),
                interfaces: self.interfaces.get(address).cloned().unwrap_or_default(),
                named: wanted.interfaces.clone(),
            };
            (*address, answering)
        };
        self.totals.addresses = self.goal.wanted.iter().map(of).collect();
        let is_heard = |node: &String| self.paths.get(node) == Some(&PathState::Up);
        let watched = self.wish.borrow();
        let watched = watched.keys().map(|node| (node.clone(), is_heard(node)));
        self.totals.watched = watched.collect();
        self.totals.waits_for_leases = self.told.is_some() && !self.has_read;
        self.totals.answers = self.counts.answers.load(Ordering::Relaxed);
        self.totals.announcements = self.counts.announcements.load(Ordering::Relaxed);
        self.totals.unsent = self.counts.unsent.load(Ordering::Relaxed);
        self.totals.claims = self.counts.claims.load(Ordering::Relaxed);
        let totals = &self.totals;
        self.report.send_if_modified(|old| {
            let is_new = old != totals;
            old.clone_from(totals);
            is_new
        });
    }
}

fn state(lease: &AddressLease) -> LeaseState {
    LeaseState {
        holder: lease.holder.clone(),
        version: lease.version,
        duration: lease.duration,
    }
}
