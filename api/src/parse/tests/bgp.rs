//! Tests of reading BGPConfiguration and BGPPeer.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::resources::{
    AddPaths, Bfd, Community, GracefulRestart, Hops, MaxPrefixes, Multipath, NextHopMode,
    PasswordRef, PeerAs, PeerTarget, Role, ServiceRange,
};

#[test]
fn a_bgp_configuration_has_defaults_for_all_it_does_not_say() {
    assert_eq!(config(json!({})), Ok(BgpConfiguration::default()));
    let config = config(json!({
        "asNumber": 64600, "listenPort": 1179, "nodeToNodeMeshEnabled": false, "installRoutes": false,
        "gracefulRestart": {"restartTime": "1m30s", "longLivedStaleTime": "24h", "notifications": true},
        "serviceClusterIPs": [], "multipath": false,
    }))
    .expect("a configuration");
    assert_eq!((config.as_number, config.listen_port), (64600, 1179));
    assert_eq!(config.restart_time, Duration::from_secs(90));
    assert_eq!(config.restart_notifications, Some(true));
    assert_eq!(
        config.long_lived_stale_time,
        Duration::from_secs(24 * 60 * 60)
    );
    assert!(!config.node_to_node_mesh_enabled && !config.install_routes);
}

#[test]
fn multipath_is_one_switch_with_three_details() {
    let multipath = |spec| config(spec).expect("a configuration").multipath;
    let of = |max_paths, as_path_relax, link_bandwidth| Multipath {
        max_paths,
        as_path_relax,
        link_bandwidth,
    };
    assert_eq!(multipath(json!({})), of(1, false, false));
    assert_eq!(multipath(json!({"multipath": true})), of(16, false, false));
    let all =
        json!({"multipath": true, "maxPaths": 64, "multipathRelax": true, "linkBandwidth": true});
    assert_eq!(multipath(all), of(64, true, true));
    let off = json!({"multipath": false, "maxPaths": 1, "multipathRelax": false});
    assert_eq!(multipath(off), of(1, false, false));
}

#[test]
fn names_of_communities_are_resolved() {
    let config = config(json!({
        "communities": [{"name": "blue", "value": "65000:7"}, {"name": "far", "value": "65000:1:2"}],
        "prefixAdvertisements": [
            {"cidr": "10.96.0.1/12", "communities": ["blue", "65000:9", "far", "blue"]},
            {"cidr": "fd00::/8"},
        ],
    }))
    .expect("a configuration");
    let [first, second] = config.prefix_advertisements.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(first.cidr.to_string(), "10.96.0.0/12");
    let expected = [
        Community::Standard(65000 << 16 | 7),
        Community::Standard(65000 << 16 | 9),
        Community::Large(65000, 1, 2),
    ];
    assert_eq!(first.communities, expected.into());
    assert!(second.communities.is_empty());
}

#[test]
fn ranges_of_services_are_aggregated_unless_they_or_all_of_their_kind_say_otherwise() {
    let found = config(json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.7/12"}],
        "serviceExternalIPs": [{"cidr": "192.0.2.0/24", "aggregation": "Disabled"}],
        "serviceLoadBalancerIPs": [
            {"cidr": "198.51.100.0/24"}, {"cidr": "2001:db8::/64", "aggregation": "Enabled"},
        ],
        "serviceLoadBalancerAggregation": "Disabled",
    }))
    .expect("a BGPConfiguration");
    let said = |ranges: &[ServiceRange]| {
        let said = ranges.iter();
        said.map(|range| (range.cidr.to_string(), range.is_aggregated))
            .collect::<Vec<_>>()
    };
    let is = |cidr: &str, is_aggregated| (cidr.to_owned(), is_aggregated);
    assert_eq!(said(&found.service_cluster_ips), [is("10.96.0.0/12", true)]);
    assert_eq!(
        said(&found.service_external_ips),
        [is("192.0.2.0/24", false)]
    );
    assert_eq!(
        said(&found.service_load_balancer_ips),
        [is("198.51.100.0/24", false), is("2001:db8::/64", true)]
    );
}

