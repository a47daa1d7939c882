//! What the runtime asks for by capabilities, and each malformed value refused by its name.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_spec::capabilities::{ANNOTATION_IP_ADDRESSES, POD_ANNOTATIONS};
use cni_spec::socket::Request;
use cni_spec::{
    Bandwidth, CniError, Command, Dns, Environment, NetworkConfig, PortMapping, PortProtocol,
};
use serde_json::{Value, json};

fn with(runtime_config: &Value) -> NetworkConfig {
    whole(&json!({"runtimeConfig": runtime_config}))
}

fn whole(members: &Value) -> NetworkConfig {
    let mut config = json!({"cniVersion": "1.1.0", "name": "n"});
    for (key, value) in members.as_object().unwrap() {
        config[key] = value.clone();
    }
    NetworkConfig::parse(config.to_string().as_bytes()).unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn semantics_104_port_mappings_are_read_and_those_without_a_host_port_left_out() {
    let config = with(&json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
        {"hostPort": 0, "containerPort": 81, "protocol": "tcp"},
        {"containerPort": 82},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "::"},
    ]}));
    let mapping = |host_port, container_port, protocol, host_ip: Option<&str>| PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    assert_eq!(
        config.port_mappings().unwrap(),
        [
            mapping(8080, 80, PortProtocol::Tcp, None),
            mapping(53, 5353, PortProtocol::Udp, Some("192.0.2.1")),
            mapping(9, 9, PortProtocol::Sctp, Some("::")),
        ]
    );
}

