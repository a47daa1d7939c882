//! Which paths a peer is sent, and what becomes of their attributes on the way.

use super::*;
use crate::filter::{Action, Match, Operation, Rule};
use crate::rib::tests::fixtures::{
    attributes, exporting, external_peer, internal_peer, net, rib_config, transit,
};

const FROM_EXTERNAL: Source = Source::Peer {
    external: true,
    client: false,
    router_id: Ipv4Addr::new(10, 0, 0, 9),
};
const FROM_INTERNAL: Source = Source::Peer {
    external: false,
    client: false,
    router_id: Ipv4Addr::new(10, 0, 0, 9),
};
const FROM_CLIENT: Source = Source::Peer {
    external: false,
    client: true,
    router_id: Ipv4Addr::new(10, 0, 0, 9),
};

fn key(peer: &PeerInfo, policy: &PeerPolicy) -> ExportKey {
    ExportKey::new(&rib_config(), (7, peer, policy), false)
}

fn send(
    peer: &PeerInfo,
    policy: &PeerPolicy,
    source: Source,
    attributes: &PathAttributes,
) -> Result<PathAttributes, Refusal> {
    key(peer, policy).exported(source, &net("10.1.0.0/16"), attributes.clone())
}

fn plain(transits: bool) -> PeerPolicy {
    exporting(|export| export.transit = transits)
}

fn client() -> PeerPolicy {
    PeerPolicy {
        route_reflector_client: true,
        ..plain(false)
    }
}

fn asns(path: &PathAttributes) -> Vec<u32> {
    let all = path.as_path.iter().flat_map(|segment| &segment.asns);
    all.map(|asn| asn.0).collect()
}

#[test]
fn only_what_is_originated_here_goes_out_unless_transit_is_asked_for() {
    let (e, i, a) = (external_peer(2), internal_peer(3), attributes(&[5]));
    let sent = |peer: &PeerInfo, transits, source| send(peer, &plain(transits), source, &a);
    assert!(sent(&e, false, Source::Local).is_ok());
    assert_eq!(sent(&e, false, FROM_EXTERNAL), Err(Refusal::NoTransit));
    assert_eq!(sent(&i, false, FROM_EXTERNAL), Err(Refusal::NoTransit));
    assert!(sent(&e, true, FROM_EXTERNAL).is_ok());
    assert!(sent(&e, true, FROM_INTERNAL).is_ok());
    assert!(sent(&i, true, FROM_EXTERNAL).is_ok());
    assert_eq!(sent(&i, true, FROM_INTERNAL), Err(Refusal::Internal));
}

#[test]
fn a_reflector_sends_to_clients_what_comes_from_within_and_to_all_what_comes_from_clients() {
    let (e, i, a) = (external_peer(2), internal_peer(3), attributes(&[5]));
    assert!(send(&i, &client(), FROM_INTERNAL, &a).is_ok());
    assert!(send(&i, &client(), FROM_CLIENT, &a).is_ok());
    assert!(send(&i, &client(), FROM_EXTERNAL, &a).is_ok());
    assert!(send(&i, &plain(false), FROM_CLIENT, &a).is_ok());
    assert_eq!(
        send(&i, &plain(false), FROM_INTERNAL, &a),
        Err(Refusal::Internal)
    );
    assert_eq!(
        send(&e, &plain(false), FROM_CLIENT, &a),
        Err(Refusal::NoTransit),
        "reflecting is no transit"
    );
}

