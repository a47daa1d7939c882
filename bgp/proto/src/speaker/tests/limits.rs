//! Bounds on prefixes, and draining.

use std::time::Duration;

use super::lab::Lab;
use super::nodes::{peer_name, pod_cidr};
use crate::rib::Originated;
use crate::speaker::{MaxPrefixes, PeerEvent};
use crate::wire::Family;

const SOON: Duration = Duration::from_secs(20);

fn more(lab: &mut Lab, node: usize, count: u8) {
    lab.configure(node, |config| {
        for number in 0..count {
            let prefix = format!("192.168.{number}.0/24").parse().unwrap();
            config.originate.insert(prefix, Originated::default());
        }
    });
}

fn limited(restart_after: u64) -> Lab {
    let mut lab = Lab::pair(20, |to_second, _| {
        to_second.max_prefixes = MaxPrefixes {
            limit: 10,
            warn_at: Some(5),
            restart_after: Some(Duration::from_secs(restart_after)),
        };
    });
    lab.run_until(SOON, "routes", Lab::converged);
    lab
}

#[test]
fn half_of_the_bound_is_warned_of_and_the_session_stays() {
    let mut lab = limited(60);
    more(&mut lab, 1, 6);
    lab.run(Duration::from_secs(1));
    let warnings = lab.nodes[0].events.iter().filter(|(_, event)| {
        matches!(
            event,
            PeerEvent::ManyPrefixes { family, limit: 10, .. } if *family == Family::IPV4_UNICAST
        )
    });
    assert_eq!(warnings.count(), 1, "{:?}", lab.nodes[0].events);
    assert!(lab.is_up(0, 1));
}

#[test]
fn more_than_the_bound_ends_the_session_until_the_time_to_come_back() {
    let mut lab = limited(60);
    more(&mut lab, 1, 11);
    lab.run(Duration::from_secs(1));
    assert!(!lab.is_up(0, 1));
    assert!(
        !lab.nodes[0].routes.contains_key(&pod_cidr(1)),
        "nothing of it is used"
    );
    let told = PeerEvent::TooManyPrefixes { limit: 10 };
    assert!(lab.nodes[0].events.iter().any(|(_, event)| *event == told));
    lab.run(Duration::from_secs(50));
    assert!(!lab.is_up(0, 1));
    lab.configure(1, |config| {
        config.originate.retain(|prefix, _| *prefix == pod_cidr(1))
    });
    lab.run_until(
        Duration::from_secs(60),
        "back after a minute",
        Lab::converged,
    );
}

#[test]
fn a_greater_bound_lets_the_peer_back_at_once() {
    let mut lab = limited(3600);
    more(&mut lab, 1, 11);
    lab.run(Duration::from_secs(1));
    lab.configure(0, |config| {
        config
            .peers
            .get_mut(&peer_name(1))
            .unwrap()
            .max_prefixes
            .limit = 100;
    });
    lab.run_until(Duration::from_secs(60), "back", Lab::converged);
}

#[test]
fn a_node_that_drains_says_so_with_every_route_and_takes_it_back() {
    let mut lab = Lab::pair(21, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    let communities = |lab: &mut Lab| {
        let mut found = Vec::new();
        lab.with(0, |speaker, _, _| {
            let received = speaker.received(&peer_name(1), 10).unwrap();
            found = received[0].1.communities.clone();
        });
        found
    };
    lab.configure(1, |config| config.draining = true);
    lab.run(Duration::from_secs(1));
    // RFC 8326 §5: GRACEFUL_SHUTDOWN is 65535:0.
    assert_eq!(communities(&mut lab), [0xffff_0000]);
    assert!(lab.is_up(0, 1), "nothing is cut");
    lab.configure(1, |config| config.draining = false);
    lab.run(Duration::from_secs(1));
    assert_eq!(communities(&mut lab), [0u32; 0]);
}
