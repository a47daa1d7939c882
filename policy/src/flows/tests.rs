//! Entries of every shape against hand-made rules, and what changes of rules touch.

mod dirty;

use std::sync::Arc;

use netfilter::{
    Action, Builtin, ChainName, Family, Hook, HookPosition, InterfaceMatch, IpSet, Match, Rule,
    SetDirection, SetKind, SetName, Table,
};

use super::*;
use crate::FamilyRules;

const NODE: &str = "192.0.2.1";
const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const REMOTE: &str = "10.0.1.9";
const CLIENT: &str = "198.51.100.9";
const VIP: &str = "10.96.0.10";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn iface(name: &str) -> InterfaceName {
    InterfaceName::new(name).unwrap()
}

/// A connection that nothing translated.
fn plain(protocol: u8, from: &str, to: &str, port: u16) -> Entry {
    translated(protocol, from, (to, port), (to, port), from)
}

/// `from` asked `asked`; `server` answers to `back`.
fn translated(
    protocol: u8,
    from: &str,
    asked: (&str, u16),
    server: (&str, u16),
    back: &str,
) -> Entry {
    Entry {
        protocol,
        original: Tuple {
            source: ip(from),
            destination: ip(asked.0),
            source_port: 40000,
            destination_port: asked.1,
        },
        reply: Tuple {
            source: ip(server.0),
            destination: ip(back),
            source_port: server.1,
            destination_port: 40000,
        },
    }
}

struct Node {
    compiled: Compiled,
    addresses: BTreeSet<IpAddr>,
    endpoints: BTreeMap<InterfaceName, Endpoint>,
    cidrs: Vec<IpNet>,
}

