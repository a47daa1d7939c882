//! What is taken from peers, what is kept, what goes when a session goes.

use super::fixtures::{
    ALL, V4, announce, attributes, change, end_of_rib, external_peer, from, importing,
    internal_peer, net, nets, originate, policy, rib_config, told, up, withdraw,
};
use crate::filter::{Action, Community, FilterChain, Match, Operation, Rule};
use crate::rib::{Originated, PeerInfo, PeerPolicy, Rib, Verdict};
use crate::wire::{Asn, PathAttributes, Role};

#[test]
fn an_announcement_replaces_the_one_before_it() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], from([10, 0, 0, 1], &[1])))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    rib.handle_update(
        peer,
        &announce(&["10.1.0.0/24"], from([10, 0, 0, 2], &[1, 2])),
    )
    .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
    assert_eq!(rib.counts(peer).accepted, 1);
    rib.handle_update(peer, &withdraw(&["10.1.0.0/24"]))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
    assert_eq!(rib.sizes(), (0, 0), "nothing is left behind");
}

#[test]
fn changes_are_given_once_and_only_where_the_next_hop_changed() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    for asns in [&[1][..], &[1, 2], &[1]] {
        let update = announce(&["10.1.0.0/24"], from([10, 0, 0, 1], asns));
        rib.handle_update(peer, &update).unwrap();
    }
    assert_eq!(rib.poll_best_changes(ALL).len(), 1);
    rib.handle_update(
        peer,
        &announce(&["10.1.0.0/24"], from([10, 0, 0, 1], &[1, 9])),
    )
    .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), []);
}

#[test]
fn a_peer_that_goes_takes_its_paths_along() {
    let mut rib = Rib::new(rib_config(), 1);
    let a = up(&mut rib, policy(), external_peer(1));
    let b = up(&mut rib, policy(), external_peer(2));
    rib.handle_update(a, &announce(&["10.1.0.0/24"], from([10, 0, 0, 1], &[1])))
        .unwrap();
    rib.handle_update(b, &announce(&["10.1.0.0/24"], from([10, 0, 0, 2], &[2, 3])))
        .unwrap();
    rib.poll_best_changes(ALL);
    rib.handle_peer_down(a, &[]);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
    rib.remove_peer(b);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
    assert_eq!(rib.sizes(), (0, 0));
}

#[test]
fn a_late_event_of_a_removed_peer_hits_nobody() {
    let mut rib = Rib::new(rib_config(), 1);
    let old = up(&mut rib, policy(), external_peer(1));
    rib.remove_peer(old);
    let new = up(&mut rib, policy(), external_peer(2));
    rib.handle_update(old, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    rib.handle_peer_down(old, &[]);
    assert_eq!(rib.counts(new).accepted, 0);
    assert!(rib.poll_transmit(old, 100).is_none());
    assert!(rib.poll_transmit(new, 100).is_some());
}

#[test]
fn stale_paths_stay_until_end_of_rib_and_no_longer() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    let both = announce(&["10.1.0.0/24", "10.2.0.0/24"], attributes(&[1]));
    rib.handle_update(peer, &both).unwrap();
    rib.poll_best_changes(ALL);
    rib.handle_peer_down(peer, &[V4]);
    assert_eq!(rib.poll_best_changes(ALL), [], "they keep forwarding");
    rib.handle_peer_up(peer, external_peer(1));
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), []);
    rib.handle_update(peer, &end_of_rib()).unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.2.0.0/24", &[])]);
}

#[test]
fn what_is_still_stale_when_the_session_is_lost_again_goes() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    rib.handle_peer_down(peer, &[V4]);
    rib.handle_peer_up(peer, external_peer(1));
    rib.handle_peer_down(peer, &[V4]);
    assert_eq!(rib.learned(), []);
}

#[test]
fn loops_and_our_own_next_hop_are_not_used() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), internal_peer(1));
    let mut reflected = attributes(&[1]);
    reflected.originator_id = Some(rib_config().router_id);
    for bad in [
        attributes(&[1, 64_513]),
        reflected,
        from([10, 0, 0, 100], &[1]),
    ] {
        rib.handle_update(peer, &announce(&["10.1.0.0/24"], bad))
            .unwrap();
        assert_eq!(rib.learned(), []);
    }
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    assert_eq!(
        rib.learned().len(),
        1,
        "and it is used again when the loop is gone"
    );
}

