//! Numbered rules of the specification that only a kernel shows: addresses that are translated, the node, silence.

use std::net::IpAddr;

use serde_json::{Value, json};
use tests::require_root;

use crate::kernel::BackEnd;
use crate::lab::Place;
use crate::matrix::cast;
use crate::packet::Transport;
use crate::prober::Probe;
use crate::stage::{ONE_NODE, Question, Stage};

const CLIENT: usize = 0;
const SERVER: usize = 1;
/// The server's port, and the one at which its Service is reached.
const TARGET: u16 = 80;
const FRONT: u16 = 8000;

fn stage(tag: &str) -> Stage {
    Stage::new(tag, 0, BackEnd::Nft, cast(), ONE_NODE).unwrap()
}

/// Sets the policy of `x/b` (the server) or another pod of `x`.
fn set(stage: &mut Stage, name: &str, pod: &str, spec: Value) {
    let mut spec = spec;
    spec["podSelector"] = json!({"matchLabels": {"pod": pod}});
    stage
        .set(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "x", "name": name}, "spec": spec,
        }))
        .unwrap();
}

fn tcp(from: (Place, IpAddr), sent_to: (IpAddr, u16), to: (Place, IpAddr), port: u16) -> Probe {
    Probe {
        from: from.0,
        source: from.1,
        sent_to,
        transport: Transport::Tcp,
        to: to.0,
        destination: (to.1, port),
    }
}

fn arrive(stage: &mut Stage, probes: &[Probe]) -> Vec<bool> {
    stage.send(probes).unwrap()
}

/// An address that stands for a server.
fn front(is_ipv4: bool) -> IpAddr {
    let text = if is_ipv4 { "10.96.9.1" } else { "fd00:96:9::1" };
    text.parse().unwrap()
}

fn outside(is_ipv4: bool) -> [(Place, IpAddr); 2] {
    let addresses = Place::Outside.addresses(is_ipv4);
    [addresses[0], addresses[1]].map(|address| (Place::Outside, address))
}

#[test]
fn rule_4_both_ends_of_a_connection_on_one_node_are_asked() {
    require_root!();
    let mut stage = stage("r4");
    let open = json!([{}]);
    for (leaves, enters) in [(true, true), (true, false), (false, true), (false, false)] {
        let rules = |is_open: bool| if is_open { open.clone() } else { json!([]) };
        set(
            &mut stage,
            "client",
            "a",
            json!({"policyTypes": ["Egress"], "egress": rules(leaves)}),
        );
        set(
            &mut stage,
            "server",
            "b",
            json!({"policyTypes": ["Ingress"], "ingress": rules(enters)}),
        );
        let question = Question {
            from: CLIENT,
            to: SERVER,
            transport: Transport::Tcp,
            port: TARGET,
            by_service: false,
        };
        let answers = stage.ask(&[question]).unwrap();
        assert_eq!(answers, [[leaves && enters; 2]], "{leaves} {enters}");
    }
}

#[test]
fn rule_6_policies_of_one_long_name_in_two_namespaces_are_two() {
    require_root!();
    let mut stage = stage("r6");
    let name = [
        "p".repeat(63),
        "p".repeat(63),
        "p".repeat(63),
        "p".repeat(61),
    ]
    .join(".");
    assert_eq!(name.len(), 253, "as long as a name may be");
    for namespace in ["x", "y"] {
        stage
            .set(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": {}},
            }))
            .unwrap();
    }
    let [from, x, y] = ["z/a", "x/a", "y/a"].map(|pod| cast().index(pod).unwrap());
    let questions = [x, y].map(|to| Question {
        from,
        to,
        transport: Transport::Tcp,
        port: TARGET,
        by_service: false,
    });
    assert_eq!(stage.ask(&questions).unwrap(), [[false; 2]; 2]);
    stage.remove(&format!("NetworkPolicy x/{name}")).unwrap();
    assert_eq!(stage.ask(&questions).unwrap(), [[true; 2], [false; 2]]);
}

#[test]
fn rule_21_the_port_that_counts_is_the_pods_and_not_the_services() {
    require_root!();
    let mut stage = stage("r21");
    for is_ipv4 in [true, false] {
        let server = stage.place(SERVER, is_ipv4);
        stage
            .translate(
                is_ipv4,
                &format!(
                    "-A PREROUTING -p tcp -d {} --dport {FRONT} -j DNAT --to-destination {}",
                    front(is_ipv4),
                    std::net::SocketAddr::new(server.1, TARGET)
                ),
            )
            .unwrap();
    }
    for (port, is_reached) in [(TARGET, true), (FRONT, false)] {
        let rule = json!({"policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": port}]}]});
        set(&mut stage, "server", "b", rule);
        let rule = json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": port}]}]});
        set(&mut stage, "client", "c", rule);
        for is_ipv4 in [true, false] {
            let server = stage.place(SERVER, is_ipv4);
            for client in [CLIENT, 2] {
                let from = stage.place(client, is_ipv4);
                let probe = tcp(from, (front(is_ipv4), FRONT), server, TARGET);
                let answers = arrive(&mut stage, &[probe]);
                assert_eq!(answers, [is_reached], "{port} from {from:?}");
            }
        }
    }
}

