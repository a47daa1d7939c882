//! What single objects become.

use serde_json::json;

use super::*;

const CALICO: &str = include_str!("calico.yaml");
const METALLB: &str = include_str!("metallb.yaml");
const KUBE_ROUTER: &str = include_str!("kube-router.yaml");

#[test]
fn the_bgp_configuration_of_calico_is_carried_over_with_its_ranges_of_services() {
    let conversion = converted(CALICO);
    let spec = &written(&conversion, "BGPConfiguration", "default")["spec"];
    assert_eq!(
        *spec,
        json!({
            "asNumber": 65546, "listenPort": 1179, "nodeToNodeMeshEnabled": true,
            "communities": [{"name": "blue", "value": "64513:7"}, {"name": "large", "value": "64513:300:100"}],
            "prefixAdvertisements": [{"cidr": "10.244.0.0/16", "communities": ["blue", "large", "64513:120"]}],
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "serviceExternalIPs": [{"cidr": "198.51.100.0/24"}],
            "serviceLoadBalancerIPs": [{"cidr": "192.0.2.0/24"}],
            "serviceLoadBalancerAggregation": "Disabled",
        })
    );
    let object = "BGPConfiguration default";
    for field in [
        "serviceClusterIPs",
        "serviceExternalIPs",
        "serviceLoadBalancerIPs",
    ] {
        let field = format!("spec.{field}");
        assert_eq!(outcome(&conversion, object, &field), Outcome::Carried);
    }
    // The mesh has no password here; a BGPPeer that joins all nodes has.
    let mesh = &written(&conversion, "BGPPeer", "node-to-node-mesh")["spec"];
    assert_eq!(mesh["peerSelector"], "all()");
    assert_eq!(mesh["gracefulRestart"]["restartTime"], "240s");
    assert_eq!(mesh["password"]["secretKeyRef"]["key"], "mesh");
    let secret = written(&conversion, "Secret", "bgp-secrets");
    assert_eq!(secret["metadata"]["namespace"], "portolan");
    assert_eq!(secret["data"]["mesh"], "bWVzaA==");
}

#[test]
fn a_peer_of_calico_keeps_its_nodes_its_session_and_its_filters() {
    let conversion = converted(CALICO);
    let spec = &written(&conversion, "BGPPeer", "everything")["spec"];
    assert_eq!(
        *spec,
        json!({
            // The Node's label, not its name.
            "nodeSelector": "kubernetes.io/hostname == 'host-one'",
            "peerAddress": "10.1.0.1:1179", "asNumber": 65001, "localASNumber": 65099,
            "nextHopMode": "Self", "ttlSecurity": 2, "allowASIn": 3,
            "keepaliveTime": "20s", "holdTime": "240s",
            "gracefulRestart": {"restartTime": "300s"},
            "password": {"secretKeyRef": {"name": "bgp-secrets", "key": "tor"}},
            "filters": ["edge", "absent"],
        })
    );
    let of = |field| outcome(&conversion, "BGPPeer everything", field);
    assert_eq!(of("spec.keepOriginalNextHop"), Outcome::NotNeeded);
    assert_eq!(of("spec.reachableBy"), Outcome::NoCounterpart);
    assert_eq!(of("spec.filters[2]"), Outcome::Changed);
    let nodes = &written(&conversion, "BGPPeer", "nodes")["spec"];
    assert_eq!(nodes["peerSelector"], "route-reflector == 'true'");
    assert_eq!(nodes["nextHopMode"], "Keep");
    let of = |field| outcome(&conversion, "BGPPeer nodes", field);
    assert_eq!(of("spec.reversePeering"), Outcome::NoCounterpart);
    let gone = conversion.objects.iter();
    let mut gone = gone.filter(|object| object.value["metadata"]["name"] == "workloads");
    assert!(gone.next().is_none());
}

#[test]
fn a_session_of_calicos_may_cross_routers_as_before() {
    let text = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: far}, spec: {peerIP: 10.1.0.1, asNumber: 65001}}";
    let conversion = converted(text);
    assert_eq!(
        written(&conversion, "BGPPeer", "far")["spec"]["multihop"],
        64
    );
    assert_eq!(conversion.counts.no_counterpart, 0);
}

