//! Restarts and losses between whole speakers: what is kept, for how long, and that nobody waits for each other.

use std::time::Duration;

use proptest::prelude::*;

use super::lab::Lab;
use super::nodes::{peer_name, pod_cidr};
use crate::speaker::{GracefulRestartConfig, PeerEvent, StopAs};

const SOON: Duration = Duration::from_secs(20);

fn gr(restart: u64, long_lived: u64) -> GracefulRestartConfig {
    GracefulRestartConfig {
        restart_time: Duration::from_secs(restart),
        long_lived_stale_time: Duration::from_secs(long_lived),
        notification: true,
    }
}

fn converged_mesh(size: usize, seed: u64) -> Lab {
    let mut lab = Lab::mesh(size, seed);
    lab.run_until(SOON * 3, "a mesh", |lab| lab.all_up() && lab.converged());
    lab
}

#[test]
fn two_speakers_learn_each_others_pods() {
    let mut lab = Lab::pair(1, |_, _| {});
    lab.run_until(SOON, "routes both ways", Lab::converged);
    let next_hop = lab.nodes[0].routes[&pod_cidr(1)][0].address;
    assert_eq!(next_hop, super::nodes::address(1));
}

#[test]
fn a_mesh_converges_and_every_node_is_in_sync() {
    let mut lab = converged_mesh(12, 2);
    lab.run_until(SOON, "initial sync", |lab| {
        lab.nodes.iter().all(|node| node.synced)
    });
    assert!(lab.nodes.iter().all(|node| node.lost.is_empty()));
}

#[test]
fn a_killed_speaker_that_comes_back_loses_no_route_anywhere() {
    let mut lab = converged_mesh(6, 3);
    lab.run(SOON);
    lab.kill(2);
    lab.run(Duration::from_secs(1));
    lab.boot(2, true);
    lab.run_until(SOON * 4, "the mesh is back", |lab| {
        lab.all_up() && lab.nodes[2].synced
    });
    lab.run(Duration::from_secs(400));
    for node in &lab.nodes {
        assert_eq!(node.lost, [], "{:?}", node.events);
    }
}

#[test]
fn all_nodes_of_a_mesh_may_restart_at_once_and_lose_nothing() {
    for how in ["kill -9", "SIGTERM"] {
        let mut lab = converged_mesh(8, 4);
        lab.run(SOON);
        for node in 0..8 {
            if how == "kill -9" {
                lab.kill(node);
            } else {
                lab.stop(node, &StopAs::Restart);
            }
        }
        lab.run(Duration::from_millis(500));
        for node in 0..8 {
            lab.boot(node, true);
        }
        lab.run_until(Duration::from_secs(60), "all in sync", |lab| {
            lab.nodes.iter().all(|node| node.synced)
        });
        assert!(lab.converged());
        for node in &lab.nodes {
            assert_eq!(node.lost, [], "{how}");
        }
    }
}

#[test]
fn restarts_back_to_back_lose_nothing() {
    let mut lab = converged_mesh(4, 5);
    lab.run(SOON);
    for _ in 0..3 {
        lab.kill(0);
        lab.run(Duration::from_secs(1));
        lab.boot(0, true);
        lab.run(Duration::from_secs(2));
    }
    lab.run_until(SOON * 3, "the mesh is back", Lab::all_up);
    lab.run(Duration::from_secs(400));
    for node in &lab.nodes {
        assert_eq!(node.lost, [], "{:?}", node.events);
    }
}

#[test]
fn peers_that_restart_together_do_not_wait_for_each_other() {
    let mut lab = Lab::pair(6, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.run(SOON);
    lab.kill(0);
    lab.kill(1);
    lab.boot(0, true);
    lab.boot(1, true);
    // Far below the Restart Time of 120 s.
    lab.run_until(Duration::from_secs(15), "both in sync", |lab| {
        lab.nodes.iter().all(|node| node.synced)
    });
}

#[test]
fn routes_of_a_peer_that_does_not_come_back_go_after_its_restart_time() {
    let mut lab = Lab::pair(7, |_, to_first| to_first.graceful_restart = Some(gr(30, 0)));
    lab.run_until(SOON, "routes", Lab::converged);
    lab.kill(1);
    lab.run(Duration::from_secs(29));
    assert!(
        lab.nodes[0].routes.contains_key(&pod_cidr(1)),
        "kept as stale"
    );
    lab.run(Duration::from_secs(3));
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)), "gone");
    let said = |event: &PeerEvent| *event == PeerEvent::StaleRoutesRemoved { count: 1 };
    assert!(lab.nodes[0].events.iter().any(|(_, event)| said(event)));
}

