//! What it costs to compile many Services and to change one: `cargo run --release -p services --example compiling -- [N [all|few [FILE]]]`.
//! FILE gets what `iptables-restore --noflush` is told first, FILE.1 what it is told of one endpoint more, as nft takes it best, and
//! FILE.2 as legacy does.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement"
)]

mod objects;

use std::time::Instant;

use netfilter::{Actual, Effort, Family, InterfaceName, plan};
use services::proxy::index::{Index, Touched};
use services::proxy::iptables::{Compiler, EndpointChains, Options};
use services::proxy::model::Model;

use objects::{service, slice};

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

/// Writes a text into the file that was named, if one was.
fn write(suffix: &str, text: Option<&str>) {
    if let (Some(path), Some(text)) = (std::env::args().nth(3), text) {
        std::fs::write(format!("{path}{suffix}"), text).unwrap();
    }
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
    write("", made.restore.as_deref());
    println!(
        "{} rules, {} bytes",
        made.rules_written,
        made.restore.map_or(0, |text| text.len())
    );
    // As in the agent, somebody holds what was made last while the next is made.
    let mut held = vec![first];
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
        if endpoints == 6 {
            let exact = plan(&known, compiler.rules(Family::V4), Effort::Exact);
            write(".1", made.restore.as_deref());
            write(".2", exact.restore.as_deref());
        }
        known = made.after;
        held.push(compiler.rules(Family::V4).clone());
    }
}
