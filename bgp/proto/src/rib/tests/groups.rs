//! Update groups: members at different places in one stream, members that come, move and lag.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};

use super::fixtures::{
    ALL, V4, adj_rib_out, announce, attributes, context, exporting, external_peer, internal_peer,
    learn, messages, net, nets, originate, own, policy, refresh, rib_config, sent, told, transit,
    up, withdraw,
};
use crate::rib::attributes::GRACEFUL_SHUTDOWN;
use crate::rib::{PeerId, PeerInfo, Rib};
use crate::wire::{Message, Nlri, PathAttributes, RefreshKind, RouteRefresh, Update};

fn feed(rib: &mut Rib, peer: PeerId, prefixes: std::ops::Range<u32>, asns: &[u32]) {
    let prefix = |n: u32| IpNet::V4(Ipv4Net::new((0x0100_0000 + (n << 8)).into(), 24).unwrap());
    let all: Vec<Nlri> = prefixes.map(|n| prefix(n).into()).collect();
    for some in all.chunks(500) {
        let update = Update {
            announced: some.to_vec(),
            ..announce(&[], attributes(asns))
        };
        rib.handle_update(peer, &update).unwrap();
    }
}

#[test]
fn peers_that_are_sent_the_same_share_a_group_and_its_octets() {
    let mut rib = Rib::new(rib_config(), 1);
    let [one, two] = [1, 2].map(|n| up(&mut rib, transit(), external_peer(n)));
    let other = up(&mut rib, policy(), external_peer(3));
    let group = |rib: &Rib, id| rib.peers.with_id(id).unwrap().group;
    assert_eq!(group(&rib, one), group(&rib, two));
    assert_ne!(group(&rib, one), group(&rib, other));
    originate(&mut rib, &["10.1.0.0/24"]);
    let first = rib.poll_transmit(one, ALL).unwrap();
    let second = rib.poll_transmit(two, ALL).unwrap();
    assert_eq!(first.as_ptr(), second.as_ptr(), "encoded once");
}

#[test]
fn a_route_is_not_sent_back_and_is_withdrawn_from_who_becomes_its_source() {
    let mut rib = Rib::new(rib_config(), 1);
    let [one, two, three] = [1, 2, 3].map(|n| up(&mut rib, transit(), external_peer(n)));
    rib.handle_update(one, &announce(&["10.1.0.0/24"], attributes(&[65_001, 5])))
        .unwrap();
    let all = [one, two, three];
    let told_now = |rib: &mut Rib| all.map(|id| told(rib, id).len());
    let mut known = [(); 3].map(|()| BTreeMap::new());
    let mut drain = |rib: &mut Rib| {
        for (known, id) in known.iter_mut().zip(all) {
            learn(known, sent(rib, id));
        }
        [0, 1, 2].map(|n: usize| known[n].len())
    };
    assert_eq!(drain(&mut rib), [0, 1, 1]);
    rib.handle_update(two, &announce(&["10.1.0.0/24"], attributes(&[65_002])))
        .unwrap();
    assert_eq!(
        drain(&mut rib),
        [1, 0, 1],
        "the better one comes from the second"
    );
    assert_eq!(told_now(&mut rib), [1, 0, 1]);
    rib.handle_update(two, &withdraw(&["10.1.0.0/24"])).unwrap();
    assert_eq!(drain(&mut rib), [0, 1, 1]);
    rib.handle_peer_down(one, &[]);
    rib.handle_peer_up(one, external_peer(1));
    assert_eq!(drain(&mut rib)[1..], [0, 0]);
}

