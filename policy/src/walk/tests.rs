//! Hand-made rules, and what the kernel does with packets by them.

use std::sync::Arc;

use ipnet::IpNet;

use netfilter::{Family, Hook, IpSet, PortRange, SetDirection, SetKind, TableRules};
use proptest::prelude::*;

use super::*;

fn iface(name: &str) -> InterfaceName {
    InterfaceName::new(name).unwrap()
}

fn packet() -> Packet {
    Packet {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        input: Some(iface("ptl1")),
        output: Some(iface("eth0")),
        protocol: 6,
        source_port: 1000,
        port: 80,
        state: CtState::New,
        syn: true,
        reply: false,
        source_local: false,
        destination_local: false,
        mark: 0,
    }
}

fn set(name: &SetName, direction: SetDirection, negated: bool) -> Match {
    Match::Set {
        name: name.clone(),
        direction,
        negated,
    }
}

fn chain(name: &'static str) -> ChainName {
    ChainName::fixed(name)
}

#[derive(Default)]
struct Made(FamilyRules);

impl Made {
    fn hook(&mut self, table: Table, chain: Builtin, position: HookPosition, rule: Rule) {
        let table = self.0.rules.tables.entry(table).or_default();
        table.hooks.push(Hook {
            chain,
            position,
            rule,
        });
    }

    fn chain(&mut self, table: Table, name: &'static str, rules: Vec<Rule>) {
        let table: &mut TableRules = self.0.rules.tables.entry(table).or_default();
        table.chains.insert(chain(name), rules.into());
    }

    fn set(&mut self, name: &'static str, kind: SetKind, fill: impl FnOnce(&mut IpSet)) -> SetName {
        let name = SetName::fixed(Family::V4, name);
        let mut set = IpSet::new(name.clone(), Family::V4, kind);
        fill(&mut set);
        self.0.sets.insert(name.clone(), Arc::new(set));
        name
    }

    /// Whether a packet that meets the conditions is dropped, by one rule at the head of FORWARD.
    fn matches(&self, conditions: Vec<Match>, packet: &Packet) -> bool {
        let mut made = Self(self.0.clone());
        let rule = Rule::new(conditions, Action::Drop);
        made.hook(Table::Filter, Builtin::Forward, HookPosition::First, rule);
        walk(&made.0, packet).verdict == WalkVerdict::Dropped
    }
}

fn jump(name: &'static str) -> Rule {
    Rule::new([], Action::Jump(chain(name)))
}

fn mark(value: u32) -> Rule {
    Rule::new([], Action::SetMark { value, mask: 0xf0 })
}

fn if_mark(value: u32, action: Action) -> Rule {
    Rule::new(
        [Match::Mark {
            value,
            mask: 0xf0,
            negated: false,
        }],
        action,
    )
}

#[test]
fn the_hooks_are_those_of_the_packets_way() {
    let all = [
        Builtin::Prerouting,
        Builtin::Input,
        Builtin::Forward,
        Builtin::Output,
        Builtin::Postrouting,
    ];
    let met = |packet: &Packet| -> Vec<Builtin> {
        let mut made = Made::default();
        for builtin in all {
            let pass = Rule::new([], Action::Return);
            made.hook(Table::Mangle, builtin, HookPosition::First, pass);
        }
        let trail = walk(&made.0, packet).trail;
        let place = |tried: &Tried| match &tried.chain {
            Place::Builtin(builtin) => *builtin,
            Place::Chain(name) => panic!("{name}"),
        };
        trail.iter().map(place).collect()
    };
    assert_eq!(
        met(&packet()),
        [Builtin::Prerouting, Builtin::Forward, Builtin::Postrouting]
    );
    let to_host = Packet {
        output: None,
        ..packet()
    };
    assert_eq!(met(&to_host), [Builtin::Prerouting, Builtin::Input]);
    let from_host = Packet {
        input: None,
        ..packet()
    };
    assert_eq!(met(&from_host), [Builtin::Output, Builtin::Postrouting]);
}

#[test]
fn raw_goes_first_and_its_accept_is_no_verdict() {
    let mut made = Made::default();
    made.hook(
        Table::Raw,
        Builtin::Prerouting,
        HookPosition::First,
        Rule::new([], Action::Accept),
    );
    assert_eq!(walk(&made.0, &packet()).verdict, WalkVerdict::Passed);
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        Rule::new([], Action::Accept),
    );
    assert_eq!(walk(&made.0, &packet()).verdict, WalkVerdict::Accepted);
    made.hook(
        Table::Mangle,
        Builtin::Postrouting,
        HookPosition::First,
        Rule::new([], Action::Drop),
    );
    assert_eq!(
        walk(&made.0, &packet()).verdict,
        WalkVerdict::Dropped,
        "the guard comes after"
    );
}

