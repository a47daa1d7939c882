//! Restarts and refreshes: what is kept, what is marked, what goes (RFC 4724, RFC 9494, RFC 7313).

use super::fixtures::{
    ALL, V4, V6, announce, attributes, both_families, change, external_peer, from, messages, net,
    policy, refresh, rib_config, sent, told, transit, up,
};
use crate::rib::attributes::{GRACEFUL_SHUTDOWN, LLGR_STALE, NO_LLGR};
use crate::rib::{PeerInfo, PeerPolicy, PrefixWarning, Rib};
use crate::wire::{PathAttributes, RefreshKind};

#[test]
fn only_the_families_that_are_retained_stay_as_stale() {
    let mut rib = Rib::new(rib_config(), 1);
    let info = PeerInfo {
        context: both_families(),
        ..external_peer(1)
    };
    let peer = up(&mut rib, policy(), info);
    let six = PathAttributes {
        next_hop: "2001:db8::1".parse().unwrap(),
        ..attributes(&[1])
    };
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    rib.handle_update(peer, &announce(&["2001:db8:1::/48"], six))
        .unwrap();
    rib.poll_best_changes(ALL);
    rib.handle_peer_down(peer, &[V6]);
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
    assert_eq!(rib.stale(peer), 1);
    rib.handle_peer_up(peer, external_peer(1));
    assert_eq!(rib.stale(peer), 0, "the family is no longer spoken");
    assert_eq!(rib.poll_best_changes(ALL)[0].prefix, net("2001:db8:1::/48"));
}

#[test]
fn what_is_stale_for_long_is_marked_last_choice_and_kept_from_who_does_not_know() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    let other = up(&mut rib, policy(), external_peer(2));
    let plain = up(&mut rib, transit(), external_peer(3));
    let knows = up(
        &mut rib,
        transit(),
        PeerInfo {
            llgr_peer: true,
            ..external_peer(4)
        },
    );
    let refuses = PathAttributes {
        communities: vec![NO_LLGR],
        ..attributes(&[1])
    };
    rib.handle_update(
        peer,
        &announce(&["10.1.0.0/24", "10.3.0.0/24"], from([10, 0, 0, 1], &[1])),
    )
    .unwrap();
    rib.handle_update(peer, &announce(&["10.2.0.0/24"], refuses))
        .unwrap();
    rib.handle_update(
        other,
        &announce(&["10.3.0.0/24"], from([10, 0, 0, 2], &[2, 3, 4])),
    )
    .unwrap();
    rib.poll_best_changes(ALL);
    assert_eq!(told(&mut rib, plain).len(), 3);
    sent(&mut rib, plain);
    rib.handle_peer_down(peer, &[V4]);
    assert_eq!(rib.poll_best_changes(ALL), []);
    rib.mark_long_lived(peer, V4);
    let changes = rib.poll_best_changes(ALL);
    assert!(
        changes.contains(&change("10.2.0.0/24", &[])),
        "NO_LLGR goes"
    );
    assert!(
        changes.contains(&change("10.3.0.0/24", &[2])),
        "a longer path is better"
    );
    assert_eq!(told(&mut rib, plain), [net("10.3.0.0/24")]);
    assert_eq!(sent(&mut rib, plain)[0].withdrawn.len(), 2);
    assert_eq!(
        told(&mut rib, knows),
        [net("10.1.0.0/24"), net("10.3.0.0/24")]
    );
    let marked = rib.advertised(knows, 1)[0].1.communities.clone();
    assert_eq!(marked, [LLGR_STALE]);
    assert!(rib.routes(None, 1)[0].paths[0].long_lived_stale);
    rib.handle_peer_up(peer, external_peer(1));
    rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(&[1])))
        .unwrap();
    assert_eq!(told(&mut rib, plain).len(), 2, "fresh again");
    rib.sweep_stale(peer, None);
    assert_eq!((rib.stale(peer), rib.counts(peer).accepted), (0, 1));
}

