//! Tests of reading Node, Namespace, Pod, BGPConfiguration and BGPPeer, and of what is refused.

mod addresses;
mod bgp;
mod filter;
mod pod;
mod secret;
mod service;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(api_version: &str, kind: &str, mut rest: Value) -> Result<Resource, ParseError> {
    rest["apiVersion"] = json!(api_version);
    rest["kind"] = json!(kind);
    let (key, resource) = parse(kind, api_version, rest)?.expect("a kind that is used");
    assert!(key.to_string().starts_with(kind));
    Ok(resource)
}

fn node(rest: Value) -> Result<Node, ParseError> {
    match read("v1", "Node", rest)? {
        Resource::Node(node) => Ok(node),
        other => panic!("{other:?}"),
    }
}

fn pod(rest: Value) -> Result<Pod, ParseError> {
    match read("v1", "Pod", rest)? {
        Resource::Pod(pod) => Ok(pod),
        other => panic!("{other:?}"),
    }
}

fn peer(spec: Value) -> Result<BgpPeer, ParseError> {
    let rest = json!({"metadata": {"name": "tor"}, "spec": spec});
    match read("portolan.io/v1alpha1", "BGPPeer", rest)? {
        Resource::BgpPeer(peer) => Ok(*peer),
        other => panic!("{other:?}"),
    }
}

fn config(spec: Value) -> Result<BgpConfiguration, ParseError> {
    let rest = json!({"metadata": {"name": "default"}, "spec": spec});
    match read("portolan.io/v1alpha1", "BGPConfiguration", rest)? {
        Resource::BgpConfiguration(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

/// A minimal BGPPeer spec with one more field.
fn peer_with(field: &str, value: Value) -> Result<BgpPeer, ParseError> {
    let mut spec = json!({"peerAddress": "10.0.0.1", "asNumber": 65000});
    spec[field] = value;
    peer(spec)
}

#[test]
fn unknown_kinds_are_named_and_a_status_that_agents_write_is_accepted() {
    let error = parse("Deployment", "apps/v1", json!({})).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "apps/v1 Deployment is not a kind that Portolan knows"
    );
    let ingress = parse("Ingress", "networking.k8s.io/v1", json!({}));
    assert_eq!(ingress, Ok(None), "the ingress controller's");
    assert!(parse("Pod", "v2", json!({})).is_err());
    assert!(parse("NetworkPolicy", "extensions/v1beta1", json!({})).is_err());
    let status = json!({"metadata": {"name": "n1"}, "spec": {"node": "n1"}, "status": {
        "established": 1, "configured": 2, "asNumber": 64512, "routerID": "10.0.0.1",
        "sessions": [{"name": "tor", "address": "10.0.0.254", "state": "Established",
            "prefixes": {"accepted": 2, "rejected": 1, "stale": 0, "sent": 1},
            "families": [{"family": "IPv4", "received": 3}]}]}});
    let read = |value| parse("BGPNodeStatus", "portolan.io/v1alpha1", value);
    assert_eq!(read(status), Ok(None), "agents write it, nobody reads it");
    assert!(read(json!({"metadata": {"name": "n1"}, "spec": {}})).is_err());
}

#[test]
fn names_are_dns_1123_or_refused() {
    let long_label = "a".repeat(64);
    let long = "a.".repeat(127);
    for name in [
        "", "A", "a_b", "-a", "a-", "a..b", ".a", "../etc", "a/b", "a\nb", "a\0", "é", "a b",
        "$(a)", &long,
    ] {
        let rest = json!({"metadata": {"name": name}});
        for (version, kind) in [("v1", "Node"), ("v1", "Namespace"), ("v1", "Pod")] {
            let error = read(version, kind, rest.clone())
                .expect_err(name)
                .to_string();
            assert!(!error.contains(['\n', '\0']), "{error:?}");
        }
        let rest =
            json!({"metadata": {"name": "a", "namespace": name}, "spec": {"nodeName": name}});
        assert!(name.is_empty() || pod(rest).is_err(), "{name:?}");
    }
    assert!(read("v1", "Namespace", json!({"metadata": {"name": long_label}})).is_err());
    assert!(read("v1", "Namespace", json!({"metadata": {"name": "a.b"}})).is_err());
    assert!(node(json!({"metadata": {"name": "n1.example.com"}})).is_ok());
    assert!(read("v1", "Node", json!({"metadata": {}})).is_err());
}

#[test]
fn labels_are_checked() {
    for (key, value) in [
        ("a b", ""),
        ("a", "b\nc"),
        ("", "x"),
        ("/a", "x"),
        ("a", "-x"),
        ("a/b/c", "x"),
    ] {
        let rest = json!({"metadata": {"name": "n", "labels": {key: value}}});
        assert!(node(rest).is_err(), "{key:?} {value:?}");
    }
    let fine = json!({"kubernetes.io/hostname": "N_1.x", "a": "", "b": "0"});
    assert_eq!(
        node(json!({"metadata": {"name": "n", "labels": fine}}))
            .expect("fine")
            .labels
            .len(),
        3
    );
}

#[test]
fn semantics_14_a_namespace_bears_its_name_as_a_label() {
    let rest =
        json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "lie"}}});
    let Ok(Resource::Namespace(namespace)) = read("v1", "Namespace", rest) else {
        panic!()
    };
    assert_eq!(namespace.labels["kubernetes.io/metadata.name"], "shop");
}

