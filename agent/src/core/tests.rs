//! The core's state, without any shell.

mod balancing;
mod cluster;

mod egress;
mod serving;
mod tunnels;

use api::resources::{Namespace, Node};

use super::*;
use crate::message::When;

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
        leaving: None,
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
        ranges: Vec::new(),
        given: Vec::new(),
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
fn a_host_end_that_is_made_anew_has_no_route_until_it_is_up() {
    let (_folder, mut core) = core();
    core.handle_event(node("n1"));
    core.handle_event(Event::InSync);
    let routes = |core: &mut Core| core.outputs().unwrap().local.routes.len();
    let endpoint = core.attach(&asked(holder(), None, Vec::new())).unwrap();
    core.set_link(&endpoint.interface, true);
    assert_eq!(routes(&mut core), 2);
    core.attach(&asked(holder(), None, Vec::new())).unwrap();
    assert_eq!(routes(&mut core), 1, "the kernel would refuse it");
    core.set_link(&endpoint.interface, true);
    assert_eq!(routes(&mut core), 2);
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

fn pool(cidr: &str) -> Event {
    let manifest = serde_json::json!({"apiVersion": "portolan.io/v1alpha1", "kind": "IPPool",
        "metadata": {"name": "pods"}, "spec": {"cidr": cidr, "blockSize": 28}});
    let (key, pool) = api::parse("IPPool", "portolan.io/v1alpha1", manifest)
        .unwrap()
        .unwrap();
    event(key, Some(pool))
}

fn block(cidr: &str, node: &str) -> Event {
    let block = api::resources::IpamBlock {
        cidr: cidr.parse().unwrap(),
        node: node.to_owned(),
    };
    event(
        Key::IpamBlock(block.name()),
        Some(Resource::IpamBlock(block)),
    )
}

fn pod_elsewhere(name: &str, address: &str) -> Event {
    let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name}, "spec": {"nodeName": "n2", "containers": []},
        "status": {"podIPs": [{"ip": address}]}});
    let (key, pod) = api::parse("Pod", "v1", manifest).unwrap().unwrap();
    event(key, Some(pod))
}

fn pooled_core(events: &[Event]) -> (tempfile::TempDir, Core) {
    let (folder, mut core) = core();
    core.use_pools(Duration::from_secs(300));
    for event in events {
        core.handle_event(event.clone());
    }
    core.handle_event(Event::InSync);
    (folder, core)
}

fn prefixes(core: &mut Core) -> Vec<String> {
    let speaker = core.outputs().unwrap().speaker.unwrap();
    let originate = speaker.config.originate.keys();
    originate.map(ToString::to_string).collect()
}

#[test]
fn with_a_pool_a_node_announces_its_blocks_and_gives_addresses_of_them_alone() {
    let events = [
        node("n1"),
        pool("10.48.0.0/24"),
        block("10.48.0.16/28", "n1"),
        block("10.48.0.32/28", "n2"),
    ];
    let (_folder, mut core) = pooled_core(&events);
    assert_eq!(prefixes(&mut core), ["10.48.0.16/28"]);
    let endpoint = core.attach(&asked(holder(), None, Vec::new())).unwrap();
    let cidr: IpNet = "10.48.0.16/28".parse().unwrap();
    assert!(cidr.contains(&endpoint.addresses[0]), "{endpoint:?}");
    let outputs = core.outputs().unwrap();
    assert_eq!(outputs.local.routes, [(cidr, Target::Blackhole)].into());
    assert_eq!(outputs.flows.pod_cidrs, [cidr]);
    assert_eq!(outputs.blocks, Goal::default());
}

#[test]
fn a_pod_waits_for_the_first_block_and_an_agent_without_pods_takes_none() {
    let (_folder, mut core) = pooled_core(&[node("n1"), pool("10.48.0.0/24")]);
    let error = core.attach(&asked(holder(), None, Vec::new())).unwrap_err();
    assert_eq!(when(&error), When::Soon, "{error:#}");
    assert_eq!(core.outputs().unwrap().blocks.claim.len(), 1);

    let (_folder, mut core) = self::core();
    core.handle_event(node("n1"));
    core.handle_event(pool("10.48.0.0/24"));
    core.handle_event(Event::InSync);
    assert_eq!(core.outputs().unwrap().blocks, Goal::default());
    assert_eq!(prefixes(&mut core), ["10.244.1.0/24"]);
}

