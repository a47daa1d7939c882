//! Plans carried out by the real iptables (both back ends, both families) and ipset, each in a network namespace.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test, which starts the real programs"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use netfilter::*;
use nix::sched::{CloneFlags, unshare};

const PROGRAMS: [(&str, Family); 4] = [
    ("iptables-nft", Family::V4),
    ("iptables-legacy", Family::V4),
    ("ip6tables-nft", Family::V6),
    ("ip6tables-legacy", Family::V6),
];

/// Runs a test in a thread with a network namespace of its own; says so loudly where that is not possible.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("REQUIRE_NETNS").is_none(),
            "REQUIRE_NETNS is set, but this is not root"
        );
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let enter_and_test = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    std::thread::spawn(enter_and_test).join().unwrap();
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("XTABLES_LOCKFILE", "/dev/null");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {error}\n{input}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn iptables(program: &str, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    run(program, &words, "");
}

fn save(program: &str) -> Actual {
    Actual::parse(&run(&format!("{program}-save"), &["-c"], "")).unwrap()
}

/// Carries a plan out and checks that what is read back is what was foretold; returns how many rules it wrote.
fn apply(program: &str, desired: &Ruleset) -> usize {
    let made = plan(&save(program), desired, Effort::Exact);
    if let Some(text) = &made.restore {
        run(&format!("{program}-restore"), &["--noflush", "-w"], text);
    }
    let read_back = save(program);
    let again = plan(&read_back, desired, Effort::Exact);
    assert_eq!(
        again.restore, None,
        "{program}: not what was wanted after\n{:?}",
        made.restore
    );
    let ours_of = |actual: &Actual| actual.rule_count();
    assert_eq!(ours_of(&read_back), ours_of(&made.after));
    made.rules_written
}

fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

fn set_name(family: Family) -> SetName {
    SetName::fixed(family, "endpoints")
}

fn net(family: Family) -> ipnet::IpNet {
    let text = if family == Family::V4 {
        "10.1.0.0/16"
    } else {
        "fd00:1::/32"
    };
    text.parse().unwrap()
}

/// One rule for every kind of condition and action there is.
fn every_kind(family: Family) -> Vec<Rule> {
    let set = |direction, negated| Match::Set {
        name: set_name(family),
        direction,
        negated,
    };
    let states = |states: &[CtState]| Match::CtState(states.iter().copied().collect());
    let host = net(family).hosts().next().unwrap().into();
    let mut rules = vec![
        Rule::new(
            [Match::InInterface(InterfaceMatch::Prefix(name("ptl")))],
            Action::Return,
        ),
        Rule::new(
            [Match::OutInterface(InterfaceMatch::Exact(name(
                "ptl0123456789a",
            )))],
            Action::Drop,
        ),
        Rule::new(
            [Match::Source(net(family)), Match::Destination(host)],
            Action::Accept,
        ),
        Rule::new([Match::Protocol(Protocol::IpInIp)], Action::Drop),
        Rule::new([Match::Protocol(Protocol::Ipv6InIp)], Action::Drop),
        Rule::new(
            [
                Match::Protocol(Protocol::Tcp),
                Match::TcpNotSyn,
                states(&[CtState::New]),
            ],
            Action::Drop,
        ),
        Rule::new(
            [states(&[CtState::Established, CtState::Related])],
            Action::Accept,
        ),
        Rule::new([states(&[CtState::Invalid])], Action::Drop),
        Rule::new([set(SetDirection::DestinationAndOut, true)], Action::Drop),
        Rule::new([set(SetDirection::SourceAndIn, false)], Action::Return),
        Rule::new(
            [Match::Mark {
                value: 0x10000,
                mask: 0x10000,
                negated: false,
            }],
            Action::Return,
        ),
        Rule::new(
            [Match::Mark {
                value: 0,
                mask: 0xf0000,
                negated: false,
            }],
            Action::Goto(ChainName::fixed("OTHER")),
        ),
        Rule::new(
            [],
            Action::SetMark {
                value: 0,
                mask: 0xf0000,
            },
        ),
        Rule::new(
            [],
            Action::SetMark {
                value: 0x20000,
                mask: 0x20000,
            },
        ),
        Rule::new([], Action::Jump(ChainName::fixed("OTHER"))),
    ];
    rules.extend(every_kind_of_port(family));
    rules
}

