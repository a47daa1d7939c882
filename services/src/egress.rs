//! Egress: what pods send to addresses outside of the cluster leaves with their node's address (`natOutgoing`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netfilter::{
    Action, Builtin, ChainName, Chains, Family, Hook, HookPosition, InterfaceMatch, InterfaceName,
    IpSet, Match, Rule, Ruleset, SetDirection, SetKind, SetName, Table, TableRules,
};

use crate::FamilyRules;

/// Nobody is outside here: link-local addresses, multicast, broadcast. Who answers is on this link, and sees who asks.
const NEVER_V4: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32),
];
const NEVER_V6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// A pool of addresses, as far as what leaves the cluster hangs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its addresses.
    pub cidr: IpNet,
    /// Whether what they send outside bears the node's address.
    pub nat_outgoing: bool,
    /// What is not outside for these addresses.
    pub exceptions: BTreeSet<IpNet>,
}

/// What the rules of one node follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All pools; of an address in several the first counts.
    pub pools: Vec<Pool>,
    /// What this node's pods have, or may be given: prefixes and single addresses.
    pub own: BTreeSet<IpNet>,
    /// What is inside besides pools: prefixes of all nodes' pods, and the nodes' addresses.
    pub inside: Arc<BTreeSet<IpNet>>,
}

/// What both families are to have in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// IPv4.
    pub v4: FamilyRules,
    /// IPv6.
    pub v6: FamilyRules,
    /// Whose packets to the outside bear the node's address.
    pub sources: BTreeSet<IpNet>,
    /// Families that go without, because the kernel refuses the chain.
    pub left_out: BTreeSet<Family>,
}

/// Compiles. `prefix` starts the name of each pod's interface on the host; `broken` are chains that the kernel refuses.
pub fn compile(view: &View, prefix: &InterfaceName, broken: &BTreeSet<ChainName>) -> Compiled {
    let mut compiled = Compiled::default();
    let sources = sources(view);
    for of in Family::ALL {
        let is_of = |net: &IpNet| Family::of(net.addr()) == of;
        let sources: BTreeMap<&BTreeSet<IpNet>, BTreeSet<IpNet>> = sources
            .iter()
            .map(|(exceptions, nets)| (*exceptions, nets.iter().copied().filter(is_of).collect()))
            .filter(|(_, nets): &(_, BTreeSet<IpNet>)| !nets.is_empty())
            .collect();
        if sources.is_empty() {
            continue;
        }
        if broken.contains(&chain_name(of)) {
            // A kernel without this family's nat table, or an iptables that knows no --random-fully.
            compiled.left_out.insert(of);
            continue;
        }
        let inside = inside(view).filter(is_of).chain(never(of));
        let rules = rules(of, &sources, inside.collect(), prefix);
        match of {
            Family::V4 => compiled.v4 = rules,
            Family::V6 => compiled.v6 = rules,
        }
        compiled.sources.extend(sources.into_values().flatten());
    }
    compiled
}

/// Of this node's pods, those in pools with `natOutgoing`, by what is not outside for them.
fn sources(view: &View) -> BTreeMap<&BTreeSet<IpNet>, BTreeSet<IpNet>> {
    let mut sources: BTreeMap<_, BTreeSet<IpNet>> = BTreeMap::new();
    // A pool has nothing of what an earlier one has.
    let mut rest: Vec<IpNet> = view.own.iter().map(IpNet::trunc).collect();
    for pool in &view.pools {
        let mut others = Vec::new();
        for net in rest {
            let Some(shared) = shared(&net, &pool.cidr) else {
                others.push(net);
                continue;
            };
            others.extend(without(net, &shared));
            if pool.nat_outgoing {
                sources.entry(&pool.exceptions).or_default().insert(shared);
            }
        }
        rest = others;
    }
    for nets in sources.values_mut() {
        *nets = outermost(std::mem::take(nets));
    }
    sources
}

fn inside(view: &View) -> impl Iterator<Item = IpNet> {
    let pools = view.pools.iter().map(|pool| pool.cidr);
    pools
        .chain(view.inside.iter().copied())
        .chain(view.own.iter().copied())
}

fn never(of: Family) -> Vec<IpNet> {
    match of {
        Family::V4 => NEVER_V4.map(IpNet::V4).to_vec(),
        Family::V6 => NEVER_V6.map(IpNet::V6).to_vec(),
    }
}

