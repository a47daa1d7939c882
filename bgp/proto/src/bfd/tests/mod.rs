//! What the tests of the BFD session share: configurations, packets, and two sessions joined by a link in virtual time.

mod packet;
mod pair;
mod properties;
mod table;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(tx: u64, rx: u64, multiplier: u8) -> BfdConfig {
    BfdConfig {
        desired_min_tx: ms(tx),
        required_min_rx: ms(rx),
        detect_multiplier: NonZeroU8::new(multiplier).unwrap(),
        control_plane_independent: false,
        passive: false,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant to count from; time is virtual after it"
)]
fn any_instant() -> Instant {
    Instant::now()
}

/// A packet of a peer that knows session 1.
fn told(state: SessionState) -> Packet {
    Packet {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        final_bit: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 2,
        your_discriminator: 1,
        desired_min_tx: ms(100),
        required_min_rx: ms(100),
        required_min_echo_rx: Duration::ZERO,
    }
}

/// Everything the session wants, packets and events apart.
fn drain(session: &mut BfdSession) -> (Vec<Packet>, Vec<BfdOutput>) {
    let (mut packets, mut events) = (Vec::new(), Vec::new());
    while let Some(output) = session.poll_output() {
        match output {
            BfdOutput::Send(packet) => packets.push(packet),
            event => events.push(event),
        }
    }
    (packets, events)
}

/// What a link does to one packet: how late it arrives, or not at all.
type Fate = Option<Duration>;

/// Two sessions and the packets between them.
struct Pair {
    now: Instant,
    sides: [BfdSession; 2],
    /// By arrival: the side it goes to and the octets.
    flying: BTreeMap<(Instant, u64), (usize, [u8; Packet::LENGTH])>,
    count: u64,
    /// The fates of the packets to come; a link that has none left delivers after 1 ms.
    fates: [VecDeque<Fate>; 2],
    cut: [bool; 2],
    /// When which side said what.
    events: [Vec<(Instant, BfdOutput)>; 2],
    sent: [Vec<(Instant, Packet)>; 2],
    heard_at: [Option<Instant>; 2],
}

impl Pair {
    fn new(first: BfdConfig, second: BfdConfig) -> Self {
        let now = any_instant();
        let mut pair = Self {
            now,
            sides: [
                BfdSession::new(first, 1, 11),
                BfdSession::new(second, 2, 22),
            ],
            flying: BTreeMap::new(),
            count: 0,
            fates: Default::default(),
            cut: [false; 2],
            events: Default::default(),
            sent: Default::default(),
            heard_at: [None; 2],
        };
        for side in [0, 1] {
            pair.sides[side].handle_start(now);
            pair.collect(side);
        }
        pair
    }

    /// Runs until `time` has passed.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Does what is next, packets before timers; false when nothing is before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.flying.first_key_value().map(|(key, _)| key.0);
        let timer = self.sides.iter().filter_map(BfdSession::poll_timeout).min();
        let Some(next) = arrival
            .into_iter()
            .chain(timer)
            .min()
            .filter(|at| *at <= end)
        else {
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, (to, octets)) = self.flying.pop_first().unwrap();
            let packet = Packet::decode(&octets).unwrap();
            if self.sides[to].handle_packet(self.now, &packet) == Received::Accepted {
                self.heard_at[to] = Some(self.now);
            }
            self.collect(to);
        } else {
            for side in [0, 1] {
                self.sides[side].handle_timeout(self.now);
                self.collect(side);
            }
        }
        true
    }

    fn collect(&mut self, side: usize) {
        let (packets, events) = drain(&mut self.sides[side]);
        let now = self.now;
        self.events[side].extend(events.into_iter().map(|event| (now, event)));
        for packet in packets {
            assert!(!(packet.poll && packet.final_bit), "P and F at once");
            let fate = self.fates[side].pop_front().unwrap_or(Some(ms(1)));
            if let (Some(delay), false) = (fate, self.cut[side]) {
                self.count += 1;
                let key = (now + delay, self.count);
                self.flying.insert(key, (1 - side, packet.encode()));
            }
            self.sent[side].push((now, packet));
        }
    }

    fn configure(&mut self, side: usize, config: BfdConfig) {
        self.sides[side].handle_config(self.now, config);
        self.collect(side);
    }

    fn states(&self) -> [SessionState; 2] {
        [0, 1].map(|side| self.sides[side].status().state)
    }

    fn said(&self, side: usize) -> Vec<BfdOutput> {
        self.events[side]
            .iter()
            .map(|(_, event)| event.clone())
            .collect()
    }

    fn both_up() -> [SessionState; 2] {
        [SessionState::Up; 2]
    }
}
