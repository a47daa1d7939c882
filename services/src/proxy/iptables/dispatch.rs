//! Chains that all Services share: a packet finds its rule by prefixes that halve thrice a step, not along a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netfilter::{Action, ChainName, Family, Match, PortRange, Protocol, Rule, Table};

use super::{Leads, Options};

/// A chain has no more rules than this where they can be told apart: up to it all stand in one list, as kube-proxy's do.
const MOST_RULES: usize = 16;
/// Each step down a prefix is cut into so many parts, as a power of two.
const STEP_BITS: u32 = 3;

/// Which of the shared chains a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// nat KUBE-SERVICES: addresses that lead to endpoints.
    Services,
    /// nat KUBE-NODEPORTS: the node's ports that lead to endpoints.
    NodePorts,
    /// filter KUBE-SERVICES: cluster IPs that lead nowhere.
    Refused,
    /// filter KUBE-EXTERNAL-SERVICES: other addresses, and ports of the node, that lead nowhere.
    RefusedOutside,
    /// filter KUBE-PROXY-FIREWALL: load balancers' addresses that not everybody may ask.
    Firewall,
    /// filter KUBE-NODEPORTS: ports at which load balancers ask for health.
    HealthChecks,
    /// nat PTL-SVC-HAIRPIN: endpoints that IPVS may lead to themselves.
    Hairpin,
}

impl Role {
    pub(super) const ALL: [Self; 7] = [
        Self::Services,
        Self::NodePorts,
        Self::Refused,
        Self::RefusedOutside,
        Self::Firewall,
        Self::HealthChecks,
        Self::Hairpin,
    ];

    /// Those that stand in a mode.
    pub(super) fn all(options: &Options) -> impl Iterator<Item = Self> {
        let is_ipvs = options.leads == Leads::Ipvs;
        Self::ALL
            .into_iter()
            .filter(move |role| is_ipvs || *role != Self::Hairpin)
    }

    pub(super) fn table(self, options: &Options) -> Table {
        match self {
            Self::Services | Self::NodePorts | Self::Hairpin => Table::Nat,
            // IPVS takes the node's own packets before the filter table.
            Self::Firewall if options.leads == Leads::Ipvs => Table::Mangle,
            Self::Refused | Self::RefusedOutside | Self::Firewall | Self::HealthChecks => {
                Table::Filter
            }
        }
    }

    /// The chain's name, and a word that keeps the chains below it apart from other roles'.
    pub(super) fn names(self) -> (ChainName, &'static str) {
        let (chain, word) = match self {
            Self::Hairpin => return (ChainName::fixed("SVC-HAIRPIN"), "hairpin"),
            Self::Services => ("KUBE-SERVICES", "services"),
            Self::NodePorts => ("KUBE-NODEPORTS", "node ports"),
            Self::Refused => ("KUBE-SERVICES", "refused"),
            Self::RefusedOutside => ("KUBE-EXTERNAL-SERVICES", "refused outside"),
            Self::Firewall => ("KUBE-PROXY-FIREWALL", "firewall"),
            Self::HealthChecks => ("KUBE-NODEPORTS", "health"),
        };
        (ChainName::of_services(chain), word)
    }
}

/// Where in a shared chain a rule stands: by address, or by a port of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// An address, its port and protocol.
    Address(u128, u16, u8),
    /// A protocol and a port.
    Port(u8, u16),
}

impl Key {
    pub(super) fn address(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self::Address(bits(address), port, protocol.number())
    }

    pub(super) fn port(protocol: Protocol, port: u16) -> Self {
        Self::Port(protocol.number(), port)
    }