#[test]
fn a_bgp_configuration_that_is_wrong_is_refused() {
    for (spec, why) in [
        (
            json!({"serviceClusterIPs": [{"cidr": "10.96.0.0"}]}),
            "spec.serviceClusterIPs has \"10.96.0.0\", which is no CIDR",
        ),
        (
            json!({"serviceExternalIPs": [{"cidr": "0.0.0.0/0"}]}),
            "spec.serviceExternalIPs has 0.0.0.0/0: name the ranges that Services have",
        ),
        (
            json!({"serviceExternalIPs": [{"cidr": "169.254.0.0/17"}]}),
            "spec.serviceExternalIPs has 169.254.0.0/17, which holds link-local",
        ),
        (
            json!({"serviceLoadBalancerIPs": [{"cidr": "10.0.0.1/24"}, {"cidr": "10.0.0.0/24"}]}),
            "spec.serviceLoadBalancerIPs has 10.0.0.0/24 twice",
        ),
        (
            json!({"communities": [{"name": "a", "value": "1"}]}),
            "spec.communities \"a\": \"1\" is no community",
        ),
        (
            json!({"communities": [{"name": "1:2", "value": "1:2"}]}),
            "spec.communities has \"1:2\", which cannot be",
        ),
        (
            json!({"communities": [{"name": "a", "value": "1:2"}, {"name": "a", "value": "1:3"}]}),
            "spec.communities has two named \"a\"",
        ),
        (
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0"}]}),
            "spec.prefixAdvertisements has \"10.0.0.0\", which is no CIDR",
        ),
        (
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["b"]}]}),
            "spec.prefixAdvertisements of 10.0.0.0/8 has \"b\"",
        ),
        (
            json!({"maxPaths": 4}),
            "spec.maxPaths needs multipath: true",
        ),
        (
            json!({"multipath": false, "linkBandwidth": true}),
            "spec.linkBandwidth needs multipath: true",
        ),
        (
            json!({"multipath": true, "maxPaths": 65}),
            "spec.maxPaths is not from 1 to 64",
        ),
        (
            json!({"gracefulRestart": {"longLivedStaleTime": "16777216s"}}),
            "spec.gracefulRestart.longLivedStaleTime is not whole seconds up to 16777215s",
        ),
        (json!({"asNumber": 0}), "reserved"),
        (json!({"listenPort": 0}), "listenPort"),
        (
            json!({"gracefulRestart": {"restartTime": "2h"}}),
            "restartTime",
        ),
        (json!({"asNumer": 1}), "asNumer"),
        (
            json!({"gracefulRestart": {"restarttime": "2s"}}),
            "restarttime",
        ),
    ] {
        let error = config(spec).expect_err(why).to_string();
        assert!(
            error.starts_with("BGPConfiguration default: ") && error.contains(why),
            "{error}"
        );
    }
    let other = json!({"metadata": {"name": "other"}, "spec": {}});
    assert!(read("portolan.io/v1alpha1", "BGPConfiguration", other).is_err());
}

#[test]
fn a_bgp_peer_has_defaults_for_all_it_does_not_say() {
    let peer = peer(json!({"peerAddress": "10.0.0.1", "asNumber": 65000})).expect("a peer");
    assert_eq!(peer.node_selector, crate::Selector::all());
    assert_eq!(
        peer.target,
        PeerTarget::Address("10.0.0.1:179".parse().expect("an address"))
    );
    assert_eq!(peer.as_number, PeerAs::Number(65000));
    assert_eq!(
        (peer.hold_time, peer.keepalive_time),
        (Duration::from_secs(90), None)
    );
    assert_eq!(
        (peer.max_prefixes.limit, peer.passive, peer.source_address),
        (100_000, false, None)
    );
    assert_eq!(
        peer,
        BgpPeer::new("tor", peer.target.clone(), PeerAs::Number(65000))
    );
}

