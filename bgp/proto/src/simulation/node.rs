//! What a participant of the simulation can be told and can ask for.

use std::time::Instant;

use bytes::Bytes;

use crate::session::Direction;

/// A machine on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A TCP connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The process on one machine, without I/O: told what happened, asked what it wants.
pub trait Node {
    /// It begins to run; called once, first.
    fn handle_start(&mut self, now: Instant);
    /// TCP is up with `peer`. `Outgoing` answers its [`Action::Dial`]; what it has no use for, it closes.
    fn handle_connected(
        &mut self,
        now: Instant,
        peer: NodeId,
        connection: ConnectionId,
        direction: Direction,
    );
    /// The dial to `peer` was refused.
    fn handle_connect_failed(&mut self, now: Instant, peer: NodeId);
    /// Bytes came, cut anywhere.
    fn handle_bytes(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]);
    /// The peer closed, or the connection was reset.
    fn handle_disconnected(&mut self, now: Instant, connection: ConnectionId, reason: &str);
    /// More than [`Settings::window`](super::Settings::window) octets wait to be taken by the peer.
    fn handle_write_blocked(&mut self, now: Instant, connection: ConnectionId);
    /// Some of the octets that waited were taken.
    fn handle_write_progress(&mut self, now: Instant, connection: ConnectionId);
    /// The time of `poll_timeout` has come, or is past.
    fn handle_timeout(&mut self, now: Instant);
    /// When to be woken.
    fn poll_timeout(&self) -> Option<Instant>;
    /// What it wants next; asked until `None` after every `handle_*`.
    fn poll_action(&mut self) -> Option<Action>;
}

/// What a node wants of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to this node. A dial to it that is under way is abandoned.
    Dial(NodeId),
    /// The dial to this node, if one is under way, is of no interest any more.
    AbandonDial(NodeId),
    /// Write.
    Send(ConnectionId, Bytes),
    /// Write what was sent before, then close; nothing of the connection is heard any more.
    Close(ConnectionId),
}
