//! The speaker against real FRR and real BIRD, both sides dialling at once: routes both ways, sessions cut, peers killed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use bgp_proto::wire::Asn;
use bgp_speaker::{
    Config, Handle, PeerAs, PeerConfig, PeerStatus, RouteEvent, RouteEvents, Shutdown,
    SpeakerConfig, spawn,
};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::require_root;
use tests::wait::eventually;
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(60);
const OURS: &str = "10.244.1.0/24";
const THEIRS: &str = "192.0.2.0/24";
const THEIR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

const FRR: &str = "
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 3 9
 neighbor 10.0.0.2 remote-as 64513
 neighbor 10.0.0.2 timers connect 1
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
";

const BIRD: &str = "
router id 10.0.0.1;
protocol device {}
protocol static { ipv4; route 192.0.2.0/24 blackhole; }
protocol bgp node {
  local 10.0.0.1 as 65000;
  neighbor 10.0.0.2 as 64513;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 4;
  hold time 9;
  ipv4 { import all; export all; };
}
";

/// A router's namespace and a node's, joined by one link.
fn link(tag: &str) -> (Netns, Netns) {
    let (tor, node) = (
        Netns::new(tag, "tor").unwrap(),
        Netns::new(tag, "node").unwrap(),
    );
    join((&tor, "veth0"), (&node, "veth0")).unwrap();
    tor.ip(&format!("addr add {THEIR_ADDRESS}/24 dev veth0"))
        .unwrap();
    node.ip(&format!("addr add {OUR_ADDRESS}/24 dev veth0"))
        .unwrap();
    (tor, node)
}

fn config(originate: &[&str]) -> Config {
    let peer = PeerConfig {
        address: (THEIR_ADDRESS, 179).into(),
        asn: PeerAs::Number(Asn(65_000)),
        local_address: Some(OUR_ADDRESS.into()),
        passive: false,
        hold_time: Duration::from_secs(9),
        keepalive_time: None,
        max_prefixes: 1_000,
        import_reject: BTreeSet::new(),
    };
    Config {
        speaker: SpeakerConfig {
            asn: Asn(64_513),
            router_id: OUR_ADDRESS,
            listen: vec![(OUR_ADDRESS, 179).into()],
            restart_time: Duration::from_secs(120),
        },
        peers: BTreeMap::from([("tor".to_owned(), peer)]),
        originate: originate.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[derive(Clone, Debug, Default)]
struct Heard {
    routes: BTreeMap<IpNet, Vec<IpAddr>>,
    withdrawals: usize,
    initial_syncs: usize,
}

/// A speaker on a thread of its own inside a namespace.
struct Speaker {
    handle: Handle,
    heard: Arc<Mutex<Heard>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    fn start(netns: &Netns, config: Config) -> Self {
        let file = std::fs::File::open(netns.path()).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (kill, killed) = oneshot::channel();
        let (give, handle) = std::sync::mpsc::channel();
        let told = Arc::clone(&heard);
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (handle, events) = spawn(config);
                give.send(handle).unwrap();
                tokio::select! {
                    () = listen(events, &told) => {}
                    _ = killed => {}
                }
            });
        });
        let handle = handle.recv().unwrap();
        Self {
            handle,
            heard,
            kill: Some(kill),
            thread: Some(thread),
        }
    }

    fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    fn status(&self) -> PeerStatus {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(self.handle.status()).unwrap().remove(0)
    }

    fn configure(&self, config: Config) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(self.handle.configure(config)).unwrap();
    }

    fn shut_down(mut self, how: Shutdown) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(self.handle.shutdown(how)).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Ends it as `kill -9` does: all its sockets are closed by no act of its own.
    fn kill(mut self) {
        self.kill.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }

    fn learns(&self, prefix: &str) {
        let prefix: IpNet = prefix.parse().unwrap();
        let learned = eventually(DEADLINE, &format!("{prefix} to be learned"), || {
            let heard = self.heard();
            let hops = heard.routes.get(&prefix).cloned();
            hops.ok_or_else(|| anyhow!("{heard:?}, {:?}", self.status()))
        });
        assert_eq!(learned.unwrap(), [IpAddr::V4(THEIR_ADDRESS)]);
    }

    fn loses_all(&self) {
        eventually(DEADLINE, "the routes to go", || {
            let heard = self.heard();
            ensure!(heard.routes.is_empty(), "{heard:?}");
            Ok(())
        })
        .unwrap();
    }
}

async fn listen(mut events: RouteEvents, heard: &Mutex<Heard>) {
    while let Some(event) = events.next().await {
        let mut heard = heard.lock().unwrap();
        let RouteEvent::Changes(changes) = event else {
            heard.initial_syncs += 1;
            continue;
        };
        for change in changes {
            if change.next_hops.is_empty() {
                heard.withdrawals += 1;
                heard.routes.remove(&change.prefix);
            } else {
                heard.routes.insert(change.prefix, change.next_hops);
            }
        }
    }
}

fn frr_has(frr: &Frr, prefix: &str) {
    eventually(DEADLINE, &format!("FRR to have {prefix}"), || {
        let routes = frr.bgp_routes()?;
        let hops = routes
            .iter()
            .find(|(net, _)| net == prefix)
            .map(|(_, hops)| hops.clone());
        ensure!(hops == Some(vec![OUR_ADDRESS.to_string()]), "{routes:?}");
        Ok(())
    })
    .unwrap();
}

fn frr_lacks(frr: &Frr, prefix: &str) {
    eventually(DEADLINE, &format!("FRR to drop {prefix}"), || {
        let routes = frr.bgp_routes()?;
        ensure!(routes.iter().all(|(net, _)| net != prefix), "{routes:?}");
        Ok(())
    })
    .unwrap();
}

