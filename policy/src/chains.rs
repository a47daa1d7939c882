//! One family's chains, hooks and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{PolicyRule, Port, PortMatch, Protocol as PolicyProtocol};
use netfilter::{
    Action, Builtin, ChainName, CtState, Family, Hook, HookPosition, InterfaceMatch, IpSet, Match,
    PortRange, Protocol, Rule, Ruleset, SetDirection, SetKind, SetName, Table, TableRules,
};

use crate::dispatch::{Dispatch, bit_sets, insert_endpoint};
use crate::model::{Model, rules};
use crate::peers::PeerSets;
use crate::{Direction, FamilyRules, Isolated, MarkMask};

/// VXLAN's port: a pod that sends it could have the node unpack what no policy saw (semantics 44).
const VXLAN_PORT: u16 = 4789;
/// Router and neighbour solicitation and advertisement (RFC 4861 §4.1–4.4).
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// Compiles one family.
pub(crate) fn compile_family(model: &Model<'_>, family: Family) -> FamilyRules {
    let compiler = Compiler {
        model,
        family,
        marks: model.settings().mark,
    };
    let mut peers = PeerSets::new(model, family);
    let mut filter = Chains {
        hooks: compiler.forward_hooks(),
        chains: BTreeMap::new(),
    };
    filter
        .chains
        .insert(ChainName::fixed("FORWARD"), compiler.forward());
    filter
        .chains
        .insert(ChainName::fixed("POD"), compiler.pod());
    filter.chains.insert(
        ChainName::fixed("ACCEPT"),
        vec![compiler.set_mark([], compiler.marks.accepted())],
    );
    filter.chains.insert(
        ChainName::fixed("ALLOW"),
        vec![compiler.set_mark([], compiler.marks.allowed())],
    );
    let mut bits = BTreeSet::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        compiler.direction(direction, &mut filter.chains, &mut peers, &mut bits);
    }
    let mut sets = peers.finish();
    let of_bits = bit_sets(family, &bits, model.endpoints());
    for set in of_bits.into_iter().chain([compiler.endpoints_set()]) {
        sets.insert(set.name().clone(), Arc::new(set));
    }
    let filter = TableRules {
        hooks: filter.hooks,
        chains: shared(filter.chains),
    };
    let tables = BTreeMap::from([(Table::Raw, compiler.raw()), (Table::Filter, filter)]);
    FamilyRules {
        sets,
        rules: Ruleset { tables },
    }
}

struct Chains {
    hooks: Vec<Hook>,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

fn shared(chains: BTreeMap<ChainName, Vec<Rule>>) -> BTreeMap<ChainName, Arc<[Rule]>> {
    let chains = chains.into_iter();
    chains.map(|(name, rules)| (name, rules.into())).collect()
}

struct Compiler<'a> {
    model: &'a Model<'a>,
    family: Family,
    marks: MarkMask,
}

