//! The one task that owns the speaker: events of sockets, BFD and timers in, then whatever follows from them out.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::speaker::{Action, Gateway, Restart, Speaker, StopAs};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::bfd_link::BfdLink;
use crate::config::Config;
use crate::connection::{Connection, Event};
use crate::doors::Doors;
use crate::handle::{Command, Forwarding, RouteChange, Shutdown};
use crate::log;
use crate::peer::Peer;
use crate::route_events::RouteSender;
use crate::unnumbered::{self, UnnumberedEvent};

/// The speaker's task.
pub(crate) struct Actor {
    pub(crate) config: Config,
    pub(crate) speaker: Speaker,
    pub(crate) peers: BTreeMap<Arc<str>, Peer>,
    pub(crate) doors: Doors,
    pub(crate) events: RouteSender,
    pub(crate) inbox: mpsc::Sender<Event>,
    received: Option<mpsc::Receiver<Event>>,
    pub(crate) closing: JoinSet<()>,
    pub(crate) next_serial: u64,
    pub(crate) bfd: BfdLink,
    pub(crate) interfaces: watch::Sender<BTreeSet<String>>,
    discovered: mpsc::Receiver<UnnumberedEvent>,
    tracked: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    track_at: Instant,
    /// Gateways that may serve again once the route changes of now are handed on.
    gateways_back: Vec<Gateway>,
}

/// Read pieces that wait; also how many are taken before timers and peers that wait for UPDATEs have their turn.
const INBOX: usize = 64;
/// UPDATEs handed to a writer at once, in bytes.
const TRANSMIT_BUDGET: usize = 64 * 1024;
/// Route changes taken from the RIB at once: a few milliseconds of work, so that KEEPALIVEs are not late.
const CHANGES_AT_ONCE: usize = 16 * 1024;
/// The longest wait for peers that do not come, whatever the Restart Time.
const LONGEST_INITIAL_SYNC: Duration = Duration::from_secs(60);
/// How late a timer may be for the sake of bytes that have arrived already.
const TIMERS_WAIT: Duration = Duration::from_secs(1);
/// How long connections may take to close when the speaker ends.
const SHUTDOWN_TIME: Duration = Duration::from_secs(3);
/// How often the set of next hops to track is looked at.
const TRACK_EVERY: Duration = Duration::from_millis(100);

impl Actor {
    /// Call it inside a tokio runtime.
    pub(crate) fn new(
        config: Config,
        forwarding: Forwarding,
        events: RouteSender,
        tracked: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    ) -> Self {
        let (inbox, received) = mpsc::channel(INBOX);
        let now = Instant::now();
        let restart = Restart {
            forwarding_preserved: forwarding == Forwarding::Preserved,
            wait: config.restart_time.min(LONGEST_INITIAL_SYNC),
        };
        let (interfaces, wanted) = watch::channel(BTreeSet::new());
        let mut actor = Self {
            speaker: Speaker::new(config.speaker.clone(), restart, random(), now),
            config: Config {
                peers: BTreeMap::new(),
                listen: Vec::new(),
                ..config.clone()
            },
            peers: BTreeMap::new(),
            doors: Doors::new(inbox.clone()),
            events,
            inbox,
            received: Some(received),
            closing: JoinSet::new(),
            next_serial: 0,
            bfd: BfdLink::default(),
            interfaces,
            discovered: unnumbered::spawn(wanted),
            tracked,
            track_at: now,
            gateways_back: Vec::new(),
        };
        actor.apply(config);
        actor
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let Some(mut received) = self.received.take() else {
            return;
        };
        self.flush();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                command = commands.recv() => match command {
                    None => return self.shut_down(&Shutdown::Graceful, None).await,
                    Some(Command::Shutdown(how, done)) => {
                        return self.shut_down(&how, Some(done)).await;
                    }
                    Some(command) => self.handle_command(command),
                },
                // Before what was read: a path that is gone is told at once.
                event = self.bfd.next() => match event {
                    Some(event) => self.handle_bfd(event),
                    None => self.bfd.configure(&self.config, &self.peers),
                },
                Some(event) = self.discovered.recv() => self.handle_discovered(event),
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
            while let Some(event) = self.bfd.try_next() {
                self.handle_bfd(event);
            }
            let now = Instant::now();
            if received.is_empty() || now > wake + TIMERS_WAIT {
                self.handle_timers(now);
            }
            self.flush();
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // An error of an answer means that the asker no longer waits.
        match command {
            Command::Configure(config, done) => {
                self.apply(*config);
                let _ = done.send(());
            }
            Command::Peers(answer) => drop(answer.send(self.speaker.status(now))),
            Command::Listeners(answer) => drop(answer.send(self.doors.status())),
            Command::Routes(within, limit, answer) => {
                drop(answer.send(self.speaker.routes(within, limit)));
            }
            Command::Received(peer, limit, answer) => {
                drop(answer.send(self.speaker.received(&peer, limit)));
            }
            Command::Advertised(peer, limit, answer) => {
                drop(answer.send(self.speaker.advertised(&peer, limit)));
            }
            Command::Explain(prefix, answer) => drop(answer.send(self.speaker.explain(prefix))),
            Command::NextHops(states, done) => {
                self.speaker.handle_next_hops(states);
                let _ = done.send(());
            }
            Command::WatchPaths(paths, done) => {
                self.bfd.set_paths(paths);
                self.bfd.configure(&self.config, &self.peers);
                let _ = done.send(());
            }
            Command::Reset(peer, text, answer) => {
                let known = self.speaker.reset(now, &peer, &text);
                self.follow();
                let _ = answer.send(known);
            }
            Command::Refresh(peer, answer) => {
                let families = self.speaker.families(&peer);
                let mut asked = false;
                for family in families {
                    asked |= self.speaker.request_refresh(now, &peer, family);
                }
                self.follow();
                let _ = answer.send(asked);
            }
            Command::Shutdown(..) => {}
        }
    }

