//! What a file that is tried would change, said in full and within bounds.

use api::labels::Requirement;
use api::resources::*;
use api::{Key, LabelSelector, Labels, Resource};

use super::*;
use crate::Tuple;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod_change(name: &str, of: &[(&str, &str)], addresses: &[&str]) -> Change {
    let (namespace, name) = name.split_once('/').unwrap();
    let name = NamespacedName::new(namespace, name);
    let labels: Labels = of
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let pod = Pod {
        name: name.clone(),
        uid: String::new(),
        labels,
        node_name: Some("n1".into()),
        host_network: false,
        finished: false,
        pod_ips: addresses.iter().map(|text| ip(text)).collect(),
        fixed_ips: Vec::new(),
        named_ports: Vec::new(),
    };
    Change {
        key: Key::Pod(name),
        value: Some(Resource::Pod(pod)),
    }
}

fn namespace_change(name: &str) -> Change {
    let namespace = Namespace {
        name: name.into(),
        labels: Labels::new(),
    };
    Change {
        key: Key::Namespace(name.into()),
        value: Some(Resource::Namespace(namespace)),
    }
}

fn policy_change(ingress: Option<Vec<PolicyRule>>, egress: Option<Vec<PolicyRule>>) -> Change {
    let name = NamespacedName::new("a", "p");
    let app = Requirement::In("app".into(), ["x".to_owned()].into());
    let pod_selector = LabelSelector {
        requirements: [app].into(),
    };
    let policy = NetworkPolicy {
        name: name.clone(),
        pod_selector,
        ingress,
        egress,
    };
    Change {
        key: Key::NetworkPolicy(name),
        value: Some(Resource::NetworkPolicy(policy)),
    }
}

fn port_80() -> PolicyRule {
    let port = Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Range(80, 80),
    };
    PolicyRule {
        peers: None,
        ports: Some(vec![port]),
    }
}

fn objects(changes: &[Change]) -> Objects {
    let mut objects = Objects::default();
    changes.iter().for_each(|change| objects.handle(change));
    objects
}

fn cluster() -> Objects {
    objects(&[
        namespace_change("a"),
        pod_change("a/x", &[("app", "x")], &["10.0.0.1", "fd00::1"]),
        pod_change("a/y", &[("app", "y")], &["10.0.0.2", "fd00::2"]),
        pod_change("a/z", &[("app", "z")], &["10.0.0.3"]),
    ])
}

fn tried(objects: &Objects, changes: &[Change], flows: &[Entry]) -> Difference {
    difference(objects, &Settings::default(), changes, flows)
}

fn flow(protocol: u8, from: &str, to: &str, port: u16) -> Entry {
    let one = |source: &str, destination: &str, source_port, destination_port| Tuple {
        source: ip(source),
        destination: ip(destination),
        source_port,
        destination_port,
    };
    Entry {
        protocol,
        original: one(from, "10.96.0.1", 40000, 443),
        reply: one(to, from, port, 40000),
    }
}

/// From, to, allowed, spans, family.
type Row = (String, String, bool, Vec<Span>, Option<Family>);

fn said(difference: &Difference) -> Vec<Row> {
    let rows = difference.connections.shown.iter();
    rows.map(|row| {
        let names = (row.source.name.clone(), row.destination.name.clone());
        (names.0, names.1, row.allowed, row.spans.clone(), row.family)
    })
    .collect()
}

fn tcp(first: u16, last: u16) -> Span {
    Span::Ports {
        protocol: Protocol::Tcp,
        first,
        last,
    }
}

fn row(from: &str, to: &str, allowed: bool, spans: &[Span]) -> Row {
    (from.into(), to.into(), allowed, spans.to_vec(), None)
}

#[test]
fn nothing_changes_nothing() {
    let objects = cluster();
    assert_eq!(
        tried(&objects, &[], &[flow(6, "10.0.0.2", "10.0.0.1", 80)]),
        Difference::default()
    );
    let same = pod_change("a/x", &[("app", "x")], &["10.0.0.1", "fd00::1"]);
    assert_eq!(tried(&objects, &[same], &[]), Difference::default());
}

#[test]
fn a_deny_all_isolates_and_closes_everything_to_its_pods() {
    let difference = tried(&cluster(), &[policy_change(Some(vec![]), None)], &[]);
    let isolated = IsolationChange {
        pod: NamespacedName::new("a", "x"),
        direction: Direction::Ingress,
        isolated: true,
    };
    assert_eq!(difference.isolation.shown, [isolated]);
    let all = [Span::All];
    assert_eq!(
        said(&difference),
        [row("y", "x", false, &all), row("z", "x", false, &all)]
    );
    assert_eq!(
        (difference.pairs_left_out, difference.connections.left_out),
        (0, 0)
    );
}

#[test]
fn the_ports_that_change_are_said_exactly() {
    let difference = tried(
        &cluster(),
        &[policy_change(None, Some(vec![port_80()]))],
        &[],
    );
    let all = |protocol| Span::Ports {
        protocol,
        first: 0,
        last: u16::MAX,
    };
    let closed = [
        tcp(0, 79),
        tcp(81, u16::MAX),
        all(Protocol::Udp),
        all(Protocol::Sctp),
        Span::OtherProtocols,
    ];
    assert_eq!(
        said(&difference),
        [row("x", "y", false, &closed), row("x", "z", false, &closed)]
    );
}

#[test]
fn a_rule_that_is_added_opens_its_ports_only() {
    let mut before = cluster();
    before.handle(&policy_change(Some(vec![]), None));
    let difference = tried(&before, &[policy_change(Some(vec![port_80()]), None)], &[]);
    assert!(difference.isolation.shown.is_empty());
    let open = [tcp(80, 80)];
    assert_eq!(
        said(&difference),
        [row("y", "x", true, &open), row("z", "x", true, &open)]
    );
}