#[test]
fn a_jump_comes_back_and_a_goto_comes_back_to_the_caller() {
    let mut made = Made::default();
    let last = if_mark(0x30, Action::Accept);
    made.hook(Table::Filter, Builtin::Forward, HookPosition::Last, last);
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        jump("A"),
    );
    made.chain(
        Table::Filter,
        "A",
        vec![
            jump("B"),
            if_mark(
                0x20,
                Action::SetMark {
                    value: 0x30,
                    mask: 0xf0,
                },
            ),
        ],
    );
    let on = Rule::new([], Action::Goto(chain("C")));
    made.chain(Table::Filter, "B", vec![mark(0x10), on, mark(0x40)]);
    made.chain(
        Table::Filter,
        "C",
        vec![mark(0x20), Rule::new([], Action::Return), mark(0x50)],
    );
    let walked = walk(
        &made.0,
        &Packet {
            mark: 0xff,
            ..packet()
        },
    );
    assert_eq!(walked.verdict, WalkVerdict::Accepted);
    let trail: Vec<(String, usize)> = walked
        .trail
        .iter()
        .map(|tried| match &tried.chain {
            Place::Builtin(builtin) => (builtin.name().to_owned(), tried.index),
            Place::Chain(name) => (name.to_string(), tried.index),
        })
        .collect();
    let wanted = [
        ("FORWARD", 0),
        ("PTL-A", 0),
        ("PTL-B", 0),
        ("PTL-B", 1),
        ("PTL-C", 0),
        ("PTL-C", 1),
        ("PTL-A", 1),
        ("FORWARD", 1),
    ];
    assert_eq!(trail, wanted.map(|(name, index)| (name.to_owned(), index)));
}

#[test]
fn each_condition_asks_for_its_part_of_the_packet() {
    let made = Made::default();
    let holds = |condition: Match, packet: Packet| made.matches(vec![condition], &packet);
    assert!(holds(Match::SourcePort(1000), packet()) && !holds(Match::SourcePort(80), packet()));
    assert!(
        holds(
            Match::CtReply,
            Packet {
                reply: true,
                ..packet()
            }
        ) && !holds(Match::CtReply, packet())
    );
    assert!(holds(
        Match::SourceLocal,
        Packet {
            source_local: true,
            ..packet()
        }
    ));
    assert!(!holds(Match::SourceLocal, packet()) && !holds(Match::DestinationLocal, packet()));
    assert!(holds(
        Match::DestinationLocal,
        Packet {
            destination_local: true,
            ..packet()
        }
    ));
    assert!(holds(Match::Limit { rate: 1 }, packet()));
    assert!(
        holds(
            Match::TcpNotSyn,
            Packet {
                syn: false,
                ..packet()
            }
        ) && !holds(Match::TcpNotSyn, packet())
    );
    assert!(!holds(
        Match::TcpNotSyn,
        Packet {
            protocol: 17,
            syn: false,
            ..packet()
        }
    ));
    let ports = || Match::DestinationPorts(vec![PortRange::new(79, 80), PortRange::new(9, 9)]);
    assert!(
        holds(ports(), packet())
            && !holds(
                ports(),
                Packet {
                    port: 81,
                    ..packet()
                }
            )
    );
}

#[test]
fn interfaces_icmp_types_and_marks_are_asked() {
    let made = Made::default();
    let holds = |condition: Match, packet: Packet| made.matches(vec![condition], &packet);
    let prefix = || Match::InInterface(InterfaceMatch::Prefix(iface("ptl")));
    assert!(holds(prefix(), packet()));
    assert!(!holds(
        Match::OutInterface(InterfaceMatch::Prefix(iface("ptl"))),
        packet()
    ));
    let neighbour = || Match::Icmpv6Type(135);
    assert!(holds(
        neighbour(),
        Packet {
            protocol: 58,
            port: 135,
            ..packet()
        }
    ));
    assert!(
        !holds(
            neighbour(),
            Packet {
                port: 135,
                ..packet()
            }
        ),
        "not a port of TCP"
    );
    assert!(holds(
        Match::Mark {
            value: 0,
            mask: 0xf0,
            negated: false
        },
        packet()
    ));
    assert!(!holds(
        Match::Mark {
            value: 0,
            mask: 0xf0,
            negated: true
        },
        packet()
    ));
}

