//! Packets led through what is compiled, against what the pools themselves say.

use std::net::IpAddr;

use expect_test::expect;
use netfilter::{Effort, Member};
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn pool(cidr: &str, nat_outgoing: bool, exceptions: &[&str]) -> Pool {
    Pool {
        cidr: net(cidr),
        nat_outgoing,
        exceptions: nets(exceptions),
    }
}

fn view(pools: Vec<Pool>, own: &[&str], inside: &[&str]) -> View {
    View {
        pools,
        own: nets(own),
        inside: Arc::new(nets(inside)),
    }
}

fn compiled(view: &View) -> Compiled {
    compile(view, &InterfaceName::new("ptl").unwrap(), &BTreeSet::new())
}

fn holds(rules: &FamilyRules, name: &SetName, address: IpAddr) -> bool {
    let members = rules.sets[name].members().iter();
    let mut nets = members.map(|member| match member {
        Member::Net(net) => net,
        other => panic!("not expected in {name}: {other}"),
    });
    nets.any(|net| net.contains(&address))
}

fn matches(rules: &FamilyRules, rule: &Rule, (from, to, out): (IpAddr, IpAddr, &str)) -> bool {
    rule.matches().iter().all(|condition| match condition {
        Match::OutInterface(InterfaceMatch::NotPrefix(prefix)) => !out.starts_with(prefix.as_str()),
        Match::Set {
            name,
            direction: SetDirection::Source,
            negated: false,
        } => holds(rules, name, from),
        Match::Set {
            name,
            direction: SetDirection::Destination,
            negated: false,
        } => holds(rules, name, to),
        other => panic!("not expected on the way: {other:?}"),
    })
}

/// Whether a flow leaves with the node's address.
fn is_masqueraded(compiled: &Compiled, from: IpAddr, to: IpAddr, out: &str) -> bool {
    let rules = match from {
        IpAddr::V4(_) => &compiled.v4,
        IpAddr::V6(_) => &compiled.v6,
    };
    let Some(nat) = rules.rules.tables.get(&Table::Nat) else {
        return false;
    };
    let [hook] = nat.hooks.as_slice() else {
        panic!("{:?}", nat.hooks)
    };
    let flow = (from, to, out);
    let Action::Jump(name) = hook.rule.action() else {
        panic!("{hook:?}")
    };
    if !matches(rules, &hook.rule, flow) {
        return false;
    }
    let chain = nat.chains[name].iter();
    let met = chain.clone().find(|rule| matches(rules, rule, flow));
    match met.expect("the chain has an end").action() {
        Action::Return => false,
        Action::Masquerade => true,
        other => panic!("not expected on the way: {other:?}"),
    }
}

/// The same from the words of the view.
fn expected(view: &View, from: IpAddr, to: IpAddr, out: &str) -> bool {
    let pool = view.pools.iter().find(|pool| pool.cidr.contains(&from));
    let is_own = view.own.iter().any(|net| net.contains(&from));
    let is_never = match to {
        IpAddr::V4(to) => to.is_link_local() || to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_unicast_link_local() || to.is_multicast(),
    };
    let pools = view.pools.iter().map(|pool| &pool.cidr);
    let mut inside = pools.chain(view.inside.iter()).chain(&view.own);
    let is_inside = inside.any(|net| net.contains(&to));
    let is_excepted = |pool: &Pool| pool.exceptions.iter().any(|net| net.contains(&to));
    let nat = pool.filter(|pool| pool.nat_outgoing && !is_excepted(pool));
    is_own && !out.starts_with("ptl") && nat.is_some() && !is_never && !is_inside
}

/// Few networks, so that they meet: in and beside one another.
fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0u8..4, 0u8..8, 22u8..=32).prop_map(|(third, fourth, length)| {
        IpNet::new(IpAddr::from([10, 0, third, fourth * 32 + 1]), length)
            .unwrap()
            .trunc()
    });
    let v6 = (0u16..4, 118u8..=128).prop_map(|(last, length)| {
        IpNet::new(
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last * 0x100 + 1]),
            length,
        )
        .unwrap()
        .trunc()
    });
    prop_oneof![3 => v4, 1 => v6]
}

fn any_nets(most: usize) -> impl Strategy<Value = BTreeSet<IpNet>> {
    prop::collection::btree_set(any_net(), 0..most)
}

fn any_view() -> impl Strategy<Value = View> {
    let pool = (any_net(), any::<bool>(), any_nets(3));
    let pool = pool.prop_map(|(cidr, nat_outgoing, exceptions)| Pool {
        cidr,
        nat_outgoing,
        exceptions,
    });
    let parts = (prop::collection::vec(pool, 0..5), any_nets(5), any_nets(4));
    parts.prop_map(|(pools, own, inside)| View {
        pools,
        own,
        inside: Arc::new(inside),
    })
}