#[test]
fn a_policy_that_goes_frees_its_pods() {
    let mut before = cluster();
    before.handle(&policy_change(Some(vec![]), Some(vec![])));
    let gone = Change {
        key: policy_change(None, None).key,
        value: None,
    };
    let difference = tried(&before, &[gone], &[]);
    let freed: Vec<_> = difference
        .isolation
        .shown
        .iter()
        .map(|one| (one.direction, one.isolated))
        .collect();
    assert_eq!(
        freed,
        [(Direction::Ingress, false), (Direction::Egress, false)]
    );
    assert_eq!(said(&difference).len(), 4);
    assert!(said(&difference).iter().all(|row| row.2));
}

#[test]
fn a_family_is_named_where_the_families_differ() {
    let block = Peer::IpBlock(IpBlock {
        cidr: "0.0.0.0/0".parse().unwrap(),
        except: vec![],
    });
    let rule = PolicyRule {
        peers: Some(vec![block]),
        ports: None,
    };
    let difference = tried(&cluster(), &[policy_change(Some(vec![rule]), None)], &[]);
    let mut wanted = row("y", "x", false, &[Span::All]);
    wanted.4 = Some(Family::V6);
    assert_eq!(said(&difference), [wanted]);
}

#[test]
fn new_labels_of_a_pod_count_for_it_and_for_those_it_talks_to() {
    let mut before = cluster();
    let only_y = LabelSelector {
        requirements: [Requirement::In("app".into(), ["y".to_owned()].into())].into(),
    };
    let rule = PolicyRule {
        peers: Some(vec![Peer::Pods {
            namespaces: None,
            pods: only_y,
        }]),
        ports: None,
    };
    before.handle(&policy_change(Some(vec![rule]), None));
    let relabelled = pod_change("a/z", &[("app", "y")], &["10.0.0.3"]);
    assert_eq!(
        said(&tried(&before, &[relabelled], &[])),
        [row("z", "x", true, &[Span::All])]
    );
    let subject = pod_change("a/x", &[("app", "free")], &["10.0.0.1", "fd00::1"]);
    let difference = tried(&before, &[subject], &[]);
    assert_eq!(difference.isolation.shown.len(), 1);
    assert_eq!(said(&difference), [row("z", "x", true, &[Span::All])]);
}

#[test]
fn a_cluster_policy_counts_in_its_directions() {
    let everyone = NamespacedPods {
        namespaces: LabelSelector::default(),
        pods: LabelSelector::default(),
    };
    let deny = ClusterRule {
        name: String::new(),
        action: ClusterAction::Deny,
        peers: vec![ClusterPeer::Pods(everyone.clone())],
        protocols: None,
    };
    let policy = ClusterNetworkPolicy {
        name: "c".into(),
        tier: Tier::Admin,
        priority: 1,
        subject: ClusterSubject::Pods(everyone),
        ingress: vec![],
        egress: vec![deny],
    };
    let change = Change {
        key: Key::ClusterNetworkPolicy("c".into()),
        value: Some(Resource::ClusterNetworkPolicy(policy)),
    };
    let difference = tried(&cluster(), &[change], &[]);
    assert_eq!(said(&difference).len(), 6, "every pair");
    assert!(
        difference.isolation.shown.is_empty(),
        "ClusterNetworkPolicy isolates nobody"
    );
}

#[test]
fn open_connections_that_would_be_cut_or_allowed_are_named() {
    let flows = [
        flow(6, "10.0.0.2", "10.0.0.1", 80),
        flow(6, "10.0.0.2", "10.0.0.1", 81),
        flow(17, "198.51.100.9", "10.0.0.1", 80),
        flow(1, "10.0.0.2", "10.0.0.1", 0),
        flow(6, "10.0.0.1", "10.0.0.2", 81),
    ];
    let rules = || policy_change(Some(vec![port_80()]), None);
    let difference = tried(&cluster(), &[rules()], &flows);
    let cut: Vec<Entry> = difference
        .flows
        .shown
        .iter()
        .map(|change| change.entry)
        .collect();
    assert_eq!(cut, [flows[3], flows[1], flows[2]]);
    assert!(difference.flows.shown.iter().all(|change| !change.allowed));
    let mut denied = cluster();
    denied.handle(&policy_change(Some(vec![]), None));
    let difference = tried(&denied, &[rules()], &flows);
    assert_eq!(
        difference.flows.shown,
        [FlowChange {
            entry: flows[0],
            allowed: true
        }]
    );
}

#[test]
fn what_is_too_much_is_left_out_and_counted() {
    let mut changes = vec![namespace_change("a")];
    for number in 0..60 {
        let (name, address) = (format!("a/p{number:02}"), format!("10.0.0.{number}"));
        changes.push(pod_change(&name, &[("app", "x")], &[&address]));
    }
    let flows: Vec<Entry> = (0..1500)
        .map(|port| flow(6, "10.0.0.2", "10.0.0.1", port))
        .collect();
    let difference = tried(
        &objects(&changes),
        &[policy_change(Some(vec![]), None)],
        &flows,
    );
    assert_eq!(difference.isolation.shown.len(), 60);
    assert_eq!(
        difference.connections.shown.len() + difference.connections.left_out,
        60 * 59
    );
    assert_eq!(difference.connections.shown.len(), MAX_SHOWN);
    assert_eq!(
        (difference.flows.shown.len(), difference.flows.left_out),
        (MAX_SHOWN, 500)
    );
    assert!(difference.connections.shown.is_sorted());
}
