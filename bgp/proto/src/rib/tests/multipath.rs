//! Paths that are used side by side, and the gateways they go through.

use super::fixtures::{
    ALL, V6, announce, both_families, change, external_peer, from, hop, internal_peer, net, policy,
    rib_config, up,
};
use crate::rib::{Multipath, NextHop, NextHopState, PeerId, PeerInfo, Rib, RibConfig};
use crate::wire::PathAttributes;

fn spread(change: impl FnOnce(&mut Multipath)) -> Rib {
    let mut multipath = Multipath {
        max_paths: 8,
        ..Multipath::default()
    };
    change(&mut multipath);
    Rib::new(
        RibConfig {
            multipath,
            ..rib_config()
        },
        1,
    )
}

fn tell(rib: &mut Rib, peer: PeerId, attributes: PathAttributes) {
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes))
        .unwrap();
}

#[test]
fn paths_that_tie_before_the_last_steps_are_used_side_by_side() {
    let mut rib = spread(|_| {});
    let peers = [1, 2, 3].map(|n| up(&mut rib, policy(), external_peer(n)));
    for (n, peer) in (1..).zip(peers) {
        tell(&mut rib, peer, from([10, 0, 0, n], &[7]));
    }
    assert_eq!(
        rib.poll_best_changes(ALL),
        [change("10.1.0.0/24", &[1, 2, 3])]
    );
    tell(&mut rib, peers[1], from([10, 0, 0, 2], &[7, 7]));
    assert_eq!(
        rib.poll_best_changes(ALL),
        [change("10.1.0.0/24", &[1, 3])],
        "longer"
    );
    let views = rib.routes(None, 10);
    let used: Vec<(bool, bool)> = views[0]
        .paths
        .iter()
        .map(|path| (path.best, path.multipath))
        .collect();
    assert_eq!(used, [(true, false), (false, true), (false, false)]);
    rib.set_config(rib_config());
    assert_eq!(
        rib.poll_best_changes(ALL),
        [change("10.1.0.0/24", &[1])],
        "off again"
    );
}

#[test]
fn other_neighbours_are_used_too_only_if_that_is_relaxed() {
    for (relax, hops) in [(false, &[1][..]), (true, &[1, 2])] {
        let mut rib = spread(|multipath| multipath.as_path_relax = relax);
        for n in [1, 2] {
            let peer = up(&mut rib, policy(), external_peer(n));
            tell(
                &mut rib,
                peer,
                from([10, 0, 0, n], &[65_000 + u32::from(n)]),
            );
        }
        assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", hops)]);
    }
}

#[test]
fn no_more_paths_than_asked_for_and_always_the_same_ones() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let mut rib = spread(|multipath| multipath.max_paths = 2);
        let peers = [1, 2, 3].map(|n| up(&mut rib, policy(), external_peer(n)));
        for n in order {
            tell(
                &mut rib,
                peers[usize::from(n) - 1],
                from([10, 0, 0, n], &[7]),
            );
        }
        assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1, 2])]);
    }
}

#[test]
fn external_and_internal_paths_are_never_mixed() {
    let mut rib = spread(|_| {});
    let outside = up(&mut rib, policy(), external_peer(1));
    let inside = up(&mut rib, policy(), internal_peer(2));
    tell(&mut rib, inside, from([10, 0, 0, 2], &[7]));
    tell(&mut rib, outside, from([10, 0, 0, 1], &[7]));
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
}

#[test]
fn link_bandwidths_become_weights_if_every_path_has_one() {
    let mut rib = spread(|multipath| multipath.link_bandwidth = true);
    let with = |n: u8, gigabits: f32| PathAttributes {
        extended_communities: vec![0x4004 << 48 | u64::from((gigabits * 1.25e8).to_bits())],
        ..from([10, 0, 0, n], &[7])
    };
    let peers = [1, 2].map(|n| up(&mut rib, policy(), external_peer(n)));
    tell(&mut rib, peers[0], with(1, 10.0));
    tell(&mut rib, peers[1], with(2, 30.0));
    let weighted = [
        hop(1),
        NextHop {
            weight: 3,
            ..hop(2)
        },
    ];
    assert_eq!(rib.poll_best_changes(ALL)[0].next_hops[..], weighted);
    tell(&mut rib, peers[1], from([10, 0, 0, 2], &[7]));
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1, 2])]);
}

#[test]
fn a_path_through_an_unreachable_gateway_is_not_used_and_cost_decides() {
    let mut rib = Rib::new(rib_config(), 1);
    let peers = [1, 2].map(|n| up(&mut rib, policy(), internal_peer(n)));
    for (n, peer) in (1..).zip(peers) {
        tell(&mut rib, peer, from([10, 0, 0, n], &[7]));
    }
    let one = [10, 0, 0, 1].into();
    assert_eq!(rib.next_hops(), [one, [10, 0, 0, 2].into()].into());
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    rib.handle_next_hop(one, NextHopState::Reachable { igp_cost: 5 });
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
    rib.handle_next_hop(one, NextHopState::Reachable { igp_cost: 0 });
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    rib.handle_next_hop(one, NextHopState::Unreachable);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
    rib.handle_next_hop([10, 0, 0, 2].into(), NextHopState::Unreachable);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
}

#[test]
fn an_unnumbered_peer_is_a_gateway_by_its_link_local_address_and_link() {
    let mut rib = Rib::new(rib_config(), 1);
    let info = PeerInfo {
        local_address: "fe80::100".parse().unwrap(),
        local_link_local: Some("fe80::100".parse().unwrap()),
        link: Some(7),
        context: both_families(),
        ..external_peer(1)
    };
    assert!(info.context.families.contains(&V6));
    let peer = up(&mut rib, policy(), info);
    let both = PathAttributes {
        next_hop: "2001:db8::1".parse().unwrap(),
        link_local_next_hop: Some("fe80::1".parse().unwrap()),
        ..from([10, 0, 0, 1], &[7])
    };
    tell(&mut rib, peer, both);
    let [change] = &rib.poll_best_changes(ALL)[..] else {
        panic!()
    };
    let gateway = NextHop {
        address: "fe80::1".parse().unwrap(),
        link: Some(7),
        weight: 1,
    };
    assert_eq!(
        (change.prefix, &change.next_hops[..]),
        (net("10.1.0.0/24"), &[gateway][..])
    );
}
