//! Services and EndpointSlices as the real server gives them.

use std::net::IpAddr;

use api::resources::{EndpointSlice, Service, ServiceType, TrafficPolicy};
use api::{Key, NamespacedName, Resource};

use crate::heard::Heard;
use crate::watched::{Watched, plane};

fn service(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}], {spec}}}
"
    )
}

fn slice(name: &str, labels: &str, endpoints: &str) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{endpoints}]
"
    )
}

fn found<'a>(watched: &'a Watched, key: &Key) -> &'a Resource {
    watched.state.get(key).unwrap()
}

fn service_of<'a>(watched: &'a Watched, name: &str) -> &'a Service {
    let key = Key::Service(NamespacedName::new("default", name));
    let Resource::Service(service) = found(watched, &key) else {
        panic!("{key} is something else");
    };
    service
}

fn slice_of<'a>(watched: &'a Watched, name: &str) -> &'a EndpointSlice {
    let key = Key::EndpointSlice(NamespacedName::new("default", name));
    let Resource::EndpointSlice(slice) = found(watched, &key) else {
        panic!("{key} is something else");
    };
    slice
}

/// Two Services and a slice that a node serves or knows, and three objects that are others' business.
fn objects() -> String {
    let objects = [
        service(
            "web",
            "app: web",
            "type: NodePort, externalTrafficPolicy: Local, sessionAffinity: ClientIP",
        ),
        service("headless", "", "clusterIP: None"),
        service(
            "theirs",
            "service.kubernetes.io/service-proxy-name: other",
            "type: ClusterIP",
        ),
        service(
            "known-by-name",
            "service.kubernetes.io/headless: ''",
            "type: ClusterIP",
        ),
        slice(
            "web-1",
            "kubernetes.io/service-name: web",
            "{addresses: [10.9.0.1], nodeName: n1, zone: a}, {addresses: [10.9.0.2], conditions: {ready: false, serving: true, terminating: true}}",
        ),
        slice(
            "named-1",
            "kubernetes.io/service-name: known-by-name, service.kubernetes.io/headless: ''",
            "{addresses: [10.9.0.3]}",
        ),
    ];
    objects.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_their_endpoints_are_told_and_those_that_no_node_serves_are_not() {
    let plane = plane("", &[]);
    plane.apply(&objects());
    let mut watched = Watched::start_with_services(&plane).await;
    watched.until_in_sync().await;

    assert_eq!(
        ours(watched.keys("Service")),
        ["default/headless", "default/web"]
    );
    assert_eq!(ours(watched.keys("EndpointSlice")), ["default/web-1"]);
    let web = service_of(&watched, "web");
    assert!(web.is_proxied() && !service_of(&watched, "headless").is_proxied());
    assert_eq!(web.service_type, ServiceType::NodePort);
    assert_eq!(web.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(web.internal_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(
        web.session_affinity.map(|timeout| timeout.as_secs()),
        Some(10_800)
    );
    assert_eq!(web.cluster_ips.len(), 1);
    let node_ports: Vec<_> = web
        .ports
        .iter()
        .map(|port| (port.port, port.node_port.is_some()))
        .collect();
    assert_eq!(node_ports, [(80, true)]);
    let slice = slice_of(&watched, "web-1");
    assert_eq!(slice.service.as_deref(), Some("web"));
    let conditions: Vec<_> = slice
        .endpoints
        .iter()
        .map(|one| (one.is_ready, one.is_serving, one.is_terminating))
        .collect();
    assert_eq!(conditions, [(true, true, false), (false, true, true)]);
    assert_eq!(slice.endpoints[0].address, IpAddr::from([10, 9, 0, 1]));
    assert!(
        watched
            .problems()
            .iter()
            .all(|problem| !problem.contains("Service"))
    );

    // Given to another proxy, a Service is gone, although it is still there; taken back, it comes.
    watched.told.clear();
    let told = |watched: &Heard| ours(watched.told.clone());
    let label = "service.kubernetes.io/service-proxy-name";
    plane.kubectl(&["label", "service", "web", &format!("{label}=other")]);
    watched
        .until("given away", |watched| {
            told(watched) == ["-Service default/web"]
        })
        .await;
    plane.kubectl(&["label", "service", "web", &format!("{label}-")]);
    let both = ["-Service default/web", "+Service default/web"];
    watched
        .until("taken back", |watched| told(watched) == both)
        .await;
}

/// Without the API server's own Service, which comes and changes when it pleases.
fn ours(mut words: Vec<String>) -> Vec<String> {
    words.retain(|word| !word.ends_with("default/kubernetes"));
    words
}
