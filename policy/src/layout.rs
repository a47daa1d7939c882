//! What is the same whatever the policies say: hooks, the way of a packet through our chains, the guard, and the sets
//! of local endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netfilter::{
    Action, Builtin, ChainName, Chains, CtState, Family, Hook, HookPosition, InterfaceMatch,
    InterfaceName, IpSet, Match, PortRange, Protocol, Rule, Ruleset, SetDirection, SetKind,
    SetName, Table, TableRules,
};

use crate::dispatch::{bit_sets, insert_endpoint, source_sets};
use crate::domain_hold;
use crate::group::{has, has_not};
use crate::policing::Policing;
use crate::render::Context;
use crate::{Direction, EgressToOwnNode, Endpoint};

/// VXLAN's port: a pod that sends it could have the node unpack what no policy saw (semantics 44).
const VXLAN_PORT: u16 = 4789;

/// The chains of the filter table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) chains: Chains,
}

impl Filter {
    /// Adds a chain.
    pub(crate) fn put(&mut self, name: ChainName, rules: Vec<Rule>) {
        self.chains.insert(name, rules.into());
    }
}

/// All tables of a family around the chains of the filter table.
pub(crate) fn ruleset(context: Context<'_>, filter: Filter) -> Ruleset {
    let layout = Layout { context };
    let filter = TableRules {
        hooks: layout.filter_hooks(),
        chains: filter.chains,
    };
    let tables = [
        (Table::Raw, layout.raw()),
        (Table::Filter, filter),
        (Table::Mangle, layout.mangle()),
    ];
    Ruleset {
        tables: BTreeMap::from(tables),
    }
}

/// The chains of the filter table that hang on nothing but the settings.
pub(crate) fn fixed_chains(context: Context<'_>, filter: &mut Filter) {
    let layout = Layout { context };
    let marks = context.settings.mark;
    filter.put(ChainName::fixed("FORWARD"), layout.forward());
    filter.put(ChainName::fixed("POD"), layout.pod());
    if context.settings.ipvs.is_some() {
        filter.put(ChainName::fixed("IPVS"), layout.sent_by_ipvs());
    }
    if let Some(names) = &context.settings.domain_names {
        let (name, rules) = domain_hold::chain(names, marks.accepted());
        filter.put(name, rules);
        let (name, rules) = domain_hold::output(context.family, &layout.enters_pod());
        filter.put(name, rules);
    }
    for (name, bit) in [("ACCEPT", marks.accepted()), ("PASS", marks.passed())] {
        let rules = vec![set_mark(bit, bit), Rule::new([], Action::Return)];
        filter.put(ChainName::fixed(name), rules);
    }
    // Every allow rule leads here, and nftables walks a chain once for each rule that does: so it has no RETURN at its
    // end. With another mark mask the old bit is set for a moment as well, on what is allowed anyway.
    let allowed = vec![set_mark(marks.allowed(), marks.allowed())];
    filter.put(ChainName::fixed("ALLOW"), allowed);
}

/// The chain of what pods send to their own node, by what their egress is judged by. NetworkPolicy leaves that alone
/// unless the settings say otherwise: without a ClusterNetworkPolicy nobody is asked, and the kernel, which walks all
/// that a built-in chain leads to at every change (nftables), has half as much to walk.
pub(crate) fn input_chain<'a>(
    context: Context<'_>,
    mut egress: impl Iterator<Item = &'a Policing>,
) -> (ChainName, Vec<Rule>) {
    let is_policed = context.settings.egress_to_own_node == EgressToOwnNode::Policed;
    let judges = is_policed || egress.any(Policing::has_cluster_policies);
    let rules = match judges {
        true => Layout { context }.input(),
        false => vec![Rule::new([], Action::Return)],
    };
    (ChainName::fixed("INPUT"), rules)
}

/// The addresses of the endpoints that are policed in a direction.
pub(crate) fn guard_set<'a>(
    family: Family,
    direction: Direction,
    addresses: impl Iterator<Item = &'a IpAddr>,
) -> IpSet {
    let mut set = IpSet::new(guard_name(family, direction), family, SetKind::HashIp);
    addresses.for_each(|address| set.insert_ip(*address));
    set
}

/// The sets that hang on the local endpoints: all of them, and those whose hash has a bit.
pub(crate) fn endpoint_sets(
    context: Context<'_>,
    endpoints: &BTreeMap<InterfaceName, Endpoint>,
    bits: &BTreeSet<u16>,
) -> Vec<IpSet> {
    let family = context.family;
    let mut all = IpSet::new(endpoints_name(family), family, SetKind::HashNetIface);
    for (interface, endpoint) in endpoints {
        insert_endpoint(&mut all, interface, endpoint);
    }
    let mut sets = bit_sets(family, bits, endpoints);
    sets.push(all);
    if context.settings.ipvs.is_some() {
        sets.extend(source_sets(family, bits, endpoints));
    }
    sets
}

