//! The reception of a BFD Control packet by its session (RFC 5880 §6.8.6).

use std::time::Instant;

use super::output::BfdOutput;
use super::packet::{Diagnostic, Packet, SessionState};
use super::session::{BfdSession, Poll};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It counts as a sign of life.
    Accepted,
    /// It was meant for another session.
    WrongDiscriminator,
    /// The session is not started or is AdminDown.
    SessionDisabled,
}

impl BfdSession {
    /// Takes a packet that [`Packet::decode`] gave.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet) -> Received {
        let yours = packet.your_discriminator;
        if yours != 0 && yours != self.local_discriminator {
            return Received::WrongDiscriminator;
        }
        let known = self.remote.discriminator;
        let begun_anew =
            known != 0 && known != packet.my_discriminator && packet.diagnostic == Diagnostic::None;
        self.learn(packet);
        if packet.final_bit && self.poll == Poll::Sent {
            self.end_poll();
        }
        if self.disabled() {
            self.schedule(now);
            return Received::SessionDisabled;
        }
        self.received_at = Some(now);
        let before = self.state;
        self.step(packet.state, begun_anew);
        if packet.poll {
            self.send_final();
        } else if self.state != before {
            self.send_change(now);
        }
        self.schedule(now);
        Received::Accepted
    }

    fn learn(&mut self, packet: &Packet) {
        self.remote.discriminator = packet.my_discriminator;
        self.remote.state = packet.state;
        self.remote.diagnostic = packet.diagnostic;
        self.remote.demand = packet.demand;
        self.remote.control_plane_independent = packet.control_plane_independent;
        self.remote.desired_min_tx = packet.desired_min_tx;
        self.remote.required_min_rx = packet.required_min_rx;
        self.remote.detect_multiplier = packet.detect_multiplier;
    }

    /// The state machine of RFC 5880 §6.2 by the state received.
    fn step(&mut self, received: SessionState, begun_anew: bool) {
        use SessionState::{AdminDown, Down, Init, Up};
        match (self.state, received) {
            (Init | Up, AdminDown) | (Up, Down) => {
                self.neighbor_signaled_down(received, begun_anew);
            }
            (Down, Down) => {
                self.state = Init;
                self.diagnostic = Diagnostic::None;
            }
            (Down, Init) | (Init, Init | Up) => self.enter_up(),
            (Down, AdminDown | Up) | (Init, Down) | (Up, Init | Up) | (AdminDown, _) => {}
        }
    }

    fn neighbor_signaled_down(&mut self, received: SessionState, begun_anew: bool) {
        let was = self.state;
        let diagnostic = Diagnostic::NeighborSignaledSessionDown;
        self.leave(SessionState::Down, diagnostic);
        if was == SessionState::Up {
            self.outputs.push_back(BfdOutput::Down {
                diagnostic,
                remote_admin_down: received == SessionState::AdminDown,
                begun_anew,
            });
        }
    }
}
