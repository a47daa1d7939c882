//! Addresses of load balancers in a directory: worked out here, and served.

use serde_json::{Value, json};

use super::serving::{change, serving};
use super::*;
use crate::service::ServiceState;

fn pool(cidr: &str) -> Event {
    let spec = json!({"cidr": cidr, "blockSize": 32, "allowedUses": ["LoadBalancer"]});
    let pool = json!({"metadata": {"name": "web"}, "spec": spec});
    change("IPPool", "portolan.io/v1alpha1", pool)
}

fn service(name: &str, kind: &str, held: &Value) -> Event {
    let service = json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"type": kind, "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": held}},
    });
    change("Service", "v1", service)
}

/// What each Service is served with.
fn addresses(core: &mut Core) -> BTreeMap<String, Vec<String>> {
    core.outputs().unwrap();
    let ServiceState { services, .. } = core.service_state(None).unwrap();
    let of = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect();
    let served = services.iter();
    served
        .map(|(one, _)| (one.name.name.clone(), of(&one.load_balancer_ips)))
        .collect()
}

fn pair<const N: usize>(wanted: [(&str, &[&str]); N]) -> BTreeMap<String, Vec<String>> {
    let owned = |(name, ips): (&str, &[&str])| {
        (
            name.to_owned(),
            ips.iter().map(|ip| (*ip).to_owned()).collect(),
        )
    };
    wanted.map(owned).into()
}

#[test]
fn in_a_directory_services_are_served_with_addresses_that_no_manifest_says() {
    let (_folder, mut core) = serving();
    core.balance_services(false);
    for event in [
        node("n1"),
        service("b", "LoadBalancer", &json!([])),
        service("a", "LoadBalancer", &json!([])),
        service("none", "ClusterIP", &json!([])),
        Event::InSync,
    ] {
        core.handle_event(event);
    }
    assert_eq!(
        addresses(&mut core),
        pair([("a", &[]), ("b", &[]), ("none", &[])])
    );
    core.handle_event(pool("192.0.2.7/32"));
    let first = pair([("a", &["192.0.2.7"]), ("b", &[]), ("none", &[])]);
    assert_eq!(addresses(&mut core), first);
    assert!(core.balancing_news().is_some());
    assert_eq!(addresses(&mut core), first);
    assert!(core.balancing_news().is_none(), "nothing has changed");
    // What a manifest says is held.
    core.handle_event(service("b", "LoadBalancer", &json!([{"ip": "192.0.2.7"}])));
    let held = pair([("a", &[]), ("b", &["192.0.2.7"]), ("none", &[])]);
    assert_eq!(addresses(&mut core), held);
    core.handle_event(service("b", "ClusterIP", &json!([])));
    assert_eq!(
        addresses(&mut core),
        pair([("a", &["192.0.2.7"]), ("b", &[]), ("none", &[])])
    );
    core.handle_event(event(Key::IpPool("web".to_owned()), None));
    assert_eq!(
        addresses(&mut core),
        pair([("a", &[]), ("b", &[]), ("none", &[])])
    );
}

#[test]
fn any_order_of_the_same_manifests_gives_the_same_addresses() {
    let mut events = vec![node("n1"), pool("192.0.2.0/30")];
    events.extend(["a", "b", "c"].map(|name| service(name, "LoadBalancer", &json!([]))));
    let mut found = Vec::new();
    for turn in 0..events.len() {
        let (_folder, mut core) = serving();
        core.balance_services(false);
        core.handle_event(Event::InSync);
        for place in 0..events.len() {
            core.handle_event(events[(place + turn) % events.len()].clone());
            core.outputs().unwrap();
        }
        found.push(addresses(&mut core));
    }
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    assert_eq!(found[0].values().filter(|ips| !ips.is_empty()).count(), 2);
}

#[test]
fn in_a_cluster_what_addresses_depend_on_is_handed_on_once() {
    let (_folder, mut core) = serving();
    core.balance_services(true);
    core.handle_event(node("n1"));
    core.handle_event(service("none", "ClusterIP", &json!([])));
    core.handle_event(service("a", "LoadBalancer", &json!([])));
    core.handle_event(Event::InSync);
    assert_eq!(core.balancing_notes().len(), 3, "Node, Service, in sync");
    core.handle_event(service("a", "ClusterIP", &json!([])));
    core.handle_event(service("a", "ClusterIP", &json!([])));
    assert_eq!(core.balancing_notes().len(), 1, "it is none any more");
    assert_eq!(addresses(&mut core)["a"], Vec::<String>::new());
}