#[test]
fn sets_of_each_kind_are_asked() {
    let mut made = Made::default();
    let source: IpAddr = "10.0.0.1".parse().unwrap();
    let destination: IpAddr = "10.0.0.2".parse().unwrap();
    let ips = made.set("ips", SetKind::HashIp, |set| set.insert_ip(source));
    let nets = made.set("nets", SetKind::HashNet, |set| {
        set.insert_net("10.0.0.0/31".parse().unwrap());
        set.insert_net("192.0.2.0/24".parse().unwrap());
    });
    let ports = made.set("ports", SetKind::HashIpPort, |set| {
        set.insert_ip_port(destination, Protocol::Tcp, 80)
    });
    let behind = made.set("behind", SetKind::HashNetIface, |set| {
        set.insert_net_iface("10.0.0.1/32".parse().unwrap(), &iface("ptl1"));
    });
    let all = made.set("all", SetKind::HashNet, |set| {
        set.insert_net("0.0.0.0/0".parse().unwrap())
    });
    let holds = |name: &SetName, direction, packet: &Packet| {
        made.matches(vec![set(name, direction, false)], packet)
    };
    use SetDirection::{
        Destination, DestinationAndOut, DestinationAndPort, Source, SourceAndIn, SourceAndOut,
    };
    assert!(holds(&ips, Source, &packet()) && !holds(&ips, Destination, &packet()));
    assert!(holds(&nets, Source, &packet()) && !holds(&nets, Destination, &packet()));
    assert!(holds(&all, Source, &packet()) && holds(&all, Destination, &packet()));
    assert!(holds(&ports, DestinationAndPort, &packet()));
    assert!(!holds(
        &ports,
        DestinationAndPort,
        &Packet {
            protocol: 17,
            ..packet()
        }
    ));
    assert!(!holds(
        &ports,
        DestinationAndPort,
        &Packet {
            port: 81,
            ..packet()
        }
    ));
    assert!(!holds(
        &ports,
        DestinationAndPort,
        &Packet {
            protocol: 1,
            ..packet()
        }
    ));
    assert!(
        holds(&behind, SourceAndIn, &packet()) && !holds(&behind, DestinationAndOut, &packet())
    );
    let hairpin = Packet {
        output: packet().input,
        ..packet()
    };
    assert!(holds(&behind, SourceAndOut, &hairpin) && !holds(&behind, SourceAndOut, &packet()));
    assert!(!holds(
        &behind,
        SourceAndIn,
        &Packet {
            input: Some(iface("ptl2")),
            ..packet()
        }
    ));
    assert!(
        made.matches(vec![set(&ips, Destination, true)], &packet()),
        "negated"
    );
    let missing = SetName::fixed(Family::V4, "missing");
    assert!(
        !holds(&missing, Source, &packet()),
        "a set that is not there has no members"
    );
}

#[test]
fn two_sets_in_one_rule_are_each_asked_by_its_own_name() {
    let mut made = Made::default();
    let one = made.set("one", SetKind::HashIp, |set| {
        set.insert_ip("10.0.0.1".parse().unwrap())
    });
    let two = made.set("two", SetKind::HashIp, |set| {
        set.insert_ip("10.0.0.2".parse().unwrap())
    });
    let both = |a, b| vec![set(&one, a, false), Match::CtReply, set(&two, b, false)];
    let reply = Packet {
        reply: true,
        ..packet()
    };
    assert!(made.matches(
        both(SetDirection::Source, SetDirection::Destination),
        &reply
    ));
    assert!(!made.matches(
        both(SetDirection::Destination, SetDirection::Source),
        &reply
    ));
    assert!(!made.matches(
        both(SetDirection::Source, SetDirection::Destination),
        &packet()
    ));
}

#[test]
fn a_loop_ends_closed_and_a_missing_chain_returns() {
    let mut made = Made::default();
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        jump("GONE"),
    );
    assert_eq!(walk(&made.0, &packet()).verdict, WalkVerdict::Passed);
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        jump("A"),
    );
    made.chain(Table::Filter, "A", vec![jump("A"), jump("A")]);
    assert_eq!(walk(&made.0, &packet()).verdict, WalkVerdict::Dropped);
}

