//! Graceful restart in both roles, with kills on either side: nothing that is kept is ever missing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bgp_proto::session::State;
use bgp_proto::speaker::GracefulRestartConfig;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;
use tests::wait::{eventually, pause};

use crate::lab::*;
use crate::node::{Node, node};

/// How often we are killed, so long after the former start.
const KILLS: usize = 3;
const BETWEEN: Duration = Duration::from_secs(2);

/// We are killed and started again, time after time, and the helper always has our route.
fn our_kills_cost_nothing(
    netns: &Netns,
    helper: &(dyn Router + Sync),
    has: &(dyn Fn() -> Result<bool> + Sync),
) {
    let config = || node(&[OURS], |_| {});
    let mut ours = Node::start(netns, config());
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    eventually(DEADLINE, "the helper to have our route", || {
        ensure!(has()?, "{}", helper.log());
        Ok(())
    })
    .unwrap();
    ours.synced();
    let (done, looks, missing) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let ours = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                looks.fetch_add(1, Ordering::Relaxed);
                if !has().unwrap_or(false) {
                    missing.fetch_add(1, Ordering::Relaxed);
                }
                let _ = pause(Duration::from_millis(30));
            }
        });
        for _ in 0..KILLS {
            ours.kill();
            ours = Node::start(netns, config());
            ours.establishes("tor");
            // What they have comes before the sweep, End-of-RIB or not.
            ours.synced();
            assert!(
                ours.heard().routes.contains_key(&THEIRS.parse().unwrap()),
                "{:?}",
                ours.heard()
            );
            pause(BETWEEN).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        ours
    });
    let looks = looks.into_inner();
    assert!(looks > 20, "only {looks} looks");
    assert_eq!(missing.into_inner(), 0, "of {looks} looks");
    helper.establishes();
    helper.has(&[OURS]);
    assert_eq!(ours.status("tor").flaps, 0);
}

#[test]
fn frr_in_its_default_mode_keeps_our_routes_over_three_kills() {
    require_root!();
    let (tor, node) = link("gf");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    our_kills_cost_nothing(&node, &frr, &|| {
        Ok(frr.bgp_routes()?.iter().any(|(prefix, _)| prefix == OURS))
    });
}

#[test]
fn bird_keeps_our_routes_over_three_kills() {
    require_root!();
    let (tor, node) = link("gb");
    let bird = Bird::start(&tor, &bird_config("graceful restart on;", "")).unwrap();
    our_kills_cost_nothing(&node, &bird, &|| {
        Ok(bird
            .routes_from("node")?
            .iter()
            .any(|prefix| prefix == OURS))
    });
}

#[test]
fn gobgp_keeps_our_routes_over_three_kills() {
    require_root!();
    let (tor, node) = link("gg");
    let restart = "  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = 60\n    notification-enabled = true\n";
    let family = "    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n";
    let gobgp = gobgp(&tor, &gobgp_config(restart, family));
    our_kills_cost_nothing(&node, &gobgp, &|| {
        Ok(gobgp.gobgp(&["global", "rib"])?.contains(OURS))
    });
}

#[test]
fn openbgpd_keeps_our_routes_over_a_kill() {
    require_root!();
    let (tor, netns) = link("go");
    let openbgpd = OpenBgpd::start(&tor, &openbgpd_config("", "")).unwrap();
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    ours.establishes("tor");
    openbgpd.has(&[OURS]);
    ours.kill();
    eventually(DEADLINE, "OpenBGPD to notice", || {
        ensure!(!openbgpd.is_up("10.0.0.2")?);
        Ok(())
    })
    .unwrap();
    let kept = openbgpd.bgpctl(&["show", "rib", OURS]).unwrap();
    assert!(kept.contains(OURS), "{kept}");
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    openbgpd.bgpctl(&["neighbor", "10.0.0.2", "up"]).unwrap();
    ours.establishes("tor");
    openbgpd.has(&[OURS]);
}

const FRR_RESTART: &str = " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n bgp graceful-restart notification\n no bgp hard-administrative-reset";

/// Their daemon is killed and comes back: what it told us is stale in between and was never out.
fn their_kill_costs_nothing(ours: &Node, kill: impl FnOnce(), restart: impl FnOnce()) {
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    ours.synced();
    kill();
    let status = ours.until("tor", "the routes to be stale", |status| {
        status.state != State::Established && status.counts.stale > 0
    });
    assert!(status.stale_for.is_some());
    restart();
    ours.establishes("tor");
    let status = ours.until("tor", "the routes to be fresh", |status| {
        status.counts.stale == 0 && status.counts.accepted > 0
    });
    assert_eq!(status.flaps, 1);
    let heard = ours.heard();
    assert_eq!(heard.withdrawals, 0, "{heard:?}");
    assert!(heard.routes.contains_key(&THEIRS.parse().unwrap()));
}