#[test]
fn a_reflected_route_is_marked_and_otherwise_not_touched() {
    let own = PeerPolicy {
        route_reflector_client: true,
        ..exporting(|export| export.next_hop = NextHopMode::Own)
    };
    let mut a = attributes(&[5]);
    a.local_pref = Some(300);
    a.med = Some(7);
    let out = send(&internal_peer(3), &own, FROM_INTERNAL, &a).unwrap();
    let cluster = rib_config().cluster_id;
    let marked = PathAttributes {
        originator_id: Some(Ipv4Addr::new(10, 0, 0, 9)),
        cluster_list: vec![cluster],
        ..a.clone()
    };
    assert_eq!(out, marked);
    let again = send(
        &internal_peer(3),
        &own,
        FROM_CLIENT,
        &PathAttributes {
            originator_id: Some([1; 4].into()),
            cluster_list: vec![[2; 4].into()],
            ..a
        },
    );
    let again = again.unwrap();
    assert_eq!(
        again.originator_id,
        Some([1; 4].into()),
        "the first one stays"
    );
    assert_eq!(again.cluster_list, [cluster, [2; 4].into()]);
}

#[test]
fn well_known_communities_are_respected() {
    for (community, external, internal) in [
        (NO_EXPORT, false, true),
        (NO_EXPORT_SUBCONFED, false, true),
        (NO_ADVERTISE, false, false),
        (0x0001_0002, true, true),
    ] {
        let mut a = attributes(&[]);
        a.communities = vec![community];
        let sent = |peer| send(&peer, &plain(false), Source::Local, &a).is_ok();
        assert_eq!(sent(external_peer(2)), external);
        assert_eq!(sent(internal_peer(2)), internal);
    }
}

#[test]
fn an_external_peer_sees_our_as_and_address_and_no_internal_attributes() {
    let mut a = attributes(&[5, 6]);
    a.local_pref = Some(300);
    a.med = Some(7);
    a.originator_id = Some([1; 4].into());
    a.cluster_list = vec![[1; 4].into()];
    let peer = external_peer(2);
    let out = send(&peer, &transit(), FROM_EXTERNAL, &a).unwrap();
    assert_eq!(out.next_hop, peer.local_address);
    assert_eq!(out.as_path[0].asns, [rib_config().asn, Asn(5), Asn(6)]);
    assert_eq!(
        (out.local_pref, out.med, out.originator_id),
        (None, None, None)
    );
    assert!(out.cluster_list.is_empty());
    let own = send(&peer, &transit(), Source::Local, &a).unwrap();
    assert_eq!(own.med, Some(7), "our own MED is meant for the neighbour");
}

#[test]
fn an_internal_peer_sees_local_pref_and_the_path_as_it_was() {
    let peer = internal_peer(2);
    let a = attributes(&[5]);
    let out = send(&peer, &transit(), FROM_EXTERNAL, &a).unwrap();
    assert_eq!((out.local_pref, out.next_hop), (Some(100), a.next_hop));
    assert_eq!(out.as_path, a.as_path);
    let own = send(&peer, &transit(), Source::Local, &attributes(&[])).unwrap();
    assert_eq!(own.next_hop, peer.local_address);
    assert!(own.as_path.is_empty());
}

#[test]
fn the_next_hop_is_as_the_mode_says() {
    let (e, i, a) = (external_peer(2), internal_peer(3), attributes(&[5]));
    let ours = e.local_address;
    for (mode, to_external, to_internal) in [
        (NextHopMode::Auto, ours, a.next_hop),
        (NextHopMode::Own, ours, ours),
        (NextHopMode::Keep, a.next_hop, a.next_hop),
    ] {
        let policy = exporting(|export| {
            export.transit = true;
            export.next_hop = mode;
        });
        let hop = |peer, source| send(peer, &policy, source, &a).unwrap().next_hop;
        assert_eq!(hop(&e, FROM_EXTERNAL), to_external, "{mode:?}");
        assert_eq!(hop(&i, FROM_EXTERNAL), to_internal, "{mode:?}");
        assert_eq!(hop(&e, Source::Local), ours, "there is none to keep");
    }
}

fn six(context: WireContext) -> PeerInfo {
    PeerInfo {
        local_address: "2001:db8::100".parse().unwrap(),
        local_link_local: Some("fe80::100".parse().unwrap()),
        context,
        ..external_peer(2)
    }
}

