//! Against a model that remembers everything and decides everything anew: what each peer is told adds up to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::fixtures::{
    ALL, V4, adj_rib_out, attributes, end_of_rib, exporting, external_peer, internal_peer, learn,
    net, nlri, originate, path, policy, refresh, rib_config, sent_in, transit,
};
use crate::filter::{Action, FilterChain, Match, Operation, Rule};
use crate::rib::export::{ExportKey, Source};
use crate::rib::import::Judge;
use crate::rib::{Candidate, NextHopState, PeerId, PeerInfo, PeerPolicy, Rib, Verdict, decide};
use crate::wire::{Nlri, PathAttributes, RefreshKind, Update, WireContext};

const PREFIXES: [&str; 5] = [
    "10.1.0.0/24",
    "10.2.0.0/24",
    "10.3.0.0/24",
    "10.4.0.0/16",
    "10.244.1.0/24",
];
const PEERS: usize = 5;

#[derive(Clone, Debug)]
enum Event {
    Announce(usize, usize, u32, Box<PathAttributes>),
    Withdraw(usize, usize, u32),
    Down(usize, bool),
    Up(usize),
    EndOfRib(usize),
    Policy(usize, usize),
    Refresh(usize),
    Originate(Vec<usize>),
    NextHop(u8, Option<u32>),
    ShutDown(bool),
    Drain(usize),
    Changes,
}

fn some_path() -> impl Strategy<Value = PathAttributes> {
    (
        proptest::collection::vec(1u32..4, 0..3),
        proptest::option::of(0u32..3),
        proptest::option::of(99u32..102),
        1u8..4,
        prop_oneof![4 => Just(0u32), 1 => Just(0xFFFF_FF01), 1 => Just(0xFFFF_0000), 1 => Just(7)],
    )
        .prop_map(|(asns, med, local_pref, hop, community)| PathAttributes {
            med,
            local_pref,
            next_hop: Ipv4Addr::new(10, 9, 0, hop).into(),
            communities: (community != 0).then_some(community).into_iter().collect(),
            ..attributes(&asns)
        })
}

fn event() -> impl Strategy<Value = Event> {
    let (peer, prefix) = (0..PEERS, 0..PREFIXES.len());
    prop_oneof![
        12 => (peer.clone(), prefix.clone(), 0u32..3, some_path())
            .prop_map(|(p, n, id, a)| Event::Announce(p, n, id, Box::new(a))),
        4 => (peer.clone(), prefix.clone(), 0u32..3).prop_map(|(p, n, id)| Event::Withdraw(p, n, id)),
        2 => (peer.clone(), any::<bool>()).prop_map(|(p, keep)| Event::Down(p, keep)),
        3 => peer.clone().prop_map(Event::Up),
        1 => peer.clone().prop_map(Event::EndOfRib),
        2 => (peer.clone(), 0usize..5).prop_map(|(p, n)| Event::Policy(p, n)),
        1 => peer.clone().prop_map(Event::Refresh),
        1 => proptest::collection::vec(prefix, 0..3).prop_map(Event::Originate),
        1 => (1u8..4, proptest::option::of(0u32..3)).prop_map(|(h, c)| Event::NextHop(h, c)),
        1 => any::<bool>().prop_map(Event::ShutDown),
        5 => peer.prop_map(Event::Drain),
        2 => Just(Event::Changes),
    ]
}

/// The policies events choose from.
fn policies(n: usize) -> PeerPolicy {
    let chain = |action| {
        let matches = Match {
            communities: vec![crate::filter::Community::Standard(7)],
            ..Match::default()
        };
        FilterChain::new([("f", vec![Rule { matches, action }])])
    };
    match n {
        0 => policy(),
        1 => transit(),
        2 => PeerPolicy {
            route_reflector_client: true,
            ..transit()
        },
        3 => exporting(|export| {
            export.transit = true;
            export.add_path = 2;
            export.filters = chain(Action::Reject);
        }),
        _ => PeerPolicy {
            import: crate::rib::ImportPolicy {
                filters: chain(Action::Accept(vec![Operation::SetLocalPref(300)])),
                reject: super::fixtures::nets(&["10.244.0.0/16"]),
                ..Default::default()
            },
            ..transit()
        },
    }
}

