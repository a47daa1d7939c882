//! Whatever the objects, the evaluator answers, and its answer hangs together.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const ADDRESSES: [&str; 8] = [X, Y, Z, BX, NODE1, NODE2, OUTSIDE, "fd00::1"];
const NETS: [&str; 5] = [
    "0.0.0.0/0",
    "10.0.0.0/24",
    "10.0.1.4/32",
    "::/0",
    "192.0.2.0/24",
];

fn one<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(list)
}

fn any_selector() -> impl Strategy<Value = LabelSelector> {
    one(&["", "app=x", "app=y", "team=one", "zone=1", "app", "none"]).prop_map(selector)
}

fn any_port() -> impl Strategy<Value = Port> {
    let of = prop_oneof![
        Just(PortMatch::Any),
        (0u16..4, 0u16..4).prop_map(|(a, b)| PortMatch::Range(a, b)),
        Just(PortMatch::Named("p".into())),
        Just(PortMatch::Unsupported("odd".into())),
    ];
    (one(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]), of)
        .prop_map(|(protocol, of)| port(protocol, of))
}

fn network_rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let peer = prop_oneof![
        (prop::option::of(any_selector()), any_selector())
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (one(&NETS), prop::collection::vec(one(&NETS), 0..2))
            .prop_map(|(cidr, except)| block(cidr, &except)),
        Just(Peer::Unsupported("odd".into())),
    ];
    let peers = prop::option::of(prop::collection::vec(peer, 0..3));
    let ports = prop::option::of(prop::collection::vec(any_port(), 0..3));
    let rules = prop::collection::vec((peers, ports), 0..3);
    let rules = rules.prop_map(|list| {
        list.into_iter()
            .map(|(peers, ports)| rule(peers, ports))
            .collect()
    });
    prop::option::of(rules)
}

fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let matching = (any_selector(), any_selector())
        .prop_map(|(namespaces, pods)| NamespacedPods { namespaces, pods });
    let peer = prop_oneof![
        matching.prop_map(ClusterPeer::Pods),
        any_selector().prop_map(ClusterPeer::Nodes),
        prop::collection::vec(one(&NETS), 0..3).prop_map(|list| ClusterPeer::Networks(
            list.iter().map(|n| n.parse().unwrap()).collect()
        )),
        Just(ClusterPeer::DomainNames(vec![
            DomainName::new("a.b").unwrap()
        ])),
        Just(ClusterPeer::Unsupported("odd".into())),
    ];
    let port = prop_oneof![
        any_port().prop_map(ClusterPort::Port),
        Just(ClusterPort::Named("p".into())),
        Just(ClusterPort::Unsupported("odd".into())),
    ];
    let ports = prop::option::of(prop::collection::vec(port, 0..3));
    let action = one(&[
        ClusterAction::Accept,
        ClusterAction::Deny,
        ClusterAction::Pass,
    ]);
    let rule = (action, prop::collection::vec(peer, 0..3), ports).prop_map(
        |(action, peers, protocols)| ClusterRule {
            name: String::new(),
            action,
            peers,
            protocols,
        },
    );
    prop::collection::vec(rule, 0..3)
}

fn settled(known: bool, policed: bool, names: bool) -> World {
    let mut world = World::new();
    if !known {
        world.objects.namespaces.remove("a");
    }
    if policed {
        world.settings.egress_to_own_node = EgressToOwnNode::Policed;
    }
    if names {
        let addresses = BTreeSet::from([ip(OUTSIDE), ip(BX)]);
        world
            .objects
            .domain_addresses
            .insert(DomainName::new("a.b").unwrap(), addresses);
    }
    world
}

fn any_world() -> impl Strategy<Value = World> {
    let pod = (
        one(&["a/x", "a/y", "b/x", "c/q"]),
        one(&ADDRESSES),
        any::<[bool; 4]>(),
        one(&["", "u", "v"]),
    );
    let policy = (
        one(&["a/1", "a/2", "b/1", "c/1"]),
        any_selector(),
        network_rules(),
        network_rules(),
    );
    let cluster = (
        one(&["one", "two", "three"]),
        any::<bool>(),
        0u16..3,
        prop::option::of(any_selector()),
        cluster_rules(),
        cluster_rules(),
    );
    (
        prop::collection::vec(pod, 0..6),
        prop::collection::vec(policy, 0..5),
        prop::collection::vec(cluster, 0..4),
        any::<[bool; 3]>(),
    )
        .prop_map(|(pods, policies, clusters, [known, policed, names])| {
            let mut world = settled(known, policed, names);
            for (index, (name, address, [host, finished, local, object], uid)) in
                pods.into_iter().enumerate()
            {
                if object {
                    let mut pod =
                        world.pod(name, "app=x", if host { "n1" } else { "n2" }, &[address]);
                    (pod.host_network, pod.finished, pod.uid) = (host, finished, uid.to_owned());
                }
                if local {
                    world.attach(&format!("ptl{index}"), name, "u", &[address]);
                }
            }
            for (name, of, ingress, egress) in policies {
                let policy = NetworkPolicy {
                    name: named(name),
                    pod_selector: of,
                    ingress,
                    egress,
                };
                world.objects.policies.insert(policy.name.clone(), policy);
            }
            for (name, baseline, priority, subject, ingress, egress) in clusters {
                let policy = ClusterNetworkPolicy {
                    name: name.to_owned(),
                    tier: if baseline {
                        Tier::Baseline
                    } else {
                        Tier::Admin
                    },
                    priority,
                    subject: subject.map_or(ClusterSubject::Unsupported("odd".into()), |pods| {
                        ClusterSubject::Pods(NamespacedPods {
                            namespaces: LabelSelector::default(),
                            pods,
                        })
                    }),
                    ingress,
                    egress,
                };
                world
                    .objects
                    .cluster_policies
                    .insert(name.to_owned(), policy);
            }
            world
        })
}

fn check_side(side: &Side) {
    let denied = side.verdict == Verdict::Denied;
    match &side.decided_by {
        DecidedBy::NoSubject(_) => {
            assert!(!denied && side.subject.is_none() && side.steps.is_empty())
        }
        DecidedBy::Itself | DecidedBy::FromOwnNode => assert!(!denied && side.steps.is_empty()),
        DecidedBy::ToOwnNode | DecidedBy::Default => assert!(!denied),
        DecidedBy::Isolation => assert!(denied),
        DecidedBy::Rule => {
            let last = &side.steps.last().unwrap().outcome;
            let denies = matches!(last, Outcome::Denies | Outcome::FailsClosed(_));
            assert_eq!(denied, denies);
            assert!(denies || matches!(last, Outcome::Allows | Outcome::Accepts));
        }
    }
    assert!(side.steps.is_sorted_by_key(|step| step.tier));
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?}", self.objects)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_connection_has_an_answer_that_hangs_together(world in any_world()) {
        let evaluator = Evaluator::new(&world.objects, &world.settings);
        for source in ADDRESSES {
            for destination in ADDRESSES {
                for (protocol, port) in [(6, Some(1)), (6, None), (17, Some(2)), (1, None), (255, Some(0))] {
                    let flow = Flow { source: ip(source), destination: ip(destination), protocol, port };
                    let explanation = evaluator.evaluate(&flow);
                    check_side(&explanation.egress);
                    check_side(&explanation.ingress);
                    let both = [&explanation.egress, &explanation.ingress];
                    prop_assert_eq!(explanation.allowed, both.iter().all(|side| side.verdict == Verdict::Allowed));
                }
            }
        }
    }
}
