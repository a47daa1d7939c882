//! Every rule of our definitions on the real API server: it refuses what it is for, in words that say what to do, and takes
//! what stands next to that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

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
    let (name, was) = ("tested", "");
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
    let name = "tested";
    Case {
        kind,
        name,
        was,
        good,
        bad,
        says,
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
            "{gracefulRestart: {restartTime: 1m30s}}",
            "{gracefulRestart: {restartTime: 90}}",
            "spec.gracefulRestart.restartTime in body must be of type string",
        ),
    ];
    let named = |case: Case| Case {
        name: "default",
        ..case
    };
    let cases = cases.map(|(good, bad, says)| named(case("BGPConfiguration", good, bad, says)));
    cases.into()
}

fn bgp_peers() -> Vec<Case> {
    let one = "exactly one of peerAddress, interface, peerSelector and listenRange names the peer";
    let number = "asNumber is a number from 1 to 4294967295, external or internal";
    let cases = [
        ("{peerAddress: 192.0.2.1}", "{}", one),
        (
            "{interface: eth1}",
            "{interface: eth1, peerAddress: 192.0.2.1}",
            one,
        ),
        (
            "{peerAddress: 192.0.2.1, multihop: 4}",
            "{peerAddress: 192.0.2.1, multihop: 4, ttlSecurity: 1}",
            "ttlSecurity and multihop exclude each other",
        ),
        (
            "{listenRange: 192.0.2.0/24, passive: true}",
            "{listenRange: 192.0.2.0/24, passive: false}",
            "a listenRange is passive: its peers dial",
        ),
        (
            "{peerAddress: 192.0.2.1, strictRole: true, role: Peer}",
            "{peerAddress: 192.0.2.1, strictRole: true}",
            "strictRole needs a role",
        ),
        (
            "{peerAddress: 192.0.2.1, asNumber: 4294967295}",
            "{peerAddress: 192.0.2.1, asNumber: 4294967296}",
            number,
        ),
        (
            "{peerAddress: 192.0.2.1, asNumber: internal}",
            "{peerAddress: 192.0.2.1, asNumber: other}",
            number,
        ),
        (
            "{peerAddress: 192.0.2.1, role: RouteServer}",
            "{peerAddress: 192.0.2.1, role: Server}",
            r#"supported values: "Provider", "RouteServer", "RouteServerClient", "Customer", "Peer""#,
        ),
    ];
    cases
        .map(|(good, bad, says)| case("BGPPeer", good, bad, says))
        .into()
}

fn bgp_filters() -> Vec<Case> {
    let source = "source is for export rules: what is imported is from remote peers";
    let cases = [
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
            source,
        ),
        (
            "{exportV6: [{source: RemotePeers, action: Accept}]}",
            "{importV6: [{source: RemotePeers, action: Accept}]}",
            source,
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
            "{importV4: [{action: Accept}]}",
            "{importV4: [{cidr: 10.0.0.0/8, matchOperator: In}]}",
            "spec.importV4[0].action: Required value",
        ),
    ];
    cases
        .map(|(good, bad, says)| case("BGPFilter", good, bad, says))
        .into()
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

fn cases() -> Vec<Case> {
    let mut cases = bgp_configurations();
    cases.extend(bgp_peers());
    cases.extend(bgp_filters());
    cases.extend(addresses());
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
