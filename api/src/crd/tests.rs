//! The definitions are what an API server takes: structural, and as deep as the types.

use serde_json::Value;

use super::crds;

fn printed() -> Vec<Value> {
    crds()
        .into_iter()
        .map(|crd| serde_json::to_value(crd).expect("a definition prints"))
        .collect()
}

fn properties(crd: &Value) -> &serde_json::Map<String, Value> {
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]
        .as_object()
        .expect("properties")
}

#[test]
fn all_kinds_are_cluster_scoped_and_named_as_the_design_says() {
    let crds = printed();
    let names: Vec<_> = crds
        .iter()
        .map(|crd| crd["metadata"]["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            Some("bgpconfigurations.portolan.io"),
            Some("bgpfilters.portolan.io"),
            Some("bgpnodestatuses.portolan.io"),
            Some("bgppeers.portolan.io"),
            Some("ipamblocks.portolan.io"),
            Some("ippools.portolan.io"),
            Some("ipreservations.portolan.io"),
        ]
    );
    for crd in &crds {
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["versions"][0]["name"], "v1alpha1");
        let columns = &crd["spec"]["versions"][0]["additionalPrinterColumns"];
        assert!(
            columns
                .as_array()
                .is_some_and(|columns| !columns.is_empty())
        );
    }
    for crd in &crds[1..] {
        assert!(crd["spec"]["versions"][0]["subresources"]["status"].is_object());
    }
}

#[test]
fn every_field_of_the_design_is_in_the_schema() {
    let crds = printed();
    let names = |crd| {
        properties(crd)
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
    };
    let mut expected = vec![
        "asNumber",
        "listenPort",
        "nodeToNodeMeshEnabled",
        "serviceClusterIPs",
        "serviceExternalIPs",
        "serviceLoadBalancerAggregation",
        "serviceLoadBalancerIPs",
        "communities",
        "prefixAdvertisements",
        "gracefulRestart",
        "multipath",
        "multipathRelax",
        "maxPaths",
        "linkBandwidth",
        "installRoutes",
    ];
    expected.sort_unstable();
    assert_eq!(names(&crds[0]), expected);
    let mut expected = vec![
        "nodeSelector",
        "peerAddress",
        "interface",
        "peerSelector",
        "listenRange",
        "asNumber",
        "localASNumber",
        "sourceAddress",
        "passive",
        "password",
        "ttlSecurity",
        "multihop",
        "holdTime",
        "keepaliveTime",
        "bfd",
        "gracefulRestart",
        "maxPrefixes",
        "filters",
        "addPath",
        "nextHopMode",
        "allowASIn",
        "routeReflectorClient",
        "role",
        "strictRole",
        "adminShutdown",
        "shutdownMessage",
        "delayOpen",
    ];
    expected.sort_unstable();
    assert_eq!(names(&crds[3]), expected);
    assert_eq!(
        names(&crds[1]),
        ["exportV4", "exportV6", "importV4", "importV6"]
    );
    assert_eq!(names(&crds[4]), ["cidr", "node"]);
    let mut expected = [
        "cidr",
        "blockSize",
        "encapsulation",
        "natOutgoing",
        "nonMasqueradeCIDRs",
        "nodeSelector",
        "allowedUses",
        "layer2",
        "disabled",
    ];
    expected.sort_unstable();
    assert_eq!(names(&crds[5]), expected);
    assert_eq!(names(&crds[6]), ["reservedCIDRs"]);
}

#[test]
fn a_pools_defaults_are_in_the_schema_and_its_addresses_do_not_change() {
    let crds = printed();
    let fields = properties(&crds[5]);
    let default = |name: &str| fields[name]["default"].clone();
    assert_eq!(default("encapsulation"), "None");
    assert_eq!(default("nodeSelector"), "all()");
    assert_eq!(
        default("allowedUses"),
        serde_json::json!(["Workload", "Tunnel"])
    );
    assert_eq!(default("natOutgoing"), false);
    assert_eq!(default("disabled"), false);
    let words = [
        "None",
        "VXLAN",
        "VXLANCrossSubnet",
        "IPIP",
        "IPIPCrossSubnet",
        "WireGuard",
    ];
    let text = fields["encapsulation"].to_string();
    assert!(
        words
            .iter()
            .all(|word| text.contains(&format!("\"{word}\""))),
        "{text}"
    );
    for (crd, field) in [(5, "cidr"), (5, "blockSize"), (4, "node")] {
        let text = crds[crd].to_string();
        assert!(text.contains(&format!("oldSelf.spec.{field}")), "{text}");
    }
}

#[test]
fn schemas_are_structural() {
    fn walk(path: &str, schema: &Value) {
        let typed = schema.get("type").is_some()
            || schema.get("x-kubernetes-int-or-string").is_some()
            || schema.get("x-kubernetes-preserve-unknown-fields").is_some();
        assert!(typed, "{path} has no type: {schema}");
        assert!(schema.get("$ref").is_none(), "{path}");
        let exclusive =
            schema.get("properties").is_some() && schema.get("additionalProperties").is_some();
        assert!(!exclusive, "{path} has properties and additionalProperties");
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), inner);
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items);
        }
    }
    for crd in printed() {
        walk("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    }
}

#[test]
fn rules_of_the_whole_object_are_in_the_schema() {
    for crd in printed() {
        let text = crd.to_string();
        assert!(text.contains("x-kubernetes-validations"), "{text}");
    }
}

#[test]
fn a_filters_rules_and_operations_are_checked_where_they_stand() {
    let crds = printed();
    let rule = &properties(&crds[1])["importV4"]["items"];
    let rules = |schema: &Value| schema["x-kubernetes-validations"].as_array().map(Vec::len);
    assert_eq!(rules(rule), Some(3), "{rule}");
    let operation = &rule["properties"]["operations"]["items"];
    assert_eq!(rules(operation), Some(1), "{operation}");
    let rule_fields: Vec<_> = rule["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(rule_fields.len(), 9);
    let operations: Vec<_> = operation["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        operations,
        [
            "addCommunity",
            "prependAS",
            "removeCommunity",
            "setLocalPref",
            "setMED"
        ]
    );
}

#[test]
fn lists_that_a_rule_walks_are_bounded() {
    let crds = printed();
    for list in ["importV4", "importV6", "exportV4", "exportV6"] {
        assert_eq!(properties(&crds[1])[list]["maxItems"], 256, "{list}");
    }
    assert_eq!(properties(&crds[5])["nonMasqueradeCIDRs"]["maxItems"], 256);
}

#[test]
fn conditions_of_several_writers_are_merged_by_their_type() {
    let mut seen = 0;
    for crd in printed() {
        let schema = crd
            .pointer("/spec/versions/0/schema/openAPIV3Schema")
            .unwrap();
        let Some(status) = schema.pointer("/properties/status/properties") else {
            continue;
        };
        let nested = status.pointer("/peers/items/properties/conditions");
        for conditions in [&status["conditions"]].into_iter().chain(nested) {
            assert_eq!(conditions["x-kubernetes-list-type"], "map");
            assert_eq!(
                conditions["x-kubernetes-list-map-keys"],
                serde_json::json!(["type"])
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
}