#[test]
fn a_bgp_peer_is_read_field_by_field() {
    let peer = peer(json!({
        "nodeSelector": "rack == 'r1'", "peerAddress": "[fd00::1]:1179", "asNumber": "external",
        "localASNumber": 65001, "sourceAddress": "fd00::2", "passive": true,
        "password": {"secretKeyRef": {"name": "bgp", "key": "tor.md5"}},
        "multihop": 2, "holdTime": "9s", "keepaliveTime": "3s", "delayOpen": "5s",
        "bfd": {"minTx": "50ms", "minRx": "60ms", "multiplier": 5, "strict": true},
        "gracefulRestart": {"restartTime": "60s", "longLivedStaleTime": "1h", "notifications": false},
        "maxPrefixes": {"limit": 11, "warnAt": 80, "restartAfter": "5m"},
        "filters": ["edge", "rest"], "addPath": "Send", "nextHopMode": "Self", "allowASIn": 2,
        "role": "Customer", "strictRole": true,
        "adminShutdown": true, "shutdownMessage": "moving to rack 7",
    }))
    .expect("a peer");
    let address = PeerTarget::Address("[fd00::1]:1179".parse().expect("an address"));
    let secs = Duration::from_secs;
    let expected = BgpPeer {
        node_selector: crate::Selector::parse("rack == 'r1'").expect("a selector"),
        local_as: Some(65001),
        source_address: Some("fd00::2".parse().expect("an address")),
        passive: true,
        password: Some(PasswordRef {
            secret: "bgp".to_owned(),
            key: "tor.md5".to_owned(),
        }),
        hops: Hops::Multihop(2),
        hold_time: secs(9),
        keepalive_time: Some(secs(3)),
        delay_open: Some(secs(5)),
        bfd: Some(Bfd {
            min_tx: Duration::from_millis(50),
            min_rx: Duration::from_millis(60),
            multiplier: 5,
            strict: true,
            multihop: true,
        }),
        graceful_restart: GracefulRestart {
            restart_time: Some(secs(60)),
            long_lived_stale_time: Some(secs(3600)),
            notifications: Some(false),
        },
        max_prefixes: MaxPrefixes {
            limit: 11,
            warn_at: Some(9),
            restart_after: Some(secs(300)),
        },
        filters: vec!["edge".to_owned(), "rest".to_owned()],
        add_path: AddPaths {
            receive: false,
            send: true,
        },
        next_hop_mode: NextHopMode::Own,
        allow_own_as: 2,
        role: Some(Role::Customer),
        strict_role: true,
        admin_shutdown: true,
        shutdown_message: Some("moving to rack 7".to_owned()),
        ..BgpPeer::new("tor", address, PeerAs::External)
    };
    assert_eq!(peer, expected);
}

#[test]
fn a_reflectors_client_is_internal_and_bfd_is_of_one_hop_unless_more_are_allowed() {
    let peer = peer(json!({
        "peerAddress": "10.0.0.1", "asNumber": "internal", "routeReflectorClient": true,
        "ttlSecurity": 1, "bfd": {}, "addPath": "Both",
    }))
    .expect("a peer");
    assert!(peer.route_reflector_client && peer.add_path.receive && peer.add_path.send);
    assert_eq!(peer.hops, Hops::TtlSecurity(1));
    let bfd = peer.bfd.expect("BFD");
    assert_eq!(
        (bfd.min_tx, bfd.multiplier),
        (Duration::from_millis(300), 3)
    );
    assert!(!bfd.multihop && !bfd.strict);
}

#[test]
fn every_way_to_name_a_peer_is_read() {
    let target = |field: &str, value: &str| {
        let rest = json!({field: value, "asNumber": 65000});
        peer(rest).map(|peer| (peer.target, peer.passive))
    };
    let link_local = |port| PeerTarget::LinkLocal {
        address: "fe80::1".parse().expect("an address"),
        interface: "eth0".to_owned(),
        port,
    };
    let range = |text: &str| PeerTarget::Range(text.parse().expect("a CIDR"));
    for (field, text, expected) in [
        ("peerAddress", "fe80::1%eth0", (link_local(179), false)),
        (
            "peerAddress",
            "[fe80::1%eth0]:1179",
            (link_local(1179), false),
        ),
        (
            "interface",
            "eth0.7",
            (PeerTarget::Interface("eth0.7".to_owned()), false),
        ),
        ("listenRange", "10.1.2.3/16", (range("10.1.0.0/16"), true)),
        ("listenRange", "::/0", (range("::/0"), true)),
    ] {
        assert_eq!(target(field, text), Ok(expected), "{text}");
    }
}

