//! What is there without any Service: the ways into the shared chains, the mark, and what begins and ends each chain.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use api::NamespacedName;
use ipnet::IpNet;
use netfilter::{
    Action, Builtin, ChainName, Chains, CtState, Family, Hook, HookPosition, InterfaceMatch, Match,
    Note, PortRange, Protocol, Rule, Ruleset, Table, TableRules,
};

use super::dispatch::{Key, Role};
use super::{Leads, Options, served};

pub(super) fn mark_masquerade() -> ChainName {
    ChainName::of_services("KUBE-MARK-MASQ")
}

fn postrouting() -> ChainName {
    ChainName::of_services("KUBE-POSTROUTING")
}

fn forward() -> ChainName {
    ChainName::of_services("KUBE-FORWARD")
}

/// The chains that no Service changes, and all hooks.
pub(super) fn rules(options: &Options) -> Ruleset {
    let nat = TableRules {
        hooks: nat_hooks(),
        chains: Chains::from([
            (mark_masquerade(), marks(options).into()),
            (postrouting(), masquerades(options).into()),
        ]),
    };
    let filter = TableRules {
        hooks: filter_hooks(options),
        chains: Chains::from([(forward(), forwards(options).into())]),
    };
    let mut tables = BTreeMap::from([(Table::Nat, nat), (Table::Filter, filter)]);
    if options.leads == Leads::Ipvs {
        let mangle = TableRules {
            hooks: mangle_hooks(),
            chains: Chains::default(),
        };
        tables.insert(Table::Mangle, mangle);
    }
    Ruleset { tables }
}

fn hook(chain: Builtin, position: HookPosition, rule: Rule) -> Hook {
    Hook {
        chain,
        position,
        rule,
    }
}

fn noted(conditions: Vec<Match>, to: ChainName, note: &str) -> Rule {
    Rule::new(conditions, Action::Jump(to)).noted(Note::new(note))
}

fn nat_hooks() -> Vec<Hook> {
    let (services, _) = Role::Services.names();
    let to = |chain: &ChainName, note| noted(vec![], chain.clone(), note);
    let portals = to(&services, "kubernetes service portals");
    vec![
        hook(Builtin::Prerouting, HookPosition::First, portals.clone()),
        hook(Builtin::Output, HookPosition::First, portals),
        hook(
            Builtin::Postrouting,
            HookPosition::First,
            to(&postrouting(), "kubernetes postrouting rules"),
        ),
    ]
}

/// Semantics 126. What only refuses or drops may come before everybody's rules; what lets through comes after them: whoever
/// denies a packet has been asked then. Health checks come from the outside: a pod's packets to its node are policy's.
fn filter_hooks(options: &Options) -> Vec<Hook> {
    use Builtin::{Forward, Input, Output};
    use HookPosition::{First, Last};
    let is_new = || vec![Match::CtState([CtState::New].into())];
    let way = |role: Role, note| noted(is_new(), role.names().0, note);
    let firewall = || way(Role::Firewall, "kubernetes load balancer firewall");
    let outside = || {
        way(
            Role::RefusedOutside,
            "kubernetes externally-visible service portals",
        )
    };
    let inside = || way(Role::Refused, "kubernetes service portals");
    let of_no_pod = Match::InInterface(InterfaceMatch::NotPrefix(options.pod_interfaces.clone()));
    let (health, _) = Role::HealthChecks.names();
    let health = noted(
        vec![of_no_pod],
        health,
        "kubernetes health check service ports",
    );
    let mut hooks = Vec::new();
    match options.leads {
        Leads::Chains => hooks.extend([
            hook(Input, First, firewall()),
            hook(Output, First, firewall()),
            hook(Forward, First, firewall()),
        ]),
        // Addresses of Services are this host's then.
        Leads::Ipvs => hooks.push(hook(Input, First, inside())),
    }
    hooks.extend([
        hook(Output, First, inside()),
        hook(Forward, First, inside()),
        hook(Input, First, outside()),
        hook(Forward, First, outside()),
        hook(Input, First, health),
        hook(
            Forward,
            Last,
            noted(vec![], forward(), "kubernetes forwarding rules"),
        ),
    ]);
    hooks
}

/// Who may ask a load balancer's address is asked before IPVS, which takes the node's own packets before the filter table.
fn mangle_hooks() -> Vec<Hook> {
    let (firewall, _) = Role::Firewall.names();
    let is_new = Match::CtState([CtState::New].into());
    let note = "kubernetes load balancer firewall";
    let rule = noted(vec![is_new], firewall, note);
    [Builtin::Prerouting, Builtin::Output]
        .map(|chain| hook(chain, HookPosition::First, rule.clone()))
        .into()
}

