//! Services of type LoadBalancer on the real API server with two agents: who gets which address, what they are told, and whose
//! statuses nobody touches.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::agents::{AgentLab, PATIENCE, grant_load_balancers};
use serde_json::{Value, json};
use tests::require_root;
use tests::wait::eventually;

const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";
/// Two addresses, and no more.
const POOL: &str = "
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: web}
spec: {cidr: 198.51.100.6/31, blockSize: 32, allowedUses: [LoadBalancer]}
";
/// How long nothing must happen.
const A_WHILE: Duration = Duration::from_secs(2);

fn make(lab: &AgentLab, name: &str, spec: &Value, annotations: &Value) {
    let mut whole = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let (whole_fields, fields) = (whole.as_object_mut().unwrap(), spec.as_object().unwrap());
    whole_fields.extend(fields.clone());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "spec": whole,
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
    });
    lab.plane.apply(&service.to_string());
}

fn service(lab: &AgentLab, name: &str) -> Result<Value> {
    let text = lab
        .plane
        .try_kubectl(&["get", "service", "-n", "shop", name, "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

/// Its addresses, and the status and reason of our condition.
fn said(lab: &AgentLab, name: &str) -> Result<(Vec<String>, String)> {
    let service = service(lab, name)?;
    let points = service["status"]["loadBalancer"]["ingress"].as_array();
    let points = points.into_iter().flatten();
    let addresses = points.map(|one| one["ip"].as_str().unwrap_or_default().to_owned());
    let conditions = service["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let ours = conditions.find(|one| one["type"] == "portolan.io/AddressesAllocated");
    let word = |word: &str| ours.and_then(|one| one[word].as_str()).unwrap_or("-");
    Ok((
        addresses.collect(),
        format!("{} {}", word("status"), word("reason")),
    ))
}

fn until(lab: &AgentLab, name: &str, addresses: &[&str], condition: &str) {
    eventually(PATIENCE, name, || {
        let said = said(lab, name)?;
        ensure!(
            said.0 == addresses && said.1 == condition,
            "{name}: {said:?}"
        );
        Ok(())
    })
    .unwrap();
}

/// Who writes as another balancer's controller.
fn others_write(lab: &AgentLab, name: &str, address: &str) {
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}).to_string();
    let words = [
        "patch",
        "service",
        "-n",
        "shop",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    lab.plane.kubectl(&[&words[..], &[&status]].concat());
}

fn writes(lab: &AgentLab) -> usize {
    let requests = lab.plane.requests().into_iter();
    let ours = requests.filter(|one| one.user == AGENT && one.resource == "services/status");
    ours.filter(|one| one.code == 200).count()
}

fn events(lab: &AgentLab, name: &str) -> Result<Vec<String>> {
    let field = format!("regarding.name={name},regarding.kind=Service");
    let words = [
        "get",
        "events.events.k8s.io",
        "-n",
        "shop",
        "--field-selector",
        &field,
        "-o",
        "json",
    ];
    let list: Value = serde_json::from_str(&lab.plane.try_kubectl(&words)?)?;
    let items = list["items"].as_array().unwrap().iter();
    Ok(items
        .map(|one| one["reason"].as_str().unwrap_or_default().to_owned())
        .collect())
}

#[test]
fn services_get_addresses_of_pools_and_others_are_left_alone() {
    require_root!();
    let mut lab = AgentLab::start("lba").unwrap();
    grant_load_balancers(&lab.plane).unwrap();
    lab.plane.apply(POOL);
    make(&lab, "metal", &json!({}), &json!({}));
    others_write(&lab, "metal", "203.0.113.9");
    let features = ["--features", "bgp,policy,cni,load-balancer"];
    lab.start_agents(&features).unwrap();

    let (first, second) = ("198.51.100.6", "198.51.100.7");
    make(
        &lab,
        "asks",
        &json!({}),
        &json!({"portolan.io/ip-addresses": format!("[\"{second}\"]")}),
    );
    until(&lab, "asks", &[second], "True Allocated");
    make(&lab, "any", &json!({}), &json!({}));
    until(&lab, "any", &[first], "True Allocated");
    assert_eq!(writes(&lab), 2, "each once, by one of two agents");

    make(&lab, "late", &json!({}), &json!({}));
    until(&lab, "late", &[], "False PoolExhausted");
    eventually(PATIENCE, "an Event", || {
        let events = events(&lab, "late")?;
        ensure!(events == ["PoolExhausted"], "{events:?}");
        Ok(())
    })
    .unwrap();
    make(
        &lab,
        "taken",
        &json!({}),
        &json!({"portolan.io/ip-addresses": format!("[\"{second}\"]")}),
    );
    until(&lab, "taken", &[], "False AddressTaken");

    // Who shares says so, and so do both.
    let key = json!({"portolan.io/sharing-key": "one"});
    make(&lab, "any", &json!({}), &key);
    make(&lab, "sharer", &json!({"ports": [{"port": 81}]}), &key);
    until(&lab, "sharer", &[first], "True Allocated");

    make(
        &lab,
        "cloud",
        &json!({"loadBalancerClass": "example.com/lb"}),
        &json!({}),
    );
    eventually(PATIENCE, "an Event for whom another serves", || {
        let events = events(&lab, "metal")?;
        ensure!(events == ["BalancedElsewhere"], "{events:?}");
        Ok(())
    })
    .unwrap();
    lab.plane
        .kubectl(&["delete", "service", "-n", "shop", "asks"]);
    let freed = || {
        let (late, taken) = (said(&lab, "late")?, said(&lab, "taken")?);
        ensure!(late.0.len() + taken.0.len() == 1, "{late:?} {taken:?}");
        Ok(())
    };
    eventually(PATIENCE, "the address for one of those who waited", freed).unwrap();

    type_changes_take_it_away(&lab);
    shows_what_it_has(&lab);
    tests::wait::pause(A_WHILE).unwrap();
    assert_eq!(
        said(&lab, "metal").unwrap(),
        (vec!["203.0.113.9".to_owned()], "- -".to_owned())
    );
    assert_eq!(said(&lab, "cloud").unwrap(), (Vec::new(), "- -".to_owned()));
    lab.ensure_no_refusals().unwrap();
}

fn type_changes_take_it_away(lab: &AgentLab) {
    make(
        lab,
        "sharer",
        &json!({"type": "ClusterIP", "ports": [{"port": 81}]}),
        &json!({}),
    );
    until(lab, "sharer", &[], "- -");
}

fn shows_what_it_has(lab: &AgentLab) {
    let agent = &lab.nodes[0].agent;
    let list = agent.verb(&["service", "list", "-n", "shop"]).unwrap();
    assert!(list.contains("198.51.100.6 of IPPool web"), "{list}");
    let ipam: Value =
        serde_json::from_str(&agent.verb(&["ipam", "show", "-o", "json"]).unwrap()).unwrap();
    let pool = &ipam["loadBalancerPools"][0];
    assert_eq!(
        (&pool["name"], &pool["held"], &pool["free"]),
        (&json!("web"), &json!(2), &json!(0))
    );
}
