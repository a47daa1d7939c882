//! Compiled chains against the reference, over random clusters, policies and packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::resources::*;
use netfilter::CtState;
use proptest::prelude::*;

use super::fixture::*;
use super::interpreter::{Packet, SERVICE, Verdict, Walk, with_ipvs};
use crate::{Direction, Endpoint, Evaluator, Flow};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const SELECTORS: [&str; 8] = [
    "",
    "app=x",
    "app=y",
    "app!=x",
    "!app",
    "app",
    "tier=db,app!=y",
    "app=",
];
const LABELS: [&str; 6] = ["", "app=x", "app=y", "app=", "app=x,tier=db", "tier=db"];
const CIDRS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "192.0.2.0/24",
    "::/0",
    "fd00::/120",
    "fd00::4/126",
];

fn any_selector() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&SELECTORS[..])
}

/// Both families' address of the pod with a number; beyond the pods it is a stranger's.
pub(super) fn addresses(number: usize) -> [IpAddr; 2] {
    [
        ip(&format!("10.0.0.{number}")),
        ip(&format!("fd00::{number:x}")),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let except = prop::collection::vec(prop::sample::select(&CIDRS[..]), 0..3);
    let cidr = prop::sample::select(&CIDRS[..]);
    prop_oneof![
        3 => (prop::option::of(prop::sample::select(&["", "team=one", "team!=one"][..])), any_selector())
            .prop_map(|(namespaces, of)| pods(namespaces, of)),
        2 => (cidr, except).prop_map(|(cidr, except)| {
            let family = |text: &str| text.contains(':');
            let except: Vec<&str> =
                except.into_iter().filter(|text| family(text) == family(cidr)).collect();
            block(cidr, &except)
        }),
        1 => Just(Peer::Unsupported("a test".to_owned())),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    let protocol = prop::sample::select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..]);
    let of = prop_oneof![
        1 => Just(PortMatch::Any),
        4 => (1u16..6, 0u16..3).prop_map(|(first, more)| PortMatch::Range(first, first + more)),
        1 => Just(PortMatch::Range(0, 65535)),
        2 => prop::sample::select(&["web", "dns"][..]).prop_map(|name| PortMatch::Named(name.to_owned())),
        1 => Just(PortMatch::Unsupported("a test".to_owned())),
    ];
    (protocol, of).prop_map(|(protocol, port)| Port { protocol, port })
}

fn any_rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let peers = prop::option::of(prop::collection::vec(peer(), 0..3));
    let ports = prop::option::of(prop::collection::vec(any_port(), 0..4));
    let one = (peers, ports).prop_map(|(peers, ports)| rule(peers, ports));
    prop::option::of(prop::collection::vec(one, 0..3))
}

fn cluster_peer() -> impl Strategy<Value = ClusterPeer> {
    let team = prop::sample::select(&["", "team=one", "team!=one"][..]);
    let nets = prop::collection::vec(prop::sample::select(&CIDRS[..]), 1..3);
    prop_oneof![
        4 => (team, any_selector()).prop_map(|(team, of)| ClusterPeer::Pods(namespaced(team, of))),
        2 => nets.prop_map(|nets| {
            ClusterPeer::Networks(nets.into_iter().map(|text| text.parse().unwrap()).collect())
        }),
        1 => any_selector().prop_map(|of| ClusterPeer::Nodes(selector(of))),
        1 => prop::sample::select(&["a.example", "*.b.example"][..])
            .prop_map(|name| ClusterPeer::DomainNames(vec![DomainName::new(name).unwrap()])),
        1 => Just(ClusterPeer::Unsupported("a test".to_owned())),
    ]
}

fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let action = prop::sample::select(
        &[
            ClusterAction::Accept,
            ClusterAction::Deny,
            ClusterAction::Pass,
        ][..],
    );
    let one_port = prop_oneof![
        4 => any_port().prop_map(ClusterPort::Port),
        2 => prop::sample::select(&["web", "dns"][..]).prop_map(|name| ClusterPort::Named(name.to_owned())),
        1 => Just(ClusterPort::Unsupported("a test".to_owned())),
    ];
    let ports = prop::option::of(prop::collection::vec(one_port, 1..3));
    let one = (action, prop::collection::vec(cluster_peer(), 0..3), ports);
    let one = one.prop_map(|(action, peers, ports)| cluster_rule(action, peers, ports));
    prop::collection::vec(one, 0..3)
}

fn any_cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = prop::sample::select(&[Tier::Admin, Tier::Baseline][..]);
    let subject = prop_oneof![
        5 => (prop::sample::select(&["", "team=one"][..]), any_selector())
            .prop_map(|(team, of)| ClusterSubject::Pods(namespaced(team, of))),
        1 => Just(ClusterSubject::Unsupported("a test".to_owned())),
    ];
    (tier, 0u16..3, subject, cluster_rules(), cluster_rules()).prop_map(
        |(tier, priority, subject, ingress, egress)| ClusterNetworkPolicy {
            name: String::new(),
            tier,
            priority,
            subject,
            ingress,
            egress,
        },
    )
}

fn named_ports() -> impl Strategy<Value = Vec<ContainerPort>> {
    let protocol = prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]);
    let one = (prop::sample::select(&["web", "dns"][..]), protocol, 1u16..6);
    let one = one.prop_map(|(name, protocol, port)| ContainerPort {
        name: name.to_owned(),
        protocol,
        port,
    });
    prop::collection::vec(one, 0..3)
}

/// A pod of the random cluster.
type OnePod = (
    usize,
    &'static str,
    bool,
    (u8, u8, u8, u8),
    Vec<ContainerPort>,
);

fn add_pod(cluster: &mut Cluster, number: usize, pod_of: OnePod) {
    let (namespace, of, local, (manifest, host, finished, old), ports) = pod_of;
    let mut one = pod(&format!("{}/p{number}", NAMESPACES[namespace]), of, &[]);
    one.pod_ips = addresses(number + 1).to_vec();
    one.host_network = host == 0;
    one.finished = finished == 0;
    one.named_ports = ports;
    if old == 0 && one.finished {
        // Its address is another's by now.
        one.pod_ips = addresses(number).to_vec();
    }
    if local {
        let endpoint = Endpoint {
            pod: one.name.clone(),
            uid: if old == 1 { "old" } else { "" }.to_owned(),
            addresses: addresses(number + 1).to_vec(),
        };
        let interface = format!("ptl{number:011x}");
        cluster.endpoints.insert(interface, endpoint);
        one.uid = "new".to_owned();
        // What the object says of a local pod's addresses may be late; it must not matter.
        one.pod_ips.clear();
    }
    if !local || manifest > 0 {
        cluster.pods.push(one);
    }
}