impl Compiler<'_> {
    /// Before anything else sees a pod's packet: what is not sent from a known interface with its own address is
    /// dropped, in one lookup.
    fn raw(&self) -> TableRules {
        let chain = ChainName::fixed("PREROUTING");
        let hook = Rule::new([self.leaves_pod()], Action::Jump(chain.clone()));
        let known = Match::Set {
            name: endpoints_name(self.family),
            direction: SetDirection::SourceAndIn,
            negated: false,
        };
        let mut rules: Vec<Rule> = self.tunnels();
        rules.push(Rule::new([known], Action::Return));
        if self.family == Family::V6 {
            rules.extend(link_local_discovery());
        }
        rules.push(Rule::new([], Action::Drop));
        TableRules {
            hooks: vec![Hook {
                chain: Builtin::Prerouting,
                position: HookPosition::First,
                rule: hook,
            }],
            chains: shared(BTreeMap::from([(chain, rules)])),
        }
    }

    fn tunnels(&self) -> Vec<Rule> {
        let vxlan = [
            Match::Protocol(Protocol::Udp),
            Match::DestinationPorts(vec![PortRange::new(VXLAN_PORT, VXLAN_PORT)]),
        ];
        let drop_all = |protocol| Rule::new([Match::Protocol(protocol)], Action::Drop);
        let mut rules = vec![Rule::new(vxlan, Action::Drop), drop_all(Protocol::IpInIp)];
        if self.family == Family::V6 {
            rules.push(drop_all(Protocol::Ipv6InIp));
        }
        rules
    }

    fn forward_hooks(&self) -> Vec<Hook> {
        let accepted = self.has_mark(self.marks.accepted());
        let chain = Builtin::Forward;
        vec![
            Hook {
                chain,
                position: HookPosition::First,
                rule: Rule::new([], Action::Jump(ChainName::fixed("FORWARD"))),
            },
            Hook {
                chain,
                position: HookPosition::Last,
                rule: Rule::new([accepted], Action::Accept),
            },
        ]
    }

    fn forward(&self) -> Vec<Rule> {
        let pod = ChainName::fixed("POD");
        vec![
            Rule::new(
                [],
                Action::SetMark {
                    value: 0,
                    mask: self.marks.mask(),
                },
            ),
            Rule::new([self.leaves_pod()], Action::Goto(pod.clone())),
            Rule::new([self.enters_pod()], Action::Goto(pod)),
        ]
    }

    /// A packet from or to a pod. An address behind an interface that is not its pod's gets nothing, not even the rest
    /// of an earlier pod's connection.
    fn pod(&self) -> Vec<Rule> {
        let unknown = Match::Set {
            name: endpoints_name(self.family),
            direction: SetDirection::DestinationAndOut,
            negated: true,
        };
        let going_on = Match::CtState(BTreeSet::from([CtState::Related, CtState::Established]));
        vec![
            Rule::new([self.enters_pod(), unknown], Action::Drop),
            Rule::new([going_on], Action::Goto(ChainName::fixed("ACCEPT"))),
            Rule::new([self.leaves_pod()], Action::Jump(ChainName::fixed("FROM"))),
            Rule::new([self.enters_pod()], Action::Jump(ChainName::fixed("TO"))),
            self.set_mark([], self.marks.accepted()),
        ]
    }

    fn direction(
        &self,
        direction: Direction,
        chains: &mut BTreeMap<ChainName, Vec<Rule>>,
        peers: &mut PeerSets<'_>,
        bits: &mut BTreeSet<u16>,
    ) {
        let none = Isolated::new();
        let isolated = self.model.isolated.get(&direction).unwrap_or(&none);
        let leaf = |policies: &BTreeSet<NamespacedName>| group_chain(direction, policies);
        let (mut dispatch, tree) = Dispatch::new(self.family, direction, isolated, &leaf);
        let mut root = self.neighbour_discovery();
        root.extend(tree);
        let name = match direction {
            Direction::Ingress => "TO",
            Direction::Egress => "FROM",
        };
        chains.insert(ChainName::fixed(name), root);
        chains.append(&mut dispatch.chains);
        bits.append(&mut dispatch.bits);
        for policies in isolated.values() {
            let chain = group_chain(direction, policies);
            chains
                .entry(chain)
                .or_insert_with(|| self.group(direction, policies));
        }
        for policy in self.model.policies_in_force(direction) {
            chains.insert(
                policy_chain(direction, policy),
                self.policy(direction, policy, peers),
            );
        }
    }

    /// Neighbour discovery passes before any policy is asked (semantics 43).
    fn neighbour_discovery(&self) -> Vec<Rule> {
        if self.family == Family::V4 {
            return Vec::new();
        }
        let pass = |number: &u8| {
            Rule::new(
                [
                    Match::Protocol(Protocol::Icmpv6),
                    Match::Icmpv6Type(*number),
                ],
                Action::Return,
            )
        };
        NEIGHBOUR_DISCOVERY.iter().map(pass).collect()
    }

    /// The endpoints that the same policies isolate share one chain.
    fn group(&self, direction: Direction, policies: &BTreeSet<NamespacedName>) -> Vec<Rule> {
        let new = Match::CtState(BTreeSet::from([CtState::New]));
        let invalid = Match::CtState(BTreeSet::from([CtState::Invalid]));
        let mut rules = vec![
            Rule::new(
                [],
                Action::SetMark {
                    value: 0,
                    mask: self.marks.allowed(),
                },
            ),
            Rule::new(
                [Match::Protocol(Protocol::Tcp), Match::TcpNotSyn, new],
                Action::Drop,
            ),
            Rule::new([invalid], Action::Drop),
        ];
        for policy in policies {
            rules.push(Rule::new([], Action::Jump(policy_chain(direction, policy))));
            rules.push(Rule::new(
                [self.has_mark(self.marks.allowed())],
                Action::Return,
            ));
        }
        rules.push(Rule::new([], Action::Drop));
        rules
    }

    /// A policy's chain sets the mark and ends at the first rule that allows the packet.
    fn policy(
        &self,
        direction: Direction,
        name: &NamespacedName,
        peers: &mut PeerSets<'_>,
    ) -> Vec<Rule> {
        let policy = self.model.policy(name);
        let policy_rules = policy
            .and_then(|policy| rules(policy, direction))
            .unwrap_or_default();
        let mut compiled = Vec::new();
        for rule in policy_rules {
            for peer in peer_matches(direction, &name.namespace, rule, peers) {
                for ports in port_matches(rule) {
                    let conditions = peer.iter().cloned().chain(ports);
                    compiled.push(Rule::new(
                        conditions,
                        Action::Goto(ChainName::fixed("ALLOW")),
                    ));
                }
            }
        }
        compiled
    }

    fn endpoints_set(&self) -> IpSet {
        let mut set = IpSet::new(
            endpoints_name(self.family),
            self.family,
            SetKind::HashNetIface,
        );
        for (interface, endpoint) in self.model.endpoints() {
            insert_endpoint(&mut set, interface, endpoint);
        }
        set
    }

    fn leaves_pod(&self) -> Match {
        Match::InInterface(InterfaceMatch::Prefix(
            self.model.settings().interface_prefix.clone(),
        ))
    }

    fn enters_pod(&self) -> Match {
        Match::OutInterface(InterfaceMatch::Prefix(
            self.model.settings().interface_prefix.clone(),
        ))
    }

    fn has_mark(&self, bit: u32) -> Match {
        Match::Mark {
            value: bit,
            mask: bit,
            negated: false,
        }
    }

    fn set_mark(&self, conditions: impl IntoIterator<Item = Match>, bit: u32) -> Rule {
        Rule::new(
            conditions,
            Action::SetMark {
                value: bit,
                mask: bit,
            },
        )
    }
}

