//! What must hold of a session whatever its driver tells it; run by libFuzzer, and on stable over the committed corpus.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bgp_proto::session::{
    AddPathOffer, Direction, Output, PeerAs, PeerSession, SessionConfig, State, Stop,
};
use bgp_proto::wire::{
    Asn, Family, GracefulRestart, LongLivedFamily, Message, Notification, Role, WireContext,
};

use crate::bgp_input::Input;
use crate::bgp_messages::{encoded, message, mirrored, open};

const OURS: Asn = Asn(65_000);
const DIRECTIONS: [Direction; 2] = [Direction::Outgoing, Direction::Incoming];
/// What one call may ask for beside one thing for each message it brought.
const FEW: usize = 12;

/// Tells a session what the bytes say. Panics when something does not hold.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driver = Driver::new(&mut input);
    while !input.is_empty() {
        driver.step(&mut input);
    }
    driver.stop(Stop::Silent);
    assert!(driver.open == [false; 2] && driver.established.is_none());
    assert_eq!(
        driver.session.poll_timeout(),
        None,
        "a stopped session waits"
    );
}

/// A driver that keeps to its duties, and the books it checks the session by.
struct Driver {
    session: PeerSession,
    peer: Asn,
    now: Instant,
    /// A dial that was asked for and not answered.
    dialling: bool,
    open: [bool; 2],
    established: Option<Direction>,
}

fn place(direction: Direction) -> usize {
    usize::from(direction == Direction::Incoming)
}

fn config(input: &mut Input<'_>) -> (SessionConfig, Asn) {
    let is = input.u16();
    let bit = |bit: u16| is & 1 << bit != 0;
    let peer = if bit(0) { OURS } else { Asn(4_200_000_000) };
    let families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let of = |wanted: bool| if wanted { families.clone() } else { Vec::new() };
    let config = SessionConfig {
        hold_time: Duration::from_secs(u64::from(input.u8())),
        passive: bit(1),
        delay_open: bit(2).then_some(Duration::from_secs(3)),
        send_hold_time: bit(3).then_some(Duration::from_secs(u64::from(input.u8()))),
        graceful_restart: bit(4).then(|| GracefulRestart {
            restarting: bit(5),
            notification: bit(6),
            restart_time: 120,
            families: families.iter().map(|family| (*family, true)).collect(),
        }),
        long_lived: of(bit(7))
            .into_iter()
            .map(|family| LongLivedFamily {
                family,
                forwarding: true,
                stale_time: 60,
            })
            .collect(),
        add_path: AddPathOffer {
            receive: of(bit(8)),
            send: of(bit(9)),
        },
        extended_next_hop: bit(10),
        role: bit(11).then_some(Role::Provider),
        strict_role: bit(12),
        strict_bfd: bit(13),
        families: families.clone(),
        ..SessionConfig::new(OURS, Ipv4Addr::new(10, 0, 0, 2), PeerAs::Number(peer))
    };
    (config, peer)
}

