//! Nodes with keys of their own, a status that takes its time, and every pair of them looked at every second.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;

const fn seconds(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn key(number: u64) -> WireGuardPublicKey {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn own(number: u64, published: Option<Time>) -> OwnKey {
    OwnKey {
        public_key: key(number),
        made: Time::ZERO,
        published,
    }
}

/// A node among others in virtual time.
struct Node {
    name: String,
    keys: Keys,
    /// What it knows of the others, and of which version that is.
    known: BTreeMap<String, WireGuardKeys>,
    versions: BTreeMap<String, u64>,
    submitted: WireGuardKeys,
    version: u64,
    made: [usize; 2],
    /// What the device of each slot was set to: what really is.
    device: [WireGuardPublicKey; 2],
}

/// News on the way: when they are there, to whom (nobody: written, the writer hears so), from whom.
struct News {
    at: u64,
    to: Option<usize>,
    from: usize,
    version: u64,
    said: WireGuardKeys,
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
struct Weather {
    nodes: usize,
    /// Seconds that news take at most, from the wish to write to the last reader.
    delay: u64,
    restarts: bool,
    rotations: bool,
}

struct World {
    timing: Timing,
    nodes: Vec<Node>,
    news: Vec<News>,
    now: u64,
    next_key: u64,
    rng: TestRng,
    weather: Weather,
    /// Pairs × seconds looked at; and those where the ends disagreed about the keys of the slot in use.
    looked_at: u64,
    disagreed: u64,
    received: u64,
}

impl World {
    fn new(weather: Weather, timing: Timing, seed: u64) -> Self {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let nodes = (0..weather.nodes).map(|number| {
            let name = format!("n{number}");
            let first = 2 * number as u64;
            let own = [own(first, None), own(first + 1, None)];
            Node {
                keys: Keys::new(&name, timing, own),
                name,
                known: BTreeMap::new(),
                versions: BTreeMap::new(),
                submitted: WireGuardKeys::default(),
                version: 0,
                made: [0; 2],
                device: [key(first), key(first + 1)],
            }
        });
        Self {
            timing,
            nodes: nodes.collect(),
            news: Vec::new(),
            now: 0,
            next_key: 1000,
            rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            weather,
            looked_at: 0,
            disagreed: 0,
            received: 0,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        u64::from(self.rng.next_u32()) % below.max(1)
    }

    fn second(&mut self, talks: impl Fn(usize, usize, u64) -> bool) {
        self.now += 1;
        self.deliver();
        for number in 0..self.nodes.len() {
            self.act(number);
        }
        self.look(talks);
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (there, under_way) = std::mem::take(&mut self.news)
            .into_iter()
            .partition::<Vec<_>, _>(|news| news.at <= now);
        self.news = under_way;
        for news in there {
            let from = self.nodes[news.from].name.clone();
            let Some(to) = news.to else {
                let writer = &mut self.nodes[news.from];
                writer.keys.handle_published(seconds(now), &news.said);
                continue;
            };
            let reader = &mut self.nodes[to];
            let known = reader.versions.entry(from.clone()).or_default();
            if *known < news.version {
                *known = news.version;
                reader.known.insert(from, news.said);
            }
        }
    }

    fn act(&mut self, number: usize) {
        let now = seconds(self.now);
        if self.weather.restarts && self.random(400) == 0 {
            let node = &mut self.nodes[number];
            node.keys = Keys::new(&node.name, self.timing, *node.keys.own());
        }
        if self.weather.rotations && self.random(3000) == 0 {
            self.nodes[number].keys.rotate();
        }
        let fresh = key(self.next_key);
        let node = &mut self.nodes[number];
        node.keys.handle_others(now, &node.known);
        if let Some(Action::MakeKey(slot)) = node.keys.poll(now) {
            self.next_key += 1;
            node.device[slot] = fresh;
            node.made[slot] += 1;
            node.keys.handle_key(now, slot, fresh);
        }
        let said = node.keys.statement();
        if said != node.submitted {
            node.submitted = said;
            node.version += 1;
            let version = node.version;
            self.submit(number, version, said);
        }
    }

    fn submit(&mut self, from: usize, version: u64, said: WireGuardKeys) {
        let half = self.weather.delay / 2;
        let written = self.now + self.random(half + 1);
        for to in (0..self.nodes.len()).map(Some).chain([None]) {
            if to == Some(from) {
                continue;
            }
            let at = written + to.map_or(0, |_| self.random(half + 1));
            self.news.push(News {
                at,
                to,
                from,
                version,
                said,
            });
        }
    }

    /// For each pair: which way it goes, and whether the other end takes that.
    fn look(&mut self, talks: impl Fn(usize, usize, u64) -> bool) {
        let now = seconds(self.now);
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if from == to {
                    continue;
                }
                let (sender, receiver) = (&self.nodes[from], &self.nodes[to]);
                let Some(slot) = sender.keys.choose(now, &receiver.name) else {
                    self.disagreed += 1;
                    continue;
                };
                let says = |known: &BTreeMap<String, WireGuardKeys>, name: &str| {
                    known
                        .get(name)
                        .and_then(|keys| keys[slot])
                        .map(|key| key.public_key)
                };
                self.looked_at += 1;
                let agreed = says(&sender.known, &receiver.name) == Some(receiver.device[slot])
                    && says(&receiver.known, &sender.name) == Some(sender.device[slot]);
                if !agreed {
                    self.disagreed += 1;
                } else if talks(from, to, self.now) {
                    self.received += 1;
                    let names = [from, to].map(|number| self.nodes[number].name.clone());
                    let [one, two] = names;
                    self.nodes[from].keys.handle_handshake(&two, slot, now);
                    self.nodes[to].keys.handle_handshake(&one, slot, now);
                    self.nodes[to].keys.handle_received(now, slot);
                }
            }
        }
    }

    /// Until all know each other.
    fn begin(&mut self) {
        for _ in 0..3 * self.timing.settle.as_secs() {
            self.second(|_, _, _| true);
        }
        (self.looked_at, self.disagreed, self.received) = (0, 0, 0);
    }

    fn made(&self) -> [usize; 2] {
        let sum = |slot: usize| self.nodes.iter().map(|node| node.made[slot]).sum();
        [sum(0), sum(1)]
    }
}

/// Pairs that talk always, now and then, or never.
fn talks(from: usize, to: usize, now: u64) -> bool {
    match (from + 3 * to) % 4 {
        0 => true,
        1 => now % 97 < 3,
        2 => now % 601 < 200,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_packet_ever_goes_by_a_slot_whose_keys_its_ends_disagree_on(
        seed: u64, nodes in 2..7_usize, restarts: bool, rotations: bool,
    ) {
        let timing = Timing::of_lifetime(seconds(1800));
        let delay = timing.settle.as_secs();
        let weather = Weather { nodes, delay, restarts, rotations };
        let mut world = World::new(weather, timing, seed);
        world.begin();
        let hours = 3;
        for _ in 0..hours * 3600 {
            world.second(talks);
        }
        let pairs = (nodes * (nodes - 1)) as u64;
        prop_assert_eq!(world.disagreed, 0);
        prop_assert_eq!(world.looked_at, pairs * hours * 3600);
        prop_assert!(nodes == 2 || world.received > pairs * hours * 360, "{}", world.received);
        // Each slot of each node, most of the lifetimes.
        let [zero, one] = world.made();
        prop_assert!(zero >= nodes * 3 && one >= nodes * 3, "{zero} and {one} keys made");
    }
}

#[test]
fn the_check_can_fail_where_news_take_longer_than_all_waiting() {
    let timing = Timing::of_lifetime(seconds(1800));
    let weather = Weather {
        nodes: 5,
        delay: 900,
        restarts: false,
        rotations: false,
    };
    let mut world = World::new(weather, timing, 1);
    world.begin();
    for _ in 0..3 * 3600 {
        world.second(|_, _, _| false);
    }
    assert!(world.disagreed > 100, "{}", world.disagreed);
}

/// Between nodes that talk, news may be late by several times what is waited for.
#[test]
fn late_news_cost_nothing_where_the_ends_talk() {
    let timing = Timing::of_lifetime(seconds(3600));
    let weather = Weather {
        nodes: 3,
        delay: 3 * timing.settle.as_secs() - 10,
        restarts: false,
        rotations: false,
    };
    let mut world = World::new(weather, timing, 5);
    for _ in 0..2 {
        world.begin();
    }
    for _ in 0..6 * 3600 {
        world.second(|_, _, _| true);
    }
    assert_eq!(world.disagreed, 0, "of {}", world.looked_at);
    let [zero, one] = world.made();
    assert!(zero >= 9 && one >= 9, "{zero} and {one} keys made");
}

/// Two nodes that know each other.
fn two(timing: Timing) -> World {
    let weather = Weather {
        nodes: 2,
        delay: 2,
        restarts: false,
        rotations: false,
    };
    let mut world = World::new(weather, timing, 3);
    world.begin();
    world
}

#[test]
fn a_key_stays_as_long_as_somebody_sends_to_it_and_its_state_says_so() {
    let timing = Timing::of_lifetime(Duration::ZERO);
    let mut world = two(timing);
    for _ in 0..1000 {
        world.second(|_, _, _| true);
    }
    assert_eq!(world.made(), [0, 0], "keys live for ever");
    world.nodes[0].keys.rotate();
    // Somebody who has not heard: it comes by slot 0 still.
    for _ in 0..1000 {
        world.second(|_, _, _| false);
        let now = seconds(world.now);
        world.nodes[0].keys.handle_received(now, 0);
    }
    assert_eq!(world.made(), [0, 0]);
    let state = world.nodes[0].keys.state(0, seconds(world.now));
    assert_eq!(state, SlotState::Retiring(seconds(world.now)));
    // The other way it is sent as said.
    assert_eq!(
        world.nodes[1].keys.choose(seconds(world.now), "n0"),
        Some(1)
    );
    for _ in 0..1000 {
        world.second(|_, _, _| true);
    }
    assert_eq!((world.made(), world.disagreed), ([1, 1], 0));
}

#[test]
fn of_two_that_would_retire_different_slots_the_lower_name_goes_first() {
    let mut world = two(Timing::of_lifetime(Duration::ZERO));
    for _ in 0..300 {
        world.second(|_, _, _| true);
    }
    let now = seconds(world.now);
    // At one moment, before either hears of the other.
    for (node, slot) in [(0, 0), (1, 1)] {
        let keys = &mut world.nodes[node].keys;
        keys.asked[slot] = true;
        assert_eq!(keys.poll(now), None);
        assert!(keys.is_retiring(slot));
    }
    for _ in 0..20 {
        world.second(|_, _, _| true);
    }
    let [lower, higher] = &world.nodes[..] else {
        panic!("two nodes");
    };
    assert!(lower.keys.is_retiring(0) && higher.keys.retiring.is_none());
    let SlotState::Waiting(why) = higher.keys.state(1, seconds(world.now)) else {
        panic!("{:?}", higher.keys.state(1, seconds(world.now)));
    };
    assert!(
        why.contains("node n0 is replacing its key of slot 0"),
        "{why}"
    );
    for _ in 0..1500 {
        world.second(|_, _, _| true);
    }
    assert_eq!((world.made(), world.disagreed), ([1, 1], 0));
}

#[test]
fn a_slot_is_sent_by_again_only_after_the_others_have_heard_of_its_new_key() {
    let timing = Timing::of_lifetime(Duration::ZERO);
    let mut keys = Keys::new(
        "a",
        timing,
        [own(1, Some(Time::ZERO)), own(2, Some(Time::ZERO))],
    );
    let theirs = |retiring| {
        let key = |number, retiring| WireGuardKey {
            public_key: key(number),
            port: 1,
            retiring,
        };
        BTreeMap::from([(
            "b".to_owned(),
            [Some(key(8, retiring)), Some(key(9, false))],
        )])
    };
    assert_eq!(
        keys.choose(seconds(99), "b"),
        None,
        "it has published nothing"
    );
    keys.handle_others(seconds(100), &theirs(false));
    assert_eq!(keys.choose(seconds(100), "b"), Some(0));
    keys.handle_others(seconds(101), &theirs(true));
    assert_eq!(keys.choose(seconds(101), "b"), Some(1));
    keys.handle_others(seconds(102), &theirs(false));
    keys.handle_key(seconds(200), 0, key(3));
    assert_eq!(keys.choose(seconds(200), "b"), Some(1));
    assert_eq!(keys.state(0, seconds(200)), SlotState::Settling);
    keys.handle_published(seconds(210), &keys.statement());
    assert_eq!(keys.choose(seconds(269), "b"), Some(1));
    assert_eq!(keys.choose(seconds(270), "b"), Some(0));
    assert_eq!(keys.state(0, seconds(270)), SlotState::InUse);
    // A node that was never heard: better by an unsure key than not at all.
    let fresh = Keys::new("a", timing, [own(1, None), own(2, None)]);
    let mut fresh = fresh;
    fresh.handle_others(seconds(1), &theirs(true));
    assert_eq!(fresh.choose(seconds(1), "b"), Some(0));
}

#[test]
fn a_key_that_two_nodes_call_theirs_is_nobodys() {
    let says = |numbers: [u64; 2]| {
        numbers.map(|number| {
            Some(WireGuardKey {
                public_key: key(number),
                port: 1,
                retiring: false,
            })
        })
    };
    let own = [own(1, None), own(2, None)];
    let others = BTreeMap::from([
        ("a".to_owned(), says([10, 11])),
        ("b".to_owned(), says([20, 11])),
        ("c".to_owned(), says([2, 31])),
        ("d".to_owned(), says([40, 41])),
    ]);
    let (kept, problems) = accepted(&own, &others);
    let has = |name: &str| kept[name].map(|key| key.is_some());
    assert_eq!(
        ["a", "b", "c", "d"].map(has),
        [[true, false], [true, false], [false, true], [true, true]]
    );
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|one| one.starts_with("node c and this node")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|one| one.starts_with("node a, node b have")),
        "{problems:?}"
    );
}

/// News that are late are waited for where there is another way: a handshake tells that the other end has the key.
#[test]
fn a_new_key_is_not_sent_by_before_a_handshake_while_the_other_slot_has_had_one() {
    let timing = Timing::of_lifetime(Duration::ZERO);
    let known = [own(1, Some(Time::ZERO)), own(2, Some(Time::ZERO))];
    let mut keys = Keys::new("a", timing, known);
    let theirs = |first, retiring| {
        let key = |number, retiring| WireGuardKey {
            public_key: key(number),
            port: 1,
            retiring,
        };
        let both = [Some(key(first, false)), Some(key(9, retiring))];
        BTreeMap::from([("b".to_owned(), both)])
    };
    keys.handle_others(seconds(100), &theirs(8, false));
    assert_eq!(keys.choose(seconds(100), "b"), Some(0), "neither had one");
    keys.handle_handshake("b", 1, seconds(101));
    assert_eq!(keys.choose(seconds(101), "b"), Some(1));
    keys.handle_handshake("b", 0, seconds(102));
    assert_eq!(keys.choose(seconds(102), "b"), Some(0));
    // The one before this end's new key says nothing of it, however long ago that was published.
    keys.handle_key(seconds(200), 0, key(3));
    keys.handle_published(seconds(201), &keys.statement());
    keys.handle_handshake("b", 0, seconds(199));
    assert_eq!(keys.choose(seconds(900), "b"), Some(1));
    keys.handle_handshake("b", 0, seconds(901));
    assert_eq!(keys.choose(seconds(901), "b"), Some(0));
    // Nor does one with the key that the other end had before.
    keys.handle_others(seconds(902), &theirs(7, false));
    assert_eq!(keys.choose(seconds(902), "b"), Some(1));
    // There is no waiting for one where the other slot is about to go.
    keys.handle_others(seconds(903), &theirs(7, true));
    assert_eq!(keys.choose(seconds(903), "b"), Some(0));
}