fn bird_has(bird: &Bird, prefix: &str) -> Result<()> {
    let routes = bird.routes_from("node")?;
    ensure!(routes.iter().any(|net| net == prefix), "{routes:?}");
    Ok(())
}

#[test]
fn frr_and_we_dial_at_once_and_exchange_routes() {
    require_root!();
    let (tor, node) = link("if");
    let speaker = Speaker::start(&node, config(&[OURS]));
    let frr = Frr::start(&tor, FRR).unwrap();
    speaker.learns(THEIRS);
    frr_has(&frr, OURS);
    eventually(DEADLINE, "InitialSync", || {
        match speaker.heard().initial_syncs {
            1 => Ok(()),
            other => bail!("{other} of them"),
        }
    })
    .unwrap();
    speaker.configure(config(&["10.244.9.0/24"]));
    frr_has(&frr, "10.244.9.0/24");
    frr_lacks(&frr, OURS);
    assert_eq!(speaker.status().flaps, 0);
    speaker.shut_down(Shutdown::Cease);
    frr_lacks(&frr, "10.244.9.0/24");
}

#[test]
fn a_session_frr_cuts_takes_the_routes_and_brings_them_back() {
    require_root!();
    let (tor, node) = link("ic");
    let frr = Frr::start(&tor, FRR).unwrap();
    let speaker = Speaker::start(&node, config(&[OURS]));
    speaker.learns(THEIRS);
    let neighbor = |words: &str| {
        let line = format!("{words}neighbor {OUR_ADDRESS} shutdown");
        frr.vtysh(&["configure terminal", "router bgp 65000", &line])
            .unwrap();
    };
    neighbor("");
    speaker.loses_all();
    let down = speaker.status().last_down.unwrap_or_default();
    assert!(down.to_lowercase().contains("cease"), "{down}");
    neighbor("no ");
    speaker.learns(THEIRS);
    frr_has(&frr, OURS);
}

#[test]
fn a_killed_frr_comes_back_and_so_do_the_routes() {
    require_root!();
    let (tor, node) = link("ik");
    let mut frr = Frr::start(&tor, FRR).unwrap();
    let speaker = Speaker::start(&node, config(&[OURS]));
    speaker.learns(THEIRS);
    frr_has(&frr, OURS);
    frr.kill_bgpd().unwrap();
    speaker.loses_all();
    frr.restart_bgpd(&tor).unwrap();
    speaker.learns(THEIRS);
    frr_has(&frr, OURS);
}

#[test]
fn frr_keeps_our_routes_over_a_kill_and_we_have_its_routes_before_initial_sync() {
    require_root!();
    let (tor, node) = link("ig");
    let frr = Frr::start(&tor, FRR).unwrap();
    let speaker = Speaker::start(&node, config(&[OURS]));
    speaker.learns(THEIRS);
    frr_has(&frr, OURS);
    speaker.kill();
    eventually(DEADLINE, "FRR to notice", || {
        let state = frr.session_state(&OUR_ADDRESS.to_string())?;
        ensure!(state != "Established", "{state}");
        Ok(())
    })
    .unwrap();
    let kept = frr.bgp_routes().unwrap();
    assert!(
        kept.iter().any(|(net, _)| net == OURS),
        "FRR helps: {kept:?}"
    );
    let speaker = Speaker::start(&node, config(&[OURS]));
    eventually(DEADLINE, "InitialSync", || match speaker.heard() {
        heard if heard.initial_syncs == 1 => Ok(heard),
        heard => Err(anyhow!("{heard:?}, {:?}", speaker.status())),
    })
    .map(|heard| {
        assert!(
            heard.routes.contains_key(&THEIRS.parse().unwrap()),
            "{heard:?}"
        )
    })
    .unwrap();
    frr_has(&frr, OURS);
}

#[test]
fn bird_and_we_dial_at_once_and_exchange_routes() {
    require_root!();
    let (tor, node) = link("ib");
    let speaker = Speaker::start(&node, config(&[OURS]));
    let bird = Bird::start(&tor, BIRD).unwrap();
    speaker.learns(THEIRS);
    eventually(DEADLINE, "BIRD to have our route", || bird_has(&bird, OURS)).unwrap();
    bird.birdc("disable node").unwrap();
    speaker.loses_all();
    bird.birdc("enable node").unwrap();
    speaker.learns(THEIRS);
    eventually(DEADLINE, "BIRD to have it again", || bird_has(&bird, OURS)).unwrap();
    bird.birdc("restart node").unwrap();
    eventually(DEADLINE, "the session after a restart", || {
        let status = speaker.status();
        ensure!(
            status.flaps >= 2 && status.state == "Established",
            "{status:?}"
        );
        Ok(())
    })
    .unwrap();
    speaker.learns(THEIRS);
}

#[test]
fn a_killed_bird_comes_back_and_so_do_the_routes() {
    require_root!();
    let (tor, node) = link("ir");
    let mut bird = Bird::start(&tor, BIRD).unwrap();
    let speaker = Speaker::start(&node, config(&[OURS]));
    speaker.learns(THEIRS);
    bird.kill().unwrap();
    eventually(DEADLINE, "the loss to be noticed", || {
        let status = speaker.status();
        ensure!(status.flaps == 1, "{status:?}");
        Ok(())
    })
    .unwrap();
    let bird = Bird::start(&tor, BIRD).unwrap();
    eventually(DEADLINE, "BIRD to have our route", || bird_has(&bird, OURS)).unwrap();
    speaker.learns(THEIRS);
}
