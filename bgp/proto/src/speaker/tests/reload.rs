//! Configurations that change while sessions run: what is not concerned is not touched.

use std::time::Duration;

use super::lab::Lab;
use super::nodes::{peer, peer_name, pod_cidr};
use crate::filter::{Action, FilterChain, Match, PrefixMatch, PrefixOperator, Rule};
use crate::speaker::PeerEvent;
use crate::wire::Asn;

const SOON: Duration = Duration::from_secs(20);

fn flaps(lab: &Lab, node: usize) -> usize {
    let down = |event: &PeerEvent| matches!(event, PeerEvent::Down { .. });
    let events = lab.nodes[node].events.iter();
    events.filter(|(_, event)| down(event)).count()
}

fn reject(prefix: &str) -> FilterChain {
    let rule = Rule {
        matches: Match {
            prefixes: Some(PrefixMatch {
                net: prefix.parse().unwrap(),
                operator: PrefixOperator::In,
                length: None,
            }),
            ..Match::default()
        },
        action: Action::Reject,
    };
    FilterChain::new([("test", vec![rule])])
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let mut lab = Lab::mesh(3, 50);
    lab.run_until(SOON * 2, "routes", |lab| lab.all_up() && lab.converged());
    for node in 0..3 {
        lab.configure(node, |_| {});
    }
    lab.run(SOON);
    assert!((0..3).all(|node| flaps(&lab, node) == 0 && lab.nodes[node].lost.is_empty()));
}

#[test]
fn a_filter_takes_and_gives_back_routes_without_a_reset() {
    let mut lab = Lab::pair(51, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    let set_import = |lab: &mut Lab, chain: FilterChain| {
        lab.configure(0, |config| {
            config.peers.get_mut(&peer_name(1)).unwrap().import = chain;
        });
        lab.run(Duration::from_secs(1));
    };
    set_import(&mut lab, reject("10.64.0.0/16"));
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    set_import(&mut lab, FilterChain::default());
    assert!(lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    lab.configure(1, |config| {
        config.peers.get_mut(&peer_name(0)).unwrap().export = reject("10.64.0.0/16");
    });
    lab.run(Duration::from_secs(1));
    assert!(
        !lab.nodes[0].routes.contains_key(&pod_cidr(1)),
        "withdrawn by an export rule"
    );
    assert_eq!((flaps(&lab, 0), flaps(&lab, 1)), (0, 0));
}

#[test]
fn one_peer_that_changes_leaves_the_others_alone() {
    let mut lab = Lab::mesh(4, 52);
    lab.run_until(SOON * 2, "routes", |lab| lab.all_up() && lab.converged());
    lab.configure(0, |config| {
        config.peers.get_mut(&peer_name(1)).unwrap().hold_time = Duration::from_secs(30);
    });
    lab.run_until(SOON * 2, "back", |lab| lab.all_up() && lab.converged());
    assert_eq!(flaps(&lab, 1), 1);
    assert_eq!((flaps(&lab, 2), flaps(&lab, 3)), (0, 0));
}

#[test]
fn another_as_ends_every_session_and_every_route() {
    let mut lab = Lab::pair(53, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.configure(0, |config| config.speaker.asn = Asn(65_009));
    lab.run(Duration::from_secs(1));
    assert!(lab.nodes[0].routes.is_empty());
    assert!(!lab.is_up(1, 0));
    lab.configure(1, |config| {
        config.peers.insert(peer_name(0), peer(65_009));
    });
    lab.run_until(SOON * 3, "with the new AS", |lab| {
        lab.is_up(1, 0) && lab.converged()
    });
}

#[test]
fn a_reset_says_why_and_the_session_comes_back() {
    let mut lab = Lab::pair(55, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.with(0, |speaker, now, _| {
        assert!(speaker.reset(now, &peer_name(1), "new cable"))
    });
    lab.run(Duration::from_millis(500));
    assert!(!lab.is_up(0, 1), "it rests, so that the peer reads why");
    let (_, last) = lab.nodes[1].events.last().unwrap();
    assert!(
        matches!(last, PeerEvent::Down { reason, .. } if reason.contains("new cable")),
        "{last:?}"
    );
    lab.run_until(SOON * 2, "back", |lab| lab.is_up(0, 1) && lab.converged());
}

#[test]
fn a_refresh_asked_for_is_answered_and_nothing_is_lost() {
    let mut lab = Lab::pair(54, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.with(0, |speaker, now, _| {
        for family in speaker.families(&peer_name(1)) {
            assert!(speaker.request_refresh(now, &peer_name(1), family));
        }
    });
    lab.run(SOON);
    assert_eq!(lab.nodes[0].lost, []);
    assert!(lab.converged());
}
