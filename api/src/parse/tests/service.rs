//! Tests of what is read of a Service and an EndpointSlice.

use std::time::Duration;

use super::*;
use crate::resources::{
    AddressType, EndpointPort, EndpointSlice, Protocol, Service, ServiceType, TrafficDistribution,
    TrafficPolicy,
};

fn service(spec: Value) -> Result<Service, ParseError> {
    let value = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec});
    read_service(value)
}

fn read_service(value: Value) -> Result<Service, ParseError> {
    match parse("Service", "v1", value)? {
        Some((Key::Service(name), Resource::Service(service))) if service.name == name => {
            Ok(*service)
        }
        other => panic!("{other:?}"),
    }
}

fn slice(value: Value) -> Result<EndpointSlice, ParseError> {
    let mut whole = json!({"metadata": {"name": "s-1", "namespace": "n",
        "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4"});
    for (field, value) in value.as_object().expect("an object") {
        whole[field] = value.clone();
    }
    match parse("EndpointSlice", "discovery.k8s.io/v1", whole)? {
        Some((Key::EndpointSlice(name), Resource::EndpointSlice(slice))) if slice.name == name => {
            Ok(*slice)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_has_the_addresses_of_both_families_and_ports_with_defaults() {
    let found = service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
        "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": [" 198.51.100.7/24 ", "::/0"],
        "ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}],
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "loadBalancerClass": "x/y",
        "trafficDistribution": "PreferClose",
    }))
    .expect("a Service");
    assert_eq!(found.service_type, ServiceType::LoadBalancer);
    assert_eq!(found.cluster_ips.len(), 2);
    let ranges: Vec<String> = found
        .load_balancer_source_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["198.51.100.0/24", "::/0"]);
    let ports: Vec<_> = found
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(
        ports,
        [
            ("", Protocol::Tcp, 80, None),
            ("dns", Protocol::Udp, 53, Some(30053))
        ]
    );
    assert_eq!(
        (found.external_traffic_policy, found.internal_traffic_policy),
        (TrafficPolicy::Local, TrafficPolicy::Cluster)
    );
    assert_eq!(found.health_check_node_port, Some(31000));
    assert_eq!(found.session_affinity, None);
    assert_eq!(
        found.traffic_distribution,
        Some(TrafficDistribution::SameZone)
    );
    assert!(found.is_proxied());
}

#[test]
fn semantics_117_no_proxy_serves_headless_services_names_and_those_of_another_proxy() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.1"}),
    ] {
        let found = service(spec.clone()).expect("a Service");
        assert!(!found.is_proxied(), "{spec}");
        assert!(found.cluster_ips.is_empty(), "{spec}");
    }
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let value = json!({"metadata": {"name": "s", "labels": {label: ""}}, "spec": {"clusterIP": "10.96.0.1"}});
        assert!(
            !read_service(value).expect("a Service").is_proxied(),
            "{label}"
        );
    }
}

#[test]
fn semantics_135_only_addresses_whose_packets_come_here_as_they_are_count() {
    let value = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"},
            {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]}}});
    let found = read_service(value).expect("a Service");
    let addresses: Vec<String> = found
        .load_balancer_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn semantics_137_a_client_keeps_its_endpoint_for_three_hours_or_as_long_as_is_said() {
    let affinity = |config: Value| {
        service(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}))
    };
    let of = |config| affinity(config).expect("a Service").session_affinity;
    assert_eq!(of(Value::Null), Some(Duration::from_secs(10_800)));
    assert_eq!(
        of(json!({"clientIP": {"timeoutSeconds": 5}})),
        Some(Duration::from_secs(5))
    );
    let error = affinity(json!({"clientIP": {"timeoutSeconds": 0}})).expect_err("0 s");
    assert!(error.to_string().contains("1 to 86400"), "{error}");
}

#[test]
fn what_a_server_would_refuse_is_an_error_that_names_the_field() {
    for (spec, word) in [
        (json!({"clusterIP": "x"}), "spec.clusterIPs"),
        (json!({"externalIPs": ["x"]}), "spec.externalIPs"),
        (json!({"type": "Odd"}), "spec.type"),
        (json!({"ports": [{"port": 0}]}), "spec.ports.port"),
        (json!({"ports": [{"port": 70000}]}), "spec.ports.port"),
        (
            json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
            "spec.ports.protocol",
        ),
        (
            json!({"externalTrafficPolicy": "Odd"}),
            "spec.externalTrafficPolicy",
        ),
        (
            json!({"loadBalancerSourceRanges": ["x"]}),
            "spec.loadBalancerSourceRanges",
        ),
        (json!({"sessionAffinity": "Odd"}), "spec.sessionAffinity"),
    ] {
        let error = service(spec).expect_err(word).to_string();
        assert!(
            error.starts_with("Service n/s: ") && error.contains(word),
            "{error}"
        );
    }
}

#[test]
fn semantics_121_absent_conditions_are_ready_serving_and_not_terminating() {
    let found = slice(json!({"endpoints": [
        {"addresses": ["10.0.0.1", "10.0.0.9"], "nodeName": "n1", "zone": "a"},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": []},
    ]}))
    .expect("a slice");
    let ends: Vec<_> = found
        .endpoints
        .iter()
        .map(|one| {
            (
                one.address.to_string(),
                one.is_ready,
                one.is_serving,
                one.is_terminating,
            )
        })
        .collect();
    assert_eq!(
        ends,
        [
            ("10.0.0.1".to_owned(), true, true, false),
            ("10.0.0.2".to_owned(), false, false, false),
            ("10.0.0.3".to_owned(), false, true, true),
        ]
    );
    assert_eq!(found.endpoints[0].node_name.as_deref(), Some("n1"));
}

