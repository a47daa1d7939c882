//! From manifests to verdicts.

use serde_json::{Value, json};

use super::*;

fn change(kind: &str, version: &str, value: Value) -> Change {
    let (key, resource) = api::parse(kind, version, value).unwrap().unwrap();
    Change {
        key,
        value: Some(resource),
    }
}

fn pool(name: &str, cidr: &str) -> Change {
    let value = json!({
        "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": 32, "allowedUses": ["LoadBalancer"]},
    });
    change("IPPool", "portolan.io/v1alpha1", value)
}

fn service(name: &str, spec: &Value, status: &Value) -> Change {
    let value = json!({
        "metadata": {"namespace": "shop", "name": name}, "spec": spec, "status": status,
    });
    change("Service", "v1", value)
}

fn balanced(class: Option<&str>) -> Value {
    json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}], "loadBalancerClass": class})
}

fn note(allocator: &mut Allocator, change: &Change) -> bool {
    allocator.note(Note::of(change).unwrap())
}

fn verdict_of(allocator: &Allocator, name: &str) -> Option<AddressVerdict> {
    let state = allocator.allocate();
    let verdicts = allocator.verdicts(&state);
    let found = verdicts.get(&NamespacedName::new("shop", name));
    found.map(|found| found.verdict.clone())
}

#[test]
fn a_verdict_says_the_address_and_its_pool_or_what_is_missing() {
    let mut allocator = Allocator::default();
    assert!(note(&mut allocator, &pool("web", "192.0.2.7/32")));
    assert!(note(
        &mut allocator,
        &service("a", &balanced(None), &json!({}))
    ));
    assert!(!note(
        &mut allocator,
        &service("a", &balanced(None), &json!({}))
    ));
    assert!(note(
        &mut allocator,
        &service("b", &balanced(None), &json!({}))
    ));
    let address = "192.0.2.7".parse().unwrap();
    let wanted = AddressVerdict::Has {
        addresses: vec![address],
        is_whole: true,
        reason: "Allocated",
        message: "192.0.2.7 of IPPool web".to_owned(),
    };
    assert_eq!(verdict_of(&allocator, "a"), Some(wanted));
    let Some(AddressVerdict::Has {
        addresses,
        is_whole,
        reason,
        ..
    }) = verdict_of(&allocator, "b")
    else {
        panic!("it is told");
    };
    assert_eq!(
        (addresses, is_whole, reason),
        (Vec::new(), false, "PoolExhausted")
    );
    let state = allocator.allocate();
    assert_eq!((state.pools[0].held, state.pools[0].free), (1, 0));
    assert_eq!(state.unserved(false).len(), 1);
    assert_eq!(state.unserved(true), []);
}

#[test]
fn others_services_are_left_alone_and_who_was_ours_is_told_that_it_is_not() {
    let mut allocator = Allocator::default();
    note(&mut allocator, &pool("web", "192.0.2.0/24"));
    let others = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
    note(&mut allocator, &service("metal", &balanced(None), &others));
    note(
        &mut allocator,
        &service("cloud", &balanced(Some("example.com/lb")), &json!({})),
    );
    let ours = json!({"conditions": [{"type": "portolan.io/AddressesAllocated"}]});
    note(
        &mut allocator,
        &service(
            "was",
            &json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.2"]}),
            &ours,
        ),
    );
    assert_eq!(verdict_of(&allocator, "metal"), None);
    assert_eq!(verdict_of(&allocator, "cloud"), None);
    assert_eq!(verdict_of(&allocator, "was"), Some(AddressVerdict::Nothing));
    let told = allocator.allocate().unserved(true);
    assert_eq!(
        (told.len(), told[0].reason, told[0].name.name.as_str()),
        (1, "BalancedElsewhere", "metal")
    );
}

#[test]
fn without_a_pool_nothing_is_said_to_who_names_no_class() {
    let mut allocator = Allocator::default();
    note(&mut allocator, &service("a", &balanced(None), &json!({})));
    note(
        &mut allocator,
        &service(
            "b",
            &balanced(Some("portolan.io/load-balancer")),
            &json!({}),
        ),
    );
    assert_eq!(verdict_of(&allocator, "a"), None);
    let Some(AddressVerdict::Has { reason, .. }) = verdict_of(&allocator, "b") else {
        panic!("it is told");
    };
    assert_eq!(reason, "NoPool");
}
