//! Our BFD against real FRR and real BIRD over a switch that can lose packets without a word, and what no peer needs to see.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod checks;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use bgp_speaker::bfd::{
    BfdConfig, BfdEvent, BfdHandle, BfdPeer, BfdPeerStatus, BfdSettings, Diagnostic, SessionState,
    spawn,
};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::require_root;
use tests::wait::eventually;
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(20);
const TOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

const FRR_PEER: &str = "peer 10.0.0.2 local-address 10.0.0.1 interface veth0";
/// With the brackets of a configuration file around a peer's line.
fn frr_config(peer: &str) -> String {
    format!(
        "bfd\n {peer}\n  receive-interval 50\n  transmit-interval 50\n  detect-multiplier 3\n  no shutdown\n !\n!\n"
    )
}

/// A router and a node on a switch of their own.
struct Lab {
    tor: Netns,
    switch: Netns,
    node: Netns,
}

impl Lab {
    fn new(tag: &str) -> Self {
        let [tor, switch, node] = ["tor", "sw", "node"].map(|role| Netns::new(tag, role).unwrap());
        switch.ip("link add br0 type bridge").unwrap();
        switch.ip("link set br0 up").unwrap();
        for (netns, port, address) in [(&tor, "tor", TOR), (&node, "node", NODE)] {
            join((netns, "veth0"), (&switch, port)).unwrap();
            switch.ip(&format!("link set {port} master br0")).unwrap();
            netns
                .ip(&format!("addr add {address}/24 dev veth0"))
                .unwrap();
        }
        Self { tor, switch, node }
    }

    /// Loses everything from now on; no carrier goes.
    fn cut(&self) {
        self.switch.ip("link set node nomaster").unwrap();
    }

    fn heal(&self) {
        self.switch.ip("link set node master br0").unwrap();
    }
}

