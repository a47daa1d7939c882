//! Nodes that agree on one address: in a simulated cluster with delayed, failed and lost writes, crashes and cut-off nodes; and
//! in a directory, by BFD alone.

mod world;

use proptest::prelude::*;

use super::*;
use crate::layer2::{DURATION, order};
use world::{ADDRESS, NODES, Op, World};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The nodes in their order for the address.
fn ranks() -> Vec<usize> {
    let names: Vec<String> = (0..NODES).map(world::name).collect();
    let order = order(ADDRESS, names.iter().map(String::as_str));
    order
        .iter()
        .map(|node| names.iter().position(|name| name == node).unwrap())
        .collect()
}

#[test]
fn the_first_in_the_order_takes_what_nobody_holds() {
    let mut world = World::new(Rule::Lease, 3);
    world.run(seconds(2));
    assert_eq!(world.answering(), [ranks()[0]]);
    world.run(seconds(60));
    assert_eq!(world.answering(), [ranks()[0]]);
    // One write to take it and one each ten seconds.
    assert!(
        (6..=9).contains(&world.writes),
        "{} writes in 62 s",
        world.writes
    );
}

#[test]
fn a_holder_that_dies_is_followed_within_a_second_by_the_next() {
    for rule in [Rule::Lease, Rule::Order] {
        let mut world = World::new(rule, 3);
        world.run(seconds(5));
        world.apply(Op::Crash(ranks()[0]));
        world.run(seconds(1));
        assert_eq!(world.answering(), [ranks()[1]], "{rule:?}");
    }
}

#[test]
fn a_holder_that_dies_after_its_successor_or_with_it_is_followed_within_a_second() {
    for apart in [0, 60] {
        let mut world = World::new(Rule::Lease, 3);
        world.run(seconds(5));
        world.apply(Op::Crash(ranks()[1]));
        world.run(seconds(apart));
        world.apply(Op::Crash(ranks()[0]));
        world.run(seconds(1));
        assert_eq!(world.answering(), [ranks()[2]], "{apart} s after it");
    }
}

#[test]
fn without_bfd_the_lease_runs_out() {
    let mut world = World::new(Rule::Lease, 3);
    world.has_bfd = false;
    world.run(seconds(5));
    world.apply(Op::Crash(ranks()[0]));
    world.run(seconds(19));
    assert!(world.answering().is_empty());
    world.run(seconds(14));
    assert_eq!(world.answering(), [ranks()[1]]);
}

#[test]
fn who_stops_hands_over_at_once() {
    for rule in [Rule::Lease, Rule::Order] {
        let mut world = World::new(rule, 3);
        world.run(seconds(5));
        world.apply(Op::Stop(ranks()[0]));
        world.run(Duration::from_millis(700));
        assert_eq!(world.answering(), [ranks()[1]], "{rule:?}");
    }
}

#[test]
fn who_comes_back_within_its_lease_has_it_still() {
    let mut world = World::new(Rule::Lease, 3);
    world.has_bfd = false;
    world.run(seconds(5));
    world.apply(Op::Crash(ranks()[0]));
    world.run(seconds(5));
    world.apply(Op::Start(ranks()[0]));
    world.run(seconds(1));
    assert_eq!(world.answering(), [ranks()[0]]);
}

#[test]
fn an_api_server_that_is_away_for_all_takes_no_address_away() {
    let mut world = World::new(Rule::Lease, 3);
    world.run(seconds(5));
    for node in 0..NODES {
        world.apply(Op::Cut(node));
    }
    world.run(DURATION * 3);
    assert_eq!(world.answering(), [ranks()[0]]);
    let now = world.now;
    let standings = world.nodes[ranks()[0]]
        .as_ref()
        .unwrap()
        .election
        .standings(now);
    assert_eq!(standings[&ADDRESS], Standing::AnswersOverdue);
}

#[test]
fn a_holder_that_alone_is_cut_off_is_followed_and_yields_to_who_announces() {
    let mut world = World::new(Rule::Lease, 3);
    world.loses_answers = false;
    world.run(seconds(5));
    world.apply(Op::Cut(ranks()[0]));
    world.run(DURATION + seconds(5));
    assert_eq!(world.answering(), [ranks()[1]]);
    world.apply(Op::Heal(ranks()[0]));
    world.run(DURATION);
    assert_eq!(world.answering(), [ranks()[1]], "it stays where it is");
}

#[test]
fn bfd_that_is_wrong_moves_it_once_and_no_more() {
    let mut world = World::new(Rule::Lease, 3);
    world.run(seconds(5));
    world.apply(Op::FalseAlarm);
    world.run(seconds(1));
    assert_eq!(world.answering(), [ranks()[1]]);
    let writes = world.writes;
    world.run(seconds(60));
    assert_eq!(world.answering(), [ranks()[1]]);
    assert!(
        world.writes - writes <= 8,
        "{} writes",
        world.writes - writes
    );
}

#[test]
fn another_machine_that_claims_the_address_is_answered_and_costs_few_writes() {
    let mut world = World::new(Rule::Lease, 3);
    world.run(seconds(5));
    let (writes, holder) = (world.writes, ranks()[0]);
    for _ in 0..1_000 {
        let now = world.now;
        world.on(holder, |election| election.handle_claim(now, ADDRESS));
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.answering(), [holder]);
    assert!(
        world.writes - writes <= 4,
        "{} writes",
        world.writes - writes
    );
}

