//! What people are shown: tables, and why things are as they are.

use super::fixtures::{
    announce, attributes, external_peer, importing, internal_peer, net, nets, nlri, originate,
    policy, rib_config, up,
};
use crate::filter::{Action, FilterChain, Match, Rule};
use crate::rib::{PeerPolicy, Refusal, Rib, Step, Verdict};
use crate::wire::PathAttributes;

fn named(name: &str, policy: PeerPolicy) -> PeerPolicy {
    PeerPolicy {
        name: name.into(),
        ..policy
    }
}

#[test]
fn an_explanation_names_the_step_at_which_each_path_lost_and_to_whom() {
    let mut rib = Rib::new(rib_config(), 1);
    let reject = FilterChain::new([(
        "no-seven",
        vec![Rule {
            matches: Match {
                as_path_prefix: Some(vec![crate::wire::Asn(7)]),
                ..Match::default()
            },
            action: Action::Reject,
        }],
    )]);
    let filtered = importing(|import| import.filters = reject);
    let best = up(&mut rib, named("best", policy()), external_peer(1));
    let longer = up(&mut rib, named("longer", policy()), external_peer(2));
    let denied = up(&mut rib, named("denied", filtered), external_peer(3));
    let inside = up(&mut rib, named("inside", policy()), internal_peer(4));
    for (peer, asns) in [
        (best, &[1][..]),
        (longer, &[2, 3]),
        (denied, &[7]),
        (inside, &[1]),
    ] {
        rib.handle_update(peer, &announce(&["10.1.0.0/24"], attributes(asns)))
            .unwrap();
    }
    let explained = rib.explain(net("10.1.0.0/24"));
    let story: Vec<_> = explained
        .paths
        .iter()
        .map(|path| {
            (
                path.path.peer.as_deref(),
                path.lost.as_ref().map(|lost| lost.step),
            )
        })
        .collect();
    assert_eq!(
        story,
        [
            (Some("best"), None),
            (Some("inside"), Some(Step::External)),
            (Some("longer"), Some(Step::AsPathLength)),
            (Some("denied"), None),
        ]
    );
    let lost = explained.paths[2].lost.as_ref().unwrap();
    assert_eq!(
        (lost.to.as_deref(), &*lost.value, &*lost.better),
        (Some("best"), "2", "1")
    );
    let denied = &explained.paths[3];
    assert_eq!(denied.path.verdict, Verdict::Filtered);
    assert_eq!(denied.rule.as_deref(), Some("filter no-seven rule 1"));
    let refusals: Vec<_> = explained
        .exports
        .iter()
        .map(|export| (&*export.peer, export.refusal))
        .collect();
    assert_eq!(
        refusals,
        [
            ("best", Some(Refusal::FromThere)),
            ("denied", Some(Refusal::NoTransit)),
            ("inside", Some(Refusal::NoTransit)),
            ("longer", Some(Refusal::NoTransit)),
        ]
    );
    originate(&mut rib, &["10.1.0.0/24"]);
    let own = rib.explain(net("10.1.0.0/24"));
    assert!(own.exports.iter().all(|export| export.refusal.is_none()));
    assert_eq!(own.paths[1].lost.as_ref().unwrap().step, Step::Originated);
    let unknown = rib.explain(net("192.0.2.0/24"));
    assert!(unknown.paths.is_empty() && unknown.exports.is_empty());
}

#[test]
fn tables_are_in_order_and_no_longer_than_asked_for() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    let offered = ["10.3.0.0/24", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24"];
    rib.handle_update(peer, &announce(&offered, attributes(&[1])))
        .unwrap();
    let prefixes = |rib: &mut Rib, filter, limit| -> Vec<_> {
        rib.routes(filter, limit)
            .into_iter()
            .map(|route| route.prefix)
            .collect()
    };
    assert_eq!(
        prefixes(&mut rib, None, 2),
        [net("10.1.0.0/16"), net("10.1.2.0/24")]
    );
    let inside = Some(net("10.1.0.0/16"));
    assert_eq!(
        prefixes(&mut rib, inside, 9),
        [net("10.1.0.0/16"), net("10.1.2.0/24")]
    );
    let received = rib.received(peer, 9);
    assert_eq!(received.len(), 4);
    assert_eq!(received[0].0, nlri("10.1.0.0/16", 0));
}

#[test]
fn what_was_received_is_shown_as_it_came_and_routes_as_they_are_used() {
    let mut rib = Rib::new(rib_config(), 1);
    let strict = importing(|import| import.reject = nets(&["10.9.0.0/16"]));
    let peer = up(&mut rib, strict, external_peer(1));
    let foreign = PathAttributes {
        local_pref: Some(500),
        ..attributes(&[1])
    };
    rib.handle_update(peer, &announce(&["10.1.0.0/24", "10.9.1.0/24"], foreign))
        .unwrap();
    let received = rib.received(peer, 9);
    let local_prefs: Vec<_> = received
        .iter()
        .map(|(_, a, verdict)| (a.local_pref, *verdict))
        .collect();
    assert_eq!(
        local_prefs,
        [
            (Some(500), Verdict::Accepted),
            (Some(500), Verdict::SafeDefault)
        ]
    );
    assert_eq!(rib.routes(None, 1)[0].paths[0].attributes.local_pref, None);
}