/// Two internal peers and three external ones; the last of each sends and receives several paths.
fn info(n: usize, alone: bool) -> PeerInfo {
    let number = u8::try_from(n + 1).unwrap();
    let mut info = if n < 2 {
        internal_peer(number)
    } else {
        external_peer(number)
    };
    if n == 1 || n == 4 {
        info.context.add_path_send = vec![V4];
        info.context.add_path_receive = vec![V4];
    }
    // It goes to nobody over IPv4, but keeps the peer in a group of its own.
    info.local_link_local =
        alone.then(|| std::net::Ipv6Addr::from_bits((0xfe80 << 112) | (n as u128 + 1)));
    info
}

fn has_path_ids(n: usize) -> bool {
    !info(n, false).context.add_path_receive.is_empty()
}

/// What the model remembers of a path.
#[derive(Clone)]
struct Held {
    attributes: PathAttributes,
    stale: bool,
}

struct ModelPeer {
    policy: PeerPolicy,
    up: bool,
    paths: BTreeMap<Nlri, Held>,
}

struct Model {
    peers: Vec<ModelPeer>,
    own: BTreeSet<IpNet>,
    costs: BTreeMap<IpAddr, Option<u32>>,
    shutting_down: bool,
}

struct Usable {
    candidate: Candidate,
    peer: Option<usize>,
    attributes: PathAttributes,
}

impl Model {
    fn new() -> Self {
        let peer = || ModelPeer {
            policy: policies(1),
            up: true,
            paths: BTreeMap::new(),
        };
        Self {
            peers: (0..PEERS).map(|_| peer()).collect(),
            own: BTreeSet::new(),
            costs: BTreeMap::new(),
            shutting_down: false,
        }
    }

    /// Every usable path to a prefix.
    fn options(&self, prefix: &IpNet) -> Vec<Usable> {
        let mut options = Vec::new();
        if self.own.contains(prefix) {
            let attributes = PathAttributes::originated(Ipv4Addr::UNSPECIFIED.into());
            options.push(Usable {
                candidate: Candidate::local(&attributes),
                peer: None,
                attributes,
            });
        }
        for (n, peer) in self.peers.iter().enumerate() {
            let info = info(n, false);
            let judge = Judge {
                config: &rib_config(),
                info: &info,
                policy: &peer.policy,
            };
            for (nlri, held) in peer.paths.iter().filter(|(nlri, _)| nlri.prefix == *prefix) {
                if judge.unusable(&held.attributes).is_some() {
                    continue;
                }
                let prepared = judge.prepared(&held.attributes, false);
                let prepared = prepared.unwrap_or_else(|| held.attributes.clone());
                let judged = judge.judge(prefix, &prepared);
                let attributes = judged.changed.unwrap_or(prepared);
                let cost = self.costs.get(&attributes.next_hop).copied();
                if judged.verdict != Verdict::Accepted || cost == Some(None) {
                    continue;
                }
                let key = crate::rib::attributes::DecisionKey::new(&attributes);
                let cost = cost.flatten().unwrap_or(0);
                options.push(Usable {
                    candidate: Candidate::with_key(
                        key,
                        (info.external, cost),
                        info.router_id,
                        info.address,
                        nlri.path_id,
                    ),
                    peer: Some(n),
                    attributes,
                });
            }
        }
        options
    }

    fn source(&self, peer: Option<usize>) -> Source {
        peer.map_or(Source::Local, |n| Source::Peer {
            external: info(n, false).external,
            client: self.peers[n].policy.route_reflector_client,
            router_id: info(n, false).router_id,
        })
    }

