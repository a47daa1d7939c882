//! Rules 119–124 and 130–131: who is asked, and why others aren't.

use api::NamespacedName;
use api::resources::Protocol;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::*;

const BOTH: Scopes = Scopes {
    cluster: true,
    local: true,
};

fn port(port: &str, protocol: Protocol) -> PortName {
    PortName {
        service: NamespacedName::new("shop", "web"),
        port: port.to_owned(),
        protocol,
    }
}

fn gathered(slices: &[std::sync::Arc<EndpointSlice>], family: Family) -> Vec<Endpoint> {
    let slices = slices.iter().map(AsRef::as_ref);
    gather(slices, &port("http", Protocol::Tcp), family, &place())
}

fn chosen(endpoints: &[Value], scopes: Scopes) -> Choice {
    let slices = [slice("web-1", "web", endpoints)];
    choose(gathered(&slices, Family::V4), scopes, &place())
}

fn reasons(choice: &Choice) -> Vec<(String, Why)> {
    let said = choice.left_out.iter();
    said.map(|(one, why)| (one.address.to_string(), *why))
        .collect()
}

#[test]
fn rule_119_ports_are_joined_by_name_and_protocol_and_slices_may_differ() {
    let one = [endpoint("10.1.0.1", HERE, Is::Ready)];
    let two = [endpoint("10.1.0.2", "n2", Is::Ready)];
    let other = json!({"ports": [{"name": "http", "port": 9090}, {"name": "dns", "port": 53}]});
    let slices = [slice("a", "web", &one), slice_with("b", "web", &two, other)];
    let found = gathered(&slices, Family::V4);
    assert_eq!(addresses(&found), ["10.1.0.1:8080", "10.1.0.2:9090"]);
    let all = || slices.iter().map(AsRef::as_ref);
    let udp = gather(all(), &port("http", Protocol::Udp), Family::V4, &place());
    let dns = gather(all(), &port("dns", Protocol::Tcp), Family::V4, &place());
    assert_eq!(
        (addresses(&udp), addresses(&dns)),
        (vec![], vec!["10.1.0.2:53".to_owned()])
    );
    let unnamed = json!({"ports": [{"name": "", "port": 7}, {"port": 8}, {"name": "x"}]});
    let unnamed = slice_with("c", "web", &one, unnamed);
    let found = gather(
        [unnamed.as_ref()].into_iter(),
        &port("", Protocol::Tcp),
        Family::V4,
        &place(),
    );
    assert_eq!(addresses(&found), ["10.1.0.1:7"]);
}

#[test]
fn rule_119_the_type_of_a_slice_is_its_family_and_the_first_address_counts() {
    let two = [json!({"addresses": ["10.1.0.1", "10.1.0.2"]})];
    let six = [json!({"addresses": ["fd00::1"]})];
    let names = [json!({"addresses": ["a.example"]})];
    let slices = [
        slice("a", "web", &two),
        slice_with("b", "web", &six, json!({"addressType": "IPv6"})),
        slice_with("c", "web", &names, json!({"addressType": "FQDN"})),
    ];
    assert_eq!(addresses(&gathered(&slices, Family::V4)), ["10.1.0.1:8080"]);
    assert_eq!(
        addresses(&gathered(&slices, Family::V6)),
        ["[fd00::1]:8080"]
    );
}

#[test]
fn rule_120_a_copy_that_is_local_wins_whatever_the_slices_order() {
    let there = [endpoint("10.1.0.1", "n2", Is::Ready)];
    let here = [endpoint("10.1.0.1", HERE, Is::Draining)];
    let ended = [endpoint("10.1.0.1", HERE, Is::Ending)];
    let mut slices = [
        slice("a", "web", &there),
        slice("b", "web", &here),
        slice("c", "web", &ended),
    ];
    for turn in 0..3 {
        slices.rotate_left(turn);
        let found = gathered(&slices, Family::V4);
        assert_eq!(found.len(), 1);
        assert!(found[0].is_local && found[0].is_serving, "{found:?}");
    }
}

#[test]
fn rule_121_absent_conditions_mean_ready_and_serving_follows_ready() {
    let told = |conditions: Value| {
        let one = json!({"addresses": ["10.1.0.1"], "conditions": conditions});
        let found = gathered(&[slice("a", "web", &[one])], Family::V4).remove(0);
        (found.is_ready, found.is_serving, found.is_terminating)
    };
    assert_eq!(told(json!({})), (true, true, false));
    assert_eq!(told(json!({"ready": false})), (false, false, false));
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(told(draining), (false, true, true));
}

