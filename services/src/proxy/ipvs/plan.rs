//! The steps from what there is to what is to be, and what waits for connections to end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netfilter::Protocol;

use super::{Actual, ActualVirtual, Desired, Door, Settings, Virtual};

/// A change, in the order in which it is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a virtual service, without destinations.
    Make(Door, Settings),
    /// Changes its properties; its connections stay.
    Change(Door, Settings),
    /// Adds a destination, with the weight 1.
    Add(Door, SocketAddr),
    /// Gives a destination a weight; with 0 it keeps its connections and gets no new ones.
    Weigh(Door, SocketAddr, u32),
    /// Deletes a destination that has none left.
    Remove(Door, SocketAddr),
    /// Deletes a virtual service.
    Delete(Door),
    /// Takes packets for an address.
    Take(IpAddr),
    /// Takes packets for it no more.
    Leave(IpAddr),
}

/// Until when destinations that go may keep their connections. Not known after a start: then their time begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draining {
    until: BTreeMap<(Door, SocketAddr), Duration>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in their order: what leads packets comes before the address that they come to, and goes after it.
    pub steps: Vec<Step>,
    /// Desired, and another's: left alone, and to be told.
    pub foreign: Vec<Door>,
    /// How many destinations wait for their connections to end.
    pub draining: usize,
}

impl Draining {
    /// After so long a destination goes with the connections that it still has. `docs/design/services.md` tells why.
    pub const LONGEST: Duration = Duration::from_secs(15 * 60);

    /// Whether some waited for their connections to end when it was planned last: how many they have must be read anew then.
    pub fn is_any(&self) -> bool {
        !self.until.is_empty()
    }

    /// Plans. `now` is any clock that only goes on.
    pub fn plan(&mut self, actual: &Actual, desired: &Desired, now: Duration) -> Plan {
        let mut plan = Plan::default();
        let mut still = BTreeMap::new();
        let mut gone = Vec::new();
        let nothing = Virtual {
            settings: Settings {
                scheduler: super::Scheduler::default(),
                persistence: None,
            },
            destinations: Vec::new(),
        };
        for (door, wanted) in &desired.virtuals {
            if actual.foreign.contains(door) {
                plan.foreign.push(*door);
                continue;
            }
            let found = actual.virtuals.get(door);
            self.service(&mut plan.steps, &mut still, *door, (found, wanted), now);
        }
        for (door, found) in &actual.virtuals {
            if desired.virtuals.contains_key(door) {
                continue;
            }
            let before = still.len();
            let pair = (Some(found), &nothing);
            self.service(&mut plan.steps, &mut still, *door, pair, now);
            if still.len() == before {
                gone.push(*door);
            }
        }
        let wanted = |address: &IpAddr| {
            desired.addresses.contains_key(address)
                || still.keys().any(|(door, _)| door.address.ip() == *address)
        };
        let missing = desired.addresses.keys();
        let missing = missing.filter(|address| !actual.addresses.contains(*address));
        plan.steps.extend(missing.copied().map(Step::Take));
        let surplus = actual.addresses.iter().filter(|address| !wanted(address));
        plan.steps.extend(surplus.copied().map(Step::Leave));
        plan.steps.extend(gone.into_iter().map(Step::Delete));
        plan.draining = still.len();
        self.until = still;
        plan
    }

    /// One service. What it has too much of goes once it is used no more; what is not to be at all has no properties to change.
    fn service(
        &self,
        steps: &mut Vec<Step>,
        still: &mut BTreeMap<(Door, SocketAddr), Duration>,
        door: Door,
        (found, wanted): (Option<&ActualVirtual>, &Virtual),
        now: Duration,
    ) {
        match found {
            None => steps.push(Step::Make(door, wanted.settings.clone())),
            Some(found) if wanted.destinations.is_empty() || is_same(found, &wanted.settings) => {}
            Some(_) => steps.push(Step::Change(door, wanted.settings.clone())),
        }
        let there = found.map(|found| &found.destinations);
        for to in &wanted.destinations {
            match there.and_then(|there| there.get(to)) {
                None => steps.push(Step::Add(door, *to)),
                Some(one) if one.weight != 1 => steps.push(Step::Weigh(door, *to, 1)),
                Some(_) => {}
            }
        }
        for (to, one) in there.into_iter().flatten() {
            if wanted.destinations.contains(to) {
                continue;
            }
            // A flow of UDP has no end: its next packet is to go to another at once (semantics 140).
            let lasts = door.protocol != Protocol::Udp && one.connections > 0;
            let until = self.until.get(&(door, *to)).copied();
            let until = until.unwrap_or(now + Self::LONGEST);
            if lasts && now < until {
                if one.weight != 0 {
                    steps.push(Step::Weigh(door, *to, 0));
                }
                still.insert((door, *to), until);
            } else if one.weight != 0 && door.protocol != Protocol::Udp {
                // A connection may begin between look and write: it is deleted once it is seen to be idle.
                steps.push(Step::Weigh(door, *to, 0));
                still.insert((door, *to), until);
            } else {
                steps.push(Step::Remove(door, *to));
            }
        }
    }
}

fn is_same(found: &ActualVirtual, wanted: &Settings) -> bool {
    found.scheduler == wanted.scheduler.name() && found.persistence == wanted.persistence
}
