//! Best paths and Adj-RIBs-Out are a function of what is known now, not of the order in which it came.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::fixtures::{
    ALL, adj_rib_out, announce, attributes, external_peer, internal_peer, originate, rib_config,
    transit, withdraw,
};
use crate::rib::{BestChange, PeerId, Rib};
use crate::wire::{Nlri, Origin, PathAttributes};

const PREFIXES: [&str; 4] = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/16"];
const PEERS: u8 = 4;

#[derive(Clone, Debug)]
enum Event {
    Announce(usize, Box<PathAttributes>),
    Withdraw(usize),
    Restart,
    Originate(Vec<usize>),
}

fn path() -> impl Strategy<Value = PathAttributes> {
    (
        proptest::collection::vec(1u32..4, 0..3),
        prop_oneof![Just(None), (0u32..3).prop_map(Some)],
        prop_oneof![Just(None), (99u32..102).prop_map(Some)],
        any::<bool>(),
        1u8..4,
    )
        .prop_map(|(asns, med, local_pref, igp, hop)| PathAttributes {
            med,
            local_pref,
            origin: if igp { Origin::Igp } else { Origin::Incomplete },
            next_hop: Ipv4Addr::new(10, 9, 0, hop).into(),
            ..attributes(&asns)
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..PREFIXES.len(), path()).prop_map(|(p, a)| Event::Announce(p, Box::new(a))),
        2 => (0..PREFIXES.len()).prop_map(Event::Withdraw),
        1 => Just(Event::Restart),
    ]
}

/// One queue per peer, and last the one of what we originate; within a queue the order is kept.
fn queues() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let peers = proptest::collection::vec(proptest::collection::vec(event(), 0..8), 4);
    let own = proptest::collection::vec(0..PREFIXES.len(), 0..2);
    (peers, own).prop_map(|(mut peers, own)| {
        peers.push(vec![Event::Originate(own)]);
        peers
    })
}

type Outcome = (Vec<BestChange>, Vec<BTreeMap<Nlri, PathAttributes>>);

fn run(queues: &[Vec<Event>], picks: &[usize], drain: bool) -> Outcome {
    let mut rib = Rib::new(rib_config(), picks.len() as u64);
    let ids: Vec<PeerId> = (0..PEERS).map(|_| rib.add_peer(transit())).collect();
    for n in 0..PEERS {
        bring_up(&mut rib, &ids, n);
    }
    let mut left: Vec<VecDeque<Event>> = queues.iter().cloned().map(VecDeque::from).collect();
    let mut picks = picks.iter().cycle();
    while left.iter().any(|queue| !queue.is_empty()) {
        let pick = picks.next().unwrap() % left.len();
        let nonempty = (0..left.len()).map(|n| (pick + n) % left.len());
        let queue = nonempty.clone().find(|&n| !left[n].is_empty()).unwrap();
        let event = left[queue].pop_front().unwrap();
        apply(&mut rib, &ids, queue, event);
        if drain {
            rib.poll_best_changes(ALL);
            rib.poll_transmit(ids[pick % ids.len()], 1_000);
        }
    }
    let out = ids.iter().map(|id| adj_rib_out(&mut rib, *id)).collect();
    (rib.learned(), out)
}

fn bring_up(rib: &mut Rib, ids: &[PeerId], n: u8) {
    let info = if n < 2 {
        internal_peer(n + 1)
    } else {
        external_peer(n + 1)
    };
    rib.handle_peer_up(ids[usize::from(n)], info);
}

fn apply(rib: &mut Rib, ids: &[PeerId], queue: usize, event: Event) {
    match event {
        Event::Announce(prefix, attributes) => {
            rib.handle_update(ids[queue], &announce(&[PREFIXES[prefix]], *attributes))
                .unwrap();
        }
        Event::Withdraw(prefix) => {
            rib.handle_update(ids[queue], &withdraw(&[PREFIXES[prefix]]))
                .unwrap();
        }
        Event::Restart => {
            rib.handle_peer_down(ids[queue], &[]);
            bring_up(rib, ids, u8::try_from(queue).unwrap());
        }
        Event::Originate(own) => {
            let own: Vec<_> = own.into_iter().map(|n| PREFIXES[n]).collect();
            originate(rib, &own);
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_the_same_events_gives_the_same_routes(
        queues in queues(),
        one in proptest::collection::vec(any::<usize>(), 1..16),
        other in proptest::collection::vec(any::<usize>(), 1..16),
    ) {
        let reference = run(&queues, &one, false);
        prop_assert_eq!(&run(&queues, &other, false), &reference);
        prop_assert_eq!(&run(&queues, &other, true), &reference, "drained on the way");
    }
}
