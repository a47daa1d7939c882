//! The core's state, without any shell.

use api::resources::Namespace;

use super::*;

fn event(key: Key, value: Option<Resource>) -> Event {
    Event::Change(Change { key, value })
}

fn node(name: &str) -> Event {
    let node = Node {
        name: name.to_owned(),
        labels: api::Labels::new(),
        internal_ips: vec!["10.10.1.2".parse().unwrap()],
        addresses: Vec::new(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
    };
    event(Key::Node(name.to_owned()), Some(Resource::Node(node)))
}

fn namespace(name: &str) -> Event {
    let namespace = Namespace {
        name: name.to_owned(),
        labels: api::Labels::new(),
    };
    event(
        Key::Namespace(name.to_owned()),
        Some(Resource::Namespace(namespace)),
    )
}

fn core() -> (tempfile::TempDir, Core) {
    let folder = tempfile::tempdir().unwrap();
    let leases = Leases::open(folder.path()).unwrap();
    (
        folder,
        Core::new("n1".to_owned(), leases, policy::Settings::default()),
    )
}

fn holder() -> Holder {
    Holder {
        container_id: "c1".to_owned(),
        interface: "eth0".to_owned(),
    }
}

fn asked(holder: Holder, pod: Option<NamespacedName>, fixed: Vec<IpAddr>) -> Asked {
    Asked {
        holder,
        pod,
        uid: String::new(),
        fixed,
        settings: Settings::default(),
    }
}

#[test]
fn nothing_is_to_be_written_before_every_source_is_in_sync() {
    let (_folder, mut core) = core();
    core.handle_event(node("n1"));
    assert!(core.outputs().is_none());
    core.handle_event(Event::InSync);
    let outputs = core.outputs().unwrap();
    assert_eq!(outputs.firewall.generation, 1);
    assert!(outputs.speaker.is_some());
}

#[test]
fn a_pod_is_routed_only_while_its_link_is_there_and_its_cidr_is_a_blackhole() {
    let (_folder, mut core) = core();
    core.handle_event(node("n1"));
    core.handle_event(Event::InSync);
    let pod = Some(NamespacedName::new("shop", "web"));
    let endpoint = core.attach(&asked(holder(), pod, Vec::new())).unwrap();
    let routes = |core: &mut Core| core.outputs().unwrap().local.routes;
    let cidr: IpNet = "10.244.1.0/24".parse().unwrap();
    assert_eq!(
        routes(&mut core),
        BTreeMap::from([(cidr, Target::Blackhole)])
    );
    core.set_link(&endpoint.interface, true);
    let host = IpNet::from(endpoint.addresses[0]);
    assert_eq!(
        routes(&mut core)[&host],
        Target::Interface(endpoint.interface)
    );
    core.detach(&holder()).unwrap();
    assert_eq!(routes(&mut core).len(), 1);
}

#[test]
fn who_gets_an_address_that_another_gave_up_waits_for_the_generation_without_that_one() {
    let (_folder, mut core) = core();
    core.handle_event(node("n1"));
    core.handle_event(Event::InSync);
    let fixed = vec!["10.244.1.77".parse().unwrap()];
    let first = core.attach(&asked(holder(), None, fixed.clone())).unwrap();
    assert_eq!(first.freed, 0, "nobody had it");
    assert_eq!(core.outputs().unwrap().firewall.generation, 1);
    core.detach(&holder()).unwrap();
    let other = Holder {
        container_id: "c2".to_owned(),
        ..holder()
    };
    let second = core.attach(&asked(other, None, fixed)).unwrap();
    assert_eq!(second.freed, 2);
    assert_eq!(core.outputs().unwrap().firewall.generation, 2);
}

#[test]
fn the_same_events_in_another_order_give_the_same_outputs() {
    let events = [node("n1"), node("n2"), namespace("a"), namespace("b")];
    let outcome = |order: [usize; 4]| {
        let (_folder, mut core) = core();
        for index in order {
            core.handle_event(events[index].clone());
        }
        // Spurious removals change nothing.
        core.handle_event(event(Key::Namespace("never".to_owned()), None));
        core.handle_event(Event::InSync);
        let outputs = core.outputs().unwrap();
        (
            outputs.firewall.compiled,
            outputs.local.routes,
            outputs.speaker,
        )
    };
    let first = outcome([0, 1, 2, 3]);
    for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        assert_eq!(outcome(order), first);
    }
}

#[test]
fn an_unknown_node_is_said_and_gets_no_pods() {
    let (_folder, mut core) = core();
    core.handle_event(node("other"));
    core.handle_event(Event::InSync);
    assert!(core.outputs().unwrap().speaker.is_none());
    assert!(core.errors()[0].contains("there is no Node n1"));
    assert!(core.attach(&asked(holder(), None, Vec::new())).is_err());
}
