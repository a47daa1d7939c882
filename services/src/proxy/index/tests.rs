//! Rules 117, 119, 120: what is indexed, what a change touches, and that no order of changes shows.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::proxy::tests::*;

#[test]
fn rule_117_headless_and_external_names_and_others_services_are_not_minded() {
    let labelled = |label: &str| json!({"metadata": {"labels": {label: ""}}});
    let cases = [
        json!({"spec": {"clusterIPs": ["None"]}}),
        json!({"spec": {"clusterIPs": [""]}}),
        json!({"spec": {"type": "ExternalName", "externalName": "x"}}),
        labelled("service.kubernetes.io/service-proxy-name"),
        labelled("service.kubernetes.io/headless"),
    ];
    for case in cases {
        let mut index = Index::default();
        index.set_service(service("web", json!({})));
        assert!(index.service(&name("web")).is_some());
        assert_eq!(
            index.set_service(service("web", case.clone())),
            [name("web")].into(),
            "{case}"
        );
        assert!(index.service(&name("web")).is_none(), "{case}");
        assert_eq!(index.services().count(), 0);
        index.set_service(service("web", json!({})));
        assert!(index.service(&name("web")).is_some(), "and back: {case}");
    }
}

#[test]
fn rule_117_slices_of_headless_services_and_of_other_proxies_are_not_minded() {
    let one = [endpoint("10.1.0.1", HERE, Is::Ready)];
    for label in ["headless", "service-proxy-name"] {
        let label = format!("service.kubernetes.io/{label}");
        let labelled = json!({"metadata": {"labels": {label: ""}}});
        let mut index = Index::default();
        index.set_slice(slice("web-1", "web", &one));
        assert_eq!(index.slices(&name("web")).count(), 1);
        let touched = index.set_slice(slice_with("web-1", "web", &one, labelled.clone()));
        assert_eq!(
            touched,
            [name("web")].into(),
            "a label that comes is a removal"
        );
        assert_eq!(index.slices(&name("web")).count(), 0);
        assert!(
            index
                .set_slice(slice_with("web-1", "web", &one, labelled))
                .is_empty()
        );
    }
}

#[test]
fn rule_119_slices_are_joined_by_their_label_and_a_changed_label_touches_both() {
    let mut index = Index::default();
    let one = [endpoint("10.1.0.1", HERE, Is::Ready)];
    assert_eq!(
        index.set_slice(slice("web-1", "web", &one)),
        [name("web")].into()
    );
    assert!(
        index.set_slice(slice("web-1", "web", &one)).is_empty(),
        "nothing new"
    );
    let both = [name("web"), name("api")].into();
    assert_eq!(index.set_slice(slice("web-1", "api", &one)), both);
    assert_eq!(index.slices(&name("web")).count(), 0);
    assert_eq!(
        index.set_slice(slice("web-1", "", &one)),
        [name("api")].into()
    );
    assert!(
        index.remove_slice(&name("web-1")).is_empty(),
        "nobody's already"
    );
}

#[test]
fn rule_124_another_zone_of_this_node_touches_every_service() {
    let mut index = Index::default();
    assert!(index.set_place(place()).is_empty());
    index.set_service(service("web", json!({})));
    index.set_service(service(
        "api",
        json!({"spec": {"clusterIPs": ["10.96.0.2"]}}),
    ));
    assert!(index.set_place(place()).is_empty());
    let moved = Place {
        zone: None,
        ..place()
    };
    assert_eq!(index.set_place(moved), [name("api"), name("web")].into());
}

/// One of few objects, in one of few states.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, u8)>),
    Zone(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..3, prop::option::of(0u8..4)).prop_map(|(which, how)| Step::Service(which, how)),
        (0u8..4, prop::option::of((0u8..3, 0u8..4)))
            .prop_map(|(which, how)| Step::Slice(which, how)),
        any::<bool>().prop_map(Step::Zone),
    ]
}

fn take(index: &mut Index, step: &Step) -> Touched {
    match step {
        Step::Service(which, None) => index.remove_service(&name(&format!("s{which}"))),
        Step::Service(which, Some(how)) => {
            let port = json!({"spec": {"ports": [{"name": "http", "port": 80 + how}]}});
            index.set_service(service(&format!("s{which}"), port))
        }
        Step::Slice(which, None) => index.remove_slice(&name(&format!("e{which}"))),
        Step::Slice(which, Some((of, how))) => {
            let one = [endpoint(&format!("10.1.0.{how}"), HERE, Is::Ready)];
            index.set_slice(slice(&format!("e{which}"), &format!("s{of}"), &one))
        }
        Step::Zone(known) => {
            let zone = known.then(|| "a".to_owned());
            index.set_place(Place { zone, ..place() })
        }
    }
}

/// The last word on each object, in the objects' order.
fn last_words(steps: &[Step]) -> Vec<Step> {
    let mut last: BTreeMap<(u8, u8), Step> = BTreeMap::new();
    for step in steps {
        let key = match step {
            Step::Service(which, _) => (0, *which),
            Step::Slice(which, _) => (1, *which),
            Step::Zone(_) => (2, 0),
        };
        last.insert(key, step.clone());
    }
    last.into_values().rev().collect()
}

proptest! {
    #[test]
    fn rule_120_any_order_of_changes_gives_the_index_of_what_is(steps in prop::collection::vec(step(), 0..40)) {
        let (mut lived, mut fresh) = (Index::default(), Index::default());
        for step in &steps {
            let before = lived.clone();
            let touched = take(&mut lived, step);
            // Nothing changes for a Service that is not named.
            for number in 0..3 {
                let name = name(&format!("s{number}"));
                let same = before.service(&name) == lived.service(&name)
                    && before.slices(&name).eq(lived.slices(&name))
                    && (before.place() == lived.place() || lived.service(&name).is_none());
                prop_assert!(same || touched.contains(&name), "{step:?} touched {touched:?}");
            }
        }
        for step in last_words(&steps) {
            take(&mut fresh, &step);
        }
        prop_assert_eq!(lived, fresh);
    }
}
