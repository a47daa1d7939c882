//! Our speaker as a node of the lab: a thread inside a namespace, and what it learned.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use bgp_proto::rib::{NextHop, RouteView};
use bgp_proto::session::{PeerAs, State};
use bgp_proto::speaker::{Advertised, Gateway, PeerStatus, Received};
use bgp_proto::wire::{Asn, PathAttributes};
use bgp_speaker::{
    Config, Forwarding, Handle, Peer, RouteEvent, RouteEvents, Shutdown, spawn_after,
};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use tests::netns::Netns;
use tests::wait::eventually;
use tokio::sync::oneshot;

use crate::lab::{DEADLINE, OUR_AS, OUR_V4, THEIR_AS, THEIR_V4};

/// More than any scenario has.
const ALL: usize = 100_000;

/// What a speaker has said so far, with the time of what matters.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub routes: BTreeMap<IpNet, Vec<NextHop>>,
    pub withdrawals: usize,
    pub initial_syncs: usize,
    pub gateways_down: Vec<(Instant, Gateway)>,
    /// When the last prefix went.
    pub withdrawn_at: Option<Instant>,
}

impl Heard {
    fn take(&mut self, event: RouteEvent) {
        let changes = match event {
            RouteEvent::Changes(changes) => changes,
            RouteEvent::InitialSync => return self.initial_syncs += 1,
            RouteEvent::GatewayDown(gateway) => {
                return self.gateways_down.push((Instant::now(), gateway));
            }
            RouteEvent::GatewayUp(_) => return,
        };
        for change in changes {
            if change.next_hops.is_empty() {
                self.withdrawals += 1;
                self.withdrawn_at = Some(Instant::now());
                self.routes.remove(&change.prefix);
            } else {
                self.routes.insert(change.prefix, change.next_hops);
            }
        }
    }
}

/// A speaker on a thread of its own inside a namespace.
pub struct Node {
    handle: Handle,
    heard: Arc<Mutex<Heard>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// A speaker whose routes of an earlier life are still in the kernel, or so it says.
    pub fn start(netns: &Netns, config: Config) -> Self {
        Self::start_after(netns, config, Forwarding::Preserved)
    }

