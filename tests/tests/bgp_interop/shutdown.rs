//! Shutdown communication (RFC 9003), cease subcodes (RFC 4486), and a drain (RFC 8326), as the other side sees them.

use anyhow::Result;
use bgp_proto::wire::Asn;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

const FROM_US: &str = "node-7 gets new disks";
const FROM_THEM: &str = "rack-3 loses power";

/// We go with a text, then they do.
fn both_leave(
    netns: &Netns,
    router: &dyn Router,
    show: impl Fn() -> Result<String>,
    leave: impl Fn(),
) {
    let up = || node(&[OURS], |_| {});
    let node_ = Node::start(netns, up());
    node_.establishes("tor");
    router.has(&[OURS]);
    node_.configure(node(&[OURS], |tor| {
        tor.session.shutdown = Some(FROM_US.to_owned());
    }));
    router.has(&[]);
    shows("the router", &[FROM_US], show);
    assert!(node_.status("tor").shut_down);
    node_.loses(THEIRS);
    node_.configure(up());
    node_.establishes("tor");
    node_.learns(THEIRS, &["10.0.0.1"]);
    leave();
    let status = node_.until("tor", "their text", |status| {
        let why = status.last_down.as_ref();
        why.is_some_and(|(why, _)| why.contains(FROM_THEM))
    });
    let (why, _) = status.last_down.unwrap();
    assert!(
        why.to_lowercase().contains("administrative shutdown"),
        "{why}"
    );
    node_.loses(THEIRS);
    assert_eq!(node_.status("tor").flaps, 2);
}

#[test]
fn frr_and_we_read_each_others_reason_for_a_shutdown() {
    require_root!();
    let (tor, node) = link("cf");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    let show = || Ok(frr.vtysh(&["show bgp neighbors 10.0.0.2"])? + &frr.log_end());
    both_leave(&node, &frr, show, || {
        let line = format!("neighbor 10.0.0.2 shutdown message {FROM_THEM}");
        frr.vtysh(&["configure terminal", "router bgp 65000", &line])
            .unwrap();
    });
}

#[test]
fn bird_and_we_read_each_others_reason_for_a_shutdown() {
    require_root!();
    let (tor, node) = link("cb");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    let show = || Ok(bird.birdc("show protocols all node")? + &bird.log_end());
    both_leave(&node, &bird, show, || {
        bird.birdc(&format!("disable node \"{FROM_THEM}\""))
            .unwrap();
    });
}

#[test]
fn gobgp_and_we_read_each_others_reason_for_a_shutdown() {
    require_root!();
    let (tor, node) = link("cg");
    let gobgp = gobgp(&tor, &gobgp_config("", ""));
    both_leave(
        &node,
        &gobgp,
        || Ok(gobgp.log_end()),
        || {
            let words = ["neighbor", "10.0.0.2", "shutdown", "--reason", FROM_THEM];
            gobgp.gobgp(&words).unwrap();
        },
    );
}

#[test]
fn openbgpd_and_we_read_each_others_reason_for_a_shutdown() {
    require_root!();
    let (tor, node) = link("co");
    let openbgpd = OpenBgpd::start(&tor, &openbgpd_config("", "")).unwrap();
    let show = || openbgpd.bgpctl(&["show", "neighbor", "10.0.0.2"]);
    both_leave(&node, &openbgpd, show, || {
        openbgpd
            .bgpctl(&["neighbor", "10.0.0.2", "down", FROM_THEM])
            .unwrap();
    });
}

#[test]
fn a_reset_is_seen_by_frr_as_cease_administrative_reset_and_the_session_comes_back() {
    require_root!();
    let (tor, netns) = link("cr");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    // With graceful restart FRR takes our next connection for a restart, at times before it has read our last words.
    let ours = Node::start(
        &netns,
        node(&[OURS], |tor| tor.session.graceful_restart = None),
    );
    ours.establishes("tor");
    frr.has(&[OURS]);
    ours.reset("tor", "try again");
    // Its log keeps what the next try would overwrite in its state.
    shows("FRR", &["Cease/Administrative Reset"], || {
        Ok(frr.vtysh(&["show bgp neighbors 10.0.0.2"])? + &frr.log_end())
    });
    ours.establishes("tor");
    frr.has(&[OURS]);
    let neighbor = "clear bgp 10.0.0.2";
    frr.vtysh(&[neighbor]).unwrap();
    let status = ours.until("tor", "FRR's reset", |status| status.flaps == 2);
    let (why, _) = status.last_down.unwrap();
    assert!(why.contains("Administrative Reset"), "{why}");
    ours.establishes("tor");
}

/// Two nodes announce one prefix to FRR; the one FRR prefers drains.
#[test]
fn a_drained_node_is_left_by_frr_before_its_session_ends() {
    require_root!();
    let (tor, netns) = link("cd");
    netns.ip("addr add 10.0.0.3/24 dev veth0").unwrap();
    let extra = " neighbor 10.0.0.3 remote-as 65003\n neighbor 10.0.0.3 timers connect 1";
    let frr = Frr::start(&tor, &frr_config(extra, "  neighbor 10.0.0.3 activate")).unwrap();
    let draining = |draining| {
        let mut config = node(&[OURS], |_| {});
        config.draining = draining;
        config
    };
    let first = Node::start(&netns, draining(false));
    // Of equal paths FRR keeps the older one.
    frr.has(&[OURS]);
    let mut config = node(&[OURS], |tor| {
        tor.socket.source = Some("10.0.0.3".parse().unwrap())
    });
    config.speaker.asn = Asn(65_003);
    config.speaker.router_id = "10.0.0.3".parse().unwrap();
    config.listen = vec!["10.0.0.3:179".parse().unwrap()];
    let second = Node::start(&netns, config);
    second.establishes("tor");
    let best = |wanted: &str| {
        shows("FRR's best path", &[wanted], || {
            let shown = frr.json(&format!("show bgp ipv4 unicast {OURS} json"))?;
            let paths = shown.get("paths").and_then(|paths| paths.as_array());
            let best = paths.into_iter().flatten().find(|path| {
                path.pointer("/bestpath/overall")
                    .and_then(|best| best.as_bool())
                    == Some(true)
            });
            Ok(best.map(ToString::to_string).unwrap_or_default())
        })
    };
    best("\"peerId\":\"10.0.0.2\"");
    first.configure(draining(true));
    best("\"peerId\":\"10.0.0.3\"");
    shows("FRR", &["gracefulShutdown"], || {
        frr.vtysh(&[&format!("show bgp ipv4 unicast {OURS} json")])
    });
    assert_eq!(first.status("tor").flaps, 0, "a drain resets nothing");
    let sent = first.advertised("tor");
    assert_eq!(sent[0].1.communities, [0xFFFF_0000]);
    first.configure(draining(false));
    shows("FRR", &["clean"], || {
        let text = frr.vtysh(&[&format!("show bgp ipv4 unicast {OURS} json")])?;
        let drained = text.contains("gracefulShutdown") || !text.contains("10.0.0.2");
        Ok(if drained { text } else { "clean".to_owned() })
    });
}
