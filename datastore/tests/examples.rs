//! The examples load without a problem, and hold what the demo counts on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::resources::{
    BgpConfiguration, BgpPeer, ClusterAction, ClusterNetworkPolicy, ClusterPeer, DomainName,
    FilterRule, Hops, Node, Peer, PeerAs, PeerTarget, PortMatch, Protocol, RuleAction, Tier,
};
use api::{Event, Key, NamespacedName, Resource};
use datastore::watch_manifests;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

async fn load(folder: &str) -> BTreeMap<Key, Resource> {
    let mut source = watch_manifests(&examples().join(folder), "node1").unwrap();
    let mut state = BTreeMap::new();
    while let Some(Event::Change(change)) = source.events.recv().await {
        state.insert(change.key, change.value.unwrap());
    }
    assert_eq!(*source.problems.borrow(), []);
    state
}

#[tokio::test]
async fn the_demo_loads_whole() {
    let state = load("demo").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "BGPConfiguration default",
        "BGPPeer tor-node1",
        "BGPPeer tor-node2",
        "Namespace shop",
        "Namespace team",
        "Node node1",
        "Node node2",
        "Pod shop/cache",
        "Pod shop/db",
        "Pod shop/web",
        "Pod team/client",
        "Pod team/tester",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn each_node_of_the_demo_peers_with_the_tor_on_its_own_link() {
    let state = load("demo").await;
    for (number, asn) in [(1, 64513), (2, 64514)] {
        let Resource::Node(node) = &state[&Key::Node(format!("node{number}"))] else {
            panic!()
        };
        assert_eq!(node.as_number, Some(asn));
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(
            node.internal_ips[0].to_string(),
            format!("10.10.{number}.2")
        );
        let peers = state.values().filter_map(|resource| match resource {
            Resource::BgpPeer(peer) if peer.node_selector.matches(&node.labels) => Some(peer),
            _ => None,
        });
        let peers: Vec<_> = peers.collect();
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].as_number, PeerAs::Number(65_000));
        let address = format!("10.10.{number}.1:179").parse().unwrap();
        assert_eq!(peers[0].target, PeerTarget::Address(address));
    }
}

#[tokio::test]
async fn the_demo_service_has_both_protocols_at_both_kinds_of_address() {
    let state = load("demo-service").await;
    let [Resource::Service(service)] = state.values().collect::<Vec<_>>()[..] else {
        panic!("{:?}", state.keys());
    };
    assert_eq!(service.name, NamespacedName::new("shop", "front"));
    assert_eq!(service.cluster_ips.len(), 1);
    let protocols: Vec<_> = service.ports.iter().map(|port| port.protocol).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp]);
    assert!(
        service
            .ports
            .iter()
            .all(|port| port.node_port == Some(30_080))
    );
}