/// Sets the bit, and no other.
fn marks(options: &Options) -> Vec<Rule> {
    let mark = options.masquerade_mark;
    let set = Action::SetMark {
        value: mark,
        mask: mark,
    };
    vec![Rule::new([], set), Rule::new([], Action::Return)]
}

/// Semantics 148: the bit goes, so that what is wrapped for a tunnel is not masqueraded once more.
fn masquerades(options: &Options) -> Vec<Rule> {
    let mark = options.masquerade_mark;
    let not_marked = Match::Mark {
        value: mark,
        mask: mark,
        negated: true,
    };
    let mut rules = Vec::new();
    if options.leads == Leads::Ipvs {
        rules.push(served::to_itself());
    }
    rules.extend([
        Rule::new([not_marked], Action::Return),
        Rule::new(
            [],
            Action::SetMark {
                value: mark,
                mask: 0,
            },
        ),
        Rule::new([], Action::Masquerade)
            .noted(Note::new("kubernetes service traffic requiring SNAT")),
    ]);
    rules
}

/// Semantics 141; and what must not fail where everything else is dropped in FORWARD.
fn forwards(options: &Options) -> Vec<Rule> {
    let in_states = |states: &[CtState]| Match::CtState(states.iter().copied().collect());
    let mark = options.masquerade_mark;
    let marked = Match::Mark {
        value: mark,
        mask: mark,
        negated: false,
    };
    let known = in_states(&[CtState::Related, CtState::Established]);
    let invalid = Rule::new([in_states(&[CtState::Invalid])], Action::Drop);
    let mut rules: Vec<Rule> = (!options.tcp_is_liberal)
        .then_some(invalid)
        .into_iter()
        .collect();
    rules.push(Rule::new([marked], Action::Accept).noted(Note::new("kubernetes forwarding rules")));
    rules.push(
        Rule::new([known], Action::Accept).noted(Note::new("kubernetes forwarding conntrack rule")),
    );
    rules.push(Rule::new([], Action::Return));
    rules
}

/// What stands before all Services' rules in a chain.
pub(super) fn before(role: Role, family: Family) -> Vec<Rule> {
    let loopback = match family {
        Family::V4 => IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::V6 => IpNet::from(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    };
    match role {
        // Whoever listens on the loopback is not asked for by another host (route_localnet stays off).
        Role::NodePorts | Role::RefusedOutside => {
            vec![Rule::new([Match::Destination(loopback)], Action::Return)]
        }
        Role::Services | Role::Refused | Role::Firewall | Role::HealthChecks | Role::Hairpin => {
            Vec::new()
        }
    }
}

/// What stands behind all Services' rules in a chain.
pub(super) fn after(role: Role, family: Family, options: &Options) -> Vec<Rule> {
    match role {
        Role::RefusedOutside if options.leads == Leads::Ipvs => {
            vec![served::refuse_others(family)]
        }
        Role::Services => {
            let nets = options.node_port_addresses.iter();
            let nets = nets.filter(|net| Family::of(net.addr()) == family);
            let mut ways: Vec<Vec<Match>> =
                nets.map(|net| vec![Match::Destination(*net)]).collect();
            if options.node_port_addresses.is_empty() {
                ways.push(Vec::new());
            }
            let (node_ports, _) = Role::NodePorts.names();
            let note = "kubernetes service nodeports; this must be the last rule in this chain";
            let local = |mut way: Vec<Match>| {
                way.push(Match::DestinationLocal);
                if options.leads == Leads::Ipvs {
                    way.push(served::is_virtual(family, true));
                }
                noted(way, node_ports.clone(), note)
            };
            let mut rules = Vec::new();
            if options.leads == Leads::Ipvs {
                rules.extend(served::marks(family, options));
            }
            rules.extend(ways.into_iter().map(local));
            if options.leads == Leads::Ipvs {
                rules.push(served::left_to_ipvs(family));
            }
            rules
        }
        Role::NodePorts
        | Role::Refused
        | Role::RefusedOutside
        | Role::Firewall
        | Role::HealthChecks
        | Role::Hairpin => Vec::new(),
    }
}

/// Lets load balancers ask for a Service's health.
pub(super) fn health(service: &NamespacedName, port: u16) -> (Role, (Key, Rule)) {
    let at = [
        Match::Protocol(Protocol::Tcp),
        Match::DestinationPorts(vec![PortRange::new(port, port)]),
    ];
    let note = Note::new(&format!("{service} health check node port"));
    let rule = Rule::new(at, Action::Accept).noted(note);
    (Role::HealthChecks, (Key::port(Protocol::Tcp, port), rule))
}
