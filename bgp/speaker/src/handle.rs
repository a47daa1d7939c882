//! How the rest of the program speaks to the speaker's task: bounded channels only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_proto::wire::Asn;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::actor::Actor;
use crate::config::Config;
use crate::route_events::{self, RouteEvents};

/// A change of what is to be in the kernel; only the latest per prefix is kept until it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Gateways of the best path (several with multipath later); empty: withdrawn.
    pub next_hops: Vec<IpAddr>,
}

/// What `RouteEvents::next` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// Routes changed since the last call, each prefix once.
    Changes(Vec<RouteChange>),
    /// Sent once: every peer that sent the Graceful Restart capability gave End-of-RIB, or the deadline passed.
    /// What an earlier run left in the kernel and is not announced again may now be swept.
    InitialSync,
}

/// A session as `portolan status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's name in the configuration.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its AS as it said in its OPEN, or as configured.
    pub asn: Option<Asn>,
    /// Its BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// RFC 4271 §8.2.2 state: Idle, Connect, Active, OpenSent, OpenConfirm, Established.
    pub state: &'static str,
    /// For how long it has been Established.
    pub established_for: Option<Duration>,
    /// HoldTime agreed on.
    pub hold_time: Option<Duration>,
    /// Prefixes it announced and that we accepted.
    pub prefixes_received: usize,
    /// Prefixes it announced and that import rules reject.
    pub prefixes_rejected: usize,
    /// Prefixes announced to it.
    pub prefixes_sent: usize,
    /// UPDATEs received and sent.
    pub updates: (u64, u64),
    /// Why it was last down: a text for people, with the NOTIFICATION if there was one.
    pub last_down: Option<String>,
    /// How often it went from Established to down.
    pub flaps: u64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are closed without a word: peers that help with graceful restart keep our routes.
    Graceful,
    /// Peers are told by a NOTIFICATION (Cease, administrative shutdown) and drop our routes.
    Cease,
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
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Configure(Box<Config>, oneshot::Sender<()>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Listeners(oneshot::Sender<Vec<ListenerStatus>>),
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
    tokio::spawn(Actor::new(forwarding, sender).run(config, receiver));
    (Handle { commands }, events)
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
