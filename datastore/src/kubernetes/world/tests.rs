//! Tests of what is told of all kinds together.

use api::NamespacedName;
use serde_json::{Value, json};

use super::super::decode::Lens;
use super::*;

struct Lab {
    world: World,
    wanted: watch::Receiver<Wanted>,
    node_statuses: watch::Receiver<Wanted>,
    facts: Facts,
}

impl Lab {
    fn new() -> Self {
        let facts = Facts::new("n1");
        let wants = Wants::default();
        let wanted = wants.secrets.subscribe();
        let node_statuses = wants.node_statuses.subscribe();
        let world = World::new(Kind::ALL, facts.clone(), wants);
        Self {
            world,
            wanted,
            node_statuses,
            facts,
        }
    }

    /// Lists these objects of a kind.
    fn list(&mut self, kind: Kind, objects: &[Value]) -> Vec<String> {
        self.world.take(Told::Began(kind));
        for object in objects {
            self.is(kind, object);
        }
        self.world.take(Told::Listed(kind));
        self.changes()
    }

    fn is(&mut self, kind: Kind, object: &Value) {
        let lens = Lens { kind, names: None };
        let text = serde_json::to_vec(object).expect("it prints");
        let object = lens.item(&text).expect("an object").expect("it is wanted");
        self.world.take(Told::Is(object));
    }

    /// `+key` of what is so now, `-key` of what is gone.
    fn changes(&mut self) -> Vec<String> {
        let word = |change: Change| match change.value {
            Some(_) => format!("+{}", change.key),
            None => format!("-{}", change.key),
        };
        self.world.changes().into_iter().map(word).collect()
    }

    fn problems(&mut self) -> Vec<String> {
        let problems = self.world.problems().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }
}

fn pod(name: &str, version: u32, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n1"},
        "status": {"podIPs": [{"ip": address}], "conditions": [{"version": version}]},
    })
}

fn pool(name: &str, cidr: &str) -> Value {
    json!({"metadata": {"name": name, "generation": 2}, "spec": {"cidr": cidr}})
}

fn block(cidr: &str, node: &str) -> Value {
    let name = IpamBlock::name_of(&cidr.parse().expect("a CIDR"));
    json!({"metadata": {"name": name}, "spec": {"cidr": cidr, "node": node}})
}

fn peer(name: &str, secret: Option<&str>) -> Value {
    let mut peer =
        json!({"metadata": {"name": name}, "spec": {"peerAddress": "10.0.0.1", "asNumber": 65000}});
    if let Some(secret) = secret {
        peer["spec"]["password"] = json!({"secretKeyRef": {"name": secret, "key": "p"}});
    }
    peer
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "portolan"}, "data": {"p": "aHVzaA=="}})
}

#[test]
fn a_second_list_is_told_as_differences() {
    let mut lab = Lab::new();
    let told = lab.list(
        Kind::Pod,
        &[pod("a", 1, "10.0.0.1"), pod("b", 2, "10.0.0.2")],
    );
    assert_eq!(told, ["+Pod d/a", "+Pod d/b"]);
    let told = lab.list(
        Kind::Pod,
        &[pod("b", 7, "10.0.0.3"), pod("c", 8, "10.0.0.1")],
    );
    assert_eq!(told, ["+Pod d/b", "+Pod d/c", "-Pod d/a"]);
}

#[test]
fn what_is_not_kept_of_a_pod_changes_nothing() {
    let mut lab = Lab::new();
    lab.list(Kind::Pod, &[pod("a", 1, "10.0.0.1")]);
    lab.is(Kind::Pod, &pod("a", 2, "10.0.0.1"));
    assert!(lab.changes().is_empty());
    lab.is(Kind::Pod, &pod("a", 3, "10.0.0.2"));
    assert_eq!(lab.changes(), ["+Pod d/a"]);
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut lab = Lab::new();
    lab.list(
        Kind::Pod,
        &[pod("a", 1, "10.0.0.1"), pod("b", 2, "10.0.0.2")],
    );
    lab.world.take(Told::Began(Kind::Pod));
    lab.is(Kind::Pod, &pod("b", 2, "10.0.0.2"));
    assert!(lab.changes().is_empty(), "the list has not ended");
    assert_eq!(
        lab.list(Kind::Pod, &[pod("a", 1, "10.0.0.1")]),
        ["-Pod d/b"]
    );
}