/// What two networks have in common: one of the two, or nothing.
fn shared(one: &IpNet, two: &IpNet) -> Option<IpNet> {
    match (one.contains(two), two.contains(one)) {
        (_, true) => Some(*one),
        (true, _) => Some(two.trunc()),
        _ => None,
    }
}

/// What is left of a network without a part of it: the halves beside that part, from the largest down.
fn without(mut net: IpNet, part: &IpNet) -> Vec<IpNet> {
    let mut left = Vec::new();
    while net.prefix_len() < part.prefix_len() {
        let Ok(halves) = net.subnets(net.prefix_len() + 1) else {
            break;
        };
        let (holding, beside): (Vec<IpNet>, Vec<IpNet>) =
            halves.partition(|half| half.contains(part));
        left.extend(beside);
        let Some(half) = holding.first() else { break };
        net = *half;
    }
    left
}

/// The same addresses by fewer networks: none lies in another.
fn outermost(nets: BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let nets: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
    let mut kept = BTreeSet::new();
    let mut last: Option<IpNet> = None;
    // In their order a network comes before all that it holds.
    for net in nets {
        if !last.is_some_and(|last| last.contains(&net)) {
            kept.insert(net);
            last = Some(net);
        }
    }
    kept
}

/// Only the first packet of a flow comes through the nat table: what goes on keeps its addresses, and so do answers.
fn rules(
    of: Family,
    sources: &BTreeMap<&BTreeSet<IpNet>, BTreeSet<IpNet>>,
    inside: BTreeSet<IpNet>,
    prefix: &InterfaceName,
) -> FamilyRules {
    let everyone = set(of, SetName::fixed(of, "egress"), sources.values().flatten());
    let inside = set(of, SetName::fixed(of, "inside"), &outermost(inside));
    let mut chain = vec![Rule::new([is_to(&inside)], Action::Return)];
    let mut sets = vec![];
    for (exceptions, nets) in sources
        .iter()
        .filter(|(exceptions, _)| !exceptions.is_empty())
    {
        let text: Vec<String> = exceptions.iter().map(ToString::to_string).collect();
        let to = set(
            of,
            SetName::hashed(of, "egr-to", &text),
            &outermost((*exceptions).clone()),
        );
        let from = set(of, SetName::hashed(of, "egr-from", &text), nets);
        chain.push(Rule::new([is_from(&from), is_to(&to)], Action::Return));
        sets.extend([from, to]);
    }
    chain.push(Rule::new([], Action::Masquerade));
    let name = chain_name(of);
    // What goes to a pod of this node is none of egress, whatever its address.
    let elsewhere = Match::OutInterface(InterfaceMatch::NotPrefix(prefix.clone()));
    let hook = Hook {
        chain: Builtin::Postrouting,
        position: HookPosition::First,
        rule: Rule::new([elsewhere, is_from(&everyone)], Action::Jump(name.clone())),
    };
    let nat = TableRules {
        hooks: vec![hook],
        chains: Chains::from([(name, chain.into())]),
    };
    sets.extend([everyone, inside]);
    let named = |set: IpSet| (set.name().clone(), Arc::new(set));
    FamilyRules {
        sets: sets.into_iter().map(named).collect(),
        rules: Ruleset {
            tables: BTreeMap::from([(Table::Nat, nat)]),
        },
    }
}

fn set<'a>(of: Family, name: SetName, nets: impl IntoIterator<Item = &'a IpNet>) -> IpSet {
    let mut set = IpSet::new(name, of, SetKind::HashNet);
    for net in nets {
        set.insert_net(*net);
    }
    set
}

fn is_from(set: &IpSet) -> Match {
    is_in(set, SetDirection::Source)
}

fn is_to(set: &IpSet) -> Match {
    is_in(set, SetDirection::Destination)
}

fn is_in(set: &IpSet, direction: SetDirection) -> Match {
    Match::Set {
        name: set.name().clone(),
        direction,
        negated: false,
    }
}

/// One a family: a kernel may have nat for IPv4 alone.
fn chain_name(of: Family) -> ChainName {
    match of {
        Family::V4 => ChainName::fixed("EGRESS"),
        Family::V6 => ChainName::fixed("EGRESS6"),
    }
}

#[cfg(test)]
mod tests;
