//! The one task that owns the sessions and the RIBs: events in, then whatever follows from them out.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::rib::{BestChange, Multipath, Rib, RibConfig};
use bgp_proto::session::{Direction, Stop};
use bgp_proto::wire::Notification;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::config::Config;
use crate::connection::{Connection, Event};
use crate::handle::{Command, Forwarding, RouteChange, Shutdown};
use crate::listener::{Admitted, Listener};
use crate::peer::{Peer, messages_in};
use crate::route_events::RouteSender;

/// The speaker's task.
pub(crate) struct Actor {
    pub(crate) forwarding: Forwarding,
    pub(crate) events: RouteSender,
    pub(crate) running: Option<Running>,
    pub(crate) inbox: mpsc::Sender<Event>,
    received: Option<mpsc::Receiver<Event>>,
    pub(crate) admitted: watch::Sender<Admitted>,
    pub(crate) closing: JoinSet<()>,
    pub(crate) next_serial: u64,
}

/// What there is once the first configuration has been applied.
pub(crate) struct Running {
    pub(crate) config: Config,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) rib: Rib,
    pub(crate) listeners: BTreeMap<std::net::SocketAddr, Listener>,
    /// Until when the peers of an earlier run are waited for; `None`: `InitialSync` has been said.
    pub(crate) initial_sync_by: Option<Instant>,
}

/// Read pieces that wait; also how many are taken before timers and peers that wait for UPDATEs have their turn.
const INBOX: usize = 64;
/// UPDATEs handed to a writer at once, in bytes.
const TRANSMIT_BUDGET: usize = 64 * 1024;
/// The longest wait for peers that do not come, whatever the Restart Time.
const LONGEST_INITIAL_SYNC: Duration = Duration::from_secs(60);
/// How long an accepted connection may stay without a word.
const UNHEARD_TIME: Duration = Duration::from_secs(30);
/// How late a timer may be for the sake of bytes that have arrived already.
const TIMERS_WAIT: Duration = Duration::from_secs(1);
/// How long connections may take to close when the speaker ends.
const SHUTDOWN_TIME: Duration = Duration::from_secs(3);

impl Actor {
    pub(crate) fn new(forwarding: Forwarding, events: RouteSender) -> Self {
        let (inbox, received) = mpsc::channel(INBOX);
        Self {
            forwarding,
            events,
            running: None,
            inbox,
            received: Some(received),
            admitted: watch::Sender::new(Admitted::default()),
            closing: JoinSet::new(),
            next_serial: 0,
        }
    }

