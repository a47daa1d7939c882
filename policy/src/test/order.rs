//! Whatever way led to the present objects, the result is the same.

use api::{Change, Resource};
use proptest::prelude::*;

use super::random::cluster;
use crate::Index;

/// A change that is undone later: an older state of the object, or none.
fn earlier(change: &Change, kind: u8) -> Change {
    let mut earlier = change.clone();
    match (&mut earlier.value, kind) {
        (Some(Resource::Pod(pod)), 1) => {
            pod.labels.insert("old".to_owned(), "yes".to_owned());
            pod.finished = !pod.finished;
        }
        (Some(Resource::Namespace(namespace)), 1) => namespace.labels.clear(),
        (Some(Resource::NetworkPolicy(policy)), 1) => policy.ingress = Some(Vec::new()),
        (value, _) => *value = None,
    }
    earlier
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_the_same_events_compiles_to_the_same(
        (cluster, order, noise) in cluster().prop_flat_map(|cluster| {
            let changes = cluster.changes();
            let noise = prop::collection::vec((0..changes.len().max(1), 0..3u8), 0..12);
            (Just(cluster), Just(changes).prop_shuffle(), noise)
        }),
        endpoints_at in 0usize..20,
    ) {
        let mut events = order.clone();
        for (at, kind) in noise {
            let Some(change) = order.get(at) else { continue };
            if kind == 2 {
                events.push(change.clone());
            } else {
                events.insert(0, earlier(change, kind));
            }
        }
        let mut index = Index::new();
        for (number, change) in events.iter().enumerate() {
            if number == endpoints_at {
                index.set_endpoints(cluster.endpoints.clone());
                let _ = index.compile();
            }
            index.handle(change);
        }
        index.set_endpoints(cluster.endpoints.clone());
        let straight = cluster.compile();
        prop_assert_eq!(&*index.compile(), &straight);
        order.iter().rev().for_each(|change| index.handle(change));
        prop_assert_eq!(&*index.compile(), &straight);
    }
}

#[test]
fn all_gone_compiles_to_what_an_empty_index_does() {
    let cluster = super::fixture::Cluster::small();
    let mut index = Index::new();
    cluster
        .changes()
        .iter()
        .for_each(|change| index.handle(change));
    for mut change in cluster.changes() {
        change.value = None;
        index.handle(&change);
        index.handle(&change);
    }
    assert_eq!(index.compile(), Index::new().compile());
}
