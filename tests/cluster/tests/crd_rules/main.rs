//! Every rule of our definitions on the real API server: it refuses what it is for, in words that say what to do, and takes
//! what stands next to that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod peers;

use std::collections::BTreeSet;

use cluster::ControlPlane;
use serde_json::{Value, json};

/// One thing that a definition refuses.
struct Case {
    kind: &'static str,
    /// The object's name, where that matters.
    name: &'static str,
    /// The spec that is changed, where only a change is refused.
    was: &'static str,
    good: &'static str,
    bad: &'static str,
    /// The rule's message, or what the server says of a bound.
    says: &'static str,
}

const fn case(
    kind: &'static str,
    good: &'static str,
    bad: &'static str,
    says: &'static str,
) -> Case {
    let (name, was) = (name_of(kind), "");
    Case {
        kind,
        name,
        was,
        good,
        bad,
        says,
    }
}

const fn change(
    kind: &'static str,
    was: &'static str,
    good: &'static str,
    bad: &'static str,
    says: &'static str,
) -> Case {
    let name = name_of(kind);
    Case {
        kind,
        name,
        was,
        good,
        bad,
        says,
    }
}

/// A block's name says its CIDR.
const fn name_of(kind: &str) -> &'static str {
    match kind.as_bytes() {
        b"IPAMBlock" => "10-48-0-0-26",
        _ => "tested",
    }
}

fn bgp_configurations() -> Vec<Case> {
    let cases = [
        (
            "{multipath: true, maxPaths: 4}",
            "{maxPaths: 4}",
            "multipathRelax, maxPaths and linkBandwidth need multipath: true",
        ),
        (
            "{multipath: true, linkBandwidth: true}",
            "{multipath: false, linkBandwidth: true}",
            "multipathRelax, maxPaths and linkBandwidth need multipath: true",
        ),
        (
            "{asNumber: 4294967294}",
            "{asNumber: 4294967295}",
            "spec.asNumber in body should be less than or equal to 4294967294",
        ),
        (
            "{asNumber: 23455}",
            "{asNumber: 23456}",
            "this AS number is reserved",
        ),
        (
            "{gracefulRestart: {restartTime: 1m30s}}",
            "{gracefulRestart: {restartTime: 90}}",
            "spec.gracefulRestart.restartTime in body must be of type string",
        ),
        (
            "{gracefulRestart: {restartTime: 4095s}}",
            "{gracefulRestart: {restartTime: 4096s}}",
            "restartTime is whole seconds up to 4095s, such as 90s",
        ),
        (
            "{gracefulRestart: {longLivedStaleTime: 24h}}",
            "{gracefulRestart: {longLivedStaleTime: 1d}}",
            "longLivedStaleTime is whole seconds up to 16777215s, such as 24h",
        ),
        (
            "{communities: [{name: site, value: '65000:1:4294967295'}]}",
            "{communities: [{name: site, value: '65000:65536'}]}",
            "write a community as aa:nn (each up to 65535) or aa:nn:mm (each up to 4294967295)",
        ),
        (
            "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: ['65000:1']}]}",
            "{prefixAdvertisements: [{cidr: 10.0.0.0, communities: ['65000:1']}]}",
            "write a CIDR such as 10.0.0.0/8 or fd00::/8",
        ),
        (
            "{maxPaths: 1, multipathRelax: false}",
            "{multipathRelax: true}",
            "multipathRelax, maxPaths and linkBandwidth need multipath: true",
        ),
    ];
    let named = |case: Case| Case {
        name: "default",
        ..case
    };
    let cases = cases.map(|(good, bad, says)| named(case("BGPConfiguration", good, bad, says)));
    cases.into()
}

const SOURCE: &str = "source is for export rules: what is imported is from remote peers";

