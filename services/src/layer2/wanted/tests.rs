//! Which nodes may answer for an address, as manifests come and go.

use api::Resource;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::{Is, World, endpoint, name, service, slice};

fn node(name: &str, more: Value) -> Node {
    let mut manifest = json!({"metadata": {"name": name}, "status": {}});
    for (key, value) in more.as_object().unwrap() {
        manifest["metadata"][key] = value.clone();
    }
    match api::parse("Node", "v1", manifest).unwrap().unwrap().1 {
        Resource::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

fn pool(cidr: &str, more: Value) -> IpPool {
    let mut spec = json!({"cidr": cidr, "allowedUses": ["LoadBalancer"]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let manifest = json!({"metadata": {"name": "outside"}, "spec": spec});
    match api::parse("IPPool", "portolan.io/v1alpha1", manifest)
        .unwrap()
        .unwrap()
        .1
    {
        Resource::IpPool(pool) => pool,
        other => panic!("{other:?}"),
    }
}

fn balanced(policy: &str) -> Value {
    json!({
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}},
    })
}

/// `n1` to `n3`, of which the last one takes no part.
fn nodes() -> Vec<Node> {
    let excluded =
        json!({"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}});
    vec![
        node("n1", json!({"labels": {"rack": "r1"}})),
        node("n2", json!({"labels": {"rack": "r2"}})),
        node("n3", excluded),
    ]
}

fn layer2() -> IpPool {
    pool("198.51.100.0/24", json!({"layer2": {}}))
}

/// What there is, worked out from nothing.
fn from_nothing(world: &World, nodes: &[&Node], pools: &[&IpPool]) -> Wants {
    let mut wants = Wants::default();
    wants.set(nodes, pools, (&world.index, &world.model));
    wants
}

/// The candidates of the address of `web`, sorted; none, if it is not to be answered for at all.
fn may(world: &World, nodes: &[Node], pool: &IpPool) -> Option<Vec<String>> {
    let nodes: Vec<&Node> = nodes.iter().collect();
    let wants = from_nothing(world, &nodes, &[pool]);
    let wanted = wants.wanted();
    let address: IpAddr = "198.51.100.7".parse().unwrap();
    let mut order = wanted.get(&address)?.order.to_vec();
    order.sort();
    Some(order)
}

#[test]
fn with_policy_cluster_all_fit_nodes_may_as_long_as_anybody_can_be_asked() {
    let (mut world, nodes) = (World::new(), nodes());
    world.service("web", balanced("Cluster"));
    assert_eq!(
        may(&world, &nodes, &layer2()),
        Some(vec![]),
        "nobody serves it"
    );
    world.endpoints("web", &[endpoint("10.244.9.9", "n9", Is::Starting)]);
    assert_eq!(
        may(&world, &nodes, &layer2()),
        Some(vec![]),
        "nobody is ready"
    );
    for is in [Is::Ready, Is::Draining] {
        world.endpoints("web", &[endpoint("10.244.9.9", "n9", is)]);
        let both = vec!["n1".to_owned(), "n2".to_owned()];
        assert_eq!(may(&world, &nodes, &layer2()), Some(both), "{is:?}");
    }
    world.remove("web");
    assert_eq!(may(&world, &nodes, &layer2()), None);
}

#[test]
fn with_policy_local_nodes_with_a_ready_endpoint_may() {
    let (mut world, nodes) = (World::new(), nodes());
    world.service("web", balanced("Local"));
    let ends = [
        endpoint("10.244.1.9", "n1", Is::Draining),
        endpoint("10.244.2.9", "n2", Is::Ready),
        endpoint("10.244.3.9", "n3", Is::Ready),
    ];
    world.endpoints("web", &ends);
    assert_eq!(may(&world, &nodes, &layer2()), Some(vec!["n2".to_owned()]));
    world.endpoints("web", &ends[..1]);
    assert_eq!(
        may(&world, &nodes, &layer2()),
        Some(vec!["n1".to_owned()]),
        "it answers still"
    );
}

#[test]
fn the_pool_says_whether_and_by_which_nodes_and_interfaces() {
    let (mut world, nodes) = (World::new(), nodes());
    world.service("web", balanced("Cluster"));
    world.endpoints("web", &[endpoint("10.244.1.9", "n1", Is::Ready)]);
    for silent in [
        pool("198.51.100.0/24", json!({})),
        pool("192.0.2.0/24", json!({"layer2": {}})),
    ] {
        assert_eq!(may(&world, &nodes, &silent), None, "{silent:?}");
    }
    let chosen = json!({"nodeSelector": "rack == 'r2'", "layer2": {"interfaces": ["eth1"]}});
    let chosen = pool("198.51.100.0/24", chosen);
    let nodes: Vec<&Node> = nodes.iter().collect();
    let wants = from_nothing(&world, &nodes, &[&chosen]);
    let (_, one) = wants.wanted().first_key_value().unwrap();
    assert_eq!(*one.order, ["n2".to_owned()]);
    assert_eq!((one.pool.as_str(), one.interfaces.len()), ("outside", 1));
}

#[test]
fn what_another_service_has_is_its_alone() {
    let (mut world, nodes) = (World::new(), nodes());
    world.service("early", balanced("Cluster"));
    world.service("web", balanced("Cluster"));
    world.endpoints("web", &[endpoint("10.244.1.9", "n1", Is::Ready)]);
    assert_eq!(
        may(&world, &nodes, &layer2()),
        Some(vec![]),
        "whose it is, nobody serves"
    );
}

/// What happens, with the number of whom it happens to.
#[derive(Clone, Debug)]
enum Event {
    Balanced(u8, &'static str, u8),
    Endpoints(u8, Vec<(u8, Is)>),
    Gone(u8),
    Nodes(Vec<u8>),
    Pools(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let is = prop::sample::select(Is::ALL.to_vec());
    let policy = prop::sample::select(vec!["Cluster", "Local"]);
    prop_oneof![
        // Two may share an address.
        3 => (0_u8..4, policy, 0_u8..3).prop_map(|(of, policy, last)| Event::Balanced(of, policy, last)),
        4 => (0_u8..4, prop::collection::vec((1_u8..4, is), 0..4)).prop_map(|(of, ends)| Event::Endpoints(of, ends)),
        1 => (0_u8..4).prop_map(Event::Gone),
        1 => prop::collection::vec(1_u8..4, 0..4).prop_map(Event::Nodes),
        2 => (0_u8..4).prop_map(Event::Pools),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_follows_each_change_is_what_is_worked_out_from_nothing(events in prop::collection::vec(event(), 0..25)) {
        let (mut world, mut wants) = (World::new(), Wants::default());
        let (mut nodes, mut pools) = (Vec::new(), Vec::new());
        for event in &events {
            let mut touched = Touched::new();
            match event {
                Event::Balanced(of, policy, last) => {
                    let status = json!({"loadBalancer": {"ingress": [{"ip": format!("198.51.100.{last}")}]}});
                    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy});
                    let more = json!({"spec": spec, "status": status});
                    touched = world.index.set_service(service(&format!("s{of}"), more));
                }
                Event::Endpoints(of, ends) => {
                    let ends = ends.iter().map(|(node, is)| endpoint(&format!("10.244.{node}.9"), &format!("n{node}"), *is));
                    let ends: Vec<Value> = ends.collect();
                    touched = world.index.set_slice(slice(&format!("s{of}-1"), &format!("s{of}"), &ends));
                }
                Event::Gone(of) => touched = world.index.remove_service(&name(&format!("s{of}"))),
                Event::Nodes(of) => {
                    let of: BTreeSet<_> = of.iter().collect();
                    nodes = of.into_iter().map(|of| node(&format!("n{of}"), json!({}))).collect();
                }
                Event::Pools(0) => pools.clear(),
                Event::Pools(1) => pools = vec![pool("198.51.100.0/31", json!({"blockSize": 31, "layer2": {}}))],
                Event::Pools(2) => pools = vec![pool("198.51.100.0/31", json!({"blockSize": 31})), layer2()],
                Event::Pools(_) => pools = vec![pool("198.51.100.0/24", json!({"layer2": {"interfaces": ["eth1"]}}))],
            }
            let changed = world.model.refresh(&world.index, &touched);
            let concerned = touched.union(&changed).cloned().collect();
            let of = (&world.index, &world.model);
            let nodes: Vec<&Node> = nodes.iter().collect();
            let pools: Vec<&IpPool> = pools.iter().collect();
            wants.update(of, &concerned);
            wants.set(&nodes, &pools, of);
            let fresh = from_nothing(&world, &nodes, &pools);
            prop_assert_eq!(wants.wanted(), fresh.wanted());
        }
    }
}