/// Addresses at the edges of networks, where mistakes are.
fn edges(view: &View) -> BTreeSet<IpAddr> {
    let pools = view
        .pools
        .iter()
        .flat_map(|pool| pool.exceptions.iter().chain([&pool.cidr]));
    let all = pools.chain(&view.own).chain(view.inside.iter());
    let mut edges: BTreeSet<IpAddr> = all
        .flat_map(|net| [net.network(), net.broadcast()])
        .collect();
    for text in [
        "192.0.2.9",
        "169.254.9.9",
        "224.0.0.5",
        "255.255.255.255",
        "2001:db8::9",
        "fe80::9",
        "ff02::5",
    ] {
        edges.insert(text.parse().unwrap());
    }
    edges
}

proptest! {
    #[test]
    fn every_flow_is_masqueraded_as_the_pools_say(view in any_view()) {
        let compiled = compiled(&view);
        let edges = edges(&view);
        for from in &edges {
            for to in edges.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
                for out in ["eth0", "vxlan.portolan", "ptl0123456789a"] {
                    prop_assert_eq!(
                        is_masqueraded(&compiled, *from, *to, out),
                        expected(&view, *from, *to, out),
                        "{} to {} by {}", from, to, out
                    );
                }
            }
        }
    }

    #[test]
    fn no_member_of_a_set_lies_in_another(view in any_view()) {
        let compiled = compiled(&view);
        for set in compiled.v4.sets.values().chain(compiled.v6.sets.values()) {
            let members: Vec<String> = set.members().iter().map(ToString::to_string).collect();
            let nets: Vec<IpNet> = members.iter().map(|member| net(member)).collect();
            for one in &nets {
                prop_assert_eq!(nets.iter().filter(|two| two.contains(one)).count(), 1, "{:?}", nets);
            }
        }
    }
}

#[test]
fn pods_and_nodes_are_inside_exceptions_are_the_pools_own_and_a_pool_without_it_is_left_alone() {
    let view = view(
        vec![
            pool("10.48.0.0/16", true, &["198.51.100.0/24"]),
            pool("10.49.0.0/16", false, &[]),
            pool("10.50.0.0/16", true, &[]),
        ],
        &[
            "10.48.1.0/26",
            "10.49.1.0/26",
            "10.50.1.0/26",
            "10.244.1.0/24",
        ],
        &["192.0.2.1/32", "192.0.2.2/32", "10.244.2.0/24"],
    );
    let compiled = compiled(&view);
    let cases = [
        ("10.48.1.5", "203.0.113.9", true),
        ("10.48.1.5", "198.51.100.9", false),
        ("10.50.1.5", "198.51.100.9", true),
        ("10.48.1.5", "192.0.2.1", false),
        ("10.48.1.5", "192.0.2.2", false),
        ("10.48.1.5", "192.0.2.3", true),
        ("10.48.1.5", "10.48.2.5", false),
        ("10.48.1.5", "10.49.2.5", false),
        ("10.48.1.5", "10.244.2.5", false),
        ("10.48.1.5", "169.254.169.254", false),
        ("10.49.1.5", "203.0.113.9", false),
        ("10.244.1.5", "203.0.113.9", false),
        // Of another node's pod, and of a node.
        ("10.48.2.5", "203.0.113.9", false),
        ("192.0.2.1", "203.0.113.9", false),
    ];
    for (from, to, wanted) in cases {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(
            is_masqueraded(&compiled, from, to, "eth0"),
            wanted,
            "{from} to {to}"
        );
    }
    assert_eq!(compiled.sources, nets(&["10.48.1.0/26", "10.50.1.0/26"]));
}

#[test]
fn without_a_pod_in_such_a_pool_no_table_is_named_and_a_family_has_none_of_the_others() {
    let pools = || {
        vec![
            pool("10.48.0.0/16", true, &[]),
            pool("fd48::/64", false, &[]),
        ]
    };
    let nothing = compiled(&view(pools(), &["10.244.1.0/24"], &[]));
    assert_eq!(nothing, Compiled::default());
    let only_v4 = compiled(&view(
        pools(),
        &["10.48.1.0/26", "fd48::/122"],
        &["192.0.2.1/32"],
    ));
    assert_eq!(only_v4.v6, FamilyRules::default());
    assert_eq!(only_v4.v4.rules.tables.len(), 1);
}

