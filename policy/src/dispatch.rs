//! From a packet's pod to its own chain in a few rules, however many pods there are.
//!
//! One rule can only say yes or no, so the chains halve the local endpoints by bits of a hash of their interface's
//! name; a set per bit holds the endpoints that have it. Tree and sets hang on the endpoints alone, never on policies:
//! sets and rules are two transactions, and a set that changed with a policy would misroute packets between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::{
    Action, ChainName, Family, InterfaceMatch, InterfaceName, IpSet, Match, Protocol, Rule,
    SetDirection, SetKind, SetName, short_hash,
};

use crate::group::endpoint_chain;
use crate::layout::is_policed;
use crate::{Direction, Endpoint};

/// Router and neighbour solicitation and advertisement (RFC 4861 §4.1–4.4).
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// How many bits of the hash there are to choose from.
const BITS: u16 = 64;
/// How much deeper than a perfectly balanced tree a bit may let it become, so that few changes reshape the tree.
const SLACK: u32 = 2;
/// As many endpoints are simply listed.
const LISTED: usize = 2;

/// By what a packet's pod is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Its address and its interface, in a direction.
    Interface(Direction),
    /// What it sends by its address alone: what IPVS sends on came in by no interface any more. Whose interface it was was
    /// looked at before (raw PREROUTING).
    Source,
}

/// The chains of one direction, and the bits they ask for.
pub(crate) struct Dispatch<'a> {
    family: Family,
    by: By,
    endpoints: &'a BTreeMap<InterfaceName, Endpoint>,
    pub(crate) chains: BTreeMap<ChainName, Vec<Rule>>,
    pub(crate) bits: BTreeSet<u16>,
}

type Candidates<'a> = Vec<(&'a InterfaceName, u64)>;

impl<'a> Dispatch<'a> {
    pub(crate) fn new(
        family: Family,
        direction: Direction,
        endpoints: &'a BTreeMap<InterfaceName, Endpoint>,
    ) -> Self {
        Self::made(family, By::Interface(direction), endpoints)
    }

    /// The egress chains of what IPVS sends on. An endpoint's packet to itself is accepted, whatever its ingress says: in
    /// OUTPUT nothing else tells such a one.
    pub(crate) fn by_source(
        family: Family,
        endpoints: &'a BTreeMap<InterfaceName, Endpoint>,
    ) -> Self {
        Self::made(family, By::Source, endpoints)
    }

    fn made(family: Family, by: By, endpoints: &'a BTreeMap<InterfaceName, Endpoint>) -> Self {
        let mut dispatch = Self {
            family,
            by,
            endpoints,
            chains: BTreeMap::new(),
            bits: BTreeSet::new(),
        };
        let all: Candidates<'_> = endpoints
            .keys()
            .map(|name| (name, hash_bits(name)))
            .collect();
        let depth = all.len().next_power_of_two().trailing_zeros() + SLACK;
        let mut root = dispatch.neighbour_discovery();
        root.extend(dispatch.node(all, depth, &mut Vec::new()));
        let name = ChainName::fixed(dispatch.chain_prefix());
        dispatch.chains.insert(name, root);
        dispatch
    }

    /// Neighbour discovery passes before any policy is asked (semantics 43).
    fn neighbour_discovery(&self) -> Vec<Rule> {
        if self.family == Family::V4 {
            return Vec::new();
        }
        let pass = |number: &u8| {
            let conditions = [
                Match::Protocol(Protocol::Icmpv6),
                Match::Icmpv6Type(*number),
            ];
            Rule::new(conditions, Action::Return)
        };
        NEIGHBOUR_DISCOVERY.iter().map(pass).collect()
    }

    /// The rules for these endpoints: those with a bit go to a chain of their own, the others' rules follow.
    fn node(
        &mut self,
        mut left: Candidates<'_>,
        mut depth: u32,
        path: &mut Vec<String>,
    ) -> Vec<Rule> {
        let entered = path.len();
        let mut rules = Vec::new();
        while left.len() > LISTED {
            let Some(bit) = best_bit(&left, depth) else {
                break;
            };
            self.bits.insert(bit);
            let (with, without): (Candidates<'_>, Candidates<'_>) =
                left.into_iter().partition(|(_, bits)| has(*bits, bit));
            depth = depth.saturating_sub(1);
            path.push(format!("{bit}=1"));
            let chain = ChainName::hashed(self.chain_prefix(), path);
            let below = self.node(with, depth, path);
            self.chains.insert(chain.clone(), below);
            path.pop();
            path.push(format!("{bit}=0"));
            let (name, direction) = match self.by {
                By::Interface(direction) => (bit_set(self.family, bit), lookup(direction)),
                By::Source => (source_set(self.family, bit), SetDirection::Source),
            };
            let condition = Match::Set {
                name,
                direction,
                negated: false,
            };
            rules.push(Rule::new([condition], Action::Goto(chain)));
            left = without;
        }
        path.truncate(entered);
        rules.extend(left.into_iter().flat_map(|(name, _)| self.leaf_rules(name)));
        // A set that someone emptied leads astray; that must not open a pod.
        rules.push(Rule::new(
            [is_policed(self.family, self.direction())],
            Action::Drop,
        ));
        rules.push(Rule::new([], Action::Return));
        rules
    }