impl Node {
    fn new() -> Self {
        let endpoint = |name: &str, addresses: &[&str]| Endpoint {
            pod: api::NamespacedName::new("a", name),
            uid: String::new(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        Self {
            compiled: Compiled::default(),
            addresses: BTreeSet::from([ip(NODE), ip("10.0.0.254")]),
            endpoints: BTreeMap::from([
                (iface("ptl1"), endpoint("x", &[X, "fd00::1"])),
                (iface("ptl2"), endpoint("y", &[Y, "fd00::2"])),
            ]),
            cidrs: vec![
                "10.0.0.0/24".parse().unwrap(),
                "fd00::/120".parse().unwrap(),
            ],
        }
    }

    fn drops(mut self, builtin: Builtin, conditions: Vec<Match>) -> Self {
        for rules in [&mut self.compiled.v4, &mut self.compiled.v6] {
            let table = rules.rules.tables.entry(Table::Filter).or_default();
            table.hooks.push(Hook {
                chain: builtin,
                position: HookPosition::First,
                rule: Rule::new(conditions.clone(), Action::Drop),
            });
        }
        self
    }

    fn cuts(&self, entries: &[Entry]) -> Vec<(usize, Cut)> {
        self.cuts_within(entries, None)
    }

    fn cuts_within(&self, entries: &[Entry], dirty: Option<&Dirty>) -> Vec<(usize, Cut)> {
        let local = Local {
            addresses: &self.addresses,
            pod_cidrs: &self.cidrs,
            endpoints: &self.endpoints,
        };
        Judge::new(&self.compiled, local).cuts(entries, dirty)
    }

    fn is_cut(&self, entry: Entry) -> bool {
        !self.cuts(&[entry]).is_empty()
    }
}

fn out(name: &str) -> Match {
    Match::OutInterface(InterfaceMatch::Exact(iface(name)))
}

fn into(name: &str) -> Match {
    Match::InInterface(InterfaceMatch::Exact(iface(name)))
}

fn dport(protocol: Protocol, port: u16) -> Vec<Match> {
    let ports = vec![netfilter::PortRange::new(port, port)];
    vec![Match::Protocol(protocol), Match::DestinationPorts(ports)]
}

fn with(mut list: Vec<Match>, one: Match) -> Vec<Match> {
    list.push(one);
    list
}

#[test]
fn a_denied_flow_is_cut_and_an_allowed_one_is_not_in_both_families() {
    let node = Node::new().drops(
        Builtin::Forward,
        with(dport(Protocol::Tcp, 80), out("ptl1")),
    );
    let entries = [
        plain(6, REMOTE, X, 80),
        plain(6, REMOTE, X, 81),
        plain(6, REMOTE, Y, 80),
        plain(17, REMOTE, X, 80),
        plain(6, "2001:db8::9", "fd00::1", 80),
        plain(6, "2001:db8::9", "fd00::2", 80),
        plain(6, Y, X, 80),
    ];
    let denied = |index| (index, Cut::Denied);
    assert_eq!(node.cuts(&entries), [denied(0), denied(4), denied(6)]);
}

#[test]
fn through_a_service_the_pod_and_its_own_port_are_judged() {
    let node = Node::new().drops(
        Builtin::Forward,
        with(dport(Protocol::Udp, 5353), out("ptl1")),
    );
    assert!(node.is_cut(translated(17, Y, (VIP, 53), (X, 5353), Y)));
    assert!(
        !node.is_cut(translated(17, Y, (VIP, 5353), (X, 53), Y)),
        "the Service's port is none"
    );
    assert!(!node.is_cut(translated(17, Y, (VIP, 53), (REMOTE, 5353), Y)));
    let node = Node::new().drops(
        Builtin::Forward,
        with(dport(Protocol::Tcp, 8080), into("ptl1")),
    );
    assert!(
        node.is_cut(translated(6, X, (VIP, 80), (REMOTE, 8080), X)),
        "and for egress"
    );
}

#[test]
fn a_masqueraded_flow_is_judged_by_who_really_opened_it() {
    let source = |text: &str| Match::Source(text.parse().unwrap());
    let from_outside = translated(6, CLIENT, (NODE, 30080), (X, 80), NODE);
    let node = Node::new().drops(
        Builtin::Forward,
        vec![source("198.51.100.0/24"), out("ptl1")],
    );
    assert!(node.is_cut(from_outside));
    let node = Node::new().drops(Builtin::Forward, vec![source("192.0.2.1/32"), out("ptl1")]);
    assert!(
        !node.is_cut(from_outside),
        "the node's address came after FORWARD"
    );
    let to_outside = translated(6, X, (CLIENT, 443), (CLIENT, 443), NODE);
    let node = Node::new().drops(Builtin::Forward, vec![source("10.0.0.1/32"), into("ptl1")]);
    assert!(node.is_cut(to_outside));
}

#[test]
fn a_hairpin_goes_out_where_it_came_in() {
    let hairpin = translated(6, X, (VIP, 80), (X, 8080), NODE);
    let node = Node::new().drops(Builtin::Forward, vec![into("ptl1"), out("ptl1")]);
    assert!(node.is_cut(hairpin) && !node.is_cut(plain(6, Y, X, 80)));
    let source = Match::Source("192.0.2.1/32".parse().unwrap());
    let node = Node::new().drops(Builtin::Forward, vec![source]);
    assert!(
        !node.is_cut(hairpin),
        "it is masqueraded only later (semantics 41)"
    );
}

#[test]
fn what_this_node_itself_opened_is_never_cut() {
    let node = Node::new()
        .drops(Builtin::Forward, vec![])
        .drops(Builtin::Output, vec![]);
    assert!(!node.is_cut(plain(6, NODE, X, 80)) && !node.is_cut(plain(6, "127.0.0.1", X, 80)));
    assert!(!node.is_cut(translated(6, NODE, (VIP, 80), (X, 8080), NODE)));
}

#[test]
fn what_a_pod_sends_to_its_own_node_goes_by_input() {
    let node = Node::new().drops(
        Builtin::Input,
        with(dport(Protocol::Tcp, 10250), into("ptl1")),
    );
    assert!(node.is_cut(plain(6, X, NODE, 10250)) && node.is_cut(plain(6, X, "10.0.0.254", 10250)));
    assert!(!node.is_cut(plain(6, X, NODE, 22)) && !node.is_cut(plain(6, X, CLIENT, 10250)));
    assert!(
        node.is_cut(translated(6, X, (VIP, 443), (NODE, 10250), X)),
        "by a Service too"
    );
    let node = Node::new().drops(Builtin::Forward, vec![]);
    assert!(!node.is_cut(plain(6, X, NODE, 10250)), "and not by FORWARD");
}

#[test]
fn what_only_passes_through_is_left_alone() {
    let node = Node::new().drops(Builtin::Forward, vec![]);
    assert!(!node.is_cut(plain(6, REMOTE, CLIENT, 80)));
    assert!(!node.is_cut(translated(6, CLIENT, (NODE, 30080), (REMOTE, 80), NODE)));
}

#[test]
fn an_echo_is_judged_as_one() {
    let node = Node::new().drops(
        Builtin::Forward,
        vec![Match::Protocol(Protocol::Icmp), out("ptl1")],
    );
    assert!(node.is_cut(plain(1, Y, X, 0)) && !node.is_cut(plain(6, Y, X, 0)));
    let neighbour = vec![Match::Protocol(Protocol::Icmpv6), Match::Icmpv6Type(135)];
    let node = Node::new().drops(Builtin::Forward, neighbour);
    assert!(
        !node.is_cut(plain(58, "fd00::2", "fd00::1", 135)),
        "not as neighbour discovery"
    );
}

#[test]
fn rule_52_entries_of_addresses_that_no_pod_holds_any_more_go() {
    let node = Node::new();
    let entries = [
        plain(6, REMOTE, "10.0.0.77", 80),
        plain(17, "10.0.0.77", CLIENT, 53),
        translated(17, CLIENT, (NODE, 30053), ("10.0.0.77", 53), NODE),
        plain(6, "2001:db8::9", "fd00::77", 80),
        plain(6, REMOTE, X, 80),
        plain(6, REMOTE, "10.0.0.254", 80),
        plain(6, NODE, "10.0.0.77", 80),
        plain(6, REMOTE, CLIENT, 80),
    ];
    let orphaned = |index| (index, Cut::Orphaned);
    let wanted = [0, 1, 2, 3].map(orphaned);
    assert_eq!(node.cuts(&entries), wanted);
    assert_eq!(
        node.cuts_within(&entries, Some(&Dirty::default())),
        wanted,
        "whatever changed"
    );
}

#[test]
fn only_what_a_change_may_have_touched_is_asked() {
    let node = Node::new().drops(Builtin::Forward, vec![]);
    let entries = [
        plain(6, REMOTE, X, 80),
        plain(6, CLIENT, X, 80),
        plain(6, CLIENT, Y, 80),
    ];
    let cut = |dirty: Dirty| -> Vec<usize> {
        let cuts = node.cuts_within(&entries, Some(&dirty));
        cuts.into_iter().map(|(index, _)| index).collect()
    };
    let clean = Dirty::default();
    assert_eq!(cut(clean.clone()), [0usize; 0]);
    assert_eq!(
        cut(Dirty {
            everything: true,
            ..clean.clone()
        }),
        [0, 1, 2]
    );
    assert_eq!(
        cut(Dirty {
            addresses: BTreeSet::from([ip(REMOTE)]),
            ..clean.clone()
        }),
        [0]
    );
    let net = "198.51.100.0/24".parse().unwrap();
    assert_eq!(
        cut(Dirty {
            networks: BTreeSet::from([net]),
            ..clean.clone()
        }),
        [1, 2]
    );
    assert_eq!(
        cut(Dirty {
            interfaces: BTreeSet::from([iface("ptl1")]),
            ..clean
        }),
        [0, 1]
    );
}
