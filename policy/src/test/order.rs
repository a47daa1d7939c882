//! Whatever way led to the present objects, the result is what they give from scratch, and what is the same is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Change, Resource};
use netfilter::{ChainName, SetName};
use proptest::prelude::*;

use super::fixture::Cluster;
use super::random::cluster;
use crate::{Endpoint, Index};

/// One thing that an index is told.
#[derive(Clone, Debug)]
enum Event {
    Object(Box<Change>),
    Endpoints(BTreeMap<String, Endpoint>),
    Domains(bool),
    /// The kernel refuses every so many-th of the sets and chains that are compiled now.
    Broken(usize),
    Compile,
}

fn object(change: Change) -> Event {
    Event::Object(Box::new(change))
}

/// Another state of the object, or none.
fn other(change: &Change, kind: u8) -> Change {
    let mut earlier = change.clone();
    match (&mut earlier.value, kind) {
        (Some(Resource::Pod(pod)), 1) => {
            pod.labels.insert("app".to_owned(), "y".to_owned());
            pod.finished = !pod.finished;
        }
        (Some(Resource::Pod(pod)), 2) => {
            pod.uid = "other".to_owned();
            pod.pod_ips
                .clone_from(&super::random::addresses(3).to_vec());
            pod.named_ports.clear();
        }
        (Some(Resource::Namespace(namespace)), 1) => namespace.labels.clear(),
        (Some(Resource::Node(node)), 1) => node.addresses.clear(),
        (Some(Resource::NetworkPolicy(policy)), 1) => policy.ingress = Some(Vec::new()),
        (Some(Resource::NetworkPolicy(policy)), 2) => {
            policy.pod_selector = api::LabelSelector::default()
        }
        (Some(Resource::ClusterNetworkPolicy(policy)), 1) => policy.ingress.clear(),
        (Some(Resource::ClusterNetworkPolicy(policy)), 2) => policy.priority = 1,
        (value, _) => *value = None,
    }
    earlier
}

/// Expands a list of events: split by others (squashed again later), repeated, and with no-ops between.
fn expand(cluster: &Cluster, order: &[Change], noise: &[(usize, u8)]) -> Vec<Event> {
    let mut events: Vec<Event> = order.iter().cloned().map(object).collect();
    for (at, kind) in noise {
        let change = order.get(at % order.len().max(1));
        let place = (at / 7) % (events.len() + 1);
        let event = match kind {
            0..3 => change.map(|change| object(other(change, *kind))),
            3 => change.cloned().map(object),
            4 => {
                let some = cluster
                    .endpoints
                    .iter()
                    .filter(|(name, _)| (name.len() + at) % 3 > 0);
                let some = some.map(|(name, one)| (name.clone(), one.clone()));
                Some(Event::Endpoints(some.collect()))
            }
            5 => {
                let mut moved = cluster.endpoints.clone();
                for (number, endpoint) in moved.values_mut().enumerate() {
                    endpoint.addresses = super::random::addresses(number + 1 + at % 3).to_vec();
                }
                Some(Event::Endpoints(moved))
            }
            6 => Some(Event::Domains(at % 2 == 0)),
            7 => Some(Event::Broken(at % 5 + 1)),
            8 => Some(Event::Endpoints(BTreeMap::new())),
            _ => Some(Event::Compile),
        };
        if let Some(event) = event {
            events.insert(place, event);
        }
    }
    // What is last said of each object is what holds.
    events.extend(order.iter().rev().cloned().map(object));
    events
}

fn tell(index: &mut Index, cluster: &Cluster, event: &Event) {
    match event {
        Event::Object(change) => index.handle(change),
        Event::Endpoints(endpoints) => index.set_endpoints(endpoints.clone()),
        Event::Domains(true) => index.set_domain_addresses(cluster.domains.clone()),
        Event::Domains(false) => index.set_domain_addresses(BTreeMap::new()),
        Event::Broken(every) => {
            let compiled = index.compile();
            let families = [&compiled.v4, &compiled.v6];
            let sets = families.iter().flat_map(|family| family.sets.keys());
            let sets = sets.step_by(*every).cloned().collect();
            let chains = compiled.origins.keys().step_by(*every).cloned().collect();
            index.set_broken(sets, chains);
        }
        Event::Compile => {
            let compiled = index.compile();
            assert_eq!(*compiled, index.compile_from_scratch());
            assert!(Arc::ptr_eq(&compiled, &index.compile()));
        }
    }
}

fn settle(index: &mut Index, cluster: &Cluster) {
    index.set_endpoints(cluster.endpoints.clone());
    index.set_domain_addresses(cluster.domains.clone());
    index.set_broken(BTreeSet::<SetName>::new(), BTreeSet::<ChainName>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_way_to_the_same_objects_compiles_to_the_same(
        (cluster, order) in cluster().prop_flat_map(|cluster| {
            let changes = cluster.changes();
            (Just(cluster), Just(changes).prop_shuffle())
        }),
        noise in prop::collection::vec((0usize..10_000, 0..12u8), 0..30),
    ) {
        let straight = cluster.compile();
        prop_assert_eq!(&straight, &cluster.index().compile_from_scratch());
        let mut index = Index::with_settings(cluster.settings.clone());
        for event in expand(&cluster, &order, &noise) {
            tell(&mut index, &cluster, &event);
        }
        settle(&mut index, &cluster);
        let compiled = index.compile();
        prop_assert_eq!(&*compiled, &straight);
        order.iter().rev().for_each(|change| index.handle(change));
        prop_assert!(Arc::ptr_eq(&index.compile(), &compiled), "nothing changed");
        for mut change in order {
            change.value = None;
            index.handle(&change);
            index.handle(&change);
        }
        index.set_endpoints(BTreeMap::new());
        let empty = Index::with_settings(cluster.settings.clone()).compile();
        prop_assert_eq!(index.compile(), empty);
    }
}

#[test]
fn what_a_change_does_not_touch_is_the_same_allocation() {
    let mut cluster = Cluster::small();
    for (name, of, peer) in [("a/p", "app=x", "app=z"), ("a/q", "app=y", "app=w")] {
        let mut one = super::fixture::policy(name, of);
        let peers = vec![super::fixture::pods(None, peer)];
        one.ingress = Some(vec![super::fixture::rule(Some(peers), None)]);
        cluster.policies.push(one);
    }
    let mut index = cluster.index();
    let before = index.compile();
    let mut pod = cluster.pods[2].clone();
    pod.labels = super::fixture::labels("app=w");
    index.handle(&Change {
        key: api::Key::Pod(pod.name.clone()),
        value: Some(Resource::Pod(pod)),
    });
    let after = index.compile();
    assert_eq!(before.v4.rules, after.v4.rules);
    let (mut same, mut other) = (0, 0);
    for (name, set) in &after.v4.sets {
        if Arc::ptr_eq(set, &before.v4.sets[name]) {
            same += 1;
        } else {
            other += 1;
        }
    }
    assert_eq!((other, same), (2, before.v4.sets.len() - 2));
    for (table, rules) in &after.v4.rules.tables {
        for (name, chain) in &rules.chains {
            assert!(Arc::ptr_eq(
                chain,
                &before.v4.rules.tables[table].chains[name]
            ));
        }
    }
    assert!(Arc::ptr_eq(&before.origins, &after.origins));
}
