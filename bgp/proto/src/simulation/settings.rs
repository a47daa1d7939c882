//! How the network treats what is entrusted to it, and what it counted.

use std::time::Duration;

/// How the network treats what is entrusted to it; may be changed at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The shortest time a segment takes.
    pub latency: Duration,
    /// By how much longer it may take.
    pub latency_spread: Duration,
    /// Of a thousand segments, how many are lost; TCP sends them again, up to 3 s later, and all that follows waits.
    pub loss: u64,
    /// Of a thousand dials, how many are refused though the process listens.
    pub refusals: u64,
    /// Of a thousand deliveries, how many come in two pieces.
    pub splits: u64,
    /// By how much a timer may fire late.
    pub timer_lateness: Duration,
    /// Octets that may be under way on a connection before its sender is told that they wait.
    pub window: usize,
}

impl Settings {
    /// A data centre: a tenth of a millisecond to a millisecond, no loss, timers at most 10 ms late.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            latency: Duration::from_micros(100),
            latency_spread: Duration::from_micros(900),
            loss: 0,
            refusals: 0,
            splits: 0,
            timer_lateness: Duration::from_millis(10),
            window: 256 * 1024,
        }
    }

    /// A bad one: up to 50 ms, one segment of fifty lost, one dial of ten refused, timers up to 300 ms late.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            latency: Duration::from_millis(1),
            latency_spread: Duration::from_millis(49),
            loss: 20,
            refusals: 100,
            splits: 300,
            timer_lateness: Duration::from_millis(300),
            window: 256 * 1024,
        }
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Everything.
    pub events: u64,
    /// Calls of `handle_timeout`.
    pub timeouts: u64,
    /// Dials.
    pub dials: u64,
    /// The most calls of `handle_timeout` of one node within one second of virtual time.
    pub most_timeouts_in_a_second: u64,
}