fn every_kind_of_port(family: Family) -> Vec<Rule> {
    let ports = |ranges: &[(u16, u16)]| {
        Match::DestinationPorts(
            ranges
                .iter()
                .map(|(first, last)| PortRange::new(*first, *last))
                .collect(),
        )
    };
    let mut rules = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let lists: [&[(u16, u16)]; 6] = [
            &[(80, 80)],
            &[(0, 5)],
            &[(1024, 65535)],
            &[(0, 65535)],
            &[(1, 2), (5, 5)],
            &[(65535, 65535)],
        ];
        for list in lists {
            rules.push(Rule::new(
                [Match::Protocol(protocol), ports(list)],
                Action::Return,
            ));
        }
        rules.push(Rule::new([Match::Protocol(protocol)], Action::Return));
    }
    let many: Vec<(u16, u16)> = (0..7)
        .map(|n| (n * 10 + 1, n * 10 + 2))
        .chain([(99, 99)])
        .collect();
    rules.push(Rule::new(
        [Match::Protocol(Protocol::Udp), ports(&many)],
        Action::Return,
    ));
    if family == Family::V6 {
        let discovery = [Match::Protocol(Protocol::Icmpv6), Match::Icmpv6Type(135)];
        rules.push(Rule::new(discovery, Action::Return));
    } else {
        rules.push(Rule::new([Match::Protocol(Protocol::Icmp)], Action::Return));
    }
    rules
}

fn example(family: Family) -> Ruleset {
    let hooks = vec![
        Hook {
            chain: Builtin::Forward,
            position: HookPosition::First,
            rule: Rule::new([], Action::Jump(ChainName::fixed("FORWARD"))),
        },
        Hook {
            chain: Builtin::Forward,
            position: HookPosition::Last,
            rule: Rule::new(
                [Match::Mark {
                    value: 0x10000,
                    mask: 0x10000,
                    negated: false,
                }],
                Action::Accept,
            ),
        },
    ];
    let chains = BTreeMap::from([
        (ChainName::fixed("FORWARD"), every_kind(family).into()),
        (
            ChainName::fixed("OTHER"),
            vec![Rule::new([], Action::Return)].into(),
        ),
    ]);
    let raw_chain = ChainName::fixed("PREROUTING");
    let raw = TableRules {
        hooks: vec![Hook {
            chain: Builtin::Prerouting,
            position: HookPosition::First,
            rule: Rule::new([], Action::Jump(raw_chain.clone())),
        }],
        chains: BTreeMap::from([(raw_chain, vec![Rule::new([], Action::Return)].into())]),
    };
    Ruleset {
        tables: BTreeMap::from([
            (Table::Filter, TableRules { hooks, chains }),
            (Table::Raw, raw),
        ]),
    }
}

fn edit_forward(ruleset: &mut Ruleset, edit: impl FnOnce(&mut Vec<Rule>)) {
    let filter = ruleset.tables.get_mut(&Table::Filter).unwrap();
    let chain = filter.chains.get_mut(&ChainName::fixed("FORWARD")).unwrap();
    let mut rules = chain.to_vec();
    edit(&mut rules);
    *chain = rules.into();
}

fn make_sets(family: Family) {
    let name = set_name(family);
    let set = IpSet::new(name.clone(), family, SetKind::HashNetIface);
    let made = plan_sets(
        &ActualSets::default(),
        &BTreeMap::from([(name, set.into())]),
    );
    run("ipset", &["restore", "-exist"], &made.before.unwrap());
}

