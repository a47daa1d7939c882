//! One BFD session in asynchronous mode: its states, timers and Poll Sequences (RFC 5880 §6.2, §6.5, §6.8).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::BfdConfig;
use super::output::{BfdOutput, BfdStatus};
use super::packet::{Diagnostic, Packet, SessionState};
use crate::session::jitter::Jitter;

/// The least `bfd.DesiredMinTxInterval` while not Up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// One session with one peer.
#[derive(Debug)]
pub struct BfdSession {
    /// What is advertised; while a Poll Sequence runs, not yet all in force.
    config: BfdConfig,
    /// What was asked for during a Poll Sequence, to be advertised after it.
    queued: Option<BfdConfig>,
    /// The `DesiredMinTxInterval` in force while Up.
    desired_min_tx: Duration,
    /// The `RequiredMinRxInterval` in force.
    required_min_rx: Duration,
    pub(super) poll: Poll,
    pub(super) state: SessionState,
    pub(super) diagnostic: Diagnostic,
    pub(super) local_discriminator: u32,
    pub(super) remote: Remote,
    pub(super) received_at: Option<Instant>,
    started: bool,
    sent_at: Option<Instant>,
    /// The interval that `next_send` was reckoned from.
    interval: Option<Duration>,
    next_send: Option<Instant>,
    jitter: Jitter,
    pub(super) outputs: VecDeque<BfdOutput>,
}

/// A Poll Sequence of ours (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poll {
    Idle,
    /// Under way, but no packet had P yet: an F that comes now answers an older one.
    Wanted,
    Sent,
}

/// What the peer has told.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) state: SessionState,
    pub(super) diagnostic: Diagnostic,
    pub(super) discriminator: u32,
    pub(super) desired_min_tx: Duration,
    pub(super) required_min_rx: Duration,
    pub(super) detect_multiplier: u8,
    pub(super) demand: bool,
    pub(super) control_plane_independent: bool,
}

impl Remote {
    /// A peer nothing is known of (RFC 5880 §6.8.1).
    pub(super) fn unknown() -> Self {
        Self {
            state: SessionState::Down,
            diagnostic: Diagnostic::None,
            discriminator: 0,
            desired_min_tx: Duration::ZERO,
            required_min_rx: Duration::from_micros(1),
            detect_multiplier: 0,
            demand: false,
            control_plane_independent: false,
        }
    }
}

impl BfdSession {
    /// A session that is Down and silent until [`Self::handle_start`]. `local_discriminator` is not zero; `seed`
    /// decides its jitter.
    #[must_use]
    pub fn new(config: BfdConfig, local_discriminator: u32, seed: u64) -> Self {
        let config = config.fitting();
        Self {
            desired_min_tx: config.desired_min_tx,
            required_min_rx: config.required_min_rx,
            config,
            queued: None,
            poll: Poll::Idle,
            state: SessionState::Down,
            diagnostic: Diagnostic::None,
            local_discriminator,
            remote: Remote::unknown(),
            received_at: None,
            started: false,
            sent_at: None,
            interval: None,
            next_send: None,
            jitter: Jitter::new(seed),
            outputs: VecDeque::new(),
        }
    }

    /// Starts the session, or enables it again after [`Self::handle_admin_down`] (RFC 5880 §6.8.16).
    pub fn handle_start(&mut self, now: Instant) {
        if self.started && self.state != SessionState::AdminDown {
            return;
        }
        self.started = true;
        self.state = SessionState::Down;
        self.diagnostic = Diagnostic::None;
        self.send_change(now);
    }

    /// Holds the session down and tells the peer so, at once and then each second, for as long as the driver keeps
    /// the session; it should for a Detection Time (RFC 5880 §6.8.16).
    pub fn handle_admin_down(&mut self, now: Instant) {
        if !self.started || self.state == SessionState::AdminDown {
            return;
        }
        self.leave(SessionState::AdminDown, Diagnostic::AdministrativelyDown);
        self.send_change(now);
    }

