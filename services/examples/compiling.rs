//! What it costs to compile many Services and to change one: `cargo run --release -p services --example compiling -- [N [all|few [FILE]]]`.
//! FILE gets what `iptables-restore --noflush` is told first.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement"
)]

use std::sync::Arc;
use std::time::Instant;

use api::Resource;
use api::resources::{EndpointSlice, Service};
use netfilter::{Actual, Effort, Family, InterfaceName, plan};
use serde_json::json;
use services::proxy::index::{Index, Touched};
use services::proxy::iptables::{Compiler, EndpointChains, Options};
use services::proxy::model::Model;

fn service(number: usize) -> Arc<Service> {
    let (high, low) = (number / 250, number % 250 + 1);
    let manifest = json!({
        "metadata": {"namespace": "shop", "name": format!("s{number}")},
        "spec": {
            "clusterIPs": [format!("10.96.{high}.{low}")],
            "ports": [{"name": "http", "port": 80}],
        },
    });
    match api::parse("Service", "v1", manifest).unwrap() {
        Some((_, Resource::Service(service))) => Arc::from(service),
        other => panic!("{other:?}"),
    }
}

fn slice(number: usize, endpoints: usize) -> Arc<EndpointSlice> {
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

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    println!("{what:52} {:9.3} ms", start.elapsed().as_secs_f64() * 1e3);
    made
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap()
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(10_000, |text| text.parse().unwrap());
    let objects: Vec<_> = (0..count)
        .map(|number| (service(number), slice(number, 5)))
        .collect();
    println!(
        "{count} Services with 5 endpoints each, parsed: {} kB",
        resident()
    );
    let (mut index, mut model) = (Index::default(), Model::default());
    let mut touched = Touched::new();
    timed("index", || {
        for (service, slice) in &objects {
            touched.extend(index.set_service(service.clone()));
            touched.extend(index.set_slice(slice.clone()));
        }
    });
    let changed = timed("model", || model.refresh(&index, &touched));
    println!("model: {} kB", resident());
    let mut options = Options::new(InterfaceName::new("ptl").unwrap());
    if std::env::args().nth(2).as_deref() == Some("few") {
        options.endpoint_chains = EndpointChains::Needed;
    }
    let mut compiler = Compiler::new(options);
    timed("chains", || compiler.update(&model, &changed));
    println!("chains: {} kB", resident());
    let first = compiler.rules(Family::V4).clone();
    let made = timed("plan of all", || {
        plan(&Actual::default(), &first, Effort::Exact)
    });
    if let (Some(path), Some(text)) = (std::env::args().nth(3), &made.restore) {
        std::fs::write(path, text).unwrap();
    }
    println!(
        "{} rules, {} bytes",
        made.rules_written,
        made.restore.map_or(0, |text| text.len())
    );
    drop(first);
    let mut known = made.after;
    for (what, endpoints, of) in [
        ("one endpoint more", 6, 17),
        ("the last endpoint gone", 0, 18),
        ("an endpoint again", 5, 18),
    ] {
        let changed = timed(&format!("{what}: index, model, chains"), || {
            let touched = index.set_slice(slice(of, endpoints));
            let changed = model.refresh(&index, &touched);
            compiler.update(&model, &changed);
            changed
        });
        assert_eq!(changed.len(), 1);
        let made = timed(&format!("{what}: plan"), || {
            plan(&known, compiler.rules(Family::V4), Effort::Additive)
        });
        println!("{} rules", made.rules_written);
        known = made.after;
    }
}
