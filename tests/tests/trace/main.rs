//! `portolan trace` in the lab: healthy paths are reached, and each thing that is broken on one is named at its hop, with what mends it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::print_stdout,
    reason = "what was tried is shown with --nocapture"
)]

mod nodes;
mod path;
mod pods;
mod way;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tests::require_root;

use crate::path::Path;

/// What the verb promises with its default patience, on a machine that has other work, too.
const BOUND: Duration = Duration::from_secs(8);

#[test]
fn each_thing_that_breaks_a_path_is_named_at_its_hop_and_its_command_mends_it() {
    require_root!();
    let mut path = Path::open();
    let names = names(&path);
    let reached = healthy(&mut path);
    assert!(reached >= 8, "{reached} healthy paths");
    pods::sender(&mut path);
    nodes::switches_and_rules(&mut path);
    nodes::policies(&mut path);
    way::routes(&mut path);
    way::second_uplink(&mut path);
    way::routers(&mut path);
    way::narrow_links(&mut path);
    nodes::host_port(&mut path);
    healthy(&mut path);
    // Its interface's addresses of IPv6 go with it.
    pods::target(&mut path);
    without_an_agent(&mut path);
    assert_eq!(
        path.named, names,
        "every break of the list has something that was broken for it"
    );
    assert!(
        path.mended >= 12,
        "{} mended by their commands",
        path.mended
    );
    assert!(path.slowest < BOUND, "the slowest took {:?}", path.slowest);
    println!(
        "{} breaks provoked by {} defects, {} mended by the printed command, the slowest trace {:?}",
        names.len(),
        path.provoked,
        path.mended,
        path.slowest
    );
}

/// Tunnels, and what comes from elsewhere, have a lab of their own: `tests/tests/vxlan/trace.rs` breaks these.
const ELSEWHERE: [&str; 4] = ["tunnel", "tunnel-in", "not-arrived", "route-back"];

fn names(path: &Path) -> BTreeSet<String> {
    let text = path.run("portolan trace --list -o json").unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let names = list.iter().map(|one| one["name"].as_str().unwrap());
    let (elsewhere, here): (BTreeSet<&str>, _) = names.partition(|name| ELSEWHERE.contains(name));
    assert_eq!(elsewhere, BTreeSet::from(ELSEWHERE));
    here.into_iter().map(str::to_owned).collect()
}

/// Both families, every protocol, this node, another one and outside; what was reached is counted.
fn healthy(path: &mut Path) -> usize {
    let mut count = 0;
    for (words, hop) in [
        ("shop/web shop/db:8080", "router 10.10.1.1"),
        ("shop/web shop/db:http", "router 10.10.2.2"),
        ("shop/web shop/db:8080/udp", "target shop/db"),
        ("shop/web shop/db/icmp", "target shop/db"),
        ("shop/web shop/cache:8080", "target shop/cache"),
        ("shop/web shop/cache/icmp", "target shop/cache"),
        ("shop/web 192.0.2.10:8080", "target 192.0.2.10"),
        ("-6 shop/web shop/cache:8080", "target shop/cache"),
        ("-6 shop/web shop/db:8080", "router fd00:10:1::1"),
        ("-6 shop/web shop/db/icmp", "target shop/db"),
    ] {
        let trace = path.reached(words);
        let hops = trace["hops"].as_array().unwrap();
        let is_there = hops.iter().any(|one| one["hop"] == hop);
        assert!(is_there, "{words}: {hop} in {hops:#?}");
        assert!(hops.iter().all(|one| one["verdict"] == "ok"), "{hops:#?}");
        count += 1;
    }
    let (shown, code) = path.shown("shop/web shop/db:8080");
    println!("{shown}");
    assert!(
        code == 0 && shown.ends_with("\nreached\n"),
        "{code}: {shown}"
    );
    count
}

/// What can be known without one is told, and what cannot is said.
fn without_an_agent(path: &mut Path) {
    path.lab.nodes[0].agent.kill().unwrap();
    path.reached("shop/web shop/cache:8080");
    path.reached("shop/web 192.0.2.10:8080");
    let (code, said) = path.refused("shop/web shop/db:8080");
    assert!(
        code == 2 && said.contains("give the address instead"),
        "{code}: {said}"
    );
    let (code, said) = path.refused("shop/db shop/web:8080");
    assert!(
        code == 2 && said.contains("no pod shop/db is attached to this node"),
        "{code}: {said}"
    );
    let (_, db) = path.lab.place("shop/db", false).unwrap();
    path.reached(&format!("shop/web {db}:8080"));
}
