//! Over any loss and reordering: a dead peer is never Up beyond the detection time, and a healed link ends in agreement.

use proptest::prelude::*;

use super::*;

fn any_config() -> impl Strategy<Value = BfdConfig> {
    (5_u64..400, 5_u64..400, 1_u8..6).prop_map(|(tx, rx, multiplier)| config(tx, rx, multiplier))
}

/// Lost one time in four; else late by up to 300 ms, so that packets overtake each other.
fn any_fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        1 => Just(None),
        3 => (0_u64..300).prop_map(|late| Some(ms(late))),
    ];
    proptest::collection::vec(fate, 0..300)
}

/// At each step: who is Up has heard the peer within the detection time.
fn run_checked(pair: &mut Pair, time: Duration) {
    let end = pair.now + time;
    while pair.step(end) {
        for side in [0, 1] {
            let status = pair.sides[side].status();
            if status.state != SessionState::Up {
                continue;
            }
            let silent = pair.now - pair.heard_at[side].unwrap();
            assert!(
                silent <= status.detection_time.unwrap(),
                "Up after {silent:?}: {status:?}"
            );
        }
    }
    pair.now = end;
}

fn agree(pair: &Pair) {
    for side in [0, 1] {
        let (ours, theirs) = (pair.sides[side].status(), pair.sides[1 - side].status());
        assert_eq!((ours.state, ours.polling), (SessionState::Up, false));
        let multiplier = pair.sent[side].last().unwrap().1.detect_multiplier;
        let promised = ours.transmit_interval.unwrap() * u32::from(multiplier);
        assert_eq!(theirs.detection_time, Some(promised));
        assert_eq!(theirs.remote_discriminator, ours.local_discriminator);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_loss_and_order_heals_into_agreement_and_a_cut_is_found_in_time(
        configs in proptest::array::uniform4(any_config()),
        fates in proptest::array::uniform2(any_fates()),
    ) {
        let [first, second, third, fourth] = configs;
        let mut pair = Pair::new(first, second);
        pair.fates = fates.map(Into::into);
        run_checked(&mut pair, Duration::from_secs(10));
        pair.configure(0, third.clone());
        run_checked(&mut pair, ms(150));
        pair.configure(1, fourth);
        pair.configure(0, third);
        run_checked(&mut pair, Duration::from_secs(5));

        pair.fates = Default::default();
        run_checked(&mut pair, Duration::from_secs(20));
        agree(&pair);

        pair.cut = [true; 2];
        let slowest = pair.sides.iter().filter_map(|side| side.status().detection_time).max();
        let link = ms(1);
        run_checked(&mut pair, slowest.unwrap() + link);
        prop_assert!(!pair.states().contains(&SessionState::Up));
    }

    #[test]
    fn a_perfect_link_never_loses_a_session_whatever_the_timers_become(
        configs in proptest::collection::vec((any_config(), 0_usize..2, 0_u64..900), 2..12),
    ) {
        let mut pair = Pair::new(config(50, 50, 3), config(50, 50, 3));
        run_checked(&mut pair, Duration::from_secs(3));
        for (next, side, pause) in configs {
            pair.configure(side, next);
            run_checked(&mut pair, ms(pause));
        }
        run_checked(&mut pair, Duration::from_secs(20));
        agree(&pair);
        for side in [0, 1] {
            prop_assert_eq!(pair.said(side), vec![BfdOutput::Up]);
        }
    }
}