#[test]
fn an_address_out_of_another_nodes_block_is_announced_by_itself_once_its_link_is_there() {
    let events = [
        node("n1"),
        pool("10.48.0.0/24"),
        block("10.48.0.16/28", "n1"),
        block("10.48.0.32/28", "n2"),
    ];
    let (_folder, mut core) = pooled_core(&events);
    let guest = core
        .attach(&asked(holder(), None, vec!["10.48.0.40".parse().unwrap()]))
        .unwrap();
    assert_eq!(prefixes(&mut core), ["10.48.0.16/28"]);
    core.set_link(&guest.interface, true);
    assert_eq!(prefixes(&mut core), ["10.48.0.16/28", "10.48.0.40/32"]);
    core.detach(&holder()).unwrap();
    assert_eq!(prefixes(&mut core), ["10.48.0.16/28"]);
}

#[test]
fn what_a_pod_elsewhere_holds_of_a_block_is_accepted_from_peers_and_given_to_nobody_here() {
    let events = [
        node("n1"),
        pool("10.48.0.0/24"),
        block("10.48.0.16/30", "n1"),
        pod_elsewhere("guest", "10.48.0.17"),
    ];
    let (_folder, mut core) = pooled_core(&events);
    let outputs = core.outputs().unwrap();
    let exception: IpNet = "10.48.0.17/32".parse().unwrap();
    assert_eq!(outputs.flows.elsewhere, [exception].into());
    let endpoint = core.attach(&asked(holder(), None, Vec::new())).unwrap();
    assert_eq!(
        endpoint.addresses,
        ["10.48.0.18".parse::<IpAddr>().unwrap()]
    );
    let other = Holder {
        container_id: "c2".to_owned(),
        ..holder()
    };
    let fixed = asked(other, None, vec!["10.48.0.17".parse().unwrap()]);
    let error = core.attach(&fixed).unwrap_err().to_string();
    assert!(
        error.contains("held by Pod shop/guest of node n2"),
        "{error}"
    );
}

#[test]
fn pools_and_blocks_in_any_order_give_the_same_outputs() {
    let events = [
        node("n1"),
        node("n2"),
        pool("10.48.0.0/24"),
        block("10.48.0.16/28", "n1"),
        block("10.48.0.32/28", "n2"),
        pod_elsewhere("guest", "10.48.0.17"),
    ];
    let outcome = |order: &[usize]| {
        let ordered: Vec<Event> = order.iter().map(|index| events[*index].clone()).collect();
        let (_folder, mut core) = pooled_core(&ordered);
        let outputs = core.outputs().unwrap();
        (outputs.local.routes, outputs.speaker, outputs.blocks)
    };
    let first = outcome(&[0, 1, 2, 3, 4, 5]);
    for order in [[5, 4, 3, 2, 1, 0], [3, 0, 5, 2, 4, 1], [2, 4, 0, 3, 1, 5]] {
        assert_eq!(outcome(&order), first, "{order:?}");
    }
}

#[test]
fn an_address_of_another_ipam_plugin_needs_no_cidr_of_ours_and_is_no_fixed_one() {
    let (_folder, mut core) = core();
    core.handle_event(node("n1"));
    core.handle_event(Event::InSync);
    let given: Vec<IpAddr> = vec!["10.9.0.7".parse().unwrap()];
    let asked_of = |id: &str| Asked {
        given: given.clone(),
        ..asked(
            Holder {
                container_id: id.to_owned(),
                ..holder()
            },
            None,
            Vec::new(),
        )
    };
    assert_eq!(core.attach(&asked_of("c1")).unwrap().addresses, given);
    // A plugin that gives one twice is not believed.
    let error = core.attach(&asked_of("c2")).unwrap_err().to_string();
    assert!(
        error.contains("10.9.0.7") && error.contains("c1"),
        "{error}"
    );
    core.detach(&holder()).unwrap();
    assert_eq!(core.attach(&asked_of("c2")).unwrap().addresses, given);
}