#[test]
fn an_invalid_object_keeps_its_last_valid_state_and_is_told_of() {
    let mut lab = Lab::new();
    lab.list(
        Kind::IpPool,
        &[pool("p", "10.0.0.0/16"), pool("q", "nonsense")],
    );
    let problems = lab.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("IPPool q: "), "{problems:?}");
    assert!(problems[0].ends_with("; it is ignored until it is right"));
    lab.is(Kind::IpPool, &pool("p", "nonsense"));
    assert!(lab.changes().is_empty());
    let problems = lab.problems();
    assert!(
        problems[0].ends_with("; its last valid state stays in force"),
        "{problems:?}"
    );
    let facts = lab
        .facts
        .get(&Key::IpPool("p".to_owned()))
        .expect("it is there");
    assert!(facts.problem.is_some());
    lab.is(Kind::IpPool, &pool("p", "10.0.0.0/16"));
    assert!(lab.changes().is_empty(), "as it was");
    lab.world.take(Told::Gone(Kind::IpPool, "q".into()));
    assert!(lab.changes().is_empty(), "it was never there");
    assert_eq!(lab.problems(), [""; 0]);
}

#[test]
fn in_sync_is_when_every_kind_has_been_listed_and_a_kind_that_is_absent_is_empty() {
    let mut lab = Lab::new();
    lab.world.take(Told::Began(Kind::Pod));
    lab.is(Kind::Pod, &pod("a", 1, "10.0.0.1"));
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
        match kind.absence() {
            Absence::Never => drop(lab.list(kind, &[])),
            _ => lab.world.take(Told::Absent(kind)),
        }
        assert!(!lab.world.is_in_sync(), "pods are not all there");
    }
    lab.world.take(Told::Listed(Kind::Pod));
    assert!(lab.world.is_in_sync());
    let problems = lab.problems();
    assert_eq!(problems.len(), 1, "ClusterNetworkPolicy need not be there");
    assert!(
        problems[0]
            .contains("BGPConfiguration, BGPFilter, BGPNodeStatus, BGPPeer, IPAMBlock, IPPool"),
        "{problems:?}"
    );
    assert!(problems[0].contains("portolan crds"));
}

#[test]
fn kinds_that_cannot_be_read_for_one_reason_share_a_line() {
    let mut lab = Lab::new();
    for kind in [Kind::Pod, Kind::Node] {
        lab.world
            .take(Told::Trouble(kind, Some("refused".to_owned())));
    }
    assert_eq!(
        lab.problems(),
        ["cannot read Node, Pod from the API server, the last state stays: refused"]
    );
    for kind in [Kind::Pod, Kind::Node] {
        lab.world.take(Told::Trouble(kind, None));
    }
    assert_eq!(lab.problems(), [""; 0]);
}

#[test]
fn blocks_count_while_they_lie_in_a_pool_and_overlap_no_other() {
    let mut lab = Lab::new();
    let told = lab.list(
        Kind::IpamBlock,
        &[block("10.0.0.0/26", "n1"), block("10.0.0.0/25", "n2")],
    );
    assert!(told.is_empty(), "there is no pool: {told:?}");
    assert_eq!(lab.problems().len(), 2);
    let told = lab.list(Kind::IpPool, &[pool("p", "10.0.0.0/16")]);
    assert_eq!(told, ["+IPPool p", "+IPAMBlock 10-0-0-0-26"]);
    let problems = lab.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("overlaps 10.0.0.0/26 of node n1"),
        "{problems:?}"
    );
    let gone = Told::Gone(Kind::IpamBlock, "10-0-0-0-26".into());
    lab.world.take(gone);
    assert_eq!(
        lab.changes(),
        ["-IPAMBlock 10-0-0-0-26", "+IPAMBlock 10-0-0-0-25"]
    );
}

#[test]
fn secrets_are_kept_while_a_peer_means_them() {
    let mut lab = Lab::new();
    assert!(
        lab.list(Kind::Secret, &[secret("s")]).is_empty(),
        "no peer was read"
    );
    assert!(lab.wanted.borrow().is_none());
    lab.list(Kind::BgpPeer, &[peer("a", Some("s")), peer("b", None)]);
    let wanted = lab.wanted.borrow().clone().expect("peers were read");
    assert_eq!(*wanted, Names::These(["s".to_owned()].into()));
    let told = lab.list(Kind::Secret, &[secret("s"), secret("t")]);
    assert_eq!(told, ["+Secret portolan/s"]);
    lab.is(Kind::BgpPeer, &peer("a", None));
    assert_eq!(lab.changes(), ["+BGPPeer a", "-Secret portolan/s"]);
    assert!(
        lab.wanted
            .borrow()
            .as_ref()
            .is_some_and(|wanted| wanted.is_nothing())
    );
    assert_eq!(
        lab.facts
            .get(&Key::Secret(NamespacedName::new("portolan", "s"))),
        None
    );
}

