//! Who may send to this node's ends of tunnels: the cluster's nodes, and nobody else.
//!
//! A tunnel without encryption knows its senders by their addresses alone, and what it unpacks comes from inside: whoever
//! could send to it would be in the pods' network. Pods are kept from sending such packets where they leave (`policy`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netfilter::{
    Action, Builtin, ChainName, Chains, Family, Hook, HookPosition, IpSet, Match, PortRange,
    Protocol, Rule, Ruleset, SetDirection, SetKind, SetName, Table, TableRules,
};

use crate::FamilyRules;

/// The UDP port of VXLAN (RFC 7348 §8).
const VXLAN_PORT: u16 = 4789;

/// What a tunnel's end takes out of the packets to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// VXLAN, over this family.
    Vxlan(Family),
    /// IPv4 in IPv4.
    Ipip,
}

impl End {
    fn family(self) -> Family {
        match self {
            Self::Vxlan(family) => family,
            Self::Ipip => Family::V4,
        }
    }

    fn packets(self) -> Vec<Match> {
        match self {
            Self::Vxlan(_) => vec![
                Match::Protocol(Protocol::Udp),
                Match::DestinationPorts(vec![PortRange::new(VXLAN_PORT, VXLAN_PORT)]),
            ],
            Self::Ipip => vec![Match::Protocol(Protocol::IpInIp)],
        }
    }
}

/// What both families are to have in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// IPv4.
    pub v4: FamilyRules,
    /// IPv6.
    pub v6: FamilyRules,
    /// The kernel refuses the rules: there are none, and anybody may send to the ends.
    pub is_refused: bool,
}

impl Compiled {
    /// Whether nothing is guarded.
    pub fn is_empty(&self) -> bool {
        self.v4.sets.is_empty() && self.v6.sets.is_empty()
    }
}

/// Compiles: `ends` are those of this node, `nodes` the addresses of all nodes; `broken` are chains that the kernel
/// refuses.
pub fn compile(
    ends: &BTreeSet<End>,
    nodes: &BTreeSet<IpAddr>,
    broken: &BTreeSet<ChainName>,
) -> Compiled {
    if broken.contains(&chain_name()) {
        return Compiled {
            is_refused: !ends.is_empty(),
            ..Compiled::default()
        };
    }
    let of = |family| {
        let ends: Vec<End> = ends
            .iter()
            .copied()
            .filter(|end| end.family() == family)
            .collect();
        match ends.is_empty() {
            true => FamilyRules::default(),
            false => rules(family, &ends, nodes),
        }
    };
    Compiled {
        v4: of(Family::V4),
        v6: of(Family::V6),
        is_refused: false,
    }
}

/// The chain that judges who sends.
pub fn chain_name() -> ChainName {
    ChainName::fixed("TUNNELS")
}

fn rules(family: Family, ends: &[End], nodes: &BTreeSet<IpAddr>) -> FamilyRules {
    let mut set = IpSet::new(SetName::fixed(family, "nodes"), family, SetKind::HashIp);
    for node in nodes.iter().filter(|ip| Family::of(**ip) == family) {
        set.insert_ip(*node);
    }
    let chain = chain_name();
    let of_node = Match::Set {
        name: set.name().clone(),
        direction: SetDirection::Source,
        negated: false,
    };
    let judged = vec![
        Rule::new([of_node], Action::Return),
        Rule::new([], Action::Drop),
    ];
    let hooks = ends.iter().map(|end| Hook {
        chain: Builtin::Input,
        position: HookPosition::First,
        rule: Rule::new(end.packets(), Action::Jump(chain.clone())),
    });
    let filter = TableRules {
        hooks: hooks.collect(),
        chains: Chains::from([(chain, judged.into())]),
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
    fn packets_of_each_tunnel_are_judged_by_who_sends_and_where_is_no_tunnel_nothing_is() {
        let nodes = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let nodes: BTreeSet<IpAddr> = nodes.iter().map(|ip| ip.parse().unwrap()).collect();
        let none = BTreeSet::new();
        assert!(compile(&BTreeSet::new(), &nodes, &none).is_empty());
        let ends = [End::Vxlan(Family::V4), End::Ipip].into();
        let both = compile(&ends, &nodes, &none);
        let refused = compile(&ends, &nodes, &[chain_name()].into());
        assert!(refused.is_refused && refused.is_empty() && !both.is_refused);
        assert_eq!(both.v6, FamilyRules::default());
        let filter = &both.v4.rules.tables[&Table::Filter];
        assert_eq!((filter.hooks.len(), filter.chains.len()), (2, 1));
        let set = both.v4.sets.values().next().unwrap();
        assert_eq!(set.members().len(), 2);
        let chain = filter.chains.values().next().unwrap();
        let actions: Vec<&Action> = chain.iter().map(Rule::action).collect();
        assert_eq!(actions, [&Action::Return, &Action::Drop]);
        let over_v6 = compile(&[End::Vxlan(Family::V6)].into(), &nodes, &none);
        assert!(over_v6.v4.sets.is_empty() && !over_v6.is_empty());
    }
}
