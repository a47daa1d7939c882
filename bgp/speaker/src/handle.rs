//! How the rest of the program speaks to the speaker's task: bounded channels only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bgp_proto::rib::{Explanation, NextHop, NextHopState, RouteView};
use bgp_proto::speaker::{Advertised, Gateway, PeerStatus, Received};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::actor::Actor;
use crate::bfd::BfdPeer;
use crate::bfd_paths::PathState;
use crate::config::Config;
use crate::route_events::{self, RouteEvents};

/// A change of what is to be in the kernel; only the latest per prefix is kept until it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Gateways of the best paths; empty: withdrawn.
    pub next_hops: Vec<NextHop>,
}

/// What `RouteEvents::next` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// BFD says that packets must no longer go to this gateway; comes before everything else that waits.
    GatewayDown(Gateway),
    /// The gateway may be used again.
    GatewayUp(Gateway),
    /// Routes changed since the last call, each prefix once.
    Changes(Vec<RouteChange>),
    /// Sent once: every peer that sent the Graceful Restart capability gave End-of-RIB, or the deadline passed.
    /// What an earlier run left in the kernel and is not announced again may now be swept.
    InitialSync,
}

/// A listening socket as `portolan status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Where it is to listen.
    pub address: SocketAddr,
    /// Why it does not; tried again until it does.
    pub error: Option<String>,
    /// Connections closed unread because they came from no configured peer.
    pub refused: u64,
}

/// How the speaker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are closed without a word: peers that help with graceful restart keep our routes.
    Graceful,
    /// Peers are told by a NOTIFICATION (Cease, Administrative Shutdown) with this text, and drop our routes.
    Cease(String),
}

/// What an earlier run left of our forwarding state: the F bit of our OPENs (RFC 4724 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// The kernel still forwards by what the earlier run installed.
    Preserved,
    /// Nothing is left, or it was taken out.
    Lost,
}

/// The speaker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has stopped")]
pub struct Stopped;

/// The way to the speaker's task. When the last clone is dropped the speaker ends as by `Shutdown::Graceful`.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    next_hops: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    paths: watch::Receiver<BTreeMap<String, PathState>>,
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Configure(Box<Config>, oneshot::Sender<()>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Listeners(oneshot::Sender<Vec<ListenerStatus>>),
    Routes(Option<IpNet>, usize, oneshot::Sender<Vec<RouteView>>),
    Received(String, usize, oneshot::Sender<Option<Vec<Received>>>),
    Advertised(String, usize, oneshot::Sender<Option<Vec<Advertised>>>),
    Explain(IpNet, oneshot::Sender<Explanation>),
    NextHops(BTreeMap<IpAddr, NextHopState>, oneshot::Sender<()>),
    WatchPaths(BTreeMap<String, BfdPeer>, oneshot::Sender<()>),
    Reset(String, String, oneshot::Sender<bool>),
    Refresh(String, oneshot::Sender<bool>),
    Shutdown(Shutdown, oneshot::Sender<()>),
}

const COMMANDS: usize = 16;

/// Starts a speaker whose forwarding state outlived the last run. Call it inside a tokio runtime.
#[must_use]
pub fn spawn(config: Config) -> (Handle, RouteEvents) {
    spawn_after(config, Forwarding::Preserved)
}

/// Starts a speaker. Call it inside a tokio runtime, and when every local source is in sync: what it originates by then
/// is announced, followed by End-of-RIB, as soon as a session is up.
#[must_use]
pub fn spawn_after(config: Config, forwarding: Forwarding) -> (Handle, RouteEvents) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (sender, events) = route_events::channel();
    let (tracked, next_hops) = watch::channel(Arc::default());
    let actor = Actor::new(config, forwarding, sender, tracked);
    let paths = actor.bfd.path_states();
    tokio::spawn(actor.run(receiver));
    let handle = Handle {
        commands,
        next_hops,
        paths,
    };
    (handle, events)
}

impl Handle {
    /// Applies a configuration as a difference to the present one; returns when that is done.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn configure(&self, config: Config) -> Result<(), Stopped> {
        self.ask(|answer| Command::Configure(Box::new(config), answer))
            .await
    }

    /// All sessions, by name.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn status(&self) -> Result<Vec<PeerStatus>, Stopped> {
        self.ask(Command::Peers).await
    }

    /// All listening sockets, by address.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn listeners(&self) -> Result<Vec<ListenerStatus>, Stopped> {
        self.ask(Command::Listeners).await
    }

    /// At most `limit` routes equal to or inside `within`, in order, each with all its paths.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn routes(
        &self,
        within: Option<IpNet>,
        limit: usize,
    ) -> Result<Vec<RouteView>, Stopped> {
        self.ask(|answer| Command::Routes(within, limit, answer))
            .await
    }

    /// At most `limit` routes a peer announced, in order; `None`: there is no such peer.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn received(
        &self,
        peer: &str,
        limit: usize,
    ) -> Result<Option<Vec<Received>>, Stopped> {
        self.ask(|answer| Command::Received(peer.to_owned(), limit, answer))
            .await
    }

    /// At most `limit` routes a peer is told, in order; `None`: there is no such peer.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn advertised(
        &self,
        peer: &str,
        limit: usize,
    ) -> Result<Option<Vec<Advertised>>, Stopped> {
        self.ask(|answer| Command::Advertised(peer.to_owned(), limit, answer))
            .await
    }

    /// Why the best path to a prefix won, and why others did not.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn explain(&self, prefix: IpNet) -> Result<Explanation, Stopped> {
        self.ask(|answer| Command::Explain(prefix, answer)).await
    }

    /// Says of next hops whether they can be reached, and at what cost (RFC 4271 §9.1.2.1).
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn set_next_hops(
        &self,
        states: BTreeMap<IpAddr, NextHopState>,
    ) -> Result<(), Stopped> {
        self.ask(|answer| Command::NextHops(states, answer)).await
    }

    /// The next hops of what was learned, as they come and go: those to say something of by `set_next_hops`.
    #[must_use]
    pub fn next_hops(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.next_hops.clone()
    }

    /// Has BFD watch these single-hop paths, too: the whole set, by names of the caller's.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn watch_paths(&self, paths: BTreeMap<String, BfdPeer>) -> Result<(), Stopped> {
        self.ask(|answer| Command::WatchPaths(paths, answer)).await
    }

    /// What BFD says of the paths of [`Self::watch_paths`], by name; of one that was not Up yet nothing.
    #[must_use]
    pub fn paths(&self) -> watch::Receiver<BTreeMap<String, PathState>> {
        self.paths.clone()
    }

    /// Ends a session and tries it again at once, with a text for the other side's people; false: no such peer.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn reset(&self, peer: &str, text: &str) -> Result<bool, Stopped> {
        self.ask(|answer| Command::Reset(peer.to_owned(), text.to_owned(), answer))
            .await
    }

    /// Asks a peer for all its routes again (RFC 2918); false: no such peer, or it does not know how.
    ///
    /// # Errors
    /// When the speaker has ended.
    pub async fn refresh(&self, peer: &str) -> Result<bool, Stopped> {
        self.ask(|answer| Command::Refresh(peer.to_owned(), answer))
            .await
    }

    /// Ends the speaker; returns when what was to be sent is sent and the connections are closed.
    ///
    /// # Errors
    /// When the speaker has ended before.
    pub async fn shutdown(&self, how: Shutdown) -> Result<(), Stopped> {
        self.ask(|answer| Command::Shutdown(how, answer)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopped> {
        let (answer, receiver) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }
}
