//! Three nodes, an API server with one Lease, the link between them, and BFD, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::*;
use crate::layer2::{DURATION, order};

pub(super) const NODES: usize = 3;
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
/// How finely time runs.
const TICK: Duration = Duration::from_millis(10);
/// What BFD needs to find a peer silent, and to begin.
const DETECTION: Duration = Duration::from_millis(300);
const BEGINNING: Duration = Duration::from_millis(1_000);
/// How long a request to a server that cannot be reached takes to fail.
const NO_ANSWER: Duration = Duration::from_secs(2);

const NAMES: [&str; NODES] = ["n0", "n1", "n2"];

/// Where virtual time begins.
#[expect(
    clippy::disallowed_methods,
    reason = "an instant can be had from a clock alone; it is never read again"
)]
pub(super) fn some_time() -> Instant {
    Instant::now()
}

pub(super) fn name(node: usize) -> String {
    NAMES[node].to_owned()
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Crash(usize),
    Start(usize),
    Stop(usize),
    /// From the API server.
    Cut(usize),
    Heal(usize),
    Exclude(usize),
    IncludeAll,
    /// BFD says of a holder that lives that it is dead.
    FalseAlarm,
}

pub(super) struct Node {
    pub(super) election: Election,
    /// Which start of the node this is: what was on its way to an earlier one is lost.
    run: u64,
    is_cut: bool,
    told: BTreeMap<usize, Instant>,
    /// Since when both ends of a path watch each other.
    meeting: BTreeMap<usize, Instant>,
}

enum Event {
    Write {
        node: usize,
        run: u64,
        action: Action,
        asked: Instant,
    },
    Answer {
        node: usize,
        run: u64,
        asked: Instant,
        done: Written,
    },
    Watch {
        node: usize,
        run: u64,
        lease: Option<LeaseState>,
    },
    Claim {
        node: usize,
    },
}

pub(super) struct World {
    rule: Rule,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Option<Node>>,
    died: Vec<Option<Instant>>,
    excluded: BTreeSet<usize>,
    lease: Option<LeaseState>,
    version: u64,
    runs: u64,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    random: u64,
    pub(super) has_bfd: bool,
    /// Whether what a node that is cut off writes may arrive all the same.
    pub(super) loses_answers: bool,
    ticks: u64,
    pub(super) writes: usize,
    /// The most that answered at once with Leases that hold.
    pub(super) most_confirmed: usize,
    double_since: Option<Instant>,
    pub(super) longest_double: Duration,
}

impl World {
    pub(super) fn new(rule: Rule, seed: u64) -> Self {
        let mut world = Self {
            rule,
            now: some_time(),
            nodes: (0..NODES).map(|_| None).collect(),
            died: vec![None; NODES],
            excluded: BTreeSet::new(),
            lease: None,
            version: 10,
            runs: 0,
            events: BTreeMap::new(),
            sequence: 0,
            random: seed,
            has_bfd: true,
            loses_answers: true,
            ticks: 0,
            writes: 0,
            most_confirmed: 0,
            double_since: None,
            longest_double: Duration::ZERO,
        };
        (0..NODES).for_each(|node| world.apply(Op::Start(node)));
        world
    }

