//! A whole speaker as a machine of the simulation: the thinnest driver there can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::nodes::{address, node_of, peer_name};
use crate::session::Direction;
use crate::simulation::{Action, ConnectionId, Node, NodeId};
use crate::speaker::{Action as Wish, Config, Endpoints, Restart, Speaker};

/// Octets of UPDATEs taken at once.
const BUDGET: usize = 16 * 1024;

pub(super) struct Router {
    config: Config,
    seed: u64,
    speaker: Option<Speaker>,
    connections: BTreeMap<ConnectionId, (NodeId, Direction)>,
    /// Those handed over, by what the speaker calls them.
    held: BTreeMap<(NodeId, Direction), ConnectionId>,
    /// Came beside another incoming one and have said nothing yet.
    unheard: BTreeMap<NodeId, ConnectionId>,
    blocked: BTreeSet<ConnectionId>,
    /// What the kernel holds.
    kernel: BTreeMap<IpNet, BTreeSet<IpAddr>>,
    actions: VecDeque<Action>,
}

impl Router {
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            seed,
            speaker: None,
            connections: BTreeMap::new(),
            held: BTreeMap::new(),
            unheard: BTreeMap::new(),
            blocked: BTreeSet::new(),
            kernel: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    pub(super) fn routes(&self) -> BTreeMap<IpNet, BTreeSet<IpAddr>> {
        self.kernel.clone()
    }

    /// Does something to the speaker, then what it asks for.
    fn with(&mut self, what: impl FnOnce(&mut Speaker)) {
        let Some(mut speaker) = self.speaker.take() else {
            return;
        };
        what(&mut speaker);
        loop {
            while let Some(wish) = speaker.poll_action() {
                self.carry_out(wish);
            }
            for change in speaker.poll_route_changes(usize::MAX) {
                let hops: BTreeSet<IpAddr> =
                    change.next_hops.iter().map(|hop| hop.address).collect();
                self.kernel.remove(&change.prefix);
                if !hops.is_empty() {
                    self.kernel.insert(change.prefix, hops);
                }
            }
            if !self.transmit(&mut speaker) && !speaker.has_work() {
                break;
            }
        }
        self.speaker = Some(speaker);
    }

    /// Sends what is due to those who read; whether there was any.
    fn transmit(&mut self, speaker: &mut Speaker) -> bool {
        let before = self.actions.len();
        let up: Vec<_> = speaker
            .established()
            .map(|(name, direction)| (name.clone(), direction))
            .collect();
        for (name, direction) in up {
            let connection = self.held[&(NodeId(node_of(&name)), direction)];
            if !self.blocked.contains(&connection)
                && let Some((_, bytes)) = speaker.poll_transmit(&name, BUDGET)
            {
                self.actions.push_back(Action::Send(connection, bytes));
            }
        }
        self.actions.len() > before
    }

    fn carry_out(&mut self, wish: Wish) {
        match wish {
            Wish::Connect { peer } => {
                self.actions.push_back(Action::Dial(NodeId(node_of(&peer))));
            }
            Wish::Close { peer, direction } => {
                let id = NodeId(node_of(&peer));
                match self.held.remove(&(id, direction)) {
                    Some(connection) => self.close(connection),
                    None => self.actions.push_back(Action::AbandonDial(id)),
                }
            }
            Wish::Send {
                peer,
                direction,
                bytes,
            } => {
                let connection = self.held[&(NodeId(node_of(&peer)), direction)];
                self.actions.push_back(Action::Send(connection, bytes));
            }
            Wish::Forget { .. }
            | Wish::GatewayDown(_)
            | Wish::GatewayUp(_)
            | Wish::InitialSync
            | Wish::Event(..) => {}
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
        self.blocked.remove(&connection);
        self.actions.push_back(Action::Close(connection));
    }

    fn hand_over(
        &mut self,
        now: Instant,
        id: NodeId,
        connection: ConnectionId,
        direction: Direction,
    ) {
        if let Some(former) = self.held.insert((id, direction), connection) {
            self.close(former);
        }
        let ends = Endpoints {
            local: SocketAddr::new(IpAddr::V4(self.config.speaker.router_id), 179),
            remote: SocketAddr::new(address(id.0), 179),
            link_local: None,
            link: None,
        };
        self.with(|speaker| speaker.handle_connected(now, &peer_name(id.0), direction, ends));
    }

    fn admits(&self, id: NodeId, direction: Direction) -> bool {
        let name = peer_name(id.0);
        self.speaker
            .as_ref()
            .is_some_and(|speaker| speaker.admits(&name, direction))
    }
}

impl Node for Router {
    fn handle_start(&mut self, now: Instant) {
        let restart = Restart {
            forwarding_preserved: false,
            wait: Duration::from_secs(60),
        };
        let config = self.config.clone();
        let speaker = Speaker::new(config.speaker.clone(), restart, self.seed, now);
        self.speaker = Some(speaker);
        self.with(|speaker| speaker.configure(now, config));
    }

    fn handle_connected(
        &mut self,
        now: Instant,
        id: NodeId,
        connection: ConnectionId,
        direction: Direction,
    ) {
        if !self.admits(id, direction) {
            return self.close(connection);
        }
        self.connections.insert(connection, (id, direction));
        if direction == Direction::Incoming && self.held.contains_key(&(id, direction)) {
            if let Some(former) = self.unheard.insert(id, connection) {
                self.close(former);
            }
            return;
        }
        self.hand_over(now, id, connection, direction);
    }

    fn handle_connect_failed(&mut self, now: Instant, id: NodeId) {
        self.with(|speaker| speaker.handle_connect_failed(now, &peer_name(id.0)));
    }

    fn handle_bytes(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        let Some((id, direction)) = self.connections.get(&connection).copied() else {
            return;
        };
        if self.unheard.get(&id) == Some(&connection) {
            self.unheard.remove(&id);
            if !self.admits(id, direction) {
                return self.close(connection);
            }
            self.hand_over(now, id, connection, direction);
        }
        if self.connections.contains_key(&connection) {
            self.with(|speaker| speaker.handle_bytes(now, &peer_name(id.0), direction, bytes));
        }
    }

    fn handle_disconnected(&mut self, now: Instant, connection: ConnectionId, reason: &str) {
        let Some((id, direction)) = self.connections.remove(&connection) else {
            return;
        };
        self.blocked.remove(&connection);
        if self.unheard.get(&id) == Some(&connection) {
            self.unheard.remove(&id);
            return;
        }
        self.held.remove(&(id, direction));
        self.with(|speaker| {
            speaker.handle_disconnected(now, &peer_name(id.0), direction, reason);
        });
    }

    fn handle_write_blocked(&mut self, now: Instant, connection: ConnectionId) {
        if let Some((id, direction)) = self.connections.get(&connection).copied() {
            self.blocked.insert(connection);
            self.with(|speaker| speaker.handle_write_blocked(now, &peer_name(id.0), direction));
        }
    }

    fn handle_write_progress(&mut self, now: Instant, connection: ConnectionId) {
        if let Some((id, direction)) = self.connections.get(&connection).copied() {
            self.blocked.remove(&connection);
            self.with(|speaker| speaker.handle_write_progress(now, &peer_name(id.0), direction));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.with(|speaker| speaker.handle_timeout(now));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.speaker.as_ref()?.poll_timeout()
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
