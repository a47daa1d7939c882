//! Tests of reading BGPFilter.

use serde_json::json;

use super::*;
use crate::resources::{
    Community, FilterPeerType, FilterPrefixes, FilterRule, MatchOperator, RuleAction, RuleOperation,
};

fn filter(spec: Value) -> Result<BgpFilter, ParseError> {
    let rest = json!({"metadata": {"name": "edge"}, "spec": spec});
    match read("portolan.io/v1alpha1", "BGPFilter", rest)? {
        Resource::BgpFilter(filter) => Ok(filter),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_filter_is_read_rule_by_rule_and_field_by_field() {
    let filter = filter(json!({
        "importV4": [
            {
                "cidr": "10.1.2.3/8", "matchOperator": "In", "prefixLength": {"min": 4, "max": 24},
                "asPathPrefix": [65000, 4_200_000_000_u32], "communities": {"values": ["65000:1", "1:2:3"]},
                "peerType": "eBGP", "action": "Accept",
                "operations": [
                    {"setLocalPref": {"value": 200}}, {"setMED": {"value": 0}}, {"prependAS": {}},
                    {"prependAS": {"asNumber": 65001, "times": 3}},
                    {"addCommunity": {"value": "65000:2"}}, {"removeCommunity": {"value": "1:2:3"}},
                ],
            },
            {"action": "Reject"},
        ],
        "exportV6": [{"cidr": "fd00::/8", "matchOperator": "NotEqual", "source": "RemotePeers",
            "peerType": "iBGP", "action": "Accept"}],
    }))
    .expect("a filter");
    assert!(filter.import_v6.is_empty() && filter.export_v4.is_empty());
    let any = FilterRule {
        prefixes: None,
        as_path_prefix: Vec::new(),
        communities: Vec::new(),
        learned_only: false,
        peer_type: None,
        action: RuleAction::Reject,
    };
    let prepend = |as_number, times| RuleOperation::PrependAs { as_number, times };
    let first = FilterRule {
        prefixes: Some(FilterPrefixes {
            cidr: "10.0.0.0/8".parse().expect("a CIDR"),
            operator: MatchOperator::In,
            length: Some(8..=24),
        }),
        as_path_prefix: vec![65000, 4_200_000_000],
        communities: vec![
            Community::Standard(65000 << 16 | 1),
            Community::Large(1, 2, 3),
        ],
        peer_type: Some(FilterPeerType::External),
        action: RuleAction::Accept(vec![
            RuleOperation::SetLocalPref(200),
            RuleOperation::SetMed(0),
            prepend(None, 1),
            prepend(Some(65001), 3),
            RuleOperation::AddCommunity(Community::Standard(65000 << 16 | 2)),
            RuleOperation::RemoveCommunity(Community::Large(1, 2, 3)),
        ]),
        ..any
    };
    assert_eq!(filter.import_v4, [first, any.clone()]);
    let export = FilterRule {
        prefixes: Some(FilterPrefixes {
            cidr: "fd00::/8".parse().expect("a CIDR"),
            operator: MatchOperator::NotEqual,
            length: None,
        }),
        learned_only: true,
        peer_type: Some(FilterPeerType::Internal),
        action: RuleAction::Accept(Vec::new()),
        ..any
    };
    assert_eq!(filter.export_v6, [export]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_wrong_rule_is_refused_with_its_place_and_the_way_out() {
    let accept = |operation: Value| json!({"action": "Accept", "operations": [operation]});
    let cidr = |text: &str, operator: &str, length: Value| json!({"cidr": text, "matchOperator": operator, "prefixLength": length, "action": "Reject"});
    let many: Vec<Value> = (0..11).map(|_| json!({"prependAS": {}})).collect();
    for (list, rule, why) in [
        (
            "importV4",
            json!({"cidr": "10.0.0.0/8", "action": "Reject"}),
            "spec.importV4[1].matchOperator is missing",
        ),
        (
            "importV4",
            json!({"matchOperator": "In", "action": "Reject"}),
            "spec.importV4[1].cidr is missing",
        ),
        (
            "importV4",
            json!({"prefixLength": {"min": 1}, "action": "Reject"}),
            ".prefixLength needs a cidr",
        ),
        (
            "importV4",
            cidr("10.0.0.0/8", "Equal", json!({"min": 9})),
            ".prefixLength needs matchOperator In or NotIn",
        ),
        (
            "importV4",
            cidr("10.0.0.0/8", "In", json!({"max": 33})),
            ".prefixLength: the longest prefix is 32",
        ),
        (
            "importV4",
            cidr("10.0.0.0/8", "In", json!({"max": 7})),
            "no prefix inside 10.0.0.0/8 has such a length",
        ),
        (
            "exportV6",
            cidr("fd00::/8", "In", json!({"min": 64, "max": 48})),
            "no prefix inside fd00::/8 has such a length",
        ),
        (
            "importV4",
            cidr("10.0.0.0", "In", Value::Null),
            ".cidr: \"10.0.0.0\" is no CIDR",
        ),
        (
            "importV4",
            cidr("fd00::/8", "In", Value::Null),
            "is not IPv4: its rule belongs in the list that ends in V6",
        ),
        (
            "exportV6",
            cidr("10.0.0.0/8", "In", Value::Null),
            "is not IPv6: its rule belongs in the list that ends in V4",
        ),
        (
            "importV6",
            json!({"source": "RemotePeers", "action": "Reject"}),
            "spec.importV6[1].source is for export rules",
        ),
        (
            "exportV4",
            json!({"asPathPrefix": [0], "action": "Reject"}),
            ".asPathPrefix: AS 0",
        ),
        (
            "exportV4",
            json!({"communities": {"values": ["1"]}, "action": "Reject"}),
            ".communities.values: \"1\" is no community",
        ),
        (
            "exportV4",
            json!({"action": "Reject", "operations": [{"setMED": {"value": 1}}]}),
            ".operations need action Accept",
        ),
        (
            "exportV4",
            json!({"action": "Accept", "operations": many}),
            ".operations: there are more than 10",
        ),
        (
            "exportV4",
            accept(json!({})),
            "spec.exportV4[1].operations[0] has not exactly one",
        ),
        (
            "exportV4",
            accept(json!({"setMED": {"value": 1}, "setLocalPref": {"value": 1}})),
            ".operations[0] has not exactly one",
        ),
        (
            "exportV4",
            accept(json!({"prependAS": {"times": 0}})),
            ".prependAS.times is not from 1 to 10",
        ),
        (
            "exportV4",
            accept(json!({"prependAS": {"times": 11}})),
            ".prependAS.times is not from 1 to 10",
        ),
        (
            "exportV4",
            accept(json!({"prependAS": {"asNumber": 0}})),
            ".prependAS.asNumber: 0 is reserved",
        ),
        (
            "exportV4",
            accept(json!({"addCommunity": {"value": "x"}})),
            ".addCommunity.value: \"x\" is no community",
        ),
        (
            "exportV4",
            accept(json!({"removeCommunity": {"value": ""}})),
            ".removeCommunity.value: \"\" is no community",
        ),
        (
            "exportV4",
            accept(json!({"setPriority": {"value": 1}})),
            "unknown field `setPriority`",
        ),
        (
            "exportV4",
            json!({"action": "accept"}),
            "unknown variant `accept`",
        ),
        ("exportV4", json!({}), "missing field `action`"),
        (
            "exportV4",
            json!({"interface": "eth0", "action": "Accept"}),
            "unknown field `interface`",
        ),
    ] {
        let spec = json!({list: [{"action": "Accept"}, rule]});
        let error = filter(spec).expect_err(why).to_string();
        assert!(
            error.starts_with("BGPFilter edge: ") && error.contains(why),
            "{error}"
        );
    }
    let rules: Vec<Value> = (0..257).map(|_| json!({"action": "Accept"})).collect();
    let error = filter(json!({"exportV4": rules}))
        .expect_err("too many")
        .to_string();
    assert!(error.contains("more than 256 rules"), "{error}");
}