#[tokio::test]
async fn the_demo_announces_addresses_of_a_pool_and_its_ingress_asks_for_one() {
    let announced = load("demo-announced").await;
    let ranges = &configuration(&announced).service_load_balancer_ips;
    let [range] = ranges.as_slice() else {
        panic!("{ranges:?}")
    };
    assert!(!range.is_aggregated);
    for name in ["tor-node1", "tor-node2"] {
        assert!(peer(&announced, name).bfd.is_some(), "{name}");
    }
    let Resource::IpPool(pool) = &announced[&Key::IpPool("outside".to_owned())] else {
        panic!()
    };
    assert!(pool.is_for_load_balancers());
    assert_eq!(pool.cidr, range.cidr);
    let ingress = load("demo-ingress").await;
    for (state, namespace, name) in [(&announced, "shop", "site"), (&ingress, "ingress", "front")] {
        let key = Key::Service(NamespacedName::new(namespace, name));
        let Resource::Service(service) = &state[&key] else {
            panic!()
        };
        let asked = &service.address_request.as_ref().unwrap().addresses;
        assert!(range.cidr.contains(&asked[0]) && asked.len() == 1);
    }
    // What is behind the ingress is in no agent's way: kinds that are another's are passed over.
    let names: Vec<String> = ingress.keys().map(ToString::to_string).collect();
    let expected = [
        "Service ingress/front",
        "Service shop/docs",
        "Service shop/shop",
        "Service team/wiki",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn the_site_behind_the_ingress_is_in_no_agents_way() {
    let state = load("ingress").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "Service shop/chat",
        "Service shop/web",
        "EndpointSlice shop/web-1",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn the_demo_policy_loads_whole_and_every_part_of_it_can_be_compiled() {
    let state = load("demo-policy").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "NetworkPolicy shop/db-only-from-web",
        "NetworkPolicy shop/default-deny",
        "NetworkPolicy shop/web-from-client-and-outside",
    ];
    assert_eq!(names, expected);
    for policy in state.values() {
        let Resource::NetworkPolicy(policy) = policy else {
            panic!()
        };
        assert_eq!(policy.egress, None);
        let peers = policy
            .ingress
            .iter()
            .flatten()
            .filter_map(|rule| rule.peers.as_ref());
        assert!(
            peers
                .flatten()
                .all(|peer| !matches!(peer, Peer::Unsupported(_)))
        );
    }
}

fn cluster_policy<'a>(state: &'a BTreeMap<Key, Resource>, name: &str) -> &'a ClusterNetworkPolicy {
    match &state[&Key::ClusterNetworkPolicy(name.to_owned())] {
        Resource::ClusterNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_policies_to_start_from_load_whole_and_every_part_of_them_can_be_compiled() {
    let state = load("policy").await;
    let names: Vec<String> = state.keys().map(ToString::to_string).collect();
    let expected = [
        "NetworkPolicy shop/allow-dns",
        "NetworkPolicy shop/db-only-from-web",
        "NetworkPolicy shop/default-deny",
        "ClusterNetworkPolicy closed-by-default",
        "ClusterNetworkPolicy payments-egress",
        "ClusterNetworkPolicy tenant-a-is-alone",
        "ClusterNetworkPolicy tenant-b-is-alone",
    ];
    assert_eq!(names, expected);
    for resource in state.values() {
        let text = format!("{resource:?}");
        assert!(!text.contains("Unsupported("), "{text}");
    }
}

#[tokio::test]
async fn the_policies_to_start_from_say_what_their_table_says() {
    let state = load("policy").await;
    use ClusterAction::{Accept, Deny, Pass};
    let actions = |rules: &[api::resources::ClusterRule]| -> Vec<ClusterAction> {
        rules.iter().map(|rule| rule.action).collect()
    };
    for tenant in ["tenant-a-is-alone", "tenant-b-is-alone"] {
        let policy = cluster_policy(&state, tenant);
        assert_eq!(policy.tier, Tier::Admin);
        assert_eq!(actions(&policy.ingress), [Accept, Pass, Deny]);
    }
    let baseline = cluster_policy(&state, "closed-by-default");
    assert_eq!(baseline.tier, Tier::Baseline);
    assert_eq!(actions(&baseline.ingress), [Deny]);
    assert_eq!(actions(&baseline.egress), [Accept, Deny]);
    let payments = cluster_policy(&state, "payments-egress");
    assert_eq!(actions(&payments.egress), [Accept, Pass, Accept, Deny]);
    let ClusterPeer::DomainNames(names) = &payments.egress[2].peers[0] else {
        panic!("{payments:?}")
    };
    let star = DomainName::new("*.cards.example").unwrap();
    assert!(names.len() == 2 && names.contains(&star));
    let key = Key::NetworkPolicy(NamespacedName::new("shop", "db-only-from-web"));
    let Resource::NetworkPolicy(db) = &state[&key] else {
        panic!()
    };
    let ports = db.ingress.as_ref().unwrap()[0].ports.as_ref().unwrap();
    assert_eq!(ports[0].port, PortMatch::Named("postgres".to_owned()));
}

fn peer<'a>(state: &'a BTreeMap<Key, Resource>, name: &str) -> &'a BgpPeer {
    match &state[&Key::BgpPeer(name.to_owned())] {
        Resource::BgpPeer(peer) => peer,
        other => panic!("{other:?}"),
    }
}

