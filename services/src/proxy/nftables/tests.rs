//! What the tables do with a packet, against the same words of the rules as the mode iptables; what is compiled hangs on what is alone.

mod machine;

use std::net::SocketAddr;

use netfilter::nft::{Hook, Message, plan};
use proptest::prelude::*;

use self::machine::Machine;
use super::*;
use crate::proxy::iptables::tests::incremental::{fresh, step, take};
use crate::proxy::iptables::tests::interpreter::{Outcome, Packet};
use crate::proxy::iptables::tests::reference::{
    By, SENDERS, addresses, different, expected, protocol, same, usable, world,
};
use crate::proxy::iptables::tests::worlds::{Spec, spec};
use crate::proxy::tests::World;

fn compiler() -> Compiler {
    Compiler::new(Options::new(InterfaceName::new("ptl").unwrap()))
}

fn compiled(world: &World) -> Compiler {
    let mut compiler = compiler();
    let all = world.model.services().map(|(name, _)| name.clone());
    compiler.update(&world.model, &all.collect());
    compiler
}

/// Chains that are led to are there, and no others but where the kernel asks and the two that all share.
fn check_links(parts: &Parts) {
    use netfilter::nft::{Expr, Verdict};
    let chains = || parts.values().flat_map(|part| &part.chains);
    let of_rules = chains().flat_map(|(_, chain)| chain.rules.iter().flatten());
    let mut asked: BTreeSet<&Name> = of_rules
        .filter_map(|expr| match expr {
            Expr::Verdict(Verdict::Goto(name)) => Some(name),
            _ => None,
        })
        .collect();
    let elements = parts.values().flat_map(|part| part.elements.values());
    asked.extend(elements.filter_map(|value| match value {
        Value::Goto(name) => Some(name),
        _ => None,
    }));
    use crate::proxy::model::Scope::{Cluster, Local};
    let firsts = [Cluster, Local].map(base::firsts);
    let shared = [base::refuse(), base::drop()];
    asked.extend(&firsts);
    asked.extend(&shared);
    let there: BTreeSet<&Name> = chains()
        .filter(|(_, chain)| chain.hook.is_none())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(asked, there);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn rules_125_to_136_by_nftables_every_sender_at_every_address_gets_what_the_rules_say(
        specs in prop::collection::vec(spec(), 1..5)
    ) {
        let specs = different(specs);
        let compiler = compiled(&world(&specs));
        let machine = Machine::new(compiler.parts(Family::V4));
        let mut asked = 0;
        for (to, port) in addresses(&specs) {
            for (source, input) in SENDERS {
                for protocol in [netfilter::Protocol::Tcp, netfilter::Protocol::Udp, netfilter::Protocol::Sctp] {
                    let packet = Packet { source: source.parse().unwrap(), input, to, port, protocol, remembered: None };
                    let found = machine.judge(&packet, None);
                    let expected = expected(&specs, &packet, By::Maps);
                    prop_assert!(same(&found, &expected), "{packet:?}: {found:?}, but the rules say {expected:?}");
                    asked += 1;
                }
            }
        }
        prop_assert!(asked >= 3 * 8 * 3);
    }

    #[test]
    fn rule_137_by_nftables_a_client_keeps_its_endpoint_and_gets_another_when_that_is_gone(
        spec in spec(), remembered in 0usize..4
    ) {
        let spec = Spec { affinity: true, internal_is_local: false, ..spec };
        let compiler = compiled(&world(std::slice::from_ref(&spec)));
        let machine = Machine::new(compiler.parts(Family::V4));
        let kept = usable(&spec, false).get(remembered).copied();
        let gone: SocketAddr = "10.1.9.9:8080".parse().unwrap();
        let packet = Packet {
            source: "10.1.0.9".parse().unwrap(),
            input: Some("ptl9"),
            to: spec.cluster_ip().parse().unwrap(),
            port: 80,
            protocol: protocol(&spec),
            remembered: None,
        };
        let found = machine.judge(&packet, Some(kept.unwrap_or(gone)));
        match kept {
            Some(kept) => prop_assert_eq!(found, Outcome::To([(kept, (1.0, false))].into())),
            None => prop_assert!(same(&found, &expected(std::slice::from_ref(&spec), &packet, By::Maps))),
        }
    }

    #[test]
    fn any_order_of_changes_gives_the_tables_of_what_is(steps in prop::collection::vec(step(), 0..25)) {
        let mut world = World::new();
        let mut compiler = compiler();
        for step in &steps {
            let changed = take(&mut world, step);
            compiler.update(&world.model, &changed);
            check_links(compiler.parts(Family::V4));
            check_links(compiler.parts(Family::V6));
        }
        prop_assert_eq!(&compiler, &compiled(&fresh(&world)));
    }
}