const FILTERS: &[(&str, &str, &str)] = &[
    (
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In, action: Accept}]}",
        "{importV4: [{cidr: 'fd00::/8', matchOperator: In, action: Accept}]}",
        "importV4 holds IPv4 CIDRs",
    ),
    (
        "{exportV4: [{cidr: 10.0.0.0/8, matchOperator: In, action: Accept}]}",
        "{exportV4: [{action: Accept}, {cidr: 'fd00::/8', matchOperator: In, action: Accept}]}",
        "exportV4 holds IPv4 CIDRs",
    ),
    (
        "{importV6: [{cidr: 'fd00::/8', matchOperator: In, action: Accept}]}",
        "{importV6: [{cidr: 10.0.0.0/8, matchOperator: In, action: Accept}]}",
        "importV6 holds IPv6 CIDRs",
    ),
    (
        "{exportV6: [{cidr: 'fd00::/8', matchOperator: In, action: Accept}]}",
        "{exportV6: [{cidr: 10.0.0.0/8, matchOperator: In, action: Accept}]}",
        "exportV6 holds IPv6 CIDRs",
    ),
    (
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 32}, action: Accept}]}",
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 33}, action: Accept}]}",
        "prefix lengths in importV4 are at most 32",
    ),
    (
        "{exportV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 32}, action: Accept}]}",
        "{exportV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 33}, action: Accept}]}",
        "prefix lengths in exportV4 are at most 32",
    ),
    (
        "{exportV4: [{source: RemotePeers, action: Accept}]}",
        "{importV4: [{source: RemotePeers, action: Accept}]}",
        SOURCE,
    ),
    (
        "{exportV6: [{source: RemotePeers, action: Accept}]}",
        "{importV6: [{source: RemotePeers, action: Accept}]}",
        SOURCE,
    ),
    (
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: Equal, action: Reject}]}",
        "{importV4: [{cidr: 10.0.0.0/8, action: Reject}]}",
        "cidr and matchOperator belong together",
    ),
    (
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: NotIn, prefixLength: {min: 9}, action: Reject}]}",
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: Equal, prefixLength: {min: 9}, action: Reject}]}",
        "prefixLength needs a cidr and matchOperator In or NotIn",
    ),
    (
        "{importV4: [{action: Accept, operations: [{setMED: {value: 5}}]}]}",
        "{importV4: [{action: Reject, operations: [{setMED: {value: 5}}]}]}",
        "operations need action Accept",
    ),
    (
        "{importV4: [{action: Accept, operations: [{setMED: {value: 5}}, {prependAS: {times: 2}}]}]}",
        "{importV4: [{action: Accept, operations: [{setMED: {value: 5}, prependAS: {times: 2}}]}]}",
        "exactly one operation stands in an entry",
    ),
    (
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 9, max: 9}, action: Reject}]}",
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 9, max: 8}, action: Reject}]}",
        "no prefix has such a length: min is above max",
    ),
    (
        "{exportV6: [{cidr: '::/0', matchOperator: Equal, action: Reject}]}",
        "{exportV6: [{cidr: '::', matchOperator: Equal, action: Reject}]}",
        "write a CIDR such as 10.0.0.0/8 or fd00::/8",
    ),
    (
        "{importV6: [{communities: {values: ['65000:1', '1:2:3']}, action: Accept}]}",
        "{importV6: [{communities: {values: ['65000:1', 'no-export']}, action: Accept}]}",
        "write a community as aa:nn (each up to 65535) or aa:nn:mm (each up to 4294967295)",
    ),
    (
        "{exportV4: [{action: Accept, operations: [{addCommunity: {value: '65000:1'}}]}]}",
        "{exportV4: [{action: Accept, operations: [{addCommunity: {value: '65000:01'}}]}]}",
        "write a community as aa:nn (each up to 65535) or aa:nn:mm (each up to 4294967295)",
    ),
    (
        "{exportV4: [{action: Accept, operations: [{prependAS: {asNumber: 65534}}]}]}",
        "{exportV4: [{action: Accept, operations: [{prependAS: {asNumber: 65535}}]}]}",
        "this AS number is reserved",
    ),
    (
        "{importV4: [{action: Accept}]}",
        "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In}]}",
        "spec.importV4[0].action: Required value",
    ),
];

fn bgp_filters() -> Vec<Case> {
    let cases = FILTERS.iter();
    cases
        .map(|(good, bad, says)| case("BGPFilter", good, bad, says))
        .collect()
}

