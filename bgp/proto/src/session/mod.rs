//! The session with one peer as a state machine without I/O (RFC 4271 §8), over at most one connection per direction.
//!
//! The driver calls `handle_*` for what happened, then takes every [`Output`] until there is none, then arms one timer
//! for [`PeerSession::poll_timeout`]. Its duties:
//!
//! * Bytes that have arrived are delivered before [`PeerSession::handle_timeout`] is called, else a busy driver finds a
//!   hold timer expired whose KEEPALIVE lies unread in its socket.
//! * After [`Output::Close`] nothing of that connection is delivered any more; what was given by [`Output::Send`]
//!   before it is still written (a NOTIFICATION is). `Close(Outgoing)` also ends a dial that is under way.
//! * Before it hands over an incoming connection it asks [`PeerSession::admits`]. A new incoming connection takes the
//!   place of the former incoming one, which the driver lets go without a word; so a driver does well to hand it over
//!   only once the peer has sent something on it.
//! * It tells of bytes that wait for a peer that does not read: [`PeerSession::handle_write_blocked`] when they begin
//!   to wait, [`PeerSession::handle_write_progress`] whenever some went out, and again `blocked` if more wait. A
//!   `Close` while bytes wait means that what is half written stays so: nothing may follow it.
//! * UPDATEs are encoded by the driver with [`Negotiated::context`] and written on [`Negotiated::direction`].

mod bfd;
mod collision;
mod config;
mod connection;
mod errors;
mod fsm;
pub(crate) mod jitter;
mod negotiate;
mod open;
mod output;
mod receive;
mod role;
mod send_hold;
#[cfg(test)]
mod tests;
mod timers;

pub use config::{AddPathOffer, PeerAs, SessionConfig};
pub use fsm::PeerSession;
pub use negotiate::Negotiated;
pub use output::{Direction, Down, Output, State, Stop};
