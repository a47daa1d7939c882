//! nfnetlink: packets that rules hold for a verdict (NFQUEUE), and packets that rules show (NFLOG). Both are of the
//! network namespace that the socket was made in: agents in different namespaces never meet.

mod log;
mod packet;
mod queue;
mod socket;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub(crate) use log::{Log, Shown};
pub(crate) use packet::{Packet, Segment, protocol_name};
pub(crate) use queue::{Held, Queue, Verdicts};