    /// What prefixes are taken of.
    fn bits(self) -> u128 {
        match self {
            Self::Address(bits, ..) => bits,
            Self::Port(_, port) => port.into(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The rules of one role, and the chains that were made of them last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dispatch {
    /// Two may want the same port for their health: both rules stand then, and either may go.
    rules: BTreeSet<(Key, Rule)>,
    chains: BTreeSet<ChainName>,
}

/// What the packets are told apart by.
#[derive(Clone, Copy)]
enum By {
    Address(Family),
    Port(Protocol),
}

/// Values that begin alike: from `first`, two to the power of `bits` of them.
#[derive(Clone, Copy)]
struct Range {
    first: u128,
    bits: u32,
}

/// Chains in the making.
struct Tree {
    word: &'static str,
    by: By,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

type Entry<'a> = &'a (Key, Rule);

impl Dispatch {
    pub(super) fn insert(&mut self, entry: (Key, Rule)) {
        self.rules.insert(entry);
    }

    pub(super) fn remove(&mut self, entry: &(Key, Rule)) {
        self.rules.remove(entry);
    }

    /// The names of the chains that were made last.
    pub(super) fn take_chains(&mut self) -> BTreeSet<ChainName> {
        std::mem::take(&mut self.chains)
    }

    /// The role's chain, between `head` and `tail`, and those below it. Each ends in RETURN: it is never empty, so that our
    /// mark is in it, and a packet that no rule is for goes on behind the jump.
    pub(super) fn chains(
        &mut self,
        role: Role,
        family: Family,
        head: Vec<Rule>,
        tail: Vec<Rule>,
    ) -> BTreeMap<ChainName, Vec<Rule>> {
        let (name, word) = role.names();
        let (ports, addresses): (Vec<Entry<'_>>, Vec<Entry<'_>>) = self
            .rules
            .iter()
            .partition(|entry| matches!(entry.0, Key::Port(..)));
        let mut rules = head;
        let mut tree = Tree {
            word,
            by: By::Address(family),
            chains: BTreeMap::new(),
        };
        rules.extend(tree.all(&addresses));
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let is_its =
                |key: &Key| matches!(key, Key::Port(number, _) if *number == protocol.number());
            let ports = ports.iter().copied().filter(|entry| is_its(&entry.0));
            tree.by = By::Port(protocol);
            rules.extend(tree.all(&ports.collect::<Vec<_>>()));
        }
        let mut chains = tree.chains;
        rules.extend(tail);
        rules.push(Rule::new([], Action::Return));
        chains.insert(name, rules);
        self.chains = chains.keys().cloned().collect();
        chains
    }
}

impl By {
    fn width(self) -> u32 {
        match self {
            Self::Address(family) => family.bits().into(),
            Self::Port(_) => u16::BITS,
        }
    }

    /// The conditions by which packets for a range are known.
    fn conditions(self, range: Range) -> Vec<Match> {
        match self {
            Self::Address(family) => {
                let address = address(family, range.first);
                let length = self.width().saturating_sub(range.bits);
                let net = u8::try_from(length)
                    .ok()
                    .and_then(|length| IpNet::new(address, length).ok());
                net.map(Match::Destination).into_iter().collect()
            }
            Self::Port(protocol) => {
                let last = range.first + (1 << range.bits) - 1;
                let port = |value| u16::try_from(value).unwrap_or(u16::MAX);
                let ports = PortRange::new(port(range.first), port(last));
                vec![
                    Match::Protocol(protocol),
                    Match::DestinationPorts(vec![ports]),
                ]
            }
        }
    }

    fn words(self) -> String {
        match self {
            Self::Address(_) => "address".to_owned(),
            Self::Port(protocol) => format!("port {}", protocol.number()),
        }
    }
}

fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

impl Tree {
    fn all(&mut self, entries: &[Entry<'_>]) -> Vec<Rule> {
        let bits = self.by.width();
        self.rules(Range { first: 0, bits }, entries)
    }

    /// The rules for a range; the entries are sorted.
    fn rules(&mut self, range: Range, entries: &[Entry<'_>]) -> Vec<Rule> {
        let Some(range) = self.narrowed(range, entries) else {
            return entries.iter().map(|entry| entry.1.clone()).collect();
        };
        let bits = range.bits.saturating_sub(STEP_BITS);
        let part = |key: &Key| key.bits() >> bits;
        let mut rules = Vec::new();
        for entries in entries.chunk_by(|one, two| part(&one.0) == part(&two.0)) {
            let Some((key, _)) = entries.first() else {
                continue;
            };
            let narrow = Range {
                first: part(key) << bits,
                bits,
            };
            let below = self.rules(narrow, entries);
            if below.len() == 1 {
                rules.extend(below);
            } else {
                rules.push(self.lead(narrow, below));
            }
        }
        rules
    }

    /// The range in which the entries first differ, cut at whole steps; none where they are to stand in one list.
    fn narrowed(&self, range: Range, entries: &[Entry<'_>]) -> Option<Range> {
        let (first, last) = (entries.first()?.0.bits(), entries.last()?.0.bits());
        let differing = u128::BITS - (first ^ last).leading_zeros();
        if entries.len() <= MOST_RULES || differing == 0 {
            return None;
        }
        // Steps are counted from the whole width, so that a range's name doesn't hang on what else there is.
        let width = self.by.width();
        let steps = (width - differing) / STEP_BITS;
        let bits = (width - steps * STEP_BITS).min(range.bits);
        let first = if bits >= u128::BITS {
            0
        } else {
            first >> bits << bits
        };
        Some(Range { first, bits })
    }

    /// A rule that leads to a chain of these rules. The chain has its name from its range: what is in it may change.
    fn lead(&mut self, range: Range, mut rules: Vec<Rule>) -> Rule {
        rules.push(Rule::new([], Action::Return));
        let parts = [
            self.word.to_owned(),
            self.by.words(),
            range.first.to_string(),
            range.bits.to_string(),
        ];
        let name = ChainName::hashed("SVC", &parts);
        self.chains.insert(name.clone(), rules);
        Rule::new(self.by.conditions(range), Action::Jump(name))
    }
}