#[test]
fn semantics_119_a_slice_belongs_to_the_service_of_its_label_and_ports_without_a_name_or_number_to_none()
 {
    let found = slice(json!({"ports": [{"name": "", "port": 80}, {"port": 81}, {"name": "x"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}))
        .expect("a slice");
    assert_eq!(found.service.as_deref(), Some("s"));
    let port = |name: &str, protocol, port| EndpointPort {
        name: name.to_owned(),
        protocol,
        port,
    };
    assert_eq!(
        found.ports,
        [port("", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)]
    );
    let nobodys = slice(json!({"metadata": {"name": "x", "namespace": "n"}})).expect("a slice");
    assert_eq!(nobodys.service, None);
}

#[test]
fn names_are_no_endpoints_and_an_address_of_the_other_family_is_an_error() {
    let names =
        slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]}))
            .expect("a slice");
    assert_eq!(
        (names.address_type, names.endpoints.len()),
        (AddressType::Fqdn, 0)
    );
    let error = slice(json!({"endpoints": [{"addresses": ["fd00::1"]}]})).expect_err("IPv6");
    assert!(
        error.to_string().starts_with("EndpointSlice n/s-1: "),
        "{error}"
    );
    assert!(slice(json!({"addressType": "Odd"})).is_err());
}

#[test]
fn hints_are_sets_of_zones_and_nodes() {
    let found = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"],
        "hints": {"forZones": [{"name": "b"}, {"name": "a"}], "forNodes": [{"name": "n1"}]}}]}))
    .expect("a slice");
    let end = &found.endpoints[0];
    assert_eq!(end.for_zones.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(end.for_nodes.iter().collect::<Vec<_>>(), ["n1"]);
}

#[test]
fn what_a_load_balancers_service_asks_for_is_read_and_a_mistake_takes_nothing_else_away() {
    let read = |annotations: Value, spec: Value| {
        read_service(json!({
            "metadata": {"name": "s", "namespace": "n", "annotations": annotations},
            "spec": spec,
        }))
        .expect("a Service")
    };
    let found = read(
        json!({
            "portolan.io/ip-addresses": "[\"192.0.2.7\", \"2001:db8::7\"]", "portolan.io/ipv4pools": "[\"lab\"]",
            "portolan.io/sharing-key": "dns", "example.org/other": "x",
        }),
        json!({"loadBalancerIP": "192.0.2.9", "selector": {"app": "web"}}),
    );
    assert_eq!(found.selector["app"], "web");
    let request = found.address_request.expect("a request");
    assert_eq!(request.addresses.len(), 2);
    assert_eq!(request.pools(true), ["lab"]);
    assert!(request.pools(false).is_empty());
    assert_eq!(request.sharing_key.as_deref(), Some("dns"));
    let older = read(json!({}), json!({"loadBalancerIP": "192.0.2.9"}));
    let request = older.address_request.expect("a request");
    assert_eq!(
        request.addresses,
        ["192.0.2.9".parse::<std::net::IpAddr>().expect("an address")]
    );

    for (annotations, spec, why) in [
        (
            json!({"portolan.io/ip-addresses": "192.0.2.7"}),
            json!({}),
            "should be a JSON list of addresses",
        ),
        (
            json!({"portolan.io/ip-addresses": "[\"192.0.2.7\", \"192.0.2.8\"]"}),
            json!({}),
            "at most one a family",
        ),
        (
            json!({"portolan.io/ip-addresses": "[\"127.0.0.1\"]"}),
            json!({}),
            "no Service can have 127.0.0.1",
        ),
        (
            json!({"portolan.io/ipv6pools": "[]"}),
            json!({}),
            "annotation portolan.io/ipv6pools is \"[]\"",
        ),
        (
            json!({"portolan.io/ipv4pools": "[\"A b\"]"}),
            json!({}),
            "names of IPPools",
        ),
        (
            json!({"portolan.io/sharing-key": ""}),
            json!({}),
            "has 0 octets",
        ),
        (
            json!({}),
            json!({"loadBalancerIP": "x"}),
            "spec.loadBalancerIP: \"x\" is no address",
        ),
        (
            json!({}),
            json!({"loadBalancerIP": "fe80::1"}),
            "no Service can have fe80::1",
        ),
    ] {
        let mut spec = spec;
        spec["clusterIPs"] = json!(["10.96.0.1"]);
        let found = read(annotations, spec);
        assert_eq!(found.cluster_ips.len(), 1);
        let error = found.address_request.expect_err(why);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_status_says_who_wrote_it() {
    let status = |status: Value| {
        read_service(json!({"metadata": {"name": "s", "namespace": "n"}, "status": status}))
            .expect("a Service")
    };
    let ours = status(json!({
        "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]},
        "conditions": [{"type": "portolan.io/AddressesAllocated", "status": "True"}],
    }));
    assert!(ours.is_allocated_here && !ours.is_balanced_elsewhere);
    for point in [
        json!({"hostname": "lb.example.org"}),
        json!({"ip": "192.0.2.1", "ipMode": "Proxy"}),
    ] {
        let theirs =
            status(json!({"loadBalancer": {"ingress": [point]}, "conditions": [{"type": "x"}]}));
        assert!(!theirs.is_allocated_here && theirs.is_balanced_elsewhere);
        assert!(theirs.load_balancer_ips.is_empty());
    }
}