/// The set by which a policed pod's packet is known where its chain was not found, or was taken away.
pub(crate) fn guard_name(family: Family, direction: Direction) -> SetName {
    match direction {
        Direction::Ingress => SetName::fixed(family, "guard-in"),
        Direction::Egress => SetName::fixed(family, "guard-out"),
    }
}

/// The condition that the packet's pod is policed in a direction.
pub(crate) fn is_policed(family: Family, direction: Direction) -> Match {
    Match::Set {
        name: guard_name(family, direction),
        direction: match direction {
            Direction::Ingress => SetDirection::Destination,
            Direction::Egress => SetDirection::Source,
        },
        negated: false,
    }
}

fn endpoints_name(family: Family) -> SetName {
    SetName::fixed(family, "endpoints")
}

struct Layout<'a> {
    context: Context<'a>,
}

impl Layout<'_> {
    /// Before anything else sees a pod's packet: what is not sent from a known interface with its own address is
    /// dropped, in one lookup.
    fn raw(&self) -> TableRules {
        let chain = ChainName::fixed("PREROUTING");
        let hook = Rule::new([self.leaves_pod()], Action::Jump(chain.clone()));
        let known = Match::Set {
            name: endpoints_name(self.context.family),
            direction: SetDirection::SourceAndIn,
            negated: false,
        };
        let mut rules = Self::tunnels();
        rules.push(Rule::new([known], Action::Return));
        if self.context.family == Family::V6 {
            rules.extend(link_local_discovery());
        }
        rules.push(Rule::new([], Action::Drop));
        table(vec![first(Builtin::Prerouting, hook)], chain, rules)
    }

    /// VXLAN, and either family in this one: 6in4 is as good a way around as IP in IP.
    fn tunnels() -> Vec<Rule> {
        let vxlan = [
            Match::Protocol(Protocol::Udp),
            Match::DestinationPorts(vec![PortRange::new(VXLAN_PORT, VXLAN_PORT)]),
        ];
        let drop_all = |protocol| Rule::new([Match::Protocol(protocol)], Action::Drop);
        vec![
            Rule::new(vxlan, Action::Drop),
            drop_all(Protocol::IpInIp),
            drop_all(Protocol::Ipv6InIp),
        ]
    }

    fn filter_hooks(&self) -> Vec<Hook> {
        let accepted = has(self.context.settings.mark.accepted());
        let jump = |conditions: Vec<Match>, name| {
            Rule::new(conditions, Action::Jump(ChainName::fixed(name)))
        };
        let mut hooks = Vec::new();
        if self.context.settings.ipvs.is_some() {
            // Whatever this host gets: what IPVS sends on of that is not the host's own.
            let marks = self.context.settings.mark;
            let got = set_mark(marks.own_node(), marks.mask());
            hooks.push(first(Builtin::Input, got));
            hooks.push(first(Builtin::Output, jump(Vec::new(), "IPVS")));
        }
        hooks.extend([
            first(Builtin::Input, jump(vec![self.leaves_pod()], "INPUT")),
            first(Builtin::Forward, jump(Vec::new(), "FORWARD")),
            Hook {
                chain: Builtin::Forward,
                position: HookPosition::Last,
                rule: Rule::new([accepted], Action::Accept),
            },
        ]);
        if self.context.settings.domain_names.is_some() {
            let own = jump(vec![self.enters_pod()], "OUTPUT");
            hooks.push(first(Builtin::Output, own));
        }
        hooks
    }

    /// One way into the pods' chains: with two, the kernel would walk them all twice at every change (nftables).
    fn forward(&self) -> Vec<Rule> {
        let other = || InterfaceMatch::NotPrefix(self.context.settings.interface_prefix.clone());
        let of_no_pod = [Match::InInterface(other()), Match::OutInterface(other())];
        vec![
            set_mark(0, self.context.settings.mark.mask()),
            Rule::new(of_no_pod, Action::Return),
            Rule::new([], Action::Goto(ChainName::fixed("POD"))),
        ]
    }

    /// A packet from or to a pod. An address behind an interface that is not its pod's gets nothing, not even the rest
    /// of an earlier pod's connection.
    fn pod(&self) -> Vec<Rule> {
        let accept = ChainName::fixed("ACCEPT");
        let mut rules = vec![self.unknown()];
        if self.context.settings.domain_names.is_some() {
            rules.extend(domain_hold::rules(self.context.family, &self.enters_pod()));
        }
        rules.extend([
            Rule::new([going_on()], Action::Goto(accept.clone())),
            self.resumes(
                Some(self.leaves_pod()),
                Direction::Ingress,
                SetDirection::Source,
            ),
            self.resumes(
                Some(self.enters_pod()),
                Direction::Egress,
                SetDirection::Destination,
            ),
            Rule::new([self.leaves_pod()], Action::Jump(ChainName::fixed("FROM"))),
            Rule::new([self.enters_pod()], Action::Jump(ChainName::fixed("TO"))),
            Rule::new([], Action::Goto(accept)),
        ]);
        rules
    }

    fn unknown(&self) -> Rule {
        let unknown = Match::Set {
            name: endpoints_name(self.context.family),
            direction: SetDirection::DestinationAndOut,
            negated: true,
        };
        Rule::new([self.enters_pod(), unknown], Action::Drop)
    }

    /// What IPVS sends on passes OUTPUT, with its endpoint's address and the source that it came with. INPUT marked it; what
    /// this host itself sends is not marked. It is judged as in FORWARD, but that its pod is known by its address alone.
    fn sent_by_ipvs(&self) -> Vec<Rule> {
        let marks = self.context.settings.mark;
        let accept = ChainName::fixed("ACCEPT");
        let enters = || vec![self.enters_pod()];
        vec![
            Rule::new([has_not(marks.own_node())], Action::Return),
            set_mark(0, marks.mask()),
            self.unknown(),
            Rule::new([going_on()], Action::Goto(accept.clone())),
            self.resumes(None, Direction::Ingress, SetDirection::Source),
            self.resumes(
                Some(self.enters_pod()),
                Direction::Egress,
                SetDirection::Destination,
            ),
            Rule::new([], Action::Jump(ChainName::fixed("SENT"))),
            // An endpoint asks itself.
            Rule::new([has(marks.accepted())], Action::Return),
            Rule::new(enters(), Action::Jump(ChainName::fixed("TO"))),
            Rule::new([], Action::Goto(accept)),
        ]
    }

    /// Drops what goes on with a TCP connection that was cut, from the side that no policy judges: the kernel would take
    /// it for a new connection the other way round, and the denied side would be its answers. (The judged side drops it
    /// in its group's chain.)
    fn resumes(&self, at: Option<Match>, policed: Direction, end: SetDirection) -> Rule {
        let policed = Match::Set {
            name: guard_name(self.context.family, policed),
            direction: end,
            negated: false,
        };
        let new = Match::CtState(BTreeSet::from([CtState::New]));
        let resumed = [
            Match::Protocol(Protocol::Tcp),
            Match::TcpNotSyn,
            new,
            policed,
        ];
        Rule::new(at.into_iter().chain(resumed), Action::Drop)
    }

    /// What a pod sends to its own node. What is not dropped here is left to the node's own rules.
    fn input(&self) -> Vec<Rule> {
        let marks = self.context.settings.mark;
        let mut rules = vec![Rule::new([going_on()], Action::Return)];
        let ipvs = self.context.settings.ipvs.as_ref();
        if let Some([v4, v6]) = ipvs.and_then(|ipvs| ipvs.led.as_ref()) {
            let led = Match::Set {
                name: match self.context.family {
                    Family::V4 => v4.clone(),
                    Family::V6 => v6.clone(),
                },
                direction: SetDirection::DestinationAndPort,
                negated: false,
            };
            rules.push(Rule::new([led], Action::Return));
        }
        rules.extend([
            set_mark(marks.own_node(), marks.mask()),
            Rule::new([], Action::Jump(ChainName::fixed("FROM"))),
            Rule::new([], Action::Return),
        ]);
        rules
    }

    /// Another table, for the time in which someone has emptied the filter table: nothing goes to or comes from a
    /// policed pod but what our chains have accepted, or this node itself sends.
    fn mangle(&self) -> TableRules {
        let chain = ChainName::fixed("GUARD");
        let family = self.context.family;
        let to = [self.enters_pod(), is_policed(family, Direction::Ingress)];
        let rules = vec![
            Rule::new([has(self.context.settings.mark.accepted())], Action::Return),
            self.own(),
            Rule::new(to, Action::Drop),
            Rule::new([is_policed(family, Direction::Egress)], Action::Drop),
            Rule::new([], Action::Return),
        ];
        let hook = Rule::new([], Action::Jump(chain.clone()));
        table(vec![first(Builtin::Postrouting, hook)], chain, rules)
    }

    /// What this host sends is let through. (In IPv6 another may send with an address of this host: not by IPVS.)
    fn own(&self) -> Rule {
        let settings = self.context.settings;
        let marked = has_not(settings.mark.own_node());
        let marked = settings.ipvs.as_ref().map(|_| marked);
        let own = marked.into_iter().chain([Match::SourceLocal]);
        Rule::new(own, Action::Return)
    }

    fn leaves_pod(&self) -> Match {
        Match::InInterface(InterfaceMatch::Prefix(
            self.context.settings.interface_prefix.clone(),
        ))
    }

    fn enters_pod(&self) -> Match {
        Match::OutInterface(InterfaceMatch::Prefix(
            self.context.settings.interface_prefix.clone(),
        ))
    }
}

fn going_on() -> Match {
    Match::CtState(BTreeSet::from([CtState::Related, CtState::Established]))
}

fn set_mark(value: u32, mask: u32) -> Rule {
    Rule::new([], Action::SetMark { value, mask })
}

fn first(chain: Builtin, rule: Rule) -> Hook {
    Hook {
        chain,
        position: HookPosition::First,
        rule,
    }
}

fn table(hooks: Vec<Hook>, chain: ChainName, rules: Vec<Rule>) -> TableRules {
    TableRules {
        hooks,
        chains: Chains::from([(chain, rules.into())]),
    }
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