#[test]
fn an_ipv6_peer_is_told_the_link_local_next_hop_too() {
    let peer = six(crate::rib::tests::fixtures::both_families());
    let key = key(&peer, &plain(false));
    let out = key
        .exported(Source::Local, &net("2001:db8:1::/48"), attributes(&[]))
        .unwrap();
    assert_eq!(out.next_hop, peer.local_address);
    assert_eq!(out.link_local_next_hop, peer.local_link_local);
}

#[test]
fn an_ipv4_route_has_an_ipv6_next_hop_only_where_that_is_agreed_on() {
    let context = crate::rib::tests::fixtures::both_families();
    let refused = send(
        &six(context.clone()),
        &plain(false),
        Source::Local,
        &attributes(&[]),
    );
    assert_eq!(refused, Err(Refusal::NextHop));
    let agreed = six(WireContext {
        extended_next_hop: vec![Family::IPV4_UNICAST],
        ..context
    });
    let out = send(&agreed, &plain(false), Source::Local, &attributes(&[])).unwrap();
    assert_eq!(out.next_hop, agreed.local_address);
    assert_eq!(out.link_local_next_hop, agreed.local_link_local);
}

#[test]
fn the_family_the_session_is_not_of_has_an_address_of_ours_as_next_hop() {
    let peer = PeerInfo {
        context: crate::rib::tests::fixtures::both_families(),
        ..external_peer(2)
    };
    let own: [IpAddr; 3] = ["10.0.0.9", "fe80::9", "2001:db8::9"].map(|text| text.parse().unwrap());
    let policy = exporting(|export| export.own_addresses = own.to_vec());
    let v6 = key(&peer, &policy)
        .exported(Source::Local, &net("2001:db8:1::/48"), attributes(&[]))
        .unwrap();
    assert_eq!((v6.next_hop, v6.link_local_next_hop), (own[2], None));
    let v4 = send(&peer, &policy, Source::Local, &attributes(&[])).unwrap();
    assert_eq!(
        v4.next_hop, peer.local_address,
        "the session's own comes first"
    );
    let over_v6 = six(crate::rib::tests::fixtures::both_families());
    let v4 = send(&over_v6, &policy, Source::Local, &attributes(&[])).unwrap();
    assert_eq!(v4.next_hop, own[0]);
}

#[test]
fn a_link_local_next_hop_is_never_passed_on() {
    let mut a = attributes(&[5]);
    a.next_hop = "fe80::5".parse().unwrap();
    a.link_local_next_hop = Some("fe80::5".parse().unwrap());
    let peer = PeerInfo {
        external: false,
        ..six(crate::rib::tests::fixtures::both_families())
    };
    let out = key(&peer, &transit())
        .exported(FROM_EXTERNAL, &net("2001:db8:1::/48"), a)
        .unwrap();
    assert_eq!(out.next_hop, peer.local_address);
}

#[test]
fn a_local_as_stands_before_our_own_and_private_ones_are_taken_out() {
    let policy = exporting(|export| {
        export.transit = true;
        export.local_as = Some(Asn(3_000));
        export.remove_private_as = true;
    });
    let a = attributes(&[7, 64_600, 4_200_000_001, 8]);
    let out = send(&external_peer(2), &policy, FROM_EXTERNAL, &a).unwrap();
    assert_eq!(asns(&out), [3_000, rib_config().asn.0, 7, 8]);
    let inside = send(&internal_peer(2), &policy, FROM_EXTERNAL, &a).unwrap();
    assert_eq!(inside.as_path, a.as_path);
}