#[test]
fn semantics_31_all_pod_ips_are_kept_and_the_older_field_read_where_they_are_absent() {
    let ips = |status: Value| {
        let rest = json!({"metadata": {"name": "p", "namespace": "n"}, "status": status});
        pod(rest).map(|pod| {
            pod.pod_ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
    };
    let both = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    assert_eq!(
        ips(both),
        Ok(vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()])
    );
    assert_eq!(
        ips(json!({"podIP": "10.0.0.1"})),
        Ok(vec!["10.0.0.1".to_owned()])
    );
    assert_eq!(ips(json!({})), Ok(vec![]));
    assert!(ips(json!({"podIPs": [{"ip": "10.0.0.1/24"}]})).is_err());
}

#[test]
fn semantics_45_succeeded_and_failed_pods_are_finished() {
    for (phase, finished) in [
        ("Pending", false),
        ("Running", false),
        ("Unknown", false),
        ("Succeeded", true),
        ("Failed", true),
    ] {
        let rest = json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
        assert_eq!(pod(rest).expect("a pod").finished, finished, "{phase}");
    }
}

#[test]
fn semantics_46_a_terminating_pod_is_not_finished() {
    let metadata = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    let rest = json!({"metadata": metadata, "status": {"phase": "Running"}});
    assert!(!pod(rest).expect("a pod").finished);
}

#[test]
fn a_pod_has_a_namespace_a_node_and_its_wishes() {
    let rest = json!({
        "metadata": {"name": "p", "uid": "u",
            "annotations": {"portolan.io/ip-addresses": "[\"10.244.0.9\", \"fd00::9\"]"}},
        "spec": {"nodeName": "n1", "hostNetwork": true, "containers": []},
    });
    let pod = pod(rest).expect("a pod");
    assert_eq!(pod.name.to_string(), "default/p");
    assert_eq!(
        (pod.uid.as_str(), pod.node_name.as_deref()),
        ("u", Some("n1"))
    );
    assert!(pod.host_network);
    assert_eq!(pod.fixed_ips.len(), 2);
}

#[test]
fn wrong_fixed_addresses_are_refused() {
    for text in [
        "10.0.0.1",
        "[\"10.0.0.1/24\"]",
        "[\"10.0.0.1\", \"10.0.0.2\"]",
        "[\"127.0.0.1\"]",
        "{}",
        "[1]",
    ] {
        let metadata = json!({"name": "p", "annotations": {"portolan.io/ip-addresses": text}});
        let error = pod(json!({"metadata": metadata}))
            .expect_err(text)
            .to_string();
        assert!(error.contains("portolan.io/ip-addresses"), "{error}");
    }
}

#[test]
fn a_node_has_its_addresses_pod_cidrs_and_bgp_identity() {
    let node = node(json!({
        "metadata": {"name": "n1", "annotations": {
            "portolan.io/as-number": "4200000001", "portolan.io/router-id": "10.0.0.1",
            "portolan.io/route-reflector-cluster-id": "1.1.1.1", "portolan.io/bgp-drain": "true"}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.7/24", "fd00:244:1::/64"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
        ]},
    }))
    .expect("a node");
    assert_eq!(node.as_number, Some(4_200_000_001));
    assert_eq!(node.router_id.expect("an id").to_string(), "10.0.0.1");
    let text: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["10.244.1.0/24", "fd00:244:1::/64"]);
    assert_eq!(node.internal_ips.len(), 2);
    assert_eq!(node.cluster_id, Some([1, 1, 1, 1].into()));
    assert!(node.bgp_drain);
}

#[test]
fn a_static_pod_has_the_uid_by_which_its_kubelet_knows_it() {
    let mut metadata = json!({"name": "p", "uid": "7f5f3c2e"});
    let uid = |metadata: &Value| pod(json!({"metadata": metadata})).expect("a pod").uid;
    assert_eq!(uid(&metadata), "7f5f3c2e");
    metadata["annotations"] = json!({"kubernetes.io/config.mirror": "0a1b2c3d4e"});
    assert_eq!(uid(&metadata), "0a1b2c3d4e");
}

