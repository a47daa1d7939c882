//! What it costs to say which nodes may answer for addresses of many Services, and to follow one change: `cargo run --release -p services
//! --example answering -- [SERVICES [NODES]]`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement"
)]

mod objects;

use std::sync::Arc;
use std::time::Instant;

use api::Resource;
use api::resources::{IpPool, Node, TrafficPolicy};
use serde_json::{Value, json};
use services::layer2::Wants;
use services::proxy::index::{Index, Touched};
use services::proxy::model::Model;

use objects::{balanced, slice};

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    println!("{what:52} {:9.3} ms", start.elapsed().as_secs_f64() * 1e3);
    made
}

fn read(kind: &str, version: &str, manifest: Value) -> Resource {
    api::parse(kind, version, manifest).unwrap().unwrap().1
}

fn node(number: usize) -> Node {
    match read(
        "Node",
        "v1",
        json!({"metadata": {"name": format!("n{number}")}}),
    ) {
        Resource::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

fn pool() -> IpPool {
    let spec = json!({"cidr": "198.18.0.0/16", "allowedUses": ["LoadBalancer"], "layer2": {}});
    let manifest = json!({"metadata": {"name": "outside"}, "spec": spec});
    match read("IPPool", "portolan.io/v1alpha1", manifest) {
        Resource::IpPool(pool) => pool,
        other => panic!("{other:?}"),
    }
}

/// Number `n`, with so many endpoints.
fn put(index: &mut Index, number: usize, endpoints: usize) -> Touched {
    let mut service = balanced(number);
    if number.is_multiple_of(2) {
        Arc::make_mut(&mut service).external_traffic_policy = TrafficPolicy::Cluster;
    }
    let mut touched = index.set_service(service);
    touched.extend(index.set_slice(slice(number, endpoints)));
    touched
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse().unwrap());
    let services = arguments.next().unwrap_or(10_000);
    let nodes = arguments.next().unwrap_or(100);
    let (mut index, mut model) = (Index::default(), Model::default());
    let touched: Touched = (0..services)
        .flat_map(|number| put(&mut index, number, 3))
        .collect();
    timed("the model of all", || model.refresh(&index, &touched));
    let all: Vec<Node> = (0..=nodes).map(node).collect();
    let all: Vec<&Node> = all.iter().collect();
    let (most, pool) = (&all[..nodes], pool());
    let mut wants = Wants::default();
    timed("all addresses", || {
        wants.set(most, &[&pool], (&index, &model))
    });
    assert_eq!(wants.wanted().len(), services);
    // As the agent does, which publishes it.
    let _published = wants.wanted().clone();
    for (what, number, endpoints) in [
        ("policy Cluster, one endpoint more", 0, 4),
        ("policy Local, one endpoint more", 1, 4),
        ("policy Local, one endpoint less", 1, 3),
        ("nothing that concerns it", 1, 3),
    ] {
        let touched = put(&mut index, number, endpoints);
        let changed = model.refresh(&index, &touched);
        let concerned = touched.union(&changed).cloned().collect();
        let before = wants.wanted().clone();
        timed(what, || {
            wants.update((&index, &model), &concerned);
            wants.set(most, &[&pool], (&index, &model));
        });
        println!(
            "{:52} {}",
            "  another goal",
            !Arc::ptr_eq(&before, wants.wanted())
        );
    }
    timed("a node more", || {
        wants.set(&all, &[&pool], (&index, &model))
    });
}
