//! The actor's side of BFD: which peers it watches, started only when there is one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::bfd::{self, BfdEvent, BfdHandle, BfdPeer, BfdSettings};
use crate::bfd_paths::{PathState, Paths};
use crate::config::{Config, Target};
use crate::peer::Peer;

/// How often a process that is waited for is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// BFD sessions, by the names of the peers they watch.
#[derive(Default)]
pub(crate) struct BfdLink {
    running: Option<Running>,
    watched: BTreeMap<String, BfdPeer>,
    /// Those that are watched for others than the speaker.
    paths: Paths,
    /// When the process that is waited for is looked for again.
    look_at: Option<Instant>,
}

struct Running {
    handle: BfdHandle,
    events: mpsc::Receiver<BfdEvent>,
    /// It is a process of its own and goes on without us.
    adopted: bool,
}

impl BfdLink {
    /// Watches every peer that asks for it and whose address is known.
    pub(crate) fn configure(&mut self, config: &Config, peers: &BTreeMap<Arc<str>, Peer>) {
        let mut watched: BTreeMap<_, _> = peers
            .iter()
            .filter_map(|(name, peer)| Some((name.to_string(), watch(config, name, peer)?)))
            .collect();
        self.paths.join(&mut watched);
        if watched.is_empty() {
            self.look_at = None;
        }
        if watched == self.watched || (self.running.is_none() && watched.is_empty()) {
            return;
        }
        if self.running.is_none() {
            match start(config) {
                Ok(running) => {
                    self.running = Some(running);
                    self.look_at = None;
                }
                Err(error) if config.bfd_awaited => {
                    if self.look_at.is_none() {
                        tracing::warn!(%error, "BFD's own process is waited for: until then peers are watched by hold timers alone");
                    }
                    self.look_at = Some(Instant::now() + LOOK);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "BFD cannot be started: peers are watched by hold timers alone");
                    return;
                }
            }
        }
        self.watched = watched;
        self.tell();
    }

    /// Watches these paths, too, for others than the speaker.
    pub(crate) fn set_paths(&mut self, paths: BTreeMap<String, BfdPeer>) {
        self.paths.set(paths);
    }

    /// What is known of them.
    pub(crate) fn path_states(&self) -> watch::Receiver<BTreeMap<String, PathState>> {
        self.paths.states()
    }

    /// Notes an event; whether it is of the speaker's business.
    pub(crate) fn note(&mut self, event: &BfdEvent) -> bool {
        self.paths.note(event)
    }

    /// Stops watching a peer that is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        if self.watched.remove(name).is_some() {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(running) = &self.running
            && let Err(error) = running.handle.configure(self.watched.clone())
        {
            tracing::error!(%error, "peers are watched by hold timers alone");
        }
    }

    /// The next event; never, as long as nobody is watched. `None`: BFD has ended, or may be there now, so `configure` must
    /// follow.
    pub(crate) async fn next(&mut self) -> Option<BfdEvent> {
        let event = match &mut self.running {
            Some(running) => running.events.recv().await,
            None => match self.look_at {
                Some(at) => {
                    sleep_until(at.into()).await;
                    return None;
                }
                None => std::future::pending().await,
            },
        };
        if event.is_none() {
            tracing::error!("BFD has ended; it is started again");
            self.running = None;
            self.watched.clear();
            self.paths.clear();
        }
        event
    }

    /// An event that is there already.
    pub(crate) fn try_next(&mut self) -> Option<BfdEvent> {
        self.running.as_mut()?.events.try_recv().ok()
    }

    /// Whether it is a process of its own, whose sessions a restart of ours does not touch.
    pub(crate) fn is_adopted(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.adopted)
    }

    /// Tells every peer that we stop on purpose (RFC 5880 §6.8.16); not of a BFD that goes on while we restart.
    pub(crate) fn admin_down(&self, for_good: bool) {
        if let Some(running) = &self.running
            && (for_good || !running.adopted)
            && let Err(error) = running.handle.admin_down_all()
        {
            tracing::warn!(%error, "peers are not told that BFD stops on purpose");
        }
    }
}

/// Adopts the process that outlives us, if there is one; else BFD lives and dies with this process.
fn start(config: &Config) -> io::Result<Running> {
    if let Some(socket) = config
        .bfd_socket
        .as_deref()
        .filter(|socket| socket.exists())
    {
        match bfd::connect(socket) {
            Ok((handle, events)) => {
                tracing::info!(socket = %socket.display(), "BFD adopted: it outlives this process");
                return Ok(Running {
                    handle,
                    events,
                    adopted: true,
                });
            }
            Err(error) => {
                if config.bfd_awaited {
                    return Err(error);
                }
                tracing::warn!(socket = %socket.display(), %error, "BFD cannot be adopted, so it runs in this process");
            }
        }
    }
    if config.bfd_awaited {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "nobody serves its socket",
        ));
    }
    let (handle, events) = bfd::spawn(BfdSettings::default())?;
    Ok(Running {
        handle,
        events,
        adopted: false,
    })
}

fn watch(config: &Config, name: &str, peer: &Peer) -> Option<BfdPeer> {
    let configured = config.peers.get(name).or_else(|| {
        let (range, _) = name.rsplit_once('/')?;
        config.peers.get(range)
    })?;
    let remote = peer.address?;
    let interface = match remote {
        std::net::SocketAddr::V6(remote) if remote.scope_id() != 0 => Some(remote.scope_id()),
        _ => None,
    };
    let bfd = configured.bfd.as_ref()?;
    let local = match &peer.target {
        Target::Interface { .. } => None,
        Target::Address(_) | Target::Range { .. } => peer.socket.source,
    };
    Some(BfdPeer {
        remote: remote.ip(),
        local,
        interface,
        // RFC 5883 §5: what crossed more routers is not the peer's.
        multihop: bfd.hops.map(|hops| u8::MAX - (hops.get() - 1)),
        config: bfd.timers.clone(),
    })
}
