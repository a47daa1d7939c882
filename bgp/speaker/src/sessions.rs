//! Events of sockets, told to the speaker: dials, connections accepted, bytes, ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bgp_proto::session::Direction;
use tokio::net::TcpStream;

use crate::actor::Actor;
use crate::bfd::{BfdEvent, Diagnostic};
use crate::config::Target;
use crate::connection::{Connection, Event};
use crate::listener::Accepted;
use crate::peer::Peer;
use crate::socket::dial;
use crate::unnumbered::UnnumberedEvent;

impl Actor {
    pub(crate) fn handle_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Accepted(accepted) => self.accepted(accepted, now),
            Event::Dialled {
                peer,
                serial,
                result,
            } => self.dialled(&peer, serial, result, now),
            Event::Received {
                peer,
                serial,
                bytes,
            } => {
                self.hand_over(&peer, serial, now);
                if let Some(direction) = self.direction(&peer, serial) {
                    self.speaker.handle_bytes(now, &peer, direction, &bytes);
                }
            }
            Event::Lost {
                peer,
                serial,
                reason,
            } => self.lost(&peer, serial, &reason, now),
            Event::Room => {}
        }
        self.follow();
    }

    /// A peer on an interface showed itself, or went away.
    pub(crate) fn handle_discovered(&mut self, event: UnnumberedEvent) {
        let now = Instant::now();
        let (interface, found) = match event {
            UnnumberedEvent::Discovered {
                interface,
                ifindex,
                address,
            } => (interface, Some((ifindex, address))),
            UnnumberedEvent::Lost { interface } => (interface, None),
            UnnumberedEvent::Unavailable { interface, reason } => {
                tracing::warn!(%reason, "peers on an interface cannot be found");
                (interface, None)
            }
        };
        for (name, peer) in &mut self.peers {
            let Target::Interface { name: held, port } = &peer.target else {
                continue;
            };
            if *held != interface {
                continue;
            }
            peer.address = found.map(|(ifindex, address)| {
                std::net::SocketAddrV6::new(address, *port, 0, ifindex).into()
            });
            if peer.address.is_some() {
                tracing::info!(peer = %name, address = ?peer.address, "neighbour found");
                self.speaker.handle_discovered(now, name);
            }
        }
        self.doors.apply(&self.config, &self.peers);
        self.bfd.configure(&self.config, &self.peers);
        self.follow();
    }

    /// What BFD says of a path, told to the session over it.
    pub(crate) fn handle_bfd(&mut self, event: BfdEvent) {
        if !self.bfd.note(&event) {
            return;
        }
        let now = Instant::now();
        match event {
            BfdEvent::Up { peer } if self.bfd.is_adopted() => {
                self.speaker.handle_bfd_up_all_along(now, &peer);
            }
            BfdEvent::Up { peer } => self.speaker.handle_bfd_up(now, &peer),
            // The peer's own doing, not the path's: it is up again soon, or its session ends by itself.
            BfdEvent::Down {
                peer,
                remote_admin_down: true,
                ..
            }
            | BfdEvent::Down {
                peer,
                begun_anew: true,
                ..
            } => self.speaker.handle_bfd_admin_down(now, &peer),
            BfdEvent::Down {
                peer,
                diagnostic: Diagnostic::NeighborSignaledSessionDown,
                control_plane_independent,
                ..
            } => {
                self.speaker
                    .handle_bfd_signaled_down(now, &peer, control_plane_independent);
            }
            BfdEvent::Down {
                peer,
                control_plane_independent,
                ..
            } => self
                .speaker
                .handle_bfd_down(now, &peer, control_plane_independent),
            BfdEvent::Changed { .. } => {}
        }
        self.follow();
    }

    /// Accepted connections on which nothing was ever said go.
    pub(crate) fn close_the_unheard(&mut self, now: Instant) {
        let overdue: Vec<_> = self
            .peers
            .values_mut()
            .filter_map(|peer| peer.take_overdue(now))
            .collect();
        for connection in overdue {
            self.close(Some(connection));
        }
    }

    /// Tells the speaker which writers are held up (RFC 9687).
    pub(crate) fn report_writers(&mut self, now: Instant) {
        for (name, peer) in &mut self.peers {
            for direction in [Direction::Outgoing, Direction::Incoming] {
                let Some((moved, waits)) = peer.look_at_writer(direction, now) else {
                    continue;
                };
                if moved {
                    self.speaker.handle_write_progress(now, name, direction);
                }
                if waits {
                    self.speaker.handle_write_blocked(now, name, direction);
                }
            }
        }
    }

    pub(crate) fn connect(&mut self, name: &Arc<str>) {
        let now = Instant::now();
        let Some(address) = self.peers.get(name).and_then(|peer| peer.address) else {
            self.speaker.handle_connect_failed(now, name);
            return;
        };
        let serial = self.serial();
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        let (inbox, options) = (self.inbox.clone(), peer.socket.clone());
        let dialled = Arc::clone(name);
        let task = tokio::spawn(async move {
            let result = dial(address, &options).await;
            // An error means that the speaker has ended.
            let _ = inbox
                .send(Event::Dialled {
                    peer: dialled,
                    serial,
                    result,
                })
                .await;
        });
        if let Some((_, former)) = peer.dial.replace((serial, task.abort_handle())) {
            former.abort();
        }
    }

    fn accepted(&mut self, accepted: Accepted, now: Instant) {
        let Accepted {
            stream,
            remote,
            slot,
        } = accepted;
        let local = stream.local_addr().ok();
        let Some(name) = self.peer_of(remote, local, now) else {
            return;
        };
        self.follow();
        if !self.speaker.admits(&name, Direction::Incoming) {
            return;
        }
        let connection = self.start(stream, &name);
        if let (Some(mut connection), Some(peer)) = (connection, self.peers.get_mut(&name)) {
            connection.slot = Some(slot);
            let former = peer.unheard.replace((connection, now));
            self.close(former.map(|(held, _)| held));
        }
    }

    /// Whose connection this is: a peer's own by its address, then whoever a range takes.
    fn peer_of(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        now: Instant,
    ) -> Option<Arc<str>> {
        let fits = |peer: &Peer| {
            peer.address
                .is_some_and(|address| same_host(address, remote))
        };
        let own: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| !matches!(peer.target, Target::Range { .. }) && fits(peer))
            .collect();
        // Of several at one address the one that asks for the address it dialled.
        let local = local.map(|local| local.ip());
        let named = own
            .iter()
            .find(|(_, peer)| peer.socket.source.is_some() && peer.socket.source == local)
            .or(own.first());
        if let Some((name, _)) = named {
            return Some(Arc::clone(name));
        }
        let name = self.speaker.peer_from_range(now, remote.ip())?;
        if !self.peers.contains_key(&name) {
            let range = name.rsplit_once('/').map_or("", |(range, _)| range);
            let config = self.config.peers.get(range)?;
            let peer = Peer::new(config.target.clone(), config.socket.clone(), Some(remote));
            self.peers.insert(Arc::clone(&name), peer);
            self.bfd.configure(&self.config, &self.peers);
        }
        Some(name)
    }

    fn dialled(
        &mut self,
        name: &Arc<str>,
        serial: u64,
        result: io::Result<TcpStream>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        if peer
            .dial
            .as_ref()
            .is_none_or(|(awaited, _)| *awaited != serial)
        {
            return;
        }
        peer.dial = None;
        let started = match result {
            Ok(stream) => {
                let connection = self.start(stream, name);
                connection.map(|connection| (connection.endpoints, connection))
            }
            Err(error) => {
                tracing::debug!(peer = %name, %error, "cannot connect");
                None
            }
        };
        match (started, self.peers.get_mut(name)) {
            (Some((ends, connection)), Some(peer)) => {
                let former = peer.put(Direction::Outgoing, connection);
                self.close(former);
                self.speaker
                    .handle_connected(now, name, Direction::Outgoing, ends);
            }
            _ => self.speaker.handle_connect_failed(now, name),
        }
    }

    /// The peer said something on a connection it made: from now on it is the session's.
    fn hand_over(&mut self, name: &Arc<str>, serial: u64, now: Instant) {
        let Some(peer) = self
            .peers
            .get_mut(name)
            .filter(|peer| peer.is_unheard(serial))
        else {
            return;
        };
        let Some((connection, _)) = peer.unheard.take() else {
            return;
        };
        if !self.speaker.admits(name, Direction::Incoming) {
            return self.close(Some(connection));
        }
        let ends = connection.endpoints;
        let former = peer.put(Direction::Incoming, connection);
        self.close(former);
        self.speaker
            .handle_connected(now, name, Direction::Incoming, ends);
        // What it asked for on the former connection is not this one's.
        self.follow();
    }

    fn lost(&mut self, name: &Arc<str>, serial: u64, reason: &str, now: Instant) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        if peer.is_unheard(serial) {
            let unheard = peer.unheard.take().map(|(held, _)| held);
            return self.close(unheard);
        }
        if let Some(direction) = peer.direction_of(serial) {
            let lost = peer.take(direction);
            self.close(lost);
            self.speaker
                .handle_disconnected(now, name, direction, reason);
        }
    }

    fn direction(&self, name: &str, serial: u64) -> Option<Direction> {
        self.peers.get(name)?.direction_of(serial)
    }

    fn start(&mut self, stream: TcpStream, peer: &Arc<str>) -> Option<Connection> {
        let serial = self.serial();
        Connection::start(stream, peer, serial, &self.inbox)
            .inspect_err(|error| tracing::debug!(%peer, %error, "connection gone at once"))
            .ok()
    }
}

/// The same host, whatever the port; a link-local address is one only on its link, where that is known.
fn same_host(one: SocketAddr, other: SocketAddr) -> bool {
    match (one, other) {
        (SocketAddr::V6(one), SocketAddr::V6(other)) => {
            let scopes = [one.scope_id(), other.scope_id()];
            let same_link = scopes.contains(&0) || one.scope_id() == other.scope_id();
            one.ip() == other.ip() && (same_link || !one.ip().is_unicast_link_local())
        }
        _ => one.ip() == other.ip(),
    }
}