#[test]
fn rule_122_an_endpoint_without_a_node_is_never_local() {
    let outside = json!({"addresses": ["192.0.2.9"]});
    let choice = chosen(&[outside], BOTH);
    assert_eq!(addresses(&choice.cluster), ["192.0.2.9:8080"]);
    assert!(choice.local.is_empty() && choice.has_any);
}

#[test]
fn rule_123_where_nobody_is_ready_those_that_end_and_serve_are_asked_in_each_scope() {
    let here = |is| endpoint("10.1.0.1", HERE, is);
    let there = |is| endpoint("10.1.0.2", "n2", is);
    let asked = |one, two| {
        let choice = chosen(&[here(one), there(two)], BOTH);
        (
            addresses(&choice.cluster),
            addresses(&choice.local),
            choice.has_any,
        )
    };
    let (h, t) = ("10.1.0.1:8080".to_owned(), "10.1.0.2:8080".to_owned());
    let (h, t) = (|| h.clone(), || t.clone());
    assert_eq!(
        asked(Is::Ready, Is::Ready),
        (vec![h(), t()], vec![h()], true)
    );
    assert_eq!(asked(Is::Ready, Is::Draining), (vec![h()], vec![h()], true));
    assert_eq!(asked(Is::Draining, Is::Ready), (vec![t()], vec![h()], true));
    assert_eq!(
        asked(Is::Draining, Is::Draining),
        (vec![h(), t()], vec![h()], true)
    );
    assert_eq!(asked(Is::Ending, Is::Draining), (vec![t()], vec![], true));
    assert_eq!(asked(Is::Ending, Is::Starting), (vec![], vec![], false));
}

#[test]
fn rule_123_each_endpoint_that_is_left_out_has_its_reason() {
    let choice = chosen(
        &[
            endpoint("10.1.0.1", "n2", Is::Ready),
            endpoint("10.1.0.2", "n2", Is::Draining),
            endpoint("10.1.0.3", "n2", Is::Ending),
            endpoint("10.1.0.4", "n2", Is::Starting),
        ],
        BOTH,
    );
    let expected = [
        ("10.1.0.2:8080", Why::Draining),
        ("10.1.0.3:8080", Why::NotServing),
        ("10.1.0.4:8080", Why::NotReady),
    ];
    assert_eq!(
        reasons(&choice),
        expected.map(|(one, why)| (one.to_owned(), why))
    );
    let only_local = Scopes {
        cluster: false,
        local: true,
    };
    let choice = chosen(&[endpoint("10.1.0.1", "n2", Is::Ready)], only_local);
    assert_eq!(
        reasons(&choice),
        [("10.1.0.1:8080".to_owned(), Why::NotLocal)]
    );
    assert!(choice.cluster.is_empty() && choice.has_any);
}

/// Rows of what each ready endpoint is meant for, and whom policy Cluster then asks (by number).
#[test]
fn rule_124_hints_count_only_where_all_have_one_and_one_is_for_us() {
    type Row<'a> = (&'a [(&'a [&'a str], &'a [&'a str])], &'a [usize], Topology);
    let rows: [Row<'_>; 9] = [
        (&[(&["a"], &[]), (&["b"], &[])], &[0], Topology::SameZone),
        (
            &[(&["a", "b"], &[]), (&["b"], &[])],
            &[0],
            Topology::SameZone,
        ),
        (&[(&["a"], &[]), (&[], &[])], &[0, 1], Topology::Everywhere),
        (
            &[(&["b"], &[]), (&["c"], &[])],
            &[0, 1],
            Topology::Everywhere,
        ),
        (
            &[(&["a"], &[HERE]), (&["a"], &["n2"])],
            &[0],
            Topology::SameNode,
        ),
        (
            &[(&["b"], &["n2"]), (&["a"], &["n3"])],
            &[1],
            Topology::SameZone,
        ),
        (
            &[(&["a"], &[HERE]), (&["b"], &[])],
            &[0],
            Topology::SameZone,
        ),
        (&[(&[], &[HERE]), (&[], &["n2"])], &[0], Topology::SameNode),
        (&[(&[], &[HERE]), (&[], &[])], &[0, 1], Topology::Everywhere),
    ];
    for (hints, expected, topology) in rows {
        let made = |(number, (zones, nodes)): (usize, &(&[&str], &[&str]))| {
            let one = endpoint(&format!("10.1.0.{number}"), "n2", Is::Ready);
            hinted(one, zones, nodes)
        };
        let endpoints: Vec<Value> = hints.iter().enumerate().map(made).collect();
        let choice = chosen(&endpoints, BOTH);
        let expected: Vec<String> = expected
            .iter()
            .map(|n| format!("10.1.0.{n}:8080"))
            .collect();
        assert_eq!(
            (addresses(&choice.cluster), choice.topology),
            (expected, topology),
            "{hints:?}"
        );
    }
}

