//! Host ports: which there are, and the chains and sets that lead them to their pods.

mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netfilter::{
    Action, Builtin, ChainName, Chains, Family, Hook, HookPosition, InterfaceMatch, InterfaceName,
    IpSet, Match, Protocol, Rule, Ruleset, SetDirection, SetKind, SetName, Table, TableRules,
};

use crate::FamilyRules;
use tree::Tree;

/// From 127.0.0.0/8 nothing comes and to it nothing goes but inside the node.
const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// A flow from here can't be led elsewhere: IPv6 knows no route_localnet.
const LOOPBACK_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
/// Nor from here: the kernel forwards nothing that is bound to one link.
const LINK_LOCAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// A port of the node that somebody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// TCP, UDP or SCTP; other protocols have no ports, and rules of them lead nowhere.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// Of which of its addresses: of all if none, of all of the family if unspecified.
    pub host_ip: Option<IpAddr>,
}

impl Claim {
    /// Whether a packet to this address of the node would be for this claim.
    pub fn covers(&self, address: IpAddr) -> bool {
        match self.host_ip {
            None => true,
            Some(ip) if ip.is_unspecified() => ip.is_ipv4() == address.is_ipv4(),
            Some(ip) => ip == address,
        }
    }

    /// The one address it names, if it names one.
    fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether some packet would be for both.
    pub fn clashes(&self, other: &Self) -> bool {
        let same = self.protocol == other.protocol && self.port == other.port;
        let covers = |one: &Self, two: &Self| two.host_ip.is_none_or(|ip| one.covers(ip));
        same && (covers(self, other) || covers(other, self))
    }
}

/// A claimed port, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// What of the node.
    pub claim: Claim,
    /// The pod's address.
    pub pod: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
    /// The host end of the pod's interface.
    pub interface: InterfaceName,
}

impl HostPort {
    /// The pod's family; a claim of the other family's addresses leads nowhere.
    fn family(&self) -> Option<Family> {
        let fits = |ip: IpAddr| ip.is_ipv4() == self.pod.is_ipv4();
        self.claim
            .host_ip
            .is_none_or(fits)
            .then(|| Family::of(self.pod))
    }
}

/// What both families are to have in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// IPv4.
    pub v4: FamilyRules,
    /// IPv6.
    pub v6: FamilyRules,
    /// Those that lead nowhere because the kernel refuses their chain.
    pub left_out: BTreeSet<HostPort>,
    /// Those that are led.
    pub led: BTreeSet<HostPort>,
}

/// Compiles. `prefix` starts the name of each pod's interface on the host; `broken` are chains that the kernel refuses.
/// Where two claim the same, the first in order has it: who may claim what is decided before.
pub fn compile(
    ports: impl IntoIterator<Item = HostPort>,
    prefix: &InterfaceName,
    broken: &BTreeSet<ChainName>,
) -> Compiled {
    let ports: BTreeSet<HostPort> = ports.into_iter().collect();
    let mut compiled = Compiled::default();
    for of in Family::ALL {
        let mut claimed = BTreeSet::new();
        let wanted = ports.iter().filter(|port| {
            let claim = &port.claim;
            port.family() == Some(of)
                && claimed.insert((claim.protocol, claim.port, claim.address()))
        });
        let wanted: Vec<&HostPort> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
        if broken.contains(&dnat_name()) || broken.contains(&masquerade_name()) {
            // A kernel without the nat table, or one that lacks what these need.
            compiled.left_out.extend(wanted.into_iter().cloned());
            continue;
        }
        let mut tree = Tree::new(broken);
        let nat = nat(of, &mut tree, &wanted, prefix);
        let hairpin = hairpin_set(of, &wanted);
        let mut tables = BTreeMap::from([(Table::Nat, nat)]);
        if of == Family::V4 {
            tables.insert(Table::Raw, guard(prefix));
        }
        let rules = FamilyRules {
            sets: BTreeMap::from([(hairpin.name().clone(), Arc::new(hairpin))]),
            rules: Ruleset { tables },
        };
        match of {
            Family::V4 => compiled.v4 = rules,
            Family::V6 => compiled.v6 = rules,
        }
        compiled.left_out.extend(tree.left_out);
        compiled.led.extend(wanted.into_iter().cloned());
    }
    let Compiled { led, left_out, .. } = &mut compiled;
    led.retain(|port| !left_out.contains(port));
    compiled
}

