//! Numbered Services and slices, for what measures how much many of them cost.

use std::sync::Arc;

use api::Resource;
use api::resources::{EndpointSlice, Service};
use serde_json::{Value, json};

/// Number `n`, without its endpoints.
#[allow(dead_code, reason = "not every measurement takes it")]
pub(crate) fn service(number: usize) -> Arc<Service> {
    let (high, low) = (number / 250, number % 250 + 1);
    let manifest = json!({
        "metadata": {"namespace": "shop", "name": format!("s{number}")},
        "spec": {
            "clusterIPs": [format!("10.96.{high}.{low}")],
            "ports": [{"name": "http", "port": 80}],
        },
    });
    read(manifest)
}

fn read(manifest: Value) -> Arc<Service> {
    match api::parse("Service", "v1", manifest).unwrap() {
        Some((_, Resource::Service(service))) => Arc::from(service),
        other => panic!("{other:?}"),
    }
}

/// The same for a load balancer, with policy Local.
#[allow(dead_code, reason = "not every measurement takes it")]
pub(crate) fn balanced(number: usize) -> Arc<Service> {
    let (high, low) = (number / 250, number % 250 + 1);
    read(json!({
        "metadata": {"namespace": "shop", "name": format!("s{number}")},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "clusterIPs": [format!("10.96.{high}.{low}")],
            "ports": [{"name": "http", "port": 80, "nodePort": 30_000 + number}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": format!("198.18.{high}.{low}")}]}},
    }))
}

/// Its slice with so many endpoints, each on another node.
pub(crate) fn slice(number: usize, endpoints: usize) -> Arc<EndpointSlice> {
    let name = format!("s{number}");
    let (high, low) = (number / 250, number % 250 + 1);
    let endpoints = (0..endpoints).map(|of| {
        json!({"addresses": [format!("10.{}.{high}.{low}", 100 + of)], "nodeName": format!("n{of}")})
    });
    let manifest = json!({
        "metadata": {
            "namespace": "shop", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    });
    match api::parse("EndpointSlice", "discovery.k8s.io/v1", manifest).unwrap() {
        Some((_, Resource::EndpointSlice(slice))) => Arc::from(slice),
        other => panic!("{other:?}"),
    }
}
