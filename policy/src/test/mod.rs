//! Tests of the compiler: what they are made of, and the slow check against a reference.

mod fixture;
mod hostile;
mod interpreter;
mod ipvs;
mod kernel;
mod named_ports;
mod order;
mod random;
mod semantics;
mod snapshot;
mod tiers;
