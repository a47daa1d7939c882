//! BGP-4 (RFC 4271) without I/O: wire codec, session state machine, RIBs; told the time, handed the bytes.

pub mod bfd;
pub mod filter;
mod random;
pub mod rib;
pub mod session;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod speaker;
pub mod wire;
