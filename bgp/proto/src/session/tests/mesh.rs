//! A machine of the simulation that keeps a session with every other one: the thinnest driver there can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::super::*;
use crate::simulation::{Action, ConnectionId, Node, NodeId};
use crate::wire::{Asn, Family, GracefulRestart};

/// Who is configured how; a function of the numbers, so that a process that is born again is the same.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) seed: u64,
    pub(super) hold_time: Duration,
    pub(super) graceful: bool,
    /// The lower number never dials.
    pub(super) passive: bool,
    pub(super) delay_open: Option<Duration>,
}

impl Plan {
    pub(super) fn new(nodes: usize, seed: u64) -> Self {
        Self {
            nodes,
            seed,
            hold_time: Duration::from_secs(90),
            graceful: true,
            passive: false,
            delay_open: None,
        }
    }

    fn config(&self, node: NodeId, peer: NodeId) -> SessionConfig {
        let asn = |node: NodeId| Asn(4_200_000_000 + u32::try_from(node.0).unwrap());
        // Identifiers in another order than numbers.
        let number = u32::try_from(node.0).unwrap();
        let router_id = Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761) | 1);
        SessionConfig {
            hold_time: self.hold_time,
            passive: self.passive && node < peer,
            delay_open: self.delay_open,
            graceful_restart: self.graceful.then(|| GracefulRestart {
                restarting: false,
                notification: node.0.is_multiple_of(2),
                restart_time: 120,
                families: vec![(Family::IPV4_UNICAST, true)],
            }),
            ..SessionConfig::new(asn(node), router_id, PeerAs::Number(asn(peer)))
        }
    }

    /// The process on `node` in its `life`th life.
    pub(super) fn router(&self, node: NodeId, life: u64) -> Router {
        let peers = (0..self.nodes).map(NodeId).filter(|peer| *peer != node);
        let seed = |peer: NodeId| {
            self.seed ^ (node.0 as u64) << 40 ^ (peer.0 as u64) << 20 ^ life.wrapping_mul(0x9e37)
        };
        let peer = |peer: NodeId| Peer {
            session: PeerSession::new(self.config(node, peer), seed(peer)),
            outgoing: None,
            incoming: None,
            unheard: None,
            armed: None,
            up: false,
            ups: 0,
        };
        Router {
            peers: peers.map(|id| (id, peer(id))).collect(),
            connections: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }
}

pub(super) struct Peer {
    pub(super) session: PeerSession,
    pub(super) outgoing: Option<ConnectionId>,
    pub(super) incoming: Option<ConnectionId>,
    /// Came beside another incoming one and has said nothing yet.
    unheard: Option<ConnectionId>,
    armed: Option<Instant>,
    up: bool,
    pub(super) ups: u32,
}

impl Peer {
    /// The connection the session is Established on.
    pub(super) fn carrier(&self) -> Option<ConnectionId> {
        match self.session.negotiated()?.direction {
            Direction::Outgoing => self.outgoing,
            Direction::Incoming => self.incoming,
        }
    }
}

pub(super) struct Router {
    pub(super) peers: BTreeMap<NodeId, Peer>,
    connections: BTreeMap<ConnectionId, (NodeId, Direction)>,
    deadlines: BTreeSet<(Instant, NodeId)>,
    actions: VecDeque<Action>,
}

impl Router {
    pub(super) fn established(&self) -> usize {
        self.peers.values().filter(|peer| peer.up).count()
    }

    /// Does something to the session with `id`, then what it asks for.
    pub(super) fn with(&mut self, id: NodeId, what: impl FnOnce(&mut PeerSession)) {
        let Self {
            peers,
            connections,
            deadlines,
            actions,
        } = self;
        let peer = peers.get_mut(&id).unwrap();
        what(&mut peer.session);
        while let Some(output) = peer.session.poll_output() {
            match output {
                Output::Connect => actions.push_back(Action::Dial(id)),
                Output::Close(direction) => match slot(peer, direction).take() {
                    Some(connection) => {
                        connections.remove(&connection);
                        actions.push_back(Action::Close(connection));
                    }
                    None => actions.push_back(Action::AbandonDial(id)),
                },
                Output::Send(direction, bytes) => {
                    let connection = slot(peer, direction).expect("bytes for a connection held");
                    actions.push_back(Action::Send(connection, bytes));
                }
                Output::Up(_) => {
                    assert!(!std::mem::replace(&mut peer.up, true), "up twice");
                    peer.ups += 1;
                }
                Output::Down(_) => assert!(std::mem::take(&mut peer.up), "down twice"),
                Output::Update(_) | Output::RouteRefresh(_) => panic!("nobody sent one"),
            }
        }
        let wanted = peer.session.poll_timeout();
        if wanted != peer.armed {
            deadlines.extend(wanted.map(|at| (at, id)));
            if let Some(former) = std::mem::replace(&mut peer.armed, wanted) {
                deadlines.remove(&(former, id));
            }
        }
    }