#[test]
fn a_queue_ends_the_table_as_accept_does() {
    let mut made = Made::default();
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        Rule::new([], Action::Nfqueue { queue: 1 }),
    );
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        Rule::new([], Action::Drop),
    );
    assert_eq!(walk(&made.0, &packet()).verdict, WalkVerdict::Accepted);
}

#[test]
fn rules_that_were_read_back_are_walked_and_foreign_ones_never_match() {
    let drop = Rule::new([], Action::Drop);
    let name = chain("A");
    let hook = jump("A");
    let sets: [(&SetName, &BTreeSet<Member>); 0] = [];
    let hooks = [(Table::Filter, Builtin::Forward, &hook)];
    let tables = Tables::new(
        hooks,
        [(Table::Filter, &name, vec![None, Some(&drop)])],
        sets,
    );
    let walked = tables.walk(&packet());
    assert_eq!(walked.verdict, WalkVerdict::Dropped);
    let said: Vec<(usize, bool)> = walked
        .trail
        .iter()
        .map(|tried| (tried.index, tried.matched))
        .collect();
    assert_eq!(said, [(0, true), (0, false), (1, true)]);
    assert_eq!(tables.verdict(&packet()), walked.verdict);
}

#[test]
fn a_save_of_the_kernels_tables_is_walked_as_the_rules_that_were_written() {
    let mut made = Made::default();
    let conditions = vec![
        Match::Protocol(Protocol::Tcp),
        Match::DestinationPorts(vec![PortRange::new(80, 80)]),
        set(
            &SetName::fixed(Family::V4, "s"),
            SetDirection::Source,
            false,
        ),
    ];
    made.set("s", SetKind::HashIp, |set| set.insert_ip(packet().source));
    let drop = Rule::new(conditions, Action::Drop);
    made.hook(
        Table::Filter,
        Builtin::Forward,
        HookPosition::First,
        jump("A"),
    );
    made.chain(
        Table::Filter,
        "A",
        vec![mark(0x10), drop.clone(), Rule::new([], Action::Return)],
    );
    let text = format!(
        "*filter\n:FORWARD ACCEPT [0:0]\n:PTL-A - [0:0]\n-A FORWARD {}\n-A FORWARD -j DROP\n-A PTL-A {}\n-A PTL-A {}\n-A PTL-A -p udp -j DROP\nCOMMIT\n",
        jump("A").render(),
        mark(0x10).render(),
        drop.render(),
    );
    let saved = Saved::parse(&text).unwrap();
    let shape = "hash:ip family inet hashsize 1024 maxelem 1048576";
    let sets = format!("create ptl4-s {shape}\nadd ptl4-s {}\n", packet().source);
    let sets = netfilter::parse_sets(&sets).unwrap();
    let tables = Tables::saved(&saved, sets.members());
    let walked = tables.walk(&packet());
    assert_eq!(walked, walk(&made.0, &packet()));
    assert_eq!(walked.verdict, WalkVerdict::Dropped);
    let other = tables.walk(&Packet {
        port: 81,
        ..packet()
    });
    assert_eq!(other.verdict, WalkVerdict::Passed);
    assert!(
        other
            .trail
            .iter()
            .any(|tried| tried.index == 2 && !tried.matched),
        "another's rule in our chain"
    );
}

proptest! {
    #[test]
    fn a_look_up_by_prefix_length_finds_what_a_look_at_every_member_finds(
        nets in prop::collection::vec((any::<u32>(), 1u8..=32, 0..2u8), 0..20), address in any::<u32>(), near in any::<prop::sample::Index>(),
    ) {
        let nets: Vec<IpNet> = nets.iter().map(|(bits, length, _)| IpNet::new(IpAddr::V4((*bits).into()), *length).unwrap().trunc()).collect();
        let mut set = IpSet::new(SetName::fixed(Family::V4, "x"), Family::V4, SetKind::HashNet);
        nets.iter().for_each(|net| set.insert_net(*net));
        let mut sources = vec![IpAddr::V4(address.into())];
        if !nets.is_empty() {
            sources.push(near.get(&nets).broadcast());
        }
        for source in sources {
            let wanted = nets.iter().any(|net| net.contains(&source));
            let members = Members::new(set.members());
            prop_assert_eq!(members.has(SetDirection::Source, &Packet { source, ..packet() }), wanted);
        }
    }
}
