//! Sessions tested without a network: alone with a scripted peer, and two of them joined in memory.

mod capabilities;
mod collision;
mod damping;
mod down;
mod errors;
mod exchange;
mod mesh;
mod pair;
mod restart;
mod scripted;
mod simulation;
mod table;