#[test]
fn an_external_peer_gives_no_default_route_and_nothing_inside_our_own_nets() {
    let offered = [
        "0.0.0.0/0",
        "10.244.1.0/24",
        "10.244.1.7/32",
        "10.244.0.0/16",
        "192.0.2.0/24",
    ];
    let guarded = importing(|import| {
        import.reject = nets(&["10.244.1.0/24"]);
        import.reject_default_route = true;
    });
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, guarded.clone(), external_peer(1));
    rib.handle_update(peer, &announce(&offered, attributes(&[1])))
        .unwrap();
    let taken: Vec<_> = rib
        .learned()
        .into_iter()
        .map(|route| route.prefix)
        .collect();
    assert_eq!(taken, [net("10.244.0.0/16"), net("192.0.2.0/24")]);
    assert_eq!(
        (rib.counts(peer).accepted, rib.counts(peer).rejected),
        (2, 3)
    );
    let inside = up(&mut rib, guarded, internal_peer(2));
    rib.handle_update(inside, &announce(&offered, attributes(&[1])))
        .unwrap();
    assert_eq!(
        rib.counts(inside).accepted,
        5,
        "an internal peer is trusted"
    );
}

#[test]
fn a_changed_import_rule_judges_again_without_a_reset() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.handle_update(peer, &announce(&["10.244.1.0/24"], attributes(&[1])))
        .unwrap();
    rib.poll_best_changes(ALL);
    let guarded = importing(|import| import.reject = nets(&["10.244.0.0/16"]));
    rib.handle_policy(peer, guarded);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.244.1.0/24", &[])]);
    assert_eq!(rib.counts(peer).rejected, 1);
    rib.handle_policy(peer, policy());
    assert_eq!(rib.poll_best_changes(ALL), [change("10.244.1.0/24", &[1])]);
}

#[test]
fn one_prefix_too_many_ends_the_session() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(
        &mut rib,
        PeerPolicy {
            max_prefixes: 2,
            ..policy()
        },
        external_peer(1),
    );
    let two = announce(&["10.1.0.0/24", "10.2.0.0/24"], attributes(&[1]));
    rib.handle_update(peer, &two).unwrap();
    rib.handle_update(peer, &two)
        .expect("the same ones again are no more");
    let cease = rib
        .handle_update(peer, &announce(&["10.3.0.0/24"], attributes(&[1])))
        .unwrap_err();
    assert_eq!(
        (cease.code, cease.subcode, &cease.data[..]),
        (6, 1, &[0, 1, 1, 0, 0, 0, 2][..])
    );
}

#[test]
fn a_node_is_no_transit() {
    let mut rib = Rib::new(rib_config(), 1);
    let feed = up(&mut rib, policy(), external_peer(1));
    let other = up(&mut rib, policy(), external_peer(2));
    let inside = up(&mut rib, policy(), internal_peer(3));
    originate(&mut rib, &["10.244.1.0/24"]);
    rib.handle_update(feed, &announce(&["192.0.2.0/24"], attributes(&[1])))
        .unwrap();
    for peer in [feed, other, inside] {
        assert_eq!(told(&mut rib, peer), [net("10.244.1.0/24")]);
    }
}

#[test]
fn what_we_originate_is_ours_even_if_a_peer_announces_it_better() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), internal_peer(1));
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[])))
        .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    originate(&mut rib, &["10.1.0.0/24"]);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
}

#[test]
fn what_the_session_says_makes_a_peer_internal() {
    let strict = importing(|import| import.reject_default_route = true);
    for (external, taken) in [(true, 0), (false, 1)] {
        let mut rib = Rib::new(rib_config(), 1);
        let info = PeerInfo {
            external,
            ..external_peer(1)
        };
        let peer = up(&mut rib, strict.clone(), info);
        rib.handle_update(peer, &announce(&["0.0.0.0/0"], attributes(&[1])))
            .unwrap();
        assert_eq!(rib.counts(peer).accepted, taken);
    }
}

fn verdict(policy: PeerPolicy, info: PeerInfo, attributes: PathAttributes) -> Verdict {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy, info);
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes))
        .unwrap();
    rib.received(peer, 1)[0].2
}

#[test]
fn our_own_as_is_a_loop_beyond_what_is_allowed() {
    let us = rib_config().asn.0;
    for (allowed, asns, expected) in [
        (0, &[1, us][..], Verdict::AsLoop),
        (1, &[1, us], Verdict::Accepted),
        (1, &[us, us], Verdict::AsLoop),
        (2, &[us, us], Verdict::Accepted),
    ] {
        let policy = importing(|import| import.allow_own_as = allowed);
        assert_eq!(
            verdict(policy, external_peer(1), attributes(asns)),
            expected
        );
    }
}

#[test]
fn a_route_reflected_by_our_cluster_is_a_loop() {
    let mut reflected = attributes(&[1]);
    reflected.cluster_list = vec![[9; 4].into(), rib_config().cluster_id];
    assert_eq!(
        verdict(policy(), internal_peer(1), reflected),
        Verdict::ReflectionLoop
    );
}