#[test]
fn rule_147_a_change_of_endpoints_changes_elements_and_all_else_is_the_same_allocation() {
    use crate::proxy::tests::{Is, endpoint};
    let mut world = crate::proxy::iptables::tests::incremental::many(300);
    let mut compiler = compiled(&world);
    let before = compiler.parts(Family::V4).clone();
    assert!(plan(Family::V4, &before, &before).is_empty());
    let endpoints: Vec<_> = (0..6)
        .map(|of| endpoint(&format!("10.{}.0.8", of + 1), "n2", Is::Ready))
        .collect();
    let mut change = |of: &str, endpoints: &[serde_json::Value]| {
        let before = compiler.parts(Family::V4).clone();
        let changed = world.endpoints(of, endpoints);
        compiler.update(&world.model, &changed);
        let after = compiler.parts(Family::V4);
        let same = before.iter().filter(|(name, part)| {
            let now = after.get(*name);
            now.is_some_and(|now| Arc::ptr_eq(now, part))
        });
        let steps = plan(Family::V4, &before, after);
        assert_eq!(steps.transactions.len(), 1);
        // What counts flows stays as it is, and counts on.
        let counting = b"\x0d\0\x02\0services\0";
        let is_counting = |message: &Message| {
            let mut octets = message.body.windows(counting.len());
            octets.any(|octets| octets == counting)
        };
        assert!(!steps.transactions[0].iter().any(is_counting));
        (before.len() - same.count(), steps.requests())
    };
    // The first with six: a map, two chains with five rules, endpoints; its door and other endpoints go, its door comes.
    assert_eq!(change("s7", &endpoints), (2, 12));
    // Another finds those; its first endpoint is another, too.
    assert_eq!(change("s8", &endpoints), (1, 6));
    // One for another: it goes and comes.
    let mut others = endpoints.clone();
    others[2] = endpoint("10.3.0.9", "n2", Is::Ready);
    assert_eq!(change("s8", &others), (1, 2));
}

/// The kernel asks chains as they were when the packet came, and elements as they are now.
#[test]
fn a_packet_between_two_states_is_led_to_the_first_endpoint_and_never_goes_on_as_it_came() {
    let world = crate::proxy::iptables::tests::incremental::many(3);
    let compiler = compiled(&world);
    let packet = Packet {
        source: "10.1.0.9".parse().unwrap(),
        input: Some("ptl9"),
        to: "10.96.0.2".parse().unwrap(),
        port: 80,
        protocol: netfilter::Protocol::Tcp,
        remembered: None,
    };
    let led = |parts: &Parts| match Machine::new(parts).judge(&packet, None) {
        Outcome::To(led) => led,
        other => panic!("{other:?}"),
    };
    let all = led(compiler.parts(Family::V4));
    assert_eq!(all.len(), 5);
    let mut parts = Parts::clone(compiler.parts(Family::V4));
    let service = Arc::make_mut(parts.get_mut("shop/s1").unwrap());
    service
        .elements
        .retain(|(set, _), _| !set.as_str().starts_with("endpoints"));
    let found = led(&parts);
    let first = all.keys().next();
    assert_eq!(found.keys().collect::<Vec<_>>(), [first.unwrap()]);

    // One that finds no door, as a kernel may while another takes its place.
    let doors = |set: &Name| set.as_str() == "doors";
    let service = Arc::make_mut(parts.get_mut("shop/s1").unwrap());
    service.elements.retain(|(set, _), _| !doors(set));
    let outcome = Machine::new(&parts).judge(&packet, None);
    assert_eq!(outcome, Outcome::Dropped);
}

