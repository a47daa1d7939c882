//! The program with real clients (curl, openssl, websockets, HTTP/2 by hand) and real backends, on the loopback.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something is not as it should be"
)]

mod backend;
mod drain;
mod lab;
mod limits;
mod load;
mod plain;
mod smuggling;
mod tls;
mod upgrades;