/// Both sides of a network that was cut in two had a holder: whoever was on the other side has to hear of this one.
#[test]
fn a_node_that_is_heard_again_makes_the_holder_announce() {
    for rule in [Rule::Lease, Rule::Order] {
        let now = world::some_time();
        let mut election = Election::new("n0", rule);
        let order: Arc<[String]> = Arc::from(["n0".to_owned(), "n1".to_owned()]);
        election.handle_leases_known(now);
        election.handle_wanted(now, &BTreeMap::from([(ADDRESS, order)]));
        election.handle_written(now, ADDRESS, now, Written::Done(7));
        election.handle_path(now, "n1", Path::Up);
        election.handle_path(now, "n1", Path::Down);
        let later = now + seconds(8);
        election.handle_timeout(later);
        while election.poll_action().is_some() {}
        election.handle_path(later, "n1", Path::Down);
        assert_eq!(election.poll_action(), None, "{rule:?}");
        election.handle_path(later, "n1", Path::Up);
        let announced = Some(Action::Announce(ADDRESS));
        assert_eq!(election.poll_action(), announced, "{rule:?}");
    }
}

#[test]
fn nothing_is_written_before_the_leases_are_known() {
    let now = world::some_time();
    let mut election = Election::new("n0", Rule::Lease);
    let order: Arc<[String]> = Arc::from(["n0".to_owned()]);
    election.handle_wanted(now, &BTreeMap::from([(ADDRESS, order)]));
    election.handle_timeout(now + seconds(100));
    assert_eq!(election.poll_action(), None);
    election.handle_leases_known(now + seconds(101));
    assert_eq!(
        election.poll_action(),
        Some(Action::Hold {
            address: ADDRESS,
            version: None
        })
    );
}

fn ops(alarms: bool) -> impl Strategy<Value = Vec<(Op, u16)>> {
    let node = 0..NODES;
    let mut kinds = vec![
        node.clone().prop_map(Op::Crash).boxed(),
        node.clone().prop_map(Op::Start).boxed(),
        node.clone().prop_map(Op::Start).boxed(),
        node.clone().prop_map(Op::Stop).boxed(),
        node.clone().prop_map(Op::Cut).boxed(),
        node.clone().prop_map(Op::Heal).boxed(),
        node.clone().prop_map(Op::Heal).boxed(),
        node.prop_map(Op::Exclude).boxed(),
        Just(Op::IncludeAll).boxed(),
    ];
    if alarms {
        kinds.push(Just(Op::FalseAlarm).boxed());
    }
    let one = proptest::strategy::Union::new(kinds);
    prop::collection::vec((one, 0..12_000_u16), 1..14)
}

/// BFD has nothing new to say of a node that two changes let go and took up again.
#[test]
fn a_node_that_is_let_go_and_taken_up_at_once_is_still_heard() {
    let mut world = World::new(Rule::Order, 0);
    let [first, second, _] = ranks()[..] else {
        panic!("three nodes")
    };
    world.apply(Op::Crash(first));
    world.run(Duration::from_millis(1_041));
    world.apply(Op::Exclude(second));
    world.apply(Op::IncludeAll);
    world.run(seconds(8));
    assert_eq!(world.answering(), [second]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever dies, is cut off or comes late: as long as BFD tells no lies, no two whose Leases hold ever answer; and when all
    /// is quiet again, one does.
    #[test]
    fn at_most_one_holds_and_in_the_end_someone_does(ops in ops(false), seed: u64) {
        let mut world = World::new(Rule::Lease, seed);
        for (op, wait) in ops {
            world.apply(op);
            world.run(Duration::from_millis(wait.into()));
        }
        prop_assert_eq!(world.most_confirmed, 1.min(world.most_confirmed));
        world.make_quiet();
        world.run(DURATION + seconds(10));
        prop_assert_eq!(world.answering().len(), 1, "{:?}", world.answering());
        prop_assert_eq!(world.most_confirmed, 1);
        prop_assert!(world.longest_double <= Duration::from_millis(50), "{:?}", world.longest_double);
    }

    /// When BFD is wrong two may answer, for as long as a write and its answer take: the two seconds until a holder that is cut off
    /// from the server gives up, and what the link and the server take.
    #[test]
    fn two_never_answer_for_long(ops in ops(true), seed: u64) {
        let mut world = World::new(Rule::Lease, seed);
        for (op, wait) in ops {
            world.apply(op);
            world.run(Duration::from_millis(wait.into()));
        }
        world.make_quiet();
        world.run(DURATION + seconds(10));
        prop_assert_eq!(world.answering().len(), 1);
        prop_assert!(world.longest_double <= Duration::from_millis(2_500), "{:?}", world.longest_double);
    }

    /// In a directory: whatever came before, when all is quiet the first in the order answers, and nobody else.
    #[test]
    fn in_a_directory_the_first_that_is_alive_answers(ops in ops(false), seed: u64) {
        let mut world = World::new(Rule::Order, seed);
        for (op, wait) in ops {
            world.apply(op);
            world.run(Duration::from_millis(wait.into()));
        }
        world.run(seconds(8));
        let first = ranks().into_iter().find(|node| world.is_candidate(*node));
        prop_assert_eq!(world.answering(), first.into_iter().collect::<Vec<_>>());
    }
}