#[test]
fn who_comes_late_is_told_all_and_end_of_rib_last() {
    let mut rib = Rib::new(rib_config(), 1);
    let source = up(&mut rib, policy(), external_peer(1));
    let early = up(&mut rib, transit(), external_peer(2));
    feed(&mut rib, source, 0..20_000, &[65_001]);
    let mut first = BTreeMap::new();
    learn(&mut first, sent(&mut rib, early));
    let late = up(&mut rib, transit(), external_peer(3));
    let part = rib.poll_transmit(late, 1_000);
    assert!(part.is_some());
    // What changes while it is being told is told too, whether it was passed already or not.
    feed(&mut rib, source, 0..10, &[65_001, 9]);
    feed(&mut rib, source, 15_000..15_010, &[65_001, 9]);
    learn(&mut first, sent(&mut rib, early));
    let mut decoder = crate::wire::Decoder::default();
    decoder.push(&part.unwrap());
    while let Some(bytes) = rib.poll_transmit(late, 1_000) {
        decoder.push(&bytes);
    }
    let updates: Vec<Update> = std::iter::from_fn(|| decoder.next(&context()).unwrap())
        .map(|message| match message {
            Message::Update(update) => update,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(updates.last().unwrap().end_of_rib, Some(V4));
    let mut second = BTreeMap::new();
    learn(&mut second, updates);
    assert_eq!(first.len(), 20_000);
    assert!(first == second);
}

#[test]
fn a_slow_member_slows_nobody_and_is_told_the_last_word_of_each_prefix() {
    let mut rib = Rib::new(rib_config(), 1);
    let source = up(&mut rib, policy(), external_peer(1));
    let [quick, slow] = [2, 3].map(|n| up(&mut rib, transit(), external_peer(n)));
    feed(&mut rib, source, 0..60_000, &[65_001]);
    let mut known = [BTreeMap::new(), BTreeMap::new()];
    learn(
        &mut known[1],
        rib.poll_transmit(slow, 1_000).into_iter().flat_map(decoded),
    );
    // Six times all of it: far more than is kept for those who lag.
    for round in 1..7 {
        feed(&mut rib, source, 0..60_000, &[65_001, round]);
        learn(&mut known[0], sent(&mut rib, quick));
    }
    let gone = Update {
        withdrawn: known[0].keys().take(100).copied().collect(),
        ..Update::default()
    };
    rib.handle_update(source, &gone).unwrap();
    learn(&mut known[0], sent(&mut rib, quick));
    let told_slow = sent(&mut rib, slow);
    let announced: usize = told_slow.iter().map(|update| update.announced.len()).sum();
    assert!(announced <= 60_000, "each prefix once, not {announced}");
    learn(&mut known[1], told_slow);
    assert_eq!(known[0].len(), 59_900);
    assert!(known[0] == known[1]);
}

fn decoded(bytes: bytes::Bytes) -> Vec<Update> {
    let mut decoder = crate::wire::Decoder::default();
    decoder.push(&bytes);
    std::iter::from_fn(|| decoder.next(&context()).unwrap())
        .filter_map(|message| match message {
            Message::Update(update) => Some(update),
            _ => None,
        })
        .collect()
}

#[test]
fn a_changed_export_policy_sends_only_what_differs() {
    let mut rib = Rib::new(rib_config(), 1);
    let source = up(&mut rib, policy(), external_peer(1));
    let [one, two] = [2, 3].map(|n| up(&mut rib, transit(), external_peer(n)));
    originate(&mut rib, &["10.244.1.0/24"]);
    rib.handle_update(
        source,
        &announce(&["10.1.0.0/24"], attributes(&[65_001, 64_600])),
    )
    .unwrap();
    let mut known: BTreeMap<Nlri, PathAttributes> = BTreeMap::new();
    learn(&mut known, sent(&mut rib, one));
    sent(&mut rib, two);
    let cleaned = exporting(|export| {
        export.transit = true;
        export.remove_private_as = true;
    });
    rib.handle_policy(one, cleaned.clone());
    let updates = sent(&mut rib, one);
    let announced: Vec<_> = updates
        .iter()
        .flat_map(|update| &update.announced)
        .collect();
    assert_eq!(
        announced,
        [&net("10.1.0.0/24").into()],
        "its own route is as it was"
    );
    learn(&mut known, updates);
    assert_eq!(known, adj_rib_out(&mut rib, one));
    assert_eq!(sent(&mut rib, two), [], "the other is told nothing");
    // Into a group that is there already, and out of it: deny and permit again.
    rib.handle_policy(two, cleaned);
    assert_eq!(sent(&mut rib, two).len(), 1);
    assert_eq!(adj_rib_out(&mut rib, one), adj_rib_out(&mut rib, two));
    rib.handle_policy(two, policy());
    let updates = sent(&mut rib, two);
    assert_eq!(updates[0].withdrawn, [net("10.1.0.0/24").into()]);
    assert_eq!(
        (updates.len(), told(&mut rib, two)),
        (1, vec![net("10.244.1.0/24")])
    );
}

#[test]
fn on_the_way_out_all_is_sent_again_with_the_community_and_back_without() {
    let mut rib = Rib::new(rib_config(), 1);
    let peers = [
        up(&mut rib, policy(), external_peer(1)),
        up(&mut rib, policy(), internal_peer(2)),
    ];
    originate(&mut rib, &["10.244.1.0/24"]);
    for id in peers {
        sent(&mut rib, id);
    }
    for (on, communities) in [(true, vec![GRACEFUL_SHUTDOWN]), (false, vec![])] {
        rib.set_graceful_shutdown(on);
        for id in peers {
            let updates = sent(&mut rib, id);
            let [update] = &updates[..] else {
                panic!("{updates:?}")
            };
            assert_eq!(update.attributes.as_ref().unwrap().communities, communities);
        }
    }
}

#[test]
fn an_enhanced_refresh_is_framed_and_an_ordinary_one_is_not() {
    for enhanced in [true, false] {
        let mut rib = Rib::new(rib_config(), 1);
        let mut info = PeerInfo {
            enhanced_refresh: enhanced,
            ..external_peer(1)
        };
        info.context.enhanced_route_refresh = enhanced;
        let context = info.context.clone();
        let peer = up(&mut rib, policy(), info);
        originate(&mut rib, &["10.1.0.0/24"]);
        messages(&mut rib, peer, &context);
        rib.handle_route_refresh(peer, refresh(RefreshKind::Request));
        let all = messages(&mut rib, peer, &context);
        let frame = |kind| Message::RouteRefresh(RouteRefresh { family: V4, kind });
        let routes = |message: &Message| matches!(message, Message::Update(update) if update.announced.len() == 1);
        if enhanced {
            let [begin, update, end] = &all[..] else {
                panic!("{all:?}")
            };
            assert_eq!(
                (begin, end),
                (&frame(RefreshKind::Begin), &frame(RefreshKind::End))
            );
            assert!(routes(update));
        } else {
            assert!(matches!(&all[..], [update] if routes(update)), "{all:?}");
        }
    }
}

#[test]
fn while_output_is_held_only_our_own_goes_out_and_no_end_of_rib() {
    let mut rib = Rib::new(rib_config(), 1);
    rib.hold_output(true);
    let source = up(&mut rib, policy(), external_peer(1));
    let peer = up(&mut rib, transit(), external_peer(2));
    originate(&mut rib, &["10.244.1.0/24"]);
    rib.handle_update(source, &announce(&["10.1.0.0/24"], attributes(&[65_001])))
        .unwrap();
    let updates = sent(&mut rib, peer);
    let [update] = &updates[..] else {
        panic!("{updates:?}")
    };
    assert_eq!(update.announced, [net("10.244.1.0/24").into()]);
    rib.hold_output(false);
    let updates = sent(&mut rib, peer);
    let [update, end] = &updates[..] else {
        panic!("{updates:?}")
    };
    assert_eq!(update.announced, [net("10.1.0.0/24").into()]);
    assert_eq!(end.end_of_rib, Some(V4));
}

#[test]
fn a_route_that_only_differs_in_its_source_is_sent_by_each_peers_rules() {
    let mut rib = Rib::new(rib_config(), 1);
    rib.set_originated(&own(nets(&["10.1.0.0/24"])));
    let inside = up(&mut rib, policy(), internal_peer(1));
    sent(&mut rib, inside);
    let client = up(
        &mut rib,
        crate::rib::PeerPolicy {
            route_reflector_client: true,
            ..policy()
        },
        internal_peer(2),
    );
    rib.handle_update(client, &announce(&["10.2.0.0/24"], attributes(&[5])))
        .unwrap();
    assert_eq!(
        sent(&mut rib, inside)[0].announced,
        [net("10.2.0.0/24").into()]
    );
    rib.handle_policy(client, policy());
    assert_eq!(
        sent(&mut rib, inside)[0].withdrawn,
        [net("10.2.0.0/24").into()],
        "no longer a client's"
    );
}
