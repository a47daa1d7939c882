//! The same result in every version of the protocol, written and read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use cni_spec::{AddResult, CniVersion, Dns, Interface, IpConfig, Route};
use expect_test::{Expect, expect};
use serde_json::json;

fn result() -> AddResult {
    let gateway: [std::net::IpAddr; 2] =
        ["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
    AddResult {
        interfaces: vec![
            Interface {
                name: "ptl0123456789a".to_owned(),
                mac: "ee:ee:ee:ee:ee:ee".to_owned(),
                ..Interface::default()
            },
            Interface {
                name: "eth0".to_owned(),
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: Some(1450),
                sandbox: "/run/netns/p".to_owned(),
                socket_path: "/run/s".to_owned(),
                pci_id: "0000:00:1f.6".to_owned(),
            },
        ],
        ips: vec![
            IpConfig {
                address: "10.244.1.5/32".parse().unwrap(),
                gateway: Some(gateway[0]),
                interface: Some(1),
            },
            IpConfig {
                address: "fd00:1::5/128".parse().unwrap(),
                gateway: Some(gateway[1]),
                interface: Some(1),
            },
        ],
        routes: vec![
            Route {
                mtu: Some(1400),
                advmss: Some(1360),
                priority: Some(100),
                table: Some(50),
                scope: Some(253),
                ..Route::new("0.0.0.0/0".parse().unwrap(), Some(gateway[0]))
            },
            Route::new("::/0".parse().unwrap(), Some(gateway[1])),
        ],
        dns: Dns {
            nameservers: vec!["10.96.0.10".to_owned()],
            ..Dns::default()
        },
    }
}

/// Prints the result in each version, a line each member; they must differ by nothing but the version's name.
fn check(versions: &[CniVersion], expected: &Expect) {
    let mut printed: Vec<String> = versions
        .iter()
        .map(|version| {
            let json = result().to_json(*version).unwrap();
            assert_eq!(json["cniVersion"], version.as_str());
            let members = json.as_object().unwrap().iter().skip(1);
            members
                .map(|(key, value)| format!("{key}: {value}\n"))
                .collect()
        })
        .collect();
    printed.dedup();
    expected.assert_eq(&printed.concat());
}

#[test]
fn a_result_has_the_shape_of_the_version_asked_for() {
    check(
        &[CniVersion::V0_1_0, CniVersion::V0_2_0],
        &expect![[r#"
        dns: {"nameservers":["10.96.0.10"]}
        ip4: {"gateway":"169.254.1.1","ip":"10.244.1.5/32","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}
        ip6: {"gateway":"fe80::1","ip":"fd00:1::5/128","routes":[{"dst":"::/0","gw":"fe80::1"}]}
    "#]],
    );
    check(
        &[CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0],
        &expect![[r#"
        dns: {"nameservers":["10.96.0.10"]}
        interfaces: [{"mac":"ee:ee:ee:ee:ee:ee","name":"ptl0123456789a"},{"mac":"02:00:00:00:00:01","name":"eth0","sandbox":"/run/netns/p"}]
        ips: [{"address":"10.244.1.5/32","gateway":"169.254.1.1","interface":1,"version":"4"},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1,"version":"6"}]
        routes: [{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]
    "#]],
    );
    check(
        &[CniVersion::V1_0_0],
        &expect![[r#"
        dns: {"nameservers":["10.96.0.10"]}
        interfaces: [{"mac":"ee:ee:ee:ee:ee:ee","name":"ptl0123456789a"},{"mac":"02:00:00:00:00:01","name":"eth0","sandbox":"/run/netns/p"}]
        ips: [{"address":"10.244.1.5/32","gateway":"169.254.1.1","interface":1},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1}]
        routes: [{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]
    "#]],
    );
    check(
        &[CniVersion::V1_1_0],
        &expect![[r#"
        dns: {"nameservers":["10.96.0.10"]}
        interfaces: [{"mac":"ee:ee:ee:ee:ee:ee","name":"ptl0123456789a"},{"mac":"02:00:00:00:00:01","mtu":1450,"name":"eth0","pciID":"0000:00:1f.6","sandbox":"/run/netns/p","socketPath":"/run/s"}]
        ips: [{"address":"10.244.1.5/32","gateway":"169.254.1.1","interface":1},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1}]
        routes: [{"advmss":1360,"dst":"0.0.0.0/0","gw":"169.254.1.1","mtu":1400,"priority":100,"scope":253,"table":50},{"dst":"::/0","gw":"fe80::1"}]
    "#]],
    );
}

#[test]
fn what_a_version_can_say_comes_back_when_it_is_read() {
    assert_eq!(read_back(CniVersion::V1_1_0), result());
    let without_1_1 = read_back(CniVersion::V1_0_0);
    assert_eq!(without_1_1.interfaces[1].mtu, None);
    assert_eq!(without_1_1.routes[0].table, None);
    for version in [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0] {
        assert_eq!(read_back(version), without_1_1, "{version}");
    }
    for version in [CniVersion::V0_1_0, CniVersion::V0_2_0] {
        let old = read_back(version);
        assert_eq!(old.routes, without_1_1.routes);
        assert_eq!(
            old.ips.iter().map(|ip| ip.address).collect::<Vec<_>>(),
            [
                "10.244.1.5/32".parse().unwrap(),
                "fd00:1::5/128".parse().unwrap()
            ]
        );
        assert!(old.interfaces.is_empty());
    }
}

fn read_back(version: CniVersion) -> AddResult {
    let json = result().to_json(version).unwrap();
    AddResult::from_json(&json, CniVersion::V1_0_0).unwrap()
}

#[test]
fn a_result_without_an_address_cannot_be_said_before_0_3_0() {
    let none = AddResult::default();
    assert_eq!(none.to_json(CniVersion::V0_2_0).unwrap_err().code, 7);
    expect![[r#"{"cniVersion":"0.3.0","dns":{}}"#]]
        .assert_eq(&none.to_json(CniVersion::V0_3_0).unwrap().to_string());
}

#[test]
fn another_plugin_s_result_is_read_with_its_nulls_and_its_own_version() {
    let json = json!({
        "cniVersion": "0.3.1", "interfaces": null, "routes": null, "dns": {"search": null},
        "ips": [{"version": "4", "address": "10.1.2.3/24", "extra": 1}],
    });
    let result = AddResult::from_json(&json, CniVersion::V1_1_0).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.2.3/24");
    let wrong = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3"}]});
    assert_eq!(
        AddResult::from_json(&wrong, CniVersion::V1_0_0)
            .unwrap_err()
            .code,
        6
    );
    let unknown = json!({"cniVersion": "2.0.0"});
    assert_eq!(
        AddResult::from_json(&unknown, CniVersion::V1_0_0)
            .unwrap_err()
            .code,
        1
    );
}

#[test]
fn the_addresses_of_an_interface_are_those_whose_index_says_so() {
    let mut result = result();
    let lo = IpConfig {
        address: "127.0.0.1/8".parse().unwrap(),
        gateway: None,
        interface: Some(0),
    };
    for interface in [Some(0), None, Some(9)] {
        result.ips.push(IpConfig {
            interface,
            ..lo.clone()
        });
    }
    let texts = |name: &str| -> Vec<String> {
        result.addresses_of(name).map(|ip| ip.to_string()).collect()
    };
    assert_eq!(texts("eth0"), ["10.244.1.5", "fd00:1::5"]);
    // An interface on the host bears nothing of the container's.
    assert_eq!(texts("ptl0123456789a"), [""; 0]);
}
