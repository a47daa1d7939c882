//! Packets to addresses of Services that meet no Service: they go nowhere, or they would go round in circles.
//!
//! Where addresses are announced the fabric sends packets here, and this node's own way to such an address leads back. A packet
//! that a Service's port takes has another destination before it is forwarded. Never a route: a node's own `connect()` is routed
//! before a Service is asked, and would fail at a blackhole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use netfilter::{
    Action, Builtin, Chains, Family, Hook, HookPosition, IpSet, Match, Note, Rule, Ruleset,
    SetDirection, SetKind, SetName, Table, TableRules,
};

use crate::FamilyRules;

/// What both families are to have in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// IPv4.
    pub v4: FamilyRules,
    /// IPv6.
    pub v6: FamilyRules,
}

impl Compiled {
    /// Whether nothing is guarded.
    pub fn is_empty(&self) -> bool {
        self.v4.sets.is_empty() && self.v6.sets.is_empty()
    }
}

/// Compiles: `guarded` are ranges and addresses of Services, as they are announced.
pub fn compile(guarded: &BTreeSet<IpNet>) -> Compiled {
    Compiled {
        v4: rules(Family::V4, guarded),
        v6: rules(Family::V6, guarded),
    }
}

fn rules(family: Family, guarded: &BTreeSet<IpNet>) -> FamilyRules {
    let of_family = guarded
        .iter()
        .filter(|net| Family::of(net.addr()) == family);
    let mut set = IpSet::new(SetName::fixed(family, "services"), family, SetKind::HashNet);
    for net in of_family {
        set.insert_net(*net);
    }
    if set.members().is_empty() {
        return FamilyRules::default();
    }
    let to_them = Match::Set {
        name: set.name().clone(),
        direction: SetDirection::Destination,
        negated: false,
    };
    // Last: who refuses such a packet, as Services without endpoints are refused, has done so.
    let hook = Hook {
        chain: Builtin::Forward,
        position: HookPosition::Last,
        rule: Rule::new([to_them], Action::Drop)
            .noted(Note::new("addresses of Services that lead nowhere")),
    };
    let filter = TableRules {
        hooks: vec![hook],
        chains: Chains::default(),
    };
    FamilyRules {
        sets: BTreeMap::from([(set.name().clone(), Arc::new(set))]),
        rules: Ruleset {
            tables: BTreeMap::from([(Table::Filter, filter)]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_drops_what_is_announced_of_it_and_has_nothing_where_nothing_is() {
        let nets = ["10.96.0.0/12", "198.51.100.7/32"];
        let guarded = nets.iter().map(|net| net.parse().unwrap()).collect();
        let compiled = compile(&guarded);
        assert_eq!(compiled.v6, FamilyRules::default());
        let filter = &compiled.v4.rules.tables[&Table::Filter];
        assert_eq!(filter.hooks.len(), 1);
        assert_eq!(filter.hooks[0].position, HookPosition::Last);
        let set = compiled.v4.sets.values().next().unwrap();
        assert_eq!(set.members().len(), 2);
        assert_eq!(compile(&BTreeSet::new()), Compiled::default());
    }
}
