//! Two sessions joined in memory: queues for wires, a clock that steps from timer to timer.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::*;
use super::scripted::{LOW_ID, PEER_AS, config};

/// What is under way to one end on one connection. The events of one connection arrive in order; what arrives first
/// of different connections is for the test to say.
#[derive(Clone, Debug)]
enum InFlight {
    Connected,
    Bytes(Bytes),
    Closed,
}

/// A TCP connection; `dialler` is the end (0 or 1) that dialled it.
struct Wire {
    dialler: usize,
    /// By end: what it has still to be told, and whether it has let the connection go.
    to: [VecDeque<InFlight>; 2],
    gone: [bool; 2],
}

pub(super) struct Pair {
    pub(super) ends: [PeerSession; 2],
    pub(super) now: Instant,
    wires: Vec<Wire>,
    /// The wire in use, by end and direction.
    slots: BTreeMap<(usize, Direction), usize>,
    pub(super) ups: [u32; 2],
    pub(super) downs: [Vec<Down>; 2],
    pub(super) dials: [u32; 2],
    /// What came out of `Output::Update` and `RouteRefresh`.
    pub(super) passed: [Vec<Output>; 2],
    /// Bytes vanish: the network between is cut.
    pub(super) cut: bool,
}

pub(super) fn configs() -> [SessionConfig; 2] {
    let ours = config();
    let mut theirs = config();
    theirs.local_as = PEER_AS;
    theirs.router_id = LOW_ID;
    theirs.peer_as = PeerAs::Number(ours.local_as);
    [ours, theirs]
}