fn with_each_program(test: impl Fn(&'static str, Family) + Send + Sync + Copy + 'static) {
    for (program, family) in PROGRAMS {
        in_namespace(move || {
            make_sets(family);
            test(program, family);
        });
    }
}

#[test]
fn every_kind_of_rule_is_accepted_and_read_back_as_it_was_written() {
    with_each_program(|program, family| {
        let desired = example(family);
        let rules = every_kind(family).len() + 1 + 2 + 2;
        assert_eq!(apply(program, &desired), rules);
        assert_eq!(apply(program, &desired), 0, "a restart changes nothing");
    });
}

#[test]
fn one_changed_rule_writes_one_deletion_and_one_insertion() {
    with_each_program(|program, family| {
        let mut desired = example(family);
        apply(program, &desired);
        edit_forward(&mut desired, |chain| {
            chain[7] = Rule::new([], Action::Return);
        });
        assert_eq!(apply(program, &desired), 2);
        edit_forward(&mut desired, |chain| {
            chain.insert(3, Rule::new([], Action::Return));
            chain.insert(
                4,
                Rule::new([Match::Protocol(Protocol::Udp)], Action::Return),
            );
        });
        assert_eq!(apply(program, &desired), 2);
        edit_forward(&mut desired, |chain| {
            chain.push(Rule::new([], Action::Drop));
        });
        assert_eq!(apply(program, &desired), 1);
    });
}

#[test]
fn tampering_is_repaired_exactly() {
    with_each_program(|program, family| {
        let desired = example(family);
        apply(program, &desired);
        iptables(program, "-D PTL-FORWARD 3");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-I PTL-FORWARD 2 -j ACCEPT");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-R PTL-FORWARD 5 -j ACCEPT");
        assert_eq!(apply(program, &desired), 2);
        iptables(program, "-F PTL-OTHER");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-D FORWARD 1");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-t raw -F PREROUTING");
        iptables(program, "-t raw -F PTL-PREROUTING");
        iptables(program, "-t raw -X PTL-PREROUTING");
        assert_eq!(apply(program, &desired), 2);
    });
}

#[test]
fn hooks_move_back_past_others_rules_which_stay_as_they_are() {
    with_each_program(|program, family| {
        let desired = example(family);
        iptables(program, "-N OTHERS");
        iptables(program, "-A FORWARD -j OTHERS");
        apply(program, &desired);
        let others = |program: &str| -> Vec<String> {
            let text = run(&format!("{program}-save"), &["-t", "filter"], "");
            let lines = text
                .lines()
                .filter(|line| line.starts_with("-A") && !line.contains("PTL-"));
            lines
                .filter(|line| !line.contains("ptl:"))
                .map(str::to_owned)
                .collect()
        };
        iptables(
            program,
            "-I FORWARD 1 -p tcp -m comment --comment above -j OTHERS",
        );
        iptables(program, "-A FORWARD -p udp -j DROP");
        iptables(program, "-I FORWARD 3 -p udp -j OTHERS");
        let before = others(program);
        assert_eq!(before.len(), 4);
        assert_eq!(
            apply(program, &desired),
            4,
            "each hook is taken out and put in again"
        );
        assert_eq!(others(program), before);
        let text = run(&format!("{program}-save"), &["-t", "filter"], "");
        let forward: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-A FORWARD "))
            .collect();
        assert!(forward.first().unwrap().ends_with("-j PTL-FORWARD"));
        assert!(forward.last().unwrap().contains("--mark 0x10000/0x10000") && forward.len() == 6);
        iptables(program, "-I FORWARD 1 -j PTL-FORWARD");
        assert_eq!(
            apply(program, &desired),
            3,
            "the stray jump goes, the hook moves up"
        );
    });
}

#[test]
fn chains_that_refer_to_each_other_go_in_one_transaction_and_others_stay() {
    with_each_program(|program, family| {
        iptables(program, "-N OTHERS");
        iptables(program, "-A FORWARD -j OTHERS");
        let full = example(family);
        apply(program, &full);
        let mut less = full.clone();
        let filter = less.tables.get_mut(&Table::Filter).unwrap();
        filter.chains.remove(&ChainName::fixed("OTHER"));
        edit_forward(&mut less, |chain| {
            chain.retain(|rule| !matches!(rule.action(), Action::Jump(_) | Action::Goto(_)));
        });
        apply(program, &less);
        apply(program, &full);
        apply(program, &Ruleset::default());
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("PTL-") && !text.contains("ptl:"), "{text}");
        assert!(text.contains("-A FORWARD -j OTHERS"));
    });
}

fn sets_now() -> ActualSets {
    parse_sets(&run("ipset", &["save"], "")).unwrap()
}

fn apply_sets(desired: &BTreeMap<SetName, IpSet>) -> usize {
    let shared = |(name, set): (&SetName, &IpSet)| (name.clone(), Arc::new(set.clone()));
    let desired = &desired.iter().map(shared).collect();
    let made = plan_sets(&sets_now(), desired);
    if let Some(text) = &made.before {
        run("ipset", &["restore", "-exist"], text);
    }
    assert_eq!(sets_now(), made.applied);
    if let Some(text) = &made.after {
        run("ipset", &["restore", "-exist"], text);
    }
    assert_eq!(sets_now(), made.applied_after);
    let again = plan_sets(&sets_now(), desired);
    assert_eq!((again.before, again.after), (None, None));
    made.members_written
}