    pub fn start_after(netns: &Netns, config: Config, forwarding: Forwarding) -> Self {
        let file = File::open(netns.path()).unwrap();
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
                let (handle, events) = spawn_after(config, forwarding);
                give.send(handle).unwrap();
                tokio::select! {
                    () = listen(events, &told) => {}
                    _ = killed => {}
                }
            });
        });
        Self {
            handle: handle.recv().unwrap(),
            heard,
            kill: Some(kill),
            thread: Some(thread),
        }
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    pub fn all(&self) -> Vec<PeerStatus> {
        now(self.handle.status())
    }

    pub fn status(&self, peer: &str) -> PeerStatus {
        let all = self.all();
        let found = all.iter().find(|status| status.name == peer).cloned();
        found.unwrap_or_else(|| panic!("no {peer} among {all:?}"))
    }

    pub fn configure(&self, config: Config) {
        now(self.handle.configure(config));
    }

    pub fn received(&self, peer: &str) -> Vec<Received> {
        now(self.handle.received(peer, ALL)).unwrap()
    }

    pub fn advertised(&self, peer: &str) -> Vec<Advertised> {
        now(self.handle.advertised(peer, ALL)).unwrap()
    }

    pub fn routes(&self) -> Vec<RouteView> {
        now(self.handle.routes(None, ALL))
    }

    pub fn refresh(&self, peer: &str) {
        assert!(now(self.handle.refresh(peer)), "{peer} knows no refresh");
    }

    pub fn reset(&self, peer: &str, text: &str) {
        assert!(now(self.handle.reset(peer, text)));
    }

    pub fn shut_down(mut self, how: Shutdown) {
        now(self.handle.shutdown(how));
        self.thread.take().unwrap().join().unwrap();
    }

    /// Ends it as `kill -9` does: all its sockets are closed by no act of its own.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Waits until the session is up.
    pub fn establishes(&self, peer: &str) -> PeerStatus {
        self.until(peer, "the session to be up", |status| {
            status.state == State::Established
        })
    }

    /// Waits until a peer that is known when it comes is there and up.
    pub fn establishes_range(&self, peer: &str) {
        eventually(DEADLINE, &format!("{peer} to come"), || {
            let all = self.all();
            let up = |one: &PeerStatus| one.name == peer && one.state == State::Established;
            ensure!(all.iter().any(up), "{all:?}");
            Ok(())
        })
        .unwrap();
    }

    /// Waits until the status of a peer is as wanted.
    pub fn until(&self, peer: &str, what: &str, holds: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        eventually(DEADLINE, what, || {
            let status = self.status(peer);
            ensure!(holds(&status), "{status:?}");
            Ok(status)
        })
        .unwrap()
    }

    /// Waits until packets for a prefix go to exactly these gateways.
    pub fn learns(&self, prefix: &str, gateways: &[&str]) -> Vec<NextHop> {
        let net: IpNet = prefix.parse().unwrap();
        let wanted: Vec<IpAddr> = gateways.iter().map(|text| text.parse().unwrap()).collect();
        eventually(DEADLINE, &format!("{prefix} by {gateways:?}"), || {
            let hops = self.heard().routes.get(&net).cloned().unwrap_or_default();
            let mut addresses: Vec<IpAddr> = hops.iter().map(|hop| hop.address).collect();
            addresses.sort();
            if addresses == wanted {
                return Ok(hops);
            }
            Err(anyhow!("{hops:?}; {:#?}", self.all()))
        })
        .unwrap()
    }

    pub fn loses(&self, prefix: &str) {
        let net: IpNet = prefix.parse().unwrap();
        eventually(DEADLINE, &format!("{prefix} to go"), || {
            let heard = self.heard();
            ensure!(!heard.routes.contains_key(&net), "{heard:?}");
            Ok(())
        })
        .unwrap();
    }

    /// The attributes of what a peer announced, as soon as they are as wanted.
    pub fn hears(
        &self,
        peer: &str,
        prefix: &str,
        holds: impl Fn(&PathAttributes) -> bool,
    ) -> Arc<PathAttributes> {
        let net: IpNet = prefix.parse().unwrap();
        eventually(DEADLINE, &format!("{prefix} from {peer}"), || {
            let received = self.received(peer);
            let mut of = received.iter().filter(|(nlri, ..)| nlri.prefix == net);
            of.find(|(_, attributes, _)| holds(attributes))
                .map(|(_, attributes, _)| Arc::clone(attributes))
                .with_context(|| format!("{received:#?}; {:?}", self.all()))
        })
        .unwrap()
    }

    pub fn synced(&self) {
        eventually(DEADLINE, "InitialSync", || -> Result<()> {
            let heard = self.heard();
            ensure!(heard.initial_syncs == 1, "{heard:?}; {:?}", self.all());
            Ok(())
        })
        .unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// The speaker's tasks run on their own thread, so that an answer needs no more than a place to wait for it.
fn now<T>(answer: impl Future<Output = Result<T, bgp_speaker::Stopped>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(answer).unwrap()
}

async fn listen(mut events: RouteEvents, heard: &Mutex<Heard>) {
    while let Some(event) = events.next().await {
        heard.lock().unwrap().take(event);
    }
}

/// A speaker in AS `OUR_AS` that listens on the link's addresses and originates these.
pub fn speaker(originate: &[&str]) -> Config {
    let mut config = Config::new(OUR_AS, OUR_V4);
    config.listen = vec![(OUR_V4, 179).into()];
    config.originate = originate
        .iter()
        .map(|text| (text.parse().unwrap(), Default::default()))
        .collect();
    config
}

/// A peer at an address, with the timers of the lab.
pub fn peer(address: Ipv4Addr, asn: Asn) -> Peer {
    let mut peer = Peer::at(
        (address, 179).into(),
        PeerAs::Number(asn),
        Some(OUR_V4.into()),
    );
    peer.session.hold_time = std::time::Duration::from_secs(9);
    peer
}

/// The speaker with one peer, `tor`, changed as the scenario needs it.
pub fn node(originate: &[&str], change: impl FnOnce(&mut Peer)) -> Config {
    let mut config = speaker(originate);
    let mut tor = peer(THEIR_V4, THEIR_AS);
    change(&mut tor);
    config.peers.insert("tor".to_owned(), tor);
    config
}