    fn leaf_rules(&self, name: &InterfaceName) -> Vec<Rule> {
        let interface = InterfaceMatch::Exact(name.clone());
        let chain = endpoint_chain(name, self.direction());
        match self.by {
            By::Interface(direction) => {
                let condition = match direction {
                    Direction::Ingress => Match::OutInterface(interface),
                    Direction::Egress => Match::InInterface(interface),
                };
                vec![Rule::new([condition], Action::Goto(chain))]
            }
            By::Source => {
                let endpoint = self.endpoints.get(name);
                let addresses = endpoint.into_iter().flat_map(|one| &one.addresses);
                let here = addresses.filter(|one| Family::of(**one) == self.family);
                here.flat_map(|address| {
                    let sent = Match::Source(host_net(*address));
                    let itself = [sent.clone(), Match::OutInterface(interface.clone())];
                    let accept = Action::Goto(ChainName::fixed("ACCEPT"));
                    [
                        Rule::new(itself, accept),
                        Rule::new([sent], Action::Goto(chain.clone())),
                    ]
                })
                .collect()
            }
        }
    }

    fn direction(&self) -> Direction {
        match self.by {
            By::Interface(direction) => direction,
            By::Source => Direction::Egress,
        }
    }

    fn chain_prefix(&self) -> &'static str {
        match self.by {
            By::Interface(Direction::Ingress) => "TO",
            By::Interface(Direction::Egress) => "FROM",
            By::Source => "SENT",
        }
    }
}

/// The set of endpoints whose hash has a bit.
pub(crate) fn bit_sets(
    family: Family,
    bits: &BTreeSet<u16>,
    endpoints: &BTreeMap<InterfaceName, Endpoint>,
) -> Vec<IpSet> {
    let hashed: Vec<(u64, &InterfaceName, &Endpoint)> = endpoints
        .iter()
        .map(|(name, endpoint)| (hash_bits(name), name, endpoint))
        .collect();
    let of_bit = |bit: &u16| {
        let mut set = IpSet::new(bit_set(family, *bit), family, SetKind::HashNetIface);
        let with = hashed.iter().filter(|(bits, ..)| has(*bits, *bit));
        with.for_each(|(_, interface, endpoint)| insert_endpoint(&mut set, interface, endpoint));
        set
    };
    bits.iter().map(of_bit).collect()
}

/// The same sets by address alone, for what IPVS sends on.
pub(crate) fn source_sets(
    family: Family,
    bits: &BTreeSet<u16>,
    endpoints: &BTreeMap<InterfaceName, Endpoint>,
) -> Vec<IpSet> {
    let of_bit = |bit: &u16| {
        let mut set = IpSet::new(source_set(family, *bit), family, SetKind::HashIp);
        let with = endpoints
            .iter()
            .filter(|(name, _)| has(hash_bits(name), *bit));
        let addresses = with.flat_map(|(_, endpoint)| &endpoint.addresses);
        addresses.for_each(|address| set.insert_ip(*address));
        set
    };
    bits.iter().map(of_bit).collect()
}

/// Adds an endpoint's addresses, each bound to its interface.
pub(crate) fn insert_endpoint(set: &mut IpSet, interface: &InterfaceName, endpoint: &Endpoint) {
    for address in &endpoint.addresses {
        set.insert_net_iface(host_net(*address), interface);
    }
}

/// The parts of a packet that name its pod in a direction.
pub(crate) fn lookup(direction: Direction) -> SetDirection {
    match direction {
        Direction::Ingress => SetDirection::DestinationAndOut,
        Direction::Egress => SetDirection::SourceAndIn,
    }
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn bit_set(family: Family, bit: u16) -> SetName {
    SetName::numbered(family, "bit", bit)
}

fn source_set(family: Family, bit: u16) -> SetName {
    SetName::numbered(family, "sent", bit)
}

/// The first bit that parts the endpoints well enough to keep to the depth, else the one that parts them best.
fn best_bit(left: &Candidates<'_>, depth: u32) -> Option<u16> {
    let room = 1usize
        .checked_shl(depth.saturating_sub(1))
        .unwrap_or(usize::MAX);
    let mut best = None;
    for bit in 0..BITS {
        let with = left.iter().filter(|(_, bits)| has(*bits, bit)).count();
        let larger = with.max(left.len() - with);
        if larger == left.len() {
            continue;
        }
        if larger <= room {
            return Some(bit);
        }
        if best.is_none_or(|(least, _)| larger < least) {
            best = Some((larger, bit));
        }
    }
    best.map(|(_, bit)| bit)
}

fn has(bits: u64, bit: u16) -> bool {
    bits >> bit & 1 == 1
}

fn hash_bits(interface: &InterfaceName) -> u64 {
    u64::from_str_radix(&short_hash(&[interface.as_str()], 16), 16)
        .expect("sixteen hex digits are a u64")
}
