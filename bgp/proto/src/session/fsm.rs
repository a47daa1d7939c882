//! The session: starting, stopping, dialling, connections coming and going, timers (RFC 4271 §8.2.2).

use std::collections::VecDeque;
use std::time::Instant;

use super::config::SessionConfig;
use super::connection::{BfdHold, Connection, Phase};
use super::errors;
use super::jitter::Jitter;
use super::negotiate::Negotiated;
use super::open;
use super::output::{Direction, Down, Output, State, Stop};
use super::timers::Backoff;
use crate::wire::{
    Family, GracefulRestart, LongLivedFamily, Message, Notification, RefreshKind, RouteRefresh,
};

/// The session with one peer. See the module for what its driver owes it.
pub struct PeerSession {
    pub(super) config: SessionConfig,
    pub(super) jitter: Jitter,
    backoff: Backoff,
    dial: Dial,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    pub(super) outputs: VecDeque<Output>,
    last_down: Option<String>,
    /// Send OPENs without capabilities: the peer refused the last ones that had them.
    pub(super) plain: bool,
    /// BFD was said to be up.
    pub(super) bfd_up: bool,
}

/// What is done about having a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Nothing, until `handle_start`.
    Stopped,
    /// Nothing, until then: the last try ended in an error (IdleHoldTimer).
    HeldBack(Instant),
    /// We take a connection, and dial at that time if there is one (ConnectRetryTimer).
    Waiting(Option<Instant>),
    /// `Output::Connect` is under way and is given up at that time (ConnectRetryTimer).
    Dialling(Instant),
}

/// How a connection ended.
pub(super) struct Ending {
    /// For people.
    pub(super) reason: String,
    pub(super) sent: Option<Notification>,
    pub(super) received: Option<Notification>,
    /// It is for us to close it.
    pub(super) close: bool,
    /// An error: held back in Idle before the next try. Otherwise connections are taken at once.
    pub(super) held_back: bool,
    /// As in [`Down::retain`].
    pub(super) retain: bool,
}