    /// What a peer is to know of a prefix.
    fn expected(&self, n: usize, prefix: &IpNet) -> Vec<PathAttributes> {
        let policy = &self.peers[n].policy;
        let key = ExportKey::new(
            &rib_config(),
            (0, &info(n, false), policy),
            self.shutting_down,
        );
        let mut options = self.options(prefix);
        let several = has_path_ids(n) && policy.export.add_path > 1;
        if several {
            options.retain(|option| option.peer != Some(n));
        }
        let count = if several {
            usize::from(policy.export.add_path)
        } else {
            1
        };
        let mut told = Vec::new();
        for _ in 0..count {
            let candidates: Vec<_> = options.iter().map(|option| option.candidate).collect();
            let Some(best) = decide(&candidates) else {
                break;
            };
            let best = options.remove(best);
            if best.peer == Some(n) {
                break;
            }
            told.extend(
                key.exported(self.source(best.peer), prefix, best.attributes)
                    .ok(),
            );
        }
        told.sort_by_key(|attributes| format!("{attributes:?}"));
        told
    }

    fn next_hop(&self, prefix: &IpNet) -> Option<IpAddr> {
        let options = self.options(prefix);
        let candidates: Vec<_> = options.iter().map(|option| option.candidate).collect();
        let best = &options[decide(&candidates)?];
        best.peer.map(|_| best.attributes.next_hop)
    }
}

/// The RIBs, and peers that believe what they are told.
struct World {
    rib: Rib,
    ids: Vec<PeerId>,
    known: Vec<BTreeMap<Nlri, PathAttributes>>,
    kernel: BTreeMap<IpNet, IpAddr>,
    alone: bool,
}

impl World {
    fn new(alone: bool) -> Self {
        let mut rib = Rib::new(rib_config(), 3);
        let ids: Vec<PeerId> = (0..PEERS).map(|_| rib.add_peer(policies(1))).collect();
        for (n, id) in ids.iter().enumerate() {
            rib.handle_peer_up(*id, info(n, alone));
        }
        Self {
            rib,
            ids,
            known: vec![BTreeMap::new(); PEERS],
            kernel: BTreeMap::new(),
            alone,
        }
    }

    fn drain(&mut self, n: usize) {
        let context: WireContext = info(n, false).context;
        let updates = sent_in(&mut self.rib, self.ids[n], &context);
        learn(&mut self.known[n], updates);
    }

    fn changes(&mut self) {
        for change in self.rib.poll_best_changes(ALL) {
            match change.next_hops.first() {
                Some(hop) => self.kernel.insert(change.prefix, hop.address),
                None => self.kernel.remove(&change.prefix),
            };
        }
    }

    /// What a peer knows of a prefix, whatever the identifiers.
    fn knows(&self, n: usize, prefix: &IpNet) -> Vec<PathAttributes> {
        let of = self.known[n]
            .iter()
            .filter(|(nlri, _)| nlri.prefix == *prefix);
        let mut known: Vec<_> = of.map(|(_, attributes)| attributes.clone()).collect();
        known.sort_by_key(|attributes| format!("{attributes:?}"));
        known
    }
}