#[test]
fn rules_of_a_filter_are_carried_in_order_and_one_that_cannot_be_said_takes_the_filter_with_it() {
    let conversion = converted(CALICO);
    let spec = &written(&conversion, "BGPFilter", "edge")["spec"];
    assert_eq!(
        spec["exportV4"],
        json!([
            {
                "cidr": "10.244.0.0/16", "matchOperator": "In", "source": "RemotePeers", "peerType": "iBGP",
                "communities": {"values": ["64513:7"]}, "asPathPrefix": [65001, 65002], "action": "Accept",
                "operations": [
                    {"addCommunity": {"value": "64513:9"}},
                    // The path is to begin with 65010 65011.
                    {"prependAS": {"asNumber": 65011}},
                    {"prependAS": {"asNumber": 65010}},
                ],
            },
            {"action": "Reject"},
        ])
    );
    assert_eq!(spec["exportV6"], json!([{"action": "Accept"}]));
    let import = &spec["importV4"][0];
    assert_eq!(import["prefixLength"], json!({"min": 16, "max": 24}));
    assert!(import.get("source").is_none());
    let filters = conversion.objects.iter();
    let filters = filters.filter(|object| object.value["kind"] == "BGPFilter");
    assert_eq!(filters.count(), 1);
    let of = |field| outcome(&conversion, "BGPFilter unsayable", field);
    assert_eq!(of("spec.exportV4[0].interface"), Outcome::NoCounterpart);
    assert_eq!(of("spec.exportV4[0].action"), Outcome::NoCounterpart);
}

#[test]
fn wireguard_of_calicos_felix_is_told_of_as_a_field_of_pools() {
    let conversion = converted(CALICO);
    let of = |field| entry(&conversion, "FelixConfiguration default", field);
    let wireguard = of("spec.wireguardEnabled");
    assert_eq!(wireguard.outcome, Outcome::NoCounterpart);
    assert!(
        wireguard.note.starts_with("`encapsulation: WireGuard`"),
        "{}",
        wireguard.note
    );
    assert!(!of("spec.bpfEnabled").note.contains("WireGuard"));
}

#[test]
fn a_pool_of_calico_says_what_is_not_built_yet_and_a_manual_one_is_reserved() {
    let conversion = converted(CALICO);
    let name = "default-ipv4-ippool";
    let spec = &written(&conversion, "IPPool", name)["spec"];
    assert_eq!(
        *spec,
        json!({
            "cidr": "10.244.0.0/16", "blockSize": 26, "encapsulation": "IPIPCrossSubnet", "natOutgoing": true,
            "nodeSelector": "all()", "disabled": false, "allowedUses": ["Workload", "Tunnel", "LoadBalancer"],
        })
    );
    let reserved = &written(&conversion, "IPReservation", name)["spec"];
    assert_eq!(reserved["reservedCIDRs"], json!(["10.244.0.0/16"]));
    let of = |field| outcome(&conversion, "IPPool default-ipv4-ippool", field);
    assert_eq!(of("spec.ipipMode"), Outcome::Carried);
    assert_eq!(of("spec.natOutgoing"), Outcome::Changed);
    assert_eq!(of("spec.disableBGPExport"), Outcome::NoCounterpart);
    assert_eq!(of("spec.assignmentMode"), Outcome::Carried);
}

#[test]
fn nodes_of_calico_become_annotations_where_they_say_more_than_the_node() {
    let conversion = converted(CALICO);
    let annotations = |node| &written(&conversion, "Node", node)["metadata"]["annotations"];
    assert_eq!(
        *annotations("n1"),
        json!({
            // The IPv4 address is the Node's InternalIP.
            "portolan.io/as-number": "65011", "portolan.io/ipv6-address": "fd00::1",
            "portolan.io/route-reflector-cluster-id": "224.0.0.1",
        })
    );
    assert_eq!(
        *annotations("n2"),
        json!({"portolan.io/as-number": "65012"})
    );
    assert_eq!(annotations("n3")["portolan.io/ipv4-address"], "10.0.0.3");
    let clients = outcome(&conversion, "Node n1", "(clients of the route reflector)");
    assert_eq!(clients, Outcome::NoCounterpart);
}