/// What the CNI name of a protocol with ports is compiled as.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Only the first packet of a flow comes through the nat table.
fn nat(of: Family, tree: &mut Tree<'_>, ports: &[&HostPort], prefix: &InterfaceName) -> TableRules {
    let mut rules = Vec::new();
    if of == Family::V6 {
        for unled in [LOOPBACK_V6, LINK_LOCAL_V6] {
            let to = Match::Destination(IpNet::V6(unled));
            rules.push(Rule::new([to], Action::Return));
        }
    }
    for protocol in PROTOCOLS {
        let ports = ports.iter().filter(|port| port.claim.protocol == protocol);
        rules.extend(tree.protocol(protocol, &ports.copied().collect::<Vec<_>>()));
    }
    rules.push(Rule::new([], Action::Return));
    let mut chains = std::mem::take(&mut tree.chains);
    let (dnat, masquerade) = (dnat_name(), masquerade_name());
    chains.insert(dnat.clone(), rules.into());
    chains.insert(masquerade.clone(), masquerades(of).into());
    let to_node = Rule::new([Match::DestinationLocal], Action::Jump(dnat));
    let to_pod = Match::OutInterface(InterfaceMatch::Prefix(prefix.clone()));
    let hooks = vec![
        first(Builtin::Prerouting, to_node.clone()),
        first(Builtin::Output, to_node),
        first(
            Builtin::Postrouting,
            Rule::new([to_pod], Action::Jump(masquerade)),
        ),
    ];
    TableRules { hooks, chains }
}

/// Whose answers would not come back, or be refused as a pod's own: they get the node's address. Everyone else's source
/// is kept. No packet mark is needed, and none lost on the way: policy clears ours in FORWARD.
fn masquerades(of: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    if of == Family::V4 {
        let from_node = Match::Source(IpNet::V4(LOOPBACK_V4));
        rules.push(Rule::new([from_node], Action::Masquerade));
    }
    // The address whose own interface it leaves by.
    let to_itself = Match::Set {
        name: hairpin_name(of),
        direction: SetDirection::SourceAndOut,
        negated: false,
    };
    rules.push(Rule::new([to_itself], Action::Masquerade));
    rules.push(Rule::new([], Action::Return));
    rules
}

/// The host ends of pods with host ports take packets for and from 127.0.0.0/8 (route_localnet), which must be the
/// node's own: no pod reaches what listens there (CVE-2020-8558).
fn guard(prefix: &InterfaceName) -> TableRules {
    let loopback = IpNet::V4(LOOPBACK_V4);
    let ends = [Match::Destination(loopback), Match::Source(loopback)];
    let from_pod = Match::InInterface(InterfaceMatch::Prefix(prefix.clone()));
    let hooks = ends.map(|end| {
        let rule = Rule::new([from_pod.clone(), end], Action::Drop);
        first(Builtin::Prerouting, rule)
    });
    TableRules {
        hooks: hooks.into(),
        chains: Chains::default(),
    }
}

fn dnat_name() -> ChainName {
    ChainName::fixed("HOSTPORT-DNAT")
}

fn masquerade_name() -> ChainName {
    ChainName::fixed("HOSTPORT-MASQ")
}

fn hairpin_name(of: Family) -> SetName {
    SetName::fixed(of, "hairpin")
}

/// The pods that have host ports, each with its interface.
fn hairpin_set(of: Family, ports: &[&HostPort]) -> IpSet {
    let mut set = IpSet::new(hairpin_name(of), of, SetKind::HashNetIface);
    for port in ports {
        set.insert_net_iface(port.pod.into(), &port.interface);
    }
    set
}

fn first(chain: Builtin, rule: Rule) -> Hook {
    Hook {
        chain,
        position: HookPosition::First,
        rule,
    }
}

#[cfg(test)]
mod tests;
