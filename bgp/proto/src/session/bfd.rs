//! BFD and the session (RFC 5882 §4.1, draft-ietf-idr-bgp-bfd-strict-mode): its failure ends it, strict mode awaits it.

use std::time::Instant;

use super::connection::{BfdHold, Phase};
use super::errors;
use super::fsm::{Ending, PeerSession};
use super::output::Direction;

impl PeerSession {
    /// BFD came up, or went down; said again it is no news. A peer's AdminDown is not down (RFC 5882 §3.2): the caller
    /// says nothing of it.
    ///
    /// Going down ends connections in OpenConfirm and Established with Cease, BFD Down (RFC 9384), and the peer's
    /// routes go: whether they stay for the sake of a control plane that fails independently is the caller's to know.
    pub fn handle_bfd(&mut self, now: Instant, up: bool) {
        if std::mem::replace(&mut self.bfd_up, up) == up {
            return;
        }
        for direction in Direction::BOTH {
            let Some(connection) = self.connection(direction) else {
                continue;
            };
            if up && connection.bfd != BfdHold::Off {
                self.release(now, direction);
            } else if !up && connection.phase > Phase::OpenSent {
                self.bfd_failed(now, direction);
            }
        }
    }

    /// The OPENs are good: our KEEPALIVE goes out, now or when BFD is up.
    pub(super) fn confirm(&mut self, now: Instant, direction: Direction) {
        let waits = self.config.strict_bfd && !self.bfd_up;
        if !waits {
            self.send_keepalive(now, direction);
            return self.establish_if_confirmed(now, direction);
        }
        let limit = self.config.bfd_hold_time;
        let until = (!limit.is_zero()).then(|| now + limit);
        if let Some(connection) = self.connection_mut(direction) {
            connection.keepalive_at = None;
            connection.bfd = BfdHold::On(until);
            connection.hold_at = None;
        }
    }

    /// The BfdHoldTimer has expired.
    pub(super) fn bfd_hold_expired(&mut self, now: Instant, direction: Direction) {
        self.bfd_failed(now, direction);
    }

    fn release(&mut self, now: Instant, direction: Direction) {
        if let Some(connection) = self.connection_mut(direction) {
            connection.bfd = BfdHold::Off;
            connection.heard(now);
        }
        self.send_keepalive(now, direction);
        self.establish_if_confirmed(now, direction);
    }

    fn bfd_failed(&mut self, now: Instant, direction: Direction) {
        let notification = errors::bfd_down();
        let ending = Ending {
            reason: format!("sent {}", errors::describe(&notification)),
            sent: Some(notification),
            received: None,
            close: true,
            held_back: true,
            retain: false,
        };
        self.end(now, direction, ending);
    }
}