#[test]
fn rule_33_addresses_are_judged_before_the_node_masquerades_them_and_after_another_did() {
    require_root!();
    let mut stage = stage("r33");
    let blocks = |v4: &str, v6: &str| {
        json!({"policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": v4}}, {"ipBlock": {"cidr": v6}}]}]})
    };
    for is_ipv4 in [true, false] {
        let words = "-A POSTROUTING -o ptl+ -j MASQUERADE";
        stage.translate(is_ipv4, words).unwrap();
    }
    // Who is masqueraded by this node is judged by its own address; who was by another, by that node's.
    let [one, _] = [true, false].map(|v4| outside(v4)[0].1);
    let [_, six] = [true, false].map(|v4| outside(v4)[0].1);
    let node = [true, false].map(|v4| *Place::Remote.addresses(v4).last().unwrap());
    let far = |v4: bool| (Place::Remote, node[usize::from(!v4)]);
    for (v4, v6, client, other_node) in [
        (format!("{one}/32"), format!("{six}/128"), true, false),
        (
            format!("{}/32", node[0]),
            format!("{}/128", node[1]),
            false,
            true,
        ),
    ] {
        set(&mut stage, "server", "b", blocks(&v4, &v6));
        for is_ipv4 in [true, false] {
            let server = stage.place(SERVER, is_ipv4);
            let probes = [outside(is_ipv4)[0], outside(is_ipv4)[1], far(is_ipv4)]
                .map(|from| tcp(from, (server.1, TARGET), server, TARGET));
            assert_eq!(
                arrive(&mut stage, &probes),
                [client, false, other_node],
                "{v4} {v6}"
            );
        }
    }
}

#[test]
fn rule_34_a_block_that_holds_a_services_address_opens_nothing_and_one_that_holds_its_pods_does() {
    require_root!();
    let mut stage = stage("r34");
    let blocks = |v4: String, v6: String| {
        json!({"policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": v4}}, {"ipBlock": {"cidr": v6}}]}]})
    };
    let [pod, pod6] = [true, false].map(|v4| stage.place(SERVER, v4).1);
    let question = Question {
        from: CLIENT,
        to: SERVER,
        transport: Transport::Tcp,
        port: TARGET,
        by_service: true,
    };
    let services = blocks("10.96.0.0/16".to_owned(), "fd00:96::/32".to_owned());
    set(&mut stage, "client", "a", services);
    assert_eq!(
        stage.ask(std::slice::from_ref(&question)).unwrap(),
        [[false; 2]]
    );
    let pods = blocks(format!("{pod}/32"), format!("{pod6}/128"));
    set(&mut stage, "client", "a", pods);
    assert_eq!(stage.ask(&[question]).unwrap(), [[true; 2]]);
}

#[test]
fn rule_36_a_node_reaches_its_isolated_pods_from_each_of_its_addresses() {
    require_root!();
    let mut stage = stage("r36");
    let closed = json!({"policyTypes": ["Ingress", "Egress"]});
    set(&mut stage, "server", "b", closed);
    let (Place::Slot(slot), _) = stage.place(SERVER, true) else {
        panic!("the server is local");
    };
    // Beside those of its two links: one of no link at all, and a link-local one of the pod's own.
    let interface = crate::lab::interface_of(slot);
    for words in [
        "addr add 203.0.113.1/32 dev lo".to_owned(),
        "addr add fd00:203::1/128 dev lo nodad".to_owned(),
        format!("addr add 169.254.7.1/32 dev {interface} scope link"),
        format!("addr add fe80::7/64 dev {interface} nodad"),
    ] {
        stage.ip(&words).unwrap();
    }
    for (is_ipv4, more) in [
        (true, ["203.0.113.1", "169.254.7.1"]),
        (false, ["fd00:203::1", "fe80::7"]),
    ] {
        let server = stage.place(SERVER, is_ipv4);
        let mut sources = Place::Node.addresses(is_ipv4);
        sources.extend(more.map(|text| text.parse::<IpAddr>().unwrap()));
        let probes: Vec<Probe> = sources
            .iter()
            .map(|source| tcp((Place::Node, *source), (server.1, TARGET), server, TARGET))
            .collect();
        assert_eq!(arrive(&mut stage, &probes), [true; 4], "{sources:?}");
        let [stranger, _] = outside(is_ipv4);
        let probe = tcp(stranger, (server.1, TARGET), server, TARGET);
        assert_eq!(arrive(&mut stage, &[probe]), [false], "from outside");
    }
}