#[test]
fn annotations_give_a_node_its_address_of_a_family_instead_of_its_status() {
    let node_with = |annotations: Value| {
        let addresses = ["fd00::1", "10.0.0.1", "10.0.1.1"];
        let addresses = addresses.map(|ip| json!({"type": "InternalIP", "address": ip}));
        node(json!({
            "metadata": {"name": "n1", "annotations": annotations},
            "status": {"addresses": addresses},
        }))
        .expect("a node")
    };
    let texts = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let v4 = node_with(json!({"portolan.io/ipv4-address": "192.0.2.1"}));
    assert_eq!(texts(&v4.internal_ips), ["fd00::1", "192.0.2.1"]);
    let all = ["10.0.0.1", "10.0.1.1", "192.0.2.1", "fd00::1"];
    assert_eq!(texts(&v4.addresses), all, "its others are its own, too");
    let v6 = node_with(json!({"portolan.io/ipv6-address": "fd00::99"}));
    assert_eq!(
        texts(&v6.internal_ips),
        ["fd00::99", "10.0.0.1", "10.0.1.1"]
    );
    let annotations = json!({"portolan.io/ipv6-address": "fd00::99"});
    let bare = json!({"metadata": {"name": "n1", "annotations": annotations}});
    assert_eq!(
        texts(&node(bare).expect("a node").internal_ips),
        ["fd00::99"]
    );
}

#[test]
fn an_unschedulable_node_does_not_drain_bgp() {
    let rest = json!({"metadata": {"name": "n1"}, "spec": {"unschedulable": true}});
    let node = node(rest).expect("a node");
    assert!(!node.bgp_drain);
    assert_eq!(node.cluster_id, None);
    let annotations = json!({"portolan.io/bgp-drain": "false"});
    let rest = json!({"metadata": {"name": "n1", "annotations": annotations}});
    assert_eq!(self::node(rest).map(|node| node.bgp_drain), Ok(false));
}

#[test]
fn wrong_nodes_are_refused() {
    for cidrs in [
        json!(["10.0.0.0/24", "10.1.0.0/24"]),
        json!(["10.0.0.0"]),
        json!(["0.0.0.0/0"]),
        json!(["::/0"]),
        json!(["127.0.0.0/8"]),
        json!(["169.254.1.0/24"]),
        json!(["224.0.0.0/24"]),
        json!(["fe80::/64"]),
    ] {
        let rest = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": cidrs}});
        assert!(node(rest).is_err(), "{cidrs}");
    }
    for (key, value) in [
        ("as-number", "0"),
        ("as-number", "23456"),
        ("as-number", "x"),
        ("as-number", "4294967296"),
        ("router-id", "0.0.0.0"),
        ("router-id", "::1"),
        ("route-reflector-cluster-id", "0.0.0.0"),
        ("route-reflector-cluster-id", "7"),
        ("ipv4-address", "10.0.0.1/24"),
        ("ipv4-address", "fd00::1"),
        ("ipv4-address", "127.0.0.1"),
        ("ipv4-address", ""),
        ("ipv6-address", "10.0.0.1"),
        ("ipv6-address", "fe80::1"),
        ("ipv6-address", "::ffff:10.0.0.1"),
        ("bgp-drain", "yes"),
        ("bgp-drain", ""),
    ] {
        let annotations = json!({format!("portolan.io/{key}"): value});
        let rest = json!({"metadata": {"name": "n", "annotations": annotations}});
        let error = node(rest).expect_err(key).to_string();
        assert!(
            error.starts_with(&format!("Node n: annotation portolan.io/{key}")),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_field_is_named_on_one_line() {
    let error = peer_with("a\nb\u{1b}", json!(1)).expect_err("no field of a BGPPeer");
    let text = error.to_string();
    assert!(
        text.contains("a?b?") && !text.contains(char::is_control),
        "{text:?}"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "podSelector",
        "ingress",
        "from",
        "ipBlock",
        "cidr",
        "ports",
        "port",
        "peerAddress",
        "asNumber",
        "podCIDRs",
        "matchExpressions",
        "importV4",
        "action",
        "data",
        "stringData",
        "tier",
        "priority",
        "subject",
        "egress",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|fields| {
                fields
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_of_any_kind_panics_and_no_error_holds_a_line_break(value in any_json()) {
        for (kind, version) in [
            ("Node", "v1"), ("Namespace", "v1"), ("Pod", "v1"), ("NetworkPolicy", "networking.k8s.io/v1"),
            ("BGPPeer", "portolan.io/v1alpha1"), ("BGPConfiguration", "portolan.io/v1alpha1"),
            ("BGPFilter", "portolan.io/v1alpha1"), ("BGPNodeStatus", "portolan.io/v1alpha1"), ("Secret", "v1"),
            ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
            ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
        ] {
            let mut value = value.clone();
            if let Some(fields) = value.as_object_mut() {
                fields.insert("kind".to_owned(), json!(kind));
                fields.insert("apiVersion".to_owned(), json!(version));
            }
            if let Err(error) = parse(kind, version, value) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn hostile_text_in_a_name_is_never_taken(name in "[a-z]{0,3}[\"'\n\0/; $`|A-Z]{1,3}[a-z]{0,3}") {
        let rest = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {}});
        prop_assert!(pod(rest.clone()).is_err());
        prop_assert!(node(rest.clone()).is_err());
        prop_assert!(read("networking.k8s.io/v1", "NetworkPolicy", rest.clone()).is_err());
        prop_assert!(read("v1", "Namespace", rest).is_err());
    }
}