#[test]
fn rule_124_hints_are_of_ready_endpoints_and_never_narrow_the_local_ones() {
    let here = hinted(endpoint("10.1.0.1", HERE, Is::Ready), &["b"], &[]);
    let there = hinted(endpoint("10.1.0.2", "n2", Is::Ready), &["a"], &[]);
    let ends = endpoint("10.1.0.3", "n2", Is::Draining);
    let choice = chosen(&[here, there, ends], BOTH);
    assert_eq!(choice.topology, Topology::SameZone, "who ends has no say");
    assert_eq!(addresses(&choice.cluster), ["10.1.0.2:8080"]);
    assert_eq!(addresses(&choice.local), ["10.1.0.1:8080"]);
    assert_eq!(
        reasons(&choice),
        [("10.1.0.3:8080".to_owned(), Why::Draining)]
    );
    let only_cluster = Scopes {
        local: false,
        ..BOTH
    };
    let here = hinted(endpoint("10.1.0.1", HERE, Is::Ready), &["b"], &[]);
    let there = hinted(endpoint("10.1.0.2", "n2", Is::Ready), &["a"], &[]);
    let choice = chosen(&[here, there], only_cluster);
    assert_eq!(
        reasons(&choice),
        [("10.1.0.1:8080".to_owned(), Why::ForOtherZones)]
    );
}

#[test]
fn rule_124_a_node_without_a_zone_minds_no_hint_for_zones() {
    let one = hinted(endpoint("10.1.0.1", "n2", Is::Ready), &["a"], &[]);
    let two = hinted(endpoint("10.1.0.2", "n2", Is::Ready), &["b"], &[]);
    let found = gathered(&[slice("a", "web", &[one, two])], Family::V4);
    let nowhere = Place {
        zone: None,
        ..place()
    };
    let choice = choose(found, BOTH, &nowhere);
    assert_eq!(
        (choice.cluster.len(), choice.topology),
        (2, Topology::Everywhere)
    );
}

#[test]
fn rule_130_and_131_which_policies_ask_whom() {
    let scopes = |policies: Value, is_external| {
        let scopes = Scopes::of(&service("web", json!({"spec": policies})), is_external);
        (scopes.cluster, scopes.local)
    };
    let internal = json!({"internalTrafficPolicy": "Local"});
    let external = json!({"externalTrafficPolicy": "Local"});
    assert_eq!(scopes(json!({}), true), (true, false));
    assert_eq!(scopes(internal.clone(), false), (false, true));
    assert_eq!(
        scopes(internal, true),
        (true, true),
        "the outside is not restricted"
    );
    assert_eq!(
        scopes(external.clone(), false),
        (true, false),
        "nothing is outside"
    );
    assert_eq!(
        scopes(external, true),
        (true, true),
        "pods and the node ask all"
    );
}

proptest! {
    /// Against the rules' words, for few endpoints in every state.
    #[test]
    fn rule_123_every_endpoint_is_asked_or_left_out_and_none_that_does_not_serve_is_asked(
        made in prop::collection::vec((0usize..4, any::<bool>(), 0u8..4, 0u8..4), 0..6)
    ) {
        let hints = |bits: u8, one: &'static str, other: &'static str| -> Vec<&'static str> {
            [(1, one), (2, other)].into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect()
        };
        let endpoints: Vec<Value> = made.iter().enumerate().map(|(number, (is, here, zones, nodes))| {
            let node = if *here { HERE } else { "n2" };
            let one = endpoint(&format!("10.1.0.{number}"), node, Is::ALL[*is]);
            hinted(one, &hints(*zones, "a", "b"), &hints(*nodes, HERE, "n2"))
        }).collect();
        let choice = chosen(&endpoints, BOTH);
        let any = |wanted: fn(&Endpoint) -> bool| {
            let all = gathered(&[slice("a", "web", &endpoints)], Family::V4);
            all.into_iter().any(|one| wanted(&one))
        };
        let asked: BTreeSet<&Endpoint> = choice.cluster.iter().chain(&choice.local).collect();
        prop_assert_eq!(asked.len() + choice.left_out.len(), endpoints.len());
        for (list, some_ready) in [
            (&choice.cluster, any(|one| one.is_ready)),
            (&choice.local, any(|one| one.is_ready && one.is_local)),
        ] {
            prop_assert!(list.iter().all(|one| one.is_ready == some_ready && one.is_serving));
            prop_assert!(!some_ready || !list.is_empty());
        }
        prop_assert!(choice.local.iter().all(|one| one.is_local));
        prop_assert_eq!(choice.has_any, !choice.cluster.is_empty());
    }
}