#[test]
fn rule_38_who_comes_through_a_port_of_the_node_keeps_the_own_address_and_is_judged_by_it() {
    require_root!();
    let mut stage = stage("r38");
    let node_port = 30080;
    for is_ipv4 in [true, false] {
        let server = stage.place(SERVER, is_ipv4);
        let to = std::net::SocketAddr::new(server.1, TARGET);
        stage
            .translate(
                is_ipv4,
                &format!(
                    "-A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport {node_port} -j DNAT --to-destination {to}"
                ),
            )
            .unwrap();
    }
    let [[v4, _], [v6, _]] = [true, false].map(outside);
    let from = json!([{"ipBlock": {"cidr": format!("{}/32", v4.1)}}, {"ipBlock": {"cidr": format!("{}/128", v6.1)}}]);
    let rule = json!({"policyTypes": ["Ingress"], "ingress": [{"from": from}]});
    set(&mut stage, "server", "b", rule);
    for is_ipv4 in [true, false] {
        let server = stage.place(SERVER, is_ipv4);
        let node = Place::Node.addresses(is_ipv4)[0];
        let probes = outside(is_ipv4).map(|client| tcp(client, (node, node_port), server, TARGET));
        assert_eq!(arrive(&mut stage, &probes), [true, false]);
    }
}

#[test]
fn rules_40_and_41_a_closed_pod_reaches_itself_through_its_service_and_the_nodes_masquerade() {
    require_root!();
    let mut stage = stage("r40");
    let closed = json!({"policyTypes": ["Ingress", "Egress"]});
    set(&mut stage, "server", "b", closed);
    for is_ipv4 in [true, false] {
        let server = stage.place(SERVER, is_ipv4);
        let to_front = format!(
            "-d {} -j DNAT --to-destination {}",
            front(is_ipv4),
            server.1
        );
        for words in [
            format!("-A PREROUTING {to_front}"),
            format!("-A POSTROUTING -s {0} -d {0} -j MASQUERADE", server.1),
        ] {
            stage.translate(is_ipv4, &words).unwrap();
        }
        let client = stage.place(CLIENT, is_ipv4);
        let probes =
            [server, client].map(|from| tcp(from, (front(is_ipv4), TARGET), server, TARGET));
        assert_eq!(arrive(&mut stage, &probes), [true, false]);
    }
}

#[test]
fn rule_55_sctp_is_judged_by_its_ports() {
    require_root!();
    let mut stage = stage("r55");
    let ports = json!([{"protocol": "SCTP", "port": 80}]);
    let rule = json!({"policyTypes": ["Ingress"], "ingress": [{"ports": ports}]});
    set(&mut stage, "server", "b", rule);
    let ask = |transport, port| Question {
        from: CLIENT,
        to: SERVER,
        transport,
        port,
        by_service: true,
    };
    let questions = [
        ask(Transport::Sctp, 80),
        ask(Transport::Sctp, 81),
        ask(Transport::Tcp, 80),
        ask(Transport::Udp, 80),
    ];
    let answers = stage.ask(&questions).unwrap();
    assert_eq!(answers, [[true; 2], [false; 2], [false; 2], [false; 2]]);
}

#[test]
fn rule_58_a_pod_with_closed_egress_has_no_dns_until_it_is_allowed() {
    require_root!();
    let mut stage = stage("r58");
    set(
        &mut stage,
        "client",
        "a",
        json!({"policyTypes": ["Egress"]}),
    );
    let questions = [Transport::Udp, Transport::Tcp].map(|transport| Question {
        from: CLIENT,
        to: SERVER,
        transport,
        port: 53,
        by_service: true,
    });
    assert_eq!(stage.ask(&questions).unwrap(), [[false; 2]; 2]);
    let to = json!([{"podSelector": {"matchLabels": {"pod": "b"}}}]);
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53}]);
    let rule = json!({"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]});
    set(&mut stage, "dns", "a", rule);
    assert_eq!(stage.ask(&questions).unwrap(), [[true; 2]; 2]);
}

#[test]
fn rule_61_what_is_denied_meets_silence_whichever_side_denies_it() {
    require_root!();
    let mut stage = stage("r61");
    set(
        &mut stage,
        "server",
        "b",
        json!({"policyTypes": ["Ingress"]}),
    );
    set(
        &mut stage,
        "client",
        "c",
        json!({"policyTypes": ["Egress"]}),
    );
    stage
        .set(&json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "deny"},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {"matchLabels": {"ns": "z"}}},
                "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
        }))
        .unwrap();
    let zone = cast().index("z/a").unwrap();
    let mut questions = Vec::new();
    for (from, to) in [(CLIENT, SERVER), (2, CLIENT), (CLIENT, zone)] {
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for by_service in [false, true] {
                questions.push(Question {
                    from,
                    to,
                    transport,
                    port: TARGET,
                    by_service,
                });
            }
        }
    }
    assert_eq!(stage.ask(&questions).unwrap(), vec![[false; 2]; 18]);
    stage.check_silence().unwrap();
}
