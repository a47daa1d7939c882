//! What BFD means for sessions and routes (RFC 5882), and its interplay with graceful restart (DESIGN.md invariant 5).

use std::time::Duration;

use super::lab::Lab;
use super::nodes::{address, peer_name, pod_cidr};
use crate::session::Direction;
use crate::speaker::{Bfd, PeerEvent};

const SOON: Duration = Duration::from_secs(20);

fn watched(strict: bool) -> Lab {
    Lab::pair(40, |to_second, to_first| {
        to_second.bfd = Some(Bfd { strict });
        to_first.bfd = Some(Bfd { strict });
    })
}

fn bfd_up(lab: &mut Lab) {
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_up(now, &peer_name(1))
    });
    lab.with(1, |speaker, now, _| {
        speaker.handle_bfd_up(now, &peer_name(0))
    });
}

#[test]
fn a_path_that_is_gone_takes_the_gateway_first_then_the_session_and_its_routes() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_down(now, &peer_name(1), false);
    });
    assert_eq!(lab.nodes[0].gateways, [(false, address(1))]);
    assert!(!lab.is_up(0, 1));
    assert!(
        !lab.nodes[0].routes.contains_key(&pod_cidr(1)),
        "no graceful restart over a dead path"
    );
    let told = lab.nodes[0].events.iter().map(|(_, event)| event.clone());
    assert!(told.collect::<Vec<_>>().contains(&PeerEvent::BfdDown));
    lab.run_until(SOON * 2, "back", Lab::converged);
    assert_eq!(lab.nodes[0].gateways.last(), Some(&(true, address(1))));
}

#[test]
fn bfd_that_dies_with_a_peer_that_restarts_flushes_nothing() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    // Over kill -9 the kernel's FIN comes before BFD's detection time is over.
    lab.kill(1);
    lab.run(Duration::from_millis(300));
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_down(now, &peer_name(1), false);
    });
    assert!(lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    assert_eq!(lab.nodes[0].gateways, []);
}

#[test]
fn bfd_that_outlives_control_planes_ends_a_graceful_restart_when_it_goes_down() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    lab.kill(1);
    lab.run(Duration::from_millis(300));
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_down(now, &peer_name(1), true);
    });
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    assert_eq!(lab.nodes[0].gateways, [(false, address(1))]);
}

#[test]
fn a_peer_that_stops_bfd_on_purpose_keeps_its_session() {
    let mut lab = watched(true);
    bfd_up(&mut lab);
    lab.run_until(SOON, "routes", Lab::converged);
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_admin_down(now, &peer_name(1));
    });
    lab.run(SOON);
    assert!(lab.is_up(0, 1));
    assert_eq!(lab.nodes[0].gateways, []);
}

#[test]
fn bfd_that_is_wanted_and_never_came_up_is_told_as_down() {
    let mut lab = watched(false);
    let told = |lab: &mut Lab| {
        let mut told = None;
        lab.with(0, |speaker, now, _| {
            let mut all = speaker.status(now).into_iter();
            told = all.next().map(|peer| peer.bfd_up);
        });
        told
    };
    lab.run_until(SOON, "routes", Lab::converged);
    assert_eq!(told(&mut lab), Some(Some(false)));
    bfd_up(&mut lab);
    assert_eq!(told(&mut lab), Some(Some(true)));
    let mut without = Lab::pair(41, |_, _| {});
    without.run_until(SOON, "routes", Lab::converged);
    assert_eq!(told(&mut without), Some(None));
}

fn signaled_down(lab: &mut Lab) {
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_signaled_down(now, &peer_name(1), false);
    });
}

#[test]
fn a_peer_that_makes_its_bfd_session_anew_at_the_start_ends_nothing() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    lab.run(Duration::from_millis(5));
    signaled_down(&mut lab);
    lab.run(Duration::from_secs(1));
    bfd_up(&mut lab);
    lab.run(SOON);
    assert!(lab.is_up(0, 1));
    assert_eq!(lab.nodes[0].gateways, []);
    // Later its word is the path's.
    signaled_down(&mut lab);
    assert!(!lab.is_up(0, 1));
}