fn configuration(state: &BTreeMap<Key, Resource>) -> &BgpConfiguration {
    match &state[&Key::BgpConfiguration("default".to_owned())] {
        Resource::BgpConfiguration(configuration) => configuration,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_pools_are_for_every_node_and_the_fixed_address_is_a_reserved_one_of_them() {
    let state = load("ip-pools").await;
    let mut pools = state.values().filter_map(|resource| match resource {
        Resource::IpPool(pool) => Some(pool),
        _ => None,
    });
    let (Some(four), Some(six)) = (pools.next(), pools.next()) else {
        panic!("{state:?}")
    };
    assert_eq!((four.block_size, six.block_size), (26, 122));
    let Resource::Pod(db) = &state[&Key::Pod(NamespacedName::new("shop", "db"))] else {
        panic!()
    };
    assert!(four.cidr.contains(&db.fixed_ips[0]));
    let Resource::IpReservation(servers) = &state[&Key::IpReservation("servers".to_owned())] else {
        panic!()
    };
    assert!(servers.cidrs[0].contains(&db.fixed_ips[0]));
    for resource in state.values() {
        if let Resource::Node(node) = resource {
            assert!(node.pod_cidrs.is_empty() && four.node_selector.matches(&node.labels));
        }
    }
}

#[tokio::test]
async fn the_route_reflector_takes_its_clients_by_range_and_installs_nothing() {
    let state = load("route-reflector").await;
    assert!(!configuration(&state).install_routes);
    let clients = peer(&state, "clients");
    let range = PeerTarget::Range("10.20.0.0/24".parse().unwrap());
    assert_eq!(clients.target, range);
    assert!(clients.route_reflector_client && clients.passive);
    assert_eq!(clients.as_number, PeerAs::Internal);
    let node = |name: &str| match &state[&Key::Node(name.to_owned())] {
        Resource::Node(node) => node,
        other => panic!("{other:?}"),
    };
    let (reflector, worker) = (node("rr1"), node("worker1"));
    assert_eq!(reflector.cluster_id, reflector.router_id);
    assert!(reflector.pod_cidrs.is_empty());
    let on = |name, node: &Node| peer(&state, name).node_selector.matches(&node.labels);
    assert!(on("clients", reflector) && !on("clients", worker));
    assert!(on("reflector", worker) && !on("reflector", reflector));
}

#[tokio::test]
async fn the_lab_tor_names_only_filters_that_are_there_and_lets_transit_through_them() {
    let state = load("lab-tor").await;
    let filter = |name: &String| match &state[&Key::BgpFilter(name.clone())] {
        Resource::BgpFilter(filter) => filter,
        other => panic!("{other:?}"),
    };
    for name in ["rack", "spine"] {
        let filters: Vec<_> = peer(&state, name).filters.iter().map(filter).collect();
        let exports = |rule: &FilterRule| rule.learned_only && rule.action != RuleAction::Reject;
        assert!(filters.iter().any(|one| one.export_v4.iter().any(exports)));
        assert!(filters.iter().any(|one| one.export_v6.iter().any(exports)));
    }
    let interface = PeerTarget::Interface("uplink0".to_owned());
    assert_eq!(peer(&state, "spine").target, interface);
    assert_eq!(peer(&state, "spine").hops, Hops::TtlSecurity(1));
    assert!(configuration(&state).multipath.as_path_relax);
}

#[test]
fn every_folder_of_examples_is_loaded_here() {
    let mut folders: Vec<String> = std::fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(
        folders,
        [
            "demo",
            "demo-announced",
            "demo-ingress",
            "demo-policy",
            "demo-service",
            "ingress",
            "ip-pools",
            "lab-tor",
            "policy",
            "route-reflector"
        ],
        "load the new ones above"
    );
}

#[tokio::test]
async fn the_policy_dropped_into_the_demo_joins_it() {
    let folder = tempfile::tempdir().unwrap();
    for from in ["demo", "demo-policy"] {
        for entry in std::fs::read_dir(examples().join(from)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let mut source = watch_manifests(folder.path(), "node2").unwrap();
    let mut keys = Vec::new();
    while let Some(Event::Change(change)) = source.events.recv().await {
        keys.push(change.key);
    }
    assert_eq!(keys.len(), 15);
    assert!(keys.contains(&Key::Pod(NamespacedName::new("shop", "db"))));
    assert_eq!(*source.problems.borrow(), []);
}
