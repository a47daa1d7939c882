//! Packets led through what is compiled, against the list of host ports itself.

use expect_test::expect;
use netfilter::Effort;
use proptest::prelude::*;

use super::*;

fn prefix() -> InterfaceName {
    InterfaceName::new("ptl").unwrap()
}

fn port(protocol: Protocol, host: &str, number: u16, pod: &str, pod_port: u16) -> HostPort {
    let host_ip = (!host.is_empty()).then(|| host.parse().unwrap());
    HostPort {
        claim: Claim {
            protocol,
            port: number,
            host_ip,
        },
        pod: pod.parse().unwrap(),
        pod_port,
        interface: InterfaceName::new(&format!("ptl{}", netfilter::short_hash(&[pod], 11)))
            .unwrap(),
    }
}

fn compile_all(ports: &[HostPort]) -> Compiled {
    compile(ports.iter().cloned(), &prefix(), &BTreeSet::new())
}

/// Many ports of one pod, some apart.
fn many(count: u16) -> Vec<HostPort> {
    let numbers = (0..count).map(|n| n.wrapping_mul(7919) | 1);
    numbers
        .map(|number| port(Protocol::Tcp, "", number, "10.244.1.5", 80))
        .collect()
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    protocol: Protocol,
    to: IpAddr,
    port: u16,
}

/// Where a new flow to the node is led, and how many rules it met in our chains.
fn led(rules: &FamilyRules, probe: Probe) -> (Option<(IpAddr, u16)>, usize) {
    let Some(nat) = rules.rules.tables.get(&Table::Nat) else {
        return (None, 0);
    };
    let mut chain = ChainName::fixed("HOSTPORT-DNAT");
    let mut met = 0;
    'chain: loop {
        for rule in nat.chains[&chain].iter() {
            met += 1;
            let holds = rule.matches().iter().all(|condition| match condition {
                Match::Protocol(protocol) => *protocol == probe.protocol,
                Match::DestinationPorts(ranges) => ranges
                    .iter()
                    .any(|range| (range.first()..=range.last()).contains(&probe.port)),
                Match::Destination(net) => net.contains(&probe.to),
                other => panic!("not expected on the way: {other:?}"),
            });
            match rule.action() {
                _ if !holds => {}
                Action::Return => return (None, met),
                Action::Dnat { address, port } => return (Some((*address, *port)), met),
                Action::Goto(next) => {
                    chain = next.clone();
                    continue 'chain;
                }
                other => panic!("not expected on the way: {other:?}"),
            }
        }
        panic!("{chain} has no end");
    }
}

/// The same from the list: what names the address goes before what names none.
fn expected(ports: &BTreeSet<HostPort>, probe: Probe) -> Option<(IpAddr, u16)> {
    let unled = |ip: IpAddr| match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    let mine = ports.iter().filter(|port| {
        port.claim.protocol == probe.protocol
            && port.claim.port == probe.port
            && port.claim.covers(probe.to)
            && port.family() == Some(Family::of(probe.to))
            && !unled(probe.to)
    });
    let mine: Vec<&HostPort> = mine.collect();
    let exact = mine
        .iter()
        .find(|port| port.claim.host_ip == Some(probe.to));
    let port = exact.or(mine.first())?;
    Some((port.pod, port.pod_port))
}

fn address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["10.0.0.1", "127.0.0.1", "fd00::1", "::1", "fe80::9"])
}

fn any_port() -> impl Strategy<Value = HostPort> {
    let host = prop_oneof![
        3 => Just(""),
        1 => Just("0.0.0.0"),
        1 => Just("::"),
        1 => address(),
    ];
    let number = prop_oneof![0u16..40, 8000u16..8100, any::<u16>()];
    let pod = prop::sample::select(vec!["10.244.1.5", "10.244.1.6", "fd00:1::5", "fd00:1::6"]);
    let protocol = prop::sample::select(PROTOCOLS.to_vec());
    (protocol, host, number, pod, 1u16..)
        .prop_map(|(protocol, host, number, pod, to)| port(protocol, host, number, pod, to))
}

