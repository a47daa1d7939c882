//! Meshes of sessions in virtual time, with trouble drawn from a seed (see `crate::simulation`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::*;
use super::mesh::{Plan, Router};
use crate::simulation::{Chaos, Network, NodeId, Settings, Statistics};

const MINUTE: Duration = Duration::from_secs(60);
/// What was lost before is sent again up to 3 s late, and a hold timer of 3 s then expires once more.
const AFTERSHOCKS: Duration = Duration::from_secs(10);

fn mesh(plan: &Plan, settings: Settings) -> Network<Router> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; it never advances"
    )]
    let start = Instant::now();
    let mut network = Network::new(start, plan.seed, settings);
    let nodes: Vec<_> = (0..plan.nodes).map(|_| network.add()).collect();
    for node in nodes {
        network.boot(node, plan.router(node, 0));
    }
    network
}

/// Sessions that are up, counted at both ends.
fn established(network: &Network<Router>) -> usize {
    let routers = (0..network.len()).filter_map(|node| network.process(NodeId(node)));
    routers.map(Router::established).sum()
}

/// Both ends of every session have it on the same connection.
fn agree(network: &Network<Router>) -> bool {
    let carrier = |node, peer| network.process(node)?.peers.get(&peer)?.carrier();
    (0..network.len())
        .all(|a| (0..a).all(|b| carrier(NodeId(a), NodeId(b)) == carrier(NodeId(b), NodeId(a))))
}

/// Runs until every session is up at both ends; how long that took.
fn settle(network: &mut Network<Router>, longest: Duration, seed: u64) -> Duration {
    let (began, all) = (network.now(), network.len() * (network.len() - 1));
    while established(network) < all || !agree(network) {
        let taken = network.now() - began;
        assert!(
            taken < longest,
            "seed {seed}: {} of {all} after {taken:?}: {:?}",
            established(network),
            stuck(network)
        );
        network.run_until(network.now() + Duration::from_millis(500));
    }
    network.now() - began
}

/// The sessions that are not up, for the one who reads a failure.
fn stuck(network: &Network<Router>) -> Vec<(NodeId, NodeId, State, Option<String>)> {
    let routers = (0..network.len()).filter_map(|n| Some((NodeId(n), network.process(NodeId(n))?)));
    let sessions = routers.flat_map(|(node, router)| {
        let peers = router.peers.iter();
        peers.map(move |(peer, held)| (node, *peer, &held.session))
    });
    let down = sessions.filter(|(.., session)| session.state() != State::Established);
    down.take(4)
        .map(|(node, peer, s)| (node, peer, s.state(), s.last_down().map(str::to_owned)))
        .collect()
}

/// Both ends of a pair are up on the same connection, and there is no other between them.
fn assert_one_connection_for_each_pair(network: &Network<Router>, seed: u64) {
    let mut between: BTreeMap<[NodeId; 2], usize> = BTreeMap::new();
    for node in (0..network.len()).map(NodeId) {
        for connection in network.connections(node) {
            // A machine without power leaves halves behind that wait for an OPEN; they carry nothing.
            let (mut ends, both) = network.ends(connection).unwrap();
            if both {
                ends.sort_unstable();
                *between.entry(ends).or_default() += 1;
            }
        }
        for (peer, held) in &network.process(node).unwrap().peers {
            let other = &network.process(*peer).unwrap().peers[&node];
            assert!(held.carrier().is_some(), "seed {seed}: {node:?} {peer:?}");
            assert_eq!(
                held.carrier(),
                other.carrier(),
                "seed {seed}: {node:?} {peer:?}"
            );
        }
    }
    assert!(
        between.values().all(|ends| *ends == 2),
        "seed {seed}: {between:?}"
    );
}

/// How often each session came up, and why it went down last.
fn ups(network: &Network<Router>) -> Vec<(NodeId, NodeId, u32, Option<String>)> {
    let routers = (0..network.len()).filter_map(|n| Some((NodeId(n), network.process(NodeId(n))?)));
    let all = routers.flat_map(|(node, router)| {
        router.peers.iter().map(move |(peer, held)| {
            let why = held.session.last_down().map(str::to_owned);
            (node, *peer, held.ups, why)
        })
    });
    all.collect()
}

