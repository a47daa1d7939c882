//! Connections that no rule tells apart, as spans of ports.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::{ClusterPort, Port, PortMatch, Protocol, Tier};

use crate::evaluate::Holder;
use crate::{Direction, Evaluator};

/// A protocol that no rule can name stands for all of those.
const NO_PROTOCOL_OF_A_RULE: u8 = 255;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Connections that are judged alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// All of every protocol.
    All,
    /// Destination ports of a protocol, both ends included.
    Ports {
        /// Which protocol.
        protocol: Protocol,
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// Everything but TCP, UDP and SCTP (ICMP among it).
    OtherProtocols,
}

impl Span {
    /// One connection of the span: the protocol's number and the port.
    pub(super) fn example(self) -> (u8, Option<u16>) {
        match self {
            Self::Ports {
                protocol, first, ..
            } => (number(protocol), Some(first)),
            Self::All | Self::OtherProtocols => (NO_PROTOCOL_OF_A_RULE, None),
        }
    }

    /// Sorted spans, those that touch made one.
    pub(super) fn merged(spans: Vec<Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for span in spans {
            match (merged.last_mut(), span) {
                (
                    Some(Self::Ports {
                        protocol: before,
                        last: end,
                        ..
                    }),
                    Self::Ports {
                        protocol,
                        first,
                        last,
                    },
                ) if *before == protocol && end.checked_add(1) == Some(first) => *end = last,
                (_, span) => merged.push(span),
            }
        }
        let whole = |span: &Self| match span {
            Self::Ports { first, last, .. } => (*first, *last) == (0, u16::MAX),
            Self::All | Self::OtherProtocols => true,
        };
        if merged.len() == PROTOCOLS.len() + 1 && merged.iter().all(whole) {
            return vec![Self::All];
        }
        merged
    }
}

/// Ports at which some rule starts or stops to match, by protocol.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    starts: BTreeMap<Protocol, BTreeSet<u16>>,
}

impl Points {
    /// The ends of a range.
    pub(super) fn take(&mut self, protocol: Protocol, first: u16, last: u16) {
        let starts = self.starts.entry(protocol).or_default();
        starts.insert(first);
        starts.extend(last.checked_add(1));
    }

    /// All ranges that a pod's side may be asked for.
    pub(super) fn take_rules(
        &mut self,
        state: &Evaluator<'_>,
        pod: &Holder<'_>,
        direction: Direction,
    ) {
        for policy in state.isolating(direction, pod) {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let rules = rules.iter().flatten();
            rules
                .flat_map(|rule| rule.ports.iter().flatten())
                .for_each(|port| self.take_port(port));
        }
        for tier in [Tier::Admin, Tier::Baseline] {
            for policy in state.cluster_policies(tier, pod) {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                for port in rules
                    .iter()
                    .flat_map(|rule| rule.protocols.iter().flatten())
                {
                    if let ClusterPort::Port(port) = port {
                        self.take_port(port);
                    }
                }
            }
        }
    }

    pub(super) fn with(mut self, other: &Self) -> Self {
        for (protocol, starts) in &other.starts {
            self.starts.entry(*protocol).or_default().extend(starts);
        }
        self
    }

    /// Everything, cut at the points; sorted.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for protocol in PROTOCOLS {
            let mut starts = BTreeSet::from([0]);
            starts.extend(self.starts.get(&protocol).into_iter().flatten());
            let mut starts = starts.into_iter().peekable();
            while let Some(first) = starts.next() {
                let last = starts.peek().map_or(u16::MAX, |next| next - 1);
                spans.push(Span::Ports {
                    protocol,
                    first,
                    last,
                });
            }
        }
        spans.push(Span::OtherProtocols);
        spans
    }

    fn take_port(&mut self, port: &Port) {
        if let PortMatch::Range(first, last) = port.port {
            self.take(port.protocol, first, last);
        }
    }
}

/// Whether connections of a protocol have ports that rules may name.
pub(super) fn has_ports(protocol: u8) -> bool {
    PROTOCOLS.iter().any(|one| number(*one) == protocol)
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