#[test]
fn the_path_begins_with_the_peers_as_where_that_is_asked_for() {
    let strict = importing(|import| import.enforce_first_as = true);
    for (asns, expected) in [
        (&[65_001, 5][..], Verdict::Accepted),
        (&[5, 65_001], Verdict::FirstAs),
        (&[], Verdict::FirstAs),
    ] {
        let found = verdict(strict.clone(), external_peer(1), attributes(asns));
        assert_eq!(found, expected);
    }
    let inside = verdict(strict, internal_peer(1), attributes(&[]));
    assert_eq!(inside, Verdict::Accepted);
}

#[test]
fn routes_that_leak_are_not_taken_and_others_are_marked() {
    let marked = |asn: u32| PathAttributes {
        only_to_customer: Some(Asn(asn)),
        ..attributes(&[65_001])
    };
    for (role, from_peer, from_other, marks) in [
        (Role::Provider, false, false, false),
        (Role::RouteServer, false, false, false),
        (Role::Peer, true, false, true),
        (Role::Customer, true, true, true),
        (Role::RouteServerClient, true, true, true),
    ] {
        let info = PeerInfo {
            role: Some(role),
            ..external_peer(1)
        };
        let taken = |attributes| verdict(policy(), info.clone(), attributes) == Verdict::Accepted;
        assert_eq!(taken(marked(65_001)), from_peer, "{role:?}");
        assert_eq!(taken(marked(3)), from_other, "{role:?}");
        let mut rib = Rib::new(rib_config(), 1);
        let peer = up(&mut rib, policy(), info);
        rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[65_001])))
            .unwrap();
        let held = rib.routes(None, 1)[0].paths[0].attributes.only_to_customer;
        assert_eq!(held, marks.then_some(Asn(65_001)), "{role:?}");
    }
}

#[test]
fn filters_decide_before_the_safe_defaults_and_exceptions_are_exact() {
    let rule = |action| Rule {
        matches: Match {
            communities: vec![Community::Standard(7)],
            ..Match::default()
        },
        action,
    };
    let guarded = importing(|import| {
        import.reject = nets(&["10.0.0.0/8"]);
        import.accept_inside = nets(&["10.1.0.9/32"]);
        let operations = vec![Operation::SetLocalPref(300)];
        import.filters = FilterChain::new([("in", vec![rule(Action::Accept(operations))])]);
    });
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, guarded, external_peer(1));
    let bears = PathAttributes {
        communities: vec![7],
        ..attributes(&[1])
    };
    rib.handle_update(peer, &announce(&["10.2.0.0/24"], bears))
        .unwrap();
    let plain = ["10.1.0.9/32", "10.1.0.8/32", "10.1.0.0/24"];
    rib.handle_update(peer, &announce(&plain, attributes(&[1])))
        .unwrap();
    let routes = rib.routes(None, 9);
    let taken: Vec<_> = routes
        .iter()
        .filter(|route| route.paths[0].best)
        .map(|route| (route.prefix, route.paths[0].attributes.local_pref))
        .collect();
    assert_eq!(
        taken,
        [(net("10.1.0.9/32"), None), (net("10.2.0.0/24"), Some(300))]
    );
}

#[test]
fn an_import_filter_that_changes_what_it_sets_has_all_paths_judged_again() {
    let sets = |local_pref| {
        importing(|import| {
            let action = Action::Accept(vec![Operation::SetLocalPref(local_pref)]);
            let matches = Match::default();
            import.filters = FilterChain::new([("in", vec![Rule { matches, action }])]);
        })
    };
    let mut rib = Rib::new(rib_config(), 1);
    let [one, two] = [1, 2].map(|n| up(&mut rib, policy(), external_peer(n)));
    for (n, peer) in [(1, one), (2, two)] {
        rib.handle_update(peer, &announce(&["10.1.0.0/24"], from([10, 0, 0, n], &[1])))
            .unwrap();
    }
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    rib.handle_policy(two, sets(200));
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
    rib.handle_policy(one, sets(300));
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[1])]);
    rib.handle_policy(one, policy());
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
}

#[test]
fn how_a_prefix_is_originated_is_what_peers_are_told() {
    let mut rib = Rib::new(rib_config(), 1);
    let inside = up(&mut rib, policy(), internal_peer(1));
    let how = Originated {
        communities: vec![7],
        local_pref: Some(50),
        med: Some(3),
        ..Originated::default()
    };
    rib.set_originated(&[(net("10.1.0.0/24"), how)].into());
    let told = rib.advertised(inside, 1)[0].1.clone();
    assert_eq!(
        (&told.communities[..], told.local_pref, told.med),
        (&[7][..], Some(50), Some(3))
    );
    originate(&mut rib, &["10.1.0.0/24"]);
    let told = rib.advertised(inside, 1)[0].1.clone();
    assert_eq!((told.local_pref, told.med), (Some(100), None));
}