impl PeerSession {
    /// A stopped session; `seed` decides its jitter.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            jitter: Jitter::new(seed),
            backoff: Backoff::default(),
            dial: Dial::Stopped,
            outgoing: None,
            incoming: None,
            outputs: VecDeque::new(),
            last_down: None,
            plain: false,
            bfd_up: false,
        }
    }

    /// ManualStart (event 1); while held back after an error it ends the wait.
    pub fn handle_start(&mut self, now: Instant) {
        if matches!(self.dial, Dial::Stopped | Dial::HeldBack(_)) {
            self.backoff.forget();
            self.plain = false;
            self.begin(now);
        }
    }

    /// ManualStop (event 2): ends every connection and any dial; nothing happens until `handle_start`.
    pub fn handle_stop(&mut self, now: Instant, stop: Stop) {
        if matches!(self.dial, Dial::Dialling(_)) {
            self.outputs.push_back(Output::Close(Direction::Outgoing));
        }
        self.dial = Dial::Stopped;
        let notification = match stop {
            Stop::Notify(notification) => Some(notification),
            Stop::Silent => None,
        };
        for direction in Direction::BOTH {
            // No OPEN was sent on a tracked one, so no NOTIFICATION either.
            let speaks = self
                .connection(direction)
                .is_some_and(|c| c.phase > Phase::Tracked);
            let graceful = self.agreed_notification_gr(direction);
            let said = notification.clone().filter(|_| speaks);
            let sent = said.map(|n| if graceful { errors::hardened(n) } else { n });
            let reason = match &sent {
                Some(notification) => format!("stopped: sent {}", errors::describe(notification)),
                None => "stopped".to_owned(),
            };
            let ending = Ending {
                reason,
                retain: sent.as_ref().is_none_or(|n| graceful && !n.is_hard_reset()),
                sent,
                received: None,
                close: true,
                held_back: false,
            };
            self.end(now, direction, ending);
        }
    }

    /// Whether a new connection of this direction is worth handing over; if not, the driver closes it.
    ///
    /// An incoming one is refused while stopped or held back in Idle, and beside an Established incoming one unless
    /// the peer told of Graceful Restart: then it has restarted (RFC 4724 §5).
    #[must_use]
    pub fn admits(&self, direction: Direction) -> bool {
        match direction {
            Direction::Outgoing => matches!(self.dial, Dial::Dialling(_)),
            Direction::Incoming => {
                let accepts = matches!(self.dial, Dial::Waiting(_) | Dial::Dialling(_));
                let keeps = self
                    .incoming
                    .as_ref()
                    .is_some_and(|c| c.phase == Phase::Established && !announces_restarts(c));
                accepts && !keeps
            }
        }
    }

    /// TCP is up (events 16 and 17). It is refused by `Output::Close` where there is no use for it.
    pub fn handle_connected(&mut self, now: Instant, direction: Direction) {
        match direction {
            Direction::Outgoing => self.dialled(now),
            Direction::Incoming => self.accepted(now),
        }
    }

    /// The dial failed (event 18). Ignored if none is under way.
    pub fn handle_connect_failed(&mut self, now: Instant) {
        if matches!(self.dial, Dial::Dialling(_)) {
            let alone = !self.is_connected();
            self.dial = Dial::Waiting(alone.then(|| self.retry_at(now)));
            if alone {
                self.last_down = Some("could not connect".to_owned());
            }
        }
    }

    /// TCP was closed by the peer or broke (event 18). Ignored for a connection that is closed already.
    pub fn handle_disconnected(&mut self, now: Instant, direction: Direction, reason: &str) {
        let ending = Ending {
            reason: format!("connection lost: {reason}"),
            sent: None,
            received: None,
            close: false,
            held_back: false,
            retain: true,
        };
        self.end(now, direction, ending);
    }

    /// Does what is due at `now`. Bytes that have arrived must have been delivered before.
    pub fn handle_timeout(&mut self, now: Instant) {
        for direction in Direction::BOTH {
            self.connection_timers(now, direction);
        }
        match self.dial {
            Dial::HeldBack(at) | Dial::Waiting(Some(at)) if at <= now => self.begin(now),
            Dial::Dialling(at) if at <= now => {
                self.outputs.push_back(Output::Close(Direction::Outgoing));
                if self.is_connected() {
                    self.dial = Dial::Waiting(None);
                } else {
                    self.last_down = Some("could not connect in time".to_owned());
                    self.begin(now);
                }
            }
            _ => {}
        }
    }

    /// When `handle_timeout` is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::HeldBack(at) | Dial::Waiting(Some(at)) | Dial::Dialling(at) => Some(at),
            Dial::Stopped | Dial::Waiting(None) => None,
        };
        let connections = self.outgoing.iter().chain(&self.incoming);
        connections.flat_map(Connection::timers).chain(dial).min()
    }

    /// The next thing to do; called until there is none after every `handle_*`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The state of RFC 4271 §8.2.2; of two connections the one further on counts.
    #[must_use]
    pub fn state(&self) -> State {
        // RFC 4271 §8.2.2: until a delayed OPEN is sent it is still Connect or Active.
        let all = self.outgoing.iter().chain(&self.incoming);
        let phases = all.filter(|c| c.open_at.is_none()).map(|c| c.phase);
        match phases.max() {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent | Phase::Tracked) => State::OpenSent,
            None => match self.dial {
                Dial::Stopped | Dial::HeldBack(_) => State::Idle,
                Dial::Waiting(_) if self.outgoing.is_some() => State::Connect,
                Dial::Waiting(_) => State::Active,
                Dial::Dialling(_) => State::Connect,
            },
        }
    }

    /// What the OPENs agreed on, while Established.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        let mut connections = self.outgoing.iter().chain(&self.incoming);
        connections
            .find(|c| c.phase == Phase::Established)?
            .negotiated
            .as_ref()
    }

    /// Why the last connection or try ended; a text for people, with the NOTIFICATION if there was one.
    #[must_use]
    pub fn last_down(&self) -> Option<&str> {
        self.last_down.as_deref()
    }

    /// Changes the Graceful Restart capability of the next OPEN.
    pub fn set_graceful_restart(&mut self, graceful_restart: Option<GracefulRestart>) {
        self.config.graceful_restart = graceful_restart;
    }

    /// Changes the Long-Lived Graceful Restart capability of the next OPEN (RFC 9494).
    pub fn set_long_lived(&mut self, families: Vec<LongLivedFamily>) {
        self.config.long_lived = families;
    }

    /// Sets or clears the R bit of the next OPEN (RFC 4724 §3); nothing if the capability is not sent.
    pub fn set_restarting(&mut self, restarting: bool) {
        if let Some(graceful_restart) = &mut self.config.graceful_restart {
            graceful_restart.restarting = restarting;
        }
    }

    /// Asks the peer to send all routes of a family again (RFC 2918); false where that was not agreed on.
    pub fn request_refresh(&mut self, _now: Instant, family: Family) -> bool {
        let Some(negotiated) = self.negotiated() else {
            return false;
        };
        let direction = negotiated.direction;
        let agreed = negotiated.route_refresh && negotiated.context.families.contains(&family);
        if agreed {
            let kind = RefreshKind::Request;
            self.send(
                direction,
                &Message::RouteRefresh(RouteRefresh { family, kind }),
            );
        }
        agreed
    }

    pub(super) fn connection(&self, direction: Direction) -> Option<&Connection> {
        match direction {
            Direction::Outgoing => self.outgoing.as_ref(),
            Direction::Incoming => self.incoming.as_ref(),
        }
    }

    pub(super) fn connection_mut(&mut self, direction: Direction) -> Option<&mut Connection> {
        self.slot(direction).as_mut()
    }

    /// Writes `message` on a connection, if there is one.
    pub(super) fn send(&mut self, direction: Direction, message: &Message) {
        if let Some(connection) = self.connection(direction) {
            let bytes = connection.encode(message);
            self.outputs.push_back(Output::Send(direction, bytes));
        }
    }

    /// Sends a KEEPALIVE and starts the keepalive timer, with jitter (RFC 4271 §10).
    pub(super) fn send_keepalive(&mut self, now: Instant, direction: Direction) {
        self.send(direction, &Message::Keepalive);
        let keepalive_time = self.connection(direction).map(Connection::keepalive_time);
        let wait = self.jitter.apply(keepalive_time.unwrap_or_default());
        if let Some(connection) = self.connection_mut(direction) {
            connection.keepalive_sent = true;
            connection.keepalive_at = (!wait.is_zero()).then(|| now + wait);
        }
    }

    /// Sends `notification` and closes the connection.
    pub(super) fn fail(&mut self, now: Instant, direction: Direction, notification: Notification) {
        let ending = Ending {
            reason: format!("sent {}", errors::describe(&notification)),
            held_back: true,
            retain: self.agreed_notification_gr(direction) && !notification.is_hard_reset(),
            sent: Some(notification),
            received: None,
            close: true,
        };
        self.end(now, direction, ending);
    }

    /// The end of a connection, in every case; then the other goes on, or a new one is tried.
    pub(super) fn end(&mut self, now: Instant, direction: Direction, ending: Ending) {
        if ending.close {
            if let Some(notification) = &ending.sent {
                self.send(direction, &Message::Notification(notification.clone()));
            }
            if self.connection(direction).is_some() {
                self.outputs.push_back(Output::Close(direction));
            }
        }
        let Some(connection) = self.slot(direction).take() else {
            return;
        };
        let Ending {
            reason,
            sent,
            received,
            held_back,
            retain,
            ..
        } = ending;
        let was_established = connection.phase == Phase::Established;
        if was_established || !self.is_connected() {
            self.last_down = Some(reason.clone());
        }
        if was_established {
            let down = Down {
                reason,
                notification_sent: sent,
                notification_received: received,
                retain,
            };
            self.outputs.push_back(Output::Down(down));
        }
        if self.dial == Dial::Stopped {
            return;
        }
        if self.is_connected() {
            self.carry_on(now, direction.other());
        } else {
            self.try_again(now, &connection, held_back);
        }
    }

    /// The last connection is gone: when is the next one tried?
    fn try_again(&mut self, now: Instant, ended: &Connection, held_back: bool) {
        let dialling = matches!(self.dial, Dial::Dialling(_));
        if !held_back && dialling {
            return;
        }
        let wait = if held_back || ended.phase > Phase::OpenSent {
            self.backoff.failed(ended.established_for(now))
        } else {
            self.config.connect_retry_time
        };
        let at = now + self.jitter.apply(wait);
        if held_back {
            if dialling {
                self.outputs.push_back(Output::Close(Direction::Outgoing));
            }
            self.dial = Dial::HeldBack(at);
        } else {
            self.dial = Dial::Waiting((!self.config.passive).then_some(at));
        }
    }

    /// The connection beside this one is gone: do what was put off for its sake.
    fn carry_on(&mut self, now: Instant, direction: Direction) {
        let Some(connection) = self.connection_mut(direction) else {
            return;
        };
        match connection.phase {
            Phase::Tracked => {
                connection.came_later = false;
                self.open_or_delay(now, direction);
            }
            Phase::OpenConfirm if !connection.keepalive_sent => self.confirm(now, direction),
            _ => {}
        }
    }

    /// Sends the OPEN of a new connection, or starts its DelayOpenTimer.
    fn open_or_delay(&mut self, now: Instant, direction: Direction) {
        let delay = self.config.delay_open.filter(|delay| !delay.is_zero());
        match (delay, self.connection_mut(direction)) {
            (Some(delay), Some(connection)) => connection.open_at = Some(now + delay),
            _ => self.send_open(now, direction),
        }
    }

    /// Sends the OPEN of a connection; it is in OpenSent from here on.
    pub(super) fn send_open(&mut self, now: Instant, direction: Direction) {
        if let Some(connection) = self.connection_mut(direction) {
            connection.phase = Phase::OpenSent;
            connection.open_at = None;
            connection.heard(now);
            let open = Message::Open(connection.open.clone());
            self.send(direction, &open);
        }
    }

    /// Dials, or waits for the peer to.
    fn begin(&mut self, now: Instant) {
        if self.config.passive {
            self.dial = Dial::Waiting(None);
        } else {
            self.outputs.push_back(Output::Connect);
            self.dial = Dial::Dialling(self.retry_at(now));
        }
    }

    fn dialled(&mut self, now: Instant) {
        if !matches!(self.dial, Dial::Dialling(_)) {
            // A dial that was ended meanwhile. Where one of its results is in use this is no news of it.
            if self.outgoing.is_none() {
                self.outputs.push_back(Output::Close(Direction::Outgoing));
            }
            return;
        }
        self.dial = Dial::Waiting(None);
        if self.incoming.as_ref().is_some_and(|c| c.keepalive_sent) {
            // The peer may count on the incoming one already; it never saw an OPEN on this one.
            self.outputs.push_back(Output::Close(Direction::Outgoing));
        } else {
            self.open_connection(now, Direction::Outgoing);
        }
    }

    fn accepted(&mut self, now: Instant) {
        if matches!(self.dial, Dial::Stopped | Dial::HeldBack(_)) {
            self.outputs.push_back(Output::Close(Direction::Incoming));
            return;
        }
        if let Dial::Waiting(retry_at) = &mut self.dial {
            *retry_at = None;
        }
        if let Some(former) = self.incoming.take()
            && former.phase == Phase::Established
        {
            let reason = "the peer connected anew".to_owned();
            self.last_down = Some(reason.clone());
            let down = Down {
                reason,
                notification_sent: None,
                notification_received: None,
                retain: true,
            };
            self.outputs.push_back(Output::Down(down));
        }
        self.open_connection(now, Direction::Incoming);
    }

    fn open_connection(&mut self, now: Instant, direction: Direction) {
        let open = open::build(&self.config, self.plain);
        let beside = self.connection(direction.other()).map(|c| c.phase);
        *self.slot(direction) = Some(Connection::new(now, open, Phase::Tracked));
        if beside != Some(Phase::Established) {
            self.carry_on(now, direction);
        }
    }

    fn connection_timers(&mut self, now: Instant, direction: Direction) {
        let Some(connection) = self.connection(direction) else {
            return;
        };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (keepalive_due, open_due) = (due(connection.keepalive_at), due(connection.open_at));
        match connection.bfd {
            BfdHold::On(until) if due(until) => return self.bfd_hold_expired(now, direction),
            _ => {}
        }
        if due(connection.send_hold_at) {
            self.send_hold_expired(now, direction);
        } else if due(connection.hold_at) {
            self.hold_timer_expired(now, direction);
        } else if open_due {
            self.send_open(now, direction);
        } else if keepalive_due && connection.keepalive_sent {
            self.send_keepalive(now, direction);
        } else if keepalive_due {
            self.confirm(now, direction);
        }
    }

    fn hold_timer_expired(&mut self, now: Instant, direction: Direction) {
        if self
            .connection(direction)
            .is_some_and(|c| c.phase == Phase::Tracked)
        {
            self.drop_unspoken(now, direction, "no OPEN came");
        } else {
            self.fail(now, direction, Notification::hold_timer_expired());
        }
    }

    /// Closes a connection on which we said nothing yet.
    pub(super) fn drop_unspoken(&mut self, now: Instant, direction: Direction, reason: &str) {
        let ending = Ending {
            reason: reason.to_owned(),
            sent: None,
            received: None,
            close: true,
            held_back: false,
            retain: true,
        };
        self.end(now, direction, ending);
    }

    /// Both sides set the N bit (RFC 8538).
    pub(super) fn agreed_notification_gr(&self, direction: Direction) -> bool {
        let connection = self.connection(direction);
        connection
            .and_then(|c| c.negotiated.as_ref())
            .is_some_and(|n| n.notification_gr)
    }

    fn retry_at(&mut self, now: Instant) -> Instant {
        now + self.jitter.apply(self.config.connect_retry_time)
    }

    fn is_connected(&self) -> bool {
        self.outgoing.is_some() || self.incoming.is_some()
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }
}

/// The peer told on this connection that it restarts gracefully, so that a new OPEN means it did (RFC 4724 §5).
pub(super) fn announces_restarts(connection: &Connection) -> bool {
    connection
        .negotiated
        .as_ref()
        .is_some_and(|n| n.peer_graceful_restart.is_some())
}
