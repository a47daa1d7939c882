//! One address, as one node sees it: who holds its Lease, or is first, and whether this node answers.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::election::{Action, Around, LeaseState, Path, Rule, Standing, Written};

/// For how long a Lease holds from its last renewal on.
pub const DURATION: Duration = Duration::from_secs(30);
/// How old a renewal is when the holder renews again.
pub const RENEW: Duration = Duration::from_secs(10);
/// By how much each node waits longer than the one before it in the order for what nobody holds.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a path may be in doubt, and how long a path that was never up is waited for.
const SETTLE: Duration = Duration::from_secs(3);
/// How long after a failed write the next one comes: it doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// When after the first the other announcements follow: one that is lost must not decide (RFC 4861 §7.2.6, RFC 5227 §2.3).
const REPEATS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// How often an address is defended at most (RFC 5227 §2.4).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// A Lease, and since when it has been seen so.
#[derive(Clone, Debug)]
struct Seen {
    lease: LeaseState,
    since: Instant,
    /// Since when it has had this holder.
    acquired: Instant,
}

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Hold,
    Release,
}

#[derive(Clone, Debug)]
pub(super) struct Seat {
    order: Arc<[String]>,
    wanted_since: Instant,
    seen: Option<Seen>,
    /// Since when nobody holds it who did, and who that was.
    freed: Option<(Instant, String)>,
    /// When the write was asked for by which this node holds it.
    renewed: Option<Instant>,
    answers: bool,
    writing: Option<Write>,
    failures: u32,
    retry_at: Option<Instant>,
    /// Announcements that are still to come.
    announcements: VecDeque<Instant>,
    /// Another has claimed the address, and whether the Lease is still ours is not known yet.
    is_doubted: bool,
    heard: Option<Instant>,
    defended: Option<Instant>,
}