    fn handle_timers(&mut self, now: Instant) {
        self.close_the_unheard(now);
        self.report_writers(now);
        self.speaker.handle_timeout(now);
        self.follow();
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        if self.speaker.has_work() {
            return now;
        }
        let far = now + Duration::from_secs(3600);
        let peers = self.peers.values().filter_map(|peer| peer.wake_at(now));
        peers
            .chain(self.speaker.poll_timeout())
            .chain([far])
            .min()
            .unwrap_or(far)
    }

    /// Does all that the speaker asks for.
    pub(crate) fn follow(&mut self) {
        while let Some(action) = self.speaker.poll_action() {
            match action {
                Action::Connect { peer } => self.connect(&peer),
                Action::Close { peer, direction } => {
                    let Some(held) = self.peers.get_mut(&peer) else {
                        continue;
                    };
                    let closed = held.take(direction);
                    self.close(closed);
                }
                Action::Send {
                    peer,
                    direction,
                    bytes,
                } => {
                    let held = self.peers.get(&peer);
                    if let Some(connection) = held.and_then(|held| held.connection(direction)) {
                        connection.send(bytes);
                    }
                }
                Action::Forget { peer } => {
                    let connections = self.peers.get_mut(&peer).map(|held| held.take_all());
                    for connection in connections.into_iter().flatten() {
                        self.close(Some(connection));
                    }
                    // One that only starts anew, by another configuration, has its place already.
                    if !self.config.peers.contains_key(&*peer) {
                        self.peers.remove(&peer);
                        self.bfd.forget(&peer);
                    }
                }
                Action::GatewayDown(gateway) => self.events.gateway_down(gateway),
                Action::GatewayUp(gateway) => self.gateways_back.push(gateway),
                Action::InitialSync => {
                    // Not before everything is decided: what is not announced again by then is swept.
                    while self.speaker.has_work() {
                        self.push_changes(usize::MAX);
                    }
                    self.events.initial_sync();
                }
                Action::Event(peer, event) => log::peer_event(&peer, &event),
            }
        }
    }

    /// Hands on what the last events changed: routes, and UPDATEs to every peer that has room.
    fn flush(&mut self) {
        self.follow();
        self.push_changes(CHANGES_AT_ONCE);
        if !self.speaker.has_work() {
            for gateway in self.gateways_back.drain(..) {
                self.events.gateway_up(gateway);
            }
        }
        let carriers: Vec<_> = self
            .speaker
            .established()
            .map(|(name, direction)| (Arc::clone(name), direction))
            .collect();
        for (name, direction) in carriers {
            let held = self.peers.get_mut(&name);
            let Some(connection) = held.and_then(|held| held.connection_mut(direction)) else {
                continue;
            };
            // It has a session: it no longer counts among those that have none.
            connection.slot = None;
            while connection.has_room()
                && let Some((_, bytes)) = self.speaker.poll_transmit(&name, TRANSMIT_BUDGET)
            {
                connection.send(bytes);
            }
        }
        self.track_next_hops();
    }

    fn push_changes(&mut self, at_most: usize) {
        let changes = self.speaker.poll_route_changes(at_most);
        if self.config.route_events && !changes.is_empty() {
            self.events
                .push(changes.into_iter().map(|change| RouteChange {
                    prefix: change.prefix,
                    next_hops: change.next_hops.into_iter().collect(),
                }));
        }
    }

    fn track_next_hops(&mut self) {
        let now = Instant::now();
        if !self.config.route_events || now < self.track_at {
            return;
        }
        self.track_at = now + TRACK_EVERY;
        let next_hops = self.speaker.next_hops();
        self.tracked.send_if_modified(|held| {
            let news = **held != next_hops;
            if news {
                *held = Arc::new(next_hops);
            }
            news
        });
    }

    async fn shut_down(mut self, how: &Shutdown, done: Option<oneshot::Sender<()>>) {
        // A planned stop says AdminDown first, so that BFD's silence is no failure to the peers (RFC 5882 §4.2).
        self.bfd.admin_down(matches!(how, Shutdown::Cease(_)));
        let stop = match how {
            Shutdown::Graceful => StopAs::Restart,
            Shutdown::Cease(text) => StopAs::Shutdown(text.clone()),
        };
        self.speaker.stop(Instant::now(), &stop);
        self.follow();
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

/// A seed nobody outside can guess.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