fn layer2() -> Case {
    case(
        "IPPool",
        "{cidr: 192.0.2.0/26, allowedUses: [LoadBalancer], layer2: {}}",
        "{cidr: 192.0.2.0/26, allowedUses: [Workload], layer2: {}}",
        "layer2 is for addresses of Services: allowedUses must have LoadBalancer",
    )
}

fn addresses() -> Vec<Case> {
    let size = "blockSize is from 20 to 32, of an IPv6 pool from 116 to 128";
    let larger = "a block is larger than the whole cidr: set blockSize to the length of the cidr's prefix or more";
    vec![
        case(
            "IPPool",
            "{cidr: 10.48.0.0/16, blockSize: 32}",
            "{cidr: 10.48.0.0/16, blockSize: 33}",
            size,
        ),
        case(
            "IPPool",
            "{cidr: 'fd00:48::/48', blockSize: 116}",
            "{cidr: 'fd00:48::/48', blockSize: 64}",
            size,
        ),
        case(
            "IPPool",
            "{cidr: 10.48.0.0/26}",
            "{cidr: 10.48.0.0/27}",
            larger,
        ),
        case(
            "IPPool",
            "{cidr: 10.48.0.0/28, blockSize: 28}",
            "{cidr: 10.48.0.0/28, blockSize: 27}",
            larger,
        ),
        case(
            "IPPool",
            "{cidr: 10.48.0.0/16, encapsulation: VXLAN}",
            "{cidr: 10.48.0.0/16, encapsulation: vxlan}",
            r#"supported values: "None", "VXLAN", "VXLANCrossSubnet""#,
        ),
        case(
            "IPPool",
            "{cidr: 10.48.0.0/16}",
            "{}",
            "spec.cidr: Required value",
        ),
        case(
            "IPPool",
            "{cidr: 'fd00:48::/48'}",
            "{cidr: 10.48.0.0/33}",
            "write a CIDR such as 10.0.0.0/8 or fd00::/8",
        ),
        case(
            "IPAMBlock",
            "{cidr: 10.48.0.0/26, node: n1}",
            "{cidr: 10.48.0.0, node: n1}",
            "write a CIDR such as 10.0.0.0/8 or fd00::/8",
        ),
        change(
            "IPPool",
            "{cidr: 10.48.0.0/16}",
            "{cidr: 10.48.0.0/16, disabled: true}",
            "{cidr: 10.49.0.0/16}",
            "cidr cannot be changed: pods hold addresses of it. Make another IPPool, and disable this one",
        ),
        change(
            "IPPool",
            "{cidr: 10.48.0.0/16, blockSize: 26}",
            "{cidr: 10.48.0.0/16, blockSize: 26, natOutgoing: true}",
            "{cidr: 10.48.0.0/16, blockSize: 28}",
            "blockSize cannot be changed: nodes hold blocks of that size. Make another IPPool, and disable this one",
        ),
        case(
            "IPReservation",
            "{reservedCIDRs: [10.48.0.1, 10.48.1.0/24, 'fd00:48::/64']}",
            "{reservedCIDRs: [10.48.0.1-10.48.0.9]}",
            "reservedCIDRs are addresses or CIDRs",
        ),
        change(
            "IPAMBlock",
            "{cidr: 10.48.0.0/26, node: n1}",
            "{cidr: 10.48.0.0/26, node: n1}",
            "{cidr: 10.48.0.0/26, node: n2}",
            "a block is released by its node, never handed over",
        ),
    ]
}

