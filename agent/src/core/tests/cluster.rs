//! What the core does in a cluster and not with a directory: conditions, and pods that must be known.

use api::resources::{BgpPeer, PeerAs, PeerTarget, Pod};
use datastore::Problem;

use super::*;

fn web(uid: &str, node: Option<&str>) -> Pod {
    Pod {
        name: NamespacedName::new("shop", "web"),
        uid: uid.to_owned(),
        labels: api::Labels::from([("app".to_owned(), "web".to_owned())]),
        node_name: node.map(str::to_owned),
        host_network: false,
        finished: false,
        pod_ips: Vec::new(),
        fixed_ips: Vec::new(),
        named_ports: Vec::new(),
    }
}

fn told(pod: Pod) -> Event {
    event(Key::Pod(pod.name.clone()), Some(Resource::Pod(pod)))
}

fn cluster_core() -> (tempfile::TempDir, Core) {
    let (folder, mut core) = core();
    core.ask_for_pods();
    core.handle_event(node("n1"));
    core.handle_event(Event::InSync);
    (folder, core)
}

fn asked_for(uid: &str) -> Asked {
    let pod = Some(NamespacedName::new("shop", "web"));
    Asked {
        uid: uid.to_owned(),
        ..asked(holder(), pod, Vec::new())
    }
}

fn refused(core: &mut Core, uid: &str) -> (When, String) {
    let error = core.attach(&asked_for(uid)).unwrap_err();
    (when(&error), error.to_string())
}

#[test]
fn a_pod_is_attached_once_it_is_known_by_its_uid_and_bound_here() {
    let (_folder, mut core) = cluster_core();
    assert_eq!(refused(&mut core, "b").0, When::PodUnknown);
    core.handle_event(told(web("a", Some("n1"))));
    assert_eq!(
        refused(&mut core, "b").0,
        When::PodUnknown,
        "an earlier pod"
    );
    core.handle_event(told(web("b", None)));
    assert_eq!(refused(&mut core, "b").0, When::PodUnknown, "not bound yet");
    core.handle_event(told(web("b", Some("n2"))));
    let (when, why) = refused(&mut core, "b");
    assert_eq!(when, When::Unknown);
    assert_eq!(why, "Pod shop/web is bound to node n2, not to n1");
    core.handle_event(told(web("b", Some("n1"))));
    assert!(core.attach(&asked_for("b")).is_ok());
    assert!(core.attach(&asked(holder(), None, Vec::new())).is_ok());
}

#[test]
fn a_pod_that_was_read_is_known_with_its_labels_until_its_attachment_goes() {
    let (_folder, mut core) = cluster_core();
    core.handle_event(told(web("a", Some("n1"))));
    core.handle_read(web("b", Some("n1")));
    core.attach(&asked_for("b")).unwrap();
    core.handle_event(event(Key::Pod(NamespacedName::new("shop", "web")), None));
    let name = NamespacedName::new("shop", "web");
    let labels = |core: &Core| core.objects().pod(&name).map(|pod| pod.labels.len());
    assert_eq!(labels(&core), Some(1), "the deletion was of the pod before");
    core.detach(&holder()).unwrap();
    assert_eq!(labels(&core), None);
}

#[test]
fn what_the_watch_knows_is_newer_than_what_was_read_before_it_told() {
    let (_folder, mut core) = cluster_core();
    let mut newer = web("b", Some("n1"));
    newer.labels.clear();
    core.handle_event(told(newer));
    core.handle_read(web("b", Some("n1")));
    let name = NamespacedName::new("shop", "web");
    assert!(core.objects().pod(&name).unwrap().labels.is_empty());
}

#[test]
fn a_node_that_comes_late_or_has_no_cidr_yet_is_waited_for() {
    let (_folder, mut core) = core();
    core.handle_event(Event::InSync);
    let ask = || asked(holder(), None, Vec::new());
    assert_eq!(when(&core.attach(&ask()).unwrap_err()), When::Later);
    let Event::Change(mut change) = node("n1") else {
        panic!("a change")
    };
    if let Some(Resource::Node(node)) = &mut change.value {
        node.pod_cidrs.clear();
    }
    core.handle_event(Event::Change(change));
    assert!(core.outputs().is_some());
    assert_eq!(when(&core.attach(&ask()).unwrap_err()), When::Later);
    assert!(core.lacks_addresses().unwrap().contains("no Pod CIDR"));
    core.handle_event(node("n1"));
    assert!(core.attach(&ask()).is_ok());
    assert_eq!(core.lacks_addresses(), None);
}

/// `KIND NAME status reason`, of all conditions.
fn conditions(core: &mut Core, problems: &[Problem]) -> Vec<String> {
    let all = core.conditions(problems).unwrap().into_iter();
    let text = |one: datastore::ObjectCondition| {
        assert_eq!(one.type_, "Accepted");
        format!("{} {} {}", one.key, one.status, one.reason)
    };
    all.map(text).collect()
}

fn peer(name: &str, filters: &[&str]) -> Event {
    let target = PeerTarget::Address("10.10.1.1:179".parse().unwrap());
    let peer = BgpPeer {
        filters: filters.iter().map(ToString::to_string).collect(),
        ..BgpPeer::new(name, target, PeerAs::External)
    };
    let value = Resource::BgpPeer(Box::new(peer));
    event(Key::BgpPeer(name.to_owned()), Some(value))
}

#[test]
fn objects_of_ours_are_accepted_or_not_by_what_they_and_others_say() {
    let (_folder, mut core) = cluster_core();
    core.handle_event(peer("good", &[]));
    core.handle_event(peer("lost", &["edge"]));
    let pools = [("a", "10.48.0.0/24"), ("b", "10.48.0.0/16")];
    for (name, cidr) in pools {
        let Event::Change(mut change) = pool(cidr) else {
            panic!("a change")
        };
        change.key = Key::IpPool(name.to_owned());
        if let Some(Resource::IpPool(pool)) = &mut change.value {
            pool.name = name.to_owned();
        }
        core.handle_event(Event::Change(change));
    }
    assert_eq!(
        conditions(&mut core, &[]),
        [
            "BGPPeer good true Valid",
            "BGPPeer lost false FilterNotFound",
            "IPPool a true Valid",
            "IPPool b false CidrOverlaps",
        ]
    );
    assert_eq!(core.conditions(&[]), None, "nothing has changed");
    core.handle_event(told(web("a", Some("n1"))));
    assert_eq!(core.conditions(&[]), None, "pods are not asked");
}

#[test]
fn an_object_that_cannot_be_read_is_not_accepted_and_the_reason_is_the_sources() {
    let (_folder, mut core) = cluster_core();
    let problem = Problem {
        file: std::path::PathBuf::new(),
        line: None,
        object: Some("BGPConfiguration other".to_owned()),
        message: "BGPConfiguration other: metadata.name: only `default` is read".to_owned(),
    };
    let expected = ["BGPConfiguration other false Invalid"];
    assert_eq!(conditions(&mut core, &[problem]), expected);
    assert_eq!(conditions(&mut core, &[]), [""; 0]);
}
