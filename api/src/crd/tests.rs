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
fn both_kinds_are_cluster_scoped_and_named_as_the_design_says() {
    let crds = printed();
    let names: Vec<_> = crds
        .iter()
        .map(|crd| crd["metadata"]["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            Some("bgpconfigurations.portolan.io"),
            Some("bgppeers.portolan.io")
        ]
    );
    for crd in &crds {
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["versions"][0]["name"], "v1alpha1");
    }
    assert!(crds[1]["spec"]["versions"][0]["subresources"]["status"].is_object());
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
        "serviceLoadBalancerIPs",
        "communities",
        "prefixAdvertisements",
        "gracefulRestart",
        "multipath",
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
    ];
    expected.sort_unstable();
    assert_eq!(names(&crds[1]), expected);
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