    /// Takes a new configuration. Changed intervals are told to an Up peer by a Poll Sequence and take effect as RFC
    /// 5880 §6.8.3 says; one that comes while another is being told waits for that one's end.
    pub fn handle_config(&mut self, now: Instant, config: BfdConfig) {
        let config = config.fitting();
        if self.poll == Poll::Sent {
            self.queued = Some(config);
        } else {
            self.advertise(config);
        }
        self.schedule(now);
    }

    /// Sends what is due, and finds the peer gone when it was silent for too long (RFC 5880 §6.8.4).
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detection_deadline().is_some_and(|at| at <= now) {
            self.detection_time_expired(now);
        }
        if self.next_send.is_some_and(|at| at <= now) {
            self.send_periodic(now);
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_send, self.detection_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the driver has to do next; None until the next `handle_*`.
    pub fn poll_output(&mut self) -> Option<BfdOutput> {
        self.outputs.pop_front()
    }

    /// The session as it is now.
    #[must_use]
    pub fn status(&self) -> BfdStatus {
        BfdStatus {
            state: self.state,
            diagnostic: self.diagnostic,
            remote_state: self.remote.state,
            remote_diagnostic: self.remote.diagnostic,
            local_discriminator: self.local_discriminator,
            remote_discriminator: self.remote.discriminator,
            transmit_interval: self.transmit_interval(),
            detection_time: self.detection_time(),
            polling: self.poll != Poll::Idle,
            control_plane_independent: self.config.control_plane_independent
                && self.remote.control_plane_independent,
        }
    }

    /// Whether packets are discarded (RFC 5880 §6.8.6).
    pub(super) fn disabled(&self) -> bool {
        !self.started || self.state == SessionState::AdminDown
    }

    /// Comes Up. The interval that had been slow is told anew by a Poll Sequence (RFC 5880 §6.8.3).
    pub(super) fn enter_up(&mut self) {
        self.state = SessionState::Up;
        self.diagnostic = Diagnostic::None;
        self.put_in_force();
        self.poll = Poll::Wanted;
        self.outputs.push_back(BfdOutput::Up);
    }

    /// Goes to a state other than Up. What waited for a Poll Sequence's end no longer has to.
    pub(super) fn leave(&mut self, state: SessionState, diagnostic: Diagnostic) {
        self.state = state;
        self.diagnostic = diagnostic;
        self.poll = Poll::Idle;
        if let Some(config) = self.queued.take() {
            self.config = config;
        }
        self.put_in_force();
    }

    /// Puts into force what a Poll Sequence has told, and starts the next if one waits.
    pub(super) fn end_poll(&mut self) {
        self.poll = Poll::Idle;
        self.put_in_force();
        if let Some(config) = self.queued.take() {
            self.advertise(config);
        }
    }

    fn put_in_force(&mut self) {
        self.desired_min_tx = self.config.desired_min_tx;
        self.required_min_rx = self.config.required_min_rx;
    }

    /// Advertises a configuration. While Up, a longer interval of ours or a shorter one of the peer's comes into force
    /// only with the end of the Poll Sequence: until then the peer may reckon with the former (RFC 5880 §6.8.3).
    fn advertise(&mut self, config: BfdConfig) {
        let polls = self.state == SessionState::Up && !self.config.same_intervals(&config);
        self.config = config;
        if polls {
            self.poll = Poll::Wanted;
            self.desired_min_tx = self.desired_min_tx.min(self.config.desired_min_tx);
            self.required_min_rx = self.required_min_rx.max(self.config.required_min_rx);
        } else if self.state != SessionState::Up {
            self.put_in_force();
        }
    }

    /// RFC 5880 §6.8.4; a peer that is silent is also forgotten (`bfd.RemoteDiscr`, §6.8.1).
    fn detection_time_expired(&mut self, now: Instant) {
        let was = self.state;
        let control_plane_independent = self.remote.control_plane_independent;
        self.remote = Remote {
            control_plane_independent,
            ..Remote::unknown()
        };
        self.received_at = None;
        if matches!(was, SessionState::Init | SessionState::Up) {
            let diagnostic = Diagnostic::ControlDetectionTimeExpired;
            self.leave(SessionState::Down, diagnostic);
            if was == SessionState::Up {
                self.outputs.push_back(BfdOutput::Down {
                    diagnostic,
                    remote_admin_down: false,
                    begun_anew: false,
                });
            }
            self.send_change(now);
        } else {
            self.schedule(now);
        }
    }

    /// The time the peer may be silent: its multiplier times the interval agreed on for its packets.
    fn detection_time(&self) -> Option<Duration> {
        self.received_at?;
        let interval = self.required_min_rx.max(self.remote.desired_min_tx);
        Some(interval * u32::from(self.remote.detect_multiplier))
    }

    fn detection_deadline(&self) -> Option<Instant> {
        Some(self.received_at? + self.detection_time()?)
    }

    /// The interval between our packets before jitter (RFC 5880 §6.8.2); None when none may be sent (§6.8.7).
    fn transmit_interval(&self) -> Option<Duration> {
        let unheard_of = self.config.passive && self.remote.discriminator == 0;
        let demand = self.remote.demand
            && self.state == SessionState::Up
            && self.remote.state == SessionState::Up
            && self.poll == Poll::Idle;
        let unwanted = self.remote.required_min_rx.is_zero();
        if !self.started || unheard_of || demand || unwanted {
            return None;
        }
        let ours = match self.state {
            SessionState::Up => self.desired_min_tx,
            _ => self.desired_min_tx.max(SLOW),
        };
        Some(ours.max(self.remote.required_min_rx))
    }

    /// Reckons the time of the next packet anew if the interval is another: a shorter one counts from the last packet
    /// sent, not from the next (RFC 5880 §6.8.3).
    pub(super) fn schedule(&mut self, now: Instant) {
        let interval = self.transmit_interval();
        if interval == self.interval && self.next_send.is_some() == interval.is_some() {
            return;
        }
        self.interval = interval;
        self.next_send = interval.map(|interval| match self.sent_at {
            Some(sent_at) => sent_at + self.jittered(interval),
            None => now,
        });
    }

    /// Tells a change of state before the next periodic packet is due (RFC 5880 §6.8.7).
    pub(super) fn send_change(&mut self, now: Instant) {
        self.interval = self.transmit_interval();
        if self.interval.is_some() {
            self.send_periodic(now);
        } else {
            self.next_send = None;
        }
    }

    /// Answers a packet with P, whatever the timers say (RFC 5880 §6.8.7).
    pub(super) fn send_final(&mut self) {
        let packet = Packet {
            poll: false,
            final_bit: true,
            ..self.packet()
        };
        self.outputs.push_back(BfdOutput::Send(packet));
    }

    fn send_periodic(&mut self, now: Instant) {
        let packet = self.packet();
        if packet.poll {
            self.poll = Poll::Sent;
        }
        self.outputs.push_back(BfdOutput::Send(packet));
        self.sent_at = Some(now);
        self.interval = self.transmit_interval();
        self.next_send = self.interval.map(|interval| now + self.jittered(interval));
    }

    fn packet(&self) -> Packet {
        let desired_min_tx = match self.state {
            SessionState::Up => self.config.desired_min_tx,
            _ => self.config.desired_min_tx.max(SLOW),
        };
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.poll != Poll::Idle,
            final_bit: false,
            control_plane_independent: self.config.control_plane_independent,
            demand: false,
            detect_multiplier: self.config.detect_multiplier.get(),
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx,
            required_min_rx: self.config.required_min_rx,
            required_min_echo_rx: Duration::ZERO,
        }
    }

    /// 75 to 100 % of the interval, 75 to 90 % when one lost packet is too many (RFC 5880 §6.8.7).
    fn jittered(&mut self, interval: Duration) -> Duration {
        let drawn = self.jitter.apply(interval);
        if self.config.detect_multiplier.get() > 1 {
            return drawn;
        }
        let least = interval / 4 * 3;
        least + drawn.saturating_sub(least) / 5 * 3
    }
}
