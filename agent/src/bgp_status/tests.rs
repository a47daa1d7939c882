//! When a BGPNodeStatus is written, and what it says.

use std::time::SystemTime;

use bgp_proto::rib::PeerCounts;
use bgp_proto::session::State;
use bgp_proto::speaker::PeerStatus;
use bgp_proto::wire::Family;

use super::*;

fn peer(name: &str, state: State, accepted: usize) -> PeerStatus {
    PeerStatus {
        kept_when_silent: Duration::ZERO,
        name: name.to_owned(),
        address: Some("10.0.0.254:179".parse().unwrap()),
        local_address: None,
        asn: None,
        router_id: None,
        state,
        established_for: (state == State::Established).then_some(Duration::from_secs(5)),
        negotiated: None,
        counts: PeerCounts {
            accepted,
            by_family: [(Family::IPV4_UNICAST, accepted)].into(),
            ..PeerCounts::default()
        },
        updates: (0, 0),
        last_down: None,
        flaps: 0,
        bfd_up: Some(true),
        stale_for: None,
        max_prefixes: 100,
        held_down_for: None,
        shut_down: false,
    }
}

fn configured() -> Configured {
    Configured {
        as_number: 64_512,
        router_id: Some([10, 0, 0, 1].into()),
        accepted: ["tor".to_owned()].into(),
        refused: BTreeMap::new(),
    }
}

/// Seconds since a time that is no longer ago than any span here.
fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// The seconds at which the states that are seen each second would be written.
fn writes(seen: impl Fn(u64) -> Vec<PeerStatus>, seconds: u64) -> Vec<u64> {
    let start = Instant::now();
    let (mut composer, mut throttle) = (Composer::default(), Throttle::default());
    let mut written = Vec::new();
    for second in 0..seconds {
        let now = start + Duration::from_secs(second);
        let status = composer.compose(&configured(), &seen(second), wall(second));
        if throttle.is_due(now, &status) {
            throttle.written(now, status);
            written.push(second);
        }
    }
    written
}

#[test]
fn a_change_is_written_at_once_and_then_every_ten_seconds_at_most() {
    let up = |second: u64, from: u64| {
        let state = if second >= from {
            State::Established
        } else {
            State::Active
        };
        vec![peer("tor", state, 0)]
    };
    assert_eq!(writes(|second| up(second, 30), 100), [0, 30]);
    assert_eq!(writes(|second| up(second, 3), 100), [0, 10]);
    let flapping = |second: u64| {
        let state = if second.is_multiple_of(2) {
            State::Established
        } else {
            State::Idle
        };
        vec![peer("tor", state, 0)]
    };
    let times = writes(flapping, 101);
    assert!(times.len() <= 11, "{times:?}");
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 10),
        "{times:?}"
    );
}

#[test]
fn the_steps_of_a_peer_that_does_not_answer_are_no_news_and_counts_wait_for_a_minute() {
    let trying = |second: u64| {
        let states = [State::Connect, State::Active, State::OpenSent];
        vec![peer("tor", states[second as usize % 3], 0)]
    };
    assert_eq!(writes(trying, 200), [0]);
    let churning = |second: u64| vec![peer("tor", State::Established, second as usize)];
    assert_eq!(writes(churning, 200), [0, 60, 120, 180]);
}

#[test]
fn what_could_not_be_written_is_tried_again_after_the_pause() {
    let start = Instant::now();
    let mut throttle = Throttle::default();
    let status = BgpNodeStatusStatus::default();
    throttle.written(start, status.clone());
    throttle.forget();
    assert!(!throttle.is_due(start + Duration::from_secs(9), &status));
    assert!(throttle.is_due(start + PAUSE, &status));
}

#[test]
fn a_refused_peer_shows_the_reason_and_since_when() {
    let mut composer = Composer::default();
    composer.compose(&configured(), &[], wall(0));
    let refused = Configured {
        accepted: BTreeSet::new(),
        refused: [("tor".to_owned(), "it names no Secret".to_owned())].into(),
        ..configured()
    };
    composer.compose(&refused, &[], wall(5));
    let status = composer.compose(&refused, &[], wall(9));
    let json = serde_json::to_value(&status).unwrap();
    let condition = &json["peers"][0]["conditions"][0];
    assert_eq!(json["peers"][0]["name"], "tor");
    assert_eq!(condition["type"], "Accepted");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Refused");
    assert_eq!(condition["message"], "it names no Secret");
    assert_eq!(condition["lastTransitionTime"], "1970-01-12T13:46:45Z");
    let again = composer.compose(&configured(), &[], wall(20));
    let accepted = &again.peers[0].conditions[0];
    assert_eq!(
        (accepted.status.as_str(), accepted.reason.as_str()),
        ("True", "Valid")
    );
}

#[test]
fn sessions_say_since_when_and_which_are_down() {
    let mut composer = Composer::default();
    let mut lost = peer("mesh/n2", State::Active, 0);
    lost.last_down = Some((
        "hold timer expired".to_owned(),
        Some(Duration::from_secs(7)),
    ));
    let seen = [lost, peer("tor", State::Established, 3)];
    composer.compose(&configured(), &seen, wall(10));
    let status = composer.compose(&configured(), &seen, wall(12));
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((status.established, status.configured), (1, 2));
    let [down, up] = [&json["sessions"][0], &json["sessions"][1]];
    assert_eq!(down["downReason"], "hold timer expired");
    assert_eq!(down["since"], "1970-01-12T13:46:43Z");
    assert_eq!(up["since"], "1970-01-12T13:46:45Z");
    assert_eq!(up["families"][0]["family"], "IPv4");
    assert_eq!(up["families"][0]["received"], 3);
    assert_eq!(up["prefixes"]["accepted"], 3);
    let condition = &json["conditions"][0];
    assert_eq!(condition["reason"], "SessionsDown");
    assert_eq!(condition["message"], "not Established: mesh/n2");
}