impl Pair {
    pub(super) fn new([a, b]: [SessionConfig; 2], seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant to count from; it never advances"
        )]
        let now = Instant::now();
        Self {
            ends: [PeerSession::new(a, seed), PeerSession::new(b, !seed)],
            now,
            wires: Vec::new(),
            slots: BTreeMap::new(),
            ups: [0; 2],
            downs: [Vec::new(), Vec::new()],
            dials: [0; 2],
            passed: [Vec::new(), Vec::new()],
            cut: false,
        }
    }

    pub(super) fn start(&mut self, end: usize) {
        self.ends[end].handle_start(self.now);
        self.drain(end);
    }

    /// Both started, and all that follows at once delivered.
    pub(super) fn started(configs: [SessionConfig; 2], seed: u64) -> Self {
        let mut pair = Self::new(configs, seed);
        pair.start(0);
        pair.start(1);
        pair.deliver_all();
        pair
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    pub(super) fn both_established(&self) -> bool {
        self.states() == [State::Established; 2]
    }

    /// The wires each end holds.
    pub(super) fn held(&self, end: usize) -> Vec<usize> {
        self.slots
            .iter()
            .filter(|((e, _), _)| *e == end)
            .map(|(_, wire)| *wire)
            .collect()
    }

    /// Deliveries that can come next, as (wire, end).
    pub(super) fn choices(&self) -> Vec<(usize, usize)> {
        let all = self.wires.iter().enumerate().flat_map(|(index, wire)| {
            [0, 1]
                .into_iter()
                .filter(|end| !wire.to[*end].is_empty())
                .map(move |end| (index, end))
        });
        all.collect()
    }

    pub(super) fn deliver(&mut self, (index, end): (usize, usize)) {
        let wire = &mut self.wires[index];
        let direction = direction(wire.dialler, end);
        let Some(event) = wire.to[end].pop_front() else {
            return;
        };
        if wire.gone[end] {
            return;
        }
        let session = &mut self.ends[end];
        match event {
            InFlight::Connected if !session.admits(direction) => self.close(end, index),
            InFlight::Connected => {
                if let Some(former) = self.slots.insert((end, direction), index) {
                    self.close(end, former);
                }
                self.ends[end].handle_connected(self.now, direction);
            }
            InFlight::Bytes(bytes) => session.handle_bytes(self.now, direction, &bytes),
            InFlight::Closed => {
                wire.gone[end] = true;
                self.slots.remove(&(end, direction));
                session.handle_disconnected(self.now, direction, "closed by the peer");
            }
        }
        self.drain(end);
    }

    /// Delivers in the order of the connections until nothing is under way.
    pub(super) fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            let Some(choice) = self.choices().first().copied() else {
                return;
            };
            self.deliver(choice);
        }
        panic!("the two never come to rest");
    }

    /// Steps from timer to timer, delivering all in between, until `done` or for `longest`.
    pub(super) fn run(&mut self, longest: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + longest;
        self.deliver_all();
        while !done(self) {
            let next = self.ends.iter().filter_map(PeerSession::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            assert!(next >= self.now, "a timer in the past");
            self.now = next;
            for end in [0, 1] {
                self.ends[end].handle_timeout(self.now);
                self.drain(end);
            }
            self.deliver_all();
        }
    }

    pub(super) fn drain(&mut self, end: usize) {
        while let Some(output) = self.ends[end].poll_output() {
            match output {
                Output::Connect => self.dial(end),
                Output::Close(direction) => self.close_slot(end, direction),
                Output::Send(direction, bytes) => {
                    let index = self.slots[&(end, direction)];
                    if !self.cut {
                        self.wires[index].to[1 - end].push_back(InFlight::Bytes(bytes));
                    }
                }
                Output::Up(_) => self.ups[end] += 1,
                Output::Down(down) => self.downs[end].push(down),
                Output::Update(_) | Output::RouteRefresh(_) => self.passed[end].push(output),
            }
        }
    }

    /// TCP breaks; both ends are told.
    pub(super) fn break_connections(&mut self) {
        for wire in &mut self.wires {
            for end in [0, 1] {
                wire.to[end].push_back(InFlight::Closed);
            }
        }
    }

    /// One end's process dies: its kernel closes its connections.
    pub(super) fn kill(&mut self, end: usize, successor: PeerSession) {
        self.ends[end] = successor;
        for index in self.held(end) {
            self.close(end, index);
        }
    }

    fn dial(&mut self, end: usize) {
        self.dials[end] += 1;
        let mut to = [VecDeque::new(), VecDeque::new()];
        to.iter_mut()
            .for_each(|queue| queue.push_back(InFlight::Connected));
        self.wires.push(Wire {
            dialler: end,
            to,
            gone: [false; 2],
        });
    }

    fn close_slot(&mut self, end: usize, direction: Direction) {
        match self.slots.get(&(end, direction)) {
            Some(index) => self.close(end, *index),
            // The dial under way.
            None => {
                let last = self
                    .wires
                    .iter()
                    .rposition(|w| w.dialler == end && !w.gone[end]);
                if let Some(index) = last.filter(|_| direction == Direction::Outgoing) {
                    self.close(end, index);
                }
            }
        }
    }

    fn close(&mut self, end: usize, index: usize) {
        let wire = &mut self.wires[index];
        wire.gone[end] = true;
        if !self.cut {
            wire.to[1 - end].push_back(InFlight::Closed);
        }
        let direction = direction(wire.dialler, end);
        if self.slots.get(&(end, direction)) == Some(&index) {
            self.slots.remove(&(end, direction));
        }
    }
}

fn direction(dialler: usize, end: usize) -> Direction {
    if dialler == end {
        Direction::Outgoing
    } else {
        Direction::Incoming
    }
}

impl Pair {
    /// The clock steps to the next timer of either end, with deliveries still under way.
    pub(super) fn fire_next_timer(&mut self) {
        let next = self.ends.iter().filter_map(PeerSession::poll_timeout).min();
        self.now = next.map_or(self.now, |next| next.max(self.now));
        for end in [0, 1] {
            self.ends[end].handle_timeout(self.now);
            self.drain(end);
        }
    }
}
