//! Sessions tested without a network: alone with a scripted peer, and two of them joined in memory.

mod collision;
mod damping;
mod errors;
mod exchange;
mod pair;
mod restart;
mod scripted;
mod table;