fn endpoints_name(family: Family) -> SetName {
    SetName::fixed(family, "endpoints")
}

/// What a pod says to its gateway from a link-local address, or from none while it tries its own (RFC 4862 §5.4).
fn link_local_discovery() -> Vec<Rule> {
    let sources = [
        ipnet::Ipv6Net::new(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        ipnet::Ipv6Net::new(std::net::Ipv6Addr::UNSPECIFIED, 128),
    ];
    let pass = |net| {
        let conditions = [
            Match::Protocol(Protocol::Icmpv6),
            Match::Source(ipnet::IpNet::V6(net)),
        ];
        Rule::new(conditions, Action::Return)
    };
    sources.into_iter().flatten().map(pass).collect()
}

fn policy_chain(direction: Direction, policy: &NamespacedName) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "PI",
        Direction::Egress => "PO",
    };
    ChainName::hashed(prefix, &[&policy.namespace, &policy.name])
}

fn group_chain(direction: Direction, policies: &BTreeSet<NamespacedName>) -> ChainName {
    let prefix = match direction {
        Direction::Ingress => "GI",
        Direction::Egress => "GO",
    };
    let words: Vec<&str> = policies
        .iter()
        .flat_map(|policy| [policy.namespace.as_str(), policy.name.as_str()])
        .collect();
    ChainName::hashed(prefix, &words)
}

/// The ways in which a rule's peers may match; one empty way if it has no peers and so matches everyone.
fn peer_matches(
    direction: Direction,
    own: &str,
    rule: &PolicyRule,
    sets: &mut PeerSets<'_>,
) -> Vec<Vec<Match>> {
    let Some(peers) = &rule.peers else {
        return vec![Vec::new()];
    };
    let direction = match direction {
        Direction::Ingress => SetDirection::Source,
        Direction::Egress => SetDirection::Destination,
    };
    let names: BTreeSet<SetName> = peers.iter().filter_map(|peer| sets.of(own, peer)).collect();
    names
        .into_iter()
        .map(|name| {
            vec![Match::Set {
                name,
                direction,
                negated: false,
            }]
        })
        .collect()
}

/// The ways in which a rule's ports may match; one empty way if it has no ports and so matches every protocol.
fn port_matches(rule: &PolicyRule) -> Vec<Vec<Match>> {
    let Some(ports) = &rule.ports else {
        return vec![Vec::new()];
    };
    let mut by_protocol: BTreeMap<PolicyProtocol, (bool, Vec<PortRange>)> = BTreeMap::new();
    for Port { protocol, port } in ports {
        match port {
            PortMatch::Any => by_protocol.entry(*protocol).or_default().0 = true,
            PortMatch::Range(first, last) => {
                by_protocol
                    .entry(*protocol)
                    .or_default()
                    .1
                    .push(PortRange::new(*first, *last));
            }
            PortMatch::Named(_) | PortMatch::Unsupported(_) => {}
        }
    }
    let mut ways = Vec::new();
    for (protocol, (any, ranges)) in by_protocol {
        let protocol = Match::Protocol(match protocol {
            PolicyProtocol::Tcp => Protocol::Tcp,
            PolicyProtocol::Udp => Protocol::Udp,
            PolicyProtocol::Sctp => Protocol::Sctp,
        });
        if any {
            ways.push(vec![protocol]);
            continue;
        }
        let chunks = PortRange::chunks(&ranges).into_iter();
        ways.extend(chunks.map(|chunk| vec![protocol.clone(), Match::DestinationPorts(chunk)]));
    }
    ways
}