fn egress() -> Vec<Case> {
    vec![
        case(
            "IPPool",
            "{cidr: 10.48.0.0/16, nonMasqueradeCIDRs: [198.51.100.0/24, 203.0.113.7/32]}",
            "{cidr: 10.48.0.0/16, nonMasqueradeCIDRs: [198.51.100.0/33]}",
            "write CIDRs such as 10.0.0.0/8 or fd00::/8",
        ),
        case(
            "IPPool",
            "{cidr: 'fd00:48::/48', nonMasqueradeCIDRs: ['2001:db8:5::/48']}",
            "{cidr: 'fd00:48::/48', nonMasqueradeCIDRs: [198.51.100.0/24]}",
            "nonMasqueradeCIDRs are of the family of cidr: write those of the other one into the other pool",
        ),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = bgp_configurations();
    cases.extend(peers::bgp_peers());
    cases.extend(bgp_filters());
    cases.extend(addresses());
    cases.push(layer2());
    cases.extend(egress());
    cases.push(Case {
        name: "second",
        ..case(
            "BGPConfiguration",
            "",
            "{}",
            "only the BGPConfiguration named default is read",
        )
    });
    cases.push(Case {
        name: "n1",
        ..case(
            "BGPNodeStatus",
            "{node: n1}",
            "{node: n2}",
            "a BGPNodeStatus is named after its node",
        )
    });
    cases
}

#[test]
fn every_rule_refuses_what_it_is_for_and_nothing_next_to_it() {
    let plane = ControlPlane::shared();
    plane.install_crds();
    let mut wrong = Vec::new();
    for case in cases() {
        let (kind, says) = (case.kind, case.says);
        if !case.was.is_empty() {
            plane.apply(&object(&case, case.was));
        }
        let judged = |spec| {
            plane.kubectl_with(
                &["apply", "--dry-run=server", "-f", "-"],
                &object(&case, spec),
            )
        };
        if !case.good.is_empty()
            && let Err(error) = judged(case.good)
        {
            wrong.push(format!("{kind} {} is refused: {error:#}", case.good));
        }
        match judged(case.bad) {
            Ok(_) => wrong.push(format!("{kind} {} is taken: {says}", case.bad)),
            Err(error) if error.to_string().contains(says) => {}
            Err(error) => wrong.push(format!("{kind} {}: {error:#}, not: {says}", case.bad)),
        }
        if !case.was.is_empty() {
            plane.kubectl(&["delete", kind, case.name]);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_directory_mode_judges_as_the_server_does() {
    for case in cases() {
        let (kind, says) = (case.kind, case.says);
        let parsed = |spec| {
            let value = serde_saphyr::from_str(&object(&case, spec)).unwrap();
            api::parse(kind, "portolan.io/v1alpha1", value)
        };
        if !case.good.is_empty()
            && let Err(error) = parsed(case.good)
        {
            panic!("{kind} {}: {error}", case.good);
        }
        // What is refused as a change, or for the name that the object has, is no fault of its own.
        let alone = case.was.is_empty() && kind != "BGPNodeStatus";
        assert!(
            !alone || parsed(case.bad).is_err(),
            "{kind} {} is taken: {says}",
            case.bad
        );
    }
}

#[test]
fn no_rule_is_without_a_case() {
    let mut rules = BTreeSet::new();
    for crd in api::crd::crds() {
        let kind = crd.spec.names.kind.clone();
        let mut messages = Vec::new();
        messages_in(&json!(crd.spec), &mut messages);
        rules.extend(messages.into_iter().map(|message| (kind.clone(), message)));
    }
    assert!(rules.len() > 20, "{rules:?}");
    for case in cases() {
        rules.remove(&(case.kind.to_owned(), case.says.to_owned()));
    }
    assert!(rules.is_empty(), "without a case: {rules:#?}");
}

fn messages_in(schema: &Value, messages: &mut Vec<String>) {
    let rules = schema.get("x-kubernetes-validations");
    for rule in rules.and_then(Value::as_array).into_iter().flatten() {
        let message = rule["message"].as_str();
        messages.push(message.expect("a rule has a message").to_owned());
    }
    match schema {
        Value::Object(fields) => fields
            .values()
            .for_each(|field| messages_in(field, messages)),
        Value::Array(entries) => entries
            .iter()
            .for_each(|entry| messages_in(entry, messages)),
        _ => {}
    }
}

fn object(case: &Case, spec: &str) -> String {
    let (kind, name) = (case.kind, case.name);
    format!(
        "{{apiVersion: portolan.io/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}
