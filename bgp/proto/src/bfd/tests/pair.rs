//! Two sessions joined in virtual time: coming up, cuts, AdminDown, restarts.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn expired() -> BfdOutput {
    BfdOutput::Down {
        diagnostic: Diagnostic::ControlDetectionTimeExpired,
        remote_admin_down: false,
        begun_anew: false,
    }
}

#[test]
fn two_sessions_come_up_and_their_timers_agree() {
    let mut pair = Pair::new(config(50, 80, 3), config(20, 60, 5));
    pair.run(SECOND * 3);
    assert_eq!(pair.states(), Pair::both_up());
    let [first, second] = [0, 1].map(|side| pair.sides[side].status());
    assert_eq!(first.transmit_interval, Some(ms(60)));
    assert_eq!(second.detection_time, Some(ms(180)));
    assert_eq!(second.transmit_interval, Some(ms(80)));
    assert_eq!(first.detection_time, Some(ms(400)));
    assert!(!first.polling && !second.polling);
    assert_eq!(pair.said(0), [BfdOutput::Up]);
    assert_eq!(pair.said(1), [BfdOutput::Up]);
}

#[test]
fn a_passive_side_comes_up_with_an_active_one_and_two_passive_ones_never() {
    let passive = BfdConfig {
        passive: true,
        ..config(50, 50, 3)
    };
    let mut pair = Pair::new(config(50, 50, 3), passive.clone());
    pair.run(SECOND * 3);
    assert_eq!(pair.states(), Pair::both_up());
    let mut pair = Pair::new(passive.clone(), passive);
    pair.run(SECOND * 30);
    assert!(pair.sent.iter().all(Vec::is_empty));
}

#[test]
fn a_cut_both_ways_is_found_by_both_within_the_detection_time() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(SECOND * 3);
    pair.cut = [true; 2];
    pair.run(ms(152));
    for side in [0, 1] {
        assert_eq!(pair.said(side), [BfdOutput::Up, expired()]);
    }
    pair.cut = [false; 2];
    pair.run(SECOND * 4);
    assert_eq!(pair.states(), Pair::both_up());
}

#[test]
fn a_cut_one_way_is_told_to_the_side_that_still_hears() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(SECOND * 3);
    pair.cut = [true, false];
    pair.run(ms(200));
    assert_eq!(pair.said(1), [BfdOutput::Up, expired()]);
    let signaled = BfdOutput::Down {
        diagnostic: Diagnostic::NeighborSignaledSessionDown,
        remote_admin_down: false,
        begun_anew: false,
    };
    assert_eq!(pair.said(0), [BfdOutput::Up, signaled]);
    let remote = pair.sides[0].status().remote_diagnostic;
    assert_eq!(remote, Diagnostic::ControlDetectionTimeExpired);
    pair.run(SECOND * 20);
    assert!(
        !pair.states().contains(&SessionState::Up),
        "one way is not enough"
    );
}

#[test]
fn admin_down_reaches_the_peer_as_no_failure_of_the_path_even_when_packets_are_lost() {
    let mut pair = Pair::new(config(50, 50, 30), config(50, 50, 30));
    pair.run(SECOND * 3);
    pair.fates[0] = [None, Some(ms(1))].into();
    let now = pair.now;
    pair.sides[0].handle_admin_down(now);
    pair.collect(0);
    pair.run(SECOND * 10);
    let signaled = BfdOutput::Down {
        diagnostic: Diagnostic::NeighborSignaledSessionDown,
        remote_admin_down: true,
        begun_anew: false,
    };
    assert_eq!(pair.said(1), [BfdOutput::Up, signaled]);
    assert_eq!(pair.sides[1].status().remote_state, SessionState::AdminDown);
    assert_eq!(pair.said(0), [BfdOutput::Up]);
    let now = pair.now;
    pair.sides[0].handle_start(now);
    pair.collect(0);
    pair.run(SECOND * 3);
    assert_eq!(pair.states(), Pair::both_up());
}

#[test]
fn a_peer_that_restarts_with_another_discriminator_is_found_and_comes_up_again() {
    let mut pair = Pair::new(config(500, 500, 5), config(500, 500, 5));
    pair.run(SECOND * 5);
    let now = pair.now;
    pair.sides[1] = BfdSession::new(config(500, 500, 5), 77, 3);
    pair.sides[1].handle_start(now);
    pair.collect(1);
    pair.run(SECOND * 10);
    let anew = BfdOutput::Down {
        diagnostic: Diagnostic::NeighborSignaledSessionDown,
        remote_admin_down: false,
        begun_anew: true,
    };
    let told = pair.said(0);
    assert_eq!(
        told,
        [BfdOutput::Up, anew, BfdOutput::Up],
        "no word of a failed path"
    );
    assert_eq!(pair.states(), Pair::both_up());
    assert_eq!(pair.sides[0].status().remote_discriminator, 77);
    assert_eq!(pair.said(0).len(), 3, "Up, Down, Up");
}

#[test]
fn changes_of_timers_under_traffic_never_cost_the_session() {
    let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
    pair.run(SECOND * 3);
    let timers = [10, 900, 20, 300, 15, 2000, 50];
    for (turn, (tx, rx)) in timers.into_iter().zip(timers.into_iter().rev()).enumerate() {
        pair.configure(turn % 2, config(tx, rx, 3));
        pair.run(ms(170));
        pair.configure(1 - turn % 2, config(rx, tx, 2));
        pair.run(ms(40));
    }
    pair.run(SECOND * 20);
    assert_eq!(pair.said(0), [BfdOutput::Up]);
    assert_eq!(pair.said(1), [BfdOutput::Up]);
    assert!((0..2).all(|side| !pair.sides[side].status().polling));
}
