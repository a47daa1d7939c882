//! Which nodes may answer for an address, as manifests come and go.

use api::Resource;
use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::{Is, World, endpoint};

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

/// The candidates of the address of `web`, sorted; none, if it is not to be answered for at all.
fn may(world: &World, nodes: &[Node], pool: &IpPool) -> Option<Vec<String>> {
    let nodes: Vec<&Node> = nodes.iter().collect();
    let of = (&world.index, &world.model);
    let wanted = wanted(of, &nodes, &[pool], &BTreeMap::new());
    assert_eq!(super::wanted(of, &nodes, &[pool], &wanted), wanted);
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
    let of = (&world.index, &world.model);
    for silent in [
        pool("198.51.100.0/24", json!({})),
        pool("192.0.2.0/24", json!({"layer2": {}})),
    ] {
        assert_eq!(may(&world, &nodes, &silent), None, "{silent:?}");
    }
    let chosen = json!({"nodeSelector": "rack == 'r2'", "layer2": {"interfaces": ["eth1"]}});
    let chosen = pool("198.51.100.0/24", chosen);
    let nodes: Vec<&Node> = nodes.iter().collect();
    let wanted = wanted(of, &nodes, &[&chosen], &BTreeMap::new());
    let (_, one) = wanted.first_key_value().unwrap();
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
