//! What a message leads to in each state (RFC 4271 §8.2.2, events 19 to 28).

use std::time::Instant;

use super::collision::{self, Verdict};
use super::connection::Phase;
use super::errors;
use super::fsm::{Ending, PeerSession, announces_restarts};
use super::negotiate::{self, Negotiated};
use super::output::{Direction, Output};
use super::timers::YIELD_TIME;
use crate::wire::{Message, Notification, Open, RefreshKind, RouteRefresh};

impl PeerSession {
    /// Bytes of a connection, cut anywhere. Ignored for one that is closed.
    pub fn handle_bytes(&mut self, now: Instant, direction: Direction, bytes: &[u8]) {
        if let Some(connection) = self.connection_mut(direction) {
            connection.push(bytes);
        }
        while let Some(connection) = self.connection_mut(direction) {
            match connection.next() {
                Ok(Some(message)) => self.receive(now, direction, message),
                Ok(None) => break,
                Err(notification) => self.fail(now, direction, notification),
            }
        }
    }

    fn receive(&mut self, now: Instant, direction: Direction, message: Message) {
        let Some(connection) = self.connection_mut(direction) else {
            return;
        };
        match (connection.phase, message) {
            (_, Message::Notification(notification)) => {
                self.notified(now, direction, notification);
            }
            (Phase::Tracked | Phase::OpenSent, Message::Open(open)) => {
                self.opened(now, direction, &open);
            }
            (Phase::OpenConfirm, Message::Keepalive) => {
                connection.heard(now);
                connection.keepalive_received = true;
                self.establish_if_confirmed(now, direction);
            }
            (Phase::Established, Message::Keepalive) => connection.heard(now),
            (Phase::Established, Message::Update(update)) => {
                connection.heard(now);
                self.outputs.push_back(Output::Update(update));
            }
            (Phase::Established, Message::RouteRefresh(refresh)) => {
                connection.heard(now);
                let agreed = connection.negotiated.as_ref();
                if agreed.is_some_and(|n| takes_refresh(n, refresh)) {
                    self.outputs.push_back(Output::RouteRefresh(refresh));
                }
            }
            (phase, message) => {
                self.fail(now, direction, errors::unexpected_message(phase, &message));
            }
        }
    }

    fn notified(&mut self, now: Instant, direction: Direction, notification: Notification) {
        if errors::rejects_capabilities(&notification) {
            // In turns: without them if with them was refused, and the other way round.
            self.plain = !self.plain;
        }
        let ending = Ending {
            reason: format!("received {}", errors::describe(&notification)),
            held_back: !errors::is_collision(&notification),
            retain: self.agreed_notification_gr(direction) && !notification.is_hard_reset(),
            sent: None,
            received: Some(notification),
            close: true,
        };
        self.end(now, direction, ending);
    }

    /// The peer's OPEN (event 19), with collision detection (RFC 4271 §6.8).
    fn opened(&mut self, now: Instant, direction: Direction, open: &Open) {
        let Some(connection) = self.connection(direction) else {
            return;
        };
        let negotiated = negotiate::negotiate(&self.config, direction, &connection.open, open);
        let negotiated = match negotiated {
            Ok(negotiated) => negotiated,
            Err(notification) => return self.fail(now, direction, notification),
        };
        let ours = (self.config.router_id, self.config.local_as);
        let wins = collision::winner(ours, (open.bgp_id, open.asn)) == direction;
        let other = self.connection(direction.other());
        let restartable = other.is_some_and(announces_restarts);
        let phase = connection.phase;
        // One whose OPEN is only delayed is no sign of a restart.
        let judged = if connection.came_later {
            phase
        } else {
            Phase::OpenSent
        };
        let verdict = collision::judge(judged, wins, other.map(|c| c.phase), restartable);
        if verdict == Verdict::CloseThis {
            return self.fail(now, direction, errors::collision());
        }
        if phase == Phase::Tracked {
            self.send_open(now, direction);
        }
        if let Some(connection) = self.connection_mut(direction) {
            connection.negotiated = Some(negotiated);
            connection.phase = Phase::OpenConfirm;
            connection.open_at = None;
            connection.heard(now);
            if verdict == Verdict::Yield {
                connection.keepalive_at = Some(now + YIELD_TIME);
            }
        }
        match verdict {
            // Closing the other lets this one go on, which sends the KEEPALIVE.
            Verdict::CloseOther => self.fail(now, direction.other(), errors::collision()),
            Verdict::Proceed => self.confirm(now, direction),
            Verdict::Yield | Verdict::CloseThis => {}
        }
    }

    /// OpenConfirm ends when KEEPALIVEs went both ways; whatever else there was gives way.
    pub(super) fn establish_if_confirmed(&mut self, now: Instant, direction: Direction) {
        let Some(connection) = self.connection(direction) else {
            return;
        };
        let confirmed = connection.keepalive_sent && connection.keepalive_received;
        if connection.phase != Phase::OpenConfirm || !confirmed {
            return;
        }
        let Some(negotiated) = connection.negotiated.clone() else {
            return;
        };
        let came_later = connection.came_later;
        let peer = (negotiated.peer_id, negotiated.peer_as);
        let ours = (self.config.router_id, self.config.local_as);
        let wins = collision::winner(ours, peer) == direction;
        let other = direction.other();
        match self.connection(other).map(|c| c.phase) {
            Some(Phase::Established) if came_later => self.restarted(now, other),
            Some(Phase::Established | Phase::OpenConfirm) => {
                self.fail(now, other, errors::collision());
            }
            Some(Phase::OpenSent) if wins => self.fail(now, other, errors::collision()),
            // Its OPEN was only delayed: the peer can't count on it.
            Some(Phase::Tracked) if !self.connection(other).is_some_and(|c| c.came_later) => {
                self.drop_unspoken(now, other, "the other connection was faster");
            }
            Some(Phase::OpenSent | Phase::Tracked) | None => {}
        }
        if let Some(connection) = self.connection_mut(direction) {
            connection.phase = Phase::Established;
            connection.established_at = Some(now);
            self.outputs.push_back(Output::Up(negotiated));
        }
    }

    /// Drops the connection of the peer's former life without a word (RFC 4724 §5).
    fn restarted(&mut self, now: Instant, direction: Direction) {
        let ending = Ending {
            reason: "the peer restarted".to_owned(),
            sent: None,
            received: None,
            close: true,
            held_back: false,
            retain: true,
        };
        self.end(now, direction, ending);
    }
}

/// RFC 2918 §4 and RFC 7313 §4: what was not agreed on is ignored.
fn takes_refresh(negotiated: &Negotiated, refresh: RouteRefresh) -> bool {
    let agreed = match refresh.kind {
        RefreshKind::Request => negotiated.route_refresh,
        RefreshKind::Begin | RefreshKind::End => negotiated.enhanced_refresh,
    };
    agreed && negotiated.context.families.contains(&refresh.family)
}
