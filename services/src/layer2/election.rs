//! Which node answers for which address, as one node sees it: events in, with the time; what is answered for, what is to be
//! written and announced out.
//!
//! In a cluster who holds the address's Lease answers ([`Rule::Lease`]), in a directory the first in the order that is alive
//! ([`Rule::Order`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::seat::Seat;

/// By what nodes agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By a Lease for each address.
    Lease,
    /// By the order alone: nobody can be asked.
    Order,
}

/// What BFD says of the way to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// It answers.
    Up,
    /// It did, and has fallen silent.
    Down,
    /// It has said that it watches no more. In a directory it stops; in a cluster it says so by its Leases.
    Ended,
    /// It has begun anew, or hears nothing of us: it is alive, or was just now.
    Doubtful,
}

/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// The object's version; grows with every write.
    pub version: u64,
    /// For how long it holds from a renewal on.
    pub duration: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this node into the address's Lease, for the first time or once more; [`Election::handle_written`] tells what came
    /// of it.
    Hold {
        /// The address.
        address: IpAddr,
        /// The version that it replaces; none: there is no Lease yet.
        version: Option<u64>,
    },
    /// Delete the address's Lease: nobody holds it.
    Release {
        /// The address.
        address: IpAddr,
        /// The version that may be deleted.
        version: u64,
    },
    /// Tell everybody on the link that the address is here.
    Announce(IpAddr),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is done; the Lease has this version. One that was deleted has none.
    Done(u64),
    /// Another was faster. What the Lease is now; none: it is gone.
    Conflict(Option<LeaseState>),
    /// Whether it was done is not known.
    Failed,
}

/// Where this node stands with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Answers,
    /// It answers, although its Lease has ended: the API server doesn't answer, and nobody else has announced the address.
    AnswersOverdue,
    /// That node does, as far as is known here.
    Other(String),
    /// Nobody does yet.
    Nobody,
}

/// All addresses, as one node sees them.
#[derive(Clone, Debug)]
pub struct Election {
    pub(super) around: Around,
    seats: BTreeMap<IpAddr, Seat>,
    actions: VecDeque<Action>,
    next: Option<Instant>,
}

/// What is the same for all addresses.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub(super) node: String,
    pub(super) rule: Rule,
    /// Since when all Leases are known.
    pub(super) leases_since: Option<Instant>,
    pub(super) paths: BTreeMap<String, (Path, Instant)>,
    /// Since when each node is watched.
    pub(super) watched: BTreeMap<String, Instant>,
    pub(super) is_stopping: bool,
}

impl Election {
    /// Of this node, without any address.
    pub fn new(node: &str, rule: Rule) -> Self {
        Self {
            around: Around {
                node: node.to_owned(),
                rule,
                leases_since: None,
                paths: BTreeMap::new(),
                watched: BTreeMap::new(),
                is_stopping: false,
            },
            seats: BTreeMap::new(),
            actions: VecDeque::new(),
            next: None,
        }
    }

    /// Takes the addresses that are to be answered for at present, and for each the nodes that may, in their order.
    pub fn handle_wanted(&mut self, now: Instant, wanted: &BTreeMap<IpAddr, Arc<[String]>>) {
        for (address, order) in wanted {
            let seat = self.seats.entry(*address);
            let seat = seat.or_insert_with(|| Seat::new(now));
            seat.set_order(now, order);
        }
        for (address, seat) in &mut self.seats {
            if !wanted.contains_key(address) {
                seat.set_order(now, &Arc::default());
            }
        }
        self.handle_timeout(now);
    }

    /// Takes an address's Lease as it is now; none: there is none any more.
    pub fn handle_lease(&mut self, now: Instant, address: IpAddr, lease: Option<LeaseState>) {
        let seat = self.seats.entry(address);
        let seat = seat.or_insert_with(|| Seat::new(now));
        seat.see(now, lease, &self.around.node);
        self.handle_timeout(now);
    }

    /// All Leases that there were have been told of.
    pub fn handle_leases_known(&mut self, now: Instant) {
        self.around.leases_since.get_or_insert(now);
        self.handle_timeout(now);
    }

    /// Takes what BFD says of a node.
    pub fn handle_path(&mut self, now: Instant, node: &str, path: Path) {
        if !self.around.watched.contains_key(node) {
            return;
        }
        let path = match (path, self.around.rule) {
            (Path::Ended, Rule::Order) => Path::Down,
            (Path::Ended, Rule::Lease) => {
                self.around.paths.remove(node);
                return;
            }
            (other, _) => other,
        };
        let known = self.around.paths.get(node).map(|(known, _)| *known);
        // That it is silent means something of who was heard before.
        let is_news = known.map_or(path == Path::Up, |known| known != path);
        if is_news {
            self.around.paths.insert(node.to_owned(), (path, now));
        }
        if is_news && path == Path::Up {
            for seat in self.seats.values_mut() {
                seat.meet(now, node, &self.around);
            }
        }
        self.handle_timeout(now);
    }

    /// Takes what came of the write that was asked for at `asked`.
    pub fn handle_written(&mut self, now: Instant, address: IpAddr, asked: Instant, done: Written) {
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.written(now, asked, done, &self.around);
        }
        self.handle_timeout(now);
    }

    /// Another hardware address has said on the link that it has this address.
    pub fn handle_claim(&mut self, now: Instant, address: IpAddr) {
        if let Some(seat) = self.seats.get_mut(&address) {
            seat.hear_claim(now, &self.around);
        }
        self.handle_timeout(now);
    }

    /// This node stops on purpose: it gives up what it holds.
    pub fn handle_stop(&mut self, now: Instant) {
        self.around.is_stopping = true;
        self.handle_timeout(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.follow_watched(now);
        let mut next: Option<Instant> = None;
        for (address, seat) in &mut self.seats {
            let due = seat.step(now, *address, &self.around, &mut self.actions);
            next = next.into_iter().chain(due).min();
        }
        self.seats.retain(|_, seat| !seat.is_over(&self.around));
        // Who holds what may be another now, and with it whom to watch.
        self.follow_watched(now);
        self.next = next;
    }

    /// When [`Self::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The addresses that this node answers for.
    pub fn answered(&self) -> BTreeSet<IpAddr> {
        let seats = self.seats.iter().filter(|(_, seat)| seat.answers());
        seats.map(|(address, _)| *address).collect()
    }

    /// The nodes whose paths are to be watched; they watch this one.
    pub fn watched(&self) -> BTreeSet<String> {
        self.around.watched.keys().cloned().collect()
    }

    /// Whether there is nothing left to give up.
    pub fn is_done(&self) -> bool {
        self.seats.values().all(|seat| !seat.is_ours(&self.around))
    }

    /// Where this node stands with each address that it may answer for or knows a Lease of.
    pub fn standings(&self, now: Instant) -> BTreeMap<IpAddr, Standing> {
        let of = |(address, seat): (&IpAddr, &Seat)| (*address, seat.standing(now, &self.around));
        self.seats.iter().map(of).collect()
    }

    fn follow_watched(&mut self, now: Instant) {
        let mut wanted = BTreeSet::new();
        for seat in self.seats.values() {
            seat.watch(&self.around, &mut wanted);
        }
        self.around
            .watched
            .retain(|node, _| wanted.contains(node.as_str()));
        for node in wanted {
            self.around.watched.entry(node.to_owned()).or_insert(now);
        }
        let watched = &self.around.watched;
        self.around
            .paths
            .retain(|node, _| watched.contains_key(node));
    }
}

#[cfg(test)]
mod tests;
