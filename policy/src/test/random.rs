//! Compiled chains against the reference, over random clusters, policies and packets.

use std::net::IpAddr;

use api::resources::*;
use netfilter::CtState;
use proptest::prelude::*;

use super::fixture::*;
use super::interpreter::{Packet, Verdict, Walk};
use super::reference;
use crate::Endpoint;

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
fn addresses(number: usize) -> [IpAddr; 2] {
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
        1 => Just(PortMatch::Named("http".to_owned())),
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

pub(super) fn cluster() -> impl Strategy<Value = Cluster> {
    let labels_of = prop::sample::select(&LABELS[..]);
    // namespace, labels, local, has a manifest, host network, finished
    let one = (0..3usize, labels_of, any::<bool>(), 0..8u8, 0..8u8, 0..8u8);
    let policy_of = (0..2usize, any_selector(), any_rules(), any_rules());
    (
        prop::collection::vec(one, 1..12),
        prop::collection::vec(policy_of, 0..6),
        prop::collection::vec(any::<bool>(), 3),
    )
        .prop_map(|(pod_list, policy_list, known)| {
            let mut cluster = Cluster::default();
            for (index, name) in NAMESPACES
                .iter()
                .enumerate()
                .filter(|(index, _)| known[*index])
            {
                cluster.namespace(name, if index == 0 { "team=one" } else { "team=two" });
            }
            for (number, (namespace, of, local, manifest, host, finished)) in
                pod_list.into_iter().enumerate()
            {
                let mut one = pod(&format!("{}/p{number}", NAMESPACES[namespace]), of, &[]);
                one.pod_ips = addresses(number + 1).to_vec();
                one.host_network = host == 0;
                one.finished = finished == 0;
                if local {
                    let endpoint = Endpoint {
                        pod: one.name.clone(),
                        uid: String::new(),
                        addresses: addresses(number + 1).to_vec(),
                    };
                    cluster
                        .endpoints
                        .insert(format!("ptl{number:011x}"), endpoint);
                    // What the object says of a local pod's addresses may be late; it must not matter.
                    one.pod_ips.clear();
                }
                if !local || manifest > 0 {
                    cluster.pods.push(one);
                }
            }
            for (number, (namespace, of, ingress, egress)) in policy_list.into_iter().enumerate() {
                let mut one = policy(&format!("{}/n{number}", NAMESPACES[namespace]), of);
                (one.ingress, one.egress) = (ingress, egress);
                cluster.policies.push(one);
            }
            cluster
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn compiled_chains_and_the_reference_agree_on_every_pair(
        cluster in cluster(),
        protocol in prop::sample::select(&[1u8, 6, 17, 132][..]),
        port in 1u16..9,
    ) {
        let compiled = cluster.compile();
        for (from, to) in (1..15).flat_map(|from| (1..15).map(move |to| (from, to))) {
            for family in 0..2 {
                let (source, destination) = (addresses(from)[family], addresses(to)[family]);
                let interface = |address| cluster.interface_of(address).unwrap_or("eth0").to_owned();
                let packet = Packet {
                    source, destination, input: interface(source), output: interface(destination),
                    protocol, port, state: CtState::New, syn: true,
                };
                if packet.input == packet.output {
                    continue;
                }
                let (verdict, _) = Walk::of(&compiled, &packet);
                let wanted =
                    if reference::allows(&cluster, &packet) { Verdict::Accepted } else { Verdict::Dropped };
                prop_assert_eq!(verdict, wanted, "{:?}", packet);
            }
        }
    }
}