impl Driver {
    #[allow(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn new(input: &mut Input<'_>) -> Self {
        let (config, peer) = config(input);
        let mut driver = Self {
            session: PeerSession::new(config, u64::from(input.u8())),
            peer,
            now: Instant::now(),
            dialling: false,
            open: [false; 2],
            established: None,
        };
        driver.session.handle_start(driver.now);
        driver.drain(0);
        driver
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (now, direction) = (self.now, DIRECTIONS[usize::from(input.u8() & 1)]);
        match input.u8() % 20 {
            0 => self.session.handle_start(now),
            1 => return self.stop(stop(input)),
            2 | 3 => return self.connect(direction),
            4 => {
                self.dialling = false;
                self.session.handle_connect_failed(now);
            }
            5 => {
                self.open[place(direction)] = false;
                self.session.handle_disconnected(now, direction, "lost");
            }
            6..=9 => {
                let context = self.context();
                let bytes = message(input, self.peer, &context);
                return self.bytes(direction, &bytes);
            }
            10..=12 => {
                // Up at once: what most of a session's life follows from.
                self.connect(direction);
                let hello = open(input, self.peer);
                self.bytes(direction, &encoded(&hello));
                return self.bytes(direction, &encoded(&Message::Keepalive));
            }
            13 => return self.advance(input.time()),
            14 | 15 => {
                let wait = self.session.poll_timeout();
                let wait = wait.map(|at| at.saturating_duration_since(self.now));
                return self.advance(wait.unwrap_or_default());
            }
            16 => self.session.handle_bfd(now, input.bool()),
            17 if self.open[place(direction)] && input.bool() => {
                self.session.handle_write_blocked(now, direction);
            }
            17 => self.session.handle_write_progress(now, direction),
            18 => {
                let asked = self.session.request_refresh(now, Family::IPV6_UNICAST);
                assert!(!asked || self.established.is_some());
            }
            _ => {
                self.session.set_restarting(input.bool());
                self.session.set_long_lived(Vec::new());
            }
        }
        self.drain(0);
    }

    fn context(&self) -> WireContext {
        let negotiated = self.session.negotiated();
        negotiated.map_or_else(WireContext::default, |n| mirrored(&n.context))
    }

    fn connect(&mut self, direction: Direction) {
        match direction {
            Direction::Outgoing if !std::mem::take(&mut self.dialling) => return,
            Direction::Incoming if !self.session.admits(direction) => return,
            _ => self.open[place(direction)] = true,
        }
        self.session.handle_connected(self.now, direction);
        self.drain(0);
    }

    /// Bytes come in two pieces, as TCP may cut them.
    fn bytes(&mut self, direction: Direction, bytes: &[u8]) {
        for piece in bytes.chunks(bytes.len() / 2 + 1) {
            if self.open[place(direction)] {
                self.session.handle_bytes(self.now, direction, piece);
                self.drain(bytes.len() / 19);
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..100_000 {
            match self.session.poll_timeout().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => {
                    self.now = until;
                    return;
                }
            }
            self.fire();
            // Nobody answers dials here: that is what time without a network is like.
        }
        panic!("{by:?} take more than 100000 timeouts");
    }

    /// Fires what is due; after a few calls nothing of this moment may be left.
    fn fire(&mut self) {
        for _ in 0..8 {
            self.session.handle_timeout(self.now);
            self.drain(0);
            if self.session.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("a timer stays due");
    }

    fn stop(&mut self, stop: Stop) {
        self.session.handle_stop(self.now, stop);
        self.drain(0);
        assert_eq!(self.session.state(), State::Idle);
        assert!(
            self.open == [false; 2],
            "open after a stop: {:?}",
            self.open
        );
    }

    /// Takes everything the session asks for, `messages` having come.
    fn drain(&mut self, messages: usize) {
        let mut count = 0;
        while let Some(output) = self.session.poll_output() {
            count += 1;
            assert!(count <= FEW + 2 * messages, "no end of outputs: {output:?}");
            self.take(output);
        }
        let up = self.session.state() == State::Established;
        assert_eq!(up, self.established.is_some(), "state and Up/Down differ");
        let carrier = self.session.negotiated().map(|n| n.direction);
        assert_eq!(carrier, self.established, "two opinions on who carries it");
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Connect => {
                assert!(!self.dialling, "a second dial");
                self.dialling = true;
            }
            Output::Close(direction) => {
                let dial = direction == Direction::Outgoing && std::mem::take(&mut self.dialling);
                let open = std::mem::take(&mut self.open[place(direction)]);
                assert!(dial || open, "{direction:?} is not there to be closed");
            }
            Output::Send(direction, bytes) => {
                assert!(self.open[place(direction)], "sent on what is not open");
                check_framing(&bytes);
            }
            Output::Up(negotiated) => {
                assert_eq!(self.established, None, "Up twice");
                assert!(self.open[place(negotiated.direction)], "Up without TCP");
                self.established = Some(negotiated.direction);
            }
            Output::Down(_) => {
                assert!(self.established.take().is_some(), "Down without Up");
            }
            Output::Update(update) => {
                assert!(self.established.is_some(), "{update:?} too early");
            }
            Output::RouteRefresh(_) => assert!(self.established.is_some()),
        }
    }
}

fn stop(input: &mut Input<'_>) -> Stop {
    if input.bool() {
        Stop::Silent
    } else {
        Stop::Notify(Notification::cease(1 + input.u8() % 10))
    }
}

/// Whole messages under good headers, nothing else.
fn check_framing(mut bytes: &[u8]) {
    assert!(!bytes.is_empty());
    while !bytes.is_empty() {
        assert_eq!(bytes[..16], [0xff; 16]);
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        assert!((19..=bytes.len()).contains(&length), "{bytes:02x?}");
        bytes = &bytes[length..];
    }
}
