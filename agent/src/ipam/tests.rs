//! What `portolan ipam` says of a state made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ::ipam::{Holder, Ipam, Request};
use api::NamespacedName;

use super::check::check;
use super::show::show;
use super::state::{IpamState, Seen};
use super::table;
use super::view::{AddressState, CheckView};
use crate::attachments::host_interface;

const NOW: u64 = 1_000;

fn holder(id: &str) -> Holder {
    Holder {
        container_id: id.to_owned(),
        interface: "eth0".to_owned(),
    }
}

fn pod(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

/// Pods `web` of container `c1` (10.0.0.1) and `db` of `c2` (10.0.0.2), and all that belongs to them.
fn all_is_well() -> (IpamState, Seen) {
    let mut ipam = Ipam::new(vec!["10.0.0.0/29".parse().unwrap()]);
    for (id, name) in [("c1", "web"), ("c2", "db")] {
        let request = Request {
            pod: Some(pod(name)),
            uid: format!("uid-{name}"),
            ..Request::new(holder(id), NOW - 90)
        };
        ipam.allocate(&request).unwrap();
    }
    let state = IpamState {
        balancer_pools: Vec::new(),
        node: "n1".to_owned(),
        in_sync: true,
        ipam,
        delegated: BTreeSet::new(),
        pods: [
            (pod("web"), "uid-web".to_owned()),
            (pod("db"), "uid-db".to_owned()),
        ]
        .into(),
        elsewhere: BTreeMap::new(),
        own: ["10.0.0.0/29".parse().unwrap()].into(),
    };
    let seen = Seen {
        host_ends: [host_interface(&holder("c1")), host_interface(&holder("c2"))].into(),
        routes: ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()].into(),
        ..Seen::default()
    };
    (state, seen)
}

fn kinds(view: &CheckView) -> Vec<(&str, bool)> {
    let findings = view.findings.iter();
    findings
        .map(|finding| (finding.kind.as_str(), finding.is_leak))
        .collect()
}

#[test]
fn where_all_fits_together_nothing_is_found() {
    let (state, seen) = all_is_well();
    let view = check(&state, &seen, Instant::now());
    assert_eq!(view.findings, []);
    assert_eq!((view.attachments, view.host_ends), (2, 2));
    assert!(table::check(&view).contains("nothing is left behind"));
}

#[test]
fn a_host_end_that_is_gone_is_a_leak_unless_it_is_being_made() {
    let (state, mut seen) = all_is_well();
    let now = Instant::now() + Duration::from_secs(100);
    seen.host_ends.remove(&host_interface(&holder("c1")));
    seen.absent
        .insert(holder("c1"), now - Duration::from_secs(12));
    let view = check(&state, &seen, now);
    assert_eq!(kinds(&view), [("hostEndGone", true)]);
    let text = table::check(&view);
    for word in [
        "Pod shop/web",
        "10.0.0.1",
        "gone for 12 s",
        "portolan ipam release --container c1",
        "1 leak",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    seen.busy.insert(holder("c1"));
    assert_eq!(kinds(&check(&state, &seen, now)), []);
}

#[test]
fn what_nobody_has_is_a_leak() {
    let (state, mut seen) = all_is_well();
    seen.host_ends.insert("ptl00000000000".to_owned());
    seen.shapers.insert("ptb11111111111".to_owned());
    let own = host_interface(&holder("c1")).replacen("ptl", "ptb", 1);
    seen.shapers.insert(own);
    seen.routes.insert("10.0.0.5".parse().unwrap());
    // Learned from a peer: another node's affair.
    seen.routes.insert("10.9.0.5".parse().unwrap());
    let view = check(&state, &seen, Instant::now());
    let expected = [
        ("hostEndUnknown", true),
        ("shaperUnknown", true),
        ("routeUnknown", true),
    ];
    assert_eq!(kinds(&view), expected);
    assert!(table::check(&view).contains("ip link delete ptl00000000000"));
}

#[test]
fn pods_of_the_source_are_compared_by_name_and_uid_once_it_is_in_sync() {
    let (mut state, seen) = all_is_well();
    state.pods.insert(pod("web"), "another".to_owned());
    state.pods.remove(&pod("db"));
    let view = check(&state, &seen, Instant::now());
    // A pod without a manifest is none of the leaks.
    assert_eq!(kinds(&view), [("otherUid", true), ("podUnknown", false)]);
    state.in_sync = false;
    assert_eq!(kinds(&check(&state, &seen, Instant::now())), []);
}

#[test]
fn an_address_that_another_nodes_pod_has_too_is_a_leak_and_one_that_moves_is_not() {
    let (mut state, seen) = all_is_well();
    let address = "10.0.0.1".parse().unwrap();
    state
        .elsewhere
        .insert(address, (pod("web"), "n2".to_owned()));
    assert_eq!(kinds(&check(&state, &seen, Instant::now())), []);
    state
        .elsewhere
        .insert(address, (pod("other"), "n2".to_owned()));
    let view = check(&state, &seen, Instant::now());
    assert_eq!(kinds(&view), [("heldElsewhere", true)]);
    assert!(view.findings[0].text.contains("Pod shop/other of node n2"));
}

#[test]
fn deletions_that_wait_are_told_and_are_no_leak() {
    let (state, mut seen) = all_is_well();
    seen.pending.push("c9".to_owned());
    let view = check(&state, &seen, Instant::now());
    assert_eq!(kinds(&view), [("pendingDeletion", false)]);
    assert!(!view.has_leaks());
}

#[test]
fn show_lists_what_is_held_and_what_rests_with_its_host_end() {
    let (mut state, mut seen) = all_is_well();
    state.ipam.release(&holder("c2"), NOW - 5);
    seen.host_ends.remove(&host_interface(&holder("c1")));
    let view = show(&state, &seen, NOW, (None, None));
    let cidr = &view.cidrs[0];
    assert_eq!(
        (cidr.held, cidr.resting, cidr.reserved, cidr.free),
        (1, 1, 0, 4)
    );
    let states: Vec<_> = view
        .addresses
        .iter()
        .map(|one| (one.state, one.seconds))
        .collect();
    assert_eq!(
        states,
        [
            (AddressState::Held, Some(90)),
            (AddressState::Resting, Some(5))
        ]
    );
    let text = table::show(&view);
    for word in ["10.0.0.0/29", "shop/web", "(gone)", "1m30s", "resting"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let only = |address: Option<&str>, pod| {
        let address = address.map(|ip| ip.parse().unwrap());
        show(&state, &seen, NOW, (address, pod)).addresses.len()
    };
    assert_eq!(only(Some("10.0.0.2"), None), 1);
    assert_eq!(only(Some("10.0.0.6"), None), 0);
    assert_eq!(only(None, Some("shop/web")), 1);
}