pub(super) fn cluster() -> impl Strategy<Value = Cluster> {
    let labels_of = prop::sample::select(&LABELS[..]);
    // has a manifest, host network, finished, made anew or with an address that is another's
    let states = (0..8u8, 0..8u8, 0..8u8, 0..5u8);
    let one = (0..3usize, labels_of, any::<bool>(), states, named_ports());
    let policy_of = (0..2usize, any_selector(), any_rules(), any_rules());
    let settings = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (
        prop::collection::vec(one, 1..12),
        prop::collection::vec(policy_of, 0..6),
        prop::collection::vec(any_cluster_policy(), 0..4),
        prop::collection::vec(any::<bool>(), 3),
        settings,
    )
        .prop_map(|(pod_list, policy_list, cluster_list, known, settings)| {
            let mut cluster = Cluster::default();
            for (index, name) in NAMESPACES
                .iter()
                .enumerate()
                .filter(|(index, _)| known[*index])
            {
                cluster.namespace(name, if index == 0 { "team=one" } else { "team=two" });
            }
            for (number, one) in pod_list.into_iter().enumerate() {
                add_pod(&mut cluster, number, one);
            }
            for (number, (namespace, of, ingress, egress)) in policy_list.into_iter().enumerate() {
                let mut one = policy(&format!("{}/n{number}", NAMESPACES[namespace]), of);
                (one.ingress, one.egress) = (ingress, egress);
                cluster.policies.push(one);
            }
            for (number, mut one) in cluster_list.into_iter().enumerate() {
                one.name = format!("c{number}");
                cluster.cluster_policies.push(one);
            }
            add_strangers(&mut cluster);
            if settings.0 {
                cluster.settings.domain_names = Some(crate::DomainNameSettings {
                    queue: 1,
                    cluster_dns: ("a".to_owned(), selector("app=x")),
                    resolvers: BTreeSet::from([ip("192.0.2.53")]),
                });
            }
            if settings.1 {
                let log = crate::DropLog { group: 7, rate: 5 };
                cluster.settings.drop_log = Some(log);
            }
            cluster.settings.ipvs = settings.2.then(with_ipvs);
            if settings.3 {
                cluster.settings.egress_to_own_node = crate::EgressToOwnNode::Policed;
            }
            cluster
        })
}

/// A node that holds address 13, and a name in the DNS that is 14.
fn add_strangers(cluster: &mut Cluster) {
    cluster.nodes.push(Node {
        name: "n1".to_owned(),
        labels: labels("app=x"),
        internal_ips: Vec::new(),
        addresses: addresses(13).to_vec(),
        pod_cidrs: Vec::new(),
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    });
    let name = DomainName::new("a.example").unwrap();
    cluster.domains = BTreeMap::from([(name, BTreeSet::from(addresses(14)))]);
}

fn packet(cluster: &Cluster, from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Packet {
    let interface = |address| cluster.interface_of(address).unwrap_or("eth0").to_owned();
    Packet {
        source: from,
        destination: to,
        input: interface(from),
        output: interface(to),
        protocol,
        port,
        state: CtState::New,
        syn: true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn compiled_chains_and_the_reference_agree_on_every_pair(
        cluster in cluster(),
        protocol in prop::sample::select(&[1u8, 6, 17, 132][..]),
        port in 1u16..9,
    ) {
        let mut index = cluster.index();
        let compiled = index.compile();
        let evaluator = Evaluator::new(index.objects(), index.settings());
        for (from, to) in (1..16).flat_map(|from| (1..16).map(move |to| (from, to))) {
            for (family, service) in SERVICE.into_iter().enumerate() {
                let (source, destination) = (addresses(from)[family], addresses(to)[family]);
                let packet = packet(&cluster, source, destination, protocol, port);
                if packet.input == "eth0" && packet.output == "eth0" {
                    continue;
                }
                let (verdict, _) = Walk::of(&compiled, &packet);
                let flow = Flow { source, destination, protocol, port: (protocol != 1).then_some(port) };
                let said = evaluator.evaluate(&flow);
                let here = |direction| match direction {
                    Direction::Egress => packet.input == "eth0" || said.egress.verdict == crate::Verdict::Allowed,
                    Direction::Ingress => packet.output == "eth0" || said.ingress.verdict == crate::Verdict::Allowed,
                };
                let allowed = Direction::ALL.into_iter().all(here);
                let wanted = if allowed { Verdict::Accepted } else { Verdict::Dropped };
                prop_assert_eq!(verdict, wanted, "{:?} {:?}", packet, said);
                if cluster.settings.ipvs.is_some() {
                    let service = service.parse().unwrap();
                    let by_ipvs = Walk::by_ipvs(&compiled, &packet, service);
                    let wanted = if allowed { Verdict::Passed } else { Verdict::Dropped };
                    prop_assert_eq!(by_ipvs, wanted, "by IPVS: {:?} {:?}", packet, said);
                }
            }
        }
    }
}