#[test]
fn a_peer_of_metallb_learns_nothing_and_announces_what_its_advertisements_say() {
    let conversion = converted(METALLB);
    let spec = &written(&conversion, "BGPPeer", "tor")["spec"];
    assert_eq!(
        *spec,
        json!({
            "nodeSelector": "(rack == 'r1' && has(gpu) && !has(old)) || (zone in {'a', 'b'} && role not in {'edge'})",
            "peerAddress": "10.1.0.1:1179", "asNumber": 65001, "localASNumber": 64601, "sourceAddress": "10.1.0.9",
            "holdTime": "30s", "keepaliveTime": "10s", "multihop": 255,
            "password": {"secretKeyRef": {"name": "tor-password", "key": "password"}},
            "bfd": {"minRx": "100ms", "minTx": "150ms", "multiplier": 4},
            "filters": ["metallb-tor"],
        })
    );
    // All peers say the same AS, and nobody else says one.
    let configuration = &written(&conversion, "BGPConfiguration", "default")["spec"];
    assert_eq!(*configuration, json!({"asNumber": 64600}));
    let filter = &written(&conversion, "BGPFilter", "metallb-tor")["spec"];
    assert_eq!(filter["importV4"], json!([{"action": "Reject"}]));
    let operations = json!([
        {"setLocalPref": {"value": 150}},
        {"addCommunity": {"value": "64600:1"}},
        {"addCommunity": {"value": "64600:9"}},
        {"addCommunity": {"value": "64600:1:2"}},
    ]);
    let rule = |cidr: &str, length: u8| {
        json!({
            "cidr": cidr, "matchOperator": "In", "prefixLength": {"min": length, "max": length},
            "action": "Accept", "operations": operations,
        })
    };
    // A /24 is announced of the first range; of the second, which is smaller, it cannot be.
    assert_eq!(
        filter["exportV4"],
        json!([rule("192.0.2.0/24", 24), {"action": "Reject"}])
    );
    assert_eq!(
        filter["exportV6"],
        json!([rule("2001:db8::/112", 112), {"action": "Reject"}])
    );
    // Advertisements to `tor` alone say nothing to another peer.
    let other = &written(&conversion, "BGPFilter", "metallb-older")["spec"];
    assert_eq!(other["exportV4"], json!([{"action": "Reject"}]));
    let older = &written(&conversion, "BGPPeer", "older")["spec"];
    assert_eq!(
        (&older["holdTime"], &older["keepaliveTime"]),
        (&"21s".into(), &"7s".into())
    );
    assert_eq!(older["nodeSelector"], "kubernetes.io/hostname == 'n1'");
    let spine = &written(&conversion, "BGPPeer", "spine")["spec"];
    assert_eq!(
        (&spine["interface"], &spine["asNumber"]),
        (&"eth1".into(), &"external".into())
    );
    let secret = written(&conversion, "Secret", "metallb-spine");
    assert_eq!(secret["stringData"]["password"], "not-this-one");
}

#[test]
fn ranges_of_metallb_become_pools_for_services() {
    let conversion = converted(METALLB);
    let pools = conversion.objects.iter();
    let pools = pools.filter(|object| object.value["kind"] == "IPPool");
    let cidrs: Vec<&str> = pools
        .map(|pool| {
            let spec = &pool.value["spec"];
            assert_eq!(spec["allowedUses"], json!(["LoadBalancer"]));
            spec["cidr"].as_str().unwrap()
        })
        .collect();
    assert_eq!(
        cidrs,
        [
            "192.0.2.0/24",
            "198.51.100.10/31",
            "198.51.100.12/31",
            "2001:db8::/112"
        ]
    );
    // `autoAssign: false`: who asks for an address gets it, and nobody else.
    let reserved = &written(&conversion, "IPReservation", "front")["spec"]["reservedCIDRs"];
    assert_eq!(*reserved, json!(cidrs));
    let of = |field| outcome(&conversion, "IPAddressPool metallb-system/front", field);
    assert_eq!(of("spec.autoAssign"), Outcome::Changed);
    assert_eq!(of("spec.avoidBuggyIPs"), Outcome::NoCounterpart);
}

#[test]
fn kube_routers_flags_make_peers_with_what_the_nodes_change() {
    let conversion = converted(KUBE_ROUTER);
    let configuration = &written(&conversion, "BGPConfiguration", "default")["spec"];
    assert_eq!(
        *configuration,
        json!({
            "asNumber": 64700, "listenPort": 1790, "nodeToNodeMeshEnabled": false,
            "gracefulRestart": {"restartTime": "120s"},
        })
    );
    let spec = &written(&conversion, "BGPPeer", "kube-router-10-1-0-1")["spec"];
    assert_eq!(
        *spec,
        json!({
            "nodeSelector": "kubernetes.io/hostname not in {'n1'}",
            "peerAddress": "10.1.0.1", "asNumber": 65001, "multihop": 5, "holdTime": "30s", "nextHopMode": "Self",
            "password": {"secretKeyRef": {"name": "kube-router-peers", "key": "kube-router-10-1-0-1"}},
            "bfd": {"minTx": "500ms", "minRx": "400ms", "multiplier": 5},
        })
    );
    let second = &written(&conversion, "BGPPeer", "kube-router-10-2-0-1")["spec"];
    assert_eq!(second["peerAddress"], "10.2.0.1:1179");
    assert!(second.get("password").is_none());
    let special = &written(&conversion, "BGPPeer", "kube-router-n1-10-1-0-1")["spec"];
    assert_eq!(special["nodeSelector"], "kubernetes.io/hostname == 'n1'");
    assert_eq!(special["filters"], json!(["kube-router-n1"]));
    let filter = &written(&conversion, "BGPFilter", "kube-router-n1")["spec"];
    let exports = json!([
        {"source": "RemotePeers", "action": "Reject"},
        {"action": "Accept", "operations": [
            {"prependAS": {"asNumber": 64701, "times": 3}},
            {"addCommunity": {"value": "65535:65281"}},
            {"addCommunity": {"value": "64701:7"}},
        ]},
    ]);
    assert_eq!(filter["exportV4"], exports);
    assert_eq!(filter["exportV6"], exports);
    assert_eq!(
        filter["importV4"],
        json!([{"cidr": "10.0.0.0/16", "matchOperator": "In", "action": "Reject"}])
    );
    let secret = written(&conversion, "Secret", "kube-router-peers");
    assert_eq!(secret["data"]["kube-router-10-1-0-1"], "bm90LXRoaXMtb25l");
}

