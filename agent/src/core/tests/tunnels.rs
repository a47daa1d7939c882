//! What tunnels are asked for is worked out when that matters, and not at every publication.

use super::*;

fn pool_of_tunnels(encapsulation: &str) -> Event {
    let manifest = serde_json::json!({"apiVersion": "portolan.io/v1alpha1", "kind": "IPPool",
        "metadata": {"name": "pods"}, "spec": {"cidr": "10.48.0.0/16", "blockSize": 26, "encapsulation": encapsulation}});
    let (key, pool) = api::parse("IPPool", "portolan.io/v1alpha1", manifest)
        .unwrap()
        .unwrap();
    event(key, Some(pool))
}

#[test]
fn what_tunnels_are_asked_for_is_found_anew_only_for_what_matters_to_them() {
    let (_folder, mut core) = core();
    for event in [
        node("n1"),
        node("n2"),
        pool_of_tunnels("VXLAN"),
        Event::InSync,
    ] {
        core.handle_event(event);
    }
    core.handle_event(block("10.48.0.64/26", "n2"));
    let prefixes = |core: &mut Core| {
        let demands = core.outputs().unwrap().local.overlays;
        let peers = demands.values().flat_map(|demand| demand.peers.values());
        let prefixes = peers.flat_map(|peer| peer.prefixes.keys());
        prefixes.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(&mut core), ["10.48.0.64/26"]);
    assert_eq!(core.overlays.reckoned, 1);
    // A thousand pods in their node's block, one that finishes, one that goes; a Node told again as it was.
    for number in 0..1000 {
        let address = format!("10.48.0.{}", 64 + number % 64);
        core.handle_event(pod_elsewhere(&format!("p{number}"), &address));
        assert_eq!(prefixes(&mut core).len(), 1);
    }
    let name = NamespacedName::new("shop", "p7");
    core.handle_event(event(Key::Pod(name), None));
    core.handle_event(node("n2"));
    assert_eq!(prefixes(&mut core).len(), 1);
    assert_eq!(core.overlays.reckoned, 1, "nothing of that mattered");
    // One outside of its node's block, and its going; a block; the pool.
    core.handle_event(pod_elsewhere("guest", "10.48.9.9"));
    assert_eq!(prefixes(&mut core), ["10.48.0.64/26", "10.48.9.9/32"]);
    core.handle_event(event(Key::Pod(NamespacedName::new("shop", "guest")), None));
    assert_eq!(prefixes(&mut core), ["10.48.0.64/26"]);
    core.handle_event(block("10.48.1.0/26", "n2"));
    assert_eq!(prefixes(&mut core).len(), 2);
    core.handle_event(pool_of_tunnels("None"));
    assert_eq!(prefixes(&mut core).len(), 0);
    assert_eq!(core.overlays.reckoned, 5);
}

#[test]
fn strangers_are_kept_out_of_a_device_until_it_is_gone() {
    let (_folder, mut core) = core();
    let local: IpAddr = "192.0.2.1".parse().unwrap();
    let standing = BTreeMap::from([(::overlay::Kind::Vxlan, local)]);
    // Of an earlier run, and no pool asks for it.
    assert!(!core.set_standing(&standing), "nothing is published yet");
    for event in [node("n1"), node("n2"), Event::InSync] {
        core.handle_event(event);
    }
    let is_guarded = |core: &mut Core| {
        let guard = core.outputs().unwrap().firewall.tunnels;
        assert_eq!(guard.v6, services::FamilyRules::default());
        !guard.is_empty()
    };
    assert!(is_guarded(&mut core));
    assert!(core.set_standing(&BTreeMap::new()), "it is gone");
    assert!(!is_guarded(&mut core));
    core.handle_event(pool_of_tunnels("VXLAN"));
    assert!(is_guarded(&mut core), "before it is made");
    assert!(!core.set_standing(&standing), "nothing to do");
    core.handle_event(pool_of_tunnels("None"));
    assert!(is_guarded(&mut core), "it lingers");
    assert!(core.set_standing(&BTreeMap::new()));
    assert!(!is_guarded(&mut core));
}

#[test]
fn a_node_that_lost_its_address_or_its_object_sends_nothing_of_wireguards_ranges_in_the_clear() {
    let (_folder, mut core) = core();
    for event in [
        node("n1"),
        node("n2"),
        pool_of_tunnels("WireGuard"),
        block("10.48.0.64/26", "n2"),
        Event::InSync,
    ] {
        core.handle_event(event);
    }
    let range: IpNet = "10.48.0.0/16".parse().unwrap();
    let closed = |core: &mut Core| {
        let demands = core.outputs().unwrap().local.overlays;
        let demand = demands.get(&::overlay::Kind::WireGuard).unwrap();
        assert_eq!(demand.ranges, [range].into());
        demand.is_closed()
    };
    assert!(!closed(&mut core));
    core.handle_event(event(Key::Node("n1".to_owned()), None));
    assert!(closed(&mut core));
    core.handle_event(node("n1"));
    assert!(!closed(&mut core));
    let nameless = api::parse(
        "Node",
        "v1",
        serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
    );
    let (key, nameless) = nameless.unwrap().unwrap();
    core.handle_event(event(key, Some(nameless)));
    assert!(closed(&mut core));
    // What asks for no encryption is open all the same.
    core.handle_event(event(Key::Node("n1".to_owned()), None));
    core.handle_event(pool_of_tunnels("VXLAN"));
    assert!(core.outputs().unwrap().local.overlays.is_empty());
}
