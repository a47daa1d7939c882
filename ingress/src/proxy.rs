//! The proxy: connections of clients, requests to endpoints, and what is counted and logged of them.
//!
//! One thread a core, each with a runtime of its own: a connection, its requests and the connections to endpoints that these
//! use stay on one thread, so nothing of a request wakes another core. What is served is swapped as a whole.

mod answer;
mod body;
mod connection;
mod forward;
mod h2c;
mod headers;
mod log;
mod numbers;
mod pool;
mod request;
mod stream;
mod tls;
mod upgrade;
mod worker;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

pub use log::{AccessLog, LogQueue};
pub use numbers::{Numbers, Total};
pub use worker::{Listeners, Order, Worker};

use crate::certificate::Certificates;
use crate::table::Table;

/// What is served at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Where requests go.
    pub table: Table,
    /// Which certificate is shown.
    pub certificates: Certificates,
}

/// Times and sizes that a connection or request may not exceed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a connection to an endpoint, per try.
    pub connect: Duration,
    /// For what was sent to an endpoint to be acknowledged by its machine (RFC 5482).
    pub unacknowledged: Duration,
    /// How many endpoints a request tries.
    pub tries: usize,
    /// From the last octet of a request to the head of its response.
    pub response: Duration,
    /// Between two octets of a client while a request of it is under way.
    pub stream_idle: Duration,
    /// A tunnel (websocket) on which nothing passes.
    pub tunnel_idle: Duration,
    /// For a client's TLS handshake, and for a request's head from its first octet on.
    pub head: Duration,
    /// A client's connection without a request.
    pub keep_alive: Duration,
    /// An endpoint's connection without a request.
    pub endpoint_idle: Duration,
    /// Octets of a request's or response's head.
    pub head_size: usize,
    /// Octets of a request's body; none: no limit.
    pub body_size: Option<u64>,
    /// Clients' connections at once.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            unacknowledged: Duration::from_secs(5),
            tries: 3,
            response: Duration::from_secs(60),
            stream_idle: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            endpoint_idle: Duration::from_secs(50),
            head_size: 32 * 1024,
            body_size: None,
            connections: 20_000,
        }
    }
}

/// A range of addresses whose word about the client is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedRange {
    network: IpAddr,
    length: u8,
}

impl TrustedRange {
    /// Whether an address is of it; an IPv4 address that is written as IPv6 is the IPv4 one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u8| {
            let shift = u32::from(bits).saturating_sub(u32::from(self.length));
            a.checked_shr(shift) == b.checked_shr(shift)
        };
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

impl std::str::FromStr for TrustedRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address and no CIDR");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or_else(wrong)?,
            None => bits,
        };
        Ok(Self { network, length })
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Limits.
    pub limits: Limits,
    /// Whose X-Forwarded-For is believed.
    pub trusted: Vec<TrustedRange>,
    /// Connections of clients, of all workers.
    pub connections: AtomicUsize,
    /// Whether clients are asked to come back by another connection, since the drain is about to begin.
    pub is_leaving: AtomicBool,
    /// Whether the process is about to end.
    pub is_draining: AtomicBool,
    /// Begins every request's id: other processes' ids begin otherwise.
    pub id: u64,
    /// The certificates of now, for TLS.
    pub resolver: Arc<Resolver>,
}

pub use tls::{Resolver, server_config};
