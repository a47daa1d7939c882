//! The reference evaluator against the kernel: random clusters and policies, every pair and port, by real packets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::excessive_nesting,
    reason = "a test"
)]

mod kernel;
mod lab;
mod packet;
mod prober;
mod questions;
mod random_number;
mod random_policy;
mod shrink;
mod trial;
mod wire;
mod world;

use std::time::Instant;

use api::NamespacedName;
use api::resources::{NetworkPolicy, Pod};
use netfilter::Effort;
use policy::{EgressToOwnNode, Settings};
use tests::require_root;

use crate::kernel::BackEnd;
use crate::lab::Place;
use crate::random_number::Random;
use crate::trial::{LABS, Tally, Trial, Watch};
use crate::world::{NAMESPACES, World};

/// How many clusters `make test` tries; `PORTOLAN_POLICY_SEEDS` asks for more.
const CLUSTERS: u64 = 16;
/// Of each cluster at least so many probes are sent, or the lab does not ask what it should.
const PROBES_EACH: u64 = 3_000;

fn clusters() -> u64 {
    std::env::var("PORTOLAN_POLICY_SEEDS").map_or(CLUSTERS, |text| text.parse().unwrap())
}

fn first_seed() -> u64 {
    std::env::var("PORTOLAN_POLICY_FIRST_SEED").map_or(1, |text| text.parse().unwrap())
}

/// Every other seed has NetworkPolicy judge what goes to the pod's own node, too.
fn run(number: u64, back_end: BackEnd) -> Tally {
    let settings = Settings {
        egress_to_own_node: if number < 2 {
            EgressToOwnNode::Allowed
        } else {
            EgressToOwnNode::Policed
        },
        ..Settings::default()
    };
    let processor = usize::try_from(number).unwrap();
    let mut trial = Trial::new(&format!("pk{number}"), processor, back_end, settings).unwrap();
    let first = first_seed();
    for seed in (first..first + clusters()).filter(|seed| seed % LABS == number) {
        if let Err(error) = trial.cluster(seed) {
            panic!("{} lab {number}: {error:#}", back_end.name());
        }
    }
    trial.tally
}

#[test]
fn kernel_and_evaluator_agree_about_every_pair_and_port_of_random_clusters() {
    require_root!();
    let begun = Instant::now();
    let labs = [BackEnd::Nft, BackEnd::Legacy, BackEnd::Nft, BackEnd::Legacy];
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(labs)
            .map(|(number, back_end)| scope.spawn(move || run(number, back_end)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a lab failed; it said why above"))
            .collect()
    });
    let mut all = Tally::default();
    tallies.iter().for_each(|tally| all.add(tally));
    eprintln!(
        "seeds from {}, {:?}: {all:?}",
        first_seed(),
        begun.elapsed()
    );
    assert_eq!(all.clusters, clusters(), "every cluster was tried");
    assert!(
        tallies.iter().all(|tally| tally.clusters > 0),
        "both back ends and both settings were tried"
    );
    assert_eq!(all.probes, all.arrived + all.denied);
    assert!(
        all.probes >= (all.clusters + all.changes) * PROBES_EACH,
        "too few probes: {all:?}"
    );
    assert!(
        all.arrived * 10 > all.probes && all.denied * 10 > all.probes,
        "one-sided: {all:?}"
    );
    assert!(
        all.watched > all.changes,
        "nothing was watched while changes were installed: {all:?}"
    );
}

#[test]
fn the_prober_sees_every_packet_without_policies_and_none_under_default_deny() {
    require_root!();
    let mut trial = Trial::new("pkp", 1, BackEnd::Nft, Settings::default()).unwrap();
    let mut random = Random::new(0);
    let mut world = World::random(&mut random);
    while world
        .objects
        .endpoints
        .values()
        .any(|one| one.addresses.len() < 2)
        || world.objects.endpoints.len() < lab::SLOTS
    {
        world = World::random(&mut random);
    }
    world.objects.cluster_policies.clear();
    world.objects.policies.clear();
    trial
        .replace(world.clone(), Effort::Exact, Vec::new(), "open")
        .unwrap();
    let mut probes = questions::questions(&world, &mut random);
    probes.retain(|probe| match probe.from {
        Place::Slot(slot) => world.holds(slot, probe.source) && probe.sent_to.1 != 4789,
        _ => true,
    });
    assert!(probes.len() > 3_000, "{}", probes.len());
    let missing: Vec<_> = {
        let answers = trial.ask(&probes).unwrap();
        probes
            .iter()
            .zip(answers)
            .filter(|(_, arrived)| !arrived)
            .map(|(probe, _)| *probe)
            .collect()
    };
    assert!(
        missing.is_empty(),
        "{} of {} lost, as {:?}",
        missing.len(),
        probes.len(),
        missing[0]
    );

    for namespace in NAMESPACES {
        let name = NamespacedName::new(namespace, "deny");
        let policy = NetworkPolicy {
            name: name.clone(),
            pod_selector: api::LabelSelector::default(),
            ingress: Some(Vec::new()),
            egress: Some(Vec::new()),
        };
        world.objects.policies.insert(name, policy);
    }
    let pods: Vec<Pod> = world.pods().cloned().collect();
    for pod in pods {
        world.insert_pod(Pod {
            finished: false,
            ..pod
        });
    }
    trial
        .replace(world, Effort::Exact, Vec::new(), "closed")
        .unwrap();
    // The node reaches its pods and they it; a pod reaches itself through a Service. All else is closed.
    let closed: Vec<_> = probes
        .into_iter()
        .filter(|probe| {
            probe.from != Place::Node && probe.to != Place::Node && probe.from != probe.to
        })
        .filter(|probe| matches!(probe.from, Place::Slot(_)) || matches!(probe.to, Place::Slot(_)))
        .collect();
    // What arrived at the node itself before, where no program listens, its kernel refused.
    let refusals = trial.prober.lab.refusals();
    let answers = trial.ask(&closed).unwrap();
    let through = answers.iter().filter(|arrived| **arrived).count();
    assert_eq!(
        (through, closed.len() > 2_000),
        (0, true),
        "of {}",
        closed.len()
    );
    let more = trial.prober.lab.refusals() - refusals;
    assert_eq!(more, 0, "what is denied meets silence");
}

#[test]
fn read_back_differs_from_nothing_after_every_kind_of_transition() {
    require_root!();
    let mut trial = Trial::new("pkr", 0, BackEnd::Legacy, Settings::default()).unwrap();
    let mut random = Random::new(7);
    for number in 0..3 {
        let world = World::random(&mut random);
        let effort = if number == 1 {
            Effort::Additive
        } else {
            Effort::Exact
        };
        trial
            .step(world, effort, Watch::Nothing, &mut random, "a read-back")
            .unwrap();
        trial.check().unwrap();
    }
}
