//! What must hold of BFD's packet and session for any bytes; run by libFuzzer, and on stable over the committed corpus.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use bgp_proto::bfd::{
    BfdConfig, BfdOutput, BfdSession, Diagnostic, Packet, PacketError, Received, SessionState,
};

use crate::bgp_input::Input;

const LOCAL: u32 = 0x1234;

/// Decodes the bytes as one packet, then lets them steer a session. Panics when something does not hold.
pub fn check(data: &[u8]) {
    check_packet(data);
    let mut input = Input::new(data);
    let mut driver = Driver::new(&mut input);
    while !input.is_empty() {
        driver.step(&mut input);
    }
}

/// What is decoded is written as it came: RFC 5880 §4.1 leaves nothing to choose but the length and what follows it.
fn check_packet(data: &[u8]) {
    let packet = match Packet::decode(data) {
        Ok(packet) => packet,
        Err(error) => {
            assert_eq!(error == PacketError::Truncated, data.len() < Packet::LENGTH);
            return;
        }
    };
    let octets = packet.encode();
    assert_eq!(octets[..3], data[..3], "{packet:?}");
    assert_eq!(octets[4..], data[4..Packet::LENGTH], "{packet:?}");
    assert_eq!(Packet::decode(&octets), Ok(packet));
}

struct Driver {
    session: BfdSession,
    now: Instant,
    started: bool,
    up: bool,
}

fn config(input: &mut Input<'_>) -> BfdConfig {
    BfdConfig {
        desired_min_tx: Duration::from_millis(u64::from(input.u8()) * 4),
        required_min_rx: Duration::from_millis(u64::from(input.u8()) * 4),
        detect_multiplier: NonZeroU8::new(input.u8() % 8).unwrap_or(NonZeroU8::MIN),
        control_plane_independent: input.bool(),
        passive: input.bool(),
    }
}

fn packet(input: &mut Input<'_>) -> Packet {
    use SessionState::{AdminDown, Down, Init, Up};
    let bits = input.u8();
    let bit = |bit: u8| bits & 1 << bit != 0;
    let mut interval = || Duration::from_micros(u64::from(input.u16()) * 50);
    Packet {
        desired_min_tx: interval(),
        required_min_rx: interval(),
        required_min_echo_rx: Duration::ZERO,
        diagnostic: Diagnostic::of_code(bits >> 3),
        state: [Down, Init, Up, Up, AdminDown][usize::from(input.u8() % 5)],
        poll: bit(0),
        final_bit: bit(1),
        control_plane_independent: bit(2),
        demand: bit(3),
        detect_multiplier: 1 + input.u8() % 5,
        my_discriminator: 1 + u32::from(input.u8() % 3),
        your_discriminator: [LOCAL, LOCAL, LOCAL, 0, 9][usize::from(input.u8() % 5)],
    }
}

impl Driver {
    #[allow(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn new(input: &mut Input<'_>) -> Self {
        let config = config(input);
        Self {
            session: BfdSession::new(config, LOCAL, u64::from(input.u8())),
            now: Instant::now(),
            started: false,
            up: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 10 {
            0 => {
                self.started = true;
                self.session.handle_start(self.now);
            }
            1 => {
                // Its caller knows: there is no Down.
                self.session.handle_admin_down(self.now);
                self.up &= !self.started;
            }
            2 => self.session.handle_config(self.now, config(input)),
            3..=5 => {
                let packet = packet(input);
                let received = self.session.handle_packet(self.now, &packet);
                let ours = [0, LOCAL].contains(&packet.your_discriminator);
                assert_eq!(ours, received != Received::WrongDiscriminator);
            }
            6 => {
                // As it came over the wire, if it is one.
                let octets: Vec<u8> = input.bytes(Packet::LENGTH).to_vec();
                if let Ok(packet) = Packet::decode(&octets) {
                    self.session.handle_packet(self.now, &packet);
                }
            }
            7 => return self.advance(Duration::from_millis(u64::from(input.u8()))),
            _ => {
                let next = self.session.poll_timeout();
                let wait = next.map(|at| at.saturating_duration_since(self.now));
                return self.advance(wait.unwrap_or_default());
            }
        }
        self.drain();
    }

    /// Time passes for a quarter of a second at most, so that microsecond intervals end as well.
    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..1_000 {
            match self.session.poll_timeout().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.now = until;
                    return;
                }
            }
            self.session.handle_timeout(self.now);
            self.drain();
            let next = self.session.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now), "a timer stays due");
        }
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.session.poll_output() {
            count += 1;
            assert!(count <= 4, "no end of outputs: {output:?}");
            match output {
                BfdOutput::Send(packet) => {
                    assert!(self.started, "sent before the start");
                    assert!(!(packet.poll && packet.final_bit), "RFC 5880 §6.5");
                    assert_eq!(packet.my_discriminator, LOCAL);
                    check_packet(&packet.encode());
                }
                BfdOutput::Up => assert!(!std::mem::replace(&mut self.up, true), "Up twice"),
                BfdOutput::Down { .. } => {
                    assert!(std::mem::replace(&mut self.up, false), "Down without Up");
                }
            }
        }
        let state = self.session.status().state;
        assert_eq!(state == SessionState::Up, self.up, "{state:?}");
    }
}