#[test]
fn a_peer_that_says_down_at_the_start_and_stays_so_is_believed() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    signaled_down(&mut lab);
    lab.run(Duration::from_millis(2_900));
    assert!(lab.is_up(0, 1));
    lab.run(Duration::from_millis(200));
    assert_eq!(lab.nodes[0].gateways, [(false, address(1))]);
}

#[test]
fn strict_mode_waits_for_bfd() {
    let mut lab = watched(true);
    lab.run(Duration::from_secs(15));
    assert!(!lab.is_up(0, 1), "no session without BFD");
    assert!(lab.nodes[0].routes.is_empty());
    bfd_up(&mut lab);
    lab.run_until(Duration::from_secs(60), "with it", Lab::converged);
}

/// Restarts the first speaker; BFD of its earlier run is still up at the second.
fn restarted_within_the_detection_time() -> Lab {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    lab.run(SOON * 4);
    lab.kill(0);
    lab.run(Duration::from_millis(100));
    lab.boot(0, true);
    lab.run(Duration::from_secs(2));
    assert!(
        !lab.is_up(0, 1),
        "the second would end it when it sees BFD go down"
    );
    lab.with(1, |speaker, now, _| {
        speaker.handle_bfd_down(now, &peer_name(0), false);
    });
    assert!(lab.nodes[1].routes.contains_key(&pod_cidr(0)));
    lab
}

#[test]
fn a_restarted_speaker_connects_once_bfd_is_up_again() {
    let mut lab = restarted_within_the_detection_time();
    bfd_up(&mut lab);
    lab.run_until(Duration::from_secs(1), "the session", |lab| lab.is_up(0, 1));
    assert_eq!(
        (&lab.nodes[0].lost[..], &lab.nodes[1].lost[..]),
        (&[][..], &[][..])
    );
}

#[test]
fn a_restarted_speaker_leaves_its_peer_time_to_hear_of_bfd_and_refuses_it_until_then() {
    let mut lab = restarted_within_the_detection_time();
    bfd_up(&mut lab);
    lab.run(Duration::from_millis(400));
    assert!(!lab.is_up(0, 1), "its BGP may still end it for BFD");
    for direction in [Direction::Incoming, Direction::Outgoing] {
        lab.with(0, |speaker, _, _| {
            assert!(!speaker.admits(&peer_name(1), direction), "{direction:?}");
        });
    }
    // Said again it is no reason to wait longer.
    bfd_up(&mut lab);
    lab.run_until(Duration::from_millis(300), "the session", |lab| {
        lab.is_up(0, 1)
    });
}

#[test]
fn a_restarted_speaker_whose_bfd_went_on_connects_at_once() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    bfd_up(&mut lab);
    lab.run(SOON * 4);
    lab.kill(0);
    lab.run(Duration::from_millis(100));
    lab.boot(0, true);
    lab.with(0, |speaker, now, _| {
        speaker.handle_bfd_up_all_along(now, &peer_name(1));
    });
    lab.run_until(Duration::from_millis(300), "the session", |lab| {
        lab.is_up(0, 1)
    });
}

#[test]
fn bfd_that_comes_up_does_not_shorten_the_rest_after_a_reset() {
    let mut lab = watched(false);
    lab.run_until(SOON, "routes", Lab::converged);
    lab.with(0, |speaker, now, _| {
        speaker.reset(now, &peer_name(1), "for a test");
        speaker.handle_bfd_up(now, &peer_name(1));
    });
    lab.run(Duration::from_millis(900));
    assert!(!lab.is_up(0, 1));
    lab.run_until(SOON, "back", Lab::converged);
}

#[test]
fn a_restarted_speaker_does_not_wait_for_ever_for_a_peer_without_bfd() {
    let mut lab = restarted_within_the_detection_time();
    lab.run_until(Duration::from_secs(4), "the session", |lab| lab.is_up(0, 1));
    assert_eq!(
        (&lab.nodes[0].lost[..], &lab.nodes[1].lost[..]),
        (&[][..], &[][..])
    );
}