    fn hand_over(&mut self, now: Instant, id: NodeId, connection: ConnectionId) {
        let peer = self.peers.get_mut(&id).unwrap();
        if let Some(former) = peer.incoming.replace(connection) {
            self.connections.remove(&former);
            self.actions.push_back(Action::Close(former));
        }
        self.with(id, |session| {
            session.handle_connected(now, Direction::Incoming)
        });
    }
}

fn slot(peer: &mut Peer, direction: Direction) -> &mut Option<ConnectionId> {
    match direction {
        Direction::Outgoing => &mut peer.outgoing,
        Direction::Incoming => &mut peer.incoming,
    }
}

impl Node for Router {
    fn handle_start(&mut self, now: Instant) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with(id, |session| session.handle_start(now));
        }
    }

    fn handle_connected(
        &mut self,
        now: Instant,
        id: NodeId,
        connection: ConnectionId,
        direction: Direction,
    ) {
        let peer = self.peers.get_mut(&id).unwrap();
        if !peer.session.admits(direction) {
            self.actions.push_back(Action::Close(connection));
            return;
        }
        self.connections.insert(connection, (id, direction));
        if direction == Direction::Outgoing {
            assert_eq!(
                peer.outgoing.replace(connection),
                None,
                "two dialled at once"
            );
            return self.with(id, |session| session.handle_connected(now, direction));
        }
        if peer.incoming.is_none() {
            return self.hand_over(now, id, connection);
        }
        if let Some(former) = peer.unheard.replace(connection) {
            self.connections.remove(&former);
            self.actions.push_back(Action::Close(former));
        }
    }

    fn handle_connect_failed(&mut self, now: Instant, id: NodeId) {
        self.with(id, |session| session.handle_connect_failed(now));
    }

    fn handle_bytes(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        let Some((id, direction)) = self.connections.get(&connection).copied() else {
            return;
        };
        let peer = self.peers.get_mut(&id).unwrap();
        if peer.unheard == Some(connection) {
            peer.unheard = None;
            if !peer.session.admits(Direction::Incoming) {
                self.connections.remove(&connection);
                self.actions.push_back(Action::Close(connection));
                return;
            }
            self.hand_over(now, id, connection);
        }
        self.with(id, |session| session.handle_bytes(now, direction, bytes));
    }

    fn handle_disconnected(&mut self, now: Instant, connection: ConnectionId, reason: &str) {
        let Some((id, direction)) = self.connections.remove(&connection) else {
            return;
        };
        let peer = self.peers.get_mut(&id).unwrap();
        if peer.unheard == Some(connection) {
            peer.unheard = None;
        } else {
            *slot(peer, direction) = None;
            self.with(id, |session| {
                session.handle_disconnected(now, direction, reason)
            });
        }
    }

    fn handle_write_blocked(&mut self, now: Instant, connection: ConnectionId) {
        if let Some((id, direction)) = self.connections.get(&connection).copied() {
            self.with(id, |session| session.handle_write_blocked(now, direction));
        }
    }

    fn handle_write_progress(&mut self, now: Instant, connection: ConnectionId) {
        if let Some((id, direction)) = self.connections.get(&connection).copied() {
            self.with(id, |session| session.handle_write_progress(now, direction));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let due = self.deadlines.range(..=(now, NodeId(usize::MAX)));
        for (_, id) in due.copied().collect::<Vec<_>>() {
            self.with(id, |session| session.handle_timeout(now));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
