//! Ten thousand Services, and how much it takes to tell of them.

use std::sync::Arc;

use api::{NamespacedName, Resource};
use clap::Parser as _;
use serde_json::{Value, json};
use services::proxy::index::{Index, Touched};
use services::proxy::model::Model;

use super::answer::rows;
use super::state::ServiceState;
use super::table;
use super::view::{ListView, ServiceAnswer};
use crate::cli::Cli;

fn parse(kind: &str, version: &str, manifest: Value) -> Resource {
    api::parse(kind, version, manifest).unwrap().unwrap().1
}

fn state(count: usize) -> ServiceState {
    let (mut index, mut touched) = (Index::default(), Touched::new());
    for number in 0..count {
        let (name, high, low) = (format!("s{number}"), number / 250, number % 250 + 1);
        let service = json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIPs": [format!("10.96.{high}.{low}")], "ports": [{"port": 80}]},
        });
        let endpoints: Vec<Value> = (1..=5)
            .map(|one| json!({"addresses": [format!("10.{}.{high}.{low}", 100 + one)]}))
            .collect();
        let slice = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
        });
        if let Resource::Service(service) = parse("Service", "v1", service) {
            touched.extend(index.set_service(Arc::from(service)));
        }
        if let Resource::EndpointSlice(slice) = parse("EndpointSlice", "discovery.k8s.io/v1", slice)
        {
            touched.extend(index.set_slice(Arc::from(slice)));
        }
    }
    let mut model = Model::default();
    model.refresh(&index, &touched);
    let served = |name: &NamespacedName| model.service(name).cloned();
    let services = index.all().map(|one| (one.clone(), served(&one.name)));
    ServiceState {
        node_addresses: Vec::new(),
        in_sync: true,
        node_port_addresses: Vec::new(),
        services: services.collect(),
        announced: None,
    }
}

#[test]
fn ten_thousand_services_are_listed_in_a_few_mebibytes() {
    let state = state(10_000);
    let services = rows(&state, None, None);
    assert_eq!(services.len(), 10_000);
    assert!(services.iter().all(|row| row.endpoints == 5));
    let not_served = None;
    let answer = ServiceAnswer::List(ListView {
        not_served,
        services,
    });
    let line = serde_json::to_string(&answer).unwrap();
    assert!(line.len() < 8 << 20, "{} octets", line.len());
    let told: ServiceAnswer = serde_json::from_str(&line).unwrap();
    let ServiceAnswer::List(view) = told else {
        panic!("no list");
    };
    assert_eq!(table::list(&view).lines().count(), 10_002);
}

/// What `docs/services.md` has people type.
#[test]
fn command_lines_of_the_page_are_valid() {
    let page = include_str!("../../../docs/services.md");
    let mut count = 0;
    for block in page.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines().filter(|line| line.starts_with("portolan ")) {
            let line = line.split('#').next().unwrap().split('|').next().unwrap();
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            count += 1;
        }
    }
    assert!(count >= 6, "{count}");
}