proptest! {
    #[test]
    fn every_packet_is_led_as_the_list_says(
        ports in prop::collection::vec(any_port(), 0..60),
        others in prop::collection::vec((any::<u16>(), address()), 8),
    ) {
        let compiled = compile_all(&ports);
        let listed: BTreeSet<HostPort> = ports.iter().cloned().collect();
        let known = ports.iter().map(|port| port.claim.port);
        for number in known.chain(others.iter().map(|(number, _)| *number)) {
            for to in ["10.0.0.1", "10.0.0.2", "127.0.0.1", "fd00::1", "fd00::2", "::1", "fe80::9"] {
                for protocol in PROTOCOLS {
                    let probe = Probe { protocol, to: to.parse().unwrap(), port: number };
                    let rules = if probe.to.is_ipv4() { &compiled.v4 } else { &compiled.v6 };
                    prop_assert_eq!(led(rules, probe).0, expected(&listed, probe), "{:?}", probe);
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_list_makes_no_difference(
        mut ports in prop::collection::vec(any_port(), 0..40), by in 0usize..40
    ) {
        let first = compile_all(&ports);
        let length = ports.len().max(1);
        ports.rotate_left(by % length);
        ports.reverse();
        prop_assert_eq!(compile_all(&ports), first);
    }

    #[test]
    fn claims_clash_exactly_if_some_packet_is_for_both(one in any_port(), two in any_port()) {
        let (one, mut two) = (one.claim, two.claim);
        (two.protocol, two.port) = (one.protocol, one.port);
        let hosts = ["10.0.0.1", "10.0.0.2", "127.0.0.1", "fd00::1", "fd00::2", "::1", "fe80::9"];
        let shared = hosts.iter().any(|host| {
            let host = host.parse().unwrap();
            one.covers(host) && two.covers(host)
        });
        prop_assert_eq!(one.clashes(&two), shared);
        two.port = two.port.wrapping_add(1);
        prop_assert!(!one.clashes(&two));
    }
}

#[test]
fn a_packet_meets_few_rules_however_many_host_ports_there_are() {
    let most = |count| {
        let compiled = compile_all(&many(count));
        let probes = (0..=u16::MAX).map(|port| Probe {
            protocol: Protocol::Tcp,
            to: "10.0.0.1".parse().unwrap(),
            port,
        });
        probes.map(|probe| led(&compiled.v4, probe).1).max()
    };
    assert_eq!(most(1), Some(3));
    assert!(most(500) <= Some(32), "{:?}", most(500));
    assert!(most(10_000) <= Some(48), "{:?}", most(10_000));
}

#[test]
fn without_host_ports_no_table_is_named_and_without_a_family_none_of_it() {
    assert_eq!(compile_all(&[]), Compiled::default());
    let only_v6 = compile_all(&[port(Protocol::Tcp, "::", 80, "fd00:1::5", 80)]);
    assert_eq!(only_v6.v4, FamilyRules::default());
    assert_eq!(only_v6.v6.rules.tables.len(), 1);
    // An address of the other family leads nowhere.
    let other = compile_all(&[port(Protocol::Tcp, "10.0.0.1", 80, "fd00:1::5", 80)]);
    assert_eq!(other, Compiled::default());
}

#[test]
fn one_port_more_among_five_hundred_writes_few_rules() {
    let mut ports = many(500);
    let nothing = netfilter::Actual::default();
    let before = compile_all(&ports);
    let there = netfilter::plan(&nothing, &before.v4.rules, Effort::Exact).after;
    ports.push(port(Protocol::Tcp, "", 8080, "10.244.1.6", 80));
    let after = compile_all(&ports);
    let plan = netfilter::plan(&there, &after.v4.rules, Effort::Additive);
    assert!(plan.rules_written <= 40, "{}", plan.rules_written);
    let text = plan.restore.unwrap();
    assert!(!text.contains("\n-D ") && !text.contains("\n-F "), "{text}");
}

#[test]
fn a_chain_that_the_kernel_refuses_is_left_out_and_said_and_all_else_is_led() {
    let sctp = port(Protocol::Sctp, "", 9, "10.244.1.5", 9);
    let tcp = port(Protocol::Tcp, "", 9, "10.244.1.5", 9);
    let both = [sctp.clone(), tcp.clone()];
    let nat = &compile_all(&both).v4.rules.tables[&Table::Nat];
    let of_sctp = |rules: &[Rule]| rules.iter().any(|rule| rule.render().contains("sctp"));
    let refused = nat
        .chains
        .iter()
        .filter(|(name, rules)| name.as_str().starts_with("PTL-HP-") && of_sctp(rules));
    let refused: BTreeSet<ChainName> = refused.map(|(name, _)| name.clone()).collect();
    assert_eq!(refused.len(), 1);
    let compiled = compile(both, &prefix(), &refused);
    assert_eq!(compiled.left_out, BTreeSet::from([sctp]));
    assert_eq!(compiled.led, BTreeSet::from([tcp]));
    let nat = &compiled.v4.rules.tables[&Table::Nat];
    assert!(!nat.chains.values().any(|rules| of_sctp(rules)));
    // Where not even what all need is taken, nothing stands in the way of policy's rules.
    let all = [port(Protocol::Tcp, "", 9, "10.244.1.5", 9)];
    let compiled = compile(all.clone(), &prefix(), &BTreeSet::from([masquerade_name()]));
    assert_eq!(
        (&compiled.v4, compiled.led.len()),
        (&FamilyRules::default(), 0)
    );
    assert_eq!(compiled.left_out, BTreeSet::from(all));
}

#[test]
fn the_rules_of_two_pods_are_these() {
    let compiled = compile_all(&[
        port(Protocol::Tcp, "", 8080, "10.244.1.5", 80),
        port(Protocol::Udp, "127.0.0.1", 53, "10.244.1.6", 5353),
        port(Protocol::Tcp, "", 8080, "fd00:1::5", 80),
    ]);
    let mut text = String::new();
    for rules in [&compiled.v4, &compiled.v6] {
        let nothing = netfilter::Actual::default();
        text += &netfilter::plan(&nothing, &rules.rules, Effort::Exact)
            .restore
            .unwrap();
        for set in rules.sets.values() {
            text += &format!("{} {:?}\n", set.name(), set.members());
        }
    }
    expect![[r#"
        *raw
        -I PREROUTING 1 -d 127.0.0.0/8 -i ptl+ -m comment --comment "ptl:0c009993dca9" -j DROP
        -I PREROUTING 2 -s 127.0.0.0/8 -i ptl+ -m comment --comment "ptl:f6bfb6ead92d" -j DROP
        COMMIT
        *nat
        :PTL-HOSTPORT-DNAT - [0:0]
        :PTL-HOSTPORT-MASQ - [0:0]
        :PTL-HP-1424644a2228cd27 - [0:0]
        :PTL-HP-68bba7d0d1120559 - [0:0]
        -A PTL-HOSTPORT-DNAT -p tcp -m comment --comment "ptl:4b5d14aec156" -g PTL-HP-68bba7d0d1120559
        -A PTL-HOSTPORT-DNAT -p udp -m comment --comment "ptl:c17446382a9b" -g PTL-HP-1424644a2228cd27
        -A PTL-HOSTPORT-DNAT -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-HOSTPORT-MASQ -s 127.0.0.0/8 -m comment --comment "ptl:e8582879b1ce" -j MASQUERADE --random-fully
        -A PTL-HOSTPORT-MASQ -m set --match-set ptl4-hairpin src,dst -m comment --comment "ptl:d3770f0ea2d3" -j MASQUERADE --random-fully
        -A PTL-HOSTPORT-MASQ -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-HP-1424644a2228cd27 -d 127.0.0.1/32 -p udp -m udp --dport 53 -m comment --comment "ptl:a8fcadc55216" -j DNAT --to-destination 10.244.1.6:5353
        -A PTL-HP-1424644a2228cd27 -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-HP-68bba7d0d1120559 -p tcp -m tcp --dport 8080 -m comment --comment "ptl:a8105e90ead9" -j DNAT --to-destination 10.244.1.5:80
        -A PTL-HP-68bba7d0d1120559 -m comment --comment "ptl:ed15d496518a" -j RETURN
        -I OUTPUT 1 -m addrtype --dst-type LOCAL -m comment --comment "ptl:7d72e1d62075" -j PTL-HOSTPORT-DNAT
        -I POSTROUTING 1 -o ptl+ -m comment --comment "ptl:c09d15e90ae5" -j PTL-HOSTPORT-MASQ
        -I PREROUTING 1 -m addrtype --dst-type LOCAL -m comment --comment "ptl:7d72e1d62075" -j PTL-HOSTPORT-DNAT
        COMMIT
        ptl4-hairpin {NetIface(10.244.1.5/32, InterfaceName("ptle078f466472")), NetIface(10.244.1.6/32, InterfaceName("ptlcd3fe373e86"))}
        *nat
        :PTL-HOSTPORT-DNAT - [0:0]
        :PTL-HOSTPORT-MASQ - [0:0]
        :PTL-HP-118e8a326cdb0511 - [0:0]
        -A PTL-HOSTPORT-DNAT -d ::1/128 -m comment --comment "ptl:54d9ac005976" -j RETURN
        -A PTL-HOSTPORT-DNAT -d fe80::/10 -m comment --comment "ptl:563c589b68fd" -j RETURN
        -A PTL-HOSTPORT-DNAT -p tcp -m comment --comment "ptl:387aa6f3e567" -g PTL-HP-118e8a326cdb0511
        -A PTL-HOSTPORT-DNAT -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-HOSTPORT-MASQ -m set --match-set ptl6-hairpin src,dst -m comment --comment "ptl:729a90c68631" -j MASQUERADE --random-fully
        -A PTL-HOSTPORT-MASQ -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-HP-118e8a326cdb0511 -p tcp -m tcp --dport 8080 -m comment --comment "ptl:c52fb5805e7c" -j DNAT --to-destination [fd00:1::5]:80
        -A PTL-HP-118e8a326cdb0511 -m comment --comment "ptl:ed15d496518a" -j RETURN
        -I OUTPUT 1 -m addrtype --dst-type LOCAL -m comment --comment "ptl:7d72e1d62075" -j PTL-HOSTPORT-DNAT
        -I POSTROUTING 1 -o ptl+ -m comment --comment "ptl:c09d15e90ae5" -j PTL-HOSTPORT-MASQ
        -I PREROUTING 1 -m addrtype --dst-type LOCAL -m comment --comment "ptl:7d72e1d62075" -j PTL-HOSTPORT-DNAT
        COMMIT
        ptl6-hairpin {NetIface(fd00:1::5/128, InterfaceName("ptl2a1a0fa057a"))}
    "#]].assert_eq(&text);
}