#[test]
fn a_peer_selector_names_other_nodes() {
    let peer = peer(json!({"peerSelector": "has(rr)", "asNumber": "internal"})).expect("a peer");
    assert_eq!(peer.as_number, PeerAs::Internal);
    assert!(
        matches!(peer.target, PeerTarget::Nodes(selector) if selector.to_string() == "has(rr)")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn fields_that_contradict_each_other_are_refused_with_the_way_out() {
    for (spec, why) in [
        (
            json!({"ttlSecurity": 1, "multihop": 2}),
            "spec.ttlSecurity and multihop exclude each other",
        ),
        (
            json!({"ttlSecurity": 0}),
            "spec.ttlSecurity is not from 1 to 254",
        ),
        (
            json!({"ttlSecurity": 255}),
            "spec.ttlSecurity is not from 1 to 254",
        ),
        (json!({"multihop": 0}), "spec.multihop is not from 1 to 255"),
        (
            json!({"localASNumber": 65000}),
            "spec.localASNumber 65000 is the peer's own AS",
        ),
        (
            json!({"localASNumber": 23456}),
            "spec.localASNumber 23456 is reserved",
        ),
        (
            json!({"asNumber": "internal", "localASNumber": 1}),
            "spec.localASNumber is for a peer in another AS",
        ),
        (
            json!({"asNumber": "external", "routeReflectorClient": true}),
            "spec.routeReflectorClient is for a peer in our own AS",
        ),
        (
            json!({"asNumber": "internal", "role": "Peer"}),
            "spec.role is for a peer in another AS",
        ),
        (
            json!({"role": "Peer", "routeReflectorClient": true}),
            "spec.role is for a peer in another AS",
        ),
        (json!({"strictRole": true}), "spec.strictRole needs a role"),
        (
            json!({"bfd": {"minTx": "1ms"}}),
            "spec.bfd.minTx is not from 10ms to 60s",
        ),
        (
            json!({"bfd": {"minRx": "61s"}}),
            "spec.bfd.minRx is not from 10ms to 60s",
        ),
        (
            json!({"bfd": {"multiplier": 0}}),
            "spec.bfd.multiplier is 0",
        ),
        (
            json!({"maxPrefixes": {"warnAt": 0}}),
            "spec.maxPrefixes.warnAt is not a percentage",
        ),
        (
            json!({"maxPrefixes": {"warnAt": 101}}),
            "spec.maxPrefixes.warnAt is not a percentage",
        ),
        (
            json!({"maxPrefixes": {"restartAfter": "0s"}}),
            "spec.maxPrefixes.restartAfter is not whole seconds",
        ),
        (
            json!({"gracefulRestart": {"restartTime": "4096s"}}),
            "spec.gracefulRestart.restartTime is not whole seconds up to 4095s",
        ),
        (
            json!({"delayOpen": "11m"}),
            "spec.delayOpen is more than 10m",
        ),
        (json!({"allowASIn": 11}), "spec.allowASIn is more than 10"),
        (json!({"filters": ["a", "a"]}), "spec.filters names a twice"),
        (
            json!({"filters": ["../a"]}),
            "spec.filters has \"../a\", which names no BGPFilter",
        ),
        (
            json!({"password": {"secretKeyRef": {"name": "A", "key": "k"}}}),
            "spec.password.secretKeyRef.name \"A\" is no Secret's name",
        ),
        (
            json!({"password": {"secretKeyRef": {"name": "a", "key": "k/.."}}}),
            "spec.password.secretKeyRef.key \"k/..\" is no key",
        ),
        (
            json!({"shutdownMessage": "é".repeat(128)}),
            "spec.shutdownMessage has more than 255 octets",
        ),
        (
            json!({"shutdownMessage": "a\nb"}),
            "spec.shutdownMessage is not one line",
        ),
        (
            json!({"peerAddress": "fe80::1"}),
            "is link-local: name its interface too, as in fe80::1%eth0",
        ),
        (
            json!({"peerAddress": "fd00::1%eth0"}),
            "fd00::1 is not link-local: leave the interface out",
        ),
        (
            json!({"peerAddress": "fe80::1%"}),
            "is not `address%interface`",
        ),
        (
            json!({"peerAddress": "[fe80::1%eth0]:0"}),
            "is not `address%interface`",
        ),
        (
            json!({"peerAddress": "fe80::1%a/b"}),
            "is not `address%interface`",
        ),
        (
            json!({"peerAddress": "fe80::1%eth0%1"}),
            "is not `address%interface`",
        ),
        (
            json!({"peerAddress": "::ffff:10.0.0.1"}),
            "write it as IPv4",
        ),
        (
            json!({"peerAddress": "fe80::1%eth0", "multihop": 2}),
            "spec.multihop is more than 1, but a link-local peer is one hop away",
        ),
        (
            json!({"peerAddress": null, "interface": "eth0", "ttlSecurity": 2}),
            "spec.ttlSecurity is more than 1",
        ),
        (
            json!({"peerAddress": null, "interface": "eth0", "asNumber": "internal"}),
            "spec.asNumber cannot be internal with an interface",
        ),
        (
            json!({"peerAddress": null, "interface": "eth0", "sourceAddress": "fd00::1"}),
            "spec.sourceAddress cannot be chosen",
        ),
        (
            json!({"peerAddress": null, "interface": "sixteen-letters-"}),
            "can be no interface's name",
        ),
        (
            json!({"peerAddress": null, "interface": "eth%d"}),
            "can be no interface's name",
        ),
        (
            json!({"peerAddress": null, "listenRange": "10.0.0.0"}),
            "is no CIDR",
        ),
        (
            json!({"peerAddress": null, "listenRange": "fe80::/10"}),
            "is link-local: name an interface instead",
        ),
        (
            json!({"peerAddress": null, "listenRange": "224.0.0.0/4"}),
            "is nobody's",
        ),
        (
            json!({"peerAddress": null, "listenRange": "10.0.0.0/8", "passive": false}),
            "spec.passive cannot be false with a listenRange",
        ),
        (
            json!({"peerAddress": null, "listenRange": "10.0.0.0/8", "sourceAddress": "10.0.0.1"}),
            "spec.sourceAddress is for peers that we dial",
        ),
        (
            json!({"listenRange": "10.0.0.0/8"}),
            "spec.peerAddress is not alone",
        ),
        (
            json!({"peerAddress": null}),
            "spec.peerAddress or interface, peerSelector or listenRange must say",
        ),
    ] {
        let mut whole = json!({"peerAddress": "10.0.0.1", "asNumber": 65000});
        for (field, value) in spec.as_object().expect("fields") {
            whole[field] = value.clone();
        }
        let error = peer(whole).expect_err(why).to_string();
        assert!(
            error.starts_with("BGPPeer tor: spec.") && error.contains(why),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_bgp_peer_is_refused_with_the_field_that_is_wrong() {
    for (field, value) in [
        ("peerAddress", json!("tor.example.com")),
        ("peerAddress", json!("10.0.0.1:0")),
        ("peerAddress", json!("0.0.0.0")),
        ("peerAddress", json!("224.0.0.1")),
        ("peerAddress", json!("fe80::1")),
        ("peerSelector", json!("all()")),
        ("asNumber", json!(0)),
        ("asNumber", json!("65000")),
        ("asNumber", json!(null)),
        ("sourceAddress", json!("fd00::1")),
        ("holdTime", json!("2s")),
        ("holdTime", json!("90")),
        ("holdTime", json!(90)),
        ("holdTime", json!("18h12m16s")),
        ("keepaliveTime", json!("90s")),
        ("keepaliveTime", json!("0s")),
        ("maxPrefixes", json!({"limit": 0})),
        ("nodeSelector", json!("rack = 'r1'")),
        ("peerIP", json!("10.0.0.2")),
        ("bfd", json!({"interval": "1s"})),
    ] {
        let error = peer_with(field, value.clone())
            .expect_err(field)
            .to_string();
        assert!(
            error.starts_with("BGPPeer tor: "),
            "{field} {value}: {error}"
        );
    }
    let error = peer_with("nodeSelector", json!("rack = 'r1'"))
        .expect_err("selector")
        .to_string();
    assert!(
        error.contains("spec.nodeSelector at character 6: expected `==`"),
        "{error}"
    );
}