/// Everything stays as it is for this long.
fn assert_calm(network: &mut Network<Router>, length: Duration, seed: u64) {
    let before = ups(network);
    network.run_until(network.now() + length);
    let flapped = ups(network).into_iter().filter(|up| !before.contains(up));
    assert_eq!(flapped.collect::<Vec<_>>(), [], "seed {seed}: flapped");
    assert_one_connection_for_each_pair(network, seed);
}

fn report(name: &str, network: &Network<Router>, took: Duration) {
    let Statistics {
        events,
        most_timeouts_in_a_second,
        ..
    } = network.statistics();
    let rate = network.elapsed().as_secs_f64() / took.as_secs_f64().max(1e-9);
    println!(
        "{name}: {:.0} simulated s in {:.2} s = {rate:.0} simulated s per s, {events} events, \
         at most {most_timeouts_in_a_second} wake-ups of a node in a second",
        network.elapsed().as_secs_f64(),
        took.as_secs_f64(),
    );
}

#[expect(clippy::disallowed_methods, reason = "measures the simulation itself")]
fn stopwatch() -> Instant {
    Instant::now()
}

#[test]
fn a_full_mesh_of_two_hundred_speakers_settles_after_chaos_and_stays() {
    let (seed, watch) = (200, stopwatch());
    let plan = Plan::new(200, seed);
    let mut network = mesh(&plan, Settings::calm());
    let first = settle(&mut network, MINUTE, seed);
    network.set_settings(Settings::rough());
    let mut lives = 0;
    let mut chaos = Chaos::new(seed);
    chaos.run(&mut network, MINUTE * 2, |node| {
        lives += 1;
        plan.router(node, lives)
    });
    network.set_settings(Settings::calm());
    assert!(established(&network) < 39_800, "the chaos was none");
    let again = settle(&mut network, MINUTE * 3, seed);
    assert_calm(&mut network, MINUTE * 2, seed);
    println!(
        "200 speakers: first up in {first:?}, after {} faults in {again:?}",
        chaos.log.len()
    );
    report("200 speakers, 19,900 sessions", &network, watch.elapsed());
    let most = network.statistics().most_timeouts_in_a_second;
    // 199 sessions: a keepalive each every 22 s at least, a dial every 3.75 s while a peer is away.
    assert!(most < 400, "a timer storm: {most}");
}

/// One small mesh through one seed's trouble; the trace of all that happened.
fn trouble(plan: &Plan, length: Duration) -> (u64, Network<Router>) {
    let seed = plan.seed;
    let mut network = mesh(plan, Settings::rough());
    let mut lives = 0;
    Chaos::new(seed).run(&mut network, length, |node| {
        lives += 1;
        plan.router(node, lives)
    });
    network.set_settings(Settings::calm());
    network.run_until(network.now() + AFTERSHOCKS);
    settle(&mut network, MINUTE * 3, seed);
    assert_calm(&mut network, Duration::from_secs(45), seed);
    let most = network.statistics().most_timeouts_in_a_second;
    assert!(
        most < 40 * plan.nodes as u64,
        "seed {seed}: a timer storm: {most}"
    );
    (network.trace(), network)
}

#[test]
fn sixty_seeds_of_trouble_leave_no_session_stuck() {
    let watch = stopwatch();
    let mut simulated = Duration::ZERO;
    for seed in 0..60 {
        let mut plan = Plan::new(10 + usize::try_from(seed % 3).unwrap() * 5, seed);
        plan.graceful = seed % 4 != 3;
        plan.passive = seed % 5 == 1;
        plan.hold_time = Duration::from_secs([3, 9, 30][usize::try_from(seed % 3).unwrap()]);
        plan.delay_open = (seed % 6 == 2).then_some(Duration::from_secs(2));
        let (_, network) = trouble(&plan, MINUTE * 2);
        simulated += network.elapsed();
    }
    let rate = simulated.as_secs_f64() / watch.elapsed().as_secs_f64();
    println!("60 seeds: {simulated:?} simulated, {rate:.0} simulated s per s");
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_not() {
    let run = |seed| trouble(&Plan::new(12, seed), MINUTE * 3).0;
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn thousands_of_seconds_of_two_speakers_take_less_than_one() {
    let watch = stopwatch();
    let plan = Plan::new(2, 5);
    let mut network = mesh(&plan, Settings::rough());
    settle(&mut network, MINUTE, 5);
    network.run_until(network.now() + MINUTE * 60 * 24);
    report("2 speakers", &network, watch.elapsed());
    assert_eq!(established(&network), 2);
}