fn interface(netns: &Netns) -> u32 {
    let links = netns.ip_json("link show dev veth0").unwrap();
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

fn link_local(netns: &Netns) -> IpAddr {
    eventually(DEADLINE, "a link-local address in force", || {
        let links = netns.ip_json("-6 addr show dev veth0 scope link -tentative")?;
        let address = links
            .pointer("/0/addr_info/0/local")
            .and_then(|v| v.as_str());
        anyhow::Ok(
            address
                .ok_or_else(|| anyhow!("none yet"))?
                .parse::<IpAddr>()?,
        )
    })
    .unwrap()
}

fn timers(tx: u64, rx: u64, multiplier: u8) -> BfdConfig {
    BfdConfig {
        desired_min_tx: Duration::from_millis(tx),
        required_min_rx: Duration::from_millis(rx),
        detect_multiplier: NonZeroU8::new(multiplier).unwrap(),
        control_plane_independent: false,
        passive: false,
    }
}

fn peer(remote: impl Into<IpAddr>, config: BfdConfig) -> BfdPeer {
    BfdPeer {
        remote: remote.into(),
        local: None,
        interface: None,
        multihop: None,
        config,
    }
}

fn named_tor(peer: BfdPeer) -> BTreeMap<String, BfdPeer> {
    BTreeMap::from([("tor".to_owned(), peer)])
}

/// Our side, with one peer named `tor`.
struct Ours {
    handle: BfdHandle,
    events: mpsc::Receiver<BfdEvent>,
}

impl Ours {
    fn start(netns: &Netns, settings: BfdSettings, peer: BfdPeer) -> Self {
        let (handle, events) = netns.inside(|| spawn(settings)).unwrap().unwrap();
        let ours = Self { handle, events };
        ours.configure(peer);
        ours
    }

    fn configure(&self, peer: BfdPeer) {
        self.handle.configure(named_tor(peer)).unwrap();
    }

    fn status(&self) -> BfdPeerStatus {
        self.handle.status().unwrap().peers.remove("tor").unwrap()
    }

    /// The next Up or Down, and when it came.
    fn next(&mut self) -> Result<(Instant, BfdEvent)> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            match self.events.try_recv() {
                Ok(BfdEvent::Changed { .. }) => {}
                Ok(event) => return Ok((Instant::now(), event)),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Err(anyhow!("no event; {:?}", self.handle.status()))
    }

    fn expect_up(&mut self, context: impl Fn() -> String) {
        match self.next() {
            Ok((_, BfdEvent::Up { peer })) => assert_eq!(peer, "tor"),
            other => panic!("not Up but {other:?}\n{}", context()),
        }
    }

    fn expect_down(&mut self, why: Diagnostic, admin: bool) -> Instant {
        let (at, event) = self.next().unwrap();
        let BfdEvent::Down {
            diagnostic,
            remote_admin_down,
            control_plane_independent,
            ..
        } = event
        else {
            panic!("not Down but {event:?}");
        };
        assert_eq!((diagnostic, remote_admin_down), (why, admin));
        assert!(!control_plane_independent);
        at
    }

    fn settled(&self, detection: Duration) {
        eventually(DEADLINE, "the Poll Sequence's end", || {
            let status = self.status().session;
            ensure!(!status.polling, "{status:?}");
            ensure!(status.detection_time == Some(detection), "{status:?}");
            Ok(())
        })
        .unwrap();
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The cut is found, in a time of its own kind, and the healed link comes back.
fn cut_and_heal(lab: &Lab, ours: &mut Ours, detection: Duration) {
    ours.settled(detection);
    let cut = Instant::now();
    lab.cut();
    let down = ours.expect_down(Diagnostic::ControlDetectionTimeExpired, false);
    // A slow machine delays `ip` and this thread, not the detection; the bound is for the sum.
    let took = down - cut;
    assert!(took < detection + millis(500), "{took:?}");
    lab.heal();
    ours.expect_up(String::new);
}

fn frr(lab: &Lab, peer: &str) -> Frr {
    let mut frr = Frr::start(&lab.tor, "").unwrap();
    frr.start_bfdd(&lab.tor, &frr_config(peer)).unwrap();
    frr
}

fn frr_peer(frr: &Frr) -> Result<serde_json::Value> {
    let peers = frr.json("show bfd peers json")?;
    Ok(peers.get(0).ok_or_else(|| anyhow!("no peer"))?.clone())
}

fn frr_is(frr: &Frr, key: &str, value: &serde_json::Value) {
    eventually(DEADLINE, &format!("FRR's {key} to be {value}"), || {
        let peer = frr_peer(frr)?;
        ensure!(peer.get(key) == Some(value), "{peer}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn with_frr_a_session_comes_up_changes_timers_by_poll_and_finds_a_silent_cut() {
    require_root!();
    let lab = Lab::new("bfdf");
    let frr = frr(&lab, FRR_PEER);
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(TOR, timers(50, 50, 3)),
    );
    ours.expect_up(|| frr.log_end());
    ours.settled(millis(150));
    frr_is(&frr, "status", &"up".into());
    frr_is(&frr, "remote-transmit-interval", &50.into());

    ours.configure(peer(TOR, timers(120, 80, 4)));
    frr_is(&frr, "remote-transmit-interval", &120.into());
    frr_is(&frr, "remote-receive-interval", &80.into());
    frr_is(&frr, "remote-detect-multiplier", &4.into());
    ours.settled(millis(240));
    frr.vtysh(&[
        "configure terminal",
        "bfd",
        FRR_PEER,
        "transmit-interval 100",
    ])
    .unwrap();
    ours.settled(millis(300));
    assert!(
        ours.events
            .try_recv()
            .is_ok_and(|e| matches!(e, BfdEvent::Changed { .. }))
    );
    cut_and_heal(&lab, &mut ours, millis(300));
    let status = ours.handle.status().unwrap();
    assert_eq!(status.listen_errors, Vec::<String>::new());
}

#[test]
fn with_frr_an_admin_down_either_way_is_told_apart_from_a_failure() {
    require_root!();
    let lab = Lab::new("bfda");
    let frr = frr(&lab, FRR_PEER);
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(TOR, timers(50, 50, 3)),
    );
    ours.expect_up(|| frr.log_end());
    ours.settled(millis(150));
    frr.vtysh(&["configure terminal", "bfd", FRR_PEER, "shutdown"])
        .unwrap();
    ours.expect_down(Diagnostic::NeighborSignaledSessionDown, true);
    frr.vtysh(&["configure terminal", "bfd", FRR_PEER, "no shutdown"])
        .unwrap();
    ours.expect_up(|| frr.log_end());
    ours.settled(millis(150));
    ours.handle.admin_down_all().unwrap();
    frr_is(&frr, "status", &"down".into());
    frr_is(&frr, "remote-diagnostic", &"administratively down".into());
    assert_eq!(ours.status().session.state, SessionState::AdminDown);
}

#[test]
fn with_frr_over_ipv6_link_local_addresses() {
    require_root!();
    let lab = Lab::new("bfdl");
    let (tor, node) = (link_local(&lab.tor), link_local(&lab.node));
    let frr = frr(
        &lab,
        &format!("peer {node} local-address {tor} interface veth0"),
    );
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        BfdPeer {
            local: Some(node),
            interface: Some(interface(&lab.node)),
            ..peer(tor, timers(50, 50, 3))
        },
    );
    ours.expect_up(|| frr.log_end());
    cut_and_heal(&lab, &mut ours, millis(150));
}

#[test]
fn with_frr_over_more_than_one_hop() {
    require_root!();
    let lab = Lab::new("bfdm");
    let frr = frr(&lab, "peer 10.0.0.2 multihop local-address 10.0.0.1");
    let multihop = |least| BfdPeer {
        local: Some(NODE.into()),
        multihop: Some(least),
        ..peer(TOR, timers(50, 50, 3))
    };
    let mut ours = Ours::start(&lab.node, BfdSettings::default(), multihop(254));
    ours.expect_up(|| frr.log_end());
    cut_and_heal(&lab, &mut ours, millis(150));
}

#[test]
fn with_bird_a_session_comes_up_and_finds_a_silent_cut_and_a_dead_bird() {
    require_root!();
    let lab = Lab::new("bfdb");
    let mut bird = Bird::start(
        &lab.tor,
        "router id 10.0.0.1;
         protocol device {}
         protocol bfd {
           interface \"veth0\" { interval 50 ms; multiplier 3; };
           neighbor 10.0.0.2 dev \"veth0\" local 10.0.0.1;
         }",
    )
    .unwrap();
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(TOR, timers(60, 70, 5)),
    );
    ours.expect_up(|| bird.log_end());
    eventually(DEADLINE, "BIRD to be up and to agree on our timers", || {
        let sessions = bird.birdc("show bfd sessions")?;
        let line = sessions.lines().find(|line| line.contains("10.0.0.2"));
        let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        // BIRD shows its own interval and timeout: the slower of both, and five of our packets.
        ensure!(words.get(2) == Some(&"Up"), "{sessions}");
        ensure!(
            words.get(4..6) == Some(&["0.070", "0.300"][..]),
            "{sessions}"
        );
        Ok(())
    })
    .unwrap();
    cut_and_heal(&lab, &mut ours, millis(210));
    ours.settled(millis(210));
    bird.kill().unwrap();
    ours.expect_down(Diagnostic::ControlDetectionTimeExpired, false);
}

#[test]
fn a_port_in_use_is_named_and_opened_once_it_is_free() {
    require_root!();
    let lab = Lab::new("bfdp");
    let holder = lab
        .node
        .inside(|| UdpSocket::bind("0.0.0.0:4791"))
        .unwrap()
        .unwrap();
    let settings = BfdSettings {
        single_hop_port: 4791,
        ..BfdSettings::default()
    };
    let mut ours = Ours::start(&lab.node, settings.clone(), peer(TOR, timers(50, 50, 3)));
    let mut theirs = Ours::start(&lab.tor, settings, peer(NODE, timers(50, 50, 3)));
    eventually(DEADLINE, "the error", || {
        let errors = ours.handle.status().unwrap().listen_errors;
        ensure!(
            errors.len() == 1 && errors[0].contains("4791"),
            "{errors:?}"
        );
        Ok(())
    })
    .unwrap();
    drop(holder);
    ours.expect_up(String::new);
    theirs.expect_up(String::new);
    assert_eq!(
        ours.handle.status().unwrap().listen_errors,
        Vec::<String>::new()
    );
}

#[test]
fn a_new_set_of_peers_leaves_the_others_alone_and_tells_the_removed_admin_down() {
    require_root!();
    let lab = Lab::new("bfds");
    lab.tor.ip("addr add 10.0.0.3/24 dev veth0").unwrap();
    lab.node.ip("addr add 10.0.0.4/24 dev veth0").unwrap();
    let between = |local: [u8; 4], remote: [u8; 4]| BfdPeer {
        local: Some(local.into()),
        ..peer(remote, timers(50, 50, 3))
    };
    let (first, second) = ([10, 0, 0, 2], [10, 0, 0, 4]);
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        between(first, [10, 0, 0, 1]),
    );
    let mut theirs = Ours::start(
        &lab.tor,
        BfdSettings::default(),
        between([10, 0, 0, 1], first),
    );
    ours.expect_up(String::new);
    theirs.expect_up(String::new);
    let before = ours.status().session.local_discriminator;
    let both = |kept: BfdPeer, other: BfdPeer| {
        BTreeMap::from([("tor".to_owned(), kept), ("other".to_owned(), other)])
    };
    let kept = between([10, 0, 0, 1], first);
    let other = between([10, 0, 0, 3], second);
    theirs.handle.configure(both(kept, other)).unwrap();
    let kept = between(first, [10, 0, 0, 1]);
    let other = between(second, [10, 0, 0, 3]);
    ours.handle.configure(both(kept.clone(), other)).unwrap();
    for side in [&mut ours, &mut theirs] {
        let (_, event) = side.next().unwrap();
        assert_eq!(
            event,
            BfdEvent::Up {
                peer: "other".to_owned()
            }
        );
    }
    ours.configure(kept);
    let (_, event) = theirs.next().unwrap();
    let BfdEvent::Down {
        peer,
        remote_admin_down: true,
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    assert_eq!(peer, "other");
    let after = ours.status().session;
    assert_eq!(
        (after.state, after.local_discriminator),
        (SessionState::Up, before)
    );
    assert!(!ours.handle.status().unwrap().peers.contains_key("other"));
}

#[test]
fn busy_threads_do_not_delay_the_timers() {
    require_root!();
    let lab = Lab::new("bfdy");
    let mut ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(TOR, timers(30, 30, 3)),
    );
    let mut theirs = Ours::start(
        &lab.tor,
        BfdSettings::default(),
        peer(NODE, timers(30, 30, 3)),
    );
    ours.expect_up(String::new);
    theirs.expect_up(String::new);
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| while Instant::now() < end {});
        }
    });
    for side in [&mut ours, &mut theirs] {
        assert_eq!(side.status().session.state, SessionState::Up);
        while let Ok(event) = side.events.try_recv() {
            assert!(matches!(event, BfdEvent::Changed { .. }), "{event:?}");
        }
    }
}
