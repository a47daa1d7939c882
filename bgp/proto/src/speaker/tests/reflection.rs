//! A hundred clients of three route reflectors, whole speakers all, through trouble drawn from a seed: they converge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::nodes::{address, config, peer, peer_name, pod_cidr};
use super::router::Router;
use crate::rib::Originated;
use crate::simulation::{Chaos, Network, NodeId, Settings};
use crate::speaker::Config;

const OURS: u32 = 64_512;
const REFLECTORS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// A service that every tenth node announces.
fn service() -> IpNet {
    "10.96.0.0/24".parse().unwrap()
}

fn announces_service(node: usize) -> bool {
    node >= REFLECTORS && node.is_multiple_of(10)
}

/// Reflectors know everybody, clients know reflectors.
fn plan(nodes: usize, node: usize) -> Config {
    let mut plan = config(node, OURS);
    let others = if node < REFLECTORS {
        0..nodes
    } else {
        0..REFLECTORS
    };
    for other in others.filter(|other| *other != node) {
        let mut peer = peer(OURS);
        peer.hold_time = Duration::from_secs(30);
        peer.route_reflector_client = node < REFLECTORS && other >= REFLECTORS;
        plan.peers.insert(peer_name(other), peer);
    }
    if announces_service(node) {
        plan.originate.insert(service(), Originated::default());
    }
    plan
}

/// What every kernel must hold in the end: each pod CIDR through its node, the service through the lowest of those
/// that announce it.
fn expected(nodes: usize, node: usize) -> BTreeMap<IpNet, BTreeSet<IpAddr>> {
    let others = (0..nodes).filter(|other| *other != node);
    let mut routes: BTreeMap<_, _> = others
        .map(|other| (pod_cidr(other), BTreeSet::from([address(other)])))
        .collect();
    if !announces_service(node) {
        let lowest = (0..nodes).find(|other| announces_service(*other)).unwrap();
        routes.insert(service(), BTreeSet::from([address(lowest)]));
    }
    routes
}

fn network(nodes: usize, seed: u64, settings: Settings) -> Network<Router> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; it never advances"
    )]
    let start = Instant::now();
    let mut network = Network::new(start, seed, settings);
    let ids: Vec<NodeId> = (0..nodes).map(|_| network.add()).collect();
    for id in ids {
        network.boot(id, Router::new(plan(nodes, id.0), seed ^ id.0 as u64));
    }
    network
}

/// The nodes whose kernels hold anything else than they must.
fn wrong(network: &Network<Router>) -> Vec<usize> {
    let nodes = network.len();
    let right = |node: &usize| {
        let process = network.process(NodeId(*node));
        process.is_some_and(|process| process.routes() == expected(nodes, *node))
    };
    (0..nodes).filter(|node| !right(node)).collect()
}

/// Runs until every node has the same routes; how long that took.
fn converge(network: &mut Network<Router>, longest: Duration, seed: u64) -> Duration {
    let began = network.now();
    loop {
        let wrong = wrong(network);
        let taken = network.now() - began;
        if wrong.is_empty() {
            return taken;
        }
        assert!(taken < longest, "seed {seed}: after {taken:?}: {wrong:?}");
        network.run_until(network.now() + Duration::from_millis(500));
    }
}

/// The first convergence, trouble, and the second; what happened as one number.
fn run(nodes: usize, seed: u64, trouble: Duration) -> (u64, Duration) {
    let mut network = network(nodes, seed, Settings::calm());
    converge(&mut network, MINUTE * 3, seed);
    network.set_settings(Settings::rough());
    let mut lives = 0;
    Chaos::new(seed).run(&mut network, trouble, |node| {
        lives += 1;
        Router::new(plan(nodes, node.0), seed ^ node.0 as u64 ^ lives << 32)
    });
    assert!(lives > 0, "seed {seed}: nobody died");
    network.set_settings(Settings::calm());
    // The last word of the chaos is mended when it ends; so here is some that is not.
    for node in [0, REFLECTORS, nodes - 1] {
        network.boot(NodeId(node), Router::new(plan(nodes, node), seed ^ 0xdead));
    }
    assert_ne!(wrong(&network), [0; 0], "seed {seed}: no trouble");
    let took = converge(&mut network, MINUTE * 6, seed);
    // Longer than any stale route may stay.
    network.run_until(network.now() + MINUTE * 8);
    assert_eq!(wrong(&network), [0; 0], "seed {seed}: it did not last");
    (network.trace(), took)
}

#[test]
fn a_hundred_clients_of_three_reflectors_have_the_same_routes_after_chaos() {
    let (_, took) = run(REFLECTORS + 100, 41, MINUTE / 2);
    println!("converged {took:?} after the chaos");
}

#[test]
fn whatever_the_seed_reflectors_and_clients_converge_and_a_seed_is_a_run() {
    for seed in 0..4 {
        run(REFLECTORS + 9, seed, MINUTE * 2);
    }
    let again = || run(REFLECTORS + 9, 77, MINUTE).0;
    assert_eq!(again(), again());
}