#[test]
fn roles_say_what_goes_up_and_what_is_marked_on_its_way_down() {
    let mut marked = attributes(&[5]);
    marked.only_to_customer = Some(Asn(5));
    for (role, leaks, marks) in [
        (Role::Customer, true, false),
        (Role::RouteServerClient, true, false),
        (Role::Peer, true, true),
        (Role::Provider, false, true),
        (Role::RouteServer, false, true),
    ] {
        let peer = PeerInfo {
            role: Some(role),
            ..external_peer(2)
        };
        let sent = |a: &PathAttributes| send(&peer, &transit(), FROM_EXTERNAL, a);
        assert_eq!(
            sent(&marked).err(),
            leaks.then_some(Refusal::RouteLeak),
            "{role:?}"
        );
        let fresh = sent(&attributes(&[5])).unwrap();
        assert_eq!(
            fresh.only_to_customer,
            marks.then_some(rib_config().asn),
            "{role:?}"
        );
    }
    let none = send(&external_peer(2), &transit(), FROM_EXTERNAL, &marked).unwrap();
    assert_eq!(none.only_to_customer, Some(Asn(5)), "passed on untouched");
}

#[test]
fn long_lived_stale_routes_go_only_to_who_knows_what_they_are() {
    let mut a = attributes(&[5]);
    a.communities = vec![LLGR_STALE];
    let peer = external_peer(2);
    assert_eq!(
        send(&peer, &transit(), FROM_EXTERNAL, &a),
        Err(Refusal::LongLivedStale)
    );
    let knows = PeerInfo {
        llgr_peer: true,
        ..peer
    };
    let out = send(&knows, &transit(), FROM_EXTERNAL, &a).unwrap();
    assert_eq!(out.communities, [LLGR_STALE]);
}

#[test]
fn on_the_way_out_everything_bears_graceful_shutdown() {
    let going = |peer: &PeerInfo| {
        let key = ExportKey::new(&rib_config(), (7, peer, &transit()), true);
        key.exported(Source::Local, &net("10.1.0.0/16"), attributes(&[]))
            .unwrap()
    };
    let outside = going(&external_peer(2));
    assert_eq!(
        (outside.communities, outside.local_pref),
        (vec![GRACEFUL_SHUTDOWN], None)
    );
    let inside = going(&internal_peer(2));
    assert_eq!(
        (inside.communities, inside.local_pref),
        (vec![GRACEFUL_SHUTDOWN], Some(0))
    );
}

#[test]
fn a_filter_decides_before_the_defaults_and_its_med_is_sent() {
    let operations = vec![
        Operation::SetMed(70),
        Operation::PrependAs {
            asn: None,
            times: 2,
        },
    ];
    let rules = vec![Rule {
        matches: Match::default(),
        action: Action::Accept(operations),
    }];
    let chain = FilterChain::new([("out", rules)]);
    let policy = exporting(|export| export.filters = chain);
    let mut a = attributes(&[5]);
    a.med = Some(1);
    let out = send(&external_peer(2), &policy, FROM_EXTERNAL, &a).unwrap();
    let us = rib_config().asn.0;
    assert_eq!((out.med, asns(&out)), (Some(70), vec![us, us, us, 5]));
    let deny = FilterChain::new([(
        "out",
        vec![Rule {
            matches: Match::default(),
            action: Action::Reject,
        }],
    )]);
    let policy = exporting(|export| export.filters = deny);
    assert_eq!(
        send(&external_peer(2), &policy, Source::Local, &a),
        Err(Refusal::Filter(0))
    );
}

#[test]
fn confederation_segments_do_not_leave() {
    let mut a = attributes(&[5]);
    a.as_path.insert(
        0,
        AsPathSegment {
            kind: SegmentKind::ConfedSequence,
            asns: vec![Asn(65_100)],
        },
    );
    let out = send(&external_peer(2), &transit(), FROM_INTERNAL, &a).unwrap();
    assert_eq!(asns(&out), [rib_config().asn.0, 5]);
}

#[test]
fn a_full_segment_is_not_grown() {
    let mut path = attributes(&[1; 255]).as_path;
    prepend(&mut path, Asn(9));
    assert_eq!(path.len(), 2);
    assert_eq!(path[0].asns, [Asn(9)]);
}
