//! Which addresses a change of rules may judge anew: what two compiled states differ in, never less.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netfilter::{
    Action, Builtin, ChainName, InterfaceMatch, InterfaceName, Match, Member, Rule, Table,
    TableRules,
};

use crate::{Compiled, Endpoint, FamilyRules};

/// What a change may have touched. Found by what is no longer the same allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// A rule that any packet may meet is another: nothing can be left out.
    pub everything: bool,
    /// Rules that only packets of these interfaces meet are others.
    pub interfaces: BTreeSet<InterfaceName>,
    /// They are in a set now or no longer.
    pub addresses: BTreeSet<IpAddr>,
    /// So are these networks.
    pub networks: BTreeSet<IpNet>,
}

impl Dirty {
    /// What lies between two states.
    pub fn between(old: &Compiled, new: &Compiled) -> Self {
        let mut dirty = Self::default();
        for (old, new) in [(&old.v4, &new.v4), (&old.v6, &new.v6)] {
            dirty.take_sets(old, new);
            dirty.take_rules(old, new);
        }
        dirty
    }

    /// Whether no connection can be judged otherwise than before.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Both changes together.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.interfaces.extend(other.interfaces);
        self.addresses.extend(other.addresses);
        self.networks.extend(other.networks);
    }

    /// Its addresses, those behind its interfaces too, for many questions.
    pub(super) fn reach(&self, endpoints: &BTreeMap<InterfaceName, Endpoint>) -> Reach<'_> {
        let named = endpoints
            .iter()
            .filter(|(name, _)| self.interfaces.contains(*name));
        let behind = named.flat_map(|(_, endpoint)| endpoint.addresses.iter().copied());
        let lengths: BTreeSet<u8> = self.networks.iter().map(IpNet::prefix_len).collect();
        Reach {
            dirty: self,
            addresses: self.addresses.iter().copied().chain(behind).collect(),
            lengths: lengths.into_iter().collect(),
        }
    }

    /// A set that only one of the states has is asked only by rules that only it has.
    fn take_sets(&mut self, old: &FamilyRules, new: &FamilyRules) {
        for (name, set) in &new.sets {
            let Some(before) = old
                .sets
                .get(name)
                .filter(|before| !Arc::ptr_eq(before, set))
            else {
                continue;
            };
            for member in before.members().symmetric_difference(set.members()) {
                match member {
                    Member::Ip(address) | Member::IpPort(address, ..) => {
                        self.addresses.insert(*address);
                    }
                    Member::Net(net) | Member::NetIface(net, _) => self.take_network(*net),
                }
            }
        }
    }

    fn take_network(&mut self, net: IpNet) {
        if net.prefix_len() == net.max_prefix_len() {
            self.addresses.insert(net.addr());
        } else {
            self.networks.insert(net);
        }
    }

    fn take_rules(&mut self, old: &FamilyRules, new: &FamilyRules) {
        let none = TableRules::default();
        for table in Table::ALL {
            let before = old.rules.tables.get(&table).unwrap_or(&none);
            let after = new.rules.tables.get(&table).unwrap_or(&none);
            self.take_table(before, after);
        }
    }

    fn take_table(&mut self, old: &TableRules, new: &TableRules) {
        self.everything |= old.hooks != new.hooks;
        let mut changed = Vec::new();
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(before) if Arc::ptr_eq(before, rules) => {}
                // A chain that was not there is met only through a rule that is another, which is found by itself.
                None => {}
                Some(before) => {
                    let (gone, come) = differing(before, rules);
                    if !self.take_interfaces(gone.iter().chain(come)) {
                        changed.push(name);
                    }
                }
            }
        }
        if !changed.is_empty() && !self.everything {
            self.take_callers(&[old, new], changed);
        }
    }

    /// Takes the interfaces that rules are for; says whether each of them is for one.
    fn take_interfaces<'r>(&mut self, rules: impl Iterator<Item = &'r Rule>) -> bool {
        let mut all = true;
        for rule in rules {
            match interface_of(rule) {
                Some(interface) => drop(self.interfaces.insert(interface.clone())),
                None => all = false,
            }
        }
        all
    }

    /// Whoever comes to a chain that changed: by the rules that lead there, upward to those for one interface.
    fn take_callers(&mut self, states: &[&TableRules], changed: Vec<&ChainName>) {
        let mut callers: BTreeMap<&ChainName, Vec<(Option<&ChainName>, &Rule)>> = BTreeMap::new();
        for state in states {
            // Connections are judged as in FORWARD or INPUT: what OUTPUT alone leads to says the same once more.
            let judged = state
                .hooks
                .iter()
                .filter(|hook| hook.chain != Builtin::Output);
            let hooks = judged.map(|hook| (None, &hook.rule));
            let chains = state.chains.iter();
            let rules =
                chains.flat_map(|(name, list)| list.iter().map(move |rule| (Some(name), rule)));
            for (from, rule) in hooks.chain(rules) {
                if let Action::Jump(to) | Action::Goto(to) = rule.action() {
                    callers.entry(to).or_default().push((from, rule));
                }
            }
        }
        let mut seen: BTreeSet<&ChainName> = changed.iter().copied().collect();
        let mut open = changed;
        while let Some(name) = open.pop() {
            for (from, rule) in callers.get(name).into_iter().flatten() {
                match (interface_of(rule), from) {
                    (Some(interface), _) => drop(self.interfaces.insert(interface.clone())),
                    (None, None) => self.everything = true,
                    (None, Some(from)) if seen.insert(from) => open.push(from),
                    (None, Some(_)) => {}
                }
            }
        }
    }
}

/// A [`Dirty`] that is asked for many addresses.
pub(super) struct Reach<'a> {
    dirty: &'a Dirty,
    addresses: HashSet<IpAddr>,
    /// The prefix lengths of its networks.
    lengths: Vec<u8>,
}

impl Reach<'_> {
    pub(super) fn touches(&self, address: IpAddr) -> bool {
        let mut nets = self
            .lengths
            .iter()
            .filter_map(|length| IpNet::new(address, *length).ok());
        self.dirty.everything
            || self.addresses.contains(&address)
            || nets.any(|net| self.dirty.networks.contains(&net.trunc()))
    }
}

/// What is between the rules that both lists start with and those that both end with.
fn differing<'r>(old: &'r [Rule], new: &'r [Rule]) -> (&'r [Rule], &'r [Rule]) {
    let same = |(a, b): &(&Rule, &Rule)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let (old, new) = (
        old.get(head..).unwrap_or(&[]),
        new.get(head..).unwrap_or(&[]),
    );
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(same)
        .count();
    let until = |list: &'r [Rule]| list.get(..list.len() - tail).unwrap_or(&[]);
    (until(old), until(new))
}

/// The one interface whose packets a rule is for.
fn interface_of(rule: &Rule) -> Option<&InterfaceName> {
    rule.matches().iter().find_map(|condition| match condition {
        Match::InInterface(InterfaceMatch::Exact(name))
        | Match::OutInterface(InterfaceMatch::Exact(name)) => Some(name),
        _ => None,
    })
}