    /// Anything below a number of milliseconds (splitmix64).
    fn below(&mut self, milliseconds: u64) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % milliseconds)
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    pub(super) fn is_candidate(&self, node: usize) -> bool {
        self.nodes[node].is_some() && !self.excluded.contains(&node)
    }

    pub(super) fn answering(&self) -> Vec<usize> {
        let answers = |node: &Node| node.election.answered().contains(&ADDRESS);
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, node)| node.as_ref().is_some_and(answers))
            .map(|(node, _)| node)
            .collect()
    }

    pub(super) fn on(&mut self, node: usize, work: impl FnOnce(&mut Election)) {
        if let Some(node) = &mut self.nodes[node] {
            work(&mut node.election);
        }
        self.carry_out(node);
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Crash(node) => self.end(node),
            Op::Start(node) if self.nodes[node].is_none() => self.start(node),
            Op::Start(_) => {}
            Op::Stop(node) => self.stop(node),
            Op::Cut(node) | Op::Heal(node) => {
                let is_cut = matches!(op, Op::Cut(_));
                if let Some(node) = &mut self.nodes[node] {
                    node.is_cut = is_cut;
                }
                if !is_cut {
                    self.tell(node);
                }
            }
            Op::Exclude(node) => {
                self.excluded.insert(node);
                self.tell_all_who_may();
            }
            Op::IncludeAll => {
                self.excluded.clear();
                self.tell_all_who_may();
            }
            Op::FalseAlarm => self.cry_wolf(),
        }
    }

    pub(super) fn make_quiet(&mut self) {
        for node in 0..NODES {
            self.apply(Op::Start(node));
            self.apply(Op::Heal(node));
        }
        self.apply(Op::IncludeAll);
    }

    fn start(&mut self, node: usize) {
        self.runs += 1;
        self.nodes[node] = Some(Node {
            election: Election::new(&name(node), self.rule),
            run: self.runs,
            is_cut: false,
            told: BTreeMap::new(),
            meeting: BTreeMap::new(),
        });
        self.died[node] = None;
        self.tell_who_may(node);
        let (now, lease) = (self.now, self.lease.clone());
        self.on(node, |election| {
            if lease.is_some() {
                election.handle_lease(now, ADDRESS, lease);
            }
            election.handle_leases_known(now);
        });
    }

    fn end(&mut self, node: usize) {
        if self.nodes[node].take().is_some() {
            self.died[node] = Some(self.now);
        }
    }

    /// As the agent does: gives up, waits a moment for that, ends; BFD says that it ends.
    fn stop(&mut self, node: usize) {
        let now = self.now;
        self.on(node, |election| election.handle_stop(now));
        self.run(Duration::from_millis(200));
        self.end(node);
        let now = self.now;
        for other in 0..NODES {
            self.on(other, |election| {
                election.handle_path(now, &name(node), Path::Ended)
            });
            if let Some(other) = &mut self.nodes[other] {
                other.told.remove(&node);
            }
        }
    }

    fn tell_all_who_may(&mut self) {
        (0..NODES).for_each(|node| self.tell_who_may(node));
    }

    fn tell_who_may(&mut self, node: usize) {
        let names: Vec<String> = (0..NODES).map(name).collect();
        let fit = (0..NODES).filter(|node| !self.excluded.contains(node));
        let order = order(ADDRESS, fit.map(|node| names[node].as_str()));
        let (now, wanted) = (self.now, BTreeMap::from([(ADDRESS, Arc::from(order))]));
        self.on(node, |election| election.handle_wanted(now, &wanted));
        let told = self.nodes[node].as_ref().map(|node| node.told.clone());
        for other in told.unwrap_or_default().into_keys() {
            self.on(node, |election| {
                election.handle_path(now, &name(other), Path::Up)
            });
        }
    }

    fn cry_wolf(&mut self) {
        for holder in self.answering() {
            for other in (0..NODES).filter(|other| *other != holder) {
                let now = self.now;
                self.on(other, |election| {
                    election.handle_path(now, &name(holder), Path::Down)
                });
                self.on(holder, |election| {
                    election.handle_path(now, &name(other), Path::Down)
                });
            }
        }
    }

    /// The Lease as it is now, by the watch.
    fn tell(&mut self, node: usize) {
        let Some(run) = self.nodes[node]
            .as_ref()
            .filter(|node| !node.is_cut)
            .map(|node| node.run)
        else {
            return;
        };
        let (delay, lease) = (self.below(100), self.lease.clone());
        self.later(delay, Event::Watch { node, run, lease });
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.ticks += 1;
            let mut has_happened = self.double_since.is_some();
            while let Some(entry) = self.events.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let event = entry.remove();
                self.happen(event);
                has_happened = true;
            }
            for node in 0..NODES {
                let (now, this) = (self.now, &self.nodes[node]);
                let due = this.as_ref().and_then(|node| node.election.poll_timeout());
                if due.is_some_and(|due| due <= now) {
                    self.on(node, |election| election.handle_timeout(now));
                    has_happened = true;
                }
                if self.ticks.is_multiple_of(5) {
                    has_happened |= self.watch_paths(node);
                }
            }
            if has_happened {
                self.look();
            }
        }
    }

    fn look(&mut self) {
        let answering = self.answering();
        let is_confirmed = |node: &&usize| {
            let node = self.nodes[**node].as_ref();
            let standings = node.map(|node| node.election.standings(self.now));
            standings.is_some_and(|all| all.get(&ADDRESS) == Some(&Standing::Answers))
        };
        let confirmed = answering.iter().filter(is_confirmed).count();
        self.most_confirmed = self.most_confirmed.max(confirmed);
        match answering.len() > 1 {
            true => {
                let since = *self.double_since.get_or_insert(self.now);
                self.longest_double = self.longest_double.max(self.now - since);
            }
            false => self.double_since = None,
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        let is_running = |world: &Self, node: usize, run: u64| {
            world.nodes[node]
                .as_ref()
                .is_some_and(|node| node.run == run)
        };
        match event {
            // The server does what reached it, whether its sender lives or not.
            Event::Write {
                node,
                run,
                action,
                asked,
            } => {
                let done = self.write(node, &action);
                let after = self.below(40);
                self.later(
                    after,
                    Event::Answer {
                        node,
                        run,
                        asked,
                        done,
                    },
                );
            }
            Event::Answer {
                node,
                run,
                asked,
                done,
            } if is_running(self, node, run) => {
                self.on(node, |election| {
                    election.handle_written(now, ADDRESS, asked, done)
                });
            }
            Event::Watch { node, run, lease } if is_running(self, node, run) => {
                self.on(node, |election| election.handle_lease(now, ADDRESS, lease));
            }
            Event::Claim { node } => self.on(node, |election| election.handle_claim(now, ADDRESS)),
            Event::Answer { .. } | Event::Watch { .. } => {}
        }
    }

    fn write(&mut self, node: usize, action: &Action) -> Written {
        self.writes += 1;
        let present = self.lease.as_ref().map(|lease| lease.version);
        let (expected, next) = match action {
            Action::Hold { version, .. } => (*version, Some(name(node))),
            Action::Release { version, .. } => (Some(*version), None),
            Action::Announce(_) => unreachable!("that is no write"),
        };
        if present != expected {
            return Written::Conflict(self.lease.clone());
        }
        self.version += 1;
        let version = self.version;
        self.lease = next.map(|holder| LeaseState {
            holder,
            version,
            duration: DURATION,
        });
        (0..NODES).for_each(|node| self.tell(node));
        Written::Done(version)
    }

    fn carry_out(&mut self, node: usize) {
        let Some(run) = self.nodes[node].as_ref().map(|node| node.run) else {
            return;
        };
        while let Some(action) = self.nodes[node]
            .as_mut()
            .and_then(|node| node.election.poll_action())
        {
            let is_cut = self.nodes[node].as_ref().is_some_and(|node| node.is_cut);
            match action {
                Action::Announce(_) => {
                    for other in (0..NODES).filter(|other| *other != node) {
                        self.later(TICK, Event::Claim { node: other });
                    }
                }
                // One that arrives without its answer does, too.
                action if is_cut => {
                    let (asked, done) = (self.now, Written::Failed);
                    if self.loses_answers && self.below(10) == Duration::ZERO {
                        self.write(node, &action);
                    }
                    self.later(
                        NO_ANSWER,
                        Event::Answer {
                            node,
                            run,
                            asked,
                            done,
                        },
                    );
                }
                action => {
                    let (asked, delay) = (self.now, self.below(60));
                    self.later(
                        delay,
                        Event::Write {
                            node,
                            run,
                            action,
                            asked,
                        },
                    );
                }
            }
        }
    }

    /// Whether there was something to tell.
    fn watch_paths(&mut self, node: usize) -> bool {
        let mut has_told = false;
        if !self.has_bfd {
            return false;
        }
        for other in (0..NODES).filter(|other| *other != node) {
            let watches = |one: usize, other: usize| {
                let election = self.nodes[one].as_ref().map(|node| &node.election);
                election.is_some_and(|election| election.around.watched.contains_key(NAMES[other]))
            };
            let (sees, is_seen) = (watches(node, other), watches(other, node));
            let (now, died) = (self.now, self.died[other]);
            let Some(this) = &mut self.nodes[node] else {
                return false;
            };
            if !sees {
                this.told.remove(&other);
                this.meeting.remove(&other);
                continue;
            }
            let path = if is_seen {
                let since = *this.meeting.entry(other).or_insert(now);
                let is_due = !this.told.contains_key(&other) && now >= since + BEGINNING;
                is_due.then_some(Path::Up)
            } else {
                this.meeting.remove(&other);
                let is_told = this.told.contains_key(&other);
                match died {
                    Some(died) => (is_told && now >= died + DETECTION).then_some(Path::Down),
                    None => is_told.then_some(Path::Ended),
                }
            };
            let Some(path) = path else { continue };
            match path == Path::Up {
                true => drop(this.told.insert(other, now)),
                false => drop(this.told.remove(&other)),
            }
            self.on(node, |election| {
                election.handle_path(now, &name(other), path)
            });
            has_told = true;
        }
        has_told
    }
}
