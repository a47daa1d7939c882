//! What is found left behind, and what is not taken for it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::NamespacedName;
use ipam::{Finding, Holder, Ipam, Request, Scene};

fn holder(id: &str) -> Holder {
    Holder {
        container_id: id.to_owned(),
        interface: "eth0".to_owned(),
    }
}

fn link_of(holder: &Holder) -> String {
    format!("ptl{}", holder.container_id)
}

fn pod(name: &str) -> NamespacedName {
    NamespacedName::new("web", name)
}

/// What is there, as a test says it.
#[derive(Default)]
struct There {
    links: BTreeSet<String>,
    absent: BTreeMap<Holder, Duration>,
    pods: Option<BTreeMap<NamespacedName, String>>,
    delegated: BTreeSet<Holder>,
}

impl There {
    fn findings(&self, ipam: &Ipam) -> Vec<Finding> {
        ipam.findings(&Scene {
            links: &self.links,
            link_of: &link_of,
            absent: &self.absent,
            pods: self.pods.as_ref(),
            delegated: &self.delegated,
        })
    }
}

/// Leases of the pods `a` and `b` and of a plain container, all of which are as they should be.
fn whole() -> (Ipam, There) {
    let mut ipam = Ipam::new(vec!["10.0.0.0/24".parse().unwrap()]);
    let mut there = There {
        pods: Some(BTreeMap::new()),
        ..There::default()
    };
    for (at, id) in ["a", "b", "plain"].into_iter().enumerate() {
        let is_pod = id != "plain";
        let request = Request {
            pod: is_pod.then(|| pod(id)),
            uid: if is_pod {
                format!("u-{id}")
            } else {
                String::new()
            },
            ..Request::new(holder(id), at as u64)
        };
        ipam.allocate(&request).unwrap();
        there.links.insert(link_of(&holder(id)));
        if is_pod {
            there
                .pods
                .as_mut()
                .unwrap()
                .insert(pod(id), format!("u-{id}"));
        }
    }
    (ipam, there)
}

#[test]
fn what_fits_together_is_no_finding() {
    let (ipam, mut there) = whole();
    assert_eq!(there.findings(&ipam), []);
    // Pods that are not known yet, and UIDs that one side does not know.
    there.pods.as_mut().unwrap().insert(pod("a"), String::new());
    assert_eq!(there.findings(&ipam), []);
    there.pods = None;
    assert_eq!(there.findings(&ipam), []);
}

#[test]
fn a_lease_without_its_link_is_found_with_how_long_that_has_been_so() {
    let (ipam, mut there) = whole();
    there.links.remove("ptlb");
    there.links.remove("ptlplain");
    there.absent.insert(holder("b"), Duration::from_secs(61));
    let gone = |id: &str, seconds| Finding::LinkGone {
        holder: holder(id),
        absent: Duration::from_secs(seconds),
    };
    assert_eq!(there.findings(&ipam), [gone("b", 61), gone("plain", 0)]);
}

#[test]
fn a_link_without_a_lease_is_found() {
    let (mut ipam, there) = whole();
    ipam.release(&holder("a"), 9);
    let link = "ptla".to_owned();
    assert_eq!(there.findings(&ipam), [Finding::LinkUnknown { link }]);
}

#[test]
fn a_pod_that_is_gone_and_one_of_its_name_that_is_another_are_told_apart() {
    let (ipam, mut there) = whole();
    let pods = there.pods.as_mut().unwrap();
    pods.remove(&pod("a"));
    pods.insert(pod("b"), "u-new".to_owned());
    let found = there.findings(&ipam);
    let unknown = Finding::PodUnknown {
        holder: holder("a"),
        pod: pod("a"),
    };
    let other = Finding::HolderOfOtherUid {
        holder: holder("b"),
        pod: pod("b"),
        held: "u-b".to_owned(),
        present: "u-new".to_owned(),
    };
    assert_eq!(found, [unknown, other]);
}

#[test]
fn two_sandboxes_of_one_pod_are_found_the_latest_first() {
    let (mut ipam, mut there) = whole();
    let again = Request {
        pod: Some(pod("a")),
        uid: "u-a".to_owned(),
        ..Request::new(holder("a2"), 50)
    };
    ipam.allocate(&again).unwrap();
    there.links.insert("ptla2".to_owned());
    let twice = Finding::PodHeldTwice {
        pod: pod("a"),
        holders: vec![holder("a2"), holder("a")],
    };
    assert_eq!(there.findings(&ipam), [twice]);
    // A second interface of the same pod is none.
    ipam.release(&holder("a2"), 51);
    let mut second = again;
    second.holder = Holder {
        interface: "net1".to_owned(),
        ..holder("a2")
    };
    ipam.allocate(&second).unwrap();
    assert_eq!(there.findings(&ipam), []);
}

#[test]
fn an_address_that_no_cidr_allows_is_found_unless_another_plugin_gave_it() {
    let (mut ipam, mut there) = whole();
    ipam.set_cidrs(vec!["10.0.0.0/31".parse().unwrap()]);
    ipam.set_elsewhere(vec!["10.0.0.2/32".parse().unwrap()]);
    let outside = Finding::AddressOutside {
        holder: holder("plain"),
        address: "10.0.0.3".parse().unwrap(),
    };
    assert_eq!(there.findings(&ipam), [outside]);
    there.delegated.insert(holder("plain"));
    assert_eq!(there.findings(&ipam), []);
}
