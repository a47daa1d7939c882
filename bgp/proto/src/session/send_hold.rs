//! The SendHoldTimer (RFC 9687): a peer that takes no byte is gone, whatever it still sends.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::fsm::{Ending, PeerSession};
use super::output::Direction;
use super::timers::SEND_HOLD_TIME;

impl PeerSession {
    /// Bytes wait that the connection does not take. Said again while they wait it is no news.
    pub fn handle_write_blocked(&mut self, now: Instant, direction: Direction) {
        let limit = self.send_hold_time(direction);
        if let Some(connection) = self.connection_mut(direction)
            && connection.send_hold_at.is_none()
            && !limit.is_zero()
        {
            connection.send_hold_at = Some(now + limit);
        }
    }

    /// Some bytes went out. If more wait, `handle_write_blocked` follows.
    pub fn handle_write_progress(&mut self, _now: Instant, direction: Direction) {
        if let Some(connection) = self.connection_mut(direction) {
            connection.send_hold_at = None;
        }
    }

    /// SendHoldTimer_Expires (event 29). There is no place for a NOTIFICATION behind half a message, so TCP is closed
    /// without one and the reason names the error code.
    pub(super) fn send_hold_expired(&mut self, now: Instant, direction: Direction) {
        let limit = self.send_hold_time(direction).as_secs();
        let ending = Ending {
            reason: format!(
                "send hold timer expired: the peer took no byte for {limit} s (NOTIFICATION 8/0, not sent)"
            ),
            sent: None,
            received: None,
            close: true,
            held_back: true,
            retain: self.agreed_notification_gr(direction),
        };
        self.end(now, direction, ending);
    }

    fn send_hold_time(&self, direction: Direction) -> Duration {
        let configured = self.config.send_hold_time;
        let connection = self.connection(direction);
        match connection.and_then(|c: &Connection| c.negotiated.as_ref()) {
            Some(negotiated) => negotiated.send_hold_time(configured),
            None => configured.unwrap_or(SEND_HOLD_TIME),
        }
    }
}