    pub(crate) async fn run(mut self, config: Config, mut commands: mpsc::Receiver<Command>) {
        let Some(mut received) = self.received.take() else {
            return;
        };
        let wait = config.speaker.restart_time.min(LONGEST_INITIAL_SYNC);
        self.configure(config, Some(Instant::now() + wait));
        self.flush();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                command = commands.recv() => match command {
                    None => return self.shut_down(Shutdown::Graceful, None).await,
                    Some(Command::Shutdown(how, done)) => {
                        return self.shut_down(how, Some(done)).await;
                    }
                    Some(command) => self.handle_command(command),
                },
                Some(event) = received.recv() => self.handle_event(event),
                () = sleep_until(wake.into()) => {
                    // Readers that have bytes come first: they may restart the hold timer that woke us.
                    tokio::task::yield_now().await;
                }
                Some(_) = self.closing.join_next() => {}
            }
            for _ in 0..INBOX {
                let Ok(event) = received.try_recv() else {
                    break;
                };
                self.handle_event(event);
            }
            let now = Instant::now();
            if received.is_empty() || now > wake + TIMERS_WAIT {
                self.handle_timers(now);
            }
            self.flush();
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Configure(config, done) => {
                self.configure(*config, None);
                // An error means that the asker no longer waits; so below.
                let _ = done.send(());
            }
            Command::Peers(answer) => {
                let now = Instant::now();
                let statuses = self.running.iter().flat_map(|running| {
                    let peers = running.peers.values();
                    peers.map(|peer| peer.status(now, running.rib.counts(peer.rib_id)))
                });
                let _ = answer.send(statuses.collect());
            }
            Command::Listeners(answer) => {
                let listeners = self
                    .running
                    .iter()
                    .flat_map(|running| running.listeners.values());
                let _ = answer.send(listeners.map(Listener::status).collect());
            }
            Command::Shutdown(..) => {}
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Accepted { stream, remote } => self.accepted(stream, remote.ip()),
            Event::Dialled {
                peer,
                serial,
                result,
            } => self.dialled(&peer, serial, result),
            Event::Received {
                peer,
                serial,
                bytes,
            } => {
                self.with_peer(&peer, |actor, peer, now| {
                    actor.hand_over(peer, serial, now);
                    if let Some(direction) = peer.direction_of(serial) {
                        peer.session.handle_bytes(now, direction, &bytes);
                    }
                });
            }
            Event::Lost {
                peer,
                serial,
                reason,
            } => {
                self.with_peer(&peer, |actor, peer, now| {
                    if peer
                        .unheard
                        .as_ref()
                        .is_some_and(|(held, _)| held.serial == serial)
                    {
                        actor.close(peer.unheard.take().map(|(held, _)| held));
                    }
                    if let Some(direction) = peer.direction_of(serial) {
                        let lost = peer.connection_mut(direction).take();
                        actor.close(lost);
                        peer.session.handle_disconnected(now, direction, &reason);
                    }
                });
            }
            Event::Room => {}
        }
    }

    fn accepted(&mut self, stream: TcpStream, remote: std::net::IpAddr) {
        let Some(running) = &self.running else { return };
        let mut peers = running.peers.values();
        let Some(peer) = peers.find(|peer| peer.config.address.ip() == remote) else {
            return;
        };
        let name = Arc::clone(&peer.name);
        self.with_peer(&name, |actor, peer, now| {
            if !peer.session.admits(Direction::Incoming) {
                return;
            }
            if let Some(connection) = actor.start(stream, &peer.name) {
                let former = peer.unheard.replace((connection, now));
                actor.close(former.map(|(held, _)| held));
            }
        });
    }

    fn dialled(&mut self, name: &str, serial: u64, result: std::io::Result<TcpStream>) {
        self.with_peer(name, |actor, peer, now| {
            if peer
                .dial
                .as_ref()
                .is_none_or(|(awaited, _)| *awaited != serial)
            {
                return;
            }
            peer.dial = None;
            match result.map(|stream| actor.start(stream, &peer.name)) {
                Ok(Some(connection)) => {
                    let former = peer.outgoing.replace(connection);
                    actor.close(former);
                    peer.session.handle_connected(now, Direction::Outgoing);
                }
                Ok(None) => peer.session.handle_connect_failed(now),
                Err(error) => {
                    tracing::debug!(peer = %peer.name, %error, "cannot connect");
                    peer.session.handle_connect_failed(now);
                }
            }
        });
    }

    /// The peer said something on a connection it made: from now on it is the session's.
    fn hand_over(&mut self, peer: &mut Peer, serial: u64, now: Instant) {
        if peer
            .unheard
            .as_ref()
            .is_none_or(|(held, _)| held.serial != serial)
        {
            return;
        }
        let connection = peer.unheard.take().map(|(held, _)| held);
        if !peer.session.admits(Direction::Incoming) {
            return self.close(connection);
        }
        let former = std::mem::replace(&mut peer.incoming, connection);
        self.close(former);
        peer.session.handle_connected(now, Direction::Incoming);
    }

    fn handle_timers(&mut self, now: Instant) {
        let Some(running) = &self.running else { return };
        let names: Vec<Arc<str>> = running
            .peers
            .values()
            .map(|peer| Arc::clone(&peer.name))
            .collect();
        for name in names {
            self.with_peer(&name, |actor, peer, _| {
                if peer.session.poll_timeout().is_some_and(|at| at <= now) {
                    peer.session.handle_timeout(now);
                }
                if peer.restart_at.is_some_and(|at| at <= now) {
                    peer.restart_at = None;
                    peer.session.handle_start(now);
                }
                if peer
                    .unheard
                    .as_ref()
                    .is_some_and(|(_, since)| *since + UNHEARD_TIME <= now)
                {
                    actor.close(peer.unheard.take().map(|(held, _)| held));
                }
                if peer.stale_until.is_some_and(|at| at <= now) {
                    peer.stale_until = None;
                    if let Some(running) = &mut actor.running {
                        running.rib.sweep_stale(peer.rib_id, None);
                    }
                }
                if peer.silent_at().is_some_and(|at| at <= now) {
                    peer.synced = true;
                }
            });
        }
    }

    fn wake_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let Some(running) = &self.running else {
            return far;
        };
        let timers = running.peers.values().flat_map(|peer| {
            [
                peer.session.poll_timeout(),
                peer.restart_at,
                peer.stale_until,
                peer.silent_at(),
                peer.unheard
                    .as_ref()
                    .map(|(_, since)| *since + UNHEARD_TIME),
            ]
        });
        timers
            .chain([running.initial_sync_by])
            .flatten()
            .chain([far])
            .min()
            .unwrap_or(far)
    }

    /// Hands on what the last events changed: routes, UPDATEs to every peer that has room, `InitialSync`.
    fn flush(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let changes = running.rib.poll_best_changes(usize::MAX);
        self.events.push(changes.into_iter().map(route_change));
        for peer in running.peers.values_mut() {
            let Some((connection, _)) = peer.carrier() else {
                continue;
            };
            let mut sent = 0;
            while connection.has_room()
                && let Some(bytes) = running.rib.poll_transmit(peer.rib_id, TRANSMIT_BUDGET)
            {
                sent += messages_in(&bytes);
                connection.send(bytes);
            }
            peer.updates.1 += sent;
        }
        let Some(by) = running.initial_sync_by else {
            return;
        };
        if by <= Instant::now() || running.peers.values().all(|peer| peer.synced) {
            running.initial_sync_by = None;
            for peer in running.peers.values_mut() {
                peer.session.set_restarting(false);
            }
            self.events.initial_sync();
        }
    }

    async fn shut_down(mut self, how: Shutdown, done: Option<oneshot::Sender<()>>) {
        // RFC 4486: 2 is Administrative Shutdown.
        self.stop_all(&match how {
            Shutdown::Graceful => Stop::Silent,
            Shutdown::Cease => Stop::Notify(Notification::cease(2)),
        });
        let closing = &mut self.closing;
        let all_closed = async { while closing.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIME, all_closed).await.is_err() {
            tracing::warn!("connections still open at the end are cut");
        }
        drop(self);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn start(&mut self, stream: TcpStream, peer: &Arc<str>) -> Option<Connection> {
        let serial = self.serial();
        Connection::start(stream, peer, serial, &self.inbox)
            .inspect_err(|error| tracing::debug!(%peer, %error, "connection gone at once"))
            .ok()
    }

    pub(crate) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    pub(crate) fn close(&mut self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            self.closing.spawn(connection.close());
        }
    }
}

pub(crate) fn new_rib(config: &Config) -> Rib {
    let speaker = &config.speaker;
    Rib::new(
        RibConfig {
            asn: speaker.asn,
            router_id: speaker.router_id,
            cluster_id: speaker.router_id,
            multipath: Multipath::default(),
        },
        random(),
    )
}

/// A change as those who hold the kernel's routes are told of it.
pub(crate) fn route_change(change: BestChange) -> RouteChange {
    RouteChange {
        prefix: change.prefix,
        next_hops: change.next_hops.iter().map(|hop| hop.address).collect(),
    }
}

/// A seed nobody outside can guess.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