/// Another Service has the port that this one is asked at as its node port, and as many endpoints.
#[test]
fn what_is_missing_for_an_address_is_not_led_to_anothers_node_port() {
    let mut world = World::new();
    let ready = |address: &str| {
        crate::proxy::tests::endpoint(address, "n2", crate::proxy::tests::Is::Ready)
    };
    let balanced = serde_json::json!({
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
    });
    world.service("a", balanced);
    world.endpoints("a", &[ready("10.0.1.1"), ready("10.0.1.2")]);
    let other = serde_json::json!({
        "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9"],
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    });
    world.service("b", other);
    world.endpoints("b", &[ready("10.0.2.1"), ready("10.0.2.2")]);
    let compiler = compiled(&world);
    let packet = Packet {
        source: "198.51.100.9".parse().unwrap(),
        input: Some("eth0"),
        to: "203.0.113.9".parse().unwrap(),
        port: 30080,
        protocol: netfilter::Protocol::Tcp,
        remembered: None,
    };
    let mut parts = Parts::clone(compiler.parts(Family::V4));
    let service = Arc::make_mut(parts.get_mut("shop/a").unwrap());
    let before = service.elements.len();
    service
        .elements
        .retain(|(set, _), _| !set.as_str().starts_with("endpoints"));
    assert!(service.elements.len() + 2 <= before);
    let Outcome::To(found) = Machine::new(&parts).judge(&packet, None) else {
        panic!("it is led to the first");
    };
    let found: Vec<String> = found.keys().map(|led| format!("{led:?}")).collect();
    assert!(
        found.len() == 1 && found[0].contains("10.0.1.1"),
        "{found:?}"
    );
}

/// Semantics 126, 148: who is asked before whom.
#[test]
fn rules_126_and_148_by_nftables_iptables_leads_first_and_the_mark_goes_before_others_masquerade() {
    let compiler = compiler();
    for family in Family::ALL {
        let chains = &compiler.parts(family)[BASE].chains;
        let hooks: Vec<Hook> = chains.values().filter_map(|chain| chain.hook).collect();
        let nat: Vec<i32> = hooks
            .iter()
            .filter(|hook| hook.is_nat)
            .map(|hook| hook.priority)
            .collect();
        assert_eq!(nat, [-99, 99, -99], "output, postrouting, prerouting");
        assert_eq!(hooks.len(), 4, "and packets that are none of a flow");
    }
    let liberal = Options {
        tcp_is_liberal: true,
        ..compiler.options
    };
    // Semantics 141.
    assert!(
        !Compiler::new(liberal).parts(Family::V4)[BASE]
            .chains
            .contains_key(&Name::fixed("forward"))
    );
}

#[test]
fn rule_132_by_nftables_node_ports_answer_at_the_addresses_that_are_said() {
    let spec = Spec {
        number: 1,
        protocol: "TCP",
        internal_is_local: false,
        external_is_local: false,
        external_ip: None,
        balanced: false,
        ranges: 0,
        node_port: Some(1),
        affinity: false,
        endpoints: vec![(true, 1, crate::proxy::tests::Is::Ready)],
    };
    let world = world(&[spec]);
    let options = Options {
        node_port_addresses: vec!["192.0.2.0/24".parse().unwrap()],
        ..compiler().options
    };
    let mut compiler = Compiler::new(options);
    let all = world.model.services().map(|(name, _)| name.clone());
    compiler.update(&world.model, &all.collect());
    let machine = Machine::new(compiler.parts(Family::V4));
    let ask = |to: &str| {
        let packet = Packet {
            source: "8.8.8.8".parse().unwrap(),
            input: Some("eth0"),
            to: to.parse().unwrap(),
            port: 30_001,
            protocol: netfilter::Protocol::Tcp,
            remembered: None,
        };
        machine.judge(&packet, None)
    };
    assert!(matches!(ask("192.0.2.1"), Outcome::To(_)));
    assert_eq!(ask("203.0.113.9"), Outcome::Untouched);
    assert_eq!(ask("127.0.0.1"), Outcome::Untouched);
}