fn apply(model: &mut Model, world: &mut World, event: &Event) {
    let (rib, ids) = (&mut world.rib, &world.ids);
    match event {
        Event::Announce(n, prefix, id, attributes) if model.peers[*n].up => {
            let id = if has_path_ids(*n) { *id } else { 0 };
            let update = path(PREFIXES[*prefix], id, (**attributes).clone());
            rib.handle_update(ids[*n], &update).unwrap();
            let held = Held {
                attributes: (**attributes).clone(),
                stale: false,
            };
            model.peers[*n]
                .paths
                .insert(nlri(PREFIXES[*prefix], id), held);
        }
        Event::Withdraw(n, prefix, id) if model.peers[*n].up => {
            let id = if has_path_ids(*n) { *id } else { 0 };
            let gone = nlri(PREFIXES[*prefix], id);
            let update = Update {
                withdrawn: vec![gone],
                ..Update::default()
            };
            rib.handle_update(ids[*n], &update).unwrap();
            model.peers[*n].paths.remove(&gone);
        }
        Event::Down(n, keep) if model.peers[*n].up => {
            let retain: &[_] = if *keep { &[V4] } else { &[] };
            rib.handle_peer_down(ids[*n], retain);
            let peer = &mut model.peers[*n];
            peer.up = false;
            peer.paths.retain(|_, held| *keep && !held.stale);
            peer.paths.values_mut().for_each(|held| held.stale = true);
        }
        Event::Up(n) if !model.peers[*n].up => {
            rib.handle_peer_up(ids[*n], info(*n, world.alone));
            model.peers[*n].up = true;
            world.known[*n].clear();
        }
        Event::EndOfRib(n) if model.peers[*n].up => {
            rib.handle_update(ids[*n], &end_of_rib()).unwrap();
            model.peers[*n].paths.retain(|_, held| !held.stale);
        }
        Event::Policy(n, choice) => {
            rib.handle_policy(ids[*n], policies(*choice));
            model.peers[*n].policy = policies(*choice);
        }
        Event::Refresh(n) => {
            rib.handle_route_refresh(ids[*n], refresh(RefreshKind::Request));
        }
        Event::Originate(own) => {
            let own: Vec<_> = own.iter().map(|n| PREFIXES[*n]).collect();
            originate(rib, &own);
            model.own = own.iter().map(|text| net(text)).collect();
        }
        Event::NextHop(hop, cost) => {
            let address = IpAddr::from([10, 9, 0, *hop]);
            rib.handle_next_hop(
                address,
                match cost {
                    Some(igp_cost) => NextHopState::Reachable {
                        igp_cost: *igp_cost,
                    },
                    None => NextHopState::Unreachable,
                },
            );
            model.costs.insert(address, *cost);
        }
        Event::ShutDown(on) => {
            rib.set_graceful_shutdown(*on);
            model.shutting_down = *on;
        }
        Event::Drain(n) => world.drain(*n),
        Event::Changes => world.changes(),
        _ => {}
    }
}

fn run(events: &[Event], alone: bool) -> (Model, World) {
    let (mut model, mut world) = (Model::new(), World::new(alone));
    for event in events {
        apply(&mut model, &mut world, event);
    }
    world.changes();
    for n in 0..PEERS {
        world.drain(n);
    }
    (model, world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_every_peer_is_told_is_what_the_model_says(
        events in proptest::collection::vec(event(), 0..80)
    ) {
        let (model, mut world) = run(&events, false);
        for prefix in PREFIXES.map(net) {
            for n in (0..PEERS).filter(|n| model.peers[*n].up) {
                prop_assert_eq!(
                    world.knows(n, &prefix), model.expected(n, &prefix),
                    "peer {} of {}", n, prefix
                );
            }
            prop_assert_eq!(world.kernel.get(&prefix).copied(), model.next_hop(&prefix));
        }
        for n in 0..PEERS {
            let known = world.known[n].clone();
            let peer = &model.peers[n];
            if peer.up {
                prop_assert_eq!(adj_rib_out(&mut world.rib, world.ids[n]), known);
            }
            prop_assert_eq!(world.rib.stale(world.ids[n]), peer.paths.values().filter(|held| held.stale).count());
            let counts = world.rib.counts(world.ids[n]);
            prop_assert_eq!(counts.accepted + counts.rejected, peer.paths.len());
        }
        for id in world.ids.clone() {
            world.rib.remove_peer(id);
        }
        originate(&mut world.rib, &[]);
        prop_assert_eq!(world.rib.sizes(), (0, 0), "nothing is left behind");
    }

    #[test]
    fn peers_in_groups_are_told_the_same_as_each_alone(
        events in proptest::collection::vec(event(), 0..60)
    ) {
        let (_, grouped) = run(&events, false);
        let (_, ungrouped) = run(&events, true);
        prop_assert_eq!(grouped.known, ungrouped.known);
        prop_assert_eq!(grouped.kernel, ungrouped.kernel);
    }
}

#[test]
fn the_model_sees_a_difference() {
    let update = Event::Announce(2, 0, 0, Box::new(attributes(&[3])));
    let (mut model, world) = run(&[update], false);
    assert_eq!(
        world.knows(3, &net(PREFIXES[0])),
        model.expected(3, &net(PREFIXES[0]))
    );
    model.peers[2].paths.clear();
    assert_ne!(
        world.knows(3, &net(PREFIXES[0])),
        model.expected(3, &net(PREFIXES[0]))
    );
}