#[test]
fn semantics_104_bandwidth_is_in_bits_and_none_where_nothing_limits() {
    let config = with(&json!({"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2048}}));
    let limits = Bandwidth {
        ingress_rate: 1_000_000,
        ingress_burst: 2048,
        ..Bandwidth::default()
    };
    assert_eq!(config.bandwidth().unwrap(), Some(limits));
    let none = json!({"bandwidth": {"ingressRate": 0, "egressRate": 0, "egressBurst": 0}});
    assert_eq!(with(&none).bandwidth().unwrap(), None);
}

#[test]
fn semantics_104_addresses_come_from_the_capability_then_args_then_the_annotation() {
    let annotated = |text: &str| json!({POD_ANNOTATIONS: {ANNOTATION_IP_ADDRESSES: text}});
    let mut config = whole(&json!({
        "runtimeConfig": annotated(r#"["10.0.0.3", "fd00::3"]"#),
        "args": {"cni": {"ips": ["10.0.0.2/24"]}},
    }));
    assert_eq!(config.requested_ips().unwrap(), ips(&["10.0.0.2"]));
    let asked = json!(["10.0.0.1/24", "fd00::1"]);
    config.runtime_config.insert("ips".to_owned(), asked);
    assert_eq!(
        config.requested_ips().unwrap(),
        ips(&["10.0.0.1", "fd00::1"])
    );
    config.runtime_config.remove("ips");
    config.args.clear();
    assert_eq!(
        config.requested_ips().unwrap(),
        ips(&["10.0.0.3", "fd00::3"])
    );
    let commas = with(&annotated("10.0.0.4, fd00::4"));
    assert_eq!(
        commas.requested_ips().unwrap(),
        ips(&["10.0.0.4", "fd00::4"])
    );
    let config = with(&json!({}));
    assert_eq!(config.requested_ips().unwrap(), ips(&[]));
}

#[test]
fn semantics_104_mac_is_read_from_the_capability_or_args() {
    let mac = [0x02, 0, 0x5e, 0x10, 0, 0xff];
    let text = "02:00:5e:10:00:FF";
    assert_eq!(
        with(&json!({"mac": text})).requested_mac().unwrap(),
        Some(mac)
    );
    let dashes = json!({"args": {"cni": {"mac": "02-00-5e-10-00-ff"}}});
    assert_eq!(whole(&dashes).requested_mac().unwrap(), Some(mac));
    assert_eq!(with(&json!({"mac": ""})).requested_mac().unwrap(), None);
}

#[test]
fn semantics_104_ranges_are_sets_of_one_family_each() {
    let config = with(&json!({"ipRanges": [
        [{"subnet": "10.1.2.3/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.1"},
         {"subnet": "10.1.3.0/24"}],
        [{"subnet": "fd00:1::/64"}],
    ]}));
    let sets = config.ip_ranges().unwrap();
    assert_eq!(sets.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(sets[0][0].subnet.to_string(), "10.1.2.0/24");
    assert_eq!(sets[0][0].range_start, Some("10.1.2.9".parse().unwrap()));
    assert_eq!(sets[0][1].range_end, None);
}

#[test]
fn semantics_104_dns_of_the_runtime_goes_over_that_of_the_configuration_field_by_field() {
    let config = whole(&json!({
        "dns": {"nameservers": ["10.0.0.1"], "domain": "d", "search": ["a"]},
        "runtimeConfig": {"dns": {"servers": ["10.0.0.2"], "searches": null, "options": ["ndots:5"]}},
    }));
    let dns = config.dns_over(Dns::default()).unwrap();
    assert_eq!(
        (dns.nameservers, dns.domain.as_str()),
        (vec!["10.0.0.2".to_owned()], "d")
    );
    assert_eq!(
        (dns.search, dns.options),
        (vec!["a".to_owned()], vec!["ndots:5".to_owned()])
    );
}

#[test]
fn semantics_104_pod_annotations_are_a_map_of_texts() {
    let config = with(&json!({POD_ANNOTATIONS: {"a/b": "c", "d": ""}}));
    let expected = [("a/b", "c"), ("d", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(config.pod_annotations(), BTreeMap::from(expected));
    assert!(
        with(&json!({POD_ANNOTATIONS: null}))
            .pod_annotations()
            .is_empty()
    );
}

#[test]
fn semantics_104_each_malformed_capability_is_code_7_and_named() {
    let port = |entry: Value| ("portMappings", json!([entry]));
    let cases = [
        ("portMappings", json!({})),
        port(json!(80)),
        port(json!({"hostPort": 65536, "containerPort": 80})),
        port(json!({"hostPort": -1, "containerPort": 80})),
        port(json!({"hostPort": "80", "containerPort": 80})),
        port(json!({"hostPort": 80})),
        port(json!({"hostPort": 80, "containerPort": 0})),
        port(json!({"hostPort": 80, "containerPort": 70000})),
        port(json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"})),
        port(json!({"hostPort": 80, "containerPort": 80, "protocol": 6})),
        port(json!({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"})),
        ("bandwidth", json!([])),
        ("bandwidth", json!({"ingressRate": -1})),
        ("bandwidth", json!({"ingressRate": 1.5, "ingressBurst": 1})),
        ("bandwidth", json!({"egressRate": 1000})),
        ("bandwidth", json!({"egressBurst": 1000})),
        (
            "bandwidth",
            json!({"egressRate": 1, "egressBurst": 34_359_738_361_u64}),
        ),
        ("mac", json!(1)),
        ("mac", json!("02:00:5e:10:00")),
        ("mac", json!("02:00:5e:10:00:01:02")),
        ("mac", json!("02:00:5e:10:00:+1")),
        ("mac", json!("01:00:5e:10:00:01")),
        ("mac", json!("00:00:00:00:00:00")),
        ("ips", json!("10.0.0.1")),
        ("ips", json!([1])),
        ("ips", json!(["10.0.0"])),
        ("ipRanges", json!({})),
        ("ipRanges", json!([{}])),
        ("ipRanges", json!([[]])),
        ("ipRanges", json!([[{}]])),
        ("ipRanges", json!([[["10.0.0.0/24"]]])),
        ("ipRanges", json!([[{"subnet": "10.0.0.0/33"}]])),
        (
            "ipRanges",
            json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]),
        ),
        (
            "ipRanges",
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]),
        ),
        (
            "ipRanges",
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.1"}]]),
        ),
        ("dns", json!([])),
        ("dns", json!({"servers": "10.0.0.1"})),
        ("dns", json!({"servers": ["dns.example"]})),
        ("dns", json!({"searches": [1]})),
        (POD_ANNOTATIONS, json!(["a"])),
        (POD_ANNOTATIONS, json!({"a": 1})),
    ];
    for (key, value) in cases {
        let config = with(&json!({key: value}));
        let error = config.check_command(Command::Add).unwrap_err();
        assert_eq!(error.code, 7, "{key}: {value}");
        assert!(error.msg.contains(key), "{key}: {value}: {error}");
        // What is about to go must not stay for it.
        config.check_command(Command::Del).unwrap();
    }
    let annotated = with(&json!({POD_ANNOTATIONS: {ANNOTATION_IP_ADDRESSES: "10.0.0.1,x"}}));
    let error = annotated.check_command(Command::Add).unwrap_err();
    assert!(error.msg.contains(ANNOTATION_IP_ADDRESSES), "{error}");
}

#[test]
fn semantics_104_capabilities_nobody_here_knows_are_ignored() {
    let config =
        with(&json!({"deviceID": 7, "infinibandGUID": [], "aliases": "x", "cgroupPath": {}}));
    config.check_command(Command::Add).unwrap();
}

#[test]
fn semantics_104_what_cni_args_ask_for_yields_to_capabilities() {
    let request = |config: NetworkConfig, args: &str| -> Result<Request, CniError> {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/p"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", args),
        ];
        let owned = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
        match Environment::parse(&BTreeMap::from(owned))? {
            Environment::Invocation(invocation) => Ok(Request::new(invocation, config)),
            other => panic!("{other:?}"),
        }
    };
    let args = "IP=10.0.0.9/24, fd00::9;MAC=02:00:00:00:00:09";
    let asked = request(with(&json!({})), args).unwrap();
    assert_eq!(
        asked.config.requested_ips().unwrap(),
        ips(&["10.0.0.9", "fd00::9"])
    );
    assert_eq!(
        asked.config.requested_mac().unwrap(),
        Some([2, 0, 0, 0, 0, 9])
    );
    assert!(asked.args.is_empty());
    let other = with(&json!({"ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01"}));
    let asked = request(other, args).unwrap();
    assert_eq!(asked.config.requested_ips().unwrap(), ips(&["10.0.0.1"]));
    assert_eq!(
        asked.config.requested_mac().unwrap(),
        Some([2, 0, 0, 0, 0, 1])
    );
    for wrong in ["IP=x", "IP=10.0.0.1,", "MAC=01:00:00:00:00:00"] {
        assert_eq!(
            request(with(&json!({})), wrong).unwrap_err().code,
            4,
            "{wrong}"
        );
    }
}