impl Seat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            order: Arc::default(),
            wanted_since: now,
            seen: None,
            freed: None,
            renewed: None,
            answers: false,
            writing: None,
            failures: 0,
            retry_at: None,
            announcements: VecDeque::new(),
            is_doubted: false,
            heard: None,
            defended: None,
        }
    }

    pub(super) fn set_order(&mut self, now: Instant, order: &Arc<[String]>) {
        if self.order.is_empty() && !order.is_empty() {
            self.wanted_since = now;
        }
        if self.order != *order {
            self.order = order.clone();
        }
    }

    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// Whether this node has something to give up.
    pub(super) fn is_ours(&self, around: &Around) -> bool {
        let is_holder = self.holder() == Some(around.node.as_str());
        self.answers || self.writing.is_some() || is_holder
    }

    /// Whether it can be forgotten.
    pub(super) fn is_over(&self, around: &Around) -> bool {
        self.order.is_empty() && self.seen.is_none() && !self.is_ours(around)
    }

    pub(super) fn standing(&self, now: Instant, around: &Around) -> Standing {
        if self.answers {
            return match self.is_overdue(now, around) {
                true => Standing::AnswersOverdue,
                false => Standing::Answers,
            };
        }
        let other = match around.rule {
            Rule::Lease => self.holder().filter(|holder| *holder != around.node),
            Rule::Order => self
                .ahead(around)
                .iter()
                .map(String::as_str)
                .find(|node| is_up(node, around)),
        };
        other.map_or(Standing::Nobody, |node| Standing::Other(node.to_owned()))
    }

    /// Who holds the Lease; nobody, if it has been given up.
    fn holder(&self) -> Option<&str> {
        let holder = self.seen.as_ref().map(|seen| seen.lease.holder.as_str());
        holder.filter(|holder| !holder.is_empty())
    }

    fn is_candidate(&self, around: &Around) -> bool {
        !around.is_stopping && self.order.contains(&around.node)
    }

    fn is_overdue(&self, now: Instant, around: &Around) -> bool {
        around.rule == Rule::Lease && self.renewed.is_none_or(|at| now >= at + DURATION)
    }

    /// The nodes that come before this one.
    fn ahead(&self, around: &Around) -> &[String] {
        let rank = self.order.iter().position(|node| *node == around.node);
        self.order.get(..rank.unwrap_or(0)).unwrap_or_default()
    }

    /// How many come before this node, that one aside.
    fn rank_without(&self, other: Option<&str>, around: &Around) -> u32 {
        let ahead = self.ahead(around).iter();
        let count = ahead.filter(|node| Some(node.as_str()) != other).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Who is to watch this holder: two, for one of them may be dead already, or die with it.
    fn successors<'a>(&'a self, holder: &'a str) -> impl Iterator<Item = &'a str> {
        let others = self.order.iter().map(String::as_str);
        others.filter(move |node| *node != holder).take(2)
    }

    /// Names the nodes whose paths matter here. Both ends of a path name each other.
    pub(super) fn watch<'a>(&'a self, around: &Around, watched: &mut BTreeSet<&'a str>) {
        if !self.order.contains(&around.node) {
            return;
        }
        match (around.rule, self.holder()) {
            (Rule::Order, _) => {
                let others = self.order.iter().filter(|node| **node != around.node);
                watched.extend(others.map(String::as_str));
            }
            (Rule::Lease, Some(holder)) => {
                let all: Vec<&str> = self.successors(holder).chain([holder]).collect();
                if all.contains(&around.node.as_str()) {
                    watched.extend(all.into_iter().filter(|node| *node != around.node));
                }
            }
            (Rule::Lease, None) => {}
        }
    }

    /// Takes the Lease as it was read. What is older than what is known says nothing.
    pub(super) fn see(&mut self, now: Instant, lease: Option<LeaseState>, node: &str) {
        let Some(lease) = lease else {
            self.free(now);
            self.seen = None;
            return;
        };
        let known = self.seen.as_ref();
        if known.is_some_and(|known| known.lease.version >= lease.version) {
            return;
        }
        let is_same = known.is_some_and(|known| known.lease.holder == lease.holder);
        let acquired = known
            .filter(|_| is_same)
            .map_or(now, |known| known.acquired);
        if lease.holder.is_empty() {
            self.free(now);
        }
        if lease.holder != node {
            // Whoever has it now answers: two must not.
            self.lose();
        }
        self.seen = Some(Seen {
            lease,
            since: now,
            acquired,
        });
    }

    fn free(&mut self, now: Instant) {
        if let Some(holder) = self.holder() {
            self.freed = Some((now, holder.to_owned()));
        }
    }

    fn lose(&mut self) {
        self.answers = false;
        self.renewed = None;
        self.is_doubted = false;
        self.announcements.clear();
    }

    fn begin(&mut self, now: Instant) {
        if !self.answers {
            self.answers = true;
            self.announce(now);
        }
    }

    fn announce(&mut self, now: Instant) {
        self.announcements = REPEATS.iter().map(|after| now + *after).collect();
        self.announcements.push_front(now);
    }

    /// A node is heard again: whoever was cut off together with it may have believed it, or heard nothing of us.
    /// Of two that answered, the one that is to yield keeps quiet.
    pub(super) fn meet(&mut self, now: Instant, node: &str, around: &Around) {
        let yields = around.rule == Rule::Order && self.ahead(around).iter().any(|one| one == node);
        if self.answers && !yields && self.order.iter().any(|one| one == node) {
            self.announce(now);
        }
    }

    /// Whether the address may be defended now; from then on it has been.
    fn may_defend(&mut self, now: Instant) -> bool {
        let may = self.defended.is_none_or(|at| now >= at + DEFEND_INTERVAL);
        if may {
            self.defended = Some(now);
        }
        may
    }

    pub(super) fn hear_claim(&mut self, now: Instant, around: &Around) {
        self.heard = Some(now);
        if !self.answers {
            return;
        }
        match around.rule {
            // Its Lease has ended, and another has one that holds.
            Rule::Lease if self.is_overdue(now, around) => self.lose(),
            // Ours holds, or has been taken because BFD was wrong: the server knows.
            Rule::Lease if self.may_defend(now) => {
                self.is_doubted = true;
                // At once, though it may have failed a moment ago: two answer meanwhile.
                self.retry_at = None;
            }
            Rule::Lease => {}
            Rule::Order if self.may_defend(now) => self.announcements.push_front(now),
            Rule::Order => {}
        }
    }

    pub(super) fn written(&mut self, now: Instant, asked: Instant, done: Written, around: &Around) {
        let what = self.writing.take();
        match done {
            Written::Done(version) => {
                self.failures = 0;
                self.retry_at = None;
                match what {
                    Some(Write::Hold) => self.has_held(now, asked, version, around),
                    _ => self.see(now, None, &around.node),
                }
            }
            Written::Conflict(present) => {
                self.retry(now);
                if present.is_none() {
                    self.lose();
                }
                self.see(now, present, &around.node);
            }
            Written::Failed => {
                self.retry(now);
                if std::mem::take(&mut self.is_doubted) {
                    // Another claims it, and could ask the server, which this node cannot.
                    self.lose();
                }
            }
        }
    }

    fn has_held(&mut self, now: Instant, asked: Instant, version: u64, around: &Around) {
        let lease = LeaseState {
            holder: around.node.clone(),
            version,
            duration: DURATION,
        };
        self.see(now, Some(lease), &around.node);
        let is_still_ours = self.holder() == Some(around.node.as_str());
        if !self.is_candidate(around) || !is_still_ours || now >= asked + DURATION {
            return;
        }
        self.renewed = Some(asked);
        self.begin(now);
        if std::mem::take(&mut self.is_doubted) {
            self.announcements.push_front(now);
        }
    }

    fn retry(&mut self, now: Instant) {
        let pause = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + pause.min(LAST_RETRY));
    }

    /// Does what is due; when the next is.
    pub(super) fn step(
        &mut self,
        now: Instant,
        address: IpAddr,
        around: &Around,
        actions: &mut VecDeque<Action>,
    ) -> Option<Instant> {
        let due = match (self.is_candidate(around), around.rule) {
            (true, Rule::Lease) => self.step_with_lease(now, address, around, actions),
            (true, Rule::Order) => self.step_in_order(now, around),
            (false, _) => {
                self.lose();
                self.step_aside(now, address, around, actions)
            }
        };
        while self.announcements.front().is_some_and(|at| *at <= now) {
            self.announcements.pop_front();
            actions.push_back(Action::Announce(address));
        }
        due.into_iter()
            .chain(self.announcements.front().copied())
            .min()
    }

    /// Gives up a Lease that names this node.
    fn step_aside(
        &mut self,
        now: Instant,
        address: IpAddr,
        around: &Around,
        actions: &mut VecDeque<Action>,
    ) -> Option<Instant> {
        let seen = self.seen.as_ref()?;
        if self.writing.is_some() || seen.lease.holder != around.node {
            return None;
        }
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            return Some(at);
        }
        self.writing = Some(Write::Release);
        actions.push_back(Action::Release {
            address,
            version: seen.lease.version,
        });
        None
    }

    fn step_with_lease(
        &mut self,
        now: Instant,
        address: IpAddr,
        around: &Around,
        actions: &mut VecDeque<Action>,
    ) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        let due = match self.renewed {
            Some(_) if self.is_doubted => now,
            Some(at) => at + RENEW,
            None => self.take_at(around)?,
        };
        let due = self.retry_at.map_or(due, |at| due.max(at));
        if due > now {
            return Some(due);
        }
        self.writing = Some(Write::Hold);
        let version = self.seen.as_ref().map(|seen| seen.lease.version);
        actions.push_back(Action::Hold { address, version });
        None
    }

    /// When this node may take the Lease, if nothing changes.
    fn take_at(&self, around: &Around) -> Option<Instant> {
        let known = around.leases_since?;
        let holder = self.holder().zip(self.seen.as_ref());
        let Some((holder, seen)) = holder else {
            let (freed, former) = self
                .freed
                .as_ref()
                .map(|(at, who)| (*at, who.as_str()))
                .unzip();
            let rank = self.rank_without(former, around);
            let from = freed.unwrap_or(known).max(self.wanted_since).max(known);
            return Some(from + PATIENCE.saturating_mul(rank));
        };
        if holder == around.node {
            // Of an earlier run: who asked has our hardware address still.
            return Some(known);
        }
        let rank = self.rank_without(Some(holder), around);
        let patience = PATIENCE.saturating_mul(rank);
        let end = seen.since + seen.lease.duration + patience;
        // The second one when the first is not heard either.
        let mut first = self
            .successors(holder)
            .filter(|node| *node == around.node || is_up(node, around));
        if first.next() != Some(around.node.as_str()) {
            return Some(end);
        }
        Some(dead_at(holder, seen, around).map_or(end, |dead| end.min(dead)))
    }

    fn step_in_order(&mut self, now: Instant, around: &Around) -> Option<Instant> {
        let mut is_anyone_up = false;
        let mut due: Option<Instant> = None;
        let mut yields = false;
        for node in self.ahead(around) {
            let watched = around.watched.get(node).copied().unwrap_or(now);
            let until = match around.paths.get(node) {
                Some((Path::Up, since)) => {
                    is_anyone_up = true;
                    // It answers by now; if it was heard, for sure.
                    let at = since.checked_add(SETTLE).unwrap_or(now);
                    let is_heard = self.heard.is_some_and(|heard| heard + SETTLE >= *since);
                    yields |= is_heard || at <= now;
                    at
                }
                Some((Path::Down | Path::Ended, _)) => continue,
                Some((Path::Doubtful, since)) => *since + SETTLE,
                None => watched + SETTLE,
            };
            if until > now {
                is_anyone_up = true;
                due = due.into_iter().chain([until]).min();
            }
        }
        match (self.answers, is_anyone_up) {
            (false, false) => self.begin(now),
            (true, true) if yields => self.lose(),
            _ => {}
        }
        due
    }
}

fn is_up(node: &str, around: &Around) -> bool {
    matches!(around.paths.get(node), Some((Path::Up, _)))
}

/// Since when its holder is known to be dead. Who took the Lease after it fell silent is not, whatever BFD says.
fn dead_at(holder: &str, seen: &Seen, around: &Around) -> Option<Instant> {
    let (path, since) = around.paths.get(holder)?;
    let silent = match path {
        Path::Up => return None,
        Path::Down | Path::Ended => *since,
        Path::Doubtful => *since + SETTLE,
    };
    if *since < seen.acquired {
        return None;
    }
    // A renewal that is told of late is of before, or of a holder that BFD is wrong about.
    let is_renewed = seen.since > *since;
    Some(if is_renewed {
        silent.max(seen.since + SETTLE)
    } else {
        silent
    })
}
