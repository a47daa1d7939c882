//! Whose packets to the outside bear the node's address, from what the sources say.

use api::resources::IpPool;
use netfilter::Family;

use super::*;

fn pool(name: &str, cidr: &str, nat_outgoing: bool) -> Event {
    let spec = serde_json::json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": cidr, "natOutgoing": nat_outgoing, "nodeSelector": "!all()", "disabled": true},
    });
    let written: api::crd::IPPool = serde_json::from_value(spec).unwrap();
    let pool = IpPool::try_from(written).unwrap();
    event(Key::IpPool(name.to_owned()), Some(Resource::IpPool(pool)))
}

fn pooled_core(events: impl IntoIterator<Item = Event>) -> (tempfile::TempDir, Core) {
    let (folder, mut core) = core();
    core.use_pools(Duration::from_secs(300));
    events
        .into_iter()
        .for_each(|event| core.handle_event(event));
    core.handle_event(Event::InSync);
    (folder, core)
}

fn egress(core: &mut Core) -> Arc<services::egress::Compiled> {
    core.outputs().unwrap().firewall.egress
}

fn members(compiled: &services::egress::Compiled, set: &'static str) -> Vec<String> {
    let set = &compiled.v4.sets[&SetName::fixed(Family::V4, set)];
    set.members().iter().map(ToString::to_string).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_pod_cidr_in_a_pool_with_nat_is_masqueraded_and_nodes_are_inside() {
    let events = || [node("n1"), node("n2"), pool("pods", "10.244.0.0/16", true)];
    let (_folder, mut core) = pooled_core(events());
    let first = egress(&mut core);
    assert_eq!(first.sources, BTreeSet::from([net("10.244.1.0/24")]));
    let inside = members(&first, "inside");
    for wanted in ["10.10.1.2/32", "10.244.0.0/16", "224.0.0.0/4"] {
        assert!(inside.iter().any(|member| member == wanted), "{inside:?}");
    }
    // What is as it was is not made anew, and whatever came first it is the same.
    assert!(Arc::ptr_eq(&first, &egress(&mut core)));
    let (_folder, mut other) = pooled_core(events().into_iter().rev());
    assert_eq!(egress(&mut other), first);
}

#[test]
fn an_address_beyond_the_nodes_prefixes_has_what_its_own_pool_says() {
    let pools = [
        pool("nat", "10.48.0.0/16", true),
        pool("plain", "10.49.0.0/16", false),
    ];
    let (_folder, mut core) = pooled_core([node("n1")].into_iter().chain(pools));
    assert_eq!(*egress(&mut core), services::egress::Compiled::default());
    for (id, fixed) in [("c1", "10.48.0.7"), ("c2", "10.49.0.7")] {
        let holder = Holder {
            container_id: id.to_owned(),
            ..holder()
        };
        let asked = asked(holder, None, vec![fixed.parse().unwrap()]);
        core.attach(&asked).unwrap();
    }
    let compiled = egress(&mut core);
    assert_eq!(compiled.sources, BTreeSet::from([net("10.48.0.7/32")]));
    core.detach(&holder()).unwrap();
    assert_eq!(*egress(&mut core), services::egress::Compiled::default());
}

#[test]
fn a_node_more_is_inside_and_one_less_is_not() {
    let (_folder, mut core) = pooled_core([node("n1"), pool("pods", "10.244.0.0/16", true)]);
    let before = egress(&mut core);
    let mut other = node("n2");
    if let Event::Change(Change {
        value: Some(Resource::Node(node)),
        ..
    }) = &mut other
    {
        node.addresses = vec!["198.51.100.2".parse().unwrap()];
    }
    core.handle_event(other);
    let with = members(&egress(&mut core), "inside");
    assert!(
        with.iter().any(|member| member == "198.51.100.2/32"),
        "{with:?}"
    );
    core.handle_event(event(Key::Node("n2".to_owned()), None));
    assert_eq!(egress(&mut core), before);
}

#[test]
fn without_natoutgoing_or_without_pods_of_its_own_an_agent_does_nothing() {
    let (_folder, mut core) = pooled_core([node("n1"), pool("pods", "10.244.0.0/16", false)]);
    assert_eq!(*egress(&mut core), services::egress::Compiled::default());
    let (_folder, mut core) = super::core();
    core.handle_event(node("n1"));
    core.handle_event(pool("pods", "10.244.0.0/16", true));
    core.handle_event(Event::InSync);
    assert_eq!(*egress(&mut core), services::egress::Compiled::default());
}

#[test]
fn a_family_that_the_kernel_refuses_is_said() {
    let (_folder, mut core) = pooled_core([node("n1"), pool("pods", "10.244.0.0/16", true)]);
    egress(&mut core);
    core.set_broken(
        BTreeSet::new(),
        BTreeSet::from([ChainName::fixed("EGRESS")]),
    );
    assert!(egress(&mut core).v4.rules.tables.is_empty());
    let said = core.unsupported().join("\n");
    assert!(
        said.contains("natOutgoing") && said.contains("IPv4"),
        "{said}"
    );
    core.set_broken(BTreeSet::new(), BTreeSet::new());
    assert!(!egress(&mut core).v4.rules.tables.is_empty());
    assert!(core.unsupported().is_empty());
}
