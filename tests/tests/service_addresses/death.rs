//! What the death of a node costs who asks an address that two announce: with BFD, and without.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::announced::{BFDD, silence, watch_by_bfd, ways};
use tests::flow::{Flow, Kind, measure};
use tests::lab::Lab;
use tests::rack::{say, sum};
use tests::require_root;
use tests::wait::{eventually, pause};

use super::{BOTH, PATIENCE, PORT, TOR, at, start, wait_for_ways};

/// The restart time is long: without BFD nobody is waited for who is silent (no N bit, RFC 8538), only who restarts.
const HOLD_TIMER: &str =
    "  holdTime: 3s\n  keepaliveTime: 1s\n  gracefulRestart: {restartTime: 60s}\n";
const BFD: &str = "  bfd: {minTx: 100ms, minRx: 100ms, multiplier: 3}\n";
/// Connections a second.
const RATE: u32 = 200;

/// How the ToR is to notice: written into both BGPPeers.
fn watch_by(lab: &mut Lab, words: &str) {
    let path = lab.manifests().join("30-bgp.yaml");
    let peers = std::fs::read_to_string(path).unwrap();
    let kept = peers.lines().filter(|line| {
        !["holdTime", "keepalive", "graceful", "bfd"]
            .iter()
            .any(|word| line.contains(word))
    });
    let kept: Vec<&str> = kept.collect();
    let told = kept.join("\n").replace(
        "  asNumber: 65000",
        &format!("  asNumber: 65000\n{}", words.trim_end()),
    );
    assert_eq!(told.matches(words.trim_end()).count(), 2, "{told}");
    lab.drop_manifest("30-bgp.yaml", &told).unwrap();
    lab.wait_synced().unwrap();
}

/// Asks while the node dies: how many connections were lost, and after how long the ToR sent all by the other.
fn die(lab: &Lab, title: &str) -> (u64, Duration) {
    let flow = Flow {
        name: format!("outside → {BOTH}"),
        kind: Kind::NewTcp,
        is_allowed: true,
        to: at(BOTH, PORT),
        server: lab.place("shop/web", false).unwrap().0.name().to_owned(),
        rate: RATE,
    };
    let flows = [(&lab.outside, flow)];
    let mut took = Duration::ZERO;
    let outcomes = measure(&flows, Duration::from_secs(8), || {
        pause(Duration::from_secs(1))?;
        let start = Instant::now();
        silence(lab, 1, true)?;
        eventually(PATIENCE, "one way left", || {
            let ways = ways(lab, BOTH)?;
            ensure!(ways.len() == 1 && ways.contains(TOR[0]), "{ways:?}");
            Ok(())
        })?;
        took = start.elapsed();
        Ok(())
    });
    let (_, lost) = sum(title, &flows, &outcomes.unwrap()).unwrap();
    say(&format!("{title}: one way left after {took:?}"));
    (lost, took)
}

#[test]
fn a_nodes_death_costs_what_is_on_its_way_until_the_hold_timer_or_bfd_says_so() {
    require_root!();
    let mut lab = start("sdt");
    lab.frr.start_bfdd(&lab.tor, BFDD).unwrap();
    watch_by(&mut lab, HOLD_TIMER);
    // A timer is agreed on in the OPEN: sessions anew.
    lab.frr.vtysh(&["clear bgp *"]).unwrap();
    eventually(PATIENCE, "hold timers of 3 s", || {
        let neighbors = lab.frr.json("show bgp neighbors json")?;
        let neighbors = neighbors.as_object().into_iter().flatten();
        let held = neighbors.filter(|(_, one)| {
            one["bgpTimerHoldTimeMsecs"] == 3000 && one["bgpState"] == "Established"
        });
        ensure!(held.count() == 2, "not both");
        Ok(())
    })
    .unwrap();
    wait_for_ways(&lab, BOTH, &TOR);
    let (lost, took) = die(&lab, "a node dies, hold timer 3 s");
    silence(&lab, 1, false).unwrap();

    watch_by(&mut lab, BFD);
    watch_by_bfd(&lab, PATIENCE).unwrap();
    wait_for_ways(&lab, BOTH, &TOR);
    let (by_bfd, sooner) = die(&lab, "a node dies, BFD 3 × 100 ms");

    // The dead one had its share, or nothing was shown.
    assert!(lost >= u64::from(RATE) / 2, "{lost}");
    assert!(by_bfd >= 5, "{by_bfd}");
    assert!(by_bfd * 3 < lost, "{by_bfd} with BFD, {lost} without");
    assert!(sooner * 2 < took, "{sooner:?} with BFD, {took:?} without");
}