#[test]
fn what_does_not_come_again_between_the_marks_of_a_refresh_goes() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.handle_update(
        peer,
        &announce(&["10.1.0.0/24", "10.2.0.0/24"], attributes(&[1])),
    )
    .unwrap();
    rib.poll_best_changes(ALL);
    rib.handle_route_refresh(peer, refresh(RefreshKind::Begin));
    rib.handle_update(
        peer,
        &announce(&["10.2.0.0/24", "10.3.0.0/24"], attributes(&[1])),
    )
    .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.3.0.0/24", &[1])]);
    rib.handle_route_refresh(peer, refresh(RefreshKind::End));
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[])]);
}

#[test]
fn a_refresh_asked_for_before_end_of_rib_is_answered_after_it() {
    let mut rib = Rib::new(rib_config(), 1);
    let mut info = PeerInfo {
        enhanced_refresh: true,
        ..external_peer(1)
    };
    info.context.enhanced_route_refresh = true;
    let context = info.context.clone();
    let peer = up(&mut rib, policy(), info);
    super::fixtures::originate(&mut rib, &["10.1.0.0/24"]);
    rib.handle_route_refresh(peer, refresh(RefreshKind::Request));
    let kinds: Vec<&str> = messages(&mut rib, peer, &context)
        .iter()
        .map(|message| match message {
            crate::wire::Message::Update(update) if update.end_of_rib.is_some() => "end of rib",
            crate::wire::Message::Update(_) => "update",
            crate::wire::Message::RouteRefresh(refresh) if refresh.kind == RefreshKind::Begin => {
                "begin"
            }
            _ => "end",
        })
        .collect();
    assert_eq!(kinds, ["update", "end of rib", "begin", "update", "end"]);
}

#[test]
fn a_path_that_is_about_to_go_is_the_last_choice() {
    let mut rib = Rib::new(rib_config(), 1);
    let [one, two] = [1, 2].map(|n| up(&mut rib, policy(), external_peer(n)));
    let going = PathAttributes {
        communities: vec![GRACEFUL_SHUTDOWN],
        ..from([10, 0, 0, 1], &[1])
    };
    rib.handle_update(one, &announce(&["10.1.0.0/24"], going))
        .unwrap();
    assert_eq!(
        rib.poll_best_changes(ALL),
        [change("10.1.0.0/24", &[1])],
        "better than none"
    );
    rib.handle_update(
        two,
        &announce(&["10.1.0.0/24"], from([10, 0, 0, 2], &[2, 2, 2])),
    )
    .unwrap();
    assert_eq!(rib.poll_best_changes(ALL), [change("10.1.0.0/24", &[2])]);
}

#[test]
fn a_warning_comes_once_until_there_are_fewer() {
    let mut rib = Rib::new(rib_config(), 1);
    let warned = PeerPolicy {
        max_prefixes: 4,
        warn_at: Some(2),
        ..policy()
    };
    let peer = up(&mut rib, warned, external_peer(1));
    let tell = |rib: &mut Rib, prefix| {
        rib.handle_update(peer, &announce(&[prefix], attributes(&[1])))
            .unwrap()
    };
    tell(&mut rib, "10.1.0.0/24");
    assert_eq!(rib.poll_warning(), None);
    tell(&mut rib, "10.2.0.0/24");
    tell(&mut rib, "10.3.0.0/24");
    let warning = PrefixWarning {
        peer,
        family: V4,
        held: 2,
        limit: 4,
    };
    assert_eq!(
        (rib.poll_warning(), rib.poll_warning()),
        (Some(warning), None)
    );
    rib.handle_update(
        peer,
        &super::fixtures::withdraw(&["10.2.0.0/24", "10.3.0.0/24"]),
    )
    .unwrap();
    tell(&mut rib, "10.2.0.0/24");
    assert_eq!(rib.poll_warning(), Some(warning));
}
