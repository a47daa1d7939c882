//! The way of a packet to its port's rule: by protocol, then by ranges of ports that halve thrice a step, never along a list.

use std::collections::BTreeSet;

use netfilter::{Action, ChainName, Chains, Match, PortRange, Protocol, Rule};

use super::HostPort;

/// A chain has no more rules than this, as long as ports can be told apart by ranges.
const MOST_RULES: usize = 8;
/// Each step down a range is cut into so many parts, as a power of two.
const STEP_BITS: u32 = 3;

/// Chains, each named by what it holds: what does not change keeps its chain, and a change only adds.
pub(super) struct Tree<'a> {
    pub(super) chains: Chains,
    pub(super) left_out: BTreeSet<HostPort>,
    broken: &'a BTreeSet<ChainName>,
}

/// Ports from `first`, two to the power of `bits` of them.
#[derive(Clone, Copy)]
struct Range {
    first: u16,
    bits: u32,
}

impl<'a> Tree<'a> {
    pub(super) fn new(broken: &'a BTreeSet<ChainName>) -> Self {
        Self {
            chains: Chains::default(),
            left_out: BTreeSet::new(),
            broken,
        }
    }

    /// The rule that leads to all ports of a protocol; none where there is no port. A protocol has a chain of its own, so
    /// that a kernel that knows no SCTP refuses that one alone.
    pub(super) fn protocol(&mut self, protocol: Protocol, ports: &[&HostPort]) -> Option<Rule> {
        let whole = Range {
            first: 0,
            bits: u16::BITS,
        };
        if ports.is_empty() {
            return None;
        }
        let rules = self.rules(whole, ports);
        self.lead(vec![Match::Protocol(protocol)], rules, ports)
    }

    /// The rules for the ports of a range; the ports are sorted.
    fn rules(&mut self, range: Range, ports: &[&HostPort]) -> Vec<Rule> {
        if ports.len() <= MOST_RULES || range.bits == 0 {
            return leaves(ports);
        }
        let bits = range.bits.saturating_sub(STEP_BITS);
        let parts = ports.chunk_by(|one, two| one.claim.port >> bits == two.claim.port >> bits);
        let parts: Vec<&[&HostPort]> = parts.collect();
        let mut rules = Vec::new();
        for part in &parts {
            let Some(port) = part.first() else {
                continue;
            };
            let first = port.claim.port >> bits << bits;
            let narrow = Range { first, bits };
            let below = self.rules(narrow, part);
            if parts.len() == 1 {
                return below;
            }
            if below.len() == 1 {
                rules.extend(below);
            } else {
                let conditions = narrow.conditions(port.claim.protocol);
                rules.extend(self.lead(conditions, below, part));
            }
        }
        rules
    }

    /// A rule that leads to a chain of these rules.
    fn lead(
        &mut self,
        conditions: Vec<Match>,
        mut rules: Vec<Rule>,
        ports: &[&HostPort],
    ) -> Option<Rule> {
        rules.push(Rule::new([], Action::Return));
        let texts: Vec<String> = rules.iter().map(Rule::render).collect();
        let name = ChainName::hashed("HP", &texts);
        if self.broken.contains(&name) {
            let ports = ports.iter().copied().cloned();
            self.left_out.extend(ports);
            return None;
        }
        self.chains.insert(name.clone(), rules.into());
        Some(Rule::new(conditions, Action::Goto(name)))
    }
}

impl Range {
    fn conditions(self, protocol: Protocol) -> Vec<Match> {
        let last = u32::from(self.first) + (1 << self.bits) - 1;
        let last = u16::try_from(last).unwrap_or(u16::MAX);
        vec![
            Match::Protocol(protocol),
            Match::DestinationPorts(vec![PortRange::new(self.first, last)]),
        ]
    }
}

/// Where each port leads: of one port, first what is of a single address.
fn leaves(ports: &[&HostPort]) -> Vec<Rule> {
    let mut ports = ports.to_vec();
    ports.sort_by_key(|port| (port.claim.port, port.claim.address().is_none()));
    let leaf = |port: &HostPort| {
        let one = PortRange::new(port.claim.port, port.claim.port);
        let mut conditions = vec![
            Match::Protocol(port.claim.protocol),
            Match::DestinationPorts(vec![one]),
        ];
        let address = port.claim.address();
        conditions.extend(address.map(|ip| Match::Destination(ip.into())));
        let to = Action::Dnat {
            address: port.pod,
            port: port.pod_port,
        };
        Rule::new(conditions, to)
    };
    ports.into_iter().map(leaf).collect()
}