fn every_set() -> BTreeMap<SetName, IpSet> {
    let mut sets = BTreeMap::new();
    let texts = [
        (Family::V4, "10.1.0.0/16", "10.1.2.3"),
        (Family::V6, "fd00:1::/32", "fd00:1::3"),
    ];
    for (family, net, address) in texts {
        let (net, address): (ipnet::IpNet, std::net::IpAddr) =
            (net.parse().unwrap(), address.parse().unwrap());
        let new = |name: &'static str, kind| IpSet::new(SetName::fixed(family, name), family, kind);
        let mut ips = new("ip", SetKind::HashIp);
        ips.insert_ip(address);
        let mut nets = new("net", SetKind::HashNet);
        nets.insert_net(net);
        nets.insert_net(address.into());
        let everything = if family == Family::V4 {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        nets.insert_net(everything.parse().unwrap());
        let mut ifaces = new("iface", SetKind::HashNetIface);
        ifaces.insert_net_iface(address.into(), &name("ptl0123456789a"));
        ifaces.insert_net_iface(net, &name("ptl0123456789b"));
        for set in [ips, nets, ifaces, new("empty", SetKind::HashIp)] {
            sets.insert(set.name().clone(), set);
        }
    }
    sets
}

#[test]
fn sets_of_every_kind_are_made_changed_in_place_and_read_back() {
    in_namespace(|| {
        run("ipset", &["create", "foreign", "hash:ip"], "");
        assert_eq!(apply_sets(&every_set()), 14);
        assert_eq!(apply_sets(&every_set()), 0, "a restart changes nothing");
        let mut changed = every_set();
        let set = changed
            .get_mut(&SetName::fixed(Family::V4, "empty"))
            .unwrap();
        set.insert_ip("10.9.9.9".parse().unwrap());
        assert_eq!(apply_sets(&changed), 1);
        assert_eq!(apply_sets(&every_set()), 1);
        run("ipset", &["del", "ptl4-ip", "10.1.2.3"], "");
        run("ipset", &["add", "ptl6-ip", "fd00::9"], "");
        assert_eq!(apply_sets(&every_set()), 2, "tampering is repaired");
        apply_sets(&BTreeMap::new());
        assert_eq!(run("ipset", &["list", "-n"], "").trim(), "foreign");
    });
}

#[test]
fn a_set_in_use_is_remade_by_a_swap_and_one_of_another_type_is_replaced() {
    in_namespace(|| {
        let rule = "-A FORWARD -m set --match-set ptl4-ip src -j DROP";
        run(
            "ipset",
            &[
                "create", "ptl4-ip", "hash:ip", "maxelem", "10", "timeout", "0",
            ],
            "",
        );
        run("ipset", &["create", "ptl4-net", "hash:ip"], "");
        run("ipset", &["create", "ptl4-tmp-left", "hash:ip"], "");
        iptables("iptables-nft", rule);
        assert_eq!(apply_sets(&every_set()), 14);
        iptables("iptables-nft", &rule.replace("-A", "-D"));
        apply_sets(&BTreeMap::new());
    });
}

#[test]
fn what_the_kernel_can_hold_of_a_word_from_outside_leaves_the_lines_as_they_are() {
    with_each_program(|program, family| {
        let words = [
            "a\n-A FORWARD -j ACCEPT",
            "\"",
            "'; reboot",
            "\0",
            "../../etc",
            "-j ACCEPT",
            "\\\"",
        ];
        let mut desired = example(family);
        let filter = desired.tables.get_mut(&Table::Filter).unwrap();
        for word in words {
            filter.chains.insert(
                ChainName::hashed("PI", &[word]),
                vec![Rule::new([], Action::Drop)].into(),
            );
        }
        let names: BTreeSet<&ChainName> = filter.chains.keys().collect();
        assert_eq!(names.len(), words.len() + 2);
        apply(program, &desired);
        assert_eq!(apply(program, &desired), 0);
    });
}
