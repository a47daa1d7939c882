//! Several paths of a prefix, both ways (RFC 7911).

use std::collections::BTreeMap;

use super::fixtures::{
    ALL, V4, change, context, exporting, external_peer, from, learn, nlri, originate, path, policy,
    rib_config, sent_in, up,
};
use crate::rib::{PeerInfo, Rib};
use crate::wire::{Update, WireContext};

fn sends_ids() -> PeerInfo {
    let mut info = external_peer(1);
    info.context.add_path_receive = vec![V4];
    info
}

fn takes_ids() -> WireContext {
    WireContext {
        add_path_send: vec![V4],
        ..context()
    }
}

fn withdrawal(prefix: &str, path_id: u32) -> Update {
    Update {
        withdrawn: vec![nlri(prefix, path_id)],
        ..Update::default()
    }
}

#[test]
fn paths_of_one_peer_are_told_apart_by_their_identifiers_zero_included() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), sends_ids());
    for (id, hop) in [(0, 7), (5, 8)] {
        rib.handle_update(
            peer,
            &path("10.1.0.0/24", id, from([10, 0, 0, hop], &[65_001])),
        )
        .unwrap();
    }
    assert_eq!(rib.counts(peer).accepted, 2);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[7])]);
    rib.handle_update(peer, &withdrawal("10.1.0.0/24", 0))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[8])]);
    rib.handle_update(peer, &withdrawal("10.1.0.0/24", 7))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [], "never announced");
    rib.handle_update(peer, &withdrawal("10.1.0.0/24", 5))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
    assert_eq!(rib.sizes(), (0, 0));
}

#[test]
fn the_best_so_many_are_sent_with_identifiers_that_stay_and_are_withdrawn_by_them() {
    let mut rib = Rib::new(rib_config(), 1);
    let feeds = [1, 2, 3].map(|n| up(&mut rib, policy(), external_peer(n)));
    let to = up(
        &mut rib,
        exporting(|export| {
            export.transit = true;
            export.add_path = 2;
        }),
        PeerInfo {
            context: takes_ids(),
            ..external_peer(9)
        },
    );
    let announce = |rib: &mut Rib, n: usize, length: usize| {
        let asns = vec![65_001 + n as u32; length];
        let update = path("10.1.0.0/24", 0, from([10, 0, 0, 1], &asns));
        rib.handle_update(feeds[n], &update).unwrap();
    };
    announce(&mut rib, 0, 3);
    announce(&mut rib, 1, 2);
    announce(&mut rib, 2, 4);
    let mut known = BTreeMap::new();
    learn(&mut known, sent_in(&mut rib, to, &takes_ids()));
    let lengths = |known: &BTreeMap<_, crate::wire::PathAttributes>| -> Vec<usize> {
        let of = |known: &crate::wire::PathAttributes| known.as_path[0].asns.len() - 1;
        known.values().map(of).collect()
    };
    assert_eq!(
        lengths(&known),
        [3, 2],
        "by identifier, in the order in which they came"
    );
    let before: Vec<_> = known.keys().copied().collect();
    // The third becomes the best, the first drops out; the second keeps its identifier and is not sent again.
    announce(&mut rib, 2, 1);
    let updates = sent_in(&mut rib, to, &takes_ids());
    let announced: Vec<_> = updates
        .iter()
        .flat_map(|update| &update.announced)
        .collect();
    assert_eq!(announced.len(), 1);
    assert!(!before.contains(announced[0]));
    learn(&mut known, updates);
    assert_eq!(lengths(&known), [2, 1]);
    rib.handle_peer_down(feeds[1], &[]);
    learn(&mut known, sent_in(&mut rib, to, &takes_ids()));
    assert_eq!(lengths(&known), [3, 1], "the next best moves up");
    originate(&mut rib, &["10.1.0.0/24"]);
    for feed in feeds {
        rib.handle_peer_down(feed, &[]);
    }
    learn(&mut known, sent_in(&mut rib, to, &takes_ids()));
    assert_eq!(known.len(), 1);
    originate(&mut rib, &[]);
    learn(&mut known, sent_in(&mut rib, to, &takes_ids()));
    assert!(known.is_empty());
}

#[test]
fn a_peer_that_announces_ever_more_paths_of_one_prefix_is_not_listened_to() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), sends_ids());
    for id in 1..=1_000 {
        let update = path("10.1.0.0/24", id, from([10, 0, 0, 7], &[65_001]));
        rib.handle_update(peer, &update).unwrap();
    }
    assert_eq!(rib.counts(peer).accepted, 64);
    rib.handle_update(peer, &withdrawal("10.1.0.0/24", 1))
        .unwrap();
    rib.handle_update(peer, &withdrawal("10.1.0.0/24", 999))
        .unwrap();
    assert_eq!(rib.counts(peer).accepted, 63);
}