#[test]
fn a_family_whose_chain_the_kernel_refuses_goes_without_and_the_other_does_not() {
    let pools = vec![
        pool("10.48.0.0/16", true, &[]),
        pool("fd48::/64", true, &[]),
    ];
    let view = view(pools, &["10.48.1.0/26", "fd48::/122"], &[]);
    let broken = BTreeSet::from([chain_name(Family::V6)]);
    let compiled = compile(&view, &InterfaceName::new("ptl").unwrap(), &broken);
    assert_eq!(compiled.left_out, BTreeSet::from([Family::V6]));
    assert_eq!(compiled.v6, FamilyRules::default());
    assert_eq!(compiled.sources, nets(&["10.48.1.0/26"]));
}

#[test]
fn of_pools_that_overlap_the_first_has_the_address() {
    let view = view(
        vec![
            pool("10.48.1.0/28", false, &[]),
            pool("10.48.0.0/16", true, &[]),
        ],
        &["10.48.1.0/26"],
        &[],
    );
    let sources = compiled(&view).sources;
    assert_eq!(sources, nets(&["10.48.1.16/28", "10.48.1.32/27"]));
}

#[test]
fn a_block_more_is_one_member_and_no_rule() {
    let before = compiled(&view(
        vec![pool("10.48.0.0/16", true, &[])],
        &["10.48.1.0/26"],
        &[],
    ));
    let own = ["10.48.1.0/26", "10.48.9.0/26"];
    let after = compiled(&view(vec![pool("10.48.0.0/16", true, &[])], &own, &[]));
    assert_eq!(before.v4.rules, after.v4.rules);
    let count = |compiled: &Compiled| {
        compiled
            .v4
            .sets
            .values()
            .map(|set| set.members().len())
            .sum::<usize>()
    };
    assert_eq!(count(&after), count(&before) + 1);
}

#[test]
fn the_rules_of_two_pools_are_these() {
    let view = view(
        vec![
            pool(
                "10.48.0.0/16",
                true,
                &["198.51.100.0/24", "198.51.100.7/32"],
            ),
            pool("10.49.0.0/16", true, &[]),
            pool("fd48::/64", true, &[]),
        ],
        &["10.48.1.0/26", "10.49.1.0/26", "fd48::40/122"],
        &["192.0.2.1/32", "10.48.1.0/26", "2001:db8::1/128"],
    );
    let compiled = compiled(&view);
    let mut text = String::new();
    for rules in [&compiled.v4, &compiled.v6] {
        let nothing = netfilter::Actual::default();
        text += &netfilter::plan(&nothing, &rules.rules, Effort::Exact)
            .restore
            .unwrap();
        for set in rules.sets.values() {
            let members: Vec<String> = set.members().iter().map(ToString::to_string).collect();
            text += &format!("{}: {}\n", set.name(), members.join(" "));
        }
    }
    expect![[r#"
        *nat
        :PTL-EGRESS - [0:0]
        -A PTL-EGRESS -m set --match-set ptl4-inside dst -m comment --comment "ptl:2a3c4a83e5dc" -j RETURN
        -A PTL-EGRESS -m set --match-set ptl4-egr-from-318c1d8ada167592 src -m set --match-set ptl4-egr-to-318c1d8ada167592 dst -m comment --comment "ptl:344f1bbcbf6c" -j RETURN
        -A PTL-EGRESS -m comment --comment "ptl:31e4f1ec98cf" -j MASQUERADE --random-fully
        -I POSTROUTING 1 ! -o ptl+ -m set --match-set ptl4-egress src -m comment --comment "ptl:3836d7aed661" -j PTL-EGRESS
        COMMIT
        ptl4-egr-from-318c1d8ada167592: 10.48.1.0/26
        ptl4-egr-to-318c1d8ada167592: 198.51.100.0/24
        ptl4-egress: 10.48.1.0/26 10.49.1.0/26
        ptl4-inside: 10.48.0.0/16 10.49.0.0/16 169.254.0.0/16 192.0.2.1/32 224.0.0.0/4 255.255.255.255/32
        *nat
        :PTL-EGRESS6 - [0:0]
        -A PTL-EGRESS6 -m set --match-set ptl6-inside dst -m comment --comment "ptl:20855689b179" -j RETURN
        -A PTL-EGRESS6 -m comment --comment "ptl:31e4f1ec98cf" -j MASQUERADE --random-fully
        -I POSTROUTING 1 ! -o ptl+ -m set --match-set ptl6-egress src -m comment --comment "ptl:063891c49e41" -j PTL-EGRESS6
        COMMIT
        ptl6-egress: fd48::40/122
        ptl6-inside: 2001:db8::1/128 fd48::/64 fe80::/10 ff00::/8
    "#]].assert_eq(&text);
}