#[test]
fn an_object_made_anew_between_two_lists_is_a_change() {
    let mut lab = Lab::new();
    let with_uid = |uid: &str| {
        let mut pod = pod("a", 1, "10.0.0.1");
        pod["metadata"]["uid"] = json!(uid);
        pod
    };
    lab.list(Kind::Pod, &[with_uid("u")]);
    assert_eq!(lab.list(Kind::Pod, &[with_uid("v")]), ["+Pod d/a"]);
}

/// A pod as an API server sends it, with the bookkeeping that is most of it.
fn full_pod(index: u32) -> Value {
    let mut pod = pod("p", index, "10.0.0.1");
    pod["metadata"] = json!({
        "name": format!("frontend-7d4b9c6f5d-{index:05}"), "namespace": "shop", "uid": format!("{index:08}-9c1f-4d7e-8a53-0123456789ab"),
        "resourceVersion": index.to_string(),
        "labels": {"app.kubernetes.io/name": "frontend", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "7d4b9c6f5d", "tier": "web"},
        "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "frontend-7d4b9c6f5d", "uid": "u", "controller": true}],
        "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": (0..40).map(|n| (format!("f:field{n}"), json!({"f:inner": {}}))).collect::<serde_json::Map<_, _>>()}],
    });
    pod["spec"]["containers"] = json!([{"name": "c", "image": "registry/shop/frontend:1.2.3", "ports": [{"name": "http", "containerPort": 8080}],
        "env": (0..10).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "a value of some length"})).collect::<Vec<_>>()}]);
    pod["status"]["conditions"] =
        json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    pod
}

#[test]
fn of_a_pod_the_source_keeps_its_name_and_a_hash() {
    const PODS: u32 = 5_000;
    let mut lab = Lab::new();
    lab.world.take(Told::Began(Kind::Pod));
    for index in 0..PODS {
        lab.is(Kind::Pod, &full_pod(index));
    }
    lab.world.take(Told::Listed(Kind::Pod));
    assert_eq!(lab.changes().len(), PODS as usize);
    let known = &lab.world.kinds[&Kind::Pod].known;
    let names: usize = known.keys().map(|name| name.len()).sum();
    let table = known.capacity() * size_of::<(Box<str>, Known)>();
    let of_each = (names + table) / PODS as usize;
    assert!(of_each < 128, "{of_each} octets of each pod");
}

#[test]
fn keys_of_nodes_are_read_only_while_a_pool_has_wireguard() {
    let pool = |encapsulation: &str| {
        json!({"metadata": {"name": "pods", "resourceVersion": "1"},
            "spec": {"cidr": "10.48.0.0/16", "blockSize": 26, "encapsulation": encapsulation}})
    };
    let status = json!({"metadata": {"name": "n2", "resourceVersion": "1"}, "spec": {"node": "n2"},
        "status": {"wireGuard": {"keys": [{"slot": 0, "port": 51820,
            "publicKey": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}]}}});
    let mut lab = Lab::new();
    assert!(lab.node_statuses.borrow().is_none(), "pools first");
    lab.list(Kind::IpPool, &[pool("VXLAN")]);
    let nothing = lab.node_statuses.borrow().clone().expect("pools were read");
    assert!(nothing.is_nothing());
    assert_eq!(lab.list(Kind::BgpNodeStatus, &[]), [""; 0]);
    lab.is(Kind::IpPool, &pool("WireGuard"));
    assert_eq!(lab.changes(), ["+IPPool pods"]);
    assert_eq!(lab.node_statuses.borrow().as_deref(), Some(&Names::Every));
    let told = lab.list(Kind::BgpNodeStatus, std::slice::from_ref(&status));
    assert_eq!(told, ["+BGPNodeStatus n2"]);
    // What its sessions do is nobody's business here.
    let mut busy = status.clone();
    busy["status"]["established"] = json!(7);
    lab.is(Kind::BgpNodeStatus, &busy);
    assert_eq!(lab.changes(), [""; 0]);
    // A key that is none: the last ones stay, and it is said.
    busy["status"]["wireGuard"]["keys"][0]["publicKey"] = json!("x");
    lab.is(Kind::BgpNodeStatus, &busy);
    assert_eq!(lab.changes(), [""; 0]);
    let problems = lab.problems();
    assert!(
        problems
            .iter()
            .any(|one| one.contains("BGPNodeStatus n2") && one.contains("publicKey")),
        "{problems:?}"
    );
    lab.is(Kind::IpPool, &pool("None"));
    assert_eq!(lab.changes(), ["+IPPool pods", "-BGPNodeStatus n2"]);
}
