//! Attachments never leak or double: pods come and go in parallel while plugin and agent are killed, and at the end
//! the kernel and the state hold what the living pods explain, and no more.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test"
)]

mod ledger;
mod leftovers;
#[allow(dead_code, reason = "what the random clusters need beyond it")]
#[path = "../policy_kernel/random_number.rs"]
mod random_number;
mod stage;
mod worker;

use std::time::{Duration, Instant};

use tests::agent::Agent;
use tests::netns::Netns;
use tests::require_root;
use tests::runtime::Runtime;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

use ledger::Ledger;
use random_number::Random;
use stage::Stage;
use worker::{SLOTS, Worker, World};

const WORKERS: usize = 4;
const QUIET: Duration = Duration::from_secs(60);

/// A number from the environment.
fn asked(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// Kills the agent, or tells it to end, and starts it again, until the time is up; then it runs and is in sync.
fn disturb(agent: &mut Agent, node: &Netns, ledger: &Ledger, end: Instant, mut random: Random) {
    let sleep = |least: usize, most: usize, random: &mut Random| {
        let time = u64::try_from(least + random.below(most - least)).unwrap();
        std::thread::sleep(Duration::from_millis(time));
    };
    while Instant::now() < end {
        sleep(1000, 4000, &mut random);
        if random.chance(60) {
            agent.kill().unwrap();
            ledger.count("agent killed");
        } else {
            agent.terminate().unwrap();
            ledger.count("agent ended");
        }
        sleep(0, 500, &mut random);
        agent.start(node).unwrap();
        if random.chance(25) {
            // In the midst of its start.
            sleep(1, 300, &mut random);
            agent.kill().unwrap();
            ledger.count("agent killed");
            agent.start(node).unwrap();
        }
    }
    agent.wait_synced().unwrap();
}

/// What must have happened at least for a run of 45 s to prove anything.
const LEAST: [(&str, u64); 12] = [
    ("added", 40),
    ("deleted", 100),
    ("plugin killed", 15),
    ("agent killed", 4),
    ("agent ended", 1),
    ("ADD while the agent was away", 3),
    ("reached", 40),
    ("denied", 8),
    ("checked", 4),
    ("collected", 2),
    ("namespace gone before DEL", 4),
    ("two at once", 10),
];

#[test]
fn nothing_leaks_and_nothing_doubles_while_pods_come_and_go_and_everything_is_killed() {
    require_root!();
    let seconds = asked("PORTOLAN_CHAOS_SECONDS").unwrap_or(45);
    let seed = asked("PORTOLAN_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("seed {seed} (PORTOLAN_CHAOS_SEED={seed} for the same sequences)");
    let mut stage = Stage::set("chs", WORKERS, SLOTS);
    stage.lab.agent.wait_settled().unwrap();
    let before = Snapshot::of(&stage.lab.node);
    let fixed = stage.attach_fixed();
    let ledger = Ledger::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let lab = &mut stage.lab;
    let (agent, node) = (&mut lab.agent, &lab.node);
    let world = World {
        node,
        outside: &lab.outside,
        runtime: &Runtime::of(agent).unwrap(),
        ledger: &ledger,
        fixed: &fixed,
    };
    let mut workers: Vec<Worker<'_>> = (0..WORKERS)
        .map(|number| Worker::new(number, seed, world))
        .collect();
    std::thread::scope(|scope| {
        let ledger = &ledger;
        scope.spawn(move || disturb(agent, node, ledger, end, Random::new(seed)));
        for worker in &mut workers {
            scope.spawn(move || worker.work(end));
        }
    });
    eprintln!("{}", ledger.told());

    // Quiet: all that lives is whole, and beyond it there is nothing.
    workers[0].collect(true);
    lab.agent.wait_synced().unwrap();
    let expected =
        leftovers::Expected::of(workers.iter().flat_map(Worker::living).chain(fixed.iter()));
    eventually(QUIET, "only what living pods explain", || {
        leftovers::look(&lab.node, &lab.agent, &expected)
    })
    .unwrap();
    workers.iter_mut().for_each(Worker::check_all);

    // And without pods: the kernel as it was before the first of them.
    workers.iter_mut().for_each(Worker::delete_all);
    drop(workers);
    fixed.into_iter().for_each(|pod| stage.delete(pod));
    let lab = &stage.lab;
    eventually(QUIET, "the kernel as before the first pod", || {
        lab.agent
            .wait_settled()
            .map_err(|error| error.to_string())?;
        let nobody = leftovers::Expected::default();
        leftovers::look(&lab.node, &lab.agent, &nobody)?;
        let difference = before.difference(&Snapshot::of(&lab.node));
        if difference.is_empty() {
            Ok(())
        } else {
            Err(difference)
        }
    })
    .unwrap();
    let left = stage.namespaces_of_pods();
    assert!(left.is_empty(), "namespaces: {left:?}");
    ledger.assert_enough(&LEAST, seconds);
}
