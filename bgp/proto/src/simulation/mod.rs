//! A network in virtual time for whole speakers: links with latency, loss and cuts, processes that die; a seed is a run.
//!
//! Anything that is a [`Node`] can be put on a [`Network`]: a handful of sessions, or a speaker with its RIB. The
//! network has the only clock, delivers bytes in the order of each connection, wakes nodes (late, within bounds) and
//! does what [`Chaos`] tells it: cuts one way or both, resets, refused dials, processes killed, machines without power.
//! There is no thread and no entropy but the seed's, so that [`Network::trace`] of two runs with one seed is the same.
//!
//! It is compiled for tests and with the feature `simulation`.

mod chaos;
mod network;
mod node;
mod pipe;
mod schedule;
mod settings;

pub use chaos::{Chaos, Fault};
pub use network::Network;
pub use node::{Action, ConnectionId, Node, NodeId};
pub use settings::{Settings, Statistics};