#[test]
fn long_lived_stale_routes_outlive_the_restart_time() {
    let mut lab = Lab::pair(8, |to_second, to_first| {
        to_first.graceful_restart = Some(gr(30, 600));
        to_second.graceful_restart = Some(gr(30, 300));
    });
    lab.run_until(SOON, "routes", Lab::converged);
    lab.kill(1);
    lab.run(Duration::from_secs(200));
    assert!(lab.nodes[0].routes.contains_key(&pod_cidr(1)), "long-lived");
    // The shorter of what the peer said and what we grant (RFC 9494 §4.2), after the Restart Time.
    lab.run(Duration::from_secs(140));
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)), "gone");
}

#[test]
fn without_graceful_restart_routes_go_with_the_session() {
    let mut lab = Lab::pair(9, |to_second, _| to_second.graceful_restart = None);
    lab.run_until(SOON, "routes", Lab::converged);
    lab.kill(1);
    lab.run(Duration::from_secs(1));
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)));
}

#[test]
fn a_shutdown_takes_the_routes_away_at_once_and_tells_why() {
    let mut lab = Lab::pair(10, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.configure(1, |config| {
        config.peers.get_mut(&peer_name(0)).unwrap().shutdown = Some("rack work".to_owned());
    });
    lab.run(Duration::from_secs(1));
    let (_, last) = lab.nodes[0].events.last().unwrap();
    let PeerEvent::Down { reason, .. } = last else {
        panic!("{last:?}");
    };
    assert!(reason.contains("rack work"), "{reason}");
    lab.run(Duration::from_secs(60));
    assert!(!lab.is_up(0, 1), "held down as long as it says so");
    lab.configure(1, |config| {
        config.peers.get_mut(&peer_name(0)).unwrap().shutdown = None;
    });
    lab.run_until(SOON * 3, "up again", |lab| {
        lab.is_up(0, 1) && lab.converged()
    });
}

#[test]
fn leaving_by_a_hard_reset_is_kept_by_nobody() {
    let mut lab = Lab::pair(11, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.stop(1, &StopAs::Leave("decommissioned".to_owned()));
    lab.run(Duration::from_secs(1));
    assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)));
}

#[test]
fn a_silent_peer_is_noticed_by_its_hold_time_and_kept_as_stale() {
    let mut lab = Lab::pair(12, |_, _| {});
    lab.run_until(SOON, "routes", Lab::converged);
    lab.silence(0, 1);
    lab.run(Duration::from_secs(10));
    assert!(!lab.is_up(0, 1), "hold time is 9 s");
    // RFC 8538 §4: with the N bit on both sides the hold timer's NOTIFICATION does not flush.
    assert!(lab.nodes[0].routes.contains_key(&pod_cidr(1)));
    lab.heal(0, 1);
    lab.run_until(SOON * 3, "up again", |lab| lab.is_up(0, 1));
    lab.run(Duration::from_secs(400));
    assert_eq!(lab.nodes[0].lost, []);
}

/// RFC 4724 §4.2: without the N bit on either side silence is no restart.
#[test]
fn a_silent_peer_is_gone_after_its_hold_time_where_one_side_takes_silence_for_an_end() {
    for plain in [0, 1] {
        let mut lab = Lab::pair(13, |first, second| {
            let peer = [first, second].into_iter().nth(plain).unwrap();
            peer.graceful_restart = Some(GracefulRestartConfig {
                notification: false,
                ..gr(120, 0)
            });
        });
        lab.run_until(SOON, "routes", Lab::converged);
        lab.silence(0, 1);
        lab.run(Duration::from_secs(10));
        assert!(!lab.is_up(0, 1), "hold time is 9 s");
        assert!(!lab.nodes[0].routes.contains_key(&pod_cidr(1)), "{plain}");
        lab.heal(0, 1);
        lab.run_until(SOON * 3, "up again", |lab| lab.is_up(0, 1));
        lab.run_until(SOON, "routes", Lab::converged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to a mesh for a while, when it stops everyone knows everything again.
    #[test]
    fn chaos_ends_in_convergence(
        seed in any::<u64>(),
        deeds in prop::collection::vec((0usize..5, 0usize..6, 0usize..6, 0u64..4000), 1..25),
    ) {
        let mut lab = Lab::mesh(6, seed);
        lab.run(Duration::from_secs(5));
        for (deed, one, other, pause) in deeds {
            match deed {
                0 => {
                    lab.kill(one);
                    lab.boot(one, true);
                }
                1 if one != other => lab.reset(one, other),
                2 if one != other => {
                    lab.cut(one, other);
                }
                3 => {
                    lab.kill(one);
                    lab.run(Duration::from_millis(pause));
                    lab.boot(one, false);
                }
                4 => lab.stop(one, &StopAs::Shutdown(String::new())),
                _ => {}
            }
            lab.run(Duration::from_millis(pause));
        }
        for one in 0..6 {
            if lab.nodes[one].speaker.is_none() {
                lab.boot(one, true);
            }
            for other in 0..6 {
                lab.heal(one, other);
            }
        }
        lab.run_until(Duration::from_secs(120), "convergence", |lab| {
            lab.all_up() && lab.converged()
        });
    }
}
