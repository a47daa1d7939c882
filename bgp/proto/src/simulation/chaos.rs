//! Trouble drawn from a seed: what breaks, for how long, and when it is mended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::network::Network;
use super::node::{ConnectionId, Node, NodeId};
use crate::random::Random;

/// Something that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A connection breaks, both ends are told.
    Reset(ConnectionId),
    /// Nothing gets from the one to the other.
    OneWay(NodeId, NodeId),
    /// Nothing gets between the two.
    Cut(NodeId, NodeId),
    /// Nothing gets to or from it.
    Isolate(NodeId),
    /// The process dies, the kernel closes its connections.
    Kill(NodeId),
    /// The machine loses power without a word.
    PowerOff(NodeId),
}

/// What mends it.
#[derive(Clone, Copy, Debug)]
enum Repair {
    Heal(NodeId, NodeId),
    Boot(NodeId),
}

/// A source of faults.
#[derive(Debug)]
pub struct Chaos {
    random: Random,
    /// The longest pause between two faults.
    pub pause: Duration,
    /// How long a cut lasts at most: longer than hold timers, to let them expire.
    pub cut: Duration,
    /// How long a process or machine is down at most.
    pub down: Duration,
    /// What was done, for the one who reads a failure.
    pub log: Vec<(Duration, Fault)>,
}

impl Chaos {
    /// A fault every two and a half seconds or so, cuts up to two minutes, processes down up to twenty seconds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            pause: Duration::from_secs(5),
            cut: Duration::from_secs(120),
            down: Duration::from_secs(20),
            log: Vec::new(),
        }
    }

    /// Runs the network for `length` with trouble in it, then mends all. `birth` makes the successor of a process.
    pub fn run<N: Node>(
        &mut self,
        network: &mut Network<N>,
        length: Duration,
        mut birth: impl FnMut(NodeId) -> N,
    ) {
        let end = network.now() + length;
        let mut repairs: BTreeMap<(Instant, u64), Repair> = BTreeMap::new();
        let mut fault_at = network.now();
        while network.now() < end {
            let repair_at = repairs.first_key_value().map(|((at, _), _)| *at);
            let next = repair_at.unwrap_or(end).min(fault_at).min(end);
            network.run_until(next);
            if let Some(first) = repairs.first_entry().filter(|entry| entry.key().0 <= next) {
                mend(network, first.remove(), &mut birth);
            } else if fault_at <= next {
                fault_at = next + self.up_to(self.pause);
                for (lasting, repair) in self.strike(network) {
                    repairs.insert((next + lasting, self.random.next()), repair);
                }
            }
        }
        for repair in repairs.into_values() {
            mend(network, repair, &mut birth);
        }
    }

    /// One fault, and what mends it when.
    fn strike<N: Node>(&mut self, network: &mut Network<N>) -> Vec<(Duration, Repair)> {
        let (one, other) = self.two(network.len());
        let lasting = self.up_to(self.cut);
        let heal = |from, to| (lasting, Repair::Heal(from, to));
        let (fault, repairs) = match self.random.below(10) {
            0..=3 => {
                let held: Vec<_> = network.connections(one).collect();
                let chosen = self.random.below(held.len() as u64);
                let chosen = usize::try_from(chosen)
                    .ok()
                    .and_then(|index| held.get(index));
                let Some(connection) = chosen else {
                    return Vec::new();
                };
                network.reset(*connection);
                (Fault::Reset(*connection), Vec::new())
            }
            4 => {
                network.cut(one, other);
                (Fault::OneWay(one, other), vec![heal(one, other)])
            }
            5 => {
                network.cut(one, other);
                network.cut(other, one);
                (
                    Fault::Cut(one, other),
                    vec![heal(one, other), heal(other, one)],
                )
            }
            6 => {
                let others = (0..network.len()).map(NodeId).filter(|other| *other != one);
                let ways: Vec<_> = others
                    .flat_map(|other| [(one, other), (other, one)])
                    .collect();
                ways.iter().for_each(|(from, to)| network.cut(*from, *to));
                let repairs = ways.iter().map(|(from, to)| heal(*from, *to));
                (Fault::Isolate(one), repairs.collect())
            }
            7 | 8 if network.process(one).is_some() => {
                network.kill(one);
                (
                    Fault::Kill(one),
                    vec![(self.up_to(self.down), Repair::Boot(one))],
                )
            }
            _ if network.process(one).is_some() => {
                network.power_off(one);
                (
                    Fault::PowerOff(one),
                    vec![(self.up_to(self.down), Repair::Boot(one))],
                )
            }
            _ => return Vec::new(),
        };
        self.log.push((network.elapsed(), fault));
        repairs
    }

    fn two(&mut self, count: usize) -> (NodeId, NodeId) {
        let count = count as u64;
        let one = self.random.below(count);
        let other = (one + 1 + self.random.below(count.saturating_sub(1))) % count.max(1);
        let id = |number| NodeId(usize::try_from(number).unwrap_or_default());
        (id(one), id(other))
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.random.below(millis.saturating_add(1)))
    }
}

fn mend<N: Node>(network: &mut Network<N>, repair: Repair, birth: &mut impl FnMut(NodeId) -> N) {
    match repair {
        Repair::Heal(from, to) => network.heal(from, to),
        Repair::Boot(node) => network.boot(node, birth(node)),
    }
}
