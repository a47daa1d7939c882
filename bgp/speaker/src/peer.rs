//! The sockets of one peer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bgp_proto::session::Direction;
use tokio::task::AbortHandle;

use crate::config::Target;
use crate::connection::Connection;
use crate::socket::SocketOptions;

/// A peer as the speaker's task holds it.
pub(crate) struct Peer {
    pub(crate) target: Target,
    pub(crate) socket: SocketOptions,
    /// Where to dial; an unnumbered peer has none until it shows itself.
    pub(crate) address: Option<SocketAddr>,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    /// Accepted, but the peer has not said anything on it yet: the session learns of it when it does.
    pub(crate) unheard: Option<(Connection, Instant)>,
    pub(crate) dial: Option<(u64, AbortHandle)>,
    /// Bytes written of each connection when it was last looked at, outgoing and incoming.
    looked: [u64; 2],
}

/// How long an accepted connection may stay without a word.
const UNHEARD_TIME: Duration = Duration::from_secs(30);
/// How often a writer that is held up is looked at.
const LOOK_AT_WRITERS: Duration = Duration::from_secs(5);

impl Peer {
    pub(crate) fn new(target: Target, socket: SocketOptions, address: Option<SocketAddr>) -> Self {
        Self {
            target,
            socket,
            address,
            outgoing: None,
            incoming: None,
            unheard: None,
            dial: None,
            looked: [0; 2],
        }
    }

    pub(crate) fn connection(&self, direction: Direction) -> Option<&Connection> {
        match direction {
            Direction::Outgoing => self.outgoing.as_ref(),
            Direction::Incoming => self.incoming.as_ref(),
        }
    }

    pub(crate) fn connection_mut(&mut self, direction: Direction) -> Option<&mut Connection> {
        self.slot(direction).as_mut()
    }

    pub(crate) fn put(
        &mut self,
        direction: Direction,
        connection: Connection,
    ) -> Option<Connection> {
        self.slot(direction).replace(connection)
    }

    /// Takes out a connection; of the outgoing ones also the dial that is under way.
    pub(crate) fn take(&mut self, direction: Direction) -> Option<Connection> {
        if direction == Direction::Outgoing
            && let Some((_, dial)) = self.dial.take()
        {
            dial.abort();
        }
        self.slot(direction).take()
    }

    pub(crate) fn take_all(&mut self) -> Vec<Connection> {
        let unheard = self.unheard.take().map(|(connection, _)| connection);
        [
            self.take(Direction::Outgoing),
            self.take(Direction::Incoming),
            unheard,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Which of the session's connections has this serial number.
    pub(crate) fn direction_of(&self, serial: u64) -> Option<Direction> {
        [Direction::Outgoing, Direction::Incoming]
            .into_iter()
            .find(|way| {
                self.connection(*way)
                    .is_some_and(|held| held.serial == serial)
            })
    }

    pub(crate) fn is_unheard(&self, serial: u64) -> bool {
        self.unheard
            .as_ref()
            .is_some_and(|(held, _)| held.serial == serial)
    }

    /// A connection that has not said a word for too long.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Option<Connection> {
        self.unheard
            .take_if(|(_, since)| *since + UNHEARD_TIME <= now)
            .map(|(connection, _)| connection)
    }

    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let unheard = self
            .unheard
            .as_ref()
            .map(|(_, since)| *since + UNHEARD_TIME);
        let connections = self.outgoing.iter().chain(&self.incoming);
        let waits = connections
            .into_iter()
            .any(|connection| connection.progress(now).waiting > 0);
        let look = waits.then(|| now + LOOK_AT_WRITERS);
        unheard.into_iter().chain(look).min()
    }

    /// Whether a connection's writer has moved since the last look, and whether bytes wait for it.
    pub(crate) fn look_at_writer(
        &mut self,
        direction: Direction,
        now: Instant,
    ) -> Option<(bool, bool)> {
        let progress = self.connection(direction)?.progress(now);
        let [outgoing, incoming] = &mut self.looked;
        let looked = match direction {
            Direction::Outgoing => outgoing,
            Direction::Incoming => incoming,
        };
        let moved = std::mem::replace(looked, progress.written) != progress.written;
        Some((moved || progress.waiting == 0, progress.waiting > 0))
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }
}