#[test]
fn what_frr_told_us_stays_over_a_kill_of_its_bgpd() {
    require_root!();
    let (tor, netns) = link("kf");
    let frr = std::cell::RefCell::new(Frr::start(&tor, &frr_config(FRR_RESTART, "")).unwrap());
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    frr.borrow().has(&[OURS]);
    their_kill_costs_nothing(
        &ours,
        || frr.borrow_mut().kill_bgpd().unwrap(),
        || frr.borrow_mut().restart_bgpd(&tor).unwrap(),
    );
    frr.borrow().has(&[OURS]);
}

#[test]
fn what_bird_told_us_stays_over_its_kill() {
    require_root!();
    let (tor, netns) = link("kb");
    let config = bird_config("graceful restart on;", "");
    let bird = std::cell::RefCell::new(Bird::start(&tor, &config).unwrap());
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    bird.borrow().has(&[OURS]);
    their_kill_costs_nothing(
        &ours,
        || bird.borrow_mut().kill().unwrap(),
        || bird.borrow_mut().recover(&tor).unwrap(),
    );
    bird.borrow().has(&[OURS]);
}

#[test]
fn what_frr_told_us_goes_when_it_does_not_restart_gracefully_and_comes_back() {
    require_root!();
    let (tor, netns) = link("kn");
    let mut frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    ours.learns(THEIRS, &["10.0.0.1"]);
    frr.has(&[OURS]);
    frr.kill_bgpd().unwrap();
    ours.loses(THEIRS);
    frr.restart_bgpd(&tor).unwrap();
    ours.learns(THEIRS, &["10.0.0.1"]);
    frr.has(&[OURS]);
}

/// RFC 8538: with the N bit on both sides a reset by NOTIFICATION is a restart as well.
#[test]
fn a_reset_by_frr_or_us_takes_no_route_where_both_announce_the_n_bit() {
    require_root!();
    let (tor, netns) = link("kx");
    let frr = Frr::start(&tor, &frr_config(FRR_RESTART, "")).unwrap();
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert!(negotiated.notification_gr);
    ours.learns(THEIRS, &["10.0.0.1"]);
    frr.has(&[OURS]);
    ours.synced();
    for flaps in [1, 2] {
        if flaps == 1 {
            frr.vtysh(&["clear bgp 10.0.0.2"]).unwrap();
        } else {
            ours.reset("tor", "once more");
        }
        ours.until("tor", "the reset", |status| status.flaps == flaps);
        ours.establishes("tor");
        ours.until("tor", "the routes to be fresh", |status| {
            status.counts.stale == 0
        });
        frr.has(&[OURS]);
    }
    let heard = ours.heard();
    assert_eq!(heard.withdrawals, 0, "{heard:?}");
}

const SHORT: GracefulRestartConfig = GracefulRestartConfig {
    restart_time: Duration::from_secs(2),
    long_lived_stale_time: Duration::from_secs(60),
    notification: true,
};

/// RFC 9494, both roles with one BIRD.
#[test]
fn long_lived_stale_routes_stay_in_bird_while_we_are_away_and_in_us_while_it_is() {
    require_root!();
    let (tor, netns) = link("kl");
    let session = "graceful restart on; graceful restart time 2; long lived graceful restart on; long lived stale time 60;";
    let mut bird = Bird::start(&tor, &bird_config(session, "")).unwrap();
    let config = || node(&[OURS], |tor| tor.session.graceful_restart = Some(SHORT));
    let ours = Node::start(&netns, config());
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert!(negotiated.long_lived_peer);
    bird.has(&[OURS]);
    ours.kill();
    shows("BIRD", &["(65535,6)"], || {
        bird.birdc(&format!("show route all {OURS}"))
    });
    let ours = Node::start(&netns, config());
    ours.establishes("tor");
    shows("BIRD", &["fresh"], || {
        let text = bird.birdc(&format!("show route all {OURS}"))?;
        let fresh = text.contains(OURS) && !text.contains("(65535,6)");
        Ok(if fresh { "fresh".to_owned() } else { text })
    });
    ours.learns(THEIRS, &["10.0.0.1"]);
    ours.synced();
    bird.kill().unwrap();
    eventually(DEADLINE, "the routes to be stale for long", || {
        let routes = ours.routes();
        let long = |path: &bgp_proto::rib::PathView| path.long_lived_stale;
        ensure!(
            routes.iter().any(|route| route.paths.iter().any(long)),
            "{routes:#?}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(ours.heard().withdrawals, 0, "{:?}", ours.heard());
    bird.recover(&tor).unwrap();
    ours.establishes("tor");
    ours.until("tor", "the routes to be fresh", |status| {
        status.counts.stale == 0
    });
    ours.learns(THEIRS, &["10.0.0.1"]);
    assert_eq!(ours.heard().withdrawals, 0, "{:?}", ours.heard());
}