#[test]
fn kube_routers_reflectors_and_ases_become_sessions_between_those_nodes() {
    let conversion = converted(KUBE_ROUTER);
    let group = &written(&conversion, "BGPPeer", "kube-router-as-64701")["spec"];
    let core = "kubernetes.io/hostname in {'n1', 'n3'}";
    assert_eq!(
        (&group["nodeSelector"], &group["peerSelector"]),
        (&core.into(), &core.into())
    );
    let clients = &written(&conversion, "BGPPeer", "kube-router-as-64701-clients")["spec"];
    assert_eq!(clients["nodeSelector"], "kubernetes.io/hostname in {'n1'}");
    assert_eq!(clients["peerSelector"], "kubernetes.io/hostname in {'n2'}");
    assert_eq!(clients["routeReflectorClient"], true);
    let annotations = &written(&conversion, "Node", "n1")["metadata"]["annotations"];
    assert_eq!(
        annotations["portolan.io/route-reflector-cluster-id"],
        "0.0.0.42"
    );
    // One node alone has nobody to peer with.
    let alone = conversion.objects.iter();
    let mut alone =
        alone.filter(|object| object.value["metadata"]["name"] == "kube-router-as-64702");
    assert!(alone.next().is_none());
}

#[test]
fn annotations_alone_make_the_peers_of_a_node() {
    let text = r#"
apiVersion: v1
kind: Node
metadata:
  name: n1
  annotations:
    kube-router.io/peers: |
      - remoteip: fd00::1
        remoteasn: 65005
        localip: fd00::9
        port: 1790
        password: bm90LXRoaXMtb25l
        bfd: {enabled: true, detection_multiplier: 2, required_min_rx_interval: 1000, desired_min_tx_interval: 500}
      - {remoteip: 10.5.0.1, remoteasn: 65006}
"#;
    let conversion = converted(text);
    let spec = &written(&conversion, "BGPPeer", "kube-router-n1-fd00-1")["spec"];
    assert_eq!(
        *spec,
        json!({
            "nodeSelector": "kubernetes.io/hostname == 'n1'",
            "peerAddress": "[fd00::1]:1790", "asNumber": 65005, "sourceAddress": "fd00::9",
            "password": {"secretKeyRef": {"name": "kube-router-peers", "key": "kube-router-n1-fd00-1"}},
            "bfd": {"minTx": "500ms", "minRx": "1000ms", "multiplier": 2},
        })
    );
    written(&conversion, "BGPPeer", "kube-router-n1-10-5-0-1");
    assert_eq!(conversion.counts.no_counterpart, 0);
    let older = text.replace("peers: |", "peers: nonsense\n    kube-router.io/x: |");
    let conversion = converted(&older);
    assert!(conversion.objects.is_empty());
}

#[test]
fn an_object_that_would_be_refused_is_left_out_with_all_that_was_carried_into_it() {
    let text = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: bad}, spec: {peerIP: 10.1.0.1, asNumber: 23456}}";
    let conversion = converted(text);
    assert!(conversion.objects.is_empty());
    let found = entry(&conversion, "BGPPeer bad", "spec.peerIP");
    assert_eq!(found.outcome, Outcome::NoCounterpart);
    assert!(found.note.contains("23456 is reserved"), "{found:?}");
    assert_eq!(conversion.counts.carried, 0);
}

#[test]
fn two_objects_of_one_name_are_both_written() {
    let calico = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 10.1.0.1, asNumber: 65001}}";
    let metallb = "{apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: tor}, spec: {myASN: 64512, peerASN: 65002, peerAddress: 10.2.0.1}}";
    let conversion = converted(&format!("{calico}\n---\n{metallb}"));
    assert_eq!(
        written(&conversion, "BGPPeer", "tor")["spec"]["asNumber"],
        65001
    );
    assert_eq!(
        written(&conversion, "BGPPeer", "tor-2")["spec"]["asNumber"],
        65002
    );
}

#[test]
fn what_is_no_object_is_an_error_with_its_line() {
    for (text, line) in [
        ("a: 1", 1),
        ("kind: A\napiVersion: v1\n---\n- 1", 4),
        ("{", 1),
    ] {
        let error = convert(text, "portolan").err().unwrap();
        assert_eq!(error.line, line, "{error}");
    }
}
